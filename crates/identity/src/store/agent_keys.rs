//! Agent keys.

use std::collections::HashSet;

use muster_clock::Timestamp;
use muster_store::{Executor, Row, StoreError, Value, args};

use crate::agent_keys::{RefusedAgent, RefusedKey};
use crate::{AgentKeyId, AgentKeyInfo, CollectorId, EnrollmentTokenId, Family, HostId};

/// How many keys one statement marks as used.
pub(crate) const MAX_BATCH: usize = 1_000;
/// How many keys one statement compares with what is in memory.
pub(crate) const MAX_COMPARED: usize = 5_000;

muster_store::statements! {
    FIND = "SELECT id, host_id, family, instance, first_used_at, superseded_at, revoked_at, revoked_because, rival_since,
        rotate_at, told_at FROM identity_agent_keys WHERE key_hash = $1 AND host_id <> 0";
    INSERT = "INSERT INTO identity_agent_keys (key_hash, family, host_id, enrollment_token_id, created_at, instance)
        VALUES ($1, $2, $3, $4, $5, $6) RETURNING id";
    MARK_USED = "UPDATE identity_agent_keys SET first_used_at = $2, used_at = $2
        WHERE id = $1 AND first_used_at IS NULL";
    SUPERSEDE_OLDER = "UPDATE identity_agent_keys SET superseded_at = $4
        WHERE host_id = $1 AND family = $2 AND id < $3 AND superseded_at IS NULL AND revoked_at IS NULL
        AND (instance = $5 OR instance = '' OR $5 = '')";
    RIVAL_OLDER = "UPDATE identity_agent_keys SET rival_since = $4
        WHERE host_id = $1 AND family = $2 AND id < $3 AND superseded_at IS NULL AND revoked_at IS NULL
        AND instance <> $5 AND rival_since IS NULL";
    END_RIVALS = "UPDATE identity_agent_keys SET superseded_at = $2
        WHERE rival_since <= $1 AND superseded_at IS NULL AND revoked_at IS NULL";
    UNRIVAL = "UPDATE identity_agent_keys SET rival_since = NULL WHERE host_id = $1";
    NEWER = "SELECT n.id, n.family, n.instance, n.enrollment_token_id, n.created_at FROM identity_agent_keys o
        JOIN identity_agent_keys n ON n.host_id = o.host_id AND n.id > o.id
        WHERE o.host_id = $1 AND o.rival_since IS NOT NULL AND o.superseded_at IS NULL AND o.revoked_at IS NULL
        AND n.family = o.family AND n.instance <> o.instance AND n.superseded_at IS NULL AND n.revoked_at IS NULL
        ORDER BY n.id";
    MOVE = "UPDATE identity_agent_keys SET host_id = $2, rival_since = NULL WHERE host_id = $1 AND id = $3";
    MOVE_ALL = "UPDATE identity_agent_keys SET host_id = $2, rival_since = NULL WHERE host_id = $1";
    REVOKE = "UPDATE identity_agent_keys SET revoked_at = $3, revoked_because = 'operator'
        WHERE host_id = $1 AND id = $2 AND revoked_at IS NULL";
    FIND_ONE = "SELECT id, family, instance, enrollment_token_id, created_at, superseded_at, revoked_at
        FROM identity_agent_keys WHERE host_id = $1 AND id = $2";
    ROTATE = "UPDATE identity_agent_keys SET rotate_at = $3, told_at = NULL WHERE host_id = $1 AND family = $2
        AND superseded_at IS NULL AND revoked_at IS NULL AND enrollment_token_id IN (SELECT t.id
        FROM identity_enrollment_tokens t WHERE t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $3))";
    TELL = "UPDATE identity_agent_keys SET told_at = $2 WHERE id = $1 AND enrollment_token_id IN (SELECT t.id
        FROM identity_enrollment_tokens t WHERE t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2))";
    HAS_GOOD = "SELECT id FROM identity_agent_keys WHERE host_id = $1 AND family = $2
        AND superseded_at IS NULL AND revoked_at IS NULL LIMIT 1";
    WAITING = "SELECT COUNT(*) AS total FROM identity_agent_keys
        WHERE rotate_at IS NOT NULL AND superseded_at IS NULL AND revoked_at IS NULL";
    REFUSED = "INSERT INTO identity_refused_agents (key_id, host_id, family, reason, calls, first_at, last_at, collector_id)
        SELECT k.id, k.host_id, k.family, CAST($2 AS TEXT), CAST($3 AS BIGINT), CAST($4 AS BIGINT), CAST($4 AS BIGINT),
        k.collector_id FROM identity_agent_keys k WHERE k.id = $1
        ON CONFLICT (key_id) DO UPDATE SET calls = identity_refused_agents.calls + excluded.calls,
            last_at = excluded.last_at, reason = excluded.reason";
    FORGET_REFUSED = "DELETE FROM identity_refused_agents WHERE last_at <= $1";
    COUNT_REFUSED = "SELECT COUNT(*) AS total FROM identity_refused_agents";
    LIST_REFUSED = "SELECT key_id, host_id, family, reason, calls, first_at, last_at, collector_id FROM identity_refused_agents
        ORDER BY last_at DESC, key_id LIMIT $1 OFFSET $2";
    DROP_UNUSED = "DELETE FROM identity_agent_keys WHERE host_id = $1 AND family = $2 AND first_used_at IS NULL
        AND id NOT IN (SELECT k.id FROM identity_agent_keys k WHERE k.host_id = $1 AND k.family = $2
        ORDER BY k.id DESC LIMIT 20)";
    REVOKE_HOST = "UPDATE identity_agent_keys SET revoked_at = $2, revoked_because = $3
        WHERE host_id = $1 AND revoked_at IS NULL";
    PURGE = "DELETE FROM identity_agent_keys WHERE id IN (SELECT k.id FROM identity_agent_keys k
        WHERE k.superseded_at <= $1 OR k.revoked_at <= $1 ORDER BY k.id LIMIT 5000)";
    LIST = "SELECT id, family, enrollment_token_id, created_at, used_at, superseded_at, revoked_at, rotate_at
        FROM identity_agent_keys WHERE host_id = $1 ORDER BY id DESC LIMIT 100";
}

