//! Those who show the token that many share and the uid of somebody else: nobody is cut off by them, and they learn nothing.

use muster_identity::{Actor, KnownAgents, NewCollectorKey};
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};

use crate::socket::{ask, hear, open};
use crate::{Fixture, RESTART, SETTINGS, admin, described, goodbye, key_of, message, until};

const ASKS_FOR_UID: u64 = 0x1;

on_both_databases! {
    async fn a_copy_becomes_a_collector_of_its_own_and_the_first_one_goes_on(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        fixture.wait(10);
        fixture.send(&token, &described(7, 0, SETTINGS)).await;
        fixture.wait(10);
        fixture.send(&key, &message(7, 1, SETTINGS)).await;
        fixture.wait(10);
        let copy = fixture.send(&token, &described(7, 1, SETTINGS)).await;
        assert!(copy.agent_identification.is_some());
        for number in 2..6 {
            fixture.wait(10);
            let answer = fixture.send(&key, &message(7, number, SETTINGS)).await;
            assert_eq!(answer.error_response, None, "the first one is not locked out");
            assert_eq!(answer.agent_identification, None);
            // The copy ignores its new uid, and is told again once it is seen that the first one is still there.
            let answer = fixture.send(&token, &message(7, number, SETTINGS)).await;
            if number > 2 {
                assert_eq!(answer.agent_identification, copy.agent_identification);
            }
        }
        assert_eq!(fixture.list("").await.len(), 2);
    }

    async fn machines_that_have_no_uid_yet_are_never_taken_for_one(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let mut given = Vec::new();
        for _ in 0..3 {
            let mut asks = described(0, 0, SETTINGS);
            asks.flags = ASKS_FOR_UID;
            let answer = fixture.send(&token, &asks).await;
            given.push(answer.agent_identification.unwrap().new_instance_uid);
        }
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 3);
        assert_eq!(fixture.list("").await.len(), 3);
    }

    async fn machines_that_made_up_the_same_uid_are_told_apart_when_they_ask_for_one(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let mut given = Vec::new();
        for machine in [31, 32, 33] {
            let mut asks = described(7, 0, SETTINGS);
            asks.flags = ASKS_FOR_UID;
            asks.agent_description = described(machine, 0, 0).agent_description;
            let answer = fixture.send(&token, &asks).await;
            given.push(answer.agent_identification.unwrap().new_instance_uid);
        }
        given.sort();
        given.dedup();
        assert_eq!((given.len(), fixture.list("").await.len()), (3, 3));
    }

    async fn machines_of_one_image_go_on_whatever_becomes_of_one_of_them(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        let mut first = open(address, &key).await.unwrap();
        ask(&mut first, &described(7, 0, SETTINGS)).await;
        let of = |machine: u8| {
            let mut said = described(7, 0, 0);
            said.agent_description = described(machine, 0, 0).agent_description;
            said
        };
        let mut uids = Vec::new();
        for machine in [31, 32, 33] {
            let answer = fixture.send(&token, &of(machine)).await;
            uids.push(answer.agent_identification.unwrap().new_instance_uid);
        }
        let ids = |list: &[Value]| list.iter().map(|one| one["id"].as_i64().unwrap()).collect::<Vec<_>>();
        assert_eq!(fixture.list("").await.len(), 4);
        // Each is known again, though none took the uid that it was given.
        for (machine, uid) in [31, 32, 33].into_iter().zip(&uids) {
            let answer = fixture.send(&token, &of(machine)).await;
            assert_eq!(answer.agent_identification.unwrap().new_instance_uid, uid);
        }
        assert_eq!(fixture.list("").await.len(), 4);
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/2/revoke", json!({})).await;
        assert_eq!(status, 204);
        assert_eq!(fixture.post(&token, &of(31)).await.0, 401);
        assert_eq!(fixture.post(&token, &of(32)).await.0, 200);
        let (status, _) = fixture.call(&admin(), "DELETE", "/collectors/3", Value::Null).await;
        assert_eq!(status, 204);
        let answer = fixture.send(&token, &of(32)).await;
        let uid = answer.agent_identification.expect("it is enrolled anew").new_instance_uid;
        assert!(!uids.contains(&uid));
        assert_eq!(ids(&fixture.list("").await).len(), 4);
        assert!(ask(&mut first, &message(7, 1, SETTINGS)).await.error_response.is_none());
    }

    async fn whoever_shows_the_token_and_a_uid_is_not_told_what_is_for_the_agent(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (address, token) = (fixture.serve().await, fixture.token(KnownAgents::Adopt).await);
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        let mut agent = open(address, &key).await.unwrap();
        ask(&mut agent, &described(7, 0, SETTINGS | RESTART)).await;
        let mut stranger = open(address, &token).await.unwrap();
        ask(&mut stranger, &goodbye(7, 0, SETTINGS)).await;
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/restart", Value::Null).await;
        assert_eq!(status, 204);
        let (pushed, _) = hear(&mut agent).await.unwrap();
        assert!(pushed.command.is_some(), "the agent is told");
        let answer = ask(&mut stranger, &goodbye(7, 1, SETTINGS)).await;
        assert!(answer.command.is_none() && answer.connection_settings.is_none());
        assert_eq!(fixture.list("").await.len(), 1);
    }

    async fn nobody_is_slowed_down_by_who_shows_their_uid(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        let mut refused = 0;
        for number in 0..100 {
            let (status, _) = fixture.post(&token, &goodbye(7, number, SETTINGS)).await;
            refused += u32::from(status == 429);
        }
        assert!(refused > 0);
        assert_eq!(fixture.post(&key, &message(7, 1, SETTINGS)).await.0, 200);
    }

    async fn ephemeral_agents_are_forgotten_when_they_said_goodbye_and_not_when_their_socket_was_cut(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let address = fixture.serve().await;
        let token = fixture.ephemeral_token().await;
        let (mut cut, mut gone) = (open(address, &token).await.unwrap(), open(address, &token).await.unwrap());
        ask(&mut cut, &described(7, 0, 0)).await;
        ask(&mut gone, &described(8, 0, 0)).await;
        ask(&mut gone, &goodbye(8, 1, 0)).await;
        drop((cut, gone));
        let all_are = async |status: &str| fixture.list("").await.iter().all(|one| one["status"] == status);
        until("both are seen to be gone", async || all_are("offline").await).await;
        fixture.wait(6 * 60);
        fixture.collectors.forget_what_is_over().await.unwrap();
        let left = fixture.list("").await;
        let uids: Vec<&Value> = left.iter().map(|one| &one["host_name"]).collect();
        assert_eq!(uids, [&json!("box-7")]);
        fixture.wait(25 * 60 * 60);
        fixture.collectors.forget_what_is_over().await.unwrap();
        assert!(fixture.list("").await.is_empty());
    }

    async fn earlier_uids_of_an_agent_are_kept_up_to_a_number(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let new = NewCollectorKey { name: "gateway".to_owned(), ..NewCollectorKey::default() };
        let (_, key) = fixture.identity.collector_keys.make(&Actor::system(), new).await.unwrap();
        for start in 0..40 {
            let uid = 100 + start;
            fixture.send(&key, &described(uid, 0, 0)).await;
            fixture.send(&key, &goodbye(uid, 1, 0)).await;
            fixture.wait(120);
        }
        assert_eq!(fixture.list("").await.len(), 1);
        use muster_store::{Executor as _, args};
        let database = db.reopen().await;
        let row = (&mut &database)
            .fetch_optional("SELECT COUNT(*) AS number FROM collectors_uids", args![])
            .await
            .unwrap()
            .unwrap();
        assert_eq!(row.get::<i64>("number").unwrap(), 32);
        database.close().await;
    }
}
