//! A server in the test's own process: the routers of this crate over a database of their own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use muster_bus::{Bus, LocalBus};
use muster_clock::{Clock, ManualClock, SeededRandomness, Timestamp};
use muster_hosts::{
    AgentOptions, AgentParts, Agents, DistributedSource, HostRecord, Hosts, OptionsSource,
    ScheduleSource,
};
use muster_identity::{Actor, HostId, Identity, MasterKey, NewEnrollmentToken, TeamId};
use muster_negotiation::{Capability, Offer, Release};
use muster_replicas::Standing;
use muster_sinks::{Batch, LogKind, Sink, SinkError};
use muster_software::Software;
use muster_store::testing::TestDatabase;
use muster_store::{Database, Executor as _, Schema};
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// What each test begins at: 2026-11-23.
pub(crate) const START: Timestamp = Timestamp::from_seconds(1_795_392_000);

pub(crate) struct TestServer {
    pub(crate) app: Router,
    pub(crate) agents: Agents,
    pub(crate) identity: Identity,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) database: Database,
    pub(crate) options: Arc<TestOptions>,
    pub(crate) sink: Arc<TestSink>,
    pub(crate) software: Software,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) standing: Standing,
    /// An enrollment token of no team.
    pub(crate) secret: String,
}

/// Agent options that a test sets.
#[derive(Default)]
pub(crate) struct TestOptions {
    pub(crate) global: RwLock<Arc<AgentOptions>>,
    pub(crate) teams: RwLock<HashMap<TeamId, Arc<AgentOptions>>>,
    pub(crate) packs: RwLock<HashMap<Option<TeamId>, Arc<Value>>>,
    pub(crate) transparency: RwLock<Option<String>>,
    version: AtomicU64,
}

