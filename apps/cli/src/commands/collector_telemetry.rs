//! Where collectors send telemetry about themselves.

use std::path::Path;

use serde_json::{Value, json};

use super::{ALL, id_in, id_of, name_teams, team_id};
use crate::arguments::{CollectorTelemetry, CollectorTelemetryCommand, CollectorTelemetrySet};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column, Style};

const PATH: &str = "collector-telemetry";
const SIGNALS: [&str; 3] = ["metrics", "traces", "logs"];

const COLUMNS: &[Column] = &[
    Column("id", &["id"]),
    Column("name", &["name"]),
    Column("team", &["team_name", "team_id"]),
    Column("selector", &["selector"]),
    Column("priority", &["priority"]),
    Column("metrics", &["metrics.endpoint"]),
    Column("traces", &["traces.endpoint"]),
    Column("logs", &["logs.endpoint"]),
];

pub(super) async fn run(client: &Client, arguments: CollectorTelemetry) -> Result<(), CliError> {
    let list = async |style: Style| {
        let mut all = client.list(&[PATH], &[], ALL).await?;
        name_teams(client, &mut all).await?;
        output::list(style, COLUMNS, &all)
    };
    match arguments.command {
        None => list(arguments.format.into()).await,
        Some(CollectorTelemetryCommand::List(format)) => list(format.into()).await,
        Some(CollectorTelemetryCommand::Show { name, json }) => {
            let id = find(client, &name).await?.to_string();
            let mut found = client.get(&[PATH, &id], &[]).await?;
            name_teams(client, std::slice::from_mut(&mut found)).await?;
            print(&found, json)
        }
        Some(CollectorTelemetryCommand::Set(wish)) => set(client, &wish).await,
        Some(CollectorTelemetryCommand::Delete { name }) => {
            let id = find(client, &name).await?;
            client.delete(&[PATH, &id.to_string()]).await?;
            output::say(&format!(
                "deleted the settings `{name}`; collectors keep what they were offered unless others are for them"
            ));
            Ok(())
        }
    }
}

async fn find(client: &Client, name: &str) -> Result<i64, CliError> {
    id_of(
        client,
        "settings of own telemetry",
        &[PATH],
        &["name"],
        name,
    )
    .await
}

fn print(settings: &Value, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return output::print(&format!("{settings:#}\n"));
    }
    let mut shown = settings.clone();
    for signal in SIGNALS {
        if let Some(destination) = settings.get(signal) {
            shown[signal] = words(destination).into();
        }
    }
    output::print(&output::thing(&shown))
}

/// `https://otel.example.com/v1/logs with Authorization`.
fn words(destination: &Value) -> String {
    let endpoint = destination["endpoint"].as_str().unwrap_or_default();
    let headers = destination["headers"].as_object();
    let names: Vec<&str> = headers
        .into_iter()
        .flatten()
        .map(|(name, _)| &**name)
        .collect();
    if names.is_empty() {
        return endpoint.to_owned();
    }
    format!("{endpoint} with {}", names.join(", "))
}

async fn set(client: &Client, wish: &CollectorTelemetrySet) -> Result<(), CliError> {
    let all = client.list(&[PATH], &[], ALL).await?;
    let team = match &wish.team {
        Some(team) => Some(team_id(client, team).await?),
        None => None,
    };
    let is_meant = |one: &&Value| {
        one["name"] == *wish.name && team.is_none_or(|team| one["team_id"].as_i64() == Some(team))
    };
    let before = all.iter().find(is_meant);
    let mut body = before
        .cloned()
        .unwrap_or_else(|| json!({ "name": wish.name }));
    if let Some(selector) = &wish.selector {
        body["selector"] = json!(selector);
    }
    if let Some(priority) = wish.priority {
        body["priority"] = json!(priority);
    }
    if let Some(team) = team {
        body["team_id"] = json!(team);
    }
    let signals = [
        ("metrics", &wish.metrics, wish.no_metrics),
        ("traces", &wish.traces, wish.no_traces),
        ("logs", &wish.logs, wish.no_logs),
    ];
    let headers = headers(&wish.header)?;
    for (signal, endpoint, is_out) in signals {
        if is_out {
            body[signal] = Value::Null;
        }
        if let Some(endpoint) = endpoint {
            body[signal]["endpoint"] = json!(endpoint);
        }
        if body.get(signal).is_none_or(Value::is_null) {
            continue;
        }
        if wish.no_headers {
            body[signal]["headers"] = json!({});
        }
        for (name, value) in &headers {
            replace(&mut body[signal]["headers"], name, value);
        }
    }
    let kept = match before.and_then(id_in) {
        Some(id) => client.put(&[PATH, &id.to_string()], &body).await?,
        None => client.post(&[PATH], &body).await?,
    };
    print(&kept, wish.json)
}

/// Sets a header, whatever the case of its name was.
fn replace(headers: &mut Value, name: &str, value: &str) {
    if let Some(known) = headers.as_object_mut() {
        known.retain(|other, _| !other.eq_ignore_ascii_case(name));
    }
    headers[name] = json!(value);
}

/// Headers as they were typed; a value that begins with @ stands in a file.
fn headers(typed: &[String]) -> Result<Vec<(String, String)>, CliError> {
    let mut headers = Vec::new();
    for header in typed {
        // The value may be a secret: nothing of it is told.
        let (name, value) = header.split_once(':').ok_or(CliError::HeaderForm)?;
        let mut value = value.trim().to_owned();
        if let Some(path) = value.strip_prefix('@') {
            let text = crate::input::text(Path::new(path))?;
            text.trim().clone_into(&mut value);
        }
        headers.push((name.trim().to_owned(), value));
    }
    Ok(headers)
}
