//! When hosts were last heard, written in batches.
//!
//! Every request of an agent marks its host. The marks gather in memory, one per host, and are written with one
//! statement each second, or sooner when many gathered. When the database is away they stay and are tried again; a stop
//! writes what is left. What is lost by a crash is at most a second of marks, which the next requests set again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_clock::{Clock, Timestamp};
use muster_http::error_chain;
use muster_identity::HostId;
use muster_store::{Database, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::store;
use crate::store::presence::MAX_BATCH_ROWS;

/// How long marks gather.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// How often a stop tries to write what is left before it gives up.
const LAST_ATTEMPTS: u32 = 5;

/// Marks of hosts that were heard. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Presence(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    database: Database,
    /// At most one entry per enrolled host.
    pending: Mutex<HashMap<HostId, Timestamp>>,
    many: Notify,
}

impl Presence {
    /// No marks yet.
    pub fn new(database: Database) -> Self {
        Self(Arc::new(Shared {
            database,
            pending: Mutex::default(),
            many: Notify::new(),
        }))
    }

    /// A host was heard. Memory only.
    pub fn seen(&self, host: HostId, now: Timestamp) {
        let mut pending = self
            .0
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mark = pending.entry(host).or_insert(now);
        *mark = (*mark).max(now);
        if pending.len() == MAX_BATCH_ROWS {
            self.0.many.notify_one();
        }
    }

    /// How many hosts were heard whose marks are not written yet.
    pub fn waiting(&self) -> usize {
        let pending = self.0.pending.lock();
        pending.unwrap_or_else(PoisonError::into_inner).len()
    }

    /// When a host was heard, as far as that is not written yet.
    pub fn pending(&self, host: HostId) -> Option<Timestamp> {
        let pending = self
            .0
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pending.get(&host).copied()
    }

    /// Writes what gathered, in statements of at most a thousand hosts. What could not be written stays.
    pub async fn flush(&self) -> Result<(), StoreError> {
        loop {
            let batch: Vec<(HostId, Timestamp)> = {
                let pending = self
                    .0
                    .pending
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let batch = pending.iter().take(MAX_BATCH_ROWS);
                batch.map(|(host, at)| (*host, *at)).collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            store::presence::upsert(&mut &self.0.database, &batch).await?;
            let mut pending = self
                .0
                .pending
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for (host, written) in &batch {
                // One that was heard again meanwhile is still to be written.
                if pending.get(host) == Some(written) {
                    pending.remove(host);
                }
            }
            if batch.len() < MAX_BATCH_ROWS {
                return Ok(());
            }
        }
    }

    /// Writes marks until `stop`, then what is left.
    pub async fn run(self, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let mut failing_since: Option<Timestamp> = None;
        while !stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(FLUSH_INTERVAL) => {}
                () = self.0.many.notified(), if failing_since.is_none() => {}
                () = stop.cancelled() => break,
            }
            match (self.flush().await, failing_since) {
                (Ok(()), None) => {}
                (Ok(()), Some(since)) => {
                    tracing::info!(%since, "presence is written again");
                    failing_since = None;
                }
                (Err(error), None) => {
                    tracing::warn!(
                        error = error_chain(&error),
                        "presence could not be written; it is kept"
                    );
                    failing_since = Some(clock.now());
                }
                (Err(_), Some(_)) => {}
            }
        }
        for attempt in 1..=LAST_ATTEMPTS {
            match self.flush().await {
                Ok(()) => return,
                Err(error) if attempt == LAST_ATTEMPTS => {
                    tracing::error!(
                        error = error_chain(&error),
                        "presence of the last moments is lost"
                    );
                }
                Err(_) => tokio::time::sleep(FLUSH_INTERVAL / 4).await,
            }
        }
    }
}
