//! Configurations and their versions, as operators make and see them.

use muster_identity::{Actor, Role, TeamId};
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};

use super::{Agent, Site, good};
use crate::{admin, somebody};

on_both_databases! {
    async fn a_configuration_is_made_found_changed_and_deleted(db: TestDatabase) {
        let site = Site::new(&db).await;
        let body = json!({ "name": " gateway ", "description": "at the edge", "files": good(1), "note": "first" });
        let (status, made) = site.call("POST", "/collector-configs", body).await;
        assert_eq!((status, &made["config"]["name"]), (201, &json!("gateway")), "{made}");
        assert_eq!((&made["version"]["version"], &made["version"]["author_name"]), (&json!(1), &json!("Ann")));
        let warning = made["warnings"][0]["message"].as_str().unwrap();
        assert!(warning.starts_with("which components"), "{made}");
        site.create("other", good(1)).await;
        let (status, _) = site.call("POST", "/collector-configs", json!({ "name": "GATEWAY", "files": good(1) })).await;
        assert_eq!(status, 409, "names are compared without regard to case");

        let names = async |query: &str| -> Vec<Value> {
            let page = site.ok("GET", &format!("/collector-configs{query}"), Value::Null).await;
            page["items"].as_array().unwrap().iter().map(|item| item["name"].clone()).collect()
        };
        assert_eq!(names("").await, ["gateway", "other"]);
        assert_eq!(names("?sort=-name&limit=1").await, ["other"]);
        assert_eq!(names("?search=EDGE").await, ["gateway"]);
        assert_eq!(names("?team_id=0").await, ["gateway", "other"]);
        assert_eq!(names("?team_id=7").await, [""; 0]);

        let changed = site.ok("PATCH", "/collector-configs/1", json!({ "name": "gate" })).await;
        assert_eq!((&changed["name"], &changed["description"]), (&json!("gate"), &json!("at the edge")));
        let (status, _) = site.call("PATCH", "/collector-configs/1", json!({ "name": "Other" })).await;
        assert_eq!(status, 409);
        let (status, problem) = site.call("PATCH", "/collector-configs/1", json!({ "name": " " })).await;
        assert_eq!((status, &problem["fields"][0]["name"]), (422, &json!("name")));
        site.ok("DELETE", "/collector-configs/2", Value::Null).await;
        for path in ["/collector-configs/2", "/collector-configs/2/versions", "/collector-configs/2/status",
            "/collector-configs/99"] {
            assert_eq!(site.call("GET", path, Value::Null).await.0, 404, "{path}");
        }
    }

    async fn a_team_with_all_the_configurations_it_may_have_leaves_room_for_others(db: TestDatabase) {
        let site = Site::new(&db).await;
        let team = site.fixture.identity.teams.create(&Actor::system(), "Edge", "").await.unwrap().id;
        let of_team = async |name: &str| {
            let body = json!({ "name": name, "team_id": team.0, "files": good(1) });
            site.call("POST", "/collector-configs", body).await
        };
        for name in ["first", "second"] {
            assert_eq!(of_team(name).await.0, 201);
        }
        crate::change(&db, "INSERT INTO collectors_configs (team_key, name, name_key, description, kind, newest_version,
            created_at, updated_at) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 998)
            SELECT 1, 'c' || CAST(i AS TEXT), 'c' || CAST(i AS TEXT), '', 'collector', 0, 1, 1 FROM n").await;
        let (status, refused) = of_team("third").await;
        assert_eq!(status, 409, "{refused}");
        assert!(refused.to_string().contains("there are 1000 configurations of this team"), "{refused}");
        site.create("third", good(1)).await;
        site.ok("DELETE", "/collector-configs/1", Value::Null).await;
        assert_eq!(of_team("third").await.0, 201);
    }

    async fn versions_count_up_stay_as_they_are_and_the_same_files_make_none(db: TestDatabase) {
        let site = Site::new(&db).await;
        let id = site.create("gateway", good(1)).await;
        let path = format!("/collector-configs/{id}/versions");
        let (status, made) = site.call("POST", &path, json!({ "files": good(2), "note": "slower" })).await;
        assert_eq!((status, &made["version"]["version"], &made["created"]), (201, &json!(2), &json!(true)));
        let (status, same) = site.call("POST", &path, json!({ "files": good(2), "note": "again" })).await;
        assert_eq!((status, &same["version"], &same["created"]), (200, &made["version"], &json!(false)));
        let listed = site.ok("GET", &path, Value::Null).await;
        let notes: Vec<_> = listed["items"].as_array().unwrap().iter().map(|item| item["note"].clone()).collect();
        assert_eq!(notes, ["slower", ""]);
        let first = site.ok("GET", &format!("{path}/1"), Value::Null).await;
        assert_eq!(first["files"]["otelcol.yaml"]["body"], good(1)["otelcol.yaml"]["body"]);
        assert_eq!(first["files"]["otelcol.yaml"]["content_type"], "text/yaml");
        let newest = site.ok("GET", &format!("{path}/newest"), Value::Null).await;
        assert_eq!((&newest["version"], &newest["hash"]), (&json!(2), &made["version"]["hash"]));
        assert_eq!(site.call("GET", &format!("{path}/9"), Value::Null).await.0, 404);

        let diff = site.ok("GET", &format!("/collector-configs/{id}/diff"), Value::Null).await;
        assert_eq!((&diff["from"], &diff["to"], &diff["files"][0]["change"]), (&json!(1), &json!(2), &json!("changed")));
        let text = diff["files"][0]["diff"].as_str().unwrap();
        assert!(text.contains("-  batch: {timeout: 1s}\n+  batch: {timeout: 2s}\n"), "{text}");
        let all = site.ok("GET", &format!("/collector-configs/{id}/diff?from=0&to=1"), Value::Null).await;
        assert_eq!(all["files"][0]["change"], "added");
    }

    async fn of_very_many_versions_the_newest_are_kept_and_those_that_somebody_runs(db: TestDatabase) {
        let site = Site::new(&db).await;
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "*", json!({ "version": 1 })).await;
        let path = format!("/collector-configs/{id}/versions");
        for seconds in 2..=105 {
            site.ok("POST", &path, json!({ "files": good(seconds) })).await;
        }
        let listed = site.ok("GET", &format!("{path}?limit=1000"), Value::Null).await;
        let numbers: Vec<i64> = listed["items"].as_array().unwrap().iter().map(|item| item["version"].as_i64().unwrap())
            .collect();
        assert_eq!(numbers.len(), 101);
        assert_eq!((numbers[0], numbers[99], numbers[100]), (105, 6, 1));
    }

    async fn what_a_collector_would_not_start_with_is_not_kept(db: TestDatabase) {
        let site = Site::new(&db).await;
        let bad = json!({ "otelcol.yaml": { "body": "receivers: {otlp: }\nexporters: {debug: }\nservice:\n  pipelines:\n    \
            logs: {receivers: [otlpp], exporters: [debgu]}\n" } });
        let (status, problem) = site.call("POST", "/collector-configs", json!({ "name": "bad", "files": bad })).await;
        assert_eq!((status, &problem["code"]), (422, &json!("invalid_configuration")), "{problem}");
        let reasons: Vec<_> = problem["fields"].as_array().unwrap().iter().map(|field| field["reason"].as_str().unwrap())
            .collect();
        assert_eq!(reasons, [
            "otelcol.yaml:5:24: error: the pipeline `logs` names `otlpp`, which is not among the receivers or connectors; \
                did you mean `otlp`?",
            "otelcol.yaml:5:44: error: the pipeline `logs` names `debgu`, which is not among the exporters or connectors; \
                did you mean `debug`?",
        ]);
        let id = site.create("good", good(1)).await;
        let path = format!("/collector-configs/{id}/versions");
        assert_eq!(site.call("POST", &path, json!({ "files": bad, "apply": true })).await.0, 422);
        let large = json!({ "a": { "body": format!("# {}\n", "x".repeat(300_000)) } });
        let (status, problem) = site.call("POST", &path, json!({ "files": large })).await;
        assert_eq!(status, 422);
        assert!(problem["message"].as_str().unwrap().contains("at most 262144 are allowed"), "{problem}");
        let checked = site.ok("POST", "/collector-configs/validate", json!({ "files": bad })).await;
        assert_eq!((&checked["valid"], checked["findings"].as_array().unwrap().len() > 2), (&json!(false), true), "{checked}");
        let other = json!({ "elastic": { "body": "{\"logging_level\": \"debug\"}", "content_type": "application/json" } });
        let checked = site.ok("POST", "/collector-configs/validate", json!({ "files": other, "kind": "other" })).await;
        assert_eq!(checked, json!({ "valid": true, "findings": [] }));
        let page = site.ok("GET", "/collector-configs", Value::Null).await;
        assert_eq!((&page["total"], &page["items"][0]["newest_version"]), (&json!(1), &json!(1)));
    }

    async fn who_may_not_write_configurations_sees_no_secrets_in_them(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut files = good(1);
        let body = files["otelcol.yaml"]["body"].as_str().unwrap().replace("  debug:\n",
            "  debug:\n  otlp: {headers: {authorization: hunter2}}\n");
        files["otelcol.yaml"]["body"] = json!(body);
        let (status, made) = site.call("POST", "/collector-configs", json!({ "name": "gateway", "files": files })).await;
        assert_eq!(status, 201);
        assert!(made["warnings"].to_string().contains("looks like a secret in plain text"), "{made}");
        let path = "/collector-configs/1/versions/1";
        let observer = somebody(Some(Role::Observer), Vec::new());
        let (status, seen) = site.call_as(&observer, "GET", path, Value::Null).await;
        assert_eq!((status, &seen["masked"]), (200, &json!(true)));
        assert!(!seen.to_string().contains("hunter2"), "{seen}");
        let seen = site.ok("GET", path, Value::Null).await;
        assert!(seen["masked"] == false && seen.to_string().contains("hunter2"));
        let (_, diff) = site.call_as(&observer, "GET", "/collector-configs/1/diff?from=0", Value::Null).await;
        assert!(!diff.to_string().contains("hunter2") && diff.to_string().contains("[MASKED]"), "{diff}");
    }

    async fn who_may_do_what_goes_by_role_and_team(db: TestDatabase) {
        let site = Site::new(&db).await;
        let team = site.fixture.identity.teams.create(&(&admin()).into(), "Edge", "").await.unwrap().id;
        let other = site.fixture.identity.teams.create(&(&admin()).into(), "Shops", "").await.unwrap().id;
        site.create("everybodys", good(1)).await;
        site.ok("POST", "/collector-configs", json!({ "name": "teams", "files": good(1), "team_id": team })).await;
        let statuses = async |role: Option<Role>, teams: Vec<(TeamId, Role)>| {
            let who = somebody(role, teams);
            let mut statuses = Vec::new();
            for (method, path, body) in [
                ("GET", "/collector-configs/1", Value::Null),
                ("GET", "/collector-configs/2", Value::Null),
                ("POST", "/collector-configs/1/versions", json!({ "files": good(1) })),
                ("POST", "/collector-configs/2/versions", json!({ "files": good(1) })),
                ("POST", "/collector-config-assignments", json!({ "configuration_id": 1, "selector": "a=b" })),
                ("GET", "/collector-config-states", Value::Null),
                ("POST", "/collector-configs/validate", json!({ "files": good(1) })),
            ] {
                statuses.push(site.call_as(&who, method, path, body).await.0);
            }
            statuses
        };
        assert_eq!(statuses(Some(Role::Observer), vec![]).await, [200, 200, 403, 403, 403, 200, 200]);
        assert_eq!(statuses(Some(Role::GitOps), vec![]).await, [200, 200, 200, 200, 201, 403, 200]);
        assert_eq!(statuses(Some(Role::Maintainer), vec![]).await, [200, 200, 200, 200, 200, 200, 200]);
        assert_eq!(statuses(None, vec![(team, Role::Maintainer)]).await, [200, 200, 403, 200, 403, 200, 200]);
        assert_eq!(statuses(None, vec![(other, Role::Admin)]).await, [200, 404, 403, 404, 403, 200, 200]);
        assert_eq!(statuses(None, vec![]).await, [404, 404, 404, 404, 404, 403, 403]);
        // They go with their team.
        site.fixture.identity.teams.delete(&(&admin()).into(), team).await.unwrap();
        assert_eq!(site.call("GET", "/collector-configs/2", Value::Null).await.0, 404);
        assert_eq!(site.call("GET", "/collector-configs/1", Value::Null).await.0, 200);
    }

    async fn every_change_is_in_the_audit_log_and_no_content_of_files(db: TestDatabase) {
        let site = Site::new(&db).await;
        let id = site.create("gateway", good(1)).await;
        let assignment = site.assign(id, "*", json!({})).await;
        site.push(id, good(2)).await;
        site.ok("PATCH", "/collector-configs/1", json!({ "description": "x" })).await;
        site.ok("POST", &format!("/collector-config-assignments/{assignment}/rollback"), json!({})).await;
        site.ok("DELETE", &format!("/collector-config-assignments/{assignment}"), Value::Null).await;
        site.ok("DELETE", "/collector-configs/1", Value::Null).await;
        let listing = muster_http::ListingQuery::default().check(&["id"]).unwrap();
        let page = site.fixture.identity.audit.list(&listing, &muster_identity::AuditFilter::default()).await.unwrap();
        let text = serde_json::to_string(&page.items).unwrap();
        for action in [
            "created_collector_config", "created_collector_config_version", "assigned_collector_config",
            "changed_collector_config_assignment", "changed_collector_config", "rolled_back_collector_config",
            "unassigned_collector_config", "deleted_collector_config",
        ] {
            assert!(text.contains(&format!("\"{action}\"")), "{action} in {text}");
        }
        assert!(!text.contains("receivers"), "{text}");
    }

    async fn what_is_assigned_is_not_deleted(db: TestDatabase) {
        let site = Site::new(&db).await;
        let id = site.create("gateway", good(1)).await;
        let assignment = site.assign(id, "*", json!({})).await;
        let (status, problem) = site.call("DELETE", &format!("/collector-configs/{id}"), Value::Null).await;
        assert_eq!(status, 409);
        assert!(problem["message"].as_str().unwrap().contains(&format!("(assignments {assignment})")), "{problem}");
        site.ok("DELETE", &format!("/collector-config-assignments/{assignment}"), Value::Null).await;
        site.ok("DELETE", &format!("/collector-configs/{id}"), Value::Null).await;
    }

    async fn a_version_that_was_made_from_an_old_one_is_not_put_over_a_newer_one(db: TestDatabase) {
        let site = Site::new(&db).await;
        let id = site.create("gateway", good(1)).await;
        let path = format!("/collector-configs/{id}/versions");
        let push = |seconds: u32, base: i64| json!({ "files": good(seconds), "base_version": base });
        site.ok("POST", &path, push(2, 1)).await;
        let (status, problem) = site.call("POST", &path, push(3, 1)).await;
        assert_eq!(status, 409);
        assert!(problem["message"].as_str().unwrap().starts_with("the newest version is 2 now, and not 1"), "{problem}");
        // A call that is repeated finds its own version.
        let (status, again) = site.call("POST", &path, push(2, 1)).await;
        assert_eq!((status, &again["version"]["version"]), (200, &json!(2)));
        site.ok("POST", &path, push(3, 2)).await;
    }

    async fn a_file_in_which_secrets_cannot_be_masked_is_told_to_nobody(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        // Of two byte order marks whoever looks for secrets stumbles over the second.
        let files = json!({ "apm": { "body": "\u{feff}\u{feff}password: hunter2\n" } });
        let body = json!({ "name": "apps", "kind": "other", "files": files });
        let (status, made) = site.call("POST", "/collector-configs", body).await;
        assert_eq!(status, 201, "{made}");
        agent.runs("password: other\n").await;
        let path = "/collectors/1/config/diff?configuration_id=1";
        let (status, diff) = site.call_as(&somebody(Some(Role::Observer), Vec::new()), "GET", path, Value::Null).await;
        assert_eq!(status, 200);
        assert!(!diff.to_string().contains("hunter2"), "{diff}");
    }
}
