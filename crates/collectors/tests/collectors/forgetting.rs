//! Collectors are deleted by a filter, and those that stay away.

use std::time::Duration;

use muster_http::ListingQuery;
use muster_identity::{AuditFilter, KnownAgents, Role, TeamId};
use muster_store::testing::on_both_databases;
use muster_store::{Executor as _, args};
use serde_json::{Value, json};

use crate::{Fixture, SETTINGS, admin, described, goodbye, key_of, message, somebody};

const DAY: u64 = 24 * 60 * 60;

impl Fixture {
    async fn delete(&self, body: Value) -> (u16, Value) {
        self.call(&admin(), "POST", "/collectors/delete", body)
            .await
    }

    async fn ids(&self) -> Vec<i64> {
        let listed = self.list("?sort=id&limit=1000").await;
        listed
            .iter()
            .map(|one| one["id"].as_i64().unwrap())
            .collect()
    }

    /// What the log of changes says was deleted.
    async fn log(&self) -> Vec<Value> {
        let filter = AuditFilter {
            action: Some("deleted_collector".to_owned()),
            ..AuditFilter::default()
        };
        let listing = ListingQuery {
            limit: Some(1_000),
            sort: Some("-id".to_owned()),
            ..ListingQuery::default()
        };
        let listing = listing.check(&["id"]).unwrap();
        let page = self.identity.audit.list(&listing, &filter).await.unwrap();
        page.items
            .into_iter()
            .map(|entry| serde_json::to_value(entry).unwrap())
            .collect()
    }
}

