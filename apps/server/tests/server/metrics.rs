//! What the server tells of itself in numbers.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use muster_store::testing::on_both_databases;
use serde_json::json;

use crate::program::{Program, plain};
use crate::site::Site;
use crate::{client, running, url};

/// Every label that a metric may have. What a label says must never grow with the number of hosts.
const LABELS: [&str; 15] = [
    "route",
    "method",
    "status",
    "release",
    "carrier",
    "le",
    "reason",
    "queue",
    "operation",
    "state",
    "folder",
    "class",
    "standing",
    "key",
    "what",
];
/// How many times a host asks in vain.
const READS: u64 = 500;
/// How many statements the server may run meanwhile by itself, some each second, on a machine that is busy with other
/// tests: presence, last uses, campaigns. Far fewer than one for each time.
const BACKGROUND: u64 = READS / 4;

/// What `promtool` finds fault with.
fn faults(text: &str) -> String {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian package prometheus)");
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said
}

/// The names of the labels.
fn labels(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lists = lines.filter_map(|line| Some(line.split_once('{')?.1.rsplit_once('}')?.0));
    let names = lists.flat_map(|list| {
        list.split("\",")
            .filter_map(|label| label.split('=').next())
    });
    names.collect()
}

fn value(text: &str, name: &str) -> u64 {
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in {text}"))
}

on_both_databases! {
    async fn metrics_pass_promtool_and_name_no_host_and_no_secret(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let server = running(folder.path(), &[("database.url", db.address())]).await;
        let link = server.setup_link.clone().unwrap();
        let site = Site::set_up(client(&server), url(&server, ""), &link).await;
        let secret = site.secret("office").await;
        let uuid = "4c4c4544-0043-3010-8052-b7c04f4e3799";
        let key = site.enroll(&secret, uuid).await;
        let orbit = json!({ "enroll_secret": secret, "hardware_uuid": uuid, "platform": "ubuntu" });
        let orbit = site.agent("/api/fleet/orbit/enroll", &orbit).await.body["orbit_node_key"].clone();
        let token = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let register = json!({ "orbit_node_key": orbit, "device_auth_token": token });
        assert_eq!(site.agent("/api/fleet/orbit/device_token", &register).await.status, 200);
        assert_eq!(site.get(&format!("/api/latest/fleet/device/{token}/desktop")).await.status, 200);
        assert_eq!(site.get(&format!("/api/latest/fleet/hosts/identifier/{uuid}")).await.status, 200);
        assert!(!site.asked(&key).await.is_empty());
        assert_eq!(site.log(&key, "pack/Global/secret-plan").await.status, 200);
        let unknown = "/api/latest/fleet/hosts/770017700177001";
        for path in ["/healthz", "/nowhere", "/setup?token=hunter2", "/api/osquery/hunter2", unknown] {
            site.get(path).await;
        }
        let text = site.get("/metrics").await.body.as_str().unwrap().to_owned();
        for known in [
            "muster_http_requests_total{route=\"/healthz\",method=\"GET\",status=\"2xx\"}",
            "route=\"/api/latest/fleet/device/{token}/desktop\"",
            "muster_check_ins_total",
            "muster_database_statements_total",
        ] {
            assert!(text.contains(known), "{known} is not in {text}");
        }
        let orbit = orbit.as_str().unwrap();
        let token_of_link = link.split("token=").nth(1).unwrap();
        for private in [
            uuid, &secret, &key, orbit, token, token_of_link, "hunter2", "770017700177001", "/nowhere", "secret-plan", "office",
            "ann@example.com", "mst_",
        ] {
            assert!(!text.contains(private), "{private} is in {text}");
        }
        let unknown: Vec<_> = labels(&text).into_iter().filter(|label| !LABELS.contains(label)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!(faults(&text), "", "{text}");
        server.shut_down().await;
    }

    // As a process of its own: the counters of several servers in one process are one.
    async fn a_host_that_asks_in_vain_costs_no_statement(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(&mut plain(folder.path(), db.address()));
        let site = Site::set_up(reqwest::Client::new(), program.base(), program.setup_link()).await;
        let key = site.enroll(&site.secret("all").await, "a").await;
        let asked = site.asked(&key).await;
        let answers = asked.keys().map(|name| (name.clone(), json!([]))).collect();
        assert_eq!(site.answer(&key, answers).await.status, 200);
        assert!(site.asked(&key).await.is_empty());
        let statements = async || {
            let text = site.get("/metrics").await.body.as_str().unwrap().to_owned();
            (value(&text, "muster_database_statements_total "), value(&text, "muster_check_ins_total "))
        };
        let (before, checked_in) = statements().await;
        for _ in 0..READS {
            assert!(site.asked(&key).await.is_empty());
        }
        let (after, now) = statements().await;
        assert_eq!(now - checked_in, READS);
        assert!(after - before < BACKGROUND, "{} statements", after - before);
        program.terminate();
        assert!(program.wait().success());
    }
}

#[tokio::test]
async fn metrics_are_for_whom_the_operator_says() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[("metrics.access", "nobody")]).await;
    let asked = client(&server).get(url(&server, "/metrics")).send().await;
    assert_eq!(asked.unwrap().status(), 404);
    server.shut_down().await;
}

#[tokio::test]
async fn behind_a_proxy_nobody_is_on_this_machine_and_only_one_header_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let more = [("tls.enabled", "false"), ("trusted_proxies", "127.0.0.1")];
    let server = running(folder.path(), &more).await;
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = reqwest::Client::new().get(format!("http://{}/metrics", server.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(
        ask(&[]).await,
        200,
        "without a proxy's header it is this machine"
    );
    for headers in [
        &[("x-forwarded-for", "192.0.2.1")][..],
        &[("x-forwarded-for", "127.0.0.1")],
        &[
            ("x-forwarded-for", "192.0.2.1"),
            ("true-client-ip", "127.0.0.1"),
        ],
        &[("x-forwarded-for", "192.0.2.1"), ("x-real-ip", "127.0.0.1")],
    ] {
        assert_eq!(ask(headers).await, 404, "{headers:?}");
    }
    server.shut_down().await;
}
