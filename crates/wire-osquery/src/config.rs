//! The configuration of a host.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::lenient::{text, text_or_absent};

/// What stands in `etag` when the host has the configuration already; no hash is spelled so.
pub const ETAG_UNCHANGED: &str = "ok";

/// `POST …/config`. Written by agents, read by servers. The answer is the configuration itself at top level.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigRequest {
    /// The host's secret.
    #[serde(deserialize_with = "text")]
    pub node_key: String,
    /// Absent: the host knows nothing of etags. Empty: it has no configuration yet. Else: what it has.
    #[serde(
        deserialize_with = "text_or_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub etag: Option<String>,
}

impl std::fmt::Debug for ConfigRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigRequest")
            .field("etag", &self.etag)
            .finish_non_exhaustive()
    }
}

/// The answer to `config`, as an agent reads it.
#[derive(Debug, Clone, PartialEq)]
pub enum ConfigAnswer {
    /// The host has the newest configuration.
    Unchanged,
    /// A configuration.
    Changed {
        /// osquery's configuration, without the etag.
        config: Map<String, Value>,
        /// Under what to ask for changes; absent: the server knows nothing of etags.
        etag: Option<String>,
    },
}

impl<'de> Deserialize<'de> for ConfigAnswer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut config = Map::deserialize(deserializer)?;
        let etag = match config.shift_remove("etag") {
            Some(Value::String(etag)) => Some(etag),
            _ => None,
        };
        if config.is_empty() && etag.as_deref() == Some(ETAG_UNCHANGED) {
            Ok(Self::Unchanged)
        } else {
            Ok(Self::Changed { config, etag })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_of_another_kind_counts_as_absent() {
        let etag = |text: &str| serde_json::from_str::<ConfigRequest>(text).unwrap().etag;
        assert_eq!(etag(r#"{"node_key":"k"}"#), None);
        assert_eq!(etag(r#"{"node_key":"k","etag":""}"#), Some(String::new()));
        for text in [r#"{"etag":null}"#, r#"{"etag":7}"#, r#"{"etag":["x"]}"#] {
            assert_eq!(etag(text), None, "{text}");
        }
        let text = serde_json::to_string(&ConfigRequest::default()).unwrap();
        assert_eq!(text, r#"{"node_key":""}"#, "no etag key unless asked for");
    }

    #[test]
    fn an_agent_tells_unchanged_from_new() {
        let read = |text: &str| serde_json::from_str::<ConfigAnswer>(text).unwrap();
        assert_eq!(read(r#"{"etag":"ok"}"#), ConfigAnswer::Unchanged);
        let ConfigAnswer::Changed { config, etag } = read(r#"{"options":{},"etag":"abc"}"#) else {
            panic!("it is new")
        };
        assert_eq!((config.len(), etag.as_deref()), (1, Some("abc")));
        assert!(matches!(
            read(r#"{"options":{}}"#),
            ConfigAnswer::Changed { etag: None, .. }
        ));
    }
}
