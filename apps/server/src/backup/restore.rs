//! Putting a backup back.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use muster_clock::Timestamp;
use muster_store::{Address, Applied, Counter, Database, Dialect, Filling, Table};

use super::container::{AppliedMigration, Manifest, Reader, Record};
use super::{BackupError, FILES, UNFINISHED, database_name, io_error};
use crate::config::Settings;
use crate::folder::Owner;
use crate::schema::schema;
use crate::start::{self, Ambient, DataFolder};

/// What was put back.
#[derive(Debug)]
pub struct Restored {
    /// What the backup said of itself.
    pub manifest: Manifest,
    /// Where the files are that were there before.
    pub aside: Option<PathBuf>,
}

/// Reads a backup to its end and gives what is in it. Changes nothing.
pub fn check(path: &Path, passphrase: Option<&str>) -> Result<Manifest, BackupError> {
    open(path, passphrase)?
        .verify()
        .map_err(|source| BackupError::Container {
            path: path.to_owned(),
            source,
        })
}

fn open(path: &Path, passphrase: Option<&str>) -> Result<Reader, BackupError> {
    let file = fs::File::open(path).map_err(io_error("read", path))?;
    Reader::open(file, passphrase).map_err(|source| BackupError::Container {
        path: path.to_owned(),
        source,
    })
}

fn applied(schema: &[AppliedMigration]) -> Vec<Applied> {
    let copy = |done: &AppliedMigration| Applied {
        crate_name: done.crate_name.clone(),
        name: done.name.clone(),
        hash: done.hash.clone(),
    };
    schema.iter().map(copy).collect()
}

/// Puts a backup into the data folder and the database of this configuration. With `replace` what is there is replaced:
/// files are put aside, tables of PostgreSQL are dropped.
pub async fn restore(
    settings: &Settings,
    path: &Path,
    passphrase: Option<&str>,
    replace: bool,
    ambient: &Ambient,
) -> Result<Restored, BackupError> {
    // All of it, before anything is touched.
    let manifest = check(path, passphrase)?;
    let dialect = match settings.database {
        Address::Sqlite(_) => Dialect::Sqlite,
        Address::Postgres(_) => Dialect::Postgres,
    };
    if manifest.database != database_name(dialect) {
        return Err(BackupError::OtherDatabase {
            held: if manifest.database == database_name(Dialect::Sqlite) {
                Dialect::Sqlite.name()
            } else {
                Dialect::Postgres.name()
            },
            configured: dialect.name(),
        });
    }
    let newer = |source| BackupError::Newer {
        release: manifest.release.clone(),
        source,
    };
    schema()
        .knows(&applied(&manifest.schema), dialect)
        .map_err(newer)?;
    let folder = DataFolder::open(&settings.data_dir)?;
    let present = present(settings)?;
    if !present.is_empty() && !replace {
        return Err(BackupError::NotEmpty {
            found: present[0].display().to_string(),
        });
    }
    let reader = open(path, passphrase)?;
    // Before the first byte: a server that starts on an empty folder makes everything anew.
    let mark = Mark::set(&settings.data_dir, folder.owner)?;
    let aside;
    match &settings.database {
        Address::Sqlite(database) => {
            let mut target = FileTarget::new(database, folder.owner);
            let files = match target.stage(reader, settings, path) {
                Ok(files) => files,
                Err(error) => {
                    drop(target);
                    mark.take_back();
                    return Err(error);
                }
            };
            aside = put_aside(settings, &present, ambient.clock.now(), folder.owner)?;
            target.place()?;
            files.place()?;
            mark.clear()?;
        }
        Address::Postgres(_) => {
            let database = match start::open_database(settings).await {
                Ok(database) => database,
                Err(error) => {
                    mark.take_back();
                    return Err(error.into());
                }
            };
            let source = Source {
                reader,
                path,
                manifest: &manifest,
            };
            let filled = fill(&database, source, settings, replace, folder.owner).await;
            let placed = match filled {
                Ok((filling, files)) => {
                    aside = put_aside(settings, &present, ambient.clock.now(), folder.owner)?;
                    files.place()?;
                    // Last: when this fails, the folder is marked and no server starts on it.
                    match filling.commit().await {
                        Ok(()) => mark.clear(),
                        Err(error) => Err(error.into()),
                    }
                }
                Err(error) => {
                    aside = None;
                    mark.take_back();
                    Err(error)
                }
            };
            database.close().await;
            placed?;
        }
    }
    Ok(Restored { manifest, aside })
}

