//! Whoever is turned away and comes again at once.

use std::time::{Duration, Instant};

use muster_identity::KnownAgents;
use muster_store::testing::on_both_databases;
use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message};

use std::net::SocketAddr;

use crate::socket::{Socket, ask, hear, open, say};
use crate::{Fixture, SETTINGS, admin, described, key_of, message};

/// How long the second socket of a peer that is turned away stays open at least. A timer may come a little early.
const HELD: Duration = Duration::from_millis(4_900);

/// A server that has agent 7 revoked, and agent 8 on the same token.
async fn one_of_two_revoked(fixture: &Fixture) -> (SocketAddr, String, Socket) {
    let (address, token) = (
        fixture.serve().await,
        fixture.token(KnownAgents::Adopt).await,
    );
    let mut revoked = open(address, &token).await.unwrap();
    ask(&mut revoked, &described(7, 0, 0)).await;
    let mut neighbour = open(address, &token).await.unwrap();
    ask(&mut neighbour, &described(8, 0, 0)).await;
    let path = "/collectors/1/revoke";
    assert_eq!(fixture.call(&admin(), "POST", path, json!({})).await.0, 204);
    assert_eq!(hear(&mut revoked).await.err(), Some(Some(1008)));
    // It comes again at once, and is told at once.
    let mut revoked = open(address, &token).await.unwrap();
    say(&mut revoked, &message(7, 1, 0)).await;
    assert_eq!(hear(&mut revoked).await.err(), Some(Some(1008)));
    (address, token, neighbour)
}

/// A socket on which agent 7 is told that it may not come, and that stays open.
async fn held_off(address: SocketAddr, token: &str) -> Socket {
    let mut socket = open(address, token).await.unwrap();
    let told = ask(&mut socket, &message(7, 2, 0)).await;
    let error = told.error_response.expect("a refusal");
    assert_eq!(error.error_message, "authentication required");
    socket
}

on_both_databases! {
    async fn a_revoked_agent_on_a_shared_token_is_held_off_and_its_neighbour_goes_on(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token, mut neighbour) = one_of_two_revoked(&fixture).await;
        let began = Instant::now();
        let mut socket = held_off(address, &token).await;
        for number in 3..6 {
            assert!(ask(&mut socket, &message(7, number, 0)).await.error_response.is_some());
            assert!(ask(&mut neighbour, &message(8, number - 2, 0)).await.error_response.is_none());
        }
        assert_eq!(hear(&mut socket).await.err(), Some(Some(1008)));
        assert!(began.elapsed() >= HELD, "{:?}", began.elapsed());
        assert_eq!(fixture.look(1).await["status"], "offline");
        assert_eq!(fixture.look(2).await["status"], "online");
    }

    async fn an_agent_that_is_let_in_again_while_it_is_held_off_comes_at_once(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token, _neighbour) = one_of_two_revoked(&fixture).await;
        let began = Instant::now();
        let mut socket = held_off(address, &token).await;
        let path = "/collectors/1/unrevoke";
        assert_eq!(fixture.call(&admin(), "POST", path, json!({})).await.0, 204);
        assert_eq!(hear(&mut socket).await.err(), Some(Some(1013)), "try again");
        assert!(began.elapsed() < HELD, "{:?}", began.elapsed());
        let mut socket = open(address, &token).await.unwrap();
        assert!(ask(&mut socket, &message(7, 3, 0)).await.error_response.is_none());
    }

    async fn a_server_that_stops_waits_for_nobody_who_is_held_off(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token, _neighbour) = one_of_two_revoked(&fixture).await;
        let began = Instant::now();
        let mut socket = held_off(address, &token).await;
        fixture.stopping.cancel();
        assert_eq!(hear(&mut socket).await.err(), Some(Some(1012)));
        assert!(began.elapsed() < HELD, "{:?}", began.elapsed());
    }

    async fn a_gateway_whose_first_agent_is_revoked_serves_the_others(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token, _neighbour) = one_of_two_revoked(&fixture).await;
        let began = Instant::now();
        let mut socket = held_off(address, &token).await;
        for number in 0..4 {
            assert!(ask(&mut socket, &described(9, number, 0)).await.error_response.is_none());
            assert!(ask(&mut socket, &message(7, number, 0)).await.error_response.is_some());
        }
        while began.elapsed() < HELD + Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(ask(&mut socket, &message(9, 4, 0)).await.error_response.is_none(), "nobody closed it");
    }

    async fn a_key_that_shows_the_uid_of_another_agent_again_and_again_is_held_off(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        let mut socket = open(address, &key).await.unwrap();
        assert!(ask(&mut socket, &described(8, 0, SETTINGS)).await.error_response.is_some());
        assert_eq!(hear(&mut socket).await.err(), Some(Some(1008)));
        let mut socket = open(address, &key).await.unwrap();
        let began = Instant::now();
        assert!(ask(&mut socket, &described(8, 0, SETTINGS)).await.error_response.is_some());
        assert_eq!(hear(&mut socket).await.err(), Some(Some(1008)));
        assert!(began.elapsed() >= HELD, "{:?}", began.elapsed());
        assert_eq!(fixture.list("").await.len(), 1);
    }

    async fn whoever_sends_what_is_too_large_again_and_again_is_told_later_each_time(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let mut took = Vec::new();
        for _ in 0..2 {
            let mut socket = open(address, &token).await.unwrap();
            let began = Instant::now();
            use futures_util::SinkExt as _;
            socket.send(Message::Binary(vec![0; 1024 * 1024 + 1].into())).await.unwrap();
            assert_eq!(hear(&mut socket).await.err(), Some(Some(1009)));
            took.push(began.elapsed());
        }
        assert!(took[0] < HELD && took[1] >= HELD, "{took:?}");
    }

    async fn who_has_nothing_but_a_revoked_credential_gets_no_socket(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        fixture.call(&admin(), "POST", "/collectors/1/revoke", json!({})).await;
        let id = muster_identity::EnrollmentTokenId(1);
        fixture.identity.enrollment_tokens.revoke(&muster_identity::Actor::system(), id).await.unwrap();
        // Looked up once, and from memory from then on.
        for secret in [&key, &token] {
            let Err(Error::Http(response)) = open(address, secret).await else { panic!("it was let in") };
            assert_eq!(response.status(), 401);
        }
        let before = db.statements();
        for secret in [&key, &token].into_iter().cycle().take(20) {
            let Err(Error::Http(response)) = open(address, secret).await else { panic!("it was let in") };
            assert_eq!(response.status(), 401);
        }
        assert!(db.statements() - before <= 10, "{} statements for 20 refusals", db.statements() - before);
    }
}
