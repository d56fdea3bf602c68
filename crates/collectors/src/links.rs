//! One record of a machine: which host a collector runs on.
//!
//! A collector is linked to a host by itself only where one of its attributes is an identifier of a machine
//! ([`MACHINE_ATTRIBUTES`]) that exactly one host of its team has. Where several have it, or where only the host's name is
//! the same, the link is *suggested*, and somebody confirms it. Both teams are one, always: a link shows people of one team
//! nothing of another.
//!
//! What people decided stays: a link that was made or confirmed by hand holds whatever the attributes say, and one that was
//! undone or rejected does not come back by itself. A link that came by itself holds as long as its reason does.
//!
//! Collectors are looked at when their description or their team changes; all of them are walked through now and then, since
//! hosts come, too, and since servers of earlier releases delete hosts without a word. [`judge::judge`] is what becomes of a
//! collector's links, a pure function. A heartbeat costs nothing of all this.

pub(crate) mod judge;
mod operators;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use muster_clock::Timestamp;
use muster_hosts::{HostCollector, HostCollectors, Hosts, MachineId, Match, machine_name};
use muster_http::error_chain;
use muster_identity::{Actor, CollectorId, HostId, TeamId};
use muster_replicas::Lease;
use muster_store::{Database, StoreError, Transaction};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{Collectors, store};

use judge::{Change, judge};
pub(crate) use operators::{LinkWish, Shown};

/// Attributes whose value may be an identifier of the machine, the commonest first.
pub(crate) const MACHINE_ATTRIBUTES: [&str; 3] = ["host.id", "machine.id", "host.machine_id"];
/// The attribute with the machine's name.
pub(crate) const NAME_ATTRIBUTE: &str = "host.name";
/// All attributes that links come from.
pub(crate) const LINKING_ATTRIBUTES: [&str; 4] =
    ["host.id", "machine.id", "host.machine_id", NAME_ATTRIBUTE];
/// What a link came by that somebody made.
pub(crate) const BY_HAND: &str = "hand";

/// How many collectors are looked at together.
const BATCH: usize = 500;
/// How often all collectors are looked at.
const WALK_INTERVAL: Duration = Duration::from_secs(60);
/// How long is waited between two batches of that.
const WALK_PAUSE: Duration = Duration::from_millis(200);
/// How long descriptions gather before they are looked at: after a restart all collectors come at once.
const GATHER: Duration = Duration::from_millis(250);
/// How long is waited after a fault of the database.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What there is between a collector and a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) host_id: HostId,
    pub(crate) state: LinkState,
    /// The attribute that named the host, or [`BY_HAND`].
    pub(crate) matched_by: String,
    /// Its value; empty when somebody made the link.
    pub(crate) matched_value: String,
    pub(crate) since: Timestamp,
    /// Who decided it; empty when it came by itself.
    pub(crate) decided_by: String,
}

/// How far a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// The collector runs on the host.
    Linked,
    /// It may; somebody has to say.
    Suggested,
    /// Somebody said that it does not.
    Rejected,
}

impl LinkState {
    /// The text in the database and in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linked => "linked",
            Self::Suggested => "suggested",
            Self::Rejected => "rejected",
        }
    }

    /// From the text in the database. What a later release wrote counts as rejected, which nothing overwrites by itself.
    pub(crate) fn from_text(text: &str) -> Self {
        match text {
            "linked" => Self::Linked,
            "suggested" => Self::Suggested,
            _ => Self::Rejected,
        }
    }
}

/// A collector as far as its machine goes.
#[derive(Debug, Clone)]
pub(crate) struct Described {
    pub(crate) id: CollectorId,
    pub(crate) team_id: Option<TeamId>,
    /// Those of [`LINKING_ATTRIBUTES`] that it has.
    pub(crate) attributes: HashMap<String, String>,
}

impl Described {
    /// The identifiers of its machine, each with the attribute that it stands in.
    fn machines(&self) -> Vec<(&'static str, MachineId)> {
        let named = MACHINE_ATTRIBUTES.into_iter().filter_map(|name| {
            let value = self.attributes.get(name)?;
            Some((name, MachineId::parse(value)?))
        });
        named.collect()
    }

