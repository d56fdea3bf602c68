//! Enrollment tokens and API tokens. Secrets go to standard output, everything else beside it.

use std::time::Duration;

use muster_clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::identity::user_id;
use super::{ALL, id_of, team_id};
use crate::arguments::{ApiTokens, ApiTokensCommand, Format, Tokens, TokensCommand, TokensCreate};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column};

const ENROLLMENT_COLUMNS: &[Column] = &[
    Column("id", &["id"]),
    Column("name", &["name"]),
    Column("team", &["team_id"]),
    Column("families", &["families"]),
    Column("known agents", &["known_agents"]),
    Column("ephemeral", &["ephemeral"]),
    Column("labels", &["labels"]),
    Column("networks", &["networks"]),
    Column("uses", &["uses"]),
    Column("max", &["max_uses"]),
    Column("last used", &["used_at"]),
    Column("expires", &["expires_at"]),
    Column("revoked", &["revoked_at"]),
];
const HOST_COLUMNS: &[Column] = &[
    Column("host", &["host_id"]),
    Column("first enrolled", &["first_enrolled_at"]),
    Column("last enrolled", &["enrolled_at"]),
    Column("key last used", &["key_used_at"]),
    Column("valid key", &["has_valid_key"]),
];
const API_COLUMNS: &[Column] = &[
    Column("id", &["id"]),
    Column("name", &["name"]),
    Column("last used", &["used_at"]),
    Column("expires", &["expires_at"]),
    Column("revoked", &["revoked_at"]),
];

pub(super) async fn enrollment(client: &Client, arguments: Tokens) -> Result<(), CliError> {
    let list = async |revoked: bool, format: Format| {
        let query = [("revoked", revoked.to_string())];
        let tokens = client.list(&["enrollment-tokens"], &query, ALL).await?;
        output::list(format.into(), ENROLLMENT_COLUMNS, &tokens)?;
        tokens.iter().for_each(warn);
        Ok(())
    };
    match arguments.command {
        None => list(arguments.revoked, arguments.format).await,
        Some(TokensCommand::List { revoked, format }) => list(revoked, format).await,
        Some(TokensCommand::Create(new)) => create(client, new).await,
        Some(TokensCommand::Reveal { id }) => {
            let path = ["enrollment-tokens", &id.to_string(), "reveal"];
            let answer = client.post(&path, &json!({})).await?;
            secret(client, &answer, false)
        }
        Some(TokensCommand::Rotate {
            id,
            overlap,
            now,
            expires_in,
            max_uses,
            json,
        }) => {
            let seconds = if now { 0 } else { overlap.as_secs() };
            let mut body = json!({ "overlap_seconds": seconds, "max_uses": max_uses });
            expiry(&mut body, expires_in);
            let path = ["enrollment-tokens", &id.to_string(), "rotate"];
            let answer = client.post(&path, &body).await?;
            secret(client, &answer, json)?;
            if let Some(end) = answer["old"]["expires_at"].as_str() {
                let end = output::printable(end);
                output::say(&format!("the token with id {id} is good until {end}"));
            }
            warn(&answer["old"]);
            Ok(())
        }
        Some(TokensCommand::Hosts { id, format }) => {
            let path = ["enrollment-tokens", &id.to_string(), "hosts"];
            let hosts = client.list(&path, &[], ALL).await?;
            output::list(format.into(), HOST_COLUMNS, &hosts)
        }
        Some(TokensCommand::Revoke { id, cut_off }) => {
            let path = ["enrollment-tokens", &id.to_string()];
            let token = client.get(&path, &[]).await?;
            if let Some(at) = token["revoked_at"].as_str() {
                let at = output::printable(at);
                output::say(&format!(
                    "the enrollment token {id} was revoked already, at {at}"
                ));
                return Ok(());
            }
            let count = token["collectors_without_key"].as_u64();
            if let Some(collectors) = count.filter(|count| *count > 0 && !cut_off) {
                return Err(CliError::CutsOff { id, collectors });
            }
            client
                .delete(&["enrollment-tokens", &id.to_string()])
                .await?;
            output::say(&format!("revoked the enrollment token {id}"));
            let families = token["families"].as_array();
            if families.is_some_and(|families| families.iter().any(|family| family == "opamp")) {
                output::say(
                    "  collectors with keys of their own go on; those that forget them when they are started anew, as \
                     supervisors do, need another token in their file by then",
                );
            }
            Ok(())
        }
    }
}

