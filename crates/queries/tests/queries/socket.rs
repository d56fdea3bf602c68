//! Fleet's result stream and the notification socket, by a client of another make over a real connection.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use futures_util::{SinkExt as _, StreamExt as _};
use muster_http::ClientAddress;
use muster_identity::{Actor, Family, HostId, NewUser, Role};
use muster_queries::CampaignStatus;
use muster_queries::http::{fleet_routes, notify_routes};
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::{Fixture, START, answered, asked, failed, only, sql, write};

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

async fn serve(fixture: &Fixture) -> SocketAddr {
    let (queries, identity) = (fixture.queries.clone(), fixture.identity.clone());
    let with_address = |mut request: Request, next: Next| async move {
        request
            .extensions_mut()
            .insert(ClientAddress([127, 0, 0, 1].into()));
        next.run(request).await
    };
    let app = Router::new()
        .merge(fleet_routes(
            queries.clone(),
            identity.clone(),
            Duration::from_secs(1),
        ))
        .merge(notify_routes(queries, identity.agent_keys))
        .layer(from_fn(with_address));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

async fn token(fixture: &Fixture, email: &str, role: Role) -> String {
    let new = NewUser {
        name: "Ann".into(),
        email: email.into(),
        password: "password123#".into(),
        global_role: Some(role),
        ..NewUser::default()
    };
    let user = fixture
        .identity
        .users
        .create(&Actor::system(), new)
        .await
        .unwrap();
    fixture
        .identity
        .sessions
        .begin(&user, ClientAddress([127, 0, 0, 1].into()))
        .await
        .unwrap()
}

async fn say(socket: &mut Socket, message: &Value) {
    // fleetctl ends each message with a newline.
    socket
        .send(Message::text(format!("{message}\n")))
        .await
        .unwrap();
}

async fn hear(socket: &mut Socket) -> Option<Value> {
    loop {
        match tokio::time::timeout(Duration::from_secs(20), socket.next())
            .await
            .expect("an answer in time")
        {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(frame))) => {
                assert_eq!(frame.map(|frame| u16::from(frame.code)), Some(1000));
                return None;
            }
            _ => return None,
        }
    }
}

async fn open(address: SocketAddr, token: &str, campaign: i64) -> Socket {
    let (mut socket, _) = connect_async(format!("ws://{address}/results/websocket"))
        .await
        .unwrap();
    say(
        &mut socket,
        &json!({ "type": "auth", "data": { "token": token } }),
    )
    .await;
    say(
        &mut socket,
        &json!({ "type": "select_campaign", "data": { "campaign_id": campaign } }),
    )
    .await;
    socket
}

