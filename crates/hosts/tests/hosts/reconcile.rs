//! What is in memory follows the database, even when nobody tells it.

use std::time::Duration;

use muster_bus::Received;
use muster_hosts::HOST_TOPIC;
use muster_store::testing::on_both_databases;
use muster_store::{Executor, args};
use serde_json::json;

use crate::fleet::{Operators, admin};
use crate::harness::{Answer, TestServer};

/// How many comparisons reach the labels of every host.
const ROUNDS: usize = 8;

fn assert_invalid(answer: &Answer) {
    assert_eq!(answer.status, 401, "{}", answer.json());
    assert_eq!(answer.json()["node_invalid"], json!(true));
}

/// Changes the database behind the server's back, as another replica does whose hints are lost.
async fn quietly(server: &TestServer, sql: &str) {
    (&server.database).execute(sql, args![]).await.unwrap();
}

on_both_databases! {
    async fn a_write_of_a_host_that_is_gone_is_told_to_enroll_though_no_hint_came(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        assert_eq!(server.read(&key).await.status, 200);
        quietly(&server, "DELETE FROM hosts_hosts").await;
        quietly(&server, "UPDATE identity_agent_keys SET revoked_at = 1").await;
        assert_eq!(server.read(&key).await.status, 200, "from memory");
        let details = json!({"fleet_detail_query_uptime": [{"total_seconds": "5"}]});
        assert_invalid(&server.write(&key, details).await);
        assert_invalid(&server.read(&key).await);
    }

    async fn a_comparison_finds_hosts_that_are_gone_and_keys_that_ended(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (gone, ended, stays) = (server.enroll("a").await, server.enroll("b").await, server.enroll("c").await);
        for key in [&gone, &ended, &stays] {
            server.settle(key).await;
            assert_eq!(server.read(key).await.status, 200);
        }
        quietly(&server, "DELETE FROM hosts_hosts WHERE identifier = 'a'").await;
        let host = server.host_of(&ended).await;
        quietly(&server, &format!("UPDATE identity_agent_keys SET revoked_at = 1 WHERE host_id = {host}")).await;
        server.agents.reconcile().await;
        server.identity.agent_keys.reconcile().await.unwrap();
        assert_invalid(&server.read(&gone).await);
        assert_invalid(&server.read(&ended).await);
        let before = server.database.statements();
        assert_eq!(server.read(&stays).await.status, 200);
        assert_eq!(server.database.statements(), before, "what is the same stays in memory");
    }

    async fn a_comparison_finds_teams_labels_and_wishes_for_details(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let team = server.team("laptops").await;
        let key = server.enroll("a").await;
        server.settle(&key).await;
        let host = server.host_of(&key).await;
        let profile = async || server.agents.check_in().host(host).await.unwrap().profile();
        quietly(&server, &format!("UPDATE hosts_hosts SET team_id = {team}")).await;
        assert_eq!(profile().await.team_id, None);
        server.agents.reconcile().await;
        assert_eq!(profile().await.team_id, Some(team));

        assert!(server.read(&key).await.asked().is_empty());
        quietly(&server, "UPDATE hosts_hosts SET refetch_requested = 1").await;
        server.agents.reconcile().await;
        assert!(!server.read(&key).await.asked().is_empty());
        server.settle(&key).await;

        let before = profile().await.label_ids.len();
        quietly(&server, &format!("INSERT INTO hosts_label_members (label_id, host_id)
            SELECT id, {host} FROM hosts_labels WHERE name = 'iOS'")).await;
        for _ in 0..ROUNDS {
            server.agents.reconcile().await;
        }
        assert_eq!(profile().await.label_ids.len(), before + 1);
    }

    async fn a_deletion_whose_client_went_away_comes_to_its_end(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let operators = Operators::new(&server);
        let key = server.enroll("a").await;
        server.settle(&key).await;
        let host = server.host_of(&key).await;
        let mut hints = server.bus.subscribe();
        // The host's row is taken, so that the deletion has to wait.
        let mut lock = server.database.begin().await.unwrap();
        lock.execute("UPDATE hosts_hosts SET updated_at = updated_at", args![]).await.unwrap();
        let admin = admin();
        let deletion = operators.hosts.delete(&admin, std::slice::from_ref(&host));
        assert!(tokio::time::timeout(Duration::from_millis(50), deletion).await.is_err());
        lock.commit().await.unwrap();
        loop {
            match hints.next().await.unwrap() {
                Received::Hint(hint) if hint.topic == HOST_TOPIC => break,
                _ => {}
            }
        }
        server.agents.reconcile().await;
        assert_invalid(&server.read(&key).await);
    }
}
