//! Hashes and encodings as SQL functions.

use std::fmt::Write as _;

use aws_lc_rs::digest::{self, Algorithm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::ValueRef;

use super::PURE;

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    hash(connection, "md5", |bytes| hex(&Md5::digest(bytes)))?;
    hash(connection, "sha1", |bytes| {
        with(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes)
    })?;
    hash(connection, "sha256", |bytes| with(&digest::SHA256, bytes))?;
    hash(connection, "to_base64", |bytes| STANDARD.encode(bytes))?;
    connection.create_scalar_function("from_base64", 1, PURE, |context| {
        Ok(argument(context, 0).and_then(|bytes| {
            let bytes: Vec<u8> = bytes
                .into_iter()
                .filter(|byte| !byte.is_ascii_whitespace())
                .collect();
            let decoded = STANDARD.decode(bytes).ok()?;
            Some(String::from_utf8_lossy(&decoded).into_owned())
        }))
    })
}

fn hash(connection: &Connection, name: &str, compute: fn(&[u8]) -> String) -> rusqlite::Result<()> {
    connection.create_scalar_function(name, 1, PURE, move |context| {
        Ok(argument(context, 0).map(|bytes| compute(&bytes)))
    })
}

fn with(algorithm: &'static Algorithm, bytes: &[u8]) -> String {
    hex(digest::digest(algorithm, bytes).as_ref())
}

/// Bytes in lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// An argument's bytes, numbers as their text; `None` for NULL.
fn argument(context: &Context<'_>, index: usize) -> Option<Vec<u8>> {
    match context.get_raw(index) {
        ValueRef::Null => None,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
        other => Some(crate::cursor::cell_from(other).to_wire().into_bytes()),
    }
}
