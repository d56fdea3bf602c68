//! Which collectors should run which version.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::{Listing, Page, Problem};
use muster_identity::{Action, Actor, AuditEntry, Principal, Scope};
use muster_store::{StoreError, Transaction};
use serde_json::{Value, json};

use super::{Configurations, may_read};
use crate::configurations::error::ConfigurationError;
use crate::configurations::model::{Assignment, AutoRollback, Configuration};
use crate::configurations::precedence::Claim;
use crate::configurations::rollout::{DEFAULT_SOAK, MAX_SOAK, MIN_SOAK, State};
use crate::configurations::selector::Selector;
use crate::configurations::store;

/// The most assignments of one configuration.
const MAX_ASSIGNMENTS: usize = 100;
/// The highest priority; the lowest is the same below zero.
const MAX_PRIORITY: i64 = 1_000_000;
/// On how many collectors a version may fail until all go back.
const MAX_FAILURES: u32 = 100_000;
/// On how many it does when nobody says.
const DEFAULT_FAILURES: u32 = 1;

/// What a new assignment is to be. What is absent has a default.
#[derive(Debug, Clone, Default)]
pub struct NewAssignment {
    /// Which configuration.
    pub configuration_id: i64,
    /// Which collectors.
    pub selector: String,
    /// What else. The version is the newest by default.
    pub change: AssignmentChange,
}

/// How an assignment is to change; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct AssignmentChange {
    /// Which version.
    pub version: Option<i64>,
    /// Of several that are for a collector the one with the highest counts; 0 by default.
    pub priority: Option<i64>,
    /// Whether it moves on to each new version by itself.
    pub follows_newest: Option<bool>,
    /// Whether nothing new is sent.
    pub is_paused: Option<bool>,
    /// How long a collector has to be healthy until a version counts as run.
    pub soak: Option<Duration>,
    /// What happens by itself when a version fails.
    pub auto_rollback: Option<AutoRollback>,
    /// On how many collectors it fails until all go back, when they do.
    pub failures_until_rollback: Option<u32>,
}

impl AssignmentChange {
    /// Whoever names a version, and says nothing else, wants that one to stay.
    fn stays(&mut self) {
        if self.version.is_some() && self.follows_newest.is_none() {
            self.follows_newest = Some(false);
        }
    }

    fn check(&self) -> Result<(), ConfigurationError> {
        if self
            .priority
            .is_some_and(|priority| priority.abs() > MAX_PRIORITY)
        {
            let reason = format!("must be from -{MAX_PRIORITY} to {MAX_PRIORITY}");
            return Err(ConfigurationError::invalid("priority", reason));
        }
        if self
            .soak
            .is_some_and(|soak| !(MIN_SOAK..=MAX_SOAK).contains(&soak))
        {
            let reason = format!(
                "must be from {} to {} seconds",
                MIN_SOAK.as_secs(),
                MAX_SOAK.as_secs()
            );
            return Err(ConfigurationError::invalid("soak_seconds", reason));
        }
        if self
            .failures_until_rollback
            .is_some_and(|failures| failures == 0 || failures > MAX_FAILURES)
        {
            let reason = format!("must be from 1 to {MAX_FAILURES}");
            return Err(ConfigurationError::invalid(
                "failures_until_rollback",
                reason,
            ));
        }
        if self.follows_newest == Some(true) && self.version.is_some() {
            return Err(ConfigurationError::invalid(
                "follows_newest",
                "an assignment that follows the newest version cannot name one; leave one of them out",
            ));
        }
        Ok(())
    }
}

/// What the audit log keeps of an assignment.
pub(super) fn shown(assignment: &Assignment) -> Value {
    json!({
        "configuration_id": assignment.configuration_id,
        "version": assignment.version,
        "selector": assignment.claim.selector.to_string(),
        "priority": assignment.claim.priority,
        "follows_newest": assignment.follows_newest,
        "paused": assignment.is_paused,
        "soak_seconds": assignment.soak.as_secs(),
        "auto_rollback": assignment.auto_rollback.name(),
        "failures_until_rollback": assignment.failures_until_rollback,
    })
}

/// A selector as it was written in a request.
pub(super) fn selector(text: &str) -> Result<Selector, ConfigurationError> {
    Selector::parse(text)
        .map_err(|error| ConfigurationError::invalid("selector", error.to_string()))
}

