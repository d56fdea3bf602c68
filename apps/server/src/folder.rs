//! The data folder: whose it is, and that one process uses it at a time.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

use crate::start::StartError;

/// In the data folder: held while a process uses it, with that process's number.
pub(crate) const LOCK: &str = "lock";

/// Makes the data folder, for its owner only, when it is not there.
pub fn make_folder(path: &Path) -> Result<(), StartError> {
    private_folder(path).map_err(|source| StartError::Folder {
        attempt: "make the data folder",
        path: path.to_owned(),
        source,
    })
}

fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Whom the data folder belongs to. What root writes there it gives to that user: else the server could not use it.
///
/// Only what is open is given away, never a name: whoever owns the folder could let a name lead elsewhere meanwhile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner(Option<(u32, u32)>);

impl Owner {
    fn of(data_dir: &Path) -> io::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let found = fs::metadata(data_dir)?;
        Ok(Self(Some((found.uid(), found.gid()))))
    }

    /// Gives a file or folder away that this process made.
    pub(crate) fn give(self, file: &fs::File) -> io::Result<()> {
        match self.0 {
            Some((user, group)) => fchown(file, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    /// Makes a folder for the owner only, when it is not there.
    pub(crate) fn make_folder(self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        private_folder(path)?;
        let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY;
        let made = fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits() as i32)
            .open(path)?;
        self.give(&made)
    }
}

/// The data folder, held by a lock while the value lives.
pub struct DataFolder {
    pub(crate) path: PathBuf,
    pub(crate) owner: Owner,
    _lock: fs::File,
}

impl DataFolder {
    /// Makes the folder (0700) when it is not there, and takes its lock.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        make_folder(path)?;
        let lock_error = |source| StartError::Folder {
            attempt: "lock the data folder",
            path: path.to_owned(),
            source,
        };
        let owner = Owner::of(path).map_err(lock_error)?;
        let mut lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(path.join(LOCK))
            .map_err(lock_error)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StartError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(errno) => return Err(lock_error(errno.into())),
        }
        let found = lock.metadata().map_err(lock_error)?;
        if found.is_file() && found.nlink() == 1 {
            owner.give(&lock).map_err(lock_error)?;
        }
        // For whoever looks who holds it. What a full disk or another owner does not allow, is done without.
        let _ = lock.set_permissions(fs::Permissions::from_mode(0o600));
        let _ = lock.set_len(0);
        let _ = writeln!(lock, "{}", std::process::id());
        Ok(Self {
            path: path.to_owned(),
            owner,
            _lock: lock,
        })
    }
}

/// Refuses a folder into which a restore has not been finished: what is in it is not whole, and what is missing would be
/// made anew.
pub fn refuse_unfinished(data_dir: &Path) -> Result<(), StartError> {
    if data_dir.join(crate::backup::UNFINISHED).exists() {
        return Err(StartError::Unfinished {
            path: data_dir.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_is_used_by_one_server_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataFolder::open(&path).unwrap();
        assert!(matches!(
            DataFolder::open(&path),
            Err(StartError::InUse { .. })
        ));
        drop(first);
        assert!(DataFolder::open(&path).is_ok());
        let lock = fs::metadata(path.join(LOCK)).unwrap();
        assert_eq!(lock.mode() & 0o777, 0o600);
    }
}
