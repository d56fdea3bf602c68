//! Enrollment by osquery's API.

use std::sync::Arc;
use std::time::Duration;

use muster_identity::{
    Actor, EnrollmentTokenId, IdentityError, NewEnrollmentToken, Successor, TeamFilter,
};
use muster_store::testing::on_both_databases;
use muster_store::{Executor, args};
use serde_json::{Value, json};

use crate::harness::{TestServer, ubuntu};

/// A token for one host, and its secret.
async fn single_use(server: &TestServer, name: &str) -> (EnrollmentTokenId, String) {
    let new = NewEnrollmentToken {
        name: name.to_owned(),
        max_uses: Some(1),
        ..NewEnrollmentToken::default()
    };
    let tokens = &server.identity.enrollment_tokens;
    let (token, secret) = tokens.create(&Actor::system(), new).await.unwrap();
    (token.id, secret)
}

on_both_databases! {
    async fn both_roots_give_a_key_of_32_characters_and_one_host_for_one_identifier(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let body = ubuntu(&server.secret, "one");
        let first = server.post("/api/osquery/enroll", body.clone()).await.json();
        let first = first["node_key"].as_str().unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(server.read(first).await.status, 200);
        let host = server.host_of(first).await;

        let second = server.enroll_with(&body).await;
        assert_ne!(first, second);
        // Until the new key is used the old one is valid: the agent may never have received the answer.
        assert_eq!(server.read(first).await.status, 200);
        assert_eq!(server.read(&second).await.status, 200);
        assert_eq!(server.host_of(&second).await, host);
        let refused = server.read(first).await;
        assert_eq!(refused.status, 401);
        assert_eq!(refused.json()["node_invalid"], true);
    }

    async fn a_wrong_secret_is_refused_and_the_agent_told_that_its_key_is_invalid(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        for body in [
            json!({"enroll_secret": "nope", "host_identifier": "x"}),
            json!({"enroll_secret": "", "host_identifier": "x"}),
            json!({"host_identifier": "x"}),
            json!({"name": 5}),
            json!({}),
            Value::Null,
        ] {
            let answer = server.post("/api/v1/osquery/enroll", body.clone()).await;
            assert_eq!(answer.status, 401, "{body}");
            assert_eq!(answer.json()["node_invalid"], true, "{body}");
            assert!(answer.json()["error"].as_str().unwrap().starts_with("enroll failed"), "{body}");
        }
    }

    async fn an_enrollment_without_an_identifier_is_refused(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        for identifier in [Value::Null, json!(""), json!("  ")] {
            let body = json!({"enroll_secret": server.secret, "host_identifier": identifier});
            let answer = server.post("/api/v1/osquery/enroll", body).await;
            assert_eq!(answer.status, 401);
            assert_eq!(answer.json()["node_invalid"], true);
        }
        let long = json!({"enroll_secret": server.secret, "host_identifier": "x".repeat(256)});
        assert_eq!(server.post("/api/v1/osquery/enroll", long).await.status, 400);
    }

    async fn any_detail_may_be_missing_and_the_host_is_then_asked_more_often(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        for (identifier, details) in [
            ("a", Value::Null),
            ("b", json!({})),
            ("c", json!({"os_version": null, "osquery_info": {}, "system_info": []})),
        ] {
            let body = json!({"enroll_secret": server.secret, "host_identifier": identifier, "host_details": details});
            let key = server.enroll_with(&body).await;
            let read = server.read(&key).await.json();
            assert_eq!(read["accelerate"], 10, "{details}");
            assert!(read["queries"].get("fleet_detail_query_system_info").is_some());
        }
        let whole = server.enroll("d").await;
        assert_eq!(server.read(&whole).await.json().get("accelerate"), None);
        let record = server.record(&whole).await;
        assert_eq!(record.facts.hostname, "h-d");
        assert_eq!(record.facts.os_version, "Ubuntu 22.04.3 LTS");
        assert_eq!(record.facts.memory_bytes, Some(8_589_934_592));
        assert!(record.refetch_requested);
    }

    async fn bodies_that_are_no_object_are_told_apart_from_wrong_keys(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        for suffix in ["enroll", "config", "distributed/read", "distributed/write", "log"] {
            let path = format!("/api/osquery/{suffix}");
            for body in ["", "{", "[]", "\"x\"", "{\"node_key\":7,\"enroll_secret\":7}", "nonsense"] {
                let answer = server.post_bytes(&path, body).await;
                assert_eq!(answer.status, 400, "{path} {body}");
                let json = answer.json();
                assert!(json["message"].is_string() && json["errors"].is_array(), "{path} {body} {json}");
                assert!(json.get("node_invalid").is_none(), "{path} {body}");
            }
            let not_text = server.post_bytes(&path, vec![0xfe, b'{', b'}']).await;
            assert_eq!(not_text.status, 400, "{path}");
        }
        for suffix in ["config", "distributed/read", "distributed/write", "log"] {
            let path = format!("/api/v1/osquery/{suffix}");
            for (body, error) in [
                ("{}", "missing"),
                ("null", "missing"),
                ("{\"node_key\":\"\"}", "missing"),
                ("{\"node_key\":null}", "missing"),
                ("{\"node_key\":\"zzz\"}", "invalid"),
                ("{\"x\":1}{\"node_key\":\"zzz\"}", "missing"),
            ] {
                let answer = server.post_bytes(&path, body).await;
                assert_eq!(answer.status, 401, "{path} {body}");
                let json = answer.json();
                assert_eq!(json["node_invalid"], true);
                assert_eq!(json["error"], format!("authentication error: {error} node key"), "{path} {body}");
            }
        }
    }

    async fn what_the_database_refuses_in_a_text_is_left_out(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let mut body = ubuntu(&server.secret, "nul");
        body["host_details"]["system_info"]["hostname"] = json!("a\u{0}b");
        body["host_details"]["system_info"]["hardware_serial"] = json!("1234\u{0}5");
        body["host_details"]["system_info"]["uuid"] = json!("\u{0}");
        let key = server.enroll_with(&body).await;
        assert_eq!(server.record(&key).await.facts.hostname, "ab");
        let orbit = json!({"enroll_secret": server.secret, "hardware_uuid": "o", "hardware_serial": "1\u{0}2"});
        assert_eq!(server.post("/api/fleet/orbit/enroll", orbit).await.status, 200);
        let identifier = json!({"enroll_secret": server.secret, "host_identifier": "a\u{0}b"});
        assert_eq!(server.post("/api/v1/osquery/enroll", identifier).await.status, 400);
    }

    async fn a_token_that_is_used_up_or_ran_out_enrolls_nobody_new(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let new = NewEnrollmentToken {
            name: "twice".to_owned(),
            max_uses: Some(2),
            expires_at: Some(crate::harness::START.plus(Duration::from_secs(3_600))),
            ..NewEnrollmentToken::default()
        };
        let (_, secret) = server.identity.enrollment_tokens.create(&Actor::system(), new).await.unwrap();
        server.enroll_with(&ubuntu(&secret, "a")).await;
        server.enroll_with(&ubuntu(&secret, "b")).await;
        // A host that came by it may come again; the orbit of the same machine too.
        server.enroll_with(&ubuntu(&secret, "a")).await;
        server.enroll_orbit_with(json!({"enroll_secret": secret, "hardware_uuid": "b"})).await;
        let third = server.post("/api/v1/osquery/enroll", ubuntu(&secret, "c")).await;
        assert_eq!((third.status, third.json()["node_invalid"].clone()), (401, json!(true)));
        server.clock.advance(Duration::from_secs(3_601));
        let late = server.post("/api/v1/osquery/enroll", ubuntu(&secret, "a")).await;
        assert_eq!(late.status, 401);
    }

    async fn of_fifty_hosts_that_enroll_at_once_exactly_the_allowed_ten_get_in(db: TestDatabase) {
        let server = Arc::new(TestServer::new(&db).await);
        let new = NewEnrollmentToken { name: "ten".to_owned(), max_uses: Some(10), ..NewEnrollmentToken::default() };
        let tokens = &server.identity.enrollment_tokens;
        let (token, secret) = tokens.create(&Actor::system(), new).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..50 {
            let (server, body) = (Arc::clone(&server), ubuntu(&secret, &format!("racer-{number}")));
            tasks.spawn(async move { server.post("/api/v1/osquery/enroll", body).await.status });
        }
        let answers = tasks.join_all().await;
        let count = |status| answers.iter().filter(|answer| **answer == status).count();
        assert_eq!((count(200), count(401)), (10, 40));
        assert_eq!(tokens.find(token.id).await.unwrap().uses, 10);
        let listing = muster_http::ListingQuery { limit: Some(4), ..muster_http::ListingQuery::default() };
        let page = tokens.hosts(token.id, &listing.check(&["host_id"]).unwrap()).await.unwrap();
        assert_eq!((page.items.len(), page.total, page.next_cursor.as_deref()), (4, 10, Some("o4")));
    }

    async fn both_tokens_enroll_during_the_overlap_and_the_old_one_warns_of_whom_it_cuts_off(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (tokens, actor, day) = (&server.identity.enrollment_tokens, Actor::system(), Duration::from_secs(86_400));
        let new = NewEnrollmentToken { name: "laptops".to_owned(), ..NewEnrollmentToken::default() };
        let (old, secret) = tokens.create(&actor, new).await.unwrap();
        let early = server.enroll_with(&ubuntu(&secret, "early")).await;
        assert_eq!(server.read(&early).await.status, 200);
        let rotated = tokens.rotate(&actor, old.id, day * 7, Successor::default()).await.unwrap();
        let (next, ends) = (&rotated.token, crate::harness::START.plus(day * 7));
        assert_eq!((next.name.as_str(), &next.families, next.expires_at), ("laptops", &old.families, None));
        assert_eq!(rotated.old.expires_at, Some(ends));
        let rotation = rotated.old.rotation.unwrap();
        assert_eq!((rotation.successor_id, rotation.hosts, rotation.late_hosts), (next.id, 1, 0));
        assert!(rotation.warning.unwrap().contains("1 host(s) heard in the last 7 days"));
        let again = tokens.rotate(&actor, old.id, day, Successor::default()).await;
        assert!(matches!(again, Err(IdentityError::Conflict { .. })));
        let all = tokens.list(&TeamFilter::All, true).await.unwrap();
        assert_eq!(all.iter().filter(|token| token.name == "laptops").count(), 2, "a refused rotation leaves nothing");

        server.clock.advance(day);
        server.enroll_with(&ubuntu(&secret, "late")).await;
        let key = server.enroll_with(&ubuntu(&rotated.secret, "early")).await;
        assert_eq!(server.read(&key).await.status, 200);
        let rotation = tokens.find(old.id).await.unwrap().rotation.unwrap();
        assert_eq!((rotation.hosts, rotation.late_hosts), (1, 1), "one came over, another came by the old one");
        assert!(rotation.warning.unwrap().contains("1 host(s) enrolled by it since it was rotated"));

        server.clock.advance(day * 6);
        let refused = server.post("/api/v1/osquery/enroll", ubuntu(&secret, "too late")).await;
        assert_eq!(refused.status, 401);
        server.enroll_with(&ubuntu(&rotated.secret, "new")).await;
        let over = tokens.rotate(&actor, old.id, day, Successor::default()).await;
        assert!(matches!(over, Err(IdentityError::Conflict { .. })), "what ran out has no successor");
    }

    async fn a_rotation_ends_nothing_later_than_it_would_have_ended(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (tokens, actor, day) = (&server.identity.enrollment_tokens, Actor::system(), Duration::from_secs(86_400));
        let end = Some(crate::harness::START.plus(day));
        let new = NewEnrollmentToken { name: "short".to_owned(), expires_at: end, ..NewEnrollmentToken::default() };
        let (old, secret) = tokens.create(&actor, new).await.unwrap();
        let rotated = tokens.rotate(&actor, old.id, day * 7, Successor::default()).await.unwrap();
        assert_eq!(rotated.old.expires_at, end);
        let at_once = tokens.rotate(&actor, rotated.token.id, Duration::ZERO, Successor::default()).await.unwrap();
        assert!(at_once.old.rotation.unwrap().warning.is_none(), "nobody needs it");
        let refused = server.post("/api/v1/osquery/enroll", ubuntu(&rotated.secret, "x")).await;
        assert_eq!(refused.status, 401, "it ended with the rotation");
        server.enroll_with(&ubuntu(&secret, "x")).await;
        server.enroll_with(&ubuntu(&at_once.secret, "y")).await;
    }

    async fn many_enrollments_of_one_machine_at_once_make_one_host(db: TestDatabase) {
        let server = std::sync::Arc::new(TestServer::new(&db).await);
        let tasks: Vec<_> = (0..8)
            .map(|number| {
                let server = std::sync::Arc::clone(&server);
                tokio::spawn(async move {
                    if number % 2 == 0 {
                        server.enroll("same").await
                    } else {
                        server.enroll_orbit("same").await
                    }
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().len(), 32);
        }
        let row = (&server.database).fetch_one("SELECT COUNT(*) AS n FROM hosts_hosts", args![]).await.unwrap();
        assert_eq!(row.get::<i64>("n").unwrap(), 1);
    }

    async fn the_timeline_of_a_host_keeps_its_newest_events(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let mut key = server.enroll("a").await;
        for _ in 0..210 {
            key = server.enroll("a").await;
        }
        let events = server.agents.events_of(server.host_of(&key).await, 500).await.unwrap();
        assert_eq!(events.len(), 200);
        assert!(events.iter().all(|event| event.kind == "enrolled" && event.details["new"] == false));
    }

    async fn osquery_and_orbit_that_enroll_at_once_are_one_host(db: TestDatabase) {
        const ROUNDS: usize = 20;
        let server = Arc::new(TestServer::new(&db).await);
        for round in 0..ROUNDS {
            let uuid = format!("4C4C4544-0043-3010-8052-{round:012}");
            let mut osquery = ubuntu(&server.secret, &format!("instance-{round}"));
            osquery["host_details"]["system_info"]["uuid"] = json!(uuid);
            let orbit = json!({"enroll_secret": server.secret, "hardware_uuid": uuid.to_lowercase()});
            let enrolling = [("/api/osquery/enroll", osquery), ("/api/fleet/orbit/enroll", orbit)].map(|(path, body)| {
                let server = Arc::clone(&server);
                tokio::spawn(async move { server.post(path, body).await.status })
            });
            for enrolling in enrolling {
                assert_eq!(enrolling.await.unwrap(), 200);
            }
            let rows = (&server.database).fetch_all("SELECT id FROM hosts_hosts", args![]).await.unwrap();
            assert_eq!(rows.len(), round + 1);
        }
    }

    async fn a_used_up_token_admits_only_the_host_that_came_by_it_and_each_time_is_kept(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (token, once) = single_use(&server, "once").await;
        let key = server.enroll_with(&ubuntu(&once, "mine")).await;
        let host = server.host_of(&key).await;
        let other = server.enroll("other").await;
        let other = server.host_of(&other).await;
        let kinds = async |host| -> Vec<String> {
            let events = server.agents.events_of(host, 10).await.unwrap();
            events.into_iter().map(|event| event.kind).collect()
        };
        let tokens = &server.identity.enrollment_tokens;
        for again in 1..3 {
            server.enroll_with(&ubuntu(&once, "mine")).await;
            let kept = tokens.find(token).await.unwrap();
            assert_eq!((kept.uses, kept.reenrollments, kept.used_by), (1, again, Some(host)));
            assert_eq!(kinds(host).await[0], "enrolled_with_used_up_token");
        }
        assert_eq!(kinds(host).await.len(), 3);
        // What identifies a host that another token admitted does not help.
        let mut forged = ubuntu(&once, "forged");
        forged["host_details"]["system_info"]["uuid"] = json!("other");
        for body in [ubuntu(&once, "other"), forged] {
            let refused = server.post("/api/osquery/enroll", body).await;
            assert_eq!((refused.status, refused.json()["node_invalid"].clone()), (401, json!(true)));
        }
        let orbit = json!({"enroll_secret": once, "hardware_uuid": "other"});
        assert_eq!(server.post("/api/fleet/orbit/enroll", orbit).await.status, 401);
        assert_eq!(kinds(other).await, ["enrolled"]);
        assert_eq!(server.identity.agent_keys.list(other).await.unwrap().len(), 1);
        let kept = tokens.find(token).await.unwrap();
        assert_eq!((kept.uses, kept.reenrollments), (1, 2));
    }

    async fn a_token_that_was_revoked_or_ran_out_admits_not_even_those_who_came_by_it(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (token, secret) = single_use(&server, "once").await;
        server.enroll_with(&ubuntu(&secret, "a")).await;
        // On another server, whose hint never came here: the tokens in memory are older.
        (&server.database)
            .execute("UPDATE identity_enrollment_tokens SET revoked_at = 1 WHERE id = $1", args![token])
            .await
            .unwrap();
        let again = async || server.post("/api/osquery/enroll", ubuntu(&secret, "a")).await.status;
        assert_eq!(again().await, 401);
        let sql = "UPDATE identity_enrollment_tokens SET revoked_at = NULL, expires_at = $2 WHERE id = $1";
        let now = muster_clock::Clock::now(&*server.clock);
        (&server.database).execute(sql, args![token, now]).await.unwrap();
        assert_eq!(again().await, 401);
        let sql = "UPDATE identity_enrollment_tokens SET expires_at = NULL WHERE id = $1";
        (&server.database).execute(sql, args![token]).await.unwrap();
        assert_eq!(again().await, 200);
        server.identity.enrollment_tokens.revoke(&Actor::system(), token).await.unwrap();
        assert_eq!(again().await, 401);
    }
}
