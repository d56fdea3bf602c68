//! Labels that hosts evaluate.

use std::time::Duration;

use muster_clock::Timestamp;
use muster_identity::HostId;
use muster_store::testing::on_both_databases;
use muster_store::{Executor, args};
use serde_json::json;

use crate::harness::{START, TestServer};

async fn id_of(server: &TestServer, name: &str) -> i64 {
    let sql = "SELECT id FROM hosts_labels WHERE name = $1";
    (&server.database)
        .fetch_one(sql, args![name])
        .await
        .unwrap()
        .get("id")
        .unwrap()
}

async fn labels_of(server: &TestServer, host: HostId) -> Vec<String> {
    let sql = "SELECT l.name FROM hosts_label_members m JOIN hosts_labels l ON l.id = m.label_id
        WHERE m.host_id = $1 ORDER BY l.id";
    let rows = (&server.database)
        .fetch_all(sql, args![host])
        .await
        .unwrap();
    rows.iter().map(|row| row.get("name").unwrap()).collect()
}

/// What the operators' side does, in the simplest form.
async fn make_label(server: &TestServer, name: &str, query: &str, platform: &str) -> String {
    let now = muster_clock::Clock::now(&*server.clock);
    make_label_at(server, name, query, platform, now).await
}

async fn make_label_at(
    server: &TestServer,
    name: &str,
    query: &str,
    platform: &str,
    at: Timestamp,
) -> String {
    let sql =
        "INSERT INTO hosts_labels (name, query, platform, kind, membership, created_at, updated_at,
        query_changed_at) VALUES ($1, $2, $3, 'regular', 'dynamic', $4, $4, $4) RETURNING id";
    let rows = (&server.database)
        .execute_returning(sql, args![name, query, platform, at])
        .await
        .unwrap();
    server.agents.start().await.unwrap();
    format!("fleet_label_query_{}", rows[0].get::<i64>("id").unwrap())
}

