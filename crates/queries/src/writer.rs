//! Keeps answers, many in one commit.
//!
//! Thousands of hosts answer a campaign within seconds, and each answer must be durable before it is acknowledged. One
//! task takes whatever has arrived, keeps it in one unit of work, and then tells each host's request.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use muster_clock::Timestamp;
use muster_hosts::SourceError;
use muster_store::{Database, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::error::QueriesError;
use crate::store::answers;
use crate::store::campaigns::{self as store, Answer};

/// How many answers one commit keeps at most.
const MAX_GROUP: usize = 1_000;
/// How many requests may wait; more are told to come again.
const MAX_WAITING: usize = 32_768;
/// How many bytes of rows may wait; more are told to come again.
pub const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// The most rows that are kept of a campaign.
pub(crate) const MAX_ROWS_PER_CAMPAIGN: i64 = 1_000_000;
/// The most bytes that are kept of a campaign, as JSON.
pub(crate) const MAX_BYTES_PER_CAMPAIGN: i64 = 512 * 1024 * 1024;

/// The positions of kept answers, in their order; none for what was not kept.
type Positions = Vec<Option<i64>>;

struct Job {
    answers: Vec<Answer>,
    now: Timestamp,
    done: oneshot::Sender<Result<Positions, SourceError>>,
    /// What the answers take of all that may wait.
    _bytes: OwnedSemaphorePermit,
}

/// The answers were not kept; the agent shall send them again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("keep the answers to live queries: {0}")]
struct Unavailable(String);

/// Hands answers to the task that keeps them.
#[derive(Clone)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
    bytes: Arc<Semaphore>,
}

/// The task's end.
pub(crate) struct WriterTask {
    jobs: mpsc::Receiver<Job>,
    database: Database,
}

pub(crate) fn writer(database: Database) -> (Writer, WriterTask) {
    let (sender, jobs) = mpsc::channel(MAX_WAITING);
    let bytes = Arc::new(Semaphore::new(MAX_WAITING_BYTES));
    let writer = Writer {
        jobs: sender,
        bytes,
    };
    (writer, WriterTask { jobs, database })
}

impl Writer {
    /// How many bytes of rows wait, of [`MAX_WAITING_BYTES`].
    pub(crate) fn waiting_bytes(&self) -> usize {
        MAX_WAITING_BYTES.saturating_sub(self.bytes.available_permits())
    }

    /// Keeps answers durably. An error means that they are not known to be kept.
    pub(crate) async fn keep(
        &self,
        answers: Vec<Answer>,
        now: Timestamp,
    ) -> Result<Positions, SourceError> {
        let full = || {
            let error = Unavailable("too many answers at once".to_owned());
            SourceError::Unavailable(Box::new(error))
        };
        let (done, kept) = oneshot::channel();
        let size: usize = answers.iter().map(|answer| answer.rows_json.len()).sum();
        let size = u32::try_from(size.min(MAX_WAITING_BYTES)).unwrap_or(u32::MAX);
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(size);
        let job = Job {
            answers,
            now,
            done,
            _bytes: bytes.map_err(|_| full())?,
        };
        self.jobs.try_send(job).map_err(|_| full())?;
        let stopping = |_| SourceError::Unavailable(Box::new(QueriesError::Stopping));
        kept.await.map_err(stopping)?
    }
}

impl WriterTask {
    /// Runs until all senders are gone.
    pub(crate) async fn run(mut self) {
        let mut jobs = Vec::new();
        while self.jobs.recv_many(&mut jobs, MAX_GROUP).await > 0 {
            match self.keep(&jobs).await {
                Ok(positions) => {
                    for (job, positions) in jobs.drain(..).zip(positions) {
                        // Whoever does not wait any more will send it again, and is then told that it was kept.
                        let _ = job.done.send(Ok(positions));
                    }
                }
                Err(error) if error.is_unavailable() => {
                    let text = muster_http::error_chain(&error);
                    for job in jobs.drain(..) {
                        let unavailable = Box::new(Unavailable(text.clone()));
                        let _ = job.done.send(Err(SourceError::Unavailable(unavailable)));
                    }
                }
                // One of them cannot be kept: the others shall not suffer for it.
                Err(_) => {
                    for job in jobs.drain(..) {
                        let kept = self.keep(std::slice::from_ref(&job)).await;
                        let kept = kept.map(|mut positions| positions.pop().unwrap_or_default());
                        let _ = job.done.send(kept.map_err(SourceError::from));
                    }
                }
            }
        }
    }

