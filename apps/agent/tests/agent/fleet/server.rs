//! A Fleet server as it was recorded: its answers, byte for byte but for keys and SQL, and nothing that it did not have.
//!
//! It holds what makes it a server: who enrolled, which details are still owed, which live queries run. Every request is
//! checked against what Fleet's own clients send; what is not among it is kept as a violation, and
//! [`Fleet::has_seen_fleets_protocols_only`] fails on any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// How long the agent may take for what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// One line per case: what it is, where it was recorded, status, headers, body.
const ANSWERS: &str = include_str!("../../data/fleet-answers.jsonl");
pub(crate) const SECRET: &str = "fleet-secret";

/// What the server was, as far as agents notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// Before orbit's API: its paths do not exist, no answer has the capability header.
    OsqueryOnly,
    /// The first release with the header.
    Autumn2022,
    /// The release that was recorded.
    January2025,
}

impl Era {
    fn capabilities(self) -> &'static [&'static str] {
        match self {
            Self::OsqueryOnly => &[],
            Self::Autumn2022 => &["orbit_endpoints", "token_rotation"],
            Self::January2025 => &[
                "orbit_endpoints",
                "token_rotation",
                "end_user_email",
                "escrow_buddy",
                "linux_disk_encryption_escrow",
                "setup_experience",
            ],
        }
    }
}

/// What comes in the place of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Instead {
    /// An answer that was recorded somewhere else.
    Case(&'static str),
    /// A proxy's page.
    Html(u16),
    /// JSON that was made up.
    Json(u16, Value),
    /// The connection breaks in the middle of the answer.
    Cut,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) body: Value,
    pub(crate) at: Instant,
    pub(crate) status: u16,
}

#[derive(Default)]
struct Kept {
    keys: BTreeMap<&'static str, String>,
    issued: u64,
    answered: usize,
    details: BTreeMap<String, String>,
    live: BTreeMap<String, (String, String)>,
    results: BTreeMap<String, Value>,
    instead: Vec<(&'static str, usize, Instead)>,
    orbit_config: Option<Value>,
    config: Option<Value>,
    header: Option<String>,
    violations: Vec<String>,
}

pub(crate) struct Fleet {
    era: Era,
    pub(crate) url: String,
    state: Mutex<Kept>,
    seen: watch::Sender<Vec<Seen>>,
}

/// A recorded answer.
fn recorded(case: &str) -> (u16, BTreeMap<String, String>, Value) {
    let lines = ANSWERS
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut found = lines.filter(|line| line["case"] == case);
    let line = found
        .next()
        .unwrap_or_else(|| panic!("nothing recorded as {case}"));
    let headers = serde_json::from_value(line["headers"].clone()).unwrap();
    let status = line["status"].as_u64().unwrap();
    (status.try_into().unwrap(), headers, line["body"].clone())
}

impl Fleet {
    pub(crate) async fn start(era: Era) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fleet = Arc::new(Self {
            era,
            url: format!("http://{}", listener.local_addr().unwrap()),
            state: Mutex::default(),
            seen: watch::channel(Vec::new()).0,
        });
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&fleet));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        fleet
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.state.lock().unwrap()
    }

    /// The next so many requests whose path ends so are answered otherwise.
    pub(crate) fn instead(&self, path: &'static str, times: usize, what: Instead) {
        self.state().instead.push((path, times, what));
    }

    /// Everything is answered as recorded again.
    pub(crate) fn heal(&self) {
        self.state().instead.clear();
    }

    /// What orbit's configuration is from now on.
    pub(crate) fn set_orbit_config(&self, config: Value) {
        self.state().orbit_config = Some(config);
    }

    /// What osquery's configuration is from now on; until then, the recorded one without an interval.
    pub(crate) fn set_config(&self, config: Value) {
        self.state().config = Some(config);
    }

    /// What the capability header is from now on; an empty one is not sent.
    pub(crate) fn set_header(&self, header: &str) {
        self.state().header = Some(header.to_owned());
    }

    /// Begins a live query.
    pub(crate) fn ask(&self, id: u32, sql: &str) -> String {
        self.ask_if(id, sql, "SELECT 1")
    }

    /// Begins a live query for hosts whose discovery gives a row.
    pub(crate) fn ask_if(&self, id: u32, sql: &str, discovery: &str) -> String {
        let name = format!("fleet_distributed_query_{id}");
        let texts = (sql.to_owned(), discovery.to_owned());
        self.state().live.insert(name.clone(), texts);
        name
    }

    /// Is restarted with an empty database.
    pub(crate) fn lose_keys(&self) {
        self.state().keys.clear();
    }

    /// The one key of a family.
    pub(crate) fn key(&self, family: &str) -> String {
        self.state().keys.get(family).cloned().unwrap_or_default()
    }

    /// Waits until the requests so far are as wanted, and gives them.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let mut seen = self.seen.subscribe();
        let done = tokio::time::timeout(PATIENCE, async {
            seen.wait_for(|seen| wanted(seen)).await.unwrap().clone()
        });
        done.await.unwrap_or_else(|_| {
            let seen: Vec<_> = self.seen.borrow().iter().map(line).collect();
            panic!("the agent did not do it: {what}; it asked {seen:#?}")
        })
    }

    /// Waits for so many more requests of a kind than there are now.
    pub(crate) async fn more(&self, path: &str, number: usize) -> Vec<Seen> {
        let before = count(&self.seen.borrow(), path);
        let what = format!("{number} more of {path}");
        self.until(&what, |seen| count(seen, path) >= before + number)
            .await
    }

    /// Waits for the result of a query: its rows, status, message and costs.
    pub(crate) async fn result(&self, name: &str) -> Value {
        self.until(&format!("the result of {name}"), |_| {
            self.state().results.contains_key(name)
        })
        .await;
        self.state().results[name].clone()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    /// Fails when there was a request that Fleet's own clients do not make.
    pub(crate) fn has_seen_fleets_protocols_only(&self) {
        let violations = &self.state().violations;
        assert!(violations.is_empty(), "{violations:#?}");
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }
}

