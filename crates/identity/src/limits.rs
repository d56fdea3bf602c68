//! How often somebody may try to log in, per account and per address.
//!
//! One limit for the whole server would let one attacker lock everybody out. Counts live in memory, bounded; each replica
//! counts by itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::ClientAddress;

use crate::{UserId, secret};

/// Tries per account before it has to wait.
const ACCOUNT_BURST: f64 = 10.0;
/// After that, one try per account and so long.
const ACCOUNT_REFILL: Duration = Duration::from_secs(6);
/// Tries per address before it has to wait; several people may share one.
const ADDRESS_BURST: f64 = 30.0;
/// After that, one try per address and so long.
const ADDRESS_REFILL: Duration = Duration::from_secs(2);
/// Tries of a second factor's codes per account before it has to wait.
const CODE_BURST: f64 = 5.0;
/// After that, one try per account and so long: of a million codes three are right at a time, so that whoever has the
/// password guesses one within a day once in two hundred days.
const CODE_REFILL: Duration = Duration::from_secs(60);
/// How many accounts and addresses are remembered each; when there are more, those go first that were tried least
/// lately.
const MAX_KEYS: usize = 10_000;
/// What is left when there were too many, so that not every further one looks through all.
const KEPT_KEYS: usize = MAX_KEYS * 9 / 10;

/// Has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    /// How long, in whole seconds.
    pub seconds: u32,
}

/// Counts tries to log in.
#[derive(Debug)]
pub struct LoginLimits {
    accounts: Limiter,
    addresses: Limiter,
}

impl Default for LoginLimits {
    fn default() -> Self {
        Self {
            accounts: Limiter::new(ACCOUNT_BURST, ACCOUNT_REFILL),
            addresses: Limiter::new(ADDRESS_BURST, ADDRESS_REFILL),
        }
    }
}

impl LoginLimits {
    /// Counts a try, or says how long to wait. The right password is refused too while it lasts: else the answer would
    /// tell it.
    pub fn attempt(
        &self,
        email: &str,
        address: ClientAddress,
        now: Timestamp,
    ) -> Result<(), TooMany> {
        self.addresses.attempt(&address.subscriber(), now)?;
        self.accounts.attempt(email.as_bytes(), now)
    }
}

/// Counts what a user whose password or session is known already may still try: either may be stolen.
#[derive(Debug)]
pub(crate) struct UserLimit(Limiter);

impl UserLimit {
    /// For codes of a second factor.
    pub(crate) fn codes() -> Self {
        Self(Limiter::new(CODE_BURST, CODE_REFILL))
    }

    /// For the user's own password.
    pub(crate) fn passwords() -> Self {
        Self(Limiter::new(ACCOUNT_BURST, ACCOUNT_REFILL))
    }

    /// Counts a try, or says how long to wait.
    pub(crate) fn attempt(&self, user: UserId, now: Timestamp) -> Result<(), TooMany> {
        self.0.attempt(&user.0.to_le_bytes(), now)
    }
}

#[derive(Debug)]
struct Limiter {
    burst: f64,
    refill: Duration,
    /// By the hash of the key: what somebody types as an address may be long.
    buckets: Mutex<HashMap<[u8; 32], Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Timestamp,
}

impl Limiter {
    fn new(burst: f64, refill: Duration) -> Self {
        Self {
            burst,
            refill,
            buckets: Mutex::default(),
        }
    }

    fn refilled(&self, bucket: Bucket, now: Timestamp) -> f64 {
        (bucket.left + now.since(bucket.at).as_secs_f64() / self.refill.as_secs_f64())
            .min(self.burst)
    }

