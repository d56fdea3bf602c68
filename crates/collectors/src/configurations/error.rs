//! Why something about a configuration was not done.

use muster_http::Problem;
use muster_store::StoreError;

use super::document::{MAX_CONFIGURATIONS, MAX_NAME_CHARACTERS};
use super::finding::{Finding, Severity};

/// Something about a configuration was not done.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// There is no such configuration, version, assignment or collector, or the principal may not see it.
    #[error("{0} does not exist")]
    Unknown(String),
    /// A value is not allowed.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which one.
        field: &'static str,
        /// What would be right.
        reason: String,
    },
    /// An agent would not run these files.
    #[error("the configuration is not good: {}", .0.first().map(ToString::to_string).unwrap_or_default())]
    Bad(Vec<Finding>),
    /// Another configuration of the team has the name.
    #[error("there is a configuration `{0}` already")]
    NameTaken(String),
    /// It cannot be done as things are.
    #[error("{0}")]
    Conflict(String),
    /// There are too many of the team, or without one.
    #[error(
        "there are {MAX_CONFIGURATIONS} configurations of this team (or of none), and there can be no more; delete some"
    )]
    TooMany,
    /// The database.
    #[error("reach the configurations")]
    Store(#[from] StoreError),
}

impl ConfigurationError {
    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field,
            reason: reason.into(),
        }
    }

    /// A name that is not allowed.
    pub(crate) fn name() -> Self {
        Self::invalid(
            "name",
            format!(
                "must have from 1 to {MAX_NAME_CHARACTERS} characters, and no control characters"
            ),
        )
    }
}

impl From<ConfigurationError> for Problem {
    fn from(error: ConfigurationError) -> Self {
        match error {
            ConfigurationError::Unknown(what) => Self::not_found(what),
            ConfigurationError::Invalid { field, reason } => Self::invalid(field, reason),
            ConfigurationError::Bad(findings) => {
                let mut errors = findings
                    .iter()
                    .filter(|finding| finding.severity == Severity::Error)
                    .map(ToString::to_string);
                let first = errors.next().unwrap_or_default();
                let problem = Self::invalid("files", first).with_code("invalid_configuration");
                errors.fold(problem, |problem, error| problem.with_field("files", error))
            }
            ConfigurationError::NameTaken(_)
            | ConfigurationError::Conflict(_)
            | ConfigurationError::TooMany => Self::conflict(error.to_string()),
            ConfigurationError::Store(error) => error.into(),
        }
    }
}
