//! Hosts that stay away are deleted, if operators want that.
//!
//! A host counts from when it was last heard, or from when it enrolled. What is deleted is what an operator's deletion
//! deletes, by the same steps; the log of changes says that it ran out. A host that comes back enrolls anew.
//!
//! A server that was off for a month, or whose clock is wrong, knows nothing of who stayed away: nothing is deleted before
//! it has served for a while, and again after its clock jumped. Hosts that are well have told that by then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_clock::{Settling, Timestamp};
use muster_http::error_chain;
use muster_identity::{Actor, HostId, TeamId};
use muster_replicas::Lease;
use muster_store::StoreError;
use tokio_util::sync::CancellationToken;

use crate::operators::Hosts;
use crate::store;
use crate::store::expiry::Whose;
use crate::store::operator::Filter;

/// How often it is looked for hosts that stayed away, and at the clock.
const TICK: Duration = Duration::from_secs(60);
/// How many hosts go in one unit of work.
const BATCH: usize = 200;

/// After how long hosts are deleted that stay away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpiryRules {
    /// Hosts without a team, and of teams without a rule of their own; none: never.
    pub everybody: Option<Duration>,
    /// Teams with a rule of their own.
    pub teams: BTreeMap<TeamId, Duration>,
}

/// Where the rules come from.
pub trait ExpirySource: Send + Sync + 'static {
    /// What is in force. Memory only.
    fn expiry(&self) -> ExpiryRules;
}

impl Hosts {
    /// Deletes hosts that stayed away, until `stop`; where that is this replica's turn.
    pub async fn run_expiry(
        &self,
        source: Arc<dyn ExpirySource>,
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
                    "the clock jumped; hosts that stayed away are left alone for an hour"
                );
            }
            if settling.is_over()
                && upkeep.is_held()
                && let Err(error) = self.expire(&source.expiry()).await
            {
                tracing::warn!(
                    error = error_chain(&error),
                    "hosts that stayed away could not be deleted; it is tried again"
                );
            }
        }
    }

    /// Deletes the hosts that stayed away for longer than the rules allow; gives how many.
    pub async fn expire(&self, rules: &ExpiryRules) -> Result<u64, StoreError> {
        let now = self.now();
        let own: Vec<TeamId> = rules.teams.keys().copied().collect();
        let everybody = rules.everybody.map(|after| (Whose::AllBut(&own), after));
        let teams = rules
            .teams
            .iter()
            .map(|(team, after)| (Whose::Team(*team), *after));
        let mut expired = 0;
        for (whose, after) in everybody.into_iter().chain(teams) {
            expired += self.expire_some(whose, now.minus(after)).await?;
        }
        if expired > 0 {
            tracing::info!(hosts = expired, "deleted hosts that stayed away");
            metrics::counter!("muster_hosts_expired_total").increment(expired);
        }
        Ok(expired)
    }

    async fn expire_some(&self, whose: Whose<'_>, before: Timestamp) -> Result<u64, StoreError> {
        let database = self.database();
        let (mut after, mut expired) = (HostId(0), 0);
        loop {
            let silent =
                store::expiry::silent(&mut &*database, whose, before, after, BATCH).await?;
            let Some(last) = silent.last() else {
                return Ok(expired);
            };
            after = *last;
            let mut filter = Filter::new(self.now());
            filter.ids(&silent.iter().map(|id| id.0).collect::<Vec<_>>());
            let hosts = store::operator::all(&mut &*database, &filter).await?;
            expired += self
                .delete_expired(&Actor::system(), &hosts, before)
                .await?;
        }
    }
}
