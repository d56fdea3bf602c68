//! What is measured, and how it is told.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::host::Host;

/// The share of the profile's requests that has to be answered; phases make them differ a little.
const LEAST_SHARE: f64 = 0.95;

/// What the server used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Processor time in seconds.
    pub(crate) cpu_seconds: f64,
    /// Memory in bytes.
    pub(crate) rss_bytes: u64,
}

/// What all hosts saw while it is measured.
pub(crate) struct Measures {
    measuring: AtomicBool,
    requests: AtomicU64,
    errors: AtomicU64,
    enrolled: AtomicU64,
    first_error: Mutex<String>,
    latency_us: Mutex<Histogram<u64>>,
}

impl Default for Measures {
    fn default() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order");
        Self {
            measuring: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            enrolled: AtomicU64::new(0),
            first_error: Mutex::default(),
            latency_us: Mutex::new(histogram),
        }
    }
}

impl Measures {
    pub(crate) fn begin(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.measuring.store(false, Ordering::Relaxed);
    }

    pub(crate) fn enrolled(&self) {
        self.enrolled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self, latency: Duration) {
        if self.measuring.load(Ordering::Relaxed) {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            self.latency_us
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .saturating_record(micros);
        }
    }

    /// Errors count from the first enrollment on: none is allowed at any time.
    pub(crate) fn failed(&self, error: &str) {
        if self.errors.fetch_add(1, Ordering::Relaxed) == 0 {
            error.clone_into(
                &mut self
                    .first_error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }

    pub(crate) fn report(&self, hosts: u32, seconds: u64, before: &Cost, after: &Cost) -> Report {
        let latency = self
            .latency_us
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
        Report {
            hosts,
            enrolled: self.enrolled.load(Ordering::Relaxed),
            seconds,
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            first_error: self
                .first_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            p50_ms: latency.value_at_quantile(0.5) as f64 / 1_000.0,
            p99_ms: latency.value_at_quantile(0.99) as f64 / 1_000.0,
            cpu_seconds,
            hosts_per_core: f64::from(hosts) * seconds as f64 / cpu_seconds.max(0.01),
            rss_bytes: after.rss_bytes,
        }
    }
}

/// The figures.
pub(crate) struct Report {
    hosts: u32,
    /// How many hosts enrolled.
    pub(crate) enrolled: u64,
    seconds: u64,
    requests: u64,
    /// How many requests failed.
    pub(crate) errors: u64,
    /// Why the first of them did.
    pub(crate) first_error: String,
    /// What half of the requests took at most.
    pub(crate) p50_ms: f64,
    /// What all but a hundredth took at most.
    pub(crate) p99_ms: f64,
    /// Processor time of the server, and of what else is counted.
    pub(crate) cpu_seconds: f64,
    hosts_per_core: f64,
    /// Memory of the server at the end.
    pub(crate) rss_bytes: u64,
}

impl Report {
    /// What makes the figures worthless: hosts that did not enroll, requests that failed, or fewer requests than the
    /// profile has, because a server that answers late costs itself less.
    pub(crate) fn fault(&self) -> Option<String> {
        let expected = f64::from(self.hosts) * Host::requests_in(self.seconds);
        if self.errors > 0 {
            let first = &self.first_error;
            Some(format!(
                "{} requests failed; the first: {first}",
                self.errors
            ))
        } else if self.enrolled < u64::from(self.hosts) {
            Some(format!(
                "{} of {} hosts enrolled",
                self.enrolled, self.hosts
            ))
        } else if (self.requests as f64) < expected * LEAST_SHARE {
            Some(format!(
                "{} requests were answered of {expected:.0} that the hosts make in that time",
                self.requests
            ))
        } else {
            None
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "hosts": self.hosts, "enrolled": self.enrolled, "seconds": self.seconds, "requests": self.requests,
            "errors": self.errors, "p50_ms": self.p50_ms, "p99_ms": self.p99_ms,
            "server_cpu_seconds": self.cpu_seconds, "hosts_per_core": self.hosts_per_core.round(),
            "server_rss_bytes": self.rss_bytes,
        })
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<20} {value}");
        };
        line(
            "hosts",
            format!("{} ({} enrolled)", self.hosts, self.enrolled),
        );
        line("seconds", self.seconds.to_string());
        line(
            "requests",
            format!(
                "{} ({:.0} a second)",
                self.requests,
                self.requests as f64 / self.seconds as f64
            ),
        );
        line("errors", self.errors.to_string());
        line(
            "p50, p99",
            format!("{:.2} ms, {:.2} ms", self.p50_ms, self.p99_ms),
        );
        line("server CPU", format!("{:.2} s", self.cpu_seconds));
        line("hosts per core", format!("{:.0}", self.hosts_per_core));
        line(
            "server RSS",
            format!("{:.1} MiB", self.rss_bytes as f64 / (1024.0 * 1024.0)),
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(requests: u64, enrolled: u64, errors: u64) -> Report {
        Report {
            hosts: 100,
            enrolled,
            seconds: 60,
            requests,
            errors,
            first_error: "refused".to_owned(),
            p50_ms: 1.0,
            p99_ms: 1.0,
            cpu_seconds: 1.0,
            hosts_per_core: 6000.0,
            rss_bytes: 0,
        }
    }

    #[test]
    fn figures_of_a_server_that_does_not_answer_are_worth_nothing() {
        // Six reads, six batches of logs and one configuration per host in a minute.
        assert_eq!(report(1_300, 100, 0).fault(), None);
        for (report, fault) in [
            (report(1_300, 99, 0), "99 of 100 hosts enrolled"),
            (
                report(1_300, 100, 1),
                "1 requests failed; the first: refused",
            ),
            (report(900, 100, 0), "900 requests were answered of 1300"),
        ] {
            let said = report.fault().unwrap_or_default();
            assert!(said.starts_with(fault), "{said}");
        }
    }
}
