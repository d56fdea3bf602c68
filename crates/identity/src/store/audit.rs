//! The log of changes.

use muster_clock::Timestamp;
use muster_http::Listing;
use muster_store::{Executor, Row, StoreError, Value, args};

use crate::{Actor, AuditEntry, AuditFilter, AuditRecord, UserId};

muster_store::statements! {
    INSERT = "INSERT INTO identity_audit (at, actor_kind, actor_id, actor_name, actor_email, address, action,
        subject_kind, subject_id, before_json, after_json) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    COUNT_SINCE = "SELECT COUNT(*) AS total FROM identity_audit
        WHERE subject_kind = $1 AND subject_id = $2 AND action = $3 AND at > $4";
    FORGET = "DELETE FROM identity_audit WHERE id IN (SELECT a.id FROM identity_audit a
        WHERE a.action = $1 AND a.at <= $2 ORDER BY a.at LIMIT 5000)";
    EXPIRE = "DELETE FROM identity_audit WHERE id IN (SELECT o.id FROM
        (SELECT a.id, a.at FROM identity_audit a ORDER BY a.id LIMIT $2) o WHERE o.at <= $1)";
}

const COLUMNS: &str =
    "id, at, actor_kind, actor_id, actor_name, actor_email, address, action, subject_kind,
    subject_id, before_json, after_json";

pub(crate) async fn insert(
    db: &mut impl Executor,
    actor: &Actor,
    entry: AuditEntry,
    now: Timestamp,
) -> Result<(), StoreError> {
    let args = args![
        now,
        actor.kind,
        actor.user_id.map(|id| id.0),
        &actor.name,
        &actor.email,
        &actor.address,
        entry.action,
        entry.subject_kind,
        entry.subject_id,
        entry.before.map(|value| value.to_string()),
        entry.after.map(|value| value.to_string()),
    ];
    db.execute(INSERT, args).await.map(drop)
}

/// How many entries of the same action on the same subject were kept since a time.
pub(crate) async fn count_since(
    db: &mut impl Executor,
    entry: &AuditEntry,
    since: Timestamp,
) -> Result<i64, StoreError> {
    let args = args![entry.subject_kind, &entry.subject_id, entry.action, since];
    db.fetch_one(COUNT_SINCE, args).await?.get("total")
}

/// Forgets the oldest of an action; a batch of them at most.
pub(crate) async fn forget(
    db: &mut impl Executor,
    action: &str,
    before: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(FORGET, args![action, before]).await
}

/// Deletes what is old among the first `batch` entries, since there is no index of times; gives how many.
pub(crate) async fn expire(
    db: &mut impl Executor,
    before: Timestamp,
    batch: u32,
) -> Result<u64, StoreError> {
    db.execute(EXPIRE, args![before, i64::from(batch)]).await
}

pub(crate) async fn list(
    db: &mut impl Executor,
    listing: &Listing,
    filter: &AuditFilter,
) -> Result<(Vec<AuditRecord>, u64), StoreError> {
    let mut conditions = vec!["1 = 1".to_owned()];
    let mut args: Vec<Value> = Vec::new();
    let mut equal = |column: &str, value: Option<Value>| {
        if let Some(value) = value {
            args.push(value);
            conditions.push(format!("{column} = ${}", args.len()));
        }
    };
    equal("action", filter.action.as_deref().map(Value::from));
    equal(
        "subject_kind",
        filter.subject_kind.as_deref().map(Value::from),
    );
    equal("subject_id", filter.subject_id.as_deref().map(Value::from));
    equal("actor_id", filter.actor_id.map(Value::from));
    if let Some(pattern) = listing.search_pattern() {
        args.push(pattern.as_str().into());
        let place = args.len();
        let columns = [
            "actor_name",
            "actor_email",
            "action",
            "subject_id",
            "COALESCE(after_json, '')",
        ];
        let like = columns.map(|column| {
            let column = muster_store::folded_column(column, [pattern.as_str()]);
            format!("{column} LIKE ${place} ESCAPE '\\'")
        });
        conditions.push(format!("({})", like.join(" OR ")));
    }
    let conditions = conditions.join(" AND ");
    let count = format!("SELECT COUNT(*) AS total FROM identity_audit WHERE {conditions}");
    let total: i64 = db.fetch_one(&count, args.clone()).await?.get("total")?;
    let rows = format!(
        "SELECT {COLUMNS} FROM identity_audit WHERE {conditions} ORDER BY id {} LIMIT ${} OFFSET ${}",
        listing.direction.sql(),
        args.len() + 1,
        args.len() + 2,
    );
    args.extend(args![
        i64::from(listing.limit),
        i64::try_from(listing.offset).unwrap_or(i64::MAX)
    ]);
    let rows = db.fetch_all(&rows, args).await?;
    Ok((
        rows.iter().map(record).collect::<Result<_, _>>()?,
        u64::try_from(total).unwrap_or(0),
    ))
}

fn record(row: &Row) -> Result<AuditRecord, StoreError> {
    let json = |column: &str| -> Result<Option<serde_json::Value>, StoreError> {
        let text: Option<String> = row.get(column)?;
        // What cannot be read any more is shown as the text that it is.
        Ok(text.map(|text| serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text))))
    };
    Ok(AuditRecord {
        id: row.get("id")?,
        at: row.get("at")?,
        actor_kind: row.get("actor_kind")?,
        actor_id: row.get::<Option<i64>>("actor_id")?.map(UserId),
        actor_name: row.get("actor_name")?,
        actor_email: row.get("actor_email")?,
        address: row.get("address")?,
        action: row.get("action")?,
        subject_kind: row.get("subject_kind")?,
        subject_id: row.get("subject_id")?,
        before: json("before_json")?,
        after: json("after_json")?,
    })
}
