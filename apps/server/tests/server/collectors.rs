//! Agents that speak OpAMP, over real TLS.

mod authority;
mod away;
mod damaged;
mod drip;
mod killed;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use muster_server::config::{Layered, Settings};
use muster_server::start::{Ambient, Running, start};
use muster_store::Dialect;
use muster_store::testing::{TestDatabase, on_both_databases};
use muster_wire_opamp::proto::{AgentDescription, AgentToServer, KeyValue, ServerToAgent};
use muster_wire_opamp::{
    Framing, MessageLimit, decode_body, decode_frame, encode_body, encode_frame,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::program::folder;
use crate::site::{Site, until};
use crate::{client, running, settings, url};

const SETTINGS: u64 = 0x100;

fn message(uid: u8, sequence: u64) -> AgentToServer {
    AgentToServer {
        instance_uid: vec![uid; 16].into(),
        sequence_num: sequence,
        capabilities: 0x1 | SETTINGS,
        ..AgentToServer::default()
    }
}

fn described(uid: u8, sequence: u64) -> AgentToServer {
    AgentToServer {
        agent_description: Some(AgentDescription {
            identifying_attributes: vec![KeyValue::text("service.name", "otelcol")],
            non_identifying_attributes: vec![KeyValue::text("host.name", format!("box-{uid}"))],
        }),
        ..message(uid, sequence)
    }
}

async fn site(server: &Running) -> Site {
    let base = format!("https://localhost:{}", server.address.port());
    Site::set_up(client(server), base, server.setup_link.as_ref().unwrap()).await
}

/// A token for agents that speak OpAMP, and its id.
async fn token(site: &Site) -> (i64, String) {
    let body = json!({ "name": "collectors", "families": ["opamp"] });
    let answer = site.post("/api/muster/enrollment-tokens", &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let secret = answer.body["secret"].as_str().unwrap().to_owned();
    (answer.body["token"]["id"].as_i64().unwrap(), secret)
}

async fn post(
    server: &Running,
    secret: &str,
    message: &AgentToServer,
) -> (u16, Option<ServerToAgent>) {
    post_to(&client(server), &url(server, "/v1/opamp"), secret, message).await
}

async fn post_to(
    http: &reqwest::Client,
    url: &str,
    secret: &str,
    message: &AgentToServer,
) -> (u16, Option<ServerToAgent>) {
    let body = encode_body(message, MessageLimit::default()).unwrap();
    let sent = http
        .post(url)
        .header("content-type", "application/x-protobuf")
        .header("authorization", format!("Bearer {secret}"))
        .body(body)
        .send()
        .await
        .unwrap();
    let status = sent.status().as_u16();
    let bytes = sent.bytes().await.unwrap();
    let answer = (status == 200).then(|| decode_body(bytes, MessageLimit::default()).unwrap());
    (status, answer)
}

/// An agent that is asked for its full state and adopts a key, and one that is refused: whatever is counted of agents.
pub(crate) async fn come(site: &Site) {
    let url = format!("{}/v1/opamp", site.base);
    let (_, secret) = token(site).await;
    let (_, answer) = post_to(&site.http, &url, &secret, &message(7, 3)).await;
    let answer = answer.unwrap();
    assert_eq!(answer.flags & 1, 1, "its full state is wanted");
    let (status, _) = post_to(&site.http, &url, &key_of(&answer), &described(7, 0)).await;
    assert_eq!(status, 200);
    let (status, _) = post_to(&site.http, &url, "wrong", &described(8, 0)).await;
    assert_eq!(status, 401);
}

#[tokio::test]
async fn a_secret_that_fleets_api_sets_lets_no_collector_in() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let site = site(&server).await;
    let (_, collectors) = token(&site).await;
    let spec = json!({ "spec": { "secrets": [{ "secret": "for the laptops" }] } });
    let set = site.post("/api/v1/fleet/spec/enroll_secret", &spec).await;
    assert_eq!(set.status, 200, "{set:?}");
    assert_eq!(
        post(&server, "for the laptops", &described(7, 0)).await.0,
        401
    );
    assert_eq!(post(&server, &collectors, &described(7, 0)).await.0, 200);
    let tokens = site.get("/api/muster/enrollment-tokens").await.body;
    let tokens = tokens["items"].as_array().unwrap();
    let fleets = tokens.iter().find(|token| token["name"] == "enroll secret");
    assert_eq!(fleets.unwrap()["families"], json!(["osquery", "orbit"]));
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn open(server: &Running, secret: &str) -> Result<Socket, Error> {
    let authority = server.authority_pem.as_deref().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap())
        .unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let address = format!("wss://localhost:{}/v1/opamp", server.address.port());
    let mut request = address.into_client_request().unwrap();
    let authorization = format!("Bearer {secret}").parse().unwrap();
    request.headers_mut().insert("authorization", authorization);
    Ok(tokio_tungstenite::client_async(request, stream).await?.0)
}

/// A socket without TLS.
type PlainSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open_plain(address: SocketAddr, secret: &str) -> Result<PlainSocket, Error> {
    let address = format!("ws://{address}/v1/opamp");
    let mut request = address.into_client_request().unwrap();
    let authorization = format!("Bearer {secret}").parse().unwrap();
    request.headers_mut().insert("authorization", authorization);
    Ok(tokio_tungstenite::connect_async(request).await?.0)
}

async fn hear<S>(socket: &mut WebSocketStream<S>) -> Option<ServerToAgent>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => {
                return Some(decode_frame(bytes, MessageLimit::default()).unwrap().0);
            }
            Some(Ok(message)) if !message.is_close() => {}
            _ => return None,
        }
    }
}

