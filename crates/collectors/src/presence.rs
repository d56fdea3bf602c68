//! When agents were last heard and the numbers of their messages, written in batches.
//!
//! Every message marks its agent. The marks gather in memory, one per agent, and are written in two statements per few hundred
//! agents: each second those of agents that came, went or changed their connection, every ten seconds those that say no more
//! than that an agent is still there. Of agents on sockets the latter write only when they were heard: the numbers of their
//! messages are good for nothing on another connection but to find that nothing was missed, and are written when the connection
//! ends, or every few minutes. When the database is away marks stay and are tried again; a stop writes what is left. A crash
//! loses at most so much of them: then a number may be found missing, and a full state is asked for once.

#[cfg(test)]
mod tests;

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
/// At every how many such times those are written that can wait. Agents lie all over the tables: so many of them share pages.
const FLUSHES_PER_ROUND: u32 = 10;
/// Marks of agents that are to be heard more often than this do not wait: they would be late before they are written.
const PATIENT_INTERVAL: Duration = Duration::from_secs(30);
/// A line that is older by this than the agent's newest does not change any more, and is not written again.
const WRITTEN_BY_NOW: Duration = Duration::from_secs(10 * 60);
/// How long lines of agents on sockets gather that say nothing new but a number. Shorter than what is written by now.
const LINES_GATHER_FOR: Duration = Duration::from_secs(5 * 60);
/// How often a stop tries to write what is left before it gives up.
const LAST_ATTEMPTS: u32 = 5;

/// Marks of agents that were heard. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Presence(Arc<Shared>);

struct Shared {
    database: Database,
    pending: Mutex<Pending>,
    many: Notify,
}

#[derive(Default)]
struct Pending {
    /// At most one entry per agent.
    agents: HashMap<CollectorId, Mark>,
    /// How many of them cannot wait.
    urgent: usize,
}

struct Mark {
    heard: Heard,
    is_urgent: bool,
    /// Whether the times are not written yet; lines that wait remain after they are.
    has_new_times: bool,
    /// When the first of what the lines gathered was heard.
    lines_since: Timestamp,
}

impl Mark {
    /// Whether lines are written together with the times.
    fn has_due_lines(&self) -> bool {
        let is_polled = |line: &Line| line.connection == 0;
        let waited = self.heard.seen_at.since(self.lines_since);
        self.is_urgent || waited >= LINES_GATHER_FOR || self.heard.lines.iter().any(is_polled)
    }
}

/// What of the marks is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// What cannot wait.
    Urgent,
    /// When agents were heard, and lines that are due.
    Due,
    /// Everything, lines that could wait included.
    All,
}

impl Extent {
    /// What is to be written of a mark.
    fn of(self, mark: &Mark) -> Option<Heard> {
        let has_lines = match self {
            Self::Urgent if !mark.is_urgent => return None,
            Self::Due if !mark.is_urgent && !mark.has_new_times => return None,
            Self::Urgent | Self::All => true,
            Self::Due => mark.has_due_lines(),
        };
        let mut heard = mark.heard.clone();
        if !has_lines {
            heard.lines.clear();
        }
        Some(heard)
    }
}

impl Pending {
    fn remove(&mut self, id: CollectorId) -> Option<Mark> {
        let mark = self.agents.remove(&id)?;
        self.urgent -= usize::from(mark.is_urgent);
        Some(mark)
    }

    fn insert(&mut self, mark: Mark) {
        self.urgent += usize::from(mark.is_urgent);
        self.agents.insert(mark.heard.id, mark);
    }
}

/// Whether others are to know soon what became of an agent, rather than only that it is still there.
fn is_urgent(record: &Record, before: Option<&Record>) -> bool {
    let Some(before) = before else {
        return true;
    };
    let has_changed = |line: &Line| {
        before.line(line.key).is_none_or(|known| {
            (known.connection, known.ended_at, known.need)
                != (line.connection, line.ended_at, line.need)
        })
    };
    record.interval() < PATIENT_INTERVAL || record.lines.iter().any(has_changed)
}

impl Presence {
    pub(crate) fn new(database: Database) -> Self {
        Self(Arc::new(Shared {
            database,
            pending: Mutex::default(),
            many: Notify::new(),
        }))
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.0
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent was heard, of which so much was known before. Memory only.
    pub(crate) fn heard(&self, record: &Record, before: Option<&Record>) {
        let Some(seen_at) = record.seen_at() else {
            return;
        };
        // What was silent for long was written long ago, or waits here.
        let is_new = |line: &&Line| seen_at.since(line.seen_at) < WRITTEN_BY_NOW;
        let mut lines: Vec<Line> = record.lines.iter().filter(is_new).cloned().collect();
        let mut is_urgent = is_urgent(record, before);
        let mut lines_since = seen_at;
        let mut pending = self.pending();
        if let Some(mark) = pending.remove(record.id) {
            is_urgent |= mark.is_urgent;
            lines_since = lines_since.min(mark.lines_since);
            let waiting = mark.heard;
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
        pending.insert(Mark {
            heard,
            is_urgent,
            has_new_times: true,
            lines_since,
        });
        if is_urgent && pending.urgent == MAX_BATCH_ROWS {
            self.0.many.notify_one();
        }
    }

    /// What was heard of an agent and is not written yet.
    pub(crate) fn waiting(&self, id: CollectorId) -> Vec<Line> {
        let pending = self.pending();
        pending
            .agents
            .get(&id)
            .map(|mark| mark.heard.lines.clone())
            .unwrap_or_default()
    }

    /// When an agent was last heard and when it went, if that is not written yet.
    pub(crate) fn waiting_times(&self, id: CollectorId) -> Option<(Timestamp, Option<Timestamp>)> {
        let pending = self.pending();
        let mark = pending.agents.get(&id)?;
        Some((mark.heard.seen_at, mark.heard.gone_at))
    }

    /// An agent is not there any more.
    pub(crate) fn forget(&self, id: CollectorId) {
        self.pending().remove(id);
    }

    /// Writes what gathered. What could not be written stays.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        self.write(Extent::All).await
    }

    async fn write(&self, extent: Extent) -> Result<(), StoreError> {
        loop {
            let batch: Vec<Heard> = {
                let pending = self.pending();
                if extent == Extent::Urgent && pending.urgent == 0 {
                    return Ok(());
                }
                let marks = pending.agents.values();
                let heard = marks.filter_map(|mark| extent.of(mark));
                heard.take(MAX_BATCH_ROWS).collect()
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
                let Some(mark) = pending.agents.get_mut(&written.id) else {
                    continue;
                };
                if mark.heard == *written {
                    pending.remove(written.id);
                } else if mark.heard.has_times_of(written) && !mark.is_urgent {
                    mark.has_new_times = false;
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
        let mut round = 0;
        while !stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(FLUSH_INTERVAL) => round += 1,
                () = self.0.many.notified(), if !is_failing => {}
                () = stop.cancelled() => break,
            }
            let extent = if round < FLUSHES_PER_ROUND {
                Extent::Urgent
            } else {
                Extent::Due
            };
            match self.write(extent).await {
                Ok(()) => {
                    is_failing = false;
                    round = if extent == Extent::Due { 0 } else { round };
                }
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
