//! What the tests share: rows by column name, other programs' output, patience with a machine that changes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use muster_tables::{Engine, EngineOptions, QueryOutput};

/// A row by column name, as text.
pub(crate) type Row = BTreeMap<String, String>;

/// An engine for this machine.
pub(crate) fn engine() -> Engine {
    Engine::new(EngineOptions::default()).expect("an engine with this machine's tables")
}

/// An engine for the machine whose files are below `root`.
pub(crate) fn engine_below(root: &Path) -> Engine {
    Engine::new(EngineOptions {
        root: root.to_owned(),
        ..EngineOptions::default()
    })
    .expect("an engine with a made-up machine's tables")
}

/// The result of a query that has to succeed.
pub(crate) fn query(engine: &Engine, sql: &str) -> QueryOutput {
    engine
        .query(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The rows of a query by column name.
pub(crate) fn rows(engine: &Engine, sql: &str) -> Vec<Row> {
    let output = query(engine, sql);
    output
        .to_string_rows()
        .into_iter()
        .map(|row| output.columns.iter().cloned().zip(row).collect())
        .collect()
}

/// What `program` prints. Fails with the name of the package when it is not installed.
pub(crate) fn run(package: &str, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .output()
        .unwrap_or_else(|error| {
            panic!("this test compares with `{program}`: install the package `{package}` ({error})")
        });
    assert!(
        output.status.success(),
        "`{program} {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// How often a comparison is made again because the machine may have changed in its middle.
const ATTEMPTS: usize = 10;

/// Makes a comparison again while it fails, a bounded number of times.
pub(crate) fn eventually(mut compare: impl FnMut() -> Result<(), String>) {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match compare() {
            Ok(()) => return,
            Err(difference) => last = difference,
        }
    }
    panic!("still different after {ATTEMPTS} attempts: {last}");
}

/// Says how two sorted lists differ.
pub(crate) fn same<T: Ord + std::fmt::Debug>(
    mut ours: Vec<T>,
    mut theirs: Vec<T>,
) -> Result<(), String> {
    ours.sort();
    theirs.sort();
    if ours == theirs {
        return Ok(());
    }
    let only = |left: &[T], right: &[T]| {
        left.iter()
            .filter(|item| !right.contains(item))
            .take(5)
            .map(|item| format!("{item:?}"))
            .collect::<Vec<_>>()
            .join("\n  ")
    };
    Err(format!(
        "{} rows here, {} there\n only here:\n  {}\n only there:\n  {}",
        ours.len(),
        theirs.len(),
        only(&ours, &theirs),
        only(&theirs, &ours)
    ))
}

/// Writes a file below `root`, folders included.
pub(crate) fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path.trim_start_matches('/'));
    let folder = path.parent().expect("a file is in a folder");
    std::fs::create_dir_all(folder).expect("a folder for a made-up machine");
    std::fs::write(path, content).expect("a file of a made-up machine");
}
