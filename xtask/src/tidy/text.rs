//! Rules about the form of a file: length, width, names, attributes.

use super::{Finding, TextFile};

const MAX_LINES: usize = 600;
const MAX_LINE_CHARACTERS: usize = 130;
/// Where the mark that raises the limit must stand.
const MARK_WITHIN_LINES: usize = 30;
const LONG_MARK: &str = "// tidy: long because ";
/// A reason of fewer characters says nothing.
const MIN_REASON_CHARACTERS: usize = 15;
/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &["common", "utils", "util", "misc"];

pub(super) fn file_length(file: &TextFile) -> Option<Finding> {
    let lines = file.text.lines().count();
    if file.source.is_none() || lines <= MAX_LINES || has_reason_to_be_long(&file.text) {
        return None;
    }
    Some(Finding::new(
        &file.path,
        lines,
        "file-length",
        format!(
            "{lines} lines, {MAX_LINES} are allowed: split it by resource, or begin it with `{LONG_MARK}…`"
        ),
    ))
}

fn has_reason_to_be_long(text: &str) -> bool {
    text.lines()
        .take(MARK_WITHIN_LINES)
        .filter_map(|line| line.strip_prefix(LONG_MARK))
        .any(|reason| reason.trim().chars().count() >= MIN_REASON_CHARACTERS)
}

pub(super) fn line_length(file: &TextFile) -> Vec<Finding> {
    if file.source.is_none() {
        return Vec::new();
    }
    file.text
        .lines()
        .enumerate()
        .filter_map(|(index, line)| {
            let length = line.chars().count();
            (length > MAX_LINE_CHARACTERS).then(|| {
                Finding::new(
                    &file.path,
                    index + 1,
                    "line-length",
                    format!(
                        "{length} characters, {MAX_LINE_CHARACTERS} are allowed: break the line"
                    ),
                )
            })
        })
        .collect()
}

/// Folders, files and inline modules.
pub(super) fn names(file: &TextFile) -> Vec<Finding> {
    let finding = |line: usize, name: &str| {
        Finding::new(
            &file.path,
            line,
            "name",
            format!("`{name}` says nothing of what is inside: name it for that"),
        )
    };
    let Some(source) = &file.source else {
        return Vec::new();
    };
    let by_path = file
        .path
        .split('/')
        .map(|part| part.strip_suffix(".rs").unwrap_or(part))
        .filter(|part| EMPTY_NAMES.contains(part))
        .map(|part| finding(1, part));
    let tokens = source.tokens();
    let inline = tokens.windows(3).filter_map(|window| match window {
        [(_, "mod"), (offset, name), (_, "{")] if EMPTY_NAMES.contains(name) => {
            Some(finding(source.line(*offset), name))
        }
        _ => None,
    });
    by_path.chain(inline).collect()
}

/// `#[allow(…)]`, also in `cfg_attr`.
pub(super) fn allowed_lints(file: &TextFile) -> Vec<Finding> {
    const ADVICE: &str = "write `#[expect(…, reason = \"…\")]`";
    named_in_attributes(file, "allow")
        .map(|line| Finding::new(&file.path, line, "allow", ADVICE))
        .collect()
}

/// `#[ignore]`, and code in a comment that is neither compiled nor marked as something else.
pub(super) fn ignored_tests(file: &TextFile) -> Vec<Finding> {
    const ADVICE: &str =
        "make it run everywhere, or remove it (in a comment, `text` marks what is no test)";
    let in_comments = file.text.lines().enumerate().filter_map(|(index, line)| {
        let comment = line.trim_start();
        let is_doc = comment.starts_with("///") || comment.starts_with("//!");
        (file.source.is_some() && is_doc && comment.contains("```ignore")).then_some(index + 1)
    });
    named_in_attributes(file, "ignore")
        .chain(in_comments)
        .map(|line| Finding::new(&file.path, line, "ignored-test", ADVICE))
        .collect()
}

/// The lines on which an attribute, or one inside `cfg_attr`, has that name.
fn named_in_attributes<'a>(file: &'a TextFile, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    file.source.iter().flat_map(move |source| {
        let tokens = source.tokens();
        let found: Vec<usize> = tokens
            .windows(2)
            .filter(|window| matches!(window[0].1, "[" | ",") && window[1].1 == name)
            .map(|window| window[1].0)
            .filter(|offset| source.is_attribute(*offset))
            .map(|offset| source.line(offset))
            .collect();
        found
    })
}
