//! Lists of collectors' keys.

use muster_clock::Timestamp;
use muster_http::Listing;
use muster_store::{Executor, Row, StoreError, Value, args};

use super::{Dates, token};
use crate::collector_keys::KeyState;
use crate::{AgentKeyId, CollectorId, CollectorKeyFilter, CollectorKeyInfo, TeamFilter, TeamId};

muster_store::statements! {
    FIND_INFO = "SELECT id, name, collector_id, collector_token_id, team_id, generation, is_made_in_advance, created_at,
        offered_at, expires_at, first_used_at, used_at, superseded_at, ends_at, revoked_at, due_at
        FROM identity_agent_keys WHERE id = $1 AND family = 'opamp' AND host_id = 0";
    OF_COLLECTOR = "SELECT id, name, collector_id, collector_token_id, team_id, generation, is_made_in_advance, created_at,
        offered_at, expires_at, first_used_at, used_at, superseded_at, ends_at, revoked_at, due_at
        FROM identity_agent_keys WHERE collector_id = $1 ORDER BY id DESC LIMIT 100";
}

const COLUMNS: &str = "id, name, collector_id, collector_token_id, team_id, generation, is_made_in_advance, created_at,
    offered_at, expires_at, first_used_at, used_at, superseded_at, ends_at, revoked_at, due_at";

fn info(row: &Row, now: Timestamp) -> Result<CollectorKeyInfo, StoreError> {
    let dates = Dates::of(row)?;
    Ok(CollectorKeyInfo {
        id: row.get("id")?,
        name: row.get("name")?,
        collector_id: row.get::<Option<i64>>("collector_id")?.map(CollectorId),
        team_id: row.get::<Option<i64>>("team_id")?.map(TeamId),
        state: dates.state(now),
        generation: row.get("generation")?,
        is_made_in_advance: row.get::<i64>("is_made_in_advance")? != 0,
        enrollment_token_id: token(row)?,
        created_at: row.get("created_at")?,
        offered_at: row.get("offered_at")?,
        expires_at: dates.expires_at.filter(|_| dates.first_used_at.is_none()),
        first_used_at: dates.first_used_at,
        used_at: row.get("used_at")?,
        superseded_at: dates.superseded_at,
        ends_at: dates.ends_at,
        revoked_at: dates.revoked_at,
        rotation_due_at: dates.due_at,
    })
}

/// One key.
pub(crate) async fn find(
    db: &mut impl Executor,
    id: AgentKeyId,
    now: Timestamp,
) -> Result<Option<CollectorKeyInfo>, StoreError> {
    let row = db.fetch_optional(FIND_INFO, args![id]).await?;
    row.as_ref().map(|row| info(row, now)).transpose()
}

/// The keys of a collector, newest first.
pub(crate) async fn of_collector(
    db: &mut impl Executor,
    collector: CollectorId,
    now: Timestamp,
) -> Result<Vec<CollectorKeyInfo>, StoreError> {
    let rows = db.fetch_all(OF_COLLECTOR, args![collector]).await?;
    rows.iter().map(|row| info(row, now)).collect()
}

/// What holds of keys in a state, `$1` being now.
fn condition(state: KeyState) -> &'static str {
    match state {
        KeyState::Pending => {
            "revoked_at IS NULL AND superseded_at IS NULL AND first_used_at IS NULL
            AND (expires_at IS NULL OR expires_at > $1)"
        }
        KeyState::Active => {
            "revoked_at IS NULL AND superseded_at IS NULL AND first_used_at IS NOT NULL"
        }
        KeyState::Superseded => {
            "revoked_at IS NULL AND superseded_at IS NOT NULL AND ends_at > $1"
        }
        KeyState::Ended => {
            "revoked_at IS NULL AND (ends_at <= $1 OR (superseded_at IS NULL AND first_used_at IS NULL
            AND expires_at <= $1))"
        }
        KeyState::Revoked => "revoked_at IS NOT NULL",
    }
}

/// A page of keys by id, and how many there are.
pub(crate) async fn page(
    db: &mut impl Executor,
    listing: &Listing,
    filter: &CollectorKeyFilter,
    visible: &TeamFilter,
    now: Timestamp,
) -> Result<(Vec<CollectorKeyInfo>, u64), StoreError> {
    // `$1` is named always, so that both databases know its type.
    let mut conditions =
        vec!["family = 'opamp' AND host_id = 0 AND CAST($1 AS BIGINT) IS NOT NULL".to_owned()];
    let mut args: Vec<Value> = args![now];
    if let Some(state) = filter.state {
        conditions.push(condition(state).to_owned());
    }
    if let Some(collector) = filter.collector_id {
        args.push(collector.into());
        conditions.push(format!("collector_id = ${}", args.len()));
    }
    if let Some(is_made_in_advance) = filter.is_made_in_advance {
        args.push(is_made_in_advance.into());
        conditions.push(format!("is_made_in_advance = ${}", args.len()));
    }
    if let TeamFilter::Only(teams) = visible {
        let mut places = Vec::new();
        for team in teams {
            args.push((*team).into());
            places.push(format!("${}", args.len()));
        }
        conditions.push(if places.is_empty() {
            "1 = 0".to_owned()
        } else {
            format!("team_id IN ({})", places.join(", "))
        });
    }
    if let Some(pattern) = listing.search_pattern() {
        args.push(pattern.as_str().into());
        let column = muster_store::folded_column("name", [pattern.as_str()]);
        conditions.push(format!("{column} LIKE ${} ESCAPE '\\'", args.len()));
    }
    let conditions = conditions.join(" AND ");
    let count = format!("SELECT COUNT(*) AS total FROM identity_agent_keys WHERE {conditions}");
    let total: i64 = db.fetch_one(&count, args.clone()).await?.get("total")?;
    let sql = format!(
        "SELECT {COLUMNS} FROM identity_agent_keys WHERE {conditions} ORDER BY id {} LIMIT ${} OFFSET ${}",
        listing.direction.sql(),
        args.len() + 1,
        args.len() + 2,
    );
    args.extend(args![
        i64::from(listing.limit),
        i64::try_from(listing.offset).unwrap_or(i64::MAX)
    ]);
    let rows = db.fetch_all(&sql, args).await?;
    let items = rows.iter().map(|row| info(row, now));
    let items = items.collect::<Result<_, StoreError>>()?;
    Ok((items, u64::try_from(total).unwrap_or(0)))
}
