//! Agents and operators against a whole server, over TLS.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use muster_server::start::Running;
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::site::{Site, until};
use crate::{client, running, url};

/// A server on this database that is set up.
pub(crate) async fn site(
    db: &muster_store::testing::TestDatabase,
    folder: &std::path::Path,
) -> (Running, Site) {
    let server = running(folder, &[("database.url", db.address())]).await;
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(client(&server), url(&server, ""), &link).await;
    (server, site)
}

on_both_databases! {
    async fn a_machine_enrolls_is_asked_answers_and_logs(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let secret = site.secret("all").await;
        let uuid = "4c4c4544-0043-3010-8052-b7c04f4e3732";
        let orbit = json!({ "enroll_secret": secret, "hardware_uuid": uuid, "platform": "ubuntu", "hostname": "web-1" });
        let orbit = site.agent("/api/fleet/orbit/enroll", &orbit).await;
        let orbit_key = orbit.body["orbit_node_key"].as_str().unwrap().to_owned();
        assert!(orbit.header("x-fleet-capabilities").unwrap().contains("orbit_endpoints"));
        let config = site.agent("/api/fleet/orbit/config", &json!({ "orbit_node_key": orbit_key })).await;
        assert_eq!(config.status, 200, "{config:?}");

        let key = site.enroll(&secret, uuid).await;
        let config = site.agent("/api/osquery/config", &json!({ "node_key": key })).await;
        assert!(config.body["options"]["distributed_interval"].is_number(), "{config:?}");
        let asked = site.asked(&key).await;
        let detail = asked.keys().find(|name| name.ends_with("system_info")).expect("details are due").clone();
        let rows = json!([{ "hostname": "web-1", "uuid": uuid, "computer_name": "Web 1", "physical_memory": "1024" }]);
        assert_eq!(site.answer(&key, json!({ detail: rows })).await.body, json!({}));
        let results = server.data_dir().join("logs/osquery_result.log");
        assert_eq!(site.log(&key, "pack/Global/usb").await.status, 200);
        let kept = std::fs::read_to_string(results).unwrap();
        assert!(kept.contains("pack/Global/usb"), "{kept}");

        // The question of an operator reaches the host at its next check-in, and its answer the operator.
        let question = json!({ "query": "SELECT 1 AS one", "target": { "all": true } });
        let campaign = site.post("/api/muster/campaigns", &question).await;
        assert_eq!(campaign.status, 201, "{campaign:?}");
        let id = campaign.body["id"].as_i64().unwrap();
        let asked = site.asked(&key).await;
        let name = asked.keys().find(|name| name.starts_with("fleet_distributed_query_")).unwrap().clone();
        assert_eq!(asked[&name], "SELECT 1 AS one");
        assert_eq!(site.answer(&key, json!({ name: [{ "one": "1" }] })).await.status, 200);
        let answers = site.get(&format!("/api/muster/campaigns/{id}/results")).await;
        let answers = answers.body["items"].as_array().cloned().unwrap_or_else(|| panic!("{answers:?}"));
        assert_eq!(answers.len(), 1, "orbit and osquery are one host");
        assert_eq!(answers[0]["rows"], json!([{ "one": "1" }]));
        server.shut_down().await;
    }

    async fn what_operators_set_reaches_agents(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let key = site.enroll(&site.secret("all").await, "a").await;
        let options = json!({ "options": { "config": { "options": { "distributed_interval": 77 } } } });
        let set = site.put("/api/muster/settings/agent-options", &options).await;
        assert_eq!(set.status, 200, "{set:?}");
        let config = site.agent("/api/osquery/config", &json!({ "node_key": key })).await;
        assert_eq!(config.body["options"]["distributed_interval"], 77, "{config:?}");
        let config = site.get("/api/latest/fleet/config").await;
        assert_eq!(config.body["server_settings"]["server_url"], json!(server.public_url));
        let chain = site.get("/api/latest/fleet/config/certificate").await;
        assert!(chain.body["certificate_chain"].as_str().unwrap().len() > 100);
        server.shut_down().await;
    }

    async fn a_restart_keeps_hosts_keys_and_logins(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, mut site) = site(&db, folder.path()).await;
        let key = site.enroll(&site.secret("all").await, "a").await;
        server.shut_down().await;
        let server = running(folder.path(), &[("database.url", db.address())]).await;
        site.base = url(&server, "");
        site.http = client(&server);
        assert!(!site.asked(&key).await.is_empty());
        assert_eq!(site.get("/api/muster/me").await.status, 200);
        server.shut_down().await;
    }
}

