//! Logs of agents, handed to the destination as the bytes that came.

use muster_identity::HostId;
use muster_sinks::{Batch, LogKind};
use muster_wire_osquery::LogRequest;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::agents::Agents;
use crate::error::HostsError;

/// The longest name of a log type that is told back.
const MAX_TYPE_CHARACTERS: usize = 64;

impl Agents {
    /// Keeps a host's logs. An answer without error means that they are kept.
    pub async fn log(&self, host: HostId, request: LogRequest) -> Result<(), HostsError> {
        self.seen(host);
        let kind = match muster_wire_osquery::LogKind::parse(&request.log_type) {
            Some(muster_wire_osquery::LogKind::Result) => LogKind::Result,
            Some(muster_wire_osquery::LogKind::Status) => LogKind::Status,
            None => {
                let name = request.log_type.chars().take(MAX_TYPE_CHARACTERS).collect();
                return Err(HostsError::UnknownLogType(name));
            }
        };
        let entries = request
            .data
            .into_iter()
            .filter(|entry| is_entry(kind, entry));
        // The bytes move; they are not written anew.
        let batch: Batch = entries
            .map(|entry| Box::<str>::from(entry).into_string().into())
            .collect();
        self.0.sink.write(kind, batch).await?;
        Ok(())
    }
}

/// Whether an entry is one. What is not an object, or a result without a name, is left out without an error: an error
/// would make the agent send the same batch for ever.
fn is_entry(kind: LogKind, entry: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        name: Option<&'a RawValue>,
    }
    if !entry.get().starts_with('{') {
        return false;
    }
    match kind {
        LogKind::Status => true,
        LogKind::Result => serde_json::from_str::<Named<'_>>(entry.get())
            .is_ok_and(|named| named.name.is_some_and(|name| name.get().starts_with('"'))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_that_can_be_told_apart_are_kept() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        assert!(is_entry(
            LogKind::Result,
            &raw(r#"{"name":"pack/Global/x","snapshot":[]}"#)
        ));
        assert!(is_entry(
            LogKind::Result,
            &raw(r#"{"columns":{"name":5},"name":"\u0061"}"#)
        ));
        assert!(is_entry(
            LogKind::Status,
            &raw(r#"{"s":0,"m":"short keys"}"#)
        ));
        for text in [
            "5",
            "null",
            "\"s\"",
            "[]",
            r#"{"z":1}"#,
            r#"{"name":null}"#,
            r#"{"name":7}"#,
        ] {
            assert!(!is_entry(LogKind::Result, &raw(text)), "{text}");
        }
        assert!(!is_entry(LogKind::Status, &raw("5")));
    }
}
