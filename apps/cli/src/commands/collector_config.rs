//! Configurations of collectors. What programs read goes to standard output, everything else beside it.

mod files;

use std::fmt::Write as _;

use serde_json::{Value, json};

use files::{check, finding_line, findings_of, print_files, read, validate};

use super::{ALL, id_of, team_id};
use crate::arguments::{
    AssignmentHow, AutoRollback, CollectorConfig, CollectorConfigCommand, ConfigKind, ConfigState,
    Format,
};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column, Style};

const CONFIGS: &str = "collector-configs";
const ASSIGNMENTS: &str = "collector-config-assignments";
const STATES: &str = "collector-config-states";

const COLUMNS: &[Column] = &[
    Column("id", &["id"]),
    Column("name", &["name"]),
    Column("team", &["team_id"]),
    Column("kind", &["kind"]),
    Column("newest", &["newest_version"]),
    Column("changed", &["updated_at"]),
    Column("description", &["description"]),
];
const VERSION_COLUMNS: &[Column] = &[
    Column("version", &["version"]),
    Column("made", &["created_at"]),
    Column("by", &["author_name", "author_email"]),
    Column("note", &["note"]),
];
const ASSIGNMENT_COLUMNS: &[Column] = &[
    Column("id", &["id"]),
    Column("configuration", &["configuration_name", "configuration_id"]),
    Column("version", &["version"]),
    Column("priority", &["priority"]),
    Column("selector", &["selector"]),
    Column("follows", &["follows_newest"]),
    Column("paused", &["paused"]),
    Column("auto rollback", &["auto_rollback"]),
    Column("rolled back", &["rolled_back_reason"]),
];
const STATE_COLUMNS: &[Column] = &[
    Column("collector", &["collector_id"]),
    Column("name", &["name"]),
    Column("host", &["host_name"]),
    Column("state", &["state"]),
    Column("stage", &["stage"]),
    Column("configuration", &["configuration_name", "configuration_id"]),
    Column("version", &["version"]),
    Column("runs instead", &["runs_instead"]),
    Column("since", &["since"]),
    Column("message", &["message"]),
];
const PREVIEW_COLUMNS: &[Column] = &[
    Column("collector", &["collector_id"]),
    Column("name", &["name"]),
    Column("host", &["host_name"]),
    Column("effect", &["effect"]),
    Column("now", &["version"]),
    Column("changes", &["changes_count"]),
    Column("reason", &["reason"]),
];

