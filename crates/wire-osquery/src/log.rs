//! Logs of results and of the agent itself.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::enroll::text;

/// Which of the two logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// Rows of scheduled queries, snapshots included.
    Result,
    /// What the agent says of itself.
    Status,
}

impl LogKind {
    /// The kind that `log_type` names.
    pub fn parse(log_type: &str) -> Option<Self> {
        match log_type {
            "result" => Some(Self::Result),
            "status" => Some(Self::Status),
            _ => None,
        }
    }

    /// As `log_type` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Status => "status",
        }
    }
}

/// `POST …/log`, as a server reads it. Entries are kept as the bytes that the agent sent.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct LogRequest {
    /// The host's secret.
    #[serde(deserialize_with = "text")]
    pub node_key: String,
    /// `result` or `status`.
    #[serde(deserialize_with = "text")]
    pub log_type: String,
    /// The entries; something that is no list counts as none.
    #[serde(deserialize_with = "entries")]
    pub data: Vec<Box<RawValue>>,
}

/// `POST …/log`, as an agent writes it.
#[derive(Serialize)]
pub struct LogRequestRef<'a, T> {
    /// The host's secret.
    pub node_key: &'a str,
    /// `result` or `status`.
    pub log_type: &'a str,
    /// The entries.
    pub data: &'a [T],
}

fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Box<RawValue>>, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_bytes() {
        let text = r#"{"node_key":"k","log_type":"result","data":[{"b":1,  "a":1.0}, 7, "x"]}"#;
        let request: LogRequest = serde_json::from_str(text).unwrap();
        assert_eq!(LogKind::parse(&request.log_type), Some(LogKind::Result));
        let entries: Vec<&str> = request.data.iter().map(|entry| entry.get()).collect();
        assert_eq!(entries, ["{\"b\":1,  \"a\":1.0}", "7", "\"x\""]);
    }

    #[test]
    fn data_that_is_no_list_is_no_entries() {
        for text in [
            r#"{"data":{}}"#,
            r#"{"data":null}"#,
            "{}",
            r#"{"data":"x"}"#,
        ] {
            let request: LogRequest = serde_json::from_str(text).unwrap();
            assert!(request.data.is_empty(), "{text}");
        }
    }
}
