//! Live queries: campaigns, the stream of their results, and the forms that wait for the answer.

use muster_clock::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::reading::{filled, id, or_default, respelled};
use crate::target::{SelectedIds, SelectedNames};
use crate::{Row, Secret, Stats};

/// The largest message that a client of the stream sends, in bytes.
pub const MAX_CLIENT_MESSAGE_BYTES: usize = 16 * 1024;

/// `POST …/queries/run`. Written by the console and scripts, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, remote = "Self")]
pub struct RunRequest {
    /// The SQL; an empty text counts as absent.
    #[serde(deserialize_with = "filled")]
    pub query: Option<String>,
    /// A saved query instead of SQL.
    #[serde(deserialize_with = "id")]
    pub query_id: Option<i64>,
    /// Whom to ask.
    #[serde(deserialize_with = "or_default")]
    pub selected: SelectedIds,
}
respelled!(RunRequest: "report_id" => "query_id");

/// `POST …/queries/run_by_identifiers`, formerly `run_by_names`. Written by fleetctl, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, remote = "Self")]
pub struct RunByNamesRequest {
    /// The SQL; fleetctl writes an empty text for a saved query, which counts as absent.
    #[serde(deserialize_with = "filled")]
    pub query: Option<String>,
    /// A saved query instead of SQL.
    #[serde(deserialize_with = "id")]
    pub query_id: Option<i64>,
    /// Whom to ask.
    #[serde(deserialize_with = "or_default")]
    pub selected: SelectedNames,
}
respelled!(RunByNamesRequest: "report_id" => "query_id");

/// The answer to a start. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CampaignAnswer {
    /// The campaign.
    pub campaign: Campaign,
}

/// A campaign. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Campaign {
    /// When it was started.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Whom it asks. The member's name and those in it are capitalised.
    #[serde(rename = "Metrics")]
    pub metrics: CampaignMetrics,
    /// Its number.
    pub id: i64,
    /// The query, saved or not.
    pub query_id: i64,
    /// [`WAITING`](Self::WAITING), [`RUNNING`](Self::RUNNING) or [`COMPLETE`](Self::COMPLETE).
    pub status: u8,
    /// Who started it.
    pub user_id: i64,
}

impl Campaign {
    /// Nobody listens yet.
    pub const WAITING: u8 = 0;
    /// Somebody listens.
    pub const RUNNING: u8 = 1;
    /// It is over.
    pub const COMPLETE: u8 = 2;
}

/// How many hosts a campaign asks. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CampaignMetrics {
    /// All.
    pub total_hosts: u64,
    /// Online at the start.
    pub online_hosts: u64,
    /// Offline at the start.
    pub offline_hosts: u64,
    /// Away for 30 days.
    pub missing_in_action_hosts: u64,
    /// Enrolled within a day.
    pub new_hosts: u64,
}

/// What a client of the stream says: first who it is, then which campaign it wants. Written by fleetctl and the
/// console, read by servers.
#[derive(Debug, Clone)]
pub enum ClientMessage {
    /// The session or API token of the campaign's owner.
    Auth {
        /// The token.
        token: Secret,
    },
    /// Which campaign; 0 when the client named none.
    SelectCampaign {
        /// Its number.
        campaign_id: i64,
    },
    /// Something else.
    Other {
        /// What it calls itself.
        kind: String,
    },
}

impl ClientMessage {
    /// Reads a message; `None` for what is no message at all. A newline at the end is fine, fleetctl writes one.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_CLIENT_MESSAGE_BYTES {
            return None;
        }
        serde_json::from_str(text).ok()
    }
}

impl<'de> Deserialize<'de> for ClientMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Envelope {
            #[serde(rename = "type")]
            kind: String,
            #[serde(default)]
            data: Value,
        }
        let Envelope { kind, data } = Envelope::deserialize(deserializer)?;
        Ok(match kind.as_str() {
            "auth" => Self::Auth {
                token: Secret::new(data.get("token").and_then(Value::as_str).unwrap_or("")),
            },
            "select_campaign" => Self::SelectCampaign {
                campaign_id: data.get("campaign_id").and_then(Value::as_i64).unwrap_or(0),
            },
            _ => Self::Other { kind },
        })
    }
}

/// What the server says on the stream, one message per frame: totals and status at the start and when they change,
/// results as they come. Written by servers, read by fleetctl and the console.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum ServerMessage {
    /// Who is asked.
    Totals(StreamTotals),
    /// How far it is.
    Status(StreamStatus),
    /// What a host answered.
    Result(StreamResult),
    /// Why the stream ends; one of the sentences that clients know, such as [`UNAUTHORIZED`](Self::UNAUTHORIZED).
    Error(String),
}