    /// The names under which its machine may be known: as it says, and without its domain.
    fn names(&self) -> Vec<String> {
        let Some(name) = self.attributes.get(NAME_ATTRIBUTE) else {
            return Vec::new();
        };
        let Some(name) = machine_name(name) else {
            return Vec::new();
        };
        let short = name.split_once('.').map(|(short, _)| short);
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        let short = short.filter(|_| !is_address).and_then(machine_name);
        std::iter::once(name).chain(short).collect()
    }
}

/// What links need beside the database.
#[derive(Default)]
pub(crate) struct Links {
    /// The hosts that collectors are linked to, once they are attached.
    hosts: OnceLock<Hosts>,
    /// Collectors that are to be looked at soon.
    waiting: Mutex<BTreeSet<CollectorId>>,
    wake: Notify,
}

impl Links {
    pub(crate) fn wish(&self, ids: impl IntoIterator<Item = CollectorId>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(ids);
        self.wake.notify_one();
    }

    fn take(&self) -> Vec<CollectorId> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: Vec<CollectorId> = waiting.iter().take(BATCH).copied().collect();
        for id in &taken {
            waiting.remove(id);
        }
        taken
    }
}

impl Collectors {
    /// Has collectors linked to the hosts that they run on, from now on. Only the first is attached.
    pub fn attach_hosts(&self, hosts: &Hosts) {
        if self.links().hosts.set(hosts.clone()).is_err() {
            tracing::warn!("hosts are attached to collectors twice");
        }
    }

