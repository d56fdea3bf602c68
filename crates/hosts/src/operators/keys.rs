//! What operators do about the keys of hosts: take away, renew, ban, tell apart, put together.

use muster_clock::Timestamp;
use muster_http::{Listing, Page, Problem};
use muster_identity::{
    Action, Actor, AgentKeyId, AuditEntry, HostId, Principal, RefusedAgent, RefusedKey, Scope,
};
use muster_store::{StoreError, Transaction};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{Hosts, OperatorError};
use crate::checkin::HOST_TOPIC;
use crate::record::HostRecord;
use crate::{clones, rotation, store};

/// The longest reason of a ban, in bytes.
const MAX_REASON_BYTES: usize = 1_000;
/// How many hosts a rotation has renew their keys per minute at most.
const MAX_HOSTS_PER_MINUTE: i64 = 10_000;
/// By which bans and refused agents are listed.
pub(crate) const NEWEST_FIRST: &[&str] = &["last_at"];

/// A host that may not come back, whatever it shows.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Ban {
    /// The host; it may be gone.
    pub host_id: HostId,
    /// What people called it.
    pub display_name: String,
    /// Why.
    pub reason: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub banned_at: Timestamp,
    /// By whom.
    pub banned_by: String,
}

/// The keys of all hosts are renewed, some at a time.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct KeyRotation {
    /// Its id.
    pub id: i64,
    /// How many hosts are told per minute.
    pub hosts_per_minute: i64,
    /// When it began; hosts that enrolled later have new keys.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// Who began it.
    pub started_by: String,
    /// The last host that was looked at.
    pub cursor_id: i64,
    /// How many hosts were told.
    pub asked: i64,
    /// How many were left alone: their enrollment token admits them no more, or nothing on them could come back.
    pub skipped: i64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// How it ended: `finished` or `stopped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

impl Hosts {
    async fn key_holder(&self, principal: &Principal, id: HostId) -> Result<HostRecord, Problem> {
        let host = self.find(principal, id).await?;
        principal.authorize(Action::WriteHosts, Scope::Team(host.team_id))?;
        Ok(host)
    }

    /// After a change of keys, whatever came of it: when the answer to a commit is lost it may have been kept.
    async fn keys_changed(&self, ids: &[HostId]) {
        for id in ids {
            self.0.identity.agent_keys.revoked(*id).await;
            self.hint(HOST_TOPIC, id).await;
        }
    }

    async fn audit_keys(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        entry: AuditEntry,
    ) -> Result<(), StoreError> {
        self.0
            .identity
            .audit
            .record(db, actor, entry, self.now())
            .await
    }

    /// Takes one key of a host away. Its agent has to enroll again; if its token is still good, it does so by itself.
    pub async fn revoke_key(
        &self,
        principal: &Principal,
        id: HostId,
        key: AgentKeyId,
    ) -> Result<(), Problem> {
        self.key_holder(principal, id).await?;
        let (now, actor) = (self.now(), Actor::from(principal));
        let done = async {
            let mut db = self.0.database.begin().await?;
            let keys = &self.0.identity.agent_keys;
            if !keys.revoke(&mut db, id, key, now).await? {
                return Ok(false);
            }
            let details = json!({ "key_id": key });
            store::event::add(&mut db, id, "key_revoked", &details, now).await?;
            let entry = AuditEntry::new("revoked_agent_key", "host", id).after(details);
            self.audit_keys(&mut db, &actor, entry).await?;
            db.commit().await?;
            Ok(true)
        };
        let done: Result<bool, StoreError> = done.await;
        self.keys_changed(&[id]).await;
        if done.map_err(OperatorError::from)? {
            Ok(())
        } else {
            Err(Problem::not_found(format_args!(
                "a good key {key} of host {id}"
            )))
        }
    }

