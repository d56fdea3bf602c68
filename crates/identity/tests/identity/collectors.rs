//! Keys of collectors: what becomes of an offer, and the races around it.

use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::ListingQuery;
use muster_identity::{
    Actor, AgentAuthError, AgentKeyId, AuditFilter, CollectorId, CollectorKeys, ComeBack,
    EnrollmentTokenId, KeyHolder, KeyOffer, KeyState, MAX_PENDING_KEYS, NewCollectorKey, Offered,
    PENDING_FOR, PresentedKey, RefusedKey, SUPERSEDED_FOR,
};
use muster_store::testing::on_both_databases;
use muster_store::{Executor as _, args};

use crate::{Fixture, HERE, START};

pub(crate) const ONE: CollectorId = CollectorId(7);
const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn to(collector_id: CollectorId) -> KeyOffer {
    KeyOffer {
        collector_id,
        team_id: None,
        token_id: Some(EnrollmentTokenId(1)),
        instead_of: None,
    }
}

impl Fixture {
    pub(crate) fn keys(&self) -> CollectorKeys {
        self.identity.collector_keys.clone()
    }

    pub(crate) fn now(&self) -> Timestamp {
        use muster_clock::Clock as _;
        self.clock.now()
    }

    /// What came of an offer that was committed.
    pub(crate) async fn try_offer(&self, offer: KeyOffer) -> Offered {
        let mut db = self.db.database().begin().await.unwrap();
        let offered = self
            .keys()
            .offer(&mut db, &Actor::agent(HERE), offer, self.now())
            .await;
        db.commit().await.unwrap();
        offered.unwrap()
    }

    /// The key that is offered instead of what is outstanding.
    pub(crate) async fn offer(&self, collector: CollectorId) -> String {
        let db = &mut &self.db.database();
        let outstanding = self
            .keys()
            .outstanding(db, collector, self.now())
            .await
            .unwrap();
        let instead_of = outstanding.map(|offer| offer.key_id);
        let offer = KeyOffer {
            instead_of,
            ..to(collector)
        };
        match self.try_offer(offer).await {
            Offered::Made(key) => key.text,
            Offered::Outstanding(other) => panic!("{other:?}"),
        }
    }

    /// A key that its collector uses.
    pub(crate) async fn active(&self, collector: CollectorId) -> String {
        let key = self.offer(collector).await;
        let presented = self.shown(&key).await.unwrap();
        assert!(presented.is_first_use);
        key
    }

    pub(crate) async fn shown(&self, key: &str) -> Result<PresentedKey, AgentAuthError> {
        self.keys().authenticate(key, HERE).await
    }

    pub(crate) async fn states(&self, collector: CollectorId) -> Vec<KeyState> {
        let keys = self.keys().of_collector(collector).await.unwrap();
        keys.into_iter().map(|key| key.state).collect()
    }

    pub(crate) async fn revoke_collector(&self, collector: CollectorId) -> usize {
        let mut db = self.db.database().begin().await.unwrap();
        let (keys, actor) = (self.keys(), Actor::system());
        let revoked = keys
            .revoke_collector(&mut db, &actor, collector, RefusedKey::Banned, self.now())
            .await;
        db.commit().await.unwrap();
        keys.changed(collector).await;
        revoked.unwrap()
    }

    pub(crate) async fn readmit(
        &self,
        collector: CollectorId,
        how: ComeBack,
    ) -> Option<AgentKeyId> {
        let mut db = self.db.database().begin().await.unwrap();
        let (keys, actor) = (self.keys(), Actor::system());
        let key = keys
            .readmit_collector(&mut db, &actor, collector, how, self.now())
            .await;
        db.commit().await.unwrap();
        keys.changed(collector).await;
        key.unwrap()
    }

    pub(crate) async fn made(&self, name: &str) -> (AgentKeyId, String) {
        let new = NewCollectorKey {
            name: name.to_owned(),
            ..NewCollectorKey::default()
        };
        let (key, text) = self.keys().make(&Actor::system(), new).await.unwrap();
        (key.id, text)
    }

