//! Each recorded answer is read by our type and written again: every member must come back, in its place, with its
//! value; and our types must add none that Fleet does not have.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use muster_wire_fleet as wire;
use wire::{config, host, label, live, orbit, query, target, team, user};

use crate::recorded;

fn again<T: DeserializeOwned + Serialize>(body: &Value) -> Value {
    // By way of text, as on the wire: only that keeps the order that the type writes.
    let read: T = serde_json::from_str(&body.to_string()).unwrap();
    serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap()
}

fn rewritten(kind: &str, body: &Value) -> Value {
    match kind {
        "campaign" => again::<live::CampaignAnswer>(body),
        "certificate" => again::<config::CertificateAnswer>(body),
        "config" => again::<config::AppConfig>(body),
        "count" => again::<wire::CountAnswer>(body),
        "deleted" => again::<wire::DeletedAnswer>(body),
        "device mapping" => again::<host::DeviceMappingAnswer>(body),
        "enroll secret spec" => again::<team::EnrollSecretSpec>(body),
        "error" => again::<wire::ErrorBody>(body),
        "host" => again::<host::HostAnswer>(body),
        "host query" => again::<live::HostQueryAnswer>(body),
        "host summary" => again::<host::HostSummary>(body),
        "hosts" => again::<host::HostsAnswer>(body),
        "label" => again::<label::LabelAnswer>(body),
        "label spec" => again::<wire::OneSpec<label::LabelSpec>>(body),
        "label specs" => again::<wire::Specs<label::LabelSpec>>(body),
        "label summary" => again::<label::LabelSummaryAnswer>(body),
        "labels" => again::<label::LabelsAnswer>(body),
        "login" => again::<user::LoginAnswer>(body),
        "me" => again::<user::MeAnswer>(body),
        "orbit config" => again::<orbit::Config>(body),
        "orbit enroll" => again::<orbit::EnrollAnswer>(body),
        "queries" => again::<query::QueriesAnswer>(body),
        "query" => again::<query::QueryAnswer>(body),
        "query spec" => again::<wire::OneSpec<query::QuerySpec>>(body),
        "query specs" => again::<wire::Specs<query::QuerySpec>>(body),
        "run many" => again::<live::RunManyAnswer>(body),
        "run saved" => again::<live::RunSavedAnswer>(body),
        "secrets" => again::<team::Secrets>(body),
        "session" => again::<user::Session>(body),
        "sessions" => again::<user::SessionsAnswer>(body),
        "setup" => again::<user::SetupAnswer>(body),
        "stream" => again::<live::ServerMessage>(body),
        "targets" => again::<target::TargetsAnswer>(body),
        "targets count" => again::<target::TargetsCountAnswer>(body),
        "team" => again::<team::TeamAnswer>(body),
        "team ids" => again::<team::TeamIdsByName>(body),
        "teams" => again::<team::TeamsAnswer>(body),
        "translate" => again::<user::Translate>(body),
        "user" => again::<user::UserAnswer>(body),
        "users" => again::<user::UsersAnswer>(body),
        "version" => again::<wire::VersionAnswer>(body),
        _ => panic!("no type for {kind}"),
    }
}

/// Members whose place differs: Fleet puts a host's labels elsewhere when a list was asked to hold them.
const OTHER_PLACE: &[&str] = &["labels"];

fn compare(theirs: &Value, ours: &Value, path: &str, differences: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (name, value) in theirs {
                match ours.get(name) {
                    Some(own) => compare(value, own, &format!("{path}.{name}"), differences),
                    None => differences.push(format!("{path}.{name} is missing")),
                }
            }
            for name in ours.keys().filter(|name| !theirs.contains_key(*name)) {
                differences.push(format!("{path}.{name} is too much"));
            }
            let order = |map: &serde_json::Map<String, Value>| {
                let names = map
                    .keys()
                    .filter(|name| !OTHER_PLACE.contains(&name.as_str()));
                names.cloned().collect::<Vec<_>>()
            };
            if order(theirs) != order(ours) {
                differences.push(format!(
                    "{path} has another order: {:?} not {:?}",
                    order(ours),
                    order(theirs)
                ));
            }
        }
        (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
            for (number, (value, own)) in theirs.iter().zip(ours).enumerate() {
                compare(value, own, &format!("{path}[{number}]"), differences);
            }
        }
        // 40 and 40.0 are one number.
        (Value::Number(theirs), Value::Number(ours)) if theirs.as_f64() == ours.as_f64() => {}
        _ if theirs == ours => {}
        _ => differences.push(format!("{path} is {ours} not {theirs}")),
    }
}

#[test]
fn every_recorded_answer_is_written_again_as_it_was() {
    let recorded = recorded(include_str!("data/answers.jsonl"));
    let mut differences = Vec::new();
    for (kind, name, body) in &recorded {
        compare(body, &rewritten(kind, body), name, &mut differences);
    }
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(recorded.len() > 60, "{}", recorded.len());
}

/// What a server makes itself, without having read it, has the members that clients look for.
#[test]
fn what_is_made_new_has_the_members_of_the_recording() {
    fn members(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    found.push(format!("{path}.{name}"));
                    members(value, &format!("{path}.{name}"), found);
                }
            }
            Value::Array(list) => {
                for value in list {
                    members(value, &format!("{path}[]"), found);
                }
            }
            _ => {}
        }
    }
    let recorded = recorded(include_str!("data/answers.jsonl"));
    let theirs = |kind: &str| {
        recorded
            .iter()
            .find(|line| line.0 == kind)
            .unwrap()
            .2
            .clone()
    };
    let made = [
        (
            theirs("config"),
            serde_json::to_value(config::AppConfig::default()),
        ),
        (
            theirs("team"),
            serde_json::to_value(team::TeamAnswer::default()),
        ),
        (
            theirs("version"),
            serde_json::to_value(wire::VersionAnswer::default()),
        ),
        (
            theirs("campaign"),
            serde_json::to_value(live::CampaignAnswer::default()),
        ),
        (
            theirs("targets count"),
            serde_json::to_value(target::TargetsCountAnswer::default()),
        ),
        (
            theirs("query"),
            serde_json::to_value(query::QueryAnswer::default()),
        ),
        (
            theirs("label"),
            serde_json::to_value(label::LabelAnswer {
                label: label::Label::default().counted(1),
            }),
        ),
        (
            theirs("hosts")["hosts"][0].clone(),
            serde_json::to_value(host::Host::default()),
        ),
    ];
    // Contents of operators, and members that are only there when they have a value.
    let optional = [
        ".agent_options.",
        ".secrets",
        ".packs[]",
        ".issues.critical_vulnerabilities_count",
    ];
    for (theirs, ours) in made {
        let (mut wanted, mut found) = (Vec::new(), Vec::new());
        members(&theirs, "", &mut wanted);
        members(&ours.unwrap(), "", &mut found);
        wanted.retain(|member| !optional.iter().any(|part| member.contains(part)));
        let missing: Vec<_> = wanted
            .iter()
            .filter(|member| !found.contains(member))
            .collect();
        assert!(missing.is_empty(), "{missing:#?}");
    }
}
