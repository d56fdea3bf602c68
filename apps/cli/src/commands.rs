//! The commands, one file per subject.

mod campaigns;
mod collector_config;
mod collector_telemetry;
mod collectors;
mod follow;
mod hosts;
mod identity;
mod keys;
mod labels;
mod login;
mod me;
mod query;
mod servers;
mod settings;
mod skew;
mod tokens;

use clap::CommandFactory as _;
use clap_complete::shells;
use serde_json::Value;

use crate::Outcome;
use crate::arguments::{Command, CommandLine, Shell};
use crate::client::Client;
use crate::contexts::{self, similar};
use crate::error::CliError;
use crate::output;

/// Lists are read to their end, within reason.
const ALL: usize = 1_000_000;
/// How somebody says that a thing is to be in no team.
const NO_TEAM: &str = "none";

/// Does what was typed.
pub(crate) async fn run(line: CommandLine) -> Result<Outcome, CliError> {
    let global = line.global;
    let client = || Client::new(contexts::resolve(&global)?);
    match line.command {
        Command::Login(arguments) => login::log_in(&global, &arguments).await?,
        Command::Password => me::change_password(&client()?).await?,
        Command::Totp(arguments) => me::totp(&client()?, arguments).await?,
        Command::Sessions(arguments) => me::sessions(&client()?, arguments).await?,
        Command::Logout => login::log_out(&global).await?,
        Command::Context(arguments) => login::contexts(&global, arguments.command)?,
        Command::Completion { shell } => output::print(&completion(shell))?,
        Command::Hosts(arguments) => hosts::list(&client()?, &arguments).await?,
        Command::Host(arguments) => hosts::host(&client()?, &arguments).await?,
        Command::Collectors(arguments) => collectors::list(&client()?, &arguments).await?,
        Command::Collector(arguments) => collectors::one(&client()?, &arguments).await?,
        Command::Query(arguments) => return query::run(&client()?, &arguments).await,
        Command::Campaigns(arguments) => return campaigns::run(&client()?, arguments).await,
        Command::Keys(arguments) => keys::run(&client()?, arguments.command).await?,
        Command::Servers(format) => servers::list(&client()?, format).await?,
        Command::Skew(arguments) => skew::run(&client()?, &arguments).await?,
        Command::Tokens(arguments) => tokens::enrollment(&client()?, arguments).await?,
        Command::ApiTokens(arguments) => tokens::api(&client()?, arguments).await?,
        Command::Teams(arguments) => identity::teams(&client()?, arguments).await?,
        Command::Users(arguments) => identity::users(&client()?, arguments).await?,
        Command::Labels(arguments) => labels::run(&client()?, arguments).await?,
        Command::CollectorConfig(arguments) => {
            collector_config::run(&client()?, arguments).await?;
        }
        Command::CollectorTelemetry(arguments) => {
            collector_telemetry::run(&client()?, arguments).await?;
        }
        Command::Settings(arguments) => settings::run(&client()?, arguments).await?,
        Command::Audit(arguments) => identity::audit(&client()?, &arguments).await?,
    }
    Ok(Outcome::Done)
}

fn completion(shell: Shell) -> String {
    let mut command = CommandLine::command();
    let mut text = Vec::new();
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, "muster", &mut text),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, "muster", &mut text),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, "muster", &mut text),
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The id of the thing that has the id, or else the name in one of the members. When several have the name, nothing is done.
async fn id_of(
    client: &Client,
    kind: &'static str,
    path: &[&str],
    members: &[&str],
    name: &str,
) -> Result<i64, CliError> {
    let items = client.list(path, &[], ALL).await?;
    id_among(client, kind, &items, members, name).await
}

async fn id_among(
    client: &Client,
    kind: &'static str,
    items: &[Value],
    members: &[&str],
    name: &str,
) -> Result<i64, CliError> {
    if name.trim().is_empty() {
        return Err(CliError::NoName);
    }
    let typed: Option<i64> = name.parse().ok();
    let has_name = |item: &&Value| {
        members.iter().any(|member| {
            let text = item.get(*member).and_then(Value::as_str);
            text.is_some_and(|text| text.to_lowercase() == name.to_lowercase())
        })
    };
    // What is called like another's id may be either.
    let is_meant = |item: &&Value| has_name(item) || typed.is_some() && id_in(item) == typed;
    let mut found: Vec<Value> = items.iter().filter(is_meant).cloned().collect();
    if let [one] = found.as_slice()
        && let Some(id) = id_in(one)
    {
        return Ok(id);
    }
    if !found.is_empty() {
        name_teams(client, &mut found).await?;
        return Err(ambiguous(kind, name, &found));
    }
    let known = items.iter().flat_map(|item| {
        members
            .iter()
            .filter_map(|member| item.get(*member).and_then(Value::as_str))
    });
    Err(CliError::Unknown {
        kind,
        name: name.to_owned(),
        similar: similar(name, known),
    })
}

fn ambiguous(kind: &'static str, name: &str, several: &[Value]) -> CliError {
    /// The most that are named.
    const MAX_NAMED: usize = 10;
    let line = |item: &Value| {
        let team = match item["team_name"].as_str() {
            Some(team) => format!("team {team}"),
            None if item["team_id"].is_null() => "no team".to_owned(),
            None => format!("team {}", item["team_id"]),
        };
        let called = item["name"].as_str().unwrap_or(name);
        format!("{:>5}  {called}, {team}", item["id"].to_string())
    };
    let mut some: Vec<String> = several.iter().take(MAX_NAMED).map(line).collect();
    if several.len() > MAX_NAMED {
        some.push(format!("and {} more", several.len() - MAX_NAMED));
    }
    CliError::Ambiguous {
        kind,
        name: name.to_owned(),
        total: several.len(),
        some,
        example: several.first().and_then(id_in).unwrap_or_default(),
    }
}

fn id_in(item: &Value) -> Option<i64> {
    item.get("id").and_then(Value::as_i64)
}

async fn team_id(client: &Client, name: &str) -> Result<i64, CliError> {
    id_of(client, "team", &["teams"], &["name"], name).await
}

/// Writes the names of teams beside their ids.
async fn name_teams(client: &Client, items: &mut [Value]) -> Result<(), CliError> {
    if items.iter().all(|item| item["team_id"].is_null()) {
        return Ok(());
    }
    let teams = client.list(&["teams"], &[], ALL).await?;
    for item in items {
        let team = teams.iter().find(|team| team["id"] == item["team_id"]);
        if let Some(team) = team {
            item["team_name"] = team["name"].clone();
        }
    }
    Ok(())
}
