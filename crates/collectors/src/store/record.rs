//! Agents as decisions need them.

use std::collections::HashMap;

use muster_clock::Timestamp;
use muster_identity::{CollectorId, TeamId};
use muster_store::{Executor, Row, StoreError, Value, args, statements};
use muster_wire_opamp::InstanceUid;

use super::presence;
use crate::limits::MAX_UIDS;
use crate::record::{Durable, Progress, Record};

statements! {
    INSERT = "INSERT INTO collectors_collectors (revision, uid, team_id, enrollment_token_id, is_ephemeral, standing,
        updated_at, capabilities, interval_seconds, key_status, config_status, config_hash, components_hash, state,
        name, version, host_name, host_id, is_healthy, components_name, created_at)
        VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, COALESCE($14, ''), COALESCE($15, ''),
        COALESCE($16, ''), COALESCE($17, ''), CASE WHEN $18 = 1 THEN CAST($19 AS BIGINT) END, COALESCE($20, ''), $21)
        RETURNING id";
    /// What is none of what lists need of its parts stays as it is.
    UPDATE = "UPDATE collectors_collectors SET revision = revision + 1, uid = $1, team_id = $2, enrollment_token_id = $3,
        is_ephemeral = $4, standing = $5, updated_at = $6, capabilities = $7, interval_seconds = $8, key_status = $9,
        config_status = $10, config_hash = $11, components_hash = $12, state = $13, name = COALESCE($14, name),
        version = COALESCE($15, version), host_name = COALESCE($16, host_name), host_id = COALESCE($17, host_id),
        is_healthy = CASE WHEN $18 = 1 THEN CAST($19 AS BIGINT) ELSE is_healthy END,
        components_name = COALESCE($20, components_name)
        WHERE id = $21 AND revision = $22";
    SET_STATE = "UPDATE collectors_collectors SET state = $2 WHERE id = $1";
    FIND = "SELECT id, revision, team_id, state FROM collectors_collectors WHERE id = $1";
    ADD_UID = "INSERT INTO collectors_uids (uid, collector_id, since) VALUES ($1, $2, $3)
        ON CONFLICT (uid) DO NOTHING";
    HAS_UID = "SELECT collector_id FROM collectors_uids WHERE uid = $1";
    DELETE = "DELETE FROM collectors_collectors WHERE id = $1";
    OWNERS = "SELECT DISTINCT team_id FROM collectors_collectors WHERE team_id IS NOT NULL";
    RELEASE = "UPDATE collectors_collectors SET team_id = NULL, revision = revision + 1 WHERE team_id = $1 RETURNING id";
    REVISIONS = "SELECT id, revision FROM collectors_collectors WHERE id IN ($1)";
    EPHEMERAL = "SELECT c.id FROM collectors_collectors c LEFT JOIN collectors_presence p ON p.collector_id = c.id
        WHERE c.is_ephemeral = 1 AND (p.said_goodbye = 1 AND p.gone_at >= p.seen_at AND p.gone_at < $1
        OR COALESCE(p.seen_at, c.created_at) < $2) ORDER BY c.id LIMIT $3";
    /// What was written of its presence counts, since it may have come back meanwhile.
    DELETE_EPHEMERAL = "DELETE FROM collectors_collectors WHERE id = $1 AND is_ephemeral = 1 AND NOT EXISTS
        (SELECT 1 FROM collectors_presence p WHERE p.collector_id = collectors_collectors.id
        AND (p.said_goodbye = 0 OR p.gone_at IS NULL OR p.gone_at < p.seen_at OR p.gone_at >= $2) AND p.seen_at >= $3)";
    TRIM_UIDS = "DELETE FROM collectors_uids WHERE collector_id = $1 AND uid NOT IN (SELECT uid FROM collectors_uids
        WHERE collector_id = $1 ORDER BY since DESC, uid DESC LIMIT $2)";
}

