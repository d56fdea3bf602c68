//! When agents were last heard and the numbers of their messages, written in batches.
//!
//! Every message marks its agent. The marks gather in memory, one per agent, and are written each second in two statements
//! per few hundred agents. When the database is away they stay and are tried again; a stop writes what is left. A crash loses
//! at most a second of them: then a number may be found missing, and a full state is asked for once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::error_chain;
use muster_identity::CollectorId;
use muster_store::{Database, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::record::{Line, Record};
use crate::store::presence::{Heard, MAX_BATCH_ROWS, put};

/// How long marks gather.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// A line that is older by this than the agent's newest does not change any more, and is not written again.
const WRITTEN_BY_NOW: Duration = Duration::from_secs(10 * 60);
/// How often a stop tries to write what is left before it gives up.
const LAST_ATTEMPTS: u32 = 5;

/// Marks of agents that were heard. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Presence(Arc<Shared>);

struct Shared {
    database: Database,
    /// At most one entry per agent.
    pending: Mutex<HashMap<CollectorId, Heard>>,
    many: Notify,
}

impl Presence {
    pub(crate) fn new(database: Database) -> Self {
        Self(Arc::new(Shared {
            database,
            pending: Mutex::default(),
            many: Notify::new(),
        }))
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<CollectorId, Heard>> {
        self.0
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent was heard. Memory only.
    pub(crate) fn heard(&self, record: &Record) {
        let Some(seen_at) = record.seen_at() else {
            return;
        };
        // What was silent for long was written long ago, or waits here.
        let is_new = |line: &&Line| seen_at.since(line.seen_at) < WRITTEN_BY_NOW;
        let mut lines: Vec<Line> = record.lines.iter().filter(is_new).cloned().collect();
        let mut pending = self.pending();
        if let Some(waiting) = pending.remove(&record.id) {
            let is_known = |line: &Line| lines.iter().any(|known| known.key == line.key);
            let others: Vec<Line> = waiting
                .lines
                .into_iter()
                .filter(|line| !is_known(line))
                .collect();
            lines.extend(others);
        }
        let heard = Heard {
            id: record.id,
            lines,
            seen_at,
            gone_at: record.gone_at(),
            said_goodbye: record.said_goodbye(),
        };
        pending.insert(record.id, heard);
        if pending.len() == MAX_BATCH_ROWS {
            self.0.many.notify_one();
        }
    }

    /// What was heard of an agent and is not written yet.
    pub(crate) fn waiting(&self, id: CollectorId) -> Vec<Line> {
        let pending = self.pending();
        pending
            .get(&id)
            .map(|heard| heard.lines.clone())
            .unwrap_or_default()
    }

    /// When an agent was last heard and when it went, if that is not written yet.
    pub(crate) fn waiting_times(&self, id: CollectorId) -> Option<(Timestamp, Option<Timestamp>)> {
        let pending = self.pending();
        pending.get(&id).map(|heard| (heard.seen_at, heard.gone_at))
    }

    /// An agent is not there any more.
    pub(crate) fn forget(&self, id: CollectorId) {
        self.pending().remove(&id);
    }

    /// Writes what gathered. What could not be written stays.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        loop {
            let batch: Vec<Heard> = {
                let pending = self.pending();
                pending.values().take(MAX_BATCH_ROWS).cloned().collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            let mut db = self.0.database.begin().await?;
            put(&mut db, &batch).await?;
            db.commit().await?;
            let mut pending = self.pending();
            for written in &batch {
                // One that was heard again meanwhile is still to be written.
                if pending.get(&written.id) == Some(written) {
                    pending.remove(&written.id);
                }
            }
            if batch.len() < MAX_BATCH_ROWS {
                return Ok(());
            }
        }
    }

    /// Writes marks until `stop`, then what is left.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut is_failing = false;
        while !stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(FLUSH_INTERVAL) => {}
                () = self.0.many.notified(), if !is_failing => {}
                () = stop.cancelled() => break,
            }
            match self.flush().await {
                Ok(()) => is_failing = false,
                Err(error) => {
                    if !is_failing {
                        tracing::warn!(
                            error = error_chain(&error),
                            "presence of collectors could not be written; it is kept"
                        );
                    }
                    is_failing = true;
                }
            }
        }
        for attempt in 1..=LAST_ATTEMPTS {
            match self.flush().await {
                Ok(()) => return,
                Err(error) if attempt == LAST_ATTEMPTS => tracing::error!(
                    error = error_chain(&error),
                    "presence of collectors of the last moments is lost"
                ),
                Err(_) => tokio::time::sleep(FLUSH_INTERVAL / 4).await,
            }
        }
    }
}
