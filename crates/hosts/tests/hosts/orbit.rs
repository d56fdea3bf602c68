//! Orbit's API.

use axum::body::Body;
use axum::http::{Method, Request};
use muster_hosts::AgentOptions;
use muster_store::testing::on_both_databases;
use muster_store::{Executor, args};
use serde_json::{Value, json};

use crate::harness::{Answer, TestServer};

async fn config(server: &TestServer, key: &str) -> Answer {
    server
        .post("/api/fleet/orbit/config", json!({ "orbit_node_key": key }))
        .await
}

async fn config_saying(server: &TestServer, key: &str, capabilities: &str) -> Value {
    let body = json!({ "orbit_node_key": key }).to_string();
    let request =
        Request::post("/api/fleet/orbit/config").header("X-Fleet-Capabilities", capabilities);
    server
        .send(request.body(Body::from(body)).unwrap())
        .await
        .json()
}

on_both_databases! {
    async fn only_the_secret_and_the_uuid_are_needed_to_enroll(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        // As orbit of 2022 sends, and as that of 2025.
        let key = server.enroll_orbit("11111111-2222-3333-4444-555555552022").await;
        assert_eq!(key.len(), 32);
        let body = json!({"enroll_secret": server.secret, "hardware_uuid": "11111111-2222-3333-4444-555555552025",
            "hardware_serial": "SER1", "hostname": "orbit-host-2025", "platform": "ubuntu", "osquery_identifier": "",
            "computer_name": "orbit-host-2025", "hardware_model": "KVM"});
        let key = server.enroll_orbit_with(body).await;
        let record = server.record(&key).await;
        assert_eq!(record.facts.hostname, "orbit-host-2025");
        assert_eq!(record.facts.hardware_model, "KVM");
        assert_eq!(record.identifier, "11111111-2222-3333-4444-555555552025");
    }

    async fn a_refusal_has_the_standard_body_and_no_capabilities(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let osquery = server.enroll("a").await;
        for (path, body, status, message) in [
            ("enroll", json!({"enroll_secret": "bad", "hardware_uuid": "zz"}), 401, "Authentication failed"),
            ("enroll", json!({}), 401, "Authentication failed"),
            ("enroll", json!({"enroll_secret": server.secret}), 400, "Bad request"),
            ("config", json!({"orbit_node_key": "bad"}), 401, "Authentication required"),
            ("config", json!({}), 401, "Authentication required"),
            ("config", Value::Null, 401, "Authentication required"),
            ("config", json!({"orbit_node_key": osquery}), 401, "Authentication required"),
            ("device_token", json!({"orbit_node_key": "bad", "device_auth_token": "x"}), 401, "Authentication required"),
        ] {
            let answer = server.post(&format!("/api/fleet/orbit/{path}"), body.clone()).await;
            assert_eq!(answer.status, status, "{path} {body}");
            let json = answer.json();
            assert_eq!(json["message"], message, "{path} {body}");
            assert_eq!(json["errors"][0]["name"], "base");
            assert!(json.get("node_invalid").is_none());
            assert_eq!(answer.header("x-fleet-capabilities"), None, "{path} {body}");
        }
        for body in ["[]", "{", "\"x\""] {
            assert_eq!(server.post_bytes("/api/fleet/orbit/config", body).await.status, 400, "{body}");
        }
        assert_eq!(server.post("/api/fleet/orbit/nope", json!({})).await.status, 404);
        assert_eq!(server.get("/api/fleet/orbit/config").await.status, 405);
    }

    async fn every_success_carries_the_capabilities_without_spaces(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let body = json!({"enroll_secret": server.secret, "hardware_uuid": "a"});
        let enrolled = server.post("/api/fleet/orbit/enroll", body).await;
        let key = enrolled.json()["orbit_node_key"].as_str().unwrap().to_owned();
        let ping = server.head("/api/fleet/orbit/ping").await;
        assert!(ping.bytes.is_empty());
        let with_key = |members: Value| {
            let mut body = members;
            body["orbit_node_key"] = json!(key);
            body
        };
        let answers = [
            enrolled,
            ping,
            server.get("/api/fleet/orbit/ping").await,
            config(&server, &key).await,
            server.post("/api/fleet/orbit/device_token", with_key(json!({"device_auth_token": "t"}))).await,
            server.post("/api/fleet/orbit/device_mapping", with_key(json!({"email": "a@example.com"}))).await,
        ];
        for answer in answers {
            assert_eq!(answer.status, 200);
            let header = answer.header("x-fleet-capabilities").unwrap();
            assert!(!header.contains(' '), "{header}");
            let mut names: Vec<&str> = header.split(',').collect();
            names.sort_unstable();
            for name in ["orbit_endpoints", "token_rotation", "end_user_email"] {
                assert!(names.contains(&name), "{header}");
            }
        }
        // Never on osquery's family.
        let osquery = server.enroll("b").await;
        assert_eq!(server.read(&osquery).await.header("x-fleet-capabilities"), None);
    }

    async fn a_configuration_without_options_is_only_its_notifications(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        let answer = config(&server, &key).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"notifications": {}})));
        server.options.set_global(AgentOptions {
            command_line_flags: Some(json!({"verbose": true})),
            update_channels: Some(json!({"orbit": "edge"})),
            script_execution_timeout: Some(300),
            ..AgentOptions::default()
        });
        let expected = json!({
            "script_execution_timeout": 300,
            "command_line_startup_flags": {"verbose": true},
            "notifications": {},
            "update_channels": {"orbit": "edge"}
        });
        assert_eq!(config(&server, &key).await.json(), expected);
    }

    async fn empty_flags_are_told_only_to_those_who_say_what_they_can(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        server.options.set_global(AgentOptions {
            command_line_flags: Some(json!({})),
            ..AgentOptions::default()
        });
        assert_eq!(config(&server, &key).await.json(), json!({"notifications": {}}));
        let said = config_saying(&server, &key, "escrow_buddy,setup_experience").await;
        assert_eq!(said, json!({"command_line_startup_flags": {}, "notifications": {}}));
    }

    async fn a_team_replaces_the_global_options_but_for_the_timeout_of_scripts(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let team = server.team("red").await;
        let secret = server.token("red", Some(team)).await;
        let key = server.enroll_orbit_with(json!({"enroll_secret": secret, "hardware_uuid": "a"})).await;
        server.options.set_global(AgentOptions {
            command_line_flags: Some(json!({"verbose": true})),
            script_execution_timeout: Some(300),
            ..AgentOptions::default()
        });
        server.options.set_team(team, AgentOptions::default());
        let expected = json!({"script_execution_timeout": 300, "notifications": {}});
        assert_eq!(config(&server, &key).await.json(), expected);
    }

    async fn extensions_follow_platform_and_labels(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit_with(json!({"enroll_secret": server.secret, "hardware_uuid": "a",
            "platform": "ubuntu"})).await;
        server.options.set_global(AgentOptions {
            extensions: Some(json!({
                "hello": {"platform": "linux", "channel": "stable", "labels": ["All Hosts"]},
                "other": {"platform": "linux", "channel": "stable", "labels": ["All Hosts", "macOS"]},
                "mac": {"platform": "macos", "channel": "stable"}
            })),
            ..AgentOptions::default()
        });
        let extensions = config(&server, &key).await.json()["extensions"].clone();
        assert_eq!(extensions, json!({"hello": {"platform": "linux", "channel": "stable"}}));
    }

    async fn the_user_of_a_host_is_kept_by_either_method(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        let host = server.host_of(&key).await;
        for (method, email) in [(Method::PUT, "ann@example.com"), (Method::POST, "bob@example.com"), (Method::PUT, "zz")] {
            let body = json!({"orbit_node_key": key, "email": email}).to_string();
            let request = Request::builder().method(method).uri("/api/fleet/orbit/device_mapping");
            let answer = server.send(request.body(Body::from(body)).unwrap()).await;
            assert_eq!((answer.status, answer.json()), (200, json!({})));
            let users = server.agents.end_users_of(host).await.unwrap();
            assert_eq!(users.len(), 1);
            assert_eq!((users[0].email.as_str(), users[0].source.as_str()), (email, "custom"));
        }
    }

    async fn software_installations_are_asked_for_with_either_spelling_of_the_key(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        for (member, key, status) in [
            ("orbit_node_key", key.as_str(), 404),
            ("orbot_node_key", key.as_str(), 404),
            ("orbot_node_key", "bad", 401),
            ("node_key", key.as_str(), 401),
        ] {
            let body = json!({member: key, "install_uuid": "x"});
            let answer = server.post("/api/fleet/orbit/software_install/details", body).await;
            assert_eq!(answer.status, status, "{member}");
            let message = if status == 404 { "Resource Not Found" } else { "Authentication required" };
            assert_eq!(answer.json()["message"], message);
        }
    }

    async fn a_deleted_host_is_told_that_its_key_is_invalid(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let osquery = server.enroll("a").await;
        let orbit = server.enroll_orbit("a").await;
        assert_eq!(config(&server, &orbit).await.status, 200);
        let host = server.host_of(&osquery).await;
        (&server.database).execute("DELETE FROM hosts_hosts WHERE id = $1", args![host]).await.unwrap();
        let bare = server.another(server.database.clone()).await;
        let refused = bare.read(&osquery).await;
        assert_eq!((refused.status, refused.json()["node_invalid"].clone()), (401, json!(true)));
        let refused = config(&bare, &orbit).await;
        assert_eq!((refused.status, refused.json()["message"].clone()), (401, json!("Authentication required")));
    }
}
