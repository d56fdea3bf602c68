//! Files and their hashes, by path or by folder.

use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::UNIX_EPOCH;

use aws_lc_rs::digest;
use md5::{Digest as _, Md5};

use super::glob;
use crate::error::TableError;
use crate::functions::hex;
use crate::spec::Collation::{NoCase, Version};
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, open_without_waiting};

pub(crate) static FILE: TableSpec = TableSpec {
    name: "file",
    description: "Files by path or folder, with owner, size, times and type.",
    columns: &[
        column("path", Text).index().required().optimized(),
        column("directory", Text).required().optimized(),
        column("filename", Text),
        column("inode", BigInt),
        column("uid", BigInt),
        column("gid", BigInt),
        column("mode", Text),
        column("device", BigInt),
        column("size", BigInt),
        column("block_size", Integer),
        column("atime", BigInt),
        column("mtime", BigInt),
        column("ctime", BigInt),
        column("btime", BigInt),
        column("hard_links", Integer),
        column("symlink", Integer),
        column("type", Text),
        column("symlink_target_path", Text),
        column("attributes", Text).foreign(),
        column("volume_serial", Text).foreign(),
        column("file_id", Text).foreign(),
        column("file_version", Text).collate(Version).foreign(),
        column("product_version", Text).collate(Version).foreign(),
        column("original_filename", Text).foreign(),
        column("shortcut_target_path", Text).foreign(),
        column("shortcut_target_type", Text).foreign(),
        column("shortcut_target_location", Text).foreign(),
        column("shortcut_start_in", Text).foreign(),
        column("shortcut_run", Text).foreign(),
        column("shortcut_comment", Text).foreign(),
        column("bsd_flags", Text).foreign(),
        column("pid_with_namespace", Integer).additional().hidden(),
        column("mount_namespace_id", Text).hidden(),
    ],
};

pub(crate) static HASH: TableSpec = TableSpec {
    name: "hash",
    description: "Hashes of files by path or folder.",
    columns: &[
        column("path", Text).index().required().optimized(),
        column("directory", Text).required().optimized(),
        column("md5", Text).collate(NoCase),
        column("sha1", Text).collate(NoCase),
        column("sha256", Text).collate(NoCase),
        column("pid_with_namespace", Integer).additional().hidden(),
        column("mount_namespace_id", Text).hidden(),
    ],
};

/// How much of a file is read at once, in bytes.
const BLOCK_BYTES: usize = 64 * 1024;

pub(crate) fn file(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    each_file(constraints, context, &mut |path, folder| {
        add_file(context, rows, path, folder)
    })
}

/// Hands the files that a query asks for to `each`, with the folder as the query names it.
fn each_file(
    constraints: &Constraints,
    context: &Context<'_>,
    each: &mut dyn FnMut(&Path, &str) -> Result<(), TableError>,
) -> Result<(), TableError> {
    let mut with_parent = |path: &Path| {
        let folder = path.parent().unwrap_or(path).to_string_lossy().into_owned();
        each(path, &folder)
    };
    if let Some(path) = constraints.text("path") {
        return with_parent(Path::new(path));
    }
    if let Some(pattern) = constraints.like("path") {
        return glob::each_match(context, pattern, &mut with_parent);
    }
    if let Some(folder) = constraints.text("directory") {
        return each_in(context, folder, each);
    }
    if let Some(pattern) = constraints.like("directory") {
        return glob::each_match(context, pattern, &mut |path| {
            if context.path(path).is_dir() {
                each_in(context, &path.to_string_lossy(), each)
            } else {
                Ok(())
            }
        });
    }
    Ok(())
}

fn each_in(
    context: &Context<'_>,
    folder: &str,
    each: &mut dyn FnMut(&Path, &str) -> Result<(), TableError>,
) -> Result<(), TableError> {
    if !folder.starts_with('/') {
        context.warn(format!("`{folder}` does not begin with a slash"));
        return Ok(());
    }
    for name in glob::names_in(context, Path::new(folder)) {
        context.check()?;
        each(&Path::new(folder).join(name), folder)?;
    }
    Ok(())
}

