//! `cargo xtask docs`: writes the committed pages that the code itself can write, or checks them.
//!
//! To add a page, add an entry to [`PAGES`]: a program of this workspace that prints it, and where it goes.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use crate::error::XtaskError;
use crate::process;
use crate::workspace::Workspace;

/// A program of this workspace that prints a page.
#[derive(Clone, Copy)]
enum Generator {
    Binary(&'static str),
    Example(&'static str),
}

struct Page {
    /// Where it is committed, relative to the repository.
    path: &'static str,
    generator: Generator,
    arguments: &'static [&'static str],
}

const PAGES: &[Page] = &[
    Page {
        path: "docs/compatibility.md",
        generator: Generator::Example("compatibility-page"),
        arguments: &[],
    },
    Page {
        path: "docs/reference/capabilities.md",
        generator: Generator::Example("capabilities-page"),
        arguments: &[],
    },
    Page {
        path: "docs/reference/configuration.md",
        generator: Generator::Binary("muster-server"),
        arguments: &["config", "reference"],
    },
    Page {
        path: "docs/reference/openapi.json",
        generator: Generator::Binary("muster-server"),
        arguments: &["openapi"],
    },
    Page {
        path: "docs/reference/tables.md",
        generator: Generator::Example("tables-page"),
        arguments: &[],
    },
];

/// Writes the committed reference pages that are generated from the code.
///
/// With `--check` nothing is written; pages that differ from what the code says are named, each with the first line
/// that does.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask docs            write them, then commit what changed
  cargo xtask docs --check    fail when one is out of date (a step of `cargo xtask test`)")]
pub(crate) struct Arguments {
    /// Write nothing; fail when a page differs.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<(), XtaskError> {
    if arguments.check {
        return check(workspace);
    }
    let begun = Instant::now();
    let mut changed = 0;
    for (page, text) in generate(workspace)? {
        let path = workspace.root().join(page.path);
        if std::fs::read_to_string(&path).ok().as_deref() == Some(text.as_str()) {
            println!("    unchanged {}", page.path);
            continue;
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(XtaskError::file("making", folder))?;
        }
        std::fs::write(&path, text).map_err(XtaskError::file("writing", &path))?;
        println!("    wrote     {}", page.path);
        changed += 1;
    }
    println!(
        "pages: {}, changed: {changed}, in {:.1} s",
        PAGES.len(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Fails with the pages that differ.
pub(crate) fn check(workspace: &Workspace) -> Result<(), XtaskError> {
    let mut differing = Vec::new();
    for (page, text) in generate(workspace)? {
        let committed =
            std::fs::read_to_string(workspace.root().join(page.path)).unwrap_or_default();
        if let Some(difference) = first_difference(&committed, &text) {
            println!("    {}:{difference}", page.path);
            differing.push(page.path);
        }
    }
    if differing.is_empty() {
        println!("    pages: {}, all up to date", PAGES.len());
        Ok(())
    } else {
        Err(XtaskError::PagesDiffer(differing.join(", ")))
    }
}

/// Every page with its text. Everything is built at once, as `cargo test --workspace` builds it, so that nothing is
/// compiled a second time with other features.
fn generate(workspace: &Workspace) -> Result<Vec<(&'static Page, String)>, XtaskError> {
    process::run(workspace.cargo().args([
        "build",
        "--workspace",
        "--bins",
        "--examples",
        "--quiet",
    ]))?;
    PAGES
        .iter()
        .map(|page| {
            let program: PathBuf = match page.generator {
                Generator::Binary(name) => workspace.debug_binary(name),
                Generator::Example(name) => workspace.debug_example(name),
            };
            let text = process::capture(workspace.command(program).args(page.arguments))?;
            Ok((page, text))
        })
        .collect()
}

/// `LINE: …` of the first line in which the two differ.
fn first_difference(committed: &str, generated: &str) -> Option<String> {
    if committed == generated {
        return None;
    }
    let mut old = committed.lines();
    let mut new = generated.lines();
    let mut number = 0;
    loop {
        number += 1;
        match (old.next(), new.next()) {
            (Some(old), Some(new)) if old == new => {}
            (None, None) => return Some(format!("{number}: differs in its line endings")),
            (old, new) => {
                return Some(format!(
                    "{number}: is `{}`, the code says `{}`",
                    old.unwrap_or("(end)"),
                    new.unwrap_or("(end)")
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_line_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(
            first_difference("a\nb\n", "a\nc\n").as_deref(),
            Some("2: is `b`, the code says `c`")
        );
        assert_eq!(
            first_difference("", "a\n").as_deref(),
            Some("1: is `(end)`, the code says `a`")
        );
        assert_eq!(
            first_difference("a", "a\n").as_deref(),
            Some("2: differs in its line endings")
        );
    }
}
