//! The pools, and statements run on them.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use muster_clock::Timestamp;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqlSafeStr as _};

use crate::row::Row;
use crate::run::{postgres_execute, postgres_fetch, sqlite_execute, sqlite_fetch, within};
use crate::timing::{Operation, Timing};
use crate::{Address, Channel, Dialect, ErrorKind, StoreError, Value};

/// How the pools are sized and how long they wait.
#[derive(Debug, Clone)]
pub struct Options {
    /// The most connections: readers on SQLite, all on PostgreSQL.
    pub max_connections: u32,
    /// How long a statement waits for a connection before the database counts as unavailable.
    pub acquire_timeout: Duration,
    /// How long a statement waits for a lock before the database counts as unavailable.
    pub busy_timeout: Duration,
    /// How long a statement may run on PostgreSQL before the database counts as unavailable. Migrations have no limit.
    pub statement_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 8,
            acquire_timeout: Duration::from_secs(5),
            busy_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

/// An open database. Cheap to clone: clones share the pools.
#[derive(Clone)]
pub struct Database(Arc<Shared>);

struct Shared {
    pools: Pools,
    statements: AtomicU64,
    timing: Timing,
}

enum Pools {
    Sqlite {
        write: SqlitePool,
        read: SqlitePool,
    },
    Postgres {
        pool: PgPool,
        /// How long an answer is waited for: a network may be silent, and PostgreSQL's own limits do not end that.
        patience: Duration,
    },
}

/// Pages that the one connection that writes keeps, in KiB with a minus as SQLite has it.
const WRITER_CACHE: &str = "-8000";
/// The same for each that reads: there are several, and what they read again the kernel has.
const READER_CACHE: &str = "-2000";
/// The driver would write a line for each request that waits for a connection: under load that is thousands a second, and
/// the metrics say the same.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// How much longer an answer is waited for than PostgreSQL may take, so that its own refusal comes first.
const PATIENCE: Duration = Duration::from_secs(2);

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({})", self.dialect().name())
    }
}

