//! Connections that are cut before the request, after it, and in the middle of the answer, at every call of the recorded
//! flows: the client sends the request again, no host is doubled, no key is lost, and the next request works.

use std::collections::BTreeSet;

use muster_peers_fleet::cutting::{Cut, Proxy};
use muster_peers_fleet::left_out::other_status;
use muster_peers_fleet::recording;
use muster_peers_fleet::recording::Line;
use muster_peers_fleet::replay::Replayer;
use muster_peers_fleet::scene::Scene;
use muster_store::testing::{TestDatabase, on_both_databases};
use reqwest::Client;
use serde_json::Value;

/// Plays a recording with every request cut in each way before it is sent whole; gives how many were cut.
async fn cut(db: &TestDatabase, name: &str) -> usize {
    let recording = recording(name);
    let mut replayer = Replayer::new(Scene::new(db.address()).await);
    replayer.scene.know_hosts(&recording);
    let proxy = Proxy::start(replayer.scene.address()).await;
    let http = Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(std::time::Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let mut cuts = 0;
    let mut identifiers = BTreeSet::new();
    for line in &recording.lines {
        let exchange = match line {
            Line::Mark(mark) => {
                replayer.scene.mark(&mark.text, &mut replayer.mapping).await;
                if mark.text.contains("deleted") {
                    identifiers.clear();
                }
                continue;
            }
            Line::Frame(_) => continue,
            Line::Exchange(exchange) => exchange,
        };
        let ends = exchange.route().ends_with("/logout");
        if replayer.scene.is_set_up()
            && exchange.is_answered_by_server()
            && !exchange.is_upgrade()
            && !ends
        {
            replayer
                .scene
                .prepare(exchange, &mut replayer.mapping)
                .await;
            for place in Cut::ALL {
                proxy.cut(place);
                let body = replayer.body(exchange);
                let request = replayer.request_to(&http, &proxy.base(), exchange, body);
                // A head may arrive whole though the body does not.
                let lost = match request.send().await {
                    Err(_) => true,
                    Ok(answer) => answer.bytes().await.is_err() || exchange.method == "HEAD",
                };
                assert!(lost, "{} {} {place:?}", exchange.method, exchange.path);
                cuts += 1;
            }
        }
        if exchange.route().ends_with("/enroll") && exchange.status == Some(200) {
            let body = exchange.request.as_ref().unwrap_or(&Value::Null);
            let uuid = body["hardware_uuid"]
                .as_str()
                .or(body["host_identifier"].as_str());
            identifiers.extend(uuid.map(str::to_owned));
        }
        if exchange.route().ends_with("/login") {
            // Tries that were cut count as tries.
            replayer.scene.pass(std::time::Duration::from_secs(60 * 60));
        }
        let Some(answer) = replayer.play(name, exchange).await else {
            continue;
        };
        let recorded = exchange.status.unwrap();
        // What was made by the request whose answer was lost is there already.
        let is_there = match exchange.method.as_str() {
            "DELETE" => answer.status == 404,
            "POST" => [409, 422].contains(&answer.status),
            _ => false,
        };
        assert!(
            other_status(exchange, answer.status).is_some()
                || answer.status < 500 && (recorded >= 300 || answer.status < 300 || is_there),
            "n={} {} {}: recorded {recorded}, here {answer:?}",
            exchange.n,
            exchange.method,
            exchange.path
        );
        if exchange.path.contains("/osquery/") || exchange.path.contains("/orbit/") {
            assert!(
                recorded >= 300 || answer.status < 300,
                "{}: {answer:?}",
                exchange.path
            );
        }
    }
    let hosts = replayer.scene.hosts().await;
    for identifier in &identifiers {
        let is_of_it = |host: &&Value| {
            [&host["uuid"], &host["hostname"]].contains(&&Value::from(identifier.as_str()))
        };
        let count = hosts.iter().filter(is_of_it).count();
        assert_eq!(count, 1, "{identifier} of {hosts:?}");
    }
    println!("{name}: {cuts} requests cut, {} hosts", hosts.len());
    replayer.scene.end().await;
    cuts
}

on_both_databases! {
    async fn orbit_gets_over_connections_that_are_cut(db: TestDatabase) {
        assert!(cut(&db, "orbit-2025").await > 200);
    }

    async fn an_older_orbit_gets_over_connections_that_are_cut(db: TestDatabase) {
        assert!(cut(&db, "orbit-2022").await > 150);
    }

    async fn osquery_gets_over_connections_that_are_cut(db: TestDatabase) {
        assert!(cut(&db, "osquery-perf-2025").await > 100);
    }

    async fn an_older_osquery_gets_over_connections_that_are_cut(db: TestDatabase) {
        assert!(cut(&db, "osquery-perf-2022").await > 50);
    }

    async fn fleetctl_gets_over_connections_that_are_cut(db: TestDatabase) {
        assert!(cut(&db, "fleetctl-2025").await > 800);
    }

    async fn the_desktop_app_gets_over_connections_that_are_cut(db: TestDatabase) {
        assert!(cut(&db, "desktop-2025").await > 3);
    }
}
