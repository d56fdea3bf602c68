//! The server's master key, which seals the few secrets that must be shown again.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use muster_clock::Randomness;
use muster_store::{Database, StoreError};

/// The key's length in bytes.
const KEY_BYTES: usize = 32;
/// How sealed texts begin; another number will mean another key or algorithm.
const FORMAT: u8 = 1;

/// Seals and opens secrets with AES-256-GCM. A sealed secret is bound to a context, so that one that was moved to
/// another row does not open.
pub struct MasterKey {
    sealing: LessSafeKey,
    deriving: hmac::Key,
}

/// The master key cannot be used, or something does not open with it.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file could not be read or written.
    #[error("{attempt} the master key file {}", path.display())]
    File {
        /// What was being done.
        attempt: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others can read the file.
    #[error("others can read the master key file {}; take that right away: chmod 600", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
    },
    /// The file does not hold a key.
    #[error("the master key file {} does not hold a key of {KEY_BYTES} bytes in hex", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
    /// The database belongs to another key.
    #[error(
        "the secrets in this database were sealed with another master key; all servers of one database need the same \
         master.key in their data folders: copy it from the first server, or from the backup that the database came from"
    )]
    Foreign,
    /// The sealed text was not sealed with this key for this context.
    #[error("a sealed secret does not open: it was sealed with another master key, or damaged")]
    Unsealable,
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

impl MasterKey {
    /// A key from its bytes.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256 takes keys of 32 bytes");
        Self {
            sealing: LessSafeKey::new(key),
            deriving: hmac::Key::new(hmac::HMAC_SHA256, bytes),
        }
    }

    /// A secret for one purpose that only those can compute who have the key, and always the same.
    pub(crate) fn derive(&self, purpose: &str) -> [u8; KEY_BYTES] {
        let tag = hmac::sign(&self.deriving, purpose.as_bytes());
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// Reads the key from its file; makes both when there is none. Refuses a file that others can read.
    pub fn load_or_create(
        path: &Path,
        randomness: &dyn Randomness,
    ) -> Result<Self, MasterKeyError> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let mut bytes = [0; KEY_BYTES];
        randomness.fill(&mut bytes);
        let made = create(path, &bytes).map_err(|source| MasterKeyError::File {
            attempt: "make",
            path: path.to_owned(),
            source,
        })?;
        if made {
            Ok(Self::from_bytes(&bytes))
        } else {
            Self::load_or_create(path, randomness)
        }
    }

    /// Reads the key from its file; none when there is no file. Refuses a file that others can read.
    pub fn load(path: &Path) -> Result<Option<Self>, MasterKeyError> {
        let file_error = |attempt| {
            move |source| MasterKeyError::File {
                attempt,
                path: path.to_owned(),
                source,
            }
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(file_error("read")(source)),
        };
        let mode = fs::metadata(path)
            .map_err(file_error("look at"))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(MasterKeyError::Exposed {
                path: path.to_owned(),
            });
        }
        let bytes = decode(text.trim());
        let bytes = bytes.ok_or_else(|| MasterKeyError::Malformed {
            path: path.to_owned(),
        })?;
        Ok(Some(Self::from_bytes(&bytes)))
    }

    /// Whether this key sealed what a migrated database holds; none when no server has used the database yet. Changes
    /// nothing.
    pub async fn belongs_to(&self, database: &Database) -> Result<Option<bool>, StoreError> {
        let mut db = database;
        let kept = crate::store::master_key::find(&mut db).await?;
        Ok(kept.map(|kept| kept == self.fingerprint()))
    }

    /// What tells this key from others.
    pub(crate) fn fingerprint(&self) -> [u8; KEY_BYTES] {
        self.derive("fingerprint")
    }

    /// Seals a secret for a context such as `enrollment_token/7`.
    pub fn seal(&self, secret: &str, context: &str, randomness: &dyn Randomness) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        randomness.fill(&mut nonce);
        let mut sealed = secret.as_bytes().to_vec();
        self.sealing
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context),
                &mut sealed,
            )
            .expect("a secret is far shorter than what AES-GCM can seal");
        let mut text = vec![FORMAT];
        text.extend_from_slice(&nonce);
        text.append(&mut sealed);
        text
    }

    /// Opens what was sealed for the same context.
    pub fn open(&self, sealed: &[u8], context: &str) -> Result<String, MasterKeyError> {
        let (format, rest) = sealed.split_first().ok_or(MasterKeyError::Unsealable)?;
        let (nonce, text) = rest
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(MasterKeyError::Unsealable)?;
        if *format != FORMAT {
            return Err(MasterKeyError::Unsealable);
        }
        let mut text = text.to_vec();
        let opened = self
            .sealing
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(context),
                &mut text,
            )
            .map_err(|_| MasterKeyError::Unsealable)?;
        String::from_utf8(opened.to_vec()).map_err(|_| MasterKeyError::Unsealable)
    }
}

/// Makes the file whole or not at all, even when the power goes. False when somebody else was first.
fn create(path: &Path, bytes: &[u8; KEY_BYTES]) -> io::Result<bool> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let text = bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    // Unlike a rename, a link does not replace a key that another process has made meanwhile.
    let linked = fs::hard_link(&new, path);
    fs::remove_file(&new)?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn decode(hex: &str) -> Option<[u8; KEY_BYTES]> {
    if hex.len() != 2 * KEY_BYTES || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0; KEY_BYTES];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use muster_clock::SystemRandomness;

    use super::*;

    #[test]
    fn what_was_sealed_opens_only_for_its_context_and_with_its_key() {
        let key = MasterKey::from_bytes(&[7; 32]);
        let sealed = key.seal("hunter2", "enrollment_token/7", &SystemRandomness);
        assert_eq!(key.open(&sealed, "enrollment_token/7").unwrap(), "hunter2");
        assert!(key.open(&sealed, "enrollment_token/8").is_err());
        assert!(
            MasterKey::from_bytes(&[8; 32])
                .open(&sealed, "enrollment_token/7")
                .is_err()
        );
        for cut in 0..sealed.len() {
            assert!(key.open(&sealed[..cut], "enrollment_token/7").is_err());
        }
        assert_ne!(
            sealed,
            key.seal("hunter2", "enrollment_token/7", &SystemRandomness)
        );
    }

    #[test]
    fn the_file_is_made_once_and_must_be_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let sealed = MasterKey::load_or_create(&path, &SystemRandomness)
            .unwrap()
            .seal("s", "c", &SystemRandomness);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let again = MasterKey::load_or_create(&path, &SystemRandomness).unwrap();
        assert_eq!(again.open(&sealed, "c").unwrap(), "s");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = MasterKey::load_or_create(&path, &SystemRandomness).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(matches!(
            MasterKey::load_or_create(&path, &SystemRandomness),
            Err(MasterKeyError::Malformed { .. })
        ));
    }
}
