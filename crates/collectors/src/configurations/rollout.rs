//! How far one collector is with the configuration that it should run, as a pure function of what is known about it.
//!
//! [`judge`] looks at everything anew each time, so that nothing is lost when a hint is, or when a server restarts. What it
//! must remember is in [`Rollout`]: which versions failed, which one was the last to run well, and since when a new one has
//! been running without trouble.
//!
//! That an agent says APPLIED proves little: a supervisor says it before its collector breaks, and says FAILED a moment later.
//! So a version counts as run only when nothing was heard of a failure and the collector said that it is healthy for a while.
//! That while goes on as far as the collector was heard, since one that is gone may be so because of the version, and it begins
//! anew when it comes back.

use std::time::Duration;

use muster_clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::record::{ConfigReport, Progress};

/// How long a collector has to be healthy with a new version before the version counts as run, unless somebody decided otherwise.
pub const DEFAULT_SOAK: Duration = Duration::from_secs(30);
/// The shortest such time that can be chosen: supervisors say APPLIED up to a moment before their collector breaks.
pub(crate) const MIN_SOAK: Duration = Duration::from_secs(5);
/// The longest such time that can be chosen.
pub(crate) const MAX_SOAK: Duration = Duration::from_secs(24 * 60 * 60);
/// How much longer a collector that is not healthy may take until the version counts as failed.
pub(crate) const HEALTH_PATIENCE: Duration = Duration::from_secs(60);
/// How many failed versions are remembered per collector: none of them is sent to it again.
const MAX_FAILED: usize = 100;
/// Of how many of them it is remembered why.
const MAX_FAILED_WORDS: usize = 8;
/// What is said of the others.
const FAILED_BEFORE: &str = "it failed there before";

/// A version of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Which configuration.
    pub configuration_id: i64,
    /// Which of its versions.
    pub version: i64,
    /// Its hash as hexadecimal digits.
    pub hash: String,
}

/// How far a collector is. Written as JSON by this release and read by this and later ones; what only a later one knows cannot be
/// read, and whoever cannot read it leaves that collector to those who can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing is assigned to it.
    Unmanaged,
    /// It cannot be given what is assigned.
    Cannot,
    /// It was not sent yet.
    Waiting,
    /// It was sent, and nothing was heard of it.
    Sent,
    /// The agent is at it.
    Applying,
    /// The agent says that it runs, and it is seen how well.
    Soaking,
    /// It runs well.
    InSync,
    /// It does not run.
    Failed,
}

/// What people are told.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = CollectorConfigStateName)]
pub enum State {
    /// It runs what it should, and well.
    InSync,
    /// It is on the way.
    Applying,
    /// What it should run failed there.
    Failed,
    /// Nothing is assigned to it.
    Unmanaged,
    /// It cannot be given what is assigned.
    Cannot,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::InSync,
        Self::Applying,
        Self::Failed,
        Self::Unmanaged,
        Self::Cannot,
    ];

    /// The text in the database and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::InSync => "in_sync",
            Self::Applying => "applying",
            Self::Failed => "failed",
            Self::Unmanaged => "unmanaged",
            Self::Cannot => "cannot",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl Stage {
    /// What people are told of it.
    pub fn state(self) -> State {
        match self {
            Self::Unmanaged => State::Unmanaged,
            Self::Cannot => State::Cannot,
            Self::Waiting | Self::Sent | Self::Applying | Self::Soaking => State::Applying,
            Self::InSync => State::InSync,
            Self::Failed => State::Failed,
        }
    }

    /// The text in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unmanaged => "unmanaged",
            Self::Cannot => "cannot",
            Self::Waiting => "waiting",
            Self::Sent => "sent",
            Self::Applying => "applying",
            Self::Soaking => "soaking",
            Self::InSync => "in_sync",
            Self::Failed => "failed",
        }
    }
}

/// A version that failed on a collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its hash as hexadecimal digits.
    pub hash: String,
    /// The agent's own words, or what its health came to; empty when other versions failed since.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// Whether the agent did not say so, and only was not healthy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_health: bool,
}

impl Failure {
    /// Why it failed, as far as that is remembered.
    pub fn words(&self) -> &str {
        match self.message.as_str() {
            "" => FAILED_BEFORE,
            words => words,
        }
    }
}

/// When a collector is to be looked at again although nothing about it changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NextLook {
    /// At this time.
    pub at: Option<Timestamp>,
    /// Once it was heard at this time or later.
    pub when_heard: Option<Timestamp>,
}

