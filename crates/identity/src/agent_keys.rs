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
use std::time::Duration;

use muster_bus::{Received, Subscription, Topic};
use muster_clock::Timestamp;
use muster_http::ClientAddress;
use muster_store::{Executor, StoreError};

use crate::enrollment_tokens::is_admitted_from;
use crate::key_memory::{KeyMemory, MAX_KEY_BYTES};
use crate::service::Context;
use crate::store::agent_keys as store;
pub use crate::store::agent_keys::HostKey;
use crate::store::tokens;
use crate::{AgentKeyId, Denials, EnrollmentTokenId, HostId, secret};

/// Hints that keys of a host changed; the key is the host's id.
pub const AGENT_KEYS_TOPIC: Topic = Topic::new("identity.agent_keys");
/// How long keys that ended are kept, for operators to look at. A key ends when its successor is first used.
const ENDED_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// An older key that is used so long after a newer one of another installation was first used shows that there are two
/// machines. Before that it may be a request that was under way.
const RIVAL_AFTER: Duration = Duration::from_secs(15);
/// A key that was not used for so long after another installation took its place ends: the machine was set up anew.
const RIVALS_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// An agent whose key is to be renewed is told so once in this time; meanwhile the old key is good.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(10 * 60);
/// What is remembered of a key that is good.
struct HostsKey {
    identity: AgentIdentity,
    family: Family,
}

struct Inner {
    context: Arc<Context>,
    denials: Denials,
    memory: KeyMemory<HostId, HostsKey>,
}

/// Keys of enrolled agents.
#[derive(Clone)]
pub struct AgentKeys(Arc<Inner>);

impl AgentKeys {
    pub(crate) fn new(context: Arc<Context>, denials: Denials) -> Self {
        Self(Arc::new(Inner {
            context,
            denials,
            memory: KeyMemory::new(),
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
        let memory = &self.0.memory;
        if let Some(known) = memory.get(&hash) {
            if known.value.family != family {
                return Err(AgentAuthError::Unknown);
            }
            memory.note_use(&known, now);
            return Ok(known.value.identity);
        }
        if memory.is_refused(&hash, now) {
            return Err(AgentAuthError::Unknown);
        }
        self.look_up(hash, family, address, now).await
    }

    async fn look_up(
        &self,
        hash: [u8; 32],
        family: Family,
        address: Option<ClientAddress>,
        now: Timestamp,
    ) -> Result<AgentIdentity, AgentAuthError> {
        let (context, memory) = (&self.0.context, &self.0.memory);
        let mut mark = memory.mark();
        let found = store::find(&mut &context.database, &hash).await;
        let found = found.map_err(AgentAuthError::Unavailable)?;
        let row = match found {
            Some(row) if row.refused.is_none() => row,
            other => {
                let was = other.and_then(|row| Some((row.id, row.refused?)));
                memory.refuse(hash, was, None, mark, now);
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
                mark += 1;
            }
        }
        if self.is_to_be_told(&row, address, now).await? {
            return Err(AgentAuthError::Unknown);
        }
        if row.rival_since.is_some() || row.rotate_at.is_some() {
            // Not for long: until then each use is looked up, and counts.
            memory.readmit(&hash);
            memory.used(identity.key_id, now);
            return Ok(identity);
        }
        let known = HostsKey { identity, family };
        memory.remember(hash, identity.host_id, identity.key_id, known, mark, now);
        Ok(identity)
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
                Err(_) => self.0.memory.forget_all(),
            },
            Received::Hint(_) => {}
            Received::Missed => self.0.memory.forget_all(),
        }
    }

    /// Compares the keys in memory with the database and forgets those that are no longer valid, in case a hint about
    /// them was lost. One statement for some thousand keys.
    pub async fn reconcile(&self) -> Result<(), StoreError> {
        let known = self.0.memory.all_known(|_| ());
        for batch in known.chunks(store::MAX_COMPARED) {
            let ids: Vec<AgentKeyId> = batch.iter().map(|(_, id, ())| *id).collect();
            let valid = store::valid(&mut &self.0.context.database, &ids).await?;
            for (hash, ..) in batch.iter().filter(|(_, id, ())| !valid.contains(id)) {
                self.0.memory.forget_key(hash);
            }
        }
        Ok(())
    }

    /// Forgets the keys of a host that are in memory here: the next use of each is looked up.
    pub fn forget_host(&self, host: HostId) {
        self.0.memory.forget(host);
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

    /// Writes the last uses, and how often refused keys called.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let context = &self.0.context;
        let (memory, denials) = (&self.0.memory, &self.0.denials);
        memory
            .flush(&context.database, denials, context.now())
            .await
    }
}