impl Database {
    /// Opens the database; makes the file of an embedded one when it is not there. Does not migrate.
    pub async fn open(address: &Address, options: &Options) -> Result<Self, StoreError> {
        let pools = match address {
            Address::Sqlite(path) => {
                let connect = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .foreign_keys(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // With a write-ahead log, FULL is what makes a commit survive a power cut. Acknowledged means kept.
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(options.busy_timeout)
                    .pragma("journal_size_limit", "67108864")
                    .pragma("cache_size", WRITER_CACHE)
                    .pragma("temp_store", "memory")
                    .statement_cache_capacity(256);
                let write = SqlitePoolOptions::new()
                    .max_connections(1)
                    .acquire_timeout(options.acquire_timeout)
                    .acquire_slow_threshold(NEVER)
                    // SQLite ends a transaction by itself when the disk is full or fails, and the rollback that follows
                    // fails. The driver then takes the transaction for open, and no other can begin on that connection.
                    .before_acquire(|connection, _| {
                        let is_usable = !connection.is_in_transaction();
                        Box::pin(async move { Ok(is_usable) })
                    })
                    .connect_with(connect.clone())
                    .await
                    .map_err(|source| StoreError::away("open the database file", source))?;
                let read = SqlitePoolOptions::new()
                    .max_connections(options.max_connections)
                    .idle_timeout(Duration::from_secs(60))
                    .acquire_timeout(options.acquire_timeout)
                    .acquire_slow_threshold(NEVER)
                    .connect_lazy_with(
                        connect
                            .read_only(true)
                            .create_if_missing(false)
                            .pragma("cache_size", READER_CACHE),
                    );
                Pools::Sqlite { write, read }
            }
            Address::Postgres(connect) => {
                let limits: Arc<str> = format!(
                    "SET lock_timeout = {}; SET statement_timeout = {}",
                    options.busy_timeout.as_millis().max(1),
                    options.statement_timeout.as_millis().max(1)
                )
                .into();
                let pool = PgPoolOptions::new()
                    .max_connections(options.max_connections)
                    .acquire_timeout(options.acquire_timeout)
                    .acquire_slow_threshold(NEVER)
                    // By a statement: poolers refuse what they do not know among the parameters of a connection.
                    .after_connect(move |connection, _| {
                        let limits = AssertSqlSafe(limits.to_string());
                        Box::pin(async move {
                            sqlx::raw_sql(limits).execute(connection).await.map(drop)
                        })
                    })
                    .connect_with((**connect).clone())
                    .await;
                let pool = match pool {
                    Ok(pool) => pool,
                    // The pool tried until its time was over, and says no more than that: one more try says why.
                    Err(source) => {
                        let once = PgConnection::connect_with(connect);
                        let why = match tokio::time::timeout(options.acquire_timeout, once).await {
                            Ok(Err(why)) => why,
                            _ => source,
                        };
                        return Err(StoreError::away("connect to the database", why));
                    }
                };
                Pools::Postgres {
                    pool,
                    patience: options.statement_timeout + PATIENCE,
                }
            }
        };
        Ok(Self(Arc::new(Shared {
            pools,
            statements: AtomicU64::new(0),
            timing: Timing::new(),
        })))
    }

    /// Which database this is.
    pub fn dialect(&self) -> Dialect {
        match self.0.pools {
            Pools::Sqlite { .. } => Dialect::Sqlite,
            Pools::Postgres { .. } => Dialect::Postgres,
        }
    }

    /// How many statements have been run since it was opened. For the metric, and for tests that count.
    pub fn statements(&self) -> u64 {
        self.0.statements.load(Ordering::Relaxed)
    }

    /// How many connections work now, and how many are open without work.
    pub fn connections(&self) -> (u32, u32) {
        let of = |size: u32, idle: usize| {
            let idle = u32::try_from(idle).unwrap_or(u32::MAX).min(size);
            (size - idle, idle)
        };
        match &self.0.pools {
            Pools::Sqlite { write, read } => {
                let (writing, resting) = of(write.size(), write.num_idle());
                let (used, idle) = of(read.size(), read.num_idle());
                (writing + used, resting + idle)
            }
            Pools::Postgres { pool, .. } => of(pool.size(), pool.num_idle()),
        }
    }

    /// Begins a unit of work. On SQLite it takes the write lock at once. Dropped without [`Transaction::commit`], it is
    /// rolled back.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        let attempt = "begin a transaction";
        let begun = Instant::now();
        let inner = match &self.0.pools {
            Pools::Sqlite { write, .. } => TransactionInner::Sqlite(
                write
                    .begin_with("BEGIN IMMEDIATE")
                    .await
                    .map_err(|source| StoreError::away(attempt, source))?,
            ),
            Pools::Postgres { pool, patience } => TransactionInner::Postgres(
                within(
                    Some(*patience),
                    attempt,
                    Box::pin(async {
                        let begun = pool.begin().await;
                        begun.map_err(|source| StoreError::away(attempt, source))
                    }),
                )
                .await?,
            ),
        };
        let patience = match &self.0.pools {
            Pools::Sqlite { .. } => None,
            Pools::Postgres { patience, .. } => Some(*patience),
        };
        // A transaction that begins waits for nothing but its connection and, on SQLite, for the one writer before it.
        self.0.timing.waited(begun.elapsed());
        Ok(Transaction {
            inner,
            patience,
            broken: None,
            shared: Arc::clone(&self.0),
        })
    }

    /// A channel to all programs on this database; none on the embedded one, which has but one program.
    pub fn channel(&self, name: &'static str) -> Option<Channel> {
        match &self.0.pools {
            Pools::Sqlite { .. } => None,
            Pools::Postgres { pool, patience } => Some(Channel::new(pool.clone(), *patience, name)),
        }
    }

