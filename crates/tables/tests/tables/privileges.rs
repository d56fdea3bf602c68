//! Every table can be read by root and by a user without privileges: rows or a clear warning, never a failure.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::{engine, query};

/// How the test that reads every table is called, for running it as somebody else.
const READS_EVERY_TABLE: &str = "privileges::whoever_runs_this_can_read_every_table";

/// The statement that reads a whole table, or as much as can be asked for.
fn read_all(table: &str) -> String {
    match table {
        "file" => "SELECT * FROM file WHERE path LIKE '/etc/%%' OR directory = '/root'".to_owned(),
        "hash" => "SELECT * FROM hash WHERE directory IN ('/etc', '/root')".to_owned(),
        table => format!("SELECT * FROM {table}"),
    }
}

#[test]
fn whoever_runs_this_can_read_every_table() {
    let engine = engine();
    for table in engine.tables() {
        let output = query(&engine, &read_all(table.name));
        for warning in &output.warnings {
            println!("warning: {warning}");
            assert!(
                warning.starts_with(&format!("{}: ", table.name)),
                "{warning}"
            );
            assert!(!warning.contains("mistake in the agent"), "{warning}");
        }
        println!("{}: {} rows", table.name, output.rows.len());
    }
}

#[test]
fn hidden_columns_of_every_table_can_be_read() {
    let engine = engine();
    for table in engine.tables() {
        let columns: Vec<String> = table
            .columns
            .iter()
            .flat_map(|column| {
                [column.name]
                    .into_iter()
                    .chain(column.aliases.iter().copied())
            })
            .map(|name| format!("\"{name}\""))
            .collect();
        let sql = read_all(table.name).replacen('*', &columns.join(", "), 1);
        let output = query(&engine, &sql);
        assert_eq!(output.columns.len(), columns.len(), "{}", table.name);
    }
}

#[test]
fn a_user_without_privileges_gets_clear_messages() {
    if !rustix::process::geteuid().is_root() {
        // The other tests of this file run without privileges already.
        return;
    }
    // Others may not enter the build folder, but this one.
    let folder = tempfile::Builder::new()
        .prefix("muster-tables-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .expect("a folder for a copy of this program");
    let copy = folder.path().join("tables");
    let program = std::env::current_exe().expect("this program has a path");
    std::fs::copy(program, &copy).expect("a copy of this program");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&copy)
        .args(["--exact", READS_EVERY_TABLE, "--nocapture"])
        .current_dir(Path::new("/"))
        .env_remove("LLVM_PROFILE_FILE")
        .output()
        .expect("this test uses `setpriv`: install the package `util-linux`");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("1 passed"), "{text}");
    for part in [
        "warning: process_open_files: ",
        "processes belong to other users; reading them needs root",
        "warning: file: could not read /root",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}
