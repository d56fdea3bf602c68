//! What is kept beside a host's row.

use muster_identity::HostId;
use muster_store::StoreError;

use crate::agents::Agents;
use crate::record::{HostCapabilities, HostEndUser, HostEvent, HostUser};
use crate::store;

impl Agents {
    /// What the programs of a host said that they can do.
    pub async fn capabilities_of(&self, host: HostId) -> Result<Vec<HostCapabilities>, StoreError> {
        store::capability::list(&mut &self.0.database, host).await
    }

    /// The newest events of a host, newest first.
    pub async fn events_of(&self, host: HostId, limit: u32) -> Result<Vec<HostEvent>, StoreError> {
        store::event::list(&mut &self.0.database, host, limit).await
    }

    /// The people who use a host.
    pub async fn end_users_of(&self, host: HostId) -> Result<Vec<HostEndUser>, StoreError> {
        store::user::list_end_users(&mut &self.0.database, host).await
    }

    /// The accounts on a host.
    pub async fn users_of(&self, host: HostId) -> Result<Vec<HostUser>, StoreError> {
        store::user::list(&mut &self.0.database, host).await
    }
}