#[tokio::test]
async fn each_family_tells_in_its_own_shape_that_nothing_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(client(&server), url(&server, ""), &link).await;
    let nothing = site.get("/api/muster/nothing").await;
    assert_eq!(
        (nothing.status, &nothing.body["code"]),
        (404, &json!("not_found"))
    );
    let nothing = site.get("/api/latest/fleet/nothing").await;
    assert_eq!(nothing.body["message"], "Resource Not Found", "{nothing:?}");
    let nothing = site.get("/api/v1/osquery/nothing").await;
    assert!(nothing.body["error"].is_string() && nothing.body.get("node_invalid").is_none());
    let wrong = site.get("/api/osquery/config").await;
    assert_eq!(wrong.status, 405);
    assert!(wrong.body["error"].is_string(), "{wrong:?}");
    assert_eq!(wrong.header("allow"), Some("POST"));
    let wrong = site.post("/api/muster/me", &json!({})).await;
    assert_eq!(
        (wrong.status, &wrong.body["code"]),
        (405, &json!("method_not_allowed"))
    );
    assert!(
        wrong.header("x-request-id").is_some()
            && wrong.header("x-content-type-options") == Some("nosniff")
    );
    // A few routes exist in some versions only.
    for (path, status) in [
        ("/api/latest/fleet/global/policies", 404),
        ("/api/v1/fleet/policies", 404),
    ] {
        assert_eq!(site.get(path).await.status, status, "{path}");
    }
    server.shut_down().await;
}

#[tokio::test]
async fn an_older_release_that_is_played_says_only_what_it_knew() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[("emulate", "0.0.1")]).await;
    let ping = client(&server).head(url(&server, "/api/fleet/orbit/ping"));
    let ping = ping.send().await.unwrap();
    assert_eq!(ping.status(), 404, "orbit's API came with 0.1.0");
    assert!(!ping.headers().contains_key("x-fleet-capabilities"));
    server.shut_down().await;
    let server = running(folder.path(), &[]).await;
    let ping = client(&server).head(url(&server, "/api/fleet/orbit/ping"));
    let ping = ping.send().await.unwrap();
    let said = ping.headers()["x-fleet-capabilities"].to_str().unwrap();
    assert!(
        said.contains("token_rotation") && !said.contains(' '),
        "{said}"
    );
    server.shut_down().await;
}

