//! Processes and the files they hold open.

use std::collections::BTreeMap;
use std::path::Path;

use super::proc::{self, Stat};
use crate::error::TableError;
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, read_bytes, read_text};

pub(crate) static PROCESSES: TableSpec = TableSpec {
    name: "processes",
    description: "Every process that is running.",
    columns: &[
        column("pid", BigInt).index().optimized(),
        column("name", Text),
        column("path", Text),
        column("cmdline", Text),
        column("state", Text),
        column("cwd", Text),
        column("root", Text),
        column("uid", BigInt),
        column("gid", BigInt),
        column("euid", BigInt),
        column("egid", BigInt),
        column("suid", BigInt),
        column("sgid", BigInt),
        column("on_disk", Integer),
        column("wired_size", BigInt),
        column("resident_size", BigInt),
        column("total_size", BigInt),
        column("user_time", BigInt),
        column("system_time", BigInt),
        column("disk_bytes_read", BigInt),
        column("disk_bytes_written", BigInt),
        column("start_time", BigInt),
        column("parent", BigInt),
        column("pgroup", BigInt),
        column("threads", Integer),
        column("nice", Integer),
        column("elevated_token", Integer).foreign(),
        column("secure_process", Integer).foreign(),
        column("protection_type", Text).foreign(),
        column("virtual_process", Integer).foreign(),
        column("elapsed_time", BigInt).foreign(),
        column("handle_count", BigInt).foreign(),
        column("percent_processor_time", BigInt).foreign(),
        column("upid", BigInt).foreign(),
        column("uppid", BigInt).foreign(),
        column("cpu_type", Integer).foreign(),
        column("cpu_subtype", Integer).foreign(),
        column("translated", Integer).foreign(),
        column("cgroup_path", Text),
    ],
};

pub(crate) static PROCESS_OPEN_FILES: TableSpec = TableSpec {
    name: "process_open_files",
    description: "The files that each process holds open.",
    columns: &[
        column("pid", BigInt).index(),
        column("fd", BigInt),
        column("path", Text),
    ],
};

pub(crate) fn processes(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let boot_time = context
        .read_text("/proc/stat")
        .ok()
        .and_then(|text| proc::boot_time(&text));
    for pid in proc::pids(constraints, context)? {
        context.check()?;
        // A process that ends while it is read simply is not there.
        add_process(context, rows, pid, boot_time)?;
    }
    Ok(())
}

fn add_process(
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
    pid: i64,
    boot_time: Option<i64>,
) -> Result<(), TableError> {
    let folder = context.path(format!("/proc/{pid}"));
    let Some(stat) = read_text(&folder.join("stat"))
        .ok()
        .and_then(|text| Stat::parse(&text))
    else {
        return Ok(());
    };
    let Ok(status) = read_text(&folder.join("status")) else {
        return Ok(());
    };
    let status = status_fields(&status);
    let ids = |name: &str| numbers(status.get(name).copied().unwrap_or_default());
    let kibibytes = |name: &str| ids(name)[0].map(|number| number * 1024);
    let (user, group) = (ids("Uid"), ids("Gid"));
    let link = |name: &str| {
        context
            .wants(name)
            .then(|| std::fs::read_link(folder.join(name)).ok())
            .flatten()
            .map(|target| target.to_string_lossy().into_owned())
            // As in osquery: queries look for `path = ''`, not for NULL.
            .unwrap_or_default()
    };
    let executable = if context.wants("path") || context.wants("on_disk") {
        Executable::read(context, &folder)
    } else {
        Executable::default()
    };
    let traffic = if context.wants("disk_bytes_read") || context.wants("disk_bytes_written") {
        read_text(&folder.join("io")).unwrap_or_default()
    } else {
        String::new()
    };
    let traffic = status_fields(&traffic);
    let counted = |name: &str| numbers(traffic.get(name).copied().unwrap_or_default())[0];
    let start_time = boot_time.map(|boot| boot + proc::ticks_to_ms(stat.start_ticks) / 1_000);
    rows.row()
        .set("pid", pid)
        .set("name", stat.name)
        .set("path", executable.path)
        .set(
            "cmdline",
            command_line(context, &folder).unwrap_or_default(),
        )
        .set("state", stat.state)
        .set("cwd", link("cwd"))
        .set("root", link("root"))
        .set("uid", user[0])
        .set("gid", group[0])
        .set("euid", user[1])
        .set("egid", group[1])
        .set("suid", user[2])
        .set("sgid", group[2])
        .set("on_disk", executable.on_disk)
        // Linux does not wire memory for processes.
        .set("wired_size", 0)
        .set("resident_size", kibibytes("VmRSS").unwrap_or(0))
        .set("total_size", kibibytes("VmSize").unwrap_or(0))
        .set("user_time", proc::ticks_to_ms(stat.user_ticks))
        .set("system_time", proc::ticks_to_ms(stat.system_ticks))
        .set("disk_bytes_read", counted("read_bytes"))
        .set(
            "disk_bytes_written",
            counted("write_bytes")
                .zip(counted("cancelled_write_bytes"))
                .map(|(written, cancelled)| written - cancelled),
        )
        .set("start_time", start_time)
        .set("parent", stat.parent)
        .set("pgroup", stat.process_group)
        .set("threads", stat.threads)
        .set("nice", stat.nice)
        .set("cgroup_path", cgroup(context, &folder))
        .push()
}

