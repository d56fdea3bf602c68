//! This machine's own tables, asked with the questions of this crate: the SQL is right, and the answers become facts.

use muster_store::testing::on_both_databases;
use muster_store::{Executor, args};
use muster_tables::{Engine, EngineOptions};
use serde_json::{Map, Value, json};

use crate::harness::TestServer;

/// Runs what a host was asked, as an agent does.
fn answer(asked: &Value) -> (Value, Value) {
    let engine = Engine::new(EngineOptions::default()).unwrap();
    let (mut queries, mut statuses) = (Map::new(), Map::new());
    for (name, sql) in asked["queries"].as_object().unwrap() {
        let discovery = asked["discovery"][name].as_str().unwrap();
        let found = engine
            .query(discovery)
            .unwrap_or_else(|error| panic!("{name}: {discovery}: {error}"));
        if found.to_string_rows().is_empty() {
            continue;
        }
        let sql = sql.as_str().unwrap();
        let output = engine
            .query(sql)
            .unwrap_or_else(|error| panic!("{name}: {sql}: {error}"));
        let rows: Vec<Value> = output
            .to_string_rows()
            .into_iter()
            .map(|row| {
                let names = output.columns.iter().cloned();
                names.zip(row.into_iter().map(Value::from)).collect()
            })
            .collect();
        queries.insert(name.clone(), json!(rows));
        statuses.insert(name.clone(), json!(0));
    }
    (json!(queries), json!(statuses))
}

on_both_databases! {
    async fn this_machine_answers_every_question_and_is_known_afterwards(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let body = json!({"enroll_secret": server.secret, "host_identifier": "this machine"});
        let key = server.enroll_with(&body).await;
        // First what is asked of a host that nothing is known of, then what fits its platform.
        for _ in 0..2 {
            let asked = server.read(&key).await.json();
            let (queries, statuses) = tokio::task::spawn_blocking(move || answer(&asked)).await.unwrap();
            let body = json!({"node_key": key, "queries": queries, "statuses": statuses});
            assert_eq!(server.post("/api/osquery/distributed/write", body).await.status, 200);
            let host = server.host_of(&key).await;
            let sql = "UPDATE hosts_hosts SET refetch_requested = 1 WHERE id = $1";
            (&server.database).execute(sql, args![host]).await.unwrap();
        }
        let record = server.record(&key).await;
        let facts = &record.facts;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(facts.kernel_version, kernel.trim());
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(facts.hostname, hostname.trim());
        assert!(!facts.platform.is_empty() && !facts.os_version.is_empty(), "{facts:?}");
        assert!(facts.memory_bytes.is_some_and(|bytes| bytes > 100_000_000), "{facts:?}");
        assert!(facts.disk_total_gb.is_some_and(|size| size > 0.1), "{facts:?}");
        assert!(facts.last_restarted_at.is_some_and(|at| at < crate::harness::START), "{facts:?}");
        let users = server.agents.users_of(record.id).await.unwrap();
        assert!(users.iter().any(|user| user.username == "root" && user.groupname == "root"), "{users:?}");
        let software = server.software.of_host(record.id).await.unwrap();
        if std::path::Path::new("/var/lib/dpkg/status").exists() {
            let dpkg = software.iter().find(|software| software.name == "dpkg").unwrap();
            assert_eq!(dpkg.source, "deb_packages");
        }
        let labels = "SELECT COUNT(*) AS n FROM hosts_label_members m JOIN hosts_labels l ON l.id = m.label_id
            WHERE m.host_id = $1 AND l.name IN ('All Hosts', 'All Linux')";
        let row = (&server.database).fetch_one(labels, args![record.id]).await.unwrap();
        assert_eq!(row.get::<i64>("n").unwrap(), 2);
    }
}