pub(super) async fn run(client: &Client, arguments: CollectorConfig) -> Result<(), CliError> {
    let command = arguments.command.unwrap_or(CollectorConfigCommand::List {
        team: None,
        search: None,
        format: arguments.format,
    });
    match command {
        CollectorConfigCommand::List {
            team,
            search,
            format,
        } => list(client, team.as_deref(), search, format).await,
        CollectorConfigCommand::Show {
            name,
            version,
            files,
            json,
        } => show(client, &name, version, files, json).await,
        CollectorConfigCommand::Create {
            name,
            files,
            description,
            team,
            kind,
            note,
            json,
        } => {
            let mut body = json!({
                "name": name, "description": description, "kind": kind.name(), "note": note, "files": read(&files)?,
            });
            check(client, &body["files"], kind, None).await?;
            if let Some(team) = &team {
                body["team_id"] = json!(team_id(client, team).await?);
            }
            let made = client.post(&[CONFIGS], &body).await?;
            made_version(&made, json)
        }
        CollectorConfigCommand::Push {
            name,
            files,
            note,
            apply,
            json,
        } => {
            let id = config_id(client, &name).await?.to_string();
            let files = read(&files)?;
            let config = client.get(&[CONFIGS, &id], &[]).await?;
            let kind = match config["kind"].as_str() {
                Some("other") => ConfigKind::Other,
                _ => ConfigKind::Collector,
            };
            check(client, &files, kind, None).await?;
            let body = json!({ "files": files, "note": note, "apply": apply });
            let made = client.post(&[CONFIGS, &id, "versions"], &body).await?;
            made_version(&made, json)
        }
        CollectorConfigCommand::Validate {
            files,
            collector,
            kind,
            json,
        } => validate(client, &files, collector.as_deref(), kind, json).await,
        CollectorConfigCommand::Diff {
            name,
            from,
            to,
            collector,
            json,
        } => diff(client, &name, from, to, collector.as_deref(), json).await,
        CollectorConfigCommand::Assign {
            name,
            selector,
            version,
            follow,
            how,
            dry_run,
            json,
        } => {
            let id = config_id(client, &name).await?;
            if dry_run {
                let body = json!({
                    "configuration_id": id, "version": version, "selector": selector,
                    "priority": how.priority.unwrap_or(0),
                });
                return preview(client, &body, json).await;
            }
            let mut body = how.body();
            body["configuration_id"] = json!(id);
            body["selector"] = json!(selector);
            if let Some(version) = version {
                body["version"] = json!(version);
            }
            if follow {
                body["follows_newest"] = json!(true);
            }
            let assignment = client.post(&[ASSIGNMENTS], &body).await?;
            if json {
                return output::print(&format!("{assignment}\n"));
            }
            say_assigned(&name, &assignment);
            Ok(())
        }
        CollectorConfigCommand::Assignments { name, format } => {
            let mut query = Vec::new();
            if let Some(name) = &name {
                query.push((
                    "configuration_id",
                    config_id(client, name).await?.to_string(),
                ));
            }
            let mut assignments = client.list(&[ASSIGNMENTS], &query, ALL).await?;
            name_configs(client, &mut assignments).await?;
            output::list(format.into(), ASSIGNMENT_COLUMNS, &assignments)
        }
        CollectorConfigCommand::EditAssignment {
            id,
            version,
            follow,
            resume,
            how,
        } => {
            let mut body = how.body();
            if let Some(version) = version {
                body["version"] = json!(version);
            }
            if follow {
                body["follows_newest"] = json!(true);
            }
            if resume {
                body["paused"] = json!(false);
            }
            let assignment = client.patch(&[ASSIGNMENTS, &id.to_string()], &body).await?;
            let paused = if assignment["paused"] == true {
                ", paused"
            } else {
                ""
            };
            output::say(&format!(
                "assignment {id}: version {}, priority {}{paused}",
                assignment["version"], assignment["priority"]
            ));
            Ok(())
        }
        CollectorConfigCommand::Unassign { id } => {
            client.delete(&[ASSIGNMENTS, &id.to_string()]).await?;
            output::say(&format!(
                "deleted the assignment {id}; its collectors keep what they run until another one is for them"
            ));
            Ok(())
        }
        CollectorConfigCommand::Status {
            name,
            state,
            collector,
            format,
        } => status(client, name.as_deref(), state, collector.as_deref(), format).await,
        CollectorConfigCommand::Rollback { name, assignment } => {
            roll_back(client, name.as_deref(), assignment).await
        }
        CollectorConfigCommand::Delete { name } => {
            let id = config_id(client, &name).await?;
            client.delete(&[CONFIGS, &id.to_string()]).await?;
            output::say(&format!("deleted the configuration `{name}`"));
            Ok(())
        }
    }
}

impl ConfigKind {
    fn name(self) -> &'static str {
        match self {
            Self::Collector => "collector",
            Self::Other => "other",
        }
    }
}

impl ConfigState {
    fn name(self) -> &'static str {
        match self {
            Self::InSync => "in_sync",
            Self::Applying => "applying",
            Self::Failed => "failed",
            Self::Unmanaged => "unmanaged",
            Self::Cannot => "cannot",
        }
    }
}

impl AutoRollback {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Collector => "collector",
            Self::Assignment => "assignment",
        }
    }
}

impl AssignmentHow {
    fn body(&self) -> Value {
        let mut body = json!({});
        if let Some(priority) = self.priority {
            body["priority"] = json!(priority);
        }
        if let Some(soak) = self.soak {
            body["soak_seconds"] = json!(soak.as_secs());
        }
        if let Some(what) = self.auto_rollback {
            body["auto_rollback"] = json!(what.name());
        }
        if let Some(failures) = self.after_failures {
            body["failures_until_rollback"] = json!(failures);
        }
        if self.pause {
            body["paused"] = json!(true);
        }
        body
    }
}

async fn config_id(client: &Client, name: &str) -> Result<i64, CliError> {
    id_of(client, "configuration", &[CONFIGS], &["name"], name).await
}

async fn collector_id(client: &Client, name: &str) -> Result<i64, CliError> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let members = ["instance_uid", "host_name", "name"];
    id_of(client, "collector", &["collectors"], &members, name).await
}