    pub(crate) async fn bind(&self, key: AgentKeyId, collector: CollectorId) -> bool {
        let mut db = self.db.database().begin().await.unwrap();
        let keys = self.keys();
        let bound = keys
            .bind(&mut db, &Actor::agent(HERE), key, collector, self.now())
            .await;
        db.commit().await.unwrap();
        keys.changed(collector).await;
        bound.unwrap()
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let mut db = &*self.db;
        let row = db.fetch_one(sql, args![]).await.unwrap();
        row.get("total").unwrap()
    }

    /// The actions that the log of changes holds, oldest first, and all of it as text.
    pub(crate) async fn log(&self) -> (Vec<String>, String) {
        let listing = ListingQuery {
            limit: Some(1_000),
            ..ListingQuery::default()
        };
        let listing = listing.check(&["id"]).unwrap();
        let filter = AuditFilter::default();
        let log = self.identity.audit.list(&listing, &filter).await.unwrap();
        let actions = log.items.iter().map(|record| record.action.clone());
        (actions.collect(), serde_json::to_string(&log).unwrap())
    }
}

pub(crate) fn is_unknown(shown: &Result<PresentedKey, AgentAuthError>) -> bool {
    matches!(shown, Err(AgentAuthError::Unknown))
}

on_both_databases! {
    async fn a_key_that_is_offered_is_active_from_its_first_use_on(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let key = fixture.offer(ONE).await;
        assert!(key.starts_with("mst_acc_") && CollectorKeys::is_key(&key), "scanners find it by its prefix");
        assert_eq!(fixture.states(ONE).await, [KeyState::Pending]);
        let first = fixture.shown(&key).await.unwrap();
        assert_eq!((first.holder, first.state), (KeyHolder::Collector(ONE), KeyState::Active));
        assert!(first.is_first_use && !first.is_rotation_due);
        let again = fixture.shown(&key).await.unwrap();
        assert_eq!(again, PresentedKey { is_first_use: false, ..first });
        assert_eq!(fixture.states(ONE).await, [KeyState::Active]);
        let wrong = ["", "mst_acc_", &key[1..], &key.to_lowercase(), &"x".repeat(10_000)];
        for wrong in wrong {
            assert!(is_unknown(&fixture.shown(wrong).await), "{wrong}");
        }
        let before = fixture.db.statements();
        for _ in 0..100 {
            fixture.shown(&key).await.unwrap();
            assert_eq!(fixture.keys().check(first.secret, HERE).await.unwrap(), again);
            for wrong in wrong {
                fixture.shown(wrong).await.unwrap_err();
            }
        }
        assert_eq!(fixture.db.statements(), before, "neither a good key nor a wrong one costs a statement");
    }

    async fn of_requests_in_flight_exactly_one_is_answered_with_an_offer(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let replica = fixture.replica().await;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..10 {
            let (database, now) = (fixture.db.database(), fixture.now());
            let keys = if number % 2 == 0 { fixture.keys() } else { replica.collector_keys.clone() };
            tasks.spawn(async move {
                let mut db = database.begin().await.unwrap();
                let offered = keys.offer(&mut db, &Actor::agent(HERE), to(ONE), now).await.unwrap();
                db.commit().await.unwrap();
                offered
            });
        }
        let offered = tasks.join_all().await;
        let made: Vec<AgentKeyId> = offered.iter().filter_map(|offered| match offered {
            Offered::Made(key) => Some(key.key_id),
            Offered::Outstanding(_) => None,
        }).collect();
        assert_eq!(made.len(), 1, "{offered:?}");
        for offered in &offered {
            if let Offered::Outstanding(other) = offered {
                assert_eq!((other.key_id, other.count, other.offered_at), (made[0], 1, START));
            }
        }
        assert_eq!(fixture.states(ONE).await, [KeyState::Pending]);
    }

    async fn of_requests_that_replace_one_lost_offer_exactly_one_does(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let Offered::Made(lost) = fixture.try_offer(to(ONE)).await else { panic!("the first is made") };
        let again = KeyOffer { instead_of: Some(lost.key_id), ..to(ONE) };
        let Offered::Made(second) = fixture.try_offer(again).await else { panic!("it names what is there") };
        let late = fixture.try_offer(again).await;
        assert!(matches!(&late, Offered::Outstanding(other) if other.key_id == second.key_id && other.count == 2), "{late:?}");
        // Neither is worth less than the other until one of them is used.
        assert_eq!(fixture.states(ONE).await, [KeyState::Pending, KeyState::Pending]);
        assert!(fixture.shown(&second.text).await.unwrap().is_first_use);
        assert_eq!(fixture.states(ONE).await, [KeyState::Active, KeyState::Ended]);
        assert!(is_unknown(&fixture.shown(&lost.text).await), "it ended when the newer one was used");
        let there = fixture.keys().outstanding(&mut &*fixture.db, ONE, START).await.unwrap();
        assert_eq!(there, None);
    }

    async fn a_lost_offer_that_arrives_after_all_leaves_the_newer_one_good(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (older, newer) = (fixture.offer(ONE).await, fixture.offer(ONE).await);
        fixture.shown(&older).await.unwrap();
        assert_eq!(fixture.states(ONE).await, [KeyState::Pending, KeyState::Active]);
        fixture.shown(&newer).await.unwrap();
        assert_eq!(fixture.states(ONE).await, [KeyState::Active, KeyState::Superseded]);
        assert_eq!(fixture.shown(&older).await.unwrap().state, KeyState::Superseded);
    }

    async fn at_most_three_keys_wait_for_their_first_use(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let mut offered = Vec::new();
        for _ in 0..=MAX_PENDING_KEYS {
            offered.push(fixture.offer(ONE).await);
        }
        let there = fixture.keys().outstanding(&mut &*fixture.db, ONE, START).await.unwrap().unwrap();
        assert_eq!(there.count, MAX_PENDING_KEYS);
        assert!(is_unknown(&fixture.shown(&offered[0]).await));
        assert!(fixture.shown(&offered[1]).await.is_ok());
    }

    async fn both_keys_used_at_one_moment_leave_exactly_one_active(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let replica = fixture.replica().await;
        for round in 0..10 {
            let collector = CollectorId(100 + round);
            let (older, newer) = (fixture.offer(collector).await, fixture.offer(collector).await);
            let other = replica.collector_keys.authenticate(&older, HERE);
            let (_, used) = tokio::join!(other, fixture.shown(&newer));
            assert_eq!(used.unwrap().state, KeyState::Active);
            let states = fixture.states(collector).await;
            assert_eq!(states[0], KeyState::Active);
            assert!(matches!(states[1], KeyState::Superseded | KeyState::Ended), "{states:?}");
        }
    }

    async fn one_key_used_twice_at_one_moment_is_good_both_times(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let replica = fixture.replica().await;
        for round in 0..10 {
            let key = fixture.offer(CollectorId(100 + round)).await;
            let other = replica.collector_keys.authenticate(&key, HERE);
            let (one, other) = tokio::join!(fixture.shown(&key), other);
            let first = [one.unwrap(), other.unwrap()].map(|presented| presented.is_first_use);
            assert_eq!(first.iter().filter(|is_first| **is_first).count(), 1);
        }
    }

    async fn the_older_key_is_good_for_ten_minutes_after_the_newer_one_was_used(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let old = fixture.active(ONE).await;
        let new = fixture.active(ONE).await;
        let presented = fixture.shown(&old).await.unwrap();
        assert_eq!((presented.state, presented.is_rotation_due), (KeyState::Superseded, false));
        fixture.clock.advance(SUPERSEDED_FOR.checked_sub(SECOND).unwrap());
        assert!(fixture.shown(&old).await.is_ok(), "what was under way is not refused");
        fixture.clock.advance(SECOND);
        assert!(is_unknown(&fixture.shown(&old).await), "not even from memory");
        assert!(is_unknown(&fixture.keys().check(presented.secret, HERE).await));
        assert!(fixture.shown(&new).await.is_ok());
        assert_eq!(fixture.states(ONE).await, [KeyState::Active, KeyState::Ended]);
    }

    async fn a_key_that_nobody_used_within_a_day_is_refused(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (late, early) = (fixture.offer(ONE).await, fixture.offer(CollectorId(8)).await);
        fixture.clock.advance(PENDING_FOR.checked_sub(SECOND).unwrap());
        assert!(fixture.shown(&early).await.is_ok());
        fixture.clock.advance(SECOND);
        assert!(is_unknown(&fixture.shown(&late).await));
        assert_eq!(fixture.states(ONE).await, [KeyState::Ended]);
        let there = fixture.keys().outstanding(&mut &*fixture.db, ONE, fixture.now()).await.unwrap();
        assert_eq!(there, None, "a new one may be offered");
        assert!(fixture.shown(&early).await.is_ok(), "one that was used in time does not run out");
    }

    async fn a_key_that_is_revoked_between_offer_and_first_use_is_refused(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let active = fixture.active(ONE).await;
        let pending = fixture.offer(ONE).await;
        assert_eq!(fixture.revoke_collector(ONE).await, 2);
        for key in [&pending, &active] {
            assert!(is_unknown(&fixture.shown(key).await));
        }
        assert_eq!(fixture.states(ONE).await, [KeyState::Revoked, KeyState::Revoked]);
        assert_eq!(fixture.revoke_collector(ONE).await, 0, "doing it twice is no error");
        assert!(fixture.active(CollectorId(8)).await.starts_with("mst_acc_"), "its neighbour goes on");
    }

    async fn one_key_is_taken_away_and_the_others_stay(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (one, other) = (fixture.active(ONE).await, fixture.active(CollectorId(8)).await);
        let id = fixture.shown(&one).await.unwrap().key_id;
        for _ in 0..2 {
            fixture.keys().revoke(&Actor::system(), id).await.unwrap();
        }
        assert!(is_unknown(&fixture.shown(&one).await));
        assert!(fixture.shown(&other).await.is_ok());
        let next = fixture.active(ONE).await;
        assert!(fixture.shown(&next).await.is_ok(), "its collector may be offered another");
        let gone = fixture.keys().revoke(&Actor::system(), AgentKeyId(999)).await.unwrap_err();
        assert_eq!(gone.to_string(), "access key 999 does not exist");
    }

    async fn a_collector_comes_back_without_a_key_or_with_its_key(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let key = fixture.active(ONE).await;
        fixture.revoke_collector(ONE).await;
        assert!(is_unknown(&fixture.shown(&key).await));
        assert_eq!(fixture.readmit(ONE, ComeBack::WithoutKey).await, None);
        assert!(is_unknown(&fixture.shown(&key).await), "it is enrolled, and comes by its token");
        assert_eq!(fixture.readmit(ONE, ComeBack::WithItsKey).await, None, "that was decided");
        let key = fixture.active(ONE).await;
        fixture.revoke_collector(ONE).await;
        let again = fixture.readmit(ONE, ComeBack::WithItsKey).await;
        let presented = fixture.shown(&key).await.unwrap();
        assert_eq!((Some(presented.key_id), presented.state), (again, KeyState::Active));

        // One that has another key by now is left as it is.
        fixture.revoke_collector(ONE).await;
        let newer = fixture.active(ONE).await;
        assert_eq!(fixture.readmit(ONE, ComeBack::WithItsKey).await, None);
        assert!(fixture.shown(&newer).await.is_ok() && is_unknown(&fixture.shown(&key).await));

        // What an operator took away by itself does not come back with the collector.
        let id = fixture.shown(&newer).await.unwrap().key_id;
        fixture.keys().revoke(&Actor::system(), id).await.unwrap();
        assert_eq!(fixture.readmit(CollectorId(99), ComeBack::WithItsKey).await, None);
        assert_ne!(fixture.readmit(ONE, ComeBack::WithItsKey).await, Some(id));
    }

    async fn what_one_replica_changes_another_heeds(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let replica = fixture.replica().await;
        let stop = tokio_util::sync::CancellationToken::new();
        let maintenance = tokio::spawn({
            let (replica, stop) = (replica.clone(), stop.clone());
            async move { replica.run_maintenance(&muster_replicas::Lease::always(), stop).await }
        });
        let key = fixture.active(ONE).await;
        let there = async || replica.collector_keys.authenticate(&key, HERE).await;
        // The replica's task may not have subscribed yet: hints are repeated until it has heard one.
        let until = async |what: &str, is_so: &dyn Fn(&Result<PresentedKey, AgentAuthError>) -> bool| {
            let waited = tokio::time::timeout(Duration::from_secs(10), async {
                while !is_so(&there().await) {
                    fixture.keys().changed(ONE).await;
                    tokio::task::yield_now().await;
                }
            });
            waited.await.unwrap_or_else(|_| panic!("{what}"));
        };
        until("the key is good", &|shown| shown.is_ok()).await;
        fixture.revoke_collector(ONE).await;
        until("the key is refused", &is_unknown).await;
        // It is refused from memory now, and not for a minute.
        fixture.readmit(ONE, ComeBack::WithItsKey).await;
        until("the key is good again", &|shown| shown.is_ok()).await;
        fixture.keys().start_rotation(&Actor::system(), 1).await.unwrap();
        // Of this it heard by the one hint that names no collector.
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while !there().await.unwrap().is_rotation_due {
                tokio::task::yield_now().await;
            }
        });
        waited.await.expect("the key is due");
        stop.cancel();
        maintenance.await.unwrap();
    }

    async fn what_is_in_memory_is_repaired_when_a_hint_was_lost(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let replica = fixture.replica().await.collector_keys;
        let keys = [fixture.active(ONE).await, fixture.active(CollectorId(8)).await];
        for key in &keys {
            replica.authenticate(key, HERE).await.unwrap();
        }
        fixture.revoke_collector(ONE).await;
        assert!(replica.authenticate(&keys[0], HERE).await.is_ok(), "nobody told it");
        replica.reconcile().await.unwrap();
        assert!(is_unknown(&replica.authenticate(&keys[0], HERE).await));
        let before = fixture.db.statements();
        assert!(replica.authenticate(&keys[1], HERE).await.is_ok());
        assert_eq!(fixture.db.statements(), before, "the other is still in memory");
    }

    async fn a_database_that_is_away_at_the_first_use_burns_no_key(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let known = fixture.active(ONE).await;
        let pending = fixture.offer(CollectorId(8)).await;
        let (unbound, made) = fixture.made("gateway").await;
        let later = fixture.replica().await.collector_keys;
        fixture.db.close().await;
        assert!(fixture.shown(&known).await.is_ok());
        for _ in 0..3 {
            for key in [&pending, &made, &"mst_acc_nobodys".to_owned()] {
                let shown = fixture.shown(key).await;
                assert!(matches!(shown, Err(AgentAuthError::Unavailable(_))), "{shown:?}");
            }
        }
        let first = later.authenticate(&pending, HERE).await.unwrap();
        assert!(first.is_first_use, "the key waited");
        assert_eq!(later.authenticate(&made, HERE).await.unwrap().key_id, unbound);
    }

    async fn an_agent_that_forgets_its_key_every_minute_leaves_few_rows(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let mut key = String::new();
        for _ in 0..300 {
            key = fixture.active(ONE).await;
            fixture.clock.advance(MINUTE);
        }
        assert!(fixture.shown(&key).await.is_ok());
        let rows = fixture.count("SELECT COUNT(*) AS total FROM identity_agent_keys").await;
        assert!(rows <= 20, "{rows} rows are left of 300 keys");
        let states = fixture.states(ONE).await;
        assert_eq!(states.iter().filter(|state| **state == KeyState::Active).count(), 1, "{states:?}");
        assert!(states.iter().filter(|state| **state == KeyState::Superseded).count() <= 3, "{states:?}");
        let generations: Vec<i64> = fixture.keys().of_collector(ONE).await.unwrap()
            .iter().map(|key| key.generation).collect();
        assert_eq!(generations[0], 300);
        let (actions, text) = fixture.log().await;
        assert!(actions.len() <= 6 * 3 * 3, "{} entries for six hours", actions.len());
        assert!(text.contains("more_within_the_hour_are_not_kept"));
        fixture.clock.advance(100 * DAY);
        fixture.identity.audit.forget_denials().await.unwrap();
        assert_eq!(fixture.log().await.0.len(), 0, "and they are not kept for ever");
    }

    async fn an_agent_that_never_uses_what_it_is_offered_leaves_few_rows(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        for _ in 0..100 {
            fixture.offer(ONE).await;
            fixture.clock.advance(MINUTE);
        }
        let rows = fixture.count("SELECT COUNT(*) AS total FROM identity_agent_keys").await;
        assert!(rows <= 20, "{rows} rows are left of 100 offers");
    }
}
