//! Whether everything in the data folder is the server's own.
//!
//! A command that root runs there may leave files that the server's user cannot open. Root itself can open everything, so
//! that for root it counts whom a file belongs to, and for others what they may do.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use muster_store::Address;
use rustix::fs::Access;

use super::{Report, give_back};
use crate::backup;
use crate::config::Settings;
use crate::folder::LOCK;

/// So many files are named.
const SHOWN: usize = 4;

/// What the server reads only, and what it writes.
fn paths(settings: &Settings) -> Vec<(PathBuf, Access)> {
    let folder = &settings.data_dir;
    let mut paths: Vec<_> = backup::FILES
        .iter()
        .map(|(name, _)| (folder.join(name), Access::READ_OK))
        .collect();
    let both = Access::READ_OK | Access::WRITE_OK;
    paths.push((folder.join("tls"), both | Access::EXEC_OK));
    paths.push((folder.join(LOCK), both));
    if let Address::Sqlite(path) = &settings.database {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            paths.push((name.into(), both));
        }
    }
    let logs = &settings.sink_folder;
    paths.push((logs.clone(), both | Access::EXEC_OK));
    let entries = fs::read_dir(logs).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    paths.extend(files.map(|entry| (entry.path(), both)));
    paths
}

pub(super) fn examine(report: &mut Report, settings: &Settings) {
    let (name, folder) = ("owner", &settings.data_dir);
    let Ok(found) = fs::metadata(folder) else {
        // Told already.
        return;
    };
    let is_root = rustix::process::geteuid().is_root();
    if is_root && found.uid() == 0 {
        return report.ok(name, "the data folder belongs to root");
    }
    let whole = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if !is_root && rustix::fs::access(folder, whole).is_err() {
        return;
    }
    let is_foreign = |path: &Path, wanted: Access| {
        if is_root {
            fs::symlink_metadata(path).is_ok_and(|file| file.uid() != found.uid())
        } else {
            let denied = rustix::fs::access(path, wanted).err().map(io::Error::from);
            denied.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        }
    };
    let foreign: Vec<String> = paths(settings)
        .into_iter()
        .filter(|(path, wanted)| is_foreign(path, *wanted))
        .map(|(path, _)| path.display().to_string())
        .collect();
    if foreign.is_empty() {
        return report.ok(name, "the server may use what is in the data folder");
    }
    let mut list = foreign[..foreign.len().min(SHOWN)].join(" ");
    if foreign.len() > SHOWN {
        let _ = write!(list, " and {} more", foreign.len() - SHOWN);
    }
    let found = if is_root {
        format!("not the data folder's owner, but another user owns {list}")
    } else {
        format!("this user may not use {list}")
    };
    report.problem(name, found, give_back(settings));
}
