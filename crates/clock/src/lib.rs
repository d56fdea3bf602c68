//! Time and randomness, passed in rather than taken from the air.
//!
//! Everything that needs the time takes a [`Clock`], everything that makes keys, ids or jitter takes a
//! [`Randomness`]; `clippy.toml` forbids the global functions. A test passes a [`ManualClock`] and a
//! [`SeededRandomness`] and so decides both.
//!
//! Not responsible for timers: waiting is tokio's, which has its own pausable clock.

mod random;
mod settling;
mod timestamp;

pub use random::{Randomness, SeededRandomness, SystemRandomness};
pub use settling::Settling;
pub use timestamp::{ParseTimestampError, Timestamp};

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Where the present time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The present time.
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
    }
}

/// A clock that stands still until it is moved: for tests and simulations.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.as_micros()))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.0.fetch_add(micros, Ordering::SeqCst);
    }

    /// Puts the clock to `to`, which may lie in the past: machines' clocks do jump.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.as_micros(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_stands_still_until_it_is_moved() {
        let clock = ManualClock::new(Timestamp::from_seconds(1_000));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(clock.now(), Timestamp::from_micros(1_001_500_000));
        clock.set(Timestamp::from_seconds(5));
        assert_eq!(clock.now(), Timestamp::from_seconds(5));
    }

    #[test]
    fn the_system_clock_tells_a_plausible_year() {
        let text = SystemClock.now().to_string();
        assert!(
            text.as_str() > "2025-01-01" && text.ends_with('Z'),
            "{text}"
        );
    }
}
