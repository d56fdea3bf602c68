//! Configurations of collectors, by our API and by messages of agents.

mod documents;
mod later;
mod rollout;
mod selection;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use muster_bus::LocalBus;
use muster_clock::ManualClock;
use muster_collectors::Masking;
use muster_collectors::configurations::{ConfigurationParts, Configurations, configuration_routes};
use muster_http::Shape;
use muster_identity::{KnownAgents, Principal};
use muster_replicas::Lease;
use muster_store::Database;
use muster_store::testing::TestDatabase;
use muster_wire_opamp::AgentCapabilities;
use muster_wire_opamp::proto::{
    AgentConfigMap, AgentConfigObject, AgentRemoteConfig, AgentToServer, AvailableComponents,
    ComponentDetails, ComponentHealth, EffectiveConfig, RemoteConfigStatus, ServerToAgent,
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{Fixture, admin, described, message, until};

/// What a supervisor can do, as far as configurations go: remote configuration with its status, effective configuration,
/// health.
fn supervisor() -> u64 {
    AgentCapabilities::ACCEPTS_REMOTE_CONFIG
        .union(AgentCapabilities::REPORTS_REMOTE_CONFIG)
        .union(AgentCapabilities::REPORTS_EFFECTIVE_CONFIG)
        .union(AgentCapabilities::REPORTS_HEALTH)
        .bits()
}

const APPLIED: i32 = 1;
const APPLYING: i32 = 2;
const FAILED: i32 = 3;

/// A configuration with which a collector starts; its batch waits so many seconds.
fn good(seconds: u32) -> Value {
    let body = format!(
        "receivers:\n  otlp: {{protocols: {{grpc: {{}}}}}}\nprocessors:\n  batch: {{timeout: {seconds}s}}\nexporters:\n  debug:\n\
         service:\n  pipelines:\n    logs: {{receivers: [otlp], processors: [batch], exporters: [debug]}}\n"
    );
    json!({ "otelcol.yaml": { "body": body } })
}

/// A server of collectors that tells them what to run.
struct Site {
    fixture: Fixture,
    configurations: Configurations,
}

impl Site {
    async fn new(db: &TestDatabase) -> Self {
        Self::on(Fixture::new(db).await, db.database())
    }

    fn on(fixture: Fixture, database: Database) -> Self {
        let configurations = Configurations::new(ConfigurationParts {
            database,
            bus: Arc::<LocalBus>::clone(&fixture.bus),
            clock: Arc::<ManualClock>::clone(&fixture.clock),
            identity: fixture.identity.clone(),
            masking: Masking::default(),
            collectors: fixture.collectors.clone(),
        });
        fixture
            .identity
            .teams
            .attach(Arc::new(configurations.clone()));
        tokio::spawn({
            let (configurations, stop) = (configurations.clone(), fixture.stop.clone());
            async move { configurations.run(&Lease::always(), stop).await }
        });
        Self {
            fixture,
            configurations,
        }
    }

    /// Another replica: other memory, the same database and bus.
    async fn another(&self, db: &TestDatabase, seed: u64) -> Self {
        let database = db.reopen().await;
        Self::on(self.fixture.another(db, seed).await, database)
    }

    async fn call_as(
        &self,
        who: &Principal,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let (routes, _) = configuration_routes(self.configurations.clone()).split_for_parts();
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

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_as(&admin(), method, path, body).await
    }

    /// What has to go well.
    async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        answer
    }

    /// Makes a configuration; gives its id.
    async fn create(&self, name: &str, files: Value) -> i64 {
        let made = self
            .ok(
                "POST",
                "/collector-configs",
                json!({ "name": name, "files": files }),
            )
            .await;
        made["config"]["id"].as_i64().unwrap()
    }

    async fn push(&self, id: i64, files: Value) -> Value {
        let path = format!("/collector-configs/{id}/versions");
        self.ok("POST", &path, json!({ "files": files, "apply": true }))
            .await
    }

    /// Assigns a configuration; gives the assignment's id.
    async fn assign(&self, id: i64, selector: &str, more: Value) -> i64 {
        let mut body = json!({ "configuration_id": id, "selector": selector });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let made = self.ok("POST", "/collector-config-assignments", body).await;
        made["id"].as_i64().unwrap()
    }

    /// What a collector should run, and how far it is.
    async fn config_of(&self, collector: i64) -> Value {
        self.ok(
            "GET",
            &format!("/collectors/{collector}/config"),
            Value::Null,
        )
        .await
    }

    async fn until_state(&self, collector: i64, state: &str) -> Value {
        let is_so = || async { self.config_of(collector).await["state"] == state };
        until(&format!("collector {collector} is {state}"), is_so).await;
        self.config_of(collector).await
    }

    async fn until_stage(&self, collector: i64, stage: &str) -> Value {
        let is_so = || async { self.config_of(collector).await["stage"] == stage };
        until(&format!("collector {collector} is {stage}"), is_so).await;
        self.config_of(collector).await
    }
}

