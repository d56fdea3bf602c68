//! The hosts of teams, as far as deleting a team goes.

use std::sync::Arc;

use async_trait::async_trait;
use muster_bus::{Bus, Hint};
use muster_clock::Timestamp;
use muster_http::error_chain;
use muster_identity::{TeamBelongings, TeamId};
use muster_software::Software;
use muster_store::{Database, StoreError, Transaction};

use crate::HOST_TOPIC;
use crate::store::operator as store;

/// The hosts of teams. They stay, without a team.
pub(crate) struct TeamHosts {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) software: Software,
}

#[async_trait]
impl TeamBelongings for TeamHosts {
    fn kind(&self) -> &'static str {
        "hosts"
    }

    async fn owners(&self, database: &Database) -> Result<Vec<TeamId>, StoreError> {
        store::teams(&mut &*database).await
    }

    async fn release(
        &self,
        db: &mut Transaction,
        team: TeamId,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let hosts = store::leave_team(db, team, now).await?;
        self.software.leave_team(db, team).await?;
        Ok(hosts)
    }

    /// There may be any number of them, so memory forgets all hosts: each is read again at its next check-in.
    async fn released(&self) {
        if let Err(error) = self.bus.publish(Hint::new(HOST_TOPIC, "")).await {
            tracing::warn!(error = error_chain(&error), "could not publish a hint");
        }
    }
}