async fn list(
    client: &Client,
    team: Option<&str>,
    search: Option<String>,
    format: Format,
) -> Result<(), CliError> {
    let mut query = Vec::new();
    if let Some(team) = team {
        query.push(("team_id", team_id(client, team).await?.to_string()));
    }
    if let Some(search) = search {
        query.push(("search", search));
    }
    let configs = client.list(&[CONFIGS], &query, ALL).await?;
    output::list(format.into(), COLUMNS, &configs)
}

async fn show(
    client: &Client,
    name: &str,
    version: Option<i64>,
    only_files: bool,
    as_json: bool,
) -> Result<(), CliError> {
    let id = config_id(client, name).await?.to_string();
    let number = version.map_or_else(|| "newest".to_owned(), |number| number.to_string());
    if only_files || as_json {
        let content = client
            .get(&[CONFIGS, &id, "versions", &number], &[])
            .await?;
        if as_json {
            let mut config = client.get(&[CONFIGS, &id], &[]).await?;
            config["version"] = content;
            return output::print(&format!("{config}\n"));
        }
        if content["masked"] == true {
            output::say("secrets are masked, since you may not write configurations");
        }
        return print_files(&content["files"]);
    }
    let config = client.get(&[CONFIGS, &id], &[]).await?;
    output::print(&output::thing(&config))?;
    let query = [("configuration_id", id.clone())];
    let assignments = client.list(&[ASSIGNMENTS], &query, ALL).await?;
    if !assignments.is_empty() {
        output::print("\nassignments:\n")?;
        output::list(Style::Table, ASSIGNMENT_COLUMNS, &assignments)?;
    }
    let versions = client.list(&[CONFIGS, &id, "versions"], &[], ALL).await?;
    output::print("\nversions:\n")?;
    output::list(Style::Table, VERSION_COLUMNS, &versions)
}

fn made_version(made: &Value, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return output::print(&format!("{made}\n"));
    }
    for warning in findings_of(made, "warnings") {
        output::say(&finding_line(&warning));
    }
    let name = made["config"]["name"].as_str().unwrap_or_default();
    let number = &made["version"]["version"];
    let what = if made["created"] == true {
        format!("made version {number} of `{name}`")
    } else {
        format!("`{name}` has these files already, as version {number}")
    };
    let moved = match made["assignments_moved"].as_u64().unwrap_or(0) {
        0 => String::new(),
        1 => "; 1 assignment moved on to it".to_owned(),
        count => format!("; {count} assignments moved on to it"),
    };
    output::say(&format!("{what}{moved}"));
    Ok(())
}

async fn diff(
    client: &Client,
    name: &str,
    from: Option<i64>,
    to: Option<i64>,
    collector: Option<&str>,
    as_json: bool,
) -> Result<(), CliError> {
    let id = config_id(client, name).await?.to_string();
    let mut query = Vec::new();
    if let Some(collector) = collector {
        let collector = collector_id(client, collector).await?.to_string();
        query.push(("configuration_id", id));
        if let Some(version) = to {
            query.push(("version", version.to_string()));
        }
        let answer = client
            .get(&["collectors", &collector, "config", "diff"], &query)
            .await?;
        return print_changes(&answer, as_json);
    }
    for (member, number) in [("from", from), ("to", to)] {
        if let Some(number) = number {
            query.push((member, number.to_string()));
        }
    }
    let answer = client.get(&[CONFIGS, &id, "diff"], &query).await?;
    if as_json {
        return output::print(&format!("{answer}\n"));
    }
    let mut text = String::new();
    for file in findings_of(&answer, "files") {
        let part = |member: &str| file[member].as_str().unwrap_or_default().to_owned();
        let name = Some(part("name")).filter(|name| !name.is_empty());
        let name = output::printable(&name.unwrap_or_else(|| "(unnamed)".to_owned()));
        let _ = writeln!(
            text,
            "--- {name} (version {})\n+++ {name} (version {})",
            answer["from"], answer["to"]
        );
        let _ = writeln!(text, "{}", output::printable_lines(&part("diff")));
    }
    if text.is_empty() {
        output::say(&format!(
            "versions {} and {} are the same",
            answer["from"], answer["to"]
        ));
    }
    output::print(&text)
}

