//! What `queries` has to know of hosts and settings: it knows neither of their crates' operators' sides.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use muster_clock::Timestamp;
use muster_hosts::{HostPresence, HostRecord, Hosts, OperatorError, Selection, presence_of};
use muster_identity::{HostId, TeamFilter};
use muster_queries::{Switches, Target, TargetError, TargetHost, Targets};
use muster_settings::SettingsService;
use muster_store::StoreError;

/// A host counts as new for so long after it enrolled.
const NEW_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Finds hosts for live queries.
pub struct HostTargets(pub Hosts);

/// What operators switched off.
pub struct SettingSwitches(pub SettingsService);

impl Switches for SettingSwitches {
    fn live_queries_disabled(&self) -> bool {
        self.0
            .current()
            .documents
            .organisation
            .live_queries_disabled
    }
}

#[async_trait]
impl Targets for HostTargets {
    async fn select(
        &self,
        target: &Target,
        visible: &TeamFilter,
        now: Timestamp,
    ) -> Result<Vec<TargetHost>, TargetError> {
        let selection = Selection {
            all: target.all,
            host_ids: target.host_ids.clone(),
            hosts: target.hosts.clone(),
            label_ids: target.label_ids.clone(),
            labels: target.labels.clone(),
            team_ids: target.team_ids.clone(),
            platforms: target.platforms.clone(),
        };
        let hosts = self.0.select(&selection, visible).await;
        let hosts = hosts.map_err(target_error)?;
        Ok(hosts.iter().map(|host| target_host(host, now)).collect())
    }

    async fn existing(&self, hosts: &[HostId]) -> Result<HashSet<HostId>, TargetError> {
        Ok(self.0.existing(hosts).await?)
    }
}

fn target_host(host: &HostRecord, now: Timestamp) -> TargetHost {
    let presence = presence_of(host, now);
    TargetHost {
        id: host.id,
        hostname: host.facts.hostname.clone(),
        display_name: host.display_name(),
        team_id: host.team_id,
        online: presence == HostPresence::Online,
        seen_at: host.seen_at,
        new: host.created_at.plus(NEW_TIME) >= now,
        missing: presence == HostPresence::Missing,
    }
}

fn target_error(error: OperatorError) -> TargetError {
    match error {
        OperatorError::UnknownLabels(names) => TargetError::UnknownLabels { names },
        OperatorError::UnknownHosts(names) => TargetError::UnknownHosts { names },
        OperatorError::UnknownHost(name) => TargetError::UnknownHosts { names: vec![name] },
        OperatorError::Store(error) => error.into(),
        OperatorError::Invalid { field, reason } => TargetError::Invalid { field, reason },
        other => StoreError::corrupt("find hosts", other.to_string()).into(),
    }
}
