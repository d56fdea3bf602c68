//! When hosts were last heard.

use muster_clock::Timestamp;
use muster_identity::HostId;
use muster_store::{Executor, StoreError, Value, statements};

/// The most hosts of one statement.
pub(crate) const MAX_BATCH_ROWS: usize = 1_000;

statements! {
    /// One host; the test of the batch's shape.
    ONE = "INSERT INTO hosts_presence (host_id, seen_at)
        SELECT v.column1, v.column2 FROM (VALUES (CAST($1 AS BIGINT), CAST($2 AS BIGINT))) v
            JOIN hosts_hosts h ON h.id = v.column1
        WHERE 1 = 1
        ON CONFLICT (host_id) DO UPDATE SET seen_at = excluded.seen_at
            WHERE hosts_presence.seen_at < excluded.seen_at OR hosts_presence.seen_at > excluded.seen_at + 3600000000";
}

/// Notes when hosts were heard, in one statement. Hosts that were deleted meanwhile are left out. A time never goes back,
/// unless by more than an hour: then a server's clock was wrong, and the host would count as online for as long. In the
/// order of ids, so that two servers never wait for each other.
pub(crate) async fn upsert(
    db: &mut impl Executor,
    seen: &[(HostId, Timestamp)],
) -> Result<(), StoreError> {
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    let mut rows = String::with_capacity(seen.len() * 24);
    let mut values = Vec::with_capacity(seen.len() * 2);
    for (number, (host, at)) in seen.iter().enumerate() {
        use std::fmt::Write as _;
        // The first row tells PostgreSQL the types of all.
        let _ = if number == 0 {
            write!(rows, "(CAST($1 AS BIGINT), CAST($2 AS BIGINT))")
        } else {
            write!(rows, ", (${}, ${})", number * 2 + 1, number * 2 + 2)
        };
        values.push(Value::from(*host));
        values.push(Value::from(*at));
    }
    let sql = ONE.replace("(CAST($1 AS BIGINT), CAST($2 AS BIGINT))", &rows);
    db.execute(&sql, values).await.map(drop)
}
