//! Teams, users and the log of changes.

use std::path::Path;

use serde_json::{Value, json};

use super::{ALL, id_of, team_id};
use crate::arguments::{
    Audit, Format, NewUserArguments, Teams, TeamsCommand, UserEditArguments, Users, UsersCommand,
};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column};
use crate::prompt;

const TEAM_COLUMNS: &[Column] = &[
    Column("id", &["id"]),
    Column("name", &["name"]),
    Column("description", &["description"]),
];
const USER_COLUMNS: &[Column] = &[
    Column("id", &["id"]),
    Column("email", &["email"]),
    Column("name", &["name"]),
    Column("role", &["global_role"]),
    Column("teams", &["teams"]),
    Column("second factor", &["second_factor"]),
    Column("disabled", &["disabled"]),
];
const AUDIT_COLUMNS: &[Column] = &[
    Column("at", &["at"]),
    Column("who", &["actor_email", "actor_kind"]),
    Column("from", &["address"]),
    Column("action", &["action"]),
    Column("subject", &["subject_kind"]),
    Column("id", &["subject_id"]),
    Column("reason", &["after.reason"]),
];

pub(super) async fn teams(client: &Client, arguments: Teams) -> Result<(), CliError> {
    let list = async |format: Format| {
        let teams = client.list(&["teams"], &[], ALL).await?;
        output::list(format.into(), TEAM_COLUMNS, &teams)
    };
    match arguments.command {
        None => list(arguments.format).await,
        Some(TeamsCommand::List(format)) => list(format).await,
        Some(TeamsCommand::Create { name, description }) => {
            let body = json!({ "name": name, "description": description });
            let team = client.post(&["teams"], &body).await?;
            output::say(&format!("made the team `{name}` with id {}", team["id"]));
            Ok(())
        }
        Some(TeamsCommand::Expiry {
            team,
            days,
            inherit,
        }) => {
            let id = team_id(client, &team).await?.to_string();
            let path = ["teams", &id, "host-expiry"];
            if inherit {
                client.delete(&path).await?;
            } else if let Some(days) = days {
                client.put(&path, &json!({ "days": days })).await?;
            }
            let rule = client.get(&path, &[]).await?;
            let text = if rule["enabled"] == true {
                let whose = if rule["inherited"] == true {
                    "as for all"
                } else {
                    "its own rule"
                };
                format!(
                    "hosts of `{team}` are deleted after {} days without a word ({whose})\n",
                    rule["days"]
                )
            } else {
                format!("hosts of `{team}` are kept, however long they stay away\n")
            };
            output::print(&text)
        }
        Some(TeamsCommand::Edit {
            team,
            name,
            description,
        }) => {
            let id = team_id(client, &team).await?;
            let mut body = json!({});
            for (member, value) in [("name", name), ("description", description)] {
                if let Some(value) = value {
                    body[member] = json!(value);
                }
            }
            let team = client.patch(&["teams", &id.to_string()], &body).await?;
            let name = team["name"].as_str().unwrap_or_default();
            output::say(&format!("changed the team `{name}`"));
            Ok(())
        }
        Some(TeamsCommand::AgentOptions {
            team,
            file,
            inherit,
        }) => agent_options(client, &team, file.as_deref(), inherit).await,
        Some(TeamsCommand::Delete { name }) => {
            let id = team_id(client, &name).await?;
            client.delete(&["teams", &id.to_string()]).await?;
            output::say(&format!("deleted the team `{name}`"));
            Ok(())
        }
    }
}

/// Prints, sets or takes back the agent options of a team. What is printed can be set again.
async fn agent_options(
    client: &Client,
    team: &str,
    file: Option<&Path>,
    inherit: bool,
) -> Result<(), CliError> {
    let id = team_id(client, team).await?.to_string();
    let path = ["teams", id.as_str(), "agent-options"];
    if inherit {
        client.delete(&path).await?;
        output::say(&format!(
            "the team `{team}` has the organisation's agent options"
        ));
    } else if let Some(file) = file {
        let body = json!({ "options": read_json(file)? });
        client.put(&path, &body).await?;
        output::say(&format!("set the agent options of the team `{team}`"));
    } else {
        let answer = client.get(&path, &[]).await?;
        if answer["inherited"] == true {
            output::say(&format!(
                "the team `{team}` has none of its own; these are the organisation's"
            ));
        }
        output::print(&format!("{:#}\n", answer["options"]))?;
    }
    Ok(())
}

/// Reads a JSON file; `-` is standard input.
fn read_json(path: &Path) -> Result<Value, CliError> {
    let text = crate::input::text(path)?;
    serde_json::from_str(&text).map_err(|source| CliError::NotJson {
        path: path.to_owned(),
        source,
    })
}

