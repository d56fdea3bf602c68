//! Runs queries on a thread of their own, with limits.
//!
//! The engine belongs to that thread; requests reach it over a channel. A query that runs into a limit is reported with
//! its reason and put on the [`Denylist`].

use std::sync::{Arc, mpsc};

use muster_clock::Clock;
use muster_tables::{
    CancelFlag, Engine, EngineError, EngineOptions, FactsHandle, QueryError, QueryOutput,
};
use muster_wire_osquery::{DistributedResult, Row, Stats};
use tokio::sync::oneshot;

use crate::denylist::{self, Denylist};

/// The code that is told of queries that were stopped or denied; SQLite's general error.
pub(crate) const FAILED: i64 = 1;

/// A query that a server wants run.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// The SQL.
    pub sql: String,
    /// Only when this gives a row.
    pub discovery: Option<String>,
}

enum Job {
    Distributed(Vec<Wanted>, oneshot::Sender<Vec<DistributedResult>>),
    Rows(String, oneshot::Sender<Result<Vec<Row>, QueryError>>),
}

/// Hands queries to the thread that runs them.
#[derive(Clone)]
pub struct Runner {
    jobs: mpsc::Sender<Job>,
    facts: FactsHandle,
    cancel: CancelFlag,
}

/// The thread could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The tables.
    #[error("prepare the tables")]
    Engine(#[from] EngineError),
    /// The thread.
    #[error("start the thread for queries")]
    Thread(#[from] std::io::Error),
    /// It ended before it began.
    #[error("the thread for queries ended")]
    Ended,
}

impl Runner {
    /// Starts the thread.
    pub fn start(
        options: EngineOptions,
        denylist: Denylist,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RunnerError> {
        let (jobs, queue) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let cancel = CancelFlag::new();
        let thread_cancel = cancel.clone();
        std::thread::Builder::new()
            .name("queries".to_owned())
            .spawn(move || {
                let engine = match Engine::new(options) {
                    Ok(engine) => engine,
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                let _ = ready.send(Ok(engine.facts().clone()));
                let mut thread = Thread {
                    engine,
                    denylist,
                    clock,
                    cancel: thread_cancel,
                };
                while let Ok(job) = queue.recv() {
                    thread.run(job);
                }
            })?;
        let facts = started.recv().map_err(|_| RunnerError::Ended)??;
        Ok(Self {
            jobs,
            facts,
            cancel,
        })
    }

    /// What the agent's own tables show.
    pub fn facts(&self) -> &FactsHandle {
        &self.facts
    }

    /// Stops the query that runs.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Runs queries; those whose discovery gives no row are left out.
    pub async fn run(&self, wanted: Vec<Wanted>) -> Vec<DistributedResult> {
        let (done, results) = oneshot::channel();
        if self.jobs.send(Job::Distributed(wanted, done)).is_err() {
            return Vec::new();
        }
        results.await.unwrap_or_default()
    }

    /// The rows of a query of our own.
    pub async fn rows(&self, sql: &str) -> Vec<Row> {
        let (done, rows) = oneshot::channel();
        if self.jobs.send(Job::Rows(sql.to_owned(), done)).is_err() {
            return Vec::new();
        }
        rows.await.ok().and_then(Result::ok).unwrap_or_default()
    }
}

struct Thread {
    engine: Engine,
    denylist: Denylist,
    clock: Arc<dyn Clock>,
    cancel: CancelFlag,
}

impl Thread {
    fn run(&mut self, job: Job) {
        match job {
            Job::Distributed(wanted, done) => {
                let results = wanted
                    .into_iter()
                    .filter_map(|wanted| self.distributed(wanted))
                    .collect();
                let _ = done.send(results);
            }
            Job::Rows(sql, done) => {
                let _ = done.send(self.engine.query(&sql).map(|output| rows(&output)));
            }
        }
    }

    fn query(&self, sql: &str) -> Result<QueryOutput, QueryError> {
        self.engine
            .query_with(sql, self.engine.limits(), &self.cancel)
    }

    fn distributed(&mut self, wanted: Wanted) -> Option<DistributedResult> {
        if let Some(discovery) = &wanted.discovery {
            let found = self
                .query(discovery)
                .is_ok_and(|output| !output.rows.is_empty());
            if !found {
                return None;
            }
        }
        let now = self.clock.now();
        let failed = |message: String| DistributedResult {
            name: wanted.name.clone(),
            status: FAILED,
            message: Some(message),
            ..DistributedResult::default()
        };
        if let Some(until) = self.denylist.denied_until(&wanted.sql, now) {
            return Some(failed(format!(
                "{} until {until}: it ran into a limit",
                denylist::MESSAGE
            )));
        }
        match self.query(&wanted.sql) {
            Ok(output) => {
                for warning in &output.warnings {
                    tracing::debug!(
                        query = wanted.name,
                        warning,
                        "a table could not be read whole"
                    );
                }
                let wall_time_ms = i64::try_from(output.wall_time.as_millis()).unwrap_or(i64::MAX);
                Some(DistributedResult {
                    name: wanted.name,
                    rows: rows(&output),
                    stats: Some(Stats {
                        wall_time_ms,
                        ..Stats::default()
                    }),
                    ..DistributedResult::default()
                })
            }
            Err(error) => {
                if matches!(error, QueryError::LimitExceeded { .. }) {
                    tracing::warn!(query = wanted.name, error = %error, "a query ran into a limit; not run again for a day");
                    if let Err(error) = self.denylist.deny(&wanted.sql, now) {
                        tracing::warn!(error = chain(&error), "the denylist could not be kept");
                    }
                }
                Some(failed(error.to_string()))
            }
        }
    }
}

fn rows(output: &QueryOutput) -> Vec<Row> {
    let columns = &output.columns;
    let pairs = |row: Vec<String>| columns.iter().cloned().zip(row).collect();
    output.to_string_rows().into_iter().map(pairs).collect()
}

/// An error with everything that caused it.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use muster_clock::{ManualClock, Timestamp};
    use muster_tables::Limits;

    use super::*;

    fn wanted(name: &str, sql: &str, discovery: Option<&str>) -> Wanted {
        Wanted {
            name: name.to_owned(),
            sql: sql.to_owned(),
            discovery: discovery.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn queries_run_fail_and_are_left_out_and_those_that_never_end_are_denied() {
        let limits = Limits {
            wall_time: Duration::from_millis(100),
            ..Limits::default()
        };
        let options = EngineOptions {
            limits,
            ..EngineOptions::default()
        };
        let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_000)));
        let runner = Runner::start(options, Denylist::load(None), clock).unwrap();
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let results = runner
            .run(vec![
                wanted("good", "SELECT 1 AS one, NULL AS empty", Some("SELECT 1")),
                wanted("absent", "SELECT 1", Some("SELECT 1 WHERE 1 = 0")),
                wanted("wrong", "SELECT * FROM nowhere", None),
                wanted("endless", endless, None),
            ])
            .await;
        let names: Vec<_> = results
            .iter()
            .map(|result| (result.name.as_str(), result.status))
            .collect();
        assert_eq!(names, [("good", 0), ("wrong", 1), ("endless", 1)]);
        let cells: Vec<_> = results[0].rows[0].iter().collect();
        assert_eq!(cells, [("one", "1"), ("empty", "")]);
        assert!(
            results[1]
                .message
                .as_deref()
                .unwrap()
                .contains("no such table: nowhere")
        );
        assert!(results[2].message.as_deref().unwrap().contains("stopped"));
        let again = runner.run(vec![wanted("endless", endless, None)]).await;
        let message = again[0].message.as_deref().unwrap();
        assert!(message.starts_with(denylist::MESSAGE), "{message}");
        assert!(message.ends_with("Z: it ran into a limit"), "{message}");
        assert_eq!(
            runner.rows("SELECT 2 AS two").await[0].get("two"),
            Some("2")
        );
    }
}
