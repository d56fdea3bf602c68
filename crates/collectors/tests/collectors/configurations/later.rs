//! What a server of a later release wrote, which stands beside this one during an upgrade.

use muster_store::testing::on_both_databases;
use serde_json::{Value, json};

use super::{Agent, Site, body_of, good};
use crate::{change, row};

on_both_databases! {
    async fn what_a_later_release_wrote_of_one_collector_stays_and_stops_nothing_for_others(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut first = Agent::enroll(&site, 7).await;
        let mut second = Agent::enroll(&site, 8).await;
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "*", json!({ "auto_rollback": "assignment" })).await;
        first.takes_it_well(1).await;
        second.takes_it_well(2).await;
        change(&db, "UPDATE collectors_config_states SET body = REPLACE(body, 'in_sync', 'in_harmony'), state = 'in_harmony'
            WHERE collector_id = 1").await;
        site.push(id, good(2)).await;
        let config = second.receive().await;
        assert!(body_of(&config).contains("timeout: 2s"));
        second.runs_it_well(2, &config).await;
        let page = site.ok("GET", "/collector-config-states", Value::Null).await;
        assert_eq!(page["total"], 2, "{page}");
        assert_eq!(site.config_of(1).await["state"], "applying", "whatever it is, it is not unmanaged");
        let kept = "SELECT total FROM (SELECT COUNT(*) AS total FROM collectors_config_states WHERE collector_id = 1
            AND state = 'in_harmony' AND body LIKE '%in_harmony%') n";
        assert_eq!(row(&db, kept).await, Some(1));
        change(&db, "UPDATE collectors_config_states SET state = 'failed' WHERE collector_id = 1").await;
        assert_eq!(site.config_of(1).await["state"], "failed", "a word that is known counts");
    }
}
