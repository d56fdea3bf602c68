//! Whether a wall clock can be trusted to say how long ago something was.

use std::time::Duration;

use crate::Timestamp;

/// How long a clock goes evenly before it is trusted.
const SETTLING: Duration = Duration::from_secs(60 * 60);
/// By how much a clock may move between two looks beyond the time between them.
const MAX_DRIFT: Duration = Duration::from_secs(5 * 60);

/// Watches a clock for whoever deletes what is old: a server that was off for a month, or whose clock is wrong, does not know
/// what is. It settles when the clock went evenly for an hour, and again after each jump.
#[derive(Debug)]
pub struct Settling {
    tick: Duration,
    since: Timestamp,
    last: Timestamp,
}

impl Settling {
    /// For a clock that is looked at each `tick`, which is far below an hour.
    pub fn new(now: Timestamp, tick: Duration) -> Self {
        Self {
            tick,
            since: now,
            last: now,
        }
    }

    /// Looks at the clock, one tick after the last time; true when it jumped. It begins to settle anew then.
    pub fn jumped(&mut self, now: Timestamp) -> bool {
        let jumped = now < self.last || now.since(self.last) > self.tick + MAX_DRIFT;
        if jumped {
            self.since = now;
        }
        self.last = now;
        jumped
    }

    /// Whether the clock had gone evenly for long enough at the last look.
    pub fn is_over(&self) -> bool {
        self.last.since(self.since) >= SETTLING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_secs(60);

    #[test]
    fn a_clock_settles_when_it_went_evenly_for_an_hour() {
        let mut now = Timestamp::from_seconds(1_000_000);
        let mut settling = Settling::new(now, TICK);
        for turn in [0, 40_000_000, 1_000] {
            if turn > 0 {
                now = Timestamp::from_seconds(turn);
                assert!(settling.jumped(now), "{now}");
            }
            for _ in 0..59 {
                now = now.plus(TICK);
                assert!(!settling.jumped(now));
                assert!(!settling.is_over());
            }
            now = now.plus(TICK);
            assert!(!settling.jumped(now));
            assert!(settling.is_over());
        }
    }
}
