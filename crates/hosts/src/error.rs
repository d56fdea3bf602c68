//! Why an agent's request was not answered as asked.

use axum::http::StatusCode;
use muster_http::Problem;
use muster_identity::AgentAuthError;
use muster_sinks::SinkError;
use muster_store::{ErrorKind, StoreError};

use crate::load::LOGS_RETRY_SECONDS;

/// An agent's request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// The key belongs to no host: the agent has to enroll again.
    #[error("invalid key")]
    UnknownHost,
    /// The agent may not enroll. Which rule refused it stands in the server's log only.
    #[error("the enrollment is refused")]
    Refused,
    /// An enrollment says nothing that a host could be recognised by.
    #[error("missing host identifier")]
    NoIdentifier,
    /// Too many wrong device tokens came from where the request comes from.
    #[error("limit exceeded, retry after: {retry_after_seconds}s")]
    TooManyGuesses {
        /// How long it has to wait.
        retry_after_seconds: u32,
    },
    /// A value makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// The kind of log is not known.
    #[error("unknown log type: {0}")]
    UnknownLogType(String),
    /// The logs could not be kept; the agent has to keep them.
    #[error("keep the logs of an agent")]
    LogDestination(#[source] SinkError),
    /// There is too much to do; the agent keeps its logs for later.
    #[error("too much to do for logs")]
    Overloaded,
    /// Something that the answer depends on is away; it passes by itself.
    #[error("answer an agent")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A defect of the program.
    #[error("answer an agent")]
    Defect(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for HostsError {
    fn from(error: StoreError) -> Self {
        // A row that went in between passes, too: the agent comes again and finds things as they are then.
        if error.is_unavailable() || error.kind() == ErrorKind::Reference {
            Self::Unavailable(Box::new(error))
        } else {
            Self::Defect(Box::new(error))
        }
    }
}

impl From<AgentAuthError> for HostsError {
    fn from(error: AgentAuthError) -> Self {
        match error {
            AgentAuthError::Unknown => Self::UnknownHost,
            AgentAuthError::Unavailable(error) => error.into(),
        }
    }
}

impl From<SinkError> for HostsError {
    fn from(error: SinkError) -> Self {
        match error {
            SinkError::Busy => Self::Unavailable(Box::new(error)),
            SinkError::Failed { .. } => Self::LogDestination(error),
        }
    }
}

impl HostsError {
    /// As osquery's family is told. 401 makes an agent throw its key away: only a key or secret that is certainly wrong
    /// gets it.
    pub(crate) fn into_osquery(self) -> Problem {
        match &self {
            Self::UnknownHost => Problem::unauthenticated("authentication error: invalid node key"),
            Self::Refused => Problem::unauthenticated("enroll failed: invalid secret"),
            Self::NoIdentifier => {
                Problem::unauthenticated("enroll failed: missing host identifier")
            }
            _ => self.into_problem(),
        }
    }

    /// As orbit's and the device family are told.
    pub fn into_orbit(self) -> Problem {
        match &self {
            Self::UnknownHost => Problem::unauthenticated("Authentication required"),
            Self::Refused => Problem::unauthenticated("Authentication failed"),
            Self::NoIdentifier => Problem::bad_request("the hardware UUID is empty"),
            _ => self.into_problem(),
        }
    }

    fn into_problem(self) -> Problem {
        match &self {
            Self::UnknownHost | Self::Refused | Self::NoIdentifier => {
                Problem::unauthenticated(self.to_string())
            }
            Self::TooManyGuesses {
                retry_after_seconds,
            } => Problem::too_many(self.to_string(), *retry_after_seconds),
            Self::Invalid(reason) => Problem::bad_request(*reason),
            Self::UnknownLogType(_) => Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "unknown_log_type",
                self.to_string(),
            ),
            Self::LogDestination(_) => {
                tracing::error!(
                    error = muster_http::error_chain(&self),
                    "answered 413: logs could not be kept"
                );
                // A client error other than 401 makes osquery keep its buffer.
                Problem::too_large("the log destination failed; keep the logs")
                    .with_code("log_destination")
            }
            Self::Overloaded => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "the server has too much to do; keep the logs and send them later",
            )
            .retry_after(LOGS_RETRY_SECONDS),
            Self::Unavailable(_) => Problem::unavailable(&self),
            Self::Defect(_) => Problem::internal(&self),
        }
    }
}
