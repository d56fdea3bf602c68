//! Assignments.

use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::{Listing, OrderDirection, error_chain};
use muster_identity::TeamFilter;
use muster_store::{Executor, Row, StoreError, Value, args, folded_column, statements};

use super::{integers, no_id, numbered, team_key, team_of};
use crate::configurations::model::{Assignment, AutoRollback};
use crate::configurations::precedence::Claim;
use crate::configurations::selector::Selector;

statements! {
    INSERT = "INSERT INTO collectors_config_assignments (config_id, team_key, selector, priority, version, previous_version,
        follows_newest, is_paused, soak_seconds, auto_rollback, failures_until_rollback, rolled_back_at,
        rolled_back_reason, updated_at, created_at, revision)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 1) RETURNING id";
    UPDATE = "UPDATE collectors_config_assignments SET config_id = $1, team_key = $2, selector = $3, priority = $4,
        version = $5, previous_version = $6, follows_newest = $7, is_paused = $8, soak_seconds = $9, auto_rollback = $10,
        failures_until_rollback = $11, rolled_back_at = $12, rolled_back_reason = $13, updated_at = $14,
        revision = revision + 1 WHERE id = $15";
    FIND = "SELECT id, config_id, team_key, selector, priority, version, previous_version, follows_newest, is_paused,
        soak_seconds, auto_rollback, failures_until_rollback, rolled_back_at, rolled_back_reason, created_at, updated_at
        FROM collectors_config_assignments WHERE id = $1";
    LIST = "SELECT id, config_id, team_key, selector, priority, version, previous_version, follows_newest, is_paused,
        soak_seconds, auto_rollback, failures_until_rollback, rolled_back_at, rolled_back_reason, created_at, updated_at
        FROM collectors_config_assignments ORDER BY priority DESC, id DESC";
    OF_CONFIGURATION = "SELECT id, config_id, team_key, selector, priority, version, previous_version, follows_newest,
        is_paused, soak_seconds, auto_rollback, failures_until_rollback, rolled_back_at, rolled_back_reason, created_at,
        updated_at FROM collectors_config_assignments WHERE config_id = $1 ORDER BY priority DESC, id DESC";
    MARK = "SELECT COUNT(*) AS total, COALESCE(MAX(id), 0) AS newest, CAST(COALESCE(SUM(revision), 0) AS BIGINT) AS changes
        FROM collectors_config_assignments";
    DELETE = "DELETE FROM collectors_config_assignments WHERE id = $1";
}

