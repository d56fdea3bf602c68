//! What enrollment tokens say of the hosts that come by them: labels and networks.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use muster_hosts::{LabelId, NewLabel};
use muster_http::ClientAddress;
use muster_identity::{Actor, EnrollmentToken, IdentityError, NewEnrollmentToken, Successor};
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};

use crate::fleet::{Operators, admin};
use crate::harness::{Answer, TestServer, ubuntu};

async fn label(operators: &Operators, name: &str) -> i64 {
    let new = NewLabel {
        name: name.to_owned(),
        hosts: Some(Vec::new()),
        ..NewLabel::default()
    };
    let label = operators.hosts.create_label(&admin(), new).await;
    label.unwrap().id.0
}

async fn try_token(
    server: &TestServer,
    labels: &[i64],
    networks: &[&str],
) -> Result<(EnrollmentToken, String), IdentityError> {
    let networks = networks.iter().map(|text| text.parse().unwrap());
    let new = NewEnrollmentToken {
        name: "branch".to_owned(),
        networks: networks.collect(),
        label_ids: labels.to_vec(),
        ..NewEnrollmentToken::default()
    };
    let tokens = &server.identity.enrollment_tokens;
    tokens.create(&Actor::system(), new).await
}

fn names(token: &EnrollmentToken) -> Vec<&str> {
    let labels = token.labels.iter();
    labels.map(|label| label.name.as_str()).collect()
}

