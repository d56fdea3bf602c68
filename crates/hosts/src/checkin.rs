//! The check-in: what a host is to run now, and what came of it.
//!
//! `read` is asked by every host every few seconds and nearly always has nothing to say: it looks into memory and hands
//! out bytes that were made before. `write` keeps all that one request says about details and labels in one transaction,
//! as far as they are due: what nobody asked for is left out, so that a host cannot fill the database.
//! What other sources were answered goes to them.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use muster_bus::{Bus, Hint, Topic};
use muster_clock::{Clock, Timestamp};
use muster_http::error_chain;
use muster_identity::{AgentKeys, HostId};
use muster_software::Software;
use muster_store::{Database, ErrorKind, StoreError};
use muster_wire_osquery::{DistributedResult, ReadAnswerRef};

use crate::cache::HostCache;
use crate::detail;
use crate::error::HostsError;
use crate::load::Load;
use crate::membership::{self, Labels};
use crate::pace::Pace;
use crate::presence::Presence;
use crate::source::{ALWAYS, DistributedSource, DueQueries, SourceError};
use crate::state::{HostProfile, HostState};
use crate::store;

/// Says that a host changed; the key is its id, or empty for all of them.
pub const HOST_TOPIC: Topic = Topic::new("hosts.host");
/// Says that labels changed.
pub const LABELS_TOPIC: Topic = Topic::new("hosts.labels");

/// For how many seconds a host without a name or a platform asks more often.
const ACCELERATE_SECONDS: u64 = 10;
/// The answer when nothing is due.
const EMPTY: &[u8] = br#"{"queries":{},"discovery":{}}"#;
/// The same for a host that is to ask more often.
const EMPTY_ACCELERATED: &[u8] = br#"{"queries":{},"discovery":{},"accelerate":10}"#;

/// The check-in of all hosts. Cheap to clone.
#[derive(Clone)]
pub struct CheckIn(Arc<Shared>);

struct Shared {
    database: Database,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    hosts: HostCache,
    labels: Labels,
    presence: Presence,
    pace: Pace,
    load: Load,
    agent_keys: AgentKeys,
    software: Software,
    sources: Vec<Arc<dyn DistributedSource>>,
}

impl CheckIn {
    pub(crate) fn new(
        database: Database,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        agent_keys: AgentKeys,
        software: Software,
        sources: Vec<Arc<dyn DistributedSource>>,
    ) -> Self {
        Self(Arc::new(Shared {
            presence: Presence::new(database.clone()),
            hosts: HostCache::new(clock.now()),
            labels: Labels::default(),
            pace: Pace::new(),
            load: Load::default(),
            database,
            bus,
            clock,
            agent_keys,
            software,
            sources,
        }))
    }

    /// The marks of hosts that were heard.
    pub fn presence(&self) -> &Presence {
        &self.0.presence
    }

    pub(crate) fn software(&self) -> &Software {
        &self.0.software
    }

    /// A host as the check-in knows it, from memory or by one statement. An unknown host is one whose key is invalid.
    pub async fn host(&self, host: HostId) -> Result<Arc<HostState>, HostsError> {
        let found = self
            .0
            .hosts
            .load(&self.0.database, &self.0.labels, host)
            .await?;
        found.ok_or_else(|| self.is_gone(host))
    }

    /// A host is not in the database any more: nothing of it may stay in memory, or it would be answered for ever.
    fn is_gone(&self, host: HostId) -> HostsError {
        self.forget(host);
        self.0.agent_keys.forget_host(host);
        HostsError::UnknownHost
    }

    /// Compares the hosts in memory with the database, in case a hint was lost. What differs is read anew at the next
    /// check-in.
    pub(crate) async fn reconcile(&self) -> Result<(), StoreError> {
        for host in self.0.hosts.reconcile(&self.0.database).await? {
            self.0.agent_keys.forget_host(host);
        }
        Ok(())
    }

    /// A host as the check-in knows it, when it is in memory.
    pub fn host_in_memory(&self, host: HostId) -> Option<Arc<HostState>> {
        self.0.hosts.get(host)
    }

    /// Forgets what is known of a host: its next check-in reads it anew.
    pub(crate) fn forget(&self, host: HostId) {
        self.0.hosts.drop_host(host);
    }

