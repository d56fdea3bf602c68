//! What is kept in memory about a host that checks in, so that an empty check-in costs no SQL.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use muster_clock::Timestamp;
use muster_identity::{HostId, TeamId};

use crate::record::LabelId;

/// A host in memory. Loaded by one statement when it first checks in, dropped when a hint says that it changed.
#[derive(Debug)]
pub struct HostState {
    id: HostId,
    profile: RwLock<Arc<HostProfile>>,
    detail_due_at: AtomicI64,
    label_updated_at: AtomicI64,
    label_due_at: AtomicI64,
    refetch_requested: AtomicBool,
}

/// What decides which queries and which configuration a host gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostProfile {
    /// Its team.
    pub team_id: Option<TeamId>,
    /// Its network name; empty when it is not known yet.
    pub hostname: String,
    /// What people call it.
    pub display_name: String,
    /// osquery's platform; empty when it is not known yet.
    pub platform: String,
    /// osquery's family of the platform.
    pub platform_like: String,
    /// Version of osquery.
    pub osquery_version: String,
    /// The labels that it is in, sorted; without those that every host is in.
    pub label_ids: Vec<LabelId>,
    /// Seconds between its reads of distributed queries.
    pub distributed_interval_seconds: Option<i64>,
    /// Seconds between its reads of configuration.
    pub config_interval_seconds: Option<i64>,
    /// Seconds between its log batches.
    pub logger_interval_seconds: Option<i64>,
}

impl HostProfile {
    /// Whether it runs some kind of Linux.
    pub fn is_linux(&self) -> bool {
        !self.platform.is_empty()
            && !matches!(
                self.platform.as_str(),
                "darwin" | "windows" | "chrome" | "ios" | "ipados" | "android" | "freebsd"
            )
    }

    /// Whether a comma separated list of platforms means this host. An empty list means every host; `linux` means
    /// every distribution; a host whose platform is not known yet is meant by empty lists only.
    pub fn is_meant_by(&self, platforms: &str) -> bool {
        if platforms.trim().is_empty() {
            return true;
        }
        platforms.split(',').map(str::trim).any(|wanted| {
            !wanted.is_empty()
                && (wanted.eq_ignore_ascii_case(&self.platform)
                    || (wanted.eq_ignore_ascii_case("linux") && self.is_linux()))
        })
    }
}

impl HostState {
    /// A host that was not heard yet: its details and labels are due at once.
    pub fn new(id: HostId, profile: HostProfile) -> Self {
        Self {
            id,
            profile: RwLock::new(Arc::new(profile)),
            detail_due_at: AtomicI64::new(i64::MIN),
            label_updated_at: AtomicI64::new(i64::MIN),
            label_due_at: AtomicI64::new(i64::MIN),
            refetch_requested: AtomicBool::new(false),
        }
    }

    /// Which host.
    pub fn id(&self) -> HostId {
        self.id
    }

    /// What is known about it now.
    pub fn profile(&self) -> Arc<HostProfile> {
        Arc::clone(&self.profile.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces what is known about it.
    pub fn set_profile(&self, profile: HostProfile) {
        *self.profile.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(profile);
    }

    /// Whether its details are to be asked for.
    pub fn is_detail_due(&self, now: Timestamp) -> bool {
        self.refetch_requested.load(Ordering::Relaxed)
            || now.as_micros() >= self.detail_due_at.load(Ordering::Relaxed)
    }

    /// Sets when its details are due; at once when `at` is none.
    pub fn set_detail_due_at(&self, at: Option<Timestamp>) {
        let micros = at.map_or(i64::MIN, Timestamp::as_micros);
        self.detail_due_at.store(micros, Ordering::Relaxed);
    }

    /// Sets whether an operator wants its details now.
    pub fn set_refetch_requested(&self, wanted: bool) {
        self.refetch_requested.store(wanted, Ordering::Relaxed);
    }

    /// Whether its labels are to be evaluated: when their time has come, or when one of them changed after they were
    /// last evaluated.
    pub fn are_labels_due(&self, now: Timestamp, newest_change: Timestamp) -> bool {
        now.as_micros() >= self.label_due_at.load(Ordering::Relaxed)
            || newest_change.as_micros() > self.label_updated_at.load(Ordering::Relaxed)
    }

    /// Sets when its labels were last evaluated and when they are due again; at once when `due` is none.
    pub fn set_labels_updated(&self, updated: Option<Timestamp>, due: Option<Timestamp>) {
        let micros = |at: Option<Timestamp>| at.map_or(i64::MIN, Timestamp::as_micros);
        self.label_updated_at
            .store(micros(updated), Ordering::Relaxed);
        self.label_due_at.store(micros(due), Ordering::Relaxed);
    }
}