pub(super) async fn users(client: &Client, arguments: Users) -> Result<(), CliError> {
    let list = async |format: Format| {
        let mut users = client.list(&["users"], &[], ALL).await?;
        if !format.json {
            name_teams(client, &mut users).await?;
        }
        output::list(format.into(), USER_COLUMNS, &users)
    };
    match arguments.command {
        None => list(arguments.format).await,
        Some(UsersCommand::List(format)) => list(format).await,
        Some(UsersCommand::Create(new)) => create_user(client, new).await,
        Some(UsersCommand::Edit(change)) => edit_user(client, change).await,
        Some(UsersCommand::ResetPassword { name }) => {
            let id = user_id(client, &name).await?.to_string();
            let answer = client
                .post(&["users", &id, "reset-password"], &json!({}))
                .await?;
            output::say(&format!(
                "the sessions of `{name}` are ended; this is its password for the next login:"
            ));
            let password = answer["password"].as_str().unwrap_or_default();
            output::print(&format!("{password}\n"))
        }
        Some(UsersCommand::ResetTotp { name }) => {
            let id = user_id(client, &name).await?.to_string();
            client.delete(&["users", &id, "totp"]).await?;
            output::say(&format!("`{name}` has no second factor any more"));
            Ok(())
        }
        Some(UsersCommand::Delete { name }) => {
            let id = user_id(client, &name).await?;
            client.delete(&["users", &id.to_string()]).await?;
            output::say(&format!("deleted the user `{name}`"));
            Ok(())
        }
    }
}

/// Roles in teams as `Servers: observer` instead of ids.
async fn name_teams(client: &Client, users: &mut [Value]) -> Result<(), CliError> {
    let has_teams = |user: &Value| {
        user["teams"]
            .as_array()
            .is_some_and(|teams| !teams.is_empty())
    };
    if !users.iter().any(has_teams) {
        return Ok(());
    }
    let teams = client.list(&["teams"], &[], ALL).await?;
    for user in users {
        let Some(roles) = user["teams"].as_array_mut() else {
            continue;
        };
        for role in roles {
            let team = teams.iter().find(|team| team["id"] == role["team_id"]);
            let name = team.and_then(|team| team["name"].as_str()).unwrap_or("?");
            *role = json!(format!("{name}: {}", role["role"].as_str().unwrap_or("?")));
        }
    }
    Ok(())
}

async fn edit_user(client: &Client, change: UserEditArguments) -> Result<(), CliError> {
    let id = user_id(client, &change.name).await?.to_string();
    let mut body = json!({});
    for (member, value) in [("email", change.email), ("name", change.full_name)] {
        if let Some(value) = value {
            body[member] = json!(value);
        }
    }
    if let Some(role) = change.role {
        if change.team.is_empty() {
            body["global_role"] = json!(role);
        } else {
            let mut roles = Vec::new();
            for team in &change.team {
                roles.push(json!({ "team_id": team_id(client, team).await?, "role": role }));
            }
            body["teams"] = json!(roles);
        }
    }
    if change.disable || change.enable {
        body["disabled"] = json!(change.disable);
    }
    client.patch(&["users", &id], &body).await?;
    output::say(&format!("changed the user `{}`", change.name));
    Ok(())
}

async fn create_user(client: &Client, new: NewUserArguments) -> Result<(), CliError> {
    let mut roles = Vec::new();
    for team in &new.team {
        roles.push(json!({ "team_id": team_id(client, team).await?, "role": new.role }));
    }
    let name = new
        .name
        .unwrap_or_else(|| new.email.split('@').next().unwrap_or_default().to_owned());
    let password = prompt::password(&format!("Password for {}", new.email))?;
    let mut body = json!({
        "name": name,
        "email": new.email,
        "password": password,
        "teams": roles,
        "api_only": new.api_only,
    });
    if new.team.is_empty() {
        body["global_role"] = json!(new.role);
    }
    let user = client.post(&["users"], &body).await?;
    output::say(&format!(
        "made the user {} with id {}",
        new.email, user["id"]
    ));
    Ok(())
}

pub(super) async fn user_id(client: &Client, name: &str) -> Result<i64, CliError> {
    id_of(client, "user", &["users"], &["email"], name).await
}

pub(super) async fn audit(client: &Client, arguments: &Audit) -> Result<(), CliError> {
    let mut query = vec![("sort", "-id".to_owned())];
    if let Some(action) = &arguments.filter.action {
        query.push(("action", action.clone()));
    }
    if let Some(kind) = &arguments.filter.subject {
        query.push(("subject_kind", kind.clone()));
    }
    if let Some(user) = &arguments.filter.user {
        query.push(("actor_id", user_id(client, user).await?.to_string()));
    }
    let records = client.list(&["audit"], &query, arguments.limit).await?;
    output::list(arguments.format.into(), AUDIT_COLUMNS, &records)
}