/// What is there that a restore would replace.
fn present(settings: &Settings) -> Result<Vec<PathBuf>, BackupError> {
    let mut paths: Vec<PathBuf> = FILES
        .iter()
        .map(|(name, _)| settings.data_dir.join(name))
        .collect();
    if let Address::Sqlite(path) = &settings.database {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            paths.insert(0, name.into());
        }
    }
    let mut found = Vec::new();
    for path in paths {
        match fs::symlink_metadata(&path) {
            Ok(_) => found.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("look at", &path)(source)),
        }
    }
    Ok(found)
}

/// Moves files away, each within its own folder so that no bytes are copied.
fn put_aside(
    settings: &Settings,
    present: &[PathBuf],
    now: Timestamp,
    owner: Owner,
) -> Result<Option<PathBuf>, BackupError> {
    if present.is_empty() {
        return Ok(None);
    }
    let name = format!("before-restore-{}", now.as_seconds());
    let folder = settings.data_dir.join(&name);
    let make_folder = |path: &Path| {
        let made = owner.make_folder(path);
        made.map_err(io_error("make the folder", path))
    };
    make_folder(&folder)?;
    for path in present {
        let inside = path.strip_prefix(&settings.data_dir).ok();
        let to = if let Some(inside) = inside {
            folder.join(inside)
        } else {
            // A database that is elsewhere stays beside where it was: on its own disk.
            let mut beside = path.as_os_str().to_owned();
            beside.push(format!(".{name}"));
            beside.into()
        };
        if let Some(parent) = to.parent() {
            make_folder(parent)?;
        }
        fs::rename(path, &to).map_err(io_error("put aside", path))?;
    }
    Ok(Some(folder))
}

/// Says that a restore has begun and not ended; a server does not start on such a folder.
struct Mark {
    path: PathBuf,
    /// Whether an earlier restore had left it.
    was_there: bool,
}

