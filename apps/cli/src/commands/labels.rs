//! Labels.

use serde_json::json;

use super::{ALL, id_of};
use crate::arguments::{Labels, LabelsCommand};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column};

const COLUMNS: &[Column] = &[
    Column("id", &["id"]),
    Column("name", &["name"]),
    Column("members", &["membership"]),
    Column("hosts", &["hosts_count"]),
    Column("description", &["description"]),
];

pub(super) async fn run(client: &Client, arguments: Labels) -> Result<(), CliError> {
    let command = arguments
        .command
        .unwrap_or(LabelsCommand::List(arguments.format));
    match command {
        LabelsCommand::List(format) => {
            let labels = client.list(&["labels"], &[], ALL).await?;
            output::list(format.into(), COLUMNS, &labels)
        }
        LabelsCommand::Create {
            name,
            description,
            query,
            host,
            platform,
        } => {
            let mut body = json!({ "name": name, "description": description });
            if !platform.is_empty() {
                body["platform"] = json!(platform);
            }
            match query {
                Some(query) => body["query"] = json!(query),
                None => body["hosts"] = json!(host),
            }
            let label = client.post(&["labels"], &body).await?;
            output::say(&format!("made the label `{name}` with id {}", label["id"]));
            Ok(())
        }
        LabelsCommand::Edit {
            label,
            name,
            description,
            query,
            platform,
            host,
        } => {
            let id = id_of(client, "label", &["labels"], &["name"], &label).await?;
            let mut body = json!({});
            let members = [
                ("name", name),
                ("description", description),
                ("query", query),
                ("platform", platform),
            ];
            for (member, value) in members {
                if let Some(value) = value {
                    body[member] = json!(value);
                }
            }
            if !host.is_empty() {
                body["hosts"] = json!(host);
            }
            let label = client.patch(&["labels", &id.to_string()], &body).await?;
            output::say(&format!(
                "changed the label `{}`: {} hosts",
                label["name"].as_str().unwrap_or_default(),
                label["hosts_count"]
            ));
            Ok(())
        }
        LabelsCommand::Delete { name } => {
            let id = id_of(client, "label", &["labels"], &["name"], &name).await?;
            client.delete(&["labels", &id.to_string()]).await?;
            output::say(&format!("deleted the label `{name}`"));
            Ok(())
        }
    }
}
