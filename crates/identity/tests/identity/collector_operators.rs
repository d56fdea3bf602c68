//! Keys of collectors: what operators do about them, and what is kept.

use std::collections::HashSet;
use std::time::Duration;

use muster_http::ListingQuery;
use muster_identity::{
    Actor, AgentAuthError, CollectorId, CollectorKeyFilter, ComeBack, EnrollmentTokenId, Family,
    HostId, KeyHolder, KeyState, NewCollectorKey, NewEnrollmentToken, PENDING_FOR, RefusedKey,
    TeamFilter,
};
use muster_store::testing::on_both_databases;
use muster_store::{Executor as _, args};

use crate::collectors::{DAY, MINUTE, ONE, is_unknown};
use crate::{Fixture, HERE, START};

impl Fixture {
    /// Runs what runs beside requests until something is so.
    async fn maintain_until(&self, is_so: impl AsyncFn() -> bool) {
        let stop = tokio_util::sync::CancellationToken::new();
        let maintenance = tokio::spawn({
            let (identity, stop) = (self.identity.clone(), stop.clone());
            async move {
                let lease = muster_replicas::Lease::always();
                identity.run_maintenance(&lease, stop).await;
            }
        });
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while !is_so().await {
                tokio::task::yield_now().await;
            }
        });
        waited.await.expect("the first upkeep does it");
        stop.cancel();
        maintenance.await.unwrap();
    }
}

