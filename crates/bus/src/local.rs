//! The bus of a single process.

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::{Bus, BusError, BusStatus, Hint, MAX_KEY_BYTES, Received, Subscription};

/// How many hints a slow subscriber may be behind before it is told that it missed some.
const CAPACITY_HINTS: usize = 4_096;

/// Carries hints within this process.
#[derive(Debug, Clone)]
pub struct LocalBus(broadcast::Sender<Received>);

impl LocalBus {
    /// A bus without subscribers.
    pub fn new() -> Self {
        Self(broadcast::channel(CAPACITY_HINTS).0)
    }

    /// Hands it to all subscribers of this process.
    pub(crate) fn deliver(&self, received: Received) {
        // An error only says that nobody listens.
        let _ = self.0.send(received);
    }
}

impl Default for LocalBus {
    fn default() -> Self {
        Self::new()
    }
}

/// Refuses what no implementation carries.
pub(crate) fn check(hint: &Hint) -> Result<(), BusError> {
    let bytes = hint.key.len();
    if bytes > MAX_KEY_BYTES {
        return Err(BusError::KeyTooLong { bytes });
    }
    Ok(())
}

#[async_trait]
impl Bus for LocalBus {
    async fn publish(&self, hint: Hint) -> Result<(), BusError> {
        check(&hint)?;
        self.deliver(Received::Hint(hint));
        Ok(())
    }

    fn subscribe(&self) -> Subscription {
        Subscription::new(self.0.subscribe())
    }

    fn status(&self) -> BusStatus {
        BusStatus::of_one_process()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Topic, conformance};

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
