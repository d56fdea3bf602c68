//! Saved queries, and the schedule that follows from them.

use muster_hosts::ScheduleSource as _;
use muster_identity::{Role, TeamId};
use muster_queries::SavedQueryChange;
use muster_store::testing::on_both_databases;
use serde_json::json;

use crate::{Fixture, admin, person};

fn query(name: &str) -> SavedQueryChange {
    SavedQueryChange {
        name: Some(name.to_owned()),
        query: Some(format!("SELECT '{name}'")),
        ..SavedQueryChange::default()
    }
}

on_both_databases! {
    async fn names_are_unique_in_their_team_and_absent_members_stay(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let saved = &fixture.queries.saved;
        let first = saved.create(&admin(), None, SavedQueryChange { interval: Some(60), ..query("USB") }).await.unwrap();
        assert_eq!(saved.create(&admin(), None, query("usb")).await.unwrap_err().status(), 409);
        saved.create(&admin(), Some(TeamId(1)), query("usb")).await.unwrap();
        let changed = SavedQueryChange { description: Some("sticks".into()), ..SavedQueryChange::default() };
        let changed = saved.change(&admin(), first.id, changed).await.unwrap();
        assert_eq!((changed.interval, changed.query.as_str(), changed.description.as_str()), (60, "SELECT 'USB'", "sticks"));
        let again = saved.apply(&admin(), None, "usb", query("USB")).await.unwrap();
        assert_eq!((again.id, again.interval), (first.id, 60), "an old document does not wipe the schedule");
        saved.delete(&admin(), first.id).await.unwrap();
        assert_eq!(saved.delete(&admin(), first.id).await.unwrap_err().status(), 404);
    }

    async fn what_cannot_be_saved_is_told(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let cases = [
            SavedQueryChange { name: Some(" ".into()), ..query("x") },
            SavedQueryChange { query: Some(" ".into()), ..query("x") },
            SavedQueryChange { query: Some("a\0b".into()), ..query("x") },
            SavedQueryChange { platform: Some("linux,beos".into()), ..query("x") },
            SavedQueryChange { logging: Some("sometimes".into()), ..query("x") },
            SavedQueryChange { interval: Some(604_801), ..query("x") },
        ];
        for case in cases {
            let refused = fixture.queries.saved.create(&admin(), None, case).await.unwrap_err();
            assert_eq!(refused.status(), 422, "{}", refused.message());
        }
    }

    async fn a_query_of_a_team_that_does_not_exist_is_refused(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let saved = &fixture.queries.saved;
        let refused = saved.create(&admin(), Some(TeamId(9)), query("x")).await.unwrap_err();
        assert_eq!(refused.status(), 422);
        assert!(refused.message().contains("team 9 does not exist"), "{}", refused.message());
        assert!(saved.list(&admin()).await.unwrap().is_empty());
    }

    async fn two_changes_at_once_are_both_kept(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let saved = &fixture.queries.saved;
        let id = saved.create(&admin(), None, query("both")).await.unwrap().id;
        for round in 1..=10 {
            let changes = [
                SavedQueryChange { description: Some(format!("d{round}")), ..SavedQueryChange::default() },
                SavedQueryChange { interval: Some(round), ..SavedQueryChange::default() },
            ];
            let changing = changes.map(|change| {
                let saved = saved.clone();
                tokio::spawn(async move { saved.change(&admin(), id, change).await.is_ok() })
            });
            for changing in changing {
                assert!(changing.await.unwrap());
            }
            let now = saved.find(&admin(), id).await.unwrap();
            assert_eq!((now.description, now.interval), (format!("d{round}"), round));
        }
    }

    async fn teams_see_everybodys_queries_and_their_own(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let saved = &fixture.queries.saved;
        saved.create(&admin(), None, query("everybody")).await.unwrap();
        let mine = saved.create(&admin(), Some(TeamId(1)), query("mine")).await.unwrap();
        let theirs = saved.create(&admin(), Some(TeamId(2)), query("theirs")).await.unwrap();
        let member = person(2, None, &[(1, Role::Maintainer)]);
        let names: Vec<_> = saved.list(&member).await.unwrap().into_iter().map(|query| query.name).collect();
        assert_eq!(names, ["everybody", "mine"]);
        assert_eq!(saved.delete(&member, theirs.id).await.unwrap_err().status(), 404);
        assert_eq!(saved.create(&member, None, query("x")).await.unwrap_err().status(), 403);
        saved.delete(&member, mine.id).await.unwrap();
        let observer = person(3, Some(Role::Observer), &[]);
        assert_eq!(saved.create(&observer, None, query("x")).await.unwrap_err().status(), 403);
        assert_eq!(saved.list(&observer).await.unwrap().len(), 2);
    }

    async fn the_schedule_appears_as_packs_named_global_and_for_the_team(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let saved = &fixture.queries.saved;
        assert_eq!(saved.packs(None), None, "nothing is scheduled");
        let every = |name, logging: &str, automations| SavedQueryChange {
            interval: Some(60),
            logging: Some(logging.to_owned()),
            automations_enabled: Some(automations),
            platform: Some("linux".into()),
            ..query(name)
        };
        saved.create(&admin(), None, every("a", "snapshot", false)).await.unwrap();
        saved.create(&admin(), None, every("b", "differential", true)).await.unwrap();
        saved.create(&admin(), None, every("unwanted", "differential", false)).await.unwrap();
        saved.create(&admin(), None, query("not scheduled")).await.unwrap();
        let version = saved.version();
        let removals = every("c", "differential_ignore_removals", true);
        saved.create(&admin(), Some(TeamId(3)), removals).await.unwrap();
        assert_ne!(saved.version(), version);
        let global = json!({ "queries": {
            "a": { "query": "SELECT 'a'", "interval": 60, "platform": "linux", "version": "", "snapshot": true },
            "b": { "query": "SELECT 'b'", "interval": 60, "platform": "linux", "version": "", "removed": true },
        } });
        assert_eq!(*saved.packs(None).unwrap(), json!({ "Global": global }));
        assert_eq!(*saved.packs(Some(TeamId(9))).unwrap(), json!({ "Global": global }));
        let own = json!({ "queries": {
            "c": { "query": "SELECT 'c'", "interval": 60, "platform": "linux", "version": "", "removed": false },
        } });
        assert_eq!(*saved.packs(Some(TeamId(3))).unwrap(), json!({ "Global": global, "team-3": own }));
        let restarted = fixture.restarted().await;
        assert_eq!(restarted.saved.packs(Some(TeamId(3))), saved.packs(Some(TeamId(3))));
    }
}
