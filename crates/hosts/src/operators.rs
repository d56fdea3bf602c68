//! The operators' side: hosts in lists and one by one, what is done to them, and which ones a question is for.

use std::sync::Arc;
use std::time::Duration;

use muster_bus::{Bus, Hint};
use muster_clock::{Clock, Timestamp};
use muster_http::{Listing, Page, Problem};
use muster_identity::{
    Action, Actor, AgentKeyInfo, AuditEntry, HostId, Identity, IdentityError, Principal, Scope,
    TeamFilter, TeamId,
};
use muster_software::Software;
use muster_store::{Database, StoreError};
use serde_json::json;

use crate::checkin::{HOST_TOPIC, LABELS_TOPIC};
use crate::record::{
    HostCapabilities, HostEvent, HostRecord, HostUser, LabelId, LabelMembership, LabelRecord,
};
use crate::store;
use crate::store::operator::Filter;

/// A host that was not heard of for so long beyond its interval is offline.
pub(crate) const GRACE: Duration = Duration::from_secs(60);
/// A host is missing when it was not heard of for so long.
pub(crate) const MISSING_AFTER: Duration = Duration::from_secs(30 * 24 * 3_600);
/// A host is new for so long.
pub(crate) const NEW_FOR: Duration = Duration::from_secs(24 * 3_600);
/// How many hosts are deleted or moved at a time.
const MAX_AT_ONCE: usize = 10_000;
/// The longest name of a label, in characters.
const MAX_LABEL_CHARACTERS: usize = 255;

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

/// Which hosts are meant. See [`Hosts::select`].
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// All.
    pub all: bool,
    /// By id.
    pub host_ids: Vec<i64>,
    /// By host name, hardware UUID or serial number.
    pub hosts: Vec<String>,
    /// Labels by id.
    pub label_ids: Vec<i64>,
    /// Labels by name.
    pub labels: Vec<String>,
    /// Teams by id.
    pub team_ids: Vec<i64>,
    /// Platforms; `linux` means every distribution.
    pub platforms: Vec<String>,
}

/// The operators' side could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No such host, or none that may be seen.
    #[error("host {0} does not exist")]
    UnknownHost(String),
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
    /// What its programs said that they can do.
    pub capabilities: Vec<HostCapabilities>,
    /// Its keys.
    pub keys: Vec<AgentKeyInfo>,
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
];

