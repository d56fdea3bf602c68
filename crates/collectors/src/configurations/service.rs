//! Configurations: who may do what with them, and the loop that keeps every collector's target right.
//!
//! What is to be sent to a collector stands in the database (`collectors_config_states`), written by whichever replica looked
//! at it last; each replica has what it needs of that in memory, since it is asked at every message. A collector is looked at
//! when something about it changes, when assignments change, when a soak time ends, and now and then in case a hint was lost.

mod assignments;
mod documents;
mod look;
mod progress;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use dashmap::DashMap;
use muster_bus::{Bus, Hint, MAX_KEY_BYTES, Received, Topic};
use muster_clock::{Clock, Timestamp};
use muster_http::error_chain;
use muster_identity::{Action, CollectorId, Identity, Principal, Scope, TeamBelongings, TeamId};
use muster_replicas::Lease;
use muster_store::{Database, StoreError, Transaction};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::check::check;
use super::components::Components;
use super::document::{Files, Kind};
use super::finding::Finding;
use super::model::Assignment;
use super::store;
use crate::collectors::PUSH_TOPIC;
use crate::masking::Masking;
use crate::record::{ConfigReport, Record};
use crate::service::{ConfigFile, DesiredConfig};
use crate::{Collectors, RemoteConfigs};

pub use assignments::{AssignmentChange, NewAssignment, RolledBack};
pub use documents::{ConfigurationChange, Made, NewConfiguration, NewFiles};
pub use progress::{Effects, PreviewItem, PreviewWish, StatusQuery};

/// Hints that what is to be sent to collectors changed: their ids with commas between, a space, and who found out.
const SENDS_TOPIC: Topic = Topic::new("collectors.config_sends");
/// How many collectors are looked at in one unit of work.
const BATCH: usize = 200;
/// How often it is looked whether a soak time ended.
const DUE_INTERVAL: Duration = Duration::from_secs(1);
/// How often memory is compared with the database.
const COMPARE_INTERVAL: Duration = Duration::from_secs(60);
/// How often all collectors are looked at, in case something was lost.
const REPAIR_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How long is waited after a fault of the database.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How many versions are held in memory with their files.
const MAX_LOADED_VERSIONS: usize = 200;
/// How many results of checks against an agent's components are held in memory.
const MAX_CHECKED: usize = 10_000;
/// How many collectors' targets are held in memory.
const MAX_TARGETS: usize = 200_000;

/// What the service is made of.
pub struct ConfigurationParts {
    /// Where everything is kept.
    pub database: Database,
    /// Hints between replicas.
    pub bus: Arc<dyn Bus>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who is who.
    pub identity: Identity,
    /// Which keys look like those of credentials.
    pub masking: Masking,
    /// The collectors, which ask this service what they should run.
    pub collectors: Collectors,
}

/// A version with its files, as it is sent.
struct Loaded {
    configuration_id: i64,
    desired: Arc<DesiredConfig>,
    hash: String,
    kind: Kind,
    files: Files,
}

struct Inner {
    parts: ConfigurationParts,
    /// What is to be sent to collectors, as far as it was asked for.
    targets: DashMap<CollectorId, Option<Arc<DesiredConfig>>>,
    versions: DashMap<(i64, i64), Arc<Loaded>>,
    /// Why a version cannot be run by agents with some components, by the two hashes; none when it can.
    checked: DashMap<(String, String), Option<String>>,
    /// All assignments as they were when their mark was read.
    assignments: Mutex<Option<(store::assignment::Mark, Arc<Vec<Assignment>>)>>,
    wishes: Mutex<Wishes>,
    wake: Notify,
}

/// What the loop is to do.
#[derive(Default)]
struct Wishes {
    /// Collectors that are to be looked at.
    plan: BTreeSet<CollectorId>,
    /// Collectors whose target is to be read.
    load: BTreeSet<CollectorId>,
    /// Where looking at all collectors has come to, if that is to be done.
    all: Option<Pass>,
}

impl Pass {
    fn new() -> Self {
        Self {
            last: CollectorId(0),
            again: false,
        }
    }
}

impl Wishes {
    fn is_empty(&self) -> bool {
        self.plan.is_empty() && self.load.is_empty() && self.all.is_none()
    }
}

/// A way through all collectors in the order of their ids.
#[derive(Debug, Clone, Copy)]
struct Pass {
    /// The last one that was looked at.
    last: CollectorId,
    /// Whether something changed for all of them since it began: then there is another way after it.
    again: bool,
}