fn add_file(
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
    path: &Path,
    folder: &str,
) -> Result<(), TableError> {
    if !path.is_absolute() {
        context.warn(format!("`{}` does not begin with a slash", path.display()));
        return Ok(());
    }
    let real = context.path(path);
    let entry = match real.symlink_metadata() {
        Ok(entry) => entry,
        Err(error) => {
            if error.kind() == std::io::ErrorKind::PermissionDenied {
                context.warn(TableError::unreadable(path, error));
            }
            return Ok(());
        }
    };
    let target = if entry.is_symlink() {
        std::fs::read_link(&real).ok()
    } else {
        None
    };
    // A link tells about what it points to, or about itself when that is not there.
    let metadata = std::fs::metadata(&real).unwrap_or_else(|_| entry.clone());
    let birth = metadata
        .created()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_secs());
    rows.row()
        .set("path", path.to_string_lossy())
        .set("directory", folder)
        .set(
            "filename",
            path.file_name().map(|name| name.to_string_lossy()),
        )
        .set("inode", metadata.ino())
        .set("uid", metadata.uid())
        .set("gid", metadata.gid())
        .set("mode", format!("{:04o}", metadata.mode() & 0o7777))
        .set("device", metadata.rdev())
        .set("size", metadata.size())
        .set("block_size", metadata.blksize())
        .set("atime", metadata.atime())
        .set("mtime", metadata.mtime())
        .set("ctime", metadata.ctime())
        .set("btime", birth)
        .set("hard_links", metadata.nlink())
        .set("symlink", entry.is_symlink())
        .set("type", type_name(metadata.file_type()))
        .set(
            "symlink_target_path",
            target.map(|target| target.to_string_lossy().into_owned()),
        )
        .push()
}

fn type_name(kind: std::fs::FileType) -> &'static str {
    if kind.is_file() {
        "regular"
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "symlink"
    } else if kind.is_block_device() {
        "block"
    } else if kind.is_char_device() {
        "character"
    } else if kind.is_fifo() {
        "fifo"
    } else if kind.is_socket() {
        "socket"
    } else {
        "unknown"
    }
}

pub(crate) fn hash(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    each_file(constraints, context, &mut |path, folder| {
        let real = context.path(path);
        if !path.is_absolute() || !real.is_file() {
            return Ok(());
        }
        let hashes = match Hashes::of(context, &real) {
            Ok(hashes) => hashes,
            Err(TableError::Stopped) => return Err(TableError::Stopped),
            Err(error) => {
                context.warn(error);
                Hashes::default()
            }
        };
        rows.row()
            .set("path", path.to_string_lossy())
            .set("directory", folder)
            .set("md5", hashes.md5)
            .set("sha1", hashes.sha1)
            .set("sha256", hashes.sha256)
            .push()
    })
}

/// The hashes that a query wants, in one pass over the file.
#[derive(Default)]
struct Hashes {
    md5: Option<String>,
    sha1: Option<String>,
    sha256: Option<String>,
}

impl Hashes {
    fn of(context: &Context<'_>, path: &Path) -> Result<Self, TableError> {
        let unreadable = |error| TableError::unreadable(path, error);
        let mut file = open_without_waiting(path).map_err(unreadable)?;
        let mut md5 = context.wants("md5").then(Md5::new);
        let mut sha1 = context
            .wants("sha1")
            .then(|| digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY));
        let mut sha256 = context
            .wants("sha256")
            .then(|| digest::Context::new(&digest::SHA256));
        if md5.is_none() && sha1.is_none() && sha256.is_none() {
            return Ok(Self::default());
        }
        let mut block = vec![0_u8; BLOCK_BYTES];
        loop {
            context.check()?;
            let length = file.read(&mut block).map_err(unreadable)?;
            if length == 0 {
                break;
            }
            let bytes = &block[..length];
            if let Some(hash) = &mut md5 {
                hash.update(bytes);
            }
            for hash in [&mut sha1, &mut sha256].into_iter().flatten() {
                hash.update(bytes);
            }
        }
        let text = |hash: digest::Context| hex(hash.finish().as_ref());
        Ok(Self {
            md5: md5.map(|hash| hex(&hash.finalize())),
            sha1: sha1.map(text),
            sha256: sha256.map(text),
        })
    }
}
