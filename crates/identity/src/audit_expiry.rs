//! Old entries of the audit log are deleted, if operators want that.
//!
//! Nothing is deleted before the clock went evenly for a while, since a clock that is wrong would delete all. That they are is a
//! change of the settings, which the log tells for as long as it is kept.

use std::sync::Arc;
use std::time::Duration;

use muster_clock::Settling;
use muster_http::error_chain;
use muster_replicas::Lease;
use muster_store::StoreError;
use tokio_util::sync::CancellationToken;

use crate::store::audit as store;
use crate::{Audit, Identity};

/// How often the clock and the log are looked at.
const TICK: Duration = Duration::from_secs(10 * 60);
/// How many entries go in one unit of work.
const BATCH: u32 = 5_000;

/// Where it is decided for how long the audit log is kept.
pub trait AuditExpirySource: Send + Sync + 'static {
    /// What is in force; none: for ever. Memory only.
    fn audit_expiry(&self) -> Option<Duration>;
}

impl Identity {
    /// Deletes entries of the audit log that are older than operators want, until `stop`; where that is this replica's turn.
    pub async fn run_audit_expiry(
        &self,
        source: Arc<dyn AuditExpirySource>,
        upkeep: &Lease,
        stop: CancellationToken,
    ) {
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut settling = Settling::new(self.audit.context().now(), TICK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => {}
            }
            // Whoever deletes hosts says that the clock jumped.
            settling.jumped(self.audit.context().now());
            if settling.is_over()
                && upkeep.is_held()
                && let Some(after) = source.audit_expiry()
                && let Err(error) = self.audit.expire(after).await
            {
                tracing::warn!(
                    error = error_chain(&error),
                    "old entries of the audit log could not be deleted; it is tried again"
                );
            }
        }
    }
}

impl Audit {
    /// Deletes entries that are older than `after`; gives how many.
    pub async fn expire(&self, after: Duration) -> Result<u64, StoreError> {
        let before = self.context().now().minus(after);
        let mut expired = 0;
        loop {
            let batch = store::expire(&mut &self.context().database, before, BATCH).await?;
            if batch == 0 {
                break;
            }
            expired += batch;
        }
        if expired > 0 {
            tracing::info!(entries = expired, until = %before, "deleted old entries of the audit log");
        }
        Ok(expired)
    }
}
