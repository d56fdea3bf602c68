//! Taking out everything that a database holds at one moment, and putting it back: what a backup stands on.
//!
//! SQLite copies itself into a file. PostgreSQL's tables are read by `COPY` in one snapshot, and filled again by `COPY` in
//! one transaction: rows come out and go in as the server writes them, and no other program is needed on either side. The
//! schema is not copied: the migrations that the copy names make it anew.
//!
//! Not responsible for: files and their format, and which tables there are.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use sqlx::postgres::{PgConnection, PgCopyIn};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};

use crate::database::TransactionInner;
use crate::run::within;
use crate::{Address, Database, Executor as _, StoreError, Transaction, args};

/// A table of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns, in the order in which rows are copied.
    pub columns: Vec<String>,
}

/// How far a table's keys have been counted up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// The table.
    pub table: String,
    /// The column that is counted up.
    pub column: String,
    /// The last number.
    pub last: i64,
    /// Whether that number has been used.
    pub is_used: bool,
}

const TABLES: &str = "SELECT CAST(c.relname AS TEXT) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname = current_schema() ORDER BY c.relname";
const COLUMNS: &str = "SELECT CAST(a.attname AS TEXT) AS name FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema() AND c.relname = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    ORDER BY a.attnum";
const REFERENCES: &str = "SELECT CAST(f.relname AS TEXT) AS from_table, CAST(t.relname AS TEXT) AS to_table
    FROM pg_constraint k JOIN pg_class f ON f.oid = k.conrelid JOIN pg_class t ON t.oid = k.confrelid
    JOIN pg_namespace n ON n.oid = f.relnamespace WHERE k.contype = 'f' AND n.nspname = current_schema()";
const COUNTED: &str = "SELECT CAST(c.relname AS TEXT) AS table_name, CAST(a.attname AS TEXT) AS column_name,
    pg_get_serial_sequence(quote_ident(c.relname), a.attname) AS sequence
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema() AND c.relkind = 'r' AND a.attidentity <> '' ORDER BY c.relname";
const SET_COUNTER: &str = "SELECT CAST(setval(pg_get_serial_sequence(quote_ident($1), $2), $3, $4 = 1) AS BIGINT) AS value";
const SESSIONS: &str =
    "SELECT COUNT(*) AS others FROM pg_stat_activity WHERE datname = current_database()
    AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
const BEGIN: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0";

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn listed<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let mut text = String::new();
    for name in names {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{}", quoted(name));
    }
    text
}

impl Database {
    /// Has SQLite write all that the database holds at this moment into a new file, beside whoever writes meanwhile.
    pub async fn copy_into(&self, path: &Path) -> Result<(), StoreError> {
        let Some(path) = path.to_str() else {
            return Err(StoreError::corrupt(
                "copy the database",
                "the path is no text",
            ));
        };
        let mut db = self;
        db.fetch_all("VACUUM INTO $1", args![path]).await.map(drop)
    }
}

/// What PostgreSQL holds at one moment. Whoever writes meanwhile is not held up.
pub struct Snapshot {
    connection: PgConnection,
    tables: Vec<Table>,
}

