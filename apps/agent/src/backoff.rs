//! How long to wait after failures.

use std::time::Duration;

use muster_clock::Randomness;

/// The first wait.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait after faults that pass by themselves.
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// The wait after a refusal that was repeated: the token is wrong, and asking more often changes nothing.
const REFUSED: Duration = Duration::from_secs(10 * 60);

/// Waits that double with each failure, with jitter, so that a fleet does not come back all at once.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Things work again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure: half to the whole of a span that doubles up to five minutes. What the
    /// server asked for, within the same bound, comes before it: all of a fleet are asked for the same.
    pub fn failed(&mut self, asked: Option<Duration>, randomness: &dyn Randomness) -> Duration {
        let span = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        jittered(span, randomness) + asked.unwrap_or_default().min(LONGEST)
    }

    /// How long to wait after a refusal. The first ones may come from a server that is still being set up.
    pub fn refused(&mut self, randomness: &dyn Randomness) -> Duration {
        self.failures = self.failures.saturating_add(1);
        match self.failures {
            failures @ 1..=3 => jittered(FIRST.saturating_mul(5 << failures), randomness),
            _ => jittered(REFUSED, randomness),
        }
    }

    /// How often it failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// Half to the whole of a span.
pub fn jittered(span: Duration, randomness: &dyn Randomness) -> Duration {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis / 2 + randomness.below(millis / 2 + 1))
}

#[cfg(test)]
mod tests {
    use muster_clock::SeededRandomness;

    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_start_over_after_success() {
        let randomness = SeededRandomness::new(1);
        let mut backoff = Backoff::default();
        let mut span = FIRST;
        for _ in 0..40 {
            let wait = backoff.failed(None, &randomness);
            assert!(wait >= span / 2 && wait <= span, "{wait:?} of {span:?}");
            span = (span * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.failed(None, &randomness) <= FIRST);
        assert!(
            backoff.failed(Some(Duration::from_secs(30)), &randomness) >= Duration::from_secs(30)
        );
        assert!(backoff.failed(Some(Duration::from_secs(1 << 40)), &randomness) <= 2 * LONGEST);
        let mut fleet: Vec<_> = (0..20)
            .map(|_| Backoff::default().failed(Some(Duration::from_secs(5)), &randomness))
            .collect();
        fleet.sort();
        fleet.dedup();
        assert!(fleet.len() > 10, "they do not come back in step: {fleet:?}");
    }

    #[test]
    fn a_refused_agent_slows_down() {
        let randomness = SeededRandomness::new(1);
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..5).map(|_| backoff.refused(&randomness)).collect();
        assert!(waits[0] <= Duration::from_secs(10), "{waits:?}");
        assert!(waits[4] >= REFUSED / 2, "{waits:?}");
    }
}
