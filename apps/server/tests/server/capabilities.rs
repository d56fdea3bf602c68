//! What servers tell agents that they can do: alone, beside servers that can do less, and while those come and go.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use muster_replicas::GONE_AFTER;
use muster_server::start::Running;
use muster_store::Dialect;
use muster_store::testing::TestDatabase;
use serde_json::{Value, json};

use crate::program::{Program, folder, plain};
use crate::running;
use crate::site::{Site, until};

const HEADER: &str = "x-fleet-capabilities";
const ALL: &str = "orbit_endpoints,token_rotation,end_user_email,muster_notify";
const LESS: &str = "orbit_endpoints,end_user_email,muster_notify";

/// How long an orbit waits for an answer, at most, before it asks again.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a ping is answered: the status and the header.
async fn ping(base: &str) -> (u16, Option<String>) {
    let ping = reqwest::get(format!("{base}/api/fleet/orbit/ping"));
    let ping = ping.await.unwrap();
    let said = ping.headers().get(HEADER);
    let said = said.map(|value| value.to_str().unwrap().to_owned());
    (ping.status().as_u16(), said)
}

async fn told(base: &str) -> String {
    let (status, said) = ping(base).await;
    assert_eq!(status, 200);
    said.unwrap_or_default()
}

/// A server that plays one without something, and an operator's session.
async fn without(folder: &Path, names: &str) -> (Running, Site, String) {
    let keys = [("tls.enabled", "false"), ("without_capability", names)];
    let server = running(folder, &keys).await;
    let base = format!("http://{}", server.address);
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(reqwest::Client::new(), base, &link).await;
    let secret = site.secret("all").await;
    (server, site, secret)
}

