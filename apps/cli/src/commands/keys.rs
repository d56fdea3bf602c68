//! Keys of hosts and collectors. A key goes to standard output, everything else beside it.

use serde_json::{Value, json};

use super::tokens::expiry;
use super::{ALL, team_id};
use crate::arguments::{KeysCommand, KeysRotate};
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
    Column("collector", &["collector_id"]),
    Column("family", &["family"]),
    Column("reason", &["reason"]),
    Column("calls", &["calls"]),
    Column("first", &["first_at"]),
    Column("last", &["last_at"]),
];

const ACCESS_KEYS: &[Column] = &[
    Column("id", &["id"]),
    Column("name", &["name"]),
    Column("collector", &["collector_id"]),
    Column("team", &["team_id"]),
    Column("state", &["state"]),
    Column("made", &["created_at"]),
    Column("first used", &["first_used_at"]),
    Column("last used", &["used_at"]),
    Column("expires", &["expires_at"]),
    Column("good until", &["ends_at"]),
    Column("renewal due", &["rotation_due_at"]),
];

pub(super) async fn run(client: &Client, command: KeysCommand) -> Result<(), CliError> {
    match command {
        KeysCommand::Create {
            name,
            family,
            team,
            expires_in,
            json,
        } => {
            let mut body = json!({ "name": name, "family": family });
            if let Some(team) = &team {
                body["team_id"] = json!(team_id(client, team).await?);
            }
            expiry(&mut body, expires_in);
            let answer = client.post(&["access-keys"], &body).await?;
            made(client, &answer, json)?;
        }
        KeysCommand::List {
            collector,
            state,
            made_in_advance,
            search,
            format,
        } => {
            let mut query = vec![("sort", "-id".to_owned())];
            query.extend(collector.map(|id| ("collector_id", id.to_string())));
            query.extend(state.map(|state| ("state", state)));
            query.extend(made_in_advance.then(|| ("made_in_advance", "true".to_owned())));
            query.extend(search.map(|text| ("search", text)));
            let keys = client.list(&["access-keys"], &query, ALL).await?;
            output::list(format.into(), ACCESS_KEYS, &keys)?;
        }
        KeysCommand::Revoke { id } => {
            let path = ["access-keys", &id.to_string(), "revoke"];
            client.post(&path, &json!({})).await?;
            output::say(&format!("revoked the access key {id}"));
        }
        KeysCommand::Rotate(KeysRotate { id: Some(id), .. }) => {
            let path = ["access-keys", &id.to_string(), "rotate"];
            client.post(&path, &json!({})).await?;
            output::say(&format!(
                "the collector of the access key {id} is offered a new one at its next message"
            ));
        }
        KeysCommand::Rotate(KeysRotate {
            family: Some(_),
            per_minute,
            ..
        }) => {
            let body = json!({ "collectors_per_minute": per_minute });
            let rotation = client.post(&["access-key-rotation"], &body).await?;
            output::say(&format!(
                "{} access keys are renewed, {per_minute} a minute; `muster keys rotations` shows how far that is",
                rotation["waiting"]
            ));
            for line in not_renewed(&rotation) {
                output::say(&line);
            }
        }
        KeysCommand::Rotate(KeysRotate { per_minute, .. }) => {
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
            // An older server has none.
            match client.get(&["access-key-rotation"], &[]).await {
                Ok(answer) if format.json => {
                    let mut line = json!({ "family": "opamp" });
                    for member in ["waiting", "due", "cannot_take", "away", "last_due_at"] {
                        if !answer[member].is_null() {
                            line[member] = answer[member].clone();
                        }
                    }
                    output::print(&format!("{line}\n"))?;
                }
                Ok(answer) => output::say(&access_key_rotation(&answer)),
                Err(CliError::NotServed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        KeysCommand::Stop { id: None, .. } => {
            client.delete(&["access-key-rotation"]).await?;
            output::say("the rotation of access keys is stopped");
        }
        KeysCommand::Stop { id: Some(id), .. } => {
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

fn made(client: &Client, answer: &Value, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return output::print(&format!("{answer}\n"));
    }
    let secret = answer.get("secret").and_then(Value::as_str);
    let secret = secret.ok_or_else(|| CliError::NotMuster {
        url: client.url().to_owned(),
        source: None,
    })?;
    output::say(&format!(
        "made the access key with id {}; it is not shown again",
        answer["key"]["id"]
    ));
    output::print(&format!("{}\n", output::printable(secret)))
}

/// How far the rotation of collectors' keys is.
fn access_key_rotation(rotation: &Value) -> String {
    let head = format!(
        "{} access keys of collectors are to be renewed and are not yet; {} of them are due now",
        rotation["waiting"], rotation["due"]
    );
    let lines = not_renewed(rotation);
    std::iter::once(head)
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Which of those that wait are not renewed as things are. An older server does not tell.
fn not_renewed(rotation: &Value) -> Vec<String> {
    let number = |member: &str| rotation[member].as_u64().unwrap_or(0);
    let (waiting, cannot, away) = (number("waiting"), number("cannot_take"), number("away"));
    let mut lines = Vec::new();
    if cannot > 0 {
        lines.push(format!(
            "  {cannot} of them stay: their agents cannot take another; make new keys in advance for these (muster keys create)"
        ));
    }
    if away > 0 {
        lines.push(format!(
            "  {away} of them are of collectors that are offline, and are renewed when these come back"
        ));
    }
    if !lines.is_empty() && waiting == cannot + away {
        lines.push("  all others are renewed".to_owned());
    }
    lines
}
