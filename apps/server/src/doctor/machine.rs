//! Folders, files, disks and limits.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use muster_store::Address;
use rustix::fs::FlockOperation;
use rustix::process::{Resource, getrlimit};

use super::Report;
use crate::backup;
use crate::config::Settings;
use crate::folder::LOCK;

/// Less free space than this is a problem, in bytes.
const LOW_DISK_BYTES: u64 = 256 * 1024 * 1024;
/// Less free space than this part of a disk is a warning.
const LOW_DISK_PART: u64 = 10;
/// Files that a server has open beside connections: libraries, logs, the database.
const OTHER_FILES: u64 = 200;
/// How many connections a host keeps at most: for check-ins and for being told to ask now.
const CONNECTIONS_PER_HOST: u64 = 2;
/// The kinds of files of logs: results and status lines.
const LOG_KINDS: u64 = 2;

pub(super) fn folder(report: &mut Report, settings: &Settings) {
    let (name, path) = ("data folder", &settings.data_dir);
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let advice = "start the server, which makes it, or name the right one with --data-dir";
            return report.problem(name, format!("{shown} is not there"), advice);
        }
        Err(error) => {
            let advice =
                "run this as the user that the server runs as, which has to own the folder";
            return report.problem(name, format!("{shown} cannot be read: {error}"), advice);
        }
    };
    if path.join(backup::UNFINISHED).exists() {
        let found = format!("a restore into {shown} did not come to its end");
        return report.problem(name, found, "run the restore again with --replace");
    }
    if rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_err() {
        let found = format!("{shown} cannot be written by this user");
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        let advice = format!(
            "run this as the user that the server runs as; when this is that user, give it the folder, as root: chown -R \
             {user}:{group} {shown}"
        );
        return report.problem(name, found, advice);
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let found = format!("{shown} has mode {mode:o}: others can look into it");
        return report.warn(name, found, format!("chmod 700 {shown}"));
    }
    report.ok(name, format!("{shown}, mode {mode:o}"));
}

fn is_running(settings: &Settings) -> bool {
    fs::File::open(settings.data_dir.join(LOCK)).is_ok_and(|lock| {
        let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared);
        locked == Err(rustix::io::Errno::WOULDBLOCK)
    })
}

/// Whether a server uses the folder, and whether it could listen.
pub(super) fn server(report: &mut Report, settings: &Settings) {
    let name = "server";
    if is_running(settings) {
        return report.ok(name, "a server uses this data folder now");
    }
    match TcpListener::bind(settings.listen) {
        Ok(_) => report.ok(
            name,
            format!(
                "no server uses this data folder; {} is free",
                settings.listen
            ),
        ),
        Err(error) => report.problem(
            name,
            format!(
                "no server uses this data folder, and {} cannot be had: {error}",
                settings.listen
            ),
            "end what listens there (ss -ltnp shows it), or choose another address with --listen",
        ),
    }
}

/// Whether secrets are for the server alone.
pub(super) fn files(report: &mut Report, settings: &Settings) {
    let mut paths: Vec<_> = backup::FILES
        .iter()
        .filter(|(_, mode)| *mode == 0o600)
        .map(|(name, _)| settings.data_dir.join(name))
        .collect();
    paths.push(settings.data_dir.join("muster.toml"));
    if let crate::config::TlsSettings::Files { key, .. } = &settings.tls {
        paths.push(key.clone());
    }
    if let Address::Sqlite(path) = &settings.database {
        paths.push(path.clone());
    }
    let open: Vec<String> = paths
        .iter()
        .filter(|path| is_open_to_others(path))
        .map(|path| path.display().to_string())
        .collect();
    if open.is_empty() {
        return report.ok("secrets", "files with secrets are for their owner only");
    }
    let list = open.join(" ");
    report.problem(
        "secrets",
        format!("others can read {list}"),
        format!("chmod 600 {list}"),
    );
}

/// Whether others get at a file: by its own mode and that of its folder.
fn is_open_to_others(path: &Path) -> bool {
    let mode = |path: &Path| fs::metadata(path).map(|metadata| metadata.permissions().mode());
    if path.ends_with("master.key") {
        // The server refuses to read it otherwise.
        return mode(path).is_ok_and(|mode| mode & 0o077 != 0);
    }
    // A folder that is closed protects what does not protect itself. Rights of the group are how administrators share a key
    // with the server's user.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let is_open = |path: &Path| mode(path).is_ok_and(|mode| mode & 0o007 != 0);
    folder.is_none_or(is_open) && is_open(path)
}

