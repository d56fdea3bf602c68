//! What people do about themselves: password, second factor, sessions.

use std::io::IsTerminal as _;

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::{Value, json};

use super::ALL;
use super::tokens::whose;
use crate::arguments::{Format, Sessions, SessionsCommand, Totp, TotpCommand};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column};
use crate::prompt;

const SESSIONS: &[Column] = &[
    Column("current", &["current"]),
    Column("id", &["id"]),
    Column("began", &["created_at"]),
    Column("last used", &["used_at"]),
    Column("from", &["address"]),
];

/// Sets a new password of one's own.
pub(super) async fn change_password(client: &Client) -> Result<(), CliError> {
    let old = prompt::password("Your password")?;
    set_password(client, &old).await?;
    output::say("your password is changed; your other sessions ended");
    Ok(())
}

/// Asks for a new password and sets it.
pub(super) async fn set_password(client: &Client, old: &str) -> Result<(), CliError> {
    let new = prompt::new_password("New password")?;
    let body = json!({ "old_password": old, "new_password": new });
    client.post(&["me", "password"], &body).await.map(drop)
}

pub(super) async fn totp(client: &Client, arguments: Totp) -> Result<(), CliError> {
    match arguments.command {
        None => {
            let state = client.get(&["me", "totp"], &[]).await?;
            if arguments.json {
                return output::print(&format!("{state}\n"));
            }
            let text = if state["enabled"] == true {
                format!(
                    "your logins need a code since {}; {} recovery codes are left\n",
                    state["enabled_at"].as_str().unwrap_or_default(),
                    state["recovery_codes"]
                )
            } else {
                "you have no second factor; set one up with: muster totp enable\n".to_owned()
            };
            output::print(&text)
        }
        Some(TotpCommand::Enable) => enable(client).await,
        Some(TotpCommand::Disable) => {
            client
                .post(&["me", "totp", "disable"], &full_proof()?)
                .await?;
            output::say("your logins need no code any more");
            Ok(())
        }
        Some(TotpCommand::RecoveryCodes) => {
            let path = ["me", "totp", "recovery-codes"];
            print_codes(&client.post(&path, &full_proof()?).await?)
        }
    }
}

fn full_proof() -> Result<Value, CliError> {
    let password = prompt::password("Your password")?;
    let code = prompt::line("Code of your authenticator app, or a recovery code")?;
    Ok(json!({ "password": password, "code": code }))
}

async fn enable(client: &Client) -> Result<(), CliError> {
    let password = prompt::password("Your password")?;
    let begun = client
        .post(&["me", "totp"], &json!({ "password": password }))
        .await?;
    let member = |name: &str| begun[name].as_str().unwrap_or_default();
    // Both are secrets, and the person has to see them.
    if std::io::stderr().is_terminal()
        && let Ok(code) = QrCode::new(member("uri"))
    {
        let picture = code.render::<Dense1x2>().quiet_zone(true).build();
        output::say(&picture);
    }
    output::say(&format!(
        "Scan this with an authenticator app, or type its secret: {}\n{}",
        member("secret"),
        member("uri")
    ));
    let code = prompt::line("Code that the app shows")?;
    let body = json!({ "code": code });
    let answer = client.post(&["me", "totp", "confirm"], &body).await?;
    output::say("your logins need a code from now on; your other sessions ended");
    print_codes(&answer)
}

/// Only the codes go to standard output.
fn print_codes(answer: &Value) -> Result<(), CliError> {
    let codes = answer["recovery_codes"].as_array();
    let codes: Vec<&str> = codes
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    output::say("Each of these is good for one login without the app; they are not shown again:");
    output::print(&(codes.join("\n") + "\n"))
}

pub(super) async fn sessions(client: &Client, arguments: Sessions) -> Result<(), CliError> {
    match arguments.command {
        None => list(client, arguments.user, arguments.format).await,
        Some(SessionsCommand::List { user, format }) => list(client, user, format).await,
        Some(SessionsCommand::End { id, user, .. }) => {
            let whom = user;
            let user = whose(client, whom.as_deref()).await?;
            if let Some(id) = id {
                let path = ["users", &user, "sessions", &id.to_string()];
                client.delete(&path).await?;
                output::say(&format!("session {id} is ended"));
            } else {
                client.delete(&["users", &user, "sessions"]).await?;
                output::say(&match whom {
                    Some(email) => format!("all sessions of {email} are ended"),
                    None => "all your sessions are ended, this one too; log in again: muster login"
                        .to_owned(),
                });
            }
            Ok(())
        }
    }
}

async fn list(client: &Client, user: Option<String>, format: Format) -> Result<(), CliError> {
    let user = whose(client, user.as_deref()).await?;
    let mut sessions = client.list(&["users", &user, "sessions"], &[], ALL).await?;
    if !format.json && !format.csv {
        for session in &mut sessions {
            let mark = if session["current"] == true { "*" } else { "" };
            session["current"] = json!(mark);
        }
    }
    output::list(format.into(), SESSIONS, &sessions)
}
