//! Configurations of collectors, against the real server and an agent that polls it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use muster_wire_opamp::proto::{
    AgentDescription, AgentRemoteConfig, AgentToServer, ComponentHealth, KeyValue,
    RemoteConfigStatus, ServerToAgent,
};
use muster_wire_opamp::{AgentCapabilities, MessageLimit, decode_body, encode_body};
use serde_json::Value;

use crate::Run;
use crate::real::Server;

const APPLIED: i32 = 1;
const APPLYING: i32 = 2;
const FAILED: i32 = 3;

const GOOD: &str = "\
receivers:
  otlp: {protocols: {grpc: {}}}
exporters:
  debug: {verbosity: basic}
service:
  pipelines:
    logs: {receivers: [otlp], exporters: [debug]}
";

/// What a run printed, with what is different each time taken out.
fn shown(run: &Run) -> String {
    let mut text = String::new();
    for (name, output) in [("", &run.stdout), ("stderr: ", &run.stderr)] {
        for line in output.lines() {
            let words = line.split(' ').map(|word| {
                let is_time = word.len() >= 20 && word.starts_with("20") && word.ends_with('Z');
                if is_time { "TIME" } else { word }
            });
            let _ = writeln!(text, "{name}{}", words.collect::<Vec<_>>().join(" "));
        }
    }
    text
}

/// An agent that accepts remote configuration.
struct Agent<'a> {
    server: &'a Server,
    token: String,
    number: u64,
}

impl<'a> Agent<'a> {
    async fn enroll(server: &'a Server) -> Self {
        let create = [
            "tokens",
            "create",
            "--name",
            "collectors",
            "--family",
            "opamp",
        ];
        let token = server.run(&create).await.ok().stdout.trim().to_owned();
        let mut agent = Self {
            server,
            token,
            number: 0,
        };
        let said = AgentToServer {
            agent_description: Some(AgentDescription {
                identifying_attributes: vec![KeyValue::text("service.name", "otelcol")],
                non_identifying_attributes: vec![
                    KeyValue::text("host.name", "web-1"),
                    KeyValue::text("env", "prod"),
                ],
            }),
            health: Some(ComponentHealth {
                healthy: true,
                ..ComponentHealth::default()
            }),
            ..AgentToServer::default()
        };
        agent.say(said).await;
        agent
    }

    async fn say(&mut self, said: AgentToServer) -> ServerToAgent {
        let capabilities = AgentCapabilities::REPORTS_STATUS
            .union(AgentCapabilities::ACCEPTS_REMOTE_CONFIG)
            .union(AgentCapabilities::REPORTS_REMOTE_CONFIG)
            .union(AgentCapabilities::REPORTS_HEALTH);
        let said = AgentToServer {
            instance_uid: [7; 16].to_vec().into(),
            sequence_num: self.number,
            capabilities: capabilities.bits(),
            ..said
        };
        self.number += 1;
        let body = encode_body(&said, MessageLimit::default()).unwrap();
        let answer = self
            .server
            .client()
            .post(format!("{}/v1/opamp", self.server.url()))
            .header("content-type", "application/x-protobuf")
            .header("authorization", format!("Bearer {}", self.token))
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        decode_body(answer.bytes().await.unwrap(), MessageLimit::default()).unwrap()
    }

