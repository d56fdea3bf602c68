//! Why settings were not read or changed.

use muster_http::Problem;
use muster_identity::IdentityError;
use muster_store::StoreError;

/// Settings were not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A member that does not exist, or has the wrong kind of value.
    #[error("{0}")]
    Malformed(String),
    /// A value that is not allowed.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which one.
        field: &'static str,
        /// What would be right.
        reason: String,
    },
    /// Others changed the same settings, again and again.
    #[error("the settings were changed by others meanwhile; try again")]
    Contended,
    /// The team.
    #[error("find the team")]
    Team(#[from] IdentityError),
    /// The database.
    #[error("reach the settings")]
    Store(#[from] StoreError),
}

/// How many characters of a key that does not exist are told back, and compared with those that do.
const MAX_SHOWN_CHARACTERS: usize = 64;

impl SettingsError {
    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field,
            reason: reason.into(),
        }
    }

    /// A member that does not exist, with the one that was probably meant.
    pub(crate) fn unknown_key(key: &str, known: &[&str]) -> Self {
        // Comparing takes time with the length, and no key that is meant is so long.
        let shown: String = key.chars().take(MAX_SHOWN_CHARACTERS).collect();
        if shown.len() < key.len() {
            return Self::Malformed(format!("unsupported key provided: \"{shown}...\""));
        }
        let hint = nearest(key, known).map(|near| format!("; did you mean \"{near}\"?"));
        let hint = hint.unwrap_or_default();
        Self::Malformed(format!("unsupported key provided: \"{key}\"{hint}"))
    }

    pub(crate) fn wrong_type(place: &str, expected: &str) -> Self {
        Self::Malformed(format!(
            "invalid value type at '{place}': expected {expected}"
        ))
    }
}

/// The known name that is spelled most like this one, if any is near.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    /// How alike two names must be, from 0 to 1.
    const LIKENESS: f64 = 0.75;
    let scored = known
        .iter()
        .map(|name| (strsim::jaro_winkler(key, name), *name));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 >= LIKENESS).then_some(best.1)
}

impl From<SettingsError> for Problem {
    fn from(error: SettingsError) -> Self {
        match error {
            SettingsError::Malformed(_) => Self::bad_request(error.to_string()),
            SettingsError::Invalid { field, reason } => Self::invalid(field, reason),
            SettingsError::Contended => Self::conflict(error.to_string()),
            SettingsError::Team(error) => error.into(),
            SettingsError::Store(error) => error.into(),
        }
    }
}
