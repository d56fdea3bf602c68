//! Assignments.

use std::time::Duration;

use muster_clock::Timestamp;
use muster_store::{Executor, Row, StoreError, Value, args, statements};

use super::{no_id, team_key, team_of};
use crate::configurations::model::{Assignment, AutoRollback};
use crate::configurations::precedence::Claim;
use crate::configurations::selector::Selector;

statements! {
    INSERT = "INSERT INTO collectors_config_assignments (config_id, team_key, selector, priority, version, previous_version,
        follows_newest, is_paused, soak_seconds, auto_rollback, failures_until_rollback, rolled_back_at,
        rolled_back_reason, updated_at, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) RETURNING id";
    UPDATE = "UPDATE collectors_config_assignments SET config_id = $1, team_key = $2, selector = $3, priority = $4,
        version = $5, previous_version = $6, follows_newest = $7, is_paused = $8, soak_seconds = $9, auto_rollback = $10,
        failures_until_rollback = $11, rolled_back_at = $12, rolled_back_reason = $13, updated_at = $14 WHERE id = $15";
    FIND = "SELECT id, config_id, team_key, selector, priority, version, previous_version, follows_newest, is_paused,
        soak_seconds, auto_rollback, failures_until_rollback, rolled_back_at, rolled_back_reason, created_at, updated_at
        FROM collectors_config_assignments WHERE id = $1";
    LIST = "SELECT id, config_id, team_key, selector, priority, version, previous_version, follows_newest, is_paused,
        soak_seconds, auto_rollback, failures_until_rollback, rolled_back_at, rolled_back_reason, created_at, updated_at
        FROM collectors_config_assignments ORDER BY priority DESC, id DESC";
    OF_CONFIGURATION = "SELECT id, config_id, team_key, selector, priority, version, previous_version, follows_newest,
        is_paused, soak_seconds, auto_rollback, failures_until_rollback, rolled_back_at, rolled_back_reason, created_at,
        updated_at FROM collectors_config_assignments WHERE config_id = $1 ORDER BY priority DESC, id DESC";
    DELETE = "DELETE FROM collectors_config_assignments WHERE id = $1";
}

fn assignment(row: &Row) -> Result<Assignment, StoreError> {
    let selector: String = row.get("selector")?;
    let selector = Selector::parse(&selector)
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

/// All assignments, those that count most first.
pub(crate) async fn list(db: &mut impl Executor) -> Result<Vec<Assignment>, StoreError> {
    let rows = db.fetch_all(LIST, args![]).await?;
    rows.iter().map(assignment).collect()
}

/// The assignments of a configuration, those that count most first.
pub(crate) async fn of_configuration(
    db: &mut impl Executor,
    id: i64,
) -> Result<Vec<Assignment>, StoreError> {
    let rows = db.fetch_all(OF_CONFIGURATION, args![id]).await?;
    rows.iter().map(assignment).collect()
}

pub(crate) async fn delete(db: &mut impl Executor, id: i64) -> Result<bool, StoreError> {
    Ok(db.execute(DELETE, args![id]).await? == 1)
}
