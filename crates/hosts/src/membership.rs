//! Which dynamic labels hosts are asked to evaluate, and how their answers become memberships.
//!
//! The definitions are in memory and read again when a hint says so, and on a timer. A host is asked all labels that fit
//! its platform at once: when they are an hour old, or when one of them changed after the host last evaluated them.
//!
//! A host takes its time to evaluate, and meanwhile labels change. So the definitions have a version: what a host
//! answers counts as evaluated at the time and with the version that it was given, and an answer to a query that changed
//! since then decides nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use muster_clock::Timestamp;
use muster_store::{Database, Executor, StoreError};
use muster_wire_osquery::DistributedResult;

use crate::record::LabelId;
use crate::source::DueQueries;
use crate::state::{AskedLabels, HostProfile, HostState};
use crate::store;

/// How the names of label queries begin on the wire; the label's id follows.
pub(crate) const PREFIX: &str = "fleet_label_query_";

/// How much earlier than their arrival answers count as evaluated when it is not known what the host was asked. Also how
/// long a label that changed may take to be read here: times of other servers are compared with that much to spare.
const UNCERTAINTY: Duration = Duration::from_secs(60);

/// The dynamic labels.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    definitions: RwLock<Arc<Definitions>>,
    /// The version of the definitions: all that a check-in looks at when nothing is due.
    version: AtomicU64,
    /// Held while the definitions are read, so that an older reading never replaces a newer one.
    reloading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Definitions {
    /// Counts the readings that found a new or changed query.
    version: u64,
    /// When a label last changed.
    newest_change: Timestamp,
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
    changed_at: Timestamp,
    /// The version by which it came to be as it is.
    since: u64,
}

/// What was in memory before a host was read: tells which version its labels were evaluated with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evaluated {
    version: u64,
    newest_change: Timestamp,
}

impl Evaluated {
    /// The version that a host had which evaluated its labels at a time; 0, which is before all, when that is not
    /// certain.
    pub(crate) fn at(self, updated: Option<Timestamp>) -> u64 {
        let certain = updated.is_some_and(|at| self.newest_change < at.minus(UNCERTAINTY));
        if certain { self.version } else { 0 }
    }
}

impl Labels {
    /// Reads the definitions from the database.
    pub(crate) async fn reload(&self, database: &Database) -> Result<(), StoreError> {
        let _alone = self.reloading.lock().await;
        let before = self.definitions();
        let mut definitions = Definitions {
            version: before.version,
            ..Definitions::default()
        };
        for label in store::label::list(&mut &*database).await? {
            definitions.by_name.insert(label.name, label.id);
            if !label.is_dynamic || label.query.trim().is_empty() {
                continue;
            }
            let wire_name = format!("{PREFIX}{}", label.id);
            let number = definitions.labels.len();
            definitions.by_wire_name.insert(wire_name.clone(), number);
            definitions.newest_change = definitions.newest_change.max(label.query_changed_at);
            let same = before.by_wire_name.get(&wire_name);
            let same = same.map(|number| &before.labels[*number]).filter(|old| {
                *old.sql == *label.query
                    && old.platform == label.platform
                    && old.changed_at == label.query_changed_at
            });
            let since = same.map_or(before.version + 1, |old| old.since);
            definitions.version = definitions.version.max(since);
            definitions.labels.push(Definition {
                id: label.id,
                wire_name,
                sql: label.query.into(),
                platform: label.platform,
                changed_at: label.query_changed_at,
                since,
            });
        }
        let version = definitions.version;
        *self
            .definitions
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(definitions);
        self.version.store(version, Ordering::Release);
        Ok(())
    }

    /// The version of the definitions that are in memory.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Take it before a host is read.
    pub(crate) fn evaluated(&self) -> Evaluated {
        let definitions = self.definitions();
        Evaluated {
            version: definitions.version,
            newest_change: definitions.newest_change,
        }
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
        if !self.are_due(host, now) {
            return;
        }
        let definitions = self.definitions();
        host.ask_labels(AskedLabels {
            at: now,
            version: definitions.version,
        });
        let profile = host.profile();
        for label in &definitions.labels {
            if profile.is_meant_by(&label.platform) {
                out.push(label.wire_name.clone(), Arc::clone(&label.sql), None);
            }
        }
    }

    /// Whether a host is to evaluate its labels.
    pub(crate) fn are_due(&self, host: &HostState, now: Timestamp) -> bool {
        host.are_labels_due(now, self.version())
    }

    /// What a host's answers say, given what it is now. Names that it was not asked count for nothing, nor do answers to
    /// queries that changed since it was asked.
    pub(crate) fn read(
        &self,
        results: &[DistributedResult],
        profile: &HostProfile,
        asked: Option<AskedLabels>,
        now: Timestamp,
    ) -> Verdict {
        let definitions = self.definitions();
        // It was asked before a restart, or by another server: not long ago, as agents do.
        let at = asked.map_or(now.minus(UNCERTAINTY), |asked| asked.at);
        let version = match asked {
            Some(asked) => asked.version,
            None if definitions.newest_change <= at => definitions.version,
            None => 0,
        };
        let mut verdict = Verdict {
            evaluated_at: at,
            version,
            ..Verdict::default()
        };
        let is_current = |label: &Definition| match asked {
            Some(asked) => label.since <= asked.version,
            None => label.changed_at <= at,
        };
        for result in results {
            let Some(number) = definitions.by_wire_name.get(&result.name) else {
                continue;
            };
            let label = &definitions.labels[*number];
            if !profile.is_meant_by(&label.platform) || !is_current(label) {
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
    /// When the host was asked, as far as is known.
    pub(crate) evaluated_at: Timestamp,
    /// With which version of the definitions.
    pub(crate) version: u64,
    member: BTreeSet<LabelId>,
    not_member: BTreeSet<LabelId>,
}

impl Verdict {
    /// Writes what differs from the memberships that are kept, and gives all labels that the host is in now.
    pub(crate) async fn keep(
        &self,
        db: &mut impl Executor,
        host: &HostState,
    ) -> Result<Vec<LabelId>, StoreError> {
        let mut current = store::label::of_host(db, host.id()).await?;
        let joins: Vec<LabelId> = self.member.difference(&current).copied().collect();
        let leaves: Vec<LabelId> = self.not_member.intersection(&current).copied().collect();
        store::label::join(db, host.id(), &joins).await?;
        store::label::leave(db, host.id(), &leaves).await?;
        store::host::stamp_labels(db, host.id(), self.evaluated_at).await?;
        current.extend(joins);
        for label in &leaves {
            current.remove(label);
        }
        Ok(current.into_iter().collect())
    }
}