    /// Has the keys of a host renewed: its agents enroll again, and each old key stays good until the new one is used.
    /// Gives how many keys will be.
    pub async fn rotate_keys(&self, principal: &Principal, id: HostId) -> Result<u64, Problem> {
        self.key_holder(principal, id).await?;
        let (now, actor) = (self.now(), Actor::from(principal));
        let done = async {
            let mut db = self.0.database.begin().await?;
            let Some(host) = store::keys::one_host(&mut db, id).await? else {
                return Ok(0);
            };
            let keys = &self.0.identity.agent_keys;
            let count = rotation::rotate(keys, &mut db, &host, now).await?;
            if count > 0 {
                let details = json!({ "keys": count });
                store::event::add(&mut db, id, "key_rotation_requested", &details, now).await?;
                let entry = AuditEntry::new("rotated_agent_keys", "host", id).after(details);
                self.audit_keys(&mut db, &actor, entry).await?;
            }
            db.commit().await?;
            Ok(count)
        };
        let done: Result<u64, StoreError> = done.await;
        self.keys_changed(&[id]).await;
        let count = done.map_err(OperatorError::from)?;
        if count == 0 {
            let ban = store::keys::find_ban(&mut &self.0.database, id).await;
            let reason = if ban.map_err(OperatorError::from)?.is_some() {
                "this host is banned: it has no keys"
            } else {
                "no key of this host can be renewed: it has none now, the enrollment token that it came by is revoked or \
                 ran out, or its agent would not come back"
            };
            return Err(Problem::conflict(reason));
        }
        Ok(count)
    }

    /// Begins to renew the keys of all hosts.
    pub async fn start_rotation(
        &self,
        principal: &Principal,
        per_minute: i64,
    ) -> Result<KeyRotation, Problem> {
        principal.authorize(Action::WriteHosts, Scope::Global)?;
        if !(1..=MAX_HOSTS_PER_MINUTE).contains(&per_minute) {
            let reason = format!("must be from 1 to {MAX_HOSTS_PER_MINUTE}");
            return Err(Problem::invalid("hosts_per_minute", reason));
        }
        let (now, actor) = (self.now(), Actor::from(principal));
        let started = async {
            let mut db = self.0.database.begin().await?;
            db.lock(&["hosts.key_rotation".to_owned()]).await?;
            if store::keys::running_rotation(&mut db).await?.is_some() {
                return Ok(None);
            }
            let id = store::keys::start_rotation(&mut db, per_minute, &principal.name, now).await?;
            let entry = AuditEntry::new("started_key_rotation", "key_rotation", id)
                .after(json!({ "hosts_per_minute": per_minute }));
            self.audit_keys(&mut db, &actor, entry).await?;
            db.commit().await?;
            Ok(Some(id))
        };
        let started: Result<Option<i64>, StoreError> = started.await;
        let id = started
            .map_err(OperatorError::from)?
            .ok_or_else(|| Problem::conflict("keys are being renewed already; stop that first"))?;
        self.rotation(id).await
    }

    async fn rotation(&self, id: i64) -> Result<KeyRotation, Problem> {
        let all = store::keys::rotations(&mut &self.0.database).await;
        let found = all.map_err(OperatorError::from)?;
        let found = found.into_iter().find(|rotation| rotation.id == id);
        found.ok_or_else(|| Problem::not_found(format_args!("rotation {id}")))
    }

    /// The newest rotations, and how many keys are still to be renewed.
    pub async fn rotations(
        &self,
        principal: &Principal,
    ) -> Result<(Vec<KeyRotation>, u64), Problem> {
        principal.authorize(Action::ReadHosts, Scope::Global)?;
        let all = store::keys::rotations(&mut &self.0.database).await;
        let waiting = self.0.identity.agent_keys.waiting().await;
        let all = all.map_err(OperatorError::from)?;
        Ok((all, waiting.map_err(OperatorError::from)?))
    }

    /// Stops a rotation; hosts that were told go on. Stopping one that ended is no error.
    pub async fn stop_rotation(
        &self,
        principal: &Principal,
        id: i64,
    ) -> Result<KeyRotation, Problem> {
        principal.authorize(Action::WriteHosts, Scope::Global)?;
        let (now, actor) = (self.now(), Actor::from(principal));
        let done = async {
            let mut db = self.0.database.begin().await?;
            if store::keys::end_rotation(&mut db, id, "stopped", now).await? {
                let entry = AuditEntry::new("stopped_key_rotation", "key_rotation", id);
                self.audit_keys(&mut db, &actor, entry).await?;
            }
            db.commit().await
        };
        let done: Result<(), StoreError> = done.await;
        done.map_err(OperatorError::from)?;
        self.rotation(id).await
    }