/// The program that a process runs.
struct Executable {
    /// Empty for kernel threads, and when it must not be looked at.
    path: String,
    /// 1 when it is still there, 0 when it was deleted, -1 when that cannot be told.
    on_disk: i64,
}

impl Default for Executable {
    fn default() -> Self {
        Self {
            path: String::new(),
            on_disk: -1,
        }
    }
}

impl Executable {
    fn read(context: &Context<'_>, folder: &Path) -> Self {
        let Ok(target) = std::fs::read_link(folder.join("exe")) else {
            return Self::default();
        };
        let target = target.to_string_lossy();
        let (path, deleted) = match target.strip_suffix(" (deleted)") {
            Some(path) => (path, true),
            None => (&*target, false),
        };
        Self {
            path: path.to_owned(),
            on_disk: i64::from(!deleted && context.path(path).exists()),
        }
    }
}

/// The arguments, separated by spaces. Kernel threads have none.
fn command_line(context: &Context<'_>, folder: &Path) -> Option<String> {
    if !context.wants("cmdline") {
        return None;
    }
    let bytes = read_bytes(&folder.join("cmdline")).ok()?;
    let text = crate::table::lossy(bytes).replace('\0', " ");
    Some(text.trim().to_owned())
}

/// The control group of the unified hierarchy, or systemd's where there is none.
fn cgroup(context: &Context<'_>, folder: &Path) -> Option<String> {
    if !context.wants("cgroup_path") {
        return None;
    }
    let text = read_text(&folder.join("cgroup")).ok()?;
    let named = |start: &str, middle: &str| {
        text.lines().find_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            (number.starts_with(start) && controllers == middle).then(|| path.to_owned())
        })
    };
    named("0", "").or_else(|| named("", "name=systemd"))
}

/// Lines of the form `Name: value`.
fn status_fields(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect()
}

/// The first three numbers in a text.
fn numbers(text: &str) -> [Option<i64>; 3] {
    let mut words = text.split_whitespace().map(|word| word.parse().ok());
    [
        words.next().flatten(),
        words.next().flatten(),
        words.next().flatten(),
    ]
}

pub(crate) fn process_open_files(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let mut denied = 0_usize;
    for pid in proc::pids(constraints, context)? {
        context.check()?;
        let Ok(descriptors) = proc::descriptors(context, pid) else {
            denied += 1;
            continue;
        };
        for (fd, target) in descriptors {
            // Sockets, pipes and the like are no paths.
            if target.starts_with('/') {
                rows.row()
                    .set("pid", pid)
                    .set("fd", fd)
                    .set("path", target)
                    .push()?;
            }
        }
    }
    proc::warn_about_denied(context, denied);
    Ok(())
}