/// Configurations of collectors. Cheap to clone.
#[derive(Clone)]
pub struct Configurations(Arc<Inner>);

/// What collectors ask. It holds the service weakly, since the service holds them.
struct Source(Weak<Inner>);

impl Source {
    fn wish(&self, collector: CollectorId) {
        if let Some(inner) = self.0.upgrade() {
            inner.wish_plan([collector]);
        }
    }
}

impl RemoteConfigs for Source {
    fn desired(&self, record: &Record) -> Option<Arc<DesiredConfig>> {
        let inner = self.0.upgrade()?;
        if let Some(target) = inner.targets.get(&record.id) {
            return target.clone();
        }
        inner.wish_load([record.id]);
        None
    }

    fn reported(&self, collector: CollectorId, _: &ConfigReport) {
        self.wish(collector);
    }

    fn sent(&self, collector: CollectorId, _: &str) {
        self.wish(collector);
    }

    fn changed(&self, collector: CollectorId) {
        self.wish(collector);
    }
}

impl Inner {
    fn wishes(&self) -> std::sync::MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wish_plan(&self, ids: impl IntoIterator<Item = CollectorId>) {
        self.wishes().plan.extend(ids);
        self.wake.notify_one();
    }

    fn wish_load(&self, ids: impl IntoIterator<Item = CollectorId>) {
        self.wishes().load.extend(ids);
        self.wake.notify_one();
    }

    fn wish_all(&self) {
        let mut wishes = self.wishes();
        match &mut wishes.all {
            Some(pass) => pass.again = true,
            None => wishes.all = Some(Pass::new()),
        }
        self.wake.notify_one();
    }
}

impl Configurations {
    /// The service on a migrated database. Collectors ask it from now on.
    pub fn new(parts: ConfigurationParts) -> Self {
        let collectors = parts.collectors.clone();
        let inner = Arc::new(Inner {
            parts,
            targets: DashMap::new(),
            versions: DashMap::new(),
            checked: DashMap::new(),
            assignments: Mutex::default(),
            wishes: Mutex::default(),
            wake: Notify::new(),
        });
        collectors.attach_configs(Arc::new(Source(Arc::downgrade(&inner))));
        Self(inner)
    }

    fn now(&self) -> Timestamp {
        self.0.parts.clock.now()
    }

    fn database(&self) -> &Database {
        &self.0.parts.database
    }

