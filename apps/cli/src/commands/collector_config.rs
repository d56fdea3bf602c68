//! Configurations of collectors. What programs read goes to standard output, everything else beside it.

mod assignments;
mod files;
mod status;

use std::fmt::Write as _;

use serde_json::{Value, json};

use assignments::{ASSIGNMENT_COLUMNS, Wish};
use files::{check, finding_line, findings_of, print_files, read, validate};

use super::collectors::find::find;
use super::{ALL, NO_TEAM, id_among, id_in, team_id};
use crate::arguments::{
    CollectorConfig, CollectorConfigCommand, ConfigKind, ConfigName, Format, OfTeam,
};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column, Style};

const CONFIGS: &str = "collector-configs";
const ASSIGNMENTS: &str = "collector-config-assignments";

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
            config,
            version,
            files,
            json,
        } => show(client, &config, version, files, json).await,
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
            config,
            files,
            note,
            apply,
            base,
            json,
        } => {
            let id = config_id(client, &config).await?.to_string();
            let files = read(&files)?;
            let config = client.get(&[CONFIGS, &id], &[]).await?;
            let kind = match config["kind"].as_str() {
                Some("other") => ConfigKind::Other,
                _ => ConfigKind::Collector,
            };
            check(client, &files, kind, None).await?;
            let base = base.or(config["newest_version"].as_i64());
            let body =
                json!({ "files": files, "note": note, "apply": apply, "base_version": base });
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
            config,
            from,
            to,
            collector,
            json,
        } => diff(client, &config, from, to, collector.as_deref(), json).await,
        CollectorConfigCommand::Assign {
            config,
            selector,
            version,
            follow,
            how,
            dry_run,
            json,
        } => {
            let wish = Wish {
                version,
                follow,
                how: &how,
            };
            let id = config_id(client, &config).await?;
            if dry_run {
                return assignments::preview(client, id, &selector, &wish, json).await;
            }
            assignments::assign(client, &config.name, id, &selector, &wish, json).await
        }
        CollectorConfigCommand::Assignments { name, of, format } => {
            let id = match name {
                Some(name) => Some(config_id_of(client, &name, &of).await?),
                None => None,
            };
            assignments::list(client, id, format).await
        }
        CollectorConfigCommand::EditAssignment {
            id,
            version,
            follow,
            resume,
            how,
            json,
        } => {
            let wish = Wish {
                version,
                follow,
                how: &how,
            };
            assignments::edit(client, id, &wish, resume, json).await
        }
        CollectorConfigCommand::Unassign { id, json } => {
            assignments::unassign(client, id, json).await
        }
        CollectorConfigCommand::Status(arguments) => status::run(client, &arguments).await,
        CollectorConfigCommand::Rollback {
            name,
            of,
            assignment,
            from,
            json,
        } => {
            let config = match name {
                Some(name) => {
                    let id = config_id_of(client, &name, &of).await?;
                    Some((name, id))
                }
                None => None,
            };
            assignments::roll_back(client, config, assignment, from, json).await
        }
        CollectorConfigCommand::Delete { config } => {
            let id = config_id(client, &config).await?;
            client.delete(&[CONFIGS, &id.to_string()]).await?;
            output::say(&format!("deleted the configuration `{}`", config.name));
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

async fn config_id(client: &Client, config: &ConfigName) -> Result<i64, CliError> {
    config_id_of(client, &config.name, &config.of).await
}

/// The configuration of that name or id; of those of a team, when one is named.
async fn config_id_of(client: &Client, name: &str, of: &OfTeam) -> Result<i64, CliError> {
    let mut query = Vec::new();
    match of.team.as_deref() {
        None => {}
        Some(NO_TEAM) => query.push(("team_id", "0".to_owned())),
        Some(team) => query.push(("team_id", team_id(client, team).await?.to_string())),
    }
    let configs = client.list(&[CONFIGS], &query, ALL).await?;
    id_among(client, "configuration", &configs, &["name"], name).await
}

async fn collector_id(client: &Client, name: &str) -> Result<i64, CliError> {
    let found = find(client, name).await?;
    Ok(id_in(&found).unwrap_or_default())
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
    config: &ConfigName,
    version: Option<i64>,
    only_files: bool,
    as_json: bool,
) -> Result<(), CliError> {
    let id = config_id(client, config).await?.to_string();
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
    config: &ConfigName,
    from: Option<i64>,
    to: Option<i64>,
    collector: Option<&str>,
    as_json: bool,
) -> Result<(), CliError> {
    let id = config_id(client, config).await?.to_string();
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
