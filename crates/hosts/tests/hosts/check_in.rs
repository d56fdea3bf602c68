//! Reading distributed queries, presence, and what plugs in.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use muster_bus::Hint;
use muster_clock::Timestamp;
use muster_hosts::{
    DistributedSource, DueQueries, HOST_TOPIC, HostState, QueryResult, SourceError,
};
use muster_identity::HostId;
use muster_store::testing::on_both_databases;
use muster_store::{Executor, args};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::{START, TestServer};

const EMPTY: &[u8] = br#"{"queries":{},"discovery":{}}"#;

async fn seen_at(server: &TestServer, host: HostId) -> Option<Timestamp> {
    let sql = "SELECT seen_at FROM hosts_presence WHERE host_id = $1";
    let row = (&server.database)
        .fetch_optional(sql, args![host])
        .await
        .unwrap();
    row.map(|row| row.get("seen_at").unwrap())
}

/// Asks one query of every host, and keeps what comes back.
#[derive(Default)]
struct Live {
    results: Mutex<Vec<QueryResult>>,
    fails: Mutex<bool>,
}

#[async_trait]
impl DistributedSource for Live {
    fn prefix(&self) -> &'static str {
        "fleet_distributed_query_"
    }

    fn due(&self, _: &HostState, _: Timestamp, out: &mut DueQueries) {
        out.push(
            "fleet_distributed_query_7",
            "SELECT pid FROM processes".into(),
            None,
        );
        out.push("fleet_distributed_query_8", "  ".into(), None);
    }

    async fn ingest(
        &self,
        _: &HostState,
        results: Vec<QueryResult>,
        _: Timestamp,
    ) -> Result<(), SourceError> {
        if *self.fails.lock().unwrap() {
            return Err(SourceError::Unavailable("away".into()));
        }
        self.results.lock().unwrap().extend(results);
        Ok(())
    }
}

