//! How many hosts tell everything about themselves at a time.
//!
//! Details and labels take some fifty times the work of an empty check-in, and are never urgent. When a fleet enrolls at
//! once, or every label changed, each host would send them within seconds. So only so many hosts are asked and have not
//! answered yet; the others are asked at a later check-in. How many follows from how long their answers take to be kept:
//! a database that is busy with enrollments, answers and presence gets fewer.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use muster_clock::Timestamp;
use muster_identity::HostId;

/// How many hosts are asked at a time to begin with.
const FIRST_LIMIT: f64 = 32.0;
/// How many at least, however slow the database is.
const LEAST_LIMIT: f64 = 4.0;
/// How many at most.
const MOST_LIMIT: f64 = 512.0;
/// Answers that were kept as fast as this let one more host be asked.
const FAST: Duration = Duration::from_millis(250);
/// Answers that took longer than this to be kept let fewer be asked.
const SLOW: Duration = Duration::from_secs(1);
/// The limit is lowered once in this time at most: answers that were under way say the same.
const LOWER_INTERVAL: Duration = Duration::from_secs(1);
/// A host that did not answer for so long is not counted any more.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct State {
    asked: HashMap<HostId, Timestamp>,
    limit: f64,
    lowered_at: Timestamp,
    cleaned_at: Timestamp,
}

/// Decides which hosts are asked now.
#[derive(Debug)]
pub(crate) struct Pace(Mutex<State>);

impl Pace {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            asked: HashMap::new(),
            limit: FIRST_LIMIT,
            lowered_at: Timestamp::EPOCH,
            cleaned_at: Timestamp::EPOCH,
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a host to which something is due may be asked now. One that was asked and did not answer may be again.
    pub(crate) fn admits(&self, host: HostId, now: Timestamp) -> bool {
        let mut state = self.lock();
        let is_full = state.asked.len() as f64 >= state.limit;
        // Clocks jump: the time since is nothing then, in one direction, and everything in the other.
        if is_full && now != state.cleaned_at {
            state.cleaned_at = now;
            state
                .asked
                .retain(|_, at| now.since(*at) < ANSWER_WITHIN && *at <= now);
        }
        if state.asked.len() as f64 >= state.limit && !state.asked.contains_key(&host) {
            return false;
        }
        state.asked.insert(host, now);
        true
    }

    /// A host answered, and keeping that took so long.
    pub(crate) fn answered(&self, host: HostId, took: Duration, now: Timestamp) {
        let mut state = self.lock();
        state.asked.remove(&host);
        if took <= FAST {
            state.limit = (state.limit + 1.0).min(MOST_LIMIT);
        } else if took >= SLOW && now.since(state.lowered_at) >= LOWER_INTERVAL {
            state.lowered_at = now;
            state.limit = (state.limit / 2.0).max(LEAST_LIMIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_000_000 + seconds)
    }

    fn admitted(pace: &Pace, hosts: std::ops::Range<i64>, now: Timestamp) -> usize {
        hosts.filter(|host| pace.admits(HostId(*host), now)).count()
    }

    #[test]
    fn only_so_many_are_asked_until_they_answer_or_their_time_is_over() {
        let pace = Pace::new();
        assert_eq!(admitted(&pace, 0..100, at(0)), 32);
        assert!(pace.admits(HostId(3), at(1)), "it was asked and asks again");
        assert!(!pace.admits(HostId(50), at(1)));
        pace.answered(HostId(3), Duration::from_millis(600), at(1));
        assert!(pace.admits(HostId(50), at(2)));
        assert_eq!(admitted(&pace, 100..200, at(59)), 0);
        assert_eq!(admitted(&pace, 100..200, at(62)), 32);
    }

    #[test]
    fn a_fast_database_gets_more_and_a_slow_one_fewer() {
        let pace = Pace::new();
        for host in 0..10_000 {
            pace.answered(HostId(host), Duration::from_millis(3), at(0));
        }
        assert_eq!(admitted(&pace, 0..10_000, at(0)), MOST_LIMIT as usize);
        let pace = Pace::new();
        for second in 0..10 {
            for host in 0..50 {
                pace.answered(HostId(host), Duration::from_secs(4), at(second));
            }
        }
        assert_eq!(admitted(&pace, 0..10_000, at(10)), LEAST_LIMIT as usize);
    }

    #[test]
    fn a_clock_that_jumps_keeps_nobody_from_being_asked_for_long() {
        let pace = Pace::new();
        assert_eq!(admitted(&pace, 0..32, at(3_600)), 32);
        assert_eq!(admitted(&pace, 100..132, at(0)), 32, "an hour back");
        assert_eq!(admitted(&pace, 200..232, at(7_200)), 32, "and forth");
    }
}
