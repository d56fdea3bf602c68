//! What is known of agents' keys without asking the database: whose they are, which are refused, and which were used.
//!
//! [`AgentKeys`](crate::AgentKeys) and [`CollectorKeys`](crate::CollectorKeys) decide what a key is worth; this remembers
//! what they decided, by the hash of the key's text, and counts what is to be written later.

use std::hash::Hash;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::one::Ref;
use muster_clock::Timestamp;
use muster_store::{Database, StoreError};

use crate::store::agent_keys as store;
use crate::{Actor, AgentKeyId, DENIED_AGENT, Denial, Denials, RefusedKey};

/// The longest key that is looked at, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 512;
/// How many refused keys are remembered, so that an agent that knocks for ever costs no statement.
const MAX_REFUSED_KEYS: usize = 100_000;
/// How long a refused key is remembered.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// How exact the last use of a key is kept.
const USE_RESOLUTION: Duration = Duration::from_secs(5 * 60);

/// By what a key is remembered: the SHA-256 of its text.
pub(crate) type KeyHash = [u8; 32];

/// A key that is good.
pub(crate) struct Known<V> {
    key_id: AgentKeyId,
    /// What was decided about it.
    pub(crate) value: V,
    /// When the use was last noted, in microseconds.
    noted_at: AtomicI64,
}

/// A key that is refused.
struct Refused {
    at: Timestamp,
    /// Which key it once was, if it ever was one, and why it is not any more.
    was: Option<(AgentKeyId, RefusedKey)>,
    /// Calls since the account was last written.
    calls: AtomicU64,
}

/// The memory of one kind of keys, which belong to owners of one kind.
pub(crate) struct KeyMemory<O, V> {
    known: DashMap<KeyHash, Known<V>>,
    /// Which of them belong to an owner: a fleet that enrolls again forgets owner after owner.
    by_owner: DashMap<O, Vec<KeyHash>>,
    refused: DashMap<KeyHash, Refused>,
    /// Which refused keys are to be looked at again when something of their owner changes.
    refused_by_owner: DashMap<O, Vec<KeyHash>>,
    /// Calls with refused keys that are no longer in `refused`, and are not written yet.
    unwritten: DashMap<AgentKeyId, (RefusedKey, u64)>,
    /// Keys used since the last flush.
    used: DashMap<AgentKeyId, Timestamp>,
    /// Counts what was forgotten, so that a look-up knows whether something was meanwhile: what it read may be old.
    forgotten: AtomicU64,
}

impl<O: Copy + Eq + Hash, V> KeyMemory<O, V> {
    pub(crate) fn new() -> Self {
        Self {
            known: DashMap::new(),
            by_owner: DashMap::new(),
            refused: DashMap::new(),
            refused_by_owner: DashMap::new(),
            unwritten: DashMap::new(),
            used: DashMap::new(),
            forgotten: AtomicU64::new(0),
        }
    }

