//! Software over both APIs.

use std::net::{IpAddr, Ipv4Addr};

use axum::body::Body;
use axum::http::Request;
use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use http_body_util::BodyExt as _;
use muster_http::{ClientAddress, Shape};
use muster_identity::{Credential, Principal, Role, TeamId, UserId};
use muster_software::Software;
use muster_software::http::{FleetHostSoftware, HostTitles};
use muster_store::testing::{TestDatabase, on_both_databases};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{deb, report, software};

fn principal(global_role: Option<Role>, teams: &[i64]) -> Principal {
    Principal {
        user_id: UserId(1),
        name: "Ann".to_owned(),
        email: "ann@example.com".to_owned(),
        global_role,
        teams: teams
            .iter()
            .map(|team| (TeamId(*team), Role::Observer))
            .collect(),
        must_reset_password: false,
        credential: Credential::Session(1),
        address: ClientAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    }
}

async fn get(software: &Software, principal: &Principal, path: &str) -> (u16, Value) {
    let (native, _) = muster_software::http::native_routes(software.clone()).split_for_parts();
    let fleet = muster_software::http::fleet_routes(software.clone())
        .layer(from_fn_with_state(Shape::Fleet, muster_http::shape));
    let app = Router::new()
        .nest("/api/muster", native)
        .nest("/api/latest/fleet", fleet)
        .layer(Extension(principal.clone()));
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

fn admin() -> Principal {
    principal(Some(Role::Admin), &[])
}

async fn three_hosts(db: &TestDatabase) -> Software {
    let software = software(db).await;
    report(
        &software,
        db,
        1,
        Some(7),
        vec![deb("bash", "5.1"), deb("vim", "9")],
    )
    .await;
    report(&software, db, 2, Some(8), vec![deb("bash", "5.2")]).await;
    report(&software, db, 3, None, vec![deb("bash", "5.1")]).await;
    software
}

on_both_databases! {
    async fn our_own_lists_page_sort_and_search(db: TestDatabase) {
        let software = three_hosts(&db).await;
        let (status, page) = get(&software, &admin(), "/api/muster/software?sort=-hosts_count&limit=1").await;
        assert_eq!((status, &page["total"]), (200, &json!(3)));
        assert_eq!(page["items"][0]["name"], "bash");
        assert_eq!(page["items"][0]["hosts_count"], 2);
        assert!(page["items"][0].get("vendor").is_none());
        let cursor = page["next_cursor"].as_str().unwrap();
        let next = format!("/api/muster/software?sort=-hosts_count&limit=1&cursor={cursor}");
        assert_eq!(get(&software, &admin(), &next).await.1["items"][0]["hosts_count"], 1);
        let (_, found) = get(&software, &admin(), "/api/muster/software-titles?search=BAS").await;
        assert_eq!(found["items"][0]["versions"].as_array().unwrap().len(), 2);
        let id = found["items"][0]["id"].as_i64().unwrap();
        let (_, title) = get(&software, &admin(), &format!("/api/muster/software-titles/{id}")).await;
        assert_eq!(title["hosts_count"], 3);
        let id = page["items"][0]["id"].as_i64().unwrap();
        assert_eq!(get(&software, &admin(), &format!("/api/muster/software/{id}")).await.1["version"], "5.1");
        assert_eq!(get(&software, &admin(), "/api/muster/software/999").await.0, 404);
        let (_, page) = get(&software, &admin(), "/api/muster/software?host_id=2").await;
        assert_eq!((&page["total"], &page["items"][0]["version"]), (&json!(1), &json!("5.2")));
        assert_eq!(get(&software, &admin(), "/api/muster/software?sort=colour").await.0, 422);
    }

    async fn members_of_a_team_see_the_software_of_its_hosts(db: TestDatabase) {
        let software = three_hosts(&db).await;
        let member = principal(None, &[8]);
        let (_, page) = get(&software, &member, "/api/muster/software").await;
        assert_eq!((&page["total"], &page["items"][0]["version"]), (&json!(1), &json!("5.2")));
        assert_eq!(get(&software, &member, "/api/muster/software?host_id=1").await.1["total"], 0);
        assert_eq!(get(&software, &member, "/api/muster/software?team_id=7").await.0, 403);
        assert_eq!(get(&software, &member, "/api/muster/software?team_id=0").await.0, 403);
        assert_eq!(get(&software, &admin(), "/api/muster/software?team_id=0").await.1["total"], 1);
        let nobody = principal(None, &[]);
        assert_eq!(get(&software, &nobody, "/api/latest/fleet/software/titles").await.0, 403);
    }

    async fn fleets_shapes_are_those_that_its_clients_know(db: TestDatabase) {
        let software = three_hosts(&db).await;
        let fleet = async |path: &str| get(&software, &admin(), &format!("/api/latest/fleet{path}")).await.1;
        let versions = fleet("/software/versions?per_page=2").await;
        assert_eq!(versions["count"], 3);
        assert_eq!(versions["meta"], json!({"has_next_results": true, "has_previous_results": false}));
        assert!(versions["counts_updated_at"].is_string());
        let first = &versions["software"][0];
        let keys: Vec<&String> = first.as_object().unwrap().keys().collect();
        let expected = ["id", "name", "version", "source", "browser", "arch", "generated_cpe", "vulnerabilities", "hosts_count"];
        assert_eq!(keys, expected);
        assert_eq!((&first["name"], &first["hosts_count"], &first["vulnerabilities"]), (&json!("bash"), &json!(2), &Value::Null));
        let one = fleet(&format!("/software/versions/{}", first["id"])).await;
        assert!(one["software"].get("hosts_count").is_none());

        let titles = fleet("/software/titles").await;
        assert_eq!((&titles["count"], titles["software_titles"].as_array().unwrap().len()), (&json!(2), 2));
        let title = &titles["software_titles"][0];
        assert_eq!((&title["versions_count"], &title["hosts_count"]), (&json!(2), &json!(3)));
        assert!(title.get("software_package").is_some_and(Value::is_null));
        let one = fleet(&format!("/software/titles/{}", title["id"])).await;
        assert_eq!(one["software_title"]["versions"][0]["hosts_count"], 2);

        assert_eq!(fleet("/software").await.as_object().unwrap().len(), 2);
        assert_eq!(fleet("/software/count?query=vim").await, json!({"count": 1}));
        assert_eq!(get(&software, &admin(), "/api/latest/fleet/software/titles?per_page=0").await.0, 400);
        assert_eq!(get(&software, &admin(), "/api/latest/fleet/software/titles?order_key=x").await.0, 422);
        assert_eq!(get(&software, &admin(), "/api/latest/fleet/software/versions/999").await.0, 404);
    }

    async fn empty_lists_are_left_out_or_empty_as_each_route_has_it(db: TestDatabase) {
        let software = software(&db).await;
        let fleet = async |path: &str| get(&software, &admin(), &format!("/api/latest/fleet{path}")).await.1;
        let meta = json!({"has_next_results": false, "has_previous_results": false});
        assert_eq!(fleet("/software/versions").await, json!({"count": 0, "counts_updated_at": null, "meta": meta}));
        assert_eq!(fleet("/software").await, json!({"counts_updated_at": null}));
        assert_eq!(fleet("/software/titles").await,
            json!({"meta": meta, "count": 0, "counts_updated_at": null, "software_titles": []}));
    }

    async fn the_software_of_a_host_stands_in_its_object_and_by_title(db: TestDatabase) {
        let software = software(&db).await;
        report(&software, &db, 1, None, vec![deb("bash", "5.1"), deb("bash", "5.2"), deb("vim", "9")]).await;
        let versions = software.of_host(muster_identity::HostId(1)).await.unwrap();
        let row = json!(FleetHostSoftware::from(versions[0].clone()));
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        let expected = ["id", "name", "version", "source", "browser", "arch", "generated_cpe", "vulnerabilities",
            "installed_paths", "signature_information"];
        assert_eq!(keys, expected);
        let titles = HostTitles::new(versions.clone(), None, 0, Some(1)).into_json();
        assert_eq!((&titles["count"], &titles["meta"]["has_next_results"]), (&json!(2), &json!(true)));
        assert_eq!(titles["software"][0]["installed_versions"].as_array().unwrap().len(), 2);
        let found = HostTitles::new(versions, Some("VI"), 0, None).into_json();
        assert_eq!((&found["count"], &found["software"][0]["name"]), (&json!(1), &json!("vim")));
    }
}
