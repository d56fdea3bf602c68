//! What only the collectors' own reader refuses.

use super::{Place, YamlError};

/// What the collectors' own reader refuses and ours would pass over: characters that YAML does not allow, in comments as well,
/// and directives other than `%YAML 1.1` and `%TAG`.
pub(super) fn look(file: usize, text: &str) -> Result<(), YamlError> {
    let is_refused = |character: char| {
        matches!(character, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{84}'
            | '\u{86}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}')
    };
    let mut is_head = true;
    for (number, line) in text.split('\n').enumerate() {
        let fail = |column: usize, message: String| {
            let place = Place {
                file,
                line: number + 1,
                column,
            };
            Err(YamlError { place, message })
        };
        if let Some((column, character)) = line.chars().enumerate().find(|(_, c)| is_refused(*c)) {
            let message = format!(
                "is not YAML: it has a control character (U+{:04X}), as texts copied from a terminal do; remove it",
                u32::from(character)
            );
            return fail(column + 1, message);
        }
        // Directives stand before a document: at the begin, and after the end of another.
        if is_head && let Some(directive) = line.strip_prefix('%') {
            let mut words = directive.split_whitespace();
            let is_read = match words.next() {
                Some("YAML") => words.next() == Some("1.1"),
                Some("TAG") => true,
                _ => false,
            };
            if !is_read {
                let message = format!(
                    "has the directive `{}`, which collectors do not read (they take YAML 1.1); remove the line",
                    line.trim_end()
                );
                return fail(1, message);
            }
        }
        let line = line.trim();
        is_head = (is_head && (line.is_empty() || line.starts_with(['%', '#']))) || line == "...";
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_collector_cannot_read_is_refused_with_its_place() {
        // Tried with a collector of 0.158 (`otelcol validate`).
        for (text, expected) in [
            ("%YAML 1.2\n---\na: 1\n", (1, 1)),
            ("# first\n%YAML 9.9\n---\na: 1\n", (2, 1)),
            ("%FOO bar\n---\na: 1\n", (1, 1)),
            ("a: 1\n...\n%YAML 1.2\n---\n", (3, 1)),
            ("a: 1 # \u{1b}[31mred\n", (1, 8)),
            ("a: 1\nb: x\u{7f}\n", (2, 5)),
            ("a: x\u{80}\n", (1, 5)),
            ("a: \u{fffe}\n", (1, 4)),
        ] {
            let error = look(0, text).unwrap_err();
            assert_eq!((error.place.line, error.place.column), expected, "{text:?}");
        }
        for text in [
            "%YAML 1.1\n---\na: 1\n",
            "%TAG ! tag:example.com,2026:\n---\na: 1\n",
            "a: |\n  %YAML 1.2\n",
            "a: >\n%\n",
            "a: \u{85}\tb \u{a0}\r\n",
        ] {
            assert!(look(0, text).is_ok(), "{text:?}");
        }
    }
}