    async fn keep(&self, jobs: &[Job]) -> Result<Vec<Positions>, StoreError> {
        let mut transaction = self.database.begin().await?;
        let mut by_campaign: BTreeMap<i64, Vec<(usize, usize)>> = BTreeMap::new();
        for (job_index, job) in jobs.iter().enumerate() {
            for (answer_index, answer) in job.answers.iter().enumerate() {
                by_campaign
                    .entry(answer.campaign_id)
                    .or_default()
                    .push((job_index, answer_index));
            }
        }
        let mut positions: Vec<Positions> = jobs
            .iter()
            .map(|job| vec![None; job.answers.len()])
            .collect();
        // In the order of ids, so that two replicas never wait for each other.
        for (id, places) in by_campaign {
            let count = places.len() as i64;
            let Some(reserved) = store::reserve(&mut transaction, id, count).await? else {
                continue;
            };
            let first = reserved.last_position - count + 1;
            let bounded = Self::bounded(jobs, &places, &reserved, first);
            let kept = {
                let rows: Vec<(&Answer, i64, Timestamp)> = bounded
                    .iter()
                    .map(|(answer, position, now)| (answer.as_ref(), *position, *now))
                    .collect();
                answers::keep(&mut transaction, id, &rows).await?
            };
            let (mut rows, mut bytes, mut clipped) = (0, 0, false);
            for (answer, position, _) in &bounded {
                if !kept.contains(&answer.host_id) {
                    continue;
                }
                rows += answer.rows;
                bytes += answer.rows_json.len() as i64;
                clipped |= answer.clipped;
                let offset = usize::try_from(position - first).unwrap_or_default();
                let (job_index, answer_index) = places[offset];
                positions[job_index][answer_index] = Some(*position);
            }
            store::add_totals(&mut transaction, id, rows, bytes, clipped).await?;
        }
        transaction.commit().await?;
        Ok(positions)
    }
}

impl WriterTask {
    /// The answers at these places with their positions: one per host, the first that came, and without rows once the
    /// campaign is full.
    fn bounded<'a>(
        jobs: &'a [Job],
        places: &[(usize, usize)],
        reserved: &store::Reserved,
        first: i64,
    ) -> Vec<(Cow<'a, Answer>, i64, Timestamp)> {
        let (mut rows, mut bytes) = (reserved.rows, reserved.bytes);
        let mut hosts = HashSet::new();
        let mut answers = Vec::with_capacity(places.len());
        for (offset, (job_index, answer_index)) in places.iter().enumerate() {
            let job = &jobs[*job_index];
            let answer = &job.answers[*answer_index];
            if !hosts.insert(answer.host_id) {
                continue;
            }
            let within = rows + answer.rows <= MAX_ROWS_PER_CAMPAIGN
                && bytes + answer.rows_json.len() as i64 <= MAX_BYTES_PER_CAMPAIGN;
            let bounded = if within || answer.rows == 0 {
                Cow::Borrowed(answer)
            } else {
                Cow::Owned(without_rows(answer))
            };
            rows += bounded.rows;
            bytes += bounded.rows_json.len() as i64;
            answers.push((bounded, first + offset as i64, job.now));
        }
        answers
    }
}

/// The campaign is full: that the host answered is kept, its rows are not.
fn without_rows(answer: &Answer) -> Answer {
    Answer {
        campaign_id: answer.campaign_id,
        host_id: answer.host_id,
        state: answer.state,
        message: answer.message.clone(),
        rows_json: "[]".to_owned(),
        rows: 0,
        clipped: true,
        stats: answer.stats.clone(),
    }
}
