//! The hosts that checked in, in memory.
//!
//! Sharded, so that check-ins do not wait for each other. A host is loaded by one statement at its first check-in and
//! dropped when a hint says that it changed. A load that began before a hint came is not kept: what it read may be old.
//! Hints may be lost, so hosts are also compared with the database on a timer.
//! One entry takes about a kilobyte, and there is at most one per enrolled host.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use muster_clock::Timestamp;
use muster_identity::HostId;
use muster_store::{Database, StoreError};

use crate::membership::Labels;
use crate::state::HostState;
use crate::store;

/// How many independent maps there are.
const SHARDS: usize = 64;
/// Every how many comparisons the labels of a host are compared, too: that reads a row per membership.
const LABEL_ROUNDS: usize = 8;
/// How long details and labels stay fresh.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How far that varies from host to host, up and down, so that hosts which enrolled together drift apart.
const REFRESH_JITTER: Duration = Duration::from_secs(6 * 60);
/// After a start, hosts that became overdue while the server was away are asked within this time, not all at once.
const CATCH_UP: Duration = Duration::from_secs(10 * 60);

#[derive(Debug, Default)]
struct Shard {
    hosts: HashMap<HostId, Arc<HostState>>,
    /// Counts the drops, so that a load knows whether one happened meanwhile.
    drops: u64,
}

/// Hosts by id.
#[derive(Debug)]
pub(crate) struct HostCache {
    shards: Vec<RwLock<Shard>>,
    started_at: Timestamp,
    /// Counts the comparisons with the database.
    rounds: AtomicUsize,
}

impl HostCache {
    pub(crate) fn new(started_at: Timestamp) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            started_at,
            rounds: AtomicUsize::new(0),
        }
    }

    fn shard(&self, host: HostId) -> &RwLock<Shard> {
        &self.shards[spread(host) as usize % SHARDS]
    }

    /// A host that is in memory.
    pub(crate) fn get(&self, host: HostId) -> Option<Arc<HostState>> {
        let shard = self
            .shard(host)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        shard.hosts.get(&host).cloned()
    }

    /// A host from memory, else from the database; none when it does not exist.
    pub(crate) async fn load(
        &self,
        database: &Database,
        labels: &Labels,
        host: HostId,
    ) -> Result<Option<Arc<HostState>>, StoreError> {
        let drops = {
            let shard = self
                .shard(host)
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(state) = shard.hosts.get(&host) {
                return Ok(Some(Arc::clone(state)));
            }
            shard.drops
        };
        let evaluated = labels.evaluated();
        let Some(loaded) = store::host::load_state(&mut &*database, host).await? else {
            return Ok(None);
        };
        let state = Arc::new(HostState::new(host, loaded.profile));
        state.set_detail_due_at(self.due_after_start(host, loaded.detail_updated_at));
        state.set_refetch_requested(loaded.refetch_requested);
        state.set_labels_evaluated(
            evaluated.at(loaded.label_updated_at),
            self.due_after_start(host, loaded.label_updated_at),
        );
        state.set_said(loaded.capabilities);
        let mut shard = self
            .shard(host)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if shard.drops == drops {
            let entry = shard.hosts.entry(host).or_insert(state);
            return Ok(Some(Arc::clone(entry)));
        }
        Ok(Some(state))
    }

    /// Forgets a host: its next check-in reads it anew.
    pub(crate) fn drop_host(&self, host: HostId) {
        let mut shard = self
            .shard(host)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        shard.hosts.remove(&host);
        shard.drops += 1;
    }

    /// Forgets all hosts.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.hosts.clear();
            shard.drops += 1;
        }
    }

    /// Compares what is in memory with the database and forgets the hosts that differ: the team and an operator's wish
    /// for details each time, labels of an eighth of the hosts in turn. Gives those that do not exist any more.
    pub(crate) async fn reconcile(&self, database: &Database) -> Result<Vec<HostId>, StoreError> {
        let round = self.rounds.fetch_add(1, Ordering::Relaxed) % LABEL_ROUNDS;
        let mut gone = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let hosts: Vec<Arc<HostState>> = {
                let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
                shard.hosts.values().cloned().collect()
            };
            let with_labels = number % LABEL_ROUNDS == round;
            for batch in hosts.chunks(store::host::MAX_COMPARED) {
                // What changes here while the database is read is at worst read once more.
                let ids: Vec<HostId> = batch.iter().map(|state| state.id()).collect();
                let kept = store::host::compared(&mut &*database, &ids, with_labels).await?;
                for state in batch {
                    let Some(kept) = kept.get(&state.id()) else {
                        gone.push(state.id());
                        self.drop_host(state.id());
                        continue;
                    };
                    let profile = state.profile();
                    let labels = kept.labels.as_ref();
                    if kept.team_id != profile.team_id
                        || !state.knows_refetch(kept.refetch_requested)
                        || labels.is_some_and(|labels| *labels != profile.label_ids)
                    {
                        self.drop_host(state.id());
                    }
                }
            }
        }
        Ok(gone)
    }

    /// When something that was refreshed at `updated` is due again.
    pub(crate) fn due_after(host: HostId, updated: Timestamp) -> Timestamp {
        let jitter_us = REFRESH_JITTER.as_micros() as u64 * 2;
        let shift = Duration::from_micros(spread(host) % (jitter_us + 1));
        updated
            .plus(REFRESH_INTERVAL)
            .minus(REFRESH_JITTER)
            .plus(shift)
    }

    /// The same for a host that is loaded: what became overdue before the start is spread. Never refreshed: at once.
    fn due_after_start(&self, host: HostId, updated: Option<Timestamp>) -> Option<Timestamp> {
        let due = Self::due_after(host, updated?);
        if due >= self.started_at {
            return Some(due);
        }
        // Another part of the same number, so that the two spreads have nothing to do with each other.
        let catch_up_us = CATCH_UP.as_micros() as u64;
        let shift = spread(host).rotate_left(32) % (catch_up_us + 1);
        Some(self.started_at.plus(Duration::from_micros(shift)))
    }
}

