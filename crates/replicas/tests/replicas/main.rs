//! Replicas on both databases. Time is tokio's, stopped and moved by the tests; the database's driver needs real time to
//! pass, so only the waits of this crate are skipped.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod standing;

use std::sync::Arc;
use std::time::Duration;

use muster_bus::LocalBus;
use muster_clock::{Clock, ManualClock, SystemRandomness, Timestamp};
use muster_negotiation::{Offer, Release};
use muster_replicas::{About, HELD_FOR, Lease, Replicas, TAKEN_OVER_AFTER};
use muster_store::Schema;
use muster_store::testing::{TestDatabase, on_both_databases};
use tokio_util::sync::CancellationToken;

async fn migrated(db: &TestDatabase) {
    let schema = Schema::default().with("replicas", muster_replicas::MIGRATIONS);
    db.migrate(&schema).await;
}

/// A replica whose clock stands wherever it likes: nothing may depend on it.
fn replica(db: &TestDatabase, name: &str, seconds: i64) -> (Replicas, Lease) {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_seconds(seconds)));
    let about = About {
        name: name.to_owned(),
        release: "1.2.3".to_owned(),
        offer: Offer::of(Release::current()),
    };
    let bus = Arc::new(LocalBus::new());
    let replicas = Replicas::new(db.database(), bus, clock, &SystemRandomness, about);
    let lease = replicas.lease("upkeep");
    (replicas, lease)
}

/// Moves tokio's clock.
async fn pass(span: Duration) {
    tokio::time::pause();
    tokio::time::advance(span).await;
    tokio::time::resume();
}

on_both_databases! {
    async fn a_lease_goes_to_one_and_stays_with_it(db: TestDatabase) {
        migrated(&db).await;
        let ((one, first), (two, second)) = (replica(&db, "one", 1_000_000), replica(&db, "two", 1_050_000));
        assert!(!first.is_held());
        one.renew().await.unwrap();
        two.renew().await.unwrap();
        assert!(first.is_held() && !second.is_held());
        for _ in 0..10 {
            pass(Duration::from_secs(2)).await;
            one.renew().await.unwrap();
            two.renew().await.unwrap();
            assert!(first.is_held() && !second.is_held());
        }
        let listed = two.list().await.unwrap();
        let shown: Vec<_> = listed
            .iter()
            .map(|replica| (replica.name.as_str(), replica.release.as_str(), replica.leases.len()))
            .collect();
        assert_eq!(shown, [("one", "1.2.3", 1), ("two", "1.2.3", 0)]);
    }

    async fn the_lease_of_one_that_died_is_taken_over_within_15_seconds(db: TestDatabase) {
        migrated(&db).await;
        let ((one, first), (two, second)) = (replica(&db, "one", 5_000), replica(&db, "two", 1_000));
        one.renew().await.unwrap();
        let mut waited = Duration::ZERO;
        while !second.is_held() {
            two.renew().await.unwrap();
            // Never two at a time.
            assert!(!(first.is_held() && second.is_held()));
            if !second.is_held() {
                pass(Duration::from_secs(2)).await;
                waited += Duration::from_secs(2);
            }
        }
        assert!(waited >= TAKEN_OVER_AFTER && waited < Duration::from_secs(15), "{waited:?}");
        // It was not dead, only slow: it finds that its lease is gone.
        one.renew().await.unwrap();
        assert!(!first.is_held() && second.is_held());
    }

    async fn one_that_cannot_renew_gives_up_before_another_takes_over(db: TestDatabase) {
        migrated(&db).await;
        let (one, first) = replica(&db, "one", 1_000);
        one.renew().await.unwrap();
        pass(HELD_FOR.saturating_sub(Duration::from_secs(1))).await;
        assert!(first.is_held());
        pass(Duration::from_secs(1)).await;
        assert!(!first.is_held());
        assert!(HELD_FOR < TAKEN_OVER_AFTER);
        one.renew().await.unwrap();
        assert!(first.is_held(), "nobody else wanted it");
    }

    async fn one_that_stops_leaves_its_leases_to_others_at_once(db: TestDatabase) {
        migrated(&db).await;
        let ((one, first), (two, second)) = (replica(&db, "one", 1_000), replica(&db, "two", 1_000));
        one.renew().await.unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        one.run(stop).await;
        two.renew().await.unwrap();
        assert!(second.is_held());
        assert_eq!(two.list().await.unwrap().len(), 1);
        drop(first);
    }

    async fn of_many_that_start_at_once_one_holds_the_lease(db: TestDatabase) {
        migrated(&db).await;
        let all: Vec<_> = (0..8).map(|number| replica(&db, &number.to_string(), 1_000)).collect();
        let tasks: Vec<_> = all
            .iter()
            .map(|(replica, _)| {
                let replica = replica.clone();
                tokio::spawn(async move { replica.renew().await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(all.iter().filter(|(_, lease)| lease.is_held()).count(), 1);
    }

    async fn a_database_that_is_away_takes_the_lease_with_it_and_ends_nothing(db: TestDatabase) {
        migrated(&db).await;
        let (one, first) = replica(&db, "one", 1_000);
        one.renew().await.unwrap();
        db.close().await;
        let error = one.renew().await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        assert!(first.is_held());
        pass(HELD_FOR).await;
        assert!(!first.is_held());
    }
}

#[test]
fn a_program_that_is_alone_holds_every_lease() {
    assert!(Lease::always().is_held());
}
