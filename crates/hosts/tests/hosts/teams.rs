//! Hosts of a team that is deleted.

use std::sync::Arc;

use muster_clock::Clock;
use muster_hosts::Hosts;
use muster_identity::Actor;
use muster_store::testing::on_both_databases;

use crate::fleet::admin;
use crate::harness::{TestServer, ubuntu};

on_both_databases! {
    async fn hosts_that_enroll_while_their_team_is_deleted_end_without_a_team(db: TestDatabase) {
        const HOSTS: usize = 24;
        let server = Arc::new(TestServer::new(&db).await);
        let hosts = Hosts::new(
            server.database.clone(),
            Arc::clone(&server.bus),
            Arc::clone(&server.clock) as Arc<dyn Clock>,
            server.identity.clone(),
            server.software.clone(),
        );
        server.identity.teams.attach(hosts.belongings());
        let team = server.team("Laptops").await;
        let secret = server.token("laptops", Some(team)).await;
        // Half of them were there before: they enroll again with the token that they came by.
        let mut keys = Vec::new();
        for number in 0..HOSTS / 2 {
            keys.push(server.enroll_with(&ubuntu(&secret, &format!("host-{number}"))).await);
        }
        assert_eq!(hosts.team_counts().await.unwrap().get(&team), Some(&(HOSTS as u64 / 2)));
        let enrolling: Vec<_> = (0..HOSTS)
            .map(|number| {
                let server = Arc::clone(&server);
                let body = ubuntu(&secret, &format!("host-{number}"));
                tokio::spawn(async move { server.post("/api/osquery/enroll", body).await.status })
            })
            .collect();
        let deleting = tokio::spawn({
            let server = Arc::clone(&server);
            async move { server.identity.teams.delete(&Actor::system(), team).await }
        });
        for enrolling in enrolling {
            let status = enrolling.await.unwrap();
            assert!([200, 401].contains(&status), "neither in nor refused: {status}");
        }
        deleting.await.unwrap().unwrap();
        server.identity.teams.reconcile().await.unwrap();
        assert_eq!(hosts.team_counts().await.unwrap().len(), 0);
        // Those that were there stay, with their keys.
        for key in keys {
            let host = server.host_of(&key).await;
            assert_eq!(hosts.find(&admin(), host).await.unwrap().team_id, None);
        }
    }
}
