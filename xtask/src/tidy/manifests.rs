//! Rules about packages: their Cargo.toml, the comment that their lib.rs begins with, and README.md.

use super::{Finding, TextFile};

const MIN_COMMENT_LINES: usize = 3;
/// Packages with lints of their own, and why.
const OWN_LINTS: &[(&str, &str)] = &[(
    "crates/tables/Cargo.toml",
    "SQLite's virtual tables are implemented through an unsafe trait",
)];
/// Packages that are workspaces of their own, and why.
const OWN_WORKSPACES: &[(&str, &str)] = &[
    ("fuzz/Cargo.toml", "it needs a nightly compiler"),
    (
        "testing/peers/opamp/rust/Cargo.toml",
        "dependencies of a third party's client are not ours",
    ),
];
/// The commands that README.md opens with.
const COMMANDS: &[&str] = &["cargo xtask up", "cargo xtask test"];

pub(super) fn crate_comment(file: &TextFile) -> Option<Finding> {
    let is_crate_root = file.path.starts_with("crates/")
        && file.path.ends_with("/src/lib.rs")
        && file.path.matches('/').count() == 3;
    let lines = file
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .count();
    (is_crate_root && lines < MIN_COMMENT_LINES).then(|| {
        Finding::new(
            &file.path,
            1,
            "crate-comment",
            "begin with what the crate promises and what it is not responsible for (`//!`, three lines or more)",
        )
    })
}

pub(super) fn lints(file: &TextFile) -> Option<Finding> {
    let exempt = OWN_LINTS.iter().any(|(path, _)| *path == file.path);
    if exempt || !is_package(file) {
        return None;
    }
    let inherits =
        entries(&file.text).any(|entry| entry.section == "lints" && entry.is("workspace", "true"));
    (!inherits).then(|| {
        Finding::new(
            &file.path,
            1,
            "lints",
            "add `[lints]` with `workspace = true`",
        )
    })
}

pub(super) fn dependencies(file: &TextFile) -> Vec<Finding> {
    if !is_package(file) {
        return Vec::new();
    }
    entries(&file.text)
        .filter(|entry| {
            entry
                .section
                .split('.')
                .any(|part| part.ends_with("dependencies"))
        })
        .filter(|entry| !entry.inherits())
        .map(|entry| {
            Finding::new(
                &file.path,
                entry.line,
                "dependency",
                "write `NAME.workspace = true` and put the version into the root Cargo.toml",
            )
        })
        .collect()
}

pub(super) fn readme(files: &[TextFile]) -> Vec<Finding> {
    let text = files
        .iter()
        .find(|file| file.path == "README.md")
        .map_or("", |file| file.text.as_str());
    COMMANDS
        .iter()
        .filter(|command| !text.lines().any(|line| line.contains(**command)))
        .map(|command| {
            Finding::new(
                "README.md",
                1,
                "readme",
                format!("show the command `{command}`"),
            )
        })
        .collect()
}

fn is_package(file: &TextFile) -> bool {
    file.path.ends_with("Cargo.toml")
        && !OWN_WORKSPACES.iter().any(|(path, _)| *path == file.path)
        && file.text.lines().any(|line| line.trim() == "[package]")
}

/// A `key = value` of a manifest. Values that span lines begin on the key's line, which is enough here.
struct Entry<'a> {
    section: &'a str,
    key: &'a str,
    value: &'a str,
    line: usize,
}

impl Entry<'_> {
    fn is(&self, key: &str, value: &str) -> bool {
        self.key == key && self.value == value
    }

    /// `name.workspace = true`, `name = { workspace = true, … }`, or the same as a section of its own. A package may
    /// also name itself, to turn on its own features for its tests.
    fn inherits(&self) -> bool {
        let own_section = self
            .section
            .rsplit('.')
            .next()
            .is_some_and(|part| !part.ends_with("dependencies"));
        let value = self.value.replace(' ', "");
        own_section
            || (self.key.ends_with(".workspace") && self.value == "true")
            || value.contains("workspace=true")
            || value.contains("path=\".\"")
    }
}

fn entries(manifest: &str) -> impl Iterator<Item = Entry<'_>> {
    let mut section = "";
    let mut nested = 0_usize;
    manifest
        .lines()
        .enumerate()
        .filter_map(move |(index, line)| {
            let line = line.split(" #").next().unwrap_or_default().trim();
            let inside = nested > 0;
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                && !inside
            {
                section = name;
                return None;
            }
            let opened = line.matches(['[', '{']).count();
            let closed = line.matches([']', '}']).count();
            nested = (nested + opened).saturating_sub(closed);
            if inside || line.starts_with('#') {
                return None;
            }
            let (key, value) = line.split_once('=')?;
            Some(Entry {
                section,
                key: key.trim(),
                value: value.trim(),
                line: index + 1,
            })
        })
}
