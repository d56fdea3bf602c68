//! Recorded requests, damaged in every way: the server never fails, no host is lost or doubled, and no valid key is refused.

use std::collections::BTreeSet;

use muster_peers_fleet::answer::Answer;
use muster_peers_fleet::mutation::{capability_headers, damaged, mutations, places};
use muster_peers_fleet::recording;
use muster_peers_fleet::recording::{Exchange, Line};
use muster_peers_fleet::replay::{Replayer, packed};
use muster_peers_fleet::scene::Scene;
use muster_store::testing::{TestDatabase, on_both_databases};
use reqwest::Client;
use serde_json::Value;

/// Members by which a host is known: a host with another one is another host.
const IDENTITY: &[&str] = &[
    "hardware_uuid",
    "hardware_serial",
    "osquery_identifier",
    "host_identifier",
    "host_details",
    "system_info",
    "uuid",
    "osquery_info",
    "instance_id",
    "hostname",
    "enroll_secret",
];

/// Members that are a key: a request without the right one is refused rightly.
const KEYS: &[&str] = &[
    "node_key",
    "orbit_node_key",
    "orbot_node_key",
    "enroll_secret",
];

struct Damage {
    replayer: Replayer,
    http: Client,
    /// Routes with places that were damaged already: what is sent again and again need not be damaged each time.
    done: BTreeSet<String>,
    requests: usize,
}

impl Damage {
    async fn send(&mut self, exchange: &Exchange, body: Option<Vec<u8>>) -> Answer {
        self.requests += 1;
        let base = self.replayer.scene.base().to_owned();
        let request = self.replayer.request_to(&self.http, &base, exchange, body);
        Answer::read(request.send().await.unwrap()).await
    }

    /// Whether an answer is one that a damaged request may get.
    fn check(what: &str, exchange: &Exchange, answer: &Answer, has_key: bool) {
        let place = format!(
            "{} {} with {what}: {answer:?}",
            exchange.method, exchange.path
        );
        assert!(answer.status < 500, "{place}");
        if has_key {
            assert_ne!(answer.status, 401, "{place}");
            assert_ne!(answer.body["node_invalid"], true, "{place}");
        }
    }

    /// Sends an exchange with every value of its body damaged, one at a time.
    async fn values(&mut self, exchange: &Exchange) {
        let Some(body) = self.replayer.body(exchange) else {
            return;
        };
        let Ok(body) = serde_json::from_slice::<Value>(&body) else {
            return;
        };
        let is_enrollment = exchange.route().ends_with("/enroll");
        for at in places(&body) {
            let general: String = at
                .chars()
                .map(|c| if c.is_ascii_digit() { '0' } else { c })
                .collect();
            if !self.done.insert(format!("{} {general}", exchange.route())) {
                continue;
            }
            let is_key = KEYS.iter().any(|key| at.ends_with(key));
            let is_identity = is_enrollment && at.split('/').any(|name| IDENTITY.contains(&name));
            let before = self.replayer.scene.hosts().await.len();
            for mutation in mutations(&body, &at) {
                let answer = self
                    .send(exchange, Some(mutation.body.clone().into_bytes()))
                    .await;
                let what = format!("{} {}", mutation.at, mutation.what);
                Self::check(
                    &what,
                    exchange,
                    &answer,
                    !is_key && !is_enrollment && !exchange.is_login(),
                );
            }
            if !is_identity {
                let after = self.replayer.scene.hosts().await.len();
                assert_eq!(after, before, "{} {at}", exchange.path);
            }
        }
    }

