//! Several servers on one database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use muster_bus::Bus;
use muster_bus::testing::{Fate, RedisServer, UnreliableBus};
use muster_server::start::{Ambient, Running, start};
use muster_store::Dialect;
use muster_store::testing::TestDatabase;
use serde_json::json;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::program::{Program, folder, plain};
use crate::site::{Site, until};
use crate::{LEASES, leases, settings};

/// Two servers in this process, and what an operator and agents see of each.
struct Pair {
    servers: [Running; 2],
    sites: [Site; 2],
    secret: String,
    _folder: tempfile::TempDir,
}

impl Pair {
    async fn new(db: &TestDatabase, more: &[(&str, &str)], bus: Option<Arc<dyn Bus>>) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let mut keys = vec![("database.url", db.address()), ("tls.enabled", "false")];
        keys.extend_from_slice(more);
        let begin = async |name| {
            let settings = settings(&folder(parent.path(), name), &keys);
            let ambient = Ambient {
                bus: bus.clone(),
                ..Ambient::default()
            };
            start(settings, ambient).await.unwrap()
        };
        let servers = [begin("one").await, begin("two").await];
        let bases = [0, 1].map(|number: usize| format!("http://{}", servers[number].address));
        let link = servers[0].setup_link.clone().unwrap();
        let first = Site::set_up(reqwest::Client::new(), bases[0].clone(), &link).await;
        let mut second = first.clone();
        second.base.clone_from(&bases[1]);
        Self {
            secret: first.secret("all").await,
            servers,
            sites: [first, second],
            _folder: parent,
        }
    }

    async fn shut_down(self) {
        for server in self.servers {
            server.shut_down().await;
        }
    }
}

type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// An agent as both protocols see it, and its notification socket on a server.
struct Agent {
    id: i64,
    orbit: String,
    osquery: String,
}

impl Agent {
    async fn enroll(site: &Site, secret: &str, uuid: &str) -> Self {
        let orbit = json!({ "enroll_secret": secret, "hardware_uuid": uuid, "platform": "ubuntu" });
        let orbit = site.agent("/api/fleet/orbit/enroll", &orbit).await;
        let osquery = site.enroll(secret, uuid).await;
        let host = site
            .get(&format!("/api/muster/hosts/by-identifier/{uuid}"))
            .await;
        Self {
            id: host.body["id"]
                .as_i64()
                .unwrap_or_else(|| panic!("{host:?}")),
            orbit: orbit.body["orbit_node_key"].as_str().unwrap().to_owned(),
            osquery,
        }
    }

    async fn is_known(&self, site: &Site) -> bool {
        let ask = json!({ "node_key": self.osquery });
        let read = site.agent("/api/osquery/distributed/read", &ask).await;
        let ask = json!({ "orbit_node_key": self.orbit });
        let config = site.agent("/api/fleet/orbit/config", &ask).await;
        match (read.status, config.status) {
            (200, 200) => true,
            (401, 401) => false,
            other => panic!("neither known nor refused: {other:?}"),
        }
    }

    async fn socket(&self, server: &Running) -> Socket {
        let address = format!("ws://{}/api/fleet/orbit/muster_notify", server.address);
        let mut request = address.into_client_request().unwrap();
        let proof = format!("NodeKey {}", self.orbit).parse().unwrap();
        request.headers_mut().insert("authorization", proof);
        tokio_tungstenite::connect_async(request).await.unwrap().0
    }
}

/// Waits until the server ends a socket.
async fn ended(mut socket: Socket) {
    while let Some(Ok(message)) = socket.next().await {
        if message.is_close() {
            return;
        }
    }
}

/// What is changed through one server is in force at the other within a second.
async fn a_change_reaches_the_other_server(more: &[(&str, &str)]) {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let pair = Pair::new(&db, more, None).await;
    let [one, two] = &pair.sites;
    let cut = Agent::enroll(one, &pair.secret, "4c4c4544-0001-3010-8052-b7c04f4e3701").await;
    let neighbour = Agent::enroll(one, &pair.secret, "4c4c4544-0002-3010-8052-b7c04f4e3702").await;
    for agent in [&cut, &neighbour] {
        assert!(agent.is_known(one).await && agent.is_known(two).await);
    }
    let closing = cut.socket(&pair.servers[1]).await;
    let staying = neighbour.socket(&pair.servers[1]).await;

    let begun = Instant::now();
    let path = format!("/api/muster/hosts/{}/ban", cut.id);
    let banned = one.put(&path, &json!({ "reason": "stolen" })).await;
    assert_eq!(banned.status, 200, "{banned:?}");
    tokio::time::timeout(Duration::from_secs(5), ended(closing))
        .await
        .expect("its socket closes");
    until("the other server refuses it", async || {
        !cut.is_known(two).await
    })
    .await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(neighbour.is_known(two).await && neighbour.is_known(one).await);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), ended(staying))
            .await
            .is_err(),
        "the neighbour notices nothing"
    );

    // A question that is asked at one server reaches a host at the other, and its answer the operator at the first.
    let question = json!({ "query": "SELECT 1", "target": { "all": true } });
    let campaign = one.post("/api/muster/campaigns", &question).await;
    let id = campaign.body["id"].as_i64().unwrap();
    let name = format!("fleet_distributed_query_{id}");
    until("the host is asked at the other server", async || {
        two.asked(&neighbour.osquery).await.contains_key(&name)
    })
    .await;
    let answered = two
        .answer(&neighbour.osquery, json!({ name: [{ "1": "1" }] }))
        .await;
    assert_eq!(answered.status, 200);
    let begun = Instant::now();
    until("the operator sees the answer", async || {
        let path = format!("/api/muster/campaigns/{id}");
        one.get(&path).await.body["status"] == "finished"
    })
    .await;
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );

    // Both are in the list, and one of them has each lease.
    let listed = two.get("/api/muster/replicas").await;
    let items = listed.body["items"].as_array().unwrap();
    assert_eq!(items.len(), 2, "{listed:?}");
    assert_eq!(leases(&listed.body), LEASES);
    pair.shut_down().await;
}

