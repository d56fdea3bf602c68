//! The engine: one in-memory SQLite connection in which every table is a virtual table.
//!
//! It answers one query at a time, on the thread that owns it. Limits, the authorizer and the SQL functions are set up
//! here; tables are read through `cursor` and `bridge`.
//!
//! Not responsible for remembering queries that ran into limits; the agent does that.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use muster_clock::{Clock, SystemClock};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ffi};

use crate::cursor::{Served, cell_from};
use crate::error::{EngineError, QueryError};
use crate::facts::{AgentFacts, FactsHandle};
use crate::limits::{
    CHECK_EVERY_OPERATIONS, CancelFlag, LimitKind, Limits, MAX_PATTERN_BYTES, MAX_SQL_BYTES,
    MAX_VALUE_BYTES, Stop, Watch, lock,
};
use crate::output::QueryOutput;
use crate::spec::TableSpec;
use crate::table::Table;
use crate::value::Cell;
use crate::{bridge, functions, linux, statement};

/// What tells about a served table: its spec.
pub type TableInfo = TableSpec;

/// How to set up an engine. [`Default`] serves this machine's tables with the default limits.
pub struct EngineOptions {
    /// What a query may cost when [`Engine::query`] is used.
    pub limits: Limits,
    /// What the agent's own tables show at first; [`Engine::facts`] changes it later.
    pub facts: AgentFacts,
    /// Where the machine's files are: `/`, or a folder in tests.
    pub root: PathBuf,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Tables beyond those of this crate.
    pub extra_tables: Vec<Box<dyn Table>>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            facts: AgentFacts::default(),
            root: PathBuf::from("/"),
            clock: Arc::new(SystemClock),
            extra_tables: Vec::new(),
        }
    }
}

impl fmt::Debug for EngineOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EngineOptions")
            .field("limits", &self.limits)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// What the engine and its tables share.
pub(crate) struct Shared {
    pub(crate) root: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) facts: FactsHandle,
    pub(crate) specs: Vec<&'static TableSpec>,
    /// The watch of the running query.
    watch: Mutex<Option<Arc<Watch>>>,
    /// What the authorizer refused last.
    denied: Mutex<Option<String>>,
    /// The mount namespace in which this process reads files.
    mount_namespace: Option<String>,
}

impl Shared {
    pub(crate) fn watch(&self) -> Option<Arc<Watch>> {
        lock(&self.watch).clone()
    }

    /// What the columns about namespaces say: we read in our own.
    pub(crate) fn namespace_defaults(&self, spec: &TableSpec) -> Vec<(usize, Cell)> {
        let mut defaults = Vec::new();
        if let Some(position) = spec.position("pid_with_namespace", usize::MAX) {
            defaults.push((position, Cell::Integer(0)));
        }
        if let Some(position) = spec.position("mount_namespace_id", usize::MAX) {
            defaults.push((position, Cell::from(self.mount_namespace.clone())));
        }
        defaults
    }
}

