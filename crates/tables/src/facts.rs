//! What the tables tell about the agent itself, handed in by the agent and changeable while it runs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use muster_clock::Timestamp;

/// What `osquery_info`, `osquery_flags`, `osquery_schedule`, `system_info` and `orbit_info` need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFacts {
    /// The agent's version, which stands where osquery's would.
    pub version: String,
    /// The identifier made at first start and kept in the agent's data folder.
    pub instance_id: String,
    /// The identifier of the hardware that the agent gave when it enrolled. Without it, what
    /// [`hardware_uuid`](crate::hardware_uuid) finds.
    pub uuid: Option<String>,
    /// A hash of the configuration in force; empty before the first one.
    pub config_hash: String,
    /// Whether the last configuration could be used.
    pub config_valid: bool,
    /// When the agent started.
    pub start_time: Timestamp,
    /// The options in force.
    pub flags: Vec<FlagFact>,
    /// The scheduled queries and what they have cost.
    pub schedule: Vec<ScheduleFact>,
    /// What `orbit_info` shows.
    pub orbit: OrbitFacts,
}

impl Default for AgentFacts {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance_id: String::new(),
            uuid: None,
            config_hash: String::new(),
            config_valid: false,
            start_time: Timestamp::from_seconds(0),
            flags: Vec::new(),
            schedule: Vec::new(),
            orbit: OrbitFacts::default(),
        }
    }
}

/// One row of `osquery_flags`. Flags that hold secrets do not belong here: whoever may query reads them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FlagFact {
    /// Its name, such as `distributed_interval`.
    pub name: String,
    /// `bool`, `string`, `int32`, `uint64` …
    pub kind: String,
    /// What it does.
    pub description: String,
    /// Its value when nothing is configured.
    pub default_value: String,
    /// Its value now.
    pub value: String,
    /// Whether only the shell knows it.
    pub shell_only: bool,
}

/// One row of `osquery_schedule`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScheduleFact {
    /// The name of the scheduled query.
    pub name: String,
    /// Its SQL.
    pub query: String,
    /// How often it runs, in seconds.
    pub interval_s: i64,
    /// How often it has run.
    pub executions: i64,
    /// When it ran last, in seconds since 1970; 0 for never.
    pub last_executed_s: i64,
    /// Whether it is kept from running because it ran into a limit.
    pub denylisted: bool,
    /// How many bytes its results had, all together.
    pub output_bytes: i64,
    /// How long it ran, all together, in milliseconds.
    pub wall_time_ms: i64,
    /// How long its last run took, in milliseconds.
    pub last_wall_time_ms: i64,
    /// Processor time in user mode, all together, in milliseconds.
    pub user_time_ms: i64,
    /// The same for the last run.
    pub last_user_time_ms: i64,
    /// Processor time in the kernel, all together, in milliseconds.
    pub system_time_ms: i64,
    /// The same for the last run.
    pub last_system_time_ms: i64,
    /// Memory it left behind, on average, in bytes.
    pub average_memory_bytes: i64,
    /// The same for the last run.
    pub last_memory_bytes: i64,
}

/// The one row of `orbit_info`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct OrbitFacts {
    /// The version of the process that plays orbit's part.
    pub version: String,
    /// The token with which the device's user opens the device page. A secret.
    pub device_auth_token: String,
    /// Whether the agent holds a key by orbit's API.
    pub enrolled: bool,
    /// The last error worth telling an operator; empty when there is none.
    pub last_recorded_error: String,
    /// Update channel of the agent.
    pub orbit_channel: String,
    /// Update channel of osqueryd, empty when none is supervised.
    pub osqueryd_channel: String,
    /// Update channel of the desktop application, empty when there is none.
    pub desktop_channel: String,
    /// Version of the desktop application, empty when there is none.
    pub desktop_version: String,
    /// Whether the server may run scripts here.
    pub scripts_enabled: bool,
    /// Where updates come from; empty when the agent does not update itself.
    pub update_url: String,
}

impl fmt::Debug for OrbitFacts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OrbitFacts")
            .field("version", &self.version)
            .field("device_auth_token", &"…")
            .field("enrolled", &self.enrolled)
            .field("last_recorded_error", &self.last_recorded_error)
            .field("orbit_channel", &self.orbit_channel)
            .field("osqueryd_channel", &self.osqueryd_channel)
            .field("desktop_channel", &self.desktop_channel)
            .field("desktop_version", &self.desktop_version)
            .field("scripts_enabled", &self.scripts_enabled)
            .field("update_url", &self.update_url)
            .finish()
    }
}

/// The facts as an engine holds them; clones share them, so that any thread of the agent can keep them current.
#[derive(Debug, Clone, Default)]
pub struct FactsHandle(Arc<RwLock<AgentFacts>>);

impl FactsHandle {
    /// Starts with `facts`.
    pub fn new(facts: AgentFacts) -> Self {
        Self(Arc::new(RwLock::new(facts)))
    }

    /// Changes the facts; queries that start later see the change.
    pub fn update(&self, change: impl FnOnce(&mut AgentFacts)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The facts as they are now.
    pub fn get(&self) -> AgentFacts {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_token_never_shows_in_debug_output() {
        let facts = FactsHandle::default();
        facts.update(|facts| facts.orbit.device_auth_token = "secret-token".to_owned());
        assert!(!format!("{facts:?}").contains("secret-token"));
        assert_eq!(facts.get().orbit.device_auth_token, "secret-token");
    }
}
