//! Records in memory: read once, and read anew when somebody else changed them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use muster_clock::Timestamp;
use muster_identity::CollectorId;
use muster_store::StoreError;
use muster_wire_opamp::InstanceUid;
use muster_wire_opamp::proto::AgentToServer;

use super::{Collectors, Session};
use crate::record::{LineKey, Record, Standing};
use crate::service::{KeyGrant, Principal};
use crate::{ExchangeError, store};

/// How many hashes of known components are remembered.
const MAX_KNOWN_COMPONENTS: usize = 10_000;

impl Collectors {
    /// Whether a socket may go on: its credential is good, and not all of its agents were revoked or deleted. Gives those that
    /// were.
    pub(crate) async fn still_admits(
        &self,
        session: &Session,
        held: &BTreeMap<CollectorId, InstanceUid>,
    ) -> Result<Vec<CollectorId>, ExchangeError> {
        self.principal(session).await?;
        let mut gone = Vec::new();
        for id in held.keys() {
            let record = self.by_id(*id, false).await?;
            if record.is_none_or(|record| record.durable.standing == Standing::Revoked) {
                gone.push(*id);
            }
        }
        if !gone.is_empty() && gone.len() == held.len() {
            return Err(ExchangeError::Unauthorized { reason: "revoked" });
        }
        Ok(gone)
    }

    /// The peer of a socket answered a ping: its agents are there.
    pub(crate) async fn alive(
        &self,
        session: &Session,
        key: LineKey,
        held: &BTreeMap<CollectorId, InstanceUid>,
    ) {
        self.mark(session, key, held, None).await;
    }

    /// A socket ended: its agents are gone, those that have a newer one excepted.
    pub(crate) async fn closed(
        &self,
        session: &Session,
        key: LineKey,
        held: &BTreeMap<CollectorId, InstanceUid>,
    ) {
        self.mark(session, key, held, Some(self.now())).await;
    }

    async fn mark(
        &self,
        session: &Session,
        key: LineKey,
        held: &BTreeMap<CollectorId, InstanceUid>,
        ended_at: Option<Timestamp>,
    ) {
        let now = self.now();
        for id in held.keys() {
            // One that cannot be read now counts by its last message.
            let Ok(Some(_)) = self.by_id(*id, false).await else {
                continue;
            };
            let Some(mut entry) = self.0.records.get_mut(id) else {
                continue;
            };
            let mut record = Record::clone(&entry);
            let Some(line) = record.line_mut(key) else {
                continue;
            };
            if line.connection != session.connection.id || line.ended_at.is_some() {
                continue;
            }
            line.ended_at = ended_at;
            if ended_at.is_none() {
                line.seen_at = line.seen_at.max(now);
            }
            self.0.presence.heard(&record);
            *entry = Arc::new(record);
        }
    }

    pub(super) async fn owner(
        &self,
        principal: &Principal,
        record: Option<&Record>,
    ) -> Result<Option<Arc<Record>>, StoreError> {
        match principal {
            Principal::Key(KeyGrant {
                collector: Some(id),
                ..
            }) if record.is_none_or(|record| record.id != *id) => self.by_id(*id, false).await,
            _ => Ok(None),
        }
    }

    /// The agent that goes or went by a uid.
    pub(super) async fn by_uid(
        &self,
        uid: InstanceUid,
        is_fresh: bool,
    ) -> Result<Option<Arc<Record>>, StoreError> {
        if !is_fresh
            && let Some(id) = self.0.uids.get(&uid).map(|id| *id)
            && let Some(record) = self.0.records.get(&id)
        {
            return Ok(Some(Arc::clone(&record)));
        }
        let mark = self.0.forgotten.load(Ordering::SeqCst);
        let found = store::record::find_by_uid(&mut &self.0.database, uid).await?;
        Ok(found.map(|record| self.loaded(Some(uid), record, mark)))
    }

    /// An agent.
    pub(crate) async fn by_id(
        &self,
        id: CollectorId,
        is_fresh: bool,
    ) -> Result<Option<Arc<Record>>, StoreError> {
        if !is_fresh && let Some(record) = self.0.records.get(&id) {
            return Ok(Some(Arc::clone(&record)));
        }
        let mark = self.0.forgotten.load(Ordering::SeqCst);
        let found = store::record::find(&mut &self.0.database, id).await?;
        Ok(found.map(|record| self.loaded(None, record, mark)))
    }

    /// A record that was read, with what was heard since and is not written yet.
    pub(super) fn loaded(
        &self,
        uid: Option<InstanceUid>,
        mut record: Record,
        mark: u64,
    ) -> Arc<Record> {
        for line in self.0.presence.waiting(record.id) {
            if record
                .line(line.key)
                .is_none_or(|known| known.seen_at <= line.seen_at)
            {
                record.put_line(line);
            }
        }
        let id = record.id;
        let record = Arc::new(record);
        self.0.records.insert(id, Arc::clone(&record));
        if let Some(uid) = uid {
            self.0.uids.insert(uid, id);
        }
        // Whoever forgets counts first: either we see it here, or they see what we inserted.
        if self.0.forgotten.load(Ordering::SeqCst) != mark {
            self.0.records.remove(&id);
        }
        record
    }

    pub(super) fn remember(&self, uid: InstanceUid, record: Record) {
        let id = record.id;
        self.0.uids.insert(uid, id);
        self.0.uids.insert(record.durable.uid, id);
        // An operator may have changed it since: what is older than that must not come back.
        match self.0.records.entry(id) {
            dashmap::Entry::Occupied(mut entry) => {
                if entry.get().revision <= record.revision {
                    entry.insert(Arc::new(record));
                }
            }
            dashmap::Entry::Vacant(entry) => {
                entry.insert(Arc::new(record));
            }
        }
    }

    /// An agent is read anew when it comes next.
    pub(crate) fn forget(&self, id: CollectorId) {
        self.0.forgotten.fetch_add(1, Ordering::SeqCst);
        self.0.records.remove(&id);
    }

    pub(super) async fn are_components_known(
        &self,
        message: &AgentToServer,
        record: Option<&Record>,
    ) -> Result<bool, StoreError> {
        let said = message
            .available_components
            .as_ref()
            .filter(|said| !said.hash.is_empty());
        let asked = record
            .and_then(|record| record.durable.components.as_ref())
            .filter(|known| known.asked_at.is_some());
        let hash = match (said, asked) {
            (Some(said), _) => crate::values::hex(&said.hash[..said.hash.len().min(64)]),
            (None, Some(known)) => known.hash.clone(),
            (None, None) => return Ok(true),
        };
        if self.0.components.contains(&hash) {
            return Ok(true);
        }
        let found = store::part::components(&mut &self.0.database, &hash).await?;
        if found.is_some() {
            self.remember_components(hash);
        }
        Ok(found.is_some())
    }

    pub(super) fn remember_components(&self, hash: String) {
        if self.0.components.len() >= MAX_KNOWN_COMPONENTS {
            self.0.components.clear();
        }
        self.0.components.insert(hash);
    }

    /// Whether an agent that was revoked may come again: it was let in, or deleted. Not when that cannot be told now.
    pub(crate) async fn may_come(&self, id: CollectorId) -> bool {
        match self.by_id(id, false).await {
            Ok(record) => record.is_none_or(|record| record.durable.standing != Standing::Revoked),
            Err(_) => false,
        }
    }
}
