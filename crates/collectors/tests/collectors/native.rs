//! Our own API for collectors.

use muster_identity::{Actor, Family, KnownAgents, NewEnrollmentToken, Role};
use muster_store::testing::on_both_databases;
use muster_store::{Executor as _, args};
use muster_wire_opamp::proto::ComponentHealth;
use serde_json::{Value, json};

use crate::{Fixture, RESTART, SETTINGS, admin, described, goodbye, key_of, message, somebody};

on_both_databases! {
    async fn collectors_are_listed_searched_and_filtered(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        for (uid, capabilities) in [(1, SETTINGS), (2, RESTART), (3, 0)] {
            let mut said = described(uid, 0, capabilities);
            said.health = Some(ComponentHealth { healthy: uid != 2, ..ComponentHealth::default() });
            fixture.send(&token, &said).await;
        }
        fixture.wait(60);
        fixture.send(&token, &message(3, 1, 0)).await;
        for (query, expected) in [
            ("", vec![1, 2, 3]),
            ("?sort=-host_name&limit=2", vec![3, 2]),
            ("?search=BOX-2", vec![2]),
            ("?search=linux", vec![1, 2, 3]),
            ("?status=online", vec![3]),
            ("?status=late", vec![1, 2]),
            ("?status=offline", vec![]),
            ("?healthy=false", vec![2]),
            ("?capability=accepts_restart_command", vec![2]),
            ("?capability=reports_status,accepts_opamp_connection_settings", vec![1]),
            ("?attribute=host.name%3Dbox-3", vec![3]),
            ("?attribute=os.type,host.name%3Dbox-1", vec![1]),
            ("?attribute=nothing", vec![]),
            ("?version=0.158.0", vec![1, 2, 3]),
            ("?version=0.1", vec![]),
            ("?key_status=offered", vec![1]),
            ("?standing=revoked", vec![]),
            ("?config_status=unset", vec![1, 2, 3]),
        ] {
            let ids: Vec<i64> = fixture.list(query).await.iter().map(|one| one["id"].as_i64().unwrap()).collect();
            assert_eq!(ids, expected, "{query}");
        }
        // A value with a comma in it stands in quotes.
        let mut said = described(2, 1, RESTART);
        let pair = muster_wire_opamp::proto::KeyValue::text("region", "eu, west");
        said.agent_description.as_mut().unwrap().non_identifying_attributes.push(pair);
        fixture.send(&token, &said).await;
        for (query, expected) in [
            ("?attribute=region%3D%22eu,%20west%22,os.type", vec![2]),
            ("?attribute=region%3Deu", vec![]),
            ("?enrollment_token_id=1", vec![1, 2, 3]),
            ("?enrollment_token_id=2", vec![]),
        ] {
            let ids: Vec<i64> = fixture.list(query).await.iter().map(|one| one["id"].as_i64().unwrap()).collect();
            assert_eq!(ids, expected, "{query}");
        }
        let one = &fixture.list("?search=box-1").await[0];
        assert_eq!((&one["name"], &one["version"], &one["healthy"]), (&json!("otelcol"), &json!("0.158.0"), &json!(true)));
        assert_eq!(one["capabilities"], json!(["reports_status", "accepts_opamp_connection_settings"]));
        assert_eq!(one["instance_uid"], "01010101-0101-0101-0101-010101010101");
        for wrong in ["?status=gone", "?attribute=a%3D%22b", "?capability=flies", "?standing=x", "?sort=x", "?key_status=y"] {
            let (status, problem) = fixture.call(&admin(), "GET", &format!("/collectors{wrong}"), Value::Null).await;
            assert_eq!((status, &problem["code"]), (422, &json!("invalid")), "{wrong}");
        }
        let (_, counts) = fixture.call(&admin(), "GET", "/collectors/summary", Value::Null).await;
        let expected = json!([
            { "standing": "enrolled", "key_status": "none", "total": 2, "online": 2 },
            { "standing": "enrolled", "key_status": "offered", "total": 1, "online": 1 },
        ]);
        assert_eq!(counts, expected);
    }

    async fn a_collector_is_found_by_a_uid_that_it_had_before(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        fixture.send(&token, &described(1, 0, 0)).await;
        fixture.send(&token, &described(2, 0, 0)).await;
        let mut asks = message(1, 1, 0);
        asks.flags = 1;
        let answer = fixture.send(&token, &asks).await;
        assert!(answer.agent_identification.is_some());
        let found = fixture.list("?search=01010101-0101-0101-0101-010101010101").await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["id"], 1);
        assert_ne!(found[0]["instance_uid"], "01010101-0101-0101-0101-010101010101");
        let found = fixture.list(&format!("?search={}", found[0]["instance_uid"].as_str().unwrap())).await;
        assert_eq!(found[0]["id"], 1);
    }

    async fn a_collector_is_shown_with_its_keys_and_what_happened_to_it(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        let detail = fixture.look(1).await;
        assert_eq!(detail["identifying_attributes"]["service.name"], "otelcol");
        assert_eq!(detail["attributes"], json!({ "host.name": "box-7", "os.type": "linux" }));
        assert_eq!(detail["interval_seconds"], 30);
        let kinds: Vec<_> = detail["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
        assert_eq!(kinds, ["key_adopted", "enrolled"]);
        assert_eq!(detail["keys"][0]["state"], "active");
        assert!(!detail.to_string().contains("mst_"), "no secret is shown");
        let (status, _) = fixture.call(&admin(), "GET", "/collectors/99", Value::Null).await;
        assert_eq!(status, 404);
    }

    async fn a_collector_that_is_deleted_is_a_new_one_when_it_comes_again(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let key = key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        let (status, _) = fixture.call(&admin(), "DELETE", "/collectors/1", Value::Null).await;
        assert_eq!(status, 204);
        assert_eq!(fixture.call(&admin(), "DELETE", "/collectors/1", Value::Null).await.0, 404);
        assert_eq!(fixture.post(&key, &message(7, 1, SETTINGS)).await.0, 401);
        fixture.send(&token, &described(7, 0, SETTINGS)).await;
        let ids: Vec<i64> = fixture.list("").await.iter().map(|one| one["id"].as_i64().unwrap()).collect();
        assert_eq!(ids.len(), 1);
    }

    async fn a_transfer_names_its_team_and_null_takes_a_collector_out(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let team = fixture.identity.teams.create(&Actor::system(), "edge", "").await.unwrap().id;
        let token = fixture.token(KnownAgents::Adopt).await;
        fixture.send(&token, &described(7, 0, 0)).await;
        let transfer = async |body: Value| fixture.call(&admin(), "POST", "/collectors/1/transfer", body).await;
        assert_eq!(transfer(json!({ "team_id": team })).await.0, 204);
        for wrong in [json!({}), json!({ "team": 3 })] {
            let (status, problem) = transfer(wrong.clone()).await;
            assert_eq!(status, 422, "{wrong}");
            assert!(problem.to_string().contains("or null to take the collector out"), "{problem}");
        }
        assert_eq!(fixture.look(1).await["team_id"], json!(team));
        assert_eq!(transfer(json!({ "team_id": null })).await.0, 204);
        assert_eq!(fixture.look(1).await["team_id"], Value::Null);
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/unrevoke", json!({ "with_key": true })).await;
        assert_eq!(status, 400, "a typing mistake is told");
    }

    async fn collectors_are_counted_for_those_who_see_some_of_them(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let (edge, edges) = fixture.team("edge").await;
        fixture.send(&token, &described(7, 0, 0)).await;
        fixture.send(&edges, &described(8, 0, 0)).await;
        fixture.collectors.flush().await.unwrap();
        let (other, _) = fixture.team("other").await;
        let one = |total: u64| json!([{ "standing": "enrolled", "key_status": "none", "total": total, "online": total }]);
        for (who, status, counts) in [
            (admin(), 200, one(2)),
            (somebody(None, vec![(edge, Role::Observer)]), 200, one(1)),
            (somebody(None, vec![(other, Role::Admin)]), 200, json!([])),
            (somebody(Some(Role::GitOps), Vec::new()), 403, Value::Null),
        ] {
            let (got, body) = fixture.call(&who, "GET", "/collectors/summary", Value::Null).await;
            assert_eq!(got, status, "{:?} {:?}", who.global_role, who.teams);
            if status == 200 {
                assert_eq!(body, counts, "{:?} {:?}", who.global_role, who.teams);
            }
        }
    }

    async fn whoever_looks_at_a_collector_sees_the_last_moment_and_writes_nothing(db: TestDatabase) {
        let fixture = Fixture::quiet(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        fixture.send(&token, &described(7, 0, 0)).await;
        fixture.wait(5);
        fixture.send(&token, &message(7, 1, 0)).await;
        let detail = fixture.look(1).await;
        assert_eq!((&detail["status"], &detail["seen_at"]), (&json!("online"), &json!("2026-11-23T00:00:05Z")));
        let mut database = &*db;
        let row = database.fetch_one("SELECT COUNT(*) AS total FROM collectors_presence", args![]).await.unwrap();
        assert_eq!(row.get::<i64>("total").unwrap(), 0, "that is for whoever writes presence");
        fixture.send(&token, &goodbye(7, 2, 0)).await;
        assert_eq!(fixture.look(1).await["status"], "offline");
    }

    async fn of_what_happened_to_a_collector_the_newest_is_kept(db: TestDatabase) {
        let fixture = Fixture::quiet(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        for uid in [7, 8] {
            fixture.send(&token, &described(uid, 0, RESTART)).await;
        }
        for _ in 0..250 {
            let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/restart", Value::Null).await;
            assert_eq!(status, 204);
        }
        let mut database = &*db;
        let mut kept = async |id: i64| {
            let sql = "SELECT COUNT(*) AS total FROM collectors_events WHERE collector_id = $1";
            let row = database.fetch_one(sql, args![id]).await.unwrap();
            row.get::<i64>("total").unwrap()
        };
        assert_eq!((kept(1).await, kept(2).await), (200, 1), "of each, and of no other");
        assert_eq!(fixture.look(1).await["events"][0]["kind"], "restart_requested");
    }

    async fn roles_and_teams_decide_who_sees_and_changes_collectors(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (mine, theirs) = {
            let teams = &fixture.identity.teams;
            (
                teams.create(&Actor::system(), "mine", "").await.unwrap().id,
                teams.create(&Actor::system(), "theirs", "").await.unwrap().id,
            )
        };
        let new = NewEnrollmentToken {
            name: "mine".to_owned(),
            team_id: Some(mine),
            families: vec![Family::Opamp],
            ..NewEnrollmentToken::default()
        };
        let token = fixture.identity.enrollment_tokens.create(&Actor::system(), new).await.unwrap().1;
        fixture.send(&token, &described(7, 0, 0)).await;
        let revoke = ("POST", "/collectors/1/revoke");
        for (who, sees, changes) in [
            (somebody(Some(Role::GitOps), Vec::new()), 403, 404),
            (somebody(None, vec![(theirs, Role::Admin)]), 404, 404),
            (somebody(None, vec![(mine, Role::Observer)]), 200, 403),
            (somebody(Some(Role::Observer), Vec::new()), 200, 403),
            (somebody(None, vec![(mine, Role::Maintainer)]), 200, 204),
        ] {
            let (status, _) = fixture.call(&who, "GET", "/collectors/1", Value::Null).await;
            assert_eq!(status, sees, "{:?} {:?}", who.global_role, who.teams);
            let (status, _) = fixture.call(&who, revoke.0, revoke.1, json!({ "reason": "lost" })).await;
            assert_eq!(status, changes, "{:?} {:?}", who.global_role, who.teams);
        }
        assert_eq!(fixture.look(1).await["standing"], "revoked");
        let events = fixture.look(1).await["events"].clone();
        assert_eq!((&events[0]["kind"], &events[0]["details"]), (&json!("revoked"), &json!({ "reason": "lost" })));
        let (status, _) = fixture.call(&admin(), revoke.0, revoke.1, json!({})).await;
        assert_eq!(status, 204, "twice is no error");
        let (status, problem) = fixture.call(&admin(), "POST", "/collectors/1/rotate-key", Value::Null).await;
        assert_eq!(status, 409, "{problem}");
    }
}
