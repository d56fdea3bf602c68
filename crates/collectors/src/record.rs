//! What is known about an agent: the part that decisions are made of.
//!
//! What agents say at length (attributes, health, configurations) is kept in the database only; here are its digests, so that
//! a message that changes nothing costs nothing. What survives a restart is [`Durable`]; [`Line`]s are written in batches.

mod copy;
mod later;

use std::collections::BTreeMap;
use std::time::Duration;

use muster_clock::Timestamp;
use muster_identity::{AgentKeyId, CollectorId, EnrollmentTokenId, TeamId};
use muster_wire_opamp::InstanceUid;
use serde::{Deserialize, Serialize};

pub use copy::CopyOnWrite;

use crate::limits::{CONTEST_LASTS, DEFAULT_HEARTBEAT, MAX_LINES};

/// An agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its id, which is not its uid: uids change.
    pub id: CollectorId,
    /// Counts its changes. Whoever writes names the one that was read, so that of two only one succeeds.
    pub revision: i64,
    /// What survives everything.
    pub durable: CopyOnWrite<Durable>,
    /// Its connections, the newest last.
    pub lines: Vec<Line>,
    /// What tells the effective configuration that it said last from others, before anything of it is masked; none until it
    /// says one to this server. Never written.
    pub(crate) said_config: Option<u64>,
}

/// What an agent may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is served.
    Enrolled,
    /// It came back with its enrollment token, and somebody has to look at it first.
    Waiting,
    /// It is refused.
    Revoked,
}

impl Standing {
    /// The text in the database and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Waiting => "waiting",
            Self::Revoked => "revoked",
        }
    }
}

/// What survives a restart of the server. Written as JSON by this release and read by this and later ones: fields are only
/// added, each with a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Durable {
    /// The uid by which it goes now.
    #[serde(with = "uid_text")]
    pub uid: InstanceUid,
    /// Its team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<TeamId>,
    /// The token that it showed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<EnrollmentTokenId>,
    /// Whether it is forgotten soon after it goes.
    #[serde(default)]
    pub is_ephemeral: bool,
    /// What it may do.
    pub standing: Standing,
    /// When it was first seen.
    pub created_at: Timestamp,
    /// What it last said that it can do, with bits that this release does not know.
    #[serde(default)]
    pub capabilities: u64,
    /// What tells it from agents on other machines; none until it described itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traits: Option<String>,
    /// The digests of what it last said, by the part's name.
    #[serde(default, deserialize_with = "later::parts")]
    pub parts: BTreeMap<Part, String>,
    /// Its components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Components>,
    /// What it said about the last remote configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigReport>,
    /// The remote configuration that it was sent last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_config: Option<SentConfig>,
    /// What it said about the last connection settings: shown, and never taken for proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsReport>,
    /// Where it was last told to send telemetry about itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<SentTelemetry>,
    /// Its own key that it used last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<AgentKeyId>,
    /// The key that was made in advance for it, if it came by one: such an agent may draw its uid anew at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub premade_key_id: Option<AgentKeyId>,
    /// When it first used that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted_at: Option<Timestamp>,
    /// A key that it was offered and has not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<Offer>,
    /// When it was taken back by its token, until it uses a new key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readmitted_at: Option<Timestamp>,
    /// Somebody showed its uid and the token while its key may be in use: since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contested_at: Option<Timestamp>,
    /// Until when somebody let it come back with its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_until: Option<Timestamp>,
    /// How often it came back with its token on one day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comebacks: Option<Comebacks>,
    /// Other machines that showed its uid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub separated: Vec<Separated>,
    /// The agent whose uid it showed at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separated_from: Option<CollectorId>,
    /// A restart that somebody wants and it was not told yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<Timestamp>,
    /// How often it was told to be heard, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_seconds: Option<u32>,
    /// When it was last given another uid because it asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reassigned_at: Option<Timestamp>,
    /// What a later release wrote: kept as it is while servers of two releases answer in turn.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

/// What an agent says at length and is kept by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Identifying and other attributes.
    Description,
    /// The tree of health.
    Health,
    /// What it runs, with secrets masked.
    EffectiveConfig,
    /// Its packages.
    Packages,
    /// The custom messages that it understands.
    CustomCapabilities,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Description,
        Self::Health,
        Self::EffectiveConfig,
        Self::Packages,
        Self::CustomCapabilities,
    ];

    /// The text in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Description => "description",
            Self::Health => "health",
            Self::EffectiveConfig => "effective_config",
            Self::Packages => "packages",
            Self::CustomCapabilities => "custom_capabilities",
        }
    }
}

/// An agent's components, by what it calls them together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Components {
    /// The agent's own hash as hexadecimal digits.
    pub hash: String,
    /// The digest of the list, under which it is kept; none until it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// When the list was asked for, if it was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<Timestamp>,
    /// Whether a full state was asked for instead.
    #[serde(default)]
    pub asked_for_all: bool,
}