async fn ask<S>(socket: &mut WebSocketStream<S>, message: &AgentToServer) -> ServerToAgent
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    socket.send(frame(message)).await.unwrap();
    hear(socket).await.expect("an answer")
}

fn frame(message: &AgentToServer) -> Message {
    Message::Binary(encode_frame(message, Framing::Header, MessageLimit::default()).unwrap())
}

/// The key in an offer.
fn key_of(answer: &ServerToAgent) -> String {
    let settings = answer
        .connection_settings
        .as_ref()
        .unwrap()
        .opamp
        .as_ref()
        .unwrap();
    let headers = &settings.headers.as_ref().unwrap().headers;
    headers[0].value.strip_prefix("Bearer ").unwrap().to_owned()
}

#[tokio::test]
async fn an_agent_is_offered_a_key_over_tls_with_what_lets_it_verify_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let site = site(&server).await;
    let (id, token) = token(&site).await;
    let (status, answer) = post(&server, &token, &described(7, 0)).await;
    let answer = answer.unwrap();
    let settings = answer
        .connection_settings
        .as_ref()
        .unwrap()
        .opamp
        .as_ref()
        .unwrap();
    let port = server.address.port();
    assert_eq!(
        (status, settings.destination_endpoint.as_str()),
        (200, &*format!("https://localhost:{port}/v1/opamp"))
    );
    let authority = server.authority_pem.clone().unwrap();
    assert_eq!(
        settings.certificate.as_ref().unwrap().ca_cert,
        authority.as_bytes()
    );
    let (status, _) = post(&server, &key_of(&answer), &described(7, 0)).await;
    assert_eq!(status, 200);
    let revoked = site
        .delete(&format!("/api/muster/enrollment-tokens/{id}"))
        .await;
    assert_eq!(revoked.status, 204);
    assert_eq!(
        post(&server, &key_of(&answer), &message(7, 1)).await.0,
        200,
        "it goes on without the token"
    );
    assert_eq!(post(&server, &token, &message(7, 2)).await.0, 401);
    let listed = site.get("/api/muster/collectors").await.body;
    assert_eq!(
        (&listed["total"], &listed["items"][0]["key_status"]),
        (&json!(1), &json!("adopted"))
    );
    let document = site.get("/api/muster/openapi.json").await.body;
    assert!(document["paths"]["/api/muster/collectors/{id}/revoke"]["post"].is_object());
    let metrics = site.get("/metrics").await.body;
    // The metrics of all servers of a test's process are one.
    for line in [
        "muster_collectors_offers_total ",
        "muster_collectors_adoptions_total ",
        "muster_collectors_refusals_total{reason=\"revoked\"} ",
        "muster_collectors_messages_total{carrier=\"http\"} ",
        "muster_collectors{standing=\"enrolled\",key=\"adopted\"} ",
    ] {
        assert!(metrics.as_str().unwrap().contains(line), "{line}");
    }
    server.shut_down().await;
}

#[tokio::test]
async fn agents_on_sockets_come_through_a_restart_and_nothing_is_asked_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[]).await;
    let site = site(&server).await;
    let (_, token) = token(&site).await;
    let mut socket = open(&server, &token).await.unwrap();
    let answer = ask(&mut socket, &described(7, 0)).await;
    let endpoint = &answer
        .connection_settings
        .as_ref()
        .unwrap()
        .opamp
        .as_ref()
        .unwrap()
        .destination_endpoint;
    assert_eq!(
        *endpoint,
        format!("wss://localhost:{}/v1/opamp", server.address.port())
    );
    let key = key_of(&answer);
    let mut socket = open(&server, &key).await.unwrap();
    ask(&mut socket, &described(7, 0)).await;
    for number in 1..5 {
        ask(&mut socket, &message(7, number)).await;
    }
    server.shut_down().await;
    assert!(hear(&mut socket).await.is_none());

    let server = running(folder.path(), &[]).await;
    let mut socket = open(&server, &key).await.unwrap();
    assert_eq!(ask(&mut socket, &message(7, 5)).await.flags, 0);
    let listed = site.with_session(&site.session);
    let listed = Site {
        http: client(&server),
        base: format!("https://localhost:{}", server.address.port()),
        ..listed
    };
    let one = listed.get("/api/muster/collectors/1").await.body;
    assert_eq!(one["status"], "online", "{one}");
    server.shut_down().await;
}

