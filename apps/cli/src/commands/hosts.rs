//! Hosts.

use serde_json::{Value, json};

use super::{ALL, NO_TEAM, name_teams, team_id};
use crate::arguments::{Host, Hosts};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column, Style};

const COLUMNS: &[Column] = &[
    Column("id", &["id"]),
    Column("name", &["display_name", "hostname"]),
    Column("status", &["status"]),
    Column("platform", &["platform"]),
    Column("os", &["os_version", "os_name"]),
    Column("team", &["team_name", "team_id"]),
    Column("seen", &["seen_at"]),
];

const SOFTWARE: &[Column] = &[
    Column("name", &["name"]),
    Column("version", &["version"]),
    Column("source", &["source"]),
];

pub(super) async fn list(client: &Client, arguments: &Hosts) -> Result<(), CliError> {
    let mut query = Vec::new();
    let wishes = [
        ("search", &arguments.search),
        ("status", &arguments.status),
        ("sort", &arguments.sort),
    ];
    for (name, wish) in wishes {
        if let Some(wish) = wish {
            query.push((name, wish.clone()));
        }
    }
    if let Some(team) = &arguments.team {
        query.push(("team_id", team_id(client, team).await?.to_string()));
    }
    let mut hosts = client.list(&["hosts"], &query, ALL).await?;
    name_teams(client, &mut hosts).await?;
    output::list(arguments.format.into(), COLUMNS, &hosts)
}

/// The ban of a host that was deleted, which it outlives; by the host's id or its name.
async fn deleted_and_banned(client: &Client, name: &str) -> Result<Option<Value>, CliError> {
    let mut bans = client.list(&["bans"], &[], ALL).await?.into_iter();
    let id = name.parse::<i64>().ok();
    Ok(bans
        .find(|ban| (id.is_some() && ban["host_id"].as_i64() == id) || ban["display_name"] == name))
}

pub(super) async fn host(client: &Client, arguments: &Host) -> Result<(), CliError> {
    let mut host = match find(client, &arguments.name).await {
        Err(unknown @ CliError::NoHost { .. }) if arguments.unban => {
            let ban = deleted_and_banned(client, &arguments.name).await?;
            let id = ban.ok_or(unknown)?["host_id"].to_string();
            client.delete(&["hosts", &id, "ban"]).await?;
            output::say(&format!("the deleted host {id} may enroll again"));
            return Ok(());
        }
        found => found?,
    };
    name_teams(client, std::slice::from_mut(&mut host)).await?;
    let id = super::id_in(&host).unwrap_or_default().to_string();
    if arguments.software {
        let style = if arguments.json {
            Style::Json
        } else {
            Style::Table
        };
        let query = [("host_id", id), ("sort", "name".to_owned())];
        let software = client.list(&["software"], &query, ALL).await?;
        output::list(style, SOFTWARE, &software)?;
    } else if arguments.delete {
        client.delete(&["hosts", &id]).await?;
        output::say(&format!("deleted host {id}"));
    } else if let Some(team) = &arguments.team {
        let mut body = json!({ "host_ids": [super::id_in(&host)] });
        if team != NO_TEAM {
            body["team_id"] = json!(team_id(client, team).await?);
        }
        client.post(&["hosts", "transfer"], &body).await?;
        output::say(&match team.as_str() {
            NO_TEAM => format!("host {id} is in no team now"),
            team => format!("moved host {id} to the team `{team}`"),
        });
    } else if let Some(reason) = &arguments.ban {
        let body = json!({ "reason": reason });
        let ban = client.put(&["hosts", &id, "ban"], &body).await?;
        output::say(&match ban["reason"].as_str() {
            Some(kept) if kept != reason.trim() => {
                format!("host {id} is banned already: {kept}")
            }
            _ => format!("host {id} is banned"),
        });
    } else if arguments.unban {
        client.delete(&["hosts", &id, "ban"]).await?;
        output::say(&format!("host {id} may come back"));
    } else if arguments.rotate_keys {
        let path = ["hosts", &id, "keys", "rotate"];
        let rotated = client.post(&path, &json!({})).await?;
        output::say(&format!(
            "{} keys of host {id} are renewed at their next use",
            rotated["keys"]
        ));
    } else if let Some(key) = arguments.revoke_key {
        let path = ["hosts", &id, "keys", &key.to_string(), "revoke"];
        client.post(&path, &json!({})).await?;
        output::say(&format!("key {key} of host {id} is taken away"));
    } else if let Some(name) = &arguments.merge_into {
        let into = find(client, name).await?;
        let into = super::id_in(&into);
        client
            .post(&["hosts", &id, "merge"], &json!({ "into": into }))
            .await?;
        output::say(&format!(
            "host {id} is host {} now",
            into.unwrap_or_default()
        ));
    } else if arguments.refetch {
        client.post(&["hosts", &id, "refetch"], &json!({})).await?;
        output::say(&format!(
            "host {id} is asked for its details at its next check-in"
        ));
    } else if arguments.json {
        output::print(&format!("{host:#}\n"))?;
    } else {
        // Beside each process because of which it is dark.
        if let Some(members) = host.as_object_mut()
            && let Some(dark) = members.remove("dark_features")
        {
            let dark = super::skew::shown(&dark);
            if !dark.is_empty() {
                members.insert("dark features".to_owned(), Value::Array(dark));
            }
        }
        output::print(&output::thing(&host))?;
    }
    Ok(())
}

/// By id when it is a number that is one, else by what identifies hosts.
pub(super) async fn find(client: &Client, name: &str) -> Result<Value, CliError> {
    if name.parse::<i64>().is_ok() {
        match client.get(&["hosts", name], &[]).await {
            Err(CliError::Refused { status: 404, .. }) => {}
            found => return found,
        }
    }
    match client.get(&["hosts", "by-identifier", name], &[]).await {
        Err(CliError::Refused { status: 404, .. }) => Err(CliError::NoHost {
            name: name.to_owned(),
        }),
        found => found,
    }
}
