//! What is written to a destination.

use bytes::Bytes;

/// The two kinds of logs that agents send; each has its own file, topic or stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// What osquery says about itself.
    Status,
    /// What scheduled queries found.
    Result,
}

/// Lines of JSON that are kept together or not at all.
///
/// Each is the bytes that the agent sent; line breaks, which JSON allows between tokens, become spaces, so that one
/// entry is one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    lines: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    /// A batch without lines.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry.
    pub fn push(&mut self, line: Bytes) {
        let line = if line.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            // Within a string JSON has no raw line break, so this changes no value.
            line.iter()
                .map(|byte| {
                    if matches!(byte, b'\n' | b'\r') {
                        b' '
                    } else {
                        *byte
                    }
                })
                .collect()
        } else {
            line
        };
        self.bytes += line.len() + 1;
        self.lines.push(line);
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many bytes it takes, line ends included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entries.
    pub fn lines(&self) -> impl Iterator<Item = &Bytes> {
        self.lines.iter()
    }
}

impl FromIterator<Bytes> for Batch {
    fn from_iter<I: IntoIterator<Item = Bytes>>(lines: I) -> Self {
        let mut batch = Self::new();
        for line in lines {
            batch.push(line);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_over_several_lines_becomes_one_line() {
        let batch: Batch = [
            Bytes::from_static(b"{\r\n \"a\": 1\n}"),
            Bytes::from_static(b"{}"),
        ]
        .into_iter()
        .collect();
        let lines: Vec<_> = batch.lines().collect();
        assert_eq!(lines, ["{   \"a\": 1 }", "{}"]);
        assert_eq!(batch.bytes(), 13 + 3);
    }
}
