//! A collector as text. Nothing that it said can move the cursor, but what is meant for a file ([`files`]).

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::output::{self, Column, Style, printable};

/// How many entries of the timeline stand beside everything else.
const NEWEST_EVENTS: usize = 10;
/// What an agent says that can take a key of its own.
const TAKES_KEYS: &str = "accepts_opamp_connection_settings";

const KEYS: &[Column] = &[
    Column("id", &["id"]),
    Column("name", &["name"]),
    Column("state", &["state"]),
    Column("made", &["created_at"]),
    Column("first used", &["first_used_at"]),
    Column("last used", &["used_at"]),
    Column("good until", &["ends_at", "expires_at"]),
    Column("revoked", &["revoked_at"]),
];
const EVENTS: &[Column] = &[
    Column("at", &["at"]),
    Column("what", &["what"]),
    Column("particulars", &["particulars"]),
];

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value.get(member).and_then(Value::as_str).unwrap_or("")
}

/// What a collector is called: `otelcol on edge-1`.
pub(super) fn title(collector: &Value) -> String {
    let name = match text(collector, "name") {
        "" => "no name",
        name => name,
    };
    match text(collector, "host_name") {
        "" => name.to_owned(),
        host => format!("{name} on {host}"),
    }
}

/// Everything about a collector that is not long.
pub(super) fn collector(detail: &Value) -> String {
    let mut shown = output::thing(&Value::Object(summary(detail)));
    for (title, member) in [
        ("identifying attributes", "identifying_attributes"),
        ("attributes", "attributes"),
    ] {
        let attributes = detail.get(member).and_then(Value::as_object);
        if attributes.is_some_and(|attributes| !attributes.is_empty()) {
            let _ = write!(shown, "\n{title}:\n{}", output::thing(&detail[member]));
        }
    }
    let capabilities = items(detail, "capabilities");
    if !capabilities.is_empty() {
        shown.push_str("\ncapabilities:\n");
        for capability in capabilities {
            let _ = writeln!(shown, "{}", printable(capability.as_str().unwrap_or("")));
        }
    }
    if let Some(health) = detail.get("health") {
        shown.push_str("\nhealth:\n");
        health_line(&mut shown, &title(detail), health, 0);
    }
    let keys = items(detail, "keys");
    if !keys.is_empty() {
        let _ = write!(
            shown,
            "\nkeys:\n{}",
            output::listed(Style::Table, KEYS, keys)
        );
    }
    let events = items(detail, "events");
    if !events.is_empty() {
        let rows = event_rows(events.iter().take(NEWEST_EVENTS));
        let table = output::listed(Style::Table, EVENTS, &rows);
        let _ = write!(shown, "\nevents:\n{table}");
        if events.len() > NEWEST_EVENTS {
            let left = events.len() - NEWEST_EVENTS;
            let id = &detail["id"];
            let _ = writeln!(shown, "{left} more: muster collector {id} --events");
        }
    }
    shown
}

fn items<'a>(value: &'a Value, member: &str) -> &'a [Value] {
    let items = value.get(member).and_then(Value::as_array);
    items.map(Vec::as_slice).unwrap_or_default()
}

fn summary(detail: &Value) -> Map<String, Value> {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| {
        let is_empty = value.is_null() || value == "" || value == json!([]);
        if !is_empty {
            shown.insert(name.to_owned(), value);
        }
    };
    let copy = |member: &str| detail.get(member).cloned().unwrap_or_default();
    put("id", copy("id"));
    put("name", copy("name"));
    put("version", copy("version"));
    put("uid", copy("instance_uid"));
    put("host", copy("host_name"));
    let team = detail.get("team_name").or_else(|| detail.get("team_id"));
    put("team", team.cloned().unwrap_or_default());
    put("status", copy("status"));
    put("last heard", copy("seen_at"));
    let seconds = copy("interval_seconds");
    put("heard every", format!("{seconds} s").into());
    put("first seen", copy("created_at"));
    put("state", copy("standing"));
    put("healthy", copy("healthy"));
    put("key", key(detail).into());
    let config = detail.get("remote_config");
    put("remote config", report(config).into());
    let settings = detail.get("connection_settings");
    put("connection settings", report(settings).into());
    put("own telemetry", own_telemetry(detail).into());
    put("enrollment token", copy("enrollment_token_id"));
    if detail["is_ephemeral"] == true {
        put("ephemeral", true.into());
    }
    put("separated from", copy("separated_from"));
    put("separated", copy("separated"));
    for (name, state) in [("runs on host", "linked"), ("may run on host", "suggested")] {
        put(name, hosts(detail, state).into());
    }
    let uids = items(detail, "instance_uids");
    let earlier = uids.iter().filter(|uid| **uid != detail["instance_uid"]);
    put("earlier uids", earlier.cloned().collect());
    shown
}