on_both_databases! {
    async fn an_empty_read_costs_no_statement(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        server.settle(&key).await;
        let first = server.read(&key).await;
        assert_eq!((first.status, first.bytes.as_slice()), (200, EMPTY), "{:?}", first.asked());
        server.agents.check_in().presence().flush().await.unwrap();
        let before = server.database.statements();
        for _ in 0..100 {
            assert_eq!(server.read(&key).await.bytes, EMPTY);
        }
        assert_eq!(server.database.statements() - before, 0);
        // All of them together are one statement of presence.
        server.agents.check_in().presence().flush().await.unwrap();
        assert_eq!(server.database.statements() - before, 1);
    }

    async fn every_query_has_a_discovery_query_and_no_sql_is_empty(db: TestDatabase) {
        let server = TestServer::with_sources(&db, vec![Arc::new(Live::default())]).await;
        let key = server.enroll("a").await;
        let read = server.read(&key).await.json();
        let queries = read["queries"].as_object().unwrap();
        let discovery = read["discovery"].as_object().unwrap();
        assert!(queries.len() > 12, "{queries:?}");
        for (name, sql) in queries {
            assert!(!sql.as_str().unwrap().trim().is_empty(), "{name}");
            assert!(!discovery[name].as_str().unwrap().trim().is_empty(), "{name}");
        }
        assert_eq!(queries.len(), discovery.len());
        assert!(queries.contains_key("fleet_distributed_query_7"));
        assert!(!queries.contains_key("fleet_distributed_query_8"));
        assert_ne!(discovery["fleet_detail_query_orbit_info"], "SELECT 1");
    }

    async fn a_host_without_a_name_or_a_platform_is_asked_to_come_faster_until_both_are_known(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let body = json!({"enroll_secret": server.secret, "host_identifier": "bare"});
        let key = server.enroll_with(&body).await;
        let details = json!({"fleet_detail_query_system_info": [{"hostname": "h"}]});
        server.write(&key, details).await;
        assert_eq!(server.read(&key).await.json()["accelerate"], 10);
        let details = json!({"fleet_detail_query_os_version": [{"name": "Ubuntu", "platform": "ubuntu"}]});
        server.report(&key, details).await;
        assert_eq!(server.read(&key).await.json().get("accelerate"), None);
    }

    async fn details_are_due_again_after_about_an_hour_and_at_once_when_an_operator_asks(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        server.settle(&key).await;
        server.clock.advance(Duration::from_secs(53 * 60));
        assert_eq!(server.read(&key).await.bytes, EMPTY);
        server.clock.advance(Duration::from_secs(14 * 60));
        let asked = server.read(&key).await.asked();
        assert!(asked.contains(&"fleet_detail_query_uptime".to_owned()), "{asked:?}");
        assert!(asked.iter().any(|name| name.starts_with("fleet_label_query_")), "{asked:?}");
        server.settle(&key).await;
        assert_eq!(server.read(&key).await.bytes, EMPTY);

        let host = server.host_of(&key).await;
        let sql = "UPDATE hosts_hosts SET refetch_requested = 1 WHERE id = $1";
        (&server.database).execute(sql, args![host]).await.unwrap();
        // Another server, which never heard of the host, reads it so.
        let other = server.another(server.database.clone()).await;
        let asked = other.read(&key).await.asked();
        assert!(asked.contains(&"fleet_detail_query_uptime".to_owned()));
        assert!(!asked.iter().any(|name| name.starts_with("fleet_label_query_")), "{asked:?}");
        other.settle(&key).await;
        assert!(!other.record(&key).await.refetch_requested);
        assert_eq!(other.read(&key).await.bytes, EMPTY);
    }

    async fn after_a_long_absence_of_the_server_hosts_are_asked_over_ten_minutes(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let mut keys = Vec::new();
        for number in 0..20 {
            let key = server.enroll(&format!("h{number}")).await;
            server.settle(&key).await;
            keys.push(key);
        }
        server.clock.advance(Duration::from_secs(7 * 24 * 3_600));
        let restarted = server.another(server.database.clone()).await;
        let mut asked = 0;
        for key in &keys {
            asked += usize::from(restarted.read(key).await.bytes != EMPTY);
        }
        assert!(asked < 5, "{asked} of 20 are asked at once");
        restarted.clock.advance(Duration::from_secs(601));
        for key in &keys {
            assert_ne!(restarted.read(key).await.bytes, EMPTY);
        }
    }

    async fn presence_is_kept_in_batches_and_nothing_is_lost_when_the_server_stops(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let mut hosts = Vec::new();
        for number in 0..3 {
            hosts.push(server.host_of(&server.enroll(&format!("h{number}")).await).await);
        }
        let presence = server.agents.check_in().presence().clone();
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (agents, stop) = (server.agents.clone(), stop.clone());
            async move { agents.run(&muster_replicas::Lease::always(), stop).await }
        });
        for host in &hosts {
            presence.seen(*host, START.plus(Duration::from_secs(5)));
            // An older mark that comes late changes nothing.
            presence.seen(*host, START);
        }
        // A host that was deleted meanwhile spoils nothing.
        presence.seen(HostId(999_999), START);
        stop.cancel();
        running.await.unwrap();
        for host in hosts {
            assert_eq!(seen_at(&server, host).await, Some(START.plus(Duration::from_secs(5))));
        }
        assert_eq!(seen_at(&server, HostId(999_999)).await, None);
    }

    async fn presence_stays_in_memory_while_the_database_is_away(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        let presence = server.agents.check_in().presence();
        presence.flush().await.unwrap();
        server.database.close().await;
        presence.seen(host, START.plus(Duration::from_secs(9)));
        assert!(presence.flush().await.unwrap_err().is_unavailable());
        assert_eq!(presence.pending(host), Some(START.plus(Duration::from_secs(9))));
    }

    async fn a_thousand_marks_are_one_statement(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let host = server.host_of(&server.enroll("a").await).await;
        let presence = server.agents.check_in().presence();
        presence.flush().await.unwrap();
        for number in 0..2_500 {
            presence.seen(HostId(host.0 + number), START);
        }
        let before = server.database.statements();
        presence.flush().await.unwrap();
        assert_eq!(server.database.statements() - before, 3);
    }

    async fn results_go_to_the_source_of_their_name_and_others_are_dropped(db: TestDatabase) {
        let live = Arc::new(Live::default());
        let server = TestServer::with_sources(&db, vec![Arc::clone(&live) as Arc<dyn DistributedSource>]).await;
        let key = server.enroll("a").await;
        let answer = server.write(&key, json!({
            "fleet_distributed_query_7": [{"pid": "1"}],
            "fleet_policy_query_9999": [{"1": "1"}],
            "fleet_detail_query_made_up": [{"hostname": "forged"}],
            "": [], "x": []
        })).await;
        assert_eq!((answer.status, answer.json()), (200, json!({})));
        let results = live.results.lock().unwrap().clone();
        assert_eq!(results.len(), 1);
        assert_eq!(results[0].rows[0].get("pid"), Some("1"));
        assert_eq!(server.record(&key).await.facts.hostname, "h-a");
        *live.fails.lock().unwrap() = true;
        let away = server.write(&key, json!({"fleet_distributed_query_7": []})).await;
        assert_eq!(away.status, 503);
        assert!(away.json().get("node_invalid").is_none());
    }

    async fn writes_of_all_shapes_are_answered_with_an_empty_object(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        for mut body in [
            json!({"queries": {}}),
            json!({}),
            json!({"queries": {"fleet_label_query_18": ""}, "statuses": {"fleet_label_query_18": "0"}}),
            json!({"queries": {"fleet_detail_query_os_version": [{"name": 5, "version": null}]}}),
            json!({"queries": {"fleet_label_query_18": ["a"]}}),
            json!({"queries": {"fleet_label_query_18": []}, "statuses": {"fleet_label_query_18": "bad"}}),
            json!({"queries": {"fleet_label_query_18": []}, "stats": {"fleet_label_query_18": {"wall_time_ms": "12"}}}),
            json!({"queries": {}, "messages": null, "statuses": null}),
            json!({"queries": {"fleet_policy_query_1": []}, "unknown": [1]}),
        ] {
            body["node_key"] = json!(key);
            let answer = server.post("/api/v1/osquery/distributed/write", body.clone()).await;
            assert_eq!((answer.status, answer.json()), (200, json!({})), "{body}");
        }
        // A number where a name was expected is still a name; what is missing stays as it was.
        let facts = server.record(&key).await.facts;
        assert_eq!(facts.platform, "ubuntu");
        assert_eq!(facts.os_version, "Ubuntu 22.04.3 LTS");
    }
}

#[tokio::test]
async fn a_hint_makes_the_next_check_in_read_the_host_anew() {
    let db = muster_store::testing::TestDatabase::new(muster_store::Dialect::Sqlite).await;
    let server = TestServer::new(&db).await;
    let key = server.enroll("a").await;
    server.settle(&key).await;
    assert_eq!(server.read(&key).await.bytes, EMPTY);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (agents, stop) = (server.agents.clone(), stop.clone());
        async move { agents.run(&muster_replicas::Lease::always(), stop).await }
    });
    let host = server.host_of(&key).await;
    let sql = "UPDATE hosts_hosts SET refetch_requested = 1 WHERE id = $1";
    (&server.database).execute(sql, args![host]).await.unwrap();
    // Published until it is heard: the subscriber may not be there yet.
    let mut tries = 0;
    while server.read(&key).await.asked().is_empty() {
        server
            .bus
            .publish(Hint::new(HOST_TOPIC, host))
            .await
            .unwrap();
        tokio::task::yield_now().await;
        tries += 1;
        assert!(tries < 10_000, "the hint is not heard");
    }
    stop.cancel();
    running.await.unwrap();
}