on_both_databases! {
    async fn fleetctls_stream_gives_totals_status_results_and_finished(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let address = serve(&fixture).await;
        let token = token(&fixture, "ann@example.com", Role::Admin).await;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1, 2, 5]))).await.id;
        let mut socket = open(address, &token, campaign).await;
        let totals = json!({ "count": 3, "online": 2, "offline": 1, "missing_in_action": 0 });
        assert_eq!(hear(&mut socket).await, Some(json!({ "type": "totals", "data": totals })));
        let status = |expected: u64, actual: u64, status: &str| {
            json!({ "type": "status", "data": { "expected_results": expected, "actual_results": actual, "status": status } })
        };
        assert_eq!(hear(&mut socket).await, Some(status(2, 0, "pending")));
        write(&fixture.queries, 1, vec![answered(campaign, 1)], START).await.unwrap();
        let result = hear(&mut socket).await.unwrap();
        assert_eq!(result["type"], "result");
        let data = &result["data"];
        assert_eq!(data["distributed_query_execution_id"], campaign);
        assert_eq!(data["host"], json!({ "id": 1, "hostname": "host-1", "display_name": "Host 1" }));
        assert_eq!(data["rows"], json!([{ "host_display_name": "Host 1", "host_hostname": "host-1", "n": "0" }]));
        assert!(data.get("error").is_none(), "absent on success");
        assert_eq!(hear(&mut socket).await, Some(status(2, 1, "pending")));
        write(&fixture.queries, 2, vec![failed(campaign, "no such table: x")], START).await.unwrap();
        let result = hear(&mut socket).await.unwrap();
        assert_eq!(result["data"]["error"], "no such table: x");
        assert_eq!((&result["data"]["rows"], &result["data"]["stats"]), (&json!([]), &Value::Null));
        assert_eq!(hear(&mut socket).await, Some(status(2, 2, "finished")));
        // fleetctl leaves without a close frame.
        drop(socket);
        let mut again = open(address, &token, campaign).await;
        let kinds = [hear(&mut again).await, hear(&mut again).await, hear(&mut again).await];
        let kinds = kinds.map(|message| message.unwrap()["type"].as_str().unwrap().to_owned());
        assert_eq!(kinds, ["totals", "status", "result"], "a second listener gets everything again");
    }

    async fn a_campaign_goes_on_when_its_listener_leaves_without_a_word(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let address = serve(&fixture).await;
        let token = token(&fixture, "ann@example.com", Role::Admin).await;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1, 2]))).await.id;
        let mut socket = open(address, &token, campaign).await;
        assert_eq!(hear(&mut socket).await.unwrap()["type"], "totals");
        drop(socket);
        let name = format!("fleet_distributed_query_{campaign}");
        assert_eq!(asked(&fixture.queries, 1, START), [(name, "SELECT 1".to_owned())]);
        write(&fixture.queries, 1, vec![answered(campaign, 1)], START).await.unwrap();
        let mut socket = open(address, &token, campaign).await;
        let result = loop {
            let message = hear(&mut socket).await.unwrap();
            if message["type"] == "result" {
                break message;
            }
        };
        assert_eq!(result["data"]["host"]["id"], 1, "who comes back gets what came meanwhile");
        assert_eq!(fixture.campaign(campaign).await.status, CampaignStatus::Running, "it waits for the other host");
    }

    async fn a_stream_is_only_for_who_began_it(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let address = serve(&fixture).await;
        let other = token(&fixture, "bob@example.com", Role::Maintainer).await;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1]))).await.id + 1;
        let campaign_of_admin = campaign - 1;
        // The first user has the id that the campaign's owner has in this test; the second is somebody else.
        let stranger = token(&fixture, "eve@example.com", Role::Observer).await;
        let error = |text: String| json!({ "type": "error", "data": text });
        for (token, id, expected) in [
            ("nope", campaign_of_admin, "unauthorized".to_owned()),
            (stranger.as_str(), campaign_of_admin, "forbidden".to_owned()),
            (other.as_str(), 0, "0 is not a valid campaign ID".to_owned()),
            (other.as_str(), campaign, format!("timeout: cannot find campaign for ID {campaign}")),
        ] {
            let mut socket = open(address, token, id).await;
            assert_eq!(hear(&mut socket).await, Some(error(expected)));
            assert_eq!(hear(&mut socket).await, None, "it closes");
        }
        let (mut socket, _) = connect_async(format!("ws://{address}/results/websocket")).await.unwrap();
        say(&mut socket, &json!({ "type": "auth", "data": { "token": other } })).await;
        say(&mut socket, &json!({ "type": "hello" })).await;
        assert_eq!(hear(&mut socket).await, Some(error("expected select_campaign".to_owned())));
        for garbage in ["", "{", "[]", "\"x\"", "{\"type\":\"select_campaign\"}"] {
            let (mut socket, _) = connect_async(format!("ws://{address}/results/websocket")).await.unwrap();
            socket.send(Message::text(garbage)).await.unwrap();
            assert_eq!(hear(&mut socket).await, None, "{garbage}");
        }
        let mut foreign = format!("ws://{address}/results/websocket").into_client_request().unwrap();
        foreign.headers_mut().insert("Origin", "https://evil.example.com".parse().unwrap());
        let refused = connect_async(foreign).await.unwrap_err();
        assert!(matches!(refused, Error::Http(response) if response.status() == 403));
    }

    async fn an_agent_is_told_to_ask_now_and_cut_off_when_its_key_goes(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let address = serve(&fixture).await;
        let keys = &fixture.identity.agent_keys;
        let key = keys.issue(&mut &*fixture.db, HostId(1), Family::Orbit, None, "", START).await.unwrap().text;
        let connect = |key: &str| {
            let mut request = format!("ws://{address}/muster_notify").into_client_request().unwrap();
            request.headers_mut().insert("Authorization", format!("NodeKey {key}").parse().unwrap());
            connect_async(request)
        };
        let refused = connect("nope").await.unwrap_err();
        assert!(matches!(refused, Error::Http(response) if response.status() == 401));
        let (mut socket, _) = connect(&key).await.unwrap();
        while fixture.queries.notifier.count() == 0 {
            tokio::task::yield_now().await;
        }
        let campaign = fixture.ask(sql("SELECT 1", only(&[1]))).await.id;
        let told = hear(&mut socket).await.unwrap();
        assert_eq!(told, json!({ "type": "distributed/read", "reason": format!("live-{campaign}") }));
        assert_eq!(asked(&fixture.queries, 1, START).len(), 1);
        assert_eq!(asked(&fixture.queries, 1, START).len(), 0, "it has the question");
        let (mut late, _) = connect(&key).await.unwrap();
        assert_eq!(hear(&mut late).await.unwrap()["type"], "distributed/read", "it owes an answer");
        assert_eq!(asked(&fixture.queries, 1, START).len(), 1, "it may have forgotten it");
        assert_eq!(asked(&fixture.queries, 1, START).len(), 0);
        fixture.queries.notifier.close(HostId(1));
        assert_eq!(hear(&mut socket).await, None);
        assert_eq!(hear(&mut late).await, None);
    }
}