fn state_of(durable: &Durable) -> Result<String, StoreError> {
    serde_json::to_string(durable)
        .map_err(|error| StoreError::corrupt("write a collector's state", error.to_string()))
}

fn key_status(durable: &Durable) -> &'static str {
    // One that was taken back by its token lives on that until it uses a new key.
    let has_key = durable.key_id.is_some() && durable.readmitted_at.is_none();
    match &durable.offer {
        _ if has_key => "adopted",
        Some(offer) if offer.is_marked => "not_adopting",
        Some(_) => "offered",
        None => "none",
    }
}

/// What lists need of an agent's parts; what did not change is none.
#[derive(Debug, Default)]
pub(crate) struct ListedParts {
    pub(crate) description: Option<Described>,
    pub(crate) health: Health,
    /// What it calls its components together.
    pub(crate) components_name: Option<String>,
}

/// Whether an agent says that it is well.
#[derive(Debug, Default)]
pub(crate) enum Health {
    /// As before.
    #[default]
    Unchanged,
    /// It tells its health, and that need not be a part of it.
    Told(Option<bool>),
}

/// The attributes by which agents are listed.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) host_name: String,
    pub(crate) host_id: String,
}

fn values(record: &Record, listed: &ListedParts, state: String, now: Timestamp) -> Vec<Value> {
    let durable = &record.durable;
    let config = durable.config.as_ref();
    let described = listed.description.as_ref();
    let (is_told, is_healthy) = match listed.health {
        Health::Unchanged => (false, None),
        Health::Told(is_healthy) => (true, is_healthy),
    };
    args![
        durable.uid.to_string(),
        durable.team_id.map(|team| team.0),
        durable.token_id.map(|token| token.0),
        durable.is_ephemeral,
        durable.standing.name(),
        now,
        durable.capabilities as i64,
        i64::try_from(record.interval().as_secs()).unwrap_or(i64::MAX),
        key_status(durable),
        config.map_or(Progress::Unset, |said| said.progress).name(),
        config.map(|said| said.hash.clone()).unwrap_or_default(),
        durable
            .components
            .as_ref()
            .and_then(|known| known.content.clone())
            .unwrap_or_default(),
        state,
        described.map(|said| said.name.clone()),
        described.map(|said| said.version.clone()),
        described.map(|said| said.host_name.clone()),
        described.map(|said| said.host_id.clone()),
        is_told,
        is_healthy,
        listed.components_name.clone(),
    ]
}

/// Keeps a new agent; gives its id.
pub(crate) async fn insert(
    db: &mut impl Executor,
    record: &Record,
    listed: &ListedParts,
    now: Timestamp,
) -> Result<CollectorId, StoreError> {
    let mut values = values(record, listed, state_of(&record.durable)?, now);
    values.push(record.durable.created_at.into());
    let rows = db.execute_returning(INSERT, values).await?;
    let row = rows.first();
    row.ok_or_else(|| StoreError::corrupt("keep a collector", "no id came back"))?
        .get("id")
}

/// Keeps a changed agent; false when somebody else changed it since it was read.
pub(crate) async fn update(
    db: &mut impl Executor,
    record: &Record,
    listed: &ListedParts,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut values = values(record, listed, state_of(&record.durable)?, now);
    values.push(record.id.into());
    values.push(record.revision.into());
    Ok(db.execute(UPDATE, values).await? == 1)
}

/// Writes the state again, within the unit of work that changed the agent.
pub(crate) async fn set_state(
    db: &mut impl Executor,
    id: CollectorId,
    durable: &Durable,
) -> Result<(), StoreError> {
    db.execute(SET_STATE, args![id, state_of(durable)?])
        .await
        .map(drop)
}

