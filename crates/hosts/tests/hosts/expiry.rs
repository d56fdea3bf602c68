//! Hosts that stay away.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_hosts::ExpiryRules;
use muster_identity::AuditFilter;
use muster_store::testing::on_both_databases;

use crate::fleet::Operators;
use crate::harness::{TestServer, ubuntu};

const DAY: Duration = Duration::from_secs(24 * 3_600);

async fn check_in(server: &TestServer, key: &str) -> u16 {
    let status = server.read(key).await.status;
    server.agents.check_in().presence().flush().await.unwrap();
    status
}

on_both_databases! {
    async fn hosts_that_stay_away_are_deleted_by_the_rule_of_their_team_or_of_all(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let hosts = Operators::new(&server).hosts;
        let team = server.team("Laptops").await;
        let secret = server.token("laptops", Some(team)).await;
        let heard = server.enroll("heard").await;
        let silent = server.enroll("silent").await;
        let laptop = server.enroll_with(&ubuntu(&secret, "laptop")).await;
        for key in [&heard, &silent, &laptop] {
            assert_eq!(check_in(&server, key).await, 200);
        }
        // One that enrolled and never said anything more.
        server.enroll("mute").await;
        server.clock.advance(29 * DAY);
        check_in(&server, &heard).await;
        server.clock.advance(2 * DAY);

        assert_eq!(hosts.expire(&ExpiryRules::default()).await.unwrap(), 0, "no rule");
        let rules = ExpiryRules {
            everybody: Some(30 * DAY),
            teams: BTreeMap::from([(team, 60 * DAY)]),
        };
        assert_eq!(hosts.expire(&rules).await.unwrap(), 2);
        assert_eq!(check_in(&server, &heard).await, 200);
        assert_eq!(check_in(&server, &laptop).await, 200, "its team waits longer");
        assert_eq!(check_in(&server, &silent).await, 401, "its key went with it");
        let again = server.enroll("silent").await;
        assert_eq!(check_in(&server, &again).await, 200);
        assert_eq!(hosts.expire(&rules).await.unwrap(), 0);

        let listing = muster_http::ListingQuery::default().check(&["id"]).unwrap();
        let deleted = AuditFilter { action: Some("deleted_host".into()), ..AuditFilter::default() };
        let entries = server.identity.audit.list(&listing, &deleted).await.unwrap().items;
        assert_eq!(entries.len(), 2);
        for entry in entries {
            assert_eq!(entry.actor_kind, "system");
            assert_eq!(entry.before.unwrap()["expired"], true);
        }
        let own = ExpiryRules { everybody: None, teams: BTreeMap::from([(team, DAY)]) };
        server.clock.advance(2 * DAY);
        assert_eq!(hosts.expire(&own).await.unwrap(), 1, "only the team has a rule");
        assert_eq!(check_in(&server, &laptop).await, 401);
    }

    async fn very_many_hosts_that_stay_away_go_in_batches(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let hosts = Operators::new(&server).hosts;
        for number in 0..450 {
            server.enroll(&format!("host-{number}")).await;
        }
        server.clock.advance(2 * DAY);
        let late = server.enroll("host-7").await;
        let rules = ExpiryRules { everybody: Some(DAY), ..ExpiryRules::default() };
        assert_eq!(hosts.expire(&rules).await.unwrap(), 449);
        assert_eq!(check_in(&server, &late).await, 200, "it enrolled again");
    }
}