    /// Bans a host: its keys are taken away, and no token brings it back until it is un-banned. Banning one that is banned
    /// changes nothing.
    pub async fn ban(
        &self,
        principal: &Principal,
        id: HostId,
        reason: &str,
    ) -> Result<Ban, Problem> {
        let reason = reason.trim();
        if reason.is_empty() {
            let wrong = "must say why, for those who wonder later";
            return Err(Problem::invalid("reason", wrong));
        }
        if reason.len() > MAX_REASON_BYTES || reason.contains('\0') {
            let wrong = format!("must be at most {MAX_REASON_BYTES} bytes of text");
            return Err(Problem::invalid("reason", wrong));
        }
        let host = self.key_holder(principal, id).await?;
        let (now, actor) = (self.now(), Actor::from(principal));
        let ban = Ban {
            host_id: id,
            display_name: host.display_name(),
            reason: reason.to_owned(),
            banned_at: now,
            banned_by: principal.name.clone(),
        };
        let done = async {
            let mut db = self.0.database.begin().await?;
            // An enrollment either sees the ban or has given its key by now.
            let Some(host) = store::host::find_for_update(&mut db, id).await? else {
                return Ok(None);
            };
            let keys = &self.0.identity.agent_keys;
            keys.revoke_host(&mut db, id, RefusedKey::Banned, now)
                .await?;
            if store::keys::add_ban(&mut db, &host, &ban).await? {
                let details = json!({ "reason": reason });
                store::event::add(&mut db, id, "banned", &details, now).await?;
                let entry = AuditEntry::new("banned_host", "host", id).after(details);
                self.audit_keys(&mut db, &actor, entry).await?;
            }
            db.commit().await?;
            let kept = store::keys::find_ban(&mut &self.0.database, id).await?;
            Ok(Some(kept.unwrap_or(ban)))
        };
        let done: Result<Option<Ban>, StoreError> = done.await;
        self.keys_changed(&[id]).await;
        let unknown = || OperatorError::UnknownHost(id.to_string());
        Ok(done.map_err(OperatorError::from)?.ok_or_else(unknown)?)
    }

    /// Lets a host come back. Its agents enroll again by themselves, if their token is good. Un-banning one that is not
    /// banned is no error.
    pub async fn unban(&self, principal: &Principal, id: HostId) -> Result<(), Problem> {
        // The host may be gone: then only those may who may write all hosts.
        match self.find(principal, id).await {
            Ok(host) => principal.authorize(Action::WriteHosts, Scope::Team(host.team_id))?,
            Err(OperatorError::UnknownHost(_)) => {
                principal.authorize(Action::WriteHosts, Scope::Global)?;
            }
            Err(error) => return Err(error.into()),
        }
        let (now, actor) = (self.now(), Actor::from(principal));
        let done = async {
            let mut db = self.0.database.begin().await?;
            if store::keys::remove_ban(&mut db, id).await? {
                store::event::add(&mut db, id, "unbanned", &json!({}), now).await?;
                let entry = AuditEntry::new("unbanned_host", "host", id);
                self.audit_keys(&mut db, &actor, entry).await?;
            }
            db.commit().await
        };
        let done: Result<(), StoreError> = done.await;
        Ok(done.map_err(OperatorError::from)?)
    }

    /// A page of bans, newest first.
    pub async fn bans(
        &self,
        principal: &Principal,
        listing: &Listing,
    ) -> Result<Page<Ban>, Problem> {
        principal.authorize(Action::ReadHosts, Scope::Global)?;
        let (limit, offset) = bounds(listing);
        let found = store::keys::bans(&mut &self.0.database, limit, offset).await;
        let (items, total) = found.map_err(OperatorError::from)?;
        Ok(listing.page(items, total))
    }

    /// A page of agents that call with keys which are no longer good, the newest call first.
    pub async fn refused_agents(
        &self,
        principal: &Principal,
        listing: &Listing,
    ) -> Result<Page<RefusedAgent>, Problem> {
        principal.authorize(Action::ReadHosts, Scope::Global)?;
        let (limit, offset) = bounds(listing);
        let found = self.0.identity.agent_keys.list_refused(limit, offset).await;
        let (items, total) = found.map_err(OperatorError::from)?;
        Ok(listing.page(items, total))
    }

