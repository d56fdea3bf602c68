//! Our own API for hosts and labels.

use axum::body::Body;
use axum::http::Request;
use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use http_body_util::BodyExt as _;
use muster_http::Shape;
use muster_identity::{Principal, Role};
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::fleet::{Operators, admin, member};
use crate::harness::TestServer;

/// Asks as somebody.
pub(crate) async fn call(
    server: &TestServer,
    who: &Principal,
    request: (&str, &str),
    body: Value,
) -> (u16, Value) {
    let hosts = Operators::new(server).hosts;
    let routes = muster_hosts::http::native_host_routes(hosts.clone());
    let routes = routes.merge(muster_hosts::http::native_skew_routes(hosts));
    let (routes, _) = routes.split_for_parts();
    let app: Router = routes
        .layer(from_fn_with_state(Shape::Native, muster_http::shape))
        .layer(Extension(who.clone()));
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    let request = Request::builder()
        .method(request.0)
        .uri(request.1)
        .body(body)
        .unwrap();
    let response = app.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

on_both_databases! {
    async fn hosts_are_listed_page_by_page_and_looked_at_by_id_or_name(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        server.enroll("b").await;
        let id = server.host_of(&key).await;
        let (status, page) = call(&server, &admin(), ("GET", "/hosts?sort=hostname&limit=1"), Value::Null).await;
        assert_eq!((status, &page["total"], &page["items"][0]["hostname"]), (200, &json!(2), &json!("h-a")), "{page}");
        let next = format!("/hosts?sort=hostname&limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
        let (_, page) = call(&server, &admin(), ("GET", &next), Value::Null).await;
        assert_eq!(page["items"][0]["hostname"], "h-b", "{page}");
        for path in [format!("/hosts/{id}"), "/hosts/by-identifier/H-A".to_owned()] {
            let (status, host) = call(&server, &admin(), ("GET", &path), Value::Null).await;
            assert_eq!((status, &host["id"], &host["hostname"]), (200, &json!(id), &json!("h-a")), "{host}");
            assert_eq!(host["keys"][0]["family"], "osquery");
            assert_eq!(host["events"][0]["kind"], "enrolled");
            assert!(host["labels"].as_array().unwrap().contains(&json!("All Hosts")), "{host}");
            assert!(!host.to_string().contains(&key), "keys stay secret");
        }
        for (path, status) in [
            ("/hosts?search=%00", 422),
            ("/hosts/by-identifier/%00", 422),
            ("/hosts/99", 404),
            ("/hosts/by-identifier/nobody", 404),
            ("/hosts?sort=nope", 422),
            ("/hosts/abc", 400),
            ("/hosts?limit=many", 400),
        ] {
            let (found, problem) = call(&server, &admin(), ("GET", path), Value::Null).await;
            assert_eq!(found, status, "{path}: {problem}");
            assert!(problem["message"].is_string(), "{path}: {problem}");
        }
    }

    async fn hosts_are_moved_refetched_and_deleted_by_those_who_may(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let id = server.host_of(&key).await;
        let team = server.team("web").await;
        let there = json!({ "host_ids": [id], "team_id": team });
        let observer = member(team, Role::Observer);
        assert_eq!(call(&server, &observer, ("GET", &format!("/hosts/{id}")), Value::Null).await.0, 404);
        assert_eq!(call(&server, &observer, ("POST", "/hosts/transfer"), there.clone()).await.0, 403);
        let (status, moved) = call(&server, &admin(), ("POST", "/hosts/transfer"), there).await;
        assert_eq!((status, moved), (200, json!({ "moved": 1 })));
        let (status, host) = call(&server, &observer, ("GET", &format!("/hosts/{id}")), Value::Null).await;
        assert_eq!((status, &host["team_id"]), (200, &json!(team)));
        let nowhere = json!({ "host_ids": [id], "team_id": 99 });
        assert_eq!(call(&server, &admin(), ("POST", "/hosts/transfer"), nowhere).await.0, 422);

        let refetch = format!("/hosts/{id}/refetch");
        assert_eq!(call(&server, &admin(), ("POST", &refetch), Value::Null).await.0, 204);
        let (_, host) = call(&server, &admin(), ("GET", &format!("/hosts/{id}")), Value::Null).await;
        assert_eq!(host["refetch_requested"], true);

        assert_eq!(call(&server, &observer, ("DELETE", &format!("/hosts/{id}")), Value::Null).await.0, 403);
        assert_eq!(call(&server, &admin(), ("DELETE", &format!("/hosts/{id}")), Value::Null).await.0, 204);
        assert_eq!(call(&server, &admin(), ("DELETE", &format!("/hosts/{id}")), Value::Null).await.0, 404);
    }

    async fn labels_are_made_listed_and_deleted_but_those_built_in(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let label = json!({ "name": "servers", "query": "SELECT 1" });
        let (status, made) = call(&server, &admin(), ("POST", "/labels"), label.clone()).await;
        assert_eq!(status, 201, "{made}");
        let path = format!("/labels/{}", made["id"]);
        assert_eq!(call(&server, &admin(), ("GET", &path), Value::Null).await.1["name"], "servers");
        assert_eq!(call(&server, &admin(), ("POST", "/labels"), label).await.0, 409);
        assert_eq!(call(&server, &admin(), ("POST", "/labels"), json!({ "name": "" })).await.0, 422);
        let change = json!({ "name": "all servers", "description": "d" });
        let (status, changed) = call(&server, &admin(), ("PATCH", &path), change).await;
        assert_eq!((status, &changed["name"], &changed["query"]), (200, &json!("all servers"), &json!("SELECT 1")));
        server.enroll("a").await;
        let named = json!({ "hosts": ["h-a"] });
        assert_eq!(call(&server, &admin(), ("PATCH", &path), named.clone()).await.0, 422, "its query decides");
        let (_, pilot) = call(&server, &admin(), ("POST", "/labels"), json!({ "name": "pilot", "hosts": [] })).await;
        let pilot = format!("/labels/{}", pilot["id"]);
        let (status, changed) = call(&server, &admin(), ("PATCH", &pilot), named).await;
        assert_eq!((status, &changed["hosts_count"]), (200, &json!(1)), "{changed}");
        let taken = json!({ "name": "all servers" });
        assert_eq!(call(&server, &admin(), ("PATCH", &pilot), taken).await.0, 409);
        let (_, all) = call(&server, &admin(), ("GET", "/labels?search=all"), Value::Null).await;
        let built_in = all["items"].as_array().unwrap().iter().find(|label| label["name"] == "All Hosts").unwrap();
        let built_in = format!("/labels/{}", built_in["id"]);
        let (status, refused) = call(&server, &admin(), ("DELETE", &built_in), Value::Null).await;
        assert!((400..500).contains(&status), "{status} {refused}");
        assert_eq!(call(&server, &admin(), ("DELETE", &path), Value::Null).await.0, 204);
        assert_eq!(call(&server, &admin(), ("GET", &path), Value::Null).await.0, 404);
    }
}