#[tokio::test]
async fn a_socket_says_ask_now_and_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[("tls.enabled", "false")]).await;
    let base = format!("http://{}", server.address);
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(reqwest::Client::new(), base, &link).await;
    let secret = site.secret("all").await;
    let orbit = json!({ "enroll_secret": secret, "hardware_uuid": "a", "platform": "ubuntu" });
    let orbit = site.agent("/api/fleet/orbit/enroll", &orbit).await;
    let key = orbit.body["orbit_node_key"].as_str().unwrap();
    let address = format!("ws://{}/api/fleet/orbit/muster_notify", server.address);
    let mut request = address.into_client_request().unwrap();
    let proof = format!("NodeKey {key}").parse().unwrap();
    request.headers_mut().insert("authorization", proof);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let osquery = site.enroll(&secret, "a").await;
    assert!(!site.asked(&osquery).await.is_empty());
    let question = json!({ "query": "SELECT 1", "target": { "all": true } });
    let campaign = site.post("/api/muster/campaigns", &question).await.body;
    let said = loop {
        let message = socket.next().await.unwrap().unwrap();
        if let Ok(text) = message.into_text()
            && let Ok(said) = serde_json::from_str::<Value>(&text)
        {
            break said;
        }
    };
    assert_eq!(said["type"], "distributed/read");

    let stream = site
        .open(&format!("/api/muster/campaigns/{}/stream", campaign["id"]))
        .await;
    assert_eq!(stream.status(), 200);
    let start = Instant::now();
    server.shut_down().await;
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    while let Some(Ok(message)) = socket.next().await {
        assert!(!message.is_text(), "nothing more is asked: {message}");
    }
    assert!(
        stream.bytes().await.is_err(),
        "a reader is not told that it was all"
    );
}

#[tokio::test]
async fn files_of_logs_are_opened_again_after_somebody_renamed_them() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(client(&server), url(&server, ""), &link).await;
    let key = site.enroll(&site.secret("all").await, "a").await;
    let file = folder.path().join("logs/osquery_result.log");
    let renamed = folder.path().join("logs/elsewhere");
    assert_eq!(site.log(&key, "one").await.status, 200);
    std::fs::rename(&file, &renamed).unwrap();
    assert_eq!(site.log(&key, "two").await.status, 200);
    server.reload().await;
    assert_eq!(site.log(&key, "three").await.status, 200);
    let read = |path| std::fs::read_to_string(path).unwrap();
    assert!(read(&renamed).contains("two") && !read(&renamed).contains("three"));
    assert!(read(&file).contains("three"));
    server.shut_down().await;
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_a_restart_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    // Two authorities, each with a certificate for localhost.
    let mut authorities = Vec::new();
    for name in ["one", "two"] {
        let server = running(&folder.path().join(name), &[]).await;
        authorities.push(server.authority_pem.clone().unwrap());
        server.shut_down().await;
    }
    let (certificate, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    let install = |name: &str| {
        let from = folder.path().join(name).join("tls");
        std::fs::copy(from.join("server.pem"), &certificate).unwrap();
        std::fs::copy(from.join("server.key"), &key).unwrap();
    };
    let reaches = async |authority: &str, server: &Running| {
        let authority = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
        let http = reqwest::Client::builder()
            .tls_certs_only([authority])
            .build()
            .unwrap();
        http.get(url(server, "/version")).send().await.is_ok()
    };
    install("one");
    let files = [
        ("tls.certificate", certificate.to_str().unwrap()),
        ("tls.key", key.to_str().unwrap()),
    ];
    let server = running(&folder.path().join("data"), &files).await;
    assert!(reaches(&authorities[0], &server).await && !reaches(&authorities[1], &server).await);
    std::fs::write(&certificate, "nonsense").unwrap();
    server.reload().await;
    assert!(
        reaches(&authorities[0], &server).await,
        "the old one stays in force"
    );
    install("two");
    server.reload().await;
    assert!(reaches(&authorities[1], &server).await && !reaches(&authorities[0], &server).await);
    server.shut_down().await;
}

#[tokio::test]
async fn beyond_the_most_connections_clients_wait() {
    let folder = tempfile::tempdir().unwrap();
    let more = [("tls.enabled", "false"), ("max_connections", "1")];
    let server = running(folder.path(), &more).await;
    let held = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let address = format!("http://{}/version", server.address);
    let asking = tokio::spawn(reqwest::get(address));
    let waited = tokio::time::timeout(Duration::from_millis(300), async {
        until("an answer", || async { asking.is_finished() }).await;
    });
    assert!(waited.await.is_err(), "there is room for one");
    drop(held);
    assert_eq!(asking.await.unwrap().unwrap().status(), 200);
    server.shut_down().await;
}
