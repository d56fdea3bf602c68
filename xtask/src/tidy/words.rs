//! What must not be committed, in one list, and paths of the machine at hand.

use super::source::is_word;
use super::{Finding, TextFile};
use crate::process;
use crate::workspace::Workspace;

/// Words with what to do instead. They are found as whole words, in code, comments, strings and pages.
const BANNED: &[(&str, &str)] = &[
    ("TODO", "do it, or write an issue"),
    ("FIXME", "fix it, or write an issue"),
    ("XXX", "say what is meant"),
    ("HACK", "say why it has to be so"),
    ("WIP", "finish it"),
    ("todo!", "write it"),
    ("unimplemented!", "write it"),
    ("dbg!", "remove it"),
    ("lorem ipsum", "write what is true"),
];

/// Folders in which machines build things; no program of ours has business there.
const BUILD_FOLDERS: &[&str] = &["/work/", "/workspace/", "/builds/"];

/// Kinds of files that people write. Recordings and other data are as they are.
const WRITTEN: &[&str] = &[
    "rs", "md", "toml", "sh", "yml", "yaml", "ts", "tsx", "css", "html", "sql", "proto",
];

/// The rules themselves have to name what they look for.
const EXEMPT_FOLDER: &str = "xtask/src/tidy";

pub(super) fn banned(file: &TextFile) -> Vec<Finding> {
    if !is_written(&file.path) {
        return Vec::new();
    }
    each_line(file, |line| {
        BANNED
            .iter()
            .filter(|(word, _)| contains_word(line, word))
            .map(|(word, instead)| ("word", format!("`{word}` is not committed: {instead}")))
            .collect()
    })
}

/// Paths of this machine, and of build machines in general.
pub(super) fn paths(file: &TextFile, machine_paths: &[String]) -> Vec<Finding> {
    if file.path.starts_with(EXEMPT_FOLDER) {
        return Vec::new();
    }
    let folders = BUILD_FOLDERS.iter().copied();
    let candidates: Vec<&str> = folders
        .chain(machine_paths.iter().map(String::as_str))
        .collect();
    each_line(file, |line| {
        candidates
            .iter()
            .filter(|path| contains_path(line, path))
            .map(|path| {
                (
                    "machine-path",
                    format!("`{path}` is a folder of one machine: write a relative path"),
                )
            })
            .collect()
    })
}

/// Where the repository lies here and where it came from, and the home of whoever works on it. Short ones are left out:
/// they may be a folder that every machine has.
pub(super) fn machine_paths(workspace: &Workspace) -> Vec<String> {
    let root = workspace.root();
    let origin = process::capture(workspace.command("git").args([
        "-c",
        "safe.directory=*",
        "remote",
        "get-url",
        "origin",
    ]));
    let origin = origin.ok().map(|text| text.trim().to_owned());
    let home = std::env::var("HOME").ok();
    let parent = root
        .parent()
        .map(|path| path.to_string_lossy().into_owned());
    let mut paths: Vec<String> = [
        Some(root.to_string_lossy().into_owned()),
        parent,
        origin,
        home,
    ]
    .into_iter()
    .flatten()
    .filter(|path| path.starts_with('/') && path.matches('/').count() >= 2)
    .collect();
    paths.sort();
    paths.dedup();
    paths
}

fn is_written(path: &str) -> bool {
    let kind = path.rsplit_once('.').map_or("", |(_, kind)| kind);
    !path.starts_with(EXEMPT_FOLDER) && WRITTEN.contains(&kind)
}

fn each_line(file: &TextFile, look: impl Fn(&str) -> Vec<(&'static str, String)>) -> Vec<Finding> {
    file.text
        .lines()
        .enumerate()
        .flat_map(|(index, line)| {
            look(line)
                .into_iter()
                .map(move |(rule, advice)| Finding::new(&file.path, index + 1, rule, advice))
        })
        .collect()
}

fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && (word.ends_with('!') || !after.is_some_and(is_word))
    })
}

/// Whether an absolute path begins so: not inside another path or URL, and not the beginning of a longer name.
fn contains_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        let inside = before.is_some_and(|c| {
            is_word(c) || matches!(c, '.' | '/' | '-' | '}' | '>' | '~' | '$' | '*')
        });
        let goes_on = after.is_some_and(|c| is_word(c) || c == '-');
        !inside && (path.ends_with('/') || !goes_on)
    })
}