#[tokio::test]
async fn a_change_reaches_the_other_server_by_postgresql() {
    a_change_reaches_the_other_server(&[]).await;
}

#[tokio::test]
async fn a_change_reaches_the_other_server_by_redis() {
    let redis = RedisServer::start().await;
    a_change_reaches_the_other_server(&[("bus.url", &redis.url())]).await;
}

#[tokio::test]
async fn a_redis_that_is_not_there_keeps_no_server_from_starting() {
    let redis = RedisServer::start().await;
    redis.kill();
    let db = TestDatabase::new(Dialect::Postgres).await;
    let pair = Pair::new(&db, &[("bus.url", &redis.url())], None).await;
    let health = pair.sites[1].get("/healthz").await;
    assert_eq!(health.status, 200, "{health:?}");
    assert_eq!(health.body["bus"]["connected"], false, "{health:?}");
    redis.start_again().await;
    until("it is found when it comes", async || {
        pair.sites[1].get("/healthz").await.body["bus"]["replicas"] == 2
    })
    .await;
    pair.shut_down().await;
}

/// Hints carry no truth: with every second one lost, some doubled and some late, everything is found within a minute or so.
#[tokio::test]
async fn hints_that_are_lost_doubled_or_late_only_delay() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let bus = UnreliableBus::new(|number, _| {
        if number % 2 == 0 {
            Fate::Lost
        } else if number % 3 == 0 {
            Fate::Twice
        } else if number % 5 == 0 {
            Fate::Late
        } else {
            Fate::Arrives
        }
    });
    let pair = Pair::new(&db, &[], Some(Arc::new(bus))).await;
    let [one, two] = &pair.sites;
    let mut agents = Vec::new();
    for number in 0..4 {
        let uuid = format!("4c4c4544-000{number}-3010-8052-b7c04f4e3701");
        let agent = Agent::enroll(one, &pair.secret, &uuid).await;
        assert!(agent.is_known(two).await);
        agents.push(agent);
    }
    let sockets = [
        agents[0].socket(&pair.servers[1]).await,
        agents[1].socket(&pair.servers[1]).await,
    ];
    for agent in &agents[..2] {
        let path = format!("/api/muster/hosts/{}", agent.id);
        assert_eq!(one.delete(&path).await.status, 204);
    }
    let label = json!({ "name": "Pilot", "query": "SELECT 1" });
    let label = one.post("/api/muster/labels", &label).await;
    assert_eq!(label.status, 201, "{label:?}");
    let mut names = Vec::new();
    for _ in 0..4 {
        let question = json!({ "query": "SELECT 1", "target": { "all": true } });
        let campaign = one.post("/api/muster/campaigns", &question).await;
        names.push(format!("fleet_distributed_query_{}", campaign.body["id"]));
    }
    let label = format!("fleet_label_query_{}", label.body["id"]);
    let begun = Instant::now();
    let mut missing: Vec<&String> = names.iter().chain([&label]).collect();
    while !missing.is_empty() || agents[0].is_known(two).await || agents[1].is_known(two).await {
        let asked = two.asked(&agents[2].osquery).await;
        missing.retain(|name| !asked.contains_key(*name));
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "still missing: {missing:?}"
        );
        tokio::task::yield_now().await;
    }
    for socket in sockets {
        tokio::time::timeout(Duration::from_secs(90), ended(socket))
            .await
            .expect("its socket closes");
    }
    pair.shut_down().await;
}

/// Simulated hosts in the test of a killed server.
const HOSTS: usize = 200;
/// How often a server is killed half-way.
const KILLS: usize = 10;

