//! How much there may be of what agents send and are sent, and of agents.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use bytes::Bytes;
use muster_collectors::RemoteConfigs;
use muster_collectors::record::{ConfigReport, Record};
use muster_collectors::service::{ConfigFile, DesiredConfig};
use muster_http::ListingQuery;
use muster_identity::{AuditFilter, CollectorId, KnownAgents};
use muster_store::testing::on_both_databases;
use muster_wire_opamp::proto::{AgentToServer, ComponentHealth, EffectiveConfig};
use muster_wire_opamp::{MessageLimit, encode_body};

use crate::socket::{ask, hear, open, say};
use crate::{Fixture, NEW_PER_DAY, described, message};

/// The most bytes that agents are sent, and that are taken from them.
const MIB: usize = 1024 * 1024;
/// Takes remote configurations.
const TAKES_CONFIG: u64 = 0x2;

/// An agent that is one of very many.
fn one_of_many(number: u32) -> AgentToServer {
    let mut uid = [7; 16];
    uid[..4].copy_from_slice(&number.to_be_bytes());
    AgentToServer {
        instance_uid: Bytes::copy_from_slice(&uid),
        ..described(7, 0, 0)
    }
}

/// Tells everybody to run far too much.
struct TooMuch;

impl RemoteConfigs for TooMuch {
    fn desired(&self, _: &Record) -> Option<Arc<DesiredConfig>> {
        let file = ConfigFile {
            body: vec![b'#'; MIB],
            content_type: "text/yaml".to_owned(),
        };
        Some(Arc::new(DesiredConfig {
            hash: vec![7; 32],
            files: [("a.yaml".to_owned(), file)].into(),
        }))
    }

    fn reported(&self, _: CollectorId, _: &ConfigReport) {}

    fn sent(&self, _: CollectorId, _: &str) {}

    fn changed(&self, _: CollectorId) {}
}

/// A health tree of so many levels, as bytes: ours is not made for that.
fn nested(levels: usize) -> Bytes {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(content);
        bytes
    }
    let mut tree = vec![0x08, 1];
    for _ in 0..levels {
        let entry = [field(1, b"inner"), field(2, &tree)].concat();
        tree = field(6, &entry);
    }
    [field(1, &[7; 16]), field(5, &tree)].concat().into()
}

