//! Which features are dark on which hosts.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use muster_identity::Role;
use muster_negotiation::Capability;
use muster_store::testing::on_both_databases;
use muster_store::{Executor as _, args};
use serde_json::{Value, json};

use crate::capabilities::{ORBIT, config};
use crate::fleet::{admin, member};
use crate::harness::{START, TestServer};
use crate::native::call;

const AGENT: &str = "muster-agent/0.2.0";

async fn get(server: &TestServer, path: &str) -> Value {
    let (status, body) = call(server, &admin(), ("GET", path), Value::Null).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// The names of the hosts in a list.
fn names(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["display_name"].as_str().unwrap())
        .collect()
}

/// Hosts by every kind of program; gives the key of the one with our agent.
async fn fleet(server: &TestServer) -> String {
    let enroll = async |name: &str| {
        let body =
            json!({ "enroll_secret": server.secret, "hardware_uuid": name, "hostname": name });
        server.enroll_orbit_with(body).await
    };
    let agent = enroll("agent").await;
    config(server, &agent, AGENT, Some("muster_notify")).await;
    let new_orbit = enroll("orbit-2025").await;
    let said = Some("setup_experience,escrow_buddy");
    config(server, &new_orbit, ORBIT, said).await;
    let old_orbit = enroll("orbit-2022").await;
    config(server, &old_orbit, ORBIT, None).await;
    server.enroll("osquery").await;
    for (name, column, version) in [
        ("orbit-2025", "orbit_version", "1.38.0"),
        ("orbit-2022", "orbit_version", "1.2.0"),
        ("h-osquery", "osquery_version", "5.10.2"),
    ] {
        let sql = format!("UPDATE hosts_hosts SET {column} = $1 WHERE hostname = $2");
        let args = args![version, name];
        (&server.database).execute(&sql, args).await.unwrap();
    }
    agent
}

