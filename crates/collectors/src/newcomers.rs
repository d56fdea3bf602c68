//! How many new agents come by one token from one address: a token that leaked must not fill the database.
//!
//! It is counted per address, since whoever has the token could keep everybody else out if it were counted per token alone.
//! Counts live in memory and are bounded; each server counts by itself, and one that is started begins anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::ClientAddress;
use muster_identity::EnrollmentTokenId;

use crate::limits::MAX_NEWCOMERS;
use crate::pace::Pace;

/// The time for which the number is.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How many pairs are kept when there were too many, so that not every further one looks through all.
const KEPT: usize = MAX_NEWCOMERS * 9 / 10;

type Source = (EnrollmentTokenId, Vec<u8>);

/// Counts new agents.
pub(crate) struct Newcomers {
    per_day: u32,
    paces: Mutex<HashMap<Source, Pace>>,
}

impl Newcomers {
    /// So many a day by one token from one address.
    pub(crate) fn new(per_day: u32) -> Self {
        Self {
            per_day: per_day.max(1),
            paces: Mutex::default(),
        }
    }

    fn every(&self) -> Duration {
        DAY / self.per_day
    }

    fn paces(&self) -> std::sync::MutexGuard<'_, HashMap<Source, Pace>> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a new agent; false when there were too many.
    pub(crate) fn admits(
        &self,
        token: EnrollmentTokenId,
        address: ClientAddress,
        now: Timestamp,
    ) -> bool {
        let source = (token, address.subscriber());
        let mut paces = self.paces();
        if paces.len() >= MAX_NEWCOMERS && !paces.contains_key(&source) {
            make_room(&mut paces, now);
        }
        let pace = paces.entry(source).or_insert_with(|| Pace::new(now));
        pace.admits(now, self.every(), self.per_day)
    }

    /// One that was counted came to nothing, such as while the database is away.
    pub(crate) fn put_back(&self, token: EnrollmentTokenId, address: ClientAddress) {
        if let Some(pace) = self.paces().get_mut(&(token, address.subscriber())) {
            pace.put_back(self.every());
        }
    }

    /// Forgets those of whom nothing is left to count.
    pub(crate) fn forget_even(&self, now: Timestamp) {
        self.paces().retain(|_, pace| !pace.is_even(now));
    }
}

/// Whoever has used least goes first: a flood of addresses does not set anybody free.
fn make_room(paces: &mut HashMap<Source, Pace>, now: Timestamp) {
    paces.retain(|_, pace| !pace.is_even(now));
    if paces.len() <= KEPT {
        return;
    }
    let mut dues: Vec<Timestamp> = paces.values().map(|pace| pace.due()).collect();
    let mut excess = dues.len() - KEPT;
    let (_, oldest_kept, _) = dues.select_nth_unstable(excess);
    let oldest_kept = *oldest_kept;
    paces.retain(|_, pace| {
        let goes = pace.due() <= oldest_kept && excess > 0;
        excess -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_000_000);
    const TOKEN: EnrollmentTokenId = EnrollmentTokenId(1);

    fn address(number: u32) -> ClientAddress {
        ClientAddress(std::net::Ipv4Addr::from(number).into())
    }

    #[test]
    fn a_whole_fleet_may_come_at_once_by_one_gateway_and_a_flood_may_not() {
        let newcomers = Newcomers::new(crate::DEFAULT_NEW_PER_DAY);
        let admitted = (0..60_000).filter(|_| newcomers.admits(TOKEN, address(1), NOW));
        assert_eq!(admitted.count(), 50_000);
        assert!(newcomers.admits(TOKEN, address(2), NOW), "from elsewhere");
        let other = EnrollmentTokenId(2);
        assert!(newcomers.admits(other, address(1), NOW), "by another token");
        // A day is as long as the burst: 1,000 are there again after a fiftieth of it.
        let later = NOW.plus(DAY / 50);
        let admitted = (0..2_000).filter(|_| newcomers.admits(TOKEN, address(1), later));
        assert_eq!(admitted.count(), 1_000);
    }

    #[test]
    fn what_came_to_nothing_is_not_counted() {
        let newcomers = Newcomers::new(3);
        for _ in 0..100 {
            assert!(newcomers.admits(TOKEN, address(1), NOW));
            newcomers.put_back(TOKEN, address(1));
        }
    }

    #[test]
    fn memory_stays_bounded_and_a_flood_of_addresses_sets_nobody_free() {
        let newcomers = Newcomers::new(3);
        for _ in 0..3 {
            assert!(newcomers.admits(TOKEN, address(1), NOW));
        }
        for number in 2..3 * MAX_NEWCOMERS as u32 {
            newcomers.admits(TOKEN, address(number), NOW);
        }
        assert!(newcomers.paces().len() <= MAX_NEWCOMERS);
        assert!(!newcomers.admits(TOKEN, address(1), NOW));
        newcomers.forget_even(NOW.plus(DAY));
        assert!(newcomers.paces().is_empty());
    }
}
