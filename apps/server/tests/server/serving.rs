//! Servers started in this process.

use std::sync::Arc;
use std::time::Duration;

use muster_server::start::{Ambient, StartError, start};
use rustls::HandshakeKind;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{client, json, running, settings, url};

const PASSWORD: &str = "password123#";

#[tokio::test]
async fn an_empty_folder_becomes_a_server_that_keeps_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let http = client(&server);
    assert_eq!(
        http.get(url(&server, "/healthz"))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    let authority = server.authority_pem.clone();
    let link = server.setup_link.clone().unwrap();
    assert!(link.starts_with(&format!(
        "https://localhost:{}/setup?token=mst_setup_",
        server.address.port()
    )));
    let token = link.split("token=").nth(1).unwrap();
    let body =
        json!({ "token": token, "name": "Ann", "email": "ann@example.com", "password": PASSWORD });
    let response = http
        .post(url(&server, "/api/muster/setup"))
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["muster-api-version"], "1");
    let session = json(response).await["token"].as_str().unwrap().to_owned();
    let again = http
        .post(url(&server, "/api/muster/setup"))
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), 403, "the link works once");
    server.shut_down().await;

    let server = running(folder.path(), &[]).await;
    assert_eq!(server.authority_pem, authority);
    assert_eq!(server.setup_link, None);
    let me = client(&server)
        .get(url(&server, "/api/muster/me"))
        .bearer_auth(&session)
        .send()
        .await
        .unwrap();
    assert_eq!(
        json(me).await["email"],
        "ann@example.com",
        "sessions survive a restart"
    );
    server.shut_down().await;
}

#[tokio::test]
async fn the_setup_page_works_in_a_browser() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let http = client(&server);
    let link = server.setup_link.clone().unwrap();
    let page = http.get(&link).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(
        page.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("default-src 'none'")
    );
    assert!(page.text().await.unwrap().contains("<form method=\"post\""));
    let wrong = http
        .get(url(&server, "/setup?token=nope"))
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), 403);
    let token = link.split("token=").nth(1).unwrap();
    let form = |password: &str| {
        format!("token={token}&name=%3Cb%3EAnn&email=ann%40example.com&password={password}")
    };
    let post = |body: String| {
        let request = http.post(url(&server, "/setup")).body(body);
        request
            .header("content-type", "application/x-www-form-urlencoded")
            .send()
    };
    let short = post(form("short")).await.unwrap();
    assert_eq!(short.status(), 422);
    let text = short.text().await.unwrap();
    assert!(
        text.contains("at least 1 symbol")
            && text.contains("&lt;b&gt;Ann")
            && !text.contains("<b>"),
        "{text}"
    );
    let done = post(form("password123%23")).await.unwrap();
    assert_eq!(done.status(), 200);
    assert_eq!(http.get(&link).send().await.unwrap().status(), 410);
    server.shut_down().await;
}

#[tokio::test]
async fn both_http_versions_are_offered() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let response = client(&server)
        .get(url(&server, "/version"))
        .send()
        .await
        .unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    let version = json(response).await;
    assert_eq!(version["version"], "4.62.2");
    for key in [
        "branch",
        "revision",
        "go_version",
        "build_date",
        "build_user",
    ] {
        assert!(version[key].is_string(), "{key}");
    }
    let authority =
        reqwest::Certificate::from_pem(server.authority_pem.as_deref().unwrap().as_bytes())
            .unwrap();
    let old = reqwest::Client::builder()
        .tls_certs_only([authority])
        .http1_only()
        .build()
        .unwrap();
    let response = old.get(url(&server, "/version")).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_11);
    server.shut_down().await;
}

#[tokio::test]
async fn two_servers_do_not_share_a_folder_or_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let second = start(settings(folder.path(), &[]), Ambient::default())
        .await
        .err()
        .unwrap();
    assert!(matches!(second, StartError::InUse { .. }), "{second}");
    let other = tempfile::tempdir().unwrap();
    let address = server.address.to_string();
    let second = start(
        settings(other.path(), &[("listen", &address)]),
        Ambient::default(),
    )
    .await
    .err()
    .unwrap();
    assert!(second.to_string().contains("--listen"), "{second}");
    server.shut_down().await;
}

