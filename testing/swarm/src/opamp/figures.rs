//! What agents see, and how it is told.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::agent::Common;
use crate::measure::Cost;

/// The share of heartbeats that has to be answered; phases make the number differ a little.
const LEAST_SHARE: f64 = 0.95;
/// How many different reasons of failures are told.
const MAX_REASONS: usize = 10;
const MIB: f64 = 1024.0 * 1024.0;

/// Counts of one part of the run.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// Times until something was answered, in microseconds.
    answers_us: Option<Histogram<u64>>,
    pub(super) heartbeats: u64,
    /// Those of them that told a changed health.
    pub(super) changes: u64,
    pub(super) full_states: u64,
    pub(super) components: u64,
    pub(super) offers: u64,
    /// Configurations that were sent.
    pub(super) configurations: u64,
}

/// Counted by all agents of a run.
#[derive(Default)]
pub(super) struct Figures {
    own_keys: AtomicU64,
    sockets: AtomicU64,
    /// Whether the figures of the steady part are taken.
    is_steady: AtomicBool,
    storm: Mutex<Counts>,
    steady: Mutex<Counts>,
    until_own_us: Mutex<Option<Histogram<u64>>>,
    failures: Mutex<BTreeMap<String, u64>>,
}

/// A connection under an agent's own key, for as long as it is open.
pub(super) struct Held(Arc<Common>);

impl Held {
    pub(super) fn new(common: &Arc<Common>) -> Self {
        common.figures.sockets.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(common))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.figures.sockets.fetch_sub(1, Ordering::Relaxed);
    }
}

fn record(histogram: &mut Option<Histogram<u64>>, span: Duration) {
    let histogram = histogram.get_or_insert_with(|| {
        Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")
    });
    histogram.saturating_record(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Figures {
    /// Counts of the part of the run that it is now.
    fn now(&self) -> std::sync::MutexGuard<'_, Counts> {
        if self.is_steady.load(Ordering::Relaxed) {
            locked(&self.steady)
        } else {
            locked(&self.storm)
        }
    }

    /// The steady part begins.
    pub(super) fn begin(&self) {
        self.is_steady.store(true, Ordering::Relaxed);
    }

    /// An agent was answered under a key of its own for the first time, so long after it came.
    pub(super) fn has_own_key(&self, after: Duration) {
        record(&mut locked(&self.until_own_us), after);
        self.own_keys.fetch_add(1, Ordering::Relaxed);
    }

    /// How many agents have a key of their own.
    pub(super) fn own_keys(&self) -> u64 {
        self.own_keys.load(Ordering::Relaxed)
    }

    pub(super) fn answered(&self, after: Duration) {
        record(&mut self.now().answers_us, after);
    }

    pub(super) fn beat(&self, is_change: bool) {
        let mut now = self.now();
        now.heartbeats += 1;
        now.changes += u64::from(is_change);
    }

    pub(super) fn offered(&self) {
        self.now().offers += 1;
    }

    pub(super) fn configured(&self) {
        self.now().configurations += 1;
    }

    pub(super) fn asked_for_everything(&self) {
        self.now().full_states += 1;
    }

    pub(super) fn asked_for_components(&self) {
        self.now().components += 1;
    }

    /// Failures count at any time: none is allowed.
    pub(super) fn failed(&self, reason: &str) {
        let mut failures = locked(&self.failures);
        let reason = if failures.len() < MAX_REASONS || failures.contains_key(reason) {
            reason
        } else {
            "others"
        };
        *failures.entry(reason.to_owned()).or_default() += 1;
    }

    /// All of it, as it is now.
    pub(super) fn report(&self, run: Run) -> Report {
        Report {
            run,
            own_keys: self.own_keys(),
            sockets: self.sockets.load(Ordering::Relaxed),
            storm: locked(&self.storm).clone(),
            steady: locked(&self.steady).clone(),
            until_own: Spread::of(locked(&self.until_own_us).as_ref()),
            failures: locked(&self.failures).clone(),
        }
    }
}

/// What the server says about itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServerCounts {
    /// Sockets of agents, or connections when agents come over plain HTTP.
    pub(super) sockets: f64,
    /// Statements of its database, commits included.
    pub(super) statements: f64,
}

