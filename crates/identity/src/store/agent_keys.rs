//! Agent keys.

use std::collections::HashSet;

use muster_clock::Timestamp;
use muster_store::{Executor, Row, StoreError, Value, args};

use crate::{AgentKeyId, AgentKeyInfo, EnrollmentTokenId, Family, HostId};

/// How many keys one statement marks as used.
pub(crate) const MAX_BATCH: usize = 1_000;
/// How many keys one statement compares with what is in memory.
pub(crate) const MAX_COMPARED: usize = 5_000;

muster_store::statements! {
    FIND_VALID = "SELECT id, host_id, family, first_used_at FROM identity_agent_keys
        WHERE key_hash = $1 AND superseded_at IS NULL AND revoked_at IS NULL";
    INSERT = "INSERT INTO identity_agent_keys (key_hash, family, host_id, enrollment_token_id, created_at)
        VALUES ($1, $2, $3, $4, $5) RETURNING id";
    MARK_USED = "UPDATE identity_agent_keys SET first_used_at = $2, used_at = $2
        WHERE id = $1 AND first_used_at IS NULL";
    SUPERSEDE_OLDER = "UPDATE identity_agent_keys SET superseded_at = $4
        WHERE host_id = $1 AND family = $2 AND id < $3 AND superseded_at IS NULL AND revoked_at IS NULL";
    DROP_UNUSED = "DELETE FROM identity_agent_keys WHERE host_id = $1 AND family = $2 AND first_used_at IS NULL
        AND id NOT IN (SELECT k.id FROM identity_agent_keys k WHERE k.host_id = $1 AND k.family = $2
        ORDER BY k.id DESC LIMIT 20)";
    REVOKE_HOST = "UPDATE identity_agent_keys SET revoked_at = $2 WHERE host_id = $1 AND revoked_at IS NULL";
    PURGE = "DELETE FROM identity_agent_keys WHERE id IN (SELECT k.id FROM identity_agent_keys k
        WHERE k.superseded_at <= $1 OR k.revoked_at <= $1 ORDER BY k.id LIMIT 5000)";
    LIST = "SELECT id, family, enrollment_token_id, created_at, used_at, superseded_at, revoked_at
        FROM identity_agent_keys WHERE host_id = $1 ORDER BY id DESC LIMIT 100";
}

pub(crate) struct KeyRow {
    pub(crate) id: AgentKeyId,
    pub(crate) host_id: HostId,
    pub(crate) family: Family,
    pub(crate) was_used: bool,
}

fn family(row: &Row) -> Result<Family, StoreError> {
    let name: String = row.get("family")?;
    Family::parse(&name)
        .ok_or_else(|| StoreError::corrupt("read an agent key", format!("unknown family {name:?}")))
}

pub(crate) async fn find_valid(
    db: &mut impl Executor,
    hash: &[u8; 32],
) -> Result<Option<KeyRow>, StoreError> {
    let Some(row) = db.fetch_optional(FIND_VALID, args![hash]).await? else {
        return Ok(None);
    };
    Ok(Some(KeyRow {
        id: row.get("id")?,
        host_id: row.get("host_id")?,
        family: family(&row)?,
        was_used: row.get::<Option<i64>>("first_used_at")?.is_some(),
    }))
}

/// Inserts a key. Of those that the agent never used the newest twenty stay: an agent that cannot keep its key enrolls for
/// ever.
pub(crate) async fn insert(
    db: &mut impl Executor,
    hash: &[u8; 32],
    host: HostId,
    family: Family,
    token: Option<EnrollmentTokenId>,
    now: Timestamp,
) -> Result<AgentKeyId, StoreError> {
    let args = args![hash, family.name(), host, token.map(|token| token.0), now];
    let rows = db.execute_returning(INSERT, args).await?;
    let id = rows
        .first()
        .ok_or_else(|| StoreError::corrupt("insert an agent key", "no id came back"))?
        .get("id")?;
    db.execute(DROP_UNUSED, args![host, family.name()]).await?;
    Ok(id)
}

pub(crate) async fn mark_used(
    db: &mut impl Executor,
    id: AgentKeyId,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(MARK_USED, args![id, now]).await.map(drop)
}

pub(crate) async fn mark_all_used(
    db: &mut impl Executor,
    ids: &[AgentKeyId],
    now: Timestamp,
) -> Result<(), StoreError> {
    let places: Vec<String> = (0..ids.len())
        .map(|index| format!("${}", index + 2))
        .collect();
    let sql = format!(
        "UPDATE identity_agent_keys SET used_at = $1 WHERE id IN ({})",
        places.join(", ")
    );
    let args = std::iter::once(Value::from(now)).chain(ids.iter().copied().map(Value::from));
    db.execute(&sql, args.collect()).await.map(drop)
}

/// Which of these keys are still good.
pub(crate) async fn valid(
    db: &mut impl Executor,
    ids: &[AgentKeyId],
) -> Result<HashSet<AgentKeyId>, StoreError> {
    let places: Vec<String> = (1..=ids.len()).map(|place| format!("${place}")).collect();
    let sql = format!(
        "SELECT id FROM identity_agent_keys WHERE superseded_at IS NULL AND revoked_at IS NULL AND id IN ({})",
        places.join(", ")
    );
    let args = ids.iter().copied().map(Value::from).collect();
    let rows = db.fetch_all(&sql, args).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

pub(crate) async fn supersede_older(
    db: &mut impl Executor,
    host: HostId,
    family: Family,
    newest: AgentKeyId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(SUPERSEDE_OLDER, args![host, family.name(), newest, now])
        .await
}

/// Deletes some thousand keys that ended before a time. Gives how many.
pub(crate) async fn purge(db: &mut impl Executor, before: Timestamp) -> Result<u64, StoreError> {
    db.execute(PURGE, args![before]).await
}

pub(crate) async fn revoke_host(
    db: &mut impl Executor,
    host: HostId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(REVOKE_HOST, args![host, now]).await
}

pub(crate) async fn list(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Vec<AgentKeyInfo>, StoreError> {
    let rows = db.fetch_all(LIST, args![host]).await?;
    rows.iter()
        .map(|row| {
            Ok(AgentKeyInfo {
                id: row.get("id")?,
                family: family(row)?,
                enrollment_token_id: row
                    .get::<Option<i64>>("enrollment_token_id")?
                    .map(EnrollmentTokenId),
                created_at: row.get("created_at")?,
                used_at: row.get("used_at")?,
                superseded_at: row.get("superseded_at")?,
                revoked_at: row.get("revoked_at")?,
            })
        })
        .collect()
}
