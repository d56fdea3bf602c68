//! Keys of collectors, that is of agents that speak OpAMP: whose is this key, answered on every message.
//!
//! An agent comes by a shared enrollment token, is offered a key of its own, and from then on shows that. A key is
//! *pending* from the offer until its first use, which is the only proof that the agent has it; then it is *active*, and the
//! one before it is *superseded*: good for some minutes more, for what was under way, then *ended*. Offers whose answer was
//! lost stay good until a newer one is used. Whatever is good for nothing is soon deleted, since some agents forget their key
//! whenever they are started.
//!
//! What happens to one collector's keys happens one after the other: every change of them first takes the collector's row of
//! `identity_key_holders`. A caller that locks a row of its own for the collector does so *before* it calls here, in the same
//! unit of work.
//!
//! As with hosts' keys, the answer comes from memory; changes reach other replicas by a hint on [`COLLECTOR_KEYS_TOPIC`], and
//! what is in memory is compared with the database on a timer.
//!
//! Not responsible for: who the collector is and whether it may come, and when an offer is made.

mod first_use;
mod kinds;
mod made;
mod memory;
mod rotation;

pub use kinds::{
    CollectorKeyFilter, CollectorKeyInfo, CollectorKeyRotation, ComeBack, KeyHolder, KeyOffer,
    KeyState, NewCollectorKey, Offered, OutstandingOffer, PresentedKey,
};
pub use rotation::{KeyCollectors, MAX_COLLECTORS_PER_MINUTE, NotRenewable};

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use muster_bus::Topic;
use muster_clock::Timestamp;
use muster_store::{Executor, StoreError, Transaction};
use serde_json::{Value, json};

use crate::key_memory::KeyMemory;
use crate::service::Context;
use crate::store::collector_keys as store;
use crate::{
    Actor, AgentKeyId, Audit, AuditEntry, CollectorId, Denials, IssuedKey, RefusedKey, TeamId,
    secret,
};

use first_use::FirstUses;
use memory::CollectorsKey;

/// Hints that keys of a collector changed. The hint's key is the collector's id, or empty when keys of many did: then compare
/// what is in memory.
pub const COLLECTOR_KEYS_TOPIC: Topic = Topic::new("identity.collector_keys");
/// How many keys of a collector may be offered and not used; an offer beyond ends the oldest.
pub const MAX_PENDING_KEYS: u32 = 3;
/// How long a key that was offered waits for its first use.
pub const PENDING_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a key is still good when a newer one of its collector was used: for requests that are under way, and for the
/// farewell of the old connection.
pub const SUPERSEDED_FOR: Duration = Duration::from_secs(10 * 60);
/// How many superseded keys of a collector are good at a time: one that is started again and again has no more under way.
const MAX_SUPERSEDED_KEYS: i64 = 3;
/// How many keys of a collector that are good for nothing are kept, for operators to look at.
const MAX_ENDED_KEYS: i64 = 10;
/// What begins every key, so that scanners find one that leaked.
const PREFIX: &str = "mst_acc_";

const OFFERED: &str = "offered_agent_key";
const ACTIVATED: &str = "activated_agent_key";
const SUPERSEDED: &str = "superseded_agent_key";
const BOUND: &str = "bound_agent_key";
/// What agents make happen by coming. Some come again every minute, so that these are kept neither without a limit nor for
/// ever.
pub(crate) const AGENTS_ACTIONS: [&str; 4] = [OFFERED, ACTIVATED, SUPERSEDED, BOUND];

struct Inner {
    context: Arc<Context>,
    audit: Audit,
    denials: Denials,
    memory: KeyMemory<CollectorId, CollectorsKey>,
    /// Keys that are used for the first time, until that is written.
    first_uses: FirstUses,
    collectors: OnceLock<Arc<dyn KeyCollectors>>,
    /// After which age keys are to be renewed; never without one.
    lifetime: Option<Duration>,
    /// Whether what is in memory is to be compared soon.
    is_to_compare: AtomicBool,
}

/// Keys of collectors.
#[derive(Clone)]
pub struct CollectorKeys(Arc<Inner>);

