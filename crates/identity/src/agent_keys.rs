//! Keys of enrolled agents: whose is this key, answered on every check-in.
//!
//! A key is a row with its SHA-256. The answer comes from memory; a key that is not there yet is looked up once. When a
//! host enrolls again it gets a new key, and the older ones of the same family stay valid until the new one is first
//! used: an agent that never received the answer is not locked out. Revocations reach other replicas by a hint; what is in
//! memory is also compared with the database on a timer, since hints may be lost.

mod kinds;
mod refused;

pub use kinds::{AgentAuthError, AgentIdentity, AgentKeyInfo, Family, IssuedKey};
pub use refused::{RefusedAgent, RefusedKey};

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use muster_bus::{Received, Subscription, Topic};
use muster_clock::Timestamp;
use muster_http::ClientAddress;
use muster_store::{Executor, StoreError};

use crate::enrollment_tokens::is_admitted_from;
use crate::service::Context;
use crate::store::agent_keys as store;
pub use crate::store::agent_keys::HostKey;
use crate::store::tokens;
use crate::{Actor, AgentKeyId, DENIED_AGENT, Denial, Denials, EnrollmentTokenId, HostId, secret};

/// Hints that keys of a host changed; the key is the host's id.
pub const AGENT_KEYS_TOPIC: Topic = Topic::new("identity.agent_keys");
/// How many refused keys are remembered, so that a host that knocks for ever costs no statement.
const MAX_REFUSED_KEYS: usize = 100_000;
/// How long a refused key is remembered.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// How exact the last use of a key is kept.
const USE_RESOLUTION: Duration = Duration::from_secs(5 * 60);
/// How long keys that ended are kept, for operators to look at. A key ends when its successor is first used.
const ENDED_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// An older key that is used so long after a newer one of another installation was first used shows that there are two
/// machines. Before that it may be a request that was under way.
const RIVAL_AFTER: Duration = Duration::from_secs(15);
/// A key that was not used for so long after another installation took its place ends: the machine was set up anew.
const RIVALS_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// An agent whose key is to be renewed is told so once in this time; meanwhile the old key is good.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(10 * 60);
/// The longest key that is looked at, in bytes.
const MAX_KEY_BYTES: usize = 512;

/// A key that is refused.
struct Refused {
    at: Timestamp,
    /// Which key it once was, if it ever was one, and why it is not any more.
    was: Option<(AgentKeyId, RefusedKey)>,
    /// Calls since the account was last written.
    calls: AtomicU64,
}

struct Known {
    identity: AgentIdentity,
    family: Family,
    /// When the use was last noted, in microseconds.
    noted_at: AtomicI64,
}

struct Inner {
    context: Arc<Context>,
    denials: Denials,
    known: DashMap<[u8; 32], Known>,
    /// Which of them belong to a host: a fleet that enrolls again forgets host after host.
    by_host: DashMap<HostId, Vec<[u8; 32]>>,
    refused: DashMap<[u8; 32], Refused>,
    /// Keys used since the last flush.
    used: DashMap<AgentKeyId, Timestamp>,
    /// Counts what was forgotten, so that a look-up knows whether something was meanwhile: what it read may be old.
    forgotten: AtomicU64,
}

/// Keys of enrolled agents.
#[derive(Clone)]
pub struct AgentKeys(Arc<Inner>);

impl AgentKeys {
    pub(crate) fn new(context: Arc<Context>, denials: Denials) -> Self {
        let (known, refused, used) = (DashMap::new(), DashMap::new(), DashMap::new());
        Self(Arc::new(Inner {
            context,
            denials,
            known,
            by_host: DashMap::new(),
            refused,
            used,
            forgotten: AtomicU64::new(0),
        }))
    }

    /// Tells whose key it is. From memory, but for the first time that a key is seen.
    pub async fn authenticate(
        &self,
        key: &str,
        family: Family,
    ) -> Result<AgentIdentity, AgentAuthError> {
        self.authenticate_from(key, family, None).await
    }

