//! The alerts and the dashboard that operators are given, and the log that they read.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use muster_store::Dialect;
use muster_store::testing::TestDatabase;
use serde_json::{Value, json};

use crate::program::{Program, plain};
use crate::site::{Site, until};

fn monitoring(name: &str) -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/monitoring"
    ))
    .join(name)
}

/// Runs `promtool`, which has to be content.
fn promtool(arguments: &[&str], file: &str) {
    let mut promtool = Command::new("promtool");
    let output = promtool.args(arguments).arg(monitoring(file)).output();
    let output = output.expect("promtool is installed (Debian package prometheus)");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{file}: {said}");
}

/// The names of our metrics in a text, as it is written there.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split(|character| !is_part(character))
        .filter(|word| word.starts_with("muster_") && word.len() > "muster_".len())
        .map(str::to_owned)
        .collect()
}

/// Every expression in the dashboard, with the place it stands in.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array();
        assert!(
            panel["type"] == "row" || targets.is_some_and(|targets| !targets.is_empty()),
            "{title}"
        );
        for target in targets.into_iter().flatten() {
            found.push((
                title.to_owned(),
                target["expr"].as_str().unwrap().to_owned(),
            ));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        found.push((
            "annotation".to_owned(),
            annotation["expr"].as_str().unwrap().to_owned(),
        ));
    }
    found
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(monitoring("grafana-dashboard.json")).unwrap())
        .unwrap()
}

#[test]
fn promtool_accepts_the_alerts_their_tests_and_every_expression_of_the_dashboard() {
    promtool(&["check", "rules"], "muster.rules.yml");
    promtool(&["test", "rules"], "muster.rules.test.yml");
    promtool(&["check", "config", "--syntax-only"], "prometheus.yml");
    let rules = fs::read_to_string(monitoring("muster.rules.yml")).unwrap();
    let tests = fs::read_to_string(monitoring("muster.rules.test.yml")).unwrap();
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        assert!(
            tests.contains(&format!("alertname: {alert}\n")),
            "{alert} is not tested"
        );
    }
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(
            ids.insert(panel["id"].as_i64().unwrap()),
            "two panels have one number: {panel}"
        );
        let place = &panel["gridPos"];
        assert!(
            place["x"].as_i64().unwrap() + place["w"].as_i64().unwrap() <= 24,
            "{panel}"
        );
    }
    let rules: Vec<Value> = expressions(&dashboard)
        .into_iter()
        .enumerate()
        .map(|(number, (_, expression))| {
            let expression = expression
                .replace("$__rate_interval", "5m")
                .replace("$instance", ".*");
            json!({ "record": format!("dashboard:{number}"), "expr": expression })
        })
        .collect();
    // JSON is YAML.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    fs::write(&file, groups.to_string()).unwrap();
    promtool(&["check", "rules"], file.to_str().unwrap());
}

#[tokio::test]
async fn every_metric_that_alerts_and_dashboard_name_is_there() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let folder = tempfile::tempdir().unwrap();
    // With TLS, for the certificate's end.
    let mut command = crate::program::command(folder.path());
    let program = Program::start(command.env("MUSTER_DATABASE_URL", db.address()));
    let authority = fs::read(folder.path().join("tls/ca.pem")).unwrap();
    let authority = reqwest::Certificate::from_pem(&authority).unwrap();
    let http = reqwest::Client::builder()
        .tls_certs_only([authority])
        .build()
        .unwrap();
    let base = format!("https://localhost:{}", program.address.port());
    let site = Site::set_up(http, base, program.setup_link()).await;
    let key = site.enroll(&site.secret("office").await, "a").await;
    site.asked(&key).await;
    let wrong = json!({ "enroll_secret": "wrong", "host_identifier": "b" });
    assert_eq!(site.agent("/api/osquery/enroll", &wrong).await.status, 401);
    crate::collectors::come(&site).await;
    let mut named_there = named(&fs::read_to_string(monitoring("muster.rules.yml")).unwrap());
    for (_, expression) in expressions(&dashboard()) {
        named_there.extend(named(&expression));
    }
    assert!(named_there.len() > 25, "{named_there:?}");
    let metrics = async || site.get("/metrics").await.body.as_str().unwrap().to_owned();
    until("all are there", async || {
        let there = named(&metrics().await);
        named_there.iter().all(|name| there.contains(name))
    })
    .await;
    let text = metrics().await;
    // A host that is asked after the count is counted by the next one.
    for known in [
        "muster_hosts{status=\"missing\"} 0",
        "muster_enrollment_refusals_total{reason=\"unknown\"} 1",
        "muster_refusals_total{reason=\"unauthenticated\"} 2",
        "muster_database_wait_seconds_count",
        "muster_queue_max_bytes{queue=\"host_logs\"} 67108864",
    ] {
        assert!(text.contains(known), "{known} is not in {text}");
    }
    program.terminate();
    assert!(program.wait().success());
}

#[tokio::test]
async fn the_id_of_a_request_is_that_of_a_trusted_proxy_and_stands_in_every_line_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let http = reqwest::Client::new();
    let ask = async |program: &Program, id: &str| {
        let body = json!({ "enroll_secret": "wrong", "host_identifier": "b" }).to_string();
        let request = http.post(format!("{}/api/osquery/enroll", program.base()));
        let response = request
            .header("x-request-id", id)
            .body(body)
            .send()
            .await
            .unwrap();
        response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let (program, log) = logging(&folder.path().join("trusting"), "debug", "127.0.0.1");
    assert_eq!(ask(&program, "proxy-7").await, "proxy-7");
    assert_ne!(ask(&program, "two words").await, "two words");
    program.terminate();
    assert!(program.wait().success());
    assert_eq!(
        messages(log, "proxy-7"),
        ["refused an enrollment", "answered"]
    );

    // Whom it does not trust it believes no id, and a log that is told little has it nevertheless.
    let (program, log) = logging(&folder.path().join("wary"), "error,muster_hosts=info", "");
    let id = ask(&program, "anybody").await;
    assert_ne!(id, "anybody");
    program.terminate();
    assert!(program.wait().success());
    assert_eq!(messages(log, &id), ["refused an enrollment"]);
}

type Log = std::thread::JoinHandle<Vec<String>>;

/// A server that logs JSON.
fn logging(data: &Path, level: &str, proxies: &str) -> (Program, Log) {
    let database = data.with_extension("db");
    let mut command = plain(data, database.to_str().unwrap());
    command
        .env("MUSTER_LOG_FORMAT", "json")
        .env("MUSTER_LOG_LEVEL", level)
        .env("MUSTER_TRUSTED_PROXIES", proxies)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let log = std::thread::spawn(move || lines.map_while(Result::ok).collect());
    (Program::greeted(child), log)
}

/// What the log says of a request.
fn messages(log: Log, id: &str) -> Vec<String> {
    let mut seen = Vec::new();
    for line in log.join().unwrap() {
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
        if line["span"]["request.id"] == id {
            seen.push(line["fields"]["message"].as_str().unwrap().to_owned());
        }
    }
    seen
}
