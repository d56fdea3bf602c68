//! Keys of hosts taken away, renewed and banned; machines that look the same.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use http_body_util::BodyExt as _;
use muster_http::Shape;
use muster_replicas::Lease;
use muster_store::Executor as _;
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::fleet::{Operators, admin};
use crate::harness::{TestServer, ubuntu};

/// Asks as an administrator.
async fn call(server: &TestServer, method: &str, path: &str, body: Value) -> (u16, Value) {
    let hosts = Operators::new(server).hosts;
    let (keys, _) = muster_hosts::http::native_key_routes(hosts.clone()).split_for_parts();
    let (routes, _) = muster_hosts::http::native_host_routes(hosts).split_for_parts();
    let app: Router = routes
        .merge(keys)
        .layer(from_fn_with_state(Shape::Native, muster_http::shape))
        .layer(Extension(admin()));
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    let request = Request::builder().method(method).uri(path);
    let response = app.oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

async fn detail(server: &TestServer, id: i64) -> Value {
    let (status, detail) = call(server, "GET", &format!("/hosts/{id}"), Value::Null).await;
    assert_eq!(status, 200, "{detail}");
    detail
}

fn events(detail: &Value) -> Vec<&str> {
    let events = detail["events"].as_array().unwrap().iter();
    events
        .map(|event| event["kind"].as_str().unwrap())
        .collect()
}

/// What the maintenance of every half minute does.
async fn maintain(server: &TestServer) {
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    server
        .identity
        .run_maintenance(&Lease::always(), stop)
        .await;
}

async fn is_good(server: &TestServer, key: &str) -> bool {
    match server.read(key).await.status {
        200 => true,
        401 => false,
        other => panic!("neither good nor refused: {other}"),
    }
}

async fn is_good_orbit(server: &TestServer, key: &str) -> bool {
    let body = json!({ "orbit_node_key": key });
    match server.post("/api/fleet/orbit/config", body).await.status {
        200 => true,
        401 => false,
        other => panic!("neither good nor refused: {other}"),
    }
}

/// The enrollment of a machine, as osquery and as orbit, that shares what hardware tells with others.
struct Machine {
    uuid: String,
    serial: String,
    name: String,
}

impl Machine {
    fn new(uuid: &str, serial: &str, name: &str) -> Self {
        Self {
            uuid: uuid.to_owned(),
            serial: serial.to_owned(),
            name: name.to_owned(),
        }
    }

    fn osquery(&self, secret: &str, instance: &str) -> Value {
        let mut body = ubuntu(secret, &self.uuid);
        let details = &mut body["host_details"];
        details["osquery_info"]["instance_id"] = json!(instance);
        details["system_info"]["hostname"] = json!(self.name);
        details["system_info"]["computer_name"] = json!(self.name);
        details["system_info"]["hardware_serial"] = json!(self.serial);
        body
    }

    fn orbit(&self, secret: &str) -> Value {
        json!({ "enroll_secret": secret, "hardware_uuid": self.uuid, "hardware_serial": self.serial,
            "hostname": self.name, "computer_name": self.name, "platform": "ubuntu" })
    }
}

const UUID: &str = "4c4c4544-0043-3010-8052-b7c04f4e3732";
const CHECK_IN: Duration = Duration::from_secs(10);

on_both_databases! {
    async fn a_key_that_is_taken_away_is_refused_and_its_host_comes_back_by_its_token(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (key, neighbour) = (server.enroll("a").await, server.enroll("b").await);
        let orbit = server.enroll_orbit("a").await;
        assert!(is_good(&server, &key).await && is_good_orbit(&server, &orbit).await);
        let host = server.host_of(&key).await;
        let shown = detail(&server, host.0).await;
        let osquery = shown["keys"].as_array().unwrap().iter().find(|key| key["family"] == "osquery");
        let path = format!("/hosts/{host}/keys/{}/revoke", osquery.unwrap()["id"]);
        assert_eq!(call(&server, "POST", &path, Value::Null).await.0, 204);
        assert!(!is_good(&server, &key).await);
        assert!(is_good_orbit(&server, &orbit).await, "the other agent of the host goes on");
        assert!(is_good(&server, &neighbour).await);
        let (status, problem) = call(&server, "POST", &path, Value::Null).await;
        assert_eq!(status, 404, "{problem}");
        let again = server.enroll("a").await;
        assert!(is_good(&server, &again).await);
        assert_eq!(server.host_of(&again).await, host);
    }

    async fn a_banned_host_stays_away_whatever_it_shows_until_it_is_let_in(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let machine = Machine::new(UUID, "SER-1", "web-1");
        let key = server.enroll_with(&machine.osquery(&server.secret, "i-1")).await;
        let orbit = server.enroll_orbit_with(machine.orbit(&server.secret)).await;
        let neighbour = server.enroll("b").await;
        let host = server.host_of(&key).await;
        let ban = format!("/hosts/{host}/ban");
        let (status, banned) = call(&server, "PUT", &ban, json!({ "reason": "stolen" })).await;
        assert_eq!((status, &banned["reason"]), (200, &json!("stolen")), "{banned}");
        assert_eq!(call(&server, "PUT", &ban, json!({ "reason": "again" })).await.1["reason"], "stolen");
        assert!(!is_good(&server, &key).await && !is_good_orbit(&server, &orbit).await);
        assert!(is_good(&server, &neighbour).await);
        let refused = async |secret: &str| {
            let osquery = server.post("/api/osquery/enroll", machine.osquery(secret, "i-2")).await;
            let orbit = server.post("/api/fleet/orbit/enroll", machine.orbit(secret)).await;
            (osquery.status, orbit.status)
        };
        assert_eq!(refused(&server.secret).await, (401, 401));
        let other = server.token("another", None).await;
        assert_eq!(refused(&other).await, (401, 401), "a valid token does not help");

        // Who goes on calling is shown, with why and how often.
        assert!(!is_good(&server, &key).await);
        maintain(&server).await;
        let (_, refusals) = call(&server, "GET", "/refused-agents", Value::Null).await;
        let items = refusals["items"].as_array().unwrap();
        let osquery = items.iter().find(|item| item["family"] == "osquery").unwrap();
        assert_eq!((&osquery["reason"], &osquery["host_id"]), (&json!("banned"), &json!(host)));
        assert_eq!(osquery["calls"], 2, "{refusals}");

        // Nor does it help to be deleted.
        assert_eq!(call(&server, "DELETE", &format!("/hosts/{host}"), Value::Null).await.0, 204);
        assert_eq!(refused(&server.secret).await, (401, 401));
        let (_, bans) = call(&server, "GET", "/bans", Value::Null).await;
        assert_eq!((&bans["total"], &bans["items"][0]["display_name"]), (&json!(1), &json!("web-1")));
        assert_eq!(call(&server, "DELETE", &ban, Value::Null).await.0, 204);
        assert_eq!(refused(&server.secret).await, (200, 200));
    }

    async fn a_ban_holds_also_for_those_who_enroll_at_that_moment(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        for round in 0..6 {
            let name = format!("machine-{round}");
            let key = server.enroll(&name).await;
            let ban = format!("/hosts/{}/ban", server.host_of(&key).await);
            let body = json!({ "enroll_secret": server.secret, "host_identifier": name });
            let enrollments = (0..12).map(|_| server.post("/api/osquery/enroll", body.clone()));
            let (banned, enrolled) = tokio::join!(
                call(&server, "PUT", &ban, json!({ "reason": "stolen" })),
                futures_util::future::join_all(enrollments)
            );
            assert_eq!(banned.0, 200, "{banned:?}");
            for answer in enrolled {
                assert!([200, 401].contains(&answer.status), "{answer:?}");
                if let Some(key) = answer.json()["node_key"].as_str().filter(|key| !key.is_empty()) {
                    assert!(!is_good(&server, key).await, "a key of a banned host");
                }
            }
            assert!(!is_good(&server, &key).await);
        }
    }

    async fn hosts_are_put_together_once_and_never_with_banned_ones(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let merge = async |id, into| call(&server, "POST", &format!("/hosts/{id}/merge"), json!({ "into": into })).await.0;
        for round in 0..6 {
            let keys = [server.enroll(&format!("a-{round}")).await, server.enroll(&format!("b-{round}")).await];
            let (a, b) = (server.host_of(&keys[0]).await, server.host_of(&keys[1]).await);
            let mut answers: [u16; 2] = tokio::join!(merge(a, b), merge(b, a)).into();
            answers.sort_unstable();
            assert_eq!(answers, [204, 404]);
            for key in &keys {
                assert!(is_good(&server, key).await, "both go on as one");
            }
            assert_eq!(server.host_of(&keys[0]).await, server.host_of(&keys[1]).await);
        }
        let (good, banned) = (server.enroll("good").await, server.enroll("banned").await);
        let (host, away) = (server.host_of(&good).await, server.host_of(&banned).await);
        assert_eq!(call(&server, "PUT", &format!("/hosts/{away}/ban"), json!({ "reason": "lost" })).await.0, 200);
        assert_eq!((merge(host, away).await, merge(away, host).await), (409, 409));
        assert!(is_good(&server, &good).await && !is_good(&server, &banned).await);
    }

    async fn a_host_that_is_deleted_while_it_enrolls_leaves_no_key_behind(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        for round in 0..6 {
            let name = format!("machine-{round}");
            let host = server.host_of(&server.enroll(&name).await).await;
            let path = format!("/hosts/{host}");
            let body = json!({ "enroll_secret": server.secret, "host_identifier": name });
            let enrollments = (0..6).map(|_| server.post("/api/osquery/enroll", body.clone()));
            let (deleted, _) = tokio::join!(
                call(&server, "DELETE", &path, Value::Null),
                futures_util::future::join_all(enrollments)
            );
            assert_eq!(deleted.0, 204, "{deleted:?}");
        }
        let orphans = "SELECT COUNT(*) AS total FROM identity_agent_keys k WHERE k.revoked_at IS NULL
            AND NOT EXISTS (SELECT 1 FROM hosts_hosts h WHERE h.id = k.host_id)";
        let row = (&server.database).fetch_one(orphans, vec![]).await.unwrap();
        assert_eq!(row.get::<i64>("total").unwrap(), 0);
    }

    async fn a_deleted_host_that_still_calls_costs_no_statement_and_is_shown(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        assert_eq!(call(&server, "DELETE", &format!("/hosts/{host}"), Value::Null).await.0, 204);
        assert!(!is_good(&server, &key).await);
        let before = server.database.statements();
        for _ in 0..20 {
            assert!(!is_good(&server, &key).await);
        }
        assert_eq!(server.database.statements(), before);
        maintain(&server).await;
        let (_, refusals) = call(&server, "GET", "/refused-agents", Value::Null).await;
        assert_eq!(refusals["items"][0]["reason"], "deleted", "{refusals}");
        assert_eq!(refusals["items"][0]["calls"], 21, "{refusals}");
    }

    async fn a_renewed_key_is_good_until_its_successor_is_used(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        let rotate = format!("/hosts/{host}/keys/rotate");
        let (status, rotated) = call(&server, "POST", &rotate, Value::Null).await;
        assert_eq!((status, &rotated["keys"]), (200, &json!(1)), "{rotated}");
        assert!(!is_good(&server, &key).await, "it is told once to enroll again");
        assert!(is_good(&server, &key).await, "and goes on as it is until it did");
        let next = server.enroll("a").await;
        assert!(is_good(&server, &key).await);
        assert!(is_good(&server, &next).await);
        assert!(!is_good(&server, &key).await);
        assert_eq!(server.host_of(&next).await, host);
        assert!(is_good(&server, &next).await, "it is not told again");
    }

    async fn a_key_is_not_renewed_when_that_would_lock_its_host_out(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        let rotate = format!("/hosts/{host}/keys/rotate");
        assert_eq!(call(&server, "POST", &rotate, Value::Null).await.0, 200);
        let tokens = &server.identity.enrollment_tokens;
        let record = server.agents.find_host(host).await.unwrap().unwrap();
        let actor = muster_identity::Actor::system();
        tokens.revoke(&actor, record.enrollment_token_id.unwrap()).await.unwrap();
        assert!(is_good(&server, &key).await, "its token went before it was told");
        let (status, problem) = call(&server, "POST", &rotate, Value::Null).await;
        assert_eq!(status, 409, "{problem}");
        assert!(is_good(&server, &key).await);
    }

    async fn all_keys_are_renewed_so_many_at_a_time(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let mut keys = Vec::new();
        for number in 0..5 {
            let key = server.enroll(&format!("h{number}")).await;
            assert!(is_good(&server, &key).await);
            keys.push(key);
        }
        server.clock.advance(CHECK_IN);
        let begin = json!({ "hosts_per_minute": 24 });
        let (status, rotation) = call(&server, "POST", "/key-rotations", begin.clone()).await;
        assert_eq!(status, 201, "{rotation}");
        assert_eq!(call(&server, "POST", "/key-rotations", begin).await.0, 409);
        assert_eq!(call(&server, "POST", "/key-rotations", json!({ "hosts_per_minute": 0 })).await.0, 422);
        let told = async || {
            let mut told = 0;
            for key in &keys {
                told += u32::from(!is_good(&server, key).await);
            }
            told
        };
        // A step is 5 seconds: two hosts of 24 a minute.
        for expected in [2, 2, 1] {
            server.agents.go_on_rotating().await;
            assert_eq!(told().await, expected);
        }
        server.agents.go_on_rotating().await;
        let (_, rotations) = call(&server, "GET", "/key-rotations", Value::Null).await;
        let rotation = &rotations["items"][0];
        assert_eq!((&rotation["asked"], &rotation["outcome"]), (&json!(5), &json!("finished")), "{rotations}");
        assert_eq!(rotations["waiting"], 5);
        for (number, key) in keys.iter().enumerate() {
            let next = server.enroll(&format!("h{number}")).await;
            assert!(is_good(&server, &next).await && !is_good(&server, key).await);
        }
        assert_eq!(call(&server, "GET", "/key-rotations", Value::Null).await.1["waiting"], 0);
        let path = format!("/key-rotations/{}/stop", rotation["id"]);
        assert_eq!(call(&server, "POST", &path, Value::Null).await.1["outcome"], "finished");
    }

    async fn two_machines_with_one_identity_become_two_hosts_within_two_check_ins(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let serials = ["0", "-1", "System Serial Number", "To be filled by O.E.M.", "SER-1"];
        for (number, serial) in serials.into_iter().enumerate() {
            let uuid = format!("4c4c4544-0043-3010-8052-b7c04f4e373{number}");
            let machines = ["one", "two"].map(|name| Machine::new(&uuid, serial, &format!("{name}-{number}")));
            let first = server.enroll_with(&machines[0].osquery(&server.secret, &format!("i1-{number}"))).await;
            assert!(is_good(&server, &first).await);
            let original = server.host_of(&first).await;
            server.clock.advance(Duration::from_secs(3_600));
            let second = server.enroll_with(&machines[1].osquery(&server.secret, &format!("i2-{number}"))).await;
            for _ in 0..2 {
                assert!(is_good(&server, &second).await && is_good(&server, &first).await);
                server.clock.advance(CHECK_IN);
            }
            assert!(is_good(&server, &first).await && is_good(&server, &second).await);
            let other = server.host_of(&second).await;
            assert_ne!(other, original, "{serial}");
            assert_eq!(server.host_of(&first).await, original, "the first keeps its record");
            // No ping-pong.
            for _ in 0..20 {
                server.clock.advance(CHECK_IN);
                assert!(is_good(&server, &first).await && is_good(&server, &second).await);
            }
            // Each comes back to its own, again and again.
            for (machine, instance, host) in
                [(&machines[1], "i2", other), (&machines[0], "i1", original), (&machines[1], "i2", other)]
            {
                let body = machine.osquery(&server.secret, &format!("{instance}-{number}"));
                let key = server.enroll_with(&body).await;
                assert!(is_good(&server, &key).await);
                assert_eq!(server.host_of(&key).await, host);
                server.clock.advance(Duration::from_secs(60));
            }
            // Both timelines name the other.
            let (one, two) = (detail(&server, original.0).await, detail(&server, other.0).await);
            assert!(events(&one).contains(&"clone_found"), "{one}");
            assert!(events(&two).contains(&"told_from_clone"), "{two}");
            assert_eq!((&one["clones"], &two["clone_of"]), (&json!([other]), &json!(original)));
        }
    }

    async fn both_agents_of_a_clone_go_to_its_own_host(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (one, two) = (Machine::new(UUID, "0", "one"), Machine::new(UUID, "0", "two"));
        let first = server.enroll_with(&one.osquery(&server.secret, "i1")).await;
        let first_orbit = server.enroll_orbit_with(one.orbit(&server.secret)).await;
        assert!(is_good(&server, &first).await && is_good_orbit(&server, &first_orbit).await);
        let second_orbit = server.enroll_orbit_with(two.orbit(&server.secret)).await;
        let second = server.enroll_with(&two.osquery(&server.secret, "i2")).await;
        for _ in 0..4 {
            assert!(is_good_orbit(&server, &second_orbit).await && is_good_orbit(&server, &first_orbit).await);
            assert!(is_good(&server, &second).await && is_good(&server, &first).await);
            server.clock.advance(CHECK_IN);
        }
        let hosts = [server.host_of(&first).await, server.host_of(&second).await];
        assert_ne!(hosts[0], hosts[1]);
        assert_eq!([server.host_of(&first_orbit).await, server.host_of(&second_orbit).await], hosts);
        let (_, all) = call(&server, "GET", "/hosts", Value::Null).await;
        assert_eq!(all["total"], 2, "{all}");
    }

    async fn a_machine_that_is_set_up_anew_keeps_its_record(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let machine = Machine::new(UUID, "SER-1", "web-1");
        let before = server.enroll_with(&machine.osquery(&server.secret, "i-1")).await;
        assert!(is_good(&server, &before).await);
        let host = server.host_of(&before).await;
        server.clock.advance(Duration::from_secs(1_200));
        let renamed = Machine::new(UUID, "SER-1", "web-1-new");
        let after = server.enroll_with(&renamed.osquery(&server.secret, "i-2")).await;
        // Requests of the old installation may have been under way.
        assert!(is_good(&server, &after).await && is_good(&server, &before).await);
        for _ in 0..30 {
            server.clock.advance(CHECK_IN);
            assert!(is_good(&server, &after).await);
        }
        assert_eq!(server.host_of(&after).await, host);
        server.clock.advance(Duration::from_secs(25 * 3_600));
        maintain(&server).await;
        server.identity.agent_keys.purge().await.unwrap();
        assert!(!is_good(&server, &before).await, "the old key has ended");
        assert!(is_good(&server, &after).await);
        let (_, all) = call(&server, "GET", "/hosts", Value::Null).await;
        assert_eq!(all["total"], 1, "{all}");
    }

    async fn an_operator_can_tell_machines_apart_and_put_them_together(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let orbit = server.enroll_orbit("a").await;
        assert!(is_good(&server, &key).await && is_good_orbit(&server, &orbit).await);
        let host = server.host_of(&key).await;
        let shown = detail(&server, host.0).await;
        let of_orbit = shown["keys"].as_array().unwrap().iter().find(|key| key["family"] == "orbit");
        let split = format!("/hosts/{host}/split");
        let wrong = call(&server, "POST", &split, json!({ "key_ids": [987_654] })).await;
        assert_eq!(wrong.0, 422, "{wrong:?}");
        let (status, new) = call(&server, "POST", &split, json!({ "key_ids": [of_orbit.unwrap()["id"]] })).await;
        assert_eq!(status, 201, "{new}");
        let other = server.host_of(&orbit).await;
        assert_eq!(json!(other), new["host_id"]);
        assert_eq!(server.host_of(&key).await, host);

        let merge = format!("/hosts/{other}/merge");
        assert_eq!(call(&server, "POST", &merge, json!({ "into": other })).await.0, 422);
        assert_eq!(call(&server, "POST", &merge, json!({ "into": 987_654 })).await.0, 404);
        assert_eq!(call(&server, "POST", &merge, json!({ "into": host })).await.0, 204);
        assert!(is_good(&server, &key).await && is_good_orbit(&server, &orbit).await);
        assert_eq!(server.host_of(&orbit).await, host);
        assert_eq!(call(&server, "GET", &format!("/hosts/{other}"), Value::Null).await.0, 404);
        assert!(events(&detail(&server, host.0).await).contains(&"merged"));
    }
}
