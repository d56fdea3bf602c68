//! Where collectors send telemetry about themselves: settings that operators make, which are offered to agents that say that
//! they report it.
//!
//! Settings are for collectors by their attributes, as assignments of configurations are; of several that are for one it follows
//! those that count most. Headers hold secrets: they are kept sealed, shown masked, and are in no log. [`service::step`] decides
//! when an agent is sent what it should have: once, and again when that changes, or when the agent may have lost it.
//!
//! Each replica has all settings in memory, and for the agents that it answers which are theirs: found out beside messages, since
//! attributes stand in the database only. Where there are no settings nothing of this costs anything.
//!
//! [`service::step`]: crate::service::step

mod model;
mod operators;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use dashmap::DashMap;
use muster_bus::{Received, Topic};
use muster_clock::Timestamp;
use muster_http::error_chain;
use muster_identity::{CollectorId, TeamBelongings, TeamId};
use muster_store::{Database, StoreError, Transaction};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::configurations::precedence::ranked;
use crate::record::Record;
use crate::{Collectors, store};

pub use model::{Destination, OwnTelemetry, Signal};
pub(crate) use model::{MAX_SETTINGS, sealed_for};
pub(crate) use operators::{TelemetryState, TelemetryWish};

/// Hints that settings changed.
const TELEMETRY_TOPIC: Topic = Topic::new("collectors.telemetry");
/// How often settings are read again, in case a hint was lost.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);
/// How many agents are looked at by one statement.
const BATCH: usize = 200;
/// How long is waited after a fault of the database.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Of how many agents it is in memory which settings are theirs.
const MAX_HELD: usize = 200_000;

/// What this replica has in memory.
#[derive(Default)]
pub(crate) struct Telemetry {
    all: RwLock<Arc<Vec<Arc<OwnTelemetry>>>>,
    of: DashMap<CollectorId, Option<Arc<OwnTelemetry>>>,
    /// Agents that are to be looked at.
    waiting: Mutex<BTreeSet<CollectorId>>,
    wake: Notify,
}

impl Telemetry {
    fn all(&self) -> Arc<Vec<Arc<OwnTelemetry>>> {
        Arc::clone(&self.all.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What an agent should have, as far as that is known now. Memory only.
    pub(crate) fn desired(&self, record: &Record) -> Option<Arc<OwnTelemetry>> {
        if self.all().is_empty() {
            return None;
        }
        if let Some(known) = self.of.get(&record.id) {
            return known.clone();
        }
        self.wish(record.id);
        None
    }

    fn wish(&self, id: CollectorId) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(id);
        self.wake.notify_one();
    }

    /// What decides about an agent may have changed.
    pub(crate) fn forget(&self, id: CollectorId) {
        self.of.remove(&id);
        // Also when it is not known yet: somebody may be about to note what held before.
        if !self.all().is_empty() {
            self.wish(id);
        }
    }

    /// The same of all agents.
    pub(crate) fn forget_all(&self) {
        self.of.clear();
    }

    fn take(&self) -> Vec<CollectorId> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: Vec<CollectorId> = waiting.iter().take(BATCH).copied().collect();
        for id in &taken {
            waiting.remove(id);
        }
        taken
    }

    /// The settings that a collector of this team with these attributes follows.
    fn settings_for(
        &self,
        team: Option<TeamId>,
        attributes: &BTreeMap<String, String>,
    ) -> Option<Arc<OwnTelemetry>> {
        let all = self.all();
        let found = ranked(all.iter().map(|one| &**one), team, attributes);
        let first = found.first()?.claim.id;
        all.iter().find(|one| one.claim.id == first).cloned()
    }
}

impl Collectors {
    /// Keeps what this replica knows of settings right, until `stop`.
    pub(crate) async fn run_telemetry(&self, stop: CancellationToken) {
        let mut hints = self.subscribe();
        let mut reload = tokio::time::interval(RELOAD_INTERVAL);
        reload.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                () = stop.cancelled() => return,
                hint = hints.next() => match hint {
                    Some(Received::Hint(hint)) if hint.topic != TELEMETRY_TOPIC => Ok(()),
                    Some(_) => self.reload_telemetry().await,
                    None => return,
                },
                _ = reload.tick() => self.reload_telemetry().await,
                () = self.telemetry().wake.notified() => self.look_at_telemetry().await,
            };
            if let Err(error) = done {
                tracing::warn!(
                    error = error_chain(&error),
                    "where collectors send their own telemetry could not be looked at; it is tried again"
                );
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                }
                reload.reset_immediately();
            }
        }
    }

    /// Reads all settings anew. When anything of them changed, every agent is looked at again.
    pub(crate) async fn reload_telemetry(&self) -> Result<(), StoreError> {
        let rows = store::telemetry::list(&mut self.database()).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let name = row.name.clone();
            match row.open(self.identity()) {
                Ok(settings) => all.push(Arc::new(settings)),
                // The others go on.
                Err(error) => tracing::error!(
                    telemetry.name = name,
                    error = error_chain(&error),
                    "settings of collectors' own telemetry cannot be read, and are not offered"
                ),
            }
        }
        let telemetry = self.telemetry();
        if *telemetry.all() == all {
            return Ok(());
        }
        *telemetry
            .all
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
        telemetry.of.clear();
        self.live().push_all();
        Ok(())
    }

    async fn look_at_telemetry(&self) -> Result<(), StoreError> {
        let telemetry = self.telemetry();
        loop {
            let ids = telemetry.take();
            if ids.is_empty() {
                return Ok(());
            }
            let all = telemetry.all();
            let names: BTreeSet<String> = all.iter().flat_map(|one| one.named()).collect();
            let names: Vec<String> = names.into_iter().collect();
            let found = store::telemetry::attributes(&mut self.database(), &ids, &names).await;
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    for id in ids {
                        telemetry.wish(id);
                    }
                    return Err(error);
                }
            };
            if telemetry.of.len() >= MAX_HELD {
                telemetry.of.clear();
            }
            for (id, (team, attributes)) in found {
                let settings = telemetry.settings_for(team, &attributes);
                let is_some = settings.is_some();
                telemetry.of.insert(id, settings);
                if is_some {
                    self.live().push(id);
                }
            }
        }
    }
}

/// Settings of teams, as far as deleting a team goes.
struct SettingsOfTeams(Collectors);

#[async_trait]
impl TeamBelongings for SettingsOfTeams {
    fn kind(&self) -> &'static str {
        "collector_telemetry"
    }

    async fn owners(&self, database: &Database) -> Result<Vec<TeamId>, StoreError> {
        store::telemetry::teams(&mut &*database).await
    }

    async fn release(
        &self,
        db: &mut Transaction,
        team: TeamId,
        _: Timestamp,
    ) -> Result<u64, StoreError> {
        store::telemetry::delete_of_team(db, team).await
    }

    async fn released(&self) {
        self.0.hint(TELEMETRY_TOPIC, "").await;
    }
}

impl Collectors {
    /// The settings of own telemetry that belong to teams, to be attached to them.
    pub fn telemetry_belongings(&self) -> Arc<dyn TeamBelongings> {
        Arc::new(SettingsOfTeams(self.clone()))
    }
}
