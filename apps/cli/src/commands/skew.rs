//! Which features are dark on which hosts, because of which process.

use serde_json::{Value, json};

use super::{ALL, hosts, id_in, team_id};
use crate::arguments::Skew;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column, Style};

/// How many programs the summary names for a feature; the rest is counted.
const NAMED_PROGRAMS: usize = 4;

const SUMMARY: &[Column] = &[
    Column("feature", &["feature"]),
    Column("there on", &["hosts_with"]),
    Column("dark on", &["hosts_without"]),
    Column("because of", &["because"]),
];

const HOSTS: &[Column] = &[
    Column("host", &["host"]),
    Column("feature", &["feature"]),
    Column("because of", &["because"]),
    Column("since", &["since"]),
    Column("to have it", &["update"]),
];

/// For programs that read it.
const HOSTS_CSV: &[Column] = &[
    Column("host_id", &["host_id"]),
    Column("host", &["host"]),
    Column("team_id", &["team_id"]),
    Column("feature", &["feature"]),
    Column("capability", &["capability"]),
    Column("process", &["process"]),
    Column("version", &["version"]),
    Column("server", &["server"]),
    Column("since", &["since"]),
    Column("update", &["update"]),
];

pub(super) async fn run(client: &Client, arguments: &Skew) -> Result<(), CliError> {
    let mut query = Vec::new();
    let wishes = [
        ("search", &arguments.search),
        ("capability", &arguments.capability),
        ("process", &arguments.process),
    ];
    for (name, wish) in wishes {
        if let Some(wish) = wish {
            query.push((name, wish.clone()));
        }
    }
    if let Some(team) = &arguments.team {
        query.push(("team_id", team_id(client, team).await?.to_string()));
    }
    if let Some(host) = &arguments.host {
        let host = hosts::find(client, host).await?;
        let id = id_in(&host).unwrap_or_default();
        query.push(("host_id", id.to_string()));
    }
    let style = Style::from(arguments.format);
    if arguments.summary || style == Style::Table {
        let answer = client.get(&["skew", "summary"], &query).await?;
        let mut features = answer["items"].as_array().cloned().unwrap_or_default();
        if style != Style::Json {
            features.iter_mut().for_each(summarise);
        }
        output::list(style, SUMMARY, &features)?;
    }
    if arguments.summary {
        return Ok(());
    }
    let dark = client.list(&["skew"], &query, ALL).await?;
    match style {
        Style::Json => output::list(style, HOSTS, &dark),
        Style::Csv => output::list(style, HOSTS_CSV, &each(&dark)),
        Style::Table if dark.is_empty() => Ok(()),
        Style::Table => {
            output::print("\n")?;
            output::list(style, HOSTS, &each(&dark))
        }
    }
}

/// Writes beside the figures of a feature which programs make it dark, most hosts first.
fn summarise(feature: &mut Value) {
    let servers = feature["servers"].as_array().into_iter().flatten();
    let mut because: Vec<String> = servers.map(named).collect();
    if because.is_empty() {
        let programs = feature["programs"].as_array().into_iter().flatten();
        let count = |program: &Value| program["hosts_without"].as_u64().unwrap_or(0);
        let mut dark: Vec<&Value> = programs.filter(|program| count(program) > 0).collect();
        dark.sort_by_key(|program| std::cmp::Reverse(count(program)));
        because = dark
            .iter()
            .take(NAMED_PROGRAMS)
            .map(|program| format!("{} ({})", named(program), count(program)))
            .collect();
        let others: u64 = dark.iter().skip(NAMED_PROGRAMS).map(|one| count(one)).sum();
        if others > 0 {
            because.push(format!("others ({others})"));
        }
    }
    feature["because"] = json!(because.join(", "));
}

/// `orbit 1.38.0`, `muster-server 0.2.0 on web-1:8443`.
fn named(process: &Value) -> String {
    let text = |member: &str| process[member].as_str().unwrap_or_default();
    let mut named = text("process").to_owned();
    for (before, member) in [(" ", "version"), (" on ", "server")] {
        if !text(member).is_empty() {
            named = format!("{named}{before}{}", text(member));
        }
    }
    named
}

/// A row for each process because of which a feature is dark on a host.
fn each(hosts: &[Value]) -> Vec<Value> {
    hosts
        .iter()
        .flat_map(|host| {
            let rows = dark_features(&host["dark_features"]);
            rows.into_iter().map(|mut row| {
                row["host"] = host["display_name"].clone();
                row["host_id"] = host["host_id"].clone();
                row["team_id"] = host["team_id"].clone();
                row
            })
        })
        .collect()
}

/// The dark features of a host, a row for each process because of which one is dark.
pub(super) fn dark_features(features: &Value) -> Vec<Value> {
    let features = features.as_array().into_iter().flatten();
    features
        .flat_map(|dark| {
            let because = dark["because"].as_array().into_iter().flatten();
            because.map(|because| {
                json!({
                    "feature": dark["feature"],
                    "because": named(because),
                    "since": because["since"],
                    "update": because["update"],
                    "capability": dark["capability"],
                    "process": because["process"],
                    "version": because["version"],
                    "server": because["server"],
                })
            })
        })
        .collect()
}

/// The same for people who look at one host.
pub(super) fn shown(features: &Value) -> Vec<Value> {
    let mut rows = dark_features(features);
    for row in &mut rows {
        *row = json!({
            "feature": row["feature"],
            "because_of": row["because"],
            "since": row["since"],
            "to_have_it": row["update"],
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_the_programs_that_most_hosts_have() {
        let program = |version: &str, dark: u64| {
            let (process, with) = ("orbit", 1);
            json!({ "process": process, "version": version, "hosts_with": with, "hosts_without": dark })
        };
        let mut feature = json!({ "servers": [], "programs": [
            program("1.0", 3), program("1.1", 9), program("", 2), program("1.3", 0), program("1.4", 1), program("1.5", 4),
        ] });
        summarise(&mut feature);
        assert_eq!(
            feature["because"],
            "orbit 1.1 (9), orbit 1.5 (4), orbit 1.0 (3), orbit (2), others (1)"
        );
        feature["servers"] = json!([{ "process": "muster-server", "version": "0.2.0", "server": "a:8443" },
            { "process": "muster-server", "version": "0.3.0" }]);
        summarise(&mut feature);
        assert_eq!(
            feature["because"],
            "muster-server 0.2.0 on a:8443, muster-server 0.3.0"
        );
    }
}
