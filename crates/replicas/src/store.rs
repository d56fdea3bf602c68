//! Replicas and leases.

use muster_clock::Timestamp;
use muster_store::{Executor, StoreError, args};
use serde::Serialize;
use utoipa::ToSchema;

muster_store::statements! {
    SEEN = "INSERT INTO replicas_replicas (id, name, release, started_at, seen_at) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at";
    GONE = "DELETE FROM replicas_replicas WHERE id = $1";
    FORGET = "DELETE FROM replicas_replicas WHERE seen_at < $1";
    LIST = "SELECT id, name, release, started_at, seen_at FROM replicas_replicas ORDER BY started_at, id";
    LEASES = "SELECT name, holder, term, renewals, taken_at FROM replicas_leases ORDER BY name";
    CREATE = "INSERT INTO replicas_leases (name, holder, term, renewals, taken_at) VALUES ($1, $2, 1, 0, $3)
        ON CONFLICT (name) DO NOTHING";
    RENEW = "UPDATE replicas_leases SET renewals = renewals + 1 WHERE name = $1 AND holder = $2 AND term = $3";
    TAKE = "UPDATE replicas_leases SET holder = $2, term = term + 1, renewals = 0, taken_at = $3
        WHERE name = $1 AND holder = $4 AND term = $5 AND renewals = $6";
    RELEASE = "UPDATE replicas_leases SET holder = '' WHERE holder = $1";
}

/// A server that shares the database, as it last said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReplicaInfo {
    /// Made anew at each start.
    pub id: String,
    /// The name of its machine and the port it listens on.
    pub name: String,
    /// The release that it runs.
    pub release: String,
    /// When it started, by its own clock.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it last said that it is there, by its own clock.
    #[schema(value_type = String, format = DateTime)]
    pub seen_at: Timestamp,
    /// What it alone does for all: the names of the leases that it holds.
    pub leases: Vec<String>,
}

/// A lease as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub(crate) name: String,
    /// The replica that holds it; empty when it is free.
    pub(crate) holder: String,
    pub(crate) term: i64,
    pub(crate) renewals: i64,
}

pub(crate) async fn seen(
    db: &mut impl Executor,
    id: &str,
    about: (&str, &str),
    started_at: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(SEEN, args![id, about.0, about.1, started_at, now])
        .await
        .map(drop)
}

pub(crate) async fn gone(db: &mut impl Executor, id: &str) -> Result<(), StoreError> {
    db.execute(GONE, args![id]).await.map(drop)
}

pub(crate) async fn forget(db: &mut impl Executor, before: Timestamp) -> Result<(), StoreError> {
    db.execute(FORGET, args![before]).await.map(drop)
}

pub(crate) async fn list(db: &mut impl Executor) -> Result<Vec<ReplicaInfo>, StoreError> {
    let leases = leases(db).await?;
    let rows = db.fetch_all(LIST, args![]).await?;
    rows.iter()
        .map(|row| {
            let id: String = row.get("id")?;
            let held = leases.iter().filter(|lease| lease.holder == id);
            Ok(ReplicaInfo {
                name: row.get("name")?,
                release: row.get("release")?,
                started_at: row.get("started_at")?,
                seen_at: row.get("seen_at")?,
                leases: held.map(|lease| lease.name.clone()).collect(),
                id,
            })
        })
        .collect()
}

pub(crate) async fn leases(db: &mut impl Executor) -> Result<Vec<LeaseRow>, StoreError> {
    let rows = db.fetch_all(LEASES, args![]).await?;
    rows.iter()
        .map(|row| {
            Ok(LeaseRow {
                name: row.get("name")?,
                holder: row.get("holder")?,
                term: row.get("term")?,
                renewals: row.get("renewals")?,
            })
        })
        .collect()
}

/// Makes a lease that nobody had yet; gives false when somebody was first.
pub(crate) async fn create(
    db: &mut impl Executor,
    name: &str,
    holder: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(db.execute(CREATE, args![name, holder, now]).await? == 1)
}

/// Renews a lease; gives false when it went to somebody else.
pub(crate) async fn renew(
    db: &mut impl Executor,
    name: &str,
    holder: &str,
    term: i64,
) -> Result<bool, StoreError> {
    Ok(db.execute(RENEW, args![name, holder, term]).await? == 1)
}

/// Takes a lease that is as it was seen; gives false when it changed meanwhile.
pub(crate) async fn take(
    db: &mut impl Executor,
    seen: &LeaseRow,
    holder: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let args = args![
        &seen.name,
        holder,
        now,
        &seen.holder,
        seen.term,
        seen.renewals
    ];
    Ok(db.execute(TAKE, args).await? == 1)
}

/// Gives up all leases of a replica.
pub(crate) async fn release(db: &mut impl Executor, holder: &str) -> Result<(), StoreError> {
    db.execute(RELEASE, args![holder]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use muster_store::Schema;
    use muster_store::testing::{on_both_databases, prepare_all};

    on_both_databases! {
        async fn every_statement_is_prepared(db: TestDatabase) {
            db.migrate(&Schema::default().with("replicas", crate::MIGRATIONS)).await;
            prepare_all(&db, crate::store::ALL).await;
        }
    }
}
