//! Saved queries. Since 2026 Fleet calls them "reports".

use muster_clock::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::PageMeta;
use crate::reading::{cleared, id, or_default, respelled};

/// A saved query. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Query {
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Its number.
    pub id: i64,
    /// The team that it belongs to; `null`: all.
    pub team_id: Option<i64>,
    /// How often it runs by schedule, in seconds; 0: not at all.
    pub interval: u64,
    /// A list of platforms with commas; empty: all.
    pub platform: String,
    /// The oldest osquery that runs it.
    pub min_osquery_version: String,
    /// Whether its results go to the log destination.
    pub automations_enabled: bool,
    /// `snapshot`, `differential` or `differential_ignore_removals`.
    pub logging: String,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// The SQL.
    pub query: String,
    /// False for what was run without being saved.
    pub saved: bool,
    /// Observers may run it.
    pub observer_can_run: bool,
    /// Who made it.
    pub author_id: Option<i64>,
    /// Who made it: the name.
    pub author_name: String,
    /// Who made it: the address.
    pub author_email: String,
    /// Packs that hold it.
    #[serde(deserialize_with = "or_default")]
    pub packs: Vec<Value>,
    /// What it costs.
    pub stats: QueryStats,
    /// Results are not stored in the server.
    pub discard_data: bool,
}

/// What a query costs over all hosts; all `null` until it has run by schedule. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryStats {
    /// Median of the system's processor time, in milliseconds.
    pub system_time_p50: Option<f64>,
    /// 95th percentile of the system's processor time, in milliseconds.
    pub system_time_p95: Option<f64>,
    /// Median of osquery's processor time, in milliseconds.
    pub user_time_p50: Option<f64>,
    /// 95th percentile of osquery's processor time, in milliseconds.
    pub user_time_p95: Option<f64>,
    /// How often it ran.
    pub total_executions: Option<u64>,
}

/// One query. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryAnswer {
    /// The query.
    pub query: Query,
}

/// `GET …/queries`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueriesAnswer {
    /// The queries of this page.
    pub queries: Vec<Query>,
    /// How many there are on all pages.
    pub count: u64,
    /// Whether there are other pages.
    pub meta: PageMeta,
}

/// `POST …/queries` and `PATCH …/queries/{id}`; absent members stay as they are. Written by clients, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, remote = "Self")]
pub struct QueryRequest {
    /// Its name.
    pub name: Option<String>,
    /// Its description.
    pub description: Option<String>,
    /// The SQL.
    pub query: Option<String>,
    /// The team that it belongs to; not read when it is changed.
    #[serde(deserialize_with = "id")]
    pub team_id: Option<i64>,
    /// How often it runs by schedule, in seconds.
    pub interval: Option<u64>,
    /// A list of platforms with commas.
    pub platform: Option<String>,
    /// The oldest osquery that runs it.
    pub min_osquery_version: Option<String>,
    /// Whether its results go to the log destination.
    pub automations_enabled: Option<bool>,
    /// How results are written; see [`Query::logging`].
    pub logging: Option<String>,
    /// Observers may run it.
    pub observer_can_run: Option<bool>,
    /// Results are not stored in the server.
    pub discard_data: Option<bool>,
}
respelled!(QueryRequest: "fleet_id" => "team_id");

/// A document of kind query. Written by fleetctl and servers, read by both.
///
/// Old fleetctl writes the first three members only: an absent member keeps what is stored, `null` clears it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, remote = "Self")]
pub struct QuerySpec {
    /// The name, which with the team is the key.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its description.
    #[serde(deserialize_with = "cleared")]
    pub description: Option<String>,
    /// The SQL.
    #[serde(deserialize_with = "or_default")]
    pub query: String,
    /// The team's name; empty: all.
    #[serde(deserialize_with = "or_default")]
    pub team: String,
    /// How often it runs by schedule, in seconds.
    #[serde(deserialize_with = "cleared")]
    pub interval: Option<u64>,
    /// Observers may run it.
    #[serde(deserialize_with = "cleared")]
    pub observer_can_run: Option<bool>,
    /// A list of platforms with commas.
    #[serde(deserialize_with = "cleared")]
    pub platform: Option<String>,
    /// The oldest osquery that runs it.
    #[serde(deserialize_with = "cleared")]
    pub min_osquery_version: Option<String>,
    /// Whether its results go to the log destination.
    #[serde(deserialize_with = "cleared")]
    pub automations_enabled: Option<bool>,
    /// How results are written; see [`Query::logging`].
    #[serde(deserialize_with = "cleared")]
    pub logging: Option<String>,
    /// Results are not stored in the server.
    #[serde(deserialize_with = "cleared")]
    pub discard_data: Option<bool>,
}
respelled!(QuerySpec: "fleet" => "team");

impl Serialize for QuerySpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl From<(&Query, &str)> for QuerySpec {
    /// The document of a query, whole, with its team's name.
    fn from((query, team): (&Query, &str)) -> Self {
        Self {
            name: query.name.clone(),
            description: Some(query.description.clone()),
            query: query.query.clone(),
            team: team.to_owned(),
            interval: Some(query.interval),
            observer_can_run: Some(query.observer_can_run),
            platform: Some(query.platform.clone()),
            min_osquery_version: Some(query.min_osquery_version.clone()),
            automations_enabled: Some(query.automations_enabled),
            logging: Some(query.logging.clone()),
            discard_data: Some(query.discard_data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_member_of_a_document_stays_and_null_clears_it() {
        let read = |text: &str| serde_json::from_str::<QuerySpec>(text).unwrap();
        let spec = read(r#"{"name":"n","query":"select 1"}"#);
        assert_eq!((spec.interval, spec.logging), (None, None));
        let spec = read(r#"{"name":"n","interval":null,"logging":"","fleet":"t"}"#);
        assert_eq!(
            (spec.interval, spec.logging.as_deref(), spec.team.as_str()),
            (Some(0), Some(""), "t")
        );
    }

    #[test]
    fn a_new_query_may_be_spelled_with_fleet_id() {
        let read = |text: &str| serde_json::from_str::<QueryRequest>(text);
        let request = read(r#"{"name":"n","fleet_id":4,"interval":60,"later":[]}"#).unwrap();
        assert_eq!((request.team_id, request.interval), (Some(4), Some(60)));
        assert!(read(r#"{"interval":-1}"#).is_err());
        assert!(read(r#"{"name":5}"#).is_err());
    }
}
