//! What is said of agents' keys.

use muster_clock::Timestamp;
use muster_http::Problem;
use muster_store::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{AgentKeyId, EnrollmentTokenId, HostId};

/// By which protocol an agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// osquery's remote API.
    Osquery,
    /// orbit's API.
    Orbit,
    /// OpAMP.
    Opamp,
    /// Keylime.
    Keylime,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Osquery, Self::Orbit, Self::Opamp, Self::Keylime];
    /// Those of the hosts that Fleet's API knows.
    pub const FLEETS: [Self; 2] = [Self::Osquery, Self::Orbit];

    /// The text in the database and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Osquery => "osquery",
            Self::Orbit => "orbit",
            Self::Opamp => "opamp",
            Self::Keylime => "keylime",
        }
    }

    /// The family of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }
}

/// Whose key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentIdentity {
    /// The host.
    pub host_id: HostId,
    /// The key.
    pub key_id: AgentKeyId,
    /// Whether another installation has a newer key of the same host, and uses it: there are two machines.
    pub has_rival: bool,
}

/// The key does not tell who it is.
#[derive(Debug, thiserror::Error)]
pub enum AgentAuthError {
    /// There is no such key, or no longer: the agent has to enroll again.
    #[error("unknown agent key")]
    Unknown,
    /// The database is away: nothing is known about the key.
    #[error("look up an agent key")]
    Unavailable(#[source] StoreError),
}

impl From<AgentAuthError> for Problem {
    fn from(error: AgentAuthError) -> Self {
        match error {
            AgentAuthError::Unknown => Self::unauthenticated("Authentication required"),
            AgentAuthError::Unavailable(error) => error.into(),
        }
    }
}

/// A key that was just made. The text is known only here.
pub struct IssuedKey {
    /// What the agent is given.
    pub text: String,
    /// Its id.
    pub key_id: AgentKeyId,
}

impl std::fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuedKey({})", self.key_id)
    }
}

/// What operators see of a key.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AgentKeyInfo {
    /// Its id.
    pub id: AgentKeyId,
    /// By which protocol it is used.
    pub family: Family,
    /// The enrollment token that it was given for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrollment_token_id: Option<EnrollmentTokenId>,
    /// When it was given.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last used, to some minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub used_at: Option<Timestamp>,
    /// When a newer key of the same agent took its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub superseded_at: Option<Timestamp>,
    /// When it was taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// When an operator asked that it be renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub rotation_requested_at: Option<Timestamp>,
}