/// An agent that polls.
struct Agent<'a> {
    site: &'a Site,
    secret: String,
    uid: u8,
    number: u64,
    capabilities: u64,
}

impl<'a> Agent<'a> {
    /// A healthy supervisor that has described itself; the attributes are beside those of all.
    async fn enroll(site: &'a Site, uid: u8) -> Agent<'a> {
        Self::with(site, uid, supervisor()).await
    }

    async fn with(site: &'a Site, uid: u8, capabilities: u64) -> Agent<'a> {
        let secret = site.fixture.token(KnownAgents::Adopt).await;
        let mut agent = Self {
            site,
            secret,
            uid,
            number: 0,
            capabilities,
        };
        let mut said = described(uid, 0, capabilities);
        said.health = Some(health(true, ""));
        agent.say(said).await;
        agent
    }

    async fn say(&mut self, said: AgentToServer) -> ServerToAgent {
        let said = AgentToServer {
            sequence_num: self.number,
            ..said
        };
        self.number += 1;
        self.site.fixture.send(&self.secret, &said).await
    }

    async fn poll(&mut self) -> ServerToAgent {
        let said = message(self.uid, 0, self.capabilities);
        self.say(said).await
    }

    /// Polls until there is a configuration: ever more slowly, since no time passes for the server, which takes only so many.
    async fn receive(&mut self) -> AgentRemoteConfig {
        for attempt in 1..50 {
            if let Some(config) = self.poll().await.remote_config {
                return config;
            }
            tokio::time::sleep(Duration::from_millis(10 * attempt)).await;
        }
        panic!("no configuration came");
    }

    /// Says what became of a configuration.
    async fn report(
        &mut self,
        config: &AgentRemoteConfig,
        status: i32,
        error: &str,
    ) -> ServerToAgent {
        let mut said = message(self.uid, 0, self.capabilities);
        said.remote_config_status = Some(RemoteConfigStatus {
            last_remote_config_hash: config.config_hash.clone(),
            status,
            error_message: error.to_owned(),
        });
        self.say(said).await
    }

    async fn feel(&mut self, healthy: bool, error: &str) {
        let mut said = message(self.uid, 0, self.capabilities);
        said.health = Some(health(healthy, error));
        self.say(said).await;
    }

    async fn runs(&mut self, body: &str) {
        let mut said = message(self.uid, 0, self.capabilities);
        let object = AgentConfigObject {
            body: Bytes::copy_from_slice(body.as_bytes()),
            ..AgentConfigObject::default()
        };
        said.effective_config = Some(EffectiveConfig {
            config_map: Some(AgentConfigMap {
                config_map: [(String::new(), object)].into(),
            }),
        });
        self.say(said).await;
    }

    /// Takes what is sent, runs it, and is seen to run it well. Gives what it was.
    async fn takes_it_well(&mut self, collector: i64) -> AgentRemoteConfig {
        let config = self.receive().await;
        self.runs_it_well(collector, &config).await;
        config
    }

    /// Runs what was sent, as a supervisor does, and is seen to run it well.
    async fn runs_it_well(&mut self, collector: i64, config: &AgentRemoteConfig) {
        self.report(config, APPLYING, "").await;
        self.feel(false, "starting").await;
        self.feel(true, "").await;
        self.report(config, APPLIED, "").await;
        self.site.until_stage(collector, "soaking").await;
        // When it was heard is known before the clock goes on: else it would seem to have been away.
        self.site.fixture.collectors.flush().await.unwrap();
        self.site.fixture.wait(31);
        self.is_heard().await;
        self.site.until_state(collector, "in_sync").await;
    }

    /// Says that it is there, which is known at once.
    async fn is_heard(&mut self) {
        self.poll().await;
        self.site.fixture.collectors.flush().await.unwrap();
    }
}

fn health(healthy: bool, error: &str) -> ComponentHealth {
    ComponentHealth {
        healthy,
        last_error: error.to_owned(),
        ..ComponentHealth::default()
    }
}

fn components(receivers: &[&str]) -> AvailableComponents {
    let section = |types: &[&str]| ComponentDetails {
        sub_component_map: types
            .iter()
            .map(|name| ((*name).to_owned(), ComponentDetails::default()))
            .collect(),
        ..ComponentDetails::default()
    };
    AvailableComponents {
        hash: Bytes::copy_from_slice(receivers.concat().as_bytes()),
        components: [
            ("receivers".to_owned(), section(receivers)),
            ("processors".to_owned(), section(&["batch"])),
            ("exporters".to_owned(), section(&["debug"])),
        ]
        .into(),
    }
}

fn body_of(config: &AgentRemoteConfig) -> String {
    let map = &config.config.as_ref().unwrap().config_map;
    String::from_utf8(map["otelcol.yaml"].body.to_vec()).unwrap()
}