on_both_databases! {
    async fn a_key_that_was_made_in_advance_belongs_to_exactly_one_of_those_that_use_it(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (id, text) = fixture.made("gateway").await;
        let presented = fixture.shown(&text).await.unwrap();
        assert_eq!((presented.key_id, presented.holder, presented.state), (id, KeyHolder::Nobody, KeyState::Pending));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..10 {
            let (keys, database, now) = (fixture.keys(), fixture.db.database(), fixture.now());
            tasks.spawn(async move {
                let mut db = database.begin().await.unwrap();
                let collector = CollectorId(100 + number);
                let bound = keys.bind(&mut db, &Actor::agent(HERE), id, collector, now).await.unwrap();
                db.commit().await.unwrap();
                keys.changed(collector).await;
                bound.then_some(collector)
            });
        }
        let bound: Vec<CollectorId> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(bound.len(), 1, "{bound:?}");
        let presented = fixture.shown(&text).await.unwrap();
        assert_eq!((presented.holder, presented.state), (KeyHolder::Collector(bound[0]), KeyState::Active));
        assert!(!presented.is_first_use, "whoever bound it knows");
        let key = fixture.keys().find(id).await.unwrap();
        assert_eq!((key.collector_id, key.name.as_str(), key.is_made_in_advance), (Some(bound[0]), "gateway", true));
    }

    async fn a_key_that_was_made_in_advance_ends_when_nobody_comes_or_it_is_revoked(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let keys = fixture.keys();
        let new = NewCollectorKey { name: "short".into(), expires_at: Some(START.plus(MINUTE)), ..NewCollectorKey::default() };
        let (key, text) = keys.make(&Actor::system(), new).await.unwrap();
        assert!(fixture.shown(&text).await.is_ok());
        fixture.clock.advance(MINUTE);
        assert!(is_unknown(&fixture.shown(&text).await));
        assert!(!fixture.bind(key.id, ONE).await, "nor may whoever saw it before");
        let (id, text) = fixture.made("wrong").await;
        keys.revoke(&Actor::system(), id).await.unwrap();
        assert!(is_unknown(&fixture.shown(&text).await) && !fixture.bind(id, ONE).await);
        for (new, field) in [
            (NewCollectorKey::default(), "name"),
            (NewCollectorKey { name: "x".repeat(101), ..NewCollectorKey::default() }, "name"),
            (NewCollectorKey { name: "x".into(), expires_at: Some(fixture.now()), ..NewCollectorKey::default() }, "expires_at"),
            (NewCollectorKey { name: "x".into(), team_id: Some(muster_identity::TeamId(9)), ..NewCollectorKey::default() },
                "team_id"),
        ] {
            let error = keys.make(&Actor::system(), new).await.unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    async fn keys_that_wait_in_one_team_leave_room_for_those_of_others(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (keys, actor) = (fixture.keys(), Actor::system());
        let edge = fixture.identity.teams.create(&actor, "Edge", "").await.unwrap().id;
        let core = fixture.identity.teams.create(&actor, "Core", "").await.unwrap().id;
        // What making them one by one would leave behind.
        for chunk in (0_u32..9_995).collect::<Vec<_>>().chunks(500) {
            let places = (1..=chunk.len()).map(|place| {
                format!("(${place}, 'opamp', 0, 1, 'waits', 1, {})", edge.0)
            });
            let sql = format!("INSERT INTO identity_agent_keys (key_hash, family, host_id, created_at, name,
                is_made_in_advance, team_id) VALUES {}", places.collect::<Vec<_>>().join(", "));
            let mut hashes = Vec::new();
            for number in chunk {
                hashes.extend(args![&number.to_be_bytes()[..]]);
            }
            (&*fixture.db).execute(&sql, hashes).await.unwrap();
        }
        let new = |team_id| NewCollectorKey { name: "one more".into(), team_id, expires_at: None };
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let (keys, new) = (fixture.keys(), new(Some(edge)));
            tasks.spawn(async move { keys.make(&Actor::system(), new).await.map(drop) });
        }
        let results = tasks.join_all().await;
        assert_eq!(results.iter().filter(|made| made.is_ok()).count(), 5, "however many come at once");
        for refused in results.into_iter().filter_map(Result::err) {
            assert!(refused.to_string().contains("10000 keys of this team wait"), "{refused}");
        }
        keys.make(&actor, new(Some(core))).await.unwrap();
        let (free, _) = keys.make(&actor, new(None)).await.unwrap();
        keys.revoke(&actor, free.id).await.unwrap();
        let listing = ListingQuery { sort: Some("-id".into()), limit: Some(200), ..ListingQuery::default() };
        let listing = listing.check(&["id"]).unwrap();
        let all = keys.list(&TeamFilter::All, &listing, &CollectorKeyFilter::default()).await.unwrap();
        let one = all.items.iter().find(|key| key.team_id == Some(edge)).unwrap();
        keys.revoke(&actor, one.id).await.unwrap();
        keys.make(&actor, new(Some(edge))).await.unwrap();
    }

    async fn a_key_that_was_made_in_advance_supersedes_what_its_collector_had(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (id, text) = fixture.made("gateway").await;
        let old = fixture.active(ONE).await;
        let pending = fixture.offer(ONE).await;
        assert!(fixture.bind(id, ONE).await);
        assert_eq!(fixture.shown(&text).await.unwrap().state, KeyState::Active);
        assert_eq!(fixture.shown(&old).await.unwrap().state, KeyState::Superseded);
        assert!(is_unknown(&fixture.shown(&pending).await));
    }

    async fn a_key_that_its_collector_came_back_without_never_comes_back(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let stolen = fixture.active(ONE).await;
        fixture.revoke_collector(ONE).await;
        assert_eq!(fixture.readmit(ONE, ComeBack::WithoutKey).await, None);
        fixture.revoke_collector(ONE).await;
        assert_eq!(fixture.readmit(ONE, ComeBack::WithItsKey).await, None, "a revocation in error, later");
        assert!(is_unknown(&fixture.shown(&stolen).await));
        let second = fixture.active(ONE).await;
        let id = fixture.shown(&second).await.unwrap().key_id;
        fixture.keys().revoke(&Actor::system(), id).await.unwrap();
        fixture.revoke_collector(ONE).await;
        assert_eq!(fixture.readmit(ONE, ComeBack::WithItsKey).await, None, "its newest was taken away by itself");
        let third = fixture.active(ONE).await;
        fixture.revoke_collector(ONE).await;
        assert!(fixture.readmit(ONE, ComeBack::WithItsKey).await.is_some());
        assert!(fixture.shown(&third).await.is_ok());
        assert!(is_unknown(&fixture.shown(&stolen).await) && is_unknown(&fixture.shown(&second).await));
    }

    async fn keys_that_nobody_used_are_purged_a_month_later(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let active = fixture.active(ONE).await;
        fixture.offer(CollectorId(8)).await;
        fixture.clock.advance(PENDING_FOR + 31 * DAY);
        fixture.maintain_until(async || fixture.states(CollectorId(8)).await.is_empty()).await;
        assert!(fixture.shown(&active).await.is_ok());
    }

    async fn nothing_is_left_of_a_collector_whose_last_key_is_purged(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        fixture.active(ONE).await;
        let stays = fixture.active(CollectorId(8)).await;
        let mut db = fixture.db.database().begin().await.unwrap();
        let deleted = fixture.keys()
            .revoke_collector(&mut db, &Actor::system(), ONE, RefusedKey::Deleted, fixture.now()).await.unwrap();
        assert_eq!(deleted, 1);
        // One that had no key leaves a row, too.
        let none = fixture.keys()
            .revoke_collector(&mut db, &Actor::system(), CollectorId(9), RefusedKey::Deleted, fixture.now()).await.unwrap();
        assert_eq!(none, 0);
        db.commit().await.unwrap();
        let holders = async || fixture.count("SELECT COUNT(*) AS total FROM identity_key_holders").await;
        assert_eq!(holders().await, 3);
        fixture.maintain_until(async || holders().await == 2).await;
        assert_eq!(fixture.states(ONE).await, [KeyState::Revoked], "its key tells for a month whose it was");
        fixture.clock.advance(31 * DAY);
        fixture.maintain_until(async || holders().await == 1).await;
        assert_eq!(fixture.states(ONE).await, []);
        assert!(fixture.shown(&stays).await.is_ok());
        let next = fixture.offer(CollectorId(8)).await;
        assert!(fixture.shown(&next).await.unwrap().is_first_use);
        let generations = fixture.keys().of_collector(CollectorId(8)).await.unwrap();
        let generations: Vec<i64> = generations.iter().map(|key| key.generation).collect();
        assert_eq!(generations, [2, 1], "whoever is still there goes on counting");
    }

    async fn the_keys_of_a_collector_go_with_it(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (keys, gone) = (fixture.keys(), fixture.active(ONE).await);
        let stays = fixture.active(CollectorId(8)).await;
        let mut db = fixture.db.database().begin().await.unwrap();
        assert_eq!(keys.delete_collector(&mut db, ONE).await.unwrap(), 1);
        db.commit().await.unwrap();
        keys.changed(ONE).await;
        assert!(is_unknown(&fixture.shown(&gone).await) && fixture.shown(&stays).await.is_ok());
        assert_eq!(fixture.count("SELECT COUNT(*) AS total FROM identity_key_holders").await, 1);
    }

    async fn keys_that_wait_for_a_collector_go_with_their_team(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (keys, actor) = (fixture.keys(), Actor::system());
        let team = fixture.identity.teams.create(&actor, "Edge", "").await.unwrap().id;
        let new = |name: &str| NewCollectorKey { name: name.to_owned(), team_id: Some(team), expires_at: None };
        let (waits, waiting) = keys.make(&actor, new("waits")).await.unwrap();
        let (used, text) = keys.make(&actor, new("used")).await.unwrap();
        assert!(fixture.bind(used.id, ONE).await);
        assert_eq!(fixture.shown(&text).await.unwrap().team_id, Some(team));
        fixture.identity.teams.delete(&actor, team).await.unwrap();
        keys.reconcile().await.unwrap();
        assert!(is_unknown(&fixture.shown(&waiting).await), "nobody comes into a team that is gone");
        assert_eq!(keys.find(waits.id).await.unwrap().state, KeyState::Revoked);
        assert_eq!(fixture.shown(&text).await.unwrap().team_id, None);
    }

    async fn who_knocks_with_a_key_that_is_no_longer_good_is_counted_by_key(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (revoked, late) = (fixture.active(ONE).await, fixture.offer(CollectorId(8)).await);
        fixture.revoke_collector(ONE).await;
        fixture.clock.advance(PENDING_FOR);
        for _ in 0..5 {
            fixture.shown(&revoked).await.unwrap_err();
            fixture.shown(&late).await.unwrap_err();
            fixture.shown("mst_acc_nobodys").await.unwrap_err();
        }
        let stop = tokio_util::sync::CancellationToken::new();
        stop.cancel();
        fixture.identity.run_maintenance(&muster_replicas::Lease::always(), stop).await;
        let (refused, total) = fixture.identity.agent_keys.list_refused(10, 0).await.unwrap();
        let mut seen: Vec<_> = refused.iter()
            .map(|agent| (agent.collector_id, agent.family, agent.reason, agent.calls)).collect();
        seen.sort_by_key(|(collector, ..)| *collector);
        assert_eq!(seen, [
            (Some(ONE), Family::Opamp, RefusedKey::Banned, 5),
            (Some(CollectorId(8)), Family::Opamp, RefusedKey::Expired, 5),
        ]);
        assert_eq!(total, 2);
        let (actions, text) = fixture.log().await;
        assert_eq!(actions.iter().filter(|action| *action == "denied_agent").count(), 2, "{text}");
    }

    async fn every_step_of_a_key_is_in_the_log_and_its_text_is_not(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (id, made) = fixture.made("gateway").await;
        fixture.bind(id, ONE).await;
        let offered = fixture.active(ONE).await;
        let mut db = fixture.db.database().begin().await.unwrap();
        assert!(fixture.keys().rotate_collector(&mut db, &Actor::system(), ONE, START).await.unwrap());
        db.commit().await.unwrap();
        fixture.revoke_collector(ONE).await;
        fixture.readmit(ONE, ComeBack::WithItsKey).await;
        fixture.keys().start_rotation(&Actor::system(), 10).await.unwrap();
        let (actions, text) = fixture.log().await;
        assert_eq!(actions, [
            "made_agent_key", "bound_agent_key", "offered_agent_key", "activated_agent_key", "superseded_agent_key",
            "rotated_agent_keys", "revoked_agent_keys", "unrevoked_agent_keys", "started_key_rotation",
        ]);
        for secret in [&made, &offered] {
            assert!(!text.contains(secret.as_str()) && !text.contains(&secret[8..]), "the log holds no secret");
        }
        assert!(!format!("{:?}", fixture.shown(&offered).await).contains(&offered[8..]));
    }

    async fn a_key_is_due_when_an_operator_says_so_and_no_more_when_it_was_replaced(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (keys, actor) = (fixture.keys(), Actor::system());
        let old = fixture.active(ONE).await;
        let presented = fixture.shown(&old).await.unwrap();
        keys.rotate(&actor, presented.key_id).await.unwrap();
        assert!(fixture.shown(&old).await.unwrap().is_rotation_due);
        let new = fixture.offer(ONE).await;
        assert!(fixture.shown(&old).await.unwrap().is_rotation_due, "an offer is not an answer");
        assert!(!fixture.shown(&new).await.unwrap().is_rotation_due);
        assert!(!fixture.shown(&old).await.unwrap().is_rotation_due);
        let error = keys.rotate(&actor, presented.key_id).await.unwrap_err().to_string();
        assert!(error.contains("is superseded: only one that is active"), "{error}");
        assert_eq!(keys.rotation().await.unwrap().waiting, 0);
    }

    async fn keys_are_due_by_age_and_not_all_on_one_day(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let mut keys = Vec::new();
        for number in 0..30 {
            keys.push(fixture.active(CollectorId(100 + number)).await);
        }
        let due = async || {
            let mut due = 0;
            for key in &keys {
                due += usize::from(fixture.shown(key).await.unwrap().is_rotation_due);
            }
            due
        };
        fixture.clock.advance(80 * DAY);
        assert_eq!(due().await, 0);
        fixture.clock.advance(5 * DAY + DAY / 2);
        let halfway = due().await;
        assert!((5..=25).contains(&halfway), "{halfway} of 30");
        fixture.clock.advance(5 * DAY);
        assert_eq!(due().await, 30);
    }

    async fn a_fleets_keys_are_due_so_many_a_minute_and_no_more_when_that_is_stopped(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (rotation, actor) = (fixture.keys(), Actor::system());
        let mut keys = Vec::new();
        for number in 0..10 {
            keys.push(fixture.active(CollectorId(100 + number)).await);
        }
        fixture.made("waits").await;
        let due = async || {
            rotation.reconcile().await.unwrap();
            let mut due = 0;
            for key in &keys {
                due += u64::from(fixture.shown(key).await.unwrap().is_rotation_due);
            }
            assert_eq!(rotation.rotation().await.unwrap().due, due);
            due
        };
        for wrong in [0, 10_001] {
            let error = rotation.start_rotation(&actor, wrong).await.unwrap_err().to_string();
            assert!(error.contains("must be from 1 to 10000"), "{error}");
        }
        let began = rotation.start_rotation(&actor, 2).await.unwrap();
        assert_eq!((began.waiting, began.due), (10, 1));
        assert_eq!(began.last_due_at, Some(START.plus(Duration::from_secs(270))));
        let twice = rotation.start_rotation(&actor, 2).await.unwrap_err().to_string();
        assert!(twice.contains("already; stop that first"), "{twice}");
        assert_eq!(due().await, 1);
        fixture.clock.advance(MINUTE);
        assert_eq!(due().await, 3);
        let stopped = rotation.stop_rotation(&actor).await.unwrap();
        assert_eq!((stopped.waiting, stopped.due), (3, 3));
        fixture.clock.advance(10 * MINUTE);
        assert_eq!(due().await, 3);
        fixture.active(CollectorId(100)).await;
        assert_eq!(rotation.rotation().await.unwrap().waiting, 2);
    }

    async fn earlier_releases_never_take_a_collectors_key_for_a_hosts(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (tokens, actor) = (&fixture.identity.enrollment_tokens, Actor::system());
        let new = NewEnrollmentToken { name: "all".into(), ..NewEnrollmentToken::default() };
        let (token, _) = tokens.create(&actor, new).await.unwrap();
        assert_eq!(token.id, EnrollmentTokenId(1));
        let active = fixture.active(ONE).await;
        let pending = fixture.offer(ONE).await;
        let (_, made) = fixture.made("gateway").await;
        let id = fixture.shown(&active).await.unwrap().key_id;
        fixture.keys().rotate(&actor, id).await.unwrap();
        // What release 0.2.0 asks when an agent shows a key: each is another family's than the one it serves.
        let mut db = &*fixture.db;
        let rows = db.fetch_all("SELECT id, host_id, family, instance, first_used_at, superseded_at, revoked_at,
            revoked_because, rival_since, rotate_at, told_at FROM identity_agent_keys", args![]).await.unwrap();
        for row in &rows {
            assert_eq!((row.get::<String>("family").unwrap().as_str(), row.get::<i64>("host_id").unwrap()), ("opamp", 0));
        }
        // What it counts of keys that are to be renewed, and of hosts that came by a token.
        for sql in [
            "SELECT COUNT(*) AS total FROM identity_agent_keys
             WHERE rotate_at IS NOT NULL AND superseded_at IS NULL AND revoked_at IS NULL",
            "SELECT COUNT(DISTINCT host_id) AS total FROM identity_agent_keys WHERE enrollment_token_id = 1",
        ] {
            assert_eq!(fixture.count(sql).await, 0, "{sql}");
        }
        // And this one.
        for key in [&active, &pending, &made] {
            for family in Family::ALL {
                let shown = fixture.identity.agent_keys.authenticate(key, family).await;
                assert!(matches!(shown, Err(AgentAuthError::Unknown)), "{shown:?}");
            }
        }
        let host = fixture.key(7, Family::Osquery).await;
        assert!(is_unknown(&fixture.shown(&host).await), "nor a host's for a collector's");
        assert!(fixture.whose(&host, Family::Osquery).await.is_ok());
        let listing = ListingQuery::default().check(&["host_id"]).unwrap();
        let hosts = tokens.hosts(token.id, &listing).await.unwrap();
        let hosts: HashSet<HostId> = hosts.items.iter().map(|host| host.host_id).collect();
        assert_eq!(hosts, HashSet::from([HostId(7)]));
        assert_eq!(fixture.identity.agent_keys.waiting().await.unwrap(), 0);
        assert!(fixture.shown(&pending).await.is_ok());
    }
}