/// A run: what was wanted of it, and what it cost.
#[derive(Debug, Clone, Default)]
pub(super) struct Run {
    pub(super) agents: u32,
    /// How many heartbeats the agents make in the steady part.
    pub(super) expected: f64,
    /// How long that was.
    pub(super) seconds: f64,
    /// How long it took until all had their own key; none if they never did.
    pub(super) until_all: Option<Duration>,
    /// Before the first came, when all had come, and around the steady part.
    pub(super) costs: [Cost; 4],
    pub(super) server: [ServerCounts; 2],
    /// What came of a configuration for all of them, if there was one.
    pub(super) rollout: Option<Rollout>,
}

/// A configuration that was assigned to all agents.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rollout {
    /// How long it took until all were seen to run it well; none if they never were.
    pub(super) until_all: Option<Duration>,
    /// Statements of the server's database meanwhile, those of heartbeats among them.
    pub(super) statements: f64,
    pub(super) cpu_seconds: f64,
}

/// Percentiles of times in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Spread {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Spread {
    fn of(histogram: Option<&Histogram<u64>>) -> Self {
        let Some(histogram) = histogram else {
            return Self::default();
        };
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: histogram.max() as f64 / 1_000.0,
        }
    }

    fn text(&self) -> String {
        format!(
            "{:.2} ms, {:.2} ms, {:.2} ms, {:.2} ms",
            self.p50, self.p90, self.p99, self.max
        )
    }

    fn json(&self) -> Value {
        json!({ "p50_ms": self.p50, "p90_ms": self.p90, "p99_ms": self.p99, "max_ms": self.max })
    }
}

/// The figures.
pub(super) struct Report {
    run: Run,
    own_keys: u64,
    sockets: u64,
    storm: Counts,
    steady: Counts,
    until_own: Spread,
    failures: BTreeMap<String, u64>,
}

impl Report {
    fn cpu_seconds(&self, part: usize) -> f64 {
        self.run.costs[part + 1].cpu_seconds - self.run.costs[part].cpu_seconds
    }

    fn counted_cpu_seconds(&self, part: usize) -> f64 {
        self.run.costs[part + 1].counted_cpu_seconds - self.run.costs[part].counted_cpu_seconds
    }

    fn statements(&self) -> f64 {
        self.run.server[1].statements - self.run.server[0].statements
    }

    fn cores_percent(&self) -> f64 {
        100.0 * self.cpu_seconds(2) / self.run.seconds.max(0.01)
    }

    fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// What makes the figures worthless, or is never to happen.
    pub(super) fn fault(&self) -> Option<String> {
        let agents = u64::from(self.run.agents);
        let most = self.failures.iter().max_by_key(|(_, count)| **count);
        if let Some((reason, count)) = most {
            let all = self.failed();
            Some(format!("{all} failures, {count} of them: {reason}"))
        } else if self.own_keys < agents {
            let own = self.own_keys;
            Some(format!("{own} of {agents} agents have a key of their own"))
        } else if self.sockets < agents || self.run.server[1].sockets < agents as f64 {
            let (ours, theirs) = (self.sockets, self.run.server[1].sockets);
            Some(format!(
                "of {agents} agents {ours} hold a connection, and the server {theirs}"
            ))
        } else if self.storm.offers != agents || self.steady.offers > 0 {
            let (storm, later) = (self.storm.offers, self.steady.offers);
            Some(format!(
                "{storm} keys were offered to {agents} agents, and {later} later"
            ))
        } else if self.storm.full_states + self.steady.full_states > 0 {
            let (storm, later) = (self.storm.full_states, self.steady.full_states);
            Some(format!(
                "a full state was asked for {storm} times and {later} times later, though nothing was missed"
            ))
        } else if let Some(Rollout {
            until_all: None, ..
        }) = self.run.rollout
        {
            Some("the configuration does not run on all agents".to_owned())
        } else if let Some(sent) = self.sent_otherwise_than_once() {
            Some(format!(
                "{sent} configurations were sent to {agents} agents"
            ))
        } else if (self.steady.heartbeats as f64) < self.run.expected * LEAST_SHARE {
            let (beats, expected) = (self.steady.heartbeats, self.run.expected);
            Some(format!(
                "{beats} heartbeats were answered of {expected:.0} that the agents make in that time"
            ))
        } else {
            None
        }
    }

