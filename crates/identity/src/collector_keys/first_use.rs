//! The first use of keys, which makes them active: written together, since after an enrollment all agents come with their keys
//! at once, and each commit waits for the disk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_clock::Timestamp;
use muster_http::ClientAddress;
use muster_store::{StoreError, Transaction};
use serde_json::json;
use tokio::sync::oneshot;

use super::{ACTIVATED, CollectorKeys};
use crate::store::collector_keys as store;
use crate::{Actor, AgentKeyId, CollectorId};

/// How many keys are made active by one unit of work.
const MAX_BATCH_KEYS: usize = 64;

/// A key that is used for the first time.
struct FirstUse {
    key: AgentKeyId,
    collector: CollectorId,
    address: ClientAddress,
    /// Told whether the key became active by this.
    reply: oneshot::Sender<Result<bool, StoreError>>,
}

/// What waits to be written.
#[derive(Default)]
pub(super) struct FirstUses(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    uses: Vec<FirstUse>,
    /// Whether somebody writes.
    is_written: bool,
}

impl FirstUses {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the next one write when the writer ends, however it ends.
struct Writing<'a>(&'a FirstUses);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.lock().is_written = false;
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
        let (reply, written) = oneshot::channel();
        let begins = {
            let mut waiting = self.0.first_uses.lock();
            waiting.uses.push(FirstUse {
                key,
                collector,
                address,
                reply,
            });
            !std::mem::replace(&mut waiting.is_written, true)
        };
        if begins {
            tokio::spawn(self.clone().write_first_uses());
        }
        written.await.unwrap_or_else(|_| Err(gave_up()))
    }

    async fn write_first_uses(self) {
        loop {
            let writing = Writing(&self.0.first_uses);
            let mut batch: Vec<FirstUse> = {
                let mut waiting = self.0.first_uses.lock();
                let count = waiting.uses.len().min(MAX_BATCH_KEYS);
                if count == 0 {
                    // Whoever comes from here on finds that nobody writes.
                    waiting.is_written = false;
                    std::mem::forget(writing);
                    return;
                }
                waiting.uses.drain(..count).collect()
            };
            // In one order, so that two servers rarely wait for each other.
            batch.sort_by_key(|first| (first.collector, first.key));
            self.write_batch(batch).await;
            std::mem::forget(writing);
        }
    }

    async fn write_batch(&self, batch: Vec<FirstUse>) {
        if let Ok(done) = self.activate_all(&batch).await {
            for (first, is_done) in batch.into_iter().zip(done) {
                // Whoever went away does not need it.
                let _ = first.reply.send(Ok(is_done));
            }
            return;
        }
        // Nobody is to pay for what is wrong with another's; one wait for a database that is away is enough for all.
        let mut is_away = false;
        for first in batch {
            let done = if is_away {
                Err(gave_up())
            } else {
                let done = self.activate_all(std::slice::from_ref(&first)).await;
                done.map(|done| done.first().copied().unwrap_or(false))
            };
            is_away |= done.as_ref().is_err_and(StoreError::is_unavailable);
            let _ = first.reply.send(done);
        }
    }

    async fn activate_all(&self, batch: &[FirstUse]) -> Result<Vec<bool>, StoreError> {
        let now = self.0.context.now();
        let mut db = self.0.context.database.begin().await?;
        let mut done = Vec::with_capacity(batch.len());
        for first in batch {
            done.push(self.activate(&mut db, first, now).await?);
        }
        db.commit().await?;
        for (first, is_done) in batch.iter().zip(&done) {
            if *is_done {
                self.changed(first.collector).await;
            }
        }
        Ok(done)
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

fn gave_up() -> StoreError {
    StoreError::corrupt(
        "make a key active",
        "it was not written with those of others",
    )
}
