//! What happened to agents.

use std::borrow::Borrow;

use muster_clock::Timestamp;
use muster_identity::CollectorId;
use muster_store::{Executor, StoreError, Value as Column, args, placeholders, statements};
use serde_json::Value;

/// The most events of one statement.
const MAX_BATCH_ROWS: usize = 500;

statements! {
    ADD = "INSERT INTO collectors_events (collector_id, at, kind, details) VALUES ($1, $2, $3, $4)";
    LIST = "SELECT at, kind, details FROM collectors_events WHERE collector_id = $1 ORDER BY id DESC LIMIT $2";
    TRIM = "DELETE FROM collectors_events WHERE collector_id IN (SELECT e.collector_id FROM collectors_events e
        GROUP BY e.collector_id HAVING COUNT(*) > $1 + 50) AND id NOT IN (SELECT n.id FROM (SELECT i.id,
        ROW_NUMBER() OVER (PARTITION BY i.collector_id ORDER BY i.id DESC) AS place FROM collectors_events i
        WHERE i.collector_id IN (SELECT g.collector_id FROM collectors_events g GROUP BY g.collector_id
        HAVING COUNT(*) > $1 + 50)) n WHERE n.place <= $1)";
}

/// Something that happened to an agent.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) at: Timestamp,
    pub(crate) kind: String,
    pub(crate) details: Value,
}

/// Keeps what happened.
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
    add_all(db, &events, now).await
}

/// Keeps what happened to several agents.
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

/// Forgets all but the newest events of agents that have far too many.
pub(crate) async fn trim(db: &mut impl Executor, most: i64) -> Result<u64, StoreError> {
    db.execute(TRIM, args![most]).await
}