on_both_databases! {
    async fn hosts_whose_program_says_nothing_of_a_feature_are_dark_since_they_enrolled(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let agent = fleet(&server).await;
        let page = get(&server, "/skew").await;
        assert_eq!(names(&page), ["c-osquery", "orbit-2022", "orbit-2025"], "{page}");
        assert_eq!(page["total"], 3);
        for (item, process, version) in [(0, "osquery", "5.10.2"), (1, "orbit", "1.2.0"), (2, "orbit", "1.38.0")] {
            let item = &page["items"][item];
            assert_eq!((&item["process"], &item["version"]), (&json!(process), &json!(version)), "{item}");
            let because = json!([{ "process": process, "version": version, "since": START.to_string(),
                "update": format!("run muster-agent 0.1.0 or later in place of {process}") }]);
            let dark = json!([{ "feature": "live queries at once", "capability": "muster_notify",
                "effect": "live queries begin when the host asks next, up to its interval later",
                "since": START.to_string(), "because": because }]);
            assert_eq!(item["dark_features"], dark);
        }

        // An agent that ceases to say it is dark since then, whatever it says later and however often it enrolls.
        server.clock.advance(Duration::from_secs(3_600));
        config(&server, &agent, AGENT, Some("something_new")).await;
        let since = (START.plus(Duration::from_secs(3_600))).to_string();
        server.clock.advance(Duration::from_secs(3_600));
        config(&server, &agent, AGENT, Some("something_new,something_else")).await;
        let body = json!({ "enroll_secret": server.secret, "hardware_uuid": "agent", "hostname": "agent" });
        let request = Request::post("/api/fleet/orbit/enroll").header("User-Agent", AGENT);
        let request = request.header("X-Fleet-Capabilities", "something_new,something_else");
        let enrolled = server.send(request.body(Body::from(body.to_string())).unwrap()).await;
        assert_eq!(enrolled.status, 200);
        let page = get(&server, "/skew?search=agent").await;
        assert_eq!(page["items"][0]["dark_features"][0]["since"], since, "{page}");
        let because = &page["items"][0]["dark_features"][0]["because"][0];
        assert_eq!((&because["process"], &because["version"]), (&json!("muster-agent"), &json!("0.2.0")));
        let host = page["items"][0]["host_id"].as_i64().unwrap();
        let one = get(&server, &format!("/hosts/{host}")).await;
        assert_eq!(one["dark_features"], page["items"][0]["dark_features"]);
        // And it has the feature again when it says so again.
        config(&server, &agent, AGENT, Some("muster_notify")).await;
        let one = get(&server, "/hosts/by-identifier/agent").await;
        assert_eq!(one["dark_features"], json!([]));
        assert_eq!(get(&server, "/skew?search=agent").await["total"], 0);
    }

    async fn orbit_in_place_of_our_agent_is_dark_since_it_speaks(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let agent = fleet(&server).await;
        server.clock.advance(Duration::from_secs(60));
        config(&server, &agent, ORBIT, None).await;
        let page = get(&server, "/skew?process=orbit&search=agent").await;
        let dark = &page["items"][0]["dark_features"][0];
        let since = START.plus(Duration::from_secs(60)).to_string();
        assert_eq!((&dark["since"], &dark["because"][0]["process"]), (&json!(since), &json!("orbit")), "{page}");
    }

    async fn a_server_without_a_capability_makes_it_dark_on_all_hosts(db: TestDatabase) {
        let server = TestServer::without(&db, &[Capability::TokenRotation, Capability::Notify]).await;
        fleet(&server).await;
        let page = get(&server, "/skew?process=muster-server").await;
        assert_eq!((&page["total"], names(&page)[0]), (&json!(4), "agent"), "{page}");
        let dark = |host: usize| page["items"][host]["dark_features"].as_array().unwrap().clone();
        let capabilities: Vec<Value> = dark(0).iter().map(|dark| dark["capability"].clone()).collect();
        assert_eq!(capabilities, ["token_rotation", "muster_notify"]);
        let because = &dark(0)[0]["because"];
        assert_eq!(because.as_array().unwrap().len(), 1);
        assert_eq!((&because[0]["process"], &because[0]["server"]), (&json!("muster-server"), &json!("this server")));
        assert!(because[0]["update"].as_str().unwrap().contains("without_capability"), "{because}");
        // Both have to be updated before this orbit's host has the feature.
        let page = get(&server, "/skew?host_id=3&capability=muster_notify").await;
        let because = &page["items"][0]["dark_features"][0]["because"];
        assert_eq!((&because[0]["process"], &because[1]["process"]), (&json!("muster-server"), &json!("orbit")));
        let summary = get(&server, "/skew/summary").await;
        assert_eq!(summary["said"], json!(["orbit_endpoints", "end_user_email"]));
        let rotation = &summary["items"][1];
        assert_eq!((&rotation["capability"], &rotation["hosts_without"]), (&json!("token_rotation"), &json!(4)));
        assert_eq!(rotation["servers"].as_array().unwrap().len(), 1);
        assert_eq!(get(&server, "/skew?process=orbit").await["total"], 2);
        // Names of servers are for those who may see servers.
        let team = server.team("Branch").await;
        let there = json!({ "host_ids": [3], "team_id": team });
        call(&server, &admin(), ("POST", "/hosts/transfer"), there).await;
        let (_, page) = call(&server, &member(team, Role::Observer), ("GET", "/skew"), Value::Null).await;
        let because = &page["items"][0]["dark_features"][0]["because"][0];
        assert_eq!((&because["process"], &because["server"]), (&json!("muster-server"), &Value::Null));
    }

    async fn lists_are_narrowed_down_paged_and_sorted(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        fleet(&server).await;
        for (query, expected) in [
            ("process=orbit", &["orbit-2022", "orbit-2025"][..]),
            ("process=osquery", &["c-osquery"]),
            ("process=muster-agent", &[]),
            ("process=muster-server", &[]),
            ("capability=muster_notify&process=orbit&sort=-display_name", &["orbit-2025", "orbit-2022"]),
            ("capability=token_rotation", &[]),
            ("search=2022", &["orbit-2022"]),
            ("team_id=0", &["c-osquery", "orbit-2022", "orbit-2025"]),
            ("team_id=7", &[]),
            ("host_id=3", &["orbit-2022"]),
        ] {
            let page = get(&server, &format!("/skew?{query}")).await;
            assert_eq!(names(&page), expected, "{query}");
            assert_eq!(page["total"], expected.len(), "{query}");
        }
        let first = get(&server, "/skew?limit=2").await;
        assert_eq!((names(&first).len(), &first["total"]), (2, &json!(3)));
        let next = format!("/skew?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
        assert_eq!(names(&get(&server, &next).await), ["orbit-2025"]);
        for (query, field) in [("capability=escrow_buddy", "capability"), ("process=fleet", "process"), ("sort=x", "sort")] {
            let (status, problem) = call(&server, &admin(), ("GET", &format!("/skew?{query}")), Value::Null).await;
            assert_eq!(status, 422, "{query}: {problem}");
            assert!(problem.to_string().contains(field), "{problem}");
        }
    }

    async fn a_page_costs_the_same_statements_however_many_hosts_it_has(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        fleet(&server).await;
        let count = async |path: &str| {
            let before = server.database.statements();
            get(&server, path).await;
            server.database.statements() - before
        };
        assert_eq!((count("/skew?limit=1").await, count("/skew?limit=3").await), (2, 2));
        assert_eq!(count("/skew/summary").await, 1);
    }

    async fn the_summary_counts_programs_and_versions(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        fleet(&server).await;
        let summary = get(&server, "/skew/summary").await;
        let feature = |name: &str| {
            let items = summary["items"].as_array().unwrap();
            items.iter().find(|item| item["capability"] == name).unwrap().clone()
        };
        let notify = feature("muster_notify");
        assert_eq!((&notify["hosts_with"], &notify["hosts_without"]), (&json!(1), &json!(3)), "{summary}");
        let row = |process: &str, version: &str, with: u64| json!({ "process": process, "version": version,
            "hosts_with": with, "hosts_without": 1 - with });
        let expected = [
            row("muster-agent", "0.2.0", 1), row("orbit", "1.2.0", 0), row("orbit", "1.38.0", 0), row("osquery", "5.10.2", 0),
        ];
        assert_eq!(notify["programs"], json!(expected));
        let rotation = feature("token_rotation");
        assert_eq!((&rotation["hosts_with"], &rotation["hosts_without"]), (&json!(4), &json!(0)), "{summary}");
        let orbit = get(&server, "/skew/summary?process=orbit&capability=muster_notify").await;
        assert_eq!(orbit["items"].as_array().unwrap().len(), 1);
        assert_eq!(orbit["items"][0]["hosts_without"], 2);
    }

    async fn everybody_sees_the_hosts_of_their_teams_only(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        fleet(&server).await;
        let team = server.team("Branch").await;
        let there = json!({ "host_ids": [3], "team_id": team });
        let (status, _) = call(&server, &admin(), ("POST", "/hosts/transfer"), there).await;
        assert_eq!(status, 200);
        let observer = member(team, Role::Observer);
        let (status, page) = call(&server, &observer, ("GET", "/skew"), Value::Null).await;
        assert_eq!((status, names(&page)), (200, vec!["orbit-2022"]), "{page}");
        let (_, summary) = call(&server, &observer, ("GET", "/skew/summary?capability=muster_notify"), Value::Null).await;
        assert_eq!(summary["items"][0]["hosts_without"], 1);
        let nobody = member(server.team("Empty").await, Role::Observer);
        let (_, page) = call(&server, &nobody, ("GET", "/skew"), Value::Null).await;
        assert_eq!(page["total"], 0);
    }
}
