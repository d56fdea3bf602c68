//! What operators do about keys: make them in advance, list them, take one away.

use async_trait::async_trait;
use muster_clock::Timestamp;
use muster_http::{Listing, Page};
use muster_store::{Database, StoreError, Transaction};
use serde_json::json;

use super::{CollectorKeyFilter, CollectorKeyInfo, CollectorKeys, NewCollectorKey};
use crate::store::collector_keys as store;
use crate::store::people;
use crate::{
    Actor, AgentKeyId, AuditEntry, IdentityError, TeamBelongings, TeamFilter, TeamId, secret,
};

/// The longest name, in characters.
const MAX_NAME_CHARACTERS: usize = 100;
/// The most keys that wait for the collector that uses them first, of one team or of those without one.
const MAX_UNUSED_KEYS: u64 = 10_000;

impl CollectorKeys {
    /// Makes a key in advance, for an agent that cannot take an offer. It belongs to the first collector that uses it; its
    /// text is known only here.
    pub async fn make(
        &self,
        actor: &Actor,
        new: NewCollectorKey,
    ) -> Result<(CollectorKeyInfo, String), IdentityError> {
        let context = &self.0.context;
        let now = context.now();
        let characters = new.name.trim().chars().count();
        if characters == 0 || characters > MAX_NAME_CHARACTERS {
            let reason = format!("must have from 1 to {MAX_NAME_CHARACTERS} characters");
            return Err(IdentityError::invalid("name", reason));
        }
        if new.expires_at.is_some_and(|at| at <= now) {
            let reason = "must lie in the future";
            return Err(IdentityError::invalid("expires_at", reason));
        }
        let text = secret::new("acc", &*context.randomness);
        let mut db = context.database.begin().await?;
        let scope = new.team_id.map_or(0, |team| team.0);
        // Of several at once each counts what the one before it made.
        db.lock(&[format!("identity.unused_keys {scope}")]).await?;
        if store::count_unused(&mut db, new.team_id, now).await? >= MAX_UNUSED_KEYS {
            let whose = match new.team_id {
                Some(_) => "of this team",
                None => "without a team",
            };
            let what = format!(
                "{MAX_UNUSED_KEYS} keys {whose} wait for their collectors already; revoke those that are not needed, or let \
                 them expire"
            );
            return Err(IdentityError::Conflict { what });
        }
        if let Some(team) = new.team_id
            && people::find_team(&mut db, team).await?.is_none()
        {
            let reason = "names a team that does not exist";
            return Err(IdentityError::invalid("team_id", reason));
        }
        let id = store::make(&mut db, &secret::hash(&text), &new, now).await?;
        let details = json!({ "name": new.name.trim(), "team_id": new.team_id, "expires_at": new.expires_at });
        let entry = AuditEntry::new("made_agent_key", "agent_key", id).after(details);
        self.0.audit.record(&mut db, actor, entry, now).await?;
        let found = store::listing::find(&mut db, id, now).await?;
        let key = found.ok_or_else(|| IdentityError::not_found("access key", id))?;
        db.commit().await?;
        Ok((key, text))
    }

    /// One key.
    pub async fn find(&self, id: AgentKeyId) -> Result<CollectorKeyInfo, IdentityError> {
        let context = &self.0.context;
        let found = store::listing::find(&mut &context.database, id, context.now()).await?;
        found.ok_or_else(|| IdentityError::not_found("access key", id))
    }

    /// A page of the keys of the teams that are visible, by id.
    pub async fn list(
        &self,
        visible: &TeamFilter,
        listing: &Listing,
        filter: &CollectorKeyFilter,
    ) -> Result<Page<CollectorKeyInfo>, IdentityError> {
        let context = &self.0.context;
        let db = &mut &context.database;
        let (items, total) =
            store::listing::page(db, listing, filter, visible, context.now()).await?;
        Ok(listing.page(items, total))
    }

    /// Takes one key away: it is refused from now on, on every replica. Its collector stays; its agent goes on knocking with
    /// the key until it is started anew with an enrollment token, or is given another key. Doing it twice is no error.
    pub async fn revoke(&self, actor: &Actor, id: AgentKeyId) -> Result<(), IdentityError> {
        let now = self.0.context.now();
        let key = self.find(id).await?;
        let done = async {
            let mut db = self.0.context.database.begin().await?;
            if let Some(collector) = key.collector_id {
                store::hold(&mut db, collector).await?;
            }
            if !store::revoke(&mut db, id, now).await? {
                return Ok(());
            }
            let entry = match key.collector_id {
                Some(collector) => AuditEntry::new("revoked_agent_key", "collector", collector),
                None => AuditEntry::new("revoked_agent_key", "agent_key", id),
            };
            let entry = entry.after(json!({ "key_id": id, "name": key.name }));
            self.0.audit.record(&mut db, actor, entry, now).await?;
            db.commit().await
        };
        let done = done.await;
        // When the answer to a commit is lost it may have been kept. And it may have been bound since it was found.
        let collector = match key.collector_id {
            None => self.find(id).await.ok().and_then(|key| key.collector_id),
            known => known,
        };
        if let Some(collector) = collector {
            self.changed(collector).await;
        }
        Ok(done?)
    }
}

/// A key that waits for its collector goes with its team; collectors stay, and so do the keys that they use.
#[async_trait]
impl TeamBelongings for CollectorKeys {
    fn kind(&self) -> &'static str {
        "access_keys"
    }

    async fn owners(&self, database: &Database) -> Result<Vec<TeamId>, StoreError> {
        store::teams(&mut &*database).await
    }

    async fn release(
        &self,
        db: &mut Transaction,
        team: TeamId,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        store::release_team(db, team, now).await
    }

    async fn released(&self) {
        self.many_changed().await;
    }
}