    /// How many configurations were sent, unless each agent was sent the one that there was.
    fn sent_otherwise_than_once(&self) -> Option<u64> {
        let wanted = u64::from(self.run.agents) * u64::from(self.run.rollout.is_some());
        let sent = self.storm.configurations + self.steady.configurations;
        (sent != wanted).then_some(sent)
    }

    pub(super) fn json(&self) -> Value {
        let rollout = self.run.rollout.map(|rollout| {
            json!({
                "until_all_in_sync_seconds": rollout.until_all.map(|after| after.as_secs_f64()),
                "statements": rollout.statements, "server_cpu_seconds": rollout.cpu_seconds,
            })
        });
        let [_, came, _, end] = &self.run.costs;
        json!({
            "agents": self.run.agents, "own_keys": self.own_keys, "failures": self.failures,
            "until_all_own_keys_seconds": self.run.until_all.map(|after| after.as_secs_f64()),
            "until_own_key": self.until_own.json(),
            "storm": {
                "offers": self.storm.offers, "full_states_asked": self.storm.full_states,
                "components_asked": self.storm.components, "server_cpu_seconds": self.cpu_seconds(0),
                "counted_cpu_seconds": self.counted_cpu_seconds(0), "server_rss_bytes": came.rss_bytes,
                "answers": Spread::of(self.storm.answers_us.as_ref()).json(),
            },
            "steady": {
                "seconds": self.run.seconds, "heartbeats": self.steady.heartbeats,
                "changed_health": self.steady.changes, "full_states_asked": self.steady.full_states,
                "answers": Spread::of(self.steady.answers_us.as_ref()).json(),
                "server_cpu_seconds": self.cpu_seconds(2), "server_cpu_percent": self.cores_percent(),
                "counted_cpu_seconds": self.counted_cpu_seconds(2), "server_rss_bytes": end.rss_bytes,
                "server_peak_rss_bytes": end.peak_rss_bytes, "counted_pss_bytes": end.counted_pss_bytes,
                "sockets": self.sockets, "server_sockets": self.run.server[1].sockets,
                "statements": self.statements(),
            },
            "rollout": rollout,
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<24} {value}");
        };
        let [_, came, _, end] = &self.run.costs;
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / MIB);
        let own = format!(
            "{} ({} on a key of their own)",
            self.run.agents, self.own_keys
        );
        line("agents", own);
        let until_all = self.run.until_all.map_or_else(
            || "never".to_owned(),
            |after| format!("{:.1} s", after.as_secs_f64()),
        );
        line("all on own keys after", until_all);
        line("each, p50 p90 p99 max", self.until_own.text());
        line("failures", self.failed().to_string());
        for (reason, count) in &self.failures {
            line("", format!("{count}: {reason}"));
        }
        line("keys offered", self.storm.offers.to_string());
        line(
            "full states asked",
            format!(
                "{}, and {} later",
                self.storm.full_states, self.steady.full_states
            ),
        );
        line("components asked", self.storm.components.to_string());
        let answers = Spread::of(self.storm.answers_us.as_ref());
        line("answers p50 p90 p99 max", answers.text());
        line("server CPU", format!("{:.2} s", self.cpu_seconds(0)));
        line("server RSS", mib(came.rss_bytes));
        line("then seconds", format!("{:.0}", self.run.seconds));
        line(
            "heartbeats",
            format!(
                "{} ({:.1} a second), {} with changed health",
                self.steady.heartbeats,
                self.steady.heartbeats as f64 / self.run.seconds.max(0.01),
                self.steady.changes
            ),
        );
        let answers = Spread::of(self.steady.answers_us.as_ref());
        line("answers p50 p90 p99 max", answers.text());
        line(
            "server CPU",
            format!(
                "{:.2} s ({:.1} % of one core)",
                self.cpu_seconds(2),
                self.cores_percent()
            ),
        );
        line(
            "server RSS",
            format!(
                "{}, {} at most",
                mib(end.rss_bytes),
                mib(end.peak_rss_bytes)
            ),
        );
        line(
            "connections held",
            format!(
                "{} by agents, {} by the server",
                self.sockets, self.run.server[1].sockets
            ),
        );
        line(
            "statements",
            format!(
                "{:.0} ({:.3} a heartbeat)",
                self.statements(),
                self.statements() / (self.steady.heartbeats.max(1) as f64)
            ),
        );
        if let Some(rollout) = self.run.rollout {
            let until_all = rollout.until_all.map_or_else(
                || "never".to_owned(),
                |after| format!("{:.1} s", after.as_secs_f64()),
            );
            line("rolled out to all after", until_all);
            let agents = f64::from(self.run.agents.max(1));
            line(
                "statements meanwhile",
                format!(
                    "{:.0} ({:.3} an agent), {:.2} s of CPU",
                    rollout.statements,
                    rollout.statements / agents,
                    rollout.cpu_seconds
                ),
            );
        }
        if end.counted_pss_bytes > 0 {
            let cpu = self.counted_cpu_seconds(2);
            line("counted CPU", format!("{cpu:.2} s"));
            line("counted memory", mib(end.counted_pss_bytes));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let cost = |cpu_seconds| Cost {
            cpu_seconds,
            rss_bytes: 100 << 20,
            peak_rss_bytes: 200 << 20,
            ..Cost::default()
        };
        let figures = Figures::default();
        figures.failed("refused");
        Report {
            own_keys: 100,
            sockets: 100,
            failures: BTreeMap::new(),
            storm: Counts {
                offers: 100,
                ..Counts::default()
            },
            steady: Counts {
                heartbeats: 400,
                changes: 8,
                ..Counts::default()
            },
            ..figures.report(Run {
                agents: 100,
                expected: 400.0,
                seconds: 120.0,
                until_all: Some(Duration::from_millis(12_345)),
                costs: [cost(1.0), cost(3.0), cost(4.0), cost(16.0)],
                server: [
                    ServerCounts::default(),
                    ServerCounts {
                        sockets: 100.0,
                        statements: 40.0,
                    },
                ],
                rollout: None,
            })
        }
    }

