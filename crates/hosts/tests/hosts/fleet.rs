//! Fleet's user API for hosts and labels: recorded shapes, spellings and refusals.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use http_body_util::BodyExt as _;
use muster_clock::Clock;
use muster_hosts::{HostQuery, Hosts};
use muster_http::{ClientAddress, Shape};
use muster_identity::{Credential, NewUser, Principal, Role, TeamId, UserId};
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::harness::TestServer;

/// The operators' side of a server.
pub(crate) struct Operators {
    pub(crate) hosts: Hosts,
    app: Router,
}

fn principal(global_role: Option<Role>, teams: Vec<(TeamId, Role)>) -> Principal {
    Principal {
        user_id: UserId(1),
        name: "Ann".into(),
        email: "ann@example.com".into(),
        global_role,
        teams,
        must_reset_password: false,
        credential: Credential::Session(1),
        address: ClientAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    }
}

pub(crate) fn admin() -> Principal {
    principal(Some(Role::Admin), Vec::new())
}

pub(crate) fn member(team: TeamId, role: Role) -> Principal {
    principal(None, vec![(team, role)])
}

impl Operators {
    pub(crate) fn new(server: &TestServer) -> Self {
        let hosts = Hosts::new(
            server.database.clone(),
            Arc::clone(&server.bus),
            Arc::clone(&server.clock) as Arc<dyn Clock>,
            server.identity.clone(),
            server.software.clone(),
        );
        hosts.attach_standing(&server.standing);
        let app = muster_hosts::http::fleet_host_routes(hosts.clone());
        let app = app.layer(from_fn_with_state(Shape::Fleet, muster_http::shape));
        Self { hosts, app }
    }

    pub(crate) async fn call(
        &self,
        who: &Principal,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let request = Request::builder().method(method).uri(path).body(body);
        let app = self.app.clone().layer(Extension(who.clone()));
        let response = app.oneshot(request.unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        )
    }

    /// An answer that is not JSON, with its headers.
    pub(crate) async fn text(&self, who: &Principal, path: &str) -> (u16, HeaderMap, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let app = self.app.clone().layer(Extension(who.clone()));
        let (parts, body) = app.oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        (
            parts.status.as_u16(),
            parts.headers,
            String::from_utf8(bytes).unwrap(),
        )
    }

    pub(crate) async fn as_admin(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call(&admin(), method, path, body).await
    }
}

/// Every member of a recorded answer exists with the same kind of value; `null` goes with anything, an empty list with
/// any list. A label that no host is in has no `host_count`.
pub(crate) fn assert_shape(recorded: &Value, ours: &Value, place: &str) {
    match (recorded, ours) {
        (Value::Null, _) | (_, Value::Null) => {}
        (Value::Object(recorded), Value::Object(ours)) => {
            for (name, value) in recorded.iter().filter(|(name, _)| *name != "host_count") {
                let place = format!("{place}.{name}");
                let own = ours.get(name);
                assert_shape(
                    value,
                    own.unwrap_or_else(|| panic!("{place} is missing")),
                    &place,
                );
            }
        }
        (Value::Array(recorded), Value::Array(ours)) => {
            if let (Some(recorded), Some(own)) = (recorded.first(), ours.first()) {
                assert_shape(recorded, own, &format!("{place}[0]"));
            }
        }
        (recorded, ours) => assert_eq!(
            std::mem::discriminant(recorded),
            std::mem::discriminant(ours),
            "{place}: {recorded} and {ours}"
        ),
    }
}

fn recorded(name: &str) -> Value {
    let all: Vec<Value> = serde_json::from_str(include_str!("../data/fleet.json")).unwrap();
    let found = all.into_iter().find(|case| case["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is not recorded"))["resp"].clone()
}