#[tokio::test]
async fn before_setup_fleet_clients_learn_that_it_is_not_set_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[("trusted_proxies", "127.0.0.1")]).await;
    let http = client(&server);
    let login = json!({ "email": "ann@example.com", "password": PASSWORD }).to_string();
    let post = |path: &str, body: String| http.post(url(&server, path)).body(body).send();
    assert_eq!(
        post("/api/latest/fleet/login", login.clone())
            .await
            .unwrap()
            .status(),
        404
    );
    let setup = json!({
        "admin": { "name": "Ann", "email": "ann@example.com", "password": PASSWORD },
        "org_info": { "org_name": "Org" }, "server_url": "https://fleet.example",
    });
    let elsewhere = http
        .post(url(&server, "/api/v1/setup"))
        .header("x-forwarded-for", "203.0.113.9")
        .body(setup.to_string());
    let elsewhere = elsewhere.send().await.unwrap();
    assert_eq!(elsewhere.status(), 400, "it asks for no secret");
    let elsewhere = json(elsewhere).await["errors"][0]["reason"].to_string();
    assert!(elsewhere.contains("setup link"), "{elsewhere}");
    let answer = post("/api/v1/setup", setup.to_string()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer = json(answer).await;
    assert_eq!(
        (
            &answer["admin"]["global_role"],
            &answer["org_info"]["org_name"]
        ),
        (&json!("admin"), &json!("Org"))
    );
    assert_eq!(
        post("/api/v1/setup", setup.to_string())
            .await
            .unwrap()
            .status(),
        404
    );
    for version in ["v1", "2022-04", "latest"] {
        let answer = post(&format!("/api/{version}/fleet/login"), login.clone())
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{version}");
    }
    let wrong = json!({ "email": "ann@example.com", "password": "x" }).to_string();
    let wrong = post("/api/latest/fleet/login", wrong).await.unwrap();
    assert_eq!(wrong.status(), 401);
    let wrong = json(wrong).await;
    assert_eq!(wrong["message"], "Authentication failed");
    assert_eq!(
        wrong["errors"],
        json!([{ "name": "base", "reason": "Authentication failed" }])
    );
    let me = http
        .get(url(&server, "/api/latest/fleet/me"))
        .send()
        .await
        .unwrap();
    assert_eq!(json(me).await["message"], "Authorization header required");
    let me = http
        .get(url(&server, "/api/latest/fleet/me"))
        .bearer_auth("nope")
        .send()
        .await
        .unwrap();
    assert_eq!(json(me).await["message"], "Authentication required");
    server.shut_down().await;
}

#[tokio::test]
async fn an_api_version_that_is_not_served_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let http = client(&server);
    let ask = |version: &'static str| {
        http.get(url(&server, "/api/muster/openapi.json"))
            .header("Muster-Api-Version", version)
            .send()
    };
    let refused = ask("7").await.unwrap();
    assert_eq!(refused.status(), 400);
    assert_eq!(json(refused).await["code"], "unsupported_version");
    let document = json(ask("1").await.unwrap()).await;
    assert_eq!(document["info"]["version"], "1");
    assert!(document["paths"]["/api/muster/login"]["post"].is_object());
    server.shut_down().await;
}

#[tokio::test]
async fn a_client_that_comes_again_resumes_its_tls_session_also_after_a_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let mut roots = rustls::RootCertStore::empty();
    let pem = server.authority_pem.as_deref().unwrap();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = rustls::ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let refused = async || {
            let stream = tokio::net::TcpStream::connect(server.address)
                .await
                .unwrap();
            let name = "localhost".try_into().unwrap();
            let mut stream = connector.connect(name, stream).await.unwrap();
            let body = r#"{"node_key":"unknown"}"#;
            let request = format!(
                "POST /api/osquery/config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
            stream.get_ref().1.handshake_kind()
        };
        assert_eq!(refused().await, Some(HandshakeKind::Full), "{version:?}");
        assert_eq!(refused().await, Some(HandshakeKind::Resumed), "{version:?}");
    }
    server.shut_down().await;
}

#[tokio::test]
async fn a_client_that_never_finishes_its_handshake_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let _idle = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(30), server.shut_down())
        .await
        .expect("it ends in time");
}
