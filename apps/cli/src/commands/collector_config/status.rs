//! How far collectors are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::assignments::of_config;
use super::{ASSIGNMENTS, CONFIGS, collector_id, config_id_of, name_configs};
use crate::arguments::{ConfigState, ConfigStatus};
use crate::client::Client;
use crate::commands::{ALL, id_in};
use crate::error::CliError;
use crate::output::{self, Column};

const STATES: &str = "collector-config-states";
/// How often it is looked while waiting.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long at least one collector is waited for: those of a new assignment are found a moment later.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

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

/// Whose collectors are looked at.
enum Whose {
    Config(i64),
    Assignment(i64),
}

pub(super) async fn run(client: &Client, arguments: &ConfigStatus) -> Result<(), CliError> {
    if let Some(collector) = &arguments.collector {
        let id = collector_id(client, collector).await?.to_string();
        let found = client.get(&["collectors", &id, "config"], &[]).await?;
        return if arguments.format.json {
            output::print(&format!("{found}\n"))
        } else {
            output::print(&output::thing(&found))
        };
    }
    let whose = match (&arguments.name, arguments.assignment) {
        (Some(name), _) => {
            let id = config_id_of(client, name, &arguments.of).await?;
            Some(Whose::Config(id))
        }
        (None, id) => id.map(Whose::Assignment),
    };
    let outcome = match &whose {
        Some(whose) if arguments.wait => wait(client, whose, arguments).await,
        _ => Ok(()),
    };
    // What came of it is told in any case.
    if let Err(error @ (CliError::RolloutFailed { .. } | CliError::StillApplying { .. })) = outcome
    {
        list(client, whose.as_ref(), arguments).await?;
        return Err(error);
    }
    outcome?;
    list(client, whose.as_ref(), arguments).await
}

async fn list(
    client: &Client,
    whose: Option<&Whose>,
    arguments: &ConfigStatus,
) -> Result<(), CliError> {
    let mut query = Vec::new();
    if let Some(state) = arguments.state {
        query.push(("state", state.name().to_owned()));
    }
    let mut states = match whose {
        Some(Whose::Config(id)) => {
            let path = [CONFIGS, &id.to_string(), "status"];
            client.list(&path, &query, ALL).await?
        }
        Some(Whose::Assignment(id)) => {
            // Whoever is given a wrong id is told so.
            client.get(&[ASSIGNMENTS, &id.to_string()], &[]).await?;
            query.push(("assignment_id", id.to_string()));
            client.list(&[STATES], &query, ALL).await?
        }
        None => client.list(&[STATES], &query, ALL).await?,
    };
    name_configs(client, &mut states).await?;
    output::list(arguments.format.into(), STATE_COLUMNS, &states)
}

/// The assignments that are waited for.
async fn assignments(client: &Client, whose: &Whose) -> Result<Vec<Value>, CliError> {
    match whose {
        Whose::Assignment(id) => Ok(vec![
            client.get(&[ASSIGNMENTS, &id.to_string()], &[]).await?,
        ]),
        Whose::Config(id) => of_config(client, Some(*id)).await,
    }
}

/// Waits until no collector is on the way any more.
async fn wait(client: &Client, whose: &Whose, arguments: &ConfigStatus) -> Result<(), CliError> {
    let which = match whose {
        Whose::Config(id) => id.to_string(),
        Whose::Assignment(id) => format!("--assignment {id}"),
    };
    let begun = Instant::now();
    let before = assignments(client, whose).await?;
    let states = loop {
        let states = counts(client, whose).await?;
        let are_there = states.values().any(|count| *count > 0);
        let applying = states.get("applying").copied().unwrap_or(0);
        let waited = begun.elapsed();
        if applying == 0 && (are_there || waited >= FIRST_PATIENCE) {
            break states;
        }
        if let Some(timeout) = arguments.timeout.filter(|timeout| waited >= *timeout) {
            return Err(CliError::StillApplying {
                applying,
                seconds: timeout.as_secs(),
                which,
            });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    };
    let after = assignments(client, whose).await?;
    if let Some(message) = went_back(&before, &after) {
        return Err(CliError::RolloutFailed { message, which });
    }
    match states.get("failed").copied().unwrap_or(0) {
        0 => Ok(()),
        failed => Err(CliError::RolloutFailed {
            message: format!("it failed on {failed} collector(s)"),
            which,
        }),
    }
}

/// Tells of an assignment that went back by itself and that nobody moved on since, or with which anybody did while it was waited
/// for: what fails at once may have gone back before anybody looked.
fn went_back(before: &[Value], after: &[Value]) -> Option<String> {
    after.iter().find_map(|now| {
        let then = before.iter().find(|then| id_in(then) == id_in(now))?;
        let reason = now["rolled_back_reason"].as_str()?;
        // Whoever took it back wanted what runs now.
        let is_by_hand = reason.starts_with("by ");
        (!is_by_hand || then["rolled_back_at"] != now["rolled_back_at"]).then(|| {
            format!(
                "assignment {} went back to version {}: {reason}",
                now["id"], now["version"]
            )
        })
    })
}

/// How many collectors are in each state. Those that were not looked at since their assignment moved on are on the way.
async fn counts(client: &Client, whose: &Whose) -> Result<BTreeMap<String, u64>, CliError> {
    let found = match whose {
        Whose::Config(id) => client.get(&[CONFIGS, &id.to_string()], &[]).await?,
        Whose::Assignment(id) => client.get(&[ASSIGNMENTS, &id.to_string()], &[]).await?,
    };
    let states = found["states"].as_object().into_iter().flatten();
    Ok(states
        .map(|(state, count)| (state.clone(), count.as_u64().unwrap_or(0)))
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_assignment_that_went_back_by_itself_is_told_also_when_that_was_before_anybody_looked() {
        let at = |at: Option<i64>, reason: &str| {
            let reason = at.map(|_| reason);
            vec![
                json!({ "id": 7, "version": 1, "rolled_back_at": at, "rolled_back_reason": reason }),
            ]
        };
        let (failed, by_hand) = ("version 2 failed on 3 collectors", "by Ann");
        for (before, after, is_told) in [
            (at(None, ""), at(None, ""), false),
            (at(None, ""), at(Some(5), failed), true),
            (at(Some(5), failed), at(Some(5), failed), true),
            (at(Some(5), by_hand), at(Some(5), by_hand), false),
            (at(None, ""), at(Some(5), by_hand), true),
        ] {
            assert_eq!(
                went_back(&before, &after).is_some(),
                is_told,
                "{before:?} {after:?}"
            );
        }
    }
}
