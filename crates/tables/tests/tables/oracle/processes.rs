//! Processes as `ps`, `lsof` and `/proc` show them; kernel modules as `lsmod` does.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use crate::support::{engine, eventually, query, rows, run, same};

/// A child that waits for input which never comes, and is ended with the test.
struct Waiting(Child);

impl Waiting {
    fn start() -> Self {
        let child = Command::new("cat")
            .args(["-", "an argument with spaces"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("this test uses `cat`: install the package `coreutils`");
        Self(child)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const PS_COLUMNS: [&str; 14] = [
    "pid",
    "parent",
    "pgroup",
    "uid",
    "euid",
    "suid",
    "gid",
    "egid",
    "sgid",
    "threads",
    "nice",
    "total_kib",
    "started",
    "name",
];

/// What ps says, by process; names may hold spaces and come last.
fn ps() -> BTreeMap<String, Vec<String>> {
    let format =
        "pid=,ppid=,pgid=,ruid=,euid=,suid=,rgid=,egid=,sgid=,nlwp=,ni=,vsz=,etimes=,comm=";
    run("procps", "ps", &["-e", "-o", format])
        .lines()
        .map(|line| {
            let mut rest = line;
            let mut fields = Vec::new();
            for _ in 1..PS_COLUMNS.len() {
                rest = rest.trim_start();
                let (field, after) = rest.split_once(' ').expect("a field");
                fields.push(field.to_owned());
                rest = after;
            }
            let name = rest.trim_start();
            fields.push(name.strip_suffix(" <defunct>").unwrap_or(name).to_owned());
            // For processes that the kernel schedules in real time ps shows no niceness.
            if fields[10] == "-" {
                "0".clone_into(&mut fields[10]);
            }
            // How long a process has run changes while we look.
            fields[12] = String::new();
            (fields[0].clone(), fields)
        })
        .collect()
}

#[test]
fn processes_agree_with_ps() {
    let child = Waiting::start();
    let engine = engine();
    eventually(|| {
        let before = ps();
        let ours: BTreeMap<String, Vec<String>> = rows(
            &engine,
            "SELECT *, total_size / 1024 AS total_kib, '' AS started FROM processes",
        )
        .into_iter()
        .map(|row| {
            (
                row["pid"].clone(),
                PS_COLUMNS.map(|name| row[name].clone()).to_vec(),
            )
        })
        .collect();
        let after = ps();
        let child = child.0.id().to_string();
        if !ours.contains_key(&child) {
            return Err("the child is not there".to_owned());
        }
        // Processes that came, went or changed while we looked say nothing.
        for (pid, theirs) in before
            .iter()
            .filter(|(pid, fields)| after.get(*pid) == Some(fields))
        {
            match ours.get(pid) {
                Some(ours) if ours == theirs => {}
                other => return Err(format!("{other:?} is not {theirs:?}")),
            }
        }
        Ok(())
    });
}

#[test]
fn what_a_process_runs_agrees_with_proc() {
    let child = Waiting::start();
    let engine = engine();
    let pid = child.0.id();
    // Between fork and exec the child is still a copy of this process.
    eventually(|| {
        let found = rows(
            &engine,
            &format!("SELECT * FROM processes WHERE pid = {pid}"),
        );
        let link = |name: &str| {
            std::fs::read_link(format!("/proc/{pid}/{name}"))
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let row = found.first().ok_or("the child is not there")?;
        let own = std::process::id().to_string();
        for (column, value) in [
            ("name", "cat"),
            ("path", &*link("exe")),
            ("cwd", &*link("cwd")),
            ("root", "/"),
            ("cmdline", "cat - an argument with spaces"),
            ("on_disk", "1"),
            ("state", "S"),
            ("parent", &own),
        ] {
            if row[column] != value {
                return Err(format!("{column}: {} is not {value}", row[column]));
            }
        }
        let elapsed: i64 = run("procps", "ps", &["-o", "etimes=", "-p", &pid.to_string()])
            .trim()
            .parse()
            .map_err(|error| format!("{error}"))?;
        let now: i64 = rows(&engine, "SELECT unix_time FROM time")[0]["unix_time"]
            .parse()
            .map_err(|error| format!("{error}"))?;
        let started: i64 = row["start_time"]
            .parse()
            .map_err(|error| format!("{error}"))?;
        if (now - elapsed - started).abs() > 2 {
            return Err(format!(
                "started at {started}, but {elapsed} s before {now}"
            ));
        }
        let resident: i64 = run("procps", "ps", &["-o", "rss=", "-p", &pid.to_string()])
            .trim()
            .parse()
            .map_err(|error| format!("{error}"))?;
        let ours: i64 = row["resident_size"]
            .parse()
            .map_err(|error| format!("{error}"))?;
        // The kernel counts in steps for each processor.
        if (ours / 1024 - resident).abs() > 1024 {
            return Err(format!("{ours} bytes resident, but {resident} KiB"));
        }
        Ok(())
    });
}

#[test]
fn open_files_agree_with_lsof() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("an open file");
    let child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&path).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .map(Waiting)
        .expect("this test uses `cat`: install the package `coreutils`");
    let pid = child.0.id().to_string();
    let engine = engine();
    eventually(|| {
        let ours: Vec<(String, String)> = rows(
            &engine,
            &format!("SELECT * FROM process_open_files WHERE pid = {pid}"),
        )
        .into_iter()
        .map(|row| (row["fd"].clone(), row["path"].clone()))
        .collect();
        if !ours.contains(&("1".to_owned(), path.to_string_lossy().into_owned())) {
            return Err(format!("{ours:?}"));
        }
        let mut theirs = Vec::new();
        let mut fd = String::new();
        for line in run("lsof", "lsof", &["-n", "-P", "-w", "-p", &pid, "-F", "fn"]).lines() {
            let (kind, value) = line.split_at(1);
            match kind {
                "f" => fd = value.to_owned(),
                "n" if value.starts_with('/') && fd.parse::<u32>().is_ok() => {
                    theirs.push((fd.clone(), value.to_owned()));
                }
                _ => {}
            }
        }
        same(ours, theirs)
    });
}

#[test]
fn kernel_modules_agree_with_lsmod() {
    let engine = engine();
    if !std::path::Path::new("/proc/modules").exists() {
        let output = query(&engine, "SELECT * FROM kernel_modules");
        assert_eq!(
            output.warnings,
            ["kernel_modules: this kernel is built without modules"]
        );
        return;
    }
    eventually(|| {
        let theirs = run("kmod", "lsmod", &[])
            .lines()
            .skip(1)
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let used_by = words.get(3).copied().unwrap_or("-");
                [words[0].to_owned(), words[1].to_owned(), used_by.to_owned()]
            })
            .collect();
        let ours = rows(&engine, "SELECT * FROM kernel_modules")
            .into_iter()
            .map(|row| ["name", "size", "used_by"].map(|name| row[name].clone()))
            .collect();
        same(ours, theirs)
    });
}

#[test]
fn the_machine_agrees_with_uname_and_meminfo() {
    let engine = engine();
    let system = &rows(&engine, "SELECT * FROM system_info")[0];
    assert_eq!(
        system["local_hostname"],
        run("coreutils", "uname", &["-n"]).trim()
    );
    assert_eq!(
        system["cpu_type"],
        run("coreutils", "uname", &["-m"]).trim()
    );
    assert_eq!(
        system["cpu_logical_cores"],
        run("util-linux", "lscpu", &["-p=CPU"])
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count()
            .to_string()
    );
    let kernel = &rows(&engine, "SELECT version FROM kernel_info")[0];
    assert_eq!(kernel["version"], run("coreutils", "uname", &["-r"]).trim());
    let memory = &rows(&engine, "SELECT memory_total, swap_total FROM memory_info")[0];
    let theirs = run("procps", "free", &["-b"]);
    let total = |line: usize| theirs.lines().nth(line)?.split_whitespace().nth(1);
    assert_eq!(Some(memory["memory_total"].as_str()), total(1));
    assert_eq!(Some(memory["swap_total"].as_str()), total(2));
    let limits = run(
        "util-linux",
        "prlimit",
        &["--noheadings", "--raw", "--output", "SOFT,HARD", "--nofile"],
    );
    let ours = &rows(&engine, "SELECT * FROM ulimit_info WHERE type = 'nofile'")[0];
    assert_eq!(
        format!("{} {}", ours["soft_limit"], ours["hard_limit"]),
        limits.trim()
    );
}