impl Snapshot {
    /// Takes a snapshot of the tables whose names begin with one of these. They come in an order in which each one only
    /// refers to earlier ones.
    pub async fn begin(
        address: &Address,
        prefixes: &[String],
        patience: Duration,
    ) -> Result<Self, StoreError> {
        let attempt = "begin a snapshot";
        let Address::Postgres(options) = address else {
            return Err(StoreError::corrupt(
                attempt,
                "the database is not PostgreSQL",
            ));
        };
        let connect = async {
            let connected = PgConnection::connect_with(options).await;
            connected.map_err(|source| StoreError::away("connect to the database", source))
        };
        let mut connection = within(Some(patience), "connect to the database", connect).await?;
        let failed = |source| StoreError::driver(attempt, source);
        connection
            .execute(sqlx::raw_sql(BEGIN))
            .await
            .map_err(failed)?;
        let mut names = texts(&mut connection, TABLES, None).await?;
        names.retain(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        if !names.is_empty() {
            // Nobody may change a table's shape before it was read.
            let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", listed(&names));
            let lock = sqlx::raw_sql(AssertSqlSafe(lock));
            connection.execute(lock).await.map_err(failed)?;
        }
        let rows = sqlx::query(REFERENCES).fetch_all(&mut connection).await;
        let references: Vec<(String, String)> = rows
            .map_err(failed)?
            .iter()
            .map(|row| (row.get("from_table"), row.get("to_table")))
            .collect();
        let mut tables = Vec::with_capacity(names.len());
        for name in in_order(names, &references) {
            let columns = texts(&mut connection, COLUMNS, Some(&name)).await?;
            tables.push(Table { name, columns });
        }
        Ok(Self { connection, tables })
    }

    /// The tables.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The rows of one of them, as PostgreSQL writes them.
    pub async fn rows(&mut self, table: &Table) -> Result<Rows<'_>, StoreError> {
        let (name, columns) = (quoted(&table.name), listed(&table.columns));
        let sql = format!("COPY {name} ({columns}) TO STDOUT");
        let stream = self.connection.copy_out_raw(&sql).await;
        stream
            .map(|stream| {
                Rows(
                    stream
                        .map(|piece| piece.map(|bytes| bytes.to_vec()))
                        .boxed(),
                )
            })
            .map_err(|source| StoreError::driver("read a table", source))
    }

    /// How far keys have been counted up. Ask last: these move on in a snapshot, too, and must not be behind the rows.
    pub async fn counters(&mut self) -> Result<Vec<Counter>, StoreError> {
        let failed = |source| StoreError::driver("read how far keys are counted", source);
        let rows = sqlx::query(COUNTED)
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        let mut counters = Vec::new();
        for row in rows {
            let table: String = row.get("table_name");
            if !self.tables.iter().any(|known| known.name == table) {
                continue;
            }
            // As PostgreSQL spelled it, in quotes where it needs them.
            let sequence: String = row.get("sequence");
            let sql = format!("SELECT last_value, is_called FROM {sequence}");
            let state = sqlx::query(AssertSqlSafe(sql))
                .fetch_one(&mut self.connection)
                .await
                .map_err(failed)?;
            counters.push(Counter {
                table,
                column: row.get("column_name"),
                last: state.get("last_value"),
                is_used: state.get("is_called"),
            });
        }
        Ok(counters)
    }

    /// Lets go of it.
    pub async fn end(self) {
        // Nothing was changed, so that nothing is lost when this fails.
        let _ = self.connection.close().await;
    }
}

async fn texts(
    connection: &mut PgConnection,
    sql: &'static str,
    argument: Option<&str>,
) -> Result<Vec<String>, StoreError> {
    let mut query = sqlx::query(sql);
    if let Some(argument) = argument {
        query = query.bind(argument.to_owned());
    }
    let rows = query.fetch_all(connection).await;
    let rows = rows.map_err(|source| StoreError::driver("read the tables' shapes", source))?;
    Ok(rows.iter().map(|row| row.get("name")).collect())
}

/// The names in an order in which each one refers only to earlier ones. What refers to each other in a circle comes last.
fn in_order(names: Vec<String>, references: &[(String, String)]) -> Vec<String> {
    let mut left: Vec<String> = names;
    let mut ordered: Vec<String> = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let waiting: BTreeSet<&String> = left.iter().collect();
        let is_free = |name: &String| {
            let mut targets = references
                .iter()
                .filter(|(from, to)| from == name && to != name);
            !targets.any(|(_, to)| waiting.contains(to))
        };
        let (mut free, rest): (Vec<String>, Vec<String>) = left.iter().cloned().partition(is_free);
        let is_circle = free.is_empty();
        ordered.append(&mut free);
        if is_circle {
            ordered.extend(rest);
            break;
        }
        left = rest;
    }
    ordered
}

/// The rows of a table as they come.
pub struct Rows<'a>(BoxStream<'a, Result<Vec<u8>, sqlx::Error>>);