    /// Sends an exchange with its whole body damaged, packed in ways that do not fit, and with headers that no client sends.
    async fn wholes(&mut self, exchange: &Exchange) {
        let Some(body) = self.replayer.body(exchange) else {
            return;
        };
        if !self.done.insert(format!("{} whole", exchange.route())) {
            return;
        }
        let Ok(text) = String::from_utf8(body.clone()) else {
            return;
        };
        let before = self.replayer.scene.hosts().await.len();
        for (what, body) in damaged(&text) {
            let answer = self.send(exchange, Some(body)).await;
            Self::check(what, exchange, &answer, false);
            // What cannot be read says nothing of keys.
            if !matches!(what, "null" | "empty") {
                assert_ne!(
                    answer.body["node_invalid"], true,
                    "{} {what}",
                    exchange.path
                );
            }
        }
        let mut trailing = packed(&body);
        trailing.extend_from_slice(b"trailing bytes");
        let cut = packed(&body)[..packed(&body).len() / 2].to_vec();
        for (what, packed) in [
            ("gzip with bytes after it", trailing),
            ("gzip that is cut", cut),
            ("gzip that is none", body.clone()),
        ] {
            self.requests += 1;
            let base = self.replayer.scene.base().to_owned();
            let request = self
                .replayer
                .request_to(&self.http, &base, exchange, Some(packed));
            let request = request.header("content-encoding", "gzip");
            let answer = Answer::read(request.send().await.unwrap()).await;
            Self::check(what, exchange, &answer, false);
            assert_ne!(
                answer.body["node_invalid"], true,
                "{} {what}",
                exchange.path
            );
        }
        for (what, values) in capability_headers() {
            self.requests += 1;
            let base = self.replayer.scene.base().to_owned();
            let mut request =
                self.replayer
                    .request_to(&self.http, &base, exchange, Some(body.clone()));
            for value in values {
                request = request.header("x-fleet-capabilities", value);
            }
            let sent = request.send().await.unwrap();
            let answer = Answer::read(sent).await;
            // So many names are more than a header may have.
            if answer.status != 431 {
                Self::check(
                    what,
                    exchange,
                    &answer,
                    !exchange.route().ends_with("/enroll"),
                );
            }
        }
        if !exchange.route().ends_with("/enroll") {
            let after = self.replayer.scene.hosts().await.len();
            assert_eq!(after, before, "{}", exchange.path);
        }
    }
}

trait Kind {
    /// Whether who is not known is refused rightly.
    fn is_login(&self) -> bool;
}

impl Kind for Exchange {
    fn is_login(&self) -> bool {
        ["/login", "/setup", "/logout"]
            .iter()
            .any(|end| self.route().ends_with(end))
    }
}

/// Plays a recording and sends every request of it damaged as well; gives how many requests that were.
async fn damage(db: &TestDatabase, name: &str) -> usize {
    let recording = recording(name);
    let mut replayer = Replayer::new(Scene::new(db.address()).await);
    replayer.scene.know_hosts(&recording);
    let mut damage = Damage {
        replayer,
        http: Client::new(),
        done: BTreeSet::new(),
        requests: 0,
    };
    for line in &recording.lines {
        match line {
            Line::Mark(mark) if mark.text.contains("deleted") => break,
            Line::Mark(mark) => {
                damage
                    .replayer
                    .scene
                    .mark(&mark.text, &mut damage.replayer.mapping)
                    .await;
            }
            Line::Frame(_) => {}
            Line::Exchange(exchange) => {
                if exchange.route().ends_with("/logout") {
                    continue;
                }
                let Some(answer) = damage.replayer.play(name, exchange).await else {
                    continue;
                };
                assert!(answer.status < 500, "{}: {answer:?}", exchange.path);
                if !damage.replayer.scene.is_set_up() || exchange.is_login() {
                    continue;
                }
                damage.values(exchange).await;
                damage.wholes(exchange).await;
                // What it was keyed with is good all the same.
                let again = damage.replayer.play(name, exchange).await.unwrap();
                let is_recorded = exchange.status.unwrap() < 300;
                let made_twice = match exchange.method.as_str() {
                    "DELETE" => again.status == 404,
                    "POST" | "PATCH" => [404, 409, 422].contains(&again.status),
                    _ => false,
                };
                assert!(
                    !is_recorded || again.status < 300 || made_twice,
                    "{}: {again:?}",
                    exchange.path
                );
            }
        }
    }
    let requests = damage.requests;
    println!("{name}: {requests} damaged requests");
    damage.replayer.scene.end().await;
    requests
}

on_both_databases! {
    async fn damaged_requests_of_orbit_do_no_harm(db: TestDatabase) {
        assert!(damage(&db, "orbit-2025").await > 500);
    }

    async fn damaged_requests_of_an_older_orbit_do_no_harm(db: TestDatabase) {
        assert!(damage(&db, "orbit-2022").await > 300);
    }

    async fn damaged_requests_of_osquery_do_no_harm(db: TestDatabase) {
        assert!(damage(&db, "osquery-perf-2025").await > 1_000);
    }

    async fn damaged_requests_of_fleetctl_do_no_harm(db: TestDatabase) {
        assert!(damage(&db, "fleetctl-2025").await > 1_000);
    }
}
