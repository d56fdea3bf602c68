//! What agents say that they can do.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use muster_store::testing::on_both_databases;
use serde_json::json;

use crate::harness::TestServer;

pub(crate) async fn config(
    server: &TestServer,
    key: &str,
    user_agent: &str,
    capabilities: Option<&str>,
) {
    let mut request = Request::post("/api/fleet/orbit/config").header("User-Agent", user_agent);
    if let Some(capabilities) = capabilities {
        request = request.header("X-Fleet-Capabilities", capabilities);
    }
    let body = json!({ "orbit_node_key": key }).to_string();
    let answer = server.send(request.body(Body::from(body)).unwrap()).await;
    assert_eq!(answer.status, 200);
}

pub(crate) const ORBIT: &str = "Go-http-client/2.0";

on_both_databases! {
    async fn only_changes_are_kept_whatever_the_order(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        let host = server.host_of(&key).await;
        config(&server, &key, ORBIT, Some("setup_experience,escrow_buddy")).await;
        let said = server.agents.capabilities_of(host).await.unwrap();
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].process, "orbit");
        assert_eq!(said[0].names, ["escrow_buddy", "setup_experience"]);
        let before = server.database.statements();
        config(&server, &key, ORBIT, Some("escrow_buddy,setup_experience")).await;
        config(&server, &key, ORBIT, Some("setup_experience, escrow_buddy")).await;
        assert_eq!(server.database.statements(), before);

        config(&server, &key, ORBIT, Some("escrow_buddy")).await;
        config(&server, &key, ORBIT, None).await;
        let said = server.agents.capabilities_of(host).await.unwrap();
        assert!(said[0].names.is_empty());
        let events = server.agents.events_of(host, 10).await.unwrap();
        let changes: Vec<_> = events.iter().filter(|event| event.kind == "capabilities_changed").collect();
        assert_eq!(changes.len(), 3);
        assert_eq!(changes[0].details["before"], json!(["escrow_buddy"]));
        assert_eq!(changes[0].details["after"], json!([]));
        // A restart remembers what was said.
        let other = server.another(server.database.clone()).await;
        config(&other, &key, ORBIT, None).await;
        assert_eq!(other.agents.events_of(host, 10).await.unwrap().len(), events.len());
    }

    async fn a_host_that_says_nothing_has_nothing(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        let host = server.host_of(&key).await;
        config(&server, &key, ORBIT, None).await;
        config(&server, &key, ORBIT, Some("")).await;
        assert!(server.agents.capabilities_of(host).await.unwrap().is_empty());
        let kinds: Vec<String> = server.agents.events_of(host, 10).await.unwrap().into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds, ["enrolled"]);
    }

    async fn our_own_agent_stands_under_its_name_and_version(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        let host = server.host_of(&key).await;
        config(&server, &key, "muster-agent/0.1.0", Some("muster_notify")).await;
        config(&server, &key, "muster-agent/0.2.0", Some("muster_notify")).await;
        let said = server.agents.capabilities_of(host).await.unwrap();
        assert_eq!(said.len(), 1);
        assert_eq!((said[0].process.as_str(), said[0].version.as_str()), ("muster-agent", "0.2.0"));
    }

    async fn a_program_that_takes_the_place_of_another_speaks_for_the_host(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        let host = server.host_of(&key).await;
        config(&server, &key, "muster-agent/0.1.0", Some("muster_notify")).await;
        server.clock.advance(Duration::from_secs(60));
        // Orbit of 2022 says nothing, and takes away all that was said.
        config(&server, &key, ORBIT, None).await;
        let before = server.database.statements();
        config(&server, &key, ORBIT, None).await;
        assert_eq!(server.database.statements(), before);
        let said = server.agents.capabilities_of(host).await.unwrap();
        assert_eq!(said.len(), 2);
        let (agent, orbit) = (&said[0], &said[1]);
        assert_eq!((agent.process.as_str(), agent.names.len()), ("muster-agent", 1));
        assert_eq!((orbit.process.as_str(), orbit.names.len()), ("orbit", 0));
        assert!(orbit.changed_at > agent.changed_at);
        let events = server.agents.events_of(host, 10).await.unwrap();
        assert_eq!(
            events[0].details,
            json!({ "process": "orbit", "version": "", "process_before": "muster-agent",
                "before": ["muster_notify"], "after": [] })
        );
        // Back again: what it said before is no news, that it speaks again is.
        config(&server, &key, "muster-agent/0.1.0", Some("muster_notify")).await;
        let said = server.agents.capabilities_of(host).await.unwrap();
        assert!(said[0].changed_at > said[1].changed_at);
    }

    async fn what_another_server_heard_already_is_no_change_again(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        let host = server.host_of(&key).await;
        let other = server.another(server.database.clone()).await;
        for said in ["muster_notify", "escrow_buddy", "muster_notify"] {
            for server in [&server, &other, &server] {
                server.clock.advance(Duration::from_secs(1));
                config(server, &key, "muster-agent/0.2.0", Some(said)).await;
            }
        }
        let events = server.agents.events_of(host, 20).await.unwrap();
        let changes = events.iter().filter(|event| event.kind == "capabilities_changed");
        assert_eq!(changes.count(), 3);
    }

    async fn our_own_agent_is_known_though_it_says_nothing(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        let host = server.host_of(&key).await;
        config(&server, &key, "muster-agent/0.1.0", None).await;
        let said = server.agents.capabilities_of(host).await.unwrap();
        assert_eq!((said[0].process.as_str(), said[0].names.len()), ("muster-agent", 0));
        assert_eq!(server.agents.events_of(host, 10).await.unwrap().len(), 1, "it enrolled");
    }

    async fn a_new_version_that_says_the_same_changes_no_time(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        let host = server.host_of(&key).await;
        config(&server, &key, "muster-agent/0.1.0", Some("muster_notify")).await;
        let before = server.agents.capabilities_of(host).await.unwrap();
        server.clock.advance(Duration::from_secs(60));
        config(&server, &key, "muster-agent/0.2.0", Some("muster_notify")).await;
        let after = server.agents.capabilities_of(host).await.unwrap();
        assert_eq!((after[0].version.as_str(), after[0].changed_at), ("0.2.0", before[0].changed_at));
    }

    async fn hostile_headers_are_kept_within_limits(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        let host = server.host_of(&key).await;
        let many: Vec<String> = (0..500).map(|number| format!("name_{number}")).collect();
        config(&server, &key, "muster-agent/1;2 3", Some(&many.join(","))).await;
        config(&server, &key, ORBIT, Some("semi;colon,ok")).await;
        let said = server.agents.capabilities_of(host).await.unwrap();
        assert_eq!(said[0].names.len(), 64);
        let other = server.another(server.database.clone()).await;
        config(&other, &key, ORBIT, Some("semi;colon,ok")).await;
        assert_eq!(other.agents.capabilities_of(host).await.unwrap(), said);
    }
}
