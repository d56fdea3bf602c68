//! Collectors against both databases, by messages over real carriers.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod bounds;
mod components;
mod configurations;
mod damaged;
mod forgetting;
mod keys;
mod links;
mod native;
mod plain;
mod refused;
mod replicas;
mod socket;
mod store;
mod strangers;
mod telemetry;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::{Extension, Router};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use muster_bus::LocalBus;
use muster_clock::{ManualClock, SeededRandomness, Timestamp};
use muster_collectors::service::{OfferSettings, Settings};
use muster_collectors::{CollectorParts, Collectors, Masking};
use muster_http::{ClientAddress, Shape};
use muster_identity::{
    Actor, Credential, Family, Identity, KnownAgents, MasterKey, NewEnrollmentToken, Principal,
    Role, TeamId, UserId,
};
use muster_replicas::Lease;
use muster_store::testing::TestDatabase;
use muster_store::{Database, Schema};
use muster_wire_opamp::proto::{
    AgentDescription, AgentDisconnect, AgentToServer, KeyValue, ServerToAgent,
};
use muster_wire_opamp::{MessageLimit, decode_body, encode_body};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt as _;

const START: Timestamp = Timestamp::from_seconds(1_795_392_000);
/// How many new agents a token admits from one address in a day.
const NEW_PER_DAY: u32 = 500;
const SETTINGS: u64 = 0x100;
const RESTART: u64 = 0x400;

/// A server of collectors with a clock that the test moves.
struct Fixture {
    identity: Identity,
    collectors: Collectors,
    clock: Arc<ManualClock>,
    bus: Arc<LocalBus>,
    stopping: CancellationToken,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Fixture {
    async fn new(db: &TestDatabase) -> Self {
        Self::quiet(db).await.run()
    }

    /// The same without what runs beside messages.
    async fn quiet(db: &TestDatabase) -> Self {
        let schema = Schema::default()
            .with("identity", muster_identity::MIGRATIONS)
            .with("collectors", muster_collectors::MIGRATIONS);
        db.migrate(&schema).await;
        let clock = Arc::new(ManualClock::new(START));
        Self::on(db.database(), Arc::new(LocalBus::new()), clock, 1)
    }

    /// Another replica, or the same after a restart: other memory, the same database and bus.
    async fn another(&self, db: &TestDatabase, seed: u64) -> Self {
        Self::on(
            db.reopen().await,
            Arc::clone(&self.bus),
            Arc::clone(&self.clock),
            seed,
        )
        .run()
    }

    fn on(database: Database, bus: Arc<LocalBus>, clock: Arc<ManualClock>, seed: u64) -> Self {
        let randomness = Arc::new(SeededRandomness::new(seed));
        let identity = Identity::new(
            database.clone(),
            Arc::<LocalBus>::clone(&bus),
            Arc::<ManualClock>::clone(&clock),
            Arc::<SeededRandomness>::clone(&randomness),
            Arc::new(MasterKey::from_bytes(&[7; 32])),
        );
        let collectors = Collectors::new(CollectorParts {
            database,
            bus: Arc::<LocalBus>::clone(&bus),
            clock: Arc::<ManualClock>::clone(&clock),
            randomness,
            identity: identity.clone(),
            settings: Settings {
                offers: Some(OfferSettings {
                    public_url: "http://127.0.0.1:4320".to_owned(),
                    authority_pem: None,
                    headers: Vec::new(),
                    heartbeat_seconds: 30,
                }),
                masking: Masking::default(),
                new_per_day: NEW_PER_DAY,
            },
        });
        identity.teams.attach(Arc::new(collectors.clone()));
        let keys = &identity.collector_keys;
        keys.attach_collectors(Arc::new(collectors.clone()));
        let stop = CancellationToken::new();
        Self {
            identity,
            collectors,
            clock,
            bus,
            stopping: CancellationToken::new(),
            stop: stop.clone(),
            _stop: stop.drop_guard(),
        }
    }

    /// Starts what runs beside messages.
    fn run(self) -> Self {
        tokio::spawn({
            let (identity, stop) = (self.identity.clone(), self.stop.clone());
            async move { identity.run_maintenance(&Lease::always(), stop).await }
        });
        tokio::spawn({
            let (collectors, stop) = (self.collectors.clone(), self.stop.clone());
            async move { Box::pin(collectors.run(&Lease::always(), stop)).await }
        });
        self
    }

    fn wait(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// A token for agents that speak OpAMP.
    async fn token(&self, known_agents: KnownAgents) -> String {
        self.token_with(NewEnrollmentToken {
            known_agents: Some(known_agents),
            ..NewEnrollmentToken::default()
        })
        .await
    }

    /// A token for agents that are forgotten soon after they go.
    async fn ephemeral_token(&self) -> String {
        self.token_with(NewEnrollmentToken {
            ephemeral: Some(true),
            ..NewEnrollmentToken::default()
        })
        .await
    }

    async fn token_with(&self, new: NewEnrollmentToken) -> String {
        let new = NewEnrollmentToken {
            name: "collectors".to_owned(),
            families: vec![Family::Opamp],
            ..new
        };
        self.identity
            .enrollment_tokens
            .create(&Actor::system(), new)
            .await
            .unwrap()
            .1
    }

    /// A team, and a token for agents that come into it.
    async fn team(&self, name: &str) -> (TeamId, String) {
        let actor = Actor::system();
        let team = self.identity.teams.create(&actor, name, "").await;
        let team = team.unwrap().id;
        let new = NewEnrollmentToken {
            name: name.to_owned(),
            team_id: Some(team),
            families: vec![Family::Opamp],
            ..NewEnrollmentToken::default()
        };
        let tokens = &self.identity.enrollment_tokens;
        let token = tokens.create(&actor, new).await.unwrap().1;
        (team, token)
    }

    fn agents(&self) -> Router {
        let with_address = |mut request: Request, next: Next| async move {
            request
                .extensions_mut()
                .insert(ClientAddress([127, 0, 0, 1].into()));
            next.run(request).await
        };
        muster_collectors::http::agent_routes(self.collectors.clone(), self.stopping.clone())
            .layer(from_fn(with_address))
    }

    /// Sends a request as it is.
    async fn request(&self, request: Request) -> (u16, axum::http::HeaderMap, Bytes) {
        let response: Response = self.agents().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, body)
    }

    /// Sends a message over plain HTTP.
    async fn post(&self, secret: &str, message: &AgentToServer) -> (u16, Option<ServerToAgent>) {
        let body = encode_body(message, MessageLimit::default()).unwrap();
        let request = Request::post("/v1/opamp")
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::AUTHORIZATION, format!("Bearer {secret}"))
            .body(Body::from(body))
            .unwrap();
        let (status, _, body) = self.request(request).await;
        let answer = (status == 200).then(|| decode_body(body, MessageLimit::default()).unwrap());
        (status, answer)
    }