pub(crate) fn count(seen: &[Seen], path: &str) -> usize {
    seen.iter().filter(|seen| seen.path.ends_with(path)).count()
}

fn line(seen: &Seen) -> String {
    format!("{} {}", seen.path, seen.status)
}

async fn answer(
    State(fleet): State<Arc<Fleet>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut state = fleet.state();
    state.violations.extend(
        violations(&method, &path, &headers, &body)
            .into_iter()
            .map(|violation| format!("{method} {path}: {violation}")),
    );
    let instead = take_instead(&mut state.instead, &path);
    let is_cut = matches!(instead, Some(Instead::Cut));
    let (status, mut answer_headers, answer) = match instead {
        None => fleet.as_recorded(&mut state, &path, &body),
        Some(Instead::Case(case)) => recorded(case),
        Some(Instead::Json(status, body)) => (
            status,
            [content_type("application/json; charset=utf-8")].into(),
            body,
        ),
        Some(Instead::Html(status)) => (
            status,
            [content_type("text/html")].into(),
            json!("<html><head><title>Bad Gateway</title></head><body>nginx</body></html>\r\n"),
        ),
        Some(Instead::Cut) => (
            200,
            [content_type("application/json; charset=utf-8")].into(),
            Value::Null,
        ),
    };
    if path.starts_with("/api/fleet/orbit/") && (status == 200 || status == 204) {
        state.answered += 1;
        match fleet.header(&state) {
            Some(header) => answer_headers.insert("X-Fleet-Capabilities".to_owned(), header),
            None => answer_headers.remove("X-Fleet-Capabilities"),
        };
    }
    let seen = Seen {
        path,
        body,
        at: Instant::now(),
        status,
    };
    drop(state);
    fleet.seen.send_modify(|all| all.push(seen));
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in answer_headers {
        response = response.header(name, value);
    }
    response.body(body_of(answer, is_cut)).unwrap()
}

fn body_of(answer: Value, is_cut: bool) -> Body {
    match answer {
        _ if is_cut => {
            let begun = Ok(Bytes::from_static(b"{\n  \"que"));
            let cut = Err(std::io::Error::other("cut"));
            Body::from_stream(futures_util::stream::iter([begun, cut]))
        }
        Value::String(text) => Body::from(text),
        Value::Null => Body::empty(),
        // On the wire the JSON is indented by two spaces and ends in a newline.
        value => Body::from(format!("{value:#}\n")),
    }
}

fn content_type(value: &str) -> (String, String) {
    ("Content-Type".to_owned(), value.to_owned())
}