    /// Gives keys of a host to a new one: the machine that uses them is another. Gives the new host.
    pub async fn split(
        &self,
        principal: &Principal,
        id: HostId,
        keys: &[AgentKeyId],
    ) -> Result<HostId, Problem> {
        self.key_holder(principal, id).await?;
        if keys.is_empty() {
            return Err(Problem::invalid(
                "key_ids",
                "name the keys that the other machine uses",
            ));
        }
        let (now, actor) = (self.now(), Actor::from(principal));
        let identity = &self.0.identity.agent_keys;
        let done = async {
            let mut db = self.0.database.begin().await?;
            db.lock(&[format!("hosts.clones {id}")]).await?;
            let Some(original) = store::host::find_for_update(&mut db, id).await? else {
                return Ok(None);
            };
            let mut moved = Vec::new();
            for key in keys {
                match identity.find(&mut db, id, *key).await? {
                    Some(key) => moved.push(key),
                    None => return Ok(None),
                }
            }
            let other = clones::separate(&mut db, identity, &original, &moved, now).await?;
            let entry = AuditEntry::new("split_host", "host", id)
                .after(json!({ "host_id": other, "key_ids": keys }));
            self.audit_keys(&mut db, &actor, entry).await?;
            db.commit().await?;
            Ok(Some(other))
        };
        let done: Result<Option<HostId>, StoreError> = done.await;
        let other = done.as_ref().ok().copied().flatten();
        let ids: Vec<HostId> = other.into_iter().chain([id]).collect();
        self.keys_changed(&ids).await;
        let other = done.map_err(OperatorError::from)?;
        other.ok_or_else(|| Problem::invalid("key_ids", format!("must be good keys of host {id}")))
    }

    /// Puts two hosts together that are one machine: `id` goes, and its agents go on as `into`.
    pub async fn merge(
        &self,
        principal: &Principal,
        id: HostId,
        into: HostId,
    ) -> Result<(), Problem> {
        if id == into {
            return Err(Problem::invalid("into", "must be another host"));
        }
        let gone = self.key_holder(principal, id).await?;
        self.key_holder(principal, into).await?;
        let (now, actor) = (self.now(), Actor::from(principal));
        let done = async {
            let mut db = self.0.database.begin().await?;
            // Somebody may have merged, deleted or banned either since.
            let there = store::host::lock(&mut db, &[id, into]).await?;
            for host in [id, into] {
                if !there.contains(&host) {
                    return Ok(Some(Unmergeable::Gone(host)));
                }
                if store::keys::find_ban(&mut db, host).await?.is_some() {
                    return Ok(Some(Unmergeable::Banned(host)));
                }
            }
            let keys = &self.0.identity.agent_keys;
            keys.give(&mut db, id, into, None).await?;
            store::keys::drop_aliases(&mut db, into).await?;
            store::operator::set_refetch(&mut db, into).await?;
            self.0.software.forget(&mut db, &[id]).await?;
            if let Some(companions) = self.companions() {
                companions
                    .host_merged(&mut db, id, into, &actor, now)
                    .await?;
            }
            store::operator::delete(&mut db, &[id]).await?;
            let details = json!({ "host_id": id, "hostname": gone.facts.hostname, "identifier": gone.identifier });
            store::event::add(&mut db, into, "merged", &details, now).await?;
            let entry = AuditEntry::new("merged_hosts", "host", into).before(details);
            self.audit_keys(&mut db, &actor, entry).await?;
            db.commit().await?;
            Ok(None)
        };
        let done: Result<Option<Unmergeable>, StoreError> = done.await;
        self.keys_changed(&[id, into]).await;
        match done.map_err(OperatorError::from)? {
            None => Ok(()),
            Some(Unmergeable::Gone(host)) => {
                Err(OperatorError::UnknownHost(host.to_string()).into())
            }
            Some(Unmergeable::Banned(host)) => Err(Problem::conflict(format!(
                "host {host} is banned; its keys would be good again, so let it in first"
            ))),
        }
    }
}

/// Why two hosts cannot be put together.
enum Unmergeable {
    Gone(HostId),
    Banned(HostId),
}

fn bounds(listing: &Listing) -> (i64, i64) {
    let offset = i64::try_from(listing.offset).unwrap_or(i64::MAX);
    (i64::from(listing.limit), offset)
}
