//! Whose key it is, from memory.

use std::sync::atomic::Ordering;
use std::time::Duration;

use muster_bus::Received;
use muster_clock::Timestamp;
use muster_http::ClientAddress;
use muster_store::StoreError;

use super::{COLLECTOR_KEYS_TOPIC, CollectorKeys, KeyHolder, KeyState, PresentedKey};
use crate::key_memory::MAX_KEY_BYTES;
use crate::store::agent_keys::MAX_COMPARED;
use crate::store::collector_keys as store;
use crate::{AgentAuthError, AgentKeyId, CollectorId, SecretHash, TeamId};

/// How long keys that nobody used in time are kept, for operators to look at.
const UNUSED_KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// By how much of its lifetime, at most, a key is renewed before it is over, in parts: not all that were made on one day are
/// renewed on one.
const JITTER_PART: u64 = 10;

/// What is remembered of a key that is good.
#[derive(Debug, Clone, Copy)]
pub(super) struct CollectorsKey {
    key_id: AgentKeyId,
    collector_id: CollectorId,
    team_id: Option<TeamId>,
    dates: store::Dates,
    /// From when on it is to be renewed, because somebody wants it or for its age.
    due_at: Option<Timestamp>,
}

impl CollectorsKey {
    /// None when it is good no more.
    fn presented(
        &self,
        hash: [u8; 32],
        is_first_use: bool,
        now: Timestamp,
    ) -> Option<PresentedKey> {
        let state = self.dates.state(now);
        if !matches!(state, KeyState::Active | KeyState::Superseded) {
            return None;
        }
        Some(PresentedKey {
            key_id: self.key_id,
            holder: KeyHolder::Collector(self.collector_id),
            state,
            is_first_use,
            is_rotation_due: state == KeyState::Active && self.due_at.is_some_and(|at| at <= now),
            team_id: self.team_id,
            secret: SecretHash(hash),
        })
    }
}

