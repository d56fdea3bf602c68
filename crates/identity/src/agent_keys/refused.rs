//! Agents that call with keys which are no longer good.

use muster_clock::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::Family;
use crate::{AgentKeyId, HostId};

/// Why a key that once was good is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusedKey {
    /// Its host was deleted.
    Deleted,
    /// Its host is banned.
    Banned,
    /// An operator took it away.
    Revoked,
    /// A newer key of the same agent took its place.
    Superseded,
}

impl RefusedKey {
    /// The text in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Banned => "banned",
            Self::Revoked => "operator",
            Self::Superseded => "superseded",
        }
    }

    /// The first release revoked keys only with their hosts, and wrote no reason.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "banned" => Self::Banned,
            "operator" => Self::Revoked,
            "superseded" => Self::Superseded,
            _ => Self::Deleted,
        }
    }
}

/// An agent that goes on calling with a key that is no longer good.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RefusedAgent {
    /// The key.
    pub key_id: AgentKeyId,
    /// The host whose key it was; it may be gone.
    pub host_id: HostId,
    /// By which protocol it calls.
    pub family: Family,
    /// Why it is refused.
    pub reason: RefusedKey,
    /// How often it called, as far as was counted.
    pub calls: i64,
    /// When it was first refused.
    #[schema(value_type = String, format = DateTime)]
    pub first_at: Timestamp,
    /// When it last called, to some minutes.
    #[schema(value_type = String, format = DateTime)]
    pub last_at: Timestamp,
}
