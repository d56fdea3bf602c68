//! Teams through a whole server: Fleet's API in both spellings, and what is left when one is deleted.

use muster_store::testing::on_both_databases;
use serde_json::{Value, json};

use crate::agents::site;
use crate::running;
use crate::site::{PASSWORD, Site, until};

const FLEET: &str = "/api/latest/fleet";

/// A new team's id and its first secret.
async fn team(site: &Site, name: &str) -> (i64, String) {
    let made = site
        .post(&format!("{FLEET}/teams"), &json!({ "name": name }))
        .await;
    assert_eq!(made.status, 200, "{made:?}");
    let team = &made.body["team"];
    let secret = team["secrets"][0]["secret"].as_str().unwrap().to_owned();
    (team["id"].as_i64().unwrap(), secret)
}

async fn interval(site: &Site, key: &str) -> Value {
    let config = site
        .agent("/api/osquery/config", &json!({ "node_key": key }))
        .await;
    config.body["options"]["distributed_interval"].clone()
}

/// The newest changes, newest first.
async fn changes(site: &Site) -> Vec<Value> {
    let audit = site.get("/api/muster/audit?sort=-id").await;
    audit.body["items"].as_array().cloned().unwrap()
}

on_both_databases! {
    async fn old_and_new_spellings_give_the_same_team(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let (id, _) = team(&site, "Laptops").await;
        let old = site.get(&format!("{FLEET}/teams/{id}")).await.body;
        assert!(old.get("fleet").is_none(), "{old}");
        for version in ["v1", "2022-04", "latest"] {
            let new = site.get(&format!("/api/{version}/fleet/fleets/{id}")).await.body;
            assert_eq!((&new["fleet"], &new["team"]), (&old["team"], &old["team"]), "{version}");
            let list = site.get(&format!("/api/{version}/fleet/fleets?query=lap")).await.body;
            assert_eq!((&list["fleets"][0], &list["teams"][0]), (&old["team"], &old["team"]), "{version}");
        }
        let list = site.get(&format!("{FLEET}/teams")).await.body;
        assert_eq!(list, json!({ "teams": [old["team"]] }));
        let changed = site.patch(&format!("{FLEET}/fleets/{id}"), &json!({ "description": "x" })).await.body;
        let expiry = json!({ "host_expiry_settings": { "host_expiry_enabled": true, "host_expiry_window": 90 } });
        let kept = site.patch(&format!("{FLEET}/teams/{id}"), &expiry).await.body;
        assert_eq!(kept["team"]["host_expiry_settings"], expiry["host_expiry_settings"]);
        let none = json!({ "host_expiry_settings": { "host_expiry_enabled": true, "host_expiry_window": 0 } });
        let refused = site.patch(&format!("{FLEET}/teams/{id}"), &none).await;
        assert_eq!(refused.status, 422);
        assert!(refused.body.to_string().contains("must be set to a positive number of days"), "{refused:?}");
        let off = json!({ "host_expiry_settings": { "host_expiry_enabled": false, "host_expiry_window": 0 } });
        assert_eq!(site.patch(&format!("{FLEET}/teams/{id}"), &off).await.status, 200);
        assert_eq!((&changed["fleet"]["description"], &changed["team"]["name"]), (&json!("x"), &json!("Laptops")));
        for path in ["teams", "fleets"] {
            let users = site.get(&format!("{FLEET}/{path}/{id}/users")).await.body;
            assert_eq!(users, json!({ "users": [] }));
            let secrets = site.get(&format!("{FLEET}/{path}/{id}/secrets")).await.body;
            assert_eq!(secrets["secrets"], old["team"]["secrets"]);
            let options = json!({ "config": { "options": { "distributed_interval": 20 } } });
            let answer = site.post(&format!("{FLEET}/{path}/{id}/agent_options"), &options).await;
            assert_eq!((answer.status, &answer.body["team"]["agent_options"]), (200, &options));
            let spec = json!({ "specs": [{ "name": "laptops" }] });
            let answer = site.post(&format!("{FLEET}/spec/{path}"), &spec).await;
            assert_eq!(answer.body["team_ids_by_name"], json!({ "laptops": id }), "{answer:?}");
        }
        let missing = site.get(&format!("{FLEET}/teams/999")).await;
        assert_eq!(missing.status, 404);
        assert_eq!(missing.body["errors"][0]["reason"], "Team 999 was not found in the datastore");
        let taken = site.post(&format!("{FLEET}/teams"), &json!({ "name": "LAPTOPS" })).await;
        assert_eq!(taken.status, 409);
        assert_eq!(site.get("/api/latest/fleet/global/policies").await.status, 404);
        server.shut_down().await;
    }

    async fn a_role_for_files_writes_configuration_and_sees_no_host(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        site.enroll(&site.secret("all").await, "host-1").await;
        let as_role = async |role: &str| {
            let email = format!("{role}@example.com");
            let user = json!({ "name": role, "email": email, "password": PASSWORD, "global_role": role });
            let made = site.post("/api/muster/users", &user).await;
            assert_eq!(made.status, 201, "{made:?}");
            let login = site.post("/api/muster/login", &json!({ "email": email, "password": PASSWORD })).await.body;
            site.with_session(login["token"].as_str().unwrap_or_else(|| panic!("{login}")))
        };
        let question = json!({ "query": "SELECT 1", "target": { "all": true } });
        let label = |name: &str| json!({ "name": name, "query": "SELECT 1" });
        let files = as_role("gitops").await;
        assert_eq!(files.get(&format!("{FLEET}/me")).await.body["user"]["global_role"], "gitops");
        assert_eq!(files.get("/api/muster/hosts").await.status, 403);
        assert_eq!(files.get(&format!("{FLEET}/hosts")).await.status, 403);
        assert_eq!(files.post("/api/muster/campaigns", &question).await.status, 403);
        assert_eq!(files.get("/api/muster/users").await.status, 403);
        assert_eq!(files.post("/api/muster/labels", &label("By file")).await.status, 201);
        let spec = json!({ "specs": [{ "name": "By file" }] });
        assert_eq!(files.post(&format!("{FLEET}/spec/teams"), &spec).await.status, 200);

        let plus = as_role("observer_plus").await;
        assert_eq!(plus.get("/api/muster/hosts").await.body["total"], 1);
        assert_eq!(plus.post("/api/muster/campaigns", &question).await.status, 201);
        assert_eq!(plus.post("/api/muster/labels", &label("Not mine")).await.status, 403);
        let observer = as_role("observer").await;
        let refused = observer.post("/api/muster/campaigns", &question).await;
        assert_eq!(refused.status, 403);
        assert_eq!(
            refused.body["message"],
            "forbidden: this needs the role observer_plus, maintainer or admin, in a team or for all"
        );
        server.shut_down().await;
    }

    async fn a_misspelt_member_of_a_teams_document_is_refused_with_a_hint(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let path = format!("{FLEET}/spec/teams");
        let spec = json!({ "specs": [{ "name": "Laptops", "agent_option": {} }] });
        for path in [path.clone(), format!("{path}?dry_run=true")] {
            let refused = site.post(&path, &spec).await;
            assert_eq!(refused.status, 400, "{refused:?}");
            let reason = &refused.body["errors"][0]["reason"];
            assert_eq!(reason, "unsupported key provided: \"agent_option\"; did you mean \"agent_options\"?");
        }
        assert_eq!(site.get(&format!("{FLEET}/teams")).await.body, json!({ "teams": [] }));
        assert_eq!(site.post(&format!("{path}?force=true"), &spec).await.status, 200);
        server.shut_down().await;
    }

    async fn a_document_makes_and_changes_teams_and_a_dry_run_does_neither(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let spec = json!({ "specs": [{
            "name": "Team Git", "gitops_filename": "gt.yml", "features": null, "mdm": { "enable_disk_encryption": false },
            "agent_options": { "config": { "options": { "distributed_interval": 10 } } },
            "secrets": [{ "secret": "sesame", "created_at": "0001-01-01T00:00:00Z" }],
        }] });
        let path = format!("{FLEET}/spec/teams");
        let tried = site.post(&format!("{path}?dry_run=true"), &spec).await;
        assert_eq!((tried.status, &tried.body), (200, &json!({ "team_ids_by_name": { "Team Git": 0 } })));
        assert_eq!(site.get(&format!("{FLEET}/teams")).await.body, json!({ "teams": [] }));
        let made = site.post(&path, &spec).await;
        assert_eq!(made.status, 200, "{made:?}");
        let id = made.body["team_ids_by_name"]["Team Git"].as_i64().unwrap();
        let shown = site.get(&format!("{FLEET}/teams/{id}")).await.body["team"].clone();
        assert_eq!(shown["agent_options"], spec["specs"][0]["agent_options"]);
        assert_eq!(shown["secrets"][0]["secret"], "sesame");
        let count = |changes: &[Value]| {
            let reading = |entry: &&Value| !entry["action"].as_str().unwrap().starts_with("revealed");
            changes.iter().filter(reading).count()
        };
        // What was read is applied, and changes nothing.
        let before = count(&changes(&site).await);
        let again = site.post(&path, &json!({ "specs": [shown] })).await;
        assert_eq!(again.body, made.body);
        assert_eq!(count(&changes(&site).await), before);
        for (spec, force, wanted) in [
            (json!({ "name": " " }), false, 422),
            (json!({ "name": "x", "agent_options": { "confg": {} } }), false, 400),
            (json!({ "name": "x", "secrets": [{ "secret": "s" }, { "secret": "s" }] }), false, 409),
            (json!({ "name": "x", "secrets": [{ "secret": "sesame" }] }), false, 409),
            (json!({ "name": "Team Git", "agent_options": { "confg": {} } }), true, 200),
            (json!({ "name": "Team Git", "agent_options": null }), false, 200),
        ] {
            let answer = site.post(&format!("{path}?force={force}"), &json!({ "specs": [spec] })).await;
            assert_eq!(answer.status, wanted, "{spec}: {answer:?}");
        }
        let teams = site.get(&format!("{FLEET}/teams")).await.body["teams"].clone();
        assert_eq!(teams.as_array().unwrap().len(), 1, "what was refused left nothing: {teams}");
        assert!(teams[0]["agent_options"].is_null());
        server.shut_down().await;
    }

    async fn users_come_to_a_team_and_leave_it(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let ((mine, _), (theirs, _)) = (team(&site, "Mine").await, team(&site, "Theirs").await);
        let new = json!({ "name": "Bo", "email": "bo@example.com", "password": "password123#",
            "teams": [{ "id": theirs, "role": "observer" }], "admin_forced_password_reset": false });
        let bo = site.post(&format!("{FLEET}/users/admin"), &new).await.body["user"]["id"].as_i64().unwrap();
        let path = format!("{FLEET}/teams/{mine}/users");
        let added = site.patch(&path, &json!({ "users": [{ "id": bo, "role": "maintainer" }] })).await;
        assert_eq!((added.status, &added.body["team"]["user_count"]), (200, &json!(1)), "{added:?}");
        let users = site.get(&path).await.body;
        assert_eq!(users["users"][0]["email"], "bo@example.com");
        assert_eq!(users["users"][0]["teams"].as_array().unwrap().len(), 2, "{users}");
        for (body, wanted) in [
            (json!({ "users": [{ "id": bo, "role": "king" }] }), 422),
            (json!({ "users": [{ "id": 999, "role": "observer" }] }), 404),
            (json!({ "users": [{ "id": 1, "role": "observer" }] }), 422),
        ] {
            assert_eq!(site.patch(&path, &body).await.status, wanted, "{body}");
        }
        let removed = site.delete_with(&path, &json!({ "users": [{ "id": bo }] })).await;
        assert_eq!((removed.status, &removed.body["team"]["user_count"]), (200, &json!(0)));
        let left = site.get(&format!("{FLEET}/users/{bo}")).await.body;
        assert_eq!(left["user"]["teams"][0]["id"], theirs);

        // A member sees its team and no secret; other teams do not exist for it.
        let login = json!({ "email": "bo@example.com", "password": "password123#" });
        let login = site.post(&format!("{FLEET}/login"), &login).await.body;
        let member = site.with_session(login["token"].as_str().unwrap());
        let seen = member.get(&format!("{FLEET}/teams")).await.body;
        assert_eq!((seen["teams"].as_array().unwrap().len(), &seen["teams"][0]["id"]), (1, &json!(theirs)));
        assert!(seen["teams"][0].get("secrets").is_none());
        assert_eq!(member.get(&format!("{FLEET}/teams/{mine}")).await.status, 404);
        let refused = member.patch(&format!("{FLEET}/teams/{theirs}"), &json!({ "name": "x" })).await;
        assert_eq!((refused.status, &refused.body["message"]), (403, &json!("forbidden")));
        let refused = member.patch(&format!("/api/muster/teams/{theirs}"), &json!({ "name": "x" })).await;
        let message = "forbidden: this needs the role gitops or admin, in this team or for all";
        assert_eq!((refused.status, &refused.body["message"]), (403, &json!(message)));
        assert_eq!(member.get(&format!("{FLEET}/activities")).await.status, 403, "they tell of all teams");
        assert_eq!(member.post(&format!("{FLEET}/teams"), &json!({ "name": "o" })).await.status, 403);
        assert_eq!(member.delete(&format!("{FLEET}/teams/{theirs}")).await.status, 403);
        server.shut_down().await;
    }

    async fn a_deleted_team_leaves_its_hosts_and_nothing_else(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        for native in [true, false] {
            let (id, secret) = team(&site, "Laptops").await;
            let identifier = format!("host-{native}");
            let key = site.enroll(&secret, &identifier).await;
            site.answer(&key, json!({ "fleet_detail_query_os_version": [{ "name": "Ubuntu", "platform": "ubuntu" }] }))
                .await;
            let everybodys = interval(&site, &key).await;
            let options = json!({ "config": { "options": { "distributed_interval": 33 } } });
            site.post(&format!("{FLEET}/teams/{id}/agent_options"), &options).await;
            until("the team's options are in force", async || interval(&site, &key).await == 33).await;
            let saved = json!({ "name": "q", "query": "SELECT 1", "team_id": id, "interval": 60 });
            assert_eq!(site.post(&format!("{FLEET}/queries"), &saved).await.status, 200);
            let question = json!({ "query": "SELECT 1 AS one", "target": { "team_ids": [id] } });
            let campaign = site.post("/api/muster/campaigns", &question).await;
            let campaign = campaign.body["id"].as_i64().unwrap_or_else(|| panic!("{campaign:?}"));

            let gone = if native {
                site.delete(&format!("/api/muster/teams/{id}")).await
            } else {
                site.delete(&format!("{FLEET}/fleets/{id}")).await
            };
            assert_eq!(gone.status, if native { 204 } else { 200 }, "{gone:?}");
            let newest = changes(&site).await.remove(0);
            assert_eq!((&newest["action"], &newest["before"]["name"]), (&json!("deleted_team"), &json!("Laptops")));
            let released = json!({ "access_keys": 0, "collector_configs": 0, "collector_telemetry": 0, "collectors": 0,
                "enrollment_tokens": 1, "hosts": 1, "saved_queries": 1, "settings": 1 });
            assert_eq!(newest["after"]["released"], released);
            assert_eq!(site.get(&format!("{FLEET}/teams/{id}")).await.status, 404);
            let host = site.get(&format!("{FLEET}/hosts/identifier/{identifier}")).await.body;
            assert!(host["host"]["team_id"].is_null(), "{host}");
            until("everybody's options are in force", async || interval(&site, &key).await == everybodys).await;
            let queries = site.get(&format!("{FLEET}/queries?team_id={id}")).await.body;
            assert_eq!(queries["queries"], json!([]));
            let refused = json!({ "enroll_secret": secret, "host_identifier": "new" });
            let refused = site.agent("/api/osquery/enroll", &refused).await;
            assert_eq!((refused.status, &refused.body["node_invalid"]), (401, &json!(true)));

            // The live query goes on, and the host keeps its key.
            let asked = site.asked(&key).await;
            let name = asked.keys().find(|name| name.starts_with("fleet_distributed_query_")).unwrap().clone();
            assert_eq!(site.answer(&key, json!({ name: [{ "one": "1" }] })).await.status, 200);
            let results = site.get(&format!("/api/muster/campaigns/{campaign}/results")).await.body;
            assert_eq!(results["items"][0]["rows"], json!([{ "one": "1" }]));
        }
        server.shut_down().await;
    }

    async fn what_a_team_left_behind_is_let_go_at_the_next_start(db: TestDatabase) {
        use muster_store::{Executor as _, args};
        let folder = tempfile::tempdir().unwrap();
        let (server, mut site) = site(&db, folder.path()).await;
        let (id, secret) = team(&site, "Laptops").await;
        site.enroll(&secret, "a").await;
        server.shut_down().await;
        // As a release before this one left it: the team is gone and its host is not told.
        let database = db.reopen().await;
        let mut writer = &database;
        writer.execute("DELETE FROM identity_teams WHERE id = $1", args![id]).await.unwrap();
        database.close().await;
        let server = running(folder.path(), &[("database.url", db.address())]).await;
        site.base = crate::url(&server, "");
        site.http = crate::client(&server);
        let path = format!("{FLEET}/hosts/identifier/a");
        until("the host has no team", async || site.get(&path).await.body["host"]["team_id"].is_null()).await;
        assert!(changes(&site).await.iter().any(|entry| entry["action"] == "released_leftovers"));
        server.shut_down().await;
    }
}