impl Configurations {
    /// Assigns a version to collectors. For the same configuration and selector there is one assignment, which changes: what is
    /// absent stays there. Says whether it is new.
    pub async fn assign(
        &self,
        principal: &Principal,
        new: NewAssignment,
    ) -> Result<(Assignment, bool), Problem> {
        let seen = self.find(principal, new.configuration_id).await?;
        principal.authorize(Action::WriteCollectorConfigs, Scope::Team(seen.team_id))?;
        let mut change = new.change;
        change.stays();
        change.check()?;
        let selector = selector(&new.selector)?;
        Ok(self
            .assign_checked(principal, new.configuration_id, selector, change)
            .await?)
    }

    async fn assign_checked(
        &self,
        principal: &Principal,
        id: i64,
        selector: Selector,
        change: AssignmentChange,
    ) -> Result<(Assignment, bool), ConfigurationError> {
        let now = self.now();
        let (mut db, configuration) = self.held(id).await?;
        let all = store::assignment::of_configuration(&mut db, id).await?;
        let before = all
            .iter()
            .find(|known| known.claim.selector == selector)
            .cloned();
        if before.is_none() && all.len() >= MAX_ASSIGNMENTS {
            return Err(ConfigurationError::Conflict(format!(
                "the configuration has {MAX_ASSIGNMENTS} assignments, and can have no more; join selectors"
            )));
        }
        let mut after = before.clone().unwrap_or(Assignment {
            claim: Claim {
                id: 0,
                team_id: configuration.team_id,
                priority: 0,
                selector,
            },
            configuration_id: id,
            version: configuration.newest_version,
            previous_version: None,
            follows_newest: false,
            is_paused: false,
            soak: DEFAULT_SOAK,
            auto_rollback: AutoRollback::Off,
            failures_until_rollback: DEFAULT_FAILURES,
            rolled_back: None,
            created_at: now,
            updated_at: now,
        });
        self.apply(&mut db, &configuration, &mut after, &change)
            .await?;
        if before.as_ref() == Some(&after) {
            return Ok((after, false));
        }
        let actor = Actor::from(principal);
        let id = self
            .write_assignment(&mut db, &actor, before.as_ref(), &after)
            .await?;
        db.commit().await?;
        after.claim.id = id;
        self.plan_all();
        Ok((after, before.is_none()))
    }

    async fn apply(
        &self,
        db: &mut Transaction,
        configuration: &Configuration,
        assignment: &mut Assignment,
        change: &AssignmentChange,
    ) -> Result<(), ConfigurationError> {
        let now = self.now();
        if let Some(follows_newest) = change.follows_newest {
            assignment.follows_newest = follows_newest;
            if follows_newest {
                self.move_to(db, assignment, configuration.newest_version, now)
                    .await?;
            }
        }
        if let Some(version) = change.version {
            if store::document::find_version(db, configuration.id, version)
                .await?
                .is_none()
            {
                let reason = format!(
                    "there is no version {version}; the newest is {}",
                    configuration.newest_version
                );
                return Err(ConfigurationError::invalid("version", reason));
            }
            self.move_to(db, assignment, version, now).await?;
        }
        let before = assignment.clone();
        assignment.claim.priority = change.priority.unwrap_or(before.claim.priority);
        assignment.is_paused = change.is_paused.unwrap_or(before.is_paused);
        assignment.soak = change.soak.unwrap_or(before.soak);
        assignment.auto_rollback = change.auto_rollback.unwrap_or(before.auto_rollback);
        assignment.failures_until_rollback = change
            .failures_until_rollback
            .unwrap_or(before.failures_until_rollback);
        if *assignment != before {
            assignment.updated_at = now;
        }
        Ok(())
    }

    /// Moves an assignment on to a version.
    pub(super) async fn move_to(
        &self,
        db: &mut Transaction,
        assignment: &mut Assignment,
        version: i64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // One that is being made has no collectors, and nothing before it.
        if assignment.claim.id == 0 {
            assignment.version = version;
            return Ok(());
        }
        let run_well =
            store::state::count_in(db, assignment.claim.id, assignment.version, State::InSync)
                .await?;
        assignment.move_to(version, run_well > 0, now);
        Ok(())
    }

