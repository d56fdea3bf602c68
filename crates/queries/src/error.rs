//! What can go wrong with queries and campaigns.

use muster_http::Problem;
use muster_store::{ErrorKind, StoreError};

use crate::TargetError;

/// A service could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum QueriesError {
    /// No such thing, or it may not be seen.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for: `query 7`.
        what: String,
    },
    /// A query has that name already.
    #[error("a query named {name:?} already exists")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A value is not allowed.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which one.
        field: &'static str,
        /// What would be right.
        reason: String,
    },
    /// The listener's session or token ended, or it may not see this any more.
    #[error("the login ended or may not see this any more")]
    NoLonger,
    /// Live queries are switched off.
    #[error("live queries are switched off in the settings")]
    Disabled,
    /// The hosts to ask.
    #[error("find the hosts to ask")]
    Targets(#[from] TargetError),
    /// The database.
    #[error("reach the store of queries")]
    Store(#[from] StoreError),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

impl QueriesError {
    pub(crate) fn not_found(kind: &str, id: impl std::fmt::Display) -> Self {
        Self::NotFound {
            what: format!("{kind} {id}"),
        }
    }

    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field,
            reason: reason.into(),
        }
    }

    /// A doubled name is told as such.
    pub(crate) fn naming(name: &str, error: StoreError) -> Self {
        match error.kind() {
            ErrorKind::Duplicate => Self::Duplicate {
                name: name.to_owned(),
            },
            _ => Self::Store(error),
        }
    }
}

impl From<QueriesError> for Problem {
    fn from(error: QueriesError) -> Self {
        match error {
            QueriesError::NotFound { what } => Self::not_found(what),
            QueriesError::Duplicate { .. } => Self::conflict(error.to_string()),
            QueriesError::Invalid { field, reason } => Self::invalid(field, reason),
            QueriesError::NoLonger => Self::unauthenticated(error.to_string()),
            QueriesError::Disabled => {
                Self::forbidden(error.to_string()).with_code("live_query_disabled")
            }
            QueriesError::Targets(error) => error.into(),
            QueriesError::Store(error) => error.into(),
            QueriesError::Stopping => Self::unavailable(&error),
        }
    }
}
