//! Collectors and the hosts that they run on, and where they send telemetry about themselves.

use muster_wire_opamp::proto::KeyValue;
use serde_json::Value;

use super::{Agent, lines, token};
use crate::real::Server;

/// The id of a host that enrolls by osquery.
pub(super) async fn host(server: &Server, secret: &str, uuid: &str, name: &str) -> i64 {
    let enroll = serde_json::json!({
        "enroll_secret": secret, "host_identifier": uuid, "platform_type": "9",
        "host_details": { "os_version": { "platform": "debian", "name": "Debian" },
                          "system_info": { "uuid": uuid, "hostname": name } },
    });
    let url = format!("{}/api/osquery/enroll", server.url());
    let answer = server.client().post(url).body(enroll.to_string());
    assert_eq!(answer.send().await.unwrap().status(), 200);
    let shown = server.run(&["host", name, "--json"]).await.ok().stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    shown["id"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_and_its_host_name_each_other_and_people_decide() {
    let server = Server::start().await;
    server.log_in().await;
    let secret = server.run(&["tokens", "create", "--name", "hosts"]).await;
    let secret = secret.ok().stdout.trim().to_owned();
    let uuid = "4c4c4544-0042-3510-8052-b4c04f564231";
    let web = host(&server, &secret, uuid, "web-1").await;
    let other = host(
        &server,
        &secret,
        "4c4c4544-0043-3010-8052-b7c04f4e3732",
        "web-2",
    )
    .await;
    let token = token(&server, &[]).await;
    let mut agent = Agent::new(&server, &token, 0x21, "otelcol", "web-2");
    let mut status = agent.status();
    let attributes = status.agent_description.as_mut().unwrap();
    let id = KeyValue::text("host.id", uuid.replace('-', ""));
    attributes.non_identifying_attributes.push(id);
    agent.send(status).await.unwrap();
    let linked = async || {
        let listed = lines(&server, &["collectors", "--host", "web-1"]).await;
        listed.len() == 1 && listed[0]["host_id"] == web
    };
    for _ in 0..400 {
        if linked().await {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(linked().await, "it is linked by itself");
    let shown = server.run(&["collector", "otelcol"]).await.ok().stdout;
    assert!(
        shown.contains(&format!("{web} (web-1), by host.id=4c4c4544")),
        "{shown}"
    );
    let shown = server.run(&["host", "web-1"]).await.ok().stdout;
    assert!(
        shown.contains("\ncollectors:\n") && shown.contains("otelcol"),
        "{shown}"
    );
    let undone = server
        .run(&["collector", "otelcol", "--unlink-host"])
        .await
        .ok();
    assert!(
        undone.stderr.contains("is linked to no host"),
        "{}",
        undone.stderr
    );
    assert!(!linked().await);
    let suggested = async || {
        let listed = lines(&server, &["collectors", "--host-link", "suggested"]).await;
        listed.len() == 1
    };
    for _ in 0..400 {
        if suggested().await {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let shown = server.run(&["collector", "otelcol"]).await.ok().stdout;
    assert!(
        shown.contains(&format!(
            "may run on host   {other} (web-2), by host.name=web-2"
        )),
        "{shown}"
    );
    let confirm = ["collector", "otelcol", "--confirm-host", "web-2"];
    let confirmed = server.run(&confirm).await.ok();
    assert!(
        confirmed.stderr.contains("is linked to host 2"),
        "{}",
        confirmed.stderr
    );
    server
        .run(&["collector", "otelcol", "--link-host", "web-1"])
        .await
        .ok();
    assert!(linked().await);
    let refused = server
        .run(&["collector", "otelcol", "--reject-host", "web-2"])
        .await;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("neither suggested"),
        "{}",
        refused.stderr
    );
    let unknown = server
        .run(&["collector", "otelcol", "--link-host", "nobody"])
        .await;
    assert_eq!(unknown.code, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_collectors_send_their_own_telemetry_is_set_shown_and_deleted() {
    let server = Server::start().await;
    server.log_in().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "Bearer hunter2\n").unwrap();
    let header = format!("Authorization: @{}", file.display());
    let metrics = "https://otel.example.com/v1/metrics";
    let set = [
        "collector-telemetry",
        "set",
        "backend",
        "--metrics",
        metrics,
        "--header",
        &header,
    ];
    let made = server.run(&set).await.ok().stdout;
    assert!(
        made.contains(&format!("{metrics} with Authorization")),
        "{made}"
    );
    assert!(!made.contains("hunter2"));
    let logs = "https://otel.example.com/v1/logs";
    let more = [
        "collector-telemetry",
        "set",
        "backend",
        "--logs",
        logs,
        "--selector",
        "os.type=linux",
        "--json",
    ];
    let changed: Value = serde_json::from_str(&server.run(&more).await.ok().stdout).unwrap();
    assert_eq!(changed["metrics"]["headers"]["Authorization"], "[MASKED]");
    assert_eq!(
        (&changed["selector"], &changed["logs"]["endpoint"]),
        (&"os.type=linux".into(), &logs.into())
    );
    let token = token(&server, &[]).await;
    let mut agent = Agent::new(&server, &token, 0x31, "otelcol", "box-1").with(0x40);
    let mut offered = None;
    for _ in 0..50 {
        let answer = agent.report().await.unwrap();
        offered = answer
            .connection_settings
            .and_then(|settings| settings.own_metrics);
        if offered.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let offered = offered.expect("it is offered where its metrics go");
    assert_eq!(offered.destination_endpoint, metrics);
    assert_eq!(
        offered.headers.unwrap().headers[0].value,
        "Bearer hunter2",
        "the mask kept the value"
    );
    let shown = server.run(&["collector", "otelcol"]).await.ok().stdout;
    assert!(shown.contains("metrics by `backend`: offered"), "{shown}");
    let listed = server
        .run(&["collector-telemetry", "--csv"])
        .await
        .ok()
        .stdout;
    assert!(
        listed.contains(&format!("backend,,os.type=linux,0,{metrics},,{logs}")),
        "{listed}"
    );
    let wrong = server
        .run(&[
            "collector-telemetry",
            "set",
            "backend",
            "--metrics",
            "otel:4318",
        ])
        .await;
    assert!(
        wrong.code == Some(1) && wrong.stderr.contains("whole URL"),
        "{}",
        wrong.stderr
    );
    let wrong = server
        .run(&[
            "collector-telemetry",
            "set",
            "backend",
            "--header",
            "hunter2",
        ])
        .await;
    assert!(
        wrong.code == Some(1) && !wrong.stderr.contains("hunter2"),
        "{}",
        wrong.stderr
    );
    server
        .run(&["collector-telemetry", "delete", "backend"])
        .await
        .ok();
    let gone = server
        .run(&["collector-telemetry", "show", "backend"])
        .await;
    assert_eq!(gone.code, Some(1));
}
