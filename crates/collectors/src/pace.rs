//! How fast somebody may send: some at once, then so many a second.

use std::time::Duration;

use muster_clock::Timestamp;

/// Counts what one sender sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// When what was sent so far will have been due at the steady rate.
    due: Timestamp,
}

impl Pace {
    /// Nothing was sent yet.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { due: now }
    }

    /// Something is sent: how long to wait before the next is taken. Nothing while it is within the burst.
    pub(crate) fn take(&mut self, now: Timestamp, every: Duration, burst: u32) -> Duration {
        self.due = self.due.max(now).plus(every);
        self.due.since(now.plus(every * burst))
    }

    /// The same for whoever is not made to wait: whether it is taken. What is refused does not count.
    pub(crate) fn admits(&mut self, now: Timestamp, every: Duration, burst: u32) -> bool {
        let most = now.plus(every * burst);
        if self.due > most.plus(every) {
            // The clock was put back.
            self.due = now;
        }
        let due = self.due.max(now).plus(every);
        let is_admitted = due <= most;
        if is_admitted {
            self.due = due;
        }
        is_admitted
    }

    /// One that was taken does not count.
    pub(crate) fn put_back(&mut self, every: Duration) {
        self.due = self.due.minus(every);
    }

    /// When what was sent so far will have been due.
    pub(crate) fn due(self) -> Timestamp {
        self.due
    }

    /// Whether nothing is left of what was sent.
    pub(crate) fn is_even(self, now: Timestamp) -> bool {
        self.due <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_rest_waits_for_its_turn() {
        let every = Duration::from_millis(100);
        let mut now = Timestamp::from_seconds(1_000);
        let mut pace = Pace::new(now);
        for _ in 0..10 {
            assert_eq!(pace.take(now, every, 10), Duration::ZERO);
        }
        assert_eq!(pace.take(now, every, 10), every);
        assert_eq!(pace.take(now, every, 10), 2 * every);
        now = now.plus(Duration::from_secs(60));
        assert_eq!(pace.take(now, every, 10), Duration::ZERO);
    }

    #[test]
    fn who_is_refused_is_taken_again_soon_also_when_the_clock_is_put_back() {
        let every = Duration::from_millis(100);
        let now = Timestamp::from_seconds(1_000);
        let mut pace = Pace::new(now);
        let taken = (0..100).filter(|_| pace.admits(now, every, 10)).count();
        assert_eq!(taken, 10);
        assert!(pace.admits(now.plus(every), every, 10));
        assert!(pace.admits(Timestamp::EPOCH, every, 10));
    }
}
