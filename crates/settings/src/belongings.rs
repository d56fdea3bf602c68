//! The documents of teams, as far as deleting a team goes.

use std::sync::Arc;

use async_trait::async_trait;
use muster_bus::{Bus, Hint};
use muster_clock::Timestamp;
use muster_http::error_chain;
use muster_identity::{TeamBelongings, TeamId};
use muster_store::{Database, StoreError, Transaction};

use crate::{DOCUMENTS_TOPIC, store};

/// The documents of teams. They are forgotten.
pub(crate) struct TeamDocuments {
    pub(crate) bus: Arc<dyn Bus>,
}

#[async_trait]
impl TeamBelongings for TeamDocuments {
    fn kind(&self) -> &'static str {
        "settings"
    }

    async fn owners(&self, database: &Database) -> Result<Vec<TeamId>, StoreError> {
        let teams = store::teams(&mut &*database).await?;
        Ok(teams.into_iter().map(TeamId).collect())
    }

    async fn release(
        &self,
        db: &mut Transaction,
        team: TeamId,
        _: Timestamp,
    ) -> Result<u64, StoreError> {
        store::delete_team(db, team.0).await
    }

    /// Also this replica reads by the hint: nobody asks for the documents of a team that is gone.
    async fn released(&self) {
        if let Err(error) = self.bus.publish(Hint::new(DOCUMENTS_TOPIC, "")).await {
            tracing::warn!(error = error_chain(&error), "could not publish a hint");
        }
    }
}
