//! Hosts by what identifies their machine.

use std::collections::HashMap;

use muster_identity::{HostId, TeamId};
use muster_store::{Executor, Row, StoreError, Value, folded_column};

use super::numbered;
use super::operator::DISPLAY_NAME;
use crate::machines::{HostSummary, MAX_ALIKE};

/// How many identifiers, names or hosts one statement names.
const AT_ONCE: usize = 1_000;

/// What was found: by which text, which host, and its team.
type Found = (String, HostId, Option<TeamId>);

fn team(row: &Row) -> Result<Option<TeamId>, StoreError> {
    Ok(row.get::<Option<i64>>("team_id")?.map(TeamId))
}

/// Hosts where `column` is one of these texts, but for texts that too many hosts of a team have.
async fn having(
    db: &mut impl Executor,
    column: &str,
    texts: &[String],
    found: &mut Vec<Found>,
) -> Result<(), StoreError> {
    for batch in texts.chunks(AT_ONCE) {
        let places = numbered(1, batch.len());
        let sql = format!(
            "SELECT f.id, f.team_id, f.known FROM (SELECT h.id, h.team_id, {column} AS known,
                COUNT(*) OVER (PARTITION BY {column}, h.team_id) AS alike
                FROM hosts_hosts h WHERE {column} IN ({places})) f
            WHERE f.alike <= {MAX_ALIKE} ORDER BY f.id"
        );
        let values = batch.iter().map(Value::from).collect();
        for row in db.fetch_all(&sql, values).await? {
            found.push((row.get("known")?, row.get("id")?, team(&row)?));
        }
    }
    Ok(())
}

/// Hosts whose hardware UUID or identifier is one of these.
pub(crate) async fn of_machines(
    db: &mut impl Executor,
    spellings: &[String],
) -> Result<Vec<Found>, StoreError> {
    let mut found = Vec::new();
    having(db, "h.hardware_uuid", spellings, &mut found).await?;
    having(db, "h.identifier", spellings, &mut found).await?;
    Ok(found)
}

/// Hosts whose host name is one of these, which are folded.
pub(crate) async fn of_names(
    db: &mut impl Executor,
    names: &[String],
) -> Result<Vec<Found>, StoreError> {
    let mut found = Vec::new();
    let column = folded_column("h.hostname", names.iter().map(String::as_str));
    having(db, &column, names, &mut found).await?;
    Ok(found)
}

/// What hosts are called and where they belong.
pub(crate) async fn summaries(
    db: &mut impl Executor,
    ids: &[HostId],
) -> Result<HashMap<HostId, HostSummary>, StoreError> {
    let mut summaries = HashMap::with_capacity(ids.len());
    for batch in ids.chunks(AT_ONCE) {
        let places = numbered(1, batch.len());
        let sql = format!(
            "SELECT h.id, h.team_id, {DISPLAY_NAME} AS display_name FROM hosts_hosts h WHERE h.id IN ({places})"
        );
        let values = batch.iter().copied().map(Value::from).collect();
        for row in db.fetch_all(&sql, values).await? {
            let summary = HostSummary {
                display_name: row.get("display_name")?,
                team_id: team(&row)?,
            };
            summaries.insert(row.get("id")?, summary);
        }
    }
    Ok(summaries)
}
