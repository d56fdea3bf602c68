//! Agents that call with keys which are no longer good.

use muster_clock::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::Family;
use crate::{AgentKeyId, CollectorId, HostId};

/// Why a key that once was good is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusedKey {
    /// Its host was deleted.
    Deleted,
    /// Its host is banned, or its collector revoked.
    Banned,
    /// An operator took it away.
    Revoked,
    /// A newer key of the same agent took its place.
    Superseded,
    /// Nobody used it in time.
    Expired,
}

impl RefusedKey {
    /// The text in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Banned => "banned",
            Self::Revoked => "operator",
            Self::Superseded => "superseded",
            Self::Expired => "expired",
        }
    }

    /// The first release revoked keys only with their hosts, and wrote no reason.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "banned" => Self::Banned,
            "operator" => Self::Revoked,
            "superseded" => Self::Superseded,
            "expired" => Self::Expired,
            _ => Self::Deleted,
        }
    }
}

/// An agent that goes on calling with a key that is no longer good.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RefusedAgent {
    /// The key.
    pub key_id: AgentKeyId,
    /// The host whose key it was; it may be gone. 0 for keys of collectors.
    pub host_id: HostId,
    /// The collector whose key it was; it may be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collector_id: Option<CollectorId>,
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