/// How far a remote configuration or connection settings came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Nothing was said.
    Unset,
    /// It is in force.
    Applied,
    /// The agent is at it.
    Applying,
    /// The agent could not.
    Failed,
}

impl Progress {
    /// From the number on the wire; what later releases say counts as nothing.
    pub fn from_wire(number: i32) -> Self {
        match number {
            1 => Self::Applied,
            2 => Self::Applying,
            3 => Self::Failed,
            _ => Self::Unset,
        }
    }

    /// The text in the database and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unset => "unset",
            Self::Applied => "applied",
            Self::Applying => "applying",
            Self::Failed => "failed",
        }
    }
}

/// What an agent said about a remote configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigReport {
    /// The configuration's hash as hexadecimal digits; empty when it has none.
    pub hash: String,
    /// How far it came.
    pub progress: Progress,
    /// Its own words, when it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// When it said so.
    pub at: Timestamp,
}

/// A remote configuration that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentConfig {
    /// Its hash as hexadecimal digits.
    pub hash: String,
    /// When.
    pub at: Timestamp,
    /// On which connection.
    pub connection: u64,
}

/// Where an agent was told to send telemetry about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentTelemetry {
    /// The hash of the offer as hexadecimal digits.
    pub hash: String,
    /// When.
    pub at: Timestamp,
    /// On which connection.
    pub connection: u64,
    /// Which key the agent had then: what is offered with a newer one may make it drop this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<AgentKeyId>,
    /// The name of the settings.
    #[serde(default)]
    pub settings: String,
}

/// What an agent said about connection settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsReport {
    /// The hash of those that it speaks of, as hexadecimal digits; empty when it names none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// How far they came.
    pub progress: Progress,
    /// Its own words, when it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// When it said so.
    pub at: Timestamp,
}

/// A key that was offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Which key; none until it is made, which is before anything is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<AgentKeyId>,
    /// When.
    pub at: Timestamp,
    /// On which connection.
    pub connection: u64,
    /// How many offers there were since a key was last adopted, this one included.
    pub attempts: u32,
    /// Whether people were told that it does not adopt its key.
    #[serde(default)]
    pub is_marked: bool,
}

/// How often an agent came back with its token on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comebacks {
    /// The day, counted from 1970.
    pub day: i64,
    /// How often.
    pub count: u32,
}

/// Another machine that showed an agent's uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Separated {
    /// The agent that it became.
    pub id: CollectorId,
    /// The token that it showed.
    pub token_id: EnrollmentTokenId,
    /// What told it from agents on other machines then; none when it did not describe itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traits: Option<String>,
}

/// A uid as a UUID's text.
mod uid_text {
    use muster_wire_opamp::InstanceUid;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(uid: &InstanceUid, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(uid)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<InstanceUid, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// By what an agent proves who it is on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LineKey {
    /// An enrollment token, which many share.
    Token(EnrollmentTokenId),
    /// A key of its own.
    Key(AgentKeyId),
}

impl LineKey {
    /// The text in the database.
    pub fn text(self) -> String {
        match self {
            Self::Token(id) => format!("t{id}"),
            Self::Key(id) => format!("k{id}"),
        }
    }

    /// From the text in the database.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.get(1..)?.parse().ok()?;
        match text.as_bytes().first()? {
            b't' => Some(Self::Token(EnrollmentTokenId(number))),
            b'k' => Some(Self::Key(AgentKeyId(number))),
            _ => None,
        }
    }
}

/// What an agent's messages under one credential are counted by: of one agent there may be several connections at a time,
/// each with numbers of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Under which credential.
    pub key: LineKey,
    /// The number of the last message.
    pub sequence: u64,
    /// The connection on which it came; 0 for plain HTTP.
    pub connection: u64,
    /// When.
    pub seen_at: Timestamp,
    /// When the agent went, if it did, or its socket was cut.
    pub ended_at: Option<Timestamp>,
    /// Whether it said so.
    pub said_goodbye: bool,
    /// Whether something was missed.
    pub need: Need,
    /// When a full state was last asked for.
    pub asked_at: Option<Timestamp>,
    /// How often in a row without getting one.
    pub asked_in_a_row: u8,
}

/// Whether a full state is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing was missed.
    None,
    /// Something was, and it is to be asked for.
    Owed,
    /// It was asked for.
    Asked,
}

impl Line {
    /// Whether its connection is a socket that is open, as far as is known.
    pub(crate) fn is_on_socket(&self) -> bool {
        self.connection != 0 && self.ended_at.is_none()
    }

