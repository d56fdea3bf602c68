//! Collectors.

pub(super) mod find;
mod show;

use std::io::{self, IsTerminal as _};

use serde_json::{Value, json};

use super::{ALL, NO_TEAM, name_teams, team_id};
use crate::arguments::{Collector, Collectors};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column, Style};

const COLUMNS: &[Column] = &[
    Column("id", &["id"]),
    Column("name", &["name"]),
    Column("version", &["version"]),
    Column("host", &["host_name"]),
    Column("team", &["team_name", "team_id"]),
    Column("status", &["status"]),
    Column("state", &["standing"]),
    Column("healthy", &["healthy"]),
    Column("key", &["key_status"]),
    Column("config", &["config_status"]),
    Column("seen", &["seen_at"]),
];
const COUNTS: &[Column] = &[
    Column("state", &["standing"]),
    Column("key", &["key_status"]),
    Column("collectors", &["total"]),
    Column("online", &["online"]),
];

pub(super) async fn list(client: &Client, arguments: &Collectors) -> Result<(), CliError> {
    let style = arguments.format.into();
    if arguments.summary {
        let counts = client.get(&["collectors", "summary"], &[]).await?;
        let counts = counts.as_array().map(Vec::as_slice).unwrap_or_default();
        return output::list(style, COUNTS, counts);
    }
    let filters = filters(client, arguments).await?;
    if arguments.delete {
        return delete_all(client, filters, arguments.yes).await;
    }
    let as_text = |(name, wish): (&'static str, Value)| match wish {
        Value::String(text) => (name, text),
        other => (name, other.to_string()),
    };
    let mut query: Vec<_> = filters.into_iter().map(as_text).collect();
    query.extend(arguments.sort.clone().map(|sort| ("sort", sort)));
    let mut collectors = client.list(&["collectors"], &query, ALL).await?;
    name_teams(client, &mut collectors).await?;
    output::list(style, COLUMNS, &collectors)
}

/// All filters of the list, each of the type that it has in the API.
async fn filters(
    client: &Client,
    arguments: &Collectors,
) -> Result<Vec<(&'static str, Value)>, CliError> {
    let text = |wish: &Option<String>| wish.as_deref().map(Value::from);
    let all = |wishes: &[String]| {
        let wishes: Vec<String> = wishes.iter().map(|wish| quoted(wish)).collect();
        (!wishes.is_empty()).then(|| Value::from(wishes.join(",")))
    };
    let host = match &arguments.host {
        None => None,
        Some(host) => Some(Value::from(host_id(client, host).await?)),
    };
    let team = match arguments.team.as_deref() {
        None => None,
        Some(NO_TEAM) => Some(Value::from(0)),
        Some(team) => Some(Value::from(team_id(client, team).await?)),
    };
    let says_health = arguments.healthy || arguments.unhealthy;
    let table = [
        ("search", text(&arguments.search)),
        ("status", text(&arguments.status)),
        ("standing", text(&arguments.state)),
        ("key_status", text(&arguments.key)),
        ("config_status", text(&arguments.config)),
        ("version", text(&arguments.version)),
        ("capability", all(&arguments.capability)),
        ("attribute", all(&arguments.attribute)),
        ("enrollment_token_id", arguments.token.map(Value::from)),
        ("host_id", host),
        ("host_link", text(&arguments.host_link)),
        ("healthy", says_health.then_some(arguments.healthy.into())),
        ("team_id", team),
    ];
    let wished = |(name, wish): (_, Option<Value>)| Some((name, wish?));
    Ok(table.into_iter().filter_map(wished).collect())
}

/// The id of the host that a name means.
async fn host_id(client: &Client, name: &str) -> Result<i64, CliError> {
    let host = super::hosts::find(client, name).await?;
    Ok(super::id_in(&host).unwrap_or_default())
}

/// A requirement on an attribute as it may stand between commas.
fn quoted(requirement: &str) -> String {
    let (name, value) = match requirement.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (requirement, None),
    };
    match value {
        None => word(name),
        Some(value) => format!("{}={}", word(name), word(value)),
    }
}

