//! Why an exchange, or an operator's wish, came to nothing.

use muster_http::Problem;
use muster_identity::{AgentAuthError, EnrollError};
use muster_store::StoreError;

/// An exchange with an agent came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Whoever sent it may not come. The agent is told only that.
    #[error("refused: {reason}")]
    Unauthorized {
        /// The class of the reason, for operators.
        reason: &'static str,
    },
    /// The agent sends more than it may.
    #[error("an agent sends too many messages")]
    TooMany,
    /// The database is away, or others changed the same agent all the time: it passes.
    #[error("answer an agent")]
    Unavailable(#[source] StoreError),
}

impl From<StoreError> for ExchangeError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error)
    }
}

impl From<AgentAuthError> for ExchangeError {
    fn from(error: AgentAuthError) -> Self {
        match error {
            AgentAuthError::Unknown => Self::Unauthorized { reason: "key" },
            AgentAuthError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

impl From<EnrollError> for ExchangeError {
    fn from(error: EnrollError) -> Self {
        match error {
            EnrollError::Refused(reason) => Self::Unauthorized {
                reason: reason.name(),
            },
            EnrollError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

/// Something that an operator wants could not be done.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// There is no such collector, or the principal may not see it.
    #[error("collector {0} does not exist")]
    Unknown(String),
    /// It cannot be done with the collector as it is.
    #[error("{0}")]
    Conflict(&'static str),
    /// A parameter is not allowed.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which one.
        field: &'static str,
        /// What would be right.
        reason: String,
    },
    /// The database.
    #[error("reach the collectors' store")]
    Store(#[from] StoreError),
}

impl From<OperatorError> for Problem {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::Unknown(which) => Self::not_found(format_args!("collector {which}")),
            OperatorError::Conflict(what) => Self::conflict(what),
            OperatorError::Invalid { field, reason } => Self::invalid(field, reason),
            OperatorError::Store(error) => error.into(),
        }
    }
}