fn assignment(row: &Row) -> Result<Assignment, StoreError> {
    let selector: String = row.get("selector")?;
    let selector = Selector::read(&selector)
        .map_err(|error| StoreError::corrupt("read an assignment", error.to_string()))?;
    let rolled_back_at: Option<Timestamp> = row.get("rolled_back_at")?;
    let reason: String = row.get("rolled_back_reason")?;
    let soak = u64::try_from(row.get::<i64>("soak_seconds")?).unwrap_or(0);
    Ok(Assignment {
        claim: Claim {
            id: row.get("id")?,
            team_id: team_of(row.get("team_key")?),
            priority: row.get("priority")?,
            selector,
        },
        configuration_id: row.get("config_id")?,
        version: row.get("version")?,
        previous_version: row.get("previous_version")?,
        follows_newest: row.get("follows_newest")?,
        is_paused: row.get("is_paused")?,
        soak: Duration::from_secs(soak),
        auto_rollback: AutoRollback::from_text(&row.get::<String>("auto_rollback")?),
        failures_until_rollback: u32::try_from(row.get::<i64>("failures_until_rollback")?)
            .unwrap_or(1),
        rolled_back: rolled_back_at.map(|at| (at, reason)),
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

fn values(assignment: &Assignment) -> Vec<Value> {
    let (rolled_back_at, reason) = assignment.rolled_back.clone().unzip();
    args![
        assignment.configuration_id,
        team_key(assignment.claim.team_id),
        assignment.claim.selector.to_string(),
        assignment.claim.priority,
        assignment.version,
        assignment.previous_version,
        assignment.follows_newest,
        assignment.is_paused,
        i64::try_from(assignment.soak.as_secs()).unwrap_or(i64::MAX),
        assignment.auto_rollback.name(),
        assignment.failures_until_rollback,
        rolled_back_at,
        reason.unwrap_or_default(),
        assignment.updated_at,
    ]
}

/// Keeps a new assignment; gives its id.
pub(crate) async fn insert(db: &mut impl Executor, new: &Assignment) -> Result<i64, StoreError> {
    let mut values = values(new);
    values.push(new.created_at.into());
    let rows = db.execute_returning(INSERT, values).await?;
    rows.first()
        .ok_or_else(|| no_id("keep an assignment"))?
        .get("id")
}

pub(crate) async fn update(db: &mut impl Executor, changed: &Assignment) -> Result<(), StoreError> {
    let mut values = values(changed);
    values.push(changed.claim.id.into());
    db.execute(UPDATE, values).await.map(drop)
}

pub(crate) async fn find(
    db: &mut impl Executor,
    id: i64,
) -> Result<Option<Assignment>, StoreError> {
    let row = db.fetch_optional(FIND, args![id]).await?;
    row.as_ref().map(assignment).transpose()
}

/// All assignments, those that count most first. One that cannot be read is left out, so that the others go on.
pub(crate) async fn list(db: &mut impl Executor) -> Result<Vec<Assignment>, StoreError> {
    let rows = db.fetch_all(LIST, args![]).await?;
    readable(&rows)
}

fn readable(rows: &[Row]) -> Result<Vec<Assignment>, StoreError> {
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        match assignment(row) {
            Ok(assignment) => all.push(assignment),
            Err(error) => {
                let id: i64 = row.get("id")?;
                tracing::error!(
                    assignment = id,
                    error = error_chain(&error),
                    "an assignment of a configuration cannot be read and is left out; delete it, and make it anew"
                );
            }
        }
    }
    Ok(all)
}

/// What is another after every change of any assignment, and costs little to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    total: i64,
    /// Ids are never used twice.
    newest: i64,
    changes: i64,
}

/// The mark of all assignments as they are now.
pub(crate) async fn mark(db: &mut impl Executor) -> Result<Mark, StoreError> {
    let row = db.fetch_one(MARK, args![]).await?;
    Ok(Mark {
        total: row.get("total")?,
        newest: row.get("newest")?,
        changes: row.get("changes")?,
    })
}

/// A page of the assignments that may be seen, with how many there are: those of these teams, and those of no team. By
/// `rank` those that count most come first.
pub(crate) async fn page(
    db: &mut impl Executor,
    visible: &TeamFilter,
    configuration: Option<i64>,
    listing: &Listing,
) -> Result<(Vec<Assignment>, u64), StoreError> {
    let mut args = Vec::new();
    let mut conditions = vec!["1 = 1".to_owned()];
    if let TeamFilter::Only(teams) = visible {
        args.extend(integers(
            std::iter::once(0).chain(teams.iter().map(|team| team.0)),
        ));
        conditions.push(format!("team_key IN ({})", numbered(1, args.len())));
    }
    if let Some(id) = configuration {
        args.push(id.into());
        conditions.push(format!("config_id = ${}", args.len()));
    }
    if let Some(pattern) = listing.search_pattern() {
        args.push(pattern.as_str().into());
        let column = folded_column("selector", [pattern.as_str()]);
        conditions.push(format!("{column} LIKE ${} ESCAPE '\\'", args.len()));
    }
    let conditions = conditions.join(" AND ");
    let sql =
        format!("SELECT COUNT(*) AS total FROM collectors_config_assignments WHERE {conditions}");
    let total: i64 = db.fetch_one(&sql, args.clone()).await?.get("total")?;
    let direction = listing.direction.sql();
    let order = match (listing.sort, listing.direction) {
        ("id", _) => format!("id {direction}"),
        ("updated_at", _) => format!("updated_at {direction}, id {direction}"),
        (_, OrderDirection::Ascending) => "priority DESC, id DESC".to_owned(),
        (_, OrderDirection::Descending) => "priority ASC, id ASC".to_owned(),
    };
    args.push(i64::from(listing.limit).into());
    args.push(i64::try_from(listing.offset).unwrap_or(i64::MAX).into());
    let sql = LIST.replace(
        "ORDER BY priority DESC, id DESC",
        &format!(
            "WHERE {conditions} ORDER BY {order} LIMIT ${} OFFSET ${}",
            args.len() - 1,
            args.len()
        ),
    );
    let rows = db.fetch_all(&sql, args).await?;
    Ok((readable(&rows)?, u64::try_from(total).unwrap_or(0)))
}

/// The assignments of a configuration, those that count most first.
pub(crate) async fn of_configuration(
    db: &mut impl Executor,
    id: i64,
) -> Result<Vec<Assignment>, StoreError> {
    let rows = db.fetch_all(OF_CONFIGURATION, args![id]).await?;
    readable(&rows)
}

pub(crate) async fn delete(db: &mut impl Executor, id: i64) -> Result<bool, StoreError> {
    Ok(db.execute(DELETE, args![id]).await? == 1)
}
