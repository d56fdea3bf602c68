//! Made-up machines below a folder: what this machine does not have.

mod access;
mod software;
mod system;

use muster_tables::Engine;
use tempfile::TempDir;

use crate::support::{Row, engine_below, query, write};

fn machine(files: &[(&str, &str)]) -> (TempDir, Engine) {
    let root = tempfile::tempdir().expect("a folder for a made-up machine");
    for (path, content) in files {
        write(root.path(), path, content);
    }
    let engine = engine_below(root.path());
    (root, engine)
}

/// The values of some columns, row by row.
fn values<const COUNT: usize>(rows: &[Row], columns: [&str; COUNT]) -> Vec<[String; COUNT]> {
    rows.iter()
        .map(|row| columns.map(|column| row[column].clone()))
        .collect()
}

#[test]
fn a_machine_without_anything_gives_warnings_and_no_failure() {
    let (_root, engine) = machine(&[]);
    for table in engine.tables() {
        let sql = match table.name {
            "file" | "hash" => format!("SELECT * FROM {} WHERE path = '/etc/passwd'", table.name),
            name => format!("SELECT * FROM {name}"),
        };
        for warning in query(&engine, &sql).warnings {
            assert!(
                warning.starts_with(&format!("{}: ", table.name)),
                "{warning}"
            );
            assert!(!warning.contains("mistake"), "{warning}");
        }
    }
    let output = query(&engine, "SELECT * FROM users");
    assert_eq!(output.warnings.len(), 1);
    assert!(output.warnings[0].starts_with("users: could not read "));
    assert!(output.warnings[0].ends_with("etc/passwd: No such file or directory (os error 2)"));
}

#[test]
fn files_full_of_rubbish_give_no_failure() {
    let rubbish: Vec<u8> = (0..20_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let root = tempfile::tempdir().unwrap();
    for path in [
        "/etc/passwd",
        "/etc/group",
        "/etc/hosts",
        "/etc/services",
        "/etc/resolv.conf",
        "/etc/crontab",
        "/etc/sudoers",
        "/etc/os-release",
        "/etc/redhat-release",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/loadavg",
        "/proc/uptime",
        "/proc/cmdline",
        "/proc/modules",
        "/proc/self/mounts",
        "/proc/net/arp",
        "/proc/1/stat",
        "/proc/1/status",
        "/proc/1/net/tcp",
        "/proc/1/net/unix",
        "/proc/self/net/tcp",
        "/run/utmp",
        "/var/log/wtmp",
        "/var/lib/dpkg/status",
        "/var/lib/rpm/rpmdb.sqlite",
        "/etc/apt/sources.list",
        "/etc/apt/sources.list.d/x.sources",
        "/usr/lib/python3/dist-packages/x.dist-info/METADATA",
        "/usr/lib/node_modules/x/package.json",
        "/etc/ssl/certs/ca-certificates.crt",
        "/sys/class/block/x/size",
        "/sys/class/dmi/id/product_uuid",
        "/sys/firmware/dmi/tables/DMI",
    ] {
        write(root.path(), path, &rubbish);
    }
    let engine = engine_below(root.path());
    for table in engine.tables() {
        if !matches!(table.name, "file" | "hash") {
            let output = query(&engine, &format!("SELECT * FROM {}", table.name));
            assert!(
                !output
                    .warnings
                    .iter()
                    .any(|warning| warning.contains("mistake")),
                "{:?}",
                output.warnings
            );
        }
    }
    let output = query(&engine, "SELECT * FROM rpm_packages");
    assert!(
        output.warnings[0].contains("file is not a database"),
        "{:?}",
        output.warnings
    );
}

#[test]
fn a_named_pipe_in_place_of_a_file_does_not_hold_up_a_query() {
    let (root, engine) = machine(&[("/etc/hosts", "")]);
    let pipe = root.path().join("etc/services");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let output = query(&engine, "SELECT * FROM etc_services");
    assert!(
        output.warnings[0].ends_with("not a regular file"),
        "{:?}",
        output.warnings
    );
}

#[test]
fn another_processes_namespace_is_refused_with_a_reason() {
    let (_root, engine) = machine(&[("/etc/hosts", "192.0.2.1 a\n")]);
    let own = query(
        &engine,
        "SELECT address FROM etc_hosts WHERE pid_with_namespace = 0",
    );
    assert_eq!((own.rows.len(), own.warnings.len()), (1, 0));
    let other = query(
        &engine,
        "SELECT address FROM etc_hosts WHERE pid_with_namespace = 17",
    );
    assert!(other.rows.is_empty());
    assert_eq!(
        other.warnings,
        ["etc_hosts: reading another process's mount namespace is not supported"]
    );
}