    /// The beginning of a line.
    pub(crate) fn new(key: LineKey, sequence: u64, connection: u64, now: Timestamp) -> Self {
        Self {
            key,
            sequence,
            connection,
            seen_at: now,
            ended_at: None,
            said_goodbye: false,
            need: Need::None,
            asked_at: None,
            asked_in_a_row: 0,
        }
    }
}

impl Record {
    /// How often the agent is to be heard.
    pub fn interval(&self) -> Duration {
        let seconds = self.durable.heartbeat_seconds;
        seconds.map_or(DEFAULT_HEARTBEAT, |seconds| {
            Duration::from_secs(u64::from(seconds.max(1)))
        })
    }

    /// The line of a credential.
    pub fn line(&self, key: LineKey) -> Option<&Line> {
        self.lines.iter().find(|line| line.key == key)
    }

    /// Sockets that ended while a message on another was answered have ended.
    pub(crate) fn take_ends(&mut self, other: &Self) {
        for line in &mut self.lines {
            if let Some(known) = other.line(line.key)
                && known.connection == line.connection
                && known.sequence == line.sequence
                && line.connection != 0
                && line.ended_at.is_none()
            {
                line.ended_at = known.ended_at;
            }
        }
    }

    /// The line of a credential, to be changed.
    pub(crate) fn line_mut(&mut self, key: LineKey) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.key == key)
    }

    /// Keeps a line; the one that was silent for longest makes room for a new one.
    pub(crate) fn put_line(&mut self, line: Line) {
        self.lines.retain(|other| other.key != line.key);
        if self.lines.len() >= MAX_LINES {
            self.lines.remove(0);
        }
        self.lines.push(line);
    }

    /// When it was last heard.
    pub fn seen_at(&self) -> Option<Timestamp> {
        self.lines.iter().map(|line| line.seen_at).max()
    }

    /// When it went: none while a connection of it lives, or when it fell silent without a word.
    pub fn gone_at(&self) -> Option<Timestamp> {
        let seen_at = self.seen_at()?;
        let interval = self.interval();
        let lives =
            |line: &&Line| line.ended_at.is_none() && seen_at.since(line.seen_at) < 3 * interval;
        if self.lines.iter().any(|line| lives(&line)) {
            return None;
        }
        self.lines.iter().filter_map(|line| line.ended_at).max()
    }

    /// Whether it went with a word.
    pub fn said_goodbye(&self) -> bool {
        let gone_at = self.gone_at();
        gone_at.is_some()
            && self
                .lines
                .iter()
                .any(|line| line.ended_at == gone_at && line.said_goodbye)
    }

    /// Since when somebody shows its uid and the token while its key may be in use; none when that was given up.
    pub(crate) fn contested_at(&self, now: Timestamp) -> Option<Timestamp> {
        let at = self.durable.contested_at?;
        (now.since(at) < CONTEST_LASTS).then_some(at)
    }

    /// Whether it has a capability.
    pub(crate) fn can(&self, bit: u64) -> bool {
        self.durable.capabilities & bit != 0
    }
}

/// Whether an agent is there, derived from when it was last heard and how often it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Heard in time.
    Online,
    /// Not heard for more than one and a half intervals.
    Late,
    /// Gone, or not heard for three intervals.
    Offline,
}

impl Status {
    /// From what is known.
    pub fn of(
        seen_at: Option<Timestamp>,
        gone_at: Option<Timestamp>,
        interval: Duration,
        now: Timestamp,
    ) -> Self {
        let Some(seen_at) = seen_at else {
            return Self::Offline;
        };
        let silent = now.since(seen_at);
        if gone_at.is_some_and(|gone| gone >= seen_at) || silent > 3 * interval {
            Self::Offline
        } else if 2 * silent > 3 * interval {
            Self::Late
        } else {
            Self::Online
        }
    }

    /// The text in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Late => "late",
            Self::Offline => "offline",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_late_after_one_and_a_half_intervals_and_offline_after_three() {
        let (interval, now) = (Duration::from_secs(30), Timestamp::from_seconds(100_000));
        for (ago, expected) in [
            (0, Status::Online),
            (45, Status::Online),
            (46, Status::Late),
            (90, Status::Late),
            (91, Status::Offline),
        ] {
            let seen = Some(now.minus(Duration::from_secs(ago)));
            assert_eq!(Status::of(seen, None, interval, now), expected, "{ago}");
            assert_eq!(Status::of(seen, seen, interval, now), Status::Offline);
        }
        assert_eq!(Status::of(None, None, interval, now), Status::Offline);
    }

    #[test]
    fn a_line_reads_back_from_its_text() {
        for key in [
            LineKey::Token(EnrollmentTokenId(7)),
            LineKey::Key(AgentKeyId(12)),
        ] {
            assert_eq!(LineKey::parse(&key.text()), Some(key));
        }
        assert_eq!(LineKey::parse(""), None);
        assert_eq!(LineKey::parse("x1"), None);
    }
}