/// A key as it is looked up.
pub(crate) struct KeyRow {
    pub(crate) id: AgentKeyId,
    pub(crate) host_id: HostId,
    pub(crate) family: Family,
    pub(crate) instance: String,
    pub(crate) was_used: bool,
    /// Why it is refused; none when it is good.
    pub(crate) refused: Option<RefusedKey>,
    pub(crate) rival_since: Option<Timestamp>,
    pub(crate) rotate_at: Option<Timestamp>,
    pub(crate) told_at: Option<Timestamp>,
}

/// A key of a host that somebody else's key is to be told from.
#[derive(Debug, Clone)]
pub struct HostKey {
    /// Its id.
    pub id: AgentKeyId,
    /// By which protocol it is used.
    pub family: Family,
    /// What tells the installation of the agent from others; empty when it did not say.
    pub instance: String,
    /// The enrollment token that it was given for.
    pub enrollment_token_id: Option<EnrollmentTokenId>,
    /// When it was given.
    pub created_at: Timestamp,
}

fn host_key(row: &Row) -> Result<HostKey, StoreError> {
    Ok(HostKey {
        id: row.get("id")?,
        family: family(row)?,
        instance: row.get("instance")?,
        enrollment_token_id: row
            .get::<Option<i64>>("enrollment_token_id")?
            .map(EnrollmentTokenId),
        created_at: row.get("created_at")?,
    })
}

fn family(row: &Row) -> Result<Family, StoreError> {
    let name: String = row.get("family")?;
    Family::parse(&name)
        .ok_or_else(|| StoreError::corrupt("read an agent key", format!("unknown family {name:?}")))
}

