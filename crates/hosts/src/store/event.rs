//! The timeline of a host.

use muster_clock::Timestamp;
use muster_identity::HostId;
use muster_store::{Executor, StoreError, args, statements};
use serde_json::Value;

use crate::record::HostEvent;

/// How many events are kept per host; older ones go.
pub(crate) const MAX_EVENTS_PER_HOST: i64 = 200;

statements! {
    /// The newest events of a host.
    LIST = "SELECT at, kind, details FROM hosts_events WHERE host_id = $1 ORDER BY id DESC LIMIT $2";
    /// Something happened.
    ADD = "INSERT INTO hosts_events (host_id, at, kind, details)
        SELECT h.id, CAST($2 AS BIGINT), $3, $4 FROM hosts_hosts h WHERE h.id = $1";
    /// Old events go.
    PRUNE = "DELETE FROM hosts_events WHERE host_id = $1 AND id <= (SELECT e.id FROM hosts_events e
        WHERE e.host_id = $1 ORDER BY e.id DESC LIMIT 1 OFFSET $2)";
}

/// The newest events of a host, newest first.
pub(crate) async fn list(
    db: &mut impl Executor,
    host: HostId,
    limit: u32,
) -> Result<Vec<HostEvent>, StoreError> {
    let rows = db.fetch_all(LIST, args![host, limit]).await?;
    rows.iter()
        .map(|row| {
            let details: String = row.get("details")?;
            Ok(HostEvent {
                at: row.get("at")?,
                kind: row.get("kind")?,
                details: serde_json::from_str(&details).unwrap_or(Value::Null),
            })
        })
        .collect()
}

/// Adds an event and lets the oldest go.
pub(crate) async fn add(
    db: &mut impl Executor,
    host: HostId,
    kind: &str,
    details: &Value,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(ADD, args![host, now, kind, details.to_string()])
        .await?;
    db.execute(PRUNE, args![host, MAX_EVENTS_PER_HOST])
        .await
        .map(drop)
}
