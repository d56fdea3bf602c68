//! Renewing keys that are good: one, or all of a fleet.
//!
//! A key that is due stays good; whoever speaks to its collector offers a new one. A fleet's rotation gives each active key its
//! turn at once, so that nothing has to go on and it survives a restart: each renewal is a reconnect, and all at once are a
//! storm.

use std::sync::Arc;

use async_trait::async_trait;
use muster_store::{Database, StoreError};
use serde_json::json;

use super::{COLLECTOR_KEYS_TOPIC, CollectorKeyRotation, CollectorKeys};
use crate::store::collector_keys as store;
use crate::{Actor, AgentKeyId, AuditEntry, CollectorId, IdentityError};

/// How many collectors a rotation has renew their keys per minute at most.
pub const MAX_COLLECTORS_PER_MINUTE: u32 = 10_000;
/// How many collectors are asked about at a time.
const AT_A_TIME: usize = 1_000;

/// Why the key of a collector is not renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRenewable {
    /// Its agent does not accept connection settings.
    CannotTake,
    /// It is offline.
    Away,
}

/// Who keeps collectors.
#[async_trait]
pub trait KeyCollectors: Send + Sync + 'static {
    /// Of some thousand collectors those whose keys cannot be renewed as things are. Those that are not known are left out.
    async fn not_renewable(
        &self,
        database: &Database,
        collectors: &[CollectorId],
    ) -> Result<Vec<(CollectorId, NotRenewable)>, StoreError>;
}

impl CollectorKeys {
    /// Whoever keeps collectors tells whose keys can be renewed. Only the first is attached.
    pub fn attach_collectors(&self, collectors: Arc<dyn KeyCollectors>) {
        if self.0.collectors.set(collectors).is_err() {
            tracing::warn!("collectors are attached to their keys twice");
        }
    }

    async fn not_renewable(
        &self,
        collectors: &[CollectorId],
    ) -> Result<Vec<(CollectorId, NotRenewable)>, StoreError> {
        match self.0.collectors.get() {
            None => Ok(Vec::new()),
            Some(keeper) => {
                let database = &self.0.context.database;
                keeper.not_renewable(database, collectors).await
            }
        }
    }

    /// Wants one key renewed, which its collector uses.
    ///
    /// # Errors
    ///
    /// One that is not active cannot be renewed, nor one whose agent cannot take another.
    pub async fn rotate(&self, actor: &Actor, id: AgentKeyId) -> Result<(), IdentityError> {
        let key = self.find(id).await?;
        let not_active = || IdentityError::Conflict {
            what: format!(
                "access key {id} is {}: only one that is active is renewed",
                key.state.name()
            ),
        };
        let (Some(collector), super::KeyState::Active) = (key.collector_id, key.state) else {
            return Err(not_active());
        };
        let cannot = self.not_renewable(&[collector]).await?;
        if cannot.contains(&(collector, NotRenewable::CannotTake)) {
            let what = format!(
                "collector {collector}, which uses access key {id}, cannot take a new key; make one for it in advance"
            );
            return Err(IdentityError::Conflict { what });
        }
        let now = self.0.context.now();
        let done = async {
            let mut db = self.0.context.database.begin().await?;
            let is_there = self
                .rotate_collector(&mut db, actor, collector, now)
                .await?;
            db.commit().await?;
            Ok::<_, IdentityError>(is_there)
        };
        let done = done.await;
        self.changed(collector).await;
        if done? { Ok(()) } else { Err(not_active()) }
    }

    /// Wants all active keys renewed, so many a minute in the order of their ids.
    ///
    /// # Errors
    ///
    /// Not while another such rotation has turns to come.
    pub async fn start_rotation(
        &self,
        actor: &Actor,
        per_minute: u32,
    ) -> Result<CollectorKeyRotation, IdentityError> {
        if !(1..=MAX_COLLECTORS_PER_MINUTE).contains(&per_minute) {
            let reason = format!("must be from 1 to {MAX_COLLECTORS_PER_MINUTE}");
            return Err(IdentityError::invalid("collectors_per_minute", reason));
        }
        let now = self.0.context.now();
        let done = async {
            let mut db = self.0.context.database.begin().await?;
            db.lock(&["identity.collector_key_rotation".to_owned()])
                .await?;
            let (.., last_due_at) = store::rotation(&mut db, now).await?;
            if last_due_at.is_some_and(|at| at > now) {
                let what = "collectors' keys are being renewed already; stop that first".to_owned();
                return Err(IdentityError::Conflict { what });
            }
            let keys = store::rotate_all(&mut db, per_minute, now).await?;
            let details = json!({ "collectors_per_minute": per_minute, "keys": keys });
            let entry = AuditEntry::new("started_key_rotation", "collector_keys", "all");
            let entry = entry.after(details);
            self.0.audit.record(&mut db, actor, entry, now).await?;
            Ok(db.commit().await?)
        };
        let done = done.await;
        self.many_changed().await;
        done?;
        self.rotation().await
    }

    /// How far the rotation is.
    pub async fn rotation(&self) -> Result<CollectorKeyRotation, IdentityError> {
        let context = &self.0.context;
        let found = store::rotation(&mut &context.database, context.now()).await?;
        let (waiting, due, last_due_at) = found;
        let (cannot_take, away) = self.count_not_renewable().await?;
        Ok(CollectorKeyRotation {
            waiting,
            due,
            cannot_take,
            away,
            last_due_at,
        })
    }

    /// Of the collectors whose keys are to be renewed how many cannot take one, and how many others are away.
    async fn count_not_renewable(&self) -> Result<(u64, u64), StoreError> {
        let (mut cannot_take, mut away) = (0, 0);
        let mut after = CollectorId(0);
        loop {
            let db = &mut &self.0.context.database;
            let waiting = store::rotating(db, after, AT_A_TIME).await?;
            for (_, why) in self.not_renewable(&waiting).await? {
                match why {
                    NotRenewable::CannotTake => cannot_take += 1,
                    NotRenewable::Away => away += 1,
                }
            }
            match waiting.last() {
                Some(last) if waiting.len() == AT_A_TIME => after = *last,
                _ => return Ok((cannot_take, away)),
            }
        }
    }

    /// Leaves alone the keys whose turn has not come; those that are due stay due. Stopping when nothing runs is no error.
    pub async fn stop_rotation(
        &self,
        actor: &Actor,
    ) -> Result<CollectorKeyRotation, IdentityError> {
        let now = self.0.context.now();
        let done = async {
            let mut db = self.0.context.database.begin().await?;
            let keys = store::stop_rotation(&mut db, now).await?;
            if keys > 0 {
                let entry = AuditEntry::new("stopped_key_rotation", "collector_keys", "all");
                let entry = entry.after(json!({ "keys": keys }));
                self.0.audit.record(&mut db, actor, entry, now).await?;
            }
            db.commit().await
        };
        let done = done.await;
        self.many_changed().await;
        done?;
        self.rotation().await
    }

    /// Tells this and all other replicas to compare.
    pub(super) async fn many_changed(&self) {
        self.0.context.hint(COLLECTOR_KEYS_TOPIC, "").await;
    }
}