async fn create(client: &Client, new: TokensCreate) -> Result<(), CliError> {
    let mut body = json!({ "name": new.name, "families": new.family });
    if let Some(team) = &new.team {
        body["team_id"] = json!(team_id(client, team).await?);
    }
    if let Some(uses) = new.max_uses {
        body["max_uses"] = json!(uses);
    }
    if !new.label.is_empty() {
        let mut ids = Vec::new();
        for label in &new.label {
            ids.push(id_of(client, "label", &["labels"], &["name"], label).await?);
        }
        body["label_ids"] = json!(ids);
    }
    if !new.network.is_empty() {
        body["networks"] = json!(new.network);
    }
    if let Some(rule) = &new.known_agents {
        body["known_agents"] = json!(rule.replace('-', "_"));
    }
    if new.ephemeral {
        body["ephemeral"] = json!(true);
    }
    expiry(&mut body, new.expires_in);
    let answer = client.post(&["enrollment-tokens"], &body).await?;
    let token = &answer["token"];
    let wanted = [
        (!new.label.is_empty(), "labels"),
        (!new.network.is_empty(), "networks"),
        (new.known_agents.is_some(), "known_agents"),
        (new.ephemeral, "ephemeral"),
    ];
    let is_left_out =
        |(is_wanted, member): &(bool, &str)| *is_wanted && token.get(*member).is_none();
    if wanted.iter().any(is_left_out) {
        // An older server ignores what it does not know, and such a token would admit more than it should.
        let id = token["id"].to_string();
        client.delete(&["enrollment-tokens", &id]).await?;
        let url = client.url().to_owned();
        return Err(CliError::TokenUnbound { url });
    }
    secret(client, &answer, new.json)
}

/// Says whom the end of a token that was rotated would cut off.
fn warn(token: &Value) {
    if let Some(warning) = token["rotation"]["warning"].as_str() {
        let warning = output::printable(warning);
        output::say(&format!("warning: token {}: {warning}", token["id"]));
    }
}

pub(super) fn expiry(body: &mut Value, expires_in: Option<Duration>) {
    if let Some(span) = expires_in {
        body["expires_at"] = json!(SystemClock.now().plus(span).to_string());
    }
}

fn secret(client: &Client, answer: &Value, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return output::print(&format!("{answer}\n"));
    }
    let secret = answer.get("secret").and_then(Value::as_str);
    let secret = secret.ok_or_else(|| CliError::NotMuster {
        url: client.url().to_owned(),
        source: None,
    })?;
    if let Some(token) = answer.get("token") {
        output::say(&format!("made the token with id {}", token["id"]));
    }
    output::print(&format!("{}\n", output::printable(secret)))
}

pub(super) async fn api(client: &Client, arguments: ApiTokens) -> Result<(), CliError> {
    let list = async |user: Option<&str>, format: Format| {
        let user = whose(client, user).await?;
        let tokens = client
            .list(&["users", &user, "api-tokens"], &[], ALL)
            .await?;
        output::list(format.into(), API_COLUMNS, &tokens)
    };
    match arguments.command {
        None => list(arguments.user.as_deref(), arguments.format).await,
        Some(ApiTokensCommand::List { user, format }) => list(user.as_deref(), format).await,
        Some(ApiTokensCommand::Create {
            name,
            expires_in,
            user,
            json,
        }) => {
            let user = whose(client, user.as_deref()).await?;
            let mut body = json!({ "name": name });
            expiry(&mut body, expires_in);
            let answer = client.post(&["users", &user, "api-tokens"], &body).await?;
            secret(client, &answer, json)
        }
        Some(ApiTokensCommand::Revoke { id, user }) => {
            let user = whose(client, user.as_deref()).await?;
            client
                .delete(&["users", &user, "api-tokens", &id.to_string()])
                .await?;
            output::say(&format!("revoked the API token {id}"));
            Ok(())
        }
    }
}

/// The id of the user who was named; one's own without a name.
pub(super) async fn whose(client: &Client, user: Option<&str>) -> Result<String, CliError> {
    let id = match user {
        Some(name) => user_id(client, name).await?,
        None => super::id_in(&client.get(&["me"], &[]).await?).unwrap_or_default(),
    };
    Ok(id.to_string())
}