impl ServerMessage {
    /// The token is not valid.
    pub const UNAUTHORIZED: &'static str = "unauthorized";
    /// The campaign is somebody else's.
    pub const FORBIDDEN: &'static str = "forbidden";
    /// The second message was something else.
    pub const EXPECTED_SELECT_CAMPAIGN: &'static str = "expected select_campaign";

    /// The client named no campaign, or one that cannot be.
    pub fn invalid_campaign(campaign_id: i64) -> Self {
        Self::Error(format!("{campaign_id} is not a valid campaign ID"))
    }

    /// The campaign is not there.
    pub fn unknown_campaign(campaign_id: i64) -> Self {
        Self::Error(format!(
            "timeout: cannot find campaign for ID {campaign_id}"
        ))
    }
}

/// Who is asked. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamTotals {
    /// All.
    pub count: u64,
    /// Online now.
    pub online: u64,
    /// Offline now.
    pub offline: u64,
    /// Away for 30 days.
    pub missing_in_action: u64,
}

/// How far a campaign is. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// How many are expected: those that were online.
    pub expected_results: u64,
    /// How many have answered.
    pub actual_results: u64,
    /// Whether all that are expected have answered; the stream stays open either way.
    pub status: StreamProgress,
}

impl StreamStatus {
    /// The status that follows from the two numbers; nobody expected means finished.
    pub fn new(expected_results: u64, actual_results: u64) -> Self {
        Self {
            expected_results,
            actual_results,
            status: if actual_results >= expected_results {
                StreamProgress::Finished
            } else {
                StreamProgress::Pending
            },
        }
    }
}

/// Whether all that are expected have answered. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamProgress {
    /// Some are still expected.
    Pending,
    /// All have answered.
    Finished,
}

/// What a host answered. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamResult {
    /// The campaign.
    pub distributed_query_execution_id: i64,
    /// The host.
    pub host: StreamHost,
    /// The rows, each with the host's two names among its columns; empty after a failure.
    #[serde(deserialize_with = "or_default")]
    pub rows: Vec<Row>,
    /// What it cost; `null` after a failure.
    pub stats: Option<Stats>,
    /// Why it failed; left out otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A host in a result. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamHost {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub hostname: String,
    /// The name that people see.
    pub display_name: String,
}

impl StreamResult {
    /// The answer of a host that ran the query. Its two names are put into each row, before its columns.
    pub fn answered<'a>(
        campaign_id: i64,
        host: StreamHost,
        rows: impl IntoIterator<Item = &'a Row>,
        stats: Option<Stats>,
    ) -> Self {
        let names = [
            ("host_display_name", host.display_name.as_str()),
            ("host_hostname", host.hostname.as_str()),
        ];
        let with_names = |row: &'a Row| {
            // A column of the same name gives way, as a JSON object has each name once.
            let cells = row
                .iter()
                .filter(|(column, _)| names.iter().all(|(name, _)| name != column));
            names.iter().copied().chain(cells).collect()
        };
        let rows = rows.into_iter().map(with_names).collect();
        Self {
            distributed_query_execution_id: campaign_id,
            rows,
            stats,
            error: None,
            host,
        }
    }

    /// The answer of a host on which the query failed.
    pub fn failed(campaign_id: i64, host: StreamHost, error: impl Into<String>) -> Self {
        Self {
            distributed_query_execution_id: campaign_id,
            host,
            error: Some(error.into()),
            ..Self::default()
        }
    }
}

/// `POST …/queries/{id}/run`: runs a saved query and waits. Written by scripts, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RunSavedRequest {
    /// Whom to ask.
    #[serde(deserialize_with = "or_default")]
    pub host_ids: Vec<i64>,
}

/// The answer to [`RunSavedRequest`]. Written by servers, read by scripts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunSavedAnswer {
    /// The query.
    pub query_id: i64,
    /// How many were asked.
    pub targeted_host_count: u64,
    /// How many answered in time.
    pub responded_host_count: u64,
    /// What they answered.
    pub results: Vec<HostRows>,
}

/// What one host answered. Written by servers, read by scripts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostRows {
    /// The host.
    pub host_id: i64,
    /// Its rows.
    #[serde(deserialize_with = "or_default")]
    pub rows: Vec<Row>,
    /// Why it failed; `null` otherwise.
    pub error: Option<String>,
}

/// `GET …/queries/run` with a body: the oldest form that waits. Written by scripts, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, remote = "Self")]
pub struct RunManyRequest {
    /// Saved queries.
    #[serde(deserialize_with = "or_default")]
    pub query_ids: Vec<i64>,
    /// Whom to ask.
    #[serde(deserialize_with = "or_default")]
    pub host_ids: Vec<i64>,
}
respelled!(RunManyRequest: "report_ids" => "query_ids");

