//! What the server depends on goes away and comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use muster_server::start::Running;
use muster_store::testing::TestDatabase;
use muster_store::{Dialect, Executor as _};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::site::{Site, until};
use crate::{client, running, url};

/// A way to a database that can be cut, or fall silent.
pub(crate) struct Way {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    pub(crate) is_silent: watch::Sender<bool>,
    cut: std::sync::Mutex<CancellationToken>,
    shared: Arc<std::sync::Mutex<CancellationToken>>,
}

impl Way {
    /// A way to a test's database, and the address of the database through it.
    pub(crate) async fn before(db: &TestDatabase) -> (Self, String) {
        let (user, rest) = db.address().split_once('@').unwrap();
        let (target, name) = rest.split_once('/').unwrap();
        let way = Self::to(target.to_owned()).await;
        let through = format!("{user}@{}/{name}", way.address);
        (way, through)
    }

    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_cut = Arc::new(AtomicBool::new(false));
        let is_silent = watch::channel(false).0;
        let token = CancellationToken::new();
        let shared = Arc::new(std::sync::Mutex::new(token.clone()));
        tokio::spawn({
            let (is_cut, shared) = (Arc::clone(&is_cut), Arc::clone(&shared));
            let silent = is_silent.subscribe();
            async move {
                while let Ok((mut near, _)) = listener.accept().await {
                    if is_cut.load(Ordering::SeqCst) {
                        continue;
                    }
                    let cut = shared.lock().unwrap().clone();
                    let mut far = TcpStream::connect(&target).await.unwrap();
                    let mut silent = silent.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = cut.cancelled() => {}
                            () = carry(&mut near, &mut far, &mut silent) => {}
                        }
                    });
                }
            }
        });
        Self {
            address,
            is_cut,
            is_silent,
            cut: std::sync::Mutex::new(token),
            shared,
        }
    }

    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cut.lock().unwrap().cancel();
    }

    pub(crate) fn restore(&self) {
        let token = CancellationToken::new();
        *self.shared.lock().unwrap() = token.clone();
        *self.cut.lock().unwrap() = token;
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

/// Carries bytes in both directions, but none while it is silent: a network that drops packets.
async fn carry(near: &mut TcpStream, far: &mut TcpStream, silent: &mut watch::Receiver<bool>) {
    loop {
        if silent.wait_for(|silent| !silent).await.is_err() {
            return;
        }
        tokio::select! {
            _ = tokio::io::copy_bidirectional(near, far) => return,
            changed = silent.wait_for(|silent| *silent) => if changed.is_err() { return },
        }
    }
}

/// A server on this database that gives up soon, with an administrator and one host.
async fn impatient(address: &str, folder: &std::path::Path) -> (Running, Site, String) {
    let more = [
        ("database.url", address),
        ("database.timeout", "300ms"),
        ("database.statement_timeout", "300ms"),
        ("shutdown_timeout", "2s"),
    ];
    let server = running(folder, &more).await;
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(client(&server), url(&server, ""), &link).await;
    let secret = site.secret("all").await;
    site.enroll(&secret, "a").await;
    (server, site, secret)
}

#[tokio::test]
async fn a_table_that_somebody_locked_is_no_reason_to_hang() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let folder = tempfile::tempdir().unwrap();
    let (server, site, secret) = impatient(db.address(), folder.path()).await;
    let mut lock = db.database().begin().await.unwrap();
    let sql = "LOCK TABLE hosts_hosts, identity_users IN ACCESS EXCLUSIVE MODE";
    lock.execute(sql, Vec::new()).await.unwrap();
    let fresh = json!({ "enroll_secret": secret, "host_identifier": "b" });
    let answer = site.agent("/api/osquery/enroll", &fresh).await;
    let told = (answer.status, answer.header("retry-after"));
    assert_eq!(told, (503, Some("5")), "{answer:?}");
    assert!(answer.body.get("node_invalid").is_none());
    assert_eq!(site.get("/api/muster/me").await.status, 503);
    drop(lock);
    until("the lock is gone", || async {
        site.agent("/api/osquery/enroll", &fresh).await.status == 200
    })
    .await;
    server.shut_down().await;
}

