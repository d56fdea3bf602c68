//! The bus of a single process.

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::{Bus, BusError, Hint, MAX_KEY_BYTES, Subscription};

/// How many hints a slow subscriber may be behind before it is told that it missed some.
const CAPACITY_HINTS: usize = 4_096;

/// Carries hints within this process.
#[derive(Debug)]
pub struct LocalBus(broadcast::Sender<Hint>);

impl LocalBus {
    /// A bus without subscribers.
    pub fn new() -> Self {
        Self(broadcast::channel(CAPACITY_HINTS).0)
    }
}

impl Default for LocalBus {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Bus for LocalBus {
    async fn publish(&self, hint: Hint) -> Result<(), BusError> {
        let bytes = hint.key.len();
        if bytes > MAX_KEY_BYTES {
            return Err(BusError::KeyTooLong { bytes });
        }
        // An error only says that nobody listens.
        let _ = self.0.send(hint);
        Ok(())
    }

    fn subscribe(&self) -> Subscription {
        Subscription::new(self.0.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Received, Topic, conformance};

    #[tokio::test]
    async fn the_local_bus_conforms() {
        conformance::check(|| async {
            let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
            (Arc::clone(&bus), bus)
        })
        .await;
    }

    #[tokio::test]
    async fn a_subscriber_that_fell_behind_is_told_and_goes_on() {
        let bus = LocalBus::new();
        let mut slow = bus.subscribe();
        for id in 0..=CAPACITY_HINTS {
            bus.publish(Hint::new(Topic::new("test.things"), id))
                .await
                .unwrap();
        }
        assert_eq!(slow.next().await, Some(Received::Missed));
        assert!(matches!(slow.next().await, Some(Received::Hint(_))));
    }
}