/// A host that asks one of two servers, and the other one when that is gone, as through a load balancer.
struct Wanderer {
    site: Site,
    bases: Arc<std::sync::Mutex<[String; 2]>>,
    key: String,
    number: usize,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Wanderer {
    async fn run(mut self) {
        let mut side = self.number % 2;
        while !self.stop.load(Ordering::Relaxed) {
            self.site.base = self.bases.lock().unwrap()[side].clone();
            if self.turn().await.is_err() {
                side = 1 - side;
            }
            // As long as an interval of a host that is asked live.
            let pause = Duration::from_millis(100 + (self.number as u64 * 7) % 100);
            tokio::time::sleep(pause).await;
        }
    }

    async fn turn(&self) -> reqwest::Result<()> {
        let ask = json!({ "node_key": self.key });
        let asked = self
            .site
            .try_agent("/api/osquery/distributed/read", &ask)
            .await?;
        assert!(
            asked.status == 200 || asked.status == 503,
            "a false refusal: {asked:?}"
        );
        for name in asked.body["queries"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
        {
            if !name.starts_with("fleet_distributed_query_") {
                continue;
            }
            let rows = json!([{ "by": self.number.to_string() }]);
            let answer = json!({ "node_key": self.key, "queries": { name: rows } });
            let written = self
                .site
                .try_agent("/api/osquery/distributed/write", &answer)
                .await?;
            if written.status == 200 {
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Reads a stream of results until the campaign ends; gives who answered.
async fn rows_of(site: &Site, id: i64) -> std::collections::BTreeSet<String> {
    let mut by = std::collections::BTreeSet::new();
    let mut after = 0;
    loop {
        let path = format!("/api/muster/campaigns/{id}/results?after={after}&limit=500");
        let page = site.get(&path).await;
        assert_eq!(page.status, 200, "{page:?}");
        let items = page.body["items"].as_array().unwrap();
        for item in items {
            after = item["position"].as_i64().unwrap();
            for row in item["rows"].as_array().unwrap() {
                assert!(
                    by.insert(row["by"].as_str().unwrap().to_owned()),
                    "{row} came twice"
                );
            }
        }
        let campaign = site.get(&format!("/api/muster/campaigns/{id}")).await;
        if items.is_empty() && campaign.body["status"] == "finished" {
            return by;
        }
        assert_ne!(
            campaign.body["status"],
            "expired",
            "{campaign:?} {}",
            by.len()
        );
    }
}

#[tokio::test]
async fn a_live_query_over_two_servers_is_whole_though_one_is_killed_half_way_ten_times() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let redis = RedisServer::start().await;
    let parent = tempfile::tempdir().unwrap();
    let folders = [folder(parent.path(), "one"), folder(parent.path(), "two")];
    let begin = |number: usize| {
        let mut command = plain(&folders[number], db.address());
        Program::start(command.env("MUSTER_BUS_URL", redis.url()))
    };
    let mut programs = [Some(begin(0)), Some(begin(1))];
    let base = |program: &Option<Program>| program.as_ref().unwrap().base();
    let link = programs[0].as_ref().unwrap().setup_link().to_owned();
    let http = reqwest::Client::new();
    let mut site = Site::set_up(http, base(&programs[0]), &link).await;
    let secret = site.secret("all").await;
    let bases = Arc::new(std::sync::Mutex::new([
        base(&programs[0]),
        base(&programs[1]),
    ]));
    let (answered, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut hosts = Vec::new();
    for number in 0..HOSTS {
        let key = site.enroll(&secret, &format!("host-{number}")).await;
        let wanderer = Wanderer {
            site: site.clone(),
            bases: Arc::clone(&bases),
            key,
            number,
            answered: Arc::clone(&answered),
            stop: Arc::clone(&stop),
        };
        hosts.push(tokio::spawn(wanderer.run()));
    }
    for kill in 0..KILLS {
        let (dying, staying) = (kill % 2, 1 - kill % 2);
        site.base = base(&programs[staying]);
        answered.store(0, Ordering::Relaxed);
        let question =
            json!({ "query": "SELECT 1", "target": { "all": true }, "expires_in_seconds": 900 });
        let campaign = site.post("/api/muster/campaigns", &question).await;
        assert_eq!(campaign.status, 201, "{campaign:?}");
        assert_eq!(campaign.body["hosts"]["targeted"], HOSTS, "{campaign:?}");
        let id = campaign.body["id"].as_i64().unwrap();
        until("some answered", async || {
            answered.load(Ordering::Relaxed) >= HOSTS / 4
        })
        .await;
        programs[dying].take().unwrap().kill();
        let by = rows_of(&site, id).await;
        assert_eq!(by.len(), HOSTS, "after kill {kill}");
        programs[dying] = Some(begin(dying));
        bases.lock().unwrap()[dying] = base(&programs[dying]);
    }
    stop.store(true, Ordering::Relaxed);
    for host in hosts {
        host.await.unwrap();
    }
}
