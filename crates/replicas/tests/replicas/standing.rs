//! What servers say together while they differ.

use std::sync::Arc;
use std::time::Duration;

use muster_bus::LocalBus;
use muster_clock::{ManualClock, SystemRandomness, Timestamp};
use muster_negotiation::{Capability, Offer, Release};
use muster_replicas::{About, GONE_AFTER, RENEW_INTERVAL, ReplicaState, Replicas};
use muster_store::testing::{TestDatabase, on_both_databases};
use muster_store::{Executor as _, args};
use tokio_util::sync::CancellationToken;

use crate::{migrated, pass};

/// What servers of this release can do.
fn all() -> Offer {
    Offer::of(Release::current())
}

fn all_but(capability: Capability) -> Offer {
    all().without(&[capability])
}

/// A server that can do something, whose clock stands: nothing may depend on it.
fn server(db: &TestDatabase, bus: &Arc<LocalBus>, name: &str, offer: Offer) -> Replicas {
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_000)));
    let about = About {
        name: name.to_owned(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        offer,
    };
    let bus = Arc::clone(bus) as _;
    Replicas::new(db.database(), bus, clock, &SystemRandomness, about)
}

fn says(server: &Replicas) -> Offer {
    server.standing().spoken().now()
}

/// Runs a server until it is told to end.
struct Run {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Run {
    fn start(server: &Replicas) -> Self {
        let (server, stop) = (server.clone(), CancellationToken::new());
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { server.run(stop).await }
        });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Without a word.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "this never came about: {what}");
}

