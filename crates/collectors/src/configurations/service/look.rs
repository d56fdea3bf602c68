//! Looking at collectors: which assignment each follows, and how far it is.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use muster_identity::{Actor, AuditEntry, CollectorId};
use muster_store::{StoreError, Transaction};
use muster_wire_opamp::AgentCapabilities;
use serde_json::{Value, json};

use super::{Configurations, Loaded, MAX_CHECKED, remember};
use crate::configurations::components::Components;
use crate::configurations::finding::Severity;
use crate::configurations::model::{Assignment, AutoRollback};
use crate::configurations::precedence::ranked;
use crate::configurations::rollout::{DEFAULT_SOAK, Facts, Rollout, Stage, State, Version, judge};
use crate::configurations::store;
use crate::configurations::store::state::{Known, Written};
use crate::record::Standing;

/// How often collectors are looked at again when somebody else looks at them at the same time.
const ATTEMPTS: usize = 5;
/// How many of the reasons why a collector cannot run something are told.
const MAX_REASONS: usize = 3;
/// When it is tried again to see to collectors whose progress a later release wrote.
const FOREIGN_WAIT: Duration = Duration::from_secs(60);

/// What looking at a collector came to.
struct Looked {
    id: CollectorId,
    before: Rollout,
    after: Rollout,
    sends: Option<(i64, i64)>,
    /// Whether that is something else than before, which other replicas have to know.
    is_resent: bool,
    loaded: Option<Arc<Loaded>>,
}

/// Lists of components that were read in one look, by their hash; none of those that are not known.
pub(super) type KnownComponents = HashMap<String, Option<Arc<Components>>>;

impl Configurations {
    /// Looks at collectors and writes what changed.
    pub(super) async fn look_at(&self, ids: &[CollectorId]) -> Result<(), StoreError> {
        let mut left: Vec<CollectorId> = ids.to_vec();
        for _ in 0..ATTEMPTS {
            if left.is_empty() {
                return Ok(());
            }
            left = self.look_once(&left).await?;
        }
        // Somebody else looks at them all the time, and sees the same.
        Ok(())
    }

    /// All assignments, from memory when none changed.
    pub(super) async fn all_assignments(&self) -> Result<Arc<Vec<Assignment>>, StoreError> {
        // Read before the list: what changes in between is seen the next time.
        let mark = store::assignment::mark(&mut self.database()).await?;
        let held = || {
            self.0
                .assignments
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some((known, all)) = &*held()
            && *known == mark
        {
            return Ok(Arc::clone(all));
        }
        let all = Arc::new(store::assignment::list(&mut self.database()).await?);
        *held() = Some((mark, Arc::clone(&all)));
        Ok(all)
    }

    /// Gives those that somebody else looked at meanwhile.
    async fn look_once(&self, ids: &[CollectorId]) -> Result<Vec<CollectorId>, StoreError> {
        let assignments = self.all_assignments().await?;
        let known = store::state::known(&mut self.database(), ids).await?;
        self.leave_alone(&known).await?;
        let mut components = KnownComponents::new();
        let mut looked = Vec::new();
        for known in known.iter().filter(|known| !known.is_foreign) {
            if let Some(one) = self.judge(known, &assignments, &mut components).await? {
                looked.push((one, known));
            }
        }
        if looked.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.now();
        let mut late = Vec::new();
        let mut done = Vec::new();
        let mut events = Vec::new();
        let mut db = self.database().begin().await?;
        for (one, known) in looked {
            let soak = soak_of(&one.after, &assignments);
            let written = Written {
                id: one.id,
                rollout: &one.after,
                sends: one.sends,
                next_look: one.after.next_look(soak),
                revision: known.rollout.as_ref().map(|(revision, _)| *revision),
            };
            if !store::state::write(&mut db, written).await? {
                late.push(one.id);
                continue;
            }
            events.extend(news(&one));
            done.push(one);
        }
        crate::store::event::add_all(&mut db, &events, now).await?;
        db.commit().await?;
        let (mut failed, mut resent) = (BTreeSet::new(), Vec::new());
        for one in done {
            if one.after.stage == Stage::Failed && is_news(&one.before, &one.after) {
                metrics::counter!("muster_collectors_config_failures_total").increment(1);
                failed.extend(one.after.assignment_id);
            }
            self.set_target(one.id, one.loaded.map(|loaded| Arc::clone(&loaded.desired)));
            if one.is_resent {
                resent.push(one.id);
            }
        }
        self.hint(&resent).await;
        for id in failed {
            if let Some(assignment) = assignments.iter().find(|known| known.claim.id == id) {
                self.go_back_if_too_many_failed(assignment, now).await?;
            }
        }
        Ok(late)
    }

    /// Collectors whose progress a later release wrote are for its servers to see to.
    async fn leave_alone(&self, known: &[Known]) -> Result<(), StoreError> {
        let foreign = known.iter().filter(|known| known.is_foreign);
        let foreign: Vec<CollectorId> = foreign.map(|known| known.id).collect();
        if foreign.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            collectors = foreign.len(),
            "left collectors alone: how far they are with their configuration was written by a later release"
        );
        let now = self.now();
        store::state::postpone(&mut self.database(), &foreign, now, now.plus(FOREIGN_WAIT)).await
    }

