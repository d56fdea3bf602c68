//! A clock that jumps.

use std::sync::Arc;
use std::time::Duration;

use muster_clock::{Clock as _, ManualClock, SystemClock};
use muster_server::start::{Ambient, start};
use muster_store::testing::on_both_databases;
use serde_json::json;

use crate::site::{Site, until};
use crate::{LEASES, leases, settings};

const HOUR: Duration = Duration::from_secs(3_600);

on_both_databases! {
    async fn a_clock_that_jumps_an_hour_either_way_refuses_nobody(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let real = SystemClock.now();
        let clock = Arc::new(ManualClock::new(real));
        let keys = [("database.url", db.address()), ("tls.enabled", "false")];
        let ambient = Ambient { clock: Arc::clone(&clock) as _, ..Ambient::default() };
        let server = start(settings(folder.path(), &keys), ambient).await.unwrap();
        let base = format!("http://{}", server.address);
        let link = server.setup_link.clone().unwrap();
        let site = Site::set_up(reqwest::Client::new(), base, &link).await;
        let tomorrow = real.plus(24 * HOUR);
        let token = json!({ "name": "all", "expires_at": tomorrow });
        let token = site.post("/api/muster/enrollment-tokens", &token).await;
        let secret = token.body["secret"].as_str().unwrap().to_owned();
        let api = json!({ "name": "ci", "expires_at": tomorrow });
        let api = site.post("/api/muster/users/1/api-tokens", &api).await;
        let program = site.with_session(api.body["secret"].as_str().unwrap());
        let key = site.enroll(&secret, "a").await;
        let id = site.get("/api/muster/hosts/by-identifier/a").await.body["id"].as_i64().unwrap();
        for (round, to) in [real.plus(HOUR), real.minus(HOUR), real, real.plus(HOUR)].into_iter().enumerate() {
            let question = json!({ "query": "SELECT 1", "target": { "host_ids": [id] }, "expires_in_seconds": 86_400 });
            let campaign = site.post("/api/muster/campaigns", &question).await;
            let campaign = campaign.body["id"].as_i64().unwrap_or_else(|| panic!("{campaign:?}"));
            clock.set(to);
            assert_eq!(site.get("/api/muster/me").await.status, 200, "the session goes on");
            assert_eq!(program.get("/api/muster/me").await.status, 200, "the token goes on");
            let name = format!("fleet_distributed_query_{campaign}");
            until("the host is asked", async || site.asked(&key).await.contains_key(&name)).await;
            let answered = site.answer(&key, json!({ name: [{ "1": "1" }] })).await;
            assert_eq!(answered.status, 200);
            until("the question is answered", async || {
                let campaign = site.get(&format!("/api/muster/campaigns/{campaign}")).await;
                campaign.body["status"] == "finished"
            })
            .await;
            until("the host is online", async || {
                site.asked(&key).await;
                site.get(&format!("/api/muster/hosts/{id}")).await.body["status"] == "online"
            })
            .await;
            assert_eq!(site.log(&key, "x").await.status, 200);
            site.enroll(&secret, &format!("new-{round}")).await;
            until("the server holds its leases", async || {
                let listed = site.get("/api/muster/replicas").await.body;
                leases(&listed) == LEASES
            })
            .await;
        }
        assert_eq!(site.get("/api/muster/hosts").await.body["total"], 5, "nobody expired");
        server.shut_down().await;
    }
}
