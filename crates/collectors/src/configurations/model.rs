//! Configurations, their versions and assignments, as services and rooms know them.

use std::time::Duration;

use muster_clock::Timestamp;
use muster_identity::{CollectorId, TeamId};

use super::document::{Files, Kind};
use super::precedence::Claim;
use super::rollout::{Rollout, State};

/// A configuration: a name for versions of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Its id.
    pub id: i64,
    /// The team whose collectors it is for; none: those of all teams.
    pub team_id: Option<TeamId>,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What kind of agent it is for.
    pub kind: Kind,
    /// The number of its newest version; versions count up from 1.
    pub newest_version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A version of a configuration, which never changes. Without its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its number.
    pub version: i64,
    /// Its hash as hexadecimal digits.
    pub hash: String,
    /// Why it was made.
    pub note: String,
    /// Who made it.
    pub author_name: String,
    /// That user's address.
    pub author_email: String,
    /// When.
    pub created_at: Timestamp,
}

/// Who makes a version, and why.
#[derive(Debug, Clone)]
pub(crate) struct NewVersion<'a> {
    pub(crate) version: i64,
    pub(crate) hash: &'a str,
    pub(crate) note: &'a str,
    pub(crate) author_id: Option<i64>,
    pub(crate) author_name: &'a str,
    pub(crate) author_email: &'a str,
    pub(crate) files: &'a Files,
}

/// What happens by itself when a version fails.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = CollectorConfigAutoRollback)]
pub enum AutoRollback {
    /// Nothing: people decide.
    Off,
    /// A collector on which it fails goes back to the version that it last ran well.
    Collector,
    /// When it fails on so many collectors, all go back to the version before.
    Assignment,
}

impl AutoRollback {
    /// The text in the database and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Collector => "collector",
            Self::Assignment => "assignment",
        }
    }

    /// From the database; what a newer release wrote does nothing here.
    pub(crate) fn from_text(text: &str) -> Self {
        match text {
            "collector" => Self::Collector,
            "assignment" => Self::Assignment,
            _ => Self::Off,
        }
    }
}

/// Which collectors should run which version of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Its id, team, priority and selector.
    pub claim: Claim,
    /// Which configuration.
    pub configuration_id: i64,
    /// Which of its versions.
    pub version: i64,
    /// The version before, to which one step back leads.
    pub previous_version: Option<i64>,
    /// Whether it moves on to each new version by itself.
    pub follows_newest: bool,
    /// Whether nothing new is sent.
    pub is_paused: bool,
    /// How long a collector has to be healthy until a version counts as run.
    pub soak: Duration,
    /// What happens by itself when a version fails.
    pub auto_rollback: AutoRollback,
    /// On how many collectors a version fails until all go back, when they do.
    pub failures_until_rollback: u32,
    /// When it last went back a step, and why.
    pub rolled_back: Option<(Timestamp, String)>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl AsRef<Claim> for Assignment {
    fn as_ref(&self) -> &Claim {
        &self.claim
    }
}

/// How far a collector is, in a list.
#[derive(Debug, Clone)]
pub struct CollectorState {
    /// Which collector.
    pub collector_id: CollectorId,
    /// The name of its service.
    pub name: String,
    /// The name of its machine.
    pub host_name: String,
    /// Its team.
    pub team_id: Option<TeamId>,
    /// Its state.
    pub state: State,
    /// What is remembered of it; none when nothing was ever assigned to it.
    pub rollout: Option<Rollout>,
}
