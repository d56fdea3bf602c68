//! Running one statement on a connection of either database.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;

use crate::row::{Inner as RowInner, Row};
use crate::{StoreError, Value};

/// Waits so long and no longer. What goes on at the other end is not known then.
pub(crate) async fn within<T>(
    patience: Option<Duration>,
    attempt: &'static str,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match patience {
        None => work.await,
        Some(patience) => tokio::time::timeout(patience, work)
            .await
            .unwrap_or_else(|_| Err(StoreError::silent(attempt, patience))),
    }
}

macro_rules! bind {
    ($sql:expr, $args:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($sql.to_owned()));
        for value in $args {
            query = match value {
                Value::Integer(value) => query.bind(value),
                Value::Real(value) => query.bind(value),
                Value::Text(value) => query.bind(value),
                Value::Bytes(value) => query.bind(value),
            };
        }
        query
    }};
}

/// Refuses what one of the databases would refuse.
fn check(args: &[Value]) -> Result<(), StoreError> {
    let has_nul =
        |value: &Value| matches!(value, Value::Text(Some(text)) if text.as_bytes().contains(&0));
    if args.iter().any(has_nul) {
        return Err(StoreError::unstorable());
    }
    Ok(())
}

pub(crate) async fn sqlite_execute(
    db: &mut SqliteConnection,
    sql: &str,
    args: Vec<Value>,
) -> Result<u64, StoreError> {
    check(&args)?;
    let done = bind!(sql, args).execute(db).await;
    Ok(done
        .map_err(|source| StoreError::driver("change rows", source))?
        .rows_affected())
}

pub(crate) async fn postgres_execute(
    db: &mut PgConnection,
    sql: &str,
    args: Vec<Value>,
) -> Result<u64, StoreError> {
    check(&args)?;
    let done = bind!(sql, args).execute(db).await;
    Ok(done
        .map_err(|source| StoreError::driver("change rows", source))?
        .rows_affected())
}

pub(crate) async fn sqlite_fetch(
    db: &mut SqliteConnection,
    sql: &str,
    args: Vec<Value>,
) -> Result<Vec<Row>, StoreError> {
    check(&args)?;
    let rows = bind!(sql, args).fetch_all(db).await;
    let rows = rows.map_err(|source| StoreError::driver("read rows", source))?;
    Ok(rows
        .into_iter()
        .map(|row| Row(RowInner::Sqlite(row)))
        .collect())
}

pub(crate) async fn postgres_fetch(
    db: &mut PgConnection,
    sql: &str,
    args: Vec<Value>,
) -> Result<Vec<Row>, StoreError> {
    check(&args)?;
    let rows = bind!(sql, args).fetch_all(db).await;
    let rows = rows.map_err(|source| StoreError::driver("read rows", source))?;
    Ok(rows
        .into_iter()
        .map(|row| Row(RowInner::Postgres(row)))
        .collect())
}
