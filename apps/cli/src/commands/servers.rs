//! Servers: the processes behind the address.

use serde_json::{Value, json};

use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column};

const COLUMNS: &[Column] = &[
    Column("server", &["name"]),
    Column("state", &["state"]),
    Column("release", &["release"]),
    Column("started", &["started_at"]),
    Column("seen", &["seen_at"]),
    Column("does for all", &["leases"]),
    Column("answered", &["answered"]),
];

pub(super) async fn list(client: &Client, format: Format) -> Result<(), CliError> {
    let answer = client.get(&["replicas"], &[]).await?;
    let mut items = answer["items"].as_array().cloned().unwrap_or_default();
    for item in &mut items {
        if item["id"] == answer["answered_by"] {
            item["answered"] = json!("yes");
        }
        if !format.json {
            let leases = item["leases"].as_array().into_iter().flatten();
            let leases: Vec<&str> = leases.filter_map(Value::as_str).collect();
            item["leases"] = json!(leases.join(", "));
        }
    }
    output::list(format.into(), COLUMNS, &items)
}
