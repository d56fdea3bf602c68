//! The keys that a server gave this agent, kept on disk.
//!
//! A file of mode 0600 in the data folder, replaced as a whole, so that a crash leaves the old or the new one. Keys
//! belong to the server that gave them: with another server URL they are not used. Written and read by this program
//! only; members that a newer release added are kept when an older one writes.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// The file's name in the data folder.
const FILE: &str = "keys.json";

/// The keys of this agent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// Names this installation when the machine has no UUID of its own.
    pub instance_id: String,
    /// The server that gave the keys.
    pub server: String,
    /// osquery's node key.
    pub node_key: Option<String>,
    /// orbit's node key.
    pub orbit_node_key: Option<String>,
    unknown: Map<String, Value>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("server", &self.server)
            .field("node_key", &self.node_key.is_some())
            .field("orbit_node_key", &self.orbit_node_key.is_some())
            .finish_non_exhaustive()
    }
}

/// A file of the data folder could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} {}", path.display())]
pub struct DataFileError {
    attempt: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The agent's data folder.
#[derive(Debug, Clone)]
pub struct DataFolder {
    path: PathBuf,
}

impl DataFolder {
    /// Makes the folder (0700) when it is not there.
    pub fn open(path: &Path) -> Result<Self, DataFileError> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path);
        made.map_err(|source| DataFileError {
            attempt: "make the data folder",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Holds the folder while the value lives: two agents with one key would take it from each other again and again. None
    /// when another one holds it.
    pub fn lock(&self) -> Result<Option<fs::File>, DataFileError> {
        let path = self.file("lock");
        let opened = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        let locked = opened.and_then(|file| match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(source)) => Err(source),
        });
        locked.map_err(|source| DataFileError {
            attempt: "lock",
            path,
            source,
        })
    }

    /// Where a file of it lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file; none when it is not there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DataFileError> {
        match fs::read(self.file(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataFileError {
                attempt: "read",
                path: self.file(name),
                source,
            }),
        }
    }

    /// Replaces a file (0600) as a whole; it is on disk when this returns.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DataFileError> {
        let path = self.file(name);
        let new = self.file(&format!("{name}.new"));
        let written = (|| {
            // A leftover of a crash could have other rights; it is not reused.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(&self.path)?.sync_all()
        })();
        written.map_err(|source| DataFileError {
            attempt: "write",
            path: self.file(name),
            source,
        })
    }

    /// Reads the keys. None yet is not an error; a file that is no JSON object counts as none, since enrolling again
    /// mends it.
    pub fn load_keys(&self) -> Result<Keys, DataFileError> {
        let Some(bytes) = self.read(FILE)? else {
            return Ok(Keys::default());
        };
        let Ok(Value::Object(mut members)) = serde_json::from_slice(&bytes) else {
            tracing::warn!("the key file is damaged; enrolling again");
            return Ok(Keys::default());
        };
        let mut take = |name: &str| match members.shift_remove(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        Ok(Keys {
            instance_id: take("instance_id").unwrap_or_default(),
            server: take("server").unwrap_or_default(),
            node_key: take("node_key"),
            orbit_node_key: take("orbit_node_key"),
            unknown: members,
        })
    }

    /// Replaces the keys.
    pub fn save_keys(&self, keys: &Keys) -> Result<(), DataFileError> {
        let mut members = keys.unknown.clone();
        members.insert("instance_id".into(), keys.instance_id.clone().into());
        members.insert("server".into(), keys.server.clone().into());
        members.insert("node_key".into(), keys.node_key.clone().into());
        members.insert("orbit_node_key".into(), keys.orbit_node_key.clone().into());
        self.replace(FILE, Value::Object(members).to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_come_back_and_nobody_else_can_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(&folder.path().join("agent")).unwrap();
        assert_eq!(data.load_keys().unwrap(), Keys::default());
        let keys = Keys {
            instance_id: "i".into(),
            server: "https://a".into(),
            node_key: Some("n".into()),
            ..Keys::default()
        };
        data.save_keys(&keys).unwrap();
        data.save_keys(&keys).unwrap();
        assert_eq!(data.load_keys().unwrap(), keys);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&data.file(FILE)), 0o600);
        assert_eq!(mode(&folder.path().join("agent")), 0o700);
        assert!(!format!("{keys:?}").contains("\"n\""));
    }

    #[test]
    fn a_damaged_file_counts_as_none_and_members_of_newer_releases_stay() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        fs::write(data.file(FILE), "{\"node_key\":\"k\"").unwrap();
        assert_eq!(data.load_keys().unwrap(), Keys::default());
        fs::write(data.file(FILE), "{\"node_key\":\"k\",\"later\":[1]}").unwrap();
        let keys = data.load_keys().unwrap();
        assert_eq!(keys.node_key.as_deref(), Some("k"));
        data.save_keys(&keys).unwrap();
        assert!(
            fs::read_to_string(data.file(FILE))
                .unwrap()
                .contains("\"later\":[1]")
        );
    }
}
