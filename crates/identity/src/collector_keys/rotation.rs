//! Renewing keys that are good: one, or all of a fleet.
//!
//! A key that is due stays good; whoever speaks to its collector offers a new one. A fleet's rotation gives each active key its
//! turn at once, so that nothing has to go on and it survives a restart: each renewal is a reconnect, and all at once are a
//! storm.

use serde_json::json;

use super::{COLLECTOR_KEYS_TOPIC, CollectorKeyRotation, CollectorKeys};
use crate::store::collector_keys as store;
use crate::{Actor, AgentKeyId, AuditEntry, IdentityError};

/// How many collectors a rotation has renew their keys per minute at most.
pub const MAX_COLLECTORS_PER_MINUTE: u32 = 10_000;

impl CollectorKeys {
    /// Wants one key renewed, which its collector uses.
    ///
    /// # Errors
    ///
    /// One that is not active cannot be renewed.
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
        Ok(CollectorKeyRotation {
            waiting,
            due,
            last_due_at,
        })
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