    /// The same for an exchange on which an agent can be told to enroll again, by the address that it has now.
    pub async fn authenticate_from(
        &self,
        key: &str,
        family: Family,
        address: Option<ClientAddress>,
    ) -> Result<AgentIdentity, AgentAuthError> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(AgentAuthError::Unknown);
        }
        let hash = secret::hash(key);
        let now = self.0.context.now();
        if let Some(known) = self.0.known.get(&hash) {
            if known.family != family {
                return Err(AgentAuthError::Unknown);
            }
            self.note_use(&known, now);
            return Ok(known.identity);
        }
        if let Some(refused) = self.0.refused.get(&hash)
            && now.since(refused.at) < REFUSED_FOR
        {
            refused.calls.fetch_add(1, Ordering::Relaxed);
            return Err(AgentAuthError::Unknown);
        }
        self.look_up(hash, family, address, now).await
    }

    fn note_use(&self, known: &Known, now: Timestamp) {
        let before = known.noted_at.load(Ordering::Relaxed);
        if now.since(Timestamp::from_micros(before)) >= USE_RESOLUTION {
            known.noted_at.store(now.as_micros(), Ordering::Relaxed);
            self.0.used.insert(known.identity.key_id, now);
        }
    }

    async fn look_up(
        &self,
        hash: [u8; 32],
        family: Family,
        address: Option<ClientAddress>,
        now: Timestamp,
    ) -> Result<AgentIdentity, AgentAuthError> {
        let context = &self.0.context;
        let mut forgotten = self.0.forgotten.load(Ordering::SeqCst);
        let found = store::find(&mut &context.database, &hash).await;
        let found = found.map_err(AgentAuthError::Unavailable)?;
        let row = match found {
            Some(row) if row.refused.is_none() => row,
            other => {
                self.refuse(
                    hash,
                    other.and_then(|row| Some((row.id, row.refused?))),
                    now,
                );
                return Err(AgentAuthError::Unknown);
            }
        };
        let identity = AgentIdentity {
            host_id: row.host_id,
            key_id: row.id,
            has_rival: row
                .rival_since
                .is_some_and(|since| now.since(since) >= RIVAL_AFTER),
        };
        if row.family != family {
            return Err(AgentAuthError::Unknown);
        }
        if !row.was_used {
            let ended = self.first_use(&identity, family, &row.instance, now).await;
            if ended.map_err(AgentAuthError::Unavailable)? {
                forgotten += 1;
            }
        }
        if self.is_to_be_told(&row, address, now).await? {
            return Err(AgentAuthError::Unknown);
        }
        self.0.refused.remove(&hash);
        if row.rival_since.is_some() || row.rotate_at.is_some() {
            // Not for long: until then each use is looked up, and counts.
            self.0.used.insert(identity.key_id, now);
            return Ok(identity);
        }
        let known = Known {
            identity,
            family,
            noted_at: AtomicI64::new(now.as_micros()),
        };
        self.0.used.insert(identity.key_id, now);
        {
            let mut hashes = self.0.by_host.entry(identity.host_id).or_default();
            if !hashes.contains(&hash) {
                hashes.push(hash);
            }
        }
        self.0.known.insert(hash, known);
        // Whoever forgets counts first: either we see it here, or they see what we inserted.
        if self.0.forgotten.load(Ordering::SeqCst) != forgotten {
            self.0.known.remove(&hash);
        }
        Ok(identity)
    }

    fn refuse(&self, hash: [u8; 32], was: Option<(AgentKeyId, RefusedKey)>, now: Timestamp) {
        if self.0.refused.len() >= MAX_REFUSED_KEYS {
            self.0.refused.clear();
        }
        let calls = AtomicU64::new(1);
        let before = self.0.refused.insert(
            hash,
            Refused {
                at: now,
                was,
                calls,
            },
        );
        // Calls that were not written yet are not forgotten.
        if let (Some(before), Some(refused)) = (before, self.0.refused.get(&hash)) {
            let calls = before.calls.load(Ordering::Relaxed);
            refused.calls.fetch_add(calls, Ordering::Relaxed);
        }
    }

    /// Whether the agent is told to enroll again now: an operator wants its key renewed, it was not told lately, and its
    /// token still admits it from where it is. It would be locked out otherwise.
    async fn is_to_be_told(
        &self,
        row: &store::KeyRow,
        address: Option<ClientAddress>,
        now: Timestamp,
    ) -> Result<bool, AgentAuthError> {
        let was_told = row
            .told_at
            .is_some_and(|told| now.since(told) < TELL_AGAIN_AFTER);
        if row.rotate_at.is_none() || was_told {
            return Ok(false);
        }
        let mut db = &self.0.context.database;
        let networks = tokens::networks_of_key(&mut db, row.id).await;
        let networks = networks.map_err(AgentAuthError::Unavailable)?;
        let is_inside = |address: ClientAddress| is_admitted_from(&networks, address);
        if !networks.is_empty() && !address.is_some_and(is_inside) {
            return Ok(false);
        }
        let told = store::tell(&mut db, row.id, now).await;
        told.map_err(AgentAuthError::Unavailable)
    }

    /// The agent has its new key: the older ones of the same family and installation end, and those of others become
    /// rivals. Gives whether there were any.
    async fn first_use(
        &self,
        identity: &AgentIdentity,
        family: Family,
        instance: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let context = &self.0.context;
        let mut transaction = context.database.begin().await?;
        store::mark_used(&mut transaction, identity.key_id, now).await?;
        let ended = store::supersede_older(
            &mut transaction,
            identity.host_id,
            family,
            identity.key_id,
            instance,
            now,
        )
        .await?;
        transaction.commit().await?;
        if ended > 0 {
            self.forget_host(identity.host_id);
            context.hint(AGENT_KEYS_TOPIC, identity.host_id).await;
        }
        Ok(ended > 0)
    }

    /// Makes a key for a host, in the caller's unit of work. `instance` tells the installation of the agent from others on
    /// machines that look the same; empty when it did not say.
    pub async fn issue(
        &self,
        db: &mut impl Executor,
        host: HostId,
        family: Family,
        token: Option<EnrollmentTokenId>,
        instance: &str,
        now: Timestamp,
    ) -> Result<IssuedKey, StoreError> {
        let text = secret::new_node_key(&*self.0.context.randomness);
        let hash = secret::hash(&text);
        let key_id = store::insert(db, &hash, host, family, token, instance, now).await?;
        Ok(IssuedKey { text, key_id })
    }

    /// Takes away all keys of a host, in the caller's unit of work; call [`revoked`](Self::revoked) after the commit,
    /// whatever came of it: when its answer is lost it may have been kept.
    pub async fn revoke_host(
        &self,
        db: &mut impl Executor,
        host: HostId,
        because: RefusedKey,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        store::revoke_host(db, host, because, now).await
    }

    /// Takes one key away, in the caller's unit of work; call [`revoked`](Self::revoked) after the commit. Gives false when
    /// the host has no such key that is still good.
    pub async fn revoke(
        &self,
        db: &mut impl Executor,
        host: HostId,
        key: AgentKeyId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        store::revoke(db, host, key, now).await
    }

    /// Has a host's key of a family renewed: its agent is told to enroll again, and the old key stays good until the new
    /// one is used. Nothing happens to a key whose enrollment token does not admit any more. Call
    /// [`revoked`](Self::revoked) after the commit. Gives how many keys will be renewed.
    pub async fn rotate(
        &self,
        db: &mut impl Executor,
        host: HostId,
        family: Family,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        store::rotate(db, host, family, now).await
    }

    /// Whether a host has a key of a family that is good.
    pub async fn has_good(
        &self,
        db: &mut impl Executor,
        host: HostId,
        family: Family,
    ) -> Result<bool, StoreError> {
        store::has_good(db, host, family).await
    }

    /// How many keys are to be renewed and are not yet.
    pub async fn waiting(&self) -> Result<u64, StoreError> {
        store::waiting(&mut &self.0.context.database).await
    }

    /// Keys that were given to another installation while an older one of the same family was, and still is, in use.
    pub async fn newer_rivals(
        &self,
        db: &mut impl Executor,
        host: HostId,
    ) -> Result<Vec<HostKey>, StoreError> {
        store::newer_rivals(db, host).await
    }

    /// A key of a host that is still good.
    pub async fn find(
        &self,
        db: &mut impl Executor,
        host: HostId,
        key: AgentKeyId,
    ) -> Result<Option<HostKey>, StoreError> {
        store::find_one(db, host, key).await
    }

    /// Gives keys of one host to another, some or all; call [`revoked`](Self::revoked) for both after the commit.
    pub async fn give(
        &self,
        db: &mut impl Executor,
        from: HostId,
        to: HostId,
        keys: Option<&[AgentKeyId]>,
    ) -> Result<(), StoreError> {
        store::give(db, from, to, keys).await
    }

    /// A page of agents that call with keys which are no longer good, the newest call first, and how many there are.
    pub async fn list_refused(
        &self,
        limit: i64,
        offset: i64,
    ) -> Result<(Vec<RefusedAgent>, u64), StoreError> {
        store::list_refused(&mut &self.0.context.database, limit, offset).await
    }

    /// Tells this and all other replicas that keys of a host changed.
    pub async fn revoked(&self, host: HostId) {
        self.forget_host(host);
        self.0.context.hint(AGENT_KEYS_TOPIC, host).await;
    }

    /// The keys of a host, newest first.
    pub async fn list(&self, host: HostId) -> Result<Vec<AgentKeyInfo>, StoreError> {
        store::list(&mut &self.0.context.database, host).await
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        self.0.context.bus.subscribe()
    }

    /// Follows a hint from this or another replica.
    pub(crate) fn follow(&self, received: &Received) {
        match received {
            Received::Hint(hint) if hint.topic == AGENT_KEYS_TOPIC => match hint.key.parse() {
                Ok(id) => self.forget_host(HostId(id)),
                Err(_) => self.forget_all(),
            },
            Received::Hint(_) => {}
            Received::Missed => self.forget_all(),
        }
    }

    fn forget_all(&self) {
        self.0.forgotten.fetch_add(1, Ordering::SeqCst);
        self.0.by_host.clear();
        self.0.known.clear();
    }

    /// Compares the keys in memory with the database and forgets those that are no longer valid, in case a hint about
    /// them was lost. One statement for some thousand keys.
    pub async fn reconcile(&self) -> Result<(), StoreError> {
        let known = self.0.known.iter();
        let known: Vec<([u8; 32], AgentKeyId)> = known
            .map(|entry| (*entry.key(), entry.value().identity.key_id))
            .collect();
        for batch in known.chunks(store::MAX_COMPARED) {
            let ids: Vec<AgentKeyId> = batch.iter().map(|(_, id)| *id).collect();
            let valid = store::valid(&mut &self.0.context.database, &ids).await?;
            for (hash, _) in batch.iter().filter(|(_, id)| !valid.contains(id)) {
                self.0.forgotten.fetch_add(1, Ordering::SeqCst);
                self.0.known.remove(hash);
            }
        }
        Ok(())
    }

    /// Forgets the keys of a host that are in memory here: the next use of each is looked up.
    pub fn forget_host(&self, host: HostId) {
        self.0.forgotten.fetch_add(1, Ordering::SeqCst);
        let hashes = self.0.by_host.remove(&host);
        for hash in hashes.into_iter().flat_map(|(_, hashes)| hashes) {
            self.0.known.remove(&hash);
        }
    }

    /// Deletes keys that ended long ago, some thousand at a time: agents that enroll again and again would fill the
    /// database.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        let now = self.0.context.now();
        let mut db = &self.0.context.database;
        store::end_rivals(&mut db, now.minus(RIVALS_FOR), now).await?;
        store::forget_refused(&mut db, now.minus(ENDED_FOR)).await?;
        store::purge(&mut db, now.minus(ENDED_FOR)).await
    }

    /// Writes the last uses, a batch per statement.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let ids: Vec<AgentKeyId> = self.0.used.iter().map(|entry| *entry.key()).collect();
        let now = self.0.context.now();
        for batch in ids.chunks(store::MAX_BATCH) {
            store::mark_all_used(&mut &self.0.context.database, batch, now).await?;
            for id in batch {
                self.0.used.remove(id);
            }
        }
        let called: Vec<(AgentKeyId, RefusedKey, u64)> = self
            .0
            .refused
            .iter()
            .filter_map(|refused| {
                let (key, reason) = refused.was?;
                Some((key, reason, refused.calls.swap(0, Ordering::Relaxed)))
            })
            .filter(|(_, _, calls)| *calls > 0)
            .take(store::MAX_BATCH)
            .collect();
        for (key, reason, calls) in called {
            store::refused(&mut &self.0.context.database, key, reason, calls, now).await?;
            self.0.denials.note_many(
                Denial {
                    action: DENIED_AGENT,
                    actor: Actor::agent(""),
                    reason: reason.name(),
                    subject_kind: "agent_key",
                    subject_id: key.to_string(),
                },
                calls,
            );
        }
        self.0
            .refused
            .retain(|_, refused| now.since(refused.at) < REFUSED_FOR);
        Ok(())
    }
}
