//! Looking at collectors: which assignment each follows, and how far it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use muster_identity::{Actor, AuditEntry, CollectorId};
use muster_store::{StoreError, Transaction};
use muster_wire_opamp::AgentCapabilities;
use serde_json::{Value, json};

use super::super::check::check;
use super::super::finding::Severity;
use super::super::model::{Assignment, AutoRollback};
use super::super::precedence::ranked;
use super::super::rollout::{Facts, Rollout, Stage, Version, judge};
use super::super::store;
use super::super::store::state::{Known, Written};
use super::{Configurations, Loaded, MAX_CHECKED, remember};
use crate::record::Standing;

/// How often collectors are looked at again when somebody else looks at them at the same time.
const ATTEMPTS: usize = 5;
/// How many of the reasons why a collector cannot run something are told.
const MAX_REASONS: usize = 3;

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

    /// Gives those that somebody else looked at meanwhile.
    async fn look_once(&self, ids: &[CollectorId]) -> Result<Vec<CollectorId>, StoreError> {
        let assignments = store::assignment::list(&mut self.database()).await?;
        let known = store::state::known(&mut self.database(), ids).await?;
        let mut looked = Vec::new();
        for known in &known {
            if let Some(one) = self.judge(known, &assignments).await? {
                looked.push((one, known));
            }
        }
        if looked.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.now();
        let mut late = Vec::new();
        let mut done = Vec::new();
        let mut db = self.database().begin().await?;
        for (one, known) in looked {
            let soak = soak_of(&one.after, &assignments);
            let written = Written {
                id: one.id,
                rollout: &one.after,
                sends: one.sends,
                look_at: one.after.look_at(soak),
                revision: known.rollout.as_ref().map(|(revision, _)| *revision),
            };
            if !store::state::write(&mut db, written).await? {
                late.push(one.id);
                continue;
            }
            self.note(&mut db, &one).await?;
            done.push(one);
        }
        db.commit().await?;
        let mut failed = BTreeSet::new();
        for one in done {
            if one.after.stage == Stage::Failed && is_news(&one.before, &one.after) {
                metrics::counter!("muster_collectors_config_failures_total").increment(1);
                failed.extend(one.after.assignment_id);
            }
            self.set_target(one.id, one.loaded.map(|loaded| Arc::clone(&loaded.desired)));
            if one.is_resent {
                self.hint(one.id).await;
            }
        }
        for id in failed {
            if let Some(assignment) = assignments.iter().find(|known| known.claim.id == id) {
                self.go_back_if_too_many_failed(assignment, now).await?;
            }
        }
        Ok(late)
    }

    /// What a collector should run and how far it is; none when nothing is to be written.
    async fn judge(
        &self,
        known: &Known,
        assignments: &[Assignment],
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
                obstacle = self.obstacle(known, &loaded).await?;
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
            soak: follows.map_or(super::super::rollout::DEFAULT_SOAK, |assignment| {
                assignment.soak
            }),
            reports_config: capabilities.contains(AgentCapabilities::REPORTS_REMOTE_CONFIG),
            reports_health: capabilities.contains(AgentCapabilities::REPORTS_HEALTH),
            healthy: known.is_healthy,
            health_error: &known.health_error,
            report: known.durable.config.as_ref(),
            sent_hash: known
                .durable
                .sent_config
                .as_ref()
                .map(|sent| sent.hash.as_str()),
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
        loaded: &Loaded,
    ) -> Result<Option<String>, StoreError> {
        let capabilities = AgentCapabilities::from_bits(known.capabilities);
        if !capabilities.contains(AgentCapabilities::ACCEPTS_REMOTE_CONFIG) {
            return Ok(Some(
                "it does not accept remote configuration; a supervisor does when accepts_remote_config is true".to_owned(),
            ));
        }
        if known.components_hash.is_empty() {
            return Ok(None);
        }
        let key = (loaded.hash.clone(), known.components_hash.clone());
        if let Some(checked) = self.0.checked.get(&key) {
            return Ok(checked.clone());
        }
        let components =
            store::state::components(&mut self.database(), &known.components_hash).await?;
        let Some(components) = components else {
            return Ok(None);
        };
        let errors: Vec<String> = check(loaded.kind, &loaded.files, Some(&components))
            .into_iter()
            .filter(|finding| finding.severity == Severity::Error)
            .take(MAX_REASONS)
            .map(|finding| finding.message)
            .collect();
        let obstacle = (!errors.is_empty()).then(|| errors.join("; "));
        remember(&self.0.checked, MAX_CHECKED, key, obstacle.clone());
        Ok(obstacle)
    }

    /// Notes in a collector's timeline what people will ask for.
    async fn note(&self, db: &mut Transaction, one: &Looked) -> Result<(), StoreError> {
        let (before, after) = (&one.before, &one.after);
        let mut events: Vec<(&str, Value)> = Vec::new();
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
        let events: Vec<(&str, &Value)> = events
            .iter()
            .map(|(kind, details)| (*kind, details))
            .collect();
        crate::store::event::add(db, one.id, &events, self.now()).await
    }

    /// The same for all assignments, in case a server ended before it could.
    pub(super) async fn go_back_where_too_many_failed(&self) -> Result<(), StoreError> {
        for assignment in store::assignment::list(&mut self.database()).await? {
            self.go_back_if_too_many_failed(&assignment, self.now())
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
        if seen.auto_rollback != AutoRollback::Assignment || seen.previous_version.is_none() {
            return Ok(());
        }
        let mut db = self.database().begin().await?;
        db.lock(&[super::documents::lock_name(seen.configuration_id)])
            .await?;
        let Some(before) = store::assignment::find(&mut db, seen.claim.id).await? else {
            return Ok(());
        };
        let Some(previous) = before
            .previous_version
            .filter(|_| before.version == seen.version)
        else {
            return Ok(());
        };
        let failed = store::state::failed(&mut db, before.claim.id, before.version).await?;
        if before.auto_rollback != AutoRollback::Assignment
            || failed < i64::from(before.failures_until_rollback)
        {
            return Ok(());
        }
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
        after.step_back(previous, reason, now);
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
            previous_version = previous,
            failed,
            "a configuration failed on too many collectors; its assignment went one step back"
        );
        self.plan_all();
        Ok(())
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
    found.map_or(super::super::rollout::DEFAULT_SOAK, |assignment| {
        assignment.soak
    })
}

impl Assignment {
    /// Goes back to a version, and stays there.
    pub(crate) fn step_back(&mut self, to: i64, reason: String, now: muster_clock::Timestamp) {
        self.version = to;
        self.previous_version = None;
        self.follows_newest = false;
        self.rolled_back = Some((now, reason));
        self.updated_at = now;
    }

    /// Moves on to a version; the one before is remembered.
    pub(crate) fn move_to(&mut self, version: i64, now: muster_clock::Timestamp) {
        if self.version != version {
            self.previous_version = Some(self.version);
            self.version = version;
            self.rolled_back = None;
            self.updated_at = now;
        }
    }
}
