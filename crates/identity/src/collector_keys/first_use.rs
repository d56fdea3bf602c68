//! The first use of keys, which makes them active: written together, since after an enrollment all agents come with their keys
//! at once, and each commit waits for the disk.

use muster_clock::Timestamp;
use muster_http::ClientAddress;
use muster_store::{Group, StoreError, Together, Transaction, keep};
use serde_json::json;

use super::{ACTIVATED, CollectorKeys};
use crate::store::collector_keys as store;
use crate::{Actor, AgentKeyId, CollectorId};

/// A key that is used for the first time.
pub(super) struct FirstUse {
    key: AgentKeyId,
    collector: CollectorId,
    address: ClientAddress,
}

/// What waits to be written; each is told whether the key became active by this.
pub(super) type FirstUses = Group<FirstUse, bool>;

#[derive(Clone)]
struct Writer(CollectorKeys);

impl Together for Writer {
    type Job = FirstUse;
    type Done = bool;
    type Order = (CollectorId, AgentKeyId);
    const ATTEMPT: &'static str = "make a key active";

    fn group(&self) -> &FirstUses {
        &self.0.0.first_uses
    }

    fn order(&self, first: &FirstUse) -> Self::Order {
        (first.collector, first.key)
    }

    async fn together(&self, batch: &[FirstUse]) -> Result<Option<Vec<bool>>, StoreError> {
        let db = self.0.0.context.database.begin().await?;
        Ok(self.0.activate_all(db, batch).await.ok())
    }

    async fn alone(&self, first: &FirstUse) -> Result<bool, StoreError> {
        let db = self.0.0.context.database.begin().await?;
        let done = self.0.activate_all(db, std::slice::from_ref(first)).await?;
        Ok(done.first().copied().unwrap_or(false))
    }
}

impl CollectorKeys {
    /// Makes a pending key active; false when it is pending no more, since others used, ended or revoked it this moment. It is
    /// done also when whoever waits for it goes away.
    pub(super) async fn first_use(
        &self,
        key: AgentKeyId,
        collector: CollectorId,
        address: ClientAddress,
    ) -> Result<bool, StoreError> {
        let first = FirstUse {
            key,
            collector,
            address,
        };
        keep(&Writer(self.clone()), first).await
    }

    async fn activate_all(
        &self,
        mut db: Transaction,
        batch: &[FirstUse],
    ) -> Result<Vec<bool>, StoreError> {
        let now = self.0.context.now();
        let mut done = Vec::with_capacity(batch.len());
        for first in batch {
            done.push(self.activate(&mut db, first, now).await?);
        }
        let committed = db.commit().await;
        for (first, is_done) in batch.iter().zip(&done) {
            // Also when the answer to the commit was lost: it may have been kept.
            if *is_done || committed.is_err() {
                self.changed(first.collector).await;
            }
        }
        committed.map(|()| done)
    }

    async fn activate(
        &self,
        db: &mut Transaction,
        first: &FirstUse,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (key, collector) = (first.key, first.collector);
        let is_only_one = store::hold(db, collector).await? == 1;
        if !store::activate(db, key, now).await? {
            return Ok(false);
        }
        let (actor, details) = (Actor::agent(first.address), json!({ "key_id": key }));
        self.keep(
            db,
            &actor,
            (ACTIVATED, is_only_one),
            collector,
            details,
            now,
        )
        .await?;
        if !is_only_one {
            store::end_pending_before(db, collector, key, now).await?;
            self.succeed(db, &actor, key, collector, now).await?;
        }
        Ok(true)
    }
}