impl CollectorKeys {
    pub(crate) fn new(
        context: Arc<Context>,
        audit: Audit,
        denials: Denials,
        lifetime: Option<Duration>,
    ) -> Self {
        Self(Arc::new(Inner {
            context,
            audit,
            denials,
            memory: KeyMemory::new(),
            first_uses: FirstUses::default(),
            collectors: OnceLock::new(),
            lifetime,
            is_to_compare: AtomicBool::new(false),
        }))
    }

    /// Whether a secret is spelled as a key of a collector is; any other is an enrollment token, if anything.
    pub fn is_key(secret: &str) -> bool {
        secret.starts_with(PREFIX)
    }

    /// The newest key that a collector was offered and has not used, if there is one that is still good.
    pub async fn outstanding(
        &self,
        db: &mut impl Executor,
        collector: CollectorId,
        now: Timestamp,
    ) -> Result<Option<OutstandingOffer>, StoreError> {
        store::outstanding(db, collector, now).await
    }

    /// Makes a key to be offered to a collector, in the caller's unit of work, which knows that the collector is not revoked.
    /// Of several at once exactly one makes a key: the others find its offer, unless that is the one which they name in
    /// [`KeyOffer::instead_of`]. Send the key after the commit only; when the commit's answer is lost, do not send it.
    pub async fn offer(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        offer: KeyOffer,
        now: Timestamp,
    ) -> Result<Offered, StoreError> {
        let collector = offer.collector_id;
        let generation = store::next_generation(db, collector).await?;
        let is_first = generation == 1;
        if !is_first
            && let Some(there) = store::outstanding(db, collector, now).await?
            && offer.instead_of != Some(there.key_id)
        {
            return Ok(Offered::Outstanding(there));
        }
        let text = secret::new("acc", &*self.0.context.randomness);
        let hash = secret::hash(&text);
        let expires_at = now.plus(PENDING_FOR);
        let key_id = store::offer(db, &hash, &offer, generation, expires_at, now).await?;
        if !is_first {
            store::end_pending_beyond(db, collector, i64::from(MAX_PENDING_KEYS), now).await?;
            store::trim(db, collector, MAX_ENDED_KEYS, now).await?;
        }
        let details = json!({ "key_id": key_id, "enrollment_token_id": offer.token_id });
        self.keep(db, actor, (OFFERED, is_first), collector, details, now)
            .await?;
        Ok(Offered::Made(IssuedKey { text, key_id }))
    }

    /// Gives a key that was made in advance to the collector that shows it, in the caller's unit of work; call
    /// [`changed`](Self::changed) after the commit. Other keys of that collector end as if it had been offered this one.
    /// False when another collector was first, or it is good no more: then it is refused. Exactly one of several wins.
    pub async fn bind(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        key: AgentKeyId,
        collector: CollectorId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let generation = store::next_generation(db, collector).await?;
        if !store::bind(db, key, collector, generation, now).await? {
            return Ok(false);
        }
        let details = json!({ "key_id": key });
        self.keep(db, actor, (BOUND, false), collector, details, now)
            .await?;
        // It may have been made long ago: none that was offered since is worth more.
        let newest = AgentKeyId(i64::MAX);
        store::end_pending_before(db, collector, newest, now).await?;
        self.succeed(db, actor, key, collector, now).await?;
        Ok(true)
    }

    /// A collector uses a key: the ones before it are superseded.
    async fn succeed(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        key: AgentKeyId,
        collector: CollectorId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let ends_at = now.plus(SUPERSEDED_FOR);
        for old in store::supersede(db, collector, key, ends_at, now).await? {
            let details = json!({ "key_id": old, "by_key_id": key, "ends_at": ends_at });
            self.keep(db, actor, (SUPERSEDED, false), collector, details, now)
                .await?;
        }
        store::end_superseded_beyond(db, collector, MAX_SUPERSEDED_KEYS, now).await?;
        store::trim(db, collector, MAX_ENDED_KEYS, now).await?;
        Ok(())
    }

