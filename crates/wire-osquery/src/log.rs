//! Logs of results and of the agent itself.

use serde::de::SeqAccess;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::lenient::{Collect, text, too_many};

/// The most entries of one `log`; osquery sends 1,024 unless it was told otherwise.
pub const MAX_LOG_ENTRIES: usize = 100_000;

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
    #[derive(Default)]
    struct Entries(Vec<Box<RawValue>>);
    impl<'de> Collect<'de> for Entries {
        fn element<A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<bool, A::Error> {
            let Some(entry) = list.next_element()? else {
                return Ok(false);
            };
            if self.0.len() == MAX_LOG_ENTRIES {
                return Err(too_many(MAX_LOG_ENTRIES, "entries at once"));
            }
            self.0.push(entry);
            Ok(true)
        }
    }
    let entries = Entries::default().collect(deserializer)?;
    Ok(entries.0)
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

    #[test]
    fn a_flood_of_entries_is_refused_and_told_why() {
        let flood = |entries: usize| format!("{{\"data\":[{}0]}}", "0,".repeat(entries - 1));
        let full: LogRequest = serde_json::from_str(&flood(MAX_LOG_ENTRIES)).unwrap();
        assert_eq!(full.data.len(), MAX_LOG_ENTRIES);
        let error = serde_json::from_str::<LogRequest>(&flood(MAX_LOG_ENTRIES + 1)).err();
        let error = error.unwrap().to_string();
        assert!(error.contains("more than 100000 entries"), "{error}");
    }
}