    /// Looks at collectors whose description changed and, where that is this replica's turn, at all of them now and then; until
    /// `stop`.
    pub(crate) async fn run_links(&self, upkeep: &Lease, stop: CancellationToken) {
        let mut walk = tokio::time::interval(WALK_INTERVAL);
        walk.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                () = stop.cancelled() => return,
                () = self.links().wake.notified() => {
                    tokio::time::sleep(GATHER).await;
                    self.look_at_waiting().await
                }
                () = upkeep.due(&mut walk) => tokio::select! {
                    () = stop.cancelled() => return,
                    done = self.walk_links(WALK_PAUSE) => done,
                },
            };
            if let Err(error) = done {
                tracing::warn!(
                    error = error_chain(&error),
                    "collectors could not be linked to hosts; it is tried again"
                );
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY_AFTER) => self.links().wake.notify_one(),
                }
            }
        }
    }

    async fn look_at_waiting(&self) -> Result<(), StoreError> {
        loop {
            let ids = self.links().take();
            if ids.is_empty() {
                return Ok(());
            }
            if let Err(error) = self.look_at_links(&ids).await {
                self.links().wish(ids);
                return Err(error);
            }
        }
    }

    /// Looks at the links of all collectors, now. For tests, and for whoever cannot wait for the next walk.
    pub async fn review_links(&self) -> Result<(), StoreError> {
        self.walk_links(Duration::ZERO).await
    }

    async fn walk_links(&self, pause: Duration) -> Result<(), StoreError> {
        let mut last = CollectorId(0);
        loop {
            let ids = store::link::after(&mut self.database(), last, BATCH as i64).await?;
            let Some(end) = ids.last() else {
                return Ok(());
            };
            last = *end;
            self.look_at_links(&ids).await?;
            if ids.len() < BATCH {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn look_at_links(&self, ids: &[CollectorId]) -> Result<(), StoreError> {
        let Some(hosts) = self.links().hosts.get() else {
            return Ok(());
        };
        let mut db = self.database();
        let described = store::link::described(&mut db, ids).await?;
        let known = store::link::links(&mut db, ids).await?;
        let candidates = Candidates::find(hosts, &described).await?;
        let there = there(hosts, known.values().flatten()).await?;
        for collector in &described {
            let links = known.get(&collector.id).map_or(&[][..], Vec::as_slice);
            let by_machine = candidates.by_machine(collector);
            let by_name = candidates.by_name(collector);
            let changes = judge(collector.team_id, links, &there, &by_machine, &by_name);
            if !changes.is_empty() {
                self.relink(hosts, collector, &by_machine, &by_name).await?;
            }
        }
        Ok(())
    }

    /// Judges a collector once more, alone, and keeps what that comes to.
    async fn relink(
        &self,
        hosts: &Hosts,
        collector: &Described,
        by_machine: &[Candidate],
        by_name: &[Candidate],
    ) -> Result<(), StoreError> {
        let (id, now) = (collector.id, self.now());
        let known = store::link::find(&mut self.database(), id).await?;
        let there = there(hosts, known.iter()).await?;
        let mut db = self.database().begin().await?;
        db.lock(&[lock_name(id)]).await?;
        // An operator may have deleted or moved it, or decided something: then it is looked at once more.
        let is_same = store::link::team(&mut db, id).await? == Some(collector.team_id)
            && store::link::find(&mut db, id).await? == known;
        if !is_same {
            self.links().wish([id]);
            return Ok(());
        }
        for change in judge(collector.team_id, &known, &there, by_machine, by_name) {
            match change {
                Change::Drop { link, reason } => {
                    store::link::drop_link(&mut db, id, link.host_id).await?;
                    if link.state == LinkState::Linked {
                        unlinked(&mut db, id, &link, reason, now).await?;
                    }
                }
                Change::Put { state, candidate } => {
                    let link = Link {
                        host_id: candidate.host_id,
                        state,
                        matched_by: candidate.by.to_owned(),
                        matched_value: candidate.value,
                        since: now,
                        decided_by: String::new(),
                    };
                    store::link::put(&mut db, id, &link).await?;
                    let kind = match state {
                        LinkState::Linked => "host_linked",
                        _ => "host_link_suggested",
                    };
                    let details = json!({
                        "host_id": link.host_id, "by": link.matched_by, "value": link.matched_value,
                    });
                    store::event::add(&mut db, id, &[(kind, &details)], now).await?;
                }
            }
        }
        db.commit().await
    }

    /// A collector is moved to a team, as a part of a unit of work: it keeps what was rejected, and nothing else.
    pub(crate) async fn unlink_for_transfer(
        &self,
        db: &mut Transaction,
        id: CollectorId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        db.lock(&[lock_name(id)]).await?;
        for link in store::link::find(db, id).await? {
            if link.state != LinkState::Rejected {
                store::link::drop_link(db, id, link.host_id).await?;
            }
            if link.state == LinkState::Linked {
                unlinked(db, id, &link, "collector_transferred", now).await?;
            }
        }
        Ok(())
    }
}

/// What whoever changes the links of a collector holds.
fn lock_name(id: CollectorId) -> String {
    format!("collectors.links {id}")
}

/// Notes that a link is no more.
async fn unlinked(
    db: &mut Transaction,
    id: CollectorId,
    link: &Link,
    reason: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let details = json!({ "host_id": link.host_id, "reason": reason });
    store::event::add(db, id, &[("host_unlinked", &details)], now).await
}

/// The hosts of links that exist, with their teams.
async fn there<'a>(
    hosts: &Hosts,
    links: impl Iterator<Item = &'a Link>,
) -> Result<HashMap<HostId, Option<TeamId>>, StoreError> {
    let ids: BTreeSet<HostId> = links.map(|link| link.host_id).collect();
    let ids: Vec<HostId> = ids.into_iter().collect();
    let summaries = hosts.summaries(&ids).await?.into_iter();
    Ok(summaries.map(|(id, host)| (id, host.team_id)).collect())
}

/// A host that a collector's attribute names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) host_id: HostId,
    /// The attribute.
    pub(crate) by: &'static str,
    /// Its value, as the collector has it.
    pub(crate) value: String,
}

/// The hosts that any of some collectors name.
struct Candidates {
    machines: HashMap<MachineId, Vec<(HostId, Option<TeamId>)>>,
    names: HashMap<String, Vec<(HostId, Option<TeamId>)>>,
}

impl Candidates {
    async fn find(hosts: &Hosts, collectors: &[Described]) -> Result<Self, StoreError> {
        let machines: BTreeSet<MachineId> = collectors
            .iter()
            .flat_map(|collector| collector.machines().into_iter().map(|(_, id)| id))
            .collect();
        let names: BTreeSet<String> = collectors.iter().flat_map(Described::names).collect();
        let machines: Vec<MachineId> = machines.into_iter().collect();
        let names: Vec<String> = names.into_iter().collect();
        Ok(Self {
            machines: grouped(hosts.of_machines(&machines).await?),
            names: grouped(hosts.of_names(&names).await?),
        })
    }

