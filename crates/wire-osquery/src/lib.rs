//! What osquery's remote API puts on the wire.
//!
//! Agents write requests and read answers; the server reads requests and writes answers. The family has no versions and
//! no capabilities: both sides read tolerantly instead. Keys that are not known are ignored, what an old osquery leaves
//! out is absent, and a cell or a number of the wrong kind never makes a whole request unreadable.
//!
//! Not responsible for: what a query's rows mean, or who may send them.

mod config;
mod distributed;
mod enroll;
mod lenient;
mod log;
mod row;

pub use config::{ConfigAnswer, ConfigRequest, ETAG_UNCHANGED};
pub use distributed::{
    DistributedResult, DistributedWrite, MAX_QUERIES, MAX_ROWS, NodeKeyRequest, ReadAnswer,
    ReadAnswerRef, Stats, WriteRequest,
};
pub use enroll::{EnrollAnswer, EnrollRequest, HostDetails};
pub use log::{LogKind, LogRequest, LogRequestRef, MAX_LOG_ENTRIES};
pub use row::Row;

use serde::{Deserialize, Serialize};

/// What a server answers when it does not do as asked. Written by servers, read by agents.
///
/// The status of the answer is mostly not looked at; the body decides.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// Why, for people; present and not null means that the request failed.
    pub error: Option<String>,
    /// The node key is gone: enroll again. Some servers write the word as a text.
    #[serde(deserialize_with = "lenient::flag")]
    pub node_invalid: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_invalid_is_read_as_a_flag_or_a_word() {
        let read = |text: &str| serde_json::from_str::<Refusal>(text).unwrap();
        assert!(read(r#"{"node_invalid":true,"error":"x"}"#).node_invalid);
        assert!(read(r#"{"node_invalid":"true"}"#).node_invalid);
        for text in [
            r#"{"node_invalid":false}"#,
            r#"{"node_invalid":null}"#,
            "{}",
            r#"{"node_invalid":[1]}"#,
        ] {
            assert!(!read(text).node_invalid, "{text}");
        }
        assert_eq!(read(r#"{"error":null}"#).error, None);
    }
}
