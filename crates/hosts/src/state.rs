//! What is kept in memory about a host that checks in, so that an empty check-in costs no SQL.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use muster_clock::Timestamp;
use muster_identity::{HostId, TeamId};

use crate::capability::Lost;
use crate::record::{HostFacts, LabelId};

/// How long a host's answer is waited for; after that it counts as one to something that was never asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(60 * 60);

/// A host in memory. Loaded by one statement when it first checks in, dropped when a hint says that it changed.
#[derive(Debug)]
pub struct HostState {
    id: HostId,
    profile: RwLock<Arc<HostProfile>>,
    detail_due_at: AtomicI64,
    /// The version of the labels' definitions that it last evaluated.
    label_version: AtomicU64,
    label_due_at: AtomicI64,
    refetch_requested: AtomicBool,
    gave_up_refetch: AtomicBool,
    asked_details: AtomicBool,
    asked_labels: Mutex<Option<AskedLabels>>,
    said: Mutex<Vec<Said>>,
}

/// Which definitions of labels a host was given to evaluate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AskedLabels {
    /// When.
    pub(crate) at: Timestamp,
    /// Their version.
    pub(crate) version: u64,
}

/// What a program on a host last said that it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Which program.
    pub process: String,
    /// Its version.
    pub version: String,
    /// The names, as the header has them, sorted.
    pub names: String,
    /// When the names last changed, or when this program took the place of another one. The program of a host that changed
    /// last is the one that speaks for it now.
    pub changed_at: Timestamp,
    /// What was said on the host before, and is not any more.
    pub lost: Lost,
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
    /// Version of orbit.
    pub orbit_version: String,
    /// The labels that it is in, sorted.
    pub label_ids: Vec<LabelId>,
    /// Seconds between its reads of distributed queries.
    pub distributed_interval_seconds: Option<i64>,
    /// Seconds between its reads of configuration.
    pub config_interval_seconds: Option<i64>,
    /// Seconds between its log batches.
    pub logger_interval_seconds: Option<i64>,
}

impl HostProfile {
    /// With what its facts say; team and labels stay.
    pub(crate) fn with_facts(&self, facts: &HostFacts, identifier: &str) -> Self {
        Self {
            team_id: self.team_id,
            hostname: facts.hostname.clone(),
            display_name: facts.display_name(identifier),
            platform: facts.platform.clone(),
            platform_like: facts.platform_like.clone(),
            osquery_version: facts.osquery_version.clone(),
            orbit_version: facts.orbit_version.clone(),
            label_ids: self.label_ids.clone(),
            distributed_interval_seconds: facts.distributed_interval_seconds,
            config_interval_seconds: facts.config_interval_seconds,
            logger_interval_seconds: facts.logger_interval_seconds,
        }
    }

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
            label_version: AtomicU64::new(0),
            label_due_at: AtomicI64::new(i64::MIN),
            refetch_requested: AtomicBool::new(false),
            gave_up_refetch: AtomicBool::new(false),
            asked_details: AtomicBool::new(false),
            asked_labels: Mutex::default(),
            said: Mutex::default(),
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

