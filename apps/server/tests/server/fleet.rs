//! What Fleet's own clients depend on, of the server as a whole.

use muster_server::start::Running;
use muster_store::testing::{TestDatabase, on_both_databases};
use serde_json::{Value, json};

use crate::running;
use crate::site::{Answer, PASSWORD, Site};

/// A server without TLS that is set up, and its settings.
async fn site(
    db: &TestDatabase,
    folder: &std::path::Path,
    more: &[(&str, &str)],
) -> (Running, Site) {
    let mut settings = vec![("database.url", db.address()), ("tls.enabled", "false")];
    settings.extend_from_slice(more);
    let server = running(folder, &settings).await;
    let link = server.setup_link.clone().unwrap();
    let base = format!("http://{}", server.address);
    let site = Site::set_up(reqwest::Client::new(), base, &link).await;
    (server, site)
}

on_both_databases! {
    async fn bodies_are_json_by_their_route_whatever_the_headers_say(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[]).await;
        let secret = site.secret("all").await;
        let key = site.enroll(&secret, "a").await;
        let orbit = json!({ "enroll_secret": secret, "hardware_uuid": "a", "platform": "ubuntu" });
        let orbit_key = site.agent("/api/fleet/orbit/enroll", &orbit).await.body["orbit_node_key"].clone();
        let with_key = json!({ "node_key": key });
        let with_orbit_key = json!({ "orbit_node_key": orbit_key });
        let login = json!({ "email": "ann@example.com", "password": PASSWORD });
        for (path, body) in [
            ("/api/fleet/orbit/enroll", &orbit),
            ("/api/fleet/orbit/config", &with_orbit_key),
            ("/api/osquery/enroll", &json!({ "enroll_secret": secret, "host_identifier": "a" })),
            ("/api/osquery/log", &json!({ "node_key": key, "log_type": "status", "data": [] })),
            ("/api/latest/fleet/login", &login),
            ("/api/muster/login", &login),
        ] {
            for (kind, accept) in [
                (None, None),
                (Some("text/plain"), Some("text/html")),
                (Some("application/x-www-form-urlencoded"), Some("application/xml")),
                (Some("application/json; charset=utf-16"), None),
                (Some("nonsense"), Some("*/*;q=0")),
            ] {
                let mut request = site.http.post(format!("{}{path}", site.base)).body(body.to_string());
                if let Some(kind) = kind {
                    request = request.header("content-type", kind);
                }
                if let Some(accept) = accept {
                    request = request.header("accept", accept);
                }
                let answer = Answer::read(request.send().await.unwrap()).await;
                assert_eq!(answer.status, 200, "{path} {kind:?}: {answer:?}");
                assert!(answer.header("content-type").unwrap().starts_with("application/json"), "{path}");
            }
        }
        // Both keys were given anew above; the newest count.
        assert_eq!(site.agent("/api/fleet/orbit/config", &with_orbit_key).await.status, 200);
        assert_eq!(site.agent("/api/osquery/config", &with_key).await.status, 200);
        server.shut_down().await;
    }

    async fn answers_have_their_members_when_there_is_nothing_to_show(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[]).await;
        for (path, member, is_empty) in [
            ("/hosts", "hosts", true),
            ("/hosts?status=offline&query=nobody", "hosts", true),
            ("/labels", "labels", false),
            ("/labels/6/hosts", "hosts", true),
            ("/queries", "queries", true),
            ("/reports", "queries", true),
            ("/spec/queries", "specs", true),
            ("/spec/labels", "specs", false),
            ("/users", "users", false),
            ("/users?query=nobody", "users", true),
            ("/activities?page=99", "activities", true),
            ("/software/titles", "software_titles", true),
        ] {
            let answer = site.get(&format!("/api/latest/fleet{path}")).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            let list = answer.body[member].as_array().unwrap_or_else(|| panic!("{path}: {answer:?}"));
            assert_eq!(list.is_empty(), is_empty, "{path}: {answer:?}");
        }
        for (path, member, value) in [
            ("/hosts/count", "count", json!(0)),
            ("/software/count", "count", json!(0)),
            ("/host_summary", "totals_hosts_count", json!(0)),
            ("/spec/enroll_secret", "spec", json!({ "secrets": null })),
        ] {
            let answer = site.get(&format!("/api/latest/fleet{path}")).await;
            assert_eq!((answer.status, &answer.body[member]), (200, &value), "{path}: {answer:?}");
        }
        let none = json!({ "query": "", "selected": { "hosts": null, "labels": null, "teams": null } });
        let targets = site.post("/api/latest/fleet/targets", &none).await;
        assert!(targets.body["targets"]["hosts"].is_array() && targets.body["targets"]["labels"].is_array(), "{targets:?}");
        server.shut_down().await;
    }

    async fn who_has_the_role_gitops_writes_a_team_to_its_end(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[]).await;
        let fleet = "/api/latest/fleet";
        let made = site.post(&format!("{fleet}/spec/teams"), &json!({ "specs": [{ "name": "Red" }] })).await;
        let team = made.body["team_ids_by_name"]["Red"].as_i64().unwrap();
        let user = json!({ "name": "CI", "email": "ci@example.com", "password": PASSWORD, "global_role": "gitops",
            "api_only": true });
        assert_eq!(site.post(&format!("{fleet}/users/admin"), &user).await.status, 200);
        let login = json!({ "email": "ci@example.com", "password": PASSWORD });
        let token = site.post(&format!("{fleet}/login"), &login).await.body["token"].as_str().unwrap().to_owned();
        let ci = site.with_session(&token);
        for (path, body, wanted) in [
            ("/mdm/profiles/batch?team_name=Red", json!({ "profiles": [] }), 204),
            ("/scripts/batch?team_name=Red", json!({ "scripts": [] }), 200),
            ("/scripts/batch?dry_run=true&team_name=New", json!({ "scripts": [] }), 200),
            ("/scripts/batch?team_name=New", json!({ "scripts": [] }), 404),
            ("/software/batch?team_name=Red", json!({ "software": [] }), 202),
            ("/software/batch?team_name=Red", json!({ "software": [{ "url": "https://x.example" }] }), 422),
            ("/software/app_store_apps/batch?team_name=Red", json!({ "app_store_apps": [] }), 200),
        ] {
            let answer = ci.post(&format!("{fleet}{path}"), &body).await;
            assert_eq!(answer.status, wanted, "{path} {body}: {answer:?}");
        }
        let policies = ci.get(&format!("{fleet}/teams/{team}/policies")).await;
        assert_eq!((policies.status, &policies.body["policies"]), (200, &json!([])), "{policies:?}");
        assert_eq!(ci.get(&format!("{fleet}/hosts")).await.status, 403, "it sees no hosts");
        server.shut_down().await;
    }

    async fn names_in_paths_are_taken_encoded_once_and_twice(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[]).await;
        let fleet = "/api/latest/fleet";
        let label = json!({ "specs": [{ "name": "seed label", "query": "SELECT 1" }] });
        assert_eq!(site.post(&format!("{fleet}/spec/labels"), &label).await.status, 200);
        let query = json!({ "specs": [{ "name": "50%20off", "query": "SELECT 1" }, { "name": "50 off", "query": "SELECT 2" }] });
        assert_eq!(site.post(&format!("{fleet}/spec/queries"), &query).await.status, 200);
        for name in ["seed%20label", "seed%2520label"] {
            let found = site.get(&format!("{fleet}/spec/labels/{name}")).await;
            assert_eq!((found.status, &found.body["specs"]["name"]), (200, &json!("seed label")), "{name}");
        }
        // An exact match goes first.
        let exact = site.get(&format!("{fleet}/spec/queries/50%2520off")).await;
        assert_eq!(exact.body["specs"]["name"], "50%20off");
        let once = site.get(&format!("{fleet}/spec/queries/50%20off")).await;
        assert_eq!(once.body["specs"]["name"], "50 off");
        assert_eq!(site.delete(&format!("{fleet}/labels/seed%2520label")).await.status, 200);
        server.shut_down().await;
    }

    async fn nothing_is_said_of_licences_and_what_follows_the_first_object_is_ignored(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[]).await;
        let fleet = "/api/latest/fleet";
        for path in ["/version", "/config", "/hosts", "/queries", "/spec/packs", "/policies"] {
            let answer = site.get(&format!("{fleet}{path}")).await;
            assert_eq!((answer.status, answer.header("x-fleet-license")), (200, None), "{path}");
        }
        let body = r#"{"name":"first","query":"SELECT 1"}{"name":"second"}"#;
        let request = site.http.post(format!("{}{fleet}/queries", site.base)).bearer_auth(site.session());
        let made = Answer::read(request.body(body).send().await.unwrap()).await;
        assert_eq!((made.status, &made.body["query"]["name"]), (200, &json!("first")), "{made:?}");
        server.shut_down().await;
    }

    async fn hosts_go_to_no_team_and_an_empty_text_filters_nothing(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[]).await;
        let fleet = "/api/latest/fleet";
        site.enroll(&site.secret("all").await, "a").await;
        let host = site.get(&format!("{fleet}/hosts/identifier/a")).await.body["host"]["id"].clone();
        let team = site.post(&format!("{fleet}/teams"), &json!({ "name": "Laptops" })).await.body["team"]["id"].clone();
        // As fleetctl up to March 2024 sends it.
        let filter = json!({ "team_id": team, "filters": { "query": "", "status": "", "label_id": 0 } });
        let filter_alone = json!({ "team_id": team, "filters": { "query": "", "status": "online" } });
        for (body, wanted) in [(&filter_alone, &team), (&json!({ "team_id": null, "hosts": [host] }), &Value::Null)] {
            let path = if body.get("filters").is_some() { "transfer/filter" } else { "transfer" };
            assert_eq!(site.post(&format!("{fleet}/hosts/{path}"), body).await.status, 200, "{body}");
            let shown = site.get(&format!("{fleet}/hosts/identifier/a")).await;
            assert_eq!(&shown.body["host"]["team_id"], wanted, "{body}");
        }
        assert!(site.post(&format!("{fleet}/hosts/transfer/filter"), &filter).await.status < 500);
        // `--team ""` of fleetctl of 2022 and 2023.
        let nobody = json!({ "list": [{ "type": "team", "payload": { "identifier": "" } }] });
        assert_eq!(site.post(&format!("{fleet}/translate"), &nobody).await.status, 404);
        server.shut_down().await;
    }

    async fn unused_lists_of_targets_arrive_as_one_empty_name(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[]).await;
        site.enroll(&site.secret("all").await, "a").await;
        for (version, path) in [("v1", "run_by_names"), ("latest", "run_by_identifiers")] {
            for (hosts, labels, total) in [(json!(["a"]), json!([""]), 1), (json!([""]), json!(["All Hosts"]), 1)] {
                let body = json!({ "query": "SELECT 1", "query_id": null, "selected": { "hosts": hosts, "labels": labels } });
                let campaign = site.post(&format!("/api/{version}/fleet/queries/{path}"), &body).await;
                assert_eq!(campaign.status, 200, "{campaign:?}");
                assert_eq!(campaign.body["campaign"]["Metrics"]["TotalHosts"], total, "{campaign:?}");
            }
        }
        server.shut_down().await;
    }

    async fn queries_and_reports_are_the_same_things_in_every_version(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[]).await;
        for (number, made_at) in ["v1/fleet/queries", "2022-04/fleet/reports", "latest/fleet/reports"].iter().enumerate() {
            let new = json!({ "name": format!("q{number}"), "query": "SELECT 1", "interval": 60 });
            let made = site.post(&format!("/api/{made_at}"), &new).await;
            assert_eq!(made.status, 200, "{made_at}: {made:?}");
            let id = made.body["query"]["id"].as_i64().unwrap();
            for version in ["v1", "2022-04", "latest"] {
                let old = site.get(&format!("/api/{version}/fleet/queries/{id}")).await;
                let new = site.get(&format!("/api/{version}/fleet/reports/{id}")).await;
                assert_eq!((old.status, &old.body), (200, &new.body), "{version}");
                assert_eq!(old.body["query"]["name"], format!("q{number}"));
                let old = site.get(&format!("/api/{version}/fleet/spec/queries")).await;
                let new = site.get(&format!("/api/{version}/fleet/spec/reports")).await;
                assert_eq!((old.status, &old.body), (200, &new.body), "{version}");
                assert_eq!(old.body["specs"].as_array().unwrap().len(), number + 1);
            }
        }
        server.shut_down().await;
    }

    async fn documents_that_clients_read_are_applied_without_a_change(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[]).await;
        let query = json!({ "name": "usb", "description": "d", "query": "SELECT 1", "interval": 60, "platform": "linux",
            "observer_can_run": true, "automations_enabled": true, "logging": "differential" });
        assert_eq!(site.post("/api/latest/fleet/queries", &query).await.status, 200);
        let label = json!({ "name": "tools", "description": "d", "query": "SELECT 1", "platform": "ubuntu" });
        assert_eq!(site.post("/api/latest/fleet/labels", &label).await.status, 200);
        site.secret("office").await;
        for path in ["/spec/queries", "/spec/reports", "/spec/labels", "/spec/enroll_secret"] {
            for version in ["v1", "2022-04", "latest"] {
                let path = format!("/api/{version}/fleet{path}");
                let before = site.get(&path).await;
                assert_eq!(before.status, 200, "{path}: {before:?}");
                let mut document = before.body.clone();
                if let Some(specs) = document["specs"].as_array_mut() {
                    // Labels of the server's own are no documents of the operator's.
                    specs.retain(|spec| spec["label_type"] != "builtin");
                    assert_eq!(specs.len(), 1, "{path}");
                }
                let applied = site.post(&path, &document).await;
                assert_eq!(applied.status, 200, "{path}: {applied:?}");
                assert_eq!(site.get(&path).await.body, before.body, "{path}");
            }
        }
        let before = site.get("/api/latest/fleet/config").await.body;
        let request = site.http.patch(format!("{}/api/latest/fleet/config", site.base)).bearer_auth(site.session());
        let applied = Answer::read(request.body(before.to_string()).send().await.unwrap()).await;
        assert_eq!(applied.status, 200, "{applied:?}");
        assert_eq!(site.get("/api/latest/fleet/config").await.body, before);
        server.shut_down().await;
    }

    async fn empty_lists_of_what_is_not_there_yet_are_taken_and_others_refused(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[]).await;
        site.post("/api/latest/fleet/teams", &json!({ "name": "web" })).await;
        for (path, list, status) in [
            ("/mdm/profiles/batch", "profiles", 204),
            ("/mdm/profiles/batch?team_name=web", "profiles", 204),
            ("/mdm/apple/profiles/batch", "profiles", 204),
            ("/scripts/batch?dry_run=true", "scripts", 200),
            ("/scripts/batch?team_id=1", "scripts", 200),
        ] {
            let path = format!("/api/latest/fleet{path}");
            let empty = site.post(&path, &json!({ list: [] })).await;
            assert_eq!(empty.status, status, "{path}: {empty:?}");
            let refused = site.post(&path, &json!({ list: [{ "name": "a", "script_contents": "ZWNobw==" }] })).await;
            assert_eq!(refused.status, 422, "{path}: {refused:?}");
            assert!(refused.body["errors"][0]["reason"].as_str().unwrap().contains("yet"), "{refused:?}");
        }
        let nobody = site.post("/api/latest/fleet/scripts/batch?team_name=nope", &json!({ "scripts": [] })).await;
        assert_eq!(nobody.status, 404, "{nobody:?}");
        server.shut_down().await;
    }

    async fn whoever_tries_passwords_waits_and_others_do_not(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[("trusted_proxies", "127.0.0.1")]).await;
        let attempt = async |path: &str, from: &str, email: &str, password: &str| {
            let request = site.http.post(format!("{}{path}", site.base)).header("x-forwarded-for", from);
            let body = json!({ "email": email, "password": password }).to_string();
            Answer::read(request.body(body).send().await.unwrap()).await
        };
        let mut tries = 0;
        let refused = loop {
            // Another account each time: it is the address that waits.
            let answer = attempt("/api/latest/fleet/login", "192.0.2.1", &format!("{tries}@example.com"), "x").await;
            if answer.status == 429 {
                break answer;
            }
            assert_eq!(answer.status, 401, "{answer:?}");
            tries += 1;
            assert!(tries < 100, "an address may try for ever");
        };
        let wait = |answer: &Answer| answer.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
        assert!(wait(&refused).is_some_and(|seconds| seconds > 0), "{refused:?}");
        assert!(refused.body["message"].is_string() && refused.body["errors"].is_array(), "{refused:?}");
        let native = attempt("/api/muster/login", "192.0.2.1", "ann@example.com", PASSWORD).await;
        assert_eq!(native.status, 429, "one limit for both ways in");
        assert!(wait(&native).is_some() && native.body["code"].is_string(), "{native:?}");
        let other = attempt("/api/latest/fleet/login", "192.0.2.2", "ann@example.com", PASSWORD).await;
        assert_eq!(other.status, 200, "another address is not held up: {other:?}");
        server.shut_down().await;
    }

    async fn the_version_and_the_configuration_are_told_in_every_version(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path(), &[]).await;
        let key = site.enroll(&site.secret("all").await, "a").await;
        let version = site.http.get(format!("{}/version", site.base)).send().await.unwrap();
        assert_eq!(version.status(), 200, "without authentication: simulators ask it before they log");
        assert!(Answer::read(version).await.body["version"].is_string());
        for api in ["v1", "2022-04", "latest"] {
            let config = site.get(&format!("/api/{api}/fleet/config")).await;
            assert_eq!(config.status, 200, "{api}");
            assert_eq!(config.body["org_info"]["org_name"].as_str().map(str::is_empty), Some(false), "{config:?}");
            let version = site.get(&format!("/api/{api}/fleet/version")).await;
            assert!(version.body["version"].is_string(), "{version:?}");
        }
        let broken = site.http.post(format!("{}/api/osquery/enroll", site.base)).body("{\"enroll_secret");
        let broken = Answer::read(broken.send().await.unwrap()).await;
        assert_eq!((broken.status, broken.body.get("node_invalid")), (400, None::<&Value>), "as fleetctl's debug connection");
        assert!(!site.asked(&key).await.is_empty());
        server.shut_down().await;
    }
}
