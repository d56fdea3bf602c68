//! The operators' side: hosts in lists and one by one, what is done to them, and which ones a question is for.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use muster_bus::{Bus, Hint};
use muster_clock::{Clock, Timestamp};
use muster_http::{Listing, Page, Problem};
use muster_identity::{
    AgentKeyInfo, HostId, Identity, IdentityError, Principal, TeamBelongings, TeamId, TokenLabels,
};
use muster_negotiation::{Offer, Release};
use muster_replicas::Standing;
use muster_software::Software;
use muster_store::{Database, StoreError};

use crate::belongings::TeamHosts;
use crate::companions::{Companions, HostCollector, HostCollectors};
use crate::record::{HostCapabilities, HostEndUser, HostEvent, HostRecord, HostUser, LabelRecord};
use crate::store;
use crate::store::operator::Filter;
use crate::token_labels::LabelsOfTokens;

mod assign;
mod change;
pub(crate) mod keys;
mod labels;
mod select;
mod skew;

pub use assign::Membership;
pub use keys::{Ban, KeyRotation};
pub use labels::{LabelChange, LabelSpecification, NewLabel};
pub use select::Selection;
pub use skew::{
    DarkBecause, DarkFeature, DarkHost, FeatureSummary, ProgramCount, SKEW_SORTS, SkewQuery,
};

/// A host that was not heard of for so long beyond its interval is offline.
pub(crate) const GRACE: Duration = Duration::from_secs(60);
/// A host is missing when it was not heard of for so long.
pub(crate) const MISSING_AFTER: Duration = Duration::from_secs(30 * 24 * 3_600);
/// A host is new for so long.
pub(crate) const NEW_FOR: Duration = Duration::from_secs(24 * 3_600);
/// How a host stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It was heard of within its interval and a minute.
    Online,
    /// It was not.
    Offline,
    /// It was not heard of for a month.
    Missing,
}

impl Presence {
    /// The text of our API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Missing => "missing",
        }
    }
}

/// How a host stands at a time.
pub fn presence(host: &HostRecord, now: Timestamp) -> Presence {
    let Some(seen_at) = host.seen_at else {
        return Presence::Offline;
    };
    let intervals = [
        host.facts.distributed_interval_seconds,
        host.facts.config_interval_seconds,
    ];
    let interval = intervals
        .into_iter()
        .flatten()
        .filter(|seconds| *seconds > 0)
        .min();
    let interval =
        Duration::from_secs(interval.unwrap_or(store::operator::DEFAULT_INTERVAL_SECONDS) as u64);
    if seen_at.plus(interval + GRACE) >= now {
        Presence::Online
    } else if seen_at.plus(MISSING_AFTER) >= now {
        Presence::Offline
    } else {
        Presence::Missing
    }
}

/// The operators' side could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No such host, or none that may be seen.
    #[error("host {0} does not exist")]
    UnknownHost(String),
    /// No such label.
    #[error("label {0} does not exist")]
    UnknownLabel(String),
    /// Labels that do not exist.
    #[error("Invalid label name(s): {}", .0.join(", "))]
    UnknownLabels(Vec<String>),
    /// Hosts that do not exist.
    #[error("no such host: {}", .0.join(", "))]
    UnknownHosts(Vec<String>),
    /// A value is not allowed.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which one.
        field: &'static str,
        /// What would be right.
        reason: String,
    },
    /// A label of that name is there.
    #[error("a label named {0:?} already exists")]
    DuplicateLabel(String),
    /// Teams and keys.
    #[error("ask who is who")]
    Identity(#[from] IdentityError),
    /// The database.
    #[error("reach the store of hosts")]
    Store(#[from] StoreError),
}

impl From<OperatorError> for Problem {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::UnknownHost(id) => Self::not_found(format_args!("host {id}")),
            OperatorError::UnknownLabel(id) => Self::not_found(format_args!("label {id}")),
            OperatorError::UnknownLabels(_) | OperatorError::UnknownHosts(_) => {
                Self::bad_request(error.to_string())
            }
            OperatorError::Invalid { field, reason } => Self::invalid(field, reason),
            OperatorError::DuplicateLabel(_) => Self::conflict(error.to_string()),
            OperatorError::Identity(error) => error.into(),
            OperatorError::Store(error) => error.into(),
        }
    }
}

