//! Sockets on which nothing happens: tried, looked at again, and ended when nobody is there. One look at all of them, in place
//! of a timer for each, which would wake thousands of tasks that have nothing to do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::{Inner, Live, Socket};

/// How often all sockets are looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// A peer that said nothing for so long is tried. Longer than the 30 s that agents are told to be heard in, so that of those
/// nobody is, and shorter than the minute after which many proxies cut what is idle.
const TRIED_AFTER: Duration = Duration::from_secs(40);
/// Without any sign of life for so long a socket ends.
const SILENCE: Duration = Duration::from_secs(90);
/// A credential that was not looked at for so long is: what took it away may not have been heard of here.
const CHECKED_AFTER: Duration = Duration::from_secs(40);
/// How long a peer may hold a socket before its first message.
const FIRST_MESSAGE_TIME: Duration = Duration::from_secs(60);

/// Why a socket has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// There is no sign of life.
    Silent,
    /// No message came.
    NeverSpoke,
}

/// When something last happened on a socket, in milliseconds of the registry's own clock, which nobody puts back.
#[derive(Debug)]
pub(super) struct Signs {
    opened: u64,
    heard: AtomicU64,
    tried: AtomicU64,
    checked: AtomicU64,
    has_spoken: AtomicBool,
}

fn since(at: u64, now: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(at))
}

impl Signs {
    pub(super) fn new(now: u64) -> Self {
        Self {
            opened: now,
            heard: AtomicU64::new(now),
            tried: AtomicU64::new(now),
            checked: AtomicU64::new(now),
            has_spoken: AtomicBool::new(false),
        }
    }

    /// The peer gave a sign of life.
    pub(super) fn heard(&self, now: u64) {
        self.heard.store(now, Ordering::Relaxed);
    }

    /// A message came, and by what credential was looked at.
    pub(super) fn spoke(&self, now: u64) {
        self.has_spoken.store(true, Ordering::Relaxed);
        self.checked.store(now, Ordering::Relaxed);
    }

    /// Whether the socket has to end.
    pub(super) fn overdue(&self, now: u64) -> Option<Overdue> {
        if since(self.heard.load(Ordering::Relaxed), now) > SILENCE {
            return Some(Overdue::Silent);
        }
        let has_spoken = self.has_spoken.load(Ordering::Relaxed);
        let is_late = since(self.opened, now) > FIRST_MESSAGE_TIME;
        (is_late && !has_spoken).then_some(Overdue::NeverSpoke)
    }

    /// What is to be done about the socket: whether it ends, whether its peer is tried, and whether its credential is looked at.
    fn look(&self, now: u64) -> (Option<Overdue>, bool, bool) {
        let overdue = self.overdue(now);
        if overdue.is_some() {
            return (overdue, false, false);
        }
        let since = |at| since(at, now);
        let heard = self.heard.load(Ordering::Relaxed);
        // Once for each silence.
        let tried = self.tried.load(Ordering::Relaxed);
        let tries = since(heard) >= TRIED_AFTER && since(tried) >= TRIED_AFTER;
        if tries {
            self.tried.store(now, Ordering::Relaxed);
        }
        let checks = since(self.checked.load(Ordering::Relaxed)) >= CHECKED_AFTER;
        if checks {
            self.checked.store(now, Ordering::Relaxed);
        }
        (None, tries, checks)
    }
}

impl Live {
    /// Sees from now on to sockets on which nothing happens, for as long as anybody holds this registry. Begun once only.
    pub(crate) fn watch(&self) {
        self.0.watch_begun.call_once(|| {
            tokio::spawn(watch(Arc::downgrade(&self.0)));
        });
    }
}

async fn watch(registry: Weak<Inner>) {
    let mut timer = tokio::time::interval(WATCH_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let Some(registry) = registry.upgrade() else {
            return;
        };
        let now = registry.millis();
        for socket in &registry.sockets {
            look(&socket, now);
        }
    }
}

fn look(socket: &Socket, now: u64) {
    let (overdue, tries, checks) = socket.signs.look(now);
    if overdue.is_none() && !tries && !checks {
        return;
    }
    let mut wishes = socket.wishes.lock().unwrap_or_else(PoisonError::into_inner);
    wishes.overdue |= overdue.is_some();
    wishes.probe |= tries;
    wishes.check |= checks;
    drop(wishes);
    socket.wake.notify_one();
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000;

    #[test]
    fn who_is_heard_every_half_minute_is_left_alone() {
        let signs = Signs::new(0);
        for second in 1..600 {
            if second % 30 == 0 {
                signs.heard(second * SECOND);
                signs.spoke(second * SECOND);
            }
            assert_eq!(
                signs.look(second * SECOND),
                (None, false, false),
                "{second}"
            );
        }
    }

    #[test]
    fn who_says_nothing_is_tried_once_and_then_given_up() {
        let signs = Signs::new(0);
        signs.heard(SECOND);
        signs.spoke(SECOND);
        let mut tried = Vec::new();
        let mut end = None;
        for second in 1..200 {
            let (overdue, tries, _) = signs.look(second * SECOND);
            if tries {
                tried.push(second);
            }
            if overdue.is_some() {
                end = Some((second, overdue));
                break;
            }
        }
        assert_eq!(
            (tried, end),
            (vec![41, 81], Some((92, Some(Overdue::Silent))))
        );
    }

    #[test]
    fn who_only_answers_pings_is_looked_at_and_has_to_speak_at_first() {
        let signs = Signs::new(0);
        signs.heard(30 * SECOND);
        assert_eq!(signs.look(41 * SECOND), (None, false, true));
        signs.heard(59 * SECOND);
        assert_eq!(signs.look(60 * SECOND), (None, false, false));
        assert_eq!(signs.look(61 * SECOND).0, Some(Overdue::NeverSpoke));
        signs.spoke(61 * SECOND);
        assert_eq!(signs.look(62 * SECOND), (None, false, false));
    }
}