on_both_databases! {
    async fn answers_have_every_recorded_member_with_the_same_kind_of_value(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        let operators = Operators::new(&server);
        let label = json!({"name": "gl", "query": "select 1", "description": "d", "platform": ""});
        let (_, made) = operators.as_admin("POST", "/labels", label.clone()).await;
        let label_id = made["label"]["id"].as_i64().unwrap();
        let all_hosts = operators.hosts.find_label_by_name("All Hosts").await.unwrap().unwrap().id;
        let picked = json!({"query": "a", "query_id": null, "selected": {"hosts": [host], "labels": [], "teams": []}});
        assert_shape(&recorded("label create"), &made, "label create");
        for (name, method, path, body) in [
            ("host", "GET", format!("/hosts/{host}"), Value::Null),
            ("host by uuid", "GET", "/hosts/identifier/a".to_owned(), Value::Null),
            ("hosts, one", "GET", "/hosts?query=h-a".to_owned(), Value::Null),
            ("host summary", "GET", "/host_summary".to_owned(), Value::Null),
            ("host summary with low disk", "GET", "/host_summary?low_disk_space=32".to_owned(), Value::Null),
            ("host device_mapping", "GET", format!("/hosts/{host}/device_mapping"), Value::Null),
            ("host macadmins", "GET", format!("/hosts/{host}/macadmins"), Value::Null),
            ("host health", "GET", format!("/hosts/{host}/health"), Value::Null),
            ("label hosts", "GET", format!("/labels/{all_hosts}/hosts?per_page=1"), Value::Null),
            ("targets", "POST", "/targets".to_owned(), picked.clone()),
            ("targets count", "POST", "/targets/count".to_owned(), picked),
            ("labels", "GET", "/labels".to_owned(), Value::Null),
            ("label", "GET", format!("/labels/{all_hosts}"), Value::Null),
            ("labels summary", "GET", "/labels/summary".to_owned(), Value::Null),
            ("spec labels", "GET", "/spec/labels".to_owned(), Value::Null),
            ("spec label, name encoded once", "GET", "/spec/labels/gl".to_owned(), Value::Null),
            ("label modify", "PATCH", format!("/labels/{label_id}"), json!({"name": "gl2"})),
            ("manual label create", "POST", "/labels".to_owned(), json!({"name": "gm", "hosts": ["h-a"]})),
        ] {
            let (status, answer) = operators.as_admin(method, &path, body).await;
            assert_eq!(status, 200, "{name}: {answer}");
            assert_shape(&recorded(name), &answer, name);
        }
    }

    async fn a_host_is_found_by_each_of_its_names_and_by_no_key(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("aaaa-b").await;
        let host = server.host_of(&key).await;
        let operators = Operators::new(&server);
        for name in ["aaaa-b", "AAAA-B", "h-aaaa-b", "SER-aaaa-b", "h%2Daaaa%2Db", "h%252Daaaa%252Db"] {
            let (status, answer) = operators.as_admin("GET", &format!("/hosts/identifier/{name}"), Value::Null).await;
            assert_eq!((status, &answer["host"]["id"]), (200, &json!(host)), "{name}");
        }
        let key = key.replace('/', "%2F").replace('+', "%2B");
        for name in ["nope", &key] {
            let (status, answer) = operators.as_admin("GET", &format!("/hosts/identifier/{name}"), Value::Null).await;
            assert_eq!((status, &answer["message"]), (404, &json!("Resource Not Found")));
        }
    }

    async fn old_and_new_spellings_mean_the_same(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let team = server.team("a").await;
        let host = server.host_of(&server.enroll("a").await).await;
        let operators = Operators::new(&server);
        for spelling in ["team_id", "fleet_id"] {
            for target in [json!(team), Value::Null] {
                let body = json!({spelling: target, "hosts": [host]});
                let (status, _) = operators.as_admin("POST", "/hosts/transfer", body).await;
                assert_eq!(status, 200);
                let (_, answer) = operators.as_admin("GET", &format!("/hosts/{host}"), Value::Null).await;
                assert_eq!(answer["host"]["team_id"], target, "{spelling}");
            }
        }
        operators.as_admin("POST", "/hosts/transfer", json!({"team_id": team, "hosts": [host]})).await;
        let (_, old) = operators.as_admin("GET", &format!("/hosts?team_id={team}"), Value::Null).await;
        let (_, new) = operators.as_admin("GET", &format!("/hosts?fleet_id={team}"), Value::Null).await;
        assert_eq!(old["hosts"][0]["team_name"], "a");
        assert_eq!(old, new);
        let (_, none) = operators.as_admin("GET", "/hosts?team_id=0", Value::Null).await;
        assert_eq!(none, json!({"hosts": []}));
        for spelling in ["teams", "fleets"] {
            let body = json!({"selected": {spelling: [team]}});
            let (_, answer) = operators.as_admin("POST", "/targets/count", body).await;
            assert_eq!(answer["targets_count"], 1, "{spelling}");
        }
    }

    async fn refusals_are_those_that_clients_know(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let operators = Operators::new(&server);
        let label = json!({"name": "seed label", "query": "select 1"});
        let (status, _) = operators.as_admin("POST", "/labels", label.clone()).await;
        assert_eq!(status, 200);
        for (method, path, body, wanted, reason) in [
            ("GET", "/hosts/999999", Value::Null, 404, "Host 999999 was not found in the datastore"),
            ("GET", "/hosts/abc", Value::Null, 404, ""),
            ("DELETE", "/hosts/999999", Value::Null, 404, "Host 999999 was not found in the datastore"),
            ("POST", "/hosts/999999/refetch", Value::Null, 404, "Host 999999"),
            ("GET", "/labels/999", Value::Null, 404, "Label 999 was not found in the datastore"),
            ("DELETE", "/labels/nope", Value::Null, 404, "Label nope was not found in the datastore"),
            ("GET", "/spec/labels/no%2520such%2520label", Value::Null, 404, "Label no such label was not found in the datastore"),
            ("DELETE", "/labels/All%20Hosts", Value::Null, 422, "cannot delete built-in label 'All Hosts'"),
            ("DELETE", "/labels/All%2520Hosts", Value::Null, 422, "cannot delete built-in label 'All Hosts'"),
            ("POST", "/labels", label, 409, ""),
            ("POST", "/labels", json!({"name": "All Hosts", "query": "select 1"}), 422,
                "cannot add label 'All Hosts' because it conflicts with the name of a built-in label"),
            ("POST", "/labels", json!({"name": "empty", "query": " "}), 422, "must not be empty"),
            ("POST", "/labels", json!({"name": "m", "hosts": ["nobody"]}), 400, "no such host: nobody"),
            ("POST", "/hosts/transfer", json!({"team_id": 999, "hosts": [1]}), 422, ""),
            ("POST", "/hosts/transfer", json!({"team_id": null, "hosts": [999_999]}), 200, ""),
            ("GET", "/hosts?order_key=nope", Value::Null, 422, ""),
            ("GET", "/hosts?per_page=x", Value::Null, 400, "non-int per_page value"),
            ("GET", "/hosts?per_page=0", Value::Null, 400, "invalid per_page value"),
            ("GET", "/hosts?status=zz", Value::Null, 400, "Invalid status: zz"),
            ("GET", "/hosts?policy_response=passing", Value::Null, 400, "Missing policy_id"),
            ("GET", "/hosts?team_id=999", Value::Null, 400, "team is invalid"),
            ("PUT", "/hosts", Value::Null, 405, ""),
            ("POST", "/translate", json!({"list": [{"type": "host", "payload": {"identifier": "nope"}}]}), 404,
                "Host nope was not found in the datastore"),
            ("POST", "/translate", json!({"list": [{"type": "zz", "payload": {"identifier": "nope"}}]}), 400,
                "Type zz is unknown. "),
        ] {
            let (status, answer) = operators.as_admin(method, path, body).await;
            assert_eq!(status, wanted, "{method} {path}: {answer}");
            if !reason.is_empty() {
                let said = answer["errors"][0]["reason"].as_str().unwrap();
                assert!(said.contains(reason), "{method} {path}: {answer}");
            }
        }
    }

    async fn names_are_translated_to_numbers(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let team = server.team("gold team").await;
        let host = server.host_of(&server.enroll("gold").await).await;
        let new = NewUser {
            name: "a".to_owned(),
            email: "a@example.com".to_owned(),
            password: "password123#".to_owned(),
            global_role: Some(Role::Observer),
            ..NewUser::default()
        };
        let user = server.identity.users.create(&muster_identity::Actor::system(), new).await.unwrap().id;
        let operators = Operators::new(&server);
        let label = operators.hosts.find_label_by_name("All Hosts").await.unwrap().unwrap().id;
        let item = |kind: &str, name: &str, id: i64| json!({"type": kind, "payload": {"identifier": name, "id": id}});
        let asked = json!({"list": [item("host", "h-gold", 0), item("label", "All Hosts", 0),
            item("team", "gold team", 0), item("user", "a@example.com", 0)]});
        let (status, answer) = operators.as_admin("POST", "/translate", asked).await;
        assert_eq!(status, 200);
        let expected = json!({"list": [item("host", "h-gold", host.0), item("label", "All Hosts", label.0),
            item("team", "gold team", team.0), item("user", "a@example.com", user.0)]});
        assert_eq!(answer, expected);
    }

    async fn documents_that_were_read_can_be_applied_and_change_nothing(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        server.enroll("a").await;
        let operators = Operators::new(&server);
        for body in [
            json!({"name": "seed label", "query": "select 1", "description": "d", "platform": "darwin"}),
            json!({"name": "by hand", "hosts": ["h-a"]}),
        ] {
            assert_eq!(operators.as_admin("POST", "/labels", body).await.0, 200);
        }
        let (_, specs) = operators.as_admin("GET", "/spec/labels", Value::Null).await;
        let (_, before) = operators.as_admin("GET", "/labels", Value::Null).await;
        server.clock.advance(std::time::Duration::from_secs(60));
        let (status, answer) = operators.as_admin("POST", "/spec/labels", specs.clone()).await;
        assert_eq!((status, answer), (200, json!({})));
        let (_, after) = operators.as_admin("GET", "/labels", Value::Null).await;
        assert_eq!(before, after);
        let mut all = specs["specs"].as_array().unwrap().iter();
        let mut builtin = all.find(|spec| spec["label_type"] == "builtin").cloned().unwrap();
        builtin["query"] = json!("select 2");
        let (status, _) = operators.as_admin("POST", "/spec/labels", json!({"specs": [builtin]})).await;
        assert_eq!(status, 422);
        // One wrong document, and none is applied.
        let both = json!({"specs": [{"name": "good", "query": "select 1"}, {"name": "bad", "query": ""}]});
        let (status, _) = operators.as_admin("POST", "/spec/labels", both).await;
        assert_eq!(status, 422);
        assert!(operators.hosts.find_label_by_name("good").await.unwrap().is_none());
    }

    async fn members_of_a_manual_label_are_replaced_and_the_query_of_a_dynamic_one_is_asked_anew(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        for name in ["a", "b"] {
            server.enroll(name).await;
        }
        let operators = Operators::new(&server);
        let (_, made) = operators.as_admin("POST", "/labels", json!({"name": "m", "hosts": ["h-a"]})).await;
        let id = made["label"]["id"].as_i64().unwrap();
        let (_, changed) = operators.as_admin("PATCH", &format!("/labels/{id}"), json!({"hosts": ["SER-b"]})).await;
        let label = &changed["label"];
        assert_eq!((&label["count"], label["host_ids"].as_array().map(Vec::len)), (&json!(1), Some(1)));
        let query = HostQuery { label_id: Some(id), ..HostQuery::default() };
        let members = operators.hosts.matching(&admin(), None, &query).await.unwrap();
        assert_eq!(operators.hosts.find(&admin(), members[0]).await.unwrap().facts.hostname, "h-b");
        let spec = json!({"specs": [{"name": "d", "query": "select 1"}]});
        operators.as_admin("POST", "/spec/labels", spec).await;
        let before = operators.hosts.find_label_by_name("d").await.unwrap().unwrap();
        server.clock.advance(std::time::Duration::from_secs(60));
        let spec = json!({"specs": [{"name": "d", "query": "select 2"}]});
        operators.as_admin("POST", "/spec/labels", spec).await;
        let after = operators.hosts.find_label_by_name("d").await.unwrap().unwrap();
        assert_eq!((after.id, after.query.as_str()), (before.id, "select 2"));
        assert!(after.query_changed_at > before.query_changed_at);
        let (status, _) = operators.as_admin("DELETE", &format!("/labels/id/{id}"), Value::Null).await;
        assert_eq!(status, 200);
        let (status, _) = operators.as_admin("GET", &format!("/labels/{id}"), Value::Null).await;
        assert_eq!(status, 404);
    }

    async fn a_report_has_the_wanted_columns_filters_and_order(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        for name in ["gold", "gilt", "iron"] {
            server.enroll(name).await;
        }
        let gold = server.host_of(&server.enroll("gold").await).await;
        let operators = Operators::new(&server);
        let path = "/hosts/report?format=csv&columns=id,hostname,status,uuid&query=h-g&order_key=hostname&order_direction=desc";
        let (status, headers, text) = operators.text(&admin(), path).await;
        assert_eq!(status, 200);
        assert_eq!(headers["content-type"], "text/csv");
        assert_eq!(headers["content-disposition"], "attachment; filename=\"Hosts 2026-11-23.csv\"");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["id,hostname,status,uuid", &format!("{gold},h-gold,online,gold")], "{text}");
        assert!(lines.len() == 3 && lines[2].contains(",h-gilt,"), "{text}");
        let (_, _, text) = operators.text(&admin(), "/hosts/report?format=csv").await;
        assert!(text.starts_with("created_at,updated_at,") && text.lines().count() == 4, "{text}");
        let (_, _, none) = operators.text(&member(TeamId(9), Role::Admin), path).await;
        assert_eq!(none, "id,hostname,status,uuid\n");
        for (path, reason) in [
            ("/hosts/report", "Param Format is required"),
            ("/hosts/report?format=csv&columns=nope", "invalid column name: \"nope\""),
            ("/hosts/report?format=pdf", "unsupported or unspecified report format"),
        ] {
            let (status, answer) = operators.as_admin("GET", path, Value::Null).await;
            assert_eq!((status, &answer["errors"][0]["reason"]), (400, &json!(reason)));
        }
    }

    async fn operators_say_who_uses_a_host(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let host = server.host_of(&server.enroll("a").await).await;
        let operators = Operators::new(&server);
        let path = format!("/hosts/{host}/device_mapping");
        for email in ["ann@example.com", "bo@example.com"] {
            let (status, answer) = operators.as_admin("PUT", &path, json!({ "email": email })).await;
            let expected = json!({"host_id": host, "device_mapping": [{"email": email, "source": "custom"}]});
            assert_eq!((status, &answer), (200, &expected));
            assert_eq!(operators.as_admin("GET", &path, Value::Null).await.1, expected);
        }
        let long = json!({ "email": "x".repeat(256) });
        assert_eq!(operators.as_admin("PUT", &path, long).await.0, 422);
        let (_, answer) = operators.as_admin("PUT", &path, json!({ "email": "" })).await;
        assert_eq!(answer["device_mapping"], json!([]));
        let team = server.team("a").await;
        operators.as_admin("POST", "/hosts/transfer", json!({"team_id": team, "hosts": [host]})).await;
        let body = json!({ "email": "c@example.com" });
        let observer = member(team, Role::Observer);
        assert_eq!(operators.call(&observer, "PUT", &path, body.clone()).await.0, 403);
        let other = member(TeamId(team.0 + 1), Role::Admin);
        assert_eq!(operators.call(&other, "PUT", &path, body.clone()).await.0, 404);
        assert_eq!(operators.call(&member(team, Role::Maintainer), "PUT", &path, body).await.0, 200);
    }

    async fn a_host_comes_into_manual_labels_and_leaves_them(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let host = server.host_of(&server.enroll("a").await).await;
        let operators = Operators::new(&server);
        for body in [json!({"name": "m", "hosts": []}), json!({"name": "n", "hosts": []}),
            json!({"name": "seed label", "query": "select 1"})]
        {
            assert_eq!(operators.as_admin("POST", "/labels", body).await.0, 200);
        }
        let path = format!("/hosts/{host}/labels");
        let labels = async || {
            let (_, answer) = operators.as_admin("GET", &format!("/hosts/{host}"), Value::Null).await;
            let labels = answer["host"]["labels"].as_array().unwrap().clone();
            let names = labels.iter().map(|label| label["name"].as_str().unwrap().to_owned());
            names.filter(|name| name != "All Hosts").collect::<Vec<_>>()
        };
        let both = json!({"labels": ["m", "n"]});
        assert_eq!(operators.as_admin("POST", &path, both.clone()).await, (200, json!({})));
        assert_eq!(operators.as_admin("POST", &path, both).await.0, 200, "a second time changes nothing");
        assert_eq!(labels().await, ["m", "n"]);
        for (body, reason) in [
            (json!({"labels": ["seed label", "m"]}), "Couldn't remove labels. Labels are dynamic: \"seed label\". \
                Dynamic labels can not be assigned to hosts manually."),
            (json!({"labels": ["m", "nope"]}), "Couldn't remove labels. Labels not found: \"nope\". All labels must exist."),
            (json!({"labels": ["iOS"]}), "Couldn't remove labels. Labels are built-in: \"iOS\"."),
        ] {
            let (status, answer) = operators.as_admin("DELETE", &path, body).await;
            assert_eq!((status, &answer["errors"][0]["reason"]), (400, &json!(reason)));
        }
        assert_eq!(labels().await, ["m", "n"]);
        assert_eq!(operators.as_admin("DELETE", &path, json!({"labels": ["n"]})).await, (200, json!({})));
        assert_eq!(labels().await, ["m"]);
        assert_eq!(operators.as_admin("POST", "/hosts/999/labels", json!({"labels": ["m"]})).await.0, 404);
    }
}