/// The labels that a host is in by hand.
async fn labels_of(server: &TestServer, operators: &Operators, key: &str) -> Vec<String> {
    let id = server.host_of(key).await.0;
    let host = format!("/hosts/{id}");
    let (status, host) = operators.as_admin("GET", &host, Value::Null).await;
    assert_eq!(status, 200, "{host}");
    let labels = host["host"]["labels"].as_array().unwrap().iter();
    let labels = labels.filter(|label| label["label_type"] == "regular");
    labels
        .map(|label| label["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn post_from(server: &TestServer, address: &str, path: &str, body: &Value) -> Answer {
    let mut request = Request::post(path)
        .body(Body::from(body.to_string()))
        .unwrap();
    let address = ClientAddress(address.parse().unwrap());
    request.extensions_mut().insert(address);
    server.send(request).await
}

on_both_databases! {
    async fn hosts_that_come_by_a_token_are_in_its_labels_and_stay_where_operators_put_them(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let operators = Operators::new(&server);
        let tokens = &server.identity.enrollment_tokens;
        tokens.attach_labels(operators.hosts.token_labels());
        let (branch, pilot) = (label(&operators, "Branch").await, label(&operators, "Pilot").await);
        let (token, secret) = try_token(&server, &[pilot, branch, pilot], &[]).await.unwrap();
        assert_eq!(names(&token), ["Branch", "Pilot"]);
        assert_eq!(tokens.find(token.id).await.unwrap(), token);
        let key = server.enroll_with(&ubuntu(&secret, "a")).await;
        assert_eq!(labels_of(&server, &operators, &key).await, ["Branch", "Pilot"]);
        let orbit = server.enroll_orbit_with(json!({"enroll_secret": secret, "hardware_uuid": "b"})).await;
        assert_eq!(labels_of(&server, &operators, &orbit).await, ["Branch", "Pilot"]);
        let other = server.enroll("c").await;
        assert!(labels_of(&server, &operators, &other).await.is_empty());

        let host = server.host_of(&key).await;
        let leave = muster_hosts::Membership::Leave;
        operators.hosts.change_labels_of(&admin(), host, leave, &["Pilot".to_owned()]).await.unwrap();
        let key = server.enroll_with(&ubuntu(&secret, "a")).await;
        assert_eq!(labels_of(&server, &operators, &key).await, ["Branch"], "it came by this token already");
        // A host that comes by another token gets what that gives, and keeps what it has.
        let (actor, overlap) = (Actor::system(), Duration::from_secs(60));
        let rotated = tokens.rotate(&actor, token.id, overlap, Successor::default()).await.unwrap();
        assert_eq!(names(&rotated.token), ["Branch", "Pilot"]);
        let key = server.enroll_with(&ubuntu(&rotated.secret, "a")).await;
        assert_eq!(labels_of(&server, &operators, &key).await, ["Branch", "Pilot"]);

        operators.hosts.delete_label(&admin(), LabelId(branch)).await.unwrap();
        for id in [token.id, rotated.token.id] {
            assert_eq!(names(&tokens.find(id).await.unwrap()), ["Pilot"]);
        }
        let key = server.enroll_with(&ubuntu(&rotated.secret, "late")).await;
        assert_eq!(labels_of(&server, &operators, &key).await, ["Pilot"]);
    }

    async fn a_token_gives_only_labels_that_operators_may_give(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let operators = Operators::new(&server);
        let tokens = &server.identity.enrollment_tokens;
        tokens.attach_labels(operators.hosts.token_labels());
        let dynamic = NewLabel { name: "Asked".into(), query: "SELECT 1".into(), ..NewLabel::default() };
        let dynamic = operators.hosts.create_label(&admin(), dynamic).await.unwrap().id.0;
        let builtin = operators.hosts.find_label_by_name("iOS").await.unwrap().unwrap().id.0;
        let branch = label(&operators, "Branch").await;
        for (labels, reason) in [
            (vec![branch, 999], "there is no label 999"),
            (vec![branch, dynamic], "\"Asked\" decides by itself"),
            (vec![builtin], "\"iOS\" is built in"),
            ((0..65).collect(), "at most 64 labels"),
        ] {
            let error = try_token(&server, &labels, &[]).await.unwrap_err();
            assert!(matches!(error, IdentityError::Invalid { field: "label_ids", .. }), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
        let all = tokens.list(&muster_identity::TeamFilter::All, true).await.unwrap();
        assert!(all.iter().all(|token| token.name != "branch"), "what is refused leaves nothing");
    }

    async fn enrollments_from_elsewhere_are_refused_also_for_hosts_that_came_by_the_token(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (_, secret) = try_token(&server, &[], &["198.51.100.0/24", "2001:db8::/32"]).await.unwrap();
        let (osquery, orbit) = (ubuntu(&secret, "a"), json!({"enroll_secret": secret, "hardware_uuid": "a"}));
        let (inside, outside) = (["198.51.100.7", "2001:db8::7"], ["203.0.113.7", "0.0.0.0", "2001:db9::7"]);
        for _ in 0..2 {
            for address in outside {
                let refused = post_from(&server, address, "/api/v1/osquery/enroll", &osquery).await;
                assert_eq!((refused.status, &refused.json()["node_invalid"]), (401, &json!(true)), "{address}");
                assert_eq!(refused.json()["error"], "enroll failed: invalid secret");
                assert_eq!(post_from(&server, address, "/api/fleet/orbit/enroll", &orbit).await.status, 401);
            }
            for address in inside {
                assert_eq!(post_from(&server, address, "/api/v1/osquery/enroll", &osquery).await.status, 200);
                assert_eq!(post_from(&server, address, "/api/fleet/orbit/enroll", &orbit).await.status, 200);
            }
        }
    }

    /// It would be locked out until it is back.
    async fn a_host_that_is_away_from_its_tokens_networks_is_not_told_to_renew_its_key(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (_, secret) = try_token(&server, &[], &["198.51.100.0/24"]).await.unwrap();
        let (inside, outside) = ("198.51.100.7", "203.0.113.7");
        let enrolled = post_from(&server, inside, "/api/v1/osquery/enroll", &ubuntu(&secret, "a")).await;
        let key = enrolled.json()["node_key"].as_str().unwrap().to_owned();
        let read = async |from| {
            let body = json!({ "node_key": key });
            post_from(&server, from, "/api/osquery/distributed/read", &body).await.status
        };
        assert_eq!(read(inside).await, 200);
        let host = server.host_of(&key).await;
        let rotated = Operators::new(&server).hosts.rotate_keys(&admin(), host).await.unwrap();
        assert_eq!(rotated, 1);
        for _ in 0..2 {
            assert_eq!(read(outside).await, 200);
        }
        assert_eq!(read(inside).await, 401, "now it can enroll again");
        assert_eq!(read(outside).await, 200, "it was told once");
    }
}