pub(super) fn disk(report: &mut Report, settings: &Settings) {
    let mut folders = vec![("disk of the data folder", settings.data_dir.as_path(), 0)];
    // What files of logs may grow to.
    let logs = settings
        .sink_max_file_bytes
        .saturating_mul(u64::from(settings.sink_max_backups) + 1)
        .saturating_mul(LOG_KINDS);
    folders.push((
        "disk of the logs of hosts",
        settings.sink_folder.as_path(),
        logs,
    ));
    if let Address::Sqlite(path) = &settings.database
        && let Some(folder) = path.parent().filter(|folder| *folder != settings.data_dir)
        && !folder.as_os_str().is_empty()
    {
        folders.push(("disk of the database", folder, 0));
    }
    for (name, folder, wanted) in folders {
        let Ok(state) = rustix::fs::statvfs(folder) else {
            report.warn(
                name,
                format!("{} cannot be looked at", folder.display()),
                "it is made when the server starts",
            );
            continue;
        };
        let free = state.f_bavail.saturating_mul(state.f_frsize);
        let all = state.f_blocks.saturating_mul(state.f_frsize);
        let found = format!(
            "{} of {} free at {}",
            size(free),
            size(all),
            folder.display()
        );
        if state.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            let advice = "mount it for writing; a disk that failed is often mounted so";
            report.problem(name, format!("{found}; it is read-only"), advice);
        } else if free < LOW_DISK_BYTES {
            let advice = "make room: the server refuses what it cannot keep";
            report.problem(name, found, advice);
        } else if state.f_files > 0 && state.f_favail == 0 {
            let advice = "remove files, or make a file system with more inodes";
            report.problem(name, format!("{found}; no more files can be made"), advice);
        } else if all > 0 && free < all / LOW_DISK_PART {
            report.warn(name, found, "make room before it is full");
        } else if free < wanted {
            let found = format!("{found}; logs of hosts may grow to {}", size(wanted));
            let advice = "make room, or lower sink.max_file_size or sink.max_backups";
            report.warn(name, found, advice);
        } else {
            report.ok(name, found);
        }
    }
}

fn size(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib >= 10.0 {
        format!("{gib:.0} GiB")
    } else {
        format!("{gib:.1} GiB")
    }
}

/// How many files the server that runs may open: it has raised what it may to what it could. None when none runs, or when it
/// cannot be looked at.
fn limit_of_server(settings: &Settings) -> Option<u64> {
    if !is_running(settings) {
        return None;
    }
    let holder = fs::read_to_string(settings.data_dir.join(LOCK)).ok()?;
    let holder: u32 = holder.trim().parse().ok()?;
    let limits = fs::read_to_string(format!("/proc/{holder}/limits")).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    // The limit in force, then the one up to which it could be raised.
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        limit => limit.parse().ok(),
    }
}

/// A connection is an open file.
pub(super) fn open_files(report: &mut Report, settings: &Settings, hosts: Option<u64>) {
    let name = "open files";
    let (whose, limit) = match limit_of_server(settings) {
        Some(limit) => ("the running server: ", limit),
        // None means that there is no limit.
        None => (
            "this shell: ",
            getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        ),
    };
    let hosts = hosts.unwrap_or(0);
    let needed = hosts
        .saturating_mul(CONNECTIONS_PER_HOST)
        .saturating_add(OTHER_FILES);
    let allowed = (settings.max_connections as u64).saturating_add(OTHER_FILES);
    let advice = format!(
        "raise it, with LimitNOFILE={} in the systemd unit or ulimit -Hn in what starts the server",
        needed.max(allowed)
    );
    let shown = if limit == u64::MAX {
        format!("{whose}no limit")
    } else {
        format!("{whose}at most {limit}")
    };
    if limit < needed {
        let found = format!("{shown}, and {hosts} hosts may need {needed}");
        report.problem(name, found, advice);
    } else if (settings.max_connections as u64) < hosts {
        let found = format!(
            "max_connections is {} for {hosts} hosts",
            settings.max_connections
        );
        report.warn(name, found, "raise max_connections to twice the hosts");
    } else if limit < allowed {
        let found = format!(
            "{shown}; max_connections = {} may need {allowed}",
            settings.max_connections
        );
        report.warn(name, found, advice);
    } else {
        report.ok(name, format!("{shown}, for {hosts} hosts"));
    }
}
