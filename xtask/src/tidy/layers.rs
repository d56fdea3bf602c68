//! Rules about layers: where SQL may stand, on whose tables, and who may name old versions.

use super::source::is_word;
use super::{Finding, TextFile};

/// Packages whose SQL is not a server domain's: the database crate itself, the agent's tables and what queries them.
const SQL_EXEMPT: &[&str] = &[
    "crates/store/",
    "crates/tables/",
    "apps/agent/",
    "apps/cli/",
    "testing/",
    "xtask/",
];
/// Marks a file whose SQL is sent to agents.
const OSQUERY_MARK: &str = "// tidy: osquery SQL";
/// Where the mark must stand.
const MARK_WITHIN_LINES: usize = 30;
/// A string that begins so is a statement.
const STATEMENTS: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "INSERT OR ",
    "UPDATE ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "CREATE UNIQUE INDEX ",
    "ALTER TABLE ",
    "DROP TABLE ",
    "DROP INDEX ",
];
/// What stands before a table's name.
const BEFORE_TABLE: &[&str] = &["FROM", "JOIN", "INTO", "UPDATE", "TABLE"];
/// What may stand between those and the name.
const BETWEEN: &[&str] = &["IF", "NOT", "EXISTS", "ONLY"];
/// Rooms that translate between versions.
const VERSION_ROOMS: &[&str] = &[
    "crates/wire-",
    "crates/negotiation/",
    "crates/http/",
    "testing/",
];
/// Names of the modules that hold one version's types.
const OLDEST: &str = "initial";

/// `hosts` of `crates/hosts/src/store.rs`, `server` of `apps/server/…`.
fn crate_of(path: &str) -> Option<&str> {
    let rest = path
        .strip_prefix("crates/")
        .or_else(|| path.strip_prefix("apps/"))?;
    rest.split_once('/').map(|(name, _)| name)
}

/// The names of all crates, as their tables begin.
pub(super) fn crate_names(files: &[TextFile]) -> Vec<String> {
    let mut names: Vec<String> = files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"))
        .filter_map(|file| crate_of(&file.path))
        .map(table_prefix)
        .collect();
    names.sort();
    names.dedup();
    names
}

fn table_prefix(crate_name: &str) -> String {
    format!("{}_", crate_name.replace('-', "_"))
}

/// Whether the whole file is there for tests, by its name.
fn is_test_file(path: &str) -> bool {
    let mut parts = path.split('/').rev();
    let name = parts.next().unwrap_or_default();
    matches!(name, "tests.rs" | "testing.rs")
        || parts.any(|folder| {
            matches!(
                folder,
                "tests" | "testing" | "benches" | "examples" | "fuzz"
            )
        })
}

fn is_marked(file: &TextFile) -> bool {
    file.path.split('/').any(|part| part == "detail")
        || file.path.ends_with("queries_sql.rs")
        || file
            .text
            .lines()
            .take(MARK_WITHIN_LINES)
            .any(|line| line.trim() == OSQUERY_MARK)
}

fn is_sql_exempt(file: &TextFile) -> bool {
    crate_of(&file.path).is_none()
        || SQL_EXEMPT
            .iter()
            .any(|folder| file.path.starts_with(folder))
        || is_test_file(&file.path)
        || is_marked(file)
}

/// Store modules and migrations, as files or as folders.
fn is_store_room(path: &str) -> bool {
    path.split('/')
        .skip(2)
        .map(|part| part.strip_suffix(".rs").unwrap_or(part))
        .any(|part| matches!(part, "store" | "migrations"))
}

pub(super) fn sql_outside_store(file: &TextFile) -> Vec<Finding> {
    let Some(source) = file
        .source
        .as_ref()
        .filter(|_| !is_sql_exempt(file) && !is_store_room(&file.path))
    else {
        return Vec::new();
    };
    source
        .literals
        .iter()
        // A string in an attribute is an example or a description.
        .filter(|literal| !source.is_test(literal.offset) && !source.is_attribute(literal.offset))
        .filter(|literal| is_statement(&literal.value))
        .map(|literal| {
            Finding::new(
                &file.path,
                source.line(literal.offset),
                "sql-outside-store",
                "move the statement to the crate's `store`",
            )
        })
        .collect()
}

fn is_statement(text: &str) -> bool {
    let words = text
        .split_whitespace()
        .take(12)
        .collect::<Vec<_>>()
        .join(" ");
    let begins = STATEMENTS.iter().any(|begin| words.starts_with(begin));
    let update = words.starts_with("UPDATE ");
    let with = words.starts_with("WITH ") && words.contains(" AS ");
    with || (begins && (!update || text.split_whitespace().any(|word| word == "SET")))
}

/// Tables of other crates anywhere in a crate's SQL, and new tables that do not begin with its name.
pub(super) fn foreign_tables(file: &TextFile, crates: &[String]) -> Vec<Finding> {
    let Some(source) = file.source.as_ref().filter(|_| !is_sql_exempt(file)) else {
        return Vec::new();
    };
    let Some(name) = crate_of(&file.path) else {
        return Vec::new();
    };
    let own = table_prefix(name);
    let mut findings = Vec::new();
    for literal in &source.literals {
        if source.is_test(literal.offset) {
            continue;
        }
        for (keyword, table) in tables(&literal.value) {
            let foreign = crates
                .iter()
                .any(|prefix| *prefix != own && table.starts_with(prefix));
            let unnamed = keyword == "TABLE" && is_store_room(&file.path);
            if !table.starts_with(&own) && (foreign || unnamed) {
                findings.push(Finding::new(
                    &file.path,
                    source.line(literal.offset),
                    "foreign-table",
                    format!("`{table}`: this crate's tables begin with `{own}`; ask another crate's service"),
                ));
            }
        }
    }
    findings
}

/// Names of tables in a piece of SQL, with the keyword before each.
fn tables(sql: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut keyword = None;
    for word in sql
        .split(|c: char| !is_word(c))
        .filter(|word| !word.is_empty())
    {
        if BEFORE_TABLE.contains(&word) {
            keyword = Some(word);
        } else if let Some(keyword) = keyword.take_if(|_| !BETWEEN.contains(&word)) {
            // A subquery, a clause or a placeholder of a format is no name.
            let is_name = word.starts_with(|c: char| c.is_ascii_lowercase());
            if is_name {
                found.push((keyword, word));
            }
        }
    }
    found
}

/// Paths through modules named for a version, outside the rooms that translate.
pub(super) fn old_versions(file: &TextFile) -> Vec<Finding> {
    let exempt = crate_of(&file.path).is_none()
        || VERSION_ROOMS.iter().any(|room| file.path.starts_with(room))
        || is_test_file(&file.path)
        || file
            .path
            .split('/')
            .skip(2)
            .any(|part| part == "http" || part == "http.rs");
    let Some(source) = file.source.as_ref().filter(|_| !exempt) else {
        return Vec::new();
    };
    source
        .tokens()
        .windows(3)
        .filter_map(|window| match window {
            [(offset, name), (_, ":"), (_, ":")]
                if is_version(name) && !source.is_test(*offset) =>
            {
                Some(Finding::new(
                    &file.path,
                    source.line(*offset),
                    "old-version",
                    format!("`{name}::` belongs in `http`: rules see the newest types only"),
                ))
            }
            _ => None,
        })
        .collect()
}

fn is_version(name: &str) -> bool {
    let number = name.strip_prefix('v').unwrap_or_default();
    name == OLDEST || (!number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
}
