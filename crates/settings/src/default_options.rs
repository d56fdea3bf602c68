// tidy: osquery SQL
//! The options that agents get until an operator says otherwise: those that existing installations begin with.

use serde_json::{Value, json};

/// The options of a new installation.
pub fn default_agent_options() -> Value {
    json!({
        "config": {
            "decorators": {
                "load": [
                    "SELECT uuid AS host_uuid FROM system_info;",
                    "SELECT hostname AS hostname FROM system_info;",
                ],
            },
            "options": {
                "disable_distributed": false,
                "distributed_interval": 10,
                "distributed_plugin": "tls",
                "distributed_tls_max_attempts": 3,
                "logger_tls_endpoint": "/api/osquery/log",
                "logger_tls_period": 10,
                "pack_delimiter": "/",
            },
        },
        "overrides": {},
    })
}
