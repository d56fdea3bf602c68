//! A server below a URL prefix, as behind somebody's reverse proxy.

use futures_util::{SinkExt as _, StreamExt as _};
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::running;
use crate::site::Site;

on_both_databases! {
    async fn a_prefix_covers_everything_but_what_orbit_asks_without_it(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let more = [("database.url", db.address()), ("tls.enabled", "false"), ("url_prefix", "/muster/")];
        let server = running(folder.path(), &more).await;
        let root = format!("http://{}", server.address);
        let link = server.setup_link.clone().unwrap();
        assert!(link.contains("/muster/setup?token="), "{link}");
        assert!(server.public_url.ends_with("/muster"), "{}", server.public_url);
        let site = Site::set_up(reqwest::Client::new(), format!("{root}/muster"), &link).await;
        let secret = site.secret("all").await;
        let mut bare = site.clone();
        bare.base = root;

        // orbit leaves the prefix out of its own calls, whatever URL it was given; a proxy may put it in.
        let mut keys = Vec::new();
        for (site, uuid) in [(&site, "a"), (&bare, "b")] {
            let enroll = json!({ "enroll_secret": secret, "hardware_uuid": uuid, "platform": "ubuntu" });
            let answer = site.agent("/api/fleet/orbit/enroll", &enroll).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            keys.push(answer.body["orbit_node_key"].clone());
        }
        for (site, key) in [(&site, &keys[1]), (&bare, &keys[0])] {
            assert_eq!(site.agent("/api/fleet/orbit/config", &json!({ "orbit_node_key": key })).await.status, 200);
            let token = json!({ "orbit_node_key": key, "device_auth_token": "t" });
            assert_eq!(site.agent("/api/fleet/orbit/device_token", &token).await.status, 200);
            let ping = site.http.head(format!("{}/api/fleet/orbit/ping", site.base)).send().await.unwrap();
            assert_eq!(ping.status(), 200);
            assert!(ping.headers().contains_key("x-fleet-capabilities"));
        }

        for path in [
            "/healthz", "/version", "/metrics", "/api/muster/me", "/api/muster/openapi.json", "/api/latest/fleet/me",
            "/api/v1/fleet/hosts", "/api/2022-04/fleet/config", "/api/latest/fleet/device/t/desktop",
        ] {
            assert_eq!(site.get(path).await.status, 200, "{path}");
            assert_eq!(bare.get(path).await.status, 404, "{path}");
        }
        let enroll = json!({ "enroll_secret": secret, "host_identifier": "c" });
        for path in ["/api/osquery/enroll", "/api/v1/osquery/enroll"] {
            assert_eq!(site.agent(path, &enroll).await.status, 200, "{path}");
            assert_eq!(bare.agent(path, &enroll).await.status, 404, "{path}");
        }
        // Only whole segments are the prefix, and it stands once.
        for path in ["/musters/healthz", "/muster/muster/healthz", "/MUSTER/healthz", "/api/fleet/orbits/ping"] {
            assert_eq!(bare.get(path).await.status, 404, "{path}");
        }
        server.shut_down().await;
    }

    async fn fleetctls_result_stream_works_below_the_prefix_in_each_version(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let more = [("database.url", db.address()), ("tls.enabled", "false"), ("url_prefix", "/muster")];
        let server = running(folder.path(), &more).await;
        let link = server.setup_link.clone().unwrap();
        let base = format!("{}/muster", server.address);
        let site = Site::set_up(reqwest::Client::new(), format!("http://{base}"), &link).await;
        let key = site.enroll(&site.secret("all").await, "a").await;
        let host = site.get("/api/latest/fleet/hosts/identifier/a").await.body["host"]["id"].clone();
        assert!(!site.asked(&key).await.is_empty());
        for (version, name) in [("v1", "queries"), ("2022-04", "queries"), ("latest", "reports")] {
            let run = json!({ "query": "SELECT 1 AS one", "query_id": null, "selected": { "hosts": [host], "labels": [] } });
            let campaign = site.post(&format!("/api/{version}/fleet/{name}/run"), &run).await;
            assert_eq!(campaign.status, 200, "{campaign:?}");
            let id = campaign.body["campaign"]["id"].as_i64().unwrap();
            // As fleetctl: neither `Authorization` nor `Origin`; the token comes in the first message.
            let address = format!("ws://{base}/api/{version}/fleet/results/websocket");
            let (mut socket, _) = tokio_tungstenite::connect_async(address).await.unwrap();
            for message in [
                json!({ "type": "auth", "data": { "token": site.session() } }),
                json!({ "type": "select_campaign", "data": { "campaign_id": id } }),
            ] {
                socket.send(Message::text(format!("{message}\n"))).await.unwrap();
            }
            let name = format!("fleet_distributed_query_{id}");
            assert!(site.asked(&key).await.contains_key(&name));
            assert_eq!(site.answer(&key, json!({ name: [{ "one": "1" }] })).await.status, 200);
            let mut seen = Vec::new();
            let rows = loop {
                let message = socket.next().await.unwrap().unwrap();
                let Ok(said) = serde_json::from_str::<Value>(message.to_text().unwrap()) else { continue };
                seen.push(said["type"].as_str().unwrap().to_owned());
                if said["type"] == "result" {
                    break said["data"]["rows"].clone();
                }
            };
            assert_eq!(seen[0], "totals", "{seen:?}");
            assert_eq!(rows[0]["one"], "1", "{rows}");
        }
        server.shut_down().await;
    }
}