    /// Follows hints and keeps targets right until it is told to stop. What one replica does for all hangs on `upkeep`.
    pub async fn run(&self, upkeep: &Lease, stop: CancellationToken) {
        let mut hints = self.0.parts.bus.subscribe();
        let timer = |period| {
            let mut timer = tokio::time::interval(period);
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            timer
        };
        let (mut due, mut compare, mut repair) = (
            timer(DUE_INTERVAL),
            timer(COMPARE_INTERVAL),
            timer(REPAIR_INTERVAL),
        );
        loop {
            let done = tokio::select! {
                () = stop.cancelled() => return,
                hint = hints.next() => match hint {
                    Some(hint) => {
                        self.follow(&hint);
                        Ok(())
                    }
                    None => return,
                },
                () = self.0.wake.notified() => self.work().await,
                () = upkeep.due(&mut due) => self.wish_due().await,
                _ = compare.tick() => self.compare().await,
                () = upkeep.due(&mut repair) => {
                    self.plan_all();
                    Ok(())
                }
            };
            if let Err(error) = done {
                tracing::warn!(
                    error = error_chain(&error),
                    "what collectors should run could not be looked at; it is tried again"
                );
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY_AFTER) => self.0.wake.notify_one(),
                }
            }
        }
    }

    fn follow(&self, received: &Received) {
        let Received::Hint(hint) = received else {
            self.0.targets.clear();
            self.0.parts.collectors.live().push_all();
            return;
        };
        if hint.topic == SENDS_TOPIC {
            let (ids, origin) = hint.key.split_once(' ').unwrap_or((&hint.key, ""));
            // What this replica found out it has in memory.
            if origin != self.origin() {
                let ids = ids.split(',').filter_map(|id| id.parse().ok());
                self.0.wish_load(ids.map(CollectorId));
            }
        } else if hint.topic == PUSH_TOPIC
            && let Ok(id) = hint.key.parse()
        {
            // An operator did something about it, such as moving it to a team.
            self.0.wish_plan([CollectorId(id)]);
        }
    }

    /// By what hints of this replica are told from those of others.
    fn origin(&self) -> String {
        self.0.parts.collectors.origin().to_string()
    }

    /// Has every collector looked at, soon.
    fn plan_all(&self) {
        self.0.wish_all();
    }

    async fn wish_due(&self) -> Result<(), StoreError> {
        let ids = store::state::due(&mut self.database(), self.now(), BATCH as i64).await?;
        if !ids.is_empty() {
            self.0.wish_plan(ids);
        }
        Ok(())
    }

    /// Does a part of what waits, so that whoever calls it can see to other things in between. What could not be done because
    /// of a fault waits again.
    async fn work(&self) -> Result<(), StoreError> {
        let (plan, load) = {
            let mut wishes = self.0.wishes();
            (take(&mut wishes.plan), take(&mut wishes.load))
        };
        let done = async {
            self.look_at(&plan).await?;
            self.load(&load).await
        };
        if let Err(error) = done.await {
            let mut wishes = self.0.wishes();
            wishes.plan.extend(plan);
            wishes.load.extend(load);
            return Err(error);
        }
        self.go_on_with_all().await?;
        if !self.0.wishes().is_empty() {
            self.0.wake.notify_one();
        }
        Ok(())
    }

    /// Looks at the next collectors of the way through all, if there is one.
    async fn go_on_with_all(&self) -> Result<(), StoreError> {
        let Some(Pass { last, .. }) = self.0.wishes().all else {
            return Ok(());
        };
        let ids = store::state::ids_after(&mut self.database(), last, BATCH as i64).await?;
        let Some(end) = ids.last() else {
            self.go_back_where_too_many_failed().await?;
            let mut wishes = self.0.wishes();
            wishes.all = wishes.all.filter(|pass| pass.again).map(|_| Pass::new());
            return Ok(());
        };
        self.look_at(&ids).await?;
        if let Some(pass) = &mut self.0.wishes().all {
            pass.last = *end;
        }
        Ok(())
    }

    /// Reads what is to be sent to collectors, and has those told that hold a socket here.
    async fn load(&self, ids: &[CollectorId]) -> Result<(), StoreError> {
        let sends = store::state::sends(&mut self.database(), ids).await?;
        for id in ids {
            let target = match sends.get(id) {
                Some(version) => self.version(*version).await?,
                None => None,
            };
            self.set_target(*id, target.map(|loaded| Arc::clone(&loaded.desired)));
        }
        Ok(())
    }

    fn set_target(&self, id: CollectorId, target: Option<Arc<DesiredConfig>>) {
        if self.0.targets.len() >= MAX_TARGETS {
            self.0.targets.clear();
        }
        let is_some = target.is_some();
        let before = self.0.targets.insert(id, target.clone());
        if is_some && before != Some(target) {
            self.0.parts.collectors.live().push(id);
        }
    }

    /// Reads the targets in memory again, in case a hint was lost.
    async fn compare(&self) -> Result<(), StoreError> {
        let held: Vec<CollectorId> = self.0.targets.iter().map(|entry| *entry.key()).collect();
        for ids in held.chunks(BATCH) {
            self.load(ids).await?;
        }
        Ok(())
    }

    /// A version with its files, from memory if it is there; versions never change.
    async fn version(&self, key: (i64, i64)) -> Result<Option<Arc<Loaded>>, StoreError> {
        if let Some(loaded) = self.0.versions.get(&key) {
            return Ok(Some(Arc::clone(&loaded)));
        }
        let mut db = self.database();
        let (Some(configuration), Some(info), Some(files)) = (
            store::document::find(&mut db, key.0).await?,
            store::document::find_version(&mut db, key.0, key.1).await?,
            store::document::files(&mut db, key.0, key.1).await?,
        ) else {
            return Ok(None);
        };
        let bytes = data_encoding::HEXLOWER.decode(info.hash.as_bytes());
        let bytes = bytes
            .map_err(|error| StoreError::corrupt("read a configuration", error.to_string()))?;
        let file = |file: &super::document::File| ConfigFile {
            body: file.body.clone().into_bytes(),
            content_type: file.content_type.clone(),
        };
        let desired = DesiredConfig {
            hash: bytes,
            files: files
                .iter()
                .map(|(name, body)| (name.clone(), file(body)))
                .collect(),
        };
        let loaded = Arc::new(Loaded {
            configuration_id: key.0,
            desired: Arc::new(desired),
            hash: info.hash,
            kind: configuration.kind,
            files,
        });
        if self.0.versions.len() >= MAX_LOADED_VERSIONS {
            self.0.versions.clear();
        }
        self.0.versions.insert(key, Arc::clone(&loaded));
        Ok(Some(loaded))
    }

    /// Tells other replicas that there is something else to be sent to these collectors.
    async fn hint(&self, ids: &[CollectorId]) {
        for key in keys_of(ids, &self.origin()) {
            if let Err(error) = self.0.parts.bus.publish(Hint::new(SENDS_TOPIC, key)).await {
                tracing::warn!(error = error_chain(&error), "could not publish a hint");
            }
        }
    }

    /// What is found in a version for agents with these components. It takes a while for large ones, and is done beside the
    /// threads that serve others.
    async fn findings_of(
        &self,
        loaded: &Arc<Loaded>,
        available: Option<Arc<Components>>,
    ) -> Result<Vec<Finding>, StoreError> {
        let loaded = Arc::clone(loaded);
        beside(move || check(loaded.kind, &loaded.files, available.as_deref())).await
    }

    /// How many collectors there are in each state, by the state's name.
    pub async fn counts(&self) -> Result<std::collections::BTreeMap<String, u64>, StoreError> {
        store::state::counts(&mut self.database()).await
    }
}

