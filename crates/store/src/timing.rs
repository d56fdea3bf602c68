//! How long the database takes, for metrics.
//!
//! `muster_database_wait_seconds`: until a connection was to be had. `muster_database_duration_seconds`: until a statement
//! was answered, by kind. `muster_database_unavailable_total`: how often the database was away.

use std::time::{Duration, Instant};

use metrics::{Counter, Histogram};

use crate::StoreError;

/// What a statement does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Read,
    Write,
    Commit,
}

/// Looked up once: that costs more than recording.
pub(crate) struct Timing {
    wait: Histogram,
    read: Histogram,
    write: Histogram,
    commit: Histogram,
    unavailable: Counter,
}

impl Timing {
    pub(crate) fn new() -> Self {
        let duration = |name: &'static str| metrics::histogram!("muster_database_duration_seconds", "operation" => name);
        Self {
            wait: metrics::histogram!("muster_database_wait_seconds"),
            read: duration("read"),
            write: duration("write"),
            commit: duration("commit"),
            unavailable: metrics::counter!("muster_database_unavailable_total"),
        }
    }

    /// A connection was had after so long.
    pub(crate) fn waited(&self, span: Duration) {
        self.wait.record(span.as_secs_f64());
    }

    /// A connection was waited for since `begun`.
    pub(crate) fn acquired<T>(
        &self,
        begun: Instant,
        acquired: Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.waited(begun.elapsed());
        acquired.map_err(|source| {
            self.unavailable.increment(1);
            StoreError::away("reach the database", source)
        })
    }

    /// An answer was waited for since `begun`.
    pub(crate) fn ran<T>(
        &self,
        operation: Operation,
        begun: Instant,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let histogram = match operation {
            Operation::Read => &self.read,
            Operation::Write => &self.write,
            Operation::Commit => &self.commit,
        };
        histogram.record(begun.elapsed().as_secs_f64());
        if result.as_ref().is_err_and(StoreError::is_unavailable) {
            self.unavailable.increment(1);
        }
        result
    }
}