/// What is remembered of a collector. Written as JSON by this release and read by this and later ones: fields are only added,
/// each with a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// How far it is.
    pub stage: Stage,
    /// Since when.
    pub since: Timestamp,
    /// What it should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<Version>,
    /// By which assignment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_id: Option<i64>,
    /// What it runs instead, since that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<Version>,
    /// The last version that ran well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<Version>,
    /// Why it is where it is, in the agent's own words where there are any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When the agent said that the version runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<Timestamp>,
    /// Since when it has been healthy with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_since: Option<Timestamp>,
    /// Versions that failed, the last one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
}

/// What is known about a collector.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The time.
    pub now: Timestamp,
    /// What it should run, and by which assignment.
    pub assigned: Option<(i64, Version)>,
    /// Whether the assignment is paused: nothing new is sent.
    pub is_paused: bool,
    /// Why it cannot be given that, if it cannot.
    pub obstacle: Option<String>,
    /// Whether it goes back to the last version that ran well by itself.
    pub goes_back: bool,
    /// How long it has to be healthy.
    pub soak: Duration,
    /// Whether it says what becomes of configurations.
    pub reports_config: bool,
    /// Whether it says how it feels.
    pub reports_health: bool,
    /// What it last said of that.
    pub healthy: Option<bool>,
    /// Its own words about it.
    pub health_error: &'a str,
    /// When what it says of its health last changed.
    pub health_at: Option<Timestamp>,
    /// When it was last heard.
    pub heard_at: Option<Timestamp>,
    /// When it last came back after it was gone.
    pub back_at: Option<Timestamp>,
    /// What it last said about a configuration.
    pub report: Option<&'a ConfigReport>,
    /// The hash of the configuration that it was sent last, and when.
    pub sent: Option<(&'a str, Timestamp)>,
}

impl Facts<'_> {
    /// Whether it said how it feels since it was sent a version. A supervisor does so before it says that the version runs.
    fn told_its_health_since_it_was_sent(&self, hash: &str) -> bool {
        let sent_at = self
            .sent
            .filter(|(sent, _)| *sent == hash)
            .map(|(_, at)| at);
        match (sent_at, self.health_at) {
            (Some(sent_at), Some(health_at)) => health_at >= sent_at,
            _ => true,
        }
    }
}

impl Rollout {
    /// Of a collector that nothing is known of.
    pub fn new(now: Timestamp) -> Self {
        Self {
            stage: Stage::Unmanaged,
            since: now,
            assigned: None,
            assignment_id: None,
            instead: None,
            good: None,
            message: String::new(),
            applied_at: None,
            healthy_since: None,
            failures: Vec::new(),
        }
    }

    /// The version that is to be sent unless the collector has it; none when nothing is.
    pub fn to_send(&self, is_paused: bool) -> Option<&Version> {
        match self.stage {
            Stage::Unmanaged | Stage::Cannot => None,
            Stage::Failed => self.instead.as_ref(),
            Stage::Waiting if is_paused => None,
            _ => self.assigned.as_ref(),
        }
    }

    /// When it is to be looked at again although nothing about it changes.
    pub fn next_look(&self, soak: Duration) -> NextLook {
        let Some(applied_at) = self.applied_at.filter(|_| self.stage == Stage::Soaking) else {
            return NextLook::default();
        };
        match self.healthy_since {
            Some(since) => NextLook {
                at: None,
                when_heard: Some(since.plus(soak)),
            },
            None => NextLook {
                at: Some(applied_at.plus(soak + HEALTH_PATIENCE)),
                when_heard: None,
            },
        }
    }

    fn failure(&self, hash: &str) -> Option<&Failure> {
        self.failures.iter().find(|failure| failure.hash == hash)
    }

    fn fail(&mut self, failure: Failure) {
        self.failures.retain(|known| known.hash != failure.hash);
        if self.failures.len() >= MAX_FAILED {
            self.failures.remove(0);
        }
        self.failures.push(failure);
        let silent = self.failures.len().saturating_sub(MAX_FAILED_WORDS);
        for failure in &mut self.failures[..silent] {
            failure.message.clear();
        }
    }
}

/// How far a collector is now, from how far it was and from what is known.
pub fn judge(before: &Rollout, facts: &Facts<'_>) -> Rollout {
    let mut after = before.clone();
    let (assignment_id, assigned) = facts.assigned.clone().unzip();
    let is_other = before.assigned.as_ref().map(|version| &version.hash)
        != assigned.as_ref().map(|version: &Version| &version.hash);
    if is_other {
        after.instead = None;
        after.applied_at = None;
        after.healthy_since = None;
    }
    after.assigned = assigned;
    after.assignment_id = assignment_id;
    let (stage, message) = stage(&mut after, facts);
    if stage != before.stage || is_other {
        after.since = facts.now;
    }
    after.stage = stage;
    after.message = message;
    match stage {
        Stage::InSync => after.good.clone_from(&after.assigned),
        Stage::Failed if (before.stage != Stage::Failed || is_other) && facts.goes_back => {
            go_back(&mut after);
        }
        // It came round by itself.
        Stage::Soaking => after.instead = None,
        _ => {}
    }
    after
}

