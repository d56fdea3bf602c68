//! osquery-compatible tables about this machine, and the engine that answers SQL over them.
//!
//! [`Engine`] owns an in-memory SQLite database in which every table is a virtual table: nothing is stored, a query
//! reads the machine while it runs. Columns, their order, their types and the constraints they take are osquery's, so
//! that queries written for osquery run unchanged. Each query has [`Limits`] on wall time, rows, bytes and memory and
//! can be cancelled with a [`CancelFlag`]. Statements only read.
//!
//! An engine works on the thread that owns it, one query at a time; give it a thread of its own. Keep a clone of
//! [`Engine::facts`] to change what the agent's own tables (`osquery_info`, `osquery_flags`, `orbit_info` …) show.
//!
//! A table that cannot be read does not fail the query: it has no rows, and [`QueryOutput::warnings`] names the table
//! and the reason.
//!
//! ```
//! use muster_tables::{AgentFacts, CancelFlag, Engine, EngineOptions, LimitKind, Limits, QueryError};
//! use std::time::Duration;
//!
//! let engine = Engine::new(EngineOptions {
//!     facts: AgentFacts { version: "1.2.3".to_owned(), ..AgentFacts::default() },
//!     ..EngineOptions::default()
//! })?;
//! let output = engine.query("SELECT version, pid > 0 AS runs FROM osquery_info")?;
//! assert_eq!(output.columns, ["version", "runs"]);
//! assert_eq!(output.to_string_rows(), [["1.2.3", "1"]]);
//!
//! // What the agent's own tables show can change while it runs, from any thread.
//! let facts = engine.facts().clone();
//! facts.update(|facts| facts.config_hash = "c0ffee".to_owned());
//! let output = engine.query("SELECT config_hash FROM osquery_info")?;
//! assert_eq!(output.to_string_rows(), [["c0ffee"]]);
//!
//! // A query that would never end is stopped.
//! let limits = Limits { wall_time: Duration::from_millis(50), ..Limits::default() };
//! let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
//! let error = engine.query_with(endless, &limits, &CancelFlag::new()).unwrap_err();
//! assert!(matches!(error, QueryError::LimitExceeded { limit: LimitKind::WallTime, .. }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Not responsible for talking to a server, for schedules, or for remembering which queries misbehaved.

mod bridge;
mod cursor;
mod engine;
mod error;
mod facts;
mod functions;
mod limits;
mod linux;
mod output;
mod spec;
mod statement;
mod table;
mod value;

pub use engine::{Engine, EngineOptions, TableInfo};
pub use error::{EngineError, QueryError, TableError};
pub use facts::{AgentFacts, FactsHandle, FlagFact, OrbitFacts, ScheduleFact};
pub use limits::{
    CancelFlag, DEFAULT_BYTES, DEFAULT_MEMORY_BYTES, DEFAULT_ROWS, DEFAULT_WALL_TIME, LimitKind,
    Limits, MAX_SQL_BYTES,
};
pub use linux::hardware_uuid;
pub use output::QueryOutput;
pub use spec::{Collation, ColumnSpec, ColumnType, TableSpec, column};
pub use table::{Constraints, Context, Operator, RowBuilder, RowSink, Table};
pub use value::Cell;
