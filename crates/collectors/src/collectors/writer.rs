//! What agents said, kept for many of them by one unit of work: after a restart all come at once.

use std::sync::Arc;

use muster_store::{Group, StoreError, Together, keep};
use muster_wire_opamp::proto::ConnectionSettingsOffers;

use super::commit::Committed;
use super::{CHANGED_TOPIC, Collectors, Session};
use crate::record::Record;
use crate::service::{Effect, Outcome, Principal};

/// What is to be kept for one agent.
pub(super) struct Job {
    pub(super) session: Session,
    pub(super) principal: Principal,
    pub(super) outcome: Arc<Outcome>,
}

/// What waits to be written.
pub(super) type Queue = Group<Job, Committed>;

#[derive(Clone)]
struct Writer(Collectors);

impl Together for Writer {
    type Job = Job;
    type Done = Committed;
    type Order = muster_identity::CollectorId;
    const ATTEMPT: &'static str = "keep what an agent said";

    fn group(&self) -> &Queue {
        &self.0.0.queue
    }

    fn order(&self, job: &Job) -> Self::Order {
        job.outcome.record.id
    }

    async fn together(&self, batch: &[Job]) -> Result<Option<Vec<Committed>>, StoreError> {
        let mut db = self.0.0.database.begin().await?;
        let mut done = Vec::with_capacity(batch.len());
        for job in batch {
            let mut record = job.outcome.record.clone();
            match self.0.write(&mut db, job, &mut record).await {
                Ok(Ok(offer)) => done.push((record, offer)),
                Ok(Err(_)) | Err(_) => return Ok(None),
            }
        }
        let outcomes = batch.iter().map(|job| &*job.outcome);
        let written: Vec<_> = outcomes
            .zip(done.iter().map(|(record, _)| record))
            .collect();
        if self.0.write_said(&mut db, &written).await.is_err() {
            return Ok(None);
        }
        // When the answer to a commit is lost it may have been kept: whoever writes by itself then finds that out.
        if db.commit().await.is_err() {
            return Ok(None);
        }
        let mut committed = Vec::with_capacity(batch.len());
        for (job, (record, offer)) in batch.iter().zip(done) {
            committed.push(self.0.written(job, record, offer).await);
        }
        Ok(Some(committed))
    }

    async fn alone(&self, job: &Job) -> Result<Committed, StoreError> {
        let mut record = job.outcome.record.clone();
        let mut db = self.0.0.database.begin().await?;
        let offer = match self.0.write(&mut db, job, &mut record).await {
            Ok(Ok(offer)) => offer,
            Ok(Err(committed)) => return Ok(committed),
            // Of two that enroll by one uid at once, or write the same for the first time, one is late.
            Err(error) if error.is_duplicate() => return Ok(Committed::Conflict),
            Err(error) => return Err(error),
        };
        match self.0.write_said(&mut db, &[(&job.outcome, &record)]).await {
            Ok(()) => {}
            Err(error) if error.is_duplicate() => return Ok(Committed::Conflict),
            Err(error) => return Err(error),
        }
        db.commit().await?;
        Ok(self.0.written(job, record, offer).await)
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
        let job = Job {
            session: *session,
            principal: principal.clone(),
            outcome: Arc::clone(outcome),
        };
        keep(&Writer(self.clone()), job).await
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