/// Takes the last version that ran well, if there is one of the same configuration.
fn go_back(after: &mut Rollout) {
    let (Some(assigned), Some(good)) = (&after.assigned, &after.good) else {
        return;
    };
    let is_usable = good.configuration_id == assigned.configuration_id
        && good.hash != assigned.hash
        && after.failure(&good.hash).is_none();
    if is_usable {
        after.instead = Some(good.clone());
    }
}

fn stage(after: &mut Rollout, facts: &Facts<'_>) -> (Stage, String) {
    let Some(assigned) = after.assigned.clone() else {
        return (Stage::Unmanaged, String::new());
    };
    let hash = assigned.hash.as_str();
    let report = facts.report.filter(|report| report.hash == hash);
    if let Some(report) = report.filter(|report| report.progress == Progress::Failed) {
        let message = if report.error.is_empty() {
            "the agent said that it failed, and not why".to_owned()
        } else {
            report.error.clone()
        };
        if after
            .failure(hash)
            .is_none_or(|known| known.by_health || known.at != report.at)
        {
            after.fail(Failure {
                hash: hash.to_owned(),
                message: message.clone(),
                at: report.at,
                by_health: false,
            });
        }
        return (Stage::Failed, message);
    }
    if let Some(obstacle) = &facts.obstacle {
        return (Stage::Cannot, obstacle.clone());
    }
    if let Some(failure) = after.failure(hash) {
        let is_over = report.is_some_and(|report| {
            report.progress == Progress::Applied
                && if failure.by_health {
                    facts.healthy != Some(false)
                } else {
                    report.at > failure.at
                }
        });
        if !is_over {
            return (Stage::Failed, failure.words().to_owned());
        }
        after.failures.retain(|known| known.hash != hash);
        after.healthy_since = None;
    }
    match report.map(|report| (report.progress, report.at)) {
        Some((Progress::Applied, at)) => applied(after, facts, hash, at),
        Some((Progress::Applying, _)) => {
            after.applied_at = None;
            (Stage::Applying, String::new())
        }
        _ if facts.sent.is_some_and(|(sent, _)| sent == hash) => {
            let message = if facts.reports_config {
                ""
            } else {
                "sent; this agent does not say what becomes of configurations"
            };
            (Stage::Sent, message.to_owned())
        }
        _ if facts.is_paused => (Stage::Waiting, "the assignment is paused".to_owned()),
        _ => (Stage::Waiting, String::new()),
    }
}

/// The agent says that the version runs.
fn applied(after: &mut Rollout, facts: &Facts<'_>, hash: &str, at: Timestamp) -> (Stage, String) {
    if after.applied_at != Some(at) {
        after.applied_at = Some(at);
        after.healthy_since = None;
    }
    // It was seen to run well: what becomes of its health from now on is not the configuration's doing.
    if after.good.as_ref().is_some_and(|good| good.hash == hash) {
        return (Stage::InSync, String::new());
    }
    if facts.healthy == Some(false) {
        after.healthy_since = None;
        if facts.now.since(at) < facts.soak + HEALTH_PATIENCE {
            return (Stage::Soaking, facts.health_error.to_owned());
        }
        let words = match facts.health_error {
            "" => "it does not say why",
            words => words,
        };
        let message = format!("applied, but the collector is not healthy: {words}");
        after.fail(Failure {
            hash: hash.to_owned(),
            message: message.clone(),
            at: facts.now,
            by_health: true,
        });
        return (Stage::Failed, message);
    }
    if facts.reports_health
        && (facts.healthy.is_none() || !facts.told_its_health_since_it_was_sent(hash))
        && facts.now.since(at) < facts.soak + HEALTH_PATIENCE
    {
        // It is about to say. Whoever says nothing for so long has nothing else to say.
        return (Stage::Soaking, String::new());
    }
    let told_at = facts.health_at.filter(|_| facts.reports_health);
    let begun_at = at.max(told_at.unwrap_or(at));
    let since = after.healthy_since.unwrap_or(begun_at);
    let since = since.max(facts.back_at.unwrap_or(since));
    after.healthy_since = Some(since);
    if facts.heard_at.unwrap_or(at).since(since) >= facts.soak {
        (Stage::InSync, String::new())
    } else {
        (Stage::Soaking, String::new())
    }
}

#[cfg(test)]
mod tests;
