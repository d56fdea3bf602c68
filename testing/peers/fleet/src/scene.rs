//! What happened around a recorded client: the set-up of its server, hosts that were there, options that changed.
//!
//! A recording shows only one client. What else was done is done here when its moment comes, by our own API or by the part
//! of Fleet's that the recording does not test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_clock::{Clock as _, ManualClock, SystemClock};
use muster_server::config::{Layered, Settings};
use muster_server::start::{Ambient, Running, start};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::mapping::Mapping;
use crate::recording::{Exchange, Recording};

/// The administrator of the recorded server.
pub const ADMIN: &str = "a@example.com";

/// A server with what is around the recorded client.
pub struct Scene {
    server: Option<Running>,
    base: String,
    clock: Arc<ManualClock>,
    http: Client,
    /// Our own administrator's session, when the server is set up.
    admin: Option<String>,
    /// Hosts that the recorded server had when the recording began, by UUID, and our node key of each that enrolled here.
    hosts: BTreeMap<String, (Value, Option<String>)>,
    /// Sessions of people that cases are named after.
    sessions: BTreeMap<&'static str, String>,
    /// What the options were last set to.
    options: Value,
    _folder: tempfile::TempDir,
}

impl Scene {
    /// A new server on a database, with nothing in it.
    pub async fn new(database: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let server = serve(folder.path(), database, &clock).await;
        Self {
            base: format!("http://{}", server.address),
            server: Some(server),
            clock,
            http: Client::new(),
            admin: None,
            hosts: BTreeMap::new(),
            sessions: BTreeMap::new(),
            options: Value::Null,
            _folder: folder,
        }
    }

    /// Where the server is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// Ends the server in order.
    pub async fn end(mut self) {
        if let Some(server) = self.server.take() {
            server.shut_down().await;
        }
    }

