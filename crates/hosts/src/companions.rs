//! Collectors on hosts, as far as hosts go: whoever keeps collectors says which run on a host, and is told when a host goes.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use muster_clock::Timestamp;
use muster_identity::{Actor, CollectorId, HostId, TeamId};
use muster_store::{Database, StoreError, Transaction};
use serde::Serialize;
use utoipa::ToSchema;

/// A collector that runs on a host, or may.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct HostCollector {
    /// Its id.
    pub id: CollectorId,
    /// The name of its service, such as `otelcol-contrib`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `online`, `late` or `offline`.
    pub status: &'static str,
    /// `linked`, or `suggested` as long as nobody confirmed it.
    pub state: String,
    /// The attribute that named this host, such as `host.id`; `hand` when somebody linked the two.
    pub matched_by: String,
    /// Since when it is so.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// Whoever keeps collectors.
#[async_trait]
pub trait HostCollectors: Send + Sync + 'static {
    /// The collectors on a host of this team, the linked ones first.
    async fn on_host(
        &self,
        database: &Database,
        host: HostId,
        team: Option<TeamId>,
    ) -> Result<Vec<HostCollector>, StoreError>;

    /// Hosts are deleted, as a part of a unit of work: no collector is linked to any of them from now on.
    async fn hosts_deleted(
        &self,
        db: &mut Transaction,
        hosts: &[HostId],
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Somebody said that a host is another one, as a part of a unit of work: its collectors are the other one's.
    async fn host_merged(
        &self,
        db: &mut Transaction,
        host: HostId,
        into: HostId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// A host is moved to a team, as a part of a unit of work: it keeps only the collectors of that.
    async fn host_transferred(
        &self,
        db: &mut Transaction,
        host: HostId,
        team: Option<TeamId>,
        now: Timestamp,
    ) -> Result<(), StoreError>;
}

/// Whoever was attached.
#[derive(Default)]
pub(crate) struct Companions(OnceLock<Arc<dyn HostCollectors>>);

impl Companions {
    pub(crate) fn attach(&self, collectors: Arc<dyn HostCollectors>) {
        if self.0.set(collectors).is_err() {
            tracing::warn!("collectors are attached to hosts twice");
        }
    }

    /// Those that are there, if anybody keeps collectors.
    pub(crate) fn get(&self) -> Option<&dyn HostCollectors> {
        self.0.get().map(|collectors| &**collectors)
    }
}
