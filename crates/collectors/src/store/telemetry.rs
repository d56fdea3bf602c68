//! Settings of own telemetry.

use std::collections::{BTreeMap, HashMap};

use muster_clock::Timestamp;
use muster_identity::{CollectorId, Identity, TeamId};
use muster_store::{Executor, Row, StoreError, Value, args, statements};

use crate::configurations::precedence::Claim;
use crate::configurations::selector::Selector;
use crate::telemetry::{OwnTelemetry, sealed_for};

statements! {
    LIST = "SELECT id, team_key, name, selector, priority, hash, sealed, created_at, updated_at FROM collectors_telemetry
        ORDER BY priority DESC, id DESC";
    FIND = "SELECT id, team_key, name, selector, priority, hash, sealed, created_at, updated_at FROM collectors_telemetry
        WHERE id = $1";
    INSERT = "INSERT INTO collectors_telemetry (team_key, name, selector, priority, hash, sealed, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $7) RETURNING id";
    UPDATE = "UPDATE collectors_telemetry SET name = $2, selector = $3, priority = $4, hash = $5, sealed = $6,
        updated_at = $7 WHERE id = $1";
    DELETE = "DELETE FROM collectors_telemetry WHERE id = $1";
    TEAMS = "SELECT DISTINCT team_key FROM collectors_telemetry WHERE team_key <> 0";
    DELETE_OF_TEAM = "DELETE FROM collectors_telemetry WHERE team_key = $1";
}

/// A row, whose secrets are sealed.
pub(crate) struct Sealed {
    pub(crate) id: i64,
    pub(crate) team_id: Option<TeamId>,
    pub(crate) name: String,
    selector: String,
    priority: i64,
    hash: String,
    secrets: Vec<u8>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl Sealed {
    /// With its secrets.
    pub(crate) fn open(self, identity: &Identity) -> Result<OwnTelemetry, StoreError> {
        let corrupt = |why: String| StoreError::corrupt("read settings of own telemetry", why);
        let selector = Selector::read(&self.selector);
        let selector = selector.map_err(|error| corrupt(error.to_string()))?;
        let opened = identity.open_secret(&self.secrets, &sealed_for(&self.hash));
        let opened = opened.map_err(|error| corrupt(error.to_string()))?;
        // What cannot be read may hold a secret: nothing of it is told.
        let destinations = serde_json::from_str(&opened);
        let destinations = destinations
            .map_err(|_| corrupt("they are not as any release wrote them".to_owned()))?;
        Ok(OwnTelemetry {
            claim: Claim {
                id: self.id,
                team_id: self.team_id,
                priority: self.priority,
                selector,
            },
            name: self.name,
            destinations,
            hash: self.hash,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

fn row(row: &Row) -> Result<Sealed, StoreError> {
    let team: i64 = row.get("team_key")?;
    Ok(Sealed {
        id: row.get("id")?,
        team_id: Some(team).filter(|team| *team != 0).map(TeamId),
        name: row.get("name")?,
        selector: row.get("selector")?,
        priority: row.get("priority")?,
        hash: row.get("hash")?,
        secrets: row.get("sealed")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

/// All settings, those that count most first.
pub(crate) async fn list(db: &mut impl Executor) -> Result<Vec<Sealed>, StoreError> {
    let rows = db.fetch_all(LIST, args![]).await?;
    rows.iter().map(row).collect()
}

pub(crate) async fn find(db: &mut impl Executor, id: i64) -> Result<Option<Sealed>, StoreError> {
    let found = db.fetch_optional(FIND, args![id]).await?;
    found.as_ref().map(row).transpose()
}

/// Keeps new settings; gives their id.
pub(crate) async fn insert(
    db: &mut impl Executor,
    settings: &OwnTelemetry,
    sealed: &[u8],
) -> Result<i64, StoreError> {
    let values = args![
        settings.claim.team_id.map_or(0, |team| team.0),
        &settings.name,
        settings.claim.selector.to_string(),
        settings.claim.priority,
        &settings.hash,
        sealed,
        settings.created_at
    ];
    let rows = db.execute_returning(INSERT, values).await?;
    let first = rows.first();
    first
        .ok_or_else(|| StoreError::corrupt("keep settings of own telemetry", "no id came back"))?
        .get("id")
}

pub(crate) async fn update(
    db: &mut impl Executor,
    settings: &OwnTelemetry,
    sealed: &[u8],
) -> Result<bool, StoreError> {
    let values = args![
        settings.claim.id,
        &settings.name,
        settings.claim.selector.to_string(),
        settings.claim.priority,
        &settings.hash,
        sealed,
        settings.updated_at
    ];
    Ok(db.execute(UPDATE, values).await? == 1)
}

pub(crate) async fn delete(db: &mut impl Executor, id: i64) -> Result<bool, StoreError> {
    Ok(db.execute(DELETE, args![id]).await? == 1)
}

/// The teams that settings belong to.
pub(crate) async fn teams(db: &mut impl Executor) -> Result<Vec<TeamId>, StoreError> {
    let rows = db.fetch_all(TEAMS, args![]).await?;
    rows.iter().map(|row| row.get("team_key")).collect()
}

pub(crate) async fn delete_of_team(
    db: &mut impl Executor,
    team: TeamId,
) -> Result<u64, StoreError> {
    db.execute(DELETE_OF_TEAM, args![team]).await
}

/// The team of an agent and those of its attributes that have one of some names.
type Described = (Option<TeamId>, BTreeMap<String, String>);

/// Of agents their teams and those of their attributes that have one of these names; agents that do not exist are left out.
pub(crate) async fn attributes(
    db: &mut impl Executor,
    ids: &[CollectorId],
    names: &[String],
) -> Result<HashMap<CollectorId, Described>, StoreError> {
    let places = |first: usize, count: usize| {
        let places: Vec<String> = (first..first + count)
            .map(|number| format!("${number}"))
            .collect();
        places.join(", ")
    };
    let whom = places(1, ids.len());
    let values = || -> Vec<Value> { ids.iter().map(|id| Value::from(*id)).collect() };
    let sql = format!("SELECT id, team_id FROM collectors_collectors WHERE id IN ({whom})");
    let mut found: HashMap<CollectorId, Described> = HashMap::with_capacity(ids.len());
    for row in db.fetch_all(&sql, values()).await? {
        let team = row.get::<Option<i64>>("team_id")?.map(TeamId);
        found.insert(row.get("id")?, (team, BTreeMap::new()));
    }
    if names.is_empty() {
        return Ok(found);
    }
    let sql = format!(
        "SELECT collector_id, name, value FROM collectors_attributes WHERE collector_id IN ({whom}) AND name IN ({})",
        places(1 + ids.len(), names.len())
    );
    let mut all = values();
    all.extend(names.iter().map(Value::from));
    for row in db.fetch_all(&sql, all).await? {
        if let Some((_, attributes)) = found.get_mut(&row.get("collector_id")?) {
            attributes.insert(row.get("name")?, row.get("value")?);
        }
    }
    Ok(found)
}
