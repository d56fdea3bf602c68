//! What settings of own telemetry are made of.

use std::collections::BTreeMap;
use std::fmt;

use axum::http::{HeaderName, HeaderValue, Uri};
use muster_clock::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::configurations::precedence::Claim;

/// How many settings one team may have, and how many there may be for all.
pub(crate) const MAX_SETTINGS: usize = 200;
/// The longest endpoint, in bytes.
const MAX_ENDPOINT_BYTES: usize = 2_000;
/// The most headers of a destination.
const MAX_HEADERS: usize = 32;
/// The longest value of a header, in bytes.
const MAX_HEADER_BYTES: usize = 4_096;

/// What an agent reports of itself.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Metrics.
    Metrics,
    /// Traces.
    Traces,
    /// Logs.
    Logs,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Metrics, Self::Traces, Self::Logs];

    /// The bit of the agents that can be told where to send it.
    pub(crate) fn bit(self) -> u64 {
        match self {
            Self::Traces => 0x20,
            Self::Metrics => 0x40,
            Self::Logs => 0x80,
        }
    }

    /// The text of our API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
            Self::Logs => "logs",
        }
    }
}

/// Where a signal is sent: a receiver of OTLP by HTTP.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// The whole URL, with the path.
    pub endpoint: String,
    /// Headers to send with it. Secret.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.headers.keys().collect();
        f.debug_struct("Destination")
            .field("endpoint", &self.endpoint)
            .field("headers", &names)
            .finish()
    }
}

impl Destination {
    /// What is wrong with it, and what would be right.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.endpoint.len() > MAX_ENDPOINT_BYTES {
            return Err(format!(
                "the endpoint is longer than {MAX_ENDPOINT_BYTES} bytes"
            ));
        }
        let wanted = "must be the whole URL of a receiver of OTLP by HTTP, such as https://otel.example.com/v1/metrics";
        let uri: Uri = self.endpoint.parse().map_err(|_| wanted.to_owned())?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority().ok_or(wanted)?;
        if !is_http || authority.host().is_empty() {
            return Err(wanted.to_owned());
        }
        if authority.as_str().contains('@') {
            return Err(
                "the endpoint has a user name or password; put them into a header".to_owned(),
            );
        }
        if self.headers.len() > MAX_HEADERS {
            return Err(format!("has more than {MAX_HEADERS} headers"));
        }
        for (name, value) in &self.headers {
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(format!("{name:?} is no name of a header"));
            }
            let has_twin = self
                .headers
                .keys()
                .any(|other| other != name && other.eq_ignore_ascii_case(name));
            if has_twin {
                return Err(format!("the header {name} is there twice"));
            }
            // Never the value itself: it is a secret.
            if value.len() > MAX_HEADER_BYTES {
                let reason = format!("the header {name} is longer than {MAX_HEADER_BYTES} bytes");
                return Err(reason);
            }
            if HeaderValue::from_str(value).is_err() || !value.is_ascii() {
                return Err(format!(
                    "the header {name} has characters that no header may have"
                ));
            }
        }
        Ok(())
    }
}

/// Settings of own telemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnTelemetry {
    /// Whom they are for.
    pub claim: Claim,
    /// Their name, which no others of the team have.
    pub name: String,
    /// Where each signal goes.
    pub destinations: BTreeMap<Signal, Destination>,
    /// Hexadecimal digits that change whenever a destination does. Random, so that they tell nothing of secrets.
    pub hash: String,
    /// When they were made.
    pub created_at: Timestamp,
    /// When they last changed.
    pub updated_at: Timestamp,
}

impl AsRef<Claim> for OwnTelemetry {
    fn as_ref(&self) -> &Claim {
        &self.claim
    }
}

impl OwnTelemetry {
    /// The attributes that the selector asks for.
    pub(crate) fn named(&self) -> impl Iterator<Item = String> {
        let requirements = self.claim.selector.requirements();
        requirements.map(|requirement| requirement.name.clone())
    }

    /// The signals that an agent of these capabilities can be told of.
    pub(crate) fn signals(&self, capabilities: u64) -> Vec<Signal> {
        let signals = self.destinations.keys().copied();
        signals
            .filter(|signal| capabilities & signal.bit() != 0)
            .collect()
    }

    /// What tells one offer from another, as hexadecimal digits: the settings, and which signals of them.
    pub(crate) fn offer_hash(&self, signals: &[Signal]) -> String {
        let names: Vec<&str> = signals.iter().map(|signal| signal.name()).collect();
        crate::values::digest(&format!("{} {}", self.hash, names.join(",")))
    }
}

/// What the sealed destinations of settings are bound to.
pub(crate) fn sealed_for(hash: &str) -> String {
    format!("collector_telemetry/{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(endpoint: &str, headers: &[(&str, &str)]) -> Destination {
        let pairs = headers.iter();
        Destination {
            endpoint: endpoint.to_owned(),
            headers: pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_destination_is_a_whole_url_with_headers_that_can_be_sent() {
        for (endpoint, headers) in [
            (
                "https://otel.example.com/v1/metrics",
                &[("Authorization", "Bearer x")][..],
            ),
            ("http://[::1]:4318/v1/logs?tenant=a", &[]),
        ] {
            assert_eq!(destination(endpoint, headers).check(), Ok(()), "{endpoint}");
        }
        for (endpoint, headers, wrong) in [
            ("otel.example.com:4318", &[][..], "whole URL"),
            ("grpc://otel.example.com", &[], "whole URL"),
            ("/v1/metrics", &[], "whole URL"),
            ("", &[], "whole URL"),
            ("https://ann:hunter2@otel.example.com/", &[], "password"),
            ("https://a/", &[("a b", "x")], "no name of a header"),
            ("https://a/", &[("A", "x"), ("a", "y")], "twice"),
            ("https://a/", &[("A", "hunter2\r\n")], "characters"),
        ] {
            let error = destination(endpoint, headers).check().unwrap_err();
            assert!(error.contains(wrong), "{endpoint} {headers:?}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn nothing_that_is_printed_holds_a_secret() {
        let secret = destination("https://a/", &[("Authorization", "Bearer hunter2")]);
        let text = format!("{secret:?}");
        assert!(
            !text.contains("hunter2") && text.contains("Authorization"),
            "{text}"
        );
    }
}