    /// Forgets what is known of all hosts.
    pub(crate) fn forget_all(&self) {
        self.0.hosts.clear();
    }

    /// Reads the definitions of labels anew.
    pub(crate) async fn reload_labels(&self) -> Result<(), StoreError> {
        self.0.labels.reload(&self.0.database).await
    }

    /// Whether a host is in the label of that name.
    pub(crate) fn is_in_label(&self, profile: &HostProfile, name: &str) -> bool {
        let label = self.0.labels.by_name(name);
        label.is_some_and(|label| profile.label_ids.binary_search(&label).is_ok())
    }

    /// Tells every replica, this one included, that a host changed.
    pub(crate) async fn announce(&self, host: HostId) {
        self.forget(host);
        if let Err(error) = self.0.bus.publish(Hint::new(HOST_TOPIC, host)).await {
            tracing::warn!(
                error = error_chain(&error),
                "a hint about a host was not published"
            );
        }
    }

    /// How much there is to do.
    pub(crate) fn load(&self) -> &Load {
        &self.0.load
    }

    /// What a host is to run now: the body of the answer.
    pub async fn read(&self, host: HostId) -> Result<Bytes, HostsError> {
        let now = self.0.clock.now();
        self.0.presence.seen(host, now);
        let state = self.host(host).await?;
        let profile = state.profile();
        let is_accelerated = profile.hostname.is_empty() || profile.platform.is_empty();
        let mut due = DueQueries::default();
        let (details, labels) = (state.is_detail_due(now), self.0.labels.are_due(&state, now));
        // What is not urgent waits for its turn; what an operator asks now does not.
        if (details || labels) && self.0.load.admits_details() && self.0.pace.admits(host, now) {
            if details {
                detail::ask(&profile, &mut due);
                state.ask_details();
            }
            self.0.labels.due(&state, now, &mut due);
        }
        for source in &self.0.sources {
            source.due(&state, now, &mut due);
        }
        if due.is_empty() {
            return Ok(Bytes::from_static(if is_accelerated {
                EMPTY_ACCELERATED
            } else {
                EMPTY
            }));
        }
        let queries: Vec<_> = due
            .iter()
            .map(|query| {
                let discovery = query.discovery.as_deref().unwrap_or(ALWAYS);
                (
                    Cow::Borrowed(query.name.as_ref()),
                    query.sql.as_ref(),
                    discovery,
                )
            })
            .collect();
        let answer = ReadAnswerRef {
            queries: &queries,
            accelerate: is_accelerated.then_some(ACCELERATE_SECONDS),
        };
        let bytes = serde_json::to_vec(&answer).expect("names and SQL are text");
        Ok(bytes.into())
    }