/// Where it sends telemetry about itself, in a line: `offered: metrics and logs as backend says`.
fn own_telemetry(detail: &Value) -> String {
    let Some(own) = detail.get("own_telemetry") else {
        return String::new();
    };
    let signals = items(own, "signals").iter().filter_map(Value::as_str);
    let signals = signals.collect::<Vec<_>>().join(", ");
    let name = text(own, "settings");
    let mut line = match text(own, "status") {
        "left_alone" => return format!("nothing is set any more; it keeps what `{name}` said"),
        "cannot" => return format!("`{name}` is for it, and it does not report its own telemetry"),
        status => format!("{signals} by `{name}`: {status}"),
    };
    if !text(own, "error").is_empty() {
        let _ = write!(line, ": {}", text(own, "error"));
    }
    line
}

/// The hosts that it is linked to, or that are suggested, and how they were found.
fn hosts(detail: &Value, state: &str) -> Vec<Value> {
    let hosts = items(detail, "hosts").iter();
    let hosts = hosts.filter(|link| link["state"] == *state);
    let words = |link: &Value| {
        let how = match (text(link, "matched_by"), text(link, "decided_by")) {
            ("hand", who) => format!("by hand, by {who}"),
            (by, "") => format!("by {by}={}", text(link, "matched_value")),
            (by, who) => format!(
                "by {by}={}, confirmed by {who}",
                text(link, "matched_value")
            ),
        };
        format!("{} ({}), {how}", link["host_id"], text(link, "host")).into()
    };
    hosts.map(words).collect()
}

/// How far it is with a key of its own, in words.
fn key(detail: &Value) -> String {
    let takes_keys = items(detail, "capabilities")
        .iter()
        .any(|it| it == TAKES_KEYS);
    let offer = detail.get("key_offer").map(|offer| {
        let late = if offer["is_overdue"] == true {
            ", and should have been used by now"
        } else {
            ""
        };
        let at = output::to_the_second(text(offer, "offered_at"));
        format!("offer {} of {at} is not used yet{late}", offer["offers"])
    });
    match (text(detail, "key_status"), offer) {
        ("none", None) if takes_keys => "none".to_owned(),
        ("none", None) => "none; it cannot take one, and lives on its enrollment token".to_owned(),
        (status, None) => status.to_owned(),
        (status, Some(offer)) => format!("{status}; {offer}"),
    }
}

/// What an agent says of settings, in a line.
fn report(report: Option<&Value>) -> String {
    let Some(report) = report else {
        return String::new();
    };
    let mut line = text(report, "status").to_owned();
    if !text(report, "error").is_empty() {
        let _ = write!(line, ": {}", text(report, "error"));
    }
    line
}

/// A line for a component and, further in, those for what it is made of.
fn health_line(shown: &mut String, name: &str, node: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let is_healthy = node["healthy"] == true;
    let word = if is_healthy { "healthy" } else { "unhealthy" };
    let _ = write!(shown, "{indent}{}: {word}", printable(name));
    if !text(node, "status").is_empty() {
        let _ = write!(shown, ", {}", printable(text(node, "status")));
    }
    if !is_healthy && !text(node, "status_at").is_empty() {
        let since = output::to_the_second(text(node, "status_at"));
        let _ = write!(shown, " since {}", printable(&since));
    }
    if !text(node, "last_error").is_empty() {
        let _ = write!(shown, ": {}", printable(text(node, "last_error")));
    }
    shown.push('\n');
    let components = node.get("components").and_then(Value::as_object);
    for (name, component) in components.into_iter().flatten() {
        health_line(shown, name, component, depth + 1);
    }
    if node["is_cut"] == true {
        let _ = writeln!(shown, "{indent}  … and more that is not kept");
    }
}