async fn whole(db: &mut impl Executor, row: Option<Row>) -> Result<Option<Record>, StoreError> {
    let Some(row) = row else {
        return Ok(None);
    };
    let state: String = row.get("state")?;
    let mut durable: Durable = serde_json::from_str(&state)
        .map_err(|error| StoreError::corrupt("read a collector's state", error.to_string()))?;
    // Teams are let go of without reading the state.
    durable.team_id = row.get::<Option<i64>>("team_id")?.map(TeamId);
    let id = row.get("id")?;
    Ok(Some(Record {
        id,
        revision: row.get("revision")?,
        durable: durable.into(),
        lines: presence::lines(db, id).await?,
        said_config: None,
    }))
}

/// One agent.
pub(crate) async fn find(
    db: &mut impl Executor,
    id: CollectorId,
) -> Result<Option<Record>, StoreError> {
    let row = db.fetch_optional(FIND, args![id]).await?;
    whole(db, row).await
}

/// The agent that goes or went by a uid.
pub(crate) async fn id_of(
    db: &mut impl Executor,
    uid: InstanceUid,
) -> Result<Option<CollectorId>, StoreError> {
    let row = db.fetch_optional(HAS_UID, args![uid.to_string()]).await?;
    row.map(|row| row.get("collector_id")).transpose()
}

/// Notes that an agent, which is new or not, goes by a uid; false when another does.
pub(crate) async fn add_uid(
    db: &mut impl Executor,
    uid: InstanceUid,
    id: CollectorId,
    is_new: bool,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let text = uid.to_string();
    if db.execute(ADD_UID, args![&text, id, now]).await? == 0 {
        let row = db.fetch_optional(HAS_UID, args![text]).await?;
        let owner = row.map(|row| row.get::<CollectorId>("collector_id"));
        return Ok(owner.transpose()? == Some(id));
    }
    if !is_new {
        db.execute(TRIM_UIDS, args![id, MAX_UIDS]).await?;
    }
    Ok(true)
}

/// Deletes an agent with everything that is known about it.
pub(crate) async fn delete(db: &mut impl Executor, id: CollectorId) -> Result<bool, StoreError> {
    Ok(db.execute(DELETE, args![id]).await? == 1)
}

/// Deletes an ephemeral agent with everything that is known about it, unless it came back meanwhile.
pub(crate) async fn delete_ephemeral(
    db: &mut impl Executor,
    id: CollectorId,
    gone_before: Timestamp,
    silent_since: Timestamp,
) -> Result<bool, StoreError> {
    let args = args![id, gone_before, silent_since];
    Ok(db.execute(DELETE_EPHEMERAL, args).await? == 1)
}

/// The teams that agents belong to.
pub(crate) async fn owners(db: &mut impl Executor) -> Result<Vec<TeamId>, StoreError> {
    let rows = db.fetch_all(OWNERS, args![]).await?;
    rows.iter().map(|row| row.get("team_id")).collect()
}

/// Takes all agents out of a team; gives which.
pub(crate) async fn release(
    db: &mut impl Executor,
    team: TeamId,
) -> Result<Vec<CollectorId>, StoreError> {
    let rows = db.execute_returning(RELEASE, args![team]).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

/// How often agents were changed.
pub(crate) async fn revisions(
    db: &mut impl Executor,
    ids: &[CollectorId],
) -> Result<HashMap<CollectorId, i64>, StoreError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let places: Vec<String> = (1..=ids.len()).map(|number| format!("${number}")).collect();
    let sql = REVISIONS.replace("$1", &places.join(", "));
    let rows = db
        .fetch_all(&sql, ids.iter().map(|id| (*id).into()).collect())
        .await?;
    rows.iter()
        .map(|row| Ok((row.get("id")?, row.get("revision")?)))
        .collect()
}

/// Agents that were to be forgotten soon, and went or fell silent long enough ago.
pub(crate) async fn ephemeral(
    db: &mut impl Executor,
    gone_before: Timestamp,
    silent_since: Timestamp,
    limit: i64,
) -> Result<Vec<CollectorId>, StoreError> {
    let args = args![gone_before, silent_since, limit];
    let rows = db.fetch_all(EPHEMERAL, args).await?;
    rows.iter().map(|row| row.get("id")).collect()
}
