//! Configurations and their versions.

use muster_clock::Timestamp;
use muster_http::Listing;
use muster_identity::{TeamFilter, TeamId};
use muster_store::{Executor, Row, StoreError, args, folded_column, statements};

use super::{integers, no_id, numbered, team_key, team_of};
use crate::configurations::document::{Files, Kind};
use crate::configurations::model::{Configuration, NewVersion, VersionInfo};

statements! {
    INSERT = "INSERT INTO collectors_configs (team_key, name, name_key, description, kind, newest_version, created_at,
        updated_at) VALUES ($1, $2, $3, $4, $5, 0, $6, $6) RETURNING id";
    UPDATE = "UPDATE collectors_configs SET name = $2, name_key = $3, description = $4, updated_at = $5 WHERE id = $1";
    FIND = "SELECT id, team_key, name, description, kind, newest_version, created_at, updated_at FROM collectors_configs
        WHERE id = $1";
    FIND_BY_NAME = "SELECT id, team_key, name, description, kind, newest_version, created_at, updated_at
        FROM collectors_configs WHERE team_key = $1 AND name_key = $2";
    DELETE = "DELETE FROM collectors_configs WHERE id = $1";
    COUNT = "SELECT COUNT(*) AS total FROM collectors_configs WHERE team_key = $1";
    TEAMS = "SELECT DISTINCT team_key FROM collectors_configs WHERE team_key <> 0";
    DELETE_OF_TEAM = "DELETE FROM collectors_configs WHERE team_key = $1";
    ADD_VERSION = "INSERT INTO collectors_config_versions (config_id, version, hash, note, author_id, author_name,
        author_email, created_at, files) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    SET_NEWEST = "UPDATE collectors_configs SET newest_version = $2, updated_at = $3 WHERE id = $1";
    FIND_VERSION = "SELECT version, hash, note, author_name, author_email, created_at FROM collectors_config_versions
        WHERE config_id = $1 AND version = $2";
    FILES = "SELECT files FROM collectors_config_versions WHERE config_id = $1 AND version = $2";
    BEFORE = "SELECT MAX(version) AS version FROM collectors_config_versions WHERE config_id = $1 AND version < $2";
    PRUNE = "DELETE FROM collectors_config_versions WHERE config_id = $1 AND version NOT IN (SELECT v.version
        FROM collectors_config_versions v WHERE v.config_id = $1 ORDER BY v.version DESC LIMIT $2)
        AND version NOT IN (SELECT a.version FROM collectors_config_assignments a WHERE a.config_id = $1)
        AND version NOT IN (SELECT COALESCE(a.previous_version, 0) FROM collectors_config_assignments a
            WHERE a.config_id = $1)";
}

const COLUMNS: &str = "id, team_key, name, description, kind, newest_version, created_at, updated_at FROM collectors_configs";

