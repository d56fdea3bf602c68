//! Teams and enrollment secrets. Since 2026 Fleet calls teams "fleets".

use std::collections::BTreeMap;

use muster_clock::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{Features, HostExpirySettings};
use crate::reading::{or_default, present};
use crate::{Secret, documents};

/// A team, whole. Written by servers, read by clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Team {
    /// Its number.
    pub id: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// The agents' options, which replace the global ones; `null`: none.
    pub agent_options: Option<Value>,
    /// When hosts that stay away are removed.
    #[serde(deserialize_with = "or_default")]
    pub host_expiry_settings: HostExpirySettings,
    /// Webhooks.
    pub webhook_settings: Value,
    /// Ticket systems.
    pub integrations: Value,
    /// What is collected.
    #[serde(deserialize_with = "or_default")]
    pub features: Features,
    /// Device management.
    pub mdm: Value,
    /// Scripts.
    pub scripts: Option<Value>,
    /// How many users have a role in it.
    pub user_count: u64,
    /// How many hosts are in it.
    pub host_count: u64,
    /// Its enrollment secrets; masked or left out for those who may not see them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Vec<EnrollSecret>>,
}

impl Default for Team {
    /// A team without anything, and with the documents of parts that we do not have.
    fn default() -> Self {
        Self {
            id: 0,
            created_at: Timestamp::EPOCH,
            name: String::new(),
            description: String::new(),
            agent_options: None,
            host_expiry_settings: HostExpirySettings::default(),
            webhook_settings: documents::team_webhooks(),
            integrations: documents::team_integrations(),
            features: Features::default(),
            mdm: documents::team_mdm(),
            scripts: None,
            user_count: 0,
            host_count: 0,
            secrets: None,
        }
    }
}

/// A team in lists to choose from. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TeamSummary {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
}

/// One team. Written by servers, read by clients.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TeamAnswer {
    /// The team.
    pub team: Team,
    /// The same under its newer name, for those who ask by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Team>,
}

/// `GET …/teams`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TeamsAnswer {
    /// The teams.
    pub teams: Vec<Team>,
    /// The same under their newer name, for those who ask by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleets: Option<Vec<Team>>,
}

/// `POST …/teams` and `PATCH …/teams/{id}`; absent members stay as they are. Written by clients, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TeamRequest {
    /// Its name.
    pub name: Option<String>,
    /// Its description.
    pub description: Option<String>,
    /// When hosts that stay away are removed.
    pub host_expiry_settings: Option<HostExpirySettings>,
    /// What is collected.
    pub features: Option<Features>,
    /// First secrets, at creation.
    pub secrets: Option<Vec<EnrollSecret>>,
}

/// A document of kind team. Written by fleetctl, read by servers. Parts that we do not have are ignored.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TeamSpec {
    /// The name, which is the key.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The agents' options: absent stays, `null` clears.
    #[serde(deserialize_with = "present")]
    pub agent_options: Option<Option<Value>>,
    /// When hosts that stay away are removed.
    pub host_expiry_settings: Option<HostExpirySettings>,
    /// What is collected.
    pub features: Option<Features>,
    /// All secrets of the team from now on; absent: as they are.
    pub secrets: Option<Vec<EnrollSecret>>,
    /// Every other member, by its name.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// The answer to team documents: numbers by name. Written by servers, read by fleetctl.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TeamIdsByName {
    /// Number by name; 0 for a team that a dry run would make.
    pub team_ids_by_name: BTreeMap<String, i64>,
    /// The same under its newer name, for those who ask by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet_ids_by_name: Option<BTreeMap<String, i64>>,
}

/// `PATCH` and `DELETE …/teams/{id}/users`. Written by clients, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TeamUsersRequest {
    /// Who comes, with a role, or leaves.
    #[serde(deserialize_with = "or_default")]
    pub users: Vec<TeamUser>,
}

/// A user who comes to a team or leaves it. Written by clients, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TeamUser {
    /// The user's number.
    pub id: i64,
    /// The role in the team; unused when the user leaves.
    #[serde(deserialize_with = "or_default")]
    pub role: String,
}

/// The agents' options, as an operator writes them. Written by clients and servers, read by both.
///
/// A platform's configuration in `overrides` replaces `config` wholly.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentOptions {
    /// osquery's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,
    /// osquery's configuration for some platforms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Overrides>,
    /// osquery's flags, which orbit applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line_flags: Option<Map<String, Value>>,
    /// osquery's extensions, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Map<String, Value>>,
    /// Channels of updates, by program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_channels: Option<Map<String, Value>>,
    /// How long a script may run, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script_execution_timeout: Option<u64>,
}

/// Configurations by platform. Written by clients and servers, read by both.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// By the host's `platform`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Map::is_empty")]
    pub platforms: Map<String, Value>,
}

/// An enrollment secret: one of our enrollment tokens. Written by clients and servers, read by both.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EnrollSecret {
    /// The text that agents enroll with.
    pub secret: Secret,
    /// When it was made; year 1 in documents of fleetctl.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Whose it is; left out for global ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_id: Option<i64>,
}

/// `GET` and `POST …/spec/enroll_secret`: all global secrets. Written by clients and servers, read by both.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EnrollSecretSpec {
    /// The document.
    #[serde(deserialize_with = "or_default")]
    pub spec: Secrets,
}

/// `GET` and `PATCH …/teams/{id}/secrets`, and the inside of [`EnrollSecretSpec`]. Written by clients and servers, read
/// by both.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Secrets {
    /// All secrets; `null` when there is none. Writing replaces all of them.
    pub secrets: Option<Vec<EnrollSecret>>,
}