/// Everything that is known about one host beside its record.
#[derive(Debug, Clone)]
pub struct HostDetail {
    /// Its record.
    pub host: HostRecord,
    /// Its labels.
    pub labels: Vec<LabelRecord>,
    /// The accounts on it.
    pub users: Vec<HostUser>,
    /// The people who use it.
    pub end_users: Vec<HostEndUser>,
    /// What its programs said that they can do.
    pub capabilities: Vec<HostCapabilities>,
    /// Its keys.
    pub keys: Vec<AgentKeyInfo>,
    /// Why it may not come back, if it is banned.
    pub ban: Option<Ban>,
    /// The host that it was told from.
    pub clone_of: Option<HostId>,
    /// Hosts that were told from it.
    pub clones: Vec<HostId>,
    /// The collectors on it.
    pub collectors: Vec<HostCollector>,
    /// What happened to it, newest first.
    pub events: Vec<HostEvent>,
}

/// Narrows down a list of hosts.
#[derive(Debug, Clone, Default)]
pub struct HostQuery {
    /// `online`, `offline`, `missing` or `new`.
    pub status: Option<String>,
    /// Only hosts of this team; 0 for hosts without one.
    pub team_id: Option<i64>,
    /// Only hosts in this label.
    pub label_id: Option<i64>,
    /// Only hosts of this platform; `linux` means every distribution.
    pub platform: Option<String>,
    /// Only hosts whose operating system is called so: `Ubuntu 22.04.3 LTS`.
    pub os_version: Option<String>,
    /// Only hosts with less free disk space than so many gigabytes.
    pub low_disk_gb: Option<i64>,
    /// Only hosts that have this version of a piece of software.
    pub software_version_id: Option<i64>,
    /// Only hosts that have any version of this piece of software.
    pub software_title_id: Option<i64>,
    /// Only hosts with a higher id.
    pub after_id: Option<i64>,
}

/// Fields that lists of hosts can be sorted by.
pub const HOST_SORTS: &[&str] = &[
    "display_name",
    "hostname",
    "id",
    "seen_at",
    "enrolled_at",
    "created_at",
    "platform",
    "os_version",
    "team_id",
    "hardware_serial",
    "uuid",
    "primary_ip",
    "memory_bytes",
    "osquery_version",
    "hardware_model",
    "computer_name",
    "public_ip",
    "updated_at",
];

struct Inner {
    database: Database,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    identity: Identity,
    software: Software,
    standing: OnceLock<Standing>,
    companions: Companions,
}

/// How many hosts stand how. A host that is missing is offline, too, and a new one is online or offline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// All of them.
    pub total: u64,
    /// Heard within their interval.
    pub online: u64,
    /// Not heard within their interval.
    pub offline: u64,
    /// Not heard for long.
    pub missing: u64,
    /// Enrolled lately.
    pub new: u64,
}

/// Hosts as operators see them. Cheap to clone.
#[derive(Clone)]
pub struct Hosts(Arc<Inner>);

impl Hosts {
    /// Puts the parts together.
    pub fn new(
        database: Database,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        identity: Identity,
        software: Software,
    ) -> Self {
        Self(Arc::new(Inner {
            database,
            bus,
            clock,
            identity,
            software,
            standing: OnceLock::new(),
            companions: Companions::default(),
        }))
    }

    /// Has it know what servers say to agents. Once, before the first request; until then this one is alone and says all that
    /// its release can do.
    pub fn attach_standing(&self, standing: &Standing) {
        let _ = self.0.standing.set(standing.clone());
    }

    /// Has whoever keeps collectors be asked which run on a host, and be told when hosts go. Only the first is attached.
    pub fn attach_collectors(&self, collectors: Arc<dyn HostCollectors>) {
        self.0.companions.attach(collectors);
    }

    /// Whoever keeps collectors.
    pub(crate) fn companions(&self) -> Option<&dyn HostCollectors> {
        self.0.companions.get()
    }

    /// What servers say to agents.
    pub(crate) fn standing(&self) -> &Standing {
        let alone = || Standing::alone(Offer::of(Release::current()));
        self.0.standing.get_or_init(alone)
    }

