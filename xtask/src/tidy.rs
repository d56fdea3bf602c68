//! `cargo xtask tidy`: a test that reads the repository and names what breaks its own rules.
//!
//! Rules that the compiler, rustfmt and clippy cannot know: what a file may be called and how long it may be, words
//! that must not be committed, which layer may hold SQL and on whose tables, which may name old versions, files that
//! nothing reaches. Each rule is a function from a file (or from all of them) to findings, in one of the modules below.
//!
//! The scanner knows comments, strings and test modules, and no more of Rust. A rule that would need more belongs in
//! clippy or in a test of the crate concerned.

mod layers;
mod manifests;
mod reach;
mod source;
mod text;
mod words;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Instant;

use clap::Args;

use crate::error::XtaskError;
use crate::workspace::Workspace;
use source::Source;

/// The repository keeps its own rules; each finding says what to do.
///
/// Prints `path:line: rule: what to do`. `--rules` explains the rules.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask tidy           print every finding; fail when there is one
  cargo xtask tidy --rules   the rules and why they are there")]
pub(crate) struct Arguments {
    /// Print the rules and check nothing.
    #[arg(long)]
    rules: bool,
}

pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<(), XtaskError> {
    if arguments.rules {
        for (rule, about) in RULES {
            println!("{rule:<20} {about}");
        }
        return Ok(());
    }
    check(workspace)
}

/// Every rule with what it asks.
const RULES: &[(&str, &str)] = &[
    (
        "file-length",
        "a .rs file has at most 600 lines; `// tidy: long because …` in its first lines raises that",
    ),
    (
        "line-length",
        "a line of a .rs file has at most 130 characters",
    ),
    ("word", "unfinished marks and the like are not committed"),
    (
        "machine-path",
        "no path of the machine that the work was done on",
    ),
    (
        "name",
        "modules and crates are named for what they hold, never common, utils, util or misc",
    ),
    (
        "allow",
        "a lint is expected with a reason, not allowed: an expectation says when it is no longer needed",
    ),
    ("ignored-test", "a test runs or is removed"),
    (
        "dead-file",
        "every .rs file belongs to a target of its package",
    ),
    (
        "unlinked-page",
        "every page in docs is reached by links from README.md or docs/README.md",
    ),
    (
        "broken-link",
        "a link between the repository's pages leads to a file",
    ),
    (
        "lost-test",
        "a test that a page names in a table's column `Tests` exists",
    ),
    (
        "sql-outside-store",
        "in servers' crates only `store` and migrations hold SQL",
    ),
    (
        "foreign-table",
        "a crate's SQL touches its own tables only: they begin with its name",
    ),
    (
        "old-version",
        "only `http` and the wire crates name old versions (`v1::`, `initial::`)",
    ),
    (
        "crate-comment",
        "a crate's lib.rs begins with a comment of three lines or more",
    ),
    ("lints", "every package has `[lints] workspace = true`"),
    (
        "dependency",
        "versions of dependencies stand in the root Cargo.toml only",
    ),
    (
        "readme",
        "README.md shows `cargo xtask up` and `cargo xtask test`",
    ),
];

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// From 1.
    line: usize,
    rule: &'static str,
    advice: String,
}

impl Finding {
    fn new(path: &str, line: usize, rule: &'static str, advice: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            rule,
            advice: advice.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            rule,
            advice,
        } = self;
        write!(f, "{path}:{line}: {rule}: {advice}")
    }
}

/// A text file of the repository.
struct TextFile {
    path: String,
    text: String,
    /// Only of Rust files.
    source: Option<Source>,
}

impl TextFile {
    fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let source = has_extension(&path, "rs").then(|| Source::scan(&text));
        Self { path, text, source }
    }
}

/// Whether a path's last part ends in a dot and this.
fn has_extension(path: &str, extension: &str) -> bool {
    path.rsplit_once('.')
        .is_some_and(|(_, end)| end == extension)
}

/// Fails with the number of findings, each of which was printed.
pub(crate) fn check(workspace: &Workspace) -> Result<(), XtaskError> {
    let begun = Instant::now();
    let files = read(workspace)?;
    let findings = findings(&files, &words::machine_paths(workspace));
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!(
            "    {} files, {} rules, {:.1} s",
            files.len(),
            RULES.len(),
            begun.elapsed().as_secs_f64()
        );
        return Ok(());
    }
    Err(XtaskError::Findings {
        what: "breaches of the repository's rules",
        count: findings.len(),
    })
}

/// All text files. What is not UTF-8 is data, on which no rule bears.
fn read(workspace: &Workspace) -> Result<Vec<TextFile>, XtaskError> {
    let mut files = Vec::new();
    for path in workspace.files()? {
        let full = workspace.root().join(&path);
        let bytes = std::fs::read(&full).map_err(XtaskError::file("reading", &full))?;
        files.push(TextFile::new(
            path,
            String::from_utf8(bytes).unwrap_or_default(),
        ));
    }
    Ok(files)
}

fn findings(files: &[TextFile], machine_paths: &[String]) -> Vec<Finding> {
    let crates = layers::crate_names(files);
    let mut findings = Vec::new();
    for file in files {
        findings.extend(text::file_length(file));
        findings.extend(text::line_length(file));
        findings.extend(text::names(file));
        findings.extend(text::allowed_lints(file));
        findings.extend(text::ignored_tests(file));
        findings.extend(words::banned(file));
        findings.extend(words::paths(file, machine_paths));
        findings.extend(layers::sql_outside_store(file));
        findings.extend(layers::foreign_tables(file, &crates));
        findings.extend(layers::old_versions(file));
        findings.extend(manifests::crate_comment(file));
        findings.extend(manifests::lints(file));
        findings.extend(manifests::dependencies(file));
    }
    findings.extend(manifests::readme(files));
    findings.extend(reach::dead_files(files));
    findings.extend(reach::pages(files));
    findings.extend(reach::named_tests(files));
    findings.sort();
    findings.dedup();
    findings
}
