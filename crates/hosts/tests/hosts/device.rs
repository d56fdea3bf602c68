//! Device tokens and the device family.

use std::time::Duration;

use muster_store::testing::on_both_databases;
use serde_json::json;

use crate::harness::TestServer;

async fn register(server: &TestServer, key: &str, token: &str) -> u16 {
    let body = json!({"orbit_node_key": key, "device_auth_token": token});
    server
        .post("/api/fleet/orbit/device_token", body)
        .await
        .status
}

async fn ping(server: &TestServer, token: &str) -> u16 {
    let answer = server
        .head(&format!("/api/latest/fleet/device/{token}/ping"))
        .await;
    assert!(answer.bytes.is_empty());
    answer.status
}

on_both_databases! {
    async fn a_token_is_valid_for_an_hour_and_only_a_new_one_revives(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        assert_eq!(ping(&server, "first").await, 401);
        assert_eq!(register(&server, &key, "first").await, 200);
        assert_eq!(ping(&server, "first").await, 200);
        server.clock.advance(Duration::from_secs(59 * 60));
        assert_eq!(ping(&server, "first").await, 200);
        server.clock.advance(Duration::from_secs(2 * 60));
        assert_eq!(ping(&server, "first").await, 401);
        assert_eq!(register(&server, &key, "first").await, 200);
        assert_eq!(ping(&server, "first").await, 401);
        assert_eq!(register(&server, &key, "second").await, 200);
        assert_eq!(ping(&server, "second").await, 200);
        assert_eq!(ping(&server, "first").await, 401);
    }

    async fn a_token_of_another_host_stays_with_it(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (one, two) = (server.enroll_orbit("a").await, server.enroll_orbit("b").await);
        assert_eq!(register(&server, &one, "token").await, 200);
        assert_eq!(register(&server, &two, "token").await, 200);
        let host = server.agents.authenticate_device("token").await.unwrap();
        assert_eq!(host, server.host_of(&one).await);
        assert_eq!(register(&server, &one, "").await, 400);
        assert_eq!(register(&server, &one, &"x".repeat(300)).await, 400);
    }

    async fn the_summary_of_the_desktop_app_is_there_for_a_valid_token(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        register(&server, &key, "token").await;
        let answer = server.get("/api/latest/fleet/device/token/desktop").await;
        assert_eq!(answer.status, 200);
        let json = answer.json();
        assert_eq!((&json["failing_policies_count"], &json["notifications"]), (&json!(0), &json!({})));
        assert_eq!(json["config"]["org_info"]["org_name"], "Example");
        // Its set of capabilities is empty: the header is absent, not empty.
        assert_eq!(answer.header("x-fleet-capabilities"), None);
        let refused = server.get("/api/latest/fleet/device/nope/desktop").await;
        assert_eq!((refused.status, refused.json()["message"].clone()), (401, json!("Authentication required")));
    }

    async fn the_ping_without_a_token_says_only_that_the_family_is_there(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let answer = server.head("/api/fleet/device/ping").await;
        assert_eq!((answer.status, answer.bytes.len()), (200, 0));
    }
}
