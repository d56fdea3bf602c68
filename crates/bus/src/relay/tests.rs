use std::sync::Arc;

use muster_clock::SystemRandomness;
use muster_store::Dialect;
use muster_store::testing::TestDatabase;

use super::*;
use crate::testing::RedisServer;
use crate::{Topic, conformance};

const THINGS: Topic = Topic::new("test.things");
const PATIENCE: Duration = Duration::from_secs(20);

/// A replica's end of the bus, whose task ends with the value.
struct Replica {
    bus: Relay,
    stop: CancellationToken,
}

impl Replica {
    async fn new((bus, task): (Relay, RelayTask)) -> Self {
        let stop = CancellationToken::new();
        tokio::spawn(task.run(stop.clone()));
        bus.connected().await;
        Self { bus, stop }
    }

    async fn postgres(database: &Database) -> Self {
        Self::new(Relay::postgres(database, &SystemRandomness).unwrap()).await
    }

    async fn redis(server: &RedisServer) -> Self {
        Self::new(Relay::redis(&server.url(), "test", &SystemRandomness).unwrap()).await
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("this never came about: {what}"));
}

async fn next(subscription: &mut Subscription) -> Received {
    let waited = tokio::time::timeout(PATIENCE, subscription.next());
    waited.await.expect("it arrives").expect("the bus is there")
}

/// Two replicas that live as long as the test.
fn leak(one: Replica, two: Replica) -> (Arc<dyn Bus>, Arc<dyn Bus>) {
    let pair: (Arc<dyn Bus>, Arc<dyn Bus>) = (Arc::new(one.bus.clone()), Arc::new(two.bus.clone()));
    std::mem::forget((one, two));
    pair
}

#[tokio::test]
async fn the_bus_over_postgresql_conforms() {
    let database = TestDatabase::new(Dialect::Postgres).await;
    let database: &Database = &database;
    conformance::check(|| async {
        leak(
            Replica::postgres(database).await,
            Replica::postgres(database).await,
        )
    })
    .await;
}

#[tokio::test]
async fn the_bus_over_redis_conforms() {
    let server = RedisServer::start().await;
    conformance::check(|| async {
        leak(Replica::redis(&server).await, Replica::redis(&server).await)
    })
    .await;
}

#[tokio::test]
async fn an_embedded_database_has_no_bus_between_replicas() {
    let database = TestDatabase::new(Dialect::Sqlite).await;
    assert!(Relay::postgres(&database, &SystemRandomness).is_none());
}

#[tokio::test]
async fn replicas_count_each_other_and_know_how_long_a_message_takes() {
    let server = RedisServer::start().await;
    let one = Replica::redis(&server).await;
    {
        let two = Replica::redis(&server).await;
        until("both know of two", || {
            one.bus.status().replicas == 2 && two.bus.status().replicas == 2
        })
        .await;
        until("a round trip was measured", || {
            one.bus.status().round_trip.is_some()
        })
        .await;
    }
    until("the one that went is not counted", || {
        one.bus.status().replicas == 1
    })
    .await;
    let status = one.bus.status();
    assert_eq!((status.carrier, status.lost), ("redis", 0), "{status:?}");
}

#[tokio::test]
async fn after_redis_was_killed_all_replicas_are_told_and_hints_flow_again() {
    let server = RedisServer::start().await;
    let (one, two) = (Replica::redis(&server).await, Replica::redis(&server).await);
    let mut there = two.bus.subscribe();
    server.kill();
    until("it is noticed", || !two.bus.status().is_connected).await;
    // Nobody waits for a bus that is away, and who published it hears it.
    let mut here = one.bus.subscribe();
    one.bus.publish(Hint::new(THINGS, 1)).await.unwrap();
    assert_eq!(next(&mut here).await, Received::Hint(Hint::new(THINGS, 1)));
    until("the error is shown", || {
        one.bus.status().last_error.is_some()
    })
    .await;
    server.start_again().await;
    assert_eq!(next(&mut there).await, Received::Missed);
    until("both are back", || {
        one.bus.status().is_connected && two.bus.status().is_connected
    })
    .await;
    until("nothing is wrong any more", || {
        one.bus.status().last_error.is_none()
    })
    .await;
    one.bus.publish(Hint::new(THINGS, 2)).await.unwrap();
    loop {
        match next(&mut there).await {
            Received::Missed => {}
            Received::Hint(hint) => {
                assert_eq!(hint.key, "2");
                break;
            }
        }
    }
    assert!(two.bus.status().lost > 0);
}

