//! Files that nothing reaches: Rust files outside every target, pages that no link leads to. And tests that pages name
//! but that are not there.

use std::collections::BTreeSet;

use super::source::Source;
use super::{Finding, TextFile, has_extension};

/// Pages from which every page of `docs` is to be reached.
const ENTRANCES: &[&str] = &["README.md", "docs/README.md"];

/// Rust files that belong to no target of their package.
pub(super) fn dead_files(files: &[TextFile]) -> Vec<Finding> {
    let existing: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut waiting: Vec<String> = files
        .iter()
        .filter(|file| file.path.ends_with("Cargo.toml") && file.text.contains("[package]"))
        .flat_map(|manifest| roots(manifest, &existing))
        .collect();
    let roots: BTreeSet<String> = waiting.iter().cloned().collect();
    let mut reached: BTreeSet<String> = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        let Some(source) = files
            .iter()
            .find(|file| file.path == path)
            .and_then(|file| file.source.as_ref())
        else {
            continue;
        };
        let is_root = roots.contains(&path);
        if reached.insert(path.clone()) {
            waiting.extend(named_files(&path, is_root, source));
        }
    }
    files
        .iter()
        .filter(|file| file.source.is_some() && !reached.contains(&file.path))
        .map(|file| {
            Finding::new(
                &file.path,
                1,
                "dead-file",
                "no `mod` and no target of a package leads here: declare it or remove it",
            )
        })
        .collect()
}

/// The files at which the package's targets begin.
fn roots(manifest: &TextFile, existing: &BTreeSet<&str>) -> Vec<String> {
    let folder = manifest.path.trim_end_matches("Cargo.toml");
    let named = manifest.text.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (matches!(key.trim(), "path" | "build") && has_extension(value, "rs"))
            .then(|| join(folder, value))
    });
    let found = existing.iter().filter_map(|path| {
        let inside = path.strip_prefix(folder)?;
        is_found_by_cargo(inside).then(|| (*path).to_owned())
    });
    named.chain(found).collect()
}

/// Whether cargo takes the file for the root of a target without being told.
fn is_found_by_cargo(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["build.rs"] | ["src", "lib.rs" | "main.rs"] => true,
        ["src", "bin", file] | ["tests" | "benches" | "examples", file] => {
            has_extension(file, "rs")
        }
        ["src", "bin", _, "main.rs"] | ["tests" | "benches" | "examples", _, "main.rs"] => true,
        _ => false,
    }
}

/// The files that a file's `mod` declarations may mean, and those that it includes.
fn named_files(path: &str, is_root: bool, source: &Source) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.trim_end_matches(".rs");
    let children = if is_root || stem == "mod" {
        folder.to_owned()
    } else {
        join(folder, stem)
    };
    let mut named: Vec<String> = source
        .literals
        .iter()
        .filter(|literal| has_extension(&literal.value, "rs"))
        .flat_map(|literal| {
            [
                join(folder, &literal.value),
                join(&children, &literal.value),
            ]
        })
        .collect();
    let tokens = source.tokens();
    let mut depth = 0_usize;
    let mut inline: Vec<(usize, &str)> = Vec::new();
    for (index, (_, token)) in tokens.iter().enumerate() {
        match *token {
            "{" => depth += 1,
            "}" => {
                inline.retain(|(opened_at, _)| *opened_at < depth);
                depth = depth.saturating_sub(1);
            }
            "mod" => {
                let name = tokens.get(index + 1).map_or("", |(_, name)| name);
                match tokens.get(index + 2).map(|(_, after)| *after) {
                    Some("{") => inline.push((depth + 1, name)),
                    Some(";") => {
                        let mut folder = children.clone();
                        for (_, outer) in &inline {
                            folder = join(&folder, outer);
                        }
                        named.push(join(&folder, &format!("{name}.rs")));
                        named.push(join(&folder, &format!("{name}/mod.rs")));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    named
}

/// Pages of `docs` that no link leads to, and links between pages that lead nowhere.
pub(super) fn pages(files: &[TextFile]) -> Vec<Finding> {
    let existing: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut findings = Vec::new();
    let mut waiting: Vec<&str> = ENTRANCES.to_vec();
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        let Some(page) = files.iter().find(|file| file.path == path) else {
            continue;
        };
        if reached.insert(path) {
            let targets: Vec<String> = links(page).into_iter().map(|(_, target)| target).collect();
            waiting.extend(
                existing
                    .iter()
                    .filter(|path| targets.iter().any(|target| target == *path)),
            );
        }
    }
    for page in files.iter().filter(|file| has_extension(&file.path, "md")) {
        if page.path.starts_with("docs/") && !reached.contains(page.path.as_str()) {
            findings.push(Finding::new(
                &page.path,
                1,
                "unlinked-page",
                "link it from docs/README.md",
            ));
        }
        for (line, target) in links(page) {
            let folder = format!("{}/", target.trim_end_matches('/'));
            let found = target.is_empty()
                || existing.contains(target.as_str())
                || existing.iter().any(|path| path.starts_with(&folder));
            if !found {
                findings.push(Finding::new(
                    &page.path,
                    line,
                    "broken-link",
                    format!("`{target}` is not in the repository"),
                ));
            }
        }
    }
    findings
}

/// Links of a page to files of the repository, as paths from its root, with their lines. Code is left out.
fn links(page: &TextFile) -> Vec<(usize, String)> {
    let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut fenced = false;
    let mut links = Vec::new();
    for (index, line) in page.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        // Every second part of a line lies between backticks.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for piece in prose.split("](").skip(1) {
            let target = piece.split([')', ' ', '#']).next().unwrap_or_default();
            let elsewhere =
                target.contains("://") || target.starts_with("mailto:") || target.is_empty();
            if !elsewhere {
                links.push((index + 1, join(folder, target)));
            }
        }
    }
    links
}

/// Tests that stand in a table's last column under `Test` or `Tests` but are no function anywhere.
pub(super) fn named_tests(files: &[TextFile]) -> Vec<Finding> {
    let sources = files.iter().filter_map(|file| file.source.as_ref());
    let functions: BTreeSet<&str> = sources.flat_map(functions).collect();
    let mut findings = Vec::new();
    for page in files.iter().filter(|file| has_extension(&file.path, "md")) {
        let mut names_tests = false;
        for (index, line) in page.text.lines().enumerate() {
            let Some(row) = line.trim().strip_suffix('|') else {
                names_tests = false;
                continue;
            };
            let cell = row.rsplit_once('|').map_or(row, |(_, cell)| cell);
            names_tests |= matches!(cell.trim(), "Test" | "Tests");
            if !names_tests {
                continue;
            }
            // Every second part of a cell lies between backticks.
            for code in cell.split('`').skip(1).step_by(2) {
                let name = code.rsplit("::").next().unwrap_or_default();
                // Names of tests are sentences; a single word is a crate or a module.
                if name.contains('_') && !functions.contains(name) {
                    let advice = format!("there is no test `{name}`: name the one that shows this");
                    findings.push(Finding::new(&page.path, index + 1, "lost-test", advice));
                }
            }
        }
    }
    findings
}

/// The names of all functions in a file, those within macros' arguments included.
fn functions(source: &Source) -> Vec<&str> {
    let tokens = source.tokens();
    let named = tokens.windows(2).filter(|pair| pair[0].1 == "fn");
    named.map(|pair| pair[1].1).collect()
}

/// A relative path from a folder, with `.` and `..` resolved.
fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}