    pub(crate) fn database(&self) -> &Database {
        &self.0.database
    }

    /// The hosts of teams, to be attached to them.
    pub fn belongings(&self) -> Arc<dyn TeamBelongings> {
        Arc::new(TeamHosts {
            bus: Arc::clone(&self.0.bus),
            software: self.0.software.clone(),
        })
    }

    /// The labels that enrollment tokens give, to be attached to them.
    pub fn token_labels(&self) -> Arc<dyn TokenLabels> {
        Arc::new(LabelsOfTokens)
    }

    /// How many hosts are in each team; a team without hosts is left out.
    pub async fn team_counts(&self) -> Result<HashMap<TeamId, u64>, OperatorError> {
        Ok(store::operator::team_counts(&mut &self.0.database).await?)
    }

    /// How many hosts there are, and how they stand now.
    pub async fn census(&self) -> Result<Census, OperatorError> {
        let db = &self.0.database;
        let count = async |status: Option<&str>| {
            let mut filter = Filter::new(self.now());
            if let Some(status) = status {
                filter.status(status);
            }
            store::operator::count(&mut { db }, &filter).await
        };
        let total = count(None).await?;
        let online = count(Some("online")).await?;
        Ok(Census {
            total,
            online,
            offline: total.saturating_sub(online),
            missing: count(Some("missing")).await?,
            new: count(Some("new")).await?,
        })
    }

    /// The present time, for rooms that show how hosts stand now.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Teams, for rooms that show their names.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    async fn hint(&self, topic: muster_bus::Topic, key: impl ToString) {
        if let Err(error) = self.0.bus.publish(Hint::new(topic, key)).await {
            tracing::warn!(
                error = muster_http::error_chain(&error),
                "could not publish a hint"
            );
        }
    }

    fn filter(
        &self,
        principal: &Principal,
        search: Option<String>,
        query: &HostQuery,
    ) -> Result<Filter, OperatorError> {
        let mut filter = Filter::new(self.now());
        filter.visible(&principal.visible_teams());
        if let Some(pattern) = search {
            filter.search(&pattern);
        }
        if let Some(status) = query.status.as_deref().filter(|status| !status.is_empty())
            && !filter.status(status)
        {
            let reason = "must be online, offline, missing, mia or new".to_owned();
            return Err(OperatorError::Invalid {
                field: "status",
                reason,
            });
        }
        if let Some(team) = query.team_id {
            filter.team(team);
        }
        if let Some(label) = query.label_id {
            filter.label(label);
        }
        if let Some(platform) = query
            .platform
            .as_deref()
            .filter(|platform| !platform.is_empty())
        {
            filter.platforms(&[platform.to_owned()]);
        }
        if let Some(name) = &query.os_version {
            filter.os_version(name);
        }
        if let Some(gigabytes) = query.low_disk_gb {
            filter.low_disk(gigabytes);
        }
        if let Some(id) = query.software_version_id {
            filter.software(muster_software::hosts_with_version, id);
        }
        if let Some(id) = query.software_title_id {
            filter.software(muster_software::hosts_with_title, id);
        }
        if let Some(id) = query.after_id {
            filter.after_id(id);
        }
        Ok(filter)
    }

    /// A page of the hosts that the principal may see.
    pub async fn list(
        &self,
        principal: &Principal,
        listing: &Listing,
        query: &HostQuery,
    ) -> Result<Page<HostRecord>, OperatorError> {
        let filter = self.filter(principal, listing.search_pattern(), query)?;
        let mut db = &self.0.database;
        let total = store::operator::count(&mut db, &filter).await?;
        let hosts = store::operator::list(&mut db, &filter, listing).await?;
        Ok(listing.page(hosts, total))
    }

    /// How many hosts there are, of those that the principal may see.
    pub async fn count(
        &self,
        principal: &Principal,
        search: Option<&str>,
        query: &HostQuery,
    ) -> Result<u64, OperatorError> {
        let filter = self.filter(principal, search_pattern(search), query)?;
        Ok(store::operator::count(&mut &self.0.database, &filter).await?)
    }

    /// The ids of hosts that have something in common, of those that the principal may see.
    pub async fn matching(
        &self,
        principal: &Principal,
        search: Option<&str>,
        query: &HostQuery,
    ) -> Result<Vec<HostId>, OperatorError> {
        let filter = self.filter(principal, search_pattern(search), query)?;
        Ok(store::operator::ids(&mut &self.0.database, &filter).await?)
    }

    /// How many hosts there are of each platform, of those that the principal may see.
    pub async fn platforms(
        &self,
        principal: &Principal,
        team: Option<i64>,
    ) -> Result<Vec<(String, u64)>, OperatorError> {
        let mut filter = Filter::new(self.now());
        filter.visible(&principal.visible_teams());
        if let Some(team) = team {
            filter.team(team);
        }
        Ok(store::operator::platforms(&mut &self.0.database, &filter).await?)
    }

    /// One host, if the principal may see it.
    pub async fn find(
        &self,
        principal: &Principal,
        id: HostId,
    ) -> Result<HostRecord, OperatorError> {
        let host = store::host::find(&mut &self.0.database, id).await?;
        let visible = principal.visible_teams();
        host.filter(|host| visible.admits(host.team_id))
            .ok_or_else(|| OperatorError::UnknownHost(id.to_string()))
    }

    /// The host of a host name, hardware UUID, serial number or osquery identifier, without regard to case. Of several,
    /// the one that was heard of last.
    pub async fn find_by_identifier(
        &self,
        principal: &Principal,
        identifier: &str,
    ) -> Result<HostRecord, OperatorError> {
        let mut filter = Filter::new(self.now());
        filter.visible(&principal.visible_teams());
        filter.identifiers(&[identifier.to_owned()]);
        let host = store::operator::first(&mut &self.0.database, &filter).await?;
        host.ok_or_else(|| OperatorError::UnknownHost(format!("{identifier:?}")))
    }

    /// Everything that is known about a host.
    pub async fn detail(&self, host: HostRecord) -> Result<HostDetail, OperatorError> {
        let mut db = &self.0.database;
        let collectors = match self.companions() {
            Some(companions) => companions.on_host(db, host.id, host.team_id).await?,
            None => Vec::new(),
        };
        Ok(HostDetail {
            collectors,
            labels: store::operator::labels_of(&mut db, host.id).await?,
            end_users: store::user::list_end_users(&mut db, host.id).await?,
            users: store::user::list(&mut db, host.id).await?,
            capabilities: store::capability::list(&mut db, host.id).await?,
            keys: self.0.identity.agent_keys.list(host.id).await?,
            ban: store::keys::find_ban(&mut db, host.id).await?,
            clone_of: store::keys::clone_of(&mut db, host.id).await?,
            clones: store::keys::clones(&mut db, host.id).await?,
            events: store::event::list(&mut db, host.id, 50).await?,
            host,
        })
    }

    /// The software inventories.
    pub fn software(&self) -> &Software {
        &self.0.software
    }
}

