//! What happened to agents.

use std::borrow::Borrow;

use muster_clock::Timestamp;
use muster_identity::CollectorId;
use muster_store::{Executor, StoreError, Value as Column, args, placeholders, statements};
use serde_json::Value;

use crate::limits::MAX_EVENTS;

/// The most events of one statement.
const MAX_BATCH_ROWS: usize = 500;

statements! {
    ADD = "INSERT INTO collectors_events (collector_id, at, kind, details) VALUES ($1, $2, $3, $4)";
    LIST = "SELECT at, kind, details FROM collectors_events WHERE collector_id = $1 ORDER BY id DESC LIMIT $2";
    /// Of an agent's events the newest stay. It reads no more than these, by the index.
    TRIM = "DELETE FROM collectors_events WHERE collector_id = $1 AND id <= (SELECT e.id FROM collectors_events e
        WHERE e.collector_id = $1 ORDER BY e.id DESC LIMIT 1 OFFSET $2)";
}

/// Something that happened to an agent.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) at: Timestamp,
    pub(crate) kind: String,
    pub(crate) details: Value,
}

/// Keeps what happened; of an agent's events the newest few.
pub(crate) async fn add(
    db: &mut impl Executor,
    id: CollectorId,
    events: &[(&str, &Value)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let events: Vec<(CollectorId, &str, &Value)> = events
        .iter()
        .map(|(kind, details)| (id, *kind, *details))
        .collect();
    if events.is_empty() {
        return Ok(());
    }
    add_all(db, &events, now).await?;
    trim(db, id).await
}

/// Forgets what is too much of an agent's events.
pub(crate) async fn trim(db: &mut impl Executor, id: CollectorId) -> Result<(), StoreError> {
    db.execute(TRIM, args![id, MAX_EVENTS]).await.map(drop)
}

/// Keeps what happened to several agents; call [`trim`] now and then.
pub(crate) async fn add_all<V: Borrow<Value>>(
    db: &mut impl Executor,
    events: &[(CollectorId, &str, V)],
    now: Timestamp,
) -> Result<(), StoreError> {
    for events in events.chunks(MAX_BATCH_ROWS) {
        let mut values: Vec<Column> = Vec::with_capacity(events.len() * 4);
        for (id, kind, details) in events {
            values.extend(args![*id, now, *kind, details.borrow().to_string()]);
        }
        let sql = ADD.replace("($1, $2, $3, $4)", &placeholders(events.len(), 4));
        db.execute(&sql, values).await?;
    }
    Ok(())
}

/// The newest events of an agent, newest first.
pub(crate) async fn list(
    db: &mut impl Executor,
    id: CollectorId,
    limit: i64,
) -> Result<Vec<Event>, StoreError> {
    let rows = db.fetch_all(LIST, args![id, limit]).await?;
    rows.iter()
        .map(|row| {
            let details: String = row.get("details")?;
            Ok(Event {
                at: row.get("at")?,
                kind: row.get("kind")?,
                details: serde_json::from_str(&details).unwrap_or(Value::Null),
            })
        })
        .collect()
}