    /// Remembers the hosts that answers of a recording show without having been enrolled in it: they were there before.
    pub fn know_hosts(&mut self, recording: &Recording) {
        let mut enrolled = BTreeSet::new();
        for exchange in recording.exchanges() {
            if exchange.route().ends_with("/enroll") {
                let body = exchange.request.as_ref().unwrap_or(&Value::Null);
                for place in [
                    "/host_identifier",
                    "/hardware_uuid",
                    "/host_details/system_info/hostname",
                    "/hostname",
                ] {
                    enrolled.extend(
                        body.pointer(place)
                            .and_then(Value::as_str)
                            .map(str::to_owned),
                    );
                }
            }
        }
        for exchange in recording.exchanges() {
            let mut found = Vec::new();
            find_hosts(exchange.answer.as_ref().unwrap_or(&Value::Null), &mut found);
            for host in found {
                let uuid = host["uuid"].as_str().unwrap_or_default();
                let hostname = host["hostname"].as_str().unwrap_or_default();
                // Some have nothing but an orbit, and are made by it.
                let has_name = !uuid.is_empty() && !hostname.is_empty();
                if has_name && !enrolled.contains(uuid) && !enrolled.contains(hostname) {
                    // Several hosts of the simulator have one UUID.
                    let key = format!("{uuid} {hostname}");
                    self.hosts
                        .entry(key)
                        .or_insert_with(|| (host.clone(), None));
                }
            }
        }
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Answer {
        let request = self
            .http
            .request(method.clone(), format!("{}{path}", self.base));
        let request = match &self.admin {
            Some(session) => request.bearer_auth(session),
            None => request,
        };
        let response = request.body(body.to_string()).send().await;
        let answer = Answer::read(response.expect("the server answers")).await;
        assert!(answer.status < 300, "{method} {path} {body}: {answer:?}");
        answer
    }

    /// Sets the server up by its link, unless it is, and gives ourselves a session.
    pub async fn set_up(&mut self, mapping: &Mapping) {
        let password = mapping
            .value("<password-1>")
            .expect("passwords are made up");
        let link = self
            .server
            .as_ref()
            .and_then(|server| server.setup_link.clone());
        let login = json!({ "email": ADMIN, "password": password });
        let logged_in = self
            .http
            .post(format!("{}/api/muster/login", self.base))
            .body(login.to_string())
            .send()
            .await
            .expect("the server answers");
        let answer = Answer::read(logged_in).await;
        let answer = if answer.status == 200 {
            answer
        } else {
            let link = link.expect("a new server has a link");
            let token = link.split("token=").nth(1).expect("the link has a token");
            let body =
                json!({ "token": token, "name": "Ann", "email": ADMIN, "password": password });
            self.call(Method::POST, "/api/muster/setup", &body).await
        };
        self.admin = answer.body["token"].as_str().map(str::to_owned);
    }

    /// An enrollment token of ours; those that were there end when a client applies a list of secrets.
    async fn token(&self) -> Value {
        let token = json!({ "name": "around the recording" });
        let made = self
            .call(Method::POST, "/api/muster/enrollment-tokens", &token)
            .await;
        made.body["secret"].clone()
    }

    /// Whether the server has its first administrator.
    pub fn is_set_up(&self) -> bool {
        self.admin.is_some()
    }

    /// What has to be there before a request is sent.
    pub async fn prepare(&mut self, exchange: &Exchange, mapping: &mut Mapping) {
        let route = exchange.route();
        if exchange.name.contains("61 minutes old") {
            self.pass(Duration::from_secs(61 * 60));
        }
        let is_before_setup = exchange.status == Some(404) && route.ends_with("/login")
            || route.ends_with("/setup") && exchange.status == Some(200);
        if is_before_setup {
            return;
        }
        if self.admin.is_none() {
            self.set_up(mapping).await;
            self.seed(mapping).await;
        }
        if route.ends_with("/config") && exchange.status == Some(200) && exchange.method == "POST" {
            self.follow_options(exchange).await;
        }
        let mut shown = Vec::new();
        find_hosts(exchange.answer.as_ref().unwrap_or(&Value::Null), &mut shown);
        let by_name = exchange.path.contains("/hosts")
            || exchange.path.contains("run")
            || exchange.path.contains("translate");
        if !shown.is_empty() || by_name {
            self.enroll_hosts(mapping).await;
        }
        if route.contains("/run_by_") {
            for (_, key) in self.hosts.values().filter(|(_, key)| key.is_some()) {
                self.join_labels(key.as_deref()).await;
            }
        }
    }

    /// What the recorded servers had before any client came.
    async fn seed(&mut self, mapping: &Mapping) {
        let global = mapping
            .value("<secret-global>")
            .expect("secrets are made up");
        let secrets = json!({ "spec": { "secrets": [{ "secret": global }] } });
        self.call(
            Method::POST,
            "/api/latest/fleet/spec/enroll_secret",
            &secrets,
        )
        .await;
        let queries = json!({ "specs": [
            { "name": "seed report", "description": "seeded", "query": "select version from osquery_info", "interval": 60,
              "observer_can_run": true, "automations_enabled": true, "logging": "snapshot" },
            { "name": "seed differential", "query": "select uid from users", "interval": 60, "automations_enabled": true,
              "logging": "differential" },
        ] });
        self.call(Method::POST, "/api/latest/fleet/spec/queries", &queries)
            .await;
        let labels = json!({ "specs": [{ "name": "seed label", "description": "seeded",
            "query": "select 1 from osquery_info", "label_membership_type": "dynamic" }] });
        self.call(Method::POST, "/api/latest/fleet/spec/labels", &labels)
            .await;
        let team = mapping.value("<secret-team>").expect("secrets are made up");
        let teams = json!({ "specs": [{ "name": "Team One", "secrets": [{ "secret": team }] }] });
        self.call(Method::POST, "/api/latest/fleet/spec/teams", &teams)
            .await;
    }

    /// The recorded server's options at that time, so that what agents are told can be compared.
    async fn follow_options(&mut self, exchange: &Exchange) {
        let recorded = exchange.answer.clone().unwrap_or(Value::Null);
        let mut options = if self.options.is_null() {
            json!({ "config": {} })
        } else {
            self.options.clone()
        };
        if exchange.route().ends_with("/osquery/config") {
            let mut config = recorded;
            if let Some(members) = config.as_object_mut() {
                members.shift_remove("packs");
            }
            // SQL stands as a placeholder.
            options["config"] =
                serde_json::from_str(&config.to_string().replace("<sql>", "SELECT 1"))
                    .expect("still JSON");
        } else {
            options["command_line_flags"] = recorded
                .get("command_line_startup_flags")
                .cloned()
                .unwrap_or(Value::Null);
        }
        if options != self.options {
            self.call(
                Method::PATCH,
                "/api/latest/fleet/config?force=true",
                &json!({ "agent_options": options }),
            )
            .await;
            self.options = options;
        }
    }

    /// Enrolls the hosts that were there.
    async fn enroll_hosts(&mut self, mapping: &mut Mapping) {
        let missing = self.hosts.iter().filter(|(_, (_, key))| key.is_none());
        let names: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return;
        }
        let secret = self.token().await;
        for name in names {
            let (host, _) = &self.hosts[&name];
            let text = |member: &str| host[member].as_str().unwrap_or_default().to_owned();
            let os_version = text("os_version");
            let (os_name, version) = os_version.split_once(' ').unwrap_or((&os_version, ""));
            let body = json!({
                "enroll_secret": secret, "host_identifier": name, "platform_type": "9",
                "host_details": {
                    "os_version": { "name": os_name, "version": version, "platform": text("platform"),
                        "platform_like": text("platform_like"), "build": text("build"), "codename": text("code_name") },
                    "osquery_info": { "version": text("osquery_version"), "instance_id": name },
                    "system_info": { "hostname": text("hostname"), "uuid": text("uuid"), "computer_name": text("computer_name"),
                        "hardware_serial": text("hardware_serial"), "hardware_model": text("hardware_model"),
                        "hardware_vendor": text("hardware_vendor"), "cpu_brand": text("cpu_brand") },
                },
            });
            let enrolled = self
                .call(Method::POST, "/api/v1/osquery/enroll", &body)
                .await;
            let key = enrolled.body["node_key"].as_str().map(str::to_owned);
            let asked = json!({ "node_key": key });
            self.call(Method::POST, "/api/v1/osquery/config", &asked)
                .await;
            self.join_labels(key.as_deref()).await;
            let recorded_id = host["id"].as_i64();
            let hostname = text("hostname");
            self.hosts.get_mut(&name).expect("it is known").1 = key;
            let found = self
                .call(
                    Method::GET,
                    &format!("/api/latest/fleet/hosts/identifier/{hostname}"),
                    &Value::Null,
                )
                .await;
            if let (Some(there), Some(here)) = (recorded_id, found.body["host"]["id"].as_i64()) {
                mapping.learn_id("hosts", there, here);
            }
        }
    }