    /// Sends a message that has to be answered.
    async fn send(&self, secret: &str, message: &AgentToServer) -> ServerToAgent {
        let (status, answer) = self.post(secret, message).await;
        assert_eq!(status, 200);
        answer.unwrap()
    }

    /// Serves agents on a port of loopback.
    async fn serve(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = self.agents();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        address
    }

    /// Asks the native API as somebody.
    async fn call(&self, who: &Principal, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (routes, _) =
            muster_collectors::http::native_routes(self.collectors.clone()).split_for_parts();
        let app: Router = routes
            .layer(from_fn_with_state(Shape::Native, muster_http::shape))
            .layer(Extension(who.clone()));
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(body)
            .unwrap();
        let response = app.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        )
    }

    /// One collector, as an administrator sees it.
    async fn look(&self, id: i64) -> Value {
        let (status, detail) = self
            .call(&admin(), "GET", &format!("/collectors/{id}"), Value::Null)
            .await;
        assert_eq!(status, 200, "{detail}");
        detail
    }

    /// All collectors, as an administrator sees them.
    async fn list(&self, query: &str) -> Vec<Value> {
        self.collectors.flush().await.unwrap();
        let path = format!("/collectors{query}");
        let (status, page) = self.call(&admin(), "GET", &path, Value::Null).await;
        assert_eq!(status, 200, "{page}");
        page["items"].as_array().unwrap().clone()
    }
}

fn somebody(global_role: Option<Role>, teams: Vec<(TeamId, Role)>) -> Principal {
    Principal {
        user_id: UserId(1),
        name: "Ann".to_owned(),
        email: "ann@example.com".to_owned(),
        global_role,
        teams,
        must_reset_password: false,
        credential: Credential::Session(1),
        address: ClientAddress([127, 0, 0, 1].into()),
    }
}

fn admin() -> Principal {
    somebody(Some(Role::Admin), Vec::new())
}

fn message(uid: u8, sequence: u64, capabilities: u64) -> AgentToServer {
    AgentToServer {
        instance_uid: Bytes::copy_from_slice(&[uid; 16]),
        sequence_num: sequence,
        capabilities: capabilities | 0x1,
        ..AgentToServer::default()
    }
}

fn described(uid: u8, sequence: u64, capabilities: u64) -> AgentToServer {
    AgentToServer {
        agent_description: Some(AgentDescription {
            identifying_attributes: vec![
                KeyValue::text("service.name", "otelcol"),
                KeyValue::text("service.version", "0.158.0"),
            ],
            non_identifying_attributes: vec![
                KeyValue::text("host.name", format!("box-{uid}")),
                KeyValue::text("os.type", "linux"),
            ],
        }),
        ..message(uid, sequence, capabilities)
    }
}

fn goodbye(uid: u8, sequence: u64, capabilities: u64) -> AgentToServer {
    AgentToServer {
        agent_disconnect: Some(AgentDisconnect::default()),
        ..message(uid, sequence, capabilities)
    }
}

/// The key in an offer.
fn key_of(answer: &ServerToAgent) -> Option<String> {
    let settings = answer.connection_settings.as_ref()?.opamp.as_ref()?;
    let headers = &settings.headers.as_ref()?.headers;
    let header = headers
        .iter()
        .find(|header| header.key == "Authorization")?;
    header.value.strip_prefix("Bearer ").map(str::to_owned)
}

/// The number in the first row, if there is one.
async fn row(db: &TestDatabase, sql: &str) -> Option<i64> {
    use muster_store::Executor as _;
    let mut database: &Database = db;
    let rows = database.fetch_all(sql, Vec::new()).await.unwrap();
    let name = sql.split_whitespace().nth(1).unwrap();
    rows.first().and_then(|row| row.get(name).unwrap())
}

/// Does to the database what only a fault or another release would.
async fn change(db: &TestDatabase, sql: &str) {
    use muster_store::Executor as _;
    let mut database: &Database = db;
    database.execute(sql, Vec::new()).await.unwrap();
}

/// Waits until something is so, for as long as a busy machine may need.
async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "{what}");
}