    /// Keeps an assignment with who changed it; gives its id.
    pub(super) async fn write_assignment(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        before: Option<&Assignment>,
        after: &Assignment,
    ) -> Result<i64, ConfigurationError> {
        let (id, action) = match before {
            Some(before) => {
                store::assignment::update(db, after).await?;
                (before.claim.id, "changed_collector_config_assignment")
            }
            None => (
                store::assignment::insert(db, after).await?,
                "assigned_collector_config",
            ),
        };
        let mut entry =
            AuditEntry::new(action, "collector_config_assignment", id).after(shown(after));
        if let Some(before) = before {
            entry = entry.before(shown(before));
        }
        let audit = &self.0.parts.identity.audit;
        audit.record(db, actor, entry, after.updated_at).await?;
        Ok(id)
    }

    /// An assignment that the principal may see, with its configuration.
    pub async fn find_assignment(
        &self,
        principal: &Principal,
        id: i64,
    ) -> Result<(Assignment, Configuration), ConfigurationError> {
        let unknown = || ConfigurationError::Unknown(format!("assignment {id}"));
        let found = store::assignment::find(&mut self.database(), id).await?;
        let assignment = found.ok_or_else(unknown)?;
        let configuration =
            store::document::find(&mut self.database(), assignment.configuration_id).await?;
        let configuration = configuration.ok_or_else(unknown)?;
        if !may_read(principal, configuration.team_id) {
            return Err(unknown());
        }
        Ok((assignment, configuration))
    }

    /// A page of the assignments that the principal may see.
    pub async fn assignments(
        &self,
        principal: &Principal,
        configuration: Option<i64>,
        listing: &Listing,
    ) -> Result<Page<Assignment>, ConfigurationError> {
        if let Some(id) = configuration {
            self.find(principal, id).await?;
        }
        let visible = principal.teams_for(Action::ReadCollectorConfigs);
        let mut db = self.database();
        let (items, total) =
            store::assignment::page(&mut db, &visible, configuration, listing).await?;
        Ok(listing.page(items, total))
    }

    /// Changes an assignment.
    pub async fn change_assignment(
        &self,
        principal: &Principal,
        id: i64,
        change: AssignmentChange,
    ) -> Result<Assignment, Problem> {
        let (_, configuration) = self.find_assignment(principal, id).await?;
        principal.authorize(
            Action::WriteCollectorConfigs,
            Scope::Team(configuration.team_id),
        )?;
        let mut change = change;
        change.stays();
        change.check()?;
        Ok(self
            .change_checked_assignment(principal, configuration.id, id, &change)
            .await?)
    }

    async fn change_checked_assignment(
        &self,
        principal: &Principal,
        configuration: i64,
        id: i64,
        change: &AssignmentChange,
    ) -> Result<Assignment, ConfigurationError> {
        let (mut db, configuration) = self.held(configuration).await?;
        let found = store::assignment::find(&mut db, id).await?;
        let before =
            found.ok_or_else(|| ConfigurationError::Unknown(format!("assignment {id}")))?;
        let mut after = before.clone();
        self.apply(&mut db, &configuration, &mut after, change)
            .await?;
        if after == before {
            return Ok(after);
        }
        self.write_assignment(&mut db, &principal.into(), Some(&before), &after)
            .await?;
        db.commit().await?;
        self.plan_all();
        Ok(after)
    }

    /// Takes an assignment away. Collectors keep what they run: nothing is sent in its place.
    pub async fn unassign(&self, principal: &Principal, id: i64) -> Result<(), Problem> {
        let (_, configuration) = self.find_assignment(principal, id).await?;
        principal.authorize(
            Action::WriteCollectorConfigs,
            Scope::Team(configuration.team_id),
        )?;
        Ok(self
            .unassign_checked(principal, configuration.id, id)
            .await?)
    }

    async fn unassign_checked(
        &self,
        principal: &Principal,
        configuration: i64,
        id: i64,
    ) -> Result<(), ConfigurationError> {
        let (mut db, _) = self.held(configuration).await?;
        let found = store::assignment::find(&mut db, id).await?;
        let before =
            found.ok_or_else(|| ConfigurationError::Unknown(format!("assignment {id}")))?;
        store::assignment::delete(&mut db, id).await?;
        let entry = AuditEntry::new(
            "unassigned_collector_config",
            "collector_config_assignment",
            id,
        )
        .before(shown(&before));
        self.0
            .parts
            .identity
            .audit
            .record(&mut db, &principal.into(), entry, self.now())
            .await?;
        db.commit().await?;
        self.plan_all();
        Ok(())
    }