    fn by_machine(&self, collector: &Described) -> Vec<Candidate> {
        let mut found = Vec::new();
        for (by, id) in collector.machines() {
            let hosts = self.machines.get(&id).map_or(&[][..], Vec::as_slice);
            add(&mut found, collector, by, hosts);
        }
        found
    }

    fn by_name(&self, collector: &Described) -> Vec<Candidate> {
        let mut found = Vec::new();
        for name in collector.names() {
            let hosts = self.names.get(&name).map_or(&[][..], Vec::as_slice);
            add(&mut found, collector, NAME_ATTRIBUTE, hosts);
        }
        found
    }
}

fn grouped<T: std::hash::Hash + Eq>(
    matches: Vec<Match<T>>,
) -> HashMap<T, Vec<(HostId, Option<TeamId>)>> {
    let mut groups: HashMap<T, Vec<(HostId, Option<TeamId>)>> = HashMap::new();
    for one in matches {
        let group = groups.entry(one.by).or_default();
        group.push((one.host_id, one.team_id));
    }
    groups
}

/// Adds hosts of the collector's team, each once.
fn add(
    found: &mut Vec<Candidate>,
    collector: &Described,
    by: &'static str,
    hosts: &[(HostId, Option<TeamId>)],
) {
    for (host_id, team_id) in hosts {
        let is_known = found.iter().any(|known| known.host_id == *host_id);
        if *team_id == collector.team_id && !is_known {
            found.push(Candidate {
                host_id: *host_id,
                by,
                value: collector.attributes.get(by).cloned().unwrap_or_default(),
            });
        }
    }
}

#[async_trait]
impl HostCollectors for Collectors {
    async fn on_host(
        &self,
        database: &Database,
        host: HostId,
        team: Option<TeamId>,
    ) -> Result<Vec<HostCollector>, StoreError> {
        let now = self.now();
        let found = store::link::on_host(&mut &*database, host).await?;
        let seen = found.into_iter().filter(|one| one.listed.team_id == team);
        Ok(seen
            .map(|one| HostCollector {
                status: one.listed.status(now).name(),
                id: one.listed.id,
                name: one.listed.name,
                version: one.listed.version,
                state: one.state,
                matched_by: one.matched_by,
                since: one.since,
            })
            .collect())
    }

    async fn hosts_deleted(
        &self,
        db: &mut Transaction,
        hosts: &[HostId],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for host in hosts {
            for (id, link) in store::link::of_host(db, *host).await? {
                store::link::drop_link(db, id, *host).await?;
                if link.state == LinkState::Linked {
                    unlinked(db, id, &link, "host_deleted", now).await?;
                }
            }
        }
        Ok(())
    }

    async fn host_merged(
        &self,
        db: &mut Transaction,
        host: HostId,
        into: HostId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for (id, link) in store::link::of_host(db, host).await? {
            store::link::drop_link(db, id, host).await?;
            if link.state != LinkState::Linked {
                continue;
            }
            let known = store::link::find(db, id).await?;
            let was_rejected = known
                .iter()
                .any(|other| other.host_id == into && other.state == LinkState::Rejected);
            if was_rejected {
                unlinked(db, id, &link, "host_merged", now).await?;
                continue;
            }
            // The identifier that it came by may be the lost host's: from now on it holds since somebody said so.
            let moved = Link {
                host_id: into,
                since: now,
                decided_by: operators::named(&by.name, &by.email),
                ..link
            };
            store::link::put(db, id, &moved).await?;
            let details = json!({ "host_id": into, "by": moved.matched_by, "instead_of": host });
            store::event::add(db, id, &[("host_linked", &details)], now).await?;
        }
        Ok(())
    }

    async fn host_transferred(
        &self,
        db: &mut Transaction,
        host: HostId,
        team: Option<TeamId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for (id, link) in store::link::of_host(db, host).await? {
            let is_in_team = store::link::team(db, id).await? == Some(team);
            if is_in_team || link.state == LinkState::Rejected {
                continue;
            }
            store::link::drop_link(db, id, host).await?;
            if link.state == LinkState::Linked {
                unlinked(db, id, &link, "host_transferred", now).await?;
            }
        }
        Ok(())
    }
}
