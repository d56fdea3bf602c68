//! Rows of answers.

use muster_clock::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{ColumnIndex, Decode, Row as _, Type};

use crate::StoreError;

/// A row of an answer from either database.
pub struct Row(pub(crate) Inner);

pub(crate) enum Inner {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl std::fmt::Debug for Row {
    /// Without values: a row may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Row(…)")
    }
}

/// A column could not be read as what the program expects.
#[derive(Debug, thiserror::Error)]
#[error("column {column} is not what the program expects")]
pub(crate) struct ColumnError {
    column: String,
    #[source]
    source: sqlx::Error,
}

impl Row {
    /// The value of a column, by the name it has in the answer.
    pub fn get<T: FromColumn>(&self, column: &str) -> Result<T, StoreError> {
        T::from_column(self, column)
    }

    fn read<T>(&self, column: &str) -> Result<T, StoreError>
    where
        T: for<'r> Decode<'r, sqlx::Sqlite> + Type<sqlx::Sqlite>,
        T: for<'r> Decode<'r, sqlx::Postgres> + Type<sqlx::Postgres>,
        for<'c> &'c str: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>,
    {
        match &self.0 {
            Inner::Sqlite(row) => row.try_get(column),
            Inner::Postgres(row) => row.try_get(column),
        }
        .map_err(|source| {
            StoreError::column(ColumnError {
                column: column.to_owned(),
                source,
            })
        })
    }
}

/// A type that a column can be read as.
pub trait FromColumn: Sized {
    /// Reads it.
    fn from_column(row: &Row, column: &str) -> Result<Self, StoreError>;
}

macro_rules! plain {
    ($($t:ty),*) => {$(
        impl FromColumn for $t {
            fn from_column(row: &Row, column: &str) -> Result<Self, StoreError> { row.read(column) }
        }
        impl FromColumn for Option<$t> {
            fn from_column(row: &Row, column: &str) -> Result<Self, StoreError> { row.read(column) }
        }
    )*};
}
plain!(i64, f64, String, Vec<u8>);

impl FromColumn for bool {
    fn from_column(row: &Row, column: &str) -> Result<Self, StoreError> {
        Ok(row.get::<i64>(column)? != 0)
    }
}

impl FromColumn for Timestamp {
    fn from_column(row: &Row, column: &str) -> Result<Self, StoreError> {
        row.get::<i64>(column).map(Self::from_micros)
    }
}

impl FromColumn for Option<Timestamp> {
    fn from_column(row: &Row, column: &str) -> Result<Self, StoreError> {
        Ok(row.get::<Option<i64>>(column)?.map(Timestamp::from_micros))
    }
}

impl FromColumn for [u8; 32] {
    fn from_column(row: &Row, column: &str) -> Result<Self, StoreError> {
        let bytes: Vec<u8> = row.get(column)?;
        let length = bytes.len();
        bytes.try_into().map_err(|_| {
            StoreError::corrupt(
                "read a hash",
                format!("column {column} has {length} bytes, not 32"),
            )
        })
    }
}
