//! Enrollment tokens.

pub(crate) mod rotation;

pub(crate) use rotation::{hosts, rotate, rotations};

use std::collections::{HashMap, HashSet};

use muster_clock::Timestamp;
use muster_http::Network;
use muster_store::{Executor, Row, StoreError, args};

use crate::{
    AgentKeyId, CollectorId, EnrollmentToken, EnrollmentTokenId, Family, HostId, KnownAgents,
    Readmission, TeamId,
};

muster_store::statements! {
    LOAD_VALID = "SELECT id, name, team_id, families, networks, token_hash, created_at, expires_at, max_uses, uses,
        reenrollments, used_at, used_by, revoked_at, known_agents, ephemeral, used_by_collector
        FROM identity_enrollment_tokens WHERE revoked_at IS NULL";
    LOAD_REVOKED = "SELECT token_hash FROM identity_enrollment_tokens WHERE revoked_at IS NOT NULL
        ORDER BY revoked_at DESC LIMIT 10000";
    NETWORKS_OF_KEY = "SELECT t.networks FROM identity_enrollment_tokens t
        JOIN identity_agent_keys k ON k.enrollment_token_id = t.id WHERE k.id = $1";
    COUNT_USE = "UPDATE identity_enrollment_tokens SET uses = uses + 1, used_at = $3, used_by = $2, used_by_collector = NULL
        WHERE id = $1 AND revoked_at IS NULL AND (max_uses IS NULL OR uses < max_uses)
        AND (expires_at IS NULL OR expires_at > $3)";
    COUNT_AGAIN = "UPDATE identity_enrollment_tokens SET reenrollments = reenrollments + 1, used_at = $3, used_by = $2,
        used_by_collector = NULL WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)
        RETURNING CAST(CASE WHEN uses >= max_uses THEN 1 ELSE 0 END AS BIGINT) AS is_used_up";
    COUNT_COLLECTORS_USE = "UPDATE identity_enrollment_tokens SET uses = uses + 1, used_at = $3, used_by = NULL,
        used_by_collector = $2 WHERE id = $1 AND revoked_at IS NULL AND (max_uses IS NULL OR uses < max_uses)
        AND (expires_at IS NULL OR expires_at > $3)";
    COUNT_COLLECTOR_AGAIN = "UPDATE identity_enrollment_tokens SET reenrollments = reenrollments + 1, used_at = $3,
        used_by = NULL, used_by_collector = $2 WHERE id = $1 AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > $3)
        RETURNING CAST(CASE WHEN uses >= max_uses THEN 1 ELSE 0 END AS BIGINT) AS is_used_up";
    COUNT_IN_SCOPE = "SELECT COUNT(*) AS total FROM identity_enrollment_tokens
        WHERE revoked_at IS NULL AND COALESCE(team_id, 0) = $1";
    INSERT = "INSERT INTO identity_enrollment_tokens (name, team_id, families, token_hash, sealed, created_at,
        expires_at, max_uses, networks, known_agents, ephemeral)
        VALUES ($1, $2, $3, $4, $4, $5, $6, $7, $8, $9, $10) RETURNING id";
    SET_SEALED = "UPDATE identity_enrollment_tokens SET sealed = $2 WHERE id = $1";
    SEALED = "SELECT sealed FROM identity_enrollment_tokens WHERE id = $1";
    SEALED_IN_SCOPE = "SELECT id, name, team_id, families, networks, sealed, created_at, expires_at, max_uses, uses,
        reenrollments, used_at, used_by, revoked_at, known_agents, ephemeral, used_by_collector FROM identity_enrollment_tokens
        WHERE revoked_at IS NULL AND COALESCE(team_id, 0) = $1 ORDER BY id";
    SEALED_OF_TEAMS = "SELECT id, name, team_id, families, networks, sealed, created_at, expires_at, max_uses, uses,
        reenrollments, used_at, used_by, revoked_at, known_agents, ephemeral, used_by_collector FROM identity_enrollment_tokens
        WHERE revoked_at IS NULL AND team_id IS NOT NULL ORDER BY id";
    FIND = "SELECT id, name, team_id, families, networks, created_at, expires_at, max_uses, uses, reenrollments, used_at,
        used_by, revoked_at, known_agents, ephemeral, used_by_collector FROM identity_enrollment_tokens
        WHERE id = $1";
    REVOKE = "UPDATE identity_enrollment_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";
    LIST = "SELECT id, name, team_id, families, networks, created_at, expires_at, max_uses, uses, reenrollments, used_at,
        used_by, revoked_at, known_agents, ephemeral, used_by_collector FROM identity_enrollment_tokens
        WHERE (revoked_at IS NULL OR $1 = 1) ORDER BY id DESC LIMIT 10000";
}

