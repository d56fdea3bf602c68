//! Mounted file systems.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::StatFs;

use crate::error::TableError;
use crate::limits::lock;
use crate::spec::ColumnType::{BigInt, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink};

pub(crate) static MOUNTS: TableSpec = TableSpec {
    name: "mounts",
    description: "The mounted file systems with their space and inodes.",
    columns: &[
        column("device", Text),
        column("device_alias", Text),
        column("path", Text),
        column("type", Text),
        column("blocks_size", BigInt),
        column("blocks", BigInt),
        column("blocks_free", BigInt),
        column("blocks_available", BigInt),
        column("inodes", BigInt),
        column("inodes_free", BigInt),
        column("flags", Text),
    ],
};

/// File systems whose server may be gone; asking them for their space then waits without end.
const REMOTE_TYPES: [&str; 10] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "ocfs2",
];

/// How long such a file system may take to answer.
const REMOTE_ANSWER: Duration = Duration::from_secs(2);

/// Paths that a thread is still waiting for: a second one would wait as well.
static WAITING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

pub(crate) fn mounts(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let wants_space = [
        "blocks_size",
        "blocks",
        "blocks_free",
        "blocks_available",
        "inodes",
        "inodes_free",
    ]
    .iter()
    .any(|column| context.wants(column));
    for mount in context
        .read_text("/proc/self/mounts")?
        .lines()
        .filter_map(Mount::parse)
    {
        context.check()?;
        // File systems without a device have a name in its place.
        // File systems without a device have a name in its place.
        let alias = Some(&mount.device)
            .filter(|device| device.starts_with('/'))
            .and_then(|device| std::fs::canonicalize(context.path(device)).ok())
            .map_or_else(
                || mount.device.clone(),
                |path| path.to_string_lossy().into_owned(),
            );
        let space = if wants_space {
            mount.space(context)
        } else {
            None
        };
        let number = |number: Option<u64>| number.unwrap_or(0);
        rows.row()
            .set("device", mount.device)
            .set("device_alias", alias)
            .set("path", mount.path)
            .set("type", mount.kind)
            .set(
                "blocks_size",
                number(space.map(|space| space.f_bsize as u64)),
            )
            .set("blocks", number(space.map(|space| space.f_blocks)))
            .set("blocks_free", number(space.map(|space| space.f_bfree)))
            .set(
                "blocks_available",
                number(space.map(|space| space.f_bavail)),
            )
            .set("inodes", number(space.map(|space| space.f_files)))
            .set("inodes_free", number(space.map(|space| space.f_ffree)))
            .set("flags", mount.options)
            .push()?;
    }
    Ok(())
}

/// A line of `/proc/self/mounts`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) device: String,
    pub(super) path: String,
    pub(super) kind: String,
    pub(super) options: String,
}

impl Mount {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(Self {
            device: unescape(words.next()?),
            path: unescape(words.next()?),
            kind: words.next()?.to_owned(),
            options: unescape(words.next()?),
        })
    }

    fn space(&self, context: &Context<'_>) -> Option<StatFs> {
        // Asking an automounter mounts what it stands for.
        if self.kind == "autofs" {
            return None;
        }
        let path = context.path(&self.path);
        let is_remote =
            REMOTE_TYPES.contains(&self.kind.as_str()) || self.kind.starts_with("fuse.");
        let answer = if is_remote {
            ask_with_patience(path)
        } else {
            rustix::fs::statfs(&path).map_err(|error| std::io::Error::from(error).to_string())
        };
        answer
            .map_err(|reason| context.warn(format!("{}: {reason}", self.path)))
            .ok()
    }
}

/// Asks on another thread, which is left behind when no answer comes.
fn ask_with_patience(path: PathBuf) -> Result<StatFs, String> {
    const SILENT: &str = "the file system does not answer";
    {
        let mut waiting = lock(&WAITING);
        if waiting.contains(&path) {
            return Err(SILENT.to_owned());
        }
        waiting.push(path.clone());
    }
    let (sender, receiver) = mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name("statfs".to_owned())
        .spawn(move || {
            let answer = rustix::fs::statfs(&path);
            lock(&WAITING).retain(|waiting| *waiting != path);
            // Nobody listens any more when it took too long.
            let _ = sender.send(answer);
        });
    if let Err(error) = spawned {
        return Err(error.to_string());
    }
    match receiver.recv_timeout(REMOTE_ANSWER) {
        Ok(Ok(space)) => Ok(space),
        Ok(Err(error)) => Err(std::io::Error::from(error).to_string()),
        Err(_) => Err(SILENT.to_owned()),
    }
}

/// Undoes the kernel's octal escapes of white space and backslashes.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = octal {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    crate::table::lossy(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_in_paths_come_back() {
        let mount = Mount::parse("/dev/sda1 /mnt/my\\040disk\\134x ext4 rw,relatime 0 0").unwrap();
        assert_eq!(mount.path, "/mnt/my disk\\x");
        assert_eq!(
            (mount.kind.as_str(), mount.options.as_str()),
            ("ext4", "rw,relatime")
        );
        assert_eq!(unescape("a\\04"), "a\\04");
        assert_eq!(unescape("\\999"), "\\999");
    }
}
