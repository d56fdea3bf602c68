//! What is said of collectors' keys.

use muster_clock::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{AgentKeyId, CollectorId, EnrollmentTokenId, IssuedKey, SecretHash, TeamId};

/// What a key of a collector is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It was offered, or made in advance, and nobody has used it yet. It is good.
    Pending,
    /// Its collector uses it.
    Active,
    /// A newer key of the same collector is in use; this one is good for some minutes more.
    Superseded,
    /// A newer key took its place, or nobody used it in time.
    Ended,
    /// It was taken away.
    Revoked,
}

impl KeyState {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Active,
        Self::Superseded,
        Self::Ended,
        Self::Revoked,
    ];

    /// The text on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Superseded => "superseded",
            Self::Ended => "ended",
            Self::Revoked => "revoked",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// Whose a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyHolder {
    /// This collector's.
    Collector(CollectorId),
    /// Nobody's yet: it was made in advance, and belongs to the first collector that [`bind`](crate::CollectorKeys::bind)
    /// is called for.
    Nobody,
}

/// A good key that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentedKey {
    /// The key.
    pub key_id: AgentKeyId,
    /// Whose it is.
    pub holder: KeyHolder,
    /// Pending only when it is nobody's; a pending key of a collector is active as soon as it is shown.
    pub state: KeyState,
    /// Whether this is the exchange that made it active: the collector adopted the key.
    pub is_first_use: bool,
    /// Whether it is to be renewed: a key is to be offered, if the agent can take one.
    pub is_rotation_due: bool,
    /// The team that a collector comes into by it, when it is nobody's yet; else the team of the collector, as far as
    /// [`move_to_team`](crate::CollectorKeys::move_to_team) told.
    pub team_id: Option<TeamId>,
    /// For [`check`](crate::CollectorKeys::check), which later messages on the same connection need.
    pub secret: SecretHash,
}

/// What is to be offered to a collector.
#[derive(Debug, Clone, Copy)]
pub struct KeyOffer {
    /// To whom.
    pub collector_id: CollectorId,
    /// Its team.
    pub team_id: Option<TeamId>,
    /// The enrollment token that it came by; none when an active key is renewed.
    pub token_id: Option<EnrollmentTokenId>,
    /// The newest offer without an answer that the caller knows of and wants to replace; none when it knows of none. When
    /// another one is there by now, nothing is offered.
    pub instead_of: Option<AgentKeyId>,
}

/// An offer that its collector has not answered by using the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutstandingOffer {
    /// The newest key that was offered.
    pub key_id: AgentKeyId,
    /// When.
    pub offered_at: Timestamp,
    /// When it ends if nobody uses it.
    pub expires_at: Timestamp,
    /// How many keys are offered and not used, at most [`MAX_PENDING_KEYS`](crate::MAX_PENDING_KEYS).
    pub count: u32,
}

/// What came of an offer.
#[derive(Debug)]
pub enum Offered {
    /// A key was made: send it after the commit, never before.
    Made(IssuedKey),
    /// Somebody else made an offer meanwhile.
    Outstanding(OutstandingOffer),
}

/// How a collector that was revoked comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComeBack {
    /// Enrolled, without a key: it comes by its enrollment token and is offered one. Agents that keep their key in memory
    /// have to be started anew for that.
    WithoutKey,
    /// With the key that it had: its agent, which goes on knocking with it, is let in at once. Not when the key may be
    /// known to others.
    WithItsKey,
}

/// A key to be made in advance, for an agent that cannot take an offer.
#[derive(Debug, Clone, Default)]
pub struct NewCollectorKey {
    /// Its name.
    pub name: String,
    /// The team that the collector comes into.
    pub team_id: Option<TeamId>,
    /// When it ends if no collector has used it until then.
    pub expires_at: Option<Timestamp>,
}

/// What operators see of a collector's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CollectorKeyInfo {
    /// Its id.
    pub id: AgentKeyId,
    /// The name that whoever made it in advance gave it; empty for offered ones.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The collector; absent when it was made in advance and no collector has used it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collector_id: Option<CollectorId>,
    /// The team of the collector, or that a collector comes into by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_id: Option<TeamId>,
    /// What it is worth now.
    pub state: KeyState,
    /// The how manieth key of its collector it is; 0 for one that was made in advance and is nobody's.
    pub generation: i64,
    /// Whether an operator made it, for an agent that cannot take an offer.
    pub is_made_in_advance: bool,
    /// The enrollment token that its collector came by when it was offered; absent when it replaced another key or was made
    /// in advance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrollment_token_id: Option<EnrollmentTokenId>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was offered to its collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub offered_at: Option<Timestamp>,
    /// When it ends if nobody uses it until then; absent when it was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When it was first used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first_used_at: Option<Timestamp>,
    /// When it was last used, to some minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub used_at: Option<Timestamp>,
    /// When a newer key took its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub superseded_at: Option<Timestamp>,
    /// Until when it is good, or was, after that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends_at: Option<Timestamp>,
    /// When it was taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// From when on an operator wants it renewed; with a fleet's rotation that may be later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub rotation_due_at: Option<Timestamp>,
}

/// Which keys of collectors are listed.
#[derive(Debug, Clone, Default)]
pub struct CollectorKeyFilter {
    /// Only those of this collector.
    pub collector_id: Option<CollectorId>,
    /// Only those in this state.
    pub state: Option<KeyState>,
    /// Only those that were, or were not, made in advance.
    pub is_made_in_advance: Option<bool>,
}

/// How far a rotation of all collectors' keys is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct CollectorKeyRotation {
    /// How many active keys are to be renewed and are not yet, those whose turn comes later included. The rotation is done when
    /// only those are left that cannot be renewed (`cannot_take`) and those whose collectors are away (`away`).
    pub waiting: u64,
    /// For how many of them it is time: their collectors are offered a key at their next message, if they can take one.
    pub due: u64,
    /// How many of those that wait belong to collectors whose agents cannot take another key. They stay good, and are renewed
    /// by hand only.
    pub cannot_take: u64,
    /// How many of the others that wait belong to collectors that are offline. They are renewed when these come back.
    pub away: u64,
    /// When it is time for the last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_due_at: Option<Timestamp>,
}