on_both_databases! {
    async fn one_that_can_do_more_says_no_more_than_the_others_from_its_first_answer_on(db: TestDatabase) {
        migrated(&db).await;
        let bus = Arc::new(LocalBus::new());
        let less = all_but(Capability::TokenRotation);
        let old = server(&db, &bus, "old", less);
        old.join().await.unwrap();
        assert_eq!(says(&old), less);
        let new = server(&db, &bus, "new", all());
        assert!(new.standing().can(Capability::TokenRotation));
        new.join().await.unwrap();
        assert_eq!((says(&old), says(&new)), (less, less));
        let lacking = new.standing().without(Capability::TokenRotation);
        let lacking: Vec<&str> = lacking.iter().map(|server| server.name.as_str()).collect();
        assert_eq!(lacking, ["old"]);
    }

    async fn one_that_can_do_less_answers_nobody_before_the_others_say_less(db: TestDatabase) {
        migrated(&db).await;
        let bus = Arc::new(LocalBus::new());
        let new = server(&db, &bus, "new", all());
        new.join().await.unwrap();
        let running = Run::start(&new);
        until("it looked", || new.standing().servers().len() == 1).await;
        let less = all_but(Capability::TokenRotation);
        let old = server(&db, &bus, "old", less);
        let began = std::time::Instant::now();
        old.join().await.unwrap();
        // At once, and not at the other one's next look.
        assert_eq!((says(&new), says(&old)), (less, less));
        assert!(began.elapsed() < RENEW_INTERVAL, "{:?}", began.elapsed());

        // It ends in order: the others say more as soon as it is gone.
        let ending = Run::start(&old);
        ending.end().await;
        until("the other one says all again", || says(&new) == all()).await;
        running.end().await;
        assert!(new.list().await.unwrap().is_empty());
    }

    async fn one_that_is_killed_is_waited_for_until_it_is_certainly_gone(db: TestDatabase) {
        migrated(&db).await;
        let bus = Arc::new(LocalBus::new());
        let less = all_but(Capability::EndUserEmail);
        let (one, two) = (server(&db, &bus, "one", all()), server(&db, &bus, "two", all()));
        let old = server(&db, &bus, "old", less);
        old.join().await.unwrap();
        one.join().await.unwrap();
        two.join().await.unwrap();
        let dying = Run::start(&old);
        dying.kill().await;
        one.renew().await.unwrap();
        two.renew().await.unwrap();
        let mut waited = Duration::ZERO;
        while says(&one) != all() {
            assert_eq!(says(&one), less);
            pass(RENEW_INTERVAL).await;
            waited += RENEW_INTERVAL;
            one.renew().await.unwrap();
        }
        assert!(waited >= GONE_AFTER && waited < GONE_AFTER + 2 * RENEW_INTERVAL, "{waited:?}");
        let states = async || {
            let mut listed = two.list().await.unwrap();
            listed.sort_by(|one, other| one.name.cmp(&other.name));
            let states = listed.into_iter().map(|server| (server.name, server.state));
            states.collect::<Vec<_>>()
        };
        let listed = |old: ReplicaState| {
            let alive = ReplicaState::Alive;
            [("old", old), ("one", alive), ("two", alive)].map(|(name, state)| (name.to_owned(), state))
        };
        assert_eq!(states().await, listed(ReplicaState::Gone));
        // What one found the other takes over, whenever it began to watch; so does one that begins now.
        two.renew().await.unwrap();
        let third = server(&db, &bus, "three", all());
        third.join().await.unwrap();
        assert_eq!((says(&two), says(&third)), (all(), all()));
        // It was not dead, only slow.
        old.renew().await.unwrap();
        one.renew().await.unwrap();
        assert_eq!(says(&one), less);
        assert_eq!(states().await[0], listed(ReplicaState::Alive)[0]);
    }

    async fn time_in_which_nobody_could_write_lets_nobody_seem_gone(db: TestDatabase) {
        migrated(&db).await;
        let bus = Arc::new(LocalBus::new());
        let less = all_but(Capability::EndUserEmail);
        let (one, old) = (server(&db, &bus, "one", all()), server(&db, &bus, "old", less));
        old.join().await.unwrap();
        one.join().await.unwrap();
        for _ in 0..3 {
            // As after a database that was away for an hour: the first look tells nothing.
            pass(Duration::from_secs(3_600)).await;
            one.renew().await.unwrap();
            assert_eq!(says(&one), less);
            old.renew().await.unwrap();
        }
        one.renew().await.unwrap();
        assert_eq!(says(&one), less);
    }

    async fn a_server_of_a_release_that_does_not_tell_can_do_what_its_release_could(db: TestDatabase) {
        migrated(&db).await;
        let bus = Arc::new(LocalBus::new());
        let one = server(&db, &bus, "one", all());
        let database = db.database();
        let insert = "INSERT INTO replicas_replicas (id, name, release, started_at, seen_at) VALUES ($1, $2, $3, $4, $5)";
        let old = args!["old", "old:8443", "0.2.0", 1_i64, 1_i64];
        (&database).execute(insert, old).await.unwrap();
        one.join().await.unwrap();
        assert_eq!(says(&one), all(), "all that servers say today was there in 0.1.0");
        let older = args!["older", "older:8443", "0.0.1", 1_i64, 1_i64];
        (&database).execute(insert, older).await.unwrap();
        one.renew().await.unwrap();
        assert_eq!(says(&one), Offer::NOTHING);
        let listed = one.list().await.unwrap();
        let listed: Vec<_> = listed.iter().map(|server| (server.name.as_str(), server.capabilities.len())).collect();
        assert_eq!(listed, [("old:8443", 4), ("older:8443", 0), ("one", 4)]);
    }

    async fn a_database_that_is_away_leaves_what_was_said_last(db: TestDatabase) {
        migrated(&db).await;
        let bus = Arc::new(LocalBus::new());
        let less = all_but(Capability::Notify);
        let (one, old) = (server(&db, &bus, "one", all()), server(&db, &bus, "old", less));
        old.join().await.unwrap();
        one.join().await.unwrap();
        db.close().await;
        pass(GONE_AFTER * 2).await;
        assert!(one.renew().await.unwrap_err().is_unavailable());
        assert_eq!(says(&one), less);
    }
}
