//! Enrollment.

use serde::de::MapAccess;
use serde::{Deserialize, Deserializer, Serialize};

use crate::Row;
use crate::lenient::{Collect, Ignored, text};
use crate::row::OptionalRow;

/// `POST …/enroll`. Written by agents, read by servers.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EnrollRequest {
    /// The enrollment token.
    #[serde(deserialize_with = "text")]
    pub enroll_secret: String,
    /// What `--host_identifier` chose: usually the hardware's UUID.
    #[serde(deserialize_with = "text")]
    pub host_identifier: String,
    /// A bit mask of osquery's; not used.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "text")]
    pub platform_type: String,
    /// First facts. Any of them may be missing, since a table can fail.
    pub host_details: HostDetails,
}

/// First facts about a host, each one row of the table of that name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostDetails {
    /// From table `os_version`.
    #[serde(serialize_with = "row")]
    pub os_version: Row,
    /// From table `osquery_info`.
    #[serde(serialize_with = "row")]
    pub osquery_info: Row,
    /// From table `system_info`.
    #[serde(serialize_with = "row")]
    pub system_info: Row,
    /// From table `platform_info`.
    #[serde(serialize_with = "row")]
    pub platform_info: Row,
}

/// The answer to a successful enrollment. Written by servers, read by agents; without a key it is no success.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EnrollAnswer {
    /// The secret of this host from now on.
    #[serde(deserialize_with = "text")]
    pub node_key: String,
}

impl std::fmt::Debug for EnrollRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrollRequest")
            .field("host_identifier", &self.host_identifier)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for EnrollAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnrollAnswer(…)")
    }
}

fn row<S: serde::Serializer>(row: &Row, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(row.iter())
}

impl<'de> Collect<'de> for HostDetails {
    fn member<A: MapAccess<'de>>(&mut self, name: String, members: &mut A) -> Result<(), A::Error> {
        let row = match name.as_str() {
            "os_version" => &mut self.os_version,
            "osquery_info" => &mut self.osquery_info,
            "system_info" => &mut self.system_info,
            "platform_info" => &mut self.platform_info,
            _ => return members.next_value::<Ignored>().map(drop),
        };
        *row = members.next_value::<OptionalRow>()?.0.unwrap_or_default();
        Ok(())
    }
}

impl<'de> Deserialize<'de> for HostDetails {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::default().collect(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enrollment_may_leave_out_any_fact() {
        for text in [
            r#"{"enroll_secret":"s","host_identifier":"h"}"#,
            r#"{"enroll_secret":"s","host_identifier":"h","host_details":null}"#,
            r#"{"enroll_secret":"s","host_identifier":"h","host_details":[]}"#,
            r#"{"enroll_secret":"s","host_identifier":"h","host_details":{"os_version":null,"x":1}}"#,
        ] {
            let request: EnrollRequest = serde_json::from_str(text).unwrap();
            assert_eq!(request.host_identifier, "h");
            assert_eq!(request.host_details, HostDetails::default(), "{text}");
        }
        let text = r#"{"host_details":{"system_info":{"hostname":"h","cpu":8,"memory":null}}}"#;
        let request: EnrollRequest = serde_json::from_str(text).unwrap();
        assert_eq!(request.enroll_secret, "");
        let row = request.host_details.system_info;
        assert_eq!(
            (row.get("hostname"), row.get("cpu"), row.get("memory")),
            (Some("h"), Some("8"), Some(""))
        );
    }

    #[test]
    fn what_an_agent_writes_a_server_reads() {
        let request = EnrollRequest {
            enroll_secret: "s".into(),
            host_identifier: "h".into(),
            platform_type: "9".into(),
            host_details: HostDetails {
                os_version: [("name", "Debian")].into_iter().collect(),
                ..HostDetails::default()
            },
        };
        let text = serde_json::to_string(&request).unwrap();
        let read: EnrollRequest = serde_json::from_str(&text).unwrap();
        assert_eq!(read.host_details, request.host_details);
        assert_eq!(read.platform_type, "9");
        assert!(
            !format!("{read:?}").contains("\"s\""),
            "secrets are not shown"
        );
    }
}