impl Mark {
    fn set(data_dir: &Path, owner: Owner) -> Result<Self, BackupError> {
        let path = data_dir.join(UNFINISHED);
        let made = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let was_there = match made {
            Ok(file) => {
                let kept = owner.give(&file).and_then(|()| file.sync_all());
                kept.map_err(io_error("write", &path))?;
                false
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
            Err(source) => return Err(io_error("write", &path)(source)),
        };
        super::sync_folder(&path)?;
        Ok(Self { path, was_there })
    }

    fn clear(self) -> Result<(), BackupError> {
        super::sync_folder(&self.path)?;
        fs::remove_file(&self.path).map_err(io_error("remove", &self.path))
    }

    /// When nothing was put in place: all is as it was found.
    fn take_back(self) {
        if !self.was_there {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Files under their own names with an ending, until they are placed.
struct Staged {
    files: Vec<(PathBuf, PathBuf)>,
    owner: Owner,
}

impl Staged {
    fn new(owner: Owner) -> Self {
        let files = Vec::new();
        Self { files, owner }
    }

    fn create(&mut self, target: &Path, mode: u32) -> Result<fs::File, BackupError> {
        if let Some(parent) = target.parent() {
            let made = self.owner.make_folder(parent);
            made.map_err(io_error("make the folder", parent))?;
        }
        let mut new = target.as_os_str().to_owned();
        new.push(".restoring");
        let new = PathBuf::from(new);
        let _ = fs::remove_file(&new);
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)
            .map_err(io_error("write", &new))?;
        self.files.push((new.clone(), target.to_owned()));
        self.owner.give(&file).map_err(io_error("write", &new))?;
        Ok(file)
    }

    fn place(mut self) -> Result<(), BackupError> {
        for (new, target) in std::mem::take(&mut self.files) {
            fs::rename(&new, &target).map_err(io_error("write", &target))?;
            super::sync_folder(&target)?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for (new, _) in &self.files {
            let _ = fs::remove_file(new);
        }
    }
}

/// Where a part's bytes go.
fn file_of(name: &str, settings: &Settings) -> Option<(PathBuf, u32)> {
    let name = name.strip_prefix("file/")?;
    // Only what is known: a name could lead anywhere.
    let (name, mode) = FILES.iter().find(|(known, _)| *known == name)?;
    Some((settings.data_dir.join(name), *mode))
}

fn unknown(name: &str) -> BackupError {
    BackupError::UnknownPart {
        name: name.to_owned(),
    }
}

/// An embedded database that is put back.
struct FileTarget {
    database: PathBuf,
    staged: Staged,
}

impl FileTarget {
    fn new(database: &Path, owner: Owner) -> Self {
        Self {
            database: database.to_owned(),
            staged: Staged::new(owner),
        }
    }

    /// Writes everything beside its place; gives the files of the data folder.
    fn stage(
        &mut self,
        mut reader: Reader,
        settings: &Settings,
        from: &Path,
    ) -> Result<Staged, BackupError> {
        let mut files = Staged::new(self.staged.owner);
        let mut open: Option<(fs::File, PathBuf)> = None;
        loop {
            let record = reader.record().map_err(|source| BackupError::Container {
                path: from.to_owned(),
                source,
            })?;
            match record {
                Record::Begin(head) if head.name == "database" => {
                    let file = self.staged.create(&self.database, 0o600)?;
                    open = Some((file, self.database.clone()));
                }
                Record::Begin(head) => {
                    let (path, mode) =
                        file_of(&head.name, settings).ok_or_else(|| unknown(&head.name))?;
                    open = Some((files.create(&path, mode)?, path));
                }
                Record::Data(bytes) => {
                    if let Some((file, path)) = &mut open {
                        file.write_all(&bytes).map_err(io_error("write", path))?;
                    }
                }
                Record::End => {
                    if let Some((file, path)) = open.take() {
                        file.sync_all().map_err(io_error("write", &path))?;
                    }
                }
                Record::Over(_) => return Ok(files),
            }
        }
    }

    fn place(self) -> Result<(), BackupError> {
        self.staged.place()
    }
}

/// A backup that is being read.
struct Source<'a> {
    reader: Reader,
    path: &'a Path,
    manifest: &'a Manifest,
}

async fn fill(
    database: &Database,
    source: Source<'_>,
    settings: &Settings,
    replace: bool,
    owner: Owner,
) -> Result<(Filling, Staged), BackupError> {
    let Source {
        mut reader,
        path: from,
        manifest,
    } = source;
    let prefixes = schema().prefixes();
    let mut filling = Filling::begin(database).await?;
    let existing = filling.tables(&prefixes).await?;
    if let Some(first) = existing.first() {
        if !replace {
            return Err(BackupError::NotEmpty {
                found: format!("the table {first} in {}", settings.database),
            });
        }
        let others = filling.others().await?;
        if others > 0 {
            return Err(BackupError::InUse { others });
        }
        filling.drop_tables(&existing).await?;
    }
    let schema = schema();
    let newer = |source| BackupError::Newer {
        release: manifest.release.clone(),
        source,
    };
    schema
        .make(&mut filling, &applied(&manifest.schema))
        .await
        .map_err(newer)?;
    // Migrations put in rows of their own.
    let made = filling.tables(&prefixes).await?;
    filling.empty(&made).await?;
    let mut files = Staged::new(owner);
    let failed = |source| BackupError::Container {
        path: from.to_owned(),
        source,
    };
    loop {
        match reader.record().map_err(failed)? {
            Record::Begin(head) => {
                if let Some(name) = head.name.strip_prefix("table/") {
                    if !made.iter().any(|known| known == name) {
                        return Err(unknown(&head.name));
                    }
                    let table = Table {
                        name: name.to_owned(),
                        columns: head.columns,
                    };
                    let mut fill = filling.fill(&table).await?;
                    while let Record::Data(piece) = reader.record().map_err(failed)? {
                        fill.write(&piece).await?;
                    }
                    fill.finish().await?;
                } else {
                    let (path, mode) =
                        file_of(&head.name, settings).ok_or_else(|| unknown(&head.name))?;
                    let mut file = files.create(&path, mode)?;
                    while let Record::Data(bytes) = reader.record().map_err(failed)? {
                        file.write_all(&bytes).map_err(io_error("write", &path))?;
                    }
                    file.sync_all().map_err(io_error("write", &path))?;
                }
            }
            Record::Data(_) | Record::End => {}
            Record::Over(manifest) => {
                for counter in manifest.counters {
                    let counter = Counter {
                        table: counter.table,
                        column: counter.column,
                        last: counter.last,
                        is_used: counter.is_used,
                    };
                    filling.count_on(&counter).await?;
                }
                return Ok((filling, files));
            }
        }
    }
}
