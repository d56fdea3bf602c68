//! The exchange of the shared token for a key, with real keys.

use muster_identity::{
    Actor, EnrollmentTokenId, Family, KnownAgents, NewCollectorKey, NewEnrollmentToken,
};
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};

use crate::{Fixture, SETTINGS, admin, described, goodbye, key_of, message};

/// The states of an agent's keys, newest first.
fn states(detail: &Value) -> Vec<String> {
    let keys = detail["keys"].as_array().unwrap().iter();
    keys.map(|key| key["state"].as_str().unwrap().to_owned())
        .collect()
}

on_both_databases! {
    async fn a_fleets_rotation_tells_apart_whose_keys_are_not_renewed_and_ends(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (keys, actor) = (fixture.identity.collector_keys.clone(), Actor::system());
        let token = fixture.token(KnownAgents::Adopt).await;
        let mut secrets = Vec::new();
        for uid in [1, 2] {
            let key = key_of(&fixture.send(&token, &described(uid, 0, SETTINGS)).await).unwrap();
            fixture.send(&key, &described(uid, 0, SETTINGS)).await;
            secrets.push(key);
        }
        let make = async |name: &str| {
            let new = NewCollectorKey { name: name.to_owned(), ..NewCollectorKey::default() };
            let (key, text) = keys.make(&actor, new).await.unwrap();
            (key.id, text)
        };
        let (id, premade) = make("extension").await;
        fixture.send(&premade, &described(3, 0, 0)).await;
        // One was made for an agent that can take another.
        let (_, able) = make("supervisor").await;
        fixture.send(&able, &described(4, 0, SETTINGS)).await;
        let refused = keys.rotate(&actor, id).await.unwrap_err().to_string();
        assert!(refused.contains("cannot take a new key; make one for it in advance"), "{refused}");
        let state = async || {
            fixture.collectors.flush().await.unwrap();
            let rotation = keys.rotation().await.unwrap();
            (rotation.waiting, rotation.due, rotation.cannot_take, rotation.away)
        };
        keys.start_rotation(&actor, 10_000).await.unwrap();
        keys.reconcile().await.unwrap();
        fixture.wait(100);
        assert_eq!(key_of(&fixture.send(&premade, &message(3, 1, 0)).await), None);
        let first = key_of(&fixture.send(&secrets[0], &message(1, 1, SETTINGS)).await).expect("it is offered another");
        assert_eq!(state().await, (4, 4, 1, 2), "two are silent, and come back");
        fixture.send(&first, &described(1, 0, SETTINGS)).await;
        for (key, uid) in [(&secrets[1], 2), (&able, 4)] {
            let answer = fixture.send(key, &message(uid, 1, SETTINGS)).await;
            let new = key_of(&answer).expect("it is offered another");
            fixture.send(&new, &described(uid, 0, SETTINGS)).await;
        }
        assert_eq!(state().await, (1, 1, 1, 0), "it is done");
        fixture.wait(3600);
        assert_eq!(state().await, (1, 1, 1, 0), "one that cannot take a key is not away as well");
        // What people do about that one.
        let who = admin();
        let one = fixture.list("?search=box-3").await[0]["id"].clone();
        for (action, body) in [("revoke", json!({ "reason": "another key" })), ("unrevoke", json!({}))] {
            let (status, _) = fixture.call(&who, "POST", &format!("/collectors/{one}/{action}"), body).await;
            assert_eq!(status, 204);
        }
        assert_eq!(state().await, (0, 0, 0, 0));
        let (_, another) = make("extension again").await;
        fixture.send(&another, &described(3, 0, 0)).await;
        assert_eq!(fixture.post(&premade, &message(3, 1, 0)).await.0, 401);
        assert_eq!(fixture.list("?search=box-3").await[0]["id"], one);
    }

    async fn an_agent_ends_up_on_a_key_of_its_own_and_the_token_can_go(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let answer = fixture.send(&token, &described(7, 0, SETTINGS)).await;
        let key = key_of(&answer).unwrap();
        assert_eq!(states(&fixture.look(1).await), ["pending"]);
        assert_eq!(fixture.look(1).await["key_status"], "offered");
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        let detail = fixture.look(1).await;
        assert_eq!((states(&detail), &detail["key_status"]), (vec!["active".to_owned()], &json!("adopted")));
        fixture.identity.enrollment_tokens.revoke(&Actor::system(), EnrollmentTokenId(1)).await.unwrap();
        fixture.wait(30);
        assert_eq!(fixture.post(&key, &message(7, 1, SETTINGS)).await.0, 200);
        assert_eq!(fixture.post(&token, &message(7, 2, SETTINGS)).await.0, 401);
    }

    async fn a_lost_offer_leaves_exactly_one_key_that_works(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let lost = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.wait(60);
        let kept = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        assert_eq!(states(&fixture.look(1).await), ["pending", "pending"]);
        fixture.send(&kept, &described(7, 0, SETTINGS)).await;
        assert_eq!(states(&fixture.look(1).await), ["active", "ended"]);
        assert_eq!(fixture.post(&lost, &message(7, 1, SETTINGS)).await.0, 401);
        assert_eq!(fixture.post(&kept, &message(7, 1, SETTINGS)).await.0, 200);
    }

    async fn of_two_requests_at_once_one_is_made_an_offer(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let other = fixture.another(&db, 2).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let said = described(7, 0, SETTINGS);
        let answers = tokio::join!(
            fixture.send(&token, &said), fixture.send(&token, &said),
            other.send(&token, &said), other.send(&token, &said)
        );
        let answers = [answers.0, answers.1, answers.2, answers.3];
        let keys = answers.iter().filter_map(key_of).count();
        assert_eq!(keys, 1);
        let listed = fixture.list("").await;
        assert_eq!(listed.len(), 1, "and there is one record");
        // Those who came second may have taken a number before they found that.
        let id = listed[0]["id"].as_i64().unwrap();
        assert_eq!(states(&fixture.look(id).await), ["pending"]);
    }

    async fn a_request_with_the_old_key_is_taken_for_a_while_after_the_new_one_was_used(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let old = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&old, &described(7, 0, SETTINGS)).await;
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/rotate-key", Value::Null).await;
        assert_eq!(status, 204);
        fixture.wait(30);
        let new = key_of(&fixture.send(&old, &message(7, 1, SETTINGS)).await).unwrap();
        assert_eq!(key_of(&fixture.send(&old, &message(7, 2, SETTINGS)).await), None, "one is outstanding");
        fixture.send(&new, &described(7, 0, SETTINGS)).await;
        fixture.send(&old, &goodbye(7, 3, SETTINGS)).await;
        let detail = fixture.look(1).await;
        assert_eq!((states(&detail), &detail["status"]), (vec!["active".to_owned(), "superseded".to_owned()], &json!("online")));
        fixture.wait(11 * 60);
        assert_eq!(fixture.post(&old, &message(7, 4, SETTINGS)).await.0, 401);
        assert_eq!(fixture.post(&new, &message(7, 1, SETTINGS)).await.0, 200);
    }

    async fn a_supervisor_that_is_started_every_minute_fills_nothing(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        for _ in 0..15 {
            let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
            fixture.send(&key, &described(7, 0, SETTINGS)).await;
            fixture.send(&key, &goodbye(7, 1, SETTINGS)).await;
            fixture.wait(60);
        }
        let detail = fixture.look(1).await;
        assert!(states(&detail).len() <= 20, "{:?}", states(&detail));
        assert_eq!(states(&detail).iter().filter(|state| *state == "active").count(), 1);
        let told = detail["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "comes_back_often");
        assert_eq!(told.count(), 1);
        assert_eq!(fixture.list("").await.len(), 1);
    }

    async fn a_revocation_between_offer_and_first_use_makes_that_a_refusal(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.call(&admin(), "POST", "/collectors/1/revoke", json!({ "reason": "stolen" })).await;
        assert_eq!(fixture.post(&key, &described(7, 0, SETTINGS)).await.0, 401);
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/unrevoke", json!({})).await;
        assert_eq!(status, 204);
        assert_eq!(fixture.post(&key, &described(7, 0, SETTINGS)).await.0, 401, "that key is gone");
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        assert_eq!(fixture.post(&key, &described(7, 0, SETTINGS)).await.0, 200);
    }

    async fn an_agent_that_goes_on_knocking_with_its_key_can_be_let_in_again(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        fixture.call(&admin(), "POST", "/collectors/1/revoke", json!({})).await;
        assert_eq!(fixture.post(&key, &message(7, 1, SETTINGS)).await.0, 401);
        fixture.call(&admin(), "POST", "/collectors/1/unrevoke", json!({ "with_its_key": true })).await;
        assert_eq!(fixture.post(&key, &message(7, 2, SETTINGS)).await.0, 200);
    }

    async fn a_stolen_key_stays_worthless_and_a_key_that_is_gone_is_not_promised(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let stolen = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&stolen, &described(7, 0, SETTINGS)).await;
        let change = async |action: &str, body: Value| {
            fixture.call(&admin(), "POST", &format!("/collectors/1/{action}"), body).await
        };
        change("revoke", json!({ "reason": "stolen" })).await;
        assert_eq!(change("unrevoke", json!({})).await.0, 204);
        assert_eq!(change("unrevoke", json!({ "with_its_key": true })).await.0, 409, "it came back without");
        change("revoke", json!({ "reason": "in error" })).await;
        let (status, why) = change("unrevoke", json!({ "with_its_key": true })).await;
        assert_eq!(status, 409, "{why}");
        assert!(why.to_string().contains("unrevoke it without its key"), "{why}");
        assert_eq!(fixture.look(1).await["standing"], "revoked", "nothing was changed");
        assert_eq!(fixture.post(&stolen, &message(7, 1, SETTINGS)).await.0, 401);

        change("unrevoke", json!({})).await;
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        change("revoke", json!({ "reason": "in error" })).await;
        fixture.wait(31 * 24 * 60 * 60);
        fixture.identity.agent_keys.purge().await.unwrap();
        assert_eq!(change("unrevoke", json!({ "with_its_key": true })).await.0, 409, "it was deleted since");
        assert_eq!(change("unrevoke", json!({})).await.0, 204);
        assert_eq!(fixture.post(&key, &message(7, 1, SETTINGS)).await.0, 401);
        assert_eq!(fixture.post(&token, &described(7, 0, SETTINGS)).await.0, 200);
    }

    async fn of_two_agents_that_use_the_last_use_of_a_token_one_enrolls(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let other = fixture.another(&db, 2).await;
        let new = NewEnrollmentToken {
            name: "one".to_owned(),
            families: vec![Family::Opamp],
            max_uses: Some(1),
            ..NewEnrollmentToken::default()
        };
        let token = fixture.identity.enrollment_tokens.create(&Actor::system(), new).await.unwrap().1;
        let (first, second) = (described(7, 0, SETTINGS), described(8, 0, SETTINGS));
        let (first, second) = tokio::join!(fixture.post(&token, &first), other.post(&token, &second));
        let mut statuses = [first.0, second.0];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401]);
        assert_eq!(fixture.list("").await.len(), 1);
    }

    async fn a_token_that_ran_out_is_refused_and_only_the_log_says_why(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let new = NewEnrollmentToken {
            name: "short".to_owned(),
            families: vec![Family::Opamp],
            expires_at: Some(crate::START.plus(std::time::Duration::from_secs(60))),
            ..NewEnrollmentToken::default()
        };
        let token = fixture.identity.enrollment_tokens.create(&Actor::system(), new).await.unwrap().1;
        fixture.send(&token, &described(7, 0, 0)).await;
        fixture.wait(61);
        let refused = || async {
            let body = muster_wire_opamp::encode_body(&message(7, 1, 0), muster_wire_opamp::MessageLimit::default()).unwrap();
            let request = axum::extract::Request::post("/v1/opamp")
                .header("content-type", "application/x-protobuf")
                .header("authorization", format!("Bearer {token}"));
            fixture.request(request.body(body.into()).unwrap()).await
        };
        let (status, _, body) = refused().await;
        assert_eq!(status, 401);
        let told = String::from_utf8_lossy(&body);
        assert!(!told.contains("expired"), "{told}");
        let listing = muster_http::ListingQuery::default().check(&["id"]).unwrap();
        let logged = || async {
            let page = fixture.identity.audit.list(&listing, &muster_identity::AuditFilter::default()).await.unwrap();
            let text = serde_json::to_string(&page.items).unwrap();
            text.contains("denied_enrollment") && text.contains("\"expired\"")
        };
        crate::until("the log says why", logged).await;
    }

    async fn an_agent_that_is_given_a_uid_and_a_key_in_one_answer_says_goodbye_by_both(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let (address, mut said) = (fixture.serve().await, described(7, 0, SETTINGS));
        said.flags = 1;
        let mut old = crate::socket::open(address, &token).await.unwrap();
        let answer = crate::socket::ask(&mut old, &said).await;
        let uid = answer.agent_identification.as_ref().unwrap().new_instance_uid.clone();
        let key = key_of(&answer).expect("an offer in the same answer");
        let with_uid = |said: muster_wire_opamp::proto::AgentToServer| {
            muster_wire_opamp::proto::AgentToServer { instance_uid: uid.clone(), ..said }
        };
        let mut new = crate::socket::open(address, &key).await.unwrap();
        assert!(crate::socket::ask(&mut new, &with_uid(described(7, 0, SETTINGS))).await.error_response.is_none());
        // The end of the old connection, by the old credential and the new uid.
        let farewell = crate::socket::ask(&mut old, &with_uid(goodbye(7, 1, SETTINGS))).await;
        assert!(farewell.error_response.is_none(), "{farewell:?}");
        old.close(None).await.unwrap();
        crate::socket::ask(&mut new, &with_uid(message(7, 1, SETTINGS))).await;
        let listed = fixture.list("").await;
        assert_eq!(listed.len(), 1, "no new record");
        assert_eq!((&listed[0]["status"], &listed[0]["key_status"]), (&json!("online"), &json!("adopted")));
    }

    async fn a_token_for_other_agents_lets_no_collector_in(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let new = NewEnrollmentToken {
            name: "hosts".to_owned(),
            families: vec![Family::Osquery],
            ..NewEnrollmentToken::default()
        };
        let token = fixture.identity.enrollment_tokens.create(&Actor::system(), new).await.unwrap().1;
        assert_eq!(fixture.post(&token, &described(7, 0, 0)).await.0, 401);
    }

    async fn a_key_made_in_advance_belongs_to_the_first_agent_that_shows_it(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let new = NewCollectorKey { name: "edge".to_owned(), ..NewCollectorKey::default() };
        let (_, key) = fixture.identity.collector_keys.make(&Actor::system(), new).await.unwrap();
        fixture.send(&key, &described(7, 0, 0x4805)).await;
        fixture.send(&key, &message(7, 1, 0x4805)).await;
        let answer = fixture.send(&key, &described(8, 0, 0x4805)).await;
        assert_eq!(answer.error_response.unwrap().r#type, 1, "another agent cannot use it");
        let detail = fixture.look(1).await;
        assert_eq!((states(&detail), &detail["key_status"]), (vec!["active".to_owned()], &json!("adopted")));
        assert_eq!(fixture.list("").await.len(), 1);
    }

    async fn an_approval_lets_an_agent_come_back_that_waits_for_it(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Approve).await;
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        fixture.wait(3_600);
        assert_eq!(key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await), None);
        assert_eq!(fixture.look(1).await["standing"], "waiting");
        assert_eq!(fixture.list("?standing=waiting").await.len(), 1);
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/approve", Value::Null).await;
        assert_eq!(status, 204);
        let key = key_of(&fixture.send(&token, &described(7, 1, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/approve", Value::Null).await;
        assert_eq!(status, 409);
    }
}
