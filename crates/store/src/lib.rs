//! One SQL text on SQLite and PostgreSQL: pools, transactions, migrations.
//!
//! A [`Database`] is opened from an address and hides which of the two it is. Domain crates keep their SQL in their
//! `store` module, written once: parameters are `$1`, `$2`, …; times are `BIGINT` microseconds, flags `BIGINT` 0 or 1,
//! JSON is `TEXT`; `ON CONFLICT` and `RETURNING` work on both. Where the databases do differ, a migration carries a
//! second text and a query asks [`Database::dialect`].
//!
//! On SQLite there is one writing connection, so that writers queue in the program rather than fight for the file's
//! lock, and several reading ones. A [`Transaction`] takes the write lock when it begins: it can then never fail half
//! way because somebody else wrote.
//!
//! Errors say whether the database is *unavailable* (locked, gone, full, slow), which must never look like a refusal to
//! a peer, or whether a rule of the schema was violated, or whether the program is wrong.
//!
//! Not responsible for: what is stored. No domain's table is named here.

mod address;
mod channel;
mod copying;
mod database;
mod error;
mod folding;
mod group;
mod migrate;
mod row;
mod run;
#[cfg(feature = "testing")]
pub mod testing;
mod timing;
mod value;

pub use address::{Address, AddressError};
pub use channel::{Channel, Notifications};
pub use copying::{Counter, Fill, Filling, Rows, Snapshot, Table};
pub use database::{Database, Executor, Options, Transaction};
pub use error::{ErrorKind, StoreError};
pub use folding::{folded, folded_column};
pub use group::{Group, Together, keep};
pub use migrate::{Applied, Migration, MigrationError, PlannedMigration, Schema};
pub use row::{FromColumn, Row};
pub use value::Value;

/// Which of the two databases this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The embedded one.
    Sqlite,
    /// The one on a server.
    Postgres,
}

impl Dialect {
    /// The name that users know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// The parameters of a statement, in the order of `$1`, `$2`, …
///
/// ```
/// let name = String::from("laptop");
/// let parameters = muster_store::args![7_i64, name, None::<i64>, true];
/// assert_eq!(parameters.len(), 4);
/// ```
#[macro_export]
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::Value::from($value)),*] };
}

/// Declares the SQL texts of a store as constants, and `ALL` with every one of them, so that a test can have both
/// databases prepare each.
///
/// ```
/// muster_store::statements! {
///     /// One by id.
///     FIND = "SELECT name FROM pets_pets WHERE id = $1";
///     /// All of them.
///     LIST = "SELECT id, name FROM pets_pets ORDER BY id";
/// }
/// assert_eq!(ALL.len(), 2);
/// ```
#[macro_export]
macro_rules! statements {
    ($($(#[$meta:meta])* $name:ident = $sql:expr;)*) => {
        $($(#[$meta])* pub(crate) const $name: &str = $sql;)*
        /// Every statement of this store with its name.
        #[cfg_attr(not(test), expect(dead_code, reason = "read by the test that prepares every statement"))]
        pub(crate) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

/// `($1, $2), ($3, $4)`: the placeholders of a multi-row `VALUES`, so that a batch is one statement.
///
/// Both databases bound the number of parameters; keep `rows * columns` below [`MAX_PARAMETERS`].
pub fn placeholders(rows: usize, columns: usize) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(rows * columns * 6);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            let _ = write!(
                text,
                "{}${}",
                if column == 0 { "" } else { ", " },
                row * columns + column + 1
            );
        }
        text.push(')');
    }
    text
}

/// The most parameters that one statement may carry (SQLite's limit, the lower of the two).
pub const MAX_PARAMETERS: usize = 32_766;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_count_on_through_the_rows() {
        assert_eq!(placeholders(2, 3), "($1, $2, $3), ($4, $5, $6)");
        assert_eq!(placeholders(1, 1), "($1)");
        assert_eq!(placeholders(0, 4), "");
    }
}
