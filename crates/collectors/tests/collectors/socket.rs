//! Messages over sockets, by a client of another make.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use muster_identity::KnownAgents;
use muster_store::Dialect;
use muster_store::testing::{TestDatabase, on_both_databases};
use muster_wire_opamp::proto::{AgentToServer, ServerToAgent};
use muster_wire_opamp::{Framing, MessageLimit, decode_frame, encode_frame};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::{Fixture, RESTART, SETTINGS, admin, described, goodbye, key_of, message, until};

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// How long a busy machine may need for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn open(address: SocketAddr, secret: &str) -> Result<Socket, Error> {
    let mut request = format!("ws://{address}/v1/opamp")
        .into_client_request()
        .unwrap();
    let authorization = format!("Bearer {secret}").parse().unwrap();
    request.headers_mut().insert("authorization", authorization);
    let deflate = "permessage-deflate; client_max_window_bits"
        .parse()
        .unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-extensions", deflate);
    let (socket, response) = connect_async(request).await?;
    assert!(
        !response.headers().contains_key("sec-websocket-extensions"),
        "compression is declined"
    );
    Ok(socket)
}

pub(crate) async fn say(socket: &mut Socket, message: &AgentToServer) {
    say_framed(socket, message, Framing::Header).await;
}

async fn say_framed(socket: &mut Socket, message: &AgentToServer, framing: Framing) {
    let bytes = encode_frame(message, framing, MessageLimit::default()).unwrap();
    socket.send(Message::Binary(bytes)).await.unwrap();
}

/// The next message, or the code with which the socket ends.
pub(crate) async fn hear(socket: &mut Socket) -> Result<(ServerToAgent, Framing), Option<u16>> {
    loop {
        let next = tokio::time::timeout(PATIENCE, socket.next())
            .await
            .expect("an answer in time");
        match next {
            Some(Ok(Message::Binary(bytes))) => {
                return Ok(decode_frame(bytes, MessageLimit::default()).unwrap());
            }
            Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code.into())),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Err(None),
        }
    }
}

pub(crate) async fn ask(socket: &mut Socket, message: &AgentToServer) -> ServerToAgent {
    say(socket, message).await;
    hear(socket).await.expect("an answer").0
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_tried_and_stays_for_as_long_as_it_answers() {
    let db = TestDatabase::new(Dialect::Sqlite).await;
    let fixture = Fixture::new(&db).await;
    let (address, token) = (
        fixture.serve().await,
        fixture.token(KnownAgents::Adopt).await,
    );
    let mut answers = open(address, &token).await.unwrap();
    ask(&mut answers, &described(7, 0, 0)).await;
    let mut deaf = open(address, &token).await.unwrap();
    ask(&mut deaf, &described(8, 0, 0)).await;
    let sockets = || fixture.collectors.sockets();
    assert_eq!(sockets(), 2);
    tokio::time::pause();
    let mut tried = Vec::new();
    for second in 1..=210_u64 {
        tokio::time::advance(Duration::from_secs(1)).await;
        // A moment of real time, in which what was sent arrives.
        let moment = || std::thread::sleep(Duration::from_millis(1));
        tokio::task::spawn_blocking(moment).await.unwrap();
        while let Some(frame) = answers.next().now_or_never() {
            match frame {
                Some(Ok(Message::Ping(_))) => tried.push(second),
                other => panic!("{other:?} after {tried:?}"),
            }
        }
    }
    assert_eq!(sockets(), 1, "who reads nothing answers nothing");
    tokio::time::resume();
    let pauses: Vec<u64> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        pauses.len() >= 3 && pauses.iter().all(|pause| (30..=60).contains(pause)),
        "{tried:?}"
    );
    assert!(
        ask(&mut answers, &message(7, 1, 0))
            .await
            .error_response
            .is_none()
    );
}

