//! The file of a backup.
//!
//! A line `muster-backup 1`; a line of JSON, the [`Head`]; frames; and the SHA-256 of all that. A frame is a byte that is 1
//! for the last one, a length (4 bytes, big-endian) and that many bytes. With a passphrase each frame is sealed with
//! AES-256-GCM: the key comes from the passphrase by argon2id, the nonce is the frame's number and whether it is the last,
//! and the head is authenticated with each. The frames' content, put together, is a gzip stream of records: a kind, a
//! length (4 bytes) and that many bytes; `B` begins a part, `D` is data of it, `E` ends it, and `M`, the last one, is the
//! [`Manifest`].
//!
//! Written and read by this release and newer ones. What changes its meaning gets another number in the first line; new
//! members of the JSON texts are ignored by older releases.

mod read;
mod write;

use std::io;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

pub use read::{Reader, Record};
pub use write::Writer;

/// How the first line begins; a number follows.
const MAGIC: &str = "muster-backup ";
/// The number that is written, and the only one that is read.
const FORMAT: &str = "1";
/// The longest of the two lines at the beginning, in bytes.
const MAX_LINE_BYTES: usize = 4_096;
/// How much of the content is in a frame, in bytes.
const FRAME_BYTES: usize = 64 * 1024;
/// What sealing adds to a frame, in bytes.
const TAG_BYTES: usize = 16;
/// The most data in a record, in bytes.
const DATA_BYTES: usize = 64 * 1024;
/// The longest record of JSON that is read, in bytes.
const MAX_JSON_BYTES: usize = 16 * 1024 * 1024;
/// Memory for making a key of a passphrase, in KiB: a backup is tried out at leisure by whoever has it.
const MEMORY_KIB: u32 = 128 * 1024;
/// Passes over that memory.
const PASSES: u32 = 3;
/// The most memory that a file may ask for, in KiB.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
/// The most passes that a file may ask for.
const MAX_PASSES: u32 = 64;
/// How many random bytes of salt.
const SALT_BYTES: usize = 16;

/// A backup's file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The disk.
    #[error("{0}")]
    Io(#[source] io::Error, &'static str),
    /// It is something else.
    #[error("it is not a backup of muster-server")]
    Foreign,
    /// A later release wrote it.
    #[error(
        "it has format {0}, which this release does not read; take the release that wrote it, or a newer one"
    )]
    Newer(String),
    /// Not all of it is there, or not as it was written.
    #[error("it is damaged or cut off: {0}; take another backup")]
    Damaged(&'static str),
    /// It is sealed.
    #[error("it is sealed: name the file with its passphrase with --passphrase-file")]
    NeedsPassphrase,
    /// It does not open.
    #[error("the passphrase is not the one that it was sealed with")]
    WrongPassphrase,
}

/// What stands in front, for everybody to read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head {
    /// The release that wrote it.
    pub release: String,
    /// When, in RFC 3339.
    pub made_at: String,
    /// Of which database: `sqlite` or `postgres`.
    pub database: String,
    /// How it is sealed; not at all when this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealing>,
}

/// How a key comes from a passphrase.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sealing {
    /// `argon2id`.
    pub derivation: String,
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// In hex.
    pub salt: String,
}

/// What begins a part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartHead {
    /// `database`, `table/NAME` or `file/PATH`.
    pub name: String,
    /// A table's columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

/// What is known of a part when it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// How long it is.
    pub bytes: u64,
    /// In hex.
    pub sha256: String,
}

/// What is in a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The release that wrote it.
    pub release: String,
    /// When, in RFC 3339.
    pub made_at: String,
    /// `sqlite` or `postgres`.
    pub database: String,
    /// The migrations that had been applied.
    pub schema: Vec<AppliedMigration>,
    /// How far PostgreSQL had counted keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<KeyCounter>,
    /// Everything in it.
    pub parts: Vec<Part>,
}

/// See [`muster_store::Applied`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AppliedMigration {
    /// Whose tables it changed.
    pub crate_name: String,
    /// Its name.
    pub name: String,
    /// SHA-256 of its text.
    pub hash: String,
}

/// See [`muster_store::Counter`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyCounter {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// The last number.
    pub last: i64,
    /// Whether it has been used.
    pub is_used: bool,
}

