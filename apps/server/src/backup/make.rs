//! Making a backup.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use muster_identity::MasterKey;
use muster_store::{Address, Database, Dialect, Schema, Snapshot};
use rustix::fs::FlockOperation;
use tokio_util::sync::CancellationToken;

use super::container::{AppliedMigration, Head, KeyCounter, Manifest, PartHead, Writer};
use super::{BackupError, FILES, database_name, io_error};
use crate::config::Settings;
use crate::schema::schema;
use crate::start::{self, Ambient};

/// How the folder is named in which a backup is being made: as the backup, with this ending.
const UNFINISHED: &str = ".unfinished";
/// What may be in it.
const CONTENT: [&str; 4] = ["backup", "database", "database-journal", "database-wal"];
/// How often its removal is tried: the database may just be making a file in it.
const REMOVALS: usize = 5;

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// What is in it.
    pub manifest: Manifest,
    /// Unfinished backups beside it that were removed: whoever made them was killed.
    pub cleared: Vec<PathBuf>,
}

/// Beside the file while it is being made; whatever is found there was left by one that was killed.
struct Unfinished {
    path: PathBuf,
    _lock: fs::File,
}

impl Unfinished {
    fn begin(target: &Path) -> Result<Self, BackupError> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(UNFINISHED);
        let path = target.with_file_name(name);
        let failed = |source| BackupError::File {
            attempt: "write beside the backup, into",
            path: path.clone(),
            source,
        };
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // In a folder such as /tmp somebody else may have been first, to read along.
                let found = fs::symlink_metadata(&path).map_err(failed)?;
                let is_ours = found.uid() == rustix::process::geteuid().as_raw();
                if !found.is_dir() || !is_ours || found.mode() & 0o077 != 0 {
                    return Err(BackupError::InTheWay { path });
                }
            }
            Err(error) => return Err(failed(error)),
        }
        let lock = fs::File::open(&path).map_err(failed)?;
        // Network file systems may not lock folders; then nothing keeps two backups of one name apart but their names.
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            == Err(rustix::io::Errno::WOULDBLOCK)
        {
            return Err(BackupError::UnderWay {
                path: target.to_owned(),
            });
        }
        for entry in fs::read_dir(&path).map_err(failed)? {
            fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
        }
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        for _ in 0..REMOVALS {
            match fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                _ => return,
            }
        }
    }
}

/// Removes what backups left in a folder that were killed: each holds a copy of the database that nothing seals. Those that
/// are surely nobody's now; what cannot be looked at or removed is left where it is.
fn clear_abandoned(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let ours = paths.filter(|path| path.to_string_lossy().ends_with(UNFINISHED));
    ours.filter(|path| matches!(remove_abandoned(path), Ok(true)))
        .collect()
}

/// Gives false when it is no unfinished backup, or one that is under way.
fn remove_abandoned(path: &Path) -> io::Result<bool> {
    let same = |one: &fs::Metadata, other: &fs::Metadata| {
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    };
    let found = fs::symlink_metadata(path)?;
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_dir() || !is_ours || found.mode() & 0o077 != 0 {
        return Ok(false);
    }
    let lock = fs::File::open(path)?;
    // Where folders cannot be locked, nobody knows.
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    // Its name may be another's by now.
    let held = lock.metadata()?;
    if !same(&held, &found) || !same(&held, &fs::symlink_metadata(path)?) {
        return Ok(false);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !CONTENT.iter().any(|known| entry.file_name() == *known) {
            return Ok(false);
        }
        files.push(entry.path());
    }
    // An empty one may be of a backup that begins: it takes the lock after it made the folder.
    if files.is_empty() {
        return Ok(false);
    }
    for file in files {
        fs::remove_file(file)?;
    }
    fs::remove_dir(path)?;
    Ok(true)
}

/// Ends where it is when the backup is stopped.
struct Stoppable<'a, R>(R, &'a CancellationToken);

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.is_cancelled() {
            return Err(io::Error::other("stopped"));
        }
        self.0.read(buffer)
    }
}

