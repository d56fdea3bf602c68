//! The configuration of a host.

use serde::{Deserialize, Serialize};

use crate::enroll::text;

/// What stands in `etag` when the host has the configuration already; no hash is spelled so.
pub const ETAG_UNCHANGED: &str = "ok";

/// `POST …/config`. Written by agents, read by servers. The answer is the configuration itself at top level.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigRequest {
    /// The host's secret.
    #[serde(deserialize_with = "text")]
    pub node_key: String,
    /// Absent: the host knows nothing of etags. Empty: it has no configuration yet. Else: what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

impl std::fmt::Debug for ConfigRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigRequest")
            .field("etag", &self.etag)
            .finish_non_exhaustive()
    }
}