    /// Takes away all keys of a collector, those that were offered included, in the caller's unit of work, which also notes
    /// that the collector is revoked or deletes it; call [`changed`](Self::changed) after the commit, whatever came of it:
    /// when its answer is lost it may have been kept. `because` is [`RefusedKey::Banned`] for one that was revoked, and
    /// [`RefusedKey::Deleted`] for one that is deleted while its agent may go on. Gives how many keys.
    pub async fn revoke_collector(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        collector: CollectorId,
        because: RefusedKey,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        store::hold(db, collector).await?;
        let revoked = store::revoke_collector(db, collector, because, now).await?;
        if !revoked.is_empty() {
            let details = json!({ "key_ids": revoked, "reason": because });
            let entry =
                AuditEntry::new("revoked_agent_keys", "collector", collector).after(details);
            self.0.audit.record(db, actor, entry, now).await?;
        }
        Ok(revoked.len())
    }

    /// What un-revoking a collector does to its keys, in the caller's unit of work, which also notes that the collector may
    /// come again; call [`changed`](Self::changed) after the commit. Gives the key that is good again; none when
    /// the collector comes without one, or has none that could be: it never used one, or that was taken away for good, or
    /// deleted since.
    pub async fn readmit_collector(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        collector: CollectorId,
        how: ComeBack,
        now: Timestamp,
    ) -> Result<Option<AgentKeyId>, StoreError> {
        store::hold(db, collector).await?;
        let key = match how {
            ComeBack::WithoutKey => None,
            ComeBack::WithItsKey => store::restore(db, collector).await?,
        };
        // A later revocation in error must not bring back what was taken away before it.
        store::give_up(db, collector).await?;
        let entry = AuditEntry::new("unrevoked_agent_keys", "collector", collector)
            .after(json!({ "key_id": key }));
        self.0.audit.record(db, actor, entry, now).await?;
        Ok(key)
    }

    /// Wants the active key of a collector renewed, in the caller's unit of work; call [`changed`](Self::changed) after the
    /// commit. The key stays good until a newer one is used. Gives false when it has none.
    pub async fn rotate_collector(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        collector: CollectorId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let is_there = store::rotate_collector(db, collector, now).await? > 0;
        if is_there {
            let entry = AuditEntry::new("rotated_agent_keys", "collector", collector);
            self.0.audit.record(db, actor, entry, now).await?;
        }
        Ok(is_there)
    }

    /// Forgets the keys of a collector that is deleted and whose agent is gone, in the caller's unit of work; call
    /// [`changed`](Self::changed) after the commit. An agent that goes on is refused, and nobody sees whose it was: where that
    /// matters use [`revoke_collector`](Self::revoke_collector).
    pub async fn delete_collector(
        &self,
        db: &mut Transaction,
        collector: CollectorId,
    ) -> Result<u64, StoreError> {
        store::delete_collector(db, collector).await
    }

    /// Tells in which team a collector is now, since who may do something about its keys depends on that. In the caller's
    /// unit of work; call [`changed`](Self::changed) after the commit.
    pub async fn move_to_team(
        &self,
        db: &mut impl Executor,
        collector: CollectorId,
        team: Option<TeamId>,
    ) -> Result<(), StoreError> {
        store::move_to_team(db, collector, team).await
    }

    /// The keys of a collector with their states, newest first. There are never more than some twenty.
    pub async fn of_collector(
        &self,
        collector: CollectorId,
    ) -> Result<Vec<CollectorKeyInfo>, StoreError> {
        let context = &self.0.context;
        store::listing::of_collector(&mut &context.database, collector, context.now()).await
    }

    /// Tells this and all other replicas that keys of a collector changed.
    pub async fn changed(&self, collector: CollectorId) {
        self.forget_collector(collector);
        self.0.context.hint(COLLECTOR_KEYS_TOPIC, collector).await;
    }

    /// Keeps what an agent did in the log of changes: the first time, and then now and then.
    async fn keep(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        (action, is_first): (&'static str, bool),
        collector: CollectorId,
        details: Value,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let entry = AuditEntry::new(action, "collector", collector).after(details);
        if is_first {
            return self.0.audit.record(db, actor, entry, now).await;
        }
        self.0.audit.record_sparsely(db, actor, entry, now).await
    }
}
