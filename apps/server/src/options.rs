//! The agent options of a server where nobody has set any.

use std::collections::HashMap;
use std::sync::Arc;

use muster_hosts::{AgentOptions, OptionsSource};
use muster_identity::TeamId;
use serde_json::{Value, json};

/// Options that let osquery ask and log over this server, for all hosts.
pub struct StandardOptions(Arc<AgentOptions>);

impl Default for StandardOptions {
    fn default() -> Self {
        let config = json!({
            "options": {
                "disable_distributed": false,
                "distributed_interval": 10,
                "distributed_plugin": "tls",
                "distributed_tls_max_attempts": 3,
                "logger_plugin": "tls",
                "logger_tls_endpoint": "/api/v1/osquery/log",
                "logger_tls_period": 10,
                "pack_delimiter": "/"
            }
        });
        Self(Arc::new(AgentOptions {
            config,
            overrides: HashMap::new(),
            ..AgentOptions::default()
        }))
    }
}

impl OptionsSource for StandardOptions {
    fn global(&self) -> Arc<AgentOptions> {
        Arc::clone(&self.0)
    }

    fn of_team(&self, _: TeamId) -> Option<Arc<AgentOptions>> {
        None
    }

    fn version(&self) -> u64 {
        0
    }

    fn organisation(&self) -> Value {
        json!({ "org_name": "", "org_logo_url": "", "org_logo_url_light_background": "", "contact_url": "" })
    }
}
