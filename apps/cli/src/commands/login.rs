//! Logging in and out, and which servers are known.

use serde_json::{Value, json};

use super::me;
use crate::arguments::{ContextsCommand, Global, Login};
use crate::client::Client;
use crate::contexts::{self, Context, Contexts};
use crate::error::CliError;
use crate::output::{self, Column};
use crate::prompt;

pub(super) async fn log_in(global: &Global, arguments: &Login) -> Result<(), CliError> {
    let path = contexts::path()?;
    // A file that cannot be read is told about before anybody types a password.
    let mut known = Contexts::read(&path)?;
    let url = arguments.url.trim_end_matches('/').to_owned();
    let mut context = Context {
        url: url.clone(),
        insecure: global.insecure,
        ca_pem: contexts::authority(global)?,
        ..Context::default()
    };
    let name = global.context.clone().unwrap_or_else(|| name_of(&url));
    if let Some(before) = known.contexts.get(&name).filter(|before| before.url == url) {
        let says_nothing = !context.insecure && context.ca_pem.is_none();
        if says_nothing {
            context.ca_pem.clone_from(&before.ca_pem);
            context.insecure = before.insecure;
        }
    }
    let client = Client::new(context.clone())?;
    let email = match &arguments.email {
        Some(email) => email.clone(),
        None => prompt::line("Email")?,
    };
    let password = prompt::password(&format!("Password of {email} at {url}"))?;
    let mut body = json!({ "email": email, "password": password });
    if let Some(code) = &arguments.code {
        body["code"] = json!(code);
    }
    let answer = match client.post(&["login"], &body).await {
        Err(CliError::LoginRefused { code, .. }) if code == "totp_required" => {
            let code = prompt::line("Code of your authenticator app, or a recovery code")?;
            body["code"] = json!(code);
            client.post(&["login"], &body).await?
        }
        answer => answer?,
    };
    let token = answer.get("token").and_then(Value::as_str);
    let token = token.ok_or_else(|| CliError::NotMuster {
        url: url.clone(),
        source: None,
    })?;
    context.token = Some(token.to_owned());
    context.email = email;
    if answer["user"]["must_reset_password"] == true {
        output::say("this password was set by an administrator; you have to choose another");
        me::set_password(&Client::new(context.clone())?, &password).await?;
    }
    output::say(&format!(
        "logged in to {url} as {}; the context `{name}` is in use",
        context.email
    ));
    known.contexts.insert(name.clone(), context);
    known.current = Some(name);
    known.write(&path)
}

/// `muster.example.com:8443`.
fn name_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.to_owned()
}

pub(super) async fn log_out(global: &Global) -> Result<(), CliError> {
    let path = contexts::path()?;
    let mut known = Contexts::read(&path)?;
    let name = known.chosen(global)?;
    let mut context = known.known(&name)?.clone();
    if context.token.is_some() {
        let ended = Client::new(context.clone())?
            .post(&["logout"], &json!({}))
            .await;
        match ended {
            Ok(_) | Err(CliError::Unauthenticated { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    context.token = None;
    output::say(&format!("logged out of {}", context.url));
    known.contexts.insert(name, context);
    known.write(&path)
}

pub(super) fn contexts(global: &Global, command: ContextsCommand) -> Result<(), CliError> {
    let path = contexts::path()?;
    let mut known = Contexts::read(&path)?;
    match command {
        ContextsCommand::List(format) => {
            let current = global.context.as_ref().or(known.current.as_ref());
            let items = known.contexts.iter().map(|(name, context)| {
                json!({
                    "current": if current == Some(name) { "*" } else { "" },
                    "name": name,
                    "url": context.url,
                    "email": context.email,
                    "logged_in": context.token.is_some(),
                })
            });
            let items: Vec<Value> = items.collect();
            let columns = [
                Column("current", &["current"]),
                Column("name", &["name"]),
                Column("url", &["url"]),
                Column("email", &["email"]),
                Column("logged in", &["logged_in"]),
            ];
            output::list(format.into(), &columns, &items)
        }
        ContextsCommand::Use { name } => {
            known.known(&name)?;
            output::say(&format!("the context `{name}` is in use"));
            known.current = Some(name);
            known.write(&path)
        }
        ContextsCommand::Remove { name } => {
            known.known(&name)?;
            known.contexts.remove(&name);
            if known.current.as_ref() == Some(&name) {
                known.current = None;
            }
            output::say(&format!("the context `{name}` is forgotten"));
            known.write(&path)
        }
    }
}
