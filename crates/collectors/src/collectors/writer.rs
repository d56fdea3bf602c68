//! Units of work of many agents, written together: after a restart all agents come at once, and each commit waits for the disk.
//!
//! Whoever has something to keep puts it into a queue and waits. One task takes what gathered while the former batch was
//! written, and writes it in one unit of work. When anything of it cannot be kept, nothing of the batch is, and each part is
//! written by itself: so nobody pays for another's conflict. When the database is away all that waits is told so at once: one
//! wait for it is enough.

use std::sync::{Arc, Mutex, PoisonError};

use muster_store::StoreError;
use muster_wire_opamp::proto::ConnectionSettingsOffers;
use tokio::sync::oneshot;

use super::commit::Committed;
use super::{CHANGED_TOPIC, Collectors, Session};
use crate::record::Record;
use crate::service::{Effect, Outcome, Principal};

/// How many agents' work is written together.
const MAX_BATCH_JOBS: usize = 64;
/// What is tried, for errors.
const ATTEMPT: &str = "keep what an agent said";

/// What is to be kept for one agent.
pub(super) struct Job {
    pub(super) session: Session,
    pub(super) principal: Principal,
    pub(super) outcome: Arc<Outcome>,
    reply: oneshot::Sender<Result<Committed, StoreError>>,
}

/// What waits to be written.
#[derive(Default)]
pub(super) struct Queue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    /// Whether somebody writes.
    is_written: bool,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the next one write when the writer ends, however it ends.
struct Writing<'a>(&'a Queue);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.lock().is_written = false;
    }
}

impl Collectors {
    /// Keeps what a step comes to. It is kept also when whoever waits for it goes away.
    pub(super) async fn commit(
        &self,
        session: &Session,
        principal: &Principal,
        outcome: &Arc<Outcome>,
    ) -> Result<Committed, StoreError> {
        let (reply, written) = oneshot::channel();
        let job = Job {
            session: *session,
            principal: principal.clone(),
            outcome: Arc::clone(outcome),
            reply,
        };
        let begins = {
            let mut waiting = self.0.queue.lock();
            waiting.jobs.push(job);
            !std::mem::replace(&mut waiting.is_written, true)
        };
        if begins {
            tokio::spawn(self.clone().write_queue());
        }
        // The writer panicked, which is told where it happened.
        let lost = || StoreError::corrupt(ATTEMPT, "it was lost with the work of others");
        written.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn write_queue(self) {
        loop {
            let writing = Writing(&self.0.queue);
            let batch: Vec<Job> = {
                let mut waiting = self.0.queue.lock();
                let count = waiting.jobs.len().min(MAX_BATCH_JOBS);
                if count == 0 {
                    // Whoever comes from here on finds that nobody writes.
                    waiting.is_written = false;
                    std::mem::forget(writing);
                    return;
                }
                waiting.jobs.drain(..count).collect()
            };
            let written = self.write_batch(batch).await;
            if let Err(error) = written {
                let waiting = std::mem::take(&mut self.0.queue.lock().jobs);
                for job in waiting {
                    let _ = job.reply.send(Err(error.for_others(ATTEMPT)));
                }
            }
            std::mem::forget(writing);
        }
    }

    /// An error when the database is away: then nothing else that waits will fare better.
    async fn write_batch(&self, mut batch: Vec<Job>) -> Result<(), StoreError> {
        // In one order, so that two servers rarely wait for each other.
        batch.sort_by_key(|job| job.outcome.record.id);
        if batch.len() > 1 {
            match self.write_together(&batch).await {
                Ok(Some(done)) => {
                    for (job, (record, offer)) in batch.into_iter().zip(done) {
                        let done = self.written(&job, record, offer).await;
                        // Whoever went away does not need it.
                        let _ = job.reply.send(Ok(done));
                    }
                    return Ok(());
                }
                Ok(None) => {}
                Err(error) => {
                    for job in batch {
                        let _ = job.reply.send(Err(error.for_others(ATTEMPT)));
                    }
                    return Err(error);
                }
            }
        }
        let mut away: Option<StoreError> = None;
        for job in batch {
            let committed = match &away {
                Some(error) => Err(error.for_others(ATTEMPT)),
                None => self.write_alone(&job).await,
            };
            if let Err(error) = &committed
                && error.is_unavailable()
                && away.is_none()
            {
                away = Some(error.for_others(ATTEMPT));
            }
            let _ = job.reply.send(committed);
        }
        away.map_or(Ok(()), Err)
    }

    /// Writes all in one unit of work; none when something of it has to be written by itself. An error when no unit of work
    /// could begin.
    async fn write_together(
        &self,
        batch: &[Job],
    ) -> Result<Option<Vec<(Record, Option<ConnectionSettingsOffers>)>>, StoreError> {
        let mut db = self.0.database.begin().await?;
        let mut done = Vec::with_capacity(batch.len());
        for job in batch {
            let mut record = job.outcome.record.clone();
            match self.write(&mut db, job, &mut record).await {
                Ok(Ok(offer)) => done.push((record, offer)),
                Ok(Err(_)) | Err(_) => return Ok(None),
            }
        }
        let outcomes = batch.iter().map(|job| &*job.outcome);
        let written: Vec<_> = outcomes
            .zip(done.iter().map(|(record, _)| record))
            .collect();
        if self.write_said(&mut db, &written).await.is_err() {
            return Ok(None);
        }
        // When the answer to a commit is lost it may have been kept: whoever writes by itself then finds that out.
        Ok(db.commit().await.is_ok().then_some(done))
    }

    async fn write_alone(&self, job: &Job) -> Result<Committed, StoreError> {
        let mut record = job.outcome.record.clone();
        let mut db = self.0.database.begin().await?;
        let offer = match self.write(&mut db, job, &mut record).await {
            Ok(Ok(offer)) => offer,
            Ok(Err(committed)) => return Ok(committed),
            // Of two that enroll by one uid at once, or write the same for the first time, one is late.
            Err(error) if error.is_duplicate() => return Ok(Committed::Conflict),
            Err(error) => return Err(error),
        };
        match self.write_said(&mut db, &[(&job.outcome, &record)]).await {
            Ok(()) => {}
            Err(error) if error.is_duplicate() => return Ok(Committed::Conflict),
            Err(error) => return Err(error),
        }
        db.commit().await?;
        Ok(self.written(job, record, offer).await)
    }

    /// Everything is kept.
    async fn written(
        &self,
        job: &Job,
        mut record: Record,
        offer: Option<ConnectionSettingsOffers>,
    ) -> Committed {
        record.revision += 1;
        let mut effects = job.outcome.effects.iter();
        if effects.any(|effect| matches!(effect, Effect::BindKey(_))) {
            self.0.identity.collector_keys.changed(record.id).await;
        }
        if let Some(from) = record.durable.separated_from
            && job.outcome.is_new
        {
            // It remembers that one from now on.
            self.forget(from);
            self.hint(CHANGED_TOPIC, format!("{from} {}", self.0.origin))
                .await;
        }
        if let Some(said) = &job.outcome.components {
            self.0.components.remember(record.durable.team_id, said);
        }
        if offer.is_some() {
            metrics::counter!("muster_collectors_offers_total").increment(1);
        }
        Committed::Done {
            record: Box::new(record),
            offer: offer.map(Box::new),
        }
    }
}