    /// Notes that it was asked its details.
    pub(crate) fn ask_details(&self) {
        self.asked_details.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked its details here and did not answer yet.
    pub(crate) fn was_asked_details(&self) -> bool {
        self.asked_details.load(Ordering::Relaxed)
    }

    /// Sets when its details are due; at once when `at` is none.
    pub fn set_detail_due_at(&self, at: Option<Timestamp>) {
        let micros = at.map_or(i64::MIN, Timestamp::as_micros);
        self.detail_due_at.store(micros, Ordering::Relaxed);
        self.asked_details.store(false, Ordering::Relaxed);
    }

    /// Sets whether an operator wants its details now.
    pub fn set_refetch_requested(&self, wanted: bool) {
        self.refetch_requested.store(wanted, Ordering::Relaxed);
        self.gave_up_refetch.store(false, Ordering::Relaxed);
    }

    /// Does not ask for details again although an operator wants them: they could not be kept.
    pub(crate) fn give_up_refetch(&self) {
        self.refetch_requested.store(false, Ordering::Relaxed);
        self.gave_up_refetch.store(true, Ordering::Relaxed);
    }

    /// Whether it does what the database says of an operator's wish for its details.
    pub(crate) fn knows_refetch(&self, requested: bool) -> bool {
        !requested
            || self.refetch_requested.load(Ordering::Relaxed)
            || self.gave_up_refetch.load(Ordering::Relaxed)
    }

    /// Whether its labels are to be evaluated: when their time has come, or when one of them changed after the version
    /// that it last evaluated.
    pub(crate) fn are_labels_due(&self, now: Timestamp, version: u64) -> bool {
        now.as_micros() >= self.label_due_at.load(Ordering::Relaxed)
            || version > self.label_version.load(Ordering::Relaxed)
    }

    /// Sets which version of the labels it evaluated and when they are due again; at once when `due` is none.
    pub(crate) fn set_labels_evaluated(&self, version: u64, due: Option<Timestamp>) {
        let micros = due.map_or(i64::MIN, Timestamp::as_micros);
        self.label_version.store(version, Ordering::Relaxed);
        self.label_due_at.store(micros, Ordering::Relaxed);
        self.labels_were_answered();
    }

    /// Notes that it answered what it was given, whatever that is worth.
    pub(crate) fn labels_were_answered(&self) {
        *self.lock_asked_labels() = None;
    }

    /// Notes that it was given labels to evaluate. What it was given before and did not answer yet stays: nobody can
    /// tell which of the two its answer is to, and the older one promises less.
    pub(crate) fn ask_labels(&self, asked: AskedLabels) {
        let mut present = self.lock_asked_labels();
        if present.is_none_or(|present| asked.at.since(present.at) > ANSWER_WITHIN) {
            *present = Some(asked);
        }
    }

    /// What labels it was given and did not answer yet; none when that was long ago, before a restart or elsewhere.
    pub(crate) fn asked_labels(&self, now: Timestamp) -> Option<AskedLabels> {
        self.lock_asked_labels()
            .filter(|asked| now.since(asked.at) <= ANSWER_WITHIN)
    }

    fn lock_asked_labels(&self) -> std::sync::MutexGuard<'_, Option<AskedLabels>> {
        self.asked_labels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What each program on it last said that ever said anything.
    pub(crate) fn with_said<T>(&self, read: impl FnOnce(&[Said]) -> T) -> T {
        read(&self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_said(&self, said: Vec<Said>) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(platform: &str) -> HostProfile {
        HostProfile {
            platform: platform.to_owned(),
            ..HostProfile::default()
        }
    }

    #[test]
    fn a_list_of_platforms_means_each_of_them_and_linux_means_every_distribution() {
        for (platforms, platform, meant) in [
            ("", "", true),
            (" ", "ubuntu", true),
            ("ubuntu", "ubuntu", true),
            ("darwin, windows", "windows", true),
            ("linux", "arch", true),
            ("linux", "darwin", false),
            ("linux", "", false),
            ("ubuntu", "debian", false),
            (",", "debian", false),
        ] {
            let found = profile(platform).is_meant_by(platforms);
            assert_eq!(found, meant, "{platform:?} by {platforms:?}");
        }
    }

    #[test]
    fn labels_are_due_by_time_and_when_one_of_them_changed() {
        let host = HostState::new(HostId(1), profile("ubuntu"));
        let at = Timestamp::from_seconds;
        assert!(host.are_labels_due(at(100), 1));
        host.set_labels_evaluated(1, Some(at(3_700)));
        assert!(!host.are_labels_due(at(101), 1));
        assert!(host.are_labels_due(at(101), 2));
        assert!(host.are_labels_due(at(3_700), 1));
    }

    #[test]
    fn an_answer_is_to_the_oldest_labels_that_were_not_answered() {
        let host = HostState::new(HostId(1), profile("ubuntu"));
        let asked = |at, version| AskedLabels {
            at: Timestamp::from_seconds(at),
            version,
        };
        let known = |at| host.asked_labels(Timestamp::from_seconds(at));
        assert_eq!(known(100), None);
        host.ask_labels(asked(100, 1));
        host.ask_labels(asked(110, 2));
        assert_eq!(known(120), Some(asked(100, 1)));
        assert_eq!(known(3_701), None, "too long ago");
        host.ask_labels(asked(3_701, 2));
        assert_eq!(known(3_702), Some(asked(3_701, 2)));
        host.set_labels_evaluated(2, None);
        assert_eq!(known(3_702), None);
    }
}