fn io_error(attempt: &'static str) -> impl FnOnce(io::Error) -> ContainerError {
    move |source| ContainerError::Io(source, attempt)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

/// Seals or opens the frames of one file.
struct Seal {
    key: LessSafeKey,
    head: Vec<u8>,
}

impl Seal {
    fn new(sealing: &Sealing, passphrase: &str, head: &[u8]) -> Result<Self, ContainerError> {
        let damaged = || ContainerError::Damaged("it does not say how it is sealed");
        if sealing.derivation != "argon2id"
            || sealing.memory_kib > MAX_MEMORY_KIB
            || sealing.passes > MAX_PASSES
        {
            return Err(damaged());
        }
        let salt = unhex(&sealing.salt).ok_or_else(damaged)?;
        let params =
            Params::new(sealing.memory_kib, sealing.passes, 1, Some(32)).map_err(|_| damaged())?;
        let mut key = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), &salt, &mut key)
            .map_err(|_| damaged())?;
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| damaged())?;
        Ok(Self {
            key: LessSafeKey::new(key),
            head: head.to_vec(),
        })
    }

    /// Every frame has its own: the salt, and with it the key, is used for one file only.
    fn nonce(number: u64, is_last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&number.to_be_bytes());
        nonce[NONCE_LEN - 1] = u8::from(is_last);
        Nonce::assume_unique_for_key(nonce)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN};
    use muster_clock::{Randomness as _, SystemRandomness};

    use super::*;

    fn written(passphrase: Option<&str>) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let head = Head {
            release: "0.1.0".to_owned(),
            made_at: "2026-11-23T00:00:00Z".to_owned(),
            database: "sqlite".to_owned(),
            sealed: None,
        };
        let open = file.reopen().unwrap();
        let mut writer = Writer::begin(open, head, passphrase, &SystemRandomness).unwrap();
        // Longer than a frame even when it is compressed.
        let mut noise = vec![0; 3 * FRAME_BYTES];
        SystemRandomness.fill(&mut noise);
        writer.part("database", noise.as_slice()).unwrap();
        writer
            .part("file/master.key", b"hunter2".as_slice())
            .unwrap();
        let manifest = Manifest {
            release: "0.1.0".to_owned(),
            made_at: String::new(),
            database: "sqlite".to_owned(),
            schema: Vec::new(),
            counters: Vec::new(),
            parts: Vec::new(),
        };
        writer.finish(manifest).unwrap();
        std::fs::read(file.path()).unwrap()
    }

    fn read(bytes: &[u8], passphrase: Option<&str>) -> Result<Manifest, ContainerError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Reader::open(file.reopen().unwrap(), passphrase)?.verify()
    }

    /// With a checksum that fits, as somebody would have it who changes a file on purpose.
    fn resigned(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(bytes.len() - SHA256_OUTPUT_LEN);
        let digest = aws_lc_rs::digest::digest(&SHA256, &bytes);
        bytes.extend_from_slice(digest.as_ref());
        bytes
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let bytes = written(None);
        let manifest = read(&bytes, None).unwrap();
        assert_eq!(manifest.parts.len(), 2);
        assert_eq!(manifest.parts[1].bytes, 7);
        for length in [
            0,
            5,
            20,
            100,
            bytes.len() / 2,
            bytes.len() - 33,
            bytes.len() - 1,
        ] {
            assert!(read(&bytes[..length], None).is_err(), "{length}");
        }
        for at in (0..bytes.len()).step_by(997) {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            assert!(read(&changed, None).is_err(), "{at}");
        }
    }

    #[test]
    fn a_sealed_one_opens_by_its_passphrase_only_and_cannot_be_changed_by_others() {
        let bytes = written(Some("correct horse"));
        assert_eq!(read(&bytes, Some("correct horse")).unwrap().parts.len(), 2);
        assert!(matches!(
            read(&bytes, None),
            Err(ContainerError::NeedsPassphrase)
        ));
        let wrong = read(&bytes, Some("battery staple"));
        assert!(matches!(wrong, Err(ContainerError::WrongPassphrase)));
        assert!(!bytes.windows(10).any(|text| text == b"master.key"));
        let head = bytes.iter().position(|byte| *byte == b'{').unwrap() + 15;
        for at in [head, 2 * FRAME_BYTES, bytes.len() - 40] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(
                read(&resigned(changed), Some("correct horse")).is_err(),
                "{at}"
            );
        }
    }
}
