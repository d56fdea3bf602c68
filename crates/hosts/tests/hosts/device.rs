//! Device tokens and the device family.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use muster_http::ClientAddress;
use muster_store::testing::on_both_databases;
use muster_store::{Executor as _, args};
use serde_json::{Value, json};

use crate::fleet::{Operators, admin, assert_shape};
use crate::harness::{Answer, TestServer, ubuntu_os};

const ROOT: &str = "/api/latest/fleet/device";

/// What a real server answered.
fn recorded() -> Vec<Value> {
    let lines = include_str!("../data/device.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A request from an address of its own.
async fn from(server: &TestServer, last: u8, method: &str, path: &str) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .unwrap();
    let address = ClientAddress(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
    request.extensions_mut().insert(address);
    server.send(request).await
}

async fn ping_from(server: &TestServer, last: u8, token: &str) -> u16 {
    from(server, last, "HEAD", &format!("{ROOT}/{token}/ping"))
        .await
        .status
}

/// A host with osquery and orbit whose details are known, and whose token is `token`: its two keys.
async fn known_host(server: &TestServer) -> (String, String) {
    let osquery = server.enroll("a").await;
    let orbit = server.enroll_orbit("a").await;
    assert_eq!(register(server, &orbit, "token").await, 200);
    let details = json!({
        "fleet_detail_query_os_version": [ubuntu_os()],
        "fleet_detail_query_orbit_info": [{"version": "1.37.0", "desktop_version": "1.37.1", "scripts_enabled": "1"}],
        "fleet_detail_query_users": [{"uid": "1000", "username": "ann", "groupname": "ann", "shell": "/bin/bash"}],
        "fleet_detail_query_disk_space_unix": [{"gigs_disk_space_available": "20.5",
            "percent_disk_space_available": "40", "gigs_total_disk_space": "51.2"}],
        "fleet_detail_query_software_linux": [
            {"name": "bash", "version": "5.1", "source": "deb_packages", "arch": "amd64"},
            {"name": "bash-completion", "version": "2.11", "source": "deb_packages", "arch": "all"},
            {"name": "zlib", "version": "1.3", "source": "deb_packages", "arch": "amd64"},
        ],
    });
    assert_eq!(server.write(&osquery, details).await.status, 200);
    let body = json!({"orbit_node_key": orbit, "email": "ann@example.com"});
    let request =
        Request::put("/api/fleet/orbit/device_mapping").body(Body::from(body.to_string()));
    assert_eq!(server.send(request.unwrap()).await.status, 200);
    (osquery, orbit)
}

/// Whether a host is asked its details now.
async fn is_asked(server: &TestServer, key: &str) -> bool {
    let asked = server.read(key).await.asked();
    asked
        .iter()
        .any(|name| name.starts_with("fleet_detail_query_"))
}

async fn register(server: &TestServer, key: &str, token: &str) -> u16 {
    let body = json!({"orbit_node_key": key, "device_auth_token": token});
    server
        .post("/api/fleet/orbit/device_token", body)
        .await
        .status
}

async fn ping(server: &TestServer, token: &str) -> u16 {
    let answer = server
        .head(&format!("/api/latest/fleet/device/{token}/ping"))
        .await;
    assert!(answer.bytes.is_empty());
    answer.status
}

on_both_databases! {
    async fn a_token_is_valid_for_an_hour_and_only_a_new_one_revives(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        assert_eq!(ping(&server, "first").await, 401);
        assert_eq!(register(&server, &key, "first").await, 200);
        assert_eq!(ping(&server, "first").await, 200);
        server.clock.advance(Duration::from_secs(59 * 60));
        assert_eq!(ping(&server, "first").await, 200);
        server.clock.advance(Duration::from_secs(2 * 60));
        assert_eq!(ping(&server, "first").await, 401);
        assert_eq!(register(&server, &key, "first").await, 200);
        assert_eq!(ping(&server, "first").await, 401);
        assert_eq!(register(&server, &key, "second").await, 200);
        assert_eq!(ping(&server, "second").await, 200);
        assert_eq!(ping(&server, "first").await, 401);
    }

    async fn a_token_of_another_host_stays_with_it(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (one, two) = (server.enroll_orbit("a").await, server.enroll_orbit("b").await);
        assert_eq!(register(&server, &one, "token").await, 200);
        assert_eq!(register(&server, &two, "token").await, 200);
        let host = server.agents.authenticate_device("token").await.unwrap();
        assert_eq!(host, server.host_of(&one).await);
        assert_eq!(register(&server, &one, "").await, 400);
        assert_eq!(register(&server, &one, &"x".repeat(300)).await, 400);
    }

    async fn the_summary_of_the_desktop_app_is_there_for_a_valid_token(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll_orbit("a").await;
        register(&server, &key, "token").await;
        let answer = server.get("/api/latest/fleet/device/token/desktop").await;
        assert_eq!(answer.status, 200);
        let json = answer.json();
        assert_eq!((&json["failing_policies_count"], &json["notifications"]), (&json!(0), &json!({})));
        assert_eq!(json["config"]["org_info"]["org_name"], "Example");
        // Its set of capabilities is empty: the header is absent, not empty.
        assert_eq!(answer.header("x-fleet-capabilities"), None);
        let refused = server.get("/api/latest/fleet/device/nope/desktop").await;
        assert_eq!((refused.status, refused.json()["message"].clone()), (401, json!("Authentication required")));
    }

    async fn the_ping_without_a_token_says_only_that_the_family_is_there(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let answer = server.head("/api/fleet/device/ping").await;
        assert_eq!((answer.status, answer.bytes.len()), (200, 0));
    }

    async fn the_family_answers_as_a_real_server_did(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        known_host(&server).await;
        for case in recorded() {
            let name = case["name"].as_str().unwrap();
            let path = case["path"].as_str().unwrap().replace("{token}", "token");
            let body = match &case["req"] {
                Value::Null => Body::empty(),
                body => Body::from(body.to_string()),
            };
            let request = Request::builder().method(case["method"].as_str().unwrap()).uri(&path).body(body);
            let answer = server.send(request.unwrap()).await;
            assert_eq!(u64::from(answer.status), case["status"].as_u64().unwrap(), "{name}: {}", answer.json());
            assert_eq!(answer.header("location").is_some(), case["location"].is_string(), "{name}");
            assert_eq!(answer.header("x-fleet-capabilities"), None, "{name}");
            assert_shape(&case["resp"], &answer.json(), name);
        }
        let without = server.get(&format!("{ROOT}/token?exclude_software=true")).await.json();
        assert_eq!(without["host"].get("software"), None);
        let macadmins = server.get(&format!("{ROOT}/token/macadmins")).await.json();
        assert_eq!(macadmins, json!({"macadmins": null}));
    }

    async fn the_own_host_is_told_with_all_that_is_known_and_without_a_secret(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (osquery, orbit) = known_host(&server).await;
        let answer = server.get(&format!("{ROOT}/token")).await;
        let json = answer.json();
        let host = &json["host"];
        assert_eq!(host["id"], json!(server.host_of(&osquery).await));
        assert_eq!((&host["orbit_version"], &host["fleet_desktop_version"]), (&json!("1.37.0"), &json!("1.37.1")));
        assert_eq!(host["software"][0]["name"], "bash");
        assert_eq!(host["users"][0]["username"], "ann");
        assert_eq!(json["global_config"]["features"]["enable_software_inventory"], true);
        assert_eq!(json["license"]["organization"], "Example");
        let text = String::from_utf8(answer.bytes).unwrap();
        for secret in [&osquery, &orbit, &server.secret, &"node_key".to_owned(), &"\"token\"".to_owned()] {
            assert!(!text.contains(secret), "{text}");
        }
        let mapping = server.get(&format!("{ROOT}/token/device_mapping")).await.json();
        assert_eq!(mapping["device_mapping"], json!([{"email": "ann@example.com", "source": "custom"}]));
    }

    async fn unknown_and_expired_tokens_get_the_same_401_whatever_is_asked(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (_, orbit) = known_host(&server).await;
        server.clock.advance(Duration::from_secs(3_601));
        let same = json!({"message": "Authentication required", "uuid": "",
            "errors": [{"name": "base", "reason": "Authentication required"}]});
        for (method, rest) in [
            ("GET", ""), ("GET", "/desktop"), ("GET", "/transparency"), ("GET", "/policies"), ("GET", "/software"),
            ("GET", "/device_mapping"), ("GET", "/macadmins"), ("GET", "/certificates"), ("GET", "/nowhere/at/all"),
            ("POST", "/refetch"), ("POST", "/debug/errors"), ("POST", "/software/install/1"), ("POST", "/migrate_mdm"),
            ("DELETE", ""), ("GET", "/refetch"), ("GET", "/software?page=x"),
        ] {
            for token in ["token", "never", "%ff", &"x".repeat(300)] {
                let request = Request::builder().method(method).uri(format!("{ROOT}/{token}{rest}"));
                let answer = server.send(request.body(Body::empty()).unwrap()).await;
                assert_eq!((answer.status, answer.json()), (401, same.clone()), "{method} {token}{rest}");
            }
        }
        assert_eq!(ping(&server, "token").await, 401);
        register(&server, &orbit, "next").await;
        assert_eq!(ping(&server, "next").await, 200);
    }

    async fn a_host_that_is_banned_or_deleted_has_no_token_either(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (osquery, _) = known_host(&server).await;
        let host = server.host_of(&osquery).await;
        let operators = Operators::new(&server);
        operators.hosts.ban(&admin(), host, "stolen").await.unwrap();
        assert_eq!(ping(&server, "token").await, 401);
        operators.hosts.unban(&admin(), host).await.unwrap();
        assert_eq!(ping(&server, "token").await, 200);
        operators.hosts.delete(&admin(), &[host]).await.unwrap();
        assert_eq!(ping(&server, "token").await, 401);
    }

    async fn details_are_sent_again_when_the_user_wishes_but_not_without_end(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (osquery, _) = known_host(&server).await;
        server.settle(&osquery).await;
        let refetch = || server.post("/api/latest/fleet/device/token/refetch", Value::Null);
        let answer = refetch().await;
        assert_eq!((answer.status, answer.json()), (200, json!({})));
        assert!(!is_asked(&server, &osquery).await, "details of just now are good enough");
        server.clock.advance(Duration::from_secs(300));
        server.read(&osquery).await;
        refetch().await;
        assert!(server.record(&osquery).await.refetch_requested);
        assert!(is_asked(&server, &osquery).await);
        let before = server.database.statements();
        refetch().await;
        let statements = server.database.statements() - before;
        assert_eq!(statements, 2, "whose token it is and how the host stands: nothing is written again");
        server.settle(&osquery).await;
        for _ in 0..10 {
            assert_eq!(refetch().await.status, 200);
        }
        assert!(!is_asked(&server, &osquery).await);
    }

    async fn software_is_listed_by_pages_and_by_text(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        known_host(&server).await;
        let list = async |query: &str| server.get(&format!("{ROOT}/token/software{query}")).await.json();
        let names = |answer: &Value| -> Vec<String> {
            let rows = answer["software"].as_array().unwrap();
            rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
        };
        let all = list("").await;
        assert_eq!((names(&all), &all["count"]), (["bash", "bash-completion", "zlib"].map(str::to_owned).to_vec(), &json!(3)));
        assert_eq!(all["software"][0]["installed_versions"][0]["version"], "5.1");
        let second = list("?per_page=2&page=1").await;
        assert_eq!((names(&second), &second["count"]), (vec!["zlib".to_owned()], &json!(3)));
        assert_eq!(second["meta"], json!({"has_next_results": false, "has_previous_results": true}));
        assert_eq!(names(&list("?query=BASH").await), ["bash", "bash-completion"]);
        let self_service = list("?self_service=1").await;
        assert_eq!((&self_service["software"], &self_service["count"]), (&json!([]), &json!(0)));
        assert_eq!(server.get(&format!("{ROOT}/token/software?page=x")).await.status, 400);
    }

    async fn the_page_on_transparency_is_the_organisations_or_the_servers_own(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        known_host(&server).await;
        let own = server.get(&format!("{ROOT}/token/transparency")).await;
        // Relative to the address that was asked for, so that a prefix stays.
        let place = own.header("location").unwrap();
        assert_eq!((own.status, place), (307, "../../../../../transparency"));
        assert_eq!(format!("{ROOT}/token/transparency").matches('/').count() - 1, place.matches("../").count());
        *server.options.transparency.write().unwrap() = Some("https://example.com/we-see".to_owned());
        let theirs = server.get(&format!("{ROOT}/token/transparency")).await;
        assert_eq!((theirs.status, theirs.header("location")), (307, Some("https://example.com/we-see")));
    }

    async fn an_error_that_the_desktop_app_reports_is_taken_up_to_a_limit(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        known_host(&server).await;
        let path = format!("{ROOT}/token/debug/errors");
        for (bytes, status) in [(4 * 1024 * 1024, 200), (6 * 1024 * 1024, 413)] {
            let body = json!({"vital": null, "error_source": "fleet-desktop", "error_additional_info": "x".repeat(bytes)});
            let answer = server.post(&path, body).await;
            assert_eq!(answer.status, status, "{}", answer.json());
        }
        assert_eq!(server.post_bytes(&path, "{").await.status, 400);
        assert_eq!(server.post_bytes(&path, "").await.json(), json!({}));
    }

    async fn whoever_guesses_tokens_waits_a_minute_and_others_do_not(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        known_host(&server).await;
        for number in 0..1_000 {
            assert_eq!(ping_from(&server, 1, &format!("guess-{number}")).await, 401, "{number}");
        }
        for (method, path) in [
            ("GET", format!("{ROOT}/guess/desktop")), ("GET", format!("{ROOT}/token")), ("HEAD", format!("{ROOT}/token/ping")),
            ("POST", format!("{ROOT}/token/refetch")), ("GET", format!("{ROOT}/token/nowhere")),
            ("HEAD", "/api/fleet/device/ping".to_owned()),
        ] {
            let answer = from(&server, 1, method, &path).await;
            assert_eq!((answer.status, answer.header("retry-after")), (429, Some("60")), "{method} {path}");
        }
        let told = from(&server, 1, "GET", &format!("{ROOT}/guess")).await.json();
        assert_eq!(told["errors"][0]["reason"], "limit exceeded, retry after: 60s");
        assert_eq!(ping_from(&server, 2, "token").await, 200);
        assert_eq!(from(&server, 2, "HEAD", "/api/fleet/device/ping").await.status, 200);
        server.clock.advance(Duration::from_secs(60));
        assert_eq!(ping_from(&server, 1, "token").await, 200);
    }

    async fn hosts_that_share_an_address_are_not_locked_out_by_one_with_a_wrong_token(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        known_host(&server).await;
        // One that repeats itself guesses nothing, however often.
        for _ in 0..1_500 {
            assert_eq!(ping_from(&server, 1, "expired").await, 401);
        }
        assert_eq!(ping_from(&server, 1, "token").await, 200);
        // What is wrong does not add up while others are right.
        for number in 0..1_500 {
            assert_eq!(ping_from(&server, 1, &format!("new-{number}")).await, 401);
            if number % 500 == 0 {
                assert_eq!(ping_from(&server, 1, "token").await, 200);
            }
        }
    }

    async fn a_fault_of_the_database_is_never_taken_for_a_guess(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        known_host(&server).await;
        let rename = async |from: &str, to: &str| {
            let sql = format!("ALTER TABLE {from} RENAME TO {to}");
            (&server.database).execute(&sql, args![]).await.unwrap();
        };
        rename("hosts_device_tokens", "hosts_device_tokens_away").await;
        for number in 0..1_100 {
            assert_eq!(ping_from(&server, 1, &format!("token-{number}")).await, 500);
        }
        rename("hosts_device_tokens_away", "hosts_device_tokens").await;
        assert_eq!(ping_from(&server, 1, "token").await, 200);
        server.database.close().await;
        for number in 0..1_100 {
            assert_eq!(ping_from(&server, 1, &format!("token-{number}")).await, 503);
        }
    }
}
