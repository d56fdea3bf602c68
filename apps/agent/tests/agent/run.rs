//! The agent against a server that plays a script: plain HTTP on loopback.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use crate::program;

/// How long the agent may take for what the script waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// One request that the agent made.
#[derive(Debug, Clone)]
struct Seen {
    path: String,
    body: Value,
    capabilities: String,
}

struct Script {
    seen: watch::Sender<Vec<Seen>>,
    /// Answers in the place of the usual ones: path, status, body; each is used once.
    instead: Mutex<Vec<(&'static str, u16, Value)>>,
    /// What the next read asks.
    queries: Mutex<Value>,
    capabilities: Mutex<&'static str>,
    tell: broadcast::Sender<()>,
}

struct Server {
    script: Arc<Script>,
    url: String,
}

async fn answer(
    State(script): State<Arc<Script>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let said = headers
        .get("x-fleet-capabilities")
        .map(|value| value.to_str().unwrap().to_owned());
    script.seen.send_modify(|seen| {
        seen.push(Seen {
            path: path.clone(),
            body,
            capabilities: said.unwrap_or_default(),
        });
    });
    let instead = {
        let mut instead = script.instead.lock().unwrap();
        let found = instead
            .iter()
            .position(|(wanted, ..)| path.ends_with(wanted));
        found.map(|index| instead.remove(index))
    };
    let (status, body) = match instead {
        Some((_, status, body)) => (status, body),
        None if path.ends_with("orbit/enroll") => (200, json!({ "orbit_node_key": "orbit-key" })),
        None if path.ends_with("orbit/config") => (200, json!({ "notifications": {} })),
        None if path.ends_with("osquery/enroll") => (200, json!({ "node_key": "node-key" })),
        None if path.ends_with("osquery/config") => (
            200,
            json!({ "options": { "distributed_interval": 1, "config_refresh": 1 } }),
        ),
        None if path.ends_with("distributed/read") => {
            let queries = std::mem::replace(&mut *script.queries.lock().unwrap(), json!({}));
            (200, json!({ "queries": queries, "discovery": {} }))
        }
        None => (200, json!({})),
    };
    let mut response = (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response();
    if path.contains("/orbit/") && status == 200 {
        let capabilities = *script.capabilities.lock().unwrap();
        if !capabilities.is_empty() {
            response
                .headers_mut()
                .insert("x-fleet-capabilities", capabilities.parse().unwrap());
        }
    }
    response
}

async fn notify(
    State(script): State<Arc<Script>>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let key = headers
        .get("authorization")
        .map(|value| value.to_str().unwrap().to_owned());
    let body = json!({ "authorization": key });
    script.seen.send_modify(|seen| {
        seen.push(Seen {
            path: "socket".to_owned(),
            body,
            capabilities: String::new(),
        });
    });
    let mut told = script.tell.subscribe();
    upgrade.on_upgrade(move |mut socket| async move {
        while told.recv().await.is_ok() {
            let text = json!({ "type": "distributed/read", "reason": "live-1" }).to_string();
            if socket.send(Message::Text(text.into())).await.is_err() {
                return;
            }
        }
    })
}

impl Server {
    async fn start() -> Self {
        let script = Arc::new(Script {
            seen: watch::channel(Vec::new()).0,
            instead: Mutex::default(),
            queries: Mutex::new(json!({})),
            capabilities: Mutex::new(""),
            tell: broadcast::channel(4).0,
        });
        let app = Router::new()
            .route("/api/fleet/orbit/muster_notify", get(notify))
            .fallback(answer)
            .with_state(Arc::clone(&script));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { script, url }
    }

    fn instead(&self, path: &'static str, status: u16, body: Value) {
        self.script
            .instead
            .lock()
            .unwrap()
            .push((path, status, body));
    }

    fn ask(&self, queries: Value) {
        *self.script.queries.lock().unwrap() = queries;
    }

    /// Waits until the requests so far are as wanted, and gives them.
    async fn until(&self, what: &str, wanted: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let mut seen = self.script.seen.subscribe();
        let done = tokio::time::timeout(PATIENCE, async {
            seen.wait_for(|seen| wanted(seen)).await.unwrap().clone()
        });
        done.await.unwrap_or_else(|_| {
            let seen: Vec<_> = self
                .script
                .seen
                .borrow()
                .iter()
                .map(|seen| seen.path.clone())
                .collect();
            panic!("the agent did not do it: {what}; it asked {seen:?}")
        })
    }
}

fn count(seen: &[Seen], path: &str) -> usize {
    seen.iter().filter(|seen| seen.path.ends_with(path)).count()
}

/// An agent that is ended when the value goes.
struct Agent(Child);

impl Agent {
    fn start(server: &Server, folder: &Path) -> Self {
        let token = folder.join("token");
        std::fs::write(&token, "the-token\n").unwrap();
        let child = program()
            .args(["run", "--server", &server.url])
            .arg("--enrollment-token-file")
            .arg(&token)
            .arg("--data-dir")
            .arg(folder.join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Ends it as a service manager would; gives what it logged.
    fn stop(mut self) -> String {
        use std::io::Read as _;
        let pid = self.0.id().to_string();
        std::process::Command::new("kill")
            .arg(pid)
            .status()
            .unwrap();
        let mut log = String::new();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        assert!(self.0.wait().unwrap().success(), "{log}");
        log
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_enrolls_once_answers_and_keeps_its_keys_over_a_restart() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    server.ask(json!({ "fleet_distributed_query_1": "SELECT 7 AS seven", "broken": "SELECT * FROM nowhere" }));
    let agent = Agent::start(&server, folder.path());
    let seen = server
        .until("an answer", |seen| count(seen, "distributed/write") == 1)
        .await;
    let enroll = seen
        .iter()
        .find(|seen| seen.path.ends_with("osquery/enroll"))
        .unwrap();
    assert_eq!(enroll.body["enroll_secret"], "the-token");
    assert!(enroll.body["host_details"]["os_version"]["name"].is_string());
    assert!(!enroll.body["host_identifier"].as_str().unwrap().is_empty());
    let orbit = seen
        .iter()
        .find(|seen| seen.path.ends_with("orbit/enroll"))
        .unwrap();
    assert_eq!(orbit.body["hardware_uuid"], enroll.body["host_identifier"]);
    assert_eq!(orbit.capabilities, "muster_notify");
    let written = seen
        .iter()
        .find(|seen| seen.path.ends_with("distributed/write"))
        .unwrap();
    assert_eq!(
        written.body["queries"]["fleet_distributed_query_1"],
        json!([{ "seven": "7" }])
    );
    assert_eq!(
        written.body["statuses"],
        json!({ "fleet_distributed_query_1": 0, "broken": 1 })
    );
    assert!(
        written.body["messages"]["broken"]
            .as_str()
            .unwrap()
            .contains("no such table")
    );
    let mode = std::fs::metadata(folder.path().join("data/keys.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let log = agent.stop();
    assert!(
        !log.contains("the-token") && !log.contains("node-key"),
        "{log}"
    );
    let before = server.script.seen.borrow().len();
    let _agent = Agent::start(&server, folder.path());
    let seen = server
        .until("a read", |seen| {
            count(&seen[before.min(seen.len())..], "distributed/read") > 0
        })
        .await;
    assert_eq!(
        (count(&seen, "osquery/enroll"), count(&seen, "orbit/enroll")),
        (1, 1),
        "it had its keys"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_is_given_up_and_a_fault_is_not_taken_for_a_refusal() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    server.instead(
        "osquery/config",
        503,
        json!({ "error": "the database is away" }),
    );
    server.instead(
        "distributed/read",
        401,
        json!({ "message": "a proxy wants a password" }),
    );
    let _agent = Agent::start(&server, folder.path());
    let reads = |number: usize| move |seen: &[Seen]| count(seen, "distributed/read") >= number;
    let seen = server.until("to go on after faults", reads(3)).await;
    assert_eq!(
        (count(&seen, "osquery/enroll"), count(&seen, "orbit/enroll")),
        (1, 1)
    );
    server.instead(
        "distributed/read",
        401,
        json!({ "error": "invalid node key", "node_invalid": true }),
    );
    server
        .until("to enroll again", |seen| count(seen, "osquery/enroll") == 2)
        .await;
    let seen = server.until("to go on", reads(5)).await;
    assert_eq!(
        count(&seen, "orbit/enroll"),
        1,
        "orbit's key was not refused"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_sent_until_the_server_takes_them() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    for _ in 0..2 {
        server.instead(
            "distributed/write",
            503,
            json!({ "error": "the database is away" }),
        );
    }
    server.ask(json!({ "fleet_distributed_query_1": "SELECT 7 AS seven" }));
    let _agent = Agent::start(&server, folder.path());
    let seen = server
        .until("to send it again", |seen| {
            count(seen, "distributed/write") == 3
        })
        .await;
    let written: Vec<_> = seen
        .iter()
        .filter(|seen| seen.path.ends_with("distributed/write"))
        .collect();
    assert!(written.iter().all(|seen| seen.body == written[0].body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_told_once_and_the_agent_slows_down() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    for _ in 0..20 {
        server.instead(
            "orbit/enroll",
            401,
            json!({ "message": "Authentication required", "errors": [{ "name": "base", "reason": "x" }] }),
        );
        server.instead(
            "osquery/enroll",
            401,
            json!({ "error": "enroll failed", "node_invalid": true }),
        );
    }
    let agent = Agent::start(&server, folder.path());
    server
        .until("to try", |seen| count(seen, "osquery/enroll") >= 1)
        .await;
    server
        .until("to try again, later", |seen| {
            count(seen, "osquery/enroll") >= 2
        })
        .await;
    let log = agent.stop();
    assert_eq!(log.matches("refused; trying again").count(), 1, "{log}");
    assert!(!log.contains("the-token"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_same_folder_says_what_to_do_and_ends() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let _first = Agent::start(&server, folder.path());
    server
        .until("to enroll", |seen| count(seen, "osquery/enroll") == 1)
        .await;
    let mut second = Agent::start(&server, folder.path());
    let ended = tokio::task::spawn_blocking(move || {
        use std::io::Read as _;
        let mut said = String::new();
        let mut stderr = second.0.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (second.0.wait().unwrap(), said)
    });
    let (status, said) = ended.await.unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("another muster-agent uses the data folder"),
        "{said}"
    );
    assert!(said.contains("--data-dir"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_once_when_it_begins_and_once_when_it_is_over() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    for _ in 0..3 {
        server.instead(
            "distributed/read",
            503,
            json!({ "error": "the database is away" }),
        );
    }
    let agent = Agent::start(&server, folder.path());
    server
        .until("to ask until it is answered", |seen| {
            count(seen, "distributed/read") >= 5
        })
        .await;
    let log = agent.stop();
    let told = |what: &str| log.matches(what).count();
    assert_eq!(told("the server could not be asked"), 1, "{log}");
    assert_eq!(told("the server answers again failures=3"), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_offers_the_socket_has_its_questions_answered_at_once() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    *server.script.capabilities.lock().unwrap() = "orbit_endpoints,muster_notify";
    // So seldom that only the socket can make it ask within the test's patience.
    for _ in 0..50 {
        server.instead(
            "osquery/config",
            200,
            json!({ "options": { "distributed_interval": 3600 } }),
        );
    }
    let _agent = Agent::start(&server, folder.path());
    let seen = server
        .until("to open the socket", |seen| count(seen, "socket") == 1)
        .await;
    let socket = seen.iter().find(|seen| seen.path == "socket").unwrap();
    assert_eq!(socket.body["authorization"], "NodeKey orbit-key");
    server
        .until("the first read", |seen| {
            count(seen, "distributed/read") >= 1
        })
        .await;
    server.ask(json!({ "fleet_distributed_query_9": "SELECT 9 AS nine" }));
    while server.script.tell.send(()).is_err() {
        tokio::task::yield_now().await;
    }
    let seen = server
        .until("an answer", |seen| count(seen, "distributed/write") == 1)
        .await;
    assert_eq!(
        seen.last().unwrap().body["queries"]["fleet_distributed_query_9"],
        json!([{ "nine": "9" }])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_orbits_api_is_served_by_osquerys_alone() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    server.instead("orbit/enroll", 404, json!("404 page not found"));
    let _agent = Agent::start(&server, folder.path());
    let seen = server
        .until("to ask", |seen| count(seen, "distributed/read") >= 2)
        .await;
    assert_eq!(
        (
            count(&seen, "orbit/enroll"),
            count(&seen, "orbit/config"),
            count(&seen, "socket")
        ),
        (1, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_osquery_alone_is_enough() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let errors = json!([{ "name": "base", "reason": "Authentication required" }]);
    let refusal = json!({ "message": "Authentication required", "errors": errors });
    server.instead("orbit/enroll", 401, refusal);
    server.ask(json!({ "fleet_distributed_query_1": "SELECT 7 AS seven" }));
    let _agent = Agent::start(&server, folder.path());
    let seen = server
        .until("an answer", |seen| count(seen, "distributed/write") == 1)
        .await;
    assert_eq!(
        (count(&seen, "orbit/enroll"), count(&seen, "orbit/config")),
        (1, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_the_server_refuses_does_not_take_others_with_it() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let too_large = json!({ "error": "the body is larger than 5 MiB" });
    for _ in 0..2 {
        server.instead("distributed/write", 413, too_large.clone());
    }
    server.ask(json!({ "a": "SELECT 7 AS seven", "b": "SELECT 8 AS eight" }));
    let _agent = Agent::start(&server, folder.path());
    let seen = server
        .until("every answer", |seen| count(seen, "distributed/write") == 4)
        .await;
    let written: Vec<&Value> = seen
        .iter()
        .filter(|seen| seen.path.ends_with("distributed/write"))
        .map(|seen| &seen.body)
        .collect();
    // Both, the first alone, the reason in its place, the second.
    assert_eq!(written[0]["queries"].as_object().unwrap().len(), 2);
    assert_eq!(written[1]["queries"], json!({ "a": [{ "seven": "7" }] }));
    assert_eq!(
        (&written[2]["statuses"]["a"], &written[2]["queries"]["a"]),
        (&json!(1), &json!([]))
    );
    let message = written[2]["messages"]["a"].as_str().unwrap();
    assert!(
        message.contains("413") && message.contains("larger"),
        "{message}"
    );
    assert_eq!(written[3]["queries"], json!({ "b": [{ "eight": "8" }] }));
}
