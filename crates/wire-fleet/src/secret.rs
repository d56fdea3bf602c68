//! Texts that must not be shown.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// A password, a token or a key: on the wire a text, in logs and errors never. `null` reads as empty.
#[derive(Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret of that text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; keep it short-lived.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The text itself, without a copy.
    pub fn into_exposed(self) -> String {
        self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "Secret(none)"
        } else {
            "Secret(…)"
        })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(|text| Self(text.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_written_to_the_wire_and_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"hunter2\"");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let none: Secret = serde_json::from_str("null").unwrap();
        assert!(none.is_empty());
        let error = serde_json::from_str::<Secret>("7").unwrap_err();
        assert!(error.is_data());
    }
}