fn token(row: &Row) -> Result<EnrollmentToken, StoreError> {
    let families: String = row.get("families")?;
    // A family that a newer release knows is left out.
    let mut families: Vec<Family> = families.split(',').filter_map(Family::parse).collect();
    let known_agents: String = row.get("known_agents")?;
    if known_agents.is_empty() && families.len() == Family::ALL.len() {
        // "All" was written by a release that did not serve OpAMP: whoever made the token meant hosts.
        families.retain(|family| *family != Family::Opamp);
    }
    let is_for_collectors = families.contains(&Family::Opamp);
    let known_agents = KnownAgents::from_text(&known_agents);
    let ephemeral = row.get::<i64>("ephemeral")? != 0;
    Ok(EnrollmentToken {
        id: row.get("id")?,
        name: row.get("name")?,
        team_id: row.get::<Option<i64>>("team_id")?.map(TeamId),
        families,
        networks: networks(row)?,
        labels: Vec::new(),
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        max_uses: row
            .get::<Option<i64>>("max_uses")?
            .and_then(|uses| uses.try_into().ok()),
        uses: row.get("uses")?,
        reenrollments: row.get("reenrollments")?,
        used_at: row.get("used_at")?,
        used_by: row.get::<Option<i64>>("used_by")?.map(HostId),
        used_by_collector: row
            .get::<Option<i64>>("used_by_collector")?
            .map(CollectorId),
        known_agents: is_for_collectors.then_some(known_agents),
        ephemeral: is_for_collectors.then_some(ephemeral),
        collectors_without_key: None,
        revoked_at: row.get("revoked_at")?,
        rotation: None,
    })
}

fn networks(row: &Row) -> Result<Vec<Network>, StoreError> {
    let networks: String = row.get("networks")?;
    let networks = networks.split(',').filter(|network| !network.is_empty());
    let networks = networks.map(|network| {
        // Left out it would admit from everywhere.
        let parsed = network.parse();
        parsed.map_err(|_| StoreError::corrupt("read an enrollment token", "a network is none"))
    });
    networks.collect()
}

/// The networks that the token of a key is bound to; none, too, when it is gone.
pub(crate) async fn networks_of_key(
    db: &mut impl Executor,
    key: AgentKeyId,
) -> Result<Vec<Network>, StoreError> {
    let row = db.fetch_optional(NETWORKS_OF_KEY, args![key]).await?;
    row.as_ref().map_or_else(|| Ok(Vec::new()), networks)
}

fn scope(team: Option<TeamId>) -> i64 {
    team.map_or(0, |team| team.0)
}

pub(crate) async fn load_valid(
    db: &mut impl Executor,
) -> Result<HashMap<[u8; 32], EnrollmentToken>, StoreError> {
    let rows = db.fetch_all(LOAD_VALID, args![]).await?;
    rows.iter()
        .map(|row| Ok((row.get("token_hash")?, token(row)?)))
        .collect()
}

/// The hashes of those that were revoked last.
pub(crate) async fn load_revoked(db: &mut impl Executor) -> Result<HashSet<[u8; 32]>, StoreError> {
    let rows = db.fetch_all(LOAD_REVOKED, args![]).await?;
    rows.iter().map(|row| row.get("token_hash")).collect()
}

pub(crate) async fn count_use(
    db: &mut impl Executor,
    id: EnrollmentTokenId,
    host: HostId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(db.execute(COUNT_USE, args![id, host, now]).await? == 1)
}

/// None when it admits nobody.
pub(crate) async fn count_again(
    db: &mut impl Executor,
    id: EnrollmentTokenId,
    host: HostId,
    now: Timestamp,
) -> Result<Option<Readmission>, StoreError> {
    readmission(
        &db.execute_returning(COUNT_AGAIN, args![id, host, now])
            .await?,
    )
}

