//! What belongs to teams in other crates, and how it is let go when a team is deleted.
//!
//! Identity knows only that a team exists. Crates whose rows name teams attach what they keep to
//! [`Teams`](crate::Teams); deleting a team lets go of all of it in the same unit of work. Whatever came to a team at
//! that very moment is found by a check that runs at the start and every few minutes.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use muster_clock::Timestamp;
use muster_store::{Database, StoreError, Transaction};

use crate::TeamId;

/// What a crate keeps for teams.
#[async_trait]
pub trait TeamBelongings: Send + Sync + 'static {
    /// What it is, as the audit log names it: `hosts`.
    fn kind(&self) -> &'static str;

    /// The teams that something belongs to, whether or not they exist.
    async fn owners(&self, database: &Database) -> Result<Vec<TeamId>, StoreError>;

    /// Lets go of everything that belongs to a team, as a part of a unit of work, and gives how much that was. Doing it
    /// twice is no error.
    async fn release(
        &self,
        db: &mut Transaction,
        team: TeamId,
        now: Timestamp,
    ) -> Result<u64, StoreError>;

    /// The unit of work is kept, and something was let go: whoever holds it in memory is to read anew.
    async fn released(&self);
}

/// Everything that was attached. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Attached(Arc<RwLock<Vec<Arc<dyn TeamBelongings>>>>);

impl Attached {
    pub(crate) fn add(&self, belongings: Arc<dyn TeamBelongings>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.push(belongings);
    }

    pub(crate) fn all(&self) -> Vec<Arc<dyn TeamBelongings>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }
}
