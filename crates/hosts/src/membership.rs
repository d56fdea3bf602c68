//! Which dynamic labels hosts are asked to evaluate, and how their answers become memberships.
//!
//! The definitions are in memory and read again when a hint says so, and on a timer. A host is asked all labels that fit
//! its platform at once: when they are an hour old, or when one of them changed after the host last evaluated them.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use muster_clock::Timestamp;
use muster_store::{Database, Executor, StoreError};
use muster_wire_osquery::DistributedResult;

use crate::record::LabelId;
use crate::source::DueQueries;
use crate::state::{HostProfile, HostState};
use crate::store;

/// How the names of label queries begin on the wire; the label's id follows.
pub(crate) const PREFIX: &str = "fleet_label_query_";

/// The dynamic labels.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    definitions: RwLock<Arc<Definitions>>,
    /// When a label last changed, in microseconds: all that a check-in looks at when nothing is due.
    newest_change: AtomicI64,
}

#[derive(Debug, Default)]
struct Definitions {
    labels: Vec<Definition>,
    by_wire_name: HashMap<String, usize>,
    /// Every label, the dynamic ones and the others.
    by_name: HashMap<String, LabelId>,
}

#[derive(Debug)]
struct Definition {
    id: LabelId,
    wire_name: String,
    sql: Arc<str>,
    platform: String,
}

impl Labels {
    /// Reads the definitions from the database.
    pub(crate) async fn reload(&self, database: &Database) -> Result<(), StoreError> {
        let mut definitions = Definitions::default();
        let mut newest_change = Timestamp::EPOCH;
        for label in store::label::list(&mut &*database).await? {
            definitions.by_name.insert(label.name, label.id);
            if !label.is_dynamic || label.query.trim().is_empty() {
                continue;
            }
            let wire_name = format!("{PREFIX}{}", label.id);
            let number = definitions.labels.len();
            definitions.by_wire_name.insert(wire_name.clone(), number);
            newest_change = newest_change.max(label.query_changed_at);
            definitions.labels.push(Definition {
                id: label.id,
                wire_name,
                sql: label.query.into(),
                platform: label.platform,
            });
        }
        *self
            .definitions
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(definitions);
        self.newest_change
            .store(newest_change.as_micros(), Ordering::Release);
        Ok(())
    }

    fn definitions(&self) -> Arc<Definitions> {
        Arc::clone(
            &self
                .definitions
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// The label of that name.
    pub(crate) fn by_name(&self, name: &str) -> Option<LabelId> {
        self.definitions().by_name.get(name).copied()
    }

    /// Adds the labels that a host is to evaluate now.
    pub(crate) fn due(&self, host: &HostState, now: Timestamp, out: &mut DueQueries) {
        let newest_change = Timestamp::from_micros(self.newest_change.load(Ordering::Acquire));
        if !host.are_labels_due(now, newest_change) {
            return;
        }
        let definitions = self.definitions();
        let profile = host.profile();
        for label in &definitions.labels {
            if profile.is_meant_by(&label.platform) {
                out.push(label.wire_name.clone(), Arc::clone(&label.sql), None);
            }
        }
    }

    /// What a host's answers say, given what it is now. Names that it was not asked count for nothing.
    pub(crate) fn read(&self, results: &[DistributedResult], profile: &HostProfile) -> Verdict {
        let definitions = self.definitions();
        let mut verdict = Verdict::default();
        for result in results {
            let Some(number) = definitions.by_wire_name.get(&result.name) else {
                continue;
            };
            let label = &definitions.labels[*number];
            if !profile.is_meant_by(&label.platform) {
                continue;
            }
            verdict.answered = true;
            // A query that failed says nothing, and nobody is in a label without proof.
            if result.succeeded() && !result.rows.is_empty() {
                verdict.member.insert(label.id);
            } else {
                verdict.not_member.insert(label.id);
            }
        }
        // What does not fit the platform (any more) is settled without asking.
        for label in &definitions.labels {
            if !profile.is_meant_by(&label.platform) {
                verdict.not_member.insert(label.id);
            }
        }
        verdict
    }
}

/// What a host's answers say about its labels.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Whether any label was answered at all.
    pub(crate) answered: bool,
    member: BTreeSet<LabelId>,
    not_member: BTreeSet<LabelId>,
}

impl Verdict {
    /// Writes what differs from the memberships that are kept, and gives all labels that the host is in now.
    pub(crate) async fn keep(
        &self,
        db: &mut impl Executor,
        host: &HostState,
        now: Timestamp,
    ) -> Result<Vec<LabelId>, StoreError> {
        let mut current = store::label::of_host(db, host.id()).await?;
        let joins: Vec<LabelId> = self.member.difference(&current).copied().collect();
        let leaves: Vec<LabelId> = self.not_member.intersection(&current).copied().collect();
        store::label::join(db, host.id(), &joins).await?;
        store::label::leave(db, host.id(), &leaves).await?;
        store::host::stamp_labels(db, host.id(), now).await?;
        current.extend(joins);
        for label in &leaves {
            current.remove(label);
        }
        Ok(current.into_iter().collect())
    }
}