/// A number that looks random and is always the same for a host (the finaliser of splitmix64).
fn spread(host: HostId) -> u64 {
    let mut value = (host.0 as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_due_within_a_tenth_of_an_hour_around_the_hour() {
        let updated = Timestamp::from_seconds(1_000_000);
        let due: Vec<i64> = (1..=1_000)
            .map(|id| HostCache::due_after(HostId(id), updated).as_seconds() - 1_000_000)
            .collect();
        assert!(due.iter().all(|seconds| (3_240..=3_960).contains(seconds)));
        let early = due.iter().filter(|seconds| **seconds < 3_600).count();
        assert!((400..600).contains(&early), "{early} of 1000 are early");
    }

    #[test]
    fn what_became_overdue_before_the_start_is_spread_over_ten_minutes() {
        let start = Timestamp::from_seconds(1_000_000);
        let cache = HostCache::new(start);
        let days_ago = Timestamp::from_seconds(100_000);
        let mut minutes = [0; 11];
        for id in 1..=1_000 {
            let due = cache.due_after_start(HostId(id), Some(days_ago)).unwrap();
            minutes[(due.since(start).as_secs() / 60) as usize] += 1;
        }
        assert!(
            minutes[..10].iter().all(|count| (60..140).contains(count)),
            "{minutes:?}"
        );
        // What is not overdue keeps its time, and what never came is asked at once.
        let recent = Timestamp::from_seconds(999_000);
        assert_eq!(
            cache.due_after_start(HostId(1), Some(recent)),
            Some(HostCache::due_after(HostId(1), recent))
        );
        assert_eq!(cache.due_after_start(HostId(1), None), None);
    }
}