#[tokio::test]
async fn a_flushed_redis_loses_nothing_but_time() {
    let server = RedisServer::start().await;
    let (one, two) = (Replica::redis(&server).await, Replica::redis(&server).await);
    let mut there = two.bus.subscribe();
    server.flush().await;
    assert_eq!(next(&mut there).await, Received::Missed);
    until("both are back", || {
        one.bus.status().is_connected && two.bus.status().is_connected
    })
    .await;
    one.bus.publish(Hint::new(THINGS, 1)).await.unwrap();
    // Either the hint arrives, or the word that some were lost does.
    next(&mut there).await;
}

#[tokio::test]
async fn many_hints_share_messages_and_keep_their_order() {
    let server = RedisServer::start().await;
    let (one, two) = (Replica::redis(&server).await, Replica::redis(&server).await);
    let mut there = two.bus.subscribe();
    let count = 2_000;
    let padding = "x".repeat(100);
    for id in 0..count {
        let key = format!("{id}-{padding}");
        one.bus.publish(Hint::new(THINGS, key)).await.unwrap();
    }
    for id in 0..count {
        match next(&mut there).await {
            Received::Hint(hint) => assert!(hint.key.starts_with(&format!("{id}-"))),
            Received::Missed => panic!("nothing was lost"),
        }
    }
}

#[tokio::test]
async fn what_does_not_fit_the_queue_is_told_as_lost() {
    let server = RedisServer::start().await;
    let two = Replica::redis(&server).await;
    // Its task does not run yet: everything waits.
    let (bus, task) = Relay::redis(&server.url(), "test", &SystemRandomness).unwrap();
    for id in 0..=CAPACITY_HINTS {
        bus.publish(Hint::new(THINGS, id)).await.unwrap();
    }
    assert_eq!(
        (bus.status().waiting, bus.status().lost),
        (CAPACITY_HINTS, 1)
    );
    let mut there = two.bus.subscribe();
    let stop = CancellationToken::new();
    tokio::spawn(task.run(stop.clone()));
    assert_eq!(next(&mut there).await, Received::Missed);
    stop.cancel();
}

#[tokio::test]
async fn a_message_that_cannot_be_read_means_that_something_was_missed() {
    let database = TestDatabase::new(Dialect::Postgres).await;
    let one = Replica::postgres(&database).await;
    let mut here = one.bus.subscribe();
    let channel = database.channel("muster_hints").unwrap();
    // A newer release may say more; what is known of it counts.
    let newer = r#"{"from":"f","hints":[{"topic":"test.things","key":"1","more":1}],"more":[]}"#;
    channel.send(newer).await.unwrap();
    assert_eq!(next(&mut here).await, Received::Hint(Hint::new(THINGS, 1)));
    channel.send("something else").await.unwrap();
    assert_eq!(next(&mut here).await, Received::Missed);
}

#[test]
fn an_address_that_is_wrong_is_refused_without_repeating_its_password() {
    for url in [
        "",
        "redis",
        "http://:hunter2@host",
        "redis://:hunter2@host:notaport",
    ] {
        let Err(error) = Relay::redis(url, "test", &SystemRandomness) else {
            panic!("{url} was taken");
        };
        let text = chain(&error);
        assert!(
            text.contains("redis://") && !text.contains("hunter2"),
            "{text}"
        );
    }
}
