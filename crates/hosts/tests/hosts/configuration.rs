//! osquery's configuration.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use muster_hosts::AgentOptions;
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};

use crate::harness::{Answer, TestServer, ubuntu};

fn options(config: Value) -> AgentOptions {
    AgentOptions {
        config,
        ..AgentOptions::default()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from_digit(digit.into(), 16).unwrap())
        .collect()
}

async fn config(server: &TestServer, key: &str, etag: Option<&str>) -> Answer {
    let mut body = json!({ "node_key": key });
    if let Some(etag) = etag {
        body["etag"] = json!(etag);
    }
    server.post("/api/v1/osquery/config", body).await
}

on_both_databases! {
    async fn the_four_cases_of_the_etag_protocol(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        server.options.set_global(options(json!({"options": {"distributed_interval": 10}})));
        let key = server.enroll("a").await;
        let plain = config(&server, &key, None).await;
        assert_eq!(plain.status, 200);
        assert_eq!(plain.header("cache-control"), Some("private, no-cache"));
        assert!(plain.json().get("etag").is_none());
        let hash = hexadecimal(digest(&SHA256, &plain.bytes).as_ref());

        for asked in ["", "stale"] {
            let full = config(&server, &key, Some(asked)).await;
            let mut json = full.json();
            assert_eq!(json["etag"], hash.as_str());
            json.as_object_mut().unwrap().remove("etag");
            assert_eq!(json, plain.json());
        }
        let unchanged = config(&server, &key, Some(&hash)).await;
        assert_eq!((unchanged.status, unchanged.json()), (200, json!({"etag": "ok"})));
        assert_eq!(unchanged.header("cache-control"), Some("private, no-cache"));
        // The same bytes every time, and others once the options changed.
        assert_eq!(config(&server, &key, None).await.bytes, plain.bytes);
        server.options.set_global(options(json!({"options": {"distributed_interval": 20}})));
        let changed = config(&server, &key, Some(&hash)).await;
        assert_eq!(changed.json()["options"]["distributed_interval"], 20);
        assert_ne!(changed.json()["etag"], hash.as_str());
    }

    async fn a_team_replaces_the_global_options_and_a_platform_replaces_the_config(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let team = server.team("red").await;
        let secret = server.token("red", Some(team)).await;
        let global = server.enroll("global").await;
        let member = server.enroll_with(&ubuntu(&secret, "member")).await;
        let of = |name: &str| json!({"options": {"from": name}});
        server.options.set_global(options(of("global")));
        assert_eq!(config(&server, &member, None).await.json(), of("global"));
        server.options.set_team(team, options(of("team")));
        assert_eq!(config(&server, &member, None).await.json(), of("team"));
        assert_eq!(config(&server, &global, None).await.json(), of("global"));
        let overrides = |platform: &str| AgentOptions {
            overrides: HashMap::from([(platform.to_owned(), json!({"options": {"of": platform}}))]),
            ..options(of("global"))
        };
        server.options.set_global(overrides("ubuntu"));
        assert_eq!(config(&server, &global, None).await.json(), json!({"options": {"of": "ubuntu"}}));
        // The family's name is not the platform's.
        server.options.set_global(overrides("linux"));
        assert_eq!(config(&server, &global, None).await.json(), of("global"));
    }

    async fn scheduled_queries_come_as_packs_of_their_scope(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let team = server.team("red").await;
        let secret = server.token("red", Some(team)).await;
        let global = server.enroll("global").await;
        let member = server.enroll_with(&ubuntu(&secret, "member")).await;
        assert!(config(&server, &global, None).await.json().get("packs").is_none());
        let pack = json!({"queries": {"q": {"query": "SELECT 1", "interval": 60}}});
        let name = format!("team-{team}");
        server.options.set_packs(None, json!({"Global": pack}));
        server.options.set_packs(Some(team), json!({"Global": pack, name.as_str(): pack}));
        assert_eq!(config(&server, &global, None).await.json()["packs"], json!({"Global": pack}));
        assert_eq!(config(&server, &member, None).await.json()["packs"], json!({"Global": pack, name.as_str(): pack}));
    }

    async fn intervals_of_the_configuration_are_kept_with_the_host(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        server.options.set_global(options(json!({"options": {
            "distributed_interval": 20, "config_tls_refresh": "300", "logger_tls_period": 15}})));
        let key = server.enroll("a").await;
        config(&server, &key, None).await;
        let facts = server.record(&key).await.facts;
        assert_eq!(facts.distributed_interval_seconds, Some(20));
        assert_eq!(facts.config_interval_seconds, Some(300));
        assert_eq!(facts.logger_interval_seconds, Some(15));
        // They are written when they change, not with each request.
        let before = server.database.statements();
        config(&server, &key, None).await;
        assert_eq!(server.database.statements(), before);
    }
}