    /// Lets a host say that it belongs to every label that it is asked about.
    async fn join_labels(&self, key: Option<&str>) {
        let asked = self
            .call(
                Method::POST,
                "/api/v1/osquery/distributed/read",
                &json!({ "node_key": key }),
            )
            .await;
        let queries = asked.body["queries"].as_object().into_iter().flatten();
        let labels = queries.filter(|(name, _)| name.starts_with("fleet_label_query_"));
        let results: serde_json::Map<String, Value> = labels
            .map(|(name, _)| (name.clone(), json!([{ "1": "1" }])))
            .collect();
        let body = json!({ "node_key": key, "queries": results, "statuses": {} });
        self.call(Method::POST, "/api/v1/osquery/distributed/write", &body)
            .await;
    }

    /// Lets the hosts that were there answer what they are asked live, as the recorded result has it.
    pub async fn answer_live_queries(&self, recorded: &Value) {
        let hostname = &recorded["data"]["host"]["hostname"];
        let rows = &recorded["data"]["rows"];
        for (host, key) in self.hosts.values() {
            let (Some(key), true) = (key, &host["hostname"] == hostname) else {
                continue;
            };
            let asked = self
                .call(
                    Method::POST,
                    "/api/v1/osquery/distributed/read",
                    &json!({ "node_key": key }),
                )
                .await;
            let live = asked.body["queries"].as_object().into_iter().flatten();
            let live: Vec<String> = live
                .map(|(name, _)| name.clone())
                .filter(|name| name.starts_with("fleet_distributed_query_"))
                .collect();
            if live.is_empty() {
                continue;
            }
            let results: serde_json::Map<String, Value> = live
                .iter()
                .map(|name| (name.clone(), rows.clone()))
                .collect();
            let statuses: serde_json::Map<String, Value> =
                live.iter().map(|name| (name.clone(), json!(0))).collect();
            let stats: serde_json::Map<String, Value> = live.iter().map(|name| {
                (name.clone(), json!({ "wall_time_ms": 3, "user_time": 1, "system_time": 1, "memory": 4096 }))
            }).collect();
            let body = json!({ "node_key": key, "queries": results, "statuses": statuses, "stats": stats });
            self.call(Method::POST, "/api/v1/osquery/distributed/write", &body)
                .await;
        }
    }

    /// Lets all hosts that were there answer what they are asked live.
    pub async fn answer_all(&self, rows: &Value) {
        let hosts = self.hosts.values().filter(|(_, key)| key.is_some());
        for (host, _) in hosts {
            let result =
                json!({ "data": { "host": { "hostname": host["hostname"] }, "rows": rows } });
            self.answer_live_queries(&result).await;
        }
    }