#[tokio::test]
async fn a_network_that_says_nothing_is_a_database_that_is_away() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let (way, through) = Way::before(&db).await;
    let folder = tempfile::tempdir().unwrap();
    let (server, site, secret) = impatient(&through, folder.path()).await;
    way.is_silent.send_replace(true);
    let fresh = json!({ "enroll_secret": secret, "host_identifier": "b" });
    let answer = site.agent("/api/osquery/enroll", &fresh).await;
    let told = (answer.status, answer.header("retry-after"));
    assert_eq!(told, (503, Some("5")), "{answer:?}");
    assert_eq!(site.get("/healthz").await.status, 503);
    way.is_silent.send_replace(false);
    until("the network is back", || async {
        site.agent("/api/osquery/enroll", &fresh).await.status == 200
    })
    .await;
    way.is_silent.send_replace(true);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), server.shut_down());
    assert!(ended.await.is_ok(), "it waits for ever at its end");
}

#[tokio::test]
async fn while_the_database_is_gone_agents_are_told_to_come_again_and_nobody_is_refused() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let (way, through) = Way::before(&db).await;
    let folder = tempfile::tempdir().unwrap();
    let more = [
        ("database.url", through.as_str()),
        ("database.timeout", "300ms"),
    ];
    let server = running(folder.path(), &more).await;
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(client(&server), url(&server, ""), &link).await;
    let secret = site.secret("all").await;
    let key = site.enroll(&secret, "a").await;
    let orbit = json!({ "enroll_secret": secret, "hardware_uuid": "a", "platform": "ubuntu" });
    let orbit = site.agent("/api/fleet/orbit/enroll", &orbit).await.body;
    let config = json!({ "orbit_node_key": orbit["orbit_node_key"] });
    assert_eq!(
        site.agent("/api/fleet/orbit/config", &config).await.status,
        200
    );
    assert!(!site.asked(&key).await.is_empty());

    way.cut();
    let fresh = json!({ "enroll_secret": secret, "host_identifier": "b" });
    for (path, body) in [
        ("/api/osquery/enroll", fresh),
        (
            "/api/osquery/config",
            json!({ "node_key": "not known yet" }),
        ),
        (
            "/api/osquery/distributed/read",
            json!({ "node_key": "nor this" }),
        ),
    ] {
        let answer = site.agent(path, &body).await;
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, Some("5")),
            "{path}"
        );
        assert!(
            answer.body.get("node_invalid").is_none(),
            "{path}: {answer:?}"
        );
    }
    let me = site.get("/api/muster/me").await;
    assert_eq!(
        (me.status, me.header("retry-after")),
        (503, Some("5")),
        "{me:?}"
    );
    assert_eq!(site.get("/healthz").await.status, 503);
    assert_eq!(
        site.agent("/api/fleet/orbit/config", &config).await.status,
        200,
        "from memory"
    );
    assert_eq!(
        site.log(&key, "kept anyway").await.status,
        200,
        "files are no database"
    );
    let known = json!({ "node_key": key });
    assert_eq!(
        site.agent("/api/osquery/config", &known).await.status,
        200,
        "from memory"
    );

    way.restore();
    until("the database is back", || async {
        site.get("/healthz").await.status == 200
    })
    .await;
    assert_eq!(site.get("/api/muster/me").await.status, 200);
    site.enroll(&secret, "b").await;
    let unknown = site
        .agent("/api/osquery/config", &json!({ "node_key": "nope" }))
        .await;
    assert_eq!(
        (unknown.status, &unknown.body["node_invalid"]),
        (401, &json!(true))
    );
    server.shut_down().await;
}

#[tokio::test]
async fn while_the_embedded_database_is_locked_writes_are_told_to_come_again() {
    let db = TestDatabase::new(Dialect::Sqlite).await;
    let folder = tempfile::tempdir().unwrap();
    let more = [
        ("database.url", db.address()),
        ("database.timeout", "200ms"),
    ];
    let server = running(folder.path(), &more).await;
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(client(&server), url(&server, ""), &link).await;
    let secret = site.secret("all").await;
    let lock = db.database().begin().await.unwrap();
    let fresh = json!({ "enroll_secret": secret, "host_identifier": "b" });
    let answer = site.agent("/api/osquery/enroll", &fresh).await;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, Some("5")),
        "{answer:?}"
    );
    assert!(answer.body.get("node_invalid").is_none());
    assert_eq!(
        site.get("/api/muster/me").await.status,
        200,
        "reading goes on"
    );
    drop(lock);
    until("the lock is gone", || async {
        site.agent("/api/osquery/enroll", &fresh).await.status == 200
    })
    .await;
    server.shut_down().await;
}
