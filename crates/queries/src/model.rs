//! Saved queries and campaigns as the rules see them.

use muster_clock::Timestamp;
use muster_identity::{HostId, TeamId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// How results of a schedule are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Logging {
    /// All rows each time.
    #[default]
    Snapshot,
    /// Rows that came and rows that went.
    Differential,
    /// Rows that came.
    DifferentialIgnoreRemovals,
}

impl Logging {
    /// The text in the database and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Differential => "differential",
            Self::DifferentialIgnoreRemovals => "differential_ignore_removals",
        }
    }

    /// The kind of that name; the empty text is the default.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "snapshot" => Some(Self::Snapshot),
            "differential" => Some(Self::Differential),
            "differential_ignore_removals" => Some(Self::DifferentialIgnoreRemovals),
            _ => None,
        }
    }
}

/// A query with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SavedQuery {
    /// Its id.
    pub id: i64,
    /// The team that it belongs to; none: everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_id: Option<TeamId>,
    /// Its name; unique within the team.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The SQL.
    pub query: String,
    /// How often hosts run it by themselves, in seconds; 0: not at all.
    pub interval: u64,
    /// The platforms that run it by schedule, with commas; empty: all.
    pub platform: String,
    /// The oldest osquery that runs it by schedule.
    pub min_osquery_version: String,
    /// Whether results of the schedule go to the log destination.
    pub automations_enabled: bool,
    /// How results of the schedule are written.
    pub logging: Logging,
    /// Whether observers may run it.
    pub observer_can_run: bool,
    /// Whether results of the schedule are not kept in the server.
    pub discard_data: bool,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author_id: Option<UserId>,
    /// The name of who made it.
    pub author_name: String,
    /// The address of who made it.
    pub author_email: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// What is to change of a saved query, or what a new one has; what is absent stays or takes its default.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct SavedQueryChange {
    /// Its name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The SQL.
    pub query: Option<String>,
    /// How often hosts run it by themselves, in seconds; 0: not at all.
    pub interval: Option<u64>,
    /// The platforms that run it by schedule, with commas; empty: all.
    pub platform: Option<String>,
    /// The oldest osquery that runs it by schedule.
    pub min_osquery_version: Option<String>,
    /// Whether results of the schedule go to the log destination.
    pub automations_enabled: Option<bool>,
    /// How results of the schedule are written: `snapshot`, `differential` or `differential_ignore_removals`.
    pub logging: Option<String>,
    /// Whether observers may run it.
    pub observer_can_run: Option<bool>,
    /// Whether results of the schedule are not kept in the server.
    pub discard_data: Option<bool>,
}

/// Where a campaign stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CampaignStatus {
    /// Answers are awaited.
    Running,
    /// Every awaited host answered or failed.
    Finished,
    /// Time ran out before that.
    Expired,
    /// Somebody stopped it.
    Cancelled,
}

impl CampaignStatus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// A status that a newer release wrote is one of an ended campaign.
    pub(crate) fn from_text(text: &str) -> Self {
        match text {
            "running" => Self::Running,
            "expired" => Self::Expired,
            "cancelled" => Self::Cancelled,
            _ => Self::Finished,
        }
    }
}

/// Where a host stands in a campaign. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// It will be asked at its next check-in.
    Pending,
    /// It was asked.
    Sent,
    /// It answered.
    Answered,
    /// It could not run the query; the message says why.
    Failed,
    /// It was away when the campaign began, and is asked if it comes back in time.
    Offline,
    /// It did not answer in time.
    Expired,
    /// The campaign was stopped before it answered.
    Cancelled,
}

impl HostState {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Sent,
        Self::Answered,
        Self::Failed,
        Self::Offline,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The text in the database and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Offline => "offline",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// How many hosts stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Counts {
    /// All that were targeted.
    pub targeted: u64,
    /// Those that were online when it began.
    pub online: u64,
    /// Those that have not been asked yet.
    pub pending: u64,
    /// Those that were asked and have not answered.
    pub sent: u64,
    /// Those that answered.
    pub answered: u64,
    /// Those that could not run the query.
    pub failed: u64,
    /// Those that are away.
    pub offline: u64,
    /// Those that did not answer in time.
    pub expired: u64,
    /// Those that had not answered when it was stopped.
    pub cancelled: u64,
    /// Those without which it is not finished.
    pub awaited: u64,
}

/// A live query and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Campaign {
    /// Its id.
    pub id: i64,
    /// The saved query that it runs, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_id: Option<i64>,
    /// The SQL.
    pub query: String,
    /// Who began it.
    pub user_id: UserId,
    /// The name of who began it.
    pub user_name: String,
    /// Where it stands.
    pub status: CampaignStatus,
    /// Whether hosts that are away are waited for until it expires.
    pub wait_for_offline: bool,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends at the latest.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// How many rows were kept.
    pub result_rows: i64,
    /// Whether some rows were not kept because of the campaign's bounds.
    pub clipped: bool,
    /// How many hosts stand where.
    pub hosts: Counts,
}

/// Where a host stands in a campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CampaignHost {
    /// The host.
    pub host_id: HostId,
    /// Its network name when the campaign began.
    pub hostname: String,
    /// What people called it then.
    pub display_name: String,
    /// Where it stands.
    pub state: HostState,
    /// Why, as far as is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When it was last heard of before the campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub seen_at: Option<Timestamp>,
    /// When it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub sent_at: Option<Timestamp>,
    /// When it answered, failed or was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// How many rows were kept of its answer.
    pub result_rows: i64,
    /// Whether some of its rows were not kept.
    pub clipped: bool,
}

/// What a host answered.
#[derive(Debug, Clone)]
pub struct HostResult {
    /// Counts up within the campaign, in the order in which answers were kept.
    pub position: i64,
    /// The host.
    pub host_id: HostId,
    /// Its network name.
    pub hostname: String,
    /// What people call it.
    pub display_name: String,
    /// Why the query failed; none when it ran.
    pub error: Option<String>,
    /// The rows, a JSON list of objects with text members.
    pub rows: Box<RawValue>,
    /// Whether some rows were not kept.
    pub clipped: bool,
    /// What it cost, as a JSON object, where the agent said.
    pub stats: Option<Box<RawValue>>,
    /// When it was kept.
    pub at: Timestamp,
}
