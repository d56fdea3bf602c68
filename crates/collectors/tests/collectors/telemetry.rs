//! Where collectors send telemetry about themselves, as operators set it.

use axum::Extension;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use http_body_util::BodyExt as _;
use muster_http::Shape;
use muster_identity::{Actor, Family, KnownAgents, NewEnrollmentToken, Principal, Role};
use muster_store::testing::on_both_databases;
use muster_store::{Executor as _, args};
use muster_wire_opamp::proto::{ConnectionSettingsStatus, ServerToAgent};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{Fixture, admin, described, message, somebody, until};

const METRICS: u64 = 0x40;
const LOGS: u64 = 0x80;

async fn call(
    fixture: &Fixture,
    who: &Principal,
    method: &str,
    path: &str,
    body: Value,
) -> (u16, Value) {
    let routes = muster_collectors::http::telemetry_routes(fixture.collectors.clone());
    let (routes, _) = routes.split_for_parts();
    let app: axum::Router = routes
        .layer(from_fn_with_state(Shape::Native, muster_http::shape))
        .layer(Extension(who.clone()));
    let body = match body {
        Value::Null => Body::empty(),
        body => Body::from(body.to_string()),
    };
    let request = Request::builder().method(method).uri(path).body(body);
    let response = app.oneshot(request.unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

fn settings(name: &str, selector: &str) -> Value {
    json!({
        "name": name, "selector": selector,
        "metrics": { "endpoint": format!("https://{name}.example.com/v1/metrics"),
                     "headers": { "Authorization": "Bearer hunter2" } },
        "logs": { "endpoint": format!("https://{name}.example.com/v1/logs") },
    })
}

/// Makes settings; gives their id.
async fn make(fixture: &Fixture, body: Value) -> i64 {
    let (status, made) = call(fixture, &admin(), "POST", "/collector-telemetry", body).await;
    assert_eq!(status, 201, "{made}");
    made["id"].as_i64().unwrap()
}

fn metrics_endpoint(answer: &ServerToAgent) -> Option<String> {
    let settings = answer.connection_settings.as_ref()?;
    Some(settings.own_metrics.as_ref()?.destination_endpoint.clone())
}

/// An agent that polls until it is offered something; gives the offer, and the number of its last message.
async fn polled(
    fixture: &Fixture,
    token: &str,
    uid: u8,
    mut sequence: u64,
    bits: u64,
) -> (ServerToAgent, u64) {
    for _ in 0..200 {
        sequence += 1;
        fixture.wait(1);
        let answer = fixture.send(token, &message(uid, sequence, bits)).await;
        if answer.connection_settings.is_some() {
            return (answer, sequence);
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("nothing was offered");
}

on_both_databases! {
    async fn a_team_with_all_the_settings_it_may_have_leaves_room_for_others(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let team = fixture.identity.teams.create(&Actor::system(), "Edge", "").await.unwrap().id;
        let of_team = async |name: &str| {
            let mut body = settings(name, "*");
            body["team_id"] = json!(team.0);
            call(&fixture, &admin(), "POST", "/collector-telemetry", body).await
        };
        for number in 0..200 {
            let (status, made) = of_team(&format!("s{number}")).await;
            assert_eq!(status, 201, "{made}");
        }
        let (status, refused) = of_team("more").await;
        assert_eq!(status, 409, "{refused}");
        assert!(refused.to_string().contains("the team has 200 settings"), "{refused}");
        make(&fixture, settings("more", "*")).await;
        let path = "/collector-telemetry/1";
        assert_eq!(call(&fixture, &admin(), "DELETE", path, Value::Null).await.0, 204);
        assert_eq!(of_team("more").await.0, 201);
    }

    async fn collectors_are_offered_what_is_set_for_them_and_say_what_became_of_it(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let all = make(&fixture, settings("all", "*")).await;
        let bits = METRICS | LOGS | 0x8000;
        fixture.send(&token, &described(1, 0, bits)).await;
        let (offer, sequence) = polled(&fixture, &token, 1, 0, bits).await;
        assert_eq!(metrics_endpoint(&offer).unwrap(), "https://all.example.com/v1/metrics");
        let offered = offer.connection_settings.unwrap();
        assert!(offered.opamp.is_none() && offered.own_traces.is_none() && offered.own_logs.is_some());
        let headers = offered.own_metrics.unwrap().headers.unwrap().headers;
        assert_eq!((headers[0].key.as_str(), headers[0].value.as_str()), ("Authorization", "Bearer hunter2"));
        let shown = fixture.look(1).await;
        let own = &shown["own_telemetry"];
        assert_eq!((&own["settings"], &own["settings_id"], &own["status"]), (&json!("all"), &json!(all), &json!("offered")));
        assert_eq!(own["signals"], json!(["metrics", "logs"]));
        assert_eq!(shown["events"][0]["kind"], "telemetry_offered");
        assert!(!shown.to_string().contains("hunter2"), "{shown}");

        let mut said = message(1, sequence + 1, bits);
        said.connection_settings_status = Some(ConnectionSettingsStatus {
            last_connection_settings_hash: offered.hash,
            status: 3,
            error_message: "no such host".to_owned(),
        });
        fixture.send(&token, &said).await;
        let own = fixture.look(1).await["own_telemetry"].clone();
        assert_eq!((&own["status"], &own["error"]), (&json!("failed"), &json!("no such host")));

        // Settings that count more are for this one, by an attribute.
        let mut canary = settings("canary", "host.name=box-1");
        canary["priority"] = json!(10);
        let canary = make(&fixture, canary).await;
        let (offer, sequence) = polled(&fixture, &token, 1, sequence + 1, bits).await;
        assert_eq!(metrics_endpoint(&offer).unwrap(), "https://canary.example.com/v1/metrics");
        // It is another machine now, by what it says.
        fixture.wait(60);
        let mut moved = described(2, sequence + 1, bits);
        moved.instance_uid = message(1, 0, 0).instance_uid;
        fixture.send(&token, &moved).await;
        let (offer, _) = polled(&fixture, &token, 1, sequence + 1, bits).await;
        assert_eq!(metrics_endpoint(&offer).unwrap(), "https://all.example.com/v1/metrics");
        for id in [canary, all] {
            let (status, _) = call(&fixture, &admin(), "DELETE", &format!("/collector-telemetry/{id}"), Value::Null).await;
            assert_eq!(status, 204);
        }
        assert_eq!(fixture.look(1).await["own_telemetry"]["status"], "left_alone");
        let said_nothing = described(3, 0, 0);
        fixture.send(&token, &said_nothing).await;
        make(&fixture, settings("all", "*")).await;
        assert_eq!(fixture.look(2).await["own_telemetry"]["status"], "cannot");
    }

    async fn secrets_are_masked_sealed_and_kept_by_their_mask(db: TestDatabase) {
        let fixture = Fixture::quiet(&db).await;
        let id = make(&fixture, settings("backend", "*")).await;
        let path = format!("/collector-telemetry/{id}");
        let (_, shown) = call(&fixture, &admin(), "GET", &path, Value::Null).await;
        assert_eq!(shown["metrics"]["headers"], json!({ "Authorization": "[MASKED]" }));
        let (_, listed) = call(&fixture, &admin(), "GET", "/collector-telemetry", Value::Null).await;
        assert_eq!(listed["items"][0], shown);
        // Whoever writes the mask leaves the value as it is, and nothing that stays the same is another offer.
        let mut changed = shown.clone();
        changed["priority"] = json!(5);
        let (status, after) = call(&fixture, &admin(), "PUT", &path, changed).await;
        assert_eq!((status, &after["priority"]), (200, &json!(5)), "{after}");
        let database = db.database();
        let row = async || (&database).fetch_one("SELECT hash, sealed FROM collectors_telemetry", args![]).await.unwrap();
        let (hash, sealed): (String, Vec<u8>) = (row().await.get("hash").unwrap(), row().await.get("sealed").unwrap());
        assert!(!String::from_utf8_lossy(&sealed).contains("hunter2"));
        let mut changed = after;
        changed["metrics"]["headers"]["X-Tenant"] = json!("blue");
        let (status, _) = call(&fixture, &admin(), "PUT", &path, changed.clone()).await;
        assert_eq!(status, 200);
        assert_ne!(row().await.get::<String>("hash").unwrap(), hash);
        let opened = fixture.identity.open_secret(
            &row().await.get::<Vec<u8>>("sealed").unwrap(),
            &format!("collector_telemetry/{}", row().await.get::<String>("hash").unwrap()),
        ).unwrap();
        assert!(opened.contains("hunter2") && opened.contains("blue"), "both values are there");
        let audited = (&database).fetch_all("SELECT before_json, after_json FROM identity_audit", args![]).await.unwrap();
        assert!(audited.len() >= 3);
        for entry in &audited {
            for side in ["before_json", "after_json"] {
                let text: Option<String> = entry.get(side).unwrap();
                assert!(!text.unwrap_or_default().contains("hunter2"));
            }
        }
        // A mask where there was nothing, and whatever else is wrong.
        for (member, value, wrong) in [
            ("traces", json!({ "endpoint": "https://a/", "headers": { "A": "[MASKED]" } }), "had none before"),
            ("metrics", json!({ "endpoint": "a" }), "whole URL"),
            ("selector", json!("a b"), "at character"),
            ("priority", json!(2_000_000), "from -1000000"),
            ("name", json!(" "), "from 1 to 100"),
            ("team_id", json!(7), "cannot change"),
        ] {
            let mut body = changed.clone();
            body[member] = value;
            let (status, problem) = call(&fixture, &admin(), "PUT", &path, body).await;
            assert_eq!(status, 422, "{member}: {problem}");
            assert!(problem.to_string().contains(wrong), "{member}: {problem}");
        }
        let nothing = json!({ "name": "nothing" });
        assert_eq!(call(&fixture, &admin(), "POST", "/collector-telemetry", nothing).await.0, 422);
        let again = settings("backend", "*");
        assert_eq!(call(&fixture, &admin(), "POST", "/collector-telemetry", again).await.0, 409);
        assert_eq!(call(&fixture, &admin(), "GET", "/collector-telemetry/99", Value::Null).await.0, 404);
    }

    async fn settings_of_a_team_are_for_its_collectors_and_its_people(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        fixture.identity.teams.attach(fixture.collectors.telemetry_belongings());
        let team = fixture.identity.teams.create(&Actor::system(), "edge", "").await.unwrap().id;
        let new = NewEnrollmentToken {
            name: "edge".to_owned(),
            team_id: Some(team),
            families: vec![Family::Opamp],
            ..NewEnrollmentToken::default()
        };
        let token = fixture.identity.enrollment_tokens.create(&Actor::system(), new).await.unwrap().1;
        let elsewhere = fixture.token(KnownAgents::Adopt).await;
        let maintainer = somebody(None, vec![(team, Role::Maintainer)]);
        let (status, _) = call(&fixture, &maintainer, "POST", "/collector-telemetry", settings("all", "*")).await;
        assert_eq!(status, 403, "what is for all teams is not a team's to make");
        let mut theirs = settings("theirs", "*");
        theirs["team_id"] = json!(team);
        let (status, made) = call(&fixture, &maintainer, "POST", "/collector-telemetry", theirs).await;
        assert_eq!(status, 201, "{made}");
        let stranger = somebody(None, vec![(muster_identity::TeamId(99), Role::Maintainer)]);
        let (status, _) = call(&fixture, &stranger, "GET", &format!("/collector-telemetry/{}", made["id"]), Value::Null).await;
        assert_eq!(status, 404);
        fixture.send(&elsewhere, &described(2, 0, METRICS)).await;
        fixture.send(&token, &described(1, 0, METRICS)).await;
        polled(&fixture, &token, 1, 0, METRICS).await;
        let answer = fixture.send(&elsewhere, &message(2, 1, METRICS)).await;
        assert!(answer.connection_settings.is_none());
        fixture.identity.teams.delete(&Actor::system(), team).await.unwrap();
        until("they go with their team", || async {
            let (_, listed) = call(&fixture, &admin(), "GET", "/collector-telemetry", Value::Null).await;
            listed["total"] == 0
        }).await;
    }
}
