//! Records in memory: read once, and read anew when somebody else changed them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use muster_clock::Timestamp;
use muster_identity::CollectorId;
use muster_store::StoreError;
use muster_wire_opamp::InstanceUid;

use super::{Collectors, Session};
use crate::record::{LineKey, Record, Standing};
use crate::service::{KeyGrant, Principal};
use crate::{ExchangeError, store};

/// How many counters tell whether agents were forgotten, each for a part of them.
pub(super) const STRIPES: usize = 1_024;

/// An agent as it was read.
pub(super) struct Known {
    pub(super) record: Arc<Record>,
    /// What its mark was before.
    pub(super) mark: u64,
}

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
            if record.is_none() {
                self.0.presence.forget(*id);
            }
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
        self.note(session, key, held, None).await;
    }

    /// A socket ended: its agents are gone, those that have a newer one excepted.
    pub(crate) async fn closed(
        &self,
        session: &Session,
        key: LineKey,
        held: &BTreeMap<CollectorId, InstanceUid>,
    ) {
        self.note(session, key, held, Some(self.now())).await;
    }

    async fn note(
        &self,
        session: &Session,
        key: LineKey,
        held: &BTreeMap<CollectorId, InstanceUid>,
        ended_at: Option<Timestamp>,
    ) {
        let now = self.now();
        for id in held.keys() {
            match self.by_id(*id, false).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    // It was deleted, perhaps by another server.
                    self.0.presence.forget(*id);
                    continue;
                }
                // One that cannot be read now counts by its last message.
                Err(_) => continue,
            }
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
            self.0.presence.heard(&record, Some(&entry));
            *entry = Arc::new(record);
        }
    }

    pub(super) async fn owner(
        &self,
        principal: &Principal,
        record: Option<&Record>,
    ) -> Result<Option<Known>, StoreError> {
        match principal {
            Principal::Key(KeyGrant {
                collector: Some(id),
                ..
            }) if record.is_none_or(|record| record.id != *id) => self.known(*id, false).await,
            _ => Ok(None),
        }
    }

    /// The agent that goes or went by a uid.
    pub(super) async fn by_uid(
        &self,
        uid: InstanceUid,
        is_fresh: bool,
    ) -> Result<Option<Known>, StoreError> {
        if !is_fresh
            && let Some(id) = self.0.uids.get(&uid).map(|id| *id)
            && let Some(known) = self.known(id, false).await?
        {
            return Ok(Some(known));
        }
        let Some(id) = store::record::id_of(&mut &self.0.database, uid).await? else {
            self.0.uids.remove(&uid);
            return Ok(None);
        };
        let known = self.known(id, is_fresh).await?;
        if known.is_some() {
            self.0.uids.insert(uid, id);
        }
        Ok(known)
    }

    /// An agent.
    pub(crate) async fn by_id(
        &self,
        id: CollectorId,
        is_fresh: bool,
    ) -> Result<Option<Arc<Record>>, StoreError> {
        let known = self.known(id, is_fresh).await?;
        Ok(known.map(|known| known.record))
    }

    /// An agent, and what tells whether it was forgotten since.
    pub(super) async fn known(
        &self,
        id: CollectorId,
        is_fresh: bool,
    ) -> Result<Option<Known>, StoreError> {
        let mark = self.mark(id);
        if !is_fresh && let Some(record) = self.0.records.get(&id) {
            let record = Arc::clone(&record);
            return Ok(Some(Known { record, mark }));
        }
        let found = store::record::find(&mut &self.0.database, id).await?;
        Ok(found.map(|record| self.loaded(record, mark)))
    }

    /// A record that was read, with what was heard since and is not written yet.
    fn loaded(&self, mut record: Record, mark: u64) -> Known {
        for line in self.0.presence.waiting(record.id) {
            // What was read may have another connection's time.
            if record.line(line.key).is_none_or(|known| {
                known.seen_at <= line.seen_at
                    || known.connection == line.connection && known.connection != 0
            }) {
                record.put_line(line);
            }
        }
        let id = record.id;
        let record = Arc::new(record);
        self.0.records.insert(id, Arc::clone(&record));
        if self.mark(id) != mark {
            self.0.records.remove(&id);
        }
        Known { record, mark }
    }

    /// What an agent became, unless it was forgotten since the mark: then what we know may be older than what is kept.
    pub(super) fn remember(
        &self,
        uids: impl Iterator<Item = InstanceUid>,
        record: Record,
        mark: u64,
    ) {
        let id = record.id;
        for uid in uids.chain([record.durable.uid]) {
            self.0.uids.insert(uid, id);
        }
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
        if self.mark(id) != mark {
            self.0.records.remove(&id);
        }
    }

    fn stripe(&self, id: CollectorId) -> &AtomicU64 {
        &self.0.stripes[id.0.unsigned_abs() as usize % STRIPES]
    }

    /// Changes whenever an agent is forgotten; taken before the agent is read.
    pub(super) fn mark(&self, id: CollectorId) -> u64 {
        self.stripe(id).load(Ordering::SeqCst)
    }

    /// An agent is read anew when it comes next.
    pub(crate) fn forget(&self, id: CollectorId) {
        // Before and after: whoever took the mark in between finds that it changed.
        self.stripe(id).fetch_add(1, Ordering::SeqCst);
        self.0.records.remove(&id);
        self.0.telemetry.forget(id);
        self.stripe(id).fetch_add(1, Ordering::SeqCst);
    }

    /// All agents are read anew.
    pub(super) fn forget_all(&self) {
        let mark_all = || {
            for stripe in &self.0.stripes {
                stripe.fetch_add(1, Ordering::SeqCst);
            }
        };
        mark_all();
        self.0.records.clear();
        self.0.uids.clear();
        self.0.telemetry.forget_all();
        mark_all();
    }

    /// Whether an agent that was revoked may come again: it was let in, or deleted. Not when that cannot be told now.
    pub(crate) async fn may_come(&self, id: CollectorId) -> bool {
        match self.by_id(id, false).await {
            Ok(record) => record.is_none_or(|record| record.durable.standing != Standing::Revoked),
            Err(_) => false,
        }
    }
}
