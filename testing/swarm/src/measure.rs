//! What is measured, and how it is told.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// The share of the profile's requests that has to be answered; phases make them differ a little.
const LEAST_SHARE: f64 = 0.95;

/// What the server used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Processor time of the server in seconds.
    pub(crate) cpu_seconds: f64,
    /// Processor time of what else is counted, such as a database.
    pub(crate) counted_cpu_seconds: f64,
    /// Memory of the server in bytes.
    pub(crate) rss_bytes: u64,
    /// The most that it ever was.
    pub(crate) peak_rss_bytes: u64,
    /// Memory of what else is counted: what its processes share counts once.
    pub(crate) counted_pss_bytes: u64,
}

impl Cost {
    /// Processor time of the server and of what else is counted.
    pub(crate) fn all_cpu_seconds(&self) -> f64 {
        self.cpu_seconds + self.counted_cpu_seconds
    }
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

    /// `expected` is how many requests the hosts make in that time.
    pub(crate) fn report(
        &self,
        (hosts, expected): (u32, f64),
        seconds: u64,
        before: &Cost,
        after: &Cost,
    ) -> Report {
        let latency = self
            .latency_us
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Report {
            hosts,
            expected,
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
            server_cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            counted_cpu_seconds: after.counted_cpu_seconds - before.counted_cpu_seconds,
            rss_bytes: after.rss_bytes,
            counted_pss_bytes: after.counted_pss_bytes,
        }
    }
}

/// The figures.
pub(crate) struct Report {
    hosts: u32,
    /// How many requests they make in that time.
    expected: f64,
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
    server_cpu_seconds: f64,
    /// Of what else is counted, such as a database.
    counted_cpu_seconds: f64,
    /// Memory of the server at the end.
    pub(crate) rss_bytes: u64,
    counted_pss_bytes: u64,
}

impl Report {
    /// Processor time of the server and of what else is counted.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.server_cpu_seconds + self.counted_cpu_seconds
    }

    /// How many hosts a core carries that is busy for so long in this time.
    fn hosts_per_core(&self, cpu_seconds: f64) -> f64 {
        f64::from(self.hosts) * self.seconds as f64 / cpu_seconds.max(0.01)
    }

    /// What makes the figures worthless: hosts that did not enroll, requests that failed, or fewer requests than the
    /// profile has, because a server that answers late costs itself less.
    pub(crate) fn fault(&self) -> Option<String> {
        let expected = self.expected;
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
            "server_cpu_seconds": self.server_cpu_seconds, "counted_cpu_seconds": self.counted_cpu_seconds,
            "hosts_per_core": self.hosts_per_core(self.cpu_seconds()).round(),
            "server_rss_bytes": self.rss_bytes, "counted_pss_bytes": self.counted_pss_bytes,
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
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0));
        line("server CPU", format!("{:.2} s", self.server_cpu_seconds));
        line(
            "hosts per core",
            format!("{:.0}", self.hosts_per_core(self.server_cpu_seconds)),
        );
        line("server RSS", mib(self.rss_bytes));
        if self.counted_pss_bytes > 0 {
            line("counted CPU", format!("{:.2} s", self.counted_cpu_seconds));
            line("counted memory", mib(self.counted_pss_bytes));
            line(
                "hosts per core, all",
                format!("{:.0}", self.hosts_per_core(self.cpu_seconds())),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(requests: u64, enrolled: u64, errors: u64) -> Report {
        Report {
            hosts: 100,
            // Six reads, six batches of logs and one configuration per host in a minute.
            expected: 1_300.0,
            enrolled,
            seconds: 60,
            requests,
            errors,
            first_error: "refused".to_owned(),
            p50_ms: 1.0,
            p99_ms: 1.0,
            server_cpu_seconds: 1.0,
            counted_cpu_seconds: 2.0,
            rss_bytes: 0,
            counted_pss_bytes: 0,
        }
    }

    #[test]
    fn figures_of_a_server_that_does_not_answer_are_worth_nothing() {
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

    #[test]
    fn what_is_counted_beside_the_server_counts() {
        let mut report = report(1_300, 100, 0);
        assert!(report.text().contains("hosts per core       6000\n"));
        assert!(!report.text().contains("counted"));
        report.counted_pss_bytes = 3 << 20;
        assert!(report.text().contains("hosts per core, all  2000\n"));
        assert_eq!(report.json()["hosts_per_core"], 2000.0);
    }
}
