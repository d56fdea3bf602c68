//! Whoever is turned away and comes again at once.
//!
//! A client that is refused when it connects waits longer each time. One that connected and is refused by its first message
//! does not: whatever the code with which its socket is closed, it connects again at once, which costs a TLS handshake each
//! time. Of those who share an enrollment token only the message tells who it is. So a socket on which nobody else is stays
//! open for a while before it is closed, longer each time; a message on it is answered with a refusal. There may be only so
//! many of them: further ones are closed at once.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use muster_clock::Timestamp;
use muster_http::ClientAddress;
use muster_wire_opamp::InstanceUid;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::record::LineKey;

/// How long a socket stays open when its peer is turned away for the second time. The first time it is closed at once.
pub(crate) const FIRST_HOLD: Duration = Duration::from_secs(5);
/// The longest time; each is twice as long as the one before.
const LONGEST_HOLD: Duration = Duration::from_secs(5 * 60);
/// Who was not turned away for so long begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// How many sockets are held at a time.
const MAX_HELD: usize = 2_000;
/// How many of those who knock are told apart.
const MAX_KNOCKERS: usize = 20_000;

/// Who knocks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Knocker {
    /// An agent, by what it calls itself: only its own waiting hangs on that.
    Agent(InstanceUid),
    /// Somebody whose message was not read: by credential and address.
    Line(LineKey, Vec<u8>),
}

impl Knocker {
    /// Whoever shows this credential from there.
    pub(crate) fn line(key: LineKey, address: ClientAddress) -> Self {
        Self::Line(key, address.subscriber())
    }
}

#[derive(Debug, Clone, Copy)]
struct Knock {
    times: u32,
    at: Timestamp,
}

/// A socket stays open for so long; it counts among those that are held until this is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) wait: Duration,
    _slot: OwnedSemaphorePermit,
}

/// Counts them.
pub(crate) struct Knocks {
    seen: DashMap<Knocker, Knock>,
    slots: Arc<Semaphore>,
}

impl Default for Knocks {
    fn default() -> Self {
        Self {
            seen: DashMap::new(),
            slots: Arc::new(Semaphore::new(MAX_HELD)),
        }
    }
}

impl Knocks {
    /// Somebody is turned away: for how long its socket stays open. None when it is to be closed at once.
    pub(crate) fn hold(&self, who: Knocker, now: Timestamp) -> Option<Hold> {
        let wait = self.wait(who, now)?;
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        Some(Hold { wait, _slot: slot })
    }

    fn wait(&self, who: Knocker, now: Timestamp) -> Option<Duration> {
        if self.seen.len() >= MAX_KNOCKERS && !self.seen.contains_key(&who) {
            // Nobody knows how often it came.
            return Some(FIRST_HOLD);
        }
        let mut knock = self.seen.entry(who).or_insert(Knock { times: 0, at: now });
        if now.since(knock.at) >= FORGOTTEN_AFTER {
            knock.times = 0;
        }
        knock.times = knock.times.saturating_add(1);
        knock.at = now;
        let doublings = knock.times.checked_sub(2)?;
        let wait = FIRST_HOLD.saturating_mul(1 << doublings.min(16));
        Some(wait.min(LONGEST_HOLD))
    }

    /// An agent was let in.
    pub(crate) fn forget(&self, agent: InstanceUid) {
        self.seen.remove(&Knocker::Agent(agent));
    }

    /// Forgets those who were not turned away for long.
    pub(crate) fn forget_old(&self, now: Timestamp) {
        self.seen
            .retain(|_, knock| now.since(knock.at) < FORGOTTEN_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_000);

    fn agent(number: u32) -> Knocker {
        let mut bytes = [7; 16];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Knocker::Agent(InstanceUid::from_bytes(bytes))
    }

    fn seconds(knocks: &Knocks, who: &Knocker, now: Timestamp) -> u64 {
        let hold = knocks.hold(who.clone(), now);
        hold.map_or(0, |hold| hold.wait.as_secs())
    }

    #[test]
    fn whoever_comes_again_waits_longer_each_time_until_it_was_quiet_or_let_in() {
        let knocks = Knocks::default();
        let waits: Vec<u64> = (0..10).map(|_| seconds(&knocks, &agent(1), NOW)).collect();
        assert_eq!(waits, [0, 5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(seconds(&knocks, &agent(2), NOW), 0, "others do not");
        knocks.forget(InstanceUid::from_bytes({
            let mut bytes = [7; 16];
            bytes[..4].copy_from_slice(&1_u32.to_be_bytes());
            bytes
        }));
        assert_eq!(seconds(&knocks, &agent(1), NOW), 0);
        assert_eq!(seconds(&knocks, &agent(1), NOW), 5);
        assert_eq!(
            seconds(&knocks, &agent(1), NOW.plus(FORGOTTEN_AFTER)),
            0,
            "it was quiet"
        );
        knocks.forget_old(NOW.plus(3 * FORGOTTEN_AFTER));
        assert!(knocks.seen.is_empty());
    }

    #[test]
    fn sockets_that_are_held_and_those_who_are_told_apart_are_bounded() {
        let knocks = Knocks::default();
        let mut held = Vec::new();
        for number in 0..2 * MAX_KNOCKERS as u32 {
            assert!(number >= MAX_KNOCKERS as u32 || knocks.hold(agent(number), NOW).is_none());
            held.extend(knocks.hold(agent(number), NOW));
        }
        assert_eq!((held.len(), knocks.seen.len()), (MAX_HELD, MAX_KNOCKERS));
        held.pop();
        assert!(knocks.hold(agent(1), NOW).is_some(), "one went");
    }
}