/// The answer to [`RunManyRequest`]. Written by servers, read by scripts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunManyAnswer {
    /// How many were asked and answered.
    pub summary: RunSummary,
    /// What they answered, query by query.
    pub live_query_results: Vec<QueryResults>,
}

/// How many were asked and answered. Written by servers, read by scripts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunSummary {
    /// How many were asked.
    pub targeted_host_count: u64,
    /// How many answered in time.
    pub responded_host_count: u64,
}

/// What came of one query. Written by servers, read by scripts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryResults {
    /// The query.
    pub query_id: i64,
    /// Why it could not be started; left out otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the hosts answered.
    #[serde(deserialize_with = "or_default")]
    pub results: Vec<HostRows>,
}

/// `POST …/hosts/{id}/query`: asks one host and waits. Written by scripts, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HostQueryRequest {
    /// The SQL.
    #[serde(deserialize_with = "or_default")]
    pub query: String,
}

/// The answer to [`HostQueryRequest`]. Written by servers, read by scripts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostQueryAnswer {
    /// The host.
    pub host_id: i64,
    /// Its rows; `null` when it did not answer.
    pub rows: Option<Vec<Row>>,
    /// The SQL.
    pub query: String,
    /// `online` or `offline`.
    pub status: String,
    /// Why there is no answer, unless the host is offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl HostQueryAnswer {
    /// What `error` says when a host that is online did not answer in time.
    pub const TIMEOUT: &'static str = "timeout waiting for results";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_messages_are_read_and_rubbish_is_told_from_strangers() {
        let auth = ClientMessage::parse("{\"type\":\"auth\",\"data\":{\"token\":\"t\"}}\n");
        assert!(matches!(auth, Some(ClientMessage::Auth { token }) if token.expose() == "t"));
        for (text, expected) in [
            (
                r#"{"type":"select_campaign","data":{"campaign_id":9}}"#,
                Some(9),
            ),
            (r#"{"type":"select_campaign","data":{}}"#, Some(0)),
            (r#"{"type":"select_campaign"}"#, Some(0)),
            (r#"{"type":"zz","data":{}}"#, None),
        ] {
            let message = ClientMessage::parse(text).unwrap();
            let campaign = match message {
                ClientMessage::SelectCampaign { campaign_id } => Some(campaign_id),
                ClientMessage::Auth { .. } => Some(-1),
                ClientMessage::Other { .. } => None,
            };
            assert_eq!(campaign, expected, "{text}");
        }
        for rubbish in ["hello", "", "{}", "[]", "null", r#"{"type":7}"#] {
            assert!(ClientMessage::parse(rubbish).is_none(), "{rubbish}");
        }
        let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(MAX_CLIENT_MESSAGE_BYTES));
        assert!(ClientMessage::parse(&long).is_none());
    }

    #[test]
    fn a_campaign_that_expects_nobody_is_finished() {
        assert_eq!(StreamStatus::new(0, 0).status, StreamProgress::Finished);
        assert_eq!(StreamStatus::new(2, 1).status, StreamProgress::Pending);
        assert_eq!(StreamStatus::new(2, 3).status, StreamProgress::Finished);
    }

    #[test]
    fn a_hosts_names_are_in_each_row_once() {
        let host = StreamHost {
            id: 5,
            hostname: "a".into(),
            display_name: "A".into(),
        };
        let row: Row = [("pid", "1"), ("host_hostname", "forged")]
            .into_iter()
            .collect();
        let result = StreamResult::answered(9, host, [&row], None);
        assert_eq!(
            serde_json::to_string(&result.rows).unwrap(),
            r#"[{"host_display_name":"A","host_hostname":"a","pid":"1"}]"#
        );
    }

    #[test]
    fn a_saved_query_may_be_spelled_as_a_report() {
        let read = |text: &str| serde_json::from_str::<RunByNamesRequest>(text).unwrap();
        let request = read(r#"{"query":"","report_id":12,"selected":{"labels":[""]}}"#);
        assert_eq!((request.query, request.query_id), (None, Some(12)));
        let request = read(
            r#"{"query":"select 1","query_id":null,"selected":{"hosts":["h"],"labels":[""]}}"#,
        );
        assert_eq!(
            (request.query.as_deref(), request.query_id),
            (Some("select 1"), None)
        );
        assert_eq!(request.selected.hosts, ["h"]);
        assert_eq!(read(r#"{"query_id":0}"#).query_id, None);
    }
}