/// The components that a collector is built of, as an indented tree.
pub(super) fn components(tree: &Value) -> String {
    let mut shown = String::new();
    component_lines(&mut shown, tree, 0);
    shown
}

fn component_lines(shown: &mut String, nodes: &Value, depth: usize) {
    for (name, node) in nodes.as_object().into_iter().flatten() {
        let indent = "  ".repeat(depth);
        let _ = write!(shown, "{indent}{}", printable(name));
        let details = node.get("metadata").map(pairs).unwrap_or_default();
        if !details.is_empty() {
            let _ = write!(shown, "  {}", printable(&details));
        }
        shown.push('\n');
        if let Some(inner) = node.get("components") {
            component_lines(shown, inner, depth + 1);
        }
    }
}

/// Members with their values: `status=applied hash=1f`.
fn pairs(details: &Value) -> String {
    let members = details.as_object().into_iter().flatten();
    let pairs = members.filter_map(|(name, value)| match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(format!("{name}={text}")),
        other => Some(format!("{name}={other}")),
    });
    pairs.collect::<Vec<String>>().join(" ")
}

fn event_rows<'a>(events: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let row = |event: &Value| {
        json!({
            "at": event["at"],
            "what": text(event, "kind").replace('_', " "),
            "particulars": pairs(&event["details"]),
        })
    };
    events.map(row).collect()
}

/// What happened to a collector, newest first.
pub(super) fn events(style: Style, detail: &Value) -> String {
    let events = items(detail, "events");
    if style == Style::Json {
        return output::listed(style, EVENTS, events);
    }
    output::listed(style, EVENTS, &event_rows(events.iter()))
}