fn configuration(row: &Row) -> Result<Configuration, StoreError> {
    Ok(Configuration {
        id: row.get("id")?,
        team_id: team_of(row.get("team_key")?),
        name: row.get("name")?,
        description: row.get("description")?,
        kind: Kind::from_text(&row.get::<String>("kind")?),
        newest_version: row.get("newest_version")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

fn version(row: &Row) -> Result<VersionInfo, StoreError> {
    Ok(VersionInfo {
        version: row.get("version")?,
        hash: row.get("hash")?,
        note: row.get("note")?,
        author_name: row.get("author_name")?,
        author_email: row.get("author_email")?,
        created_at: row.get("created_at")?,
    })
}

/// Keeps a new configuration, still without versions; gives its id.
pub(crate) async fn insert(db: &mut impl Executor, new: &Configuration) -> Result<i64, StoreError> {
    let args = args![
        team_key(new.team_id),
        &new.name,
        muster_store::folded(&new.name),
        &new.description,
        new.kind.name(),
        new.created_at
    ];
    let rows = db.execute_returning(INSERT, args).await?;
    rows.first()
        .ok_or_else(|| no_id("keep a configuration"))?
        .get("id")
}

pub(crate) async fn update(
    db: &mut impl Executor,
    changed: &Configuration,
) -> Result<(), StoreError> {
    let args = args![
        changed.id,
        &changed.name,
        muster_store::folded(&changed.name),
        &changed.description,
        changed.updated_at
    ];
    db.execute(UPDATE, args).await.map(drop)
}

pub(crate) async fn find(
    db: &mut impl Executor,
    id: i64,
) -> Result<Option<Configuration>, StoreError> {
    let row = db.fetch_optional(FIND, args![id]).await?;
    row.as_ref().map(configuration).transpose()
}

/// The configuration of that name in a team, without regard to case.
pub(crate) async fn find_by_name(
    db: &mut impl Executor,
    team: Option<TeamId>,
    name: &str,
) -> Result<Option<Configuration>, StoreError> {
    let args = args![team_key(team), muster_store::folded(name)];
    let row = db.fetch_optional(FIND_BY_NAME, args).await?;
    row.as_ref().map(configuration).transpose()
}

pub(crate) async fn delete(db: &mut impl Executor, id: i64) -> Result<bool, StoreError> {
    Ok(db.execute(DELETE, args![id]).await? == 1)
}

/// How many configurations a team has, or how many there are without one.
pub(crate) async fn count(db: &mut impl Executor, team: Option<TeamId>) -> Result<i64, StoreError> {
    let args = args![team_key(team)];
    db.fetch_one(COUNT, args).await?.get("total")
}

/// The teams that have configurations.
pub(crate) async fn teams(db: &mut impl Executor) -> Result<Vec<TeamId>, StoreError> {
    let rows = db.fetch_all(TEAMS, args![]).await?;
    rows.iter().map(|row| row.get("team_key")).collect()
}

/// Deletes all configurations of a team; gives how many.
pub(crate) async fn delete_of_team(
    db: &mut impl Executor,
    team: TeamId,
) -> Result<u64, StoreError> {
    db.execute(DELETE_OF_TEAM, args![team]).await
}

/// A page of the configurations that may be seen, with how many there are: those of these teams, and those of no team.
pub(crate) async fn list(
    db: &mut impl Executor,
    visible: &TeamFilter,
    team: Option<i64>,
    listing: &Listing,
) -> Result<(Vec<Configuration>, u64), StoreError> {
    let mut args = Vec::new();
    let mut conditions = vec!["1 = 1".to_owned()];
    if let TeamFilter::Only(teams) = visible {
        args.extend(integers(
            std::iter::once(0).chain(teams.iter().map(|team| team.0)),
        ));
        conditions.push(format!("team_key IN ({})", numbered(1, args.len())));
    }
    if let Some(team) = team {
        args.push(team.into());
        conditions.push(format!("team_key = ${}", args.len()));
    }
    if let Some(pattern) = listing.search_pattern() {
        args.push(pattern.as_str().into());
        let place = args.len();
        let like = ["name", "description"].map(|column| {
            let column = folded_column(column, [pattern.as_str()]);
            format!("{column} LIKE ${place} ESCAPE '\\'")
        });
        conditions.push(format!("({})", like.join(" OR ")));
    }
    let conditions = conditions.join(" AND ");
    let sql = format!("SELECT COUNT(*) AS total FROM collectors_configs WHERE {conditions}");
    let total: i64 = db.fetch_one(&sql, args.clone()).await?.get("total")?;
    let column = match listing.sort {
        "id" => "id",
        "updated_at" => "updated_at",
        _ => "name_key",
    };
    let direction = listing.direction.sql();
    args.push(i64::from(listing.limit).into());
    args.push(i64::try_from(listing.offset).unwrap_or(i64::MAX).into());
    let sql = format!(
        "SELECT {COLUMNS} WHERE {conditions} ORDER BY {column} {direction}, id {direction} LIMIT ${} OFFSET ${}",
        args.len() - 1,
        args.len()
    );
    let rows = db.fetch_all(&sql, args).await?;
    let items: Result<_, _> = rows.iter().map(configuration).collect();
    Ok((items?, u64::try_from(total).unwrap_or(0)))
}

/// Keeps a version, which is the newest from now on.
pub(crate) async fn add_version(
    db: &mut impl Executor,
    id: i64,
    new: &NewVersion<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let files = serde_json::to_string(new.files)
        .map_err(|error| StoreError::corrupt("write a configuration", error.to_string()))?;
    let args = args![
        id,
        new.version,
        new.hash,
        new.note,
        new.author_id,
        new.author_name,
        new.author_email,
        now,
        files
    ];
    db.execute(ADD_VERSION, args).await?;
    db.execute(SET_NEWEST, args![id, new.version, now])
        .await
        .map(drop)
}

/// Forgets all versions but the newest and those that somebody should run, or go back to.
pub(crate) async fn prune(db: &mut impl Executor, id: i64, kept: i64) -> Result<u64, StoreError> {
    db.execute(PRUNE, args![id, kept]).await
}

/// A page of the versions, with how many there are. Notes and names of authors are searched.
pub(crate) async fn versions(
    db: &mut impl Executor,
    id: i64,
    listing: &Listing,
) -> Result<(Vec<VersionInfo>, u64), StoreError> {
    let mut args = args![id];
    let mut conditions = "config_id = $1".to_owned();
    if let Some(pattern) = listing.search_pattern() {
        args.push(pattern.as_str().into());
        let like = ["note", "author_name"].map(|column| {
            let column = folded_column(column, [pattern.as_str()]);
            format!("{column} LIKE $2 ESCAPE '\\'")
        });
        conditions = format!("{conditions} AND ({})", like.join(" OR "));
    }
    let sql =
        format!("SELECT COUNT(*) AS total FROM collectors_config_versions WHERE {conditions}");
    let total: i64 = db.fetch_one(&sql, args.clone()).await?.get("total")?;
    args.push(i64::from(listing.limit).into());
    args.push(i64::try_from(listing.offset).unwrap_or(i64::MAX).into());
    let sql = format!(
        "SELECT version, hash, note, author_name, author_email, created_at FROM collectors_config_versions
            WHERE {conditions} ORDER BY version {} LIMIT ${} OFFSET ${}",
        listing.direction.sql(),
        args.len() - 1,
        args.len()
    );
    let rows = db.fetch_all(&sql, args).await?;
    let items: Result<_, _> = rows.iter().map(version).collect();
    Ok((items?, u64::try_from(total).unwrap_or(0)))
}

pub(crate) async fn find_version(
    db: &mut impl Executor,
    id: i64,
    number: i64,
) -> Result<Option<VersionInfo>, StoreError> {
    let row = db.fetch_optional(FIND_VERSION, args![id, number]).await?;
    row.as_ref().map(version).transpose()
}

/// The files of a version.
pub(crate) async fn files(
    db: &mut impl Executor,
    id: i64,
    number: i64,
) -> Result<Option<Files>, StoreError> {
    let row = db.fetch_optional(FILES, args![id, number]).await?;
    let text = row.map(|row| row.get::<String>("files")).transpose()?;
    text.map(|text| {
        serde_json::from_str(&text)
            .map_err(|error| StoreError::corrupt("read a configuration", error.to_string()))
    })
    .transpose()
}

/// The newest version that is older than this one and still there.
pub(crate) async fn version_before(
    db: &mut impl Executor,
    id: i64,
    number: i64,
) -> Result<Option<i64>, StoreError> {
    db.fetch_one(BEFORE, args![id, number])
        .await?
        .get("version")
}