    /// A key that is known to be good. Let go of it before anything else is done here.
    pub(crate) fn get(&self, hash: &KeyHash) -> Option<Ref<'_, KeyHash, Known<V>>> {
        self.known.get(hash)
    }

    /// Notes that a known key is used, now and then.
    pub(crate) fn note_use(&self, known: &Known<V>, now: Timestamp) {
        let before = known.noted_at.load(Ordering::Relaxed);
        if now.since(Timestamp::from_micros(before)) >= USE_RESOLUTION {
            known.noted_at.store(now.as_micros(), Ordering::Relaxed);
            self.used.insert(known.key_id, now);
        }
    }

    /// Notes that a key is used, whether it is remembered or not.
    pub(crate) fn used(&self, key: AgentKeyId, now: Timestamp) {
        self.used.insert(key, now);
    }

    /// Whether a key was refused a moment ago; the call is counted.
    pub(crate) fn is_refused(&self, hash: &KeyHash, now: Timestamp) -> bool {
        let refused = self.refused.get(hash);
        let refused = refused.filter(|refused| now.since(refused.at) < REFUSED_FOR);
        refused.is_some_and(|refused| {
            refused.calls.fetch_add(1, Ordering::Relaxed);
            true
        })
    }

    /// Where the memory stands before something is read that is to be remembered.
    pub(crate) fn mark(&self) -> u64 {
        self.forgotten.load(Ordering::SeqCst)
    }

    /// Remembers a good key as it was read after a [`mark`](Self::mark) was taken; not when something was forgotten since.
    pub(crate) fn remember(
        &self,
        hash: KeyHash,
        owner: O,
        key_id: AgentKeyId,
        value: V,
        mark: u64,
        now: Timestamp,
    ) {
        self.refused.remove(&hash);
        self.used.insert(key_id, now);
        {
            let mut hashes = self.by_owner.entry(owner).or_default();
            if !hashes.contains(&hash) {
                hashes.push(hash);
            }
        }
        let noted_at = AtomicI64::new(now.as_micros());
        let known = Known {
            key_id,
            value,
            noted_at,
        };
        self.known.insert(hash, known);
        // Whoever forgets counts first: either we see it here, or they see what we inserted.
        if self.mark() != mark {
            self.known.remove(&hash);
        }
    }

    /// Remembers for a while that a key is refused. `owner` is whose change may make it good again.
    pub(crate) fn refuse(
        &self,
        hash: KeyHash,
        was: Option<(AgentKeyId, RefusedKey)>,
        owner: Option<O>,
        mark: u64,
        now: Timestamp,
    ) {
        if self.refused.len() >= MAX_REFUSED_KEYS {
            self.refused.clear();
        }
        if let Some(owner) = owner {
            let mut hashes = self.refused_by_owner.entry(owner).or_default();
            if !hashes.contains(&hash) {
                hashes.push(hash);
            }
        }
        let calls = AtomicU64::new(1);
        let before = self.refused.insert(
            hash,
            Refused {
                at: now,
                was,
                calls,
            },
        );
        // Calls that were not written yet are not forgotten.
        if let (Some(before), Some(refused)) = (before, self.refused.get(&hash)) {
            let calls = before.calls.load(Ordering::Relaxed);
            refused.calls.fetch_add(calls, Ordering::Relaxed);
        }
        if owner.is_some() && self.mark() != mark {
            self.look_again(&hash);
        }
    }

    /// Forgets that a key was refused.
    pub(crate) fn readmit(&self, hash: &KeyHash) {
        self.refused.remove(hash);
    }

    fn look_again(&self, hash: &KeyHash) {
        let Some((_, refused)) = self.refused.remove(hash) else {
            return;
        };
        if let Some((key, reason)) = refused.was {
            let calls = refused.calls.load(Ordering::Relaxed);
            let mut unwritten = self.unwritten.entry(key).or_insert((reason, 0));
            unwritten.1 = unwritten.1.saturating_add(calls);
        }
    }

    pub(crate) fn forget_all(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.by_owner.clear();
        self.known.clear();
        let owners: Vec<O> = self
            .refused_by_owner
            .iter()
            .map(|entry| *entry.key())
            .collect();
        for owner in owners {
            self.look_again_at(owner);
        }
    }

    /// Forgets the keys of an owner: the next use of each is looked up.
    pub(crate) fn forget(&self, owner: O) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        let hashes = self.by_owner.remove(&owner);
        for hash in hashes.into_iter().flat_map(|(_, hashes)| hashes) {
            self.known.remove(&hash);
        }
        self.look_again_at(owner);
    }

    fn look_again_at(&self, owner: O) {
        let hashes = self.refused_by_owner.remove(&owner);
        for hash in hashes.into_iter().flat_map(|(_, hashes)| hashes) {
            self.look_again(&hash);
        }
    }

    /// Lets go of a key that is over, as everybody who asks finds out alike.
    pub(crate) fn let_go(&self, hash: &KeyHash) {
        self.known.remove(hash);
    }

    /// Forgets one key.
    pub(crate) fn forget_key(&self, hash: &KeyHash) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.known.remove(hash);
    }

    /// The keys that are known to be good, to be compared with the database.
    pub(crate) fn all_known<T>(&self, read: impl Fn(&V) -> T) -> Vec<(KeyHash, AgentKeyId, T)> {
        let known = self.known.iter();
        known
            .map(|entry| (*entry.key(), entry.key_id, read(&entry.value)))
            .collect()
    }

    /// Writes the last uses, a batch per statement, and how often refused keys called.
    pub(crate) async fn flush(
        &self,
        database: &Database,
        denials: &Denials,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut db = database;
        let ids: Vec<AgentKeyId> = self.used.iter().map(|entry| *entry.key()).collect();
        for batch in ids.chunks(store::MAX_BATCH) {
            store::mark_all_used(&mut db, batch, now).await?;
            for id in batch {
                self.used.remove(id);
            }
        }
        for (key, reason, calls) in self.take_calls() {
            store::refused(&mut db, key, reason, calls, now).await?;
            let denial = Denial {
                action: DENIED_AGENT,
                actor: Actor::agent(""),
                reason: reason.name(),
                subject_kind: "agent_key",
                subject_id: key.to_string(),
            };
            denials.note_many(denial, calls);
        }
        self.refused
            .retain(|_, refused| now.since(refused.at) < REFUSED_FOR);
        self.refused_by_owner.retain(|_, hashes| {
            hashes.retain(|hash| self.refused.contains_key(hash));
            !hashes.is_empty()
        });
        Ok(())
    }

    /// Calls with refused keys that were not written yet, of some keys.
    fn take_calls(&self) -> Vec<(AgentKeyId, RefusedKey, u64)> {
        let refused = self.refused.iter();
        let mut calls: Vec<_> = refused
            .filter_map(|refused| {
                let (key, reason) = refused.was?;
                Some((key, reason, refused.calls.swap(0, Ordering::Relaxed)))
            })
            .filter(|(_, _, calls)| *calls > 0)
            .take(store::MAX_BATCH)
            .collect();
        let left: Vec<AgentKeyId> = self.unwritten.iter().map(|entry| *entry.key()).collect();
        for key in left.into_iter().take(store::MAX_BATCH) {
            let taken = self.unwritten.remove(&key);
            calls.extend(taken.map(|(key, (reason, calls))| (key, reason, calls)));
        }
        calls
    }
}
