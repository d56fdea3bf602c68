//! Keys of all hosts.

use serde_json::json;

use super::ALL;
use crate::arguments::KeysCommand;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column};

const ROTATIONS: &[Column] = &[
    Column("id", &["id"]),
    Column("began", &["started_at"]),
    Column("by", &["started_by"]),
    Column("per minute", &["hosts_per_minute"]),
    Column("told", &["asked"]),
    Column("left alone", &["skipped"]),
    Column("ended", &["ended_at"]),
    Column("outcome", &["outcome"]),
];
const BANS: &[Column] = &[
    Column("host", &["host_id"]),
    Column("name", &["display_name"]),
    Column("since", &["banned_at"]),
    Column("by", &["banned_by"]),
    Column("reason", &["reason"]),
];
const REFUSED: &[Column] = &[
    Column("host", &["host_id"]),
    Column("family", &["family"]),
    Column("reason", &["reason"]),
    Column("calls", &["calls"]),
    Column("first", &["first_at"]),
    Column("last", &["last_at"]),
];

pub(super) async fn run(client: &Client, command: KeysCommand) -> Result<(), CliError> {
    match command {
        KeysCommand::Rotate { per_minute } => {
            let body = json!({ "hosts_per_minute": per_minute });
            let rotation = client.post(&["key-rotations"], &body).await?;
            output::say(&format!(
                "rotation {} tells {per_minute} hosts a minute to enroll again; `muster keys rotations` shows how far it is",
                rotation["id"]
            ));
        }
        KeysCommand::Rotations(format) => {
            let answer = client.get(&["key-rotations"], &[]).await?;
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            output::list(format.into(), ROTATIONS, &items)?;
            output::say(&format!(
                "{} keys are to be renewed and are not yet",
                answer["waiting"]
            ));
        }
        KeysCommand::Stop { id } => {
            let path = ["key-rotations", &id.to_string(), "stop"];
            client.post(&path, &json!({})).await?;
            output::say(&format!("rotation {id} is stopped"));
        }
        KeysCommand::Bans(format) => {
            let bans = client.list(&["bans"], &[], ALL).await?;
            output::list(format.into(), BANS, &bans)?;
        }
        KeysCommand::Refused(format) => {
            let refused = client.list(&["refused-agents"], &[], ALL).await?;
            output::list(format.into(), REFUSED, &refused)?;
        }
    }
    Ok(())
}
