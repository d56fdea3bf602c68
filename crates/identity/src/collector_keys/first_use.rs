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
/// What is tried, for errors.
const ATTEMPT: &str = "make a key active";

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
        // The writer panicked, which is told where it happened.
        let lost = || StoreError::corrupt(ATTEMPT, "it was lost with those of others");
        written.await.unwrap_or_else(|_| Err(lost()))
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
            if let Err(error) = self.write_batch(batch).await {
                let waiting = std::mem::take(&mut self.0.first_uses.lock().uses);
                for first in waiting {
                    let _ = first.reply.send(Err(error.for_others(ATTEMPT)));
                }
            }
            std::mem::forget(writing);
        }
    }

    /// An error when the database is away: then nothing else that waits will fare better.
    async fn write_batch(&self, batch: Vec<FirstUse>) -> Result<(), StoreError> {
        let together = match self.0.context.database.begin().await {
            Ok(db) => self.activate_all(db, &batch).await,
            Err(error) => {
                for first in batch {
                    let _ = first.reply.send(Err(error.for_others(ATTEMPT)));
                }
                return Err(error);
            }
        };
        if let Ok(done) = together {
            for (first, is_done) in batch.into_iter().zip(done) {
                // Whoever went away does not need it.
                let _ = first.reply.send(Ok(is_done));
            }
            return Ok(());
        }
        // Nobody is to pay for what is wrong with another's.
        let mut away: Option<StoreError> = None;
        for first in batch {
            let done = match &away {
                Some(error) => Err(error.for_others(ATTEMPT)),
                None => self.activate_alone(&first).await,
            };
            if let Err(error) = &done
                && error.is_unavailable()
                && away.is_none()
            {
                away = Some(error.for_others(ATTEMPT));
            }
            let _ = first.reply.send(done);
        }
        away.map_or(Ok(()), Err)
    }

    async fn activate_alone(&self, first: &FirstUse) -> Result<bool, StoreError> {
        let db = self.0.context.database.begin().await?;
        let done = self.activate_all(db, std::slice::from_ref(first)).await?;
        Ok(done.first().copied().unwrap_or(false))
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
