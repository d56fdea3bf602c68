//! Access keys of collectors and their enrollment tokens, as operators of each role see them.

use muster_store::testing::on_both_databases;
use serde_json::{Value, json};

use crate::agents::site;
use crate::site::{PASSWORD, Site};

const API: &str = "/api/muster";

/// The session of a new user with these roles.
async fn user(site: &Site, email: &str, roles: Value) -> Site {
    let mut body = json!({ "name": email, "email": email, "password": PASSWORD });
    for (name, value) in roles.as_object().unwrap() {
        body[name] = value.clone();
    }
    let made = site.post(&format!("{API}/users"), &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let login = json!({ "email": email, "password": PASSWORD });
    let login = site.post(&format!("{API}/login"), &login).await;
    site.with_session(login.body["token"].as_str().unwrap())
}

on_both_databases! {
    async fn a_key_is_made_in_advance_shown_once_listed_and_revoked(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let path = format!("{API}/access-keys");
        let made = site.post(&path, &json!({ "name": "gateway", "family": "opamp" })).await;
        assert_eq!(made.status, 201, "{made:?}");
        let secret = made.body["secret"].as_str().unwrap();
        assert!(secret.starts_with("mst_acc_"));
        let key = &made.body["key"];
        let seen = (&key["name"], &key["state"], &key["is_made_in_advance"]);
        assert_eq!(seen, (&json!("gateway"), &json!("pending"), &json!(true)));
        let one = format!("{path}/{}", key["id"]);
        assert_eq!(&site.get(&one).await.body, key);
        site.post(&path, &json!({ "name": "checkout", "expires_at": "2100-01-01T00:00:00Z" })).await;

        let names = async |query: &str| -> Vec<String> {
            let listed = site.get(&format!("{path}?{query}")).await;
            assert_eq!(listed.status, 200, "{listed:?}");
            assert!(!listed.body.to_string().contains(secret), "it is shown only once");
            let items = listed.body["items"].as_array().unwrap();
            items.iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names("").await, ["gateway", "checkout"]);
        assert_eq!(names("sort=-id&limit=1").await, ["checkout"]);
        assert_eq!(names("search=GATE").await, ["gateway"]);
        assert_eq!(site.post(&format!("{one}/revoke"), &json!({})).await.status, 204);
        assert_eq!(site.post(&format!("{one}/revoke"), &json!({})).await.status, 204);
        assert_eq!(names("state=revoked").await, ["gateway"]);
        assert_eq!(names("state=pending&made_in_advance=true").await, ["checkout"]);
        for none in ["state=active", "state=superseded", "state=ended", "made_in_advance=false", "collector_id=7"] {
            assert_eq!(names(none).await, [""; 0], "{none}");
        }
        let rotated = site.post(&format!("{one}/rotate"), &json!({})).await;
        assert_eq!(rotated.status, 409, "{rotated:?}");
        for (wrong, field) in [
            (json!({ "name": " " }), "name"),
            (json!({ "name": "x", "family": "osquery" }), "family"),
            (json!({ "name": "x", "team_id": 99 }), "team_id"),
            (json!({ "name": "x", "expires_at": "yesterday" }), "expires_at"),
            (json!({ "name": "x", "expires_at": "2001-01-01T00:00:00Z" }), "expires_at"),
        ] {
            let refused = site.post(&path, &wrong).await;
            assert_eq!(refused.status, 422, "{refused:?}");
            assert!(refused.body.to_string().contains(field), "{refused:?}");
        }
        assert_eq!(site.get(&format!("{path}?state=good")).await.status, 422);
        for gone in [site.get(&format!("{path}/999")).await, site.post(&format!("{path}/999/revoke"), &json!({})).await] {
            assert_eq!(gone.status, 404, "{gone:?}");
        }
        server.shut_down().await;
    }

    async fn the_renewal_of_all_keys_is_started_looked_at_and_stopped(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let path = format!("{API}/access-key-rotation");
        let nothing = json!({ "waiting": 0, "due": 0, "cannot_take": 0, "away": 0 });
        assert_eq!(site.get(&path).await.body, nothing);
        let started = site.post(&path, &json!({})).await;
        assert_eq!((started.status, &started.body), (201, &nothing), "there are no keys in use");
        let wrong = site.post(&path, &json!({ "collectors_per_minute": 0 })).await;
        assert_eq!(wrong.status, 422, "{wrong:?}");
        assert_eq!(site.delete(&path).await.body, nothing);
        server.shut_down().await;
    }

    async fn who_may_do_what_with_access_keys_goes_by_role_and_team(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let path = format!("{API}/access-keys");
        let team = site.post(&format!("{API}/teams"), &json!({ "name": "Edge" })).await.body["id"].clone();
        let everybodys = site.post(&path, &json!({ "name": "everybodys" })).await.body["key"]["id"].clone();
        let teams = site.post(&path, &json!({ "name": "teams", "team_id": team })).await.body["key"]["id"].clone();
        let member = json!({ "teams": [{ "team_id": team, "role": "maintainer" }] });
        let statuses = async |who: &Site| {
            [
                who.get(&path).await.status,
                who.post(&path, &json!({ "name": "x" })).await.status,
                who.post(&path, &json!({ "name": "x", "team_id": team })).await.status,
                who.post(&format!("{path}/{everybodys}/revoke"), &json!({})).await.status,
                who.post(&format!("{path}/{teams}/revoke"), &json!({})).await.status,
                who.get(&format!("{API}/access-key-rotation")).await.status,
                who.post(&format!("{API}/access-key-rotation"), &json!({})).await.status,
            ]
        };
        let observer = user(&site, "ob@example.com", json!({ "global_role": "observer" })).await;
        assert_eq!(statuses(&observer).await, [200, 403, 403, 403, 403, 200, 403]);
        let gitops = user(&site, "git@example.com", json!({ "global_role": "gitops" })).await;
        assert_eq!(statuses(&gitops).await, [403, 201, 201, 403, 403, 403, 403]);
        let member = user(&site, "bo@example.com", member).await;
        assert_eq!(statuses(&member).await, [200, 403, 201, 404, 204, 403, 403]);
        let seen = member.get(&path).await.body;
        let seen: Vec<&Value> = seen["items"].as_array().unwrap().iter().map(|key| &key["team_id"]).collect();
        assert!(!seen.is_empty() && seen.iter().all(|of| **of == team), "{seen:?}");
        let maintainer = user(&site, "eve@example.com", json!({ "global_role": "maintainer" })).await;
        assert_eq!(statuses(&maintainer).await, [200, 201, 201, 204, 204, 200, 201]);
        let nobody = site.with_session("guessed");
        assert_eq!(statuses(&nobody).await, [401; 7]);
        server.shut_down().await;
    }

    async fn a_token_says_by_the_api_what_is_done_with_known_agents(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (server, site) = site(&db, folder.path()).await;
        let path = format!("{API}/enrollment-tokens");
        let new = json!({ "name": "sdk", "families": ["opamp"], "known_agents": "new_identity", "ephemeral": true });
        let made = site.post(&path, &new).await;
        let token = &made.body["token"];
        assert_eq!((&token["known_agents"], &token["ephemeral"]), (&json!("new_identity"), &json!(true)), "{made:?}");
        assert_eq!(&site.get(&format!("{path}/{}", token["id"])).await.body, token);
        let rotated = site.post(&format!("{path}/{}/rotate", token["id"]), &json!({})).await;
        assert_eq!(rotated.body["token"]["known_agents"], "new_identity", "{rotated:?}");
        let plain = site.post(&path, &json!({ "name": "all" })).await;
        assert_eq!(plain.body["token"]["known_agents"], "adopt", "{plain:?}");
        let hosts = site.post(&path, &json!({ "name": "hosts", "families": ["orbit"] })).await;
        assert!(hosts.body["token"].get("known_agents").is_none(), "{hosts:?}");
        for wrong in [
            json!({ "name": "x", "known_agents": "ask" }),
            json!({ "name": "x", "families": ["orbit"], "known_agents": "deny" }),
            json!({ "name": "x", "families": ["orbit"], "ephemeral": true }),
        ] {
            let refused = site.post(&path, &wrong).await;
            assert_eq!(refused.status, 422, "{refused:?}");
        }
        server.shut_down().await;
    }
}