    /// Takes an assignment one step back: to the version before, and it stays there. When it is not on `from` any more,
    /// nothing is done: of two that want the same step, one takes it.
    pub async fn roll_back(
        &self,
        principal: &Principal,
        id: i64,
        from: Option<i64>,
    ) -> Result<RolledBack, Problem> {
        let (_, configuration) = self.find_assignment(principal, id).await?;
        principal.authorize(
            Action::WriteCollectorConfigs,
            Scope::Team(configuration.team_id),
        )?;
        let which = Which::One(id, from);
        let mut all = self
            .roll_back_checked(principal, configuration.id, &which)
            .await?;
        all.pop()
            .ok_or_else(|| ConfigurationError::Unknown(format!("assignment {id}")).into())
    }

    /// Takes all assignments of a configuration one step back. With `from`, versions by the assignments' ids, only those that
    /// are named, and none when one of them is on another version by now.
    pub async fn roll_back_all(
        &self,
        principal: &Principal,
        configuration: i64,
        from: Option<BTreeMap<i64, i64>>,
    ) -> Result<Vec<RolledBack>, Problem> {
        let seen = self.find(principal, configuration).await?;
        principal.authorize(Action::WriteCollectorConfigs, Scope::Team(seen.team_id))?;
        let which = from.map_or(Which::All, Which::These);
        Ok(self
            .roll_back_checked(principal, configuration, &which)
            .await?)
    }

    async fn roll_back_checked(
        &self,
        principal: &Principal,
        configuration: i64,
        which: &Which,
    ) -> Result<Vec<RolledBack>, ConfigurationError> {
        let now = self.now();
        let (mut db, _) = self.held(configuration).await?;
        let all = store::assignment::of_configuration(&mut db, configuration).await?;
        if all.is_empty() {
            return Err(ConfigurationError::Conflict(
                "the configuration is not assigned, so there is nothing to take back".into(),
            ));
        }
        which.check(&all)?;
        let mut written = Vec::new();
        for before in all.into_iter().filter(|known| which.means(known.claim.id)) {
            let older =
                store::document::version_before(&mut db, configuration, before.version).await?;
            let Some(previous) = before.previous_version.or(older) else {
                if matches!(which, Which::One(..)) {
                    return Err(ConfigurationError::Conflict(format!(
                        "there is no version before {} to go back to",
                        before.version
                    )));
                }
                continue;
            };
            let mut after = before.clone();
            after.step_back(previous, format!("by {}", principal.name), now);
            store::assignment::update(&mut db, &after).await?;
            let entry = AuditEntry::new(
                "rolled_back_collector_config",
                "collector_config_assignment",
                after.claim.id,
            )
            .before(shown(&before))
            .after(shown(&after));
            self.0
                .parts
                .identity
                .audit
                .record(&mut db, &principal.into(), entry, now)
                .await?;
            written.push(RolledBack {
                from_version: before.version,
                assignment: after,
            });
        }
        if written.is_empty() {
            return Err(ConfigurationError::Conflict(
                "there is no version before to go back to".into(),
            ));
        }
        db.commit().await?;
        self.plan_all();
        Ok(written)
    }
}

/// An assignment that went back.
#[derive(Debug, Clone)]
pub struct RolledBack {
    /// The version that it came from.
    pub from_version: i64,
    /// What it is now.
    pub assignment: Assignment,
}

/// Which assignments of a configuration are to go back.
enum Which {
    All,
    /// This one, and from which version if that was said.
    One(i64, Option<i64>),
    /// These by their ids, each from a version.
    These(BTreeMap<i64, i64>),
}

impl Which {
    fn means(&self, id: i64) -> bool {
        match self {
            Self::All => true,
            Self::One(one, _) => *one == id,
            Self::These(some) => some.contains_key(&id),
        }
    }

    /// Whether all of them are where they are thought to be.
    fn check(&self, all: &[Assignment]) -> Result<(), ConfigurationError> {
        let expected: Vec<(i64, i64)> = match self {
            Self::All => Vec::new(),
            Self::One(id, from) => from.map(|from| (*id, from)).into_iter().collect(),
            Self::These(some) => some.iter().map(|(id, from)| (*id, *from)).collect(),
        };
        for (id, from) in expected {
            let found = all.iter().find(|known| known.claim.id == id);
            let found =
                found.ok_or_else(|| ConfigurationError::Unknown(format!("assignment {id}")))?;
            if found.version != from {
                return Err(ConfigurationError::Conflict(format!(
                    "assignment {id} is on version {} now, and not on {from}; nothing was taken back",
                    found.version
                )));
            }
        }
        Ok(())
    }
}
