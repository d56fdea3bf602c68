//! Who was denied what: in the log of changes, counted instead of repeated.
//!
//! The first denial of a kind is written at once; what repeats it within an hour becomes one more entry that says how often
//! and since when. So a program that asks in a loop, or somebody who guesses, fills neither the log nor the memory. Entries
//! tell who, what and the class of the reason, and never what was shown as proof.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_clock::Timestamp;
use muster_store::StoreError;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::service::Context;
use crate::store::audit as store;
use crate::{Actor, AuditEntry};

/// How long what repeats itself is only counted.
const WINDOW: Duration = Duration::from_secs(60 * 60);
/// How many kinds of denials are told apart at a time; the rest is counted together, by action and reason.
const MAX_KINDS: usize = 2_000;

/// A request that was denied.
pub const DENIED_REQUEST: &str = "denied_request";
/// An agent that may not enroll.
pub const DENIED_ENROLLMENT: &str = "denied_enrollment";
/// An agent that called with a key which is no longer good.
pub const DENIED_AGENT: &str = "denied_agent";
/// The actions that denials are kept as.
pub(crate) const ACTIONS: [&str; 3] = [DENIED_REQUEST, DENIED_ENROLLMENT, DENIED_AGENT];

/// Somebody was denied something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Denial {
    /// One of the actions above.
    pub action: &'static str,
    /// Who: for those who are not known, only where from.
    pub actor: Actor,
    /// The class of the reason, such as `forbidden` or `expired`.
    pub reason: &'static str,
    /// To what kind of thing.
    pub subject_kind: &'static str,
    /// To which one: a route's template, or an id.
    pub subject_id: String,
}

#[derive(Debug)]
struct Tally {
    /// How often since the last entry.
    calls: u64,
    /// When the first of those was.
    since: Timestamp,
    /// When the last entry was written; none before the first.
    written_at: Option<Timestamp>,
}

struct Inner {
    context: Arc<Context>,
    kinds: Mutex<HashMap<Denial, Tally>>,
    first: Notify,
}

/// Denials.
#[derive(Clone)]
pub struct Denials(Arc<Inner>);

impl Denials {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self(Arc::new(Inner {
            context,
            kinds: Mutex::default(),
            first: Notify::new(),
        }))
    }

    /// Counts a denial; it is written from [`run_maintenance`](crate::Identity::run_maintenance).
    pub fn note(&self, denial: Denial) {
        self.note_many(denial, 1);
    }

    /// The same, several at once.
    pub(crate) fn note_many(&self, denial: Denial, calls: u64) {
        let now = self.0.context.now();
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let denial = if kinds.len() < MAX_KINDS || kinds.contains_key(&denial) {
            denial
        } else {
            others(&denial)
        };
        let tally = kinds.entry(denial).or_insert_with(|| {
            self.0.first.notify_one();
            Tally {
                calls: 0,
                since: now,
                written_at: None,
            }
        });
        if tally.calls == 0 {
            tally.since = now;
        }
        tally.calls = tally.calls.saturating_add(calls);
    }

    /// Waits for a denial that is to be written at once.
    pub(crate) async fn first(&self) {
        self.0.first.notified().await;
    }

    /// Writes what is due; `all` when no more is going to come. What cannot be written stays for the next time.
    pub(crate) async fn flush(&self, all: bool) -> Result<(), StoreError> {
        let now = self.0.context.now();
        let mut due = self.take_due(all, now).into_iter();
        while let Some((denial, calls, since)) = due.next() {
            let entry = AuditEntry {
                action: denial.action,
                subject_kind: denial.subject_kind,
                subject_id: denial.subject_id.clone(),
                before: None,
                after: Some(details(denial.reason, calls, since)),
            };
            let mut db = &self.0.context.database;
            if let Err(error) = store::insert(&mut db, &denial.actor, entry, now).await {
                self.put_back(denial, calls, since);
                for (denial, calls, since) in due {
                    self.put_back(denial, calls, since);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn take_due(&self, all: bool, now: Timestamp) -> Vec<(Denial, u64, Timestamp)> {
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        kinds.retain(|denial, tally| {
            let over = |at: Timestamp| now.since(at) >= WINDOW || now < at;
            if tally.calls == 0 {
                return !tally.written_at.is_none_or(over);
            }
            if all || tally.written_at.is_none_or(over) {
                due.push((denial.clone(), tally.calls, tally.since));
                tally.calls = 0;
                tally.written_at = Some(now);
            }
            true
        });
        due
    }

    fn put_back(&self, denial: Denial, calls: u64, since: Timestamp) {
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = kinds.get_mut(&denial) {
            tally.calls = tally.calls.saturating_add(calls);
            tally.since = since;
            tally.written_at = None;
        }
    }
}

fn details(reason: &str, calls: u64, since: Timestamp) -> Value {
    if calls > 1 {
        json!({ "reason": reason, "times": calls, "since": since })
    } else {
        json!({ "reason": reason })
    }
}

/// All that do not fit.
fn others(denial: &Denial) -> Denial {
    Denial {
        action: denial.action,
        actor: Actor {
            kind: denial.actor.kind,
            user_id: None,
            name: "others".to_owned(),
            email: String::new(),
            address: String::new(),
        },
        reason: denial.reason,
        subject_kind: denial.subject_kind,
        subject_id: String::new(),
    }
}
