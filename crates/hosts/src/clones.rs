//! Two machines behind one record.
//!
//! Copies of a virtual machine have one hardware UUID and often one serial number. The second that enrolls is taken for the
//! first, set up anew, and gets a key of the same host: nobody can tell the two cases apart at that moment. What tells is
//! whether the older key is used again. If it is, there are two machines: the newer keys go to a host of their own, and
//! both timelines say so. Each goes on with the key that it has. If it is not, the machine was set up anew and keeps its
//! record.
//!
//! Whoever enrolls says which installation it is: osquery by its instance id, orbit by its names. Aliases keep which
//! installation belongs to which of the hosts that look the same.

use std::collections::BTreeMap;

use muster_clock::Timestamp;
use muster_http::error_chain;
use muster_identity::{AgentKeyId, AgentKeys, Family, HostId, HostKey};
use muster_store::{StoreError, Transaction};
use serde_json::json;

use crate::agents::Agents;
use crate::matching::uuid_key;
use crate::record::HostRecord;
use crate::store;

/// How much of an installation's mark goes into the identifier of a host that is told from another.
const MARK_CHARACTERS: usize = 12;

/// What an installation of a machine is found by, beside what it shares with others.
pub(crate) fn alias(identifier: &str, instance: &str) -> String {
    format!("{identifier}#{instance}")
}

/// The host of an installation that enrolls, if it was told from others before.
pub(crate) async fn find(
    db: &mut Transaction,
    identifiers: [&str; 2],
    instance: &str,
) -> Result<Option<HostId>, StoreError> {
    if instance.is_empty() {
        return Ok(None);
    }
    for identifier in identifiers.into_iter().filter(|text| !text.is_empty()) {
        let found = store::keys::find_alias(db, &alias(identifier, instance)).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Makes a host that looks like another, and gives it keys of that one.
pub(crate) async fn separate(
    db: &mut Transaction,
    keys: &AgentKeys,
    original: &HostRecord,
    moved: &[HostKey],
    now: Timestamp,
) -> Result<HostId, StoreError> {
    let mark = moved
        .iter()
        .map(|key| key.instance.as_str())
        .find(|instance| !instance.is_empty())
        .map_or_else(
            || moved.first().map_or(0, |key| key.id.0).to_string(),
            |instance| instance.chars().take(MARK_CHARACTERS).collect(),
        );
    let identifier = alias(&original.identifier, &mark);
    let id = store::host::insert(db, &identifier, original.identifier_from, now).await?;
    let has = |family| moved.iter().any(|key| key.family == family).then_some(now);
    let host = HostRecord {
        id,
        identifier,
        enrollment_token_id: moved.iter().find_map(|key| key.enrollment_token_id),
        enrolled_at: now,
        osquery_enrolled_at: has(Family::Osquery),
        orbit_enrolled_at: has(Family::Orbit),
        refetch_requested: true,
        ..original.clone()
    };
    store::host::save_enrollment(db, &host).await?;
    store::host::save_facts(db, id, &original.facts, now).await?;
    store::keys::set_clone_of(db, id, original.id).await?;
    store::presence::upsert(db, &[(id, now)]).await?;
    hand_over(db, keys, original, id, moved).await?;
    let details = json!({ "host_id": id, "keys": moved.len() });
    store::event::add(db, original.id, "clone_found", &details, now).await?;
    let details = json!({ "host_id": original.id, "keys": moved.len() });
    store::event::add(db, id, "told_from_clone", &details, now).await?;
    Ok(id)
}

/// Gives keys to a host that looks like their former one, and remembers whose they are.
async fn hand_over(
    db: &mut Transaction,
    keys: &AgentKeys,
    original: &HostRecord,
    to: HostId,
    moved: &[HostKey],
) -> Result<(), StoreError> {
    let ids: Vec<AgentKeyId> = moved.iter().map(|key| key.id).collect();
    keys.give(db, original.id, to, Some(&ids)).await?;
    let uuid = uuid_key(&original.facts.uuid);
    for key in moved.iter().filter(|key| !key.instance.is_empty()) {
        let identifiers = [original.identifier.as_str(), uuid.as_str()];
        for identifier in identifiers.into_iter().filter(|text| !text.is_empty()) {
            store::keys::add_alias(db, &alias(identifier, &key.instance), to).await?;
        }
    }
    // What it knows of itself may be the other one's.
    store::operator::set_refetch(db, original.id).await?;
    store::host::unstamp_labels(db, original.id).await
}

impl Agents {
    /// An older key of a host is used although another installation uses a newer one: those get a host of their own.
    pub(crate) async fn tell_apart(&self, host: HostId) {
        match self.try_to_tell_apart(host).await {
            Ok(others) if others.is_empty() => {}
            Ok(others) => {
                for id in others.into_iter().chain([host]) {
                    self.0.agent_keys.revoked(id).await;
                    self.0.check_in.announce(id).await;
                }
            }
            Err(error) => tracing::warn!(
                host.id = host.0,
                error = error_chain(&error),
                "two machines share a host, and could not be told apart yet; it is tried again at the next request"
            ),
        }
    }

    async fn try_to_tell_apart(&self, host: HostId) -> Result<Vec<HostId>, StoreError> {
        let now = self.now();
        let keys = &self.0.agent_keys;
        let mut db = self.0.database.begin().await?;
        db.lock(&[format!("hosts.clones {host}")]).await?;
        let rivals = keys.newer_rivals(&mut db, host).await?;
        let Some(original) = store::host::find_for_update(&mut db, host).await? else {
            return Ok(Vec::new());
        };
        if rivals.is_empty() {
            return Ok(Vec::new());
        }
        // By installation; which installations of two families are one machine is told by who has none of the family yet.
        let mut groups: BTreeMap<(&str, String), Vec<HostKey>> = BTreeMap::new();
        for key in rivals {
            let group = groups.entry((key.family.name(), key.instance.clone()));
            group.or_default().push(key);
        }
        let mut others = Vec::new();
        for ((_, instance), moved) in groups {
            let known = find(&mut db, [&original.identifier, ""], &instance).await?;
            let waiting = match known {
                Some(id) => Some(id),
                None => self.clone_without(&mut db, host, moved[0].family).await?,
            };
            let id = match waiting.filter(|id| *id != host) {
                Some(id) => {
                    hand_over(&mut db, keys, &original, id, &moved).await?;
                    id
                }
                None => separate(&mut db, keys, &original, &moved, now).await?,
            };
            tracing::warn!(
                host.id = host.0,
                other.id = id.0,
                "two machines share an identity; the second is a host of its own now"
            );
            others.push(id);
        }
        db.commit().await?;
        Ok(others)
    }

    /// A clone of the host that has no key of the family yet: the machine whose other agent was told apart before.
    async fn clone_without(
        &self,
        db: &mut Transaction,
        host: HostId,
        family: Family,
    ) -> Result<Option<HostId>, StoreError> {
        for clone in store::keys::clones(db, host).await? {
            if !self.0.agent_keys.has_good(db, clone, family).await? {
                return Ok(Some(clone));
            }
        }
        Ok(None)
    }
}
