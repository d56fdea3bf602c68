//! People through a whole server: what is denied is kept, and who is locked out is let in again.

use muster_store::testing::on_both_databases;
use serde_json::{Value, json};

use crate::agents::site;
use crate::program::command;
use crate::site::{PASSWORD, Site, until};

const API: &str = "/api/muster";

/// A new user's session.
async fn log_in(site: &Site, email: &str) -> Site {
    let body = json!({ "email": email, "password": PASSWORD });
    let answer = site.post(&format!("{API}/login"), &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    site.with_session(answer.body["token"].as_str().unwrap())
}

async fn user(site: &Site, email: &str, role: &str) -> i64 {
    let body = json!({ "name": email, "email": email, "password": PASSWORD, "global_role": role });
    let answer = site.post(&format!("{API}/users"), &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body["id"].as_i64().unwrap()
}

async fn audit(site: &Site, action: &str) -> Vec<Value> {
    let answer = site.get(&format!("{API}/audit?action={action}")).await;
    answer.body["items"].as_array().cloned().unwrap()
}

on_both_databases! {
    async fn every_denial_is_in_the_audit_log_with_its_reason_and_without_the_secret(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let bob = user(&site, "bob@example.com", "observer").await;
        let bobs = log_in(&site, "bob@example.com").await;
        assert_eq!(bobs.get(&format!("{API}/users")).await.status, 403);
        assert_eq!(bobs.delete("/api/latest/fleet/users/1").await.status, 403);
        let nobody = site.with_session("mst_session_guessed");
        assert_eq!(nobody.get(&format!("{API}/hosts/7")).await.status, 401);
        let guess = json!({ "enroll_secret": "guessed-secret", "host_identifier": "x" });
        let refused = site.agent("/api/v1/osquery/enroll", &guess).await;
        assert_eq!(refused.status, 401);
        let wrong = json!({ "email": "bob@example.com", "password": "guessed-password" });
        assert_eq!(site.post(&format!("{API}/login"), &wrong).await.status, 401);
        until("all denials are kept", async || {
            audit(&site, "denied_request").await.len() == 3 && audit(&site, "denied_enrollment").await.len() == 1
        })
        .await;
        let shown = |entry: &Value| {
            format!("{} {} {}", entry["actor_kind"].as_str().unwrap(), entry["subject_id"].as_str().unwrap(),
                entry["after"]["reason"].as_str().unwrap())
        };
        let mut requests: Vec<String> = audit(&site, "denied_request").await.iter().map(shown).collect();
        requests.sort();
        assert_eq!(requests, [
            "unknown GET /api/muster/hosts/{id} unauthenticated",
            "user DELETE /api/latest/fleet/users/{id} forbidden",
            "user GET /api/muster/users forbidden",
        ]);
        assert_eq!(shown(&audit(&site, "denied_enrollment").await[0]), "agent osquery unknown");
        let failed = audit(&site, "failed_login").await;
        assert_eq!(failed[0]["after"]["reason"], "wrong_password");
        let all = site.get(&format!("{API}/audit")).await.body.to_string();
        assert!(!all.contains("guessed"), "{all}");
        let own = site.get(&format!("{API}/audit?actor_id={bob}&action=denied_request")).await.body;
        assert_eq!(own["total"], 2);
        server.shut_down().await;
    }

    async fn who_must_set_a_new_password_can_do_nothing_else(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let bob = user(&site, "bob@example.com", "observer").await;
        let token = site.post(&format!("{API}/users/{bob}/api-tokens"), &json!({ "name": "ci" })).await;
        let before = log_in(&site, "bob@example.com").await;
        let reset = site.post(&format!("{API}/users/{bob}/reset-password"), &json!({})).await;
        assert_eq!(reset.status, 200, "{reset:?}");
        assert_eq!(before.get(&format!("{API}/me")).await.status, 401, "sessions ended");
        let program = site.with_session(token.body["secret"].as_str().unwrap());
        let refused = program.get(&format!("{API}/me")).await;
        assert_eq!((refused.status, &refused.body["code"]), (401, &json!("password_reset_required")));
        let temporary = reset.body["password"].as_str().unwrap();
        let login = json!({ "email": "bob@example.com", "password": temporary });
        let login = site.post(&format!("{API}/login"), &login).await;
        assert_eq!(login.body["user"]["must_reset_password"], true);
        let bobs = site.with_session(login.body["token"].as_str().unwrap());
        let refused = bobs.get(&format!("{API}/hosts")).await;
        assert_eq!((refused.status, &refused.body["code"]), (401, &json!("password_reset_required")));
        let change = json!({ "old_password": temporary, "new_password": "another password 1" });
        assert_eq!(bobs.post(&format!("{API}/me/password"), &change).await.status, 204);
        assert_eq!(bobs.get(&format!("{API}/hosts")).await.status, 200);
        assert_eq!(program.get(&format!("{API}/me")).await.status, 200);
        let own = site.post(&format!("{API}/users/1/reset-password"), &json!({})).await;
        assert_eq!(own.status, 422, "{own:?}");
        server.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_administrator_is_let_in_again_from_the_servers_machine() {
    let folder = tempfile::tempdir().unwrap();
    let create = command(folder.path())
        .args(["admin", "create-user", "--email", "ann@example.com"])
        .env("MUSTER_PASSWORD", PASSWORD)
        .output()
        .unwrap();
    assert!(create.status.success(), "{create:?}");
    let reset = |email: &str| {
        command(folder.path())
            .args(["admin", "reset-user", "--email", email])
            .output()
            .unwrap()
    };
    assert!(!reset("bob@example.com").status.success());
    let done = reset("Ann@Example.com");
    assert!(done.status.success(), "{done:?}");
    let password = String::from_utf8(done.stdout).unwrap();
    let mut start = command(folder.path());
    let program = crate::program::Program::start(start.env("MUSTER_TLS_ENABLED", "false"));
    let login = |password: &str| {
        let body = json!({ "email": "ann@example.com", "password": password.trim() });
        let request = reqwest::Client::new().post(format!("{}{API}/login", program.base()));
        async move { request.json(&body).send().await.unwrap() }
    };
    assert_eq!(login(PASSWORD).await.status(), 401);
    let answer: Value = login(&password).await.json().await.unwrap();
    assert_eq!(answer["user"]["must_reset_password"], true, "{answer}");
}