impl TestOptions {
    pub(crate) fn set_global(&self, options: AgentOptions) {
        *self.global.write().unwrap() = Arc::new(options);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn set_team(&self, team: TeamId, options: AgentOptions) {
        self.teams.write().unwrap().insert(team, Arc::new(options));
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn set_packs(&self, team: Option<TeamId>, packs: Value) {
        self.packs.write().unwrap().insert(team, Arc::new(packs));
        self.version.fetch_add(1, Ordering::SeqCst);
    }
}

impl OptionsSource for TestOptions {
    fn global(&self) -> Arc<AgentOptions> {
        Arc::clone(&self.global.read().unwrap())
    }

    fn of_team(&self, team: TeamId) -> Option<Arc<AgentOptions>> {
        self.teams.read().unwrap().get(&team).cloned()
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn organisation(&self) -> Value {
        json!({"org_name": "Example", "org_logo_url": "", "org_logo_url_light_background": "", "contact_url": ""})
    }

    fn transparency_url(&self) -> Option<String> {
        self.transparency.read().unwrap().clone()
    }

    fn collects_software(&self) -> bool {
        true
    }
}

impl ScheduleSource for TestOptions {
    fn packs(&self, team: Option<TeamId>) -> Option<Arc<Value>> {
        self.packs.read().unwrap().get(&team).cloned()
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }
}

/// Keeps lines in memory, or fails.
#[derive(Default)]
pub(crate) struct TestSink {
    pub(crate) lines: Mutex<Vec<(LogKind, String)>>,
    pub(crate) is_full: AtomicBool,
    pub(crate) is_busy: AtomicBool,
    /// Writes wait as long as somebody holds it.
    pub(crate) gate: tokio::sync::RwLock<()>,
    /// How many wait.
    pub(crate) waiting: AtomicUsize,
}

#[async_trait]
impl Sink for TestSink {
    async fn write(&self, kind: LogKind, batch: Batch) -> Result<(), SinkError> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(SinkError::Failed {
                destination: "test".to_owned(),
                source: Arc::new(std::io::Error::from(std::io::ErrorKind::StorageFull)),
            });
        }
        if self.is_busy.load(Ordering::SeqCst) {
            return Err(SinkError::Busy);
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _open = self.gate.read().await;
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        let mut lines = self.lines.lock().unwrap();
        for line in batch.lines() {
            lines.push((kind, String::from_utf8(line.to_vec()).unwrap()));
        }
        Ok(())
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The names of the queries that a `distributed/read` asks.
    pub(crate) fn asked(&self) -> Vec<String> {
        let queries = self.json()["queries"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        queries.keys().cloned().collect()
    }
}

pub(crate) fn schema() -> Schema {
    Schema::default()
        .with("identity", muster_identity::MIGRATIONS)
        .with("hosts", muster_hosts::MIGRATIONS)
        .with("software", muster_software::MIGRATIONS)
}

impl TestServer {
    pub(crate) async fn new(db: &TestDatabase) -> Self {
        Self::with_sources(db, Vec::new()).await
    }

    pub(crate) async fn with_sources(
        db: &TestDatabase,
        sources: Vec<Arc<dyn DistributedSource>>,
    ) -> Self {
        db.migrate(&schema()).await;
        let clock = Arc::new(ManualClock::new(START));
        let standing = Standing::alone(Offer::of(Release::current()));
        let bus = Arc::new(LocalBus::new());
        Self::on(db.database(), clock, bus, sources, (standing, 7)).await
    }

    /// One that plays a server without some capabilities.
    pub(crate) async fn without(db: &TestDatabase, left_out: &[Capability]) -> Self {
        db.migrate(&schema()).await;
        let clock = Arc::new(ManualClock::new(START));
        let offer = Offer::of(Release::current()).without(left_out);
        let bus = Arc::new(LocalBus::new());
        let standing = Standing::alone(offer);
        Self::on(db.database(), clock, bus, Vec::new(), (standing, 7)).await
    }

    /// Another server on the same database, or the same one after a restart.
    pub(crate) async fn another(&self, database: Database) -> Self {
        let bus = Arc::new(LocalBus::new());
        let own = (self.standing.clone(), 8);
        Self::on(database, Arc::clone(&self.clock), bus, Vec::new(), own).await
    }

    async fn on(
        database: Database,
        clock: Arc<ManualClock>,
        bus: Arc<dyn Bus>,
        sources: Vec<Arc<dyn DistributedSource>>,
        (standing, seed): (Standing, u64),
    ) -> Self {
        let identity = Identity::new(
            database.clone(),
            Arc::clone(&bus),
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::new(SeededRandomness::new(seed)),
            Arc::new(MasterKey::from_bytes(&[7; 32])),
        );
        let options = Arc::new(TestOptions::default());
        let sink = Arc::new(TestSink::default());
        let software = Software::new(database.clone());
        let agents = Agents::new(AgentParts {
            database: database.clone(),
            bus: Arc::clone(&bus),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            enrollment_tokens: identity.enrollment_tokens.clone(),
            denials: identity.denials.clone(),
            agent_keys: identity.agent_keys.clone(),
            options: Arc::clone(&options) as Arc<dyn OptionsSource>,
            software: software.clone(),
            sink: Arc::clone(&sink) as Arc<dyn Sink>,
            sources,
            schedule: Arc::clone(&options) as Arc<dyn ScheduleSource>,
            standing: standing.clone(),
        });
        agents.start().await.unwrap();
        let hosts = Hosts::new(
            database.clone(),
            Arc::clone(&bus),
            Arc::clone(&clock) as Arc<dyn Clock>,
            identity.clone(),
            software.clone(),
        );
        let osquery = || muster_hosts::http::osquery::osquery_routes(agents.clone());
        let app = Router::new()
            .nest("/api/osquery", osquery())
            .nest("/api/v1/osquery", osquery())
            .nest(
                "/api/fleet/orbit",
                muster_hosts::http::orbit::orbit_routes(agents.clone()),
            )
            .nest(
                "/api/fleet",
                muster_hosts::http::device::device_ping_routes(&agents),
            )
            .nest(
                "/api/latest/fleet",
                muster_hosts::http::device::device_routes(agents.clone(), hosts),
            );
        let mut server = Self {
            app,
            agents,
            identity,
            clock,
            database,
            options,
            sink,
            software,
            bus,
            standing,
            secret: String::new(),
        };
        server.secret = server.token(&format!("token {seed}"), None).await;
        server
    }

    /// Makes an enrollment token.
    pub(crate) async fn token(&self, name: &str, team: Option<TeamId>) -> String {
        let new = NewEnrollmentToken {
            name: name.to_owned(),
            team_id: team,
            ..NewEnrollmentToken::default()
        };
        let tokens = &self.identity.enrollment_tokens;
        tokens.create(&Actor::system(), new).await.unwrap().1
    }

    /// Makes a team.
    pub(crate) async fn team(&self, name: &str) -> TeamId {
        self.identity
            .teams
            .create(&Actor::system(), name, "")
            .await
            .unwrap()
            .id
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            bytes: body.collect().await.unwrap().to_bytes().to_vec(),
        }
    }

    /// Without `Content-Type`, as orbit sends.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(
            Request::post(path)
                .body(Body::from(body.to_string()))
                .unwrap(),
        )
        .await
    }

    pub(crate) async fn post_bytes(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::post(path).body(body.into()).unwrap())
            .await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.send(
            Request::builder()
                .method(Method::HEAD)
                .uri(path)
                .body(Body::empty())
                .unwrap(),
        )
        .await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    /// Enrolls an Ubuntu host by osquery and gives its node key.
    pub(crate) async fn enroll(&self, identifier: &str) -> String {
        self.enroll_with(&ubuntu(&self.secret, identifier)).await
    }

    pub(crate) async fn enroll_with(&self, body: &Value) -> String {
        let answer = self.post("/api/v1/osquery/enroll", body.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["node_key"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn enroll_orbit(&self, uuid: &str) -> String {
        let body = json!({"enroll_secret": self.secret, "hardware_uuid": uuid});
        self.enroll_orbit_with(body).await
    }

    pub(crate) async fn enroll_orbit_with(&self, body: Value) -> String {
        let answer = self.post("/api/fleet/orbit/enroll", body).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["orbit_node_key"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn read(&self, key: &str) -> Answer {
        self.post("/api/osquery/distributed/read", json!({ "node_key": key }))
            .await
    }

    /// Writes results; each name with its rows.
    pub(crate) async fn write(&self, key: &str, queries: Value) -> Answer {
        let body = json!({"node_key": key, "queries": queries});
        self.post("/api/osquery/distributed/write", body).await
    }

    /// Has a host be asked its details, as an operator does.
    pub(crate) async fn ask_details(&self, key: &str) {
        let sql = "UPDATE hosts_hosts SET refetch_requested = 1 WHERE id = $1";
        let host = self.host_of(key).await;
        (&self.database)
            .execute(sql, muster_store::args![host])
            .await
            .unwrap();
        self.agents.reconcile().await;
    }

    /// Writes details that are due because an operator asked for them.
    pub(crate) async fn report(&self, key: &str, queries: Value) -> Answer {
        self.ask_details(key).await;
        self.write(key, queries).await
    }

    /// Answers everything that is due, so that the next read is empty.
    pub(crate) async fn settle(&self, key: &str) {
        let asked = self.read(key).await.asked();
        let mut queries: Value = asked.iter().map(|name| (name.clone(), json!([]))).collect();
        queries["fleet_detail_query_os_version"] = json!([ubuntu_os()]);
        self.write(key, queries).await;
    }

    pub(crate) async fn host_of(&self, key: &str) -> HostId {
        let family = muster_identity::Family::Osquery;
        let keys = &self.identity.agent_keys;
        match keys.authenticate(key, family).await {
            Ok(identity) => identity.host_id,
            Err(_) => {
                keys.authenticate(key, muster_identity::Family::Orbit)
                    .await
                    .unwrap()
                    .host_id
            }
        }
    }

    pub(crate) async fn record(&self, key: &str) -> HostRecord {
        let host = self.host_of(key).await;
        self.agents.find_host(host).await.unwrap().unwrap()
    }
}

pub(crate) fn ubuntu_os() -> Value {
    json!({"name": "Ubuntu", "version": "22.04.3 LTS", "platform": "ubuntu", "platform_like": "debian",
        "major": "22", "minor": "4", "codename": "jammy"})
}

/// The enrollment of an Ubuntu host whose hardware UUID is its identifier.
pub(crate) fn ubuntu(secret: &str, identifier: &str) -> Value {
    json!({
        "enroll_secret": secret,
        "host_identifier": identifier,
        "platform_type": "9",
        "host_details": {
            "os_version": ubuntu_os(),
            "osquery_info": {"version": "5.11.0", "uuid": identifier, "instance_id": format!("i-{identifier}")},
            "system_info": {"hostname": format!("h-{identifier}"), "computer_name": format!("c-{identifier}"),
                "uuid": identifier, "hardware_serial": format!("SER-{identifier}"), "physical_memory": "8589934592"},
            "platform_info": {"vendor": "v"},
        },
    })
}
