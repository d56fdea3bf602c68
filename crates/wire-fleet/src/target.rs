//! Whom a live query is for, and the target picker.

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::label::Label;
use crate::reading::{names, or_default, respelled};
use crate::team::Team;

/// Targets by number. Written by clients, read by servers.
///
/// Hosts always count. Beside them count those that bear any of the chosen built-in labels and any of the chosen other
/// labels, in any of the chosen teams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, remote = "Self")]
pub struct SelectedIds {
    /// Hosts.
    #[serde(deserialize_with = "or_default")]
    pub hosts: Vec<i64>,
    /// Labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: Vec<i64>,
    /// Teams; 0 means the hosts without one.
    #[serde(deserialize_with = "or_default")]
    pub teams: Vec<i64>,
}
respelled!(SelectedIds: "fleets" => "teams");

/// Targets by name. Written by fleetctl, read by servers. Empty names are dropped: a list that is not used arrives as
/// `[""]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, remote = "Self")]
pub struct SelectedNames {
    /// Hosts by name, UUID or serial number.
    #[serde(deserialize_with = "names")]
    pub hosts: Vec<String>,
    /// Labels by name.
    #[serde(deserialize_with = "names")]
    pub labels: Vec<String>,
    /// Teams by number.
    #[serde(deserialize_with = "or_default")]
    pub teams: Vec<i64>,
}
respelled!(SelectedNames: "fleets" => "teams");

/// `POST …/targets`: the target picker's search, and `POST …/targets/count`. Written by the console, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, remote = "Self")]
pub struct TargetsRequest {
    /// Text to search for.
    #[serde(deserialize_with = "or_default")]
    pub query: String,
    /// The saved query that will be run.
    #[serde(deserialize_with = "crate::reading::id")]
    pub query_id: Option<i64>,
    /// What is chosen already.
    #[serde(deserialize_with = "or_default")]
    pub selected: SelectedIds,
}
respelled!(TargetsRequest: "report_id" => "query_id");

/// The answer to `POST …/targets`. Written by servers, read by the console.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetsAnswer {
    /// What was found.
    pub targets: Targets,
    /// How many hosts are chosen.
    pub targets_count: u64,
    /// Of those, how many are online.
    pub targets_online: u64,
    /// Of those, how many are offline.
    pub targets_offline: u64,
    /// Of those, how many have been away for 30 days.
    pub targets_missing_in_action: u64,
}

/// What the target picker found. Written by servers, read by the console.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Targets {
    /// Hosts.
    pub hosts: Vec<Host>,
    /// Labels.
    pub labels: Vec<Label>,
    /// Teams.
    pub teams: Vec<Team>,
}

/// The answer to `POST …/targets/count`. Written by servers, read by the console.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetsCountAnswer {
    /// How many hosts are chosen.
    pub targets_count: u64,
    /// Of those, how many are online.
    pub targets_online: u64,
    /// Of those, how many are offline.
    pub targets_offline: u64,
}

/// `POST …/hosts/search`: the newer target picker. Written by the console, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, remote = "Self")]
pub struct HostSearchRequest {
    /// Text to search for.
    #[serde(deserialize_with = "or_default")]
    pub query: String,
    /// The saved query that will be run.
    #[serde(deserialize_with = "crate::reading::id")]
    pub query_id: Option<i64>,
    /// Hosts that are chosen already and shall not come again.
    #[serde(deserialize_with = "or_default")]
    pub excluded_host_ids: Vec<i64>,
}
respelled!(HostSearchRequest: "report_id" => "query_id");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_one_empty_name_is_an_empty_list() {
        let read = |text: &str| serde_json::from_str::<SelectedNames>(text).unwrap();
        let selected = read(r#"{"labels":[""],"hosts":["h1",null,""]}"#);
        assert_eq!(selected.hosts, ["h1"]);
        assert!(selected.labels.is_empty() && selected.teams.is_empty());
        assert_eq!(read("null"), SelectedNames::default());
        assert_eq!(
            read(r#"{"hosts":null,"labels":null}"#),
            SelectedNames::default()
        );
    }

    #[test]
    fn fleets_are_teams_and_both_spellings_at_once_are_no_error() {
        for (text, teams) in [
            (r#"{"fleets":[7]}"#, 7),
            (r#"{"teams":[7]}"#, 7),
            (r#"{"fleets":[8],"teams":[7]}"#, 7),
        ] {
            let selected: SelectedIds = serde_json::from_str(text).unwrap();
            assert_eq!(selected.teams, [teams], "{text}");
        }
        assert!(serde_json::from_str::<SelectedIds>(r#"{"fleets":["x"]}"#).is_err());
    }
}
