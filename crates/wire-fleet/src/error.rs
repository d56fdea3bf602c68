//! How the orbit, device and user APIs say that something was not done.

use serde::{Deserialize, Serialize};

use crate::reading::or_default;

/// The body of every error. Written by servers, read by orbit, fleetctl and scripts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorBody {
    /// What kind of error, in one of a few sentences that clients know: `Resource Not Found`.
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    /// A number that a few errors of users and roles carry instead of reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// What is wrong, field by field; left out when there is nothing to tell.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorField>,
    /// Under which id the error can be found in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// One thing that is wrong. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorField {
    /// The field; [`BASE`](Self::BASE) when none is to blame.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// What is wrong with it.
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
}

impl ErrorField {
    /// The name when no field is to blame.
    pub const BASE: &'static str = "base";
}

impl ErrorBody {
    /// The most telling sentence: the first reason, else the message.
    pub fn reason(&self) -> &str {
        self.errors
            .first()
            .map_or(&self.message, |field| &field.reason)
    }
}