/// What would be different at a collector.
fn print_changes(answer: &Value, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return output::print(&format!("{answer}\n"));
    }
    for finding in findings_of(answer, "findings") {
        output::say(&finding_line(&finding));
    }
    if answer["changes"].is_null() {
        output::say("the collector does not say what it runs");
        return Ok(());
    }
    let mut text = String::new();
    for change in findings_of(answer, "changes") {
        let part = |member: &str| change[member].as_str().map(output::printable);
        let sign = match change["change"].as_str() {
            Some("added") => '+',
            Some("removed") => '-',
            _ => '~',
        };
        let path = part("path").unwrap_or_default();
        let values = match (part("before"), part("after")) {
            (Some(before), Some(after)) => format!(": {before} -> {after}"),
            (None, Some(after)) => format!(": {after}"),
            _ => String::new(),
        };
        let _ = writeln!(text, "{sign} {path}{values}");
    }
    if text.is_empty() {
        output::say("nothing would be different");
    }
    output::print(&text)
}

async fn preview(client: &Client, body: &Value, as_json: bool) -> Result<(), CliError> {
    let answer = client.post(&[CONFIGS, "preview"], body).await?;
    let mut items = findings_of(&answer, "items");
    for item in &mut items {
        if let Some(changes) = item["changes"].as_array() {
            item["changes_count"] = json!(changes.len());
        }
    }
    let style = if as_json { Style::Json } else { Style::Table };
    output::list(style, PREVIEW_COLUMNS, &items)?;
    let total = answer["total"].as_u64().unwrap_or(0);
    let more = total.saturating_sub(items.len() as u64);
    if more > 0 {
        output::say(&format!("and {more} more"));
    }
    output::say("nothing was assigned");
    Ok(())
}

fn say_assigned(name: &str, assignment: &Value) {
    let follows = if assignment["follows_newest"] == true {
        ", and each newer one"
    } else {
        ""
    };
    let selector = assignment["selector"].as_str().unwrap_or_default();
    output::say(&format!(
        "assignment {}: version {}{follows} of `{name}` for collectors with {selector}",
        assignment["id"], assignment["version"]
    ));
}

/// Writes the names of configurations beside their ids.
async fn name_configs(client: &Client, items: &mut [Value]) -> Result<(), CliError> {
    if items.iter().all(|item| item["configuration_id"].is_null()) {
        return Ok(());
    }
    let configs = client.list(&[CONFIGS], &[], ALL).await?;
    for item in items {
        let config = configs
            .iter()
            .find(|config| config["id"] == item["configuration_id"]);
        if let Some(config) = config {
            item["configuration_name"] = config["name"].clone();
        }
    }
    Ok(())
}

async fn status(
    client: &Client,
    name: Option<&str>,
    state: Option<ConfigState>,
    collector: Option<&str>,
    format: Format,
) -> Result<(), CliError> {
    if let Some(collector) = collector {
        let id = collector_id(client, collector).await?.to_string();
        let found = client.get(&["collectors", &id, "config"], &[]).await?;
        return if format.json {
            output::print(&format!("{found}\n"))
        } else {
            output::print(&output::thing(&found))
        };
    }
    let mut query = Vec::new();
    if let Some(state) = state {
        query.push(("state", state.name().to_owned()));
    }
    let mut states = match name {
        Some(name) => {
            let id = config_id(client, name).await?.to_string();
            client.list(&[CONFIGS, &id, "status"], &query, ALL).await?
        }
        None => client.list(&[STATES], &query, ALL).await?,
    };
    name_configs(client, &mut states).await?;
    output::list(format.into(), STATE_COLUMNS, &states)
}

async fn roll_back(
    client: &Client,
    name: Option<&str>,
    assignment: Option<i64>,
) -> Result<(), CliError> {
    let all = match (name, assignment) {
        (_, Some(id)) => {
            vec![
                client
                    .post(&[ASSIGNMENTS, &id.to_string(), "rollback"], &json!({}))
                    .await?,
            ]
        }
        (name, None) => {
            let id = config_id(client, name.unwrap_or_default())
                .await?
                .to_string();
            let answer = client.post(&[CONFIGS, &id, "rollback"], &json!({})).await?;
            findings_of(&answer, "items")
        }
    };
    for assignment in &all {
        output::say(&format!(
            "assignment {} is back on version {}",
            assignment["id"], assignment["version"]
        ));
    }
    Ok(())
}
