//! Saved queries.

use muster_identity::{TeamId, UserId};
use muster_store::{Executor, Row, StoreError, args};

use crate::{Logging, SavedQuery};

muster_store::statements! {
    INSERT = "INSERT INTO queries_queries (team_key, name, name_key, description, sql_text, interval_seconds, platform,
        min_osquery_version, automations_enabled, logging, observer_can_run, discard_data, author_id, author_name,
        author_email, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16) RETURNING id";
    UPDATE = "UPDATE queries_queries SET name = $2, name_key = $3, description = $4, sql_text = $5,
        interval_seconds = $6, platform = $7, min_osquery_version = $8, automations_enabled = $9, logging = $10,
        observer_can_run = $11, discard_data = $12, updated_at = $13 WHERE id = $1";
    DELETE = "DELETE FROM queries_queries WHERE id = $1";
    DELETE_OF_TEAM = "DELETE FROM queries_queries WHERE team_key = $1";
    TEAMS = "SELECT DISTINCT team_key FROM queries_queries WHERE team_key <> 0";
    FIND = "SELECT id, team_key, name, description, sql_text, interval_seconds, platform, min_osquery_version,
        automations_enabled, logging, observer_can_run, discard_data, author_id, author_name, author_email, created_at,
        updated_at FROM queries_queries WHERE id = $1";
    FIND_BY_NAME = "SELECT id, team_key, name, description, sql_text, interval_seconds, platform, min_osquery_version,
        automations_enabled, logging, observer_can_run, discard_data, author_id, author_name, author_email, created_at,
        updated_at FROM queries_queries WHERE team_key = $1 AND name_key = $2";
    LIST = "SELECT id, team_key, name, description, sql_text, interval_seconds, platform, min_osquery_version,
        automations_enabled, logging, observer_can_run, discard_data, author_id, author_name, author_email, created_at,
        updated_at FROM queries_queries ORDER BY name_key, id";
}

fn key(team: Option<TeamId>) -> i64 {
    team.map_or(0, |team| team.0)
}

fn query(row: &Row) -> Result<SavedQuery, StoreError> {
    Ok(SavedQuery {
        id: row.get("id")?,
        team_id: Some(row.get::<i64>("team_key")?)
            .filter(|team| *team != 0)
            .map(TeamId),
        name: row.get("name")?,
        description: row.get("description")?,
        query: row.get("sql_text")?,
        interval: row.get::<i64>("interval_seconds")?.try_into().unwrap_or(0),
        platform: row.get("platform")?,
        min_osquery_version: row.get("min_osquery_version")?,
        automations_enabled: row.get("automations_enabled")?,
        logging: Logging::parse(&row.get::<String>("logging")?).unwrap_or_default(),
        observer_can_run: row.get("observer_can_run")?,
        discard_data: row.get("discard_data")?,
        author_id: row.get::<Option<i64>>("author_id")?.map(UserId),
        author_name: row.get("author_name")?,
        author_email: row.get("author_email")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

pub(crate) async fn insert(db: &mut impl Executor, query: &SavedQuery) -> Result<i64, StoreError> {
    let args = args![
        key(query.team_id),
        &query.name,
        query.name.to_lowercase(),
        &query.description,
        &query.query,
        i64::try_from(query.interval).unwrap_or(i64::MAX),
        &query.platform,
        &query.min_osquery_version,
        query.automations_enabled,
        query.logging.name(),
        query.observer_can_run,
        query.discard_data,
        query.author_id.map(|id| id.0),
        &query.author_name,
        &query.author_email,
        query.created_at,
    ];
    let rows = db.execute_returning(INSERT, args).await?;
    rows.first()
        .ok_or_else(|| StoreError::corrupt("insert a query", "no id came back"))?
        .get("id")
}

pub(crate) async fn update(db: &mut impl Executor, query: &SavedQuery) -> Result<(), StoreError> {
    let args = args![
        query.id,
        &query.name,
        query.name.to_lowercase(),
        &query.description,
        &query.query,
        i64::try_from(query.interval).unwrap_or(i64::MAX),
        &query.platform,
        &query.min_osquery_version,
        query.automations_enabled,
        query.logging.name(),
        query.observer_can_run,
        query.discard_data,
        query.updated_at,
    ];
    db.execute(UPDATE, args).await.map(drop)
}

pub(crate) async fn delete(db: &mut impl Executor, id: i64) -> Result<(), StoreError> {
    db.execute(DELETE, args![id]).await.map(drop)
}

/// Gives how many there were.
pub(crate) async fn delete_of_team(
    db: &mut impl Executor,
    team: TeamId,
) -> Result<u64, StoreError> {
    db.execute(DELETE_OF_TEAM, args![team]).await
}

pub(crate) async fn teams(db: &mut impl Executor) -> Result<Vec<TeamId>, StoreError> {
    let rows = db.fetch_all(TEAMS, args![]).await?;
    rows.iter().map(|row| row.get("team_key")).collect()
}

pub(crate) async fn find(
    db: &mut impl Executor,
    id: i64,
) -> Result<Option<SavedQuery>, StoreError> {
    db.fetch_optional(FIND, args![id])
        .await?
        .as_ref()
        .map(query)
        .transpose()
}

pub(crate) async fn find_by_name(
    db: &mut impl Executor,
    team: Option<TeamId>,
    name: &str,
) -> Result<Option<SavedQuery>, StoreError> {
    let row = db
        .fetch_optional(FIND_BY_NAME, args![key(team), name.trim().to_lowercase()])
        .await?;
    row.as_ref().map(query).transpose()
}

pub(crate) async fn list(db: &mut impl Executor) -> Result<Vec<SavedQuery>, StoreError> {
    db.fetch_all(LIST, args![])
        .await?
        .iter()
        .map(query)
        .collect()
}