    /// Which release of the database this is, and what time its machine has.
    pub async fn about(&self) -> Result<(String, Timestamp), StoreError> {
        let sql = match self.dialect() {
            Dialect::Sqlite => {
                "SELECT sqlite_version() AS release,
                    CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER) AS now"
            }
            Dialect::Postgres => {
                "SELECT current_setting('server_version') AS release,
                    CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT) AS now"
            }
        };
        let mut db = self;
        let row = db.fetch_one(sql, Vec::new()).await?;
        Ok((row.get("release")?, row.get("now")?))
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut db = self;
        db.fetch_all("SELECT 1 AS one", Vec::new()).await.map(drop)
    }

    /// Closes the pools; what waits for a connection is told that the database is unavailable.
    pub async fn close(&self) {
        match &self.0.pools {
            Pools::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
            Pools::Postgres { pool, .. } => pool.close().await,
        }
    }

    /// Runs several statements without parameters in one go, as migrations have them. PostgreSQL makes them one
    /// transaction of their own.
    pub(crate) async fn execute_script(
        transaction: &mut Transaction,
        sql: &str,
    ) -> Result<(), StoreError> {
        let text = AssertSqlSafe(sql.to_owned());
        match &mut transaction.inner {
            TransactionInner::Sqlite(tx) => sqlx::raw_sql(text).execute(&mut **tx).await.map(drop),
            TransactionInner::Postgres(tx) => {
                sqlx::raw_sql(text).execute(&mut **tx).await.map(drop)
            }
        }
        .map_err(|source| StoreError::driver("run a script", source))
    }

    /// Has the database prepare a statement without running it.
    pub async fn prepare(&self, sql: &str) -> Result<(), StoreError> {
        let text = AssertSqlSafe(sql.to_owned());
        match &self.0.pools {
            Pools::Sqlite { write, .. } => {
                let mut connection = write
                    .acquire()
                    .await
                    .map_err(|source| StoreError::driver("prepare a statement", source))?;
                connection.prepare(text.into_sql_str()).await.map(drop)
            }
            Pools::Postgres { pool, .. } => {
                let mut connection = pool
                    .acquire()
                    .await
                    .map_err(|source| StoreError::driver("prepare a statement", source))?;
                connection.prepare(text.into_sql_str()).await.map(drop)
            }
        }
        .map_err(|source| StoreError::driver("prepare a statement", source))
    }

    fn count(&self) {
        self.0.statements.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs statements: a [`Database`] (each by itself) or a [`Transaction`].
///
/// Store functions take `&mut impl Executor`, so that the service decides what is one unit of work:
///
/// ```no_run
/// # use muster_store::{args, Database, Executor, StoreError};
/// async fn rename(db: &mut impl Executor, id: i64, name: &str) -> Result<bool, StoreError> {
///     let changed = db.execute("UPDATE pets_pets SET name = $2 WHERE id = $1", args![id, name]).await?;
///     Ok(changed == 1)
/// }
/// # async fn example(database: &Database) -> Result<(), StoreError> {
/// rename(&mut &*database, 1, "Rex").await?;
/// let mut transaction = database.begin().await?;
/// rename(&mut transaction, 2, "Bella").await?;
/// transaction.commit().await
/// # }
/// ```
pub trait Executor: Send {
    /// Runs a statement that changes rows, gives how many. On SQLite it goes to the writing connection.
    fn execute(
        &mut self,
        sql: &str,
        args: Vec<Value>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Runs a statement that changes rows and answers with some (`RETURNING`).
    fn execute_returning(
        &mut self,
        sql: &str,
        args: Vec<Value>,
    ) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send;

    /// Reads rows.
    fn fetch_all(
        &mut self,
        sql: &str,
        args: Vec<Value>,
    ) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send;

    /// Reads one row, or none. More than one is a defect of the statement; the first is given.
    fn fetch_optional(
        &mut self,
        sql: &str,
        args: Vec<Value>,
    ) -> impl Future<Output = Result<Option<Row>, StoreError>> + Send {
        async move { Ok(self.fetch_all(sql, args).await?.into_iter().next()) }
    }

    /// Reads exactly one row, as aggregates give.
    fn fetch_one(
        &mut self,
        sql: &str,
        args: Vec<Value>,
    ) -> impl Future<Output = Result<Row, StoreError>> + Send {
        async move {
            self.fetch_optional(sql, args)
                .await?
                .ok_or_else(|| StoreError::corrupt("read one row", "the statement gave no row"))
        }
    }

    /// Which database this is.
    fn dialect(&self) -> Dialect;
}

impl Executor for &Database {
    async fn execute(&mut self, sql: &str, args: Vec<Value>) -> Result<u64, StoreError> {
        self.count();
        match &self.0.pools {
            Pools::Sqlite { write, .. } => {
                let begun = Instant::now();
                let mut connection = self.0.timing.acquired(begun, write.acquire().await)?;
                let begun = Instant::now();
                let result = sqlite_execute(&mut connection, sql, args).await;
                self.0.timing.ran(Operation::Write, begun, result)
            }
            Pools::Postgres { pool, patience } => {
                let begun = Instant::now();
                let mut connection = self.0.timing.acquired(begun, pool.acquire().await)?;
                let begun = Instant::now();
                let done = Box::pin(postgres_execute(&mut connection, sql, args));
                let result = within(Some(*patience), "wait for the database", done).await;
                self.0.timing.ran(Operation::Write, begun, result)
            }
        }
    }

    async fn execute_returning(
        &mut self,
        sql: &str,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, StoreError> {
        self.count();
        match &self.0.pools {
            Pools::Sqlite { write, .. } => {
                let begun = Instant::now();
                let mut connection = self.0.timing.acquired(begun, write.acquire().await)?;
                let begun = Instant::now();
                let result = sqlite_fetch(&mut connection, sql, args).await;
                self.0.timing.ran(Operation::Write, begun, result)
            }
            Pools::Postgres { pool, patience } => {
                let begun = Instant::now();
                let mut connection = self.0.timing.acquired(begun, pool.acquire().await)?;
                let begun = Instant::now();
                let done = Box::pin(postgres_fetch(&mut connection, sql, args));
                let result = within(Some(*patience), "wait for the database", done).await;
                self.0.timing.ran(Operation::Write, begun, result)
            }
        }
    }

    async fn fetch_all(&mut self, sql: &str, args: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        self.count();
        match &self.0.pools {
            Pools::Sqlite { read, .. } => {
                let begun = Instant::now();
                let mut connection = self.0.timing.acquired(begun, read.acquire().await)?;
                let begun = Instant::now();
                let result = sqlite_fetch(&mut connection, sql, args).await;
                self.0.timing.ran(Operation::Read, begun, result)
            }
            Pools::Postgres { pool, patience } => {
                let begun = Instant::now();
                let mut connection = self.0.timing.acquired(begun, pool.acquire().await)?;
                let begun = Instant::now();
                let done = Box::pin(postgres_fetch(&mut connection, sql, args));
                let result = within(Some(*patience), "wait for the database", done).await;
                self.0.timing.ran(Operation::Read, begun, result)
            }
        }
    }

    fn dialect(&self) -> Dialect {
        Database::dialect(self)
    }
}

/// A unit of work: all of it is kept, or nothing.
pub struct Transaction {
    inner: TransactionInner,
    /// How long an answer is waited for.
    patience: Option<Duration>,
    /// What the first statement that failed made of the work.
    broken: Option<ErrorKind>,
    shared: Arc<Shared>,
}

pub(crate) enum TransactionInner {
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
}

impl Transaction {
    /// Keeps the work. When this gives an error, it is not known to be kept.
    pub async fn commit(self) -> Result<(), StoreError> {
        let attempt = "commit a transaction";
        self.whole()?;
        let committed = async {
            match self.inner {
                TransactionInner::Sqlite(tx) => tx.commit().await,
                TransactionInner::Postgres(tx) => tx.commit().await,
            }
            .map_err(|source| StoreError::away(attempt, source))
        };
        let begun = Instant::now();
        let result = within(self.patience, attempt, Box::pin(committed)).await;
        self.shared.timing.ran(Operation::Commit, begun, result)
    }

    /// After a statement that failed nothing more of the work is done, on either database. PostgreSQL sees to that itself.
    /// SQLite would go on, and may have ended the transaction: what follows would be kept without what came before.
    fn whole(&self) -> Result<(), StoreError> {
        self.broken
            .map_or(Ok(()), |kind| Err(StoreError::broken(kind)))
    }

    fn done<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result {
            self.broken = Some(error.kind());
        }
        result
    }

    /// Lets the statements of this unit of work take as long as they need, as migrations do.
    pub(crate) async fn without_limits(&mut self) -> Result<(), StoreError> {
        if let TransactionInner::Postgres(_) = self.inner {
            let sql = "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0";
            Database::execute_script(self, sql).await?;
        }
        self.patience = None;
        Ok(())
    }

    /// Has this unit of work wait until no other one holds any of these names, and holds them until it ends: for rules
    /// that no constraint of a row can keep. On SQLite, where units of work never overlap, it does nothing. Names are
    /// taken in one order, so that two units of work never wait for each other; call it once per unit of work.
    pub async fn lock(&mut self, names: &[String]) -> Result<(), StoreError> {
        if let TransactionInner::Postgres(_) = self.inner {
            for key in lock_keys(names) {
                let sql = "SELECT CAST(pg_advisory_xact_lock($1) AS TEXT) AS locked";
                self.fetch_all(sql, vec![Value::Integer(Some(key))]).await?;
            }
        }
        Ok(())
    }

    /// The driver's transaction.
    pub(crate) fn inner(&mut self) -> &mut TransactionInner {
        &mut self.inner
    }

    fn count(&self) {
        self.shared.statements.fetch_add(1, Ordering::Relaxed);
    }
}

impl Executor for Transaction {
    async fn execute(&mut self, sql: &str, args: Vec<Value>) -> Result<u64, StoreError> {
        self.whole()?;
        self.count();
        let begun = Instant::now();
        let result = match &mut self.inner {
            TransactionInner::Sqlite(tx) => sqlite_execute(tx, sql, args).await,
            TransactionInner::Postgres(tx) => {
                let done = Box::pin(postgres_execute(tx, sql, args));
                within(self.patience, "wait for the database", done).await
            }
        };
        let result = self.shared.timing.ran(Operation::Write, begun, result);
        self.done(result)
    }

    async fn execute_returning(
        &mut self,
        sql: &str,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, StoreError> {
        self.fetch_all(sql, args).await
    }

    async fn fetch_all(&mut self, sql: &str, args: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        self.whole()?;
        self.count();
        let begun = Instant::now();
        let result = match &mut self.inner {
            TransactionInner::Sqlite(tx) => sqlite_fetch(tx, sql, args).await,
            TransactionInner::Postgres(tx) => {
                let done = Box::pin(postgres_fetch(tx, sql, args));
                within(self.patience, "wait for the database", done).await
            }
        };
        let result = self.shared.timing.ran(Operation::Read, begun, result);
        self.done(result)
    }

    fn dialect(&self) -> Dialect {
        match self.inner {
            TransactionInner::Sqlite(_) => Dialect::Sqlite,
            TransactionInner::Postgres(_) => Dialect::Postgres,
        }
    }
}

/// The numbers by which PostgreSQL locks names, in the order in which they are taken. Two names with one number only wait
/// for each other without need.
fn lock_keys(names: &[String]) -> BTreeSet<i64> {
    let number = |name: &String| {
        let digest = digest(&SHA256, name.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest.as_ref()[..8]);
        i64::from_le_bytes(first)
    };
    names.iter().map(number).collect()
}