/// Serves osquery-compatible tables to SQL queries, within limits.
pub struct Engine {
    connection: Connection,
    shared: Arc<Shared>,
    served: Vec<Arc<Served>>,
    limits: Limits,
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("tables", &self.served.len())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the in-memory database and registers every table.
    ///
    /// # Errors
    ///
    /// [`EngineError`] when SQLite cannot be set up or two tables have one name.
    pub fn new(options: EngineOptions) -> Result<Self, EngineError> {
        let mut tables = linux::tables();
        tables.extend(options.extra_tables);
        tables.sort_by_key(|table| table.spec().name);
        let specs: Vec<&'static TableSpec> = tables.iter().map(|table| table.spec()).collect();
        if let Some(pair) = specs.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(EngineError::DuplicateTable(pair[0].name));
        }
        let shared = Arc::new(Shared {
            mount_namespace: linux::mount_namespace(&options.root),
            root: options.root,
            clock: options.clock,
            facts: FactsHandle::new(options.facts),
            specs,
            watch: Mutex::default(),
            denied: Mutex::default(),
        });
        let connection = Connection::open_in_memory()?;
        // Sorting and grouping stay in memory, where they are counted, and never write to a temporary folder.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        functions::register(&connection)?;
        let served: Vec<Arc<Served>> = tables
            .into_iter()
            .map(|table| {
                Arc::new(Served {
                    table,
                    shared: shared.clone(),
                    plans: Mutex::default(),
                })
            })
            .collect();
        for table in &served {
            bridge::register(&connection, table.clone())?;
        }
        restrict(&connection, &shared)?;
        Ok(Self {
            connection,
            shared,
            served,
            limits: options.limits,
        })
    }

    /// Runs one statement with the engine's limits.
    ///
    /// # Errors
    ///
    /// [`QueryError`]; see its variants.
    pub fn query(&self, sql: &str) -> Result<QueryOutput, QueryError> {
        self.query_with(sql, &self.limits, &CancelFlag::new())
    }

    /// Runs one statement with limits of its own, until `cancel` is raised.
    ///
    /// # Errors
    ///
    /// [`QueryError`]; see its variants.
    pub fn query_with(
        &self,
        sql: &str,
        limits: &Limits,
        cancel: &CancelFlag,
    ) -> Result<QueryOutput, QueryError> {
        let statement = statement::single(sql)?;
        let watch = Arc::new(Watch::start(limits, cancel));
        *lock(&self.shared.watch) = Some(watch.clone());
        lock(&self.shared.denied).take();
        let result = self.run(statement, &watch);
        lock(&self.shared.watch).take();
        for table in &self.served {
            lock(&table.plans).clear();
        }
        result
    }

    /// The tables, by name.
    pub fn tables(&self) -> impl Iterator<Item = &TableInfo> {
        self.shared.specs.iter().copied()
    }

    /// A table as a `CREATE TABLE` statement.
    pub fn schema(&self, table: &str) -> Option<String> {
        self.tables()
            .find(|spec| spec.name.eq_ignore_ascii_case(table))
            .map(TableSpec::schema)
    }

    /// What the agent's own tables show; keep a clone to update it from other threads.
    pub fn facts(&self) -> &FactsHandle {
        &self.shared.facts
    }

    /// The limits that [`query`](Self::query) uses.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn run(&self, sql: &str, watch: &Watch) -> Result<QueryOutput, QueryError> {
        let explain = |error| self.explain(error, watch);
        let mut statement = self.connection.prepare(sql).map_err(explain)?;
        if !statement.readonly() {
            return Err(QueryError::Denied {
                action: "a statement that changes something".to_owned(),
            });
        }
        let mut output = QueryOutput {
            columns: statement
                .column_names()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            ..QueryOutput::default()
        };
        let limits = watch.limits();
        let mut bytes = 0_usize;
        let mut rows = statement.query([]).map_err(explain)?;
        while let Some(row) = rows.next().map_err(explain)? {
            let cells: Vec<Cell> = (0..output.columns.len())
                .map(|column| row.get_ref(column).map(cell_from))
                .collect::<Result<_, _>>()
                .map_err(explain)?;
            bytes += cells.iter().map(Cell::weight).sum::<usize>();
            let exceeded = if output.rows.len() >= limits.rows {
                Some(LimitKind::Rows)
            } else if bytes > limits.bytes {
                Some(LimitKind::Bytes)
            } else {
                None
            };
            if let Some(kind) = exceeded {
                if !limits.clip {
                    return Err(exceeds(kind, limits));
                }
                output.clipped = Some(kind);
                break;
            }
            output.rows.push(cells);
            watch.check().map_err(|stop| stopped(stop, limits))?;
        }
        drop(rows);
        output.warnings = watch.take_warnings();
        output.wall_time = watch.elapsed();
        Ok(output)
    }

    /// What an error of SQLite means: the watch or the authorizer may be behind it.
    fn explain(&self, error: rusqlite::Error, watch: &Watch) -> QueryError {
        if let Some(stop) = watch.stopped() {
            return stopped(stop, watch.limits());
        }
        if let Some(action) = lock(&self.shared.denied).take() {
            return QueryError::Denied { action };
        }
        let (code, message) = match error {
            rusqlite::Error::SqliteFailure(failure, message) => (
                failure.extended_code,
                message.unwrap_or_else(|| failure.to_string()),
            ),
            rusqlite::Error::SqlInputError {
                error, msg, offset, ..
            } => (
                error.extended_code,
                if offset >= 0 {
                    format!("{msg} (at byte {offset})")
                } else {
                    msg
                },
            ),
            rusqlite::Error::MultipleStatement => return QueryError::SeveralStatements,
            other => (ffi::SQLITE_ERROR, other.to_string()),
        };
        if code == ffi::SQLITE_NOMEM {
            return exceeds(LimitKind::Memory, watch.limits());
        }
        QueryError::Sql { message, code }
    }
}

/// Lets statements only read, and looks at the watch while they run.
fn restrict(connection: &Connection, shared: &Arc<Shared>) -> rusqlite::Result<()> {
    let bound = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, bound(MAX_VALUE_BYTES)),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, bound(MAX_SQL_BYTES)),
        (
            Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH,
            bound(MAX_PATTERN_BYTES),
        ),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 0),
    ] {
        connection.set_limit(limit, value)?;
    }
    let for_authorizer = shared.clone();
    connection.authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| {
        let decision = statement::authorize(context.action);
        let answer = statement::answer(&decision);
        if let Err(action) = decision {
            *lock(&for_authorizer.denied) = Some(action);
        }
        answer
    }))?;
    let for_progress = shared.clone();
    connection.progress_handler(
        CHECK_EVERY_OPERATIONS,
        Some(move || {
            for_progress
                .watch()
                .is_some_and(|watch| watch.check().is_err())
        }),
    )
}

fn stopped(stop: Stop, limits: &Limits) -> QueryError {
    match stop {
        Stop::Limit(kind) => exceeds(kind, limits),
        Stop::Cancelled => QueryError::Cancelled,
    }
}

fn exceeds(limit: LimitKind, limits: &Limits) -> QueryError {
    let (allowed, unit) = match limit {
        LimitKind::WallTime => (
            u64::try_from(limits.wall_time.as_millis()).unwrap_or(u64::MAX),
            "ms of wall time",
        ),
        LimitKind::Rows => (limits.rows as u64, "rows"),
        LimitKind::Bytes => (limits.bytes as u64, "bytes of results"),
        LimitKind::Memory => (limits.memory_bytes as u64, "bytes of memory"),
    };
    QueryError::LimitExceeded {
        limit,
        allowed,
        unit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_can_be_moved_to_the_thread_that_owns_it() {
        fn is_send<T: Send>(_: &T) {}
        let engine = Engine::new(EngineOptions::default()).unwrap();
        is_send(&engine);
        is_send(engine.facts());
        let moved = std::thread::spawn(move || engine.query("SELECT 1").unwrap().to_string_rows());
        assert_eq!(moved.join().unwrap(), [["1"]]);
    }
}