    async fn receive(&mut self) -> AgentRemoteConfig {
        for _ in 0..400 {
            if let Some(config) = self.say(AgentToServer::default()).await.remote_config {
                return config;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no configuration came");
    }

    /// Runs a configuration as a supervisor does, until it is seen to run well.
    async fn apply(&mut self, config: &AgentRemoteConfig) {
        let status = |status| RemoteConfigStatus {
            last_remote_config_hash: config.config_hash.clone(),
            status,
            ..RemoteConfigStatus::default()
        };
        for healthy in [false, true] {
            let said = AgentToServer {
                remote_config_status: Some(status(APPLYING)),
                health: Some(ComponentHealth {
                    healthy,
                    ..ComponentHealth::default()
                }),
                ..AgentToServer::default()
            };
            self.say(said).await;
        }
        let said = AgentToServer {
            remote_config_status: Some(status(APPLIED)),
            ..AgentToServer::default()
        };
        self.say(said).await;
        for _ in 0..400 {
            self.say(AgentToServer::default()).await;
            let seen = run(self.server, &["status", "--state", "in_sync", "--json"])
                .await
                .ok();
            if !seen.stdout.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("it is not in sync");
    }

    async fn fail(&mut self, config: &AgentRemoteConfig, why: &str) {
        let said = AgentToServer {
            remote_config_status: Some(RemoteConfigStatus {
                last_remote_config_hash: config.config_hash.clone(),
                status: FAILED,
                error_message: why.to_owned(),
            }),
            ..AgentToServer::default()
        };
        self.say(said).await;
    }
}

async fn run(server: &Server, arguments: &[&str]) -> Run {
    let mut line = vec!["collector-config"];
    line.extend(arguments);
    server.run(&line).await
}

/// A file in a folder; gives its path.
fn file(folder: &Path, name: &str, body: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, body).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_goes_from_a_file_to_a_collector_and_one_step_back() {
    let server = Server::start().await;
    server.log_in().await;
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "otelcol.yaml", GOOD);
    let mut agent = Agent::enroll(&server).await;
    let mut said = String::new();
    let mut step = async |arguments: &[&str]| {
        let run = run(&server, arguments).await.ok();
        let words: Vec<&str> = arguments
            .iter()
            .filter(|word| **word != path)
            .copied()
            .collect();
        let _ = writeln!(
            said,
            "$ muster collector-config {}\n{}",
            words.join(" "),
            shown(&run)
        );
    };
    let selector = "service.name=otelcol, env in (prod, staging)";
    step(&[
        "create",
        "gateway",
        &path,
        "--description",
        "at the edge",
        "--note",
        "first",
    ])
    .await;
    step(&["list"]).await;
    step(&["assign", "gateway", "--selector", selector, "--dry-run"]).await;
    step(&["assign", "gateway", "--selector", selector, "--soak", "5m"]).await;
    let config = agent.receive().await;
    assert_eq!(config.config.unwrap().config_map["otelcol.yaml"].body, GOOD);
    file(
        folder.path(),
        "otelcol.yaml",
        &GOOD.replace("basic", "detailed"),
    );
    step(&["push", "gateway", &path, "--note", "says more", "--apply"]).await;
    step(&["push", "gateway", &path]).await;
    step(&["diff", "gateway"]).await;
    // That a collector is on the way is not counted with its failure until it was looked at.
    let until_failed = async || {
        for _ in 0..400 {
            let failed = run(
                &server,
                &["status", "gateway", "--state", "failed", "--json"],
            )
            .await;
            let shown = run(&server, &["show", "gateway", "--json"])
                .await
                .ok()
                .stdout;
            let states: Value = serde_json::from_str(&shown).unwrap();
            if states["states"] == serde_json::json!({ "failed": 1 })
                && !failed.ok().stdout.is_empty()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it did not fail");
    };
    let config = agent.receive().await;
    agent
        .fail(&config, "cannot start pipelines: address in use")
        .await;
    until_failed().await;
    step(&["status", "gateway"]).await;
    step(&["status", "--collector", "web-1"]).await;
    step(&["rollback", "gateway"]).await;
    let config = agent.receive().await;
    assert_eq!(config.config.unwrap().config_map["otelcol.yaml"].body, GOOD);
    step(&["assignments"]).await;
    step(&[
        "edit-assignment",
        "1",
        "--version",
        "2",
        "--priority",
        "-5",
        "--pause",
    ])
    .await;
    until_failed().await;
    step(&["show", "gateway"]).await;
    step(&["show", "gateway", "--files", "--version", "1"]).await;
    step(&["unassign", "1"]).await;
    step(&["delete", "gateway"]).await;
    insta::assert_snapshot!(said);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_with_one_name_nothing_is_done_until_one_is_named() {
    let server = Server::start().await;
    server.log_in().await;
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "otelcol.yaml", GOOD);
    server.run(&["teams", "create", "Edge"]).await.ok();
    run(&server, &["create", "gateway", &path]).await.ok();
    run(&server, &["create", "gateway", &path, "--team", "Edge"])
        .await
        .ok();
    // The third is called as the id of the first.
    run(&server, &["create", "1", &path]).await.ok();
    let mut said = String::new();
    for arguments in [
        &["delete", "gateway"][..],
        &["delete", "gateway", "--team", "Edge"],
        &["delete", "Gateway"],
        &["list"],
        &["delete", "gateway", "--team", "none"],
        &["delete", "1"],
    ] {
        let run = run(&server, arguments).await;
        let _ = writeln!(
            said,
            "$ muster collector-config {}\n{}exit {}\n",
            arguments.join(" "),
            shown(&run),
            run.code.unwrap()
        );
    }
    insta::assert_snapshot!(said);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_read_what_became_of_each_command() {
    let server = Server::start().await;
    server.log_in().await;
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "otelcol.yaml", GOOD);
    let mut agent = Agent::enroll(&server).await;
    let json = async |arguments: &[&str]| -> Value {
        let mut line = arguments.to_vec();
        line.push("--json");
        let text = run(&server, &line).await.ok().stdout;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    };
    json(&["create", "gateway", &path]).await;
    let made = json(&[
        "assign",
        "gateway",
        "--selector",
        "env=prod",
        "--soak",
        "5s",
    ])
    .await;
    assert_eq!(made["soak_seconds"], 5);
    let edited = json(&["edit-assignment", "1", "--priority", "3"]).await;
    assert_eq!(edited["priority"], 3);
    let config = agent.receive().await;
    let seen = run(&server, &["status", "gateway", "--wait", "--timeout", "1s"]).await;
    assert_eq!(seen.code, Some(1));
    assert!(
        seen.stderr.contains("1 collector(s) are still on the way"),
        "{}",
        seen.stderr
    );
    agent.fail(&config, "address in use").await;
    let failed = run(&server, &["status", "gateway", "--wait", "--json"]).await;
    assert_eq!(failed.code, Some(1));
    let state: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!(
        (state["state"].as_str(), state["message"].as_str()),
        (Some("failed"), Some("address in use"))
    );
    assert!(
        failed.stderr.contains("it failed on 1 collector(s)"),
        "{}",
        failed.stderr
    );
    file(
        folder.path(),
        "otelcol.yaml",
        &GOOD.replace("basic", "normal"),
    );
    json(&["push", "gateway", &path, "--apply"]).await;
    // What was not looked at since is on the way, too.
    let config = agent.receive().await;
    agent.apply(&config).await;
    let waited = run(
        &server,
        &["status", "--assignment", "1", "--wait", "--json"],
    )
    .await
    .ok();
    let state: Value = serde_json::from_str(&waited.stdout).unwrap();
    assert_eq!(
        (&state["state"], &state["version"]),
        (&"in_sync".into(), &2.into())
    );
    let old = run(&server, &["push", "gateway", &path, "--base", "1"]).await;
    assert_eq!(old.code, Some(0), "they are the files of the newest");
    file(
        folder.path(),
        "otelcol.yaml",
        &GOOD.replace("basic", "detailed"),
    );
    let old = run(&server, &["push", "gateway", &path, "--base", "1"]).await;
    assert_eq!(old.code, Some(1));
    assert!(
        old.stderr
            .contains("the newest version is 2 now, and not 1"),
        "{}",
        old.stderr
    );
    let back = json(&["rollback", "gateway", "--from", "2"]).await;
    assert_eq!(
        (&back["from_version"], &back["version"]),
        (&2.into(), &1.into())
    );
    let again = run(&server, &["rollback", "gateway", "--from", "2"]).await;
    assert_eq!(again.code, Some(1));
    assert!(
        again.stderr.contains("assignment 1 on version 1"),
        "{}",
        again.stderr
    );
    assert_eq!(json(&["unassign", "1"]).await["deleted"], true);
    let renamed = server
        .run(&["collector", "web-1", "--restart", "--json"])
        .await;
    assert_eq!(
        renamed.code,
        Some(1),
        "it does not accept that: {}",
        renamed.stderr
    );
    let revoked = server
        .run(&["collector", "web-1", "--revoke", "lost", "--json"])
        .await
        .ok();
    let detail: Value = serde_json::from_str(&revoked.stdout).unwrap();
    assert_eq!(detail["standing"], "revoked");
    let rotations = server.run(&["keys", "rotations", "--json"]).await.ok();
    let last: Value = serde_json::from_str(rotations.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["family"], &last["waiting"]),
        (&"opamp".into(), &0.into())
    );
    let deleted = server
        .run(&["collector", "web-1", "--delete", "--json"])
        .await
        .ok();
    let deleted: Value = serde_json::from_str(&deleted.stdout).unwrap();
    assert_eq!(deleted["deleted"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_with_their_places_and_nothing_is_kept() {
    let server = Server::start().await;
    server.log_in().await;
    let folder = tempfile::tempdir().unwrap();
    let bad = file(
        folder.path(),
        "bad.yaml",
        &GOOD.replace("[otlp]", "[otlpp]").replace("[debug]", "[]"),
    );
    let good = file(folder.path(), "good.yaml", GOOD);
    let mut said = String::new();
    for arguments in [
        &["validate", &bad][..],
        &["create", "gateway", &bad],
        &["validate", &good],
        &["validate", &good, &good],
        &["validate", "/nowhere.yaml"],
        &["create", "gateway", &good, "--kind", "nonsense"],
        &["show", "gateway"],
        &["rollback"],
        &["assign", "gateway", "--selector", "*"],
        &["status", "--state", "fine"],
    ] {
        let run = run(&server, arguments).await;
        let text = shown(&run).replace(folder.path().to_str().unwrap(), "FOLDER");
        let words = arguments
            .join(" ")
            .replace(folder.path().to_str().unwrap(), "FOLDER");
        let _ = writeln!(
            said,
            "$ muster collector-config {words}\n{text}exit {}\n",
            run.code.unwrap()
        );
    }
    insta::assert_snapshot!(said);
    let listed = run(&server, &["list", "--json"]).await.ok();
    assert_eq!(listed.stdout, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_may_be_called_otherwise_and_come_from_standard_input() {
    let server = Server::start().await;
    server.log_in().await;
    let folder = tempfile::tempdir().unwrap();
    let (first, rest) = GOOD.split_once("exporters").unwrap();
    let first = file(folder.path(), "in.yaml", first);
    let line = [
        "collector-config",
        "create",
        "gateway",
        &format!("10-in={first}"),
        "-",
    ];
    server
        .run_with(&line, &format!("exporters{rest}"))
        .await
        .ok();
    let json = run(&server, &["show", "gateway", "--json"])
        .await
        .ok()
        .stdout;
    let shown: Value = serde_json::from_str(&json).unwrap();
    let names: Vec<&String> = shown["version"]["files"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(names, ["", "10-in"]);
    let other = file(folder.path(), "apm.json", "{\"logging_level\": \"debug\"}");
    run(
        &server,
        &[
            "create",
            "apps",
            &format!("elastic={other}"),
            "--kind",
            "other",
        ],
    )
    .await
    .ok();
    let json = run(&server, &["show", "apps", "--json"]).await.ok().stdout;
    assert!(
        json.contains("\"content_type\":\"application/json\""),
        "{json}"
    );
}
