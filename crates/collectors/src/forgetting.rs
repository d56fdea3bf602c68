//! Collectors are forgotten, many at a time: those that an operator's filter names, and those that stay away, if operators want
//! that.
//!
//! What goes is what an operator's deletion of one takes away. They go in units of work of a hundred with a pause between, so
//! that agents are answered meanwhile; whether each is still meant is looked at when it goes. Those that are revoked do not go
//! for staying away: what is known of them keeps them out.
//!
//! As with hosts, a server that was off for a month, or whose clock is wrong, knows nothing of who stayed away.

use std::sync::Arc;
use std::time::Duration;

use muster_clock::{Settling, Timestamp};
use muster_http::error_chain;
use muster_identity::{Action, Actor, AuditEntry, CollectorId, Principal, RefusedKey};
use muster_replicas::Lease;
use muster_store::StoreError;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::operators::CollectorQuery;
use crate::store::operator::Filter;
use crate::{Collectors, OperatorError, store};

/// How often it is looked for collectors that stayed away, and at the clock.
const TICK: Duration = Duration::from_secs(60);
/// How many collectors go in one unit of work.
const BATCH: i64 = 100;
/// How long others are let at the database between two of them.
const PAUSE: Duration = Duration::from_millis(50);
/// How many collectors go by one request at most; whoever wants more asks again.
pub(crate) const MAX_DELETED: u64 = 1_000;

/// After how long collectors are forgotten that stay away.
pub trait CollectorExpirySource: Send + Sync + 'static {
    /// What is in force; none: never. Memory only.
    fn collector_expiry(&self) -> Option<Duration>;
}

/// What a filter comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Matched {
    /// How many collectors there are.
    pub(crate) total: u64,
    /// How many of them are online.
    pub(crate) online: u64,
    /// How many of them are revoked.
    pub(crate) revoked: u64,
}

impl Collectors {
    /// How many collectors a filter names that the principal may delete.
    pub(crate) async fn deletable(
        &self,
        principal: &Principal,
        search: Option<String>,
        query: &CollectorQuery,
    ) -> Result<Matched, OperatorError> {
        // Whoever was heard here a moment ago is not offline.
        self.flush().await?;
        let filter = self.deletable_filter(principal, search, query)?;
        let counts = store::operator::counts(&mut self.database(), &filter, self.now()).await?;
        let mut matched = Matched::default();
        for ((standing, _), (total, online)) in counts {
            matched.total += total;
            matched.online += online;
            if standing == "revoked" {
                matched.revoked += total;
            }
        }
        Ok(matched)
    }

    /// Deletes collectors that a filter names and the principal may delete, some thousand at most; gives how many.
    pub(crate) async fn delete_some(
        &self,
        principal: &Principal,
        search: Option<String>,
        query: &CollectorQuery,
    ) -> Result<u64, OperatorError> {
        let filter = self.deletable_filter(principal, search, query)?;
        let actor = Actor::from(principal);
        Ok(self
            .delete_all(&actor, &filter, false, MAX_DELETED, None)
            .await?)
    }

    /// Deletes collectors that stay away, until `stop`; where that is this replica's turn.
    pub async fn run_expiry(
        &self,
        source: Arc<dyn CollectorExpirySource>,
        upkeep: &Lease,
        stop: CancellationToken,
    ) {
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut settling = Settling::new(self.now(), TICK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => {}
            }
            if settling.jumped(self.now()) {
                tracing::warn!(
                    "the clock jumped; collectors that stayed away are left alone for an hour"
                );
            }
            if settling.is_over()
                && upkeep.is_held()
                && let Some(after) = source.collector_expiry()
                && let Err(error) = self.expire_until(after, Some(&stop)).await
            {
                tracing::warn!(
                    error = error_chain(&error),
                    "collectors that stayed away could not be deleted; it is tried again"
                );
            }
        }
    }

    /// Deletes the collectors that stayed away for so long and are not revoked; gives how many.
    pub async fn expire(&self, after: Duration) -> Result<u64, StoreError> {
        self.expire_until(after, None).await
    }

    async fn expire_until(
        &self,
        after: Duration,
        stop: Option<&CancellationToken>,
    ) -> Result<u64, StoreError> {
        let mut filter = Filter::new(self.now());
        filter.stayed_away(self.now().minus(after));
        let expired = self
            .delete_all(&Actor::system(), &filter, true, u64::MAX, stop)
            .await?;
        if expired > 0 {
            tracing::info!(collectors = expired, "deleted collectors that stayed away");
            metrics::counter!("muster_collectors_expired_total").increment(expired);
        }
        Ok(expired)
    }

    /// Those of a list that the principal may also change.
    fn deletable_filter(
        &self,
        principal: &Principal,
        search: Option<String>,
        query: &CollectorQuery,
    ) -> Result<Filter, OperatorError> {
        let mut filter = self.filter(principal, search, query)?;
        filter.visible(&principal.teams_for(Action::WriteHosts));
        Ok(filter)
    }

    async fn delete_all(
        &self,
        actor: &Actor,
        filter: &Filter,
        is_expiry: bool,
        most: u64,
        stop: Option<&CancellationToken>,
    ) -> Result<u64, StoreError> {
        let (mut after, mut deleted) = (CollectorId(0), 0);
        while deleted < most && !stop.is_some_and(CancellationToken::is_cancelled) {
            let ids = store::operator::ids(&mut self.database(), filter, after, BATCH).await?;
            let Some(last) = ids.last() else {
                break;
            };
            after = *last;
            deleted += self.delete_batch(actor, filter, is_expiry, &ids).await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(deleted)
    }

    /// Deletes those of some collectors that a filter still names, in one unit of work.
    async fn delete_batch(
        &self,
        actor: &Actor,
        filter: &Filter,
        is_expiry: bool,
        ids: &[CollectorId],
    ) -> Result<u64, StoreError> {
        let done = self
            .try_delete_batch(actor, filter, is_expiry, ids, self.now())
            .await;
        // Also after an error: when the answer to the commit is lost it may have been kept, and looking again harms not.
        for id in done.as_deref().unwrap_or(ids) {
            self.identity().collector_keys.changed(*id).await;
            self.gone(*id).await;
        }
        Ok(done?.len() as u64)
    }

    async fn try_delete_batch(
        &self,
        actor: &Actor,
        filter: &Filter,
        is_expiry: bool,
        ids: &[CollectorId],
        now: Timestamp,
    ) -> Result<Vec<CollectorId>, StoreError> {
        let identity = self.identity();
        let mut db = self.database().begin().await?;
        let mut gone = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(deleted) = store::operator::delete_if(&mut db, filter, *id).await? else {
                continue;
            };
            identity
                .collector_keys
                .revoke_collector(&mut db, actor, *id, RefusedKey::Deleted, now)
                .await?;
            let mut details = json!({ "name": deleted.name, "host_name": deleted.host_name });
            if is_expiry {
                details["expired"] = true.into();
            }
            let entry = AuditEntry::new("deleted_collector", "collector", *id).before(details);
            identity.audit.record(&mut db, actor, entry, now).await?;
            gone.push(*id);
        }
        db.commit().await?;
        Ok(gone)
    }
}
