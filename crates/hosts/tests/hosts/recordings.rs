//! What real agents and simulators of two eras sent to a Fleet server, sent to this one.
//!
//! Each line of a recording is a request with the answer that it got. Keys and secrets stand as placeholders: what an
//! enrollment is answered with here takes the place of the recorded key from then on. Statuses and the members of
//! answers have to agree; of what agents are asked only that it can be answered, since our queries are our own.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use muster_hosts::AgentOptions;
use muster_store::testing::on_both_databases;
use muster_store::{Executor, args};
use serde_json::Value;

use crate::harness::TestServer;

fn members(value: &Value) -> BTreeSet<String> {
    value
        .as_object()
        .map(|object| object.keys().cloned().collect())
        .unwrap_or_default()
}

/// Puts what this server gave in the place of what the recorded one gave.
fn fill(text: &str, values: &HashMap<String, String>) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(name.as_str(), value)
    })
}

/// Sends a recording and gives the keys that it enrolled with.
async fn replay(server: &TestServer, recording: &str) -> HashMap<String, String> {
    let lines: Vec<Value> = recording
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut values = HashMap::from([("<secret-global>".to_owned(), server.secret.clone())]);
    let mut last_ms = 0;
    for line in &lines {
        let ms = line["ms"].as_u64().unwrap();
        server
            .clock
            .advance(Duration::from_millis(ms.saturating_sub(last_ms)));
        last_ms = ms;
        let (method, path) = (
            line["method"].as_str().unwrap(),
            line["path"].as_str().unwrap(),
        );
        // A token is a UUID on the wire.
        let path = path.replace(['<', '>'], "");
        let recorded = &line["resp"];
        if path.ends_with("/osquery/config") && recorded.is_object() {
            // The recorded server's options at that time, so that configurations can be compared whole.
            let mut config = recorded.clone();
            let packs = config
                .as_object_mut()
                .unwrap()
                .shift_remove("packs")
                .unwrap();
            server.options.set_packs(None, packs);
            server.options.set_global(AgentOptions {
                config,
                ..AgentOptions::default()
            });
        }
        let mut request = Request::builder().method(method).uri(&path);
        for (name, value) in line["headers"].as_object().into_iter().flatten() {
            request = request.header(name, value.as_str().unwrap());
        }
        let body = match &line["req"] {
            Value::Null => Body::empty(),
            body => Body::from(
                fill(&body.to_string(), &values)
                    .replace("\"<device-token", "\"device-token")
                    .replace(">\"", "\""),
            ),
        };
        let answer = server.send(request.body(body).unwrap()).await;
        assert_eq!(
            answer.status,
            line["status"].as_u64().unwrap() as u16,
            "{method} {path}: {}",
            answer.json()
        );
        for member in ["node_key", "orbit_node_key"] {
            if let Some(name) = recorded[member].as_str() {
                values.insert(
                    name.to_owned(),
                    answer.json()[member].as_str().unwrap().to_owned(),
                );
            }
        }
        if path.ends_with("/osquery/config") && recorded.is_object() {
            assert_eq!(&answer.json(), recorded, "{path}");
        } else if recorded.is_object() {
            assert_eq!(members(&answer.json()), members(recorded), "{path}");
        }
        if path.contains("/orbit/") && answer.status < 300 {
            assert!(answer.header("x-fleet-capabilities").is_some(), "{path}");
        }
    }
    values
}

async fn hosts(server: &TestServer) -> i64 {
    let row = (&server.database)
        .fetch_one("SELECT COUNT(*) AS n FROM hosts_hosts", args![])
        .await;
    row.unwrap().get("n").unwrap()
}

fn key<'a>(values: &'a HashMap<String, String>, kind: &str) -> &'a str {
    let found = values.iter().find(|(name, _)| name.starts_with(kind));
    found.map(|(_, value)| value.as_str()).unwrap()
}

on_both_databases! {
    async fn orbit_of_2022_gets_what_it_got_from_a_fleet_server(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let values = replay(&server, include_str!("recordings/orbit-2022.jsonl")).await;
        let record = server.record(key(&values, "<node-key")).await;
        assert!(record.orbit_enrolled_at.is_some() && record.osquery_enrolled_at.is_some());
        assert_eq!(hosts(&server).await, 1);
        assert!(server.agents.capabilities_of(record.id).await.unwrap().is_empty());
    }

    async fn orbit_of_2025_gets_what_it_got_from_a_fleet_server(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let values = replay(&server, include_str!("recordings/orbit-2025.jsonl")).await;
        let record = server.record(key(&values, "<node-key")).await;
        assert_eq!(hosts(&server).await, 1);
        assert_eq!(record.facts.hostname, "orbit-host-2025");
        let said = server.agents.capabilities_of(record.id).await.unwrap();
        assert_eq!(said[0].names, ["escrow_buddy", "setup_experience"]);
    }

    async fn the_simulator_of_2022_gets_what_it_got_from_a_fleet_server(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let values = replay(&server, include_str!("recordings/osquery-perf-2022.jsonl")).await;
        let record = server.record(key(&values, "<node-key")).await;
        assert_eq!(record.facts.platform, "darwin");
        assert_eq!(record.facts.hardware_model, "MacBookPro11,4");
        assert!(record.detail_updated_at.is_some());
    }

    async fn the_simulator_of_2025_gets_what_it_got_from_a_fleet_server(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let values = replay(&server, include_str!("recordings/osquery-perf-2025.jsonl")).await;
        let record = server.record(key(&values, "<node-key")).await;
        assert_eq!(hosts(&server).await, 1);
        assert_eq!(record.facts.os_version, "Ubuntu 22.04.1 LTS");
        assert_eq!(server.read(key(&values, "<node-key")).await.status, 200);
        assert_eq!(server.agents.users_of(record.id).await.unwrap().len(), 1);
    }
}