    fn attempt(&self, key: &[u8], now: Timestamp) -> Result<(), TooMany> {
        let key = secret::digest(key);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_KEYS && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| self.refilled(*bucket, now) < self.burst);
            if buckets.len() > KEPT_KEYS {
                let mut tried: Vec<Timestamp> = buckets.values().map(|bucket| bucket.at).collect();
                let excess = tried.len() - KEPT_KEYS;
                let (_, oldest_kept, _) = tried.select_nth_unstable(excess);
                let oldest_kept = *oldest_kept;
                // Of those tried at the same moment some go, too: no more than that.
                let mut left = excess;
                buckets.retain(|_, bucket| {
                    let goes = bucket.at <= oldest_kept && left > 0;
                    left -= usize::from(goes);
                    !goes
                });
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket {
            left: self.burst,
            at: now,
        });
        let left = self.refilled(*bucket, now);
        // A refused try is a try: what is under attack is not forgotten.
        *bucket = Bucket { left, at: now };
        if left < 1.0 {
            let seconds = ((1.0 - left) * self.refill.as_secs_f64()).ceil();
            return Err(TooMany {
                seconds: (seconds as u32).max(1),
            });
        }
        bucket.left = left - 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn address(last: u8) -> ClientAddress {
        ClientAddress(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
    }

    #[test]
    fn an_account_that_is_tried_too_often_waits_and_others_do_not() {
        let limits = LoginLimits::default();
        let now = Timestamp::from_seconds(1_000);
        for last in 0..10 {
            assert_eq!(
                limits.attempt("ann@example.com", address(last), now),
                Ok(())
            );
        }
        let refused = limits
            .attempt("ann@example.com", address(99), now)
            .unwrap_err();
        assert_eq!(refused.seconds, 6);
        assert_eq!(limits.attempt("bob@example.com", address(99), now), Ok(()));
        let later = now.plus(Duration::from_secs(6));
        assert_eq!(
            limits.attempt("ann@example.com", address(99), later),
            Ok(())
        );
    }

    #[test]
    fn an_address_that_tries_many_accounts_waits() {
        let limits = LoginLimits::default();
        let now = Timestamp::from_seconds(1_000);
        for account in 0..30 {
            assert_eq!(
                limits.attempt(&account.to_string(), address(1), now),
                Ok(())
            );
        }
        assert!(limits.attempt("one more", address(1), now).is_err());
        assert_eq!(limits.attempt("one more", address(2), now), Ok(()));
    }

    #[test]
    fn memory_stays_bounded() {
        let limiter = Limiter::new(2.0, Duration::from_secs(1));
        for key in 0..3 * MAX_KEYS {
            let _ = limiter.attempt(&key.to_le_bytes(), Timestamp::EPOCH);
        }
        assert!(limiter.buckets.lock().unwrap().len() <= MAX_KEYS);
    }

    #[test]
    fn a_flood_of_names_does_not_set_an_account_free_that_is_under_attack() {
        let limits = LoginLimits::default();
        let mut now = Timestamp::from_seconds(1_000);
        let mut refused = 0;
        for flood in 0..3 * MAX_KEYS {
            now = now.plus(Duration::from_millis(1));
            let address = ClientAddress(IpAddr::V4(Ipv4Addr::from(flood as u32)));
            let _ = limits.attempt(&flood.to_string(), address, now);
            if flood % 100 == 0 {
                let tried = limits.attempt("ann@example.com", address, now);
                refused += usize::from(tried.is_err());
            }
        }
        // Half a minute allows ten tries at once and five more.
        assert!(refused >= 3 * MAX_KEYS / 100 - 16, "{refused}");
    }

    #[test]
    fn a_subscribers_whole_network_is_one_address() {
        let limits = LoginLimits::default();
        let now = Timestamp::from_seconds(1_000);
        let address = |text: &str| ClientAddress(text.parse().unwrap());
        for host in 0..30 {
            let one = address(&format!("2001:db8:1:2::{host:x}"));
            assert_eq!(limits.attempt(&host.to_string(), one, now), Ok(()));
        }
        let more = address("2001:db8:1:2:ffff::1");
        assert!(limits.attempt("one more", more, now).is_err());
        let neighbour = address("2001:db8:1:3::1");
        assert_eq!(limits.attempt("one more", neighbour, now), Ok(()));
        let mapped = address("::ffff:192.0.2.7");
        assert_eq!(limits.attempt("one more", mapped, now), Ok(()));
    }
}
