//! SQL functions that queries written for osquery rely on, beyond SQLite's own.

mod collation;
mod digest;
mod math;
mod text;

pub(crate) use digest::hex;

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

/// The result depends only on the arguments, and calling it does nothing else.
const PURE: FunctionFlags = FunctionFlags::SQLITE_UTF8
    .union(FunctionFlags::SQLITE_DETERMINISTIC)
    .union(FunctionFlags::SQLITE_INNOCUOUS);

/// Adds the functions and collations to a connection.
pub(crate) fn register(connection: &Connection) -> rusqlite::Result<()> {
    collation::register(connection)?;
    digest::register(connection)?;
    math::register(connection)?;
    text::register(connection)
}
