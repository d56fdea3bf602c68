//! Assignments of configurations.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::files::findings_of;
use super::{ASSIGNMENTS, CONFIGS, name_configs};
use crate::arguments::{AssignmentHow, AutoRollback, Format};
use crate::client::Client;
use crate::commands::{ALL, id_in};
use crate::error::CliError;
use crate::output::{self, Column, Style};

pub(super) const ASSIGNMENT_COLUMNS: &[Column] = &[
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
const PREVIEW_COLUMNS: &[Column] = &[
    Column("collector", &["collector_id"]),
    Column("name", &["name"]),
    Column("host", &["host_name"]),
    Column("effect", &["effect"]),
    Column("now", &["version"]),
    Column("changes", &["changes_count"]),
    Column("reason", &["reason"]),
];

/// What an assignment is to be; what is absent stays, or has a default.
pub(super) struct Wish<'a> {
    pub(super) version: Option<i64>,
    pub(super) follow: bool,
    pub(super) how: &'a AssignmentHow,
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

impl Wish<'_> {
    fn body(&self) -> Value {
        let mut body = self.how.body();
        if let Some(version) = self.version {
            body["version"] = json!(version);
        }
        if self.follow {
            body["follows_newest"] = json!(true);
        }
        body
    }
}

/// What an assignment would do, of all collectors that it is for, and how often each.
pub(super) async fn preview(
    client: &Client,
    config: i64,
    selector: &str,
    wish: &Wish<'_>,
    as_json: bool,
) -> Result<(), CliError> {
    let mut body = json!({ "configuration_id": config, "selector": selector });
    let mut version = wish.version;
    if wish.follow {
        let found = client.get(&[CONFIGS, &config.to_string()], &[]).await?;
        version = found["newest_version"].as_i64();
    }
    if let Some(version) = version {
        body["version"] = json!(version);
    }
    if let Some(priority) = wish.how.priority {
        body["priority"] = json!(priority);
    }
    let mut items = client.list_by(&[CONFIGS, "preview"], &body, ALL).await?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for item in &mut items {
        if let Some(changes) = item["changes"].as_array() {
            item["changes_count"] = json!(changes.len());
        }
        let effect = item["effect"].as_str().unwrap_or_default();
        *counts.entry(effect.to_owned()).or_default() += 1;
    }
    let style = if as_json { Style::Json } else { Style::Table };
    output::list(style, PREVIEW_COLUMNS, &items)?;
    let counts: Vec<String> = counts
        .iter()
        .map(|(effect, count)| format!("{count} {effect}"))
        .collect();
    let told = if counts.is_empty() {
        "no collectors".to_owned()
    } else {
        counts.join(", ")
    };
    output::say(&format!("{told}; nothing was assigned"));
    Ok(())
}

pub(super) async fn assign(
    client: &Client,
    name: &str,
    config: i64,
    selector: &str,
    wish: &Wish<'_>,
    as_json: bool,
) -> Result<(), CliError> {
    let mut body = wish.body();
    body["configuration_id"] = json!(config);
    body["selector"] = json!(selector);
    let assignment = client.post(&[ASSIGNMENTS], &body).await?;
    if as_json {
        return output::print(&format!("{assignment}\n"));
    }
    say_assigned(name, &assignment);
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

pub(super) async fn list(
    client: &Client,
    config: Option<i64>,
    format: Format,
) -> Result<(), CliError> {
    let mut assignments = of_config(client, config).await?;
    name_configs(client, &mut assignments).await?;
    output::list(format.into(), ASSIGNMENT_COLUMNS, &assignments)
}

/// The assignments of a configuration, or all.
pub(super) async fn of_config(
    client: &Client,
    config: Option<i64>,
) -> Result<Vec<Value>, CliError> {
    let query: Vec<(&str, String)> = config
        .map(|id| ("configuration_id", id.to_string()))
        .into_iter()
        .collect();
    client.list(&[ASSIGNMENTS], &query, ALL).await
}

pub(super) async fn edit(
    client: &Client,
    id: i64,
    wish: &Wish<'_>,
    resume: bool,
    as_json: bool,
) -> Result<(), CliError> {
    let mut body = wish.body();
    if resume {
        body["paused"] = json!(false);
    }
    let assignment = client.patch(&[ASSIGNMENTS, &id.to_string()], &body).await?;
    if as_json {
        return output::print(&format!("{assignment}\n"));
    }
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

pub(super) async fn unassign(client: &Client, id: i64, as_json: bool) -> Result<(), CliError> {
    client.delete(&[ASSIGNMENTS, &id.to_string()]).await?;
    if as_json {
        let deleted = json!({ "id": id, "deleted": true });
        return output::print(&format!("{deleted}\n"));
    }
    output::say(&format!(
        "deleted the assignment {id}; its collectors keep what they run until another one is for them"
    ));
    Ok(())
}

/// Takes assignments back from the versions that they are seen on, so that of two who do so at once one does.
pub(super) async fn roll_back(
    client: &Client,
    config: Option<(String, i64)>,
    assignment: Option<i64>,
    from: Option<i64>,
    as_json: bool,
) -> Result<(), CliError> {
    let all = match (config, assignment) {
        (Some((name, id)), _) => {
            let seen = of_config(client, Some(id)).await?;
            let from_versions = versions(&name, &seen, from)?;
            let body = if from_versions.is_empty() {
                json!({})
            } else {
                json!({ "from_versions": from_versions })
            };
            let path = [CONFIGS, &id.to_string(), "rollback"];
            findings_of(&client.post(&path, &body).await?, "items")
        }
        (None, assignment) => {
            let id = assignment.unwrap_or_default().to_string();
            let from = match from {
                Some(from) => json!(from),
                None => client.get(&[ASSIGNMENTS, &id], &[]).await?["version"].clone(),
            };
            let path = [ASSIGNMENTS, &id, "rollback"];
            vec![client.post(&path, &json!({ "from_version": from })).await?]
        }
    };
    for assignment in &all {
        if as_json {
            output::print(&format!("{assignment}\n"))?;
            continue;
        }
        output::say(&format!(
            "assignment {}: version {} -> {}",
            assignment["id"], assignment["from_version"], assignment["version"]
        ));
    }
    Ok(())
}

/// The versions that assignments are on, by their ids; with `from` of those that are on this one.
fn versions(
    name: &str,
    seen: &[Value],
    from: Option<i64>,
) -> Result<BTreeMap<String, i64>, CliError> {
    let all: Vec<(i64, i64)> = seen
        .iter()
        .filter_map(|assignment| Some((id_in(assignment)?, assignment["version"].as_i64()?)))
        .collect();
    let wanted: BTreeMap<String, i64> = all
        .iter()
        .filter(|(_, version)| from.is_none_or(|from| *version == from))
        .map(|(id, version)| (id.to_string(), *version))
        .collect();
    match from {
        Some(from) if wanted.is_empty() => {
            let versions: Vec<String> = all
                .iter()
                .map(|(id, version)| format!("assignment {id} on version {version}"))
                .collect();
            Err(CliError::NotOnVersion {
                name: name.to_owned(),
                from,
                versions: versions.join(", "),
            })
        }
        _ => Ok(wanted),
    }
}
