//! Against a server whose streams break off: what real ones do when they are updated.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Run, finish, muster};

/// What the server was asked, and how its stream goes.
struct Fake {
    streams: AtomicU64,
    after: Mutex<Vec<i64>>,
    created: Mutex<Vec<Value>>,
    cancelled: Notify,
    cancels: AtomicU64,
    script: Script,
}

#[derive(Clone, Copy, PartialEq)]
enum Script {
    /// Breaks off in the middle of a line, is away once, then ends well.
    Breaks,
    /// One host fails, one is offline.
    Fails,
    /// Two hosts answer, one is offline.
    Away,
    /// Answers one row and then nothing.
    Hangs,
}

fn campaign(status: &str, answered: u64, failed: u64) -> Value {
    json!({ "id": 7, "status": status, "result_rows": answered, "clipped": false,
        "hosts": { "targeted": 3, "online": 2, "answered": answered, "failed": failed,
            "offline": 3 - answered - failed, "awaited": 2 } })
}

fn answer(position: i64, host: &str) -> String {
    let result = json!({ "position": position, "host_id": position, "hostname": host, "display_name": host,
        "rows": [{ "pid": position.to_string() }], "mood": "fine" });
    format!("{}\n", json!({ "type": "result", "result": result }))
}

fn end(status: &str, answered: u64, failed: u64) -> String {
    format!(
        "{}\n",
        json!({ "type": "end", "campaign": campaign(status, answered, failed) })
    )
}

#[derive(serde::Deserialize)]
struct After {
    after: i64,
}

async fn follow(State(fake): State<Arc<Fake>>, Query(query): Query<After>) -> Response {
    fake.after.lock().unwrap().push(query.after);
    let number = fake.streams.fetch_add(1, Ordering::SeqCst);
    let first = answer(1, "web-1");
    match (fake.script, number) {
        (Script::Breaks, 0) => broken(&[first, "{\"type\":\"resu".to_owned()]),
        (Script::Breaks, 1) => {
            (StatusCode::SERVICE_UNAVAILABLE, "upstream is away").into_response()
        }
        // The first answer comes again, as from a server that counts otherwise.
        (Script::Breaks, _) => [
            first,
            "\n".to_owned(),
            answer(2, "web-2"),
            end("finished", 3, 0),
        ]
        .concat()
        .into_response(),
        (Script::Away, _) => [first, end("finished", 2, 0)].concat().into_response(),
        (Script::Fails, _) => [first, end("finished", 1, 1)].concat().into_response(),
        (Script::Hangs, _) => {
            let lines = stream::iter([Ok::<_, std::io::Error>(first)]).chain(stream::pending());
            Body::from_stream(lines).into_response()
        }
    }
}

/// Ends without the last line, as a server does that is stopped.
fn broken(lines: &[String]) -> Response {
    lines.concat().into_response()
}

async fn hosts() -> Json<Value> {
    Json(json!({ "total": 2, "items": [
        { "host_id": 2, "display_name": "db-1", "state": "failed", "reason": "no such table: x" },
        { "host_id": 3, "display_name": "old-1", "state": "offline", "reason": "last heard of in May" },
    ] }))
}

async fn serve(script: Script) -> (Arc<Fake>, String) {
    let fake = Arc::new(Fake {
        streams: AtomicU64::new(0),
        after: Mutex::default(),
        created: Mutex::default(),
        cancelled: Notify::new(),
        cancels: AtomicU64::new(0),
        script,
    });
    let create =
        async |State(fake): State<Arc<Fake>>, headers: HeaderMap, Json(body): Json<Value>| {
            assert_eq!(headers["muster-api-version"], "1");
            assert_eq!(headers["authorization"], "Bearer token");
            fake.created.lock().unwrap().push(body);
            (StatusCode::CREATED, Json(campaign("running", 0, 0)))
        };
    let cancel = async |State(fake): State<Arc<Fake>>| {
        fake.cancels.fetch_add(1, Ordering::SeqCst);
        fake.cancelled.notify_one();
        Json(campaign("cancelled", 1, 0))
    };
    let router = Router::new()
        .route("/prefix/api/muster/campaigns", post(create))
        .route("/prefix/api/muster/campaigns/7/stream", get(follow))
        .route("/prefix/api/muster/campaigns/7/cancel", post(cancel))
        .route("/prefix/api/muster/campaigns/7/hosts", get(hosts))
        .with_state(Arc::clone(&fake));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/prefix", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (fake, url)
}

fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = muster(std::path::Path::new("nowhere"), arguments);
    command
        .env("MUSTER_CLI_URL", url)
        .env("MUSTER_CLI_TOKEN", "token");
    command
}

async fn run(url: &str, arguments: &[&str]) -> Run {
    finish(command(url, arguments), "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_goes_on_without_losing_or_doubling_rows() {
    let (fake, url) = serve(Script::Breaks).await;
    let asked = run(
        &url,
        &[
            "query",
            "--all",
            "--label",
            "l",
            "--csv",
            "SELECT pid FROM processes",
        ],
    )
    .await
    .ok();
    assert_eq!(asked.stdout, "host,pid\r\nweb-1,1\r\nweb-2,2\r\n");
    assert_eq!(*fake.after.lock().unwrap(), [0, 1, 1]);
    let body = fake.created.lock().unwrap()[0].clone();
    assert_eq!(body["query"], "SELECT pid FROM processes");
    assert_eq!(
        body["target"],
        json!({ "all": true, "host_ids": [], "hosts": [], "labels": ["l"], "team_ids": [], "platforms": [] })
    );
    assert_eq!(fake.cancels.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_fail_are_listed_with_the_reason_and_the_exit_code_says_so() {
    let (_fake, url) = serve(Script::Fails).await;
    let asked = run(
        &url,
        &[
            "query", "--host", "web-1", "--host", "12", "--json", "SELECT 1",
        ],
    )
    .await;
    assert_eq!(asked.code, Some(3), "{}", asked.stderr);
    insta::assert_snapshot!(format!("{}--\n{}", asked.stdout, asked.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_host_is_listed_and_the_exit_code_says_that_not_all_answered() {
    let (_fake, url) = serve(Script::Away).await;
    let asked = run(&url, &["query", "--all", "--csv", "SELECT 1"]).await;
    assert_eq!(asked.code, Some(3), "{}", asked.stderr);
    assert_eq!(asked.stdout, "host,pid\r\nweb-1,1\r\n");
    let listed = "old-1: is offline: last heard of in May";
    assert!(asked.stderr.contains(listed), "{}", asked.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_time_is_over_the_missing_are_listed_and_nobody_else_is_asked() {
    let (fake, url) = serve(Script::Hangs).await;
    let asked = run(&url, &["query", "--all", "--timeout", "1s", "SELECT 1"]).await;
    assert_eq!(asked.code, Some(3), "{}", asked.stderr);
    assert!(
        asked.stderr.contains("db-1: failed: no such table: x"),
        "{}",
        asked.stderr
    );
    assert_eq!(fake.cancels.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_the_campaign_and_ends_with_130() {
    use std::io::{BufRead as _, BufReader};

    let (fake, url) = serve(Script::Hangs).await;
    let mut child = command(&url, &["query", "--all", "SELECT 1"])
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let ended = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.starts_with("HOST"), "{line}");
        let id = child.id().to_string();
        Command::new("kill").args(["-INT", &id]).status().unwrap();
        child.wait().unwrap()
    });
    fake.cancelled.notified().await;
    assert_eq!(ended.await.unwrap().code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_stops_the_campaign() {
    let (fake, url) = serve(Script::Hangs).await;
    let mut child = command(&url, &["query", "--all", "SELECT 1"])
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    fake.cancelled.notified().await;
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert_eq!(ended.await.unwrap().code(), Some(141));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_told_apart_from_ours() {
    let (_fake, url) = serve(Script::Breaks).await;
    let wrong = url.replace("prefix", "wrong");
    let asked = run(&wrong, &["teams"]).await;
    assert!(
        asked.stderr.contains("not Muster's API"),
        "{}",
        asked.stderr
    );
}
