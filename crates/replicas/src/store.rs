//! Replicas and leases.

use muster_clock::Timestamp;
use muster_negotiation::{Capability, CapabilitySet, Offer};
use muster_store::{Executor, StoreError, args};
use serde::Serialize;
use utoipa::ToSchema;

muster_store::statements! {
    SEEN = "INSERT INTO replicas_replicas (id, name, release, started_at, seen_at, offer, says)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, offer = excluded.offer, says = excluded.says,
            beats = replicas_replicas.beats + 1";
    GONE = "DELETE FROM replicas_replicas WHERE id = $1";
    LOST = "UPDATE replicas_replicas SET lost_seen_at = seen_at, lost_beats = beats
        WHERE id = $1 AND seen_at = $2 AND beats = $3";
    FORGET = "DELETE FROM replicas_replicas WHERE seen_at < $1 AND lost_seen_at = seen_at AND lost_beats = beats";
    LIST = "SELECT id, name, release, started_at, seen_at, beats, offer, says, lost_seen_at, lost_beats
        FROM replicas_replicas ORDER BY started_at, id";
    LEASES = "SELECT name, holder, term, renewals, taken_at FROM replicas_leases ORDER BY name";
    CREATE = "INSERT INTO replicas_leases (name, holder, term, renewals, taken_at) VALUES ($1, $2, 1, 0, $3)
        ON CONFLICT (name) DO NOTHING";
    RENEW = "UPDATE replicas_leases SET renewals = renewals + 1 WHERE holder = $1";
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
    /// Whether it is there.
    pub state: ReplicaState,
    /// What it alone does for all: the names of the leases that it holds.
    pub leases: Vec<String>,
    /// What it can do, by the names of capabilities. Servers say to agents what all of them can do.
    pub capabilities: Vec<&'static str>,
}

/// Whether a server is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaState {
    /// It gives signs of life.
    Alive,
    /// It ended without a word: others found it silent for longer than a server waits for a slow database.
    Gone,
}

/// A server's row.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) release: String,
    pub(crate) started_at: Timestamp,
    pub(crate) seen_at: Timestamp,
    /// How often it gave a sign of life, as far as its release counts that.
    pub(crate) beats: i64,
    /// What it can do; for one that does not say so, what its release could.
    pub(crate) offer: Offer,
    /// What it says of that now; none when it is of a release that does not write it.
    pub(crate) says: Option<Offer>,
    /// Whether it says a name that this release does not know: more than this server can do, whatever it is.
    pub(crate) says_unknown: bool,
    /// Whether another server took it for gone, and it gave no sign of life since.
    pub(crate) is_lost: bool,
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

/// Says that a server is there, and what it can do and says.
pub(crate) async fn seen(db: &mut impl Executor, row: &ReplicaRow) -> Result<(), StoreError> {
    let args = args![
        &row.id,
        &row.name,
        &row.release,
        row.started_at,
        row.seen_at,
        row.offer.to_text(),
        row.says.map(Offer::to_text),
    ];
    db.execute(SEEN, args).await.map(drop)
}

/// Takes a server for gone that gave no sign of life since; gives false when it did.
pub(crate) async fn lost(db: &mut impl Executor, row: &ReplicaRow) -> Result<bool, StoreError> {
    Ok(db
        .execute(LOST, args![&row.id, row.seen_at, row.beats])
        .await?
        == 1)
}

/// Every server's row.
pub(crate) async fn rows(db: &mut impl Executor) -> Result<Vec<ReplicaRow>, StoreError> {
    let rows = db.fetch_all(LIST, args![]).await?;
    rows.iter()
        .map(|row| {
            let release: String = row.get("release")?;
            let seen_at: Timestamp = row.get("seen_at")?;
            let written: Option<String> = row.get("offer")?;
            // What cannot be read as a release is none that is known: it can do nothing.
            let offer = written.map_or_else(
                || release.parse().map_or(Offer::NOTHING, Offer::of),
                |names| Offer::from_text(&names),
            );
            let says: Option<String> = row.get("says")?;
            let beats: i64 = row.get("beats")?;
            let lost: Option<Timestamp> = row.get("lost_seen_at")?;
            let is_lost =
                lost == Some(seen_at) && row.get::<Option<i64>>("lost_beats")? == Some(beats);
            Ok(ReplicaRow {
                id: row.get("id")?,
                name: row.get("name")?,
                release,
                started_at: row.get("started_at")?,
                seen_at,
                beats,
                offer,
                says_unknown: says.as_deref().is_some_and(has_unknown_names),
                says: says.as_deref().map(Offer::from_text),
                is_lost,
            })
        })
        .collect()
}

/// Whether a later release wrote it, with names that are not in this one's registry.
fn has_unknown_names(says: &str) -> bool {
    let names = CapabilitySet::from_text(says);
    names
        .names()
        .any(|name| Capability::by_name(name).is_none())
}

pub(crate) async fn gone(db: &mut impl Executor, id: &str) -> Result<(), StoreError> {
    db.execute(GONE, args![id]).await.map(drop)
}

pub(crate) async fn forget(db: &mut impl Executor, before: Timestamp) -> Result<(), StoreError> {
    db.execute(FORGET, args![before]).await.map(drop)
}

pub(crate) async fn list(db: &mut impl Executor) -> Result<Vec<ReplicaInfo>, StoreError> {
    let leases = leases(db).await?;
    let rows = rows(db).await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let held = leases.iter().filter(|lease| lease.holder == row.id);
            ReplicaInfo {
                leases: held.map(|lease| lease.name.clone()).collect(),
                capabilities: row.offer.capabilities().map(Capability::name).collect(),
                id: row.id,
                name: row.name,
                release: row.release,
                started_at: row.started_at,
                seen_at: row.seen_at,
                state: if row.is_lost {
                    ReplicaState::Gone
                } else {
                    ReplicaState::Alive
                },
            }
        })
        .collect())
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

/// Renews all leases of a replica by one statement.
pub(crate) async fn renew(db: &mut impl Executor, holder: &str) -> Result<(), StoreError> {
    db.execute(RENEW, args![holder]).await.map(drop)
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