    #[test]
    fn a_run_in_which_something_is_missing_is_worth_nothing() {
        assert_eq!(report().fault(), None);
        let faulty = |change: fn(&mut Report)| {
            let mut report = report();
            change(&mut report);
            report.fault().unwrap_or_default()
        };
        let said = [
            faulty(|report| {
                report.failures = [("late".to_owned(), 2), ("401".to_owned(), 3)].into();
            }),
            faulty(|report| report.own_keys = 99),
            faulty(|report| report.sockets = 99),
            faulty(|report| report.run.server[1].sockets = 99.0),
            faulty(|report| report.storm.offers = 101),
            faulty(|report| report.steady.offers = 1),
            faulty(|report| report.steady.full_states = 1),
            faulty(|report| report.steady.heartbeats = 370),
            faulty(|report| report.run.rollout = Some(Rollout::default())),
            faulty(|report| report.steady.configurations = 1),
        ];
        assert_eq!(
            said,
            [
                "5 failures, 3 of them: 401",
                "99 of 100 agents have a key of their own",
                "of 100 agents 99 hold a connection, and the server 100",
                "of 100 agents 100 hold a connection, and the server 99",
                "101 keys were offered to 100 agents, and 0 later",
                "100 keys were offered to 100 agents, and 1 later",
                "a full state was asked for 0 times and 1 times later, though nothing was missed",
                "370 heartbeats were answered of 400 that the agents make in that time",
                "the configuration does not run on all agents",
                "1 configurations were sent to 100 agents",
            ]
        );
    }

    #[test]
    fn the_storm_and_what_follows_cost_each_for_themselves() {
        let report = report();
        let text = report.text();
        for line in [
            "all on own keys after    12.3 s\n",
            "server CPU               2.00 s\n",
            "server CPU               12.00 s (10.0 % of one core)\n",
            "server RSS               100.0 MiB, 200.0 MiB at most\n",
            "statements               40 (0.100 a heartbeat)\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("counted"), "{text}");
        assert_eq!(report.json()["steady"]["server_cpu_percent"], 10.0);
    }

    #[test]
    fn of_many_reasons_some_are_told_and_all_are_counted() {
        let figures = Figures::default();
        for number in 0..30 {
            figures.failed(&format!("reason {}", number % 15));
        }
        let report = figures.report(Run::default());
        assert_eq!(
            (report.failed(), report.failures.len()),
            (30, MAX_REASONS + 1)
        );
        assert_eq!(report.failures["others"], 10);
    }
}