pub(crate) async fn find(
    db: &mut impl Executor,
    hash: &[u8; 32],
) -> Result<Option<KeyRow>, StoreError> {
    let Some(row) = db.fetch_optional(FIND, args![hash]).await? else {
        return Ok(None);
    };
    let refused = if row.get::<Option<i64>>("revoked_at")?.is_some() {
        Some(RefusedKey::parse(&row.get::<String>("revoked_because")?))
    } else if row.get::<Option<i64>>("superseded_at")?.is_some() {
        Some(RefusedKey::Superseded)
    } else {
        None
    };
    Ok(Some(KeyRow {
        id: row.get("id")?,
        host_id: row.get("host_id")?,
        family: family(&row)?,
        instance: row.get("instance")?,
        was_used: row.get::<Option<i64>>("first_used_at")?.is_some(),
        refused,
        rival_since: row.get("rival_since")?,
        rotate_at: row.get("rotate_at")?,
        told_at: row.get("told_at")?,
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
    instance: &str,
    now: Timestamp,
) -> Result<AgentKeyId, StoreError> {
    let args = args![
        hash,
        family.name(),
        host,
        token.map(|token| token.0),
        now,
        instance
    ];
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
    instance: &str,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let args = || args![host, family.name(), newest, now, instance];
    let superseded = db.execute(SUPERSEDE_OLDER, args()).await?;
    Ok(superseded + db.execute(RIVAL_OLDER, args()).await?)
}

/// Ends keys whose rivals took their place so long ago. Gives how many.
pub(crate) async fn end_rivals(
    db: &mut impl Executor,
    before: Timestamp,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(END_RIVALS, args![before, now]).await
}

/// Keys that were given to another installation while an older one was, and still is, in use.
pub(crate) async fn newer_rivals(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Vec<HostKey>, StoreError> {
    let rows = db.fetch_all(NEWER, args![host]).await?;
    rows.iter().map(host_key).collect()
}

/// A key that is still good.
pub(crate) async fn find_one(
    db: &mut impl Executor,
    host: HostId,
    key: AgentKeyId,
) -> Result<Option<HostKey>, StoreError> {
    let Some(row) = db.fetch_optional(FIND_ONE, args![host, key]).await? else {
        return Ok(None);
    };
    let is_good = row.get::<Option<i64>>("superseded_at")?.is_none()
        && row.get::<Option<i64>>("revoked_at")?.is_none();
    is_good.then(|| host_key(&row)).transpose()
}

/// Gives keys of one host to another; nothing is left to tell apart on either.
pub(crate) async fn give(
    db: &mut impl Executor,
    from: HostId,
    to: HostId,
    keys: Option<&[AgentKeyId]>,
) -> Result<(), StoreError> {
    match keys {
        Some(keys) => {
            for key in keys {
                db.execute(MOVE, args![from, to, *key]).await?;
            }
            db.execute(UNRIVAL, args![from]).await.map(drop)
        }
        None => db.execute(MOVE_ALL, args![from, to]).await.map(drop),
    }
}

/// Takes one key away; gives false when it was not there or taken away before.
pub(crate) async fn revoke(
    db: &mut impl Executor,
    host: HostId,
    key: AgentKeyId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(db.execute(REVOKE, args![host, key, now]).await? == 1)
}

/// Has a host's key of a family renewed at its next use, if the token that it came by still admits. Gives how many.
pub(crate) async fn rotate(
    db: &mut impl Executor,
    host: HostId,
    family: Family,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(ROTATE, args![host, family.name(), now]).await
}

/// Notes that the agent is told to enroll again; false when its token admits it no more.
pub(crate) async fn tell(
    db: &mut impl Executor,
    key: AgentKeyId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(db.execute(TELL, args![key, now]).await? == 1)
}

pub(crate) async fn has_good(
    db: &mut impl Executor,
    host: HostId,
    family: Family,
) -> Result<bool, StoreError> {
    let found = db.fetch_optional(HAS_GOOD, args![host, family.name()]);
    Ok(found.await?.is_some())
}

/// How many keys are to be renewed and are not yet.
pub(crate) async fn waiting(db: &mut impl Executor) -> Result<u64, StoreError> {
    let total: i64 = db.fetch_one(WAITING, args![]).await?.get("total")?;
    Ok(u64::try_from(total).unwrap_or(0))
}

/// Adds refused calls to the account of a key.
pub(crate) async fn refused(
    db: &mut impl Executor,
    key: AgentKeyId,
    reason: RefusedKey,
    calls: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let calls = i64::try_from(calls).unwrap_or(i64::MAX);
    db.execute(REFUSED, args![key, reason.name(), calls, now])
        .await
        .map(drop)
}

pub(crate) async fn forget_refused(
    db: &mut impl Executor,
    before: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(FORGET_REFUSED, args![before]).await
}

/// A page of agents that call with keys which are no longer good, the newest call first, and how many there are.
pub(crate) async fn list_refused(
    db: &mut impl Executor,
    limit: i64,
    offset: i64,
) -> Result<(Vec<RefusedAgent>, u64), StoreError> {
    let total: i64 = db.fetch_one(COUNT_REFUSED, args![]).await?.get("total")?;
    let rows = db.fetch_all(LIST_REFUSED, args![limit, offset]).await?;
    let items = rows.iter().map(|row| {
        Ok(RefusedAgent {
            key_id: row.get("key_id")?,
            host_id: row.get("host_id")?,
            collector_id: row.get::<Option<i64>>("collector_id")?.map(CollectorId),
            family: family(row)?,
            reason: RefusedKey::parse(&row.get::<String>("reason")?),
            calls: row.get("calls")?,
            first_at: row.get("first_at")?,
            last_at: row.get("last_at")?,
        })
    });
    let items = items.collect::<Result<_, StoreError>>()?;
    Ok((items, u64::try_from(total).unwrap_or(0)))
}

/// Deletes some thousand keys that ended before a time. Gives how many.
pub(crate) async fn purge(db: &mut impl Executor, before: Timestamp) -> Result<u64, StoreError> {
    db.execute(PURGE, args![before]).await
}

pub(crate) async fn revoke_host(
    db: &mut impl Executor,
    host: HostId,
    because: RefusedKey,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(REVOKE_HOST, args![host, now, because.name()])
        .await
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
                rotation_requested_at: row.get("rotate_at")?,
            })
        })
        .collect()
}