    /// Keeps what a host answered. `public_ip` is where its request came from.
    pub async fn write(
        &self,
        host: HostId,
        public_ip: Option<String>,
        results: Vec<DistributedResult>,
    ) -> Result<(), HostsError> {
        let now = self.0.clock.now();
        self.0.presence.seen(host, now);
        let state = self.host(host).await?;
        let mut details = Vec::new();
        let mut labels = Vec::new();
        let mut others: Vec<Vec<DistributedResult>> =
            self.0.sources.iter().map(|_| Vec::new()).collect();
        for result in results {
            if result.name.starts_with(detail::PREFIX) {
                // Due until it is answered, whoever asked.
                if detail::is_known(&result.name) && state.is_detail_due(now) {
                    details.push(result);
                }
            } else if result.name.starts_with(membership::PREFIX) {
                // What it was not asked may be the answer to another server's question, when it would be asked here, too.
                if state.asked_labels(now).is_some() || self.0.labels.are_due(&state, now) {
                    labels.push(result);
                }
            } else {
                let of_prefix =
                    |source: &Arc<dyn DistributedSource>| result.name.starts_with(source.prefix());
                if let Some(number) = self.0.sources.iter().position(of_prefix) {
                    others[number].push(result);
                }
            }
        }
        // What somebody waits for goes first.
        for (source, results) in self.0.sources.iter().zip(others) {
            if !results.is_empty() {
                settle(source.ingest(&state, results, now).await)?;
            }
        }
        if !details.is_empty() || !labels.is_empty() {
            let begun = tokio::time::Instant::now();
            let mut kept = self
                .keep(&state, public_ip.clone(), &details, &labels, now)
                .await;
            if kept
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::Reference)
            {
                // Software that no host had was swept away just now: it is made anew.
                self.0.software.forget_versions();
                kept = self.keep(&state, public_ip, &details, &labels, now).await;
            }
            self.0.pace.answered(host, begun.elapsed(), now);
            if kept.as_ref().is_err_and(|error| !error.is_unavailable()) {
                // Asked again at once it would only fail again.
                let due = Some(HostCache::due_after(host, now));
                state.set_detail_due_at(due);
                state.give_up_refetch();
                state.set_labels_evaluated(self.0.labels.version(), due);
            }
            if let Ok(false) = kept {
                return Err(self.is_gone(host));
            }
            settle(kept.map(drop).map_err(SourceError::from))?;
        }
        Ok(())
    }

    /// Keeps details and labels in one transaction, then brings what is in memory up to date. Gives false when the host
    /// was deleted meanwhile.
    async fn keep(
        &self,
        state: &HostState,
        public_ip: Option<String>,
        details: &[DistributedResult],
        labels: &[DistributedResult],
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let host = state.id();
        let software = detail::inventory::software(details);
        let inventory = match &software {
            Some(software) => Some(self.0.software.prepare(software.entries.clone()).await?),
            None => None,
        };
        let mut db = self.0.database.begin().await?;
        let Some(record) = store::host::find_for_update(&mut db, host).await? else {
            return Ok(false);
        };
        let mut facts = record.facts.clone();
        for result in details {
            detail::facts::apply(result, &mut facts, now);
        }
        if let Some(address) = public_ip.filter(|_| !details.is_empty()) {
            facts.public_ip = address;
        }
        if facts != record.facts {
            store::host::save_facts(&mut db, host, &facts, now).await?;
        }
        if let Some(users) = detail::inventory::users(details) {
            store::user::replace(&mut db, host, &users).await?;
        }
        if let (Some(reported), Some(inventory)) = (&software, &inventory) {
            let kept = &reported.kept_sources;
            let team = record.team_id;
            self.0
                .software
                .replace_for_host(&mut db, host, team, inventory, kept, now)
                .await?;
            store::host::stamp_software(&mut db, host, now).await?;
        }
        if !details.is_empty() {
            store::host::stamp_details(&mut db, host, now).await?;
        }
        let old = state.profile();
        let mut profile = HostProfile {
            team_id: record.team_id,
            ..old.with_facts(&facts, &record.identifier)
        };
        let asked = state.asked_labels(now);
        let verdict = self.0.labels.read(labels, &profile, asked, now);
        if verdict.answered {
            profile.label_ids = verdict.keep(&mut db, state).await?;
        }
        // A host that just told its platform is now asked the labels that fit it.
        let platform_changed = old.platform != profile.platform;
        if platform_changed {
            store::host::unstamp_labels(&mut db, host).await?;
        }
        db.commit().await?;

        // Whichever other server asked it has to learn that it answered.
        let elsewhere = (!details.is_empty() && !state.was_asked_details())
            || (verdict.answered && asked.is_none());
        let changed = *old != profile;
        state.set_profile(profile);
        if !details.is_empty() {
            state.set_detail_due_at(Some(HostCache::due_after(host, now)));
            state.set_refetch_requested(false);
        }
        if platform_changed {
            state.set_labels_evaluated(0, None);
        } else if verdict.answered {
            let due = HostCache::due_after(host, verdict.evaluated_at);
            state.set_labels_evaluated(verdict.version, Some(due));
        } else if !labels.is_empty() {
            state.labels_were_answered();
        }
        if changed || elsewhere {
            self.announce(host).await;
        }
        Ok(true)
    }
}

/// What passes by itself is told to the agent, which then sends all of it again. A defect is not: sending it again would
/// not help, and the agent would do so for ever.
fn settle(result: Result<(), SourceError>) -> Result<(), HostsError> {
    match result {
        Ok(()) => Ok(()),
        Err(SourceError::Unavailable(source)) => Err(HostsError::Unavailable(source)),
        Err(error @ SourceError::Defect(_)) => {
            tracing::error!(
                error = error_chain(&error),
                "results of distributed queries were given up"
            );
            Ok(())
        }
    }
}