/// Where reading something of a team, or of all, has to be allowed.
fn read_scope(team: Option<TeamId>) -> Scope {
    team.map_or(Scope::Global, |team| Scope::Team(Some(team)))
}

/// Whether somebody may read what belongs to a team, or to none.
fn may_read(principal: &Principal, team: Option<TeamId>) -> bool {
    principal.may(Action::ReadCollectorConfigs, read_scope(team))
}

/// Hints about collectors, each with as many as a hint may name.
fn keys_of(ids: &[CollectorId], origin: &str) -> Vec<String> {
    let most = MAX_KEY_BYTES - origin.len() - 1;
    let mut keys: Vec<String> = Vec::new();
    for id in ids.iter().map(ToString::to_string) {
        match keys.last_mut() {
            Some(key) if key.len() + 1 + id.len() <= most => {
                key.push(',');
                key.push_str(&id);
            }
            _ => keys.push(id),
        }
    }
    for key in &mut keys {
        key.push(' ');
        key.push_str(origin);
    }
    keys
}

/// Computes something on a thread on which nothing else waits.
async fn beside<T: Send + 'static>(
    compute: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(compute).await {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The process ends.
            Err(error) => Err(StoreError::corrupt(
                "check a configuration",
                error.to_string(),
            )),
        },
    }
}

/// Takes so many as are looked at in one unit of work.
fn take(set: &mut BTreeSet<CollectorId>) -> Vec<CollectorId> {
    let taken: Vec<CollectorId> = set.iter().take(BATCH).copied().collect();
    for id in &taken {
        set.remove(id);
    }
    taken
}

#[async_trait]
impl TeamBelongings for Configurations {
    fn kind(&self) -> &'static str {
        "collector_configs"
    }

    async fn owners(&self, database: &Database) -> Result<Vec<TeamId>, StoreError> {
        store::document::teams(&mut &*database).await
    }

    async fn release(
        &self,
        db: &mut Transaction,
        team: TeamId,
        _: Timestamp,
    ) -> Result<u64, StoreError> {
        store::document::delete_of_team(db, team).await
    }

    /// Nobody should run them any more.
    async fn released(&self) {
        self.plan_all();
    }
}

/// A map that is kept small by forgetting everything.
fn remember<K: std::hash::Hash + Eq, V>(map: &DashMap<K, V>, most: usize, key: K, value: V) {
    if map.len() >= most {
        map.clear();
    }
    map.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_about_many_collectors_are_few_and_none_is_too_long() {
        let ids: Vec<CollectorId> = (1_000_000..1_000_200).map(CollectorId).collect();
        let keys = keys_of(&ids, "18446744073709551615");
        assert!(keys.iter().all(|key| key.len() <= MAX_KEY_BYTES));
        assert_eq!(keys.len(), 4);
        let named: Vec<CollectorId> = keys
            .iter()
            .filter_map(|key| key.split_once(' '))
            .flat_map(|(ids, _)| ids.split(','))
            .filter_map(|id| id.parse().ok().map(CollectorId))
            .collect();
        assert_eq!(named, ids);
        assert!(keys_of(&[], "1").is_empty());
    }
}
