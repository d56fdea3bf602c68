//! Servers without a capability do what servers did before there was one.

use std::time::Duration;

use muster_negotiation::{Capability, Offer, Release};
use muster_store::testing::on_both_databases;
use serde_json::json;

use crate::harness::TestServer;

const HEADER: &str = "x-fleet-capabilities";

async fn ping(server: &TestServer, token: &str) -> u16 {
    let path = format!("/api/latest/fleet/device/{token}/ping");
    server.head(&path).await.status
}

on_both_databases! {
    async fn without_token_rotation_a_device_token_does_not_end(db: TestDatabase) {
        let server = TestServer::without(&db, &[Capability::TokenRotation]).await;
        let key = server.enroll_orbit("a").await;
        let body = json!({ "orbit_node_key": key, "device_auth_token": "first" });
        let registered = server.post("/api/fleet/orbit/device_token", body).await;
        assert_eq!(registered.status, 200);
        assert_eq!(registered.header(HEADER), Some("orbit_endpoints,end_user_email,muster_notify"));
        server.clock.advance(Duration::from_secs(30 * 24 * 3_600));
        assert_eq!(ping(&server, "first").await, 200);
        assert_eq!(ping(&server, "second").await, 401);
        let body = json!({ "orbit_node_key": key, "device_auth_token": "second" });
        assert_eq!(server.post("/api/fleet/orbit/device_token", body).await.status, 200);
        assert_eq!((ping(&server, "first").await, ping(&server, "second").await), (401, 200));
    }

    async fn without_end_user_email_orbit_cannot_tell_who_uses_the_host(db: TestDatabase) {
        let server = TestServer::without(&db, &[Capability::EndUserEmail]).await;
        let key = server.enroll_orbit("a").await;
        let body = json!({ "orbit_node_key": key, "email": "ann@example.com" });
        let answer = server.post("/api/fleet/orbit/device_mapping", body).await;
        assert_eq!((answer.status, answer.header(HEADER)), (404, None));
        let config = server.post("/api/fleet/orbit/config", json!({ "orbit_node_key": key })).await;
        assert_eq!(config.header(HEADER), Some("orbit_endpoints,token_rotation,muster_notify"));
        let host = server.host_of(&key).await;
        assert!(server.agents.end_users_of(host).await.unwrap().is_empty());
    }

    async fn without_orbit_endpoints_the_family_is_not_there(db: TestDatabase) {
        let server = TestServer::without(&db, &[Capability::OrbitEndpoints]).await;
        let enroll = json!({ "enroll_secret": server.secret, "hardware_uuid": "a" });
        for path in ["enroll", "config", "device_token", "device_mapping", "software_install/details"] {
            let answer = server.post(&format!("/api/fleet/orbit/{path}"), enroll.clone()).await;
            assert_eq!((answer.status, answer.header(HEADER)), (404, None), "{path}");
        }
        assert_eq!(server.head("/api/fleet/orbit/ping").await.status, 404);
        // osquery is served as ever.
        server.enroll("a").await;
        assert_eq!(server.head("/api/fleet/device/ping").await.status, 200);
    }

    async fn what_is_said_changes_while_the_server_runs_and_so_does_the_life_of_tokens(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        let body = json!({ "orbit_node_key": key, "device_auth_token": "first" });
        let said = async || {
            let answer = server.post("/api/fleet/orbit/device_token", body.clone()).await;
            answer.header(HEADER).map(str::to_owned)
        };
        let all = Offer::of(Release::current());
        assert_eq!(said().await, Some(all.to_text()));
        server.clock.advance(Duration::from_secs(2 * 3_600));
        assert_eq!(ping(&server, "first").await, 401);
        // Another server that cannot rotate tokens joins, and goes again.
        let spoken = server.standing.spoken();
        let less = all.without(&[Capability::TokenRotation]);
        spoken.change(less);
        assert_eq!((said().await, ping(&server, "first").await), (Some(less.to_text()), 200));
        spoken.change(Offer::NOTHING);
        assert_eq!(said().await, None, "absent, not empty");
        spoken.change(all);
        assert_eq!((said().await, ping(&server, "first").await), (Some(all.to_text()), 401));
    }
}
