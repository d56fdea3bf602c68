//! What can go wrong with people, teams and tokens.

use muster_http::Problem;
use muster_store::StoreError;

use crate::{MasterKeyError, TooMany};

/// A service could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No such thing.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for, such as `user 7`.
        what: String,
    },
    /// Somebody has that name already.
    #[error("{what} already exists")]
    Duplicate {
        /// What, such as `a team named "laptops"`.
        what: String,
    },
    /// It cannot be done with the thing as it is.
    #[error("{what}")]
    Conflict {
        /// Why not.
        what: String,
    },
    /// A value is not allowed.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which one.
        field: &'static str,
        /// What would be right.
        reason: String,
    },
    /// The password is wrong, or the account does not exist or is disabled: the caller is not told which.
    #[error("authentication failed")]
    AuthenticationFailed,
    /// The password is right, and a code is needed, too.
    #[error("a code of the authenticator app is needed")]
    SecondFactorRequired,
    /// The code is wrong, or was used already.
    #[error("the code is wrong")]
    SecondFactorWrong,
    /// Too many tries.
    #[error("limit exceeded, retry after: {seconds}s")]
    TooMany {
        /// How long to wait.
        seconds: u32,
    },
    /// The database.
    #[error("reach the identity store")]
    Store(#[from] StoreError),
    /// A sealed secret does not open.
    #[error("open a sealed secret")]
    Sealed(#[from] MasterKeyError),
}

impl IdentityError {
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
}

impl From<TooMany> for IdentityError {
    fn from(TooMany { seconds }: TooMany) -> Self {
        Self::TooMany { seconds }
    }
}

impl From<IdentityError> for Problem {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::NotFound { what } => Self::not_found(what),
            IdentityError::Duplicate { .. } | IdentityError::Conflict { .. } => {
                Self::conflict(error.to_string())
            }
            IdentityError::Invalid { field, reason } => Self::invalid(field, reason),
            IdentityError::AuthenticationFailed => Self::unauthenticated("Authentication failed"),
            IdentityError::SecondFactorRequired => Self::unauthenticated(
                "this account has a second factor: a code of its authenticator app is needed, too; programs use an API \
                 token",
            )
            .with_code("totp_required"),
            IdentityError::SecondFactorWrong => Self::unauthenticated(
                "the code is wrong or was used already; wait for the next one, or use a recovery code",
            )
            .with_code("totp_wrong"),
            IdentityError::TooMany { seconds } => Self::too_many(error.to_string(), seconds),
            IdentityError::Store(error) => error.into(),
            IdentityError::Sealed(_) => Self::internal(&error),
        }
    }
}
