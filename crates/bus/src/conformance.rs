//! What every implementation of [`Bus`] must do.

use std::sync::Arc;
use std::time::Duration;

use crate::{Bus, BusError, Hint, MAX_KEY_BYTES, Received, Topic};

const THINGS: Topic = Topic::new("test.things");
/// How long a hint may take before the implementation counts as broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the whole test. `make` gives two handles of one fresh bus, as two replicas have them.
pub async fn check<F, R>(make: F)
where
    F: Fn() -> R,
    R: Future<Output = (Arc<dyn Bus>, Arc<dyn Bus>)>,
{
    let (here, there) = make().await;
    reaches_every_subscriber_on_every_replica(&*here, &*there).await;
    let (here, there) = make().await;
    keeps_the_order_of_one_publisher(&*here, &*there).await;
    let (here, _there) = make().await;
    needs_no_subscriber(&*here).await;
    let (here, there) = make().await;
    carries_any_key_up_to_the_limit(&*here, &*there).await;
    let (here, there) = make().await;
    a_subscriber_that_leaves_hurts_nobody(&*here, &*there).await;
}

async fn next(subscription: &mut crate::Subscription) -> Hint {
    match tokio::time::timeout(PATIENCE, subscription.next()).await {
        Ok(Some(Received::Hint(hint))) => hint,
        other => panic!("expected a hint within {PATIENCE:?}, got {other:?}"),
    }
}

async fn reaches_every_subscriber_on_every_replica(here: &dyn Bus, there: &dyn Bus) {
    let mut subscriptions = [here.subscribe(), here.subscribe(), there.subscribe()];
    let hint = Hint::new(THINGS, 7);
    here.publish(hint.clone()).await.expect("a hint is taken");
    for subscription in &mut subscriptions {
        assert_eq!(next(subscription).await, hint);
    }
}

async fn keeps_the_order_of_one_publisher(here: &dyn Bus, there: &dyn Bus) {
    let mut subscription = there.subscribe();
    for id in 0..100 {
        here.publish(Hint::new(THINGS, id))
            .await
            .expect("a hint is taken");
    }
    for id in 0..100 {
        assert_eq!(next(&mut subscription).await.key, id.to_string());
    }
}

async fn needs_no_subscriber(here: &dyn Bus) {
    here.publish(Hint::new(THINGS, 1))
        .await
        .expect("a hint is taken though nobody listens");
    let mut late = here.subscribe();
    here.publish(Hint::new(THINGS, 2))
        .await
        .expect("a hint is taken");
    assert_eq!(
        next(&mut late).await.key,
        "2",
        "only what is published after subscribing arrives"
    );
}

async fn carries_any_key_up_to_the_limit(here: &dyn Bus, there: &dyn Bus) {
    let mut subscription = there.subscribe();
    for key in [
        String::new(),
        "a'b\"c\\d\n\u{e9}\u{1f600}".to_owned(),
        "k".repeat(MAX_KEY_BYTES),
    ] {
        here.publish(Hint::new(THINGS, &key))
            .await
            .expect("a hint is taken");
        assert_eq!(next(&mut subscription).await.key, key);
    }
    let refused = here
        .publish(Hint::new(THINGS, "k".repeat(MAX_KEY_BYTES + 1)))
        .await;
    assert!(
        matches!(refused, Err(BusError::KeyTooLong { .. })),
        "{refused:?}"
    );
}

async fn a_subscriber_that_leaves_hurts_nobody(here: &dyn Bus, there: &dyn Bus) {
    let mut stays = there.subscribe();
    drop(there.subscribe());
    drop(here.subscribe());
    here.publish(Hint::new(THINGS, 1))
        .await
        .expect("a hint is taken");
    assert_eq!(next(&mut stays).await.key, "1");
}