#[tokio::test]
async fn a_revocation_on_one_server_ends_the_socket_on_another_within_a_second() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let parent = tempfile::tempdir().unwrap();
    let keys = [("database.url", db.address()), ("tls.enabled", "false")];
    let begin = async |name| {
        let settings = settings(&folder(parent.path(), name), &keys);
        start(settings, Ambient::default()).await.unwrap()
    };
    let servers = [begin("one").await, begin("two").await];
    let base = |number: usize| format!("http://{}", servers[number].address);
    let link = servers[0].setup_link.clone().unwrap();
    let site = Site::set_up(reqwest::Client::new(), base(0), &link).await;
    let (_, token) = token(&site).await;
    let connect = async |secret: &str| open_plain(servers[1].address, secret).await;
    let mut sockets = Vec::new();
    for uid in [7, 8] {
        let mut socket = connect(&token).await.unwrap();
        let key = key_of(&ask(&mut socket, &described(uid, 0)).await);
        let mut socket = connect(&key).await.unwrap();
        ask(&mut socket, &described(uid, 0)).await;
        sockets.push((key, socket));
    }
    let seen =
        || async { site.get("/api/muster/collectors?status=online").await.body["total"] == 2 };
    until("both are seen on the other server", seen).await;
    let ids = site.get("/api/muster/collectors?search=box-7").await.body;
    let id = ids["items"][0]["id"].as_i64().unwrap();
    let revoked = site
        .post(&format!("/api/muster/collectors/{id}/revoke"), &json!({}))
        .await;
    assert_eq!(revoked.status, 204, "{revoked:?}");
    let (key, mut socket) = sockets.remove(0);
    let ended = tokio::time::timeout(Duration::from_secs(1), hear(&mut socket)).await;
    assert_eq!(ended.expect("within a second"), None);
    let Err(Error::Http(refused)) = connect(&key).await else {
        panic!("it was let in");
    };
    assert_eq!(refused.status(), 401);
    ask(&mut sockets[0].1, &message(8, 1)).await;
    // A command that is given to one server reaches the agent by the other.
    let mut said = message(8, 2);
    said.capabilities |= 0x400;
    ask(&mut sockets[0].1, &said).await;
    let ids = site.get("/api/muster/collectors?search=box-8").await.body;
    let id = ids["items"][0]["id"].as_i64().unwrap();
    let told = site
        .post(
            &format!("/api/muster/collectors/{id}/restart"),
            &Value::Null,
        )
        .await;
    assert_eq!(told.status, 204, "{told:?}");
    let pushed = tokio::time::timeout(Duration::from_secs(20), hear(&mut sockets[0].1)).await;
    assert!(pushed.unwrap().unwrap().command.is_some());
    for server in servers {
        server.shut_down().await;
    }
}

on_both_databases! {
    async fn a_machine_with_orbit_osquery_and_a_collector_is_one_record(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = crate::agents::site(&db, folder.path()).await;
        let secret = site.secret("all").await;
        let uuid = "4c4c4544-0043-3010-8052-b7c04f4e3732";
        let orbit = json!({ "enroll_secret": secret, "hardware_uuid": uuid, "platform": "ubuntu", "hostname": "web-1" });
        assert_eq!(site.agent("/api/fleet/orbit/enroll", &orbit).await.status, 200);
        site.enroll(&secret, uuid).await;
        let (_, token) = token(&site).await;
        let mut said = described(1, 0);
        let id = KeyValue::text("host.id", uuid.replace('-', "").to_uppercase());
        said.agent_description.as_mut().unwrap().non_identifying_attributes.push(id);
        assert_eq!(post(&server, &token, &said).await.0, 200);
        let collector = async || site.get("/api/muster/collectors/1").await.body;
        until("it is linked", || async { collector().await["host_id"] == 1 }).await;
        let host = site.get("/api/muster/hosts/1").await.body;
        assert_eq!((&host["collectors"][0]["id"], &host["collectors"][0]["state"]), (&json!(1), &json!("linked")), "{host}");
        assert_eq!(host["collectors"][0]["matched_by"], "host.id");
        assert_eq!(site.delete("/api/muster/hosts/1").await.status, 204);
        assert_eq!(collector().await.get("host_id"), None);
        assert_eq!(collector().await["events"][0]["kind"], "host_unlinked");
        server.shut_down().await;
    }
}

#[tokio::test]
async fn authorities_and_headers_that_no_message_could_carry_are_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authorities.pem");
    std::fs::write(&file, "x".repeat(256 * 1024 + 1)).unwrap();
    let more = [("opamp.ca_file", file.to_str().unwrap())];
    let data = folder.path().join("data");
    let started = start(settings(&data, &more), Ambient::default()).await;
    let error = started.err().expect("it does not start");
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        error.to_string().starts_with("use opamp.ca_file "),
        "{error}"
    );
    assert!(why.contains("at most 262144 are allowed"), "{why}");

    let long = format!("X-Tenant: {}", "x".repeat(16 * 1024));
    let flags = vec![("opamp.headers".to_owned(), long)];
    let layers = Layered::resolve(&flags, &Vec::new(), None).unwrap();
    let error = Settings::from_layers(&layers).expect_err("it is too long");
    let told = error.to_string();
    assert!(
        told.contains("at most 16384 bytes") && !told.contains("xxx"),
        "{told}"
    );
}
