//! Installed software: packages of the system, of Python and of Node.

pub(super) mod apt;
pub(super) mod deb;
pub(super) mod npm;
pub(super) mod python;
pub(super) mod rpm;
mod rpm_header;

use std::collections::BTreeMap;

/// The fields of a paragraph in Debian's control format; further lines of a field are left out. Names are in lower
/// case.
fn control_fields(paragraph: &str) -> BTreeMap<String, &str> {
    paragraph
        .lines()
        .filter(|line| !line.starts_with([' ', '\t', '#']))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect()
}

/// The paragraphs of a file in that format, which are separated by empty lines.
fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(['\n', '\r']);
        if rest.is_empty() {
            return None;
        }
        let end = rest.find("\n\n").unwrap_or(rest.len());
        let (paragraph, after) = rest.split_at(end);
        rest = after;
        Some(paragraph)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paragraphs_end_at_empty_lines_and_continued_lines_are_no_fields() {
        let text =
            "\nPackage: a\nDescription: one\n two: not a field\n\n\n\nPackage: b\nConffiles:\n";
        let found: Vec<_> = paragraphs(text).map(control_fields).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0]["description"], "one");
        assert_eq!(found[0].len(), 2);
        assert_eq!(found[1]["conffiles"], "");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in "[a-zé:\n #\t-]{0,120}") {
            for paragraph in paragraphs(&text) {
                prop_assert!(!paragraph.is_empty());
                let _ = control_fields(paragraph);
            }
        }
    }
}
