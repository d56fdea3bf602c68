//! Files that somebody names, and standard input, read up to a limit: a device or a pipe may never end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::CliError;

/// The longest file that a command reads, in bytes. The server takes far less.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// The name of standard input in place of a file.
pub(crate) const STDIN: &str = "-";

/// The text of a file; `-` is standard input.
///
/// # Errors
///
/// Why it cannot be read, with its path; also when it is longer than any that could be meant, or no text.
pub(crate) fn text(path: &Path) -> Result<String, CliError> {
    let read = if path == Path::new(STDIN) {
        bounded(io::stdin().lock(), MAX_BYTES)
    } else {
        File::open(path).and_then(|file| bounded(file, MAX_BYTES))
    };
    read.map_err(|source| CliError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

fn bounded(source: impl Read, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("it is longer than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    let no_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8");
    String::from_utf8(bytes).map_err(no_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_refused_and_what_is_as_long_as_may_be_is_read() {
        assert_eq!(bounded(&b"abc"[..], 3).unwrap(), "abc");
        let error = bounded(io::repeat(b'a'), 3).unwrap_err();
        assert_eq!(error.to_string(), "it is longer than 3 bytes");
        let error = bounded(&b"\xff"[..], 3).unwrap_err();
        assert_eq!(error.to_string(), "it is no text in UTF-8");
        let error = bounded("aäb".as_bytes(), 1).unwrap_err();
        assert_eq!(error.to_string(), "it is longer than 1 bytes");
    }
}