    /// What a collector should run and how far it is; none when nothing is to be written.
    async fn judge(
        &self,
        known: &Known,
        assignments: &[Assignment],
        components: &mut KnownComponents,
    ) -> Result<Option<Looked>, StoreError> {
        let now = self.now();
        let before = known.rollout.as_ref().map(|(_, rollout)| rollout.clone());
        let follows = ranked(assignments, known.team_id, &known.attributes)
            .first()
            .copied();
        let follows = follows.filter(|_| known.durable.standing != Standing::Revoked);
        let mut assigned = None;
        let mut obstacle = None;
        if let Some(assignment) = follows {
            let key = (assignment.configuration_id, assignment.version);
            if let Some(loaded) = self.version(key).await? {
                obstacle = self.obstacle(known, &loaded, components).await?;
                let version = Version {
                    configuration_id: key.0,
                    version: key.1,
                    hash: loaded.hash.clone(),
                };
                assigned = Some((assignment.claim.id, version));
            }
        }
        let capabilities = AgentCapabilities::from_bits(known.capabilities);
        let facts = Facts {
            now,
            assigned,
            is_paused: follows.is_some_and(|assignment| assignment.is_paused),
            obstacle,
            goes_back: follows
                .is_some_and(|assignment| assignment.auto_rollback == AutoRollback::Collector),
            soak: follows.map_or(DEFAULT_SOAK, |assignment| assignment.soak),
            reports_config: capabilities.contains(AgentCapabilities::REPORTS_REMOTE_CONFIG),
            reports_health: capabilities.contains(AgentCapabilities::REPORTS_HEALTH),
            healthy: known.is_healthy,
            health_error: &known.health_error,
            health_at: known.health_at,
            heard_at: known.heard_at,
            back_at: known.back_at,
            report: known.durable.config.as_ref(),
            sent: known
                .durable
                .sent_config
                .as_ref()
                .map(|sent| (sent.hash.as_str(), sent.at)),
        };
        let is_new = before.is_none();
        let before = before.unwrap_or_else(|| Rollout::new(now));
        let after = judge(&before, &facts);
        let sends = after
            .to_send(facts.is_paused)
            .map(|version| (version.configuration_id, version.version));
        // Of a collector that nothing was ever assigned to, nothing is written.
        let is_same = after == before && (is_new || sends == known.sends);
        if is_same {
            return Ok(None);
        }
        let loaded = match sends {
            Some(key) => self.version(key).await?,
            None => None,
        };
        Ok(Some(Looked {
            id: known.id,
            before,
            after,
            sends,
            is_resent: sends != known.sends,
            loaded,
        }))
    }

    /// Why a collector cannot be given a version, if it cannot.
    pub(super) async fn obstacle(
        &self,
        known: &Known,
        loaded: &Arc<Loaded>,
        components: &mut KnownComponents,
    ) -> Result<Option<String>, StoreError> {
        let capabilities = AgentCapabilities::from_bits(known.capabilities);
        if !capabilities.contains(AgentCapabilities::ACCEPTS_REMOTE_CONFIG) {
            return Ok(Some(
                "it does not accept remote configuration; a supervisor does when accepts_remote_config is true".to_owned(),
            ));
        }
        let hash = &known.components_hash;
        if hash.is_empty() {
            return Ok(None);
        }
        let key = (loaded.hash.clone(), hash.clone());
        if let Some(checked) = self.0.checked.get(&key) {
            return Ok(checked.clone());
        }
        if !components.contains_key(hash) {
            let found = store::state::components(&mut self.database(), hash).await?;
            components.insert(hash.clone(), found.map(Arc::new));
        }
        let Some(available) = components.get(hash).cloned().flatten() else {
            return Ok(None);
        };
        let errors: Vec<String> = self
            .findings_of(loaded, Some(available))
            .await?
            .into_iter()
            .filter(|finding| finding.severity == Severity::Error)
            .take(MAX_REASONS)
            .map(|finding| finding.message)
            .collect();
        let obstacle = (!errors.is_empty()).then(|| errors.join("; "));
        remember(&self.0.checked, MAX_CHECKED, key, obstacle.clone());
        Ok(obstacle)
    }

    /// The same for all assignments, in case a server ended before it could.
    pub(super) async fn go_back_where_too_many_failed(&self) -> Result<(), StoreError> {
        for assignment in self.all_assignments().await?.iter() {
            self.go_back_if_too_many_failed(assignment, self.now())
                .await?;
        }
        Ok(())
    }