fn word(text: &str) -> String {
    let is_plain = !text.contains([',', '"']) && text.trim() == text;
    if is_plain {
        return text.to_owned();
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

/// Deletes the collectors that filters name, or tells how many there are.
async fn delete_all(
    client: &Client,
    filters: Vec<(&'static str, Value)>,
    is_sure: bool,
) -> Result<(), CliError> {
    let filters = filters.into_iter();
    let filter: serde_json::Map<String, Value> = filters
        .map(|(name, wish)| (name.to_owned(), wish))
        .collect();
    let ask = async |dry_run: bool| {
        let body = json!({ "filter": filter, "dry_run": dry_run });
        let answer = client.post(&["collectors", "delete"], &body).await?;
        let number = |name: &str| answer[name].as_u64().unwrap_or(0);
        Ok::<_, CliError>((
            ["matched", "online", "revoked"].map(number),
            number("deleted"),
            number("remaining"),
        ))
    };
    let ([matched, online, revoked], ..) = ask(true).await?;
    if !is_sure {
        output::say(&format!(
            "{matched} {} be deleted: {online} online, {revoked} revoked (deleted, they may come again by an enrollment token)\n\
                \x20 nothing was deleted: add --yes to do it, or leave --delete out to see them",
            if matched == 1 {
                "collector would"
            } else {
                "collectors would"
            }
        ));
        return Ok(());
    }
    // Some thousand go by one request.
    let mut all = 0;
    loop {
        let (_, deleted, remaining) = ask(false).await?;
        all += deleted;
        if deleted == 0 || remaining == 0 {
            break;
        }
        output::say(&format!("{all} deleted, {remaining} to go"));
    }
    output::say(&format!(
        "deleted {all} {}",
        if all == 1 { "collector" } else { "collectors" }
    ));
    Ok(())
}

pub(super) async fn one(client: &Client, arguments: &Collector) -> Result<(), CliError> {
    let found = find::find(client, &arguments.name).await?;
    let id = super::id_in(&found).unwrap_or_default();
    if let Some(done) = change(client, arguments, id, &found).await? {
        if !arguments.json {
            output::say(&done);
            if arguments.revoke.is_some() {
                warn_of_token(client, &found).await;
            }
            return Ok(());
        }
        let after = if arguments.delete {
            json!({ "id": id, "deleted": true })
        } else {
            client.get(&["collectors", &id.to_string()], &[]).await?
        };
        return output::print(&format!("{after:#}\n"));
    }
    let mut detail = client.get(&["collectors", &id.to_string()], &[]).await?;
    name_teams(client, std::slice::from_mut(&mut detail)).await?;
    if arguments.effective_config {
        effective_config(&detail, id, arguments.json)
    } else if arguments.components {
        let components = detail
            .get("available_components")
            .ok_or(CliError::NotSaid {
                id,
                what: "which components it is built of",
                hint: "agents with the capability reports_available_components do",
            })?;
        if arguments.json {
            return output::print(&format!("{components:#}\n"));
        }
        output::print(&show::components(components))
    } else if arguments.events {
        let style = if arguments.json {
            Style::Json
        } else {
            Style::Table
        };
        output::print(&show::events(style, &detail))
    } else if arguments.json {
        output::print(&format!("{detail:#}\n"))
    } else {
        output::print(&show::collector(&detail))
    }
}

/// Changes what is to be changed, and what is said about it.
async fn change(
    client: &Client,
    arguments: &Collector,
    id: i64,
    found: &Value,
) -> Result<Option<String>, CliError> {
    let (number, called) = (id.to_string(), called(found));
    let post = async |action: &str, body: Value| {
        client.post(&["collectors", &number, action], &body).await
    };
    let said = if let Some(reason) = &arguments.revoke {
        post("revoke", json!({ "reason": reason })).await?;
        format!(
            "{called} is revoked: its keys are refused from now on, and so is its uid\n\
                \x20 let it come again: muster collector {id} --unrevoke"
        )
    } else if arguments.unrevoke {
        post(
            "unrevoke",
            json!({ "with_its_key": arguments.with_its_key }),
        )
        .await?;
        if found["standing"] != "revoked" {
            format!("{called} is not revoked: nothing was changed")
        } else if arguments.with_its_key {
            format!("{called} may come again, by its key or by an enrollment token")
        } else {
            format!(
                "{called} may come again by an enrollment token\n\
                    \x20 its key is never good again: an agent that still shows it is refused until it is started anew"
            )
        }
    } else if arguments.approve {
        post("approve", json!({})).await?;
        format!("{called} may come back by its enrollment token within a day")
    } else if arguments.restart {
        post("restart", json!({})).await?;
        format!(
            "{called} is told to restart, at once or at its next message within a quarter of an hour"
        )
    } else if arguments.rotate_key {
        post("rotate-key", json!({})).await?;
        format!("{called} is offered a new key; the old one stays good until the new one is used")
    } else if let Some(host) = &arguments.link_host {
        let host = host_id(client, host).await?;
        let body = json!({ "host_id": host });
        client.put(&["collectors", &number, "host"], &body).await?;
        format!("{called} is linked to host {host}\n  undo it: muster collector {id} --unlink-host")
    } else if arguments.unlink_host {
        client.delete(&["collectors", &number, "host"]).await?;
        format!("{called} is linked to no host, and is not linked to this one by itself again")
    } else if let Some(host) = &arguments.confirm_host {
        let host = host_id(client, host).await?;
        let path = ["collectors", &number, "host", "confirm"];
        client.post(&path, &json!({ "host_id": host })).await?;
        format!("{called} is linked to host {host}\n  undo it: muster collector {id} --unlink-host")
    } else if let Some(host) = &arguments.reject_host {
        let host = host_id(client, host).await?;
        let path = ["collectors", &number, "host", "reject"];
        client.post(&path, &json!({ "host_id": host })).await?;
        format!("host {host} is not suggested for {called} again")
    } else if let Some(team) = &arguments.team {
        let id = match team.as_str() {
            NO_TEAM => None,
            team => Some(team_id(client, team).await?),
        };
        post("transfer", json!({ "team_id": id })).await?;
        match team.as_str() {
            NO_TEAM => format!("{called} is in no team now"),
            team => format!("moved {called} to the team `{team}`"),
        }
    } else if arguments.delete {
        client.delete(&["collectors", &number]).await?;
        format!("deleted {called}")
    } else {
        return Ok(None);
    };
    Ok(Some(said))
}

/// Says by what whoever has the machine of a revoked collector can still enroll as another one, if there is such a token.
async fn warn_of_token(client: &Client, collector: &Value) {
    let Some(token) = collector["enrollment_token_id"].as_i64() else {
        return;
    };
    // Not everybody may look at tokens; then it is said of one that ended, too.
    let found = client
        .get(&["enrollment-tokens", &token.to_string()], &[])
        .await;
    if found.is_ok_and(|token| token["revoked_at"].is_string()) {
        return;
    }
    output::say(&format!(
        "  whoever has its files may know the enrollment token {token}, and can enroll as a new collector by it; end that, too:\n\
            \x20   muster tokens rotate {token} --now        # the secret of its successor is printed\n\
            \x20   muster tokens revoke {token}              # without a successor"
    ));
}

/// What a collector is called in messages.
fn called(collector: &Value) -> String {
    format!("collector {} ({})", collector["id"], show::title(collector))
}

fn effective_config(detail: &Value, id: i64, as_json: bool) -> Result<(), CliError> {
    let config = detail.get("effective_config").ok_or(CliError::NotSaid {
        id,
        what: "which configuration it runs",
        hint: "agents with the capability reports_effective_config do",
    })?;
    if as_json {
        return output::print(&format!("{config:#}\n"));
    }
    let text = show::files(config);
    // What a file says goes through a pipe as it is.
    if io::stdout().is_terminal() {
        return output::print(&(output::printable_lines(&text) + "\n"));
    }
    output::print(&text)
}
