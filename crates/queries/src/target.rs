//! Which hosts are asked.

use std::collections::HashSet;

use async_trait::async_trait;
use muster_clock::Timestamp;
use muster_http::Problem;
use muster_identity::{HostId, TeamFilter, TeamId};
use muster_store::StoreError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which hosts are asked. What is listed adds up, but labels narrow each other down as Fleet has it: a host is in when
/// it is in any of the platform labels and in any of the other labels; teams narrow everything but single hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Target {
    /// All hosts that you may see.
    pub all: bool,
    /// Hosts by id.
    pub host_ids: Vec<i64>,
    /// Hosts by host name, hardware UUID or serial number.
    pub hosts: Vec<String>,
    /// Labels by id.
    pub label_ids: Vec<i64>,
    /// Labels by name.
    pub labels: Vec<String>,
    /// Teams by id.
    pub team_ids: Vec<i64>,
    /// Platforms: `linux`, `darwin`, `windows`, or a distribution such as `debian`.
    pub platforms: Vec<String>,
}

/// A host that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetHost {
    /// Its id.
    pub id: HostId,
    /// Its network name.
    pub hostname: String,
    /// What people call it.
    pub display_name: String,
    /// Its team.
    pub team_id: Option<TeamId>,
    /// Whether it is heard of now.
    pub online: bool,
    /// When it was last heard of.
    pub seen_at: Option<Timestamp>,
    /// Whether it enrolled within the last day.
    pub new: bool,
    /// Whether it was not heard of for a month.
    pub missing: bool,
}

/// The hosts cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Labels that do not exist.
    #[error("Invalid label name(s): {}", names.join(", "))]
    UnknownLabels {
        /// Their names.
        names: Vec<String>,
    },
    /// Hosts that do not exist.
    #[error("no such host: {}", names.join(", "))]
    UnknownHosts {
        /// As they were asked for.
        names: Vec<String>,
    },
    /// A value is not allowed.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which one.
        field: &'static str,
        /// What would be right.
        reason: String,
    },
    /// The database.
    #[error("read the hosts")]
    Store(#[from] StoreError),
}

impl From<TargetError> for Problem {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::Store(error) => error.into(),
            TargetError::Invalid { field, reason } => Self::invalid(field, reason),
            hosts @ TargetError::UnknownHosts { .. } => {
                Self::bad_request(hosts.to_string()).with_code("unknown_hosts")
            }
            labels @ TargetError::UnknownLabels { .. } => {
                Self::bad_request(labels.to_string()).with_code("unknown_labels")
            }
        }
    }
}

/// Knows which hosts there are.
#[async_trait]
pub trait Targets: Send + Sync + 'static {
    /// The hosts that a target names, of the teams that may be asked.
    async fn select(
        &self,
        target: &Target,
        visible: &TeamFilter,
        now: Timestamp,
    ) -> Result<Vec<TargetHost>, TargetError>;

    /// Those of these hosts that there still are.
    async fn existing(&self, hosts: &[HostId]) -> Result<HashSet<HostId>, TargetError>;
}