pub(crate) async fn count_collectors_use(
    db: &mut impl Executor,
    id: EnrollmentTokenId,
    collector: CollectorId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let args = args![id, collector, now];
    Ok(db.execute(COUNT_COLLECTORS_USE, args).await? == 1)
}

/// None when it admits nobody.
pub(crate) async fn count_collector_again(
    db: &mut impl Executor,
    id: EnrollmentTokenId,
    collector: CollectorId,
    now: Timestamp,
) -> Result<Option<Readmission>, StoreError> {
    let args = args![id, collector, now];
    readmission(&db.execute_returning(COUNT_COLLECTOR_AGAIN, args).await?)
}

fn readmission(rows: &[Row]) -> Result<Option<Readmission>, StoreError> {
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    Ok(Some(match row.get::<i64>("is_used_up")? {
        0 => Readmission::Good,
        _ => Readmission::UsedUp,
    }))
}

pub(crate) async fn count_in_scope(
    db: &mut impl Executor,
    team: Option<TeamId>,
) -> Result<usize, StoreError> {
    let total: i64 = db
        .fetch_one(COUNT_IN_SCOPE, args![scope(team)])
        .await?
        .get("total")?;
    Ok(usize::try_from(total).unwrap_or(usize::MAX))
}

pub(crate) async fn insert(
    db: &mut impl Executor,
    token: &EnrollmentToken,
    hash: &[u8; 32],
) -> Result<EnrollmentTokenId, StoreError> {
    let families: Vec<&str> = token.families.iter().map(|family| family.name()).collect();
    let networks: Vec<String> = token.networks.iter().map(ToString::to_string).collect();
    let args = args![
        &token.name,
        token.team_id.map(|team| team.0),
        families.join(","),
        hash,
        token.created_at,
        token.expires_at,
        token.max_uses,
        networks.join(","),
        token.known_agents.unwrap_or_default().name(),
        token.ephemeral.unwrap_or_default(),
    ];
    let rows = db.execute_returning(INSERT, args).await?;
    rows.first()
        .ok_or_else(|| StoreError::corrupt("insert a token", "no id came back"))?
        .get("id")
}

pub(crate) async fn set_sealed(
    db: &mut impl Executor,
    id: EnrollmentTokenId,
    sealed: &[u8],
) -> Result<(), StoreError> {
    db.execute(SET_SEALED, args![id, sealed]).await.map(drop)
}

pub(crate) async fn sealed(
    db: &mut impl Executor,
    id: EnrollmentTokenId,
) -> Result<Option<Vec<u8>>, StoreError> {
    db.fetch_optional(SEALED, args![id])
        .await?
        .map(|row| row.get("sealed"))
        .transpose()
}

pub(crate) async fn sealed_in_scope(
    db: &mut impl Executor,
    team: Option<TeamId>,
) -> Result<Vec<(EnrollmentToken, Vec<u8>)>, StoreError> {
    let rows = db.fetch_all(SEALED_IN_SCOPE, args![scope(team)]).await?;
    rows.iter()
        .map(|row| Ok((token(row)?, row.get("sealed")?)))
        .collect()
}

pub(crate) async fn sealed_of_teams(
    db: &mut impl Executor,
) -> Result<Vec<(EnrollmentToken, Vec<u8>)>, StoreError> {
    let rows = db.fetch_all(SEALED_OF_TEAMS, args![]).await?;
    rows.iter()
        .map(|row| Ok((token(row)?, row.get("sealed")?)))
        .collect()
}

pub(crate) async fn find(
    db: &mut impl Executor,
    id: EnrollmentTokenId,
) -> Result<Option<EnrollmentToken>, StoreError> {
    db.fetch_optional(FIND, args![id])
        .await?
        .as_ref()
        .map(token)
        .transpose()
}

pub(crate) async fn revoke(
    db: &mut impl Executor,
    id: EnrollmentTokenId,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(REVOKE, args![id, now]).await.map(drop)
}

pub(crate) async fn list(
    db: &mut impl Executor,
    with_revoked: bool,
) -> Result<Vec<EnrollmentToken>, StoreError> {
    db.fetch_all(LIST, args![with_revoked])
        .await?
        .iter()
        .map(token)
        .collect()
}
