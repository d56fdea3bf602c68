//! What can go wrong with a query, and with reading a table.

use std::io;
use std::path::Path;

use crate::limits::{LimitKind, Stop};

/// Why an engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// SQLite refused to set itself up.
    #[error("could not set up the query engine")]
    Sqlite(#[from] rusqlite::Error),
    /// Two tables have the same name.
    #[error("two tables are called `{0}`")]
    DuplicateTable(&'static str),
}

/// Why a query has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The SQL is wrong: syntax, an unknown table or column, a failing function.
    #[error("{message}")]
    Sql {
        /// What SQLite says.
        message: String,
        /// SQLite's extended result code.
        code: i32,
    },
    /// The text holds no statement.
    #[error("there is no statement in the query")]
    Empty,
    /// The text holds more than one statement.
    #[error("a query is one statement, but there is more after the first `;`")]
    SeveralStatements,
    /// The statement does something other than read.
    #[error("queries only read: {action} is not allowed")]
    Denied {
        /// What the statement wanted to do.
        action: String,
    },
    /// The query ran into a limit.
    #[error("the query was stopped: more than {allowed} {unit}")]
    LimitExceeded {
        /// Which limit.
        limit: LimitKind,
        /// What it allows: milliseconds, rows or bytes.
        allowed: u64,
        /// What `allowed` counts, in words.
        unit: &'static str,
    },
    /// Somebody raised the [`CancelFlag`](crate::CancelFlag).
    #[error("the query was cancelled")]
    Cancelled,
}

/// Why a table has no rows, or no more.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The query was stopped by a limit or cancelled while the table was being read.
    #[error("the query was stopped")]
    Stopped,
    /// What the table reads cannot be read. The query goes on without it and carries a warning.
    #[error("could not read {what}: {source}")]
    Unreadable {
        /// A path or the name of an interface.
        what: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What the table reads has a form that it does not understand, or is not there on this machine.
    #[error("{0}")]
    Unsupported(String),
}

impl TableError {
    /// The table needs `path` and could not read it.
    pub fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::Unreadable {
            what: path.display().to_string(),
            source,
        }
    }

    /// The table does not understand what it found, or cannot work here; `message` says why.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::Unsupported(message.into())
    }
}

impl From<Stop> for TableError {
    fn from(_: Stop) -> Self {
        Self::Stopped
    }
}