/// A search text as a pattern; none when there is nothing to search for.
fn search_pattern(search: Option<&str>) -> Option<String> {
    let listing = Listing {
        limit: 1,
        offset: 0,
        sort: HOST_SORTS[0],
        direction: muster_http::OrderDirection::Ascending,
        search: search
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
    };
    listing.search_pattern()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_online_for_its_shorter_interval_and_a_minute() {
        let mut host = crate::store::tests::record();
        let now = Timestamp::from_seconds(10_000_000);
        assert_eq!(presence(&host, now), Presence::Offline, "never heard of");
        host.facts.distributed_interval_seconds = Some(10);
        host.facts.config_interval_seconds = Some(60);
        for (ago, expected) in [
            (0, Presence::Online),
            (70, Presence::Online),
            (71, Presence::Offline),
            (30 * 24 * 3_600, Presence::Offline),
            (30 * 24 * 3_600 + 1, Presence::Missing),
        ] {
            host.seen_at = Some(now.minus(Duration::from_secs(ago)));
            assert_eq!(presence(&host, now), expected, "{ago}");
        }
        host.facts.distributed_interval_seconds = Some(0);
        host.facts.config_interval_seconds = None;
        host.seen_at = Some(now.minus(Duration::from_secs(70)));
        assert_eq!(
            presence(&host, now),
            Presence::Online,
            "an interval of 0 means the usual one"
        );
    }
}
