//! A transient fault never looks like a refusal.

use std::time::Duration;

use muster_store::testing::{TestDatabase, on_both_databases};
use muster_store::{Address, Database, Dialect, Executor, Options, args};
use serde_json::{Value, json};

use crate::harness::{Answer, TestServer, ubuntu};

fn assert_away(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 503, "{what}: {}", answer.json());
    assert_eq!(answer.header("retry-after"), Some("5"), "{what}");
    assert!(answer.json().get("node_invalid").is_none(), "{what}");
}

async fn config(server: &TestServer, key: &str) -> Answer {
    server
        .post("/api/fleet/orbit/config", json!({ "orbit_node_key": key }))
        .await
}

on_both_databases! {
    async fn with_the_database_away_what_is_in_memory_is_answered_and_the_rest_is_503(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let known = server.enroll("known").await;
        let orbit = server.enroll_orbit("known").await;
        server.settle(&known).await;
        assert_eq!(server.read(&known).await.status, 200);
        assert_eq!(config(&server, &orbit).await.status, 200);
        let osquery_config = server.post("/api/osquery/config", json!({ "node_key": known })).await;
        assert_eq!(osquery_config.status, 200);
        // A host that this server never heard, as after a restart.
        let fresh = server.enroll("fresh").await;
        let fresh_orbit = server.enroll_orbit("fresh").await;

        server.database.close().await;
        assert_eq!(server.read(&known).await.json(), json!({"queries": {}, "discovery": {}}));
        let configured = config(&server, &orbit).await;
        assert_eq!((configured.status, configured.json()), (200, json!({"notifications": {}})));
        assert!(configured.header("x-fleet-capabilities").is_some());
        assert_eq!(server.post("/api/osquery/config", json!({ "node_key": known })).await.bytes, osquery_config.bytes);
        assert_eq!(server.head("/api/fleet/orbit/ping").await.status, 200);

        assert_away(&server.read(&fresh).await, "read of an unknown host");
        let host = server.host_of(&known).await;
        server.agents.check_in().host(host).await.unwrap().set_refetch_requested(true);
        let write = server.write(&known, json!({"fleet_detail_query_uptime": [{"total_seconds": "5"}]})).await;
        assert_away(&write, "write");
        assert!(write.json()["error"].is_string());
        assert_away(&server.post("/api/osquery/enroll", ubuntu(&server.secret, "new")).await, "enroll");
        // Secrets that were read a moment ago still count.
        server.clock.advance(Duration::from_secs(5));
        let refused = server.post("/api/osquery/enroll", ubuntu("wrong", "new")).await;
        assert_away(&refused, "enroll with a secret that cannot be checked");
        assert_away(&server.post("/api/osquery/config", json!({"node_key": "zzz"})).await, "an unknown key");
        let enroll = json!({"enroll_secret": server.secret, "hardware_uuid": "new"});
        let enroll = server.post("/api/fleet/orbit/enroll", enroll).await;
        assert_away(&enroll, "orbit enroll");
        assert_eq!(enroll.header("x-fleet-capabilities"), None);
        assert!(enroll.json()["message"].is_string());
        assert_away(&config(&server, &fresh_orbit).await, "orbit config of an unknown host");
        let token = json!({"orbit_node_key": orbit, "device_auth_token": "t"});
        assert_away(&server.post("/api/fleet/orbit/device_token", token).await, "device token");
        assert_eq!(server.head("/api/latest/fleet/device/t/ping").await.status, 503);
    }
}

#[tokio::test]
async fn a_locked_database_is_503_and_nothing_of_the_write_is_half_kept() {
    let db = TestDatabase::new(Dialect::Sqlite).await;
    let server = TestServer::new(&db).await;
    let key = server.enroll("a").await;
    let address: Address = db.address().parse().unwrap();
    let options = Options {
        busy_timeout: Duration::from_millis(20),
        ..Options::default()
    };
    let impatient = server
        .another(Database::open(&address, &options).await.unwrap())
        .await;
    assert_eq!(impatient.read(&key).await.status, 200);
    let report: Value = json!({
        "fleet_detail_query_system_info": [{"hostname": "new name"}],
        "fleet_detail_query_users": [{"uid": "1", "username": "ann"}],
        "fleet_detail_query_software_linux": [{"name": "bash", "version": "5", "source": "deb_packages"}]
    });
    let lock = db.begin().await.unwrap();
    assert_away(&impatient.write(&key, report.clone()).await, "write");
    assert_away(
        &impatient
            .post("/api/osquery/enroll", ubuntu(&server.secret, "b"))
            .await,
        "enroll",
    );
    drop(lock);
    assert_eq!(impatient.record(&key).await.facts.hostname, "h-a");
    // The agent sends the same again.
    let mut tries = 0;
    while impatient.write(&key, report.clone()).await.status == 503 {
        tries += 1;
        assert!(tries < 1_000, "the fault is over");
    }
    assert_eq!(impatient.record(&key).await.facts.hostname, "new name");
}

#[tokio::test]
async fn a_table_that_is_gone_is_a_defect_that_does_not_make_agents_repeat_for_ever() {
    let db = TestDatabase::new(Dialect::Sqlite).await;
    let server = TestServer::new(&db).await;
    let key = server.enroll("a").await;
    server.read(&key).await;
    (&server.database)
        .execute("DROP TABLE hosts_users", args![])
        .await
        .unwrap();
    let report = json!({"fleet_detail_query_users": [{"uid": "1", "username": "ann"}]});
    let answer = server.write(&key, report).await;
    assert_eq!((answer.status, answer.json()), (200, json!({})));
    assert!(server.read(&key).await.asked().is_empty());
}