on_both_databases! {
    async fn collectors_that_a_filter_names_are_deleted_with_their_keys_after_a_look(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let mut keys = Vec::new();
        for uid in 1..=4 {
            let key = key_of(&fixture.send(&token, &described(uid, 0, SETTINGS)).await).unwrap();
            fixture.send(&key, &described(uid, 0, SETTINGS)).await;
            keys.push(key);
        }
        fixture.send(&keys[0], &goodbye(1, 1, SETTINGS)).await;
        fixture.send(&keys[1], &goodbye(2, 1, SETTINGS)).await;
        fixture.call(&admin(), "POST", "/collectors/2/revoke", json!({})).await;
        fixture.collectors.flush().await.unwrap();
        let wish = json!({ "filter": { "status": "offline" }, "dry_run": true });
        let (status, told) = fixture.delete(wish).await;
        let expected = json!({ "matched": 2, "online": 0, "revoked": 1, "deleted": 0, "remaining": 2 });
        assert_eq!((status, told), (200, expected));
        assert_eq!(fixture.ids().await, [1, 2, 3, 4], "whoever only asks deletes nothing");
        let (status, told) = fixture.delete(json!({ "filter": { "status": "offline", "standing": "enrolled" } })).await;
        let expected = json!({ "matched": 1, "online": 0, "revoked": 0, "deleted": 1, "remaining": 0 });
        assert_eq!((status, told), (200, expected));
        assert_eq!(fixture.ids().await, [2, 3, 4]);
        assert_eq!(fixture.post(&keys[0], &message(1, 2, SETTINGS)).await.0, 401, "its key went with it");
        assert_eq!(fixture.post(&keys[2], &message(3, 1, SETTINGS)).await.0, 200);
        let (_, told) = fixture.delete(json!({ "filter": { "search": "BOX-4", "team_id": 0 } })).await;
        assert_eq!(told["deleted"], 1);
        assert_eq!(fixture.ids().await, [2, 3]);
        let log = fixture.log().await;
        assert_eq!(log.len(), 2);
        assert!(log[0].to_string().contains("box-4") && log[0].to_string().contains("Ann"), "{log:?}");
        fixture.send(&token, &described(1, 0, SETTINGS)).await;
        assert_eq!(fixture.ids().await.len(), 3, "it comes again as a new one");
    }

    async fn a_filter_that_says_nothing_or_something_else_deletes_nothing(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        fixture.send(&token, &described(1, 0, 0)).await;
        for (filter, why) in [
            (json!({}), "at least one filter"),
            (json!({ "status": null }), "at least one filter"),
            (json!({ "stauts": "offline" }), "there is no filter `stauts`"),
            (json!({ "limit": 3 }), "there is no filter `limit`"),
            (json!({ "status": "gone" }), "must be online, late or offline"),
            (json!({ "attribute": " , " }), "`attribute` is empty"),
            (json!({ "search": "" }), "`search` is empty"),
            (json!({ "search": 3 }), "`search` has to be a text"),
            (json!({ "healthy": "no" }), "bool"),
        ] {
            let (status, problem) = fixture.delete(json!({ "filter": filter })).await;
            assert_eq!(status, 422, "{filter} {problem}");
            assert!(problem.to_string().contains(why), "{filter} {problem}");
        }
        for body in [json!({}), json!({ "filter": { "status": "online" }, "dryrun": true })] {
            assert_eq!(fixture.delete(body).await.0, 400);
        }
        assert_eq!(fixture.ids().await.len(), 1);
    }

    async fn whoever_deletes_by_a_filter_deletes_in_teams_where_that_is_allowed(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let mut teams: Vec<TeamId> = Vec::new();
        fixture.send(&token, &described(1, 0, 0)).await;
        for (uid, name) in [(2, "mine"), (3, "seen"), (4, "theirs")] {
            let (team, token) = fixture.team(name).await;
            fixture.send(&token, &described(uid, 0, 0)).await;
            teams.push(team);
        }
        let all = json!({ "filter": { "attribute": "os.type=linux" } });
        let observer = somebody(None, vec![(teams[0], Role::Observer)]);
        assert_eq!(fixture.call(&observer, "POST", "/collectors/delete", all.clone()).await.0, 403);
        let mixed = somebody(None, vec![(teams[0], Role::Maintainer), (teams[1], Role::Observer)]);
        let (status, told) = fixture.call(&mixed, "POST", "/collectors/delete", all).await;
        assert_eq!((status, &told["matched"], &told["deleted"]), (200, &json!(1), &json!(1)));
        assert_eq!(fixture.ids().await, [1, 3, 4]);
    }

    async fn collectors_that_stay_away_are_deleted_when_operators_say_so(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let key = key_of(&fixture.send(&token, &described(1, 0, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(1, 0, SETTINGS)).await;
        for uid in 2..=3 {
            fixture.send(&token, &described(uid, 0, 0)).await;
        }
        fixture.call(&admin(), "POST", "/collectors/2/revoke", json!({ "reason": "stolen" })).await;
        fixture.collectors.flush().await.unwrap();
        fixture.wait(31 * DAY);
        fixture.send(&token, &message(3, 1, 0)).await;
        fixture.collectors.flush().await.unwrap();
        let month = Duration::from_secs(30 * DAY);
        assert_eq!(fixture.collectors.expire(2 * month).await.unwrap(), 0);
        assert_eq!(fixture.collectors.expire(month).await.unwrap(), 1);
        assert_eq!(fixture.ids().await, [2, 3], "who is revoked is kept out by what is known");
        assert_eq!(fixture.post(&key, &message(1, 1, SETTINGS)).await.0, 401);
        assert_eq!(fixture.post(&token, &described(2, 0, 0)).await.0, 401);
        let log = fixture.log().await;
        assert_eq!(log.len(), 1);
        assert!(log[0].to_string().contains("expired") && log[0].to_string().contains("box-1"), "{log:?}");
    }

    async fn many_collectors_go_a_thousand_at_a_time(db: TestDatabase) {
        let fixture = Fixture::quiet(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        fixture.send(&token, &described(1, 0, 0)).await;
        fixture.collectors.flush().await.unwrap();
        let mut database = &*db;
        for _ in 0..10 {
            // Copies that nobody has heard.
            let copy = "INSERT INTO collectors_collectors (revision, uid, is_ephemeral, standing, created_at, updated_at,
                capabilities, interval_seconds, key_status, config_status, config_hash, components_hash, state) SELECT revision,
                uid, is_ephemeral, standing, created_at, updated_at, capabilities, interval_seconds, key_status, config_status,
                config_hash, components_hash, state FROM collectors_collectors";
            database.execute(copy, args![]).await.unwrap();
        }
        let delete = async || {
            let (_, told) = fixture.delete(json!({ "filter": { "status": "offline" } })).await;
            ["matched", "deleted", "remaining"].map(|name| told[name].as_u64().unwrap())
        };
        assert_eq!(delete().await, [1_023, 1_000, 23]);
        assert_eq!(delete().await, [23, 23, 0]);
        assert_eq!(delete().await, [0, 0, 0]);
        assert_eq!(fixture.ids().await, [1]);
        assert_eq!(fixture.log().await.len(), 1_000, "each of them, and a page of the log has no more");
    }
}
