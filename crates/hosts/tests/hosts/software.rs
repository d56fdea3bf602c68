//! The software of one host over Fleet's API.

use std::net::{IpAddr, Ipv4Addr};

use axum::body::Body;
use axum::http::Request;
use axum::{Extension, Router};
use http_body_util::BodyExt as _;
use muster_http::ClientAddress;
use muster_identity::{Credential, Principal, Role, TeamId, UserId};
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::harness::TestServer;

fn principal(global_role: Option<Role>, team: Option<TeamId>) -> Principal {
    Principal {
        user_id: UserId(1),
        name: "Ann".to_owned(),
        email: "ann@example.com".to_owned(),
        global_role,
        teams: team
            .into_iter()
            .map(|team| (team, Role::Observer))
            .collect(),
        must_reset_password: false,
        credential: Credential::Session(1),
        address: ClientAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    }
}

async fn get(server: &TestServer, principal: Principal, path: &str) -> (u16, Value) {
    let app: Router = muster_hosts::http::software::fleet_software_routes(server.agents.clone())
        .layer(Extension(principal));
    let response = app
        .oneshot(Request::get(path).body(Body::empty()).unwrap())
        .await
        .unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

on_both_databases! {
    async fn whoever_sees_the_host_sees_its_software(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let software = json!([{"name": "bash", "version": "5.1", "source": "deb_packages"}]);
        server.write(&key, json!({ "fleet_detail_query_software_linux": software })).await;
        let path = format!("/hosts/{}/software", server.host_of(&key).await);
        let (status, body) = get(&server, principal(Some(Role::Observer), None), &path).await;
        assert_eq!((status, &body["count"]), (200, &json!(1)));
        assert_eq!(body["software"][0]["installed_versions"][0]["version"], "5.1");
        // Whoever may not see the host does not learn that it is there.
        let other = principal(None, Some(TeamId(7)));
        assert_eq!(get(&server, other, &path).await.0, 404);
        let admin = principal(Some(Role::Admin), None);
        assert_eq!(get(&server, admin, "/hosts/999/software").await.0, 404);
    }
}