/// The status of opening the notification socket.
async fn socket(site: &Site, key: &str) -> u16 {
    let request = site
        .http
        .get(format!("{}/api/fleet/orbit/muster_notify", site.base))
        .header("authorization", format!("NodeKey {key}"))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_server_plays_one_without_capabilities() {
    for (names, said) in [
        (
            "muster_notify",
            "orbit_endpoints,token_rotation,end_user_email",
        ),
        (
            "end_user_email, token_rotation",
            "orbit_endpoints,muster_notify",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (server, site, secret) = without(folder.path(), names).await;
        assert_eq!(told(&site.base).await, said);
        let body = json!({ "enroll_secret": secret, "hardware_uuid": "a" });
        let orbit = site.agent("/api/fleet/orbit/enroll", &body).await;
        let key = orbit.body["orbit_node_key"].as_str().unwrap();
        assert_eq!(orbit.header(HEADER), Some(said));
        let has = |name: &str| said.contains(name);
        let mapping = json!({ "orbit_node_key": key, "email": "ann@example.com" });
        let mapping = site
            .agent("/api/fleet/orbit/device_mapping", &mapping)
            .await;
        assert_eq!(mapping.status == 200, has("end_user_email"), "{mapping:?}");
        assert!([200, 404].contains(&mapping.status), "{mapping:?}");
        let expected = if has("muster_notify") { 101 } else { 404 };
        assert_eq!(socket(&site, key).await, expected);
        server.shut_down().await;
    }
}

#[tokio::test]
async fn a_server_without_orbit_endpoints_is_one_without_that_api() {
    let folder = tempfile::tempdir().unwrap();
    let (server, site, secret) = without(folder.path(), "orbit_endpoints").await;
    assert_eq!(ping(&site.base).await, (404, None));
    let body = json!({ "enroll_secret": secret, "hardware_uuid": "a" });
    let refused = site.agent("/api/fleet/orbit/enroll", &body).await;
    assert_eq!(refused.status, 404);
    assert_eq!(socket(&site, "any").await, 404);
    site.enroll(&secret, "osquery").await;
    server.shut_down().await;
}

/// The server without `token_rotation`, as an old one would be.
fn old(data_dir: &Path, database: &str) -> Program {
    Program::start(plain(data_dir, database).env("MUSTER_WITHOUT_CAPABILITY", "token_rotation"))
}

fn note(changes: &Mutex<Vec<String>>, said: String) {
    let mut changes = changes.lock().unwrap();
    if changes.last() != Some(&said) {
        changes.push(said);
    }
}

/// An orbit that asks a server without a pause and notes each time that what it is told changed.
struct Watcher {
    stop: Arc<AtomicBool>,
    changes: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watcher {
    fn start(base: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let changes = Arc::new(Mutex::new(Vec::<String>::new()));
        let task = tokio::spawn({
            let (stop, changes) = (Arc::clone(&stop), Arc::clone(&changes));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    // Like orbit, it does not wait for one answer for ever.
                    let asked = tokio::time::timeout(PATIENCE, told(&base)).await;
                    let Ok(said) = asked else {
                        eprintln!("a ping was not answered within {PATIENCE:?}");
                        continue;
                    };
                    note(&changes, said);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        Self {
            stop,
            changes,
            task,
        }
    }

    /// Waits until it was told that: somebody else may have been told earlier.
    async fn is_told(&self, said: &str) {
        let is_last = async || {
            self.changes
                .lock()
                .unwrap()
                .last()
                .is_some_and(|last| last == said)
        };
        until(&format!("the watcher is told {said}"), is_last).await;
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.changes.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn servers_that_differ_say_what_both_can_do_and_a_change_is_noticed_once() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let parent = tempfile::tempdir().unwrap();
    let folders = [folder(parent.path(), "old"), folder(parent.path(), "new")];
    // The old one is there, a new one joins: it says no more from its first answer on.
    let first = old(&folders[0], db.address());
    assert_eq!(told(&first.base()).await, LESS);
    let new = Program::start(&mut plain(&folders[1], db.address()));
    let watcher = Watcher::start(new.base());
    assert_eq!(told(&new.base()).await, LESS);
    let http = reqwest::Client::new();
    let mut site = Site::set_up(http, new.base(), first.setup_link()).await;

    // Operators see why.
    let summary = site.get("/api/muster/skew/summary").await;
    let rotation = &summary.body["items"][1];
    assert_eq!(rotation["capability"], "token_rotation", "{summary:?}");
    let because = rotation["servers"].as_array().unwrap();
    assert_eq!(because.len(), 1, "{summary:?}");
    let name = because[0]["server"].as_str().unwrap();
    let port = format!(":{}", first.address.port());
    assert!(name.ends_with(&port), "{name}");
    let listed = site.get("/api/muster/replicas").await;
    let listed = listed.body["items"].as_array().unwrap().clone();
    let can: Vec<usize> = listed
        .iter()
        .map(|server| server["capabilities"].as_array().unwrap().len())
        .collect();
    assert_eq!(can, [3, 4]);
    // A device token does not run out while agents are not told to make another: at either server.
    site.base = first.base();
    let secret = site.secret("all").await;
    site.enroll(&secret, "osquery").await;

    // It is stopped in order: the new one says all.
    first.terminate();
    assert!(first.wait().success());
    watcher.is_told(ALL).await;
    // It comes back, as when an upgrade is taken back: when it answers, the new one says no more than it.
    let second = old(&folders[0], db.address());
    assert_eq!(told(&second.base()).await, LESS);
    assert_eq!(told(&new.base()).await, LESS);
    watcher.is_told(LESS).await;
    // It is killed: nothing changes until it is certainly gone.
    let killed = Instant::now();
    second.kill();
    while told(&new.base()).await == LESS {
        let waited = killed.elapsed();
        assert!(waited < 3 * GONE_AFTER, "{waited:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Its last sign of life may be some seconds older than its end, more on a busy machine.
    assert!(killed.elapsed() > GONE_AFTER / 2, "{:?}", killed.elapsed());
    watcher.is_told(ALL).await;
    assert_eq!(watcher.end().await, [LESS, ALL, LESS, ALL]);

    // One that joins now does not count the dead one.
    let third = folder(parent.path(), "third");
    let third = Program::start(&mut plain(&third, db.address()));
    assert_eq!(told(&third.base()).await, ALL);
    for server in [third, new] {
        server.terminate();
        assert!(server.wait().success());
    }
}

#[tokio::test]
async fn servers_that_can_do_the_same_come_and_go_unnoticed() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let parent = tempfile::tempdir().unwrap();
    let begin = |name: &str| Program::start(&mut plain(&folder(parent.path(), name), db.address()));
    let staying = begin("staying");
    let watcher = Watcher::start(staying.base());
    for (number, is_killed) in [(0, false), (1, true), (2, false), (3, true)] {
        let coming = begin(&number.to_string());
        assert_eq!(told(&coming.base()).await, ALL);
        if is_killed {
            coming.kill();
        } else {
            coming.terminate();
            assert!(coming.wait().success());
        }
    }
    watcher.is_told(ALL).await;
    assert_eq!(watcher.end().await, [ALL]);
}

/// On the embedded database there is one server, which may have been another one before.
#[tokio::test]
async fn a_single_server_that_was_killed_says_what_it_can_do_when_it_is_back() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let database = parent.path().join("muster.db");
    let database = database.to_str().unwrap();
    let server = Program::start(&mut plain(&data, database));
    assert_eq!(told(&server.base()).await, ALL);
    server.kill();
    let server = Program::start(&mut plain(&data, database));
    assert_eq!(told(&server.base()).await, ALL);
    server.kill();
    let less = old(&data, database);
    assert_eq!(told(&less.base()).await, LESS);
    less.terminate();
    assert!(less.wait().success());
    let server = Program::start(&mut plain(&data, database));
    assert_eq!(told(&server.base()).await, ALL);
    let skew = reqwest::get(format!("{}/api/muster/skew", server.base()));
    let skew: Value = serde_json::from_str(&skew.await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(skew["code"], "unauthenticated", "{skew}");
}