impl Rows<'_> {
    /// The next piece; none when it was the last.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let piece = self.0.next().await.transpose();
        piece.map_err(|source| StoreError::driver("read a table", source))
    }
}

/// Fills PostgreSQL in one transaction: all of it, or nothing.
pub struct Filling(Transaction);

impl Filling {
    /// Begins.
    pub async fn begin(database: &Database) -> Result<Self, StoreError> {
        let mut transaction = database.begin().await?;
        transaction.without_limits().await?;
        Ok(Self(transaction))
    }

    /// For making the schema.
    pub(crate) fn transaction(&mut self) -> &mut Transaction {
        &mut self.0
    }

    /// The tables there are whose names begin with one of these.
    pub async fn tables(&mut self, prefixes: &[String]) -> Result<Vec<String>, StoreError> {
        let rows = self.0.fetch_all(TABLES, args![]).await?;
        let names: Result<Vec<String>, _> = rows.iter().map(|row| row.get("name")).collect();
        let is_ours = |name: &String| prefixes.iter().any(|prefix| name.starts_with(prefix));
        Ok(names?.into_iter().filter(is_ours).collect())
    }

    /// How many others are connected to the database.
    pub async fn others(&mut self) -> Result<i64, StoreError> {
        self.0.fetch_one(SESSIONS, args![]).await?.get("others")
    }

    /// Takes tables away, with all that is in them.
    pub async fn drop_tables(&mut self, names: &[String]) -> Result<(), StoreError> {
        if names.is_empty() {
            return Ok(());
        }
        let sql = format!("DROP TABLE {} CASCADE", listed(names));
        self.0.execute(&sql, args![]).await.map(drop)
    }

    /// Empties tables.
    pub async fn empty(&mut self, names: &[String]) -> Result<(), StoreError> {
        if names.is_empty() {
            return Ok(());
        }
        let sql = format!("TRUNCATE {}", listed(names));
        self.0.execute(&sql, args![]).await.map(drop)
    }

    /// Begins to fill a table.
    pub async fn fill(&mut self, table: &Table) -> Result<Fill<'_>, StoreError> {
        let attempt = "fill a table";
        let TransactionInner::Postgres(connection) = self.0.inner() else {
            return Err(StoreError::corrupt(
                attempt,
                "the database is not PostgreSQL",
            ));
        };
        let (name, columns) = (quoted(&table.name), listed(&table.columns));
        let sql = format!("COPY {name} ({columns}) FROM STDIN");
        let copy = connection.copy_in_raw(&sql).await;
        copy.map(Fill)
            .map_err(|source| StoreError::driver(attempt, source))
    }

    /// Lets keys be counted on from where they were.
    pub async fn count_on(&mut self, counter: &Counter) -> Result<(), StoreError> {
        let arguments = args![
            &counter.table,
            &counter.column,
            counter.last,
            counter.is_used
        ];
        self.0.fetch_all(SET_COUNTER, arguments).await.map(drop)
    }

    /// Keeps it.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.0.commit().await
    }
}

/// A table that is being filled. Unless it is finished, nothing of the transaction is kept.
pub struct Fill<'a>(PgCopyIn<&'a mut PgConnection>);

impl Fill<'_> {
    /// More rows, as [`Rows`] gave them; a piece may end anywhere.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let sent = self.0.send(piece).await.map(drop);
        sent.map_err(|source| StoreError::driver("fill a table", source))
    }

    /// That was all; gives how many rows there are.
    pub async fn finish(self) -> Result<u64, StoreError> {
        let finished = self.0.finish().await;
        finished.map_err(|source| StoreError::driver("fill a table", source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_come_after_those_that_they_refer_to() {
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let references = [pair("a", "c"), pair("c", "b"), pair("b", "b")];
        assert_eq!(in_order(names.clone(), &references), ["b", "c", "a"]);
        let circle = [pair("a", "b"), pair("b", "a")];
        assert_eq!(in_order(names, &circle), ["c", "a", "b"]);
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