/// Files as they are; when there are several, each below a line with its name.
pub(super) fn files(config: &Value) -> String {
    let files = config.as_object();
    let has_names = files.is_some_and(|files| files.len() > 1);
    let mut shown = String::new();
    for (name, file) in files.into_iter().flatten() {
        if has_names {
            let _ = writeln!(shown, "# file: {}", printable(name));
        }
        if let Some(body) = file.get("body").and_then(Value::as_str) {
            shown.push_str(body);
        } else {
            let withheld = &file["withheld"];
            let why = printable(text(withheld, "reason"));
            let _ = write!(shown, "# not kept ({} bytes): {why}", withheld["bytes"]);
        }
        if !shown.ends_with('\n') {
            shown.push('\n');
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail() -> Value {
        let mut detail = json!({
            "id": 7, "instance_uid": "0193d3a4-7c2b-7e10-8a4b-1d2f3a4b5c6d", "name": "otelcol", "version": "0.158.0",
            "host_name": "edge-1", "team_id": 2, "team_name": "Edge", "enrollment_token_id": 3, "status": "online",
            "standing": "enrolled", "healthy": false, "key_status": "adopted", "config_status": "failed",
            "capabilities": ["reports_status", TAKES_KEYS],
            "created_at": "2026-11-23T10:00:00.123456Z", "seen_at": "2026-11-23T10:05:00.123456Z",
            "identifying_attributes": { "service.name": "otelcol", "service.version": "0.158.0" },
            "attributes": { "host.name": "edge-1", "evil\u{1b}[2J": ["a", 1, true] },
            "interval_seconds": 30, "is_ephemeral": true, "separated": [9],
            "instance_uids": ["0193d3a4-7c2b-7e10-8a4b-1d2f3a4b5c6d", "01010101-0101-0101-0101-010101010101"],
        });
        detail["health"] = json!({
            "healthy": false, "status": "StatusPermanentError", "last_error": "cannot bind\nport",
            "status_at": "2026-11-23T10:01:00.000000Z",
            "components": {
                "extensions": { "healthy": true, "status": "StatusOK" },
                "pipeline:logs": { "healthy": false, "is_cut": true, "components": {
                    "exporter:otlp": { "healthy": false, "last_error": "refused" } } } },
        });
        detail["remote_config"] = json!({
            "hash": "1f", "status": "failed", "error": "no such exporter", "at": "2026-11-23T10:01:00.5Z",
        });
        detail["keys"] = json!([
            { "id": 5, "state": "pending", "created_at": "2026-11-23T10:02:00.000000Z",
              "expires_at": "2026-11-24T10:02:00.000000Z" },
            { "id": 4, "state": "active", "created_at": "2026-11-23T10:00:00.000000Z",
              "first_used_at": "2026-11-23T10:00:01.000000Z", "used_at": "2026-11-23T10:05:00.000000Z" },
        ]);
        detail["own_telemetry"] = json!({
            "settings": "backend", "settings_id": 1, "signals": ["metrics", "logs"], "status": "offered",
        });
        detail["hosts"] = json!([
            { "host_id": 5, "host": "edge-1", "state": "linked", "matched_by": "host.id", "matched_value": "4c4c",
              "since": "2026-11-23T10:00:00.000000Z" },
            { "host_id": 6, "host": "edge-2", "state": "rejected", "matched_by": "host.name", "matched_value": "edge-1",
              "decided_by": "Ann", "since": "2026-11-23T10:00:00.000000Z" },
        ]);
        detail["key_offer"] = json!({
            "offered_at": "2026-11-23T10:02:00.000000Z", "offers": 2, "is_overdue": true,
        });
        detail["events"] = json!([
            { "at": "2026-11-23T10:01:00.000000Z", "kind": "config_reported",
              "details": { "hash": "1f", "status": "failed", "error": "no such exporter" } },
            { "at": "2026-11-23T10:00:00.000000Z", "kind": "enrolled", "details": { "token_id": 3, "none": null } },
        ]);
        detail
    }

    #[test]
    fn a_collector_is_shown_with_its_health_as_a_tree() {
        insta::assert_snapshot!("collector", collector(&detail()));
    }

    #[test]
    fn only_the_newest_events_stand_beside_the_rest() {
        let mut detail = detail();
        let event = detail["events"][1].clone();
        detail["events"] = vec![event; NEWEST_EVENTS + 3].into();
        let shown = collector(&detail);
        assert_eq!(shown.matches("enrolled  ").count(), NEWEST_EVENTS);
        assert!(
            shown.ends_with("\n3 more: muster collector 7 --events\n"),
            "{shown}"
        );
        let all = events(Style::Table, &detail);
        assert_eq!(all.lines().count(), 1 + NEWEST_EVENTS + 3);
    }

    #[test]
    fn a_host_is_named_with_how_it_was_found() {
        let detail = json!({ "hosts": [
            { "host_id": 1, "host": "a", "state": "linked", "matched_by": "hand", "decided_by": "Ann" },
            { "host_id": 2, "host": "b", "state": "linked", "matched_by": "host.name", "matched_value": "b",
              "decided_by": "Ann" },
            { "host_id": 3, "host": "c", "state": "suggested", "matched_by": "host.name", "matched_value": "c" },
        ] });
        let linked = [
            "1 (a), by hand, by Ann",
            "2 (b), by host.name=b, confirmed by Ann",
        ];
        assert_eq!(hosts(&detail, "linked"), linked);
        assert_eq!(hosts(&detail, "suggested"), ["3 (c), by host.name=c"]);
    }

    #[test]
    fn whoever_said_nothing_is_shown_too() {
        let least = json!({ "id": 1, "key_status": "none", "interval_seconds": 30 });
        let expected = "id           1\nheard every  30 s\n\
            key          none; it cannot take one, and lives on its enrollment token\n";
        assert_eq!(collector(&least), expected);
        assert_eq!(title(&least), "no name");
    }

    #[test]
    fn files_stay_as_they_are_and_several_have_their_names_above() {
        let one = json!({ "": { "body": "a:\t1" } });
        assert_eq!(files(&one), "a:\t1\n");
        let several = json!({
            "main.yaml": { "body": "a: 1\n" },
            "other": { "withheld": { "reason": "it is neither YAML nor JSON", "bytes": 12 } },
        });
        assert_eq!(
            files(&several),
            "# file: main.yaml\na: 1\n# file: other\n# not kept (12 bytes): it is neither YAML nor JSON\n"
        );
    }

    #[test]
    fn components_are_an_indented_tree() {
        let tree = json!({ "receivers": { "components": { "otlp": { "metadata": { "code.namespace": "x", "n": 1 } } } },
            "exporters": {} });
        assert_eq!(
            components(&tree),
            "receivers\n  otlp  code.namespace=x n=1\nexporters\n"
        );
    }
}