on_both_databases! {
    async fn every_host_is_in_all_hosts_from_its_enrollment_on(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let osquery = server.enroll("a").await;
        let orbit = server.enroll_orbit("b").await;
        for key in [osquery, orbit] {
            let host = server.host_of(&key).await;
            assert_eq!(labels_of(&server, host).await, ["All Hosts"]);
        }
    }

    async fn a_host_is_asked_the_labels_of_its_platform_and_is_in_those_that_gave_rows(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        let name = async |label: &str| format!("fleet_label_query_{}", id_of(&server, label).await);
        let (ubuntu, linux, macos) = (name("Ubuntu Linux").await, name("All Linux").await, name("macOS").await);
        let asked = server.read(&key).await.asked();
        assert!(asked.contains(&ubuntu) && asked.contains(&linux) && !asked.contains(&macos), "{asked:?}");
        assert!(!asked.contains(&name("All Hosts").await) && !asked.contains(&name("iOS").await));
        // A forged membership of a label that it was not asked is left out.
        let answer = json!({ubuntu.as_str(): [{"1": "1"}], linux.as_str(): [{"1": "1"}], macos.as_str(): [{"1": "1"}],
            "fleet_label_query_999": [{"1": "1"}], "fleet_label_query_x": [{"1": "1"}]});
        server.write(&key, answer).await;
        assert_eq!(labels_of(&server, host).await, ["All Hosts", "Ubuntu Linux", "All Linux"]);
        server.clock.advance(Duration::from_secs(4_000));
        server.write(&key, json!({ubuntu.as_str(): ""})).await;
        assert_eq!(labels_of(&server, host).await, ["All Hosts", "All Linux"]);
    }

    async fn a_label_whose_query_failed_leaves_the_host_out(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        let name = make_label(&server, "tools", "SELECT 1 FROM time", "").await;
        server.read(&key).await;
        server.write(&key, json!({name.as_str(): [{"1": "1"}]})).await;
        assert_eq!(labels_of(&server, host).await, ["All Hosts", "tools"]);
        server.clock.advance(Duration::from_secs(4_000));
        server.read(&key).await;
        let body = json!({"node_key": key, "queries": {name.as_str(): [{"1": "1"}]},
            "statuses": {name.as_str(): "1"}, "messages": {name.as_str(): "no such table"}});
        assert_eq!(server.post("/api/osquery/distributed/write", body).await.json(), json!({}));
        assert_eq!(labels_of(&server, host).await, ["All Hosts"]);
    }

    async fn a_new_label_is_evaluated_at_the_next_check_in(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        server.settle(&key).await;
        assert!(server.read(&key).await.asked().is_empty());
        server.clock.advance(Duration::from_secs(1));
        let windows = make_label(&server, "windows tools", "SELECT 1", "windows").await;
        let linux = make_label(&server, "linux tools", "SELECT 1", "linux").await;
        let asked = server.read(&key).await.asked();
        assert!(asked.contains(&linux) && !asked.contains(&windows), "{asked:?}");
        server.settle(&key).await;
        assert!(server.read(&key).await.asked().is_empty());
    }

    async fn a_host_that_turns_out_to_be_of_another_platform_leaves_what_does_not_fit(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        let ubuntu = format!("fleet_label_query_{}", id_of(&server, "Ubuntu Linux").await);
        let macos = format!("fleet_label_query_{}", id_of(&server, "macOS").await);
        server.write(&key, json!({ubuntu.as_str(): [{"1": "1"}]})).await;
        assert_eq!(labels_of(&server, host).await, ["All Hosts", "Ubuntu Linux"]);
        let details = json!({"fleet_detail_query_os_version": [{"name": "macOS", "version": "14.1", "platform": "darwin"}]});
        server.write(&key, details).await;
        let asked = server.read(&key).await.asked();
        assert!(asked.contains(&macos) && !asked.contains(&ubuntu), "{asked:?}");
        server.write(&key, json!({macos.as_str(): [{"1": "1"}]})).await;
        assert_eq!(labels_of(&server, host).await, ["All Hosts", "macOS"]);
    }

    async fn a_label_that_is_made_while_a_host_evaluates_is_due_at_its_next_check_in(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let asked = server.read(&key).await.asked();
        server.clock.advance(Duration::from_secs(300));
        let label = make_label(&server, "tools", "SELECT 1", "").await;
        server.clock.advance(Duration::from_secs(300));
        let queries: serde_json::Value = asked.iter().map(|name| (name.clone(), json!([]))).collect();
        server.write(&key, queries).await;
        assert_eq!(server.record(&key).await.label_updated_at, Some(START), "when it was asked");
        assert!(server.read(&key).await.asked().contains(&label));
        server.settle(&key).await;
        assert!(server.read(&key).await.asked().is_empty());
        // Nor does it depend on what is in memory.
        let restarted = server.another(server.database.clone()).await;
        assert!(restarted.read(&key).await.asked().is_empty());
    }

    async fn a_label_of_which_word_comes_late_is_due_though_it_is_older_than_the_evaluation(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let now = muster_clock::Clock::now(&*server.clock);
        server.clock.advance(Duration::from_secs(5));
        server.settle(&key).await;
        let label = make_label_at(&server, "tools", "SELECT 1", "", now).await;
        assert!(server.read(&key).await.asked().contains(&label));
    }

    async fn an_answer_to_a_query_that_changed_since_decides_nothing(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        let label = make_label(&server, "tools", "SELECT 1", "").await;
        assert!(server.read(&key).await.asked().contains(&label));
        server.clock.advance(Duration::from_secs(1));
        let sql = "UPDATE hosts_labels SET query = 'SELECT 2', query_changed_at = $1 WHERE name = 'tools'";
        let now = muster_clock::Clock::now(&*server.clock);
        (&server.database).execute(sql, args![now]).await.unwrap();
        server.agents.start().await.unwrap();
        server.write(&key, json!({label.as_str(): [{"1": "1"}]})).await;
        assert_eq!(labels_of(&server, host).await, ["All Hosts"]);
        assert!(server.read(&key).await.asked().contains(&label));
        server.write(&key, json!({label.as_str(): [{"1": "1"}]})).await;
        assert_eq!(labels_of(&server, host).await, ["All Hosts", "tools"]);
    }

    async fn what_another_server_asked_counts_while_it_is_due_and_what_nobody_asked_does_not(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        let label = make_label(&server, "tools", "SELECT 1", "").await;
        assert!(server.read(&key).await.asked().contains(&label));
        server.clock.advance(Duration::from_secs(600));
        let other = server.another(server.database.clone()).await;
        other.write(&key, json!({label.as_str(): [{"1": "1"}]})).await;
        assert_eq!(labels_of(&server, host).await, ["All Hosts", "tools"]);
        other.write(&key, json!({label.as_str(): []})).await;
        assert_eq!(labels_of(&server, host).await, ["All Hosts", "tools"], "nobody asked again");
    }
}
