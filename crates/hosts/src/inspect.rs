//! What is kept beside a host's row.

use muster_identity::HostId;
use muster_software::Software;
use muster_store::StoreError;

use crate::agents::Agents;
use crate::record::{HostCapabilities, HostEndUser, HostEvent, HostRecord, HostUser};
use crate::store;

impl Agents {
    /// One host as it is kept; none when it does not exist.
    pub async fn find_host(&self, host: HostId) -> Result<Option<HostRecord>, StoreError> {
        store::host::find(&mut &self.0.database, host).await
    }

    /// The inventories of hosts.
    pub fn software(&self) -> &Software {
        self.0.check_in.software()
    }

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