    /// Lets all hosts that were there check in, until the server shows it: who was seen is written once a second.
    pub async fn bring_online(&self) {
        let known = self.hosts.values().filter(|(_, key)| key.is_some()).count() as u64;
        let shown = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                self.answer_all(&Value::Null).await;
                let path = "/api/latest/fleet/hosts/count?status=online";
                let online = self.call(Method::GET, path, &Value::Null).await;
                if online.body["count"]
                    .as_u64()
                    .is_some_and(|online| online >= known)
                {
                    return;
                }
            }
        });
        shown.await.expect("hosts that check in are online");
    }

    /// What a mark says was done.
    pub async fn mark(&mut self, text: &str, mapping: &mut Mapping) {
        if text.contains("2 hours old") {
            self.pass(Duration::from_secs(2 * 60 * 60));
        } else if text.contains("host row is deleted") {
            let hosts = self
                .call(Method::GET, "/api/latest/fleet/hosts", &Value::Null)
                .await;
            for host in hosts.body["hosts"].as_array().into_iter().flatten() {
                self.call(
                    Method::DELETE,
                    &format!("/api/latest/fleet/hosts/{}", host["id"]),
                    &Value::Null,
                )
                .await;
            }
        } else if text.starts_with("desktop started") || text.starts_with("token replaced") {
            let token = if text.starts_with("desktop started") {
                "<device-token-27>"
            } else {
                "<device-token-28>"
            };
            self.register_desktop(&mapping.value(token).expect("tokens are made up"), mapping)
                .await;
        }
    }

    /// A host whose desktop app has this token.
    async fn register_desktop(&mut self, token: &str, mapping: &Mapping) {
        if self.admin.is_none() {
            self.set_up(mapping).await;
        }
        let secret = self.token().await;
        let body = json!({ "enroll_secret": secret, "hardware_uuid": "desktop-host", "hostname": "desktop-host",
            "platform": "ubuntu", "hardware_serial": "D1" });
        let enrolled = self
            .call(Method::POST, "/api/fleet/orbit/enroll", &body)
            .await;
        let body = json!({ "orbit_node_key": enrolled.body["orbit_node_key"], "device_auth_token": token });
        self.call(Method::POST, "/api/fleet/orbit/device_token", &body)
            .await;
    }

    /// Remembers a session by the name that cases begin with.
    pub fn remember_session(&mut self, prefix: &'static str, session: &str) {
        self.sessions.insert(prefix, session.to_owned());
    }

    /// Our own administrator's session.
    pub fn admin(&self) -> Option<String> {
        self.admin.clone()
    }

    /// The hosts that the server has, by our administrator.
    pub async fn hosts(&self) -> Vec<Value> {
        let answer = self
            .call(Method::GET, "/api/latest/fleet/hosts", &Value::Null)
            .await;
        answer.body["hosts"].as_array().cloned().unwrap_or_default()
    }

    /// Where the server listens.
    pub fn address(&self) -> std::net::SocketAddr {
        self.server.as_ref().expect("it runs").address
    }

    /// How many hosts there are of the name that a recorded result has.
    pub fn hosts_named(&self, recorded: &Value) -> usize {
        let hostname = &recorded["data"]["host"]["hostname"];
        let enrolled = self.hosts.values().filter(|(_, key)| key.is_some());
        enrolled
            .filter(|(host, _)| &host["hostname"] == hostname)
            .count()
    }

    /// Whose session a case is named after.
    pub fn session_for(&self, case: &str) -> Option<String> {
        let found = self
            .sessions
            .iter()
            .find(|(prefix, _)| case.starts_with(**prefix));
        found.map(|(_, session)| session.clone())
    }
}

/// Objects that are hosts, wherever they stand.
fn find_hosts(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Object(members) => {
            if members.contains_key("uuid")
                && members.contains_key("hostname")
                && members.contains_key("hardware_serial")
            {
                found.push(value.clone());
            }
            for member in members.values() {
                find_hosts(member, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| find_hosts(item, found)),
        _ => {}
    }
}

async fn serve(folder: &Path, database: &str, clock: &Arc<ManualClock>) -> Running {
    let data = folder.to_str().expect("folders have names");
    let flags = [
        ("data_dir", data),
        ("listen", "127.0.0.1:0"),
        ("database.url", database),
        ("tls.enabled", "false"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let layers = Layered::resolve(&flags, &Vec::new(), None).expect("the settings are right");
    let settings = Settings::from_layers(&layers).expect("the settings are right");
    let ambient = Ambient {
        clock: Arc::clone(clock) as _,
        ..Ambient::default()
    };
    start(settings, ambient).await.expect("the server starts")
}