struct Inner {
    database: Database,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    identity: Identity,
    software: Software,
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
        }))
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
        listing: &Listing,
        query: &HostQuery,
    ) -> Result<Filter, OperatorError> {
        let mut filter = Filter::new(self.now());
        filter.visible(&principal.visible_teams());
        if let Some(pattern) = listing.search_pattern() {
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
        Ok(filter)
    }

    /// A page of the hosts that the principal may see.
    pub async fn list(
        &self,
        principal: &Principal,
        listing: &Listing,
        query: &HostQuery,
    ) -> Result<Page<HostRecord>, OperatorError> {
        let filter = self.filter(principal, listing, query)?;
        let mut db = &self.0.database;
        let total = store::operator::count(&mut db, &filter).await?;
        let hosts = store::operator::list(&mut db, &filter, listing).await?;
        Ok(listing.page(hosts, total))
    }

    /// How many hosts there are by status and platform, of those that the principal may see.
    pub async fn count(
        &self,
        principal: &Principal,
        query: &HostQuery,
    ) -> Result<u64, OperatorError> {
        let listing = muster_http::ListingQuery::default().check(HOST_SORTS);
        let Ok(listing) = listing else { return Ok(0) };
        let filter = self.filter(principal, &listing, query)?;
        Ok(store::operator::count(&mut &self.0.database, &filter).await?)
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
        Ok(HostDetail {
            labels: store::operator::labels_of(&mut db, host.id).await?,
            users: store::user::list(&mut db, host.id).await?,
            capabilities: store::capability::list(&mut db, host.id).await?,
            keys: self.0.identity.agent_keys.list(host.id).await?,
            events: store::event::list(&mut db, host.id, 50).await?,
            host,
        })
    }

    /// The software inventories.
    pub fn software(&self) -> &Software {
        &self.0.software
    }

    /// Deletes hosts with everything known about them, and their keys: an agent that still calls is told that its key is
    /// invalid, and enrolls anew if its token is still good. Gives how many there were.
    pub async fn delete(&self, principal: &Principal, ids: &[HostId]) -> Result<u64, Problem> {
        let hosts = self.authorized(principal, Action::WriteHosts, ids).await?;
        let now = self.now();
        let done = async {
            let mut transaction = self.0.database.begin().await?;
            for host in &hosts {
                self.0
                    .identity
                    .agent_keys
                    .revoke_host(&mut transaction, host.id, now)
                    .await?;
                let details =
                    json!({ "hostname": host.facts.hostname, "identifier": host.identifier });
                let entry = AuditEntry::new("deleted_host", "host", host.id).before(details);
                self.0
                    .identity
                    .audit
                    .record(&mut transaction, &Actor::from(principal), entry, now)
                    .await?;
            }
            let ids: Vec<HostId> = hosts.iter().map(|host| host.id).collect();
            self.0.software.forget(&mut transaction, &ids).await?;
            store::operator::delete(&mut transaction, &ids).await?;
            transaction.commit().await
        };
        done.await.map_err(OperatorError::from)?;
        for host in &hosts {
            self.0.identity.agent_keys.revoked(host.id).await;
            self.hint(HOST_TOPIC, host.id).await;
        }
        Ok(hosts.len() as u64)
    }

    async fn authorized(
        &self,
        principal: &Principal,
        action: Action,
        ids: &[HostId],
    ) -> Result<Vec<HostRecord>, Problem> {
        if ids.len() > MAX_AT_ONCE {
            return Err(Problem::invalid(
                "ids",
                format!("must be at most {MAX_AT_ONCE} at a time"),
            ));
        }
        let mut filter = Filter::new(self.now());
        filter.visible(&principal.visible_teams());
        filter.ids(&ids.iter().map(|id| id.0).collect::<Vec<_>>());
        let hosts = store::operator::all(&mut &self.0.database, &filter)
            .await
            .map_err(OperatorError::from)?;
        for host in &hosts {
            principal.authorize(action, Scope::Team(host.team_id))?;
        }
        if hosts.is_empty() {
            principal.authorize(action, Scope::Anywhere)?;
        }
        Ok(hosts)
    }

    /// Moves hosts to a team, or out of all. It sticks: enrolling again with the same token keeps the team.
    pub async fn transfer(
        &self,
        principal: &Principal,
        ids: &[HostId],
        team: Option<TeamId>,
    ) -> Result<u64, Problem> {
        if let Some(team) = team
            && self.0.identity.teams.find(team).await.is_err()
        {
            return Err(Problem::invalid(
                "team_id",
                format!("team {team} does not exist"),
            ));
        }
        principal.authorize(Action::WriteHosts, Scope::Team(team))?;
        let hosts = self.authorized(principal, Action::WriteHosts, ids).await?;
        let now = self.now();
        let done = async {
            let mut transaction = self.0.database.begin().await?;
            for host in hosts.iter().filter(|host| host.team_id != team) {
                store::operator::set_team(&mut transaction, host.id, team, now).await?;
                let entry = AuditEntry::new("transferred_host", "host", host.id)
                    .before(json!({ "team_id": host.team_id }))
                    .after(json!({ "team_id": team }));
                self.0
                    .identity
                    .audit
                    .record(&mut transaction, &Actor::from(principal), entry, now)
                    .await?;
                self.0
                    .software
                    .transfer(&mut transaction, &[host.id], team)
                    .await?;
            }
            transaction.commit().await
        };
        done.await.map_err(OperatorError::from)?;
        for host in &hosts {
            self.hint(HOST_TOPIC, host.id).await;
        }
        Ok(hosts.len() as u64)
    }

    /// Has a host send its details at its next check-in.
    pub async fn refetch(&self, principal: &Principal, id: HostId) -> Result<(), Problem> {
        let host = self.find(principal, id).await?;
        principal.authorize(Action::ReadHosts, Scope::Team(host.team_id))?;
        store::operator::set_refetch(&mut &self.0.database, id)
            .await
            .map_err(OperatorError::from)?;
        self.hint(HOST_TOPIC, id).await;
        Ok(())
    }

    /// The hosts that a question is for, of the teams that may be asked: single hosts always; else those that are in any
    /// of the platform labels and in any of the other labels (with "All Hosts" every host), of any of the platforms, and
    /// of the teams when there are any.
    pub async fn select(
        &self,
        selection: &Selection,
        visible: &TeamFilter,
    ) -> Result<Vec<HostRecord>, OperatorError> {
        let mut db = &self.0.database;
        let now = self.now();
        let mut chosen: std::collections::BTreeMap<i64, HostRecord> =
            std::collections::BTreeMap::new();
        let mut add =
            |hosts: Vec<HostRecord>| chosen.extend(hosts.into_iter().map(|host| (host.id.0, host)));
        if !selection.host_ids.is_empty() {
            let mut filter = Filter::new(now);
            filter.visible(visible);
            filter.ids(&selection.host_ids);
            add(store::operator::all(&mut db, &filter).await?);
        }
        if !selection.hosts.is_empty() {
            let mut filter = Filter::new(now);
            filter.visible(visible);
            filter.identifiers(&selection.hosts);
            let hosts = store::operator::all(&mut db, &filter).await?;
            let unknown = unknown_names(&selection.hosts, &hosts);
            if !unknown.is_empty() {
                return Err(OperatorError::UnknownHosts(unknown));
            }
            add(hosts);
        }
        let labels = self.labels_of(selection).await?;
        let grouped = selection.all
            || !labels.is_empty()
            || !selection.platforms.is_empty()
            || !selection.team_ids.is_empty();
        if grouped {
            let mut filter = Filter::new(now);
            filter.visible(visible);
            let everybody = labels
                .iter()
                .any(|label| label.membership == LabelMembership::All);
            if !selection.all && !everybody {
                let ids = |builtin: bool| -> Vec<i64> {
                    labels
                        .iter()
                        .filter(|label| label.builtin == builtin)
                        .map(|label| label.id.0)
                        .collect()
                };
                for ids in [ids(true), ids(false)] {
                    filter.labels(&ids);
                }
            }
            if !selection.platforms.is_empty() {
                filter.platforms(&selection.platforms);
            }
            filter.teams(&selection.team_ids);
            add(store::operator::all(&mut db, &filter).await?);
        }
        Ok(chosen.into_values().collect())
    }

    async fn labels_of(&self, selection: &Selection) -> Result<Vec<LabelRecord>, OperatorError> {
        if selection.label_ids.is_empty() && selection.labels.is_empty() {
            return Ok(Vec::new());
        }
        let all = store::operator::labels(&mut &self.0.database).await?;
        let mut found = Vec::new();
        let mut unknown = Vec::new();
        for id in &selection.label_ids {
            match all.iter().find(|label| label.id.0 == *id) {
                Some(label) => found.push(label.clone()),
                None => unknown.push(id.to_string()),
            }
        }
        for name in &selection.labels {
            match all
                .iter()
                .find(|label| label.name.eq_ignore_ascii_case(name))
            {
                Some(label) => found.push(label.clone()),
                None => unknown.push(name.clone()),
            }
        }
        if unknown.is_empty() {
            Ok(found)
        } else {
            Err(OperatorError::UnknownLabels(unknown))
        }
    }

    /// All labels with how many hosts are in each.
    pub async fn labels(&self) -> Result<Vec<(LabelRecord, u64)>, OperatorError> {
        let mut db = &self.0.database;
        let counts = store::operator::label_counts(&mut db).await?;
        let labels = store::operator::labels(&mut db).await?;
        let count = |id: LabelId| {
            counts
                .iter()
                .find(|(label, _)| *label == id)
                .map_or(0, |(_, count)| *count)
        };
        Ok(labels
            .into_iter()
            .map(|label| (label.clone(), count(label.id)))
            .collect())
    }

    /// Makes a label: with a query, hosts that answer it with a row are in; without one, the hosts that are named.
    pub async fn create_label(
        &self,
        principal: &Principal,
        new: NewLabel,
    ) -> Result<LabelRecord, Problem> {
        principal.authorize(Action::WriteLabels, Scope::Team(None))?;
        let name = new.name.trim().to_owned();
        let characters = name.chars().count();
        if characters == 0 || characters > MAX_LABEL_CHARACTERS {
            let reason = format!("must have from 1 to {MAX_LABEL_CHARACTERS} characters");
            return Err(Problem::invalid("name", reason));
        }
        let dynamic = !new.query.trim().is_empty();
        if dynamic && !new.hosts.is_empty() {
            return Err(Problem::invalid(
                "hosts",
                "a label has either a query or hosts, not both",
            ));
        }
        let selection = Selection {
            hosts: new.hosts,
            ..Selection::default()
        };
        let members = self.select(&selection, &TeamFilter::All).await?;
        let now = self.now();
        let mut label = LabelRecord {
            id: LabelId(0),
            name: name.clone(),
            description: new.description,
            query: new.query,
            platform: new.platform,
            builtin: false,
            membership: if dynamic {
                LabelMembership::Dynamic
            } else {
                LabelMembership::Manual
            },
            created_at: now,
            updated_at: now,
            query_changed_at: now,
        };
        let done = async {
            let mut transaction = self.0.database.begin().await?;
            label.id =
                store::operator::insert_label(&mut transaction, &label, principal.user_id).await?;
            for host in &members {
                store::label::join(&mut transaction, host.id, &[label.id]).await?;
            }
            let entry = AuditEntry::new("created_label", "label", label.id.0).after(
                json!({ "name": label.name, "query": label.query, "platform": label.platform }),
            );
            self.0
                .identity
                .audit
                .record(&mut transaction, &Actor::from(principal), entry, now)
                .await?;
            transaction.commit().await
        };
        done.await
            .map_err(|error: StoreError| match error.is_duplicate() {
                true => OperatorError::DuplicateLabel(name),
                false => error.into(),
            })?;
        self.hint(LABELS_TOPIC, label.id.0).await;
        for host in &members {
            self.hint(HOST_TOPIC, host.id).await;
        }
        Ok(label)
    }

    /// Deletes a label; built-in ones stay.
    pub async fn delete_label(&self, principal: &Principal, id: LabelId) -> Result<(), Problem> {
        principal.authorize(Action::WriteLabels, Scope::Team(None))?;
        let labels = store::operator::labels(&mut &self.0.database)
            .await
            .map_err(OperatorError::from)?;
        let label = labels.into_iter().find(|label| label.id == id);
        let label = label.ok_or_else(|| Problem::not_found(format_args!("label {id}")))?;
        if label.builtin {
            return Err(Problem::invalid(
                "label",
                "built-in labels cannot be deleted",
            ));
        }
        let now = self.now();
        let done = async {
            let mut transaction = self.0.database.begin().await?;
            store::operator::delete_label(&mut transaction, id).await?;
            let entry = AuditEntry::new("deleted_label", "label", id.0)
                .before(json!({ "name": label.name }));
            self.0
                .identity
                .audit
                .record(&mut transaction, &Actor::from(principal), entry, now)
                .await?;
            transaction.commit().await
        };
        done.await.map_err(OperatorError::from)?;
        self.hint(LABELS_TOPIC, id.0).await;
        Ok(())
    }
}

/// What a new label is to be.
#[derive(Debug, Clone, Default)]
pub struct NewLabel {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The query whose rows make a host a member; empty for a label whose members are named.
    pub query: String,
    /// Platforms that the query is sent to, with commas; empty: all.
    pub platform: String,
    /// Its members, when it has no query: host names, UUIDs or serial numbers.
    pub hosts: Vec<String>,
}

fn unknown_names(names: &[String], hosts: &[HostRecord]) -> Vec<String> {
    let is = |host: &HostRecord, name: &str| {
        let facts = &host.facts;
        [
            &facts.hostname,
            &facts.uuid,
            &facts.hardware_serial,
            &host.identifier,
            &facts.computer_name,
        ]
        .iter()
        .any(|text| text.eq_ignore_ascii_case(name))
    };
    names
        .iter()
        .filter(|name| !hosts.iter().any(|host| is(host, name.trim())))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_online_for_its_shorter_interval_and_a_minute() {
        let mut host = crate::store::operator::tests::record();
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