    /// Takes an assignment one step back when its version failed on as many collectors as it says.
    async fn go_back_if_too_many_failed(
        &self,
        seen: &Assignment,
        now: muster_clock::Timestamp,
    ) -> Result<(), StoreError> {
        if seen.auto_rollback != AutoRollback::Assignment || seen.rolled_back.is_some() {
            return Ok(());
        }
        let mut db = self.database().begin().await?;
        db.lock(&[super::documents::lock_name(seen.configuration_id)])
            .await?;
        let Some(before) = store::assignment::find(&mut db, seen.claim.id).await? else {
            return Ok(());
        };
        if before.version != seen.version || before.auto_rollback != AutoRollback::Assignment {
            return Ok(());
        }
        let failed =
            store::state::count_in(&mut db, before.claim.id, before.version, State::Failed).await?;
        if failed < i64::from(before.failures_until_rollback) {
            return Ok(());
        }
        let Some(target) = self.goes_back_to(&mut db, &before).await? else {
            return Ok(());
        };
        let reason = format!(
            "version {} failed on {failed} {}",
            before.version,
            if failed == 1 {
                "collector"
            } else {
                "collectors"
            }
        );
        let mut after = before.clone();
        after.step_back(target, reason, now);
        store::assignment::update(&mut db, &after).await?;
        let entry = AuditEntry::new(
            "rolled_back_collector_config",
            "collector_config_assignment",
            after.claim.id,
        )
        .before(super::assignments::shown(&before))
        .after(super::assignments::shown(&after));
        self.0
            .parts
            .identity
            .audit
            .record(&mut db, &Actor::system(), entry, now)
            .await?;
        db.commit().await?;
        metrics::counter!("muster_collectors_config_rollbacks_total").increment(1);
        tracing::warn!(
            assignment = after.claim.id,
            version = before.version,
            previous_version = target,
            failed,
            "a configuration failed on too many collectors; its assignment went back"
        );
        self.plan_all();
        Ok(())
    }

    /// The version to which an assignment goes back by itself, if there is one that is still kept.
    async fn goes_back_to(
        &self,
        db: &mut Transaction,
        assignment: &Assignment,
    ) -> Result<Option<i64>, StoreError> {
        let configuration = assignment.configuration_id;
        let mut experience =
            store::state::experience(db, assignment.claim.id, configuration).await?;
        let mut previous_hash = None;
        if let Some(previous) = assignment.previous_version {
            previous_hash = store::document::find_version(db, configuration, previous)
                .await?
                .map(|version| version.hash);
        }
        while let Some(target) = assignment.goes_back_to(previous_hash.as_deref(), &experience) {
            if store::document::find_version(db, configuration, target)
                .await?
                .is_some()
            {
                return Ok(Some(target));
            }
            experience.good.remove(&target);
        }
        Ok(None)
    }
}

fn hash_of(rollout: &Rollout) -> Option<&str> {
    rollout
        .assigned
        .as_ref()
        .map(|version| version.hash.as_str())
}

/// Whether a collector came to a stage, or is there with another version.
fn is_news(before: &Rollout, after: &Rollout) -> bool {
    before.stage != after.stage || hash_of(before) != hash_of(after)
}

fn soak_of(rollout: &Rollout, assignments: &[Assignment]) -> std::time::Duration {
    let id = rollout.assignment_id;
    let found = assignments
        .iter()
        .find(|assignment| Some(assignment.claim.id) == id);
    found.map_or(DEFAULT_SOAK, |assignment| assignment.soak)
}

/// What people will ask for in a collector's timeline.
fn news(one: &Looked) -> Vec<(CollectorId, &'static str, Value)> {
    let (before, after) = (&one.before, &one.after);
    let mut events = Vec::new();
    let version = |version: &Version| json!({ "configuration_id": version.configuration_id, "version": version.version });
    if hash_of(before) != hash_of(after) {
        match &after.assigned {
            Some(assigned) => events.push(("config_assigned", version(assigned))),
            None => events.push(("config_unassigned", json!({}))),
        }
    }
    if let Some(assigned) = after.assigned.as_ref().filter(|_| is_news(before, after)) {
        let mut details = version(assigned);
        match after.stage {
            Stage::InSync => events.push(("config_in_sync", details)),
            Stage::Failed => {
                details["message"] = json!(after.message);
                if let Some(instead) = &after.instead {
                    details["goes_back_to"] = json!(instead.version);
                }
                events.push(("config_failed", details));
            }
            Stage::Cannot => {
                details["message"] = json!(after.message);
                events.push(("config_cannot", details));
            }
            _ => {}
        }
    }
    let of_one = events.into_iter();
    of_one
        .map(|(kind, details)| (one.id, kind, details))
        .collect()
}