on_both_databases! {
    async fn of_new_agents_by_one_token_from_one_address_there_are_only_so_many_a_day(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let said: Vec<_> = (0..NEW_PER_DAY).map(one_of_many).collect();
        for some in said.chunks(50) {
            let posted = futures_util::future::join_all(some.iter().map(|said| fixture.post(&token, said))).await;
            assert!(posted.iter().all(|(status, _)| *status == 200), "a fleet comes at once");
        }
        assert_eq!(fixture.post(&token, &one_of_many(NEW_PER_DAY)).await.0, 429);
        let address = fixture.serve().await;
        let mut socket = open(address, &token).await.unwrap();
        say(&mut socket, &one_of_many(NEW_PER_DAY)).await;
        assert_eq!(hear(&mut socket).await.err(), Some(Some(1013)));
        let known = AgentToServer { sequence_num: 1, ..said[3].clone() };
        assert_eq!(fixture.post(&token, &known).await.0, 200, "those that are known go on");
        let other = fixture.token(KnownAgents::Adopt).await;
        assert_eq!(fixture.post(&other, &one_of_many(NEW_PER_DAY + 1)).await.0, 200, "as do those with another token");
        let total = fixture.list("?limit=1000").await.len();
        assert_eq!(total, NEW_PER_DAY as usize + 1);
        fixture.wait(24 * 60 * 60 / u64::from(NEW_PER_DAY) + 1);
        assert_eq!(fixture.post(&token, &one_of_many(NEW_PER_DAY)).await.0, 200, "later there is room for one more");
        assert_eq!(fixture.post(&token, &one_of_many(NEW_PER_DAY + 2)).await.0, 429);
        let listing = ListingQuery::default().check(&["id"]).unwrap();
        let told = || async {
            let page = fixture.identity.audit.list(&listing, &AuditFilter::default()).await.unwrap();
            serde_json::to_string(&page.items).unwrap().contains("too_many_new")
        };
        crate::until("the log of changes tells of it", told).await;
    }

    async fn what_would_be_too_large_for_an_agent_is_not_sent_and_the_agent_is_served(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        fixture.collectors.attach_configs(Arc::new(TooMuch));
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        fixture.send(&token, &described(7, 0, TAKES_CONFIG)).await;
        let answer = fixture.send(&token, &message(7, 1, TAKES_CONFIG)).await;
        assert_eq!((&answer.instance_uid[..], answer.remote_config), (&[7; 16][..], None));
        let mut socket = open(address, &token).await.unwrap();
        ask(&mut socket, &described(8, 0, TAKES_CONFIG)).await;
        let answer = ask(&mut socket, &message(8, 1, TAKES_CONFIG)).await;
        assert_eq!((&answer.instance_uid[..], answer.remote_config), (&[8; 16][..], None));
    }

    async fn a_message_of_just_the_limit_is_taken_by_both_carriers_and_one_byte_more_is_not(db: TestDatabase) {
        use futures_util::SinkExt as _;
        use muster_wire_opamp::proto::{AgentConfigMap, AgentConfigObject};
        use tokio_tungstenite::tungstenite::Message;
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        // A configuration is filled up until the whole message has so many bytes.
        let filled = |bytes: usize| {
            let with = |filling: usize| {
                let object = AgentConfigObject { body: vec![b'#'; filling].into(), ..AgentConfigObject::default() };
                let effective_config = Some(EffectiveConfig {
                    config_map: Some(AgentConfigMap { config_map: [("a".to_owned(), object)].into() }),
                });
                let said = AgentToServer { effective_config, ..described(7, 0, 0x4) };
                encode_body(&said, MessageLimit::new(2 * MIB).unwrap()).unwrap()
            };
            let rest = with(MIB / 2).len() - MIB / 2;
            let message = with(bytes - rest);
            assert_eq!(message.len(), bytes);
            message
        };
        for (bytes, expected) in [(MIB, 200), (MIB + 1, 413)] {
            let request = Request::post("/v1/opamp")
                .header(header::CONTENT_TYPE, "application/x-protobuf")
                .header(header::AUTHORIZATION, format!("Bearer {token}"))
                .body(Body::from(filled(bytes)))
                .unwrap();
            assert_eq!(fixture.request(request).await.0, expected, "{bytes}");
        }
        // The header of a frame counts.
        for (bytes, end) in [(MIB - 1, None), (MIB, Some(1009))] {
            let mut socket = open(address, &token).await.unwrap();
            let frame = [&[0][..], &filled(bytes)].concat();
            socket.send(Message::Binary(frame.into())).await.unwrap();
            match (hear(&mut socket).await, end) {
                (Ok((answer, _)), None) => assert!(answer.error_response.is_none()),
                (Err(code), Some(_)) => assert_eq!(code, end),
                (heard, _) => panic!("{bytes}: {heard:?}"),
            }
        }
    }

    async fn a_tree_of_health_of_a_thousand_levels_is_refused_by_both_carriers_and_hurts_nobody(db: TestDatabase) {
        use futures_util::SinkExt as _;
        use tokio_tungstenite::tungstenite::Message;
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        fixture.send(&token, &described(7, 0, 0x800)).await;
        for (levels, expected) in [(20, 200), (1_000, 400), (5_000, 400)] {
            let request = Request::post("/v1/opamp")
                .header(header::CONTENT_TYPE, "application/x-protobuf")
                .header(header::AUTHORIZATION, format!("Bearer {token}"))
                .body(Body::from(nested(levels)))
                .unwrap();
            assert_eq!(fixture.request(request).await.0, expected, "{levels}");
            let mut socket = open(address, &token).await.unwrap();
            let frame = [&[0][..], &nested(levels)].concat();
            socket.send(Message::Binary(frame.into())).await.unwrap();
            let (answer, _) = hear(&mut socket).await.expect("an answer");
            assert_eq!(answer.error_response.is_some(), expected == 400, "{levels}");
            assert!(ask(&mut socket, &message(8, 0, 0)).await.error_response.is_none(), "the socket goes on");
        }
        let health = &fixture.look(1).await["health"];
        assert_eq!(health["components"]["inner"]["components"]["inner"]["healthy"], serde_json::json!(false), "{health}");
    }

    async fn whoever_floods_a_socket_with_whatever_is_read_slowly_and_a_neighbour_is_answered(db: TestDatabase) {
        use futures_util::{SinkExt as _, StreamExt as _};
        use tokio_tungstenite::tungstenite::Message;
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let mut floods = Vec::new();
        for kind in 0..4_u8 {
            let mut socket = open(address, &token).await.unwrap();
            ask(&mut socket, &described(10 + kind, 0, 0)).await;
            let frame = muster_wire_opamp::encode_frame(
                &message(10 + kind, 1, 0), muster_wire_opamp::Framing::Header, MessageLimit::default(),
            )
            .unwrap();
            floods.push(tokio::spawn(async move {
                let (mut sink, mut stream) = socket.split();
                let sends = async {
                    loop {
                        let message = match kind {
                            0 => Message::Binary(frame.clone()),
                            1 => Message::text("x"),
                            2 => Message::Ping(Bytes::from_static(b"x")),
                            _ => Message::Pong(Bytes::from_static(b"x")),
                        };
                        if sink.send(message).await.is_err() {
                            return;
                        }
                    }
                };
                let hears = async { while stream.next().await.is_some_and(|message| message.is_ok()) {} };
                tokio::join!(sends, hears);
            }));
        }
        let mut neighbour = open(address, &token).await.unwrap();
        for number in 0..30 {
            let began = std::time::Instant::now();
            ask(&mut neighbour, &described(8, number, 0)).await;
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        }
        assert_eq!(fixture.list("").await.len(), 5);
        for flood in floods {
            assert!(!flood.is_finished(), "nobody is cut for being fast");
            flood.abort();
        }
    }
}

#[test]
fn a_tree_is_what_it_should_be() {
    let message: AgentToServer =
        muster_wire_opamp::decode_body(nested(2), MessageLimit::default()).unwrap();
    let outer = message.health.unwrap();
    let inner: &ComponentHealth = &outer.component_health_map["inner"];
    assert!(inner.component_health_map["inner"].healthy);
}
