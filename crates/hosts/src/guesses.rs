//! Who guesses device tokens, and is told to wait.
//!
//! A wrong token is nothing special: orbit asks with each new one before it registers it, and a desktop app asks with an
//! expired one until it learns of the next. So what counts is how many *different* wrong tokens an address shows within a
//! minute without a right one in between. A program that repeats itself guesses nothing, and where many hosts share an
//! address, those with good tokens keep the others from adding up.
//!
//! Memory of this process only: a guesser that is sent to several servers has as many tries at each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::ClientAddress;

/// How many different wrong tokens in a row get an address banned.
pub(crate) const MAX_WRONG_TOKENS: u32 = 1_000;
/// Within what time they have to come.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// How long a ban lasts.
pub(crate) const BAN: Duration = Duration::from_secs(60);
/// How many of the newest wrong tokens of an address are told from new ones.
const REMEMBERED_TOKENS: usize = 8;
/// How many addresses are counted, some 150 bytes each; when there are more, those go that failed least.
const MAX_ADDRESSES: usize = 10_000;
/// What is left when there were too many, so that not every further one looks through all.
const KEPT_ADDRESSES: usize = MAX_ADDRESSES * 9 / 10;

/// The first bytes of a token's hash: enough to know it again for a minute.
type Mark = u64;

#[derive(Debug)]
struct Failures {
    since: Timestamp,
    count: u32,
    recent: [Mark; REMEMBERED_TOKENS],
    banned_at: Option<Timestamp>,
}

impl Failures {
    fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            count: 0,
            recent: [0; REMEMBERED_TOKENS],
            banned_at: None,
        }
    }

    /// How much of the ban is left. A clock that went back ends it.
    fn ban_left(&self, now: Timestamp) -> Option<Duration> {
        let at = self.banned_at.filter(|at| now >= *at)?;
        BAN.checked_sub(now.since(at))
            .filter(|left| !left.is_zero())
    }

    fn is_over(&self, now: Timestamp) -> bool {
        let is_old = now < self.since || now.since(self.since) >= WINDOW;
        is_old && self.ban_left(now).is_none()
    }
}

/// Counts wrong device tokens by address.
#[derive(Debug, Default)]
pub(crate) struct Guesses(Mutex<HashMap<Vec<u8>, Failures>>);

impl Guesses {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, Failures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many seconds an address has to wait, if it is banned.
    pub(crate) fn banned(&self, address: ClientAddress, now: Timestamp) -> Option<u32> {
        let failures = self.lock();
        let left = failures.get(&address.subscriber())?.ban_left(now)?;
        Some((left.as_secs_f64().ceil() as u32).max(1))
    }

    /// A token was right: what came before was no guessing.
    pub(crate) fn succeeded(&self, address: ClientAddress) {
        self.lock().remove(&address.subscriber());
    }

    /// A token was certainly wrong. Gives whether the address is banned for it from now on.
    pub(crate) fn failed(
        &self,
        address: ClientAddress,
        token_hash: &[u8; 32],
        now: Timestamp,
    ) -> bool {
        let key = address.subscriber();
        let mut all = self.lock();
        make_room(&mut all, &key, now);
        let failures = all.entry(key).or_insert_with(|| Failures::new(now));
        if failures.ban_left(now).is_some() {
            return false;
        }
        if failures.banned_at.is_some() || failures.is_over(now) {
            *failures = Failures::new(now);
        }
        let first = token_hash.first_chunk().copied().unwrap_or_default();
        let mark = Mark::from_le_bytes(first);
        if failures.recent.contains(&mark) {
            return false;
        }
        failures.recent[failures.count as usize % REMEMBERED_TOKENS] = mark;
        failures.count += 1;
        if failures.count < MAX_WRONG_TOKENS {
            return false;
        }
        failures.banned_at = Some(now);
        true
    }
}

/// Forgets what is over, and when that is not enough whoever failed least.
fn make_room(all: &mut HashMap<Vec<u8>, Failures>, key: &[u8], now: Timestamp) {
    if all.len() < MAX_ADDRESSES || all.contains_key(key) {
        return;
    }
    all.retain(|_, failures| !failures.is_over(now));
    let Some(excess) = all.len().checked_sub(KEPT_ADDRESSES).filter(|n| *n > 0) else {
        return;
    };
    let mut counts: Vec<u32> = all.values().map(|failures| failures.count).collect();
    let (_, fewest_kept, _) = counts.select_nth_unstable(excess);
    let fewest_kept = *fewest_kept;
    // Of those that failed equally often some go, too: no more than that.
    let mut left = excess;
    all.retain(|_, failures| {
        let goes = failures.count <= fewest_kept && left > 0;
        left -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_000);

    fn address(number: u32) -> ClientAddress {
        ClientAddress(IpAddr::V4(Ipv4Addr::from(number)))
    }

    fn token(number: u32) -> [u8; 32] {
        muster_identity::hash_secret(&number.to_string())
    }

    /// So many different wrong tokens; gives after how many the address was banned.
    fn guess(guesses: &Guesses, count: u32, now: Timestamp) -> Option<u32> {
        (1..=count).find(|number| guesses.failed(address(1), &token(*number), now))
    }

    #[test]
    fn a_thousand_different_wrong_tokens_ban_an_address_for_a_minute_and_no_other() {
        let guesses = Guesses::default();
        assert_eq!(guess(&guesses, 2_000, NOW), Some(1_000));
        assert_eq!(guesses.banned(address(1), NOW), Some(60));
        assert_eq!(guesses.banned(address(2), NOW), None);
        let late = NOW.plus(Duration::from_millis(59_100));
        assert_eq!(guesses.banned(address(1), late), Some(1));
        let after = NOW.plus(BAN);
        assert_eq!(guesses.banned(address(1), after), None);
        assert_eq!(guess(&guesses, 999, after), None, "it counts anew");
    }

    #[test]
    fn a_right_token_in_between_and_a_minute_begin_anew() {
        let guesses = Guesses::default();
        assert_eq!(guess(&guesses, 999, NOW), None);
        guesses.succeeded(address(1));
        assert_eq!(guess(&guesses, 999, NOW), None);
        assert_eq!(guess(&guesses, 999, NOW.plus(WINDOW)), None);
        assert_eq!(guesses.banned(address(1), NOW), None);
    }

    #[test]
    fn who_repeats_some_wrong_tokens_guesses_nothing() {
        let guesses = Guesses::default();
        for round in 0..10_000 {
            assert!(
                !guesses.failed(address(1), &token(round % 8), NOW),
                "{round}"
            );
        }
    }

    #[test]
    fn a_clock_that_goes_back_ends_a_ban() {
        let guesses = Guesses::default();
        assert_eq!(guess(&guesses, 1_000, NOW), Some(1_000));
        let before = NOW.minus(Duration::from_secs(3_600));
        assert_eq!(guesses.banned(address(1), before), None);
        assert_eq!(guess(&guesses, 999, before), None);
    }

    #[test]
    fn memory_stays_bounded_and_whoever_guesses_is_not_forgotten_for_a_flood() {
        let guesses = Guesses::default();
        assert_eq!(guess(&guesses, 500, NOW), None);
        for number in 0..3 * MAX_ADDRESSES as u32 {
            guesses.failed(address(1_000 + number), &token(1), NOW);
        }
        assert!(guesses.lock().len() <= MAX_ADDRESSES);
        let more = (501..=1_000).find(|number| guesses.failed(address(1), &token(*number), NOW));
        assert_eq!(more, Some(1_000));
    }
}