on_both_databases! {
    async fn an_agent_enrolls_and_changes_to_its_key_and_stays_online(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let mut old = open(address, &token).await.unwrap();
        let answer = ask(&mut old, &described(7, 0, SETTINGS)).await;
        let endpoint = &answer.connection_settings.as_ref().unwrap().opamp.as_ref().unwrap().destination_endpoint;
        assert_eq!(endpoint, "ws://127.0.0.1:4320/v1/opamp");
        let mut new = open(address, &key_of(&answer).unwrap()).await.unwrap();
        ask(&mut new, &described(7, 0, SETTINGS)).await;
        ask(&mut old, &goodbye(7, 1, SETTINGS)).await;
        old.close(None).await.unwrap();
        ask(&mut new, &message(7, 1, SETTINGS)).await;
        assert_eq!(fixture.look(1).await["status"], "online");
        drop(new);
        let offline = || async { fixture.look(1).await["status"] == "offline" };
        until("an agent whose socket is cut is gone", offline).await;
    }

    async fn whoever_may_not_come_gets_no_socket(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let address = fixture.serve().await;
        let Err(Error::Http(response)) = open(address, "wrong").await else { panic!("it was let in") };
        assert_eq!(response.status(), 401);
        let token = fixture.token(KnownAgents::Adopt).await;
        db.close().await;
        let Err(Error::Http(response)) = open(address, &token).await else { panic!("it was let in") };
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
    }

    async fn a_database_that_goes_away_ends_sockets_so_that_agents_try_again(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let mut socket = open(address, &token).await.unwrap();
        db.close().await;
        say(&mut socket, &described(7, 0, SETTINGS)).await;
        assert_eq!(hear(&mut socket).await.err(), Some(Some(1013)));
    }

    async fn answers_are_framed_as_the_agent_frames_and_texts_are_ignored(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let mut socket = open(address, &token).await.unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        for (number, framing) in [(0, Framing::Bare), (1, Framing::Header), (2, Framing::Bare)] {
            say_framed(&mut socket, &described(7, number, 0), framing).await;
            assert_eq!(hear(&mut socket).await.unwrap().1, framing);
        }
        // A message of nothing but the header has no uid.
        socket.send(Message::Binary(Bytes::from_static(&[0]))).await.unwrap();
        assert!(hear(&mut socket).await.unwrap().0.error_response.is_some());
        // What cannot be read is told, and the socket stays.
        socket.send(Message::Binary(Bytes::from_static(&[0, 0xff, 0xff]))).await.unwrap();
        assert!(hear(&mut socket).await.unwrap().0.error_response.is_some());
        ask(&mut socket, &message(7, 3, 0)).await;
        socket.send(Message::Binary(Bytes::from_static(&[1, 0x0a, 0x00]))).await.unwrap();
        assert_eq!(hear(&mut socket).await.err(), Some(Some(1002)), "another header is not known");
    }

    async fn a_message_that_is_too_large_ends_the_socket(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        for bytes in [1024 * 1024 + 1, 3 * 1024 * 1024] {
            let mut socket = open(address, &token).await.unwrap();
            // The server may have ended it before all is sent.
            let _ = socket.send(Message::Binary(vec![0; bytes].into())).await;
            let end = hear(&mut socket).await.err().unwrap();
            assert!(matches!(end, Some(1009) | None), "{end:?}");
            if bytes < 2 * 1024 * 1024 {
                assert_eq!(end, Some(1009));
            }
        }
    }

    async fn several_agents_share_a_socket(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let mut socket = open(address, &token).await.unwrap();
        for uid in 1..9 {
            let answer = ask(&mut socket, &described(uid, 0, 0)).await;
            assert_eq!(&answer.instance_uid[..], [uid; 16]);
        }
        ask(&mut socket, &goodbye(3, 1, 0)).await;
        assert_eq!(fixture.list("?status=online").await.len(), 7);
        assert_eq!(fixture.list("?status=offline").await[0]["host_name"], "box-3");
    }

    async fn a_revoked_agent_loses_its_socket_at_once_and_its_neighbour_goes_on(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let mut sockets = Vec::new();
        for uid in [7, 8] {
            let mut socket = open(address, &token).await.unwrap();
            let key = key_of(&ask(&mut socket, &described(uid, 0, SETTINGS)).await).unwrap();
            let mut socket = open(address, &key).await.unwrap();
            ask(&mut socket, &described(uid, 0, SETTINGS)).await;
            sockets.push((key, socket));
        }
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/revoke", json!({})).await;
        assert_eq!(status, 204);
        let (key, mut socket) = sockets.remove(0);
        let ending = tokio::time::timeout(Duration::from_secs(1), hear(&mut socket)).await;
        assert_eq!(ending.expect("within a second").err(), Some(Some(1008)));
        let Err(Error::Http(response)) = open(address, &key).await else { panic!("it was let in") };
        assert_eq!(response.status(), 401);
        ask(&mut sockets[0].1, &message(8, 1, SETTINGS)).await;
    }

    async fn a_revoked_token_ends_the_sockets_of_those_who_live_on_it(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let mut socket = open(address, &token).await.unwrap();
        ask(&mut socket, &described(7, 0, 0)).await;
        let id = muster_identity::EnrollmentTokenId(1);
        fixture.identity.enrollment_tokens.revoke(&muster_identity::Actor::system(), id).await.unwrap();
        assert_eq!(hear(&mut socket).await.err(), Some(Some(1008)));
    }

    async fn of_agents_that_share_a_socket_the_revoked_one_is_refused_and_the_others_go_on(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let mut socket = open(address, &token).await.unwrap();
        for uid in [7, 8] {
            ask(&mut socket, &described(uid, 0, 0)).await;
        }
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/revoke", json!({})).await;
        assert_eq!(status, 204);
        for number in 1..4 {
            assert!(ask(&mut socket, &message(7, number, 0)).await.error_response.is_some());
            assert!(ask(&mut socket, &message(8, number, 0)).await.error_response.is_none());
        }
    }

    async fn a_command_reaches_an_agent_that_holds_a_socket_at_once(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let mut socket = open(address, &token).await.unwrap();
        ask(&mut socket, &described(7, 0, 0)).await;
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/restart", Value::Null).await;
        assert_eq!(status, 409, "it does not accept the command");
        ask(&mut socket, &message(7, 1, RESTART)).await;
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/restart", Value::Null).await;
        assert_eq!(status, 204);
        let (pushed, _) = hear(&mut socket).await.unwrap();
        assert_eq!(pushed.command.map(|command| command.r#type), Some(0));
        assert_eq!(&pushed.instance_uid[..], [7; 16]);
        assert!(ask(&mut socket, &message(7, 2, RESTART)).await.command.is_none(), "once");
    }

    async fn an_agent_that_sends_as_fast_as_it_can_is_slowed_and_others_are_not(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let (mut fast, mut other) = (open(address, &token).await.unwrap(), open(address, &token).await.unwrap());
        ask(&mut fast, &described(7, 0, 0)).await;
        let began = std::time::Instant::now();
        for number in 1..110 {
            say(&mut fast, &message(7, number, 0)).await;
        }
        let answered = ask(&mut other, &described(8, 0, 0)).await;
        assert_eq!(&answered.instance_uid[..], [8; 16]);
        for _ in 1..110 {
            hear(&mut fast).await.unwrap();
        }
        // A hundred at once, and then ten a second.
        assert!(began.elapsed() > Duration::from_millis(700), "{:?}", began.elapsed());
    }

    async fn a_server_that_stops_does_not_count_its_agents_as_gone(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let mut socket = open(address, &token).await.unwrap();
        ask(&mut socket, &described(7, 0, 0)).await;
        ask(&mut socket, &message(7, 1, 0)).await;
        fixture.stopping.cancel();
        assert_eq!(hear(&mut socket).await.err(), Some(Some(1012)));
        fixture.collectors.flush().await.unwrap();
        let next = fixture.another(&db, 2).await;
        let address = next.serve().await;
        let mut socket = open(address, &token).await.unwrap();
        // Newer clients begin with an empty message, and their numbers go on: nothing is asked.
        let answer = ask(&mut socket, &message(7, 2, 0)).await;
        assert_eq!(answer.flags, 0);
        assert_eq!(next.look(1).await["status"], "online");
    }
}