/// Writes everything that the server of this configuration keeps into one file, while it serves. The file appears when it
/// is whole, or not at all; when `stop` is cancelled, nothing is left of it.
pub async fn make(
    settings: &Settings,
    target: &Path,
    passphrase: Option<&str>,
    ambient: &Ambient,
    stop: &CancellationToken,
) -> Result<Made, BackupError> {
    start::refuse_unfinished(&settings.data_dir)?;
    let target = &std::path::absolute(target).map_err(io_error("name the backup", target))?;
    if target.exists() {
        return Err(BackupError::Exists {
            path: target.clone(),
        });
    }
    if let Address::Sqlite(path) = &settings.database
        && !path.exists()
    {
        let path = path.clone();
        return Err(match start::used_elsewhere(settings) {
            Some(_) => BackupError::OtherPlace { path },
            None => BackupError::NoDatabase { path },
        });
    }
    let key_path = settings.data_dir.join("master.key");
    let key = MasterKey::load(&key_path).map_err(BackupError::MasterKey)?;
    let key = key.ok_or(BackupError::NoMasterKey { path: key_path })?;
    let database = start::open_database(settings).await?;
    let made = async {
        let applied = Schema::applied(&database).await?;
        if applied.is_empty() {
            return Err(BackupError::Empty);
        }
        if key.belongs_to(&database).await? == Some(false) {
            return Err(BackupError::MasterKey(
                muster_identity::MasterKeyError::Foreign,
            ));
        }
        let made_at = ambient.clock.now().to_string();
        let manifest = Manifest {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            made_at,
            database: database_name(database.dialect()).to_owned(),
            schema: applied
                .into_iter()
                .map(|done| AppliedMigration {
                    crate_name: done.crate_name,
                    name: done.name,
                    hash: done.hash,
                })
                .collect(),
            counters: Vec::new(),
            parts: Vec::new(),
        };
        let goal = Goal {
            target,
            passphrase,
            stop,
        };
        write(settings, &database, goal, manifest, ambient).await
    };
    let made = tokio::select! {
        made = made => made,
        () = stop.cancelled() => Err(BackupError::Stopped),
    };
    if stop.is_cancelled() && made.is_err() {
        // Without waiting for a statement that is under way.
        return Err(BackupError::Stopped);
    }
    database.close().await;
    made
}

/// Where to write, and how.
#[derive(Clone, Copy)]
struct Goal<'a> {
    target: &'a Path,
    passphrase: Option<&'a str>,
    stop: &'a CancellationToken,
}

async fn write(
    settings: &Settings,
    database: &Database,
    goal: Goal<'_>,
    mut manifest: Manifest,
    ambient: &Ambient,
) -> Result<Made, BackupError> {
    let Goal {
        target,
        passphrase,
        stop,
    } = goal;
    let unfinished = Unfinished::begin(target)?;
    let cleared = target.parent().map(clear_abandoned).unwrap_or_default();
    let path = unfinished.path.join("backup");
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("write", &path))?;
    let head = Head {
        release: manifest.release.clone(),
        made_at: manifest.made_at.clone(),
        database: manifest.database.clone(),
        sealed: None,
    };
    let container = |source| BackupError::Container {
        path: target.to_owned(),
        source,
    };
    let mut writer =
        Writer::begin(file, head, passphrase, &*ambient.randomness).map_err(container)?;
    match database.dialect() {
        Dialect::Sqlite => {
            let copy = unfinished.path.join("database");
            database.copy_into(&copy).await?;
            let content = fs::File::open(&copy).map_err(io_error("read", &copy))?;
            writer
                .part("database", Stoppable(content, stop))
                .map_err(container)?;
            fs::remove_file(&copy).map_err(io_error("remove", &copy))?;
        }
        Dialect::Postgres => {
            let mut prefixes = schema().prefixes();
            // Of a newer release too, which may have further crates.
            for done in &manifest.schema {
                let prefix = format!("{}_", done.crate_name);
                if !prefixes.contains(&prefix) {
                    prefixes.push(prefix);
                }
            }
            let patience = settings.database_timeout;
            let mut snapshot = Snapshot::begin(&settings.database, &prefixes, patience).await?;
            for table in snapshot.tables().to_vec() {
                writer
                    .begin_part(&PartHead {
                        name: format!("table/{}", table.name),
                        columns: table.columns.clone(),
                    })
                    .map_err(container)?;
                let mut rows = snapshot.rows(&table).await?;
                while let Some(piece) = rows.next().await? {
                    writer.data(&piece).map_err(container)?;
                }
                drop(rows);
                writer.end_part().map_err(container)?;
            }
            let counters = snapshot.counters().await?;
            snapshot.end().await;
            manifest.counters = counters
                .into_iter()
                .map(|counter| KeyCounter {
                    table: counter.table,
                    column: counter.column,
                    last: counter.last,
                    is_used: counter.is_used,
                })
                .collect();
        }
    }
    for (name, _) in FILES {
        let path = settings.data_dir.join(name);
        match fs::File::open(&path) {
            Ok(content) => writer
                .part(&format!("file/{name}"), content)
                .map_err(container)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("read", &path)(source)),
        }
    }
    let manifest = writer.finish(manifest).map_err(container)?;
    // A file that somebody made meanwhile is not replaced.
    if target.exists() {
        return Err(BackupError::Exists {
            path: target.to_owned(),
        });
    }
    fs::rename(&path, target).map_err(io_error("name the backup", target))?;
    super::sync_folder(target)?;
    Ok(Made { manifest, cleared })
}
