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

/// A statement with more parameters than this is a batch: its text differs with its length, so that keeping it prepared
/// would only push out those that are used all the time.
const MAX_KEPT_PARAMETERS: usize = 64;

/// The text of a batch with unnamed parameters, when they stand in order and once each. SQLite looks up the names of
/// parameters one after the other, and does so for each: that is quadratic.
fn unnamed(sql: &str, count: usize) -> Option<String> {
    if count <= MAX_KEPT_PARAMETERS || sql.contains(['?', '"']) {
        return None;
    }
    let mut text = String::with_capacity(sql.len());
    let mut expected = 1;
    // What stands between apostrophes is text, and stays as it is.
    for (part, is_text) in sql.split('\'').zip([false, true].into_iter().cycle()) {
        if is_text {
            text.push('\'');
            text.push_str(part);
            text.push('\'');
            continue;
        }
        let mut rest = part;
        while let Some((before, after)) = rest.split_once('$') {
            let digits = after
                .find(|character: char| !character.is_ascii_digit())
                .unwrap_or(after.len());
            if after[..digits].parse() != Ok(expected) {
                return None;
            }
            expected += 1;
            text.push_str(before);
            text.push('?');
            rest = &after[digits..];
        }
        text.push_str(rest);
    }
    (expected == count + 1).then_some(text)
}

macro_rules! bind {
    ($sql:expr, $args:expr) => {{
        let is_batch = $args.len() > MAX_KEPT_PARAMETERS;
        let mut query = sqlx::query(AssertSqlSafe($sql.to_owned())).persistent(!is_batch);
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
    let unnamed = unnamed(sql, args.len());
    let sql = unnamed.as_deref().unwrap_or(sql);
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
    let unnamed = unnamed(sql, args.len());
    let sql = unnamed.as_deref().unwrap_or(sql);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_of_a_batch_lose_their_names_when_they_stand_in_order() {
        let count = MAX_KEPT_PARAMETERS + 2;
        let batch = format!(
            "INSERT INTO pets VALUES {}",
            crate::placeholders(count / 2, 2)
        );
        let text = unnamed(&batch, count).unwrap();
        assert!(text.starts_with("INSERT INTO pets VALUES (?, ?), (?, ?)"));
        assert_eq!(
            (text.matches('?').count(), text.contains('$')),
            (count, false)
        );
        let quoted = format!("{batch} ON CONFLICT DO UPDATE SET a = 'it''s $1' WHERE b = ''");
        let text = unnamed(&quoted, count).unwrap();
        assert!(text.ends_with("(?, ?) ON CONFLICT DO UPDATE SET a = 'it''s $1' WHERE b = ''"));
        let again = format!("{batch} WHERE a = $1");
        for (text, count) in [
            (again.as_str(), count),
            ("SELECT $1", 1),
            (&batch, count + 1),
        ] {
            assert_eq!(unnamed(text, count), None, "{text}");
        }
    }
}