fn take_instead(instead: &mut Vec<(&'static str, usize, Instead)>, path: &str) -> Option<Instead> {
    let index = instead
        .iter()
        .position(|(wanted, ..)| path.ends_with(wanted))?;
    let what = instead[index].2.clone();
    instead[index].1 -= 1;
    if instead[index].1 == 0 {
        instead.remove(index);
    }
    Some(what)
}

impl Fleet {
    /// The header of the next answer: the real server's set is in another order on each.
    fn header(&self, state: &Kept) -> Option<String> {
        if let Some(header) = &state.header {
            return Some(header.clone()).filter(|header| !header.is_empty());
        }
        let mut names = self.era.capabilities().to_vec();
        if names.is_empty() {
            return None;
        }
        names.rotate_left(state.answered % self.era.capabilities().len());
        Some(names.join(","))
    }

    fn as_recorded(
        &self,
        state: &mut Kept,
        path: &str,
        body: &Value,
    ) -> (u16, BTreeMap<String, String>, Value) {
        if self.era == Era::OsqueryOnly && path.starts_with("/api/fleet/orbit/") {
            return recorded("unknown path");
        }
        let knows = |family: &str, given: &Value| {
            let key = state.keys.get(family);
            key.is_some_and(|key| given == key)
        };
        match path {
            "/api/fleet/orbit/enroll" | "/api/v1/osquery/enroll" => {
                let (family, member) = if path.contains("orbit") {
                    ("orbit", "orbit_node_key")
                } else {
                    ("osquery", "node_key")
                };
                if body["enroll_secret"] != SECRET {
                    return recorded(if family == "orbit" {
                        "orbit secret refused"
                    } else {
                        "osquery secret refused"
                    });
                }
                state.issued += 1;
                let key = format!("{family}-key-{}", state.issued);
                if family == "osquery" {
                    state.details = details();
                }
                state.keys.insert(family, key.clone());
                let (status, headers, mut answer) = recorded(&format!("{family} enroll"));
                answer[member] = key.into();
                (status, headers, answer)
            }
            "/api/fleet/orbit/config" if !knows("orbit", &body["orbit_node_key"]) => {
                recorded("orbit key refused")
            }
            "/api/fleet/orbit/config" => {
                let (status, headers, answer) = recorded("orbit config");
                let answer = state.orbit_config.clone().unwrap_or(answer);
                (status, headers, answer)
            }
            _ if path.starts_with("/api/v1/osquery/") && !knows("osquery", &body["node_key"]) => {
                recorded("osquery key refused")
            }
            "/api/v1/osquery/config" => {
                let (status, headers, mut answer) = recorded("osquery config");
                match (&state.config, answer["options"].as_object_mut()) {
                    (Some(config), _) => answer.clone_from(config),
                    // An operator took it out, since the test does not want to wait for so long.
                    (None, Some(options)) => drop(options.shift_remove("distributed_interval")),
                    (None, None) => {}
                }
                (status, headers, answer)
            }
            "/api/v1/osquery/distributed/read" => state.read(),
            "/api/v1/osquery/distributed/write" => {
                state.write(body);
                recorded("write")
            }
            _ => recorded("unknown path"),
        }
    }
}

/// The names of the recorded first read, with SQL of our own over tables of osquery: some are there in every agent, some
/// in osqueryd alone, and some of a plugin that is not loaded.
fn details() -> BTreeMap<String, String> {
    let (_, _, first) = recorded("read, first");
    let sql = |name: &str| {
        match name.strip_prefix("fleet_detail_query_") {
        Some("os_version" | "os_unix_like") => "SELECT name, platform, version FROM os_version",
        Some("osquery_info") => "SELECT version, pid FROM osquery_info",
        Some("osquery_flags") => {
            "SELECT name, value FROM osquery_flags
             WHERE name IN ('distributed_interval', 'config_refresh', 'logger_tls_period') ORDER BY name"
        }
        Some("system_info") => "SELECT hostname, uuid FROM system_info",
        Some("uptime") => "SELECT total_seconds FROM uptime",
        Some("users") => "SELECT uid, username FROM users",
        Some("software_linux") => "SELECT name, version FROM deb_packages",
        Some("scheduled_query_stats") => "SELECT name, executions FROM osquery_schedule",
        Some("network_interface_unix") => "SELECT interface, mac FROM interface_details",
        // Tables of osqueryd's on other systems or of its plugins; a table and SQL that nobody has.
        Some("google_chrome_profiles") => "SELECT email FROM google_chrome_profiles",
        Some("kubequery_info") => "SELECT * FROM kubernetes_info",
        Some("software_vscode_extensions") => "SELECT name FROM vscode_extensions",
        Some("disk_encryption_linux") => "SELECT encrypted FROM no_such_table_anywhere",
        Some("disk_space_unix") => "SELEC broken",
        Some("orbit_info") => "SELECT version FROM orbit_info",
        _ => "SELECT 1 AS one",
    }
    };
    let names = first["queries"].as_object().unwrap().keys();
    names
        .map(|name| (name.clone(), sql(name).to_owned()))
        .collect()
}

impl Kept {
    fn read(&mut self) -> (u16, BTreeMap<String, String>, Value) {
        let (status, headers, mut answer) = recorded("read, nothing due");
        for (name, sql) in &self.details {
            answer["queries"][name] = sql.as_str().into();
            answer["discovery"][name] = "SELECT 1".into();
        }
        if !self.details.is_empty() {
            // A host of which little is known comes faster.
            answer["accelerate"] = 10.into();
        }
        for (name, (sql, discovery)) in &self.live {
            answer["queries"][name] = sql.as_str().into();
            answer["discovery"][name] = discovery.as_str().into();
        }
        (status, headers, answer)
    }

    fn write(&mut self, body: &Value) {
        for (name, rows) in body["queries"].as_object().into_iter().flatten() {
            self.details.remove(name);
            self.live.remove(name);
            let result = json!({
                "rows": rows, "status": body["statuses"][name], "message": body["messages"][name],
                "stats": body["stats"][name],
            });
            self.results.insert(name.clone(), result);
        }
    }
}

/// What of a request Fleet's own clients do not send.
fn violations(method: &Method, path: &str, headers: &HeaderMap, body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let members: &[&str] = match (method.as_str(), path) {
        ("POST", "/api/fleet/orbit/enroll") => &[
            "enroll_secret",
            "hardware_uuid",
            "hardware_serial",
            "hostname",
            "platform",
            "platform_like",
            "osquery_identifier",
            "computer_name",
            "hardware_model",
        ],
        ("POST", "/api/fleet/orbit/config") => &["orbit_node_key"],
        ("POST", "/api/v1/osquery/enroll") => {
            let details = body["host_details"].as_object();
            let known = ["os_version", "osquery_info", "system_info", "platform_info"];
            let names = details.into_iter().flat_map(Map::keys);
            found.extend(
                names
                    .filter(|name| !known.contains(&name.as_str()))
                    .map(|name| format!("host_details.{name}")),
            );
            &[
                "enroll_secret",
                "host_identifier",
                "platform_type",
                "host_details",
            ]
        }
        // Fleet's own etags, which servers of before 2026 pass over.
        ("POST", "/api/v1/osquery/config") => &["node_key", "etag"],
        ("POST", "/api/v1/osquery/distributed/read") => &["node_key"],
        ("POST", "/api/v1/osquery/distributed/write") => {
            found.extend(wrong_kinds(body));
            &["node_key", "queries", "statuses", "messages", "stats"]
        }
        _ => {
            found.push("the server does not have this".to_owned());
            return found;
        }
    };
    let given: BTreeSet<&str> = body
        .as_object()
        .map(|body| body.keys().map(String::as_str).collect())
        .unwrap_or_default();
    if given.is_empty() {
        found.push("the body is no object".to_owned());
    }
    let unknown = given.iter().filter(|name| !members.contains(name));
    found.extend(unknown.map(|name| format!("the member {name}")));
    let usual = [
        "host",
        "user-agent",
        "accept",
        "content-type",
        "content-length",
    ];
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        match name.as_str() {
            name if usual.contains(&name) => {}
            // One header says what the agent can do, in Fleet's own way: names, of which a server ignores those that it
            // does not know.
            "x-fleet-capabilities" if path.starts_with("/api/fleet/orbit/") => {
                let is_name = |name: &str| {
                    !name.is_empty() && name.chars().all(|c| matches!(c, 'a'..='z' | '_'))
                };
                if !value.split(',').all(is_name) {
                    found.push(format!("capabilities {value:?}"));
                }
            }
            name => found.push(format!("the header {name}: {value}")),
        }
    }
    found
}

/// What of results is not of the recorded kind.
fn wrong_kinds(body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |part: &str, fits: &dyn Fn(&Value) -> bool| match body[part].as_object() {
        None => found.push(format!("{part} is no object")),
        Some(members) => found.extend(
            members
                .iter()
                .filter(|(_, value)| !fits(value))
                .map(|(name, value)| format!("{part}.{name} is {value}")),
        ),
    };
    check("statuses", &Value::is_i64);
    check("messages", &Value::is_string);
    check("queries", &|rows| {
        rows.as_array().is_some_and(|rows| {
            rows.iter().all(|row| {
                row.as_object()
                    .is_some_and(|row| row.values().all(Value::is_string))
            })
        })
    });
    check("stats", &|stats| {
        stats.as_object().is_some_and(|stats| {
            stats
                .keys()
                .eq(["wall_time_ms", "user_time", "system_time", "memory"])
                && stats.values().all(Value::is_i64)
        })
    });
    found
}