impl CollectorKeys {
    /// Tells whose key it is; from memory, but for the first time that it is seen. The first use of a key that was offered
    /// makes it active. `address` is where the agent is, for the log of changes.
    pub async fn authenticate(
        &self,
        key: &str,
        address: ClientAddress,
    ) -> Result<PresentedKey, AgentAuthError> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(AgentAuthError::Unknown);
        }
        self.check(SecretHash::of(key), address).await
    }

    /// The same for a later message on a connection, by [`PresentedKey::secret`].
    pub async fn check(
        &self,
        SecretHash(hash): SecretHash,
        address: ClientAddress,
    ) -> Result<PresentedKey, AgentAuthError> {
        let (now, memory) = (self.0.context.now(), &self.0.memory);
        let known = memory.get(&hash).and_then(|known| {
            let presented = known.value.presented(hash, false, now)?;
            memory.note_use(&known, now);
            Some(presented)
        });
        if let Some(presented) = known {
            return Ok(presented);
        }
        if memory.is_refused(&hash, now) {
            return Err(AgentAuthError::Unknown);
        }
        self.look_up(hash, address, now).await
    }

    async fn look_up(
        &self,
        hash: [u8; 32],
        address: ClientAddress,
        now: Timestamp,
    ) -> Result<PresentedKey, AgentAuthError> {
        let (context, memory) = (&self.0.context, &self.0.memory);
        let mut is_first_use = false;
        loop {
            let mark = memory.mark();
            let found = store::find(&mut &context.database, &hash).await;
            let row = found.map_err(AgentAuthError::Unavailable)?;
            let refused = row.as_ref().map(|row| row.refused(now));
            let (Some(row), Some(None)) = (&row, refused) else {
                let was = row.as_ref().zip(refused.flatten());
                let was = was.map(|(row, reason)| (row.id, reason));
                let owner = row.as_ref().and_then(|row| row.collector_id);
                memory.let_go(&hash);
                memory.refuse(hash, was, owner, mark, now);
                return Err(AgentAuthError::Unknown);
            };
            let Some(collector_id) = row.collector_id else {
                memory.used(row.id, now);
                return Ok(PresentedKey {
                    key_id: row.id,
                    holder: KeyHolder::Nobody,
                    state: KeyState::Pending,
                    is_first_use: false,
                    is_rotation_due: false,
                    team_id: row.team_id,
                    secret: SecretHash(hash),
                });
            };
            if row.dates.state(now) == KeyState::Pending {
                let used = self.first_use(row.id, collector_id, address).await;
                is_first_use |= used.map_err(AgentAuthError::Unavailable)?;
                // Either way it is pending no more.
                continue;
            }
            let known = CollectorsKey {
                key_id: row.id,
                collector_id,
                team_id: row.team_id,
                dates: row.dates,
                due_at: self.due_at(&hash, &row.dates),
            };
            memory.remember(hash, collector_id, row.id, known, mark, now);
            return known
                .presented(hash, is_first_use, now)
                .ok_or(AgentAuthError::Unknown);
        }
    }

    /// From when on a key is to be renewed.
    fn due_at(&self, hash: &[u8; 32], dates: &store::Dates) -> Option<Timestamp> {
        let by_age = self.0.lifetime.zip(dates.first_used_at);
        let by_age = by_age.map(|(lifetime, since)| {
            let share = u64::from(u16::from_be_bytes([hash[0], hash[1]]));
            let most = lifetime.as_secs() / JITTER_PART;
            let early = most.saturating_mul(share) / u64::from(u16::MAX);
            since.plus(lifetime.saturating_sub(Duration::from_secs(early)))
        });
        by_age.into_iter().chain(dates.due_at).min()
    }

    /// Forgets the keys of a collector that are in memory here: the next use of each is looked up.
    pub fn forget_collector(&self, collector: CollectorId) {
        self.0.memory.forget(collector);
    }

    /// Follows a hint from this or another replica.
    pub(crate) fn follow(&self, received: &Received) {
        match received {
            Received::Hint(hint) if hint.topic == COLLECTOR_KEYS_TOPIC => match hint.key.parse() {
                Ok(id) => self.forget_collector(CollectorId(id)),
                Err(_) => self.0.is_to_compare.store(true, Ordering::Relaxed),
            },
            Received::Hint(_) => {}
            Received::Missed => self.0.memory.forget_all(),
        }
    }

    /// Compares if a hint asked for it.
    pub(crate) async fn reconcile_if_asked(&self) -> Result<(), StoreError> {
        if self.0.is_to_compare.swap(false, Ordering::Relaxed) {
            self.reconcile().await?;
        }
        Ok(())
    }

    /// Compares the keys in memory with the database and forgets those that are not as they are there, in case a hint about
    /// them was lost. One statement for some thousand keys.
    pub async fn reconcile(&self) -> Result<(), StoreError> {
        let memory = &self.0.memory;
        let known = memory.all_known(|key| (key.dates, key.team_id));
        for batch in known.chunks(MAX_COMPARED) {
            let ids: Vec<AgentKeyId> = batch.iter().map(|(_, id, _)| *id).collect();
            let standing = store::standing(&mut &self.0.context.database, &ids).await?;
            for (hash, id, known) in batch {
                if standing.get(id) != Some(known) {
                    memory.forget_key(hash);
                }
            }
        }
        Ok(())
    }

    /// Deletes keys that nobody used in time, long after, and what is kept for collectors that have no keys any more.
    pub(crate) async fn purge(&self) -> Result<u64, StoreError> {
        let context = &self.0.context;
        let before = context.now().minus(UNUSED_KEPT_FOR);
        let db = &mut &context.database;
        let unused = store::purge_unused(db, before).await?;
        Ok(unused + store::purge_holders(db).await?)
    }

    /// Writes the last uses, and how often refused keys called.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let context = &self.0.context;
        let (memory, denials) = (&self.0.memory, &self.0.denials);
        memory
            .flush(&context.database, denials, context.now())
            .await
    }
}
