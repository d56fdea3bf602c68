//! Backups: everything that a server keeps, in one file, and back.
//!
//! A backup has the database as it is at one moment, while servers go on writing, and from the data folder what cannot be
//! made again: the master key, the certificate authority and the address that was given to people. What hosts log and the
//! configuration are not in it.
//!
//! PostgreSQL is read by our own driver in one snapshot rather than by `pg_dump`: that program has to be at least as new
//! as the server and is missing on most machines and in containers, and a backup must not depend on what happens to be
//! installed on the day of a restore.

pub mod container;
mod make;
mod restore;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use muster_store::{Dialect, MigrationError, StoreError};

pub use container::ContainerError;
pub use make::{Made, make};
pub use restore::{Restored, check, restore};

use crate::start::StartError;

/// What of the data folder is kept, and with which mode it is put back.
pub const FILES: [(&str, u32); 6] = [
    ("master.key", 0o600),
    ("tls/ca.pem", 0o644),
    ("tls/ca.key", 0o600),
    ("tls/server.pem", 0o644),
    ("tls/server.key", 0o600),
    ("address", 0o600),
];

/// In a data folder into which a restore has not been finished.
pub const UNFINISHED: &str = "restore-unfinished";

/// A backup could not be made or put back. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or folder.
    #[error("{attempt} {}", path.display())]
    File {
        /// What was being done.
        attempt: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is a file of this name.
    #[error("{} is there already; choose another name, a backup replaces nothing", path.display())]
    Exists {
        /// Which one.
        path: PathBuf,
    },
    /// Somebody else writes it.
    #[error("another backup to {} is under way", path.display())]
    UnderWay {
        /// Which one.
        path: PathBuf,
    },
    /// What is there under the name for unfinished work is not ours alone.
    #[error("{} is in the way, and others can get at it; remove it, or choose another name", path.display())]
    InTheWay {
        /// What.
        path: PathBuf,
    },
    /// It was told to end.
    #[error("told to stop; nothing is left of this backup")]
    Stopped,
    /// There is no database.
    #[error("there is no database {}; name the server's data folder with --data-dir", path.display())]
    NoDatabase {
        /// Where.
        path: PathBuf,
    },
    /// There is no database where the configuration looks for it, though a server used the data folder.
    #[error("there is no database {}; {}", path.display(), crate::start::NAME_THE_DATABASE)]
    OtherPlace {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// No server has used the database.
    #[error("no server has used this database yet: there is nothing to keep")]
    Empty,
    /// Without it the secrets in the database cannot be opened.
    #[error(
        "there is no {}, without which the secrets in the database cannot be opened; name the server's data folder with \
         --data-dir",
        path.display()
    )]
    NoMasterKey {
        /// Where.
        path: PathBuf,
    },
    /// It cannot be used.
    #[error("use the master key")]
    MasterKey(#[source] muster_identity::MasterKeyError),
    /// The backup's file.
    #[error("use the backup {}", path.display())]
    Container {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: ContainerError,
    },
    /// The wrong kind of database.
    #[error(
        "the backup holds a {held} database, and {configured} is configured; name one of its kind with --database"
    )]
    OtherDatabase {
        /// What the backup holds.
        held: &'static str,
        /// What there is.
        configured: &'static str,
    },
    /// A newer release made it.
    #[error(
        "the backup was made by release {release}; take that release or a newer one to put it back"
    )]
    Newer {
        /// Which one.
        release: String,
        /// Why it cannot be done.
        #[source]
        source: MigrationError,
    },
    /// There is something already.
    #[error(
        "there is {found} already; put the backup into an empty place, or say --replace (files are put aside, tables of \
         PostgreSQL are lost: make a backup first)"
    )]
    NotEmpty {
        /// What there is.
        found: String,
    },
    /// Servers use the database.
    #[error("{others} others are connected to the database; stop all servers first")]
    InUse {
        /// How many.
        others: i64,
    },
    /// A part that this release does not know.
    #[error(
        "the backup has a part {name} that this release does not know; take the release that made it, or a newer one"
    )]
    UnknownPart {
        /// Which one.
        name: String,
    },
    /// The database.
    #[error("copy the database")]
    Store(#[from] StoreError),
    /// The data folder or the database cannot be opened.
    #[error(transparent)]
    Start(#[from] StartError),
}

fn database_name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "sqlite",
        Dialect::Postgres => "postgres",
    }
}

fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File {
        attempt,
        path,
        source,
    }
}

/// Has the disk keep that a file got or lost its name.
fn sync_folder(path: &Path) -> Result<(), BackupError> {
    let folder = path.parent().unwrap_or(path);
    match fs::File::open(folder).and_then(|folder| folder.sync_all()) {
        // Network file systems know no such thing: they keep names as they do.
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
            Err(io_error("write the folder", folder)(error))
        }
        _ => Ok(()),
    }
}
