//! Keys of collectors. They are rows of `identity_agent_keys` that releases before OpAMP never take for a host's: their
//! host is 0, and what those releases count or list by (`enrollment_token_id`, `rotate_at`) stays empty.

pub(crate) mod listing;

use std::collections::HashMap;

use muster_clock::Timestamp;
use muster_store::{Executor, Row, StoreError, Value, args};

use crate::collector_keys::KeyState;
use crate::{
    AgentKeyId, CollectorId, EnrollmentTokenId, KeyOffer, NewCollectorKey, OutstandingOffer,
    RefusedKey, TeamId,
};

muster_store::statements! {
    FIND = "SELECT id, collector_id, team_id, first_used_at, superseded_at, ends_at, expires_at, revoked_at,
        revoked_because, due_at FROM identity_agent_keys WHERE key_hash = $1 AND family = 'opamp' AND host_id = 0";
    /// Keeps others from changing the keys of a collector until the unit of work ends.
    HOLD = "INSERT INTO identity_key_holders (collector_id, generation) VALUES ($1, 0)
        ON CONFLICT (collector_id) DO UPDATE SET generation = identity_key_holders.generation RETURNING generation";
    /// The same, and counts its keys.
    NEXT_GENERATION = "INSERT INTO identity_key_holders (collector_id, generation) VALUES ($1, 1)
        ON CONFLICT (collector_id) DO UPDATE SET generation = identity_key_holders.generation + 1 RETURNING generation";
    OUTSTANDING = "SELECT id, offered_at, expires_at FROM identity_agent_keys
        WHERE collector_id = $1 AND first_used_at IS NULL AND superseded_at IS NULL AND revoked_at IS NULL
        AND expires_at > $2 ORDER BY id DESC LIMIT 20";
    OFFER = "INSERT INTO identity_agent_keys (key_hash, family, host_id, created_at, collector_id, collector_token_id,
        team_id, generation, offered_at, expires_at) VALUES ($1, 'opamp', 0, $2, $3, $4, $5, $6, $2, $7) RETURNING id";
    /// Of the keys that nobody used the newest stay.
    END_PENDING_BEYOND = "UPDATE identity_agent_keys SET superseded_at = $2, ends_at = $2
        WHERE collector_id = $1 AND first_used_at IS NULL AND superseded_at IS NULL AND revoked_at IS NULL
        AND id NOT IN (SELECT k.id FROM identity_agent_keys k WHERE k.collector_id = $1 AND k.first_used_at IS NULL
        AND k.superseded_at IS NULL AND k.revoked_at IS NULL ORDER BY k.id DESC LIMIT $3)";
    ACTIVATE = "UPDATE identity_agent_keys SET first_used_at = $2, used_at = $2 WHERE id = $1 AND first_used_at IS NULL
        AND superseded_at IS NULL AND revoked_at IS NULL AND expires_at > $2";
    BIND = "UPDATE identity_agent_keys SET collector_id = $2, generation = $4, first_used_at = $3, used_at = $3
        WHERE id = $1 AND is_made_in_advance = 1 AND collector_id IS NULL AND superseded_at IS NULL
        AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)";
    END_PENDING_BEFORE = "UPDATE identity_agent_keys SET superseded_at = $3, ends_at = $3
        WHERE collector_id = $1 AND id < $2 AND first_used_at IS NULL AND superseded_at IS NULL AND revoked_at IS NULL";
    SUPERSEDE = "UPDATE identity_agent_keys SET superseded_at = $3, ends_at = $4 WHERE collector_id = $1 AND id <> $2
        AND first_used_at IS NOT NULL AND superseded_at IS NULL AND revoked_at IS NULL RETURNING id";
    END_SUPERSEDED_BEYOND = "UPDATE identity_agent_keys SET ends_at = $2
        WHERE collector_id = $1 AND superseded_at IS NOT NULL AND ends_at > $2 AND revoked_at IS NULL
        AND id NOT IN (SELECT k.id FROM identity_agent_keys k WHERE k.collector_id = $1 AND k.superseded_at IS NOT NULL
        AND k.revoked_at IS NULL ORDER BY k.superseded_at DESC, k.id DESC LIMIT $3)";
    /// Of the keys that are good for nothing the newest stay.
    TRIM = "DELETE FROM identity_agent_keys WHERE id IN (SELECT k.id FROM identity_agent_keys k
        WHERE k.collector_id = $1 AND (k.revoked_at IS NOT NULL OR (k.superseded_at IS NOT NULL AND k.ends_at <= $2)
        OR (k.first_used_at IS NULL AND k.expires_at <= $2)) ORDER BY k.id DESC LIMIT 1000 OFFSET $3)";
    REVOKE_COLLECTOR = "UPDATE identity_agent_keys SET revoked_at = $2, revoked_because = $3
        WHERE collector_id = $1 AND revoked_at IS NULL AND (superseded_at IS NULL OR ends_at > $2) RETURNING id";
    REVOKE = "UPDATE identity_agent_keys SET revoked_at = $2, revoked_because = 'operator'
        WHERE id = $1 AND family = 'opamp' AND host_id = 0 AND revoked_at IS NULL";
    RESTORE = "UPDATE identity_agent_keys SET revoked_at = NULL, revoked_because = '' WHERE id = (SELECT k.id
        FROM identity_agent_keys k WHERE k.collector_id = $1 AND k.revoked_because = 'banned'
        AND k.first_used_at IS NOT NULL AND k.superseded_at IS NULL ORDER BY k.first_used_at DESC, k.id DESC LIMIT 1)
        AND NOT EXISTS (SELECT 1 FROM identity_agent_keys a WHERE a.collector_id = $1 AND a.first_used_at IS NOT NULL
        AND a.superseded_at IS NULL AND a.revoked_at IS NULL) RETURNING id";
    /// What was taken away with its collector and did not come back with it never does.
    GIVE_UP = "UPDATE identity_agent_keys SET revoked_because = 'operator'
        WHERE collector_id = $1 AND revoked_because = 'banned'";
    DELETE_COLLECTOR = "DELETE FROM identity_agent_keys WHERE collector_id = $1";
    DELETE_HOLDER = "DELETE FROM identity_key_holders WHERE collector_id = $1";
    MOVE_TO_TEAM = "UPDATE identity_agent_keys SET team_id = $2 WHERE collector_id = $1";
    REVOKE_UNUSED_OF_TEAM = "UPDATE identity_agent_keys SET revoked_at = $2, revoked_because = 'operator'
        WHERE team_id = $1 AND is_made_in_advance = 1 AND collector_id IS NULL AND revoked_at IS NULL";
    LEAVE_TEAM = "UPDATE identity_agent_keys SET team_id = NULL WHERE team_id = $1";
    TEAMS = "SELECT DISTINCT team_id FROM identity_agent_keys WHERE team_id IS NOT NULL";
    MAKE = "INSERT INTO identity_agent_keys (key_hash, family, host_id, created_at, team_id, name, is_made_in_advance,
        expires_at) VALUES ($1, 'opamp', 0, $2, $3, $4, 1, $5) RETURNING id";
    COUNT_UNUSED = "SELECT COUNT(*) AS total FROM identity_agent_keys WHERE is_made_in_advance = 1
        AND collector_id IS NULL AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1)
        AND COALESCE(team_id, 0) = $2";
    ROTATE_COLLECTOR = "UPDATE identity_agent_keys SET due_at = $2 WHERE collector_id = $1
        AND first_used_at IS NOT NULL AND superseded_at IS NULL AND revoked_at IS NULL";
    /// Each active key has its turn, so many a minute, in the order of their ids.
    ROTATE_ALL = "UPDATE identity_agent_keys SET due_at = t.turn FROM (SELECT k.id,
        CAST($1 AS BIGINT) + ((ROW_NUMBER() OVER (ORDER BY k.id)) - 1) * 60000000 / CAST($2 AS BIGINT) AS turn
        FROM identity_agent_keys k WHERE k.collector_id IS NOT NULL AND k.first_used_at IS NOT NULL
        AND k.superseded_at IS NULL AND k.revoked_at IS NULL) t WHERE t.id = identity_agent_keys.id
        AND (identity_agent_keys.due_at IS NULL OR identity_agent_keys.due_at > t.turn)";
    ROTATION = "SELECT COUNT(*) AS waiting, COUNT(CASE WHEN due_at <= $1 THEN 1 END) AS due, MAX(due_at) AS last_due_at
        FROM identity_agent_keys WHERE collector_id IS NOT NULL AND due_at IS NOT NULL AND first_used_at IS NOT NULL
        AND superseded_at IS NULL AND revoked_at IS NULL";
    ROTATING = "SELECT DISTINCT collector_id FROM identity_agent_keys WHERE collector_id > $1 AND due_at IS NOT NULL
        AND first_used_at IS NOT NULL AND superseded_at IS NULL AND revoked_at IS NULL ORDER BY collector_id LIMIT $2";
    STOP_ROTATION = "UPDATE identity_agent_keys SET due_at = NULL WHERE collector_id IS NOT NULL AND due_at > $1
        AND superseded_at IS NULL AND revoked_at IS NULL";
    PURGE_UNUSED = "DELETE FROM identity_agent_keys WHERE id IN (SELECT k.id FROM identity_agent_keys k
        WHERE k.first_used_at IS NULL AND k.expires_at <= $1 ORDER BY k.id LIMIT 5000)";
    /// Of collectors that were deleted, after their keys; one that is still there counts anew when it has a key again.
    PURGE_HOLDERS = "DELETE FROM identity_key_holders WHERE collector_id IN (SELECT h.collector_id
        FROM identity_key_holders h WHERE NOT EXISTS (SELECT 1 FROM identity_agent_keys k
        WHERE k.collector_id = h.collector_id) ORDER BY h.collector_id LIMIT 5000)";
}

/// A key as it is looked up.
pub(crate) struct KeyRow {
    pub(crate) id: AgentKeyId,
    pub(crate) collector_id: Option<CollectorId>,
    pub(crate) team_id: Option<TeamId>,
    pub(crate) dates: Dates,
    revoked_because: RefusedKey,
}

/// What happened to a key, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "they are called as in the table")]
pub(crate) struct Dates {
    pub(crate) first_used_at: Option<Timestamp>,
    pub(crate) superseded_at: Option<Timestamp>,
    pub(crate) ends_at: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) revoked_at: Option<Timestamp>,
    /// From when on an operator wants it renewed.
    pub(crate) due_at: Option<Timestamp>,
}

impl Dates {
    pub(crate) fn of(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            first_used_at: row.get("first_used_at")?,
            superseded_at: row.get("superseded_at")?,
            ends_at: row.get("ends_at")?,
            expires_at: row.get("expires_at")?,
            revoked_at: row.get("revoked_at")?,
            due_at: row.get("due_at")?,
        })
    }

    /// What a key is worth.
    pub(crate) fn state(&self, now: Timestamp) -> KeyState {
        let is_over = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if self.superseded_at.is_some() {
            if is_over(self.ends_at) {
                KeyState::Ended
            } else {
                KeyState::Superseded
            }
        } else if self.first_used_at.is_some() {
            KeyState::Active
        } else if is_over(self.expires_at) {
            KeyState::Ended
        } else {
            KeyState::Pending
        }
    }
}

impl KeyRow {
    /// Why it is refused; none when it is good.
    pub(crate) fn refused(&self, now: Timestamp) -> Option<RefusedKey> {
        match self.dates.state(now) {
            KeyState::Revoked => Some(self.revoked_because),
            KeyState::Ended if self.dates.superseded_at.is_some() => Some(RefusedKey::Superseded),
            KeyState::Ended => Some(RefusedKey::Expired),
            KeyState::Pending | KeyState::Active | KeyState::Superseded => None,
        }
    }
}

pub(crate) async fn find(
    db: &mut impl Executor,
    hash: &[u8; 32],
) -> Result<Option<KeyRow>, StoreError> {
    let Some(row) = db.fetch_optional(FIND, args![hash]).await? else {
        return Ok(None);
    };
    Ok(Some(KeyRow {
        id: row.get("id")?,
        collector_id: row.get::<Option<i64>>("collector_id")?.map(CollectorId),
        team_id: row.get::<Option<i64>>("team_id")?.map(TeamId),
        dates: Dates::of(&row)?,
        revoked_because: RefusedKey::parse(&row.get::<String>("revoked_because")?),
    }))
}

/// What stands in the database of keys that are in memory: what happened to them, and their teams.
pub(crate) async fn standing(
    db: &mut impl Executor,
    ids: &[AgentKeyId],
) -> Result<HashMap<AgentKeyId, (Dates, Option<TeamId>)>, StoreError> {
    let places: Vec<String> = (1..=ids.len()).map(|place| format!("${place}")).collect();
    let sql = format!(
        "SELECT id, team_id, first_used_at, superseded_at, ends_at, expires_at, revoked_at, due_at
        FROM identity_agent_keys WHERE id IN ({})",
        places.join(", ")
    );
    let args = ids.iter().copied().map(Value::from).collect();
    let rows = db.fetch_all(&sql, args).await?;
    rows.iter()
        .map(|row| {
            let team: Option<i64> = row.get("team_id")?;
            Ok((row.get("id")?, (Dates::of(row)?, team.map(TeamId))))
        })
        .collect()
}

/// Keeps others from changing the keys of a collector until the unit of work ends; gives how many it ever had.
pub(crate) async fn hold(
    db: &mut impl Executor,
    collector: CollectorId,
) -> Result<i64, StoreError> {
    let rows = db.execute_returning(HOLD, args![collector]).await?;
    first(&rows, "hold the keys of a collector")?.get("generation")
}

/// The same, and gives which key of it comes next.
pub(crate) async fn next_generation(
    db: &mut impl Executor,
    collector: CollectorId,
) -> Result<i64, StoreError> {
    let rows = db
        .execute_returning(NEXT_GENERATION, args![collector])
        .await?;
    first(&rows, "count the keys of a collector")?.get("generation")
}

fn first<'a>(rows: &'a [Row], attempt: &'static str) -> Result<&'a Row, StoreError> {
    rows.first()
        .ok_or_else(|| StoreError::corrupt(attempt, "no row came back"))
}

/// The newest offer that was not answered, if there is one.
pub(crate) async fn outstanding(
    db: &mut impl Executor,
    collector: CollectorId,
    now: Timestamp,
) -> Result<Option<OutstandingOffer>, StoreError> {
    let rows = db.fetch_all(OUTSTANDING, args![collector, now]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    Ok(Some(OutstandingOffer {
        key_id: row.get("id")?,
        offered_at: row.get("offered_at")?,
        expires_at: row.get("expires_at")?,
        count: u32::try_from(rows.len()).unwrap_or(u32::MAX),
    }))
}

pub(crate) async fn offer(
    db: &mut impl Executor,
    hash: &[u8; 32],
    offer: &KeyOffer,
    generation: i64,
    expires_at: Timestamp,
    now: Timestamp,
) -> Result<AgentKeyId, StoreError> {
    let args = args![
        hash,
        now,
        offer.collector_id,
        offer.token_id.map(|token| token.0),
        offer.team_id.map(|team| team.0),
        generation,
        expires_at
    ];
    let rows = db.execute_returning(OFFER, args).await?;
    first(&rows, "offer a key")?.get("id")
}

/// Ends keys that nobody used, but for the newest `kept`.
pub(crate) async fn end_pending_beyond(
    db: &mut impl Executor,
    collector: CollectorId,
    kept: i64,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(END_PENDING_BEYOND, args![collector, now, kept])
        .await
}

/// Makes a pending key active; false when it is pending no more.
pub(crate) async fn activate(
    db: &mut impl Executor,
    key: AgentKeyId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(db.execute(ACTIVATE, args![key, now]).await? == 1)
}

/// Gives a key that was made in advance to a collector; false when it is somebody's by now, or good no more.
pub(crate) async fn bind(
    db: &mut impl Executor,
    key: AgentKeyId,
    collector: CollectorId,
    generation: i64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let args = args![key, collector, now, generation];
    Ok(db.execute(BIND, args).await? == 1)
}

/// Ends the keys that were offered before one.
pub(crate) async fn end_pending_before(
    db: &mut impl Executor,
    collector: CollectorId,
    key: AgentKeyId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(END_PENDING_BEFORE, args![collector, key, now])
        .await
}

/// Supersedes the active keys other than one; they are good until `ends_at`. Gives which.
pub(crate) async fn supersede(
    db: &mut impl Executor,
    collector: CollectorId,
    key: AgentKeyId,
    ends_at: Timestamp,
    now: Timestamp,
) -> Result<Vec<AgentKeyId>, StoreError> {
    let args = args![collector, key, now, ends_at];
    ids(&db.execute_returning(SUPERSEDE, args).await?)
}

fn ids(rows: &[Row]) -> Result<Vec<AgentKeyId>, StoreError> {
    rows.iter().map(|row| row.get("id")).collect()
}

/// Ends superseded keys at once, but for the newest `kept`.
pub(crate) async fn end_superseded_beyond(
    db: &mut impl Executor,
    collector: CollectorId,
    kept: i64,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(END_SUPERSEDED_BEYOND, args![collector, now, kept])
        .await
}

/// Deletes keys that are good for nothing, but for the newest `kept`.
pub(crate) async fn trim(
    db: &mut impl Executor,
    collector: CollectorId,
    kept: i64,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(TRIM, args![collector, now, kept]).await
}

/// Takes away all keys of a collector that are still good. Gives which.
pub(crate) async fn revoke_collector(
    db: &mut impl Executor,
    collector: CollectorId,
    because: RefusedKey,
    now: Timestamp,
) -> Result<Vec<AgentKeyId>, StoreError> {
    let args = args![collector, now, because.name()];
    ids(&db.execute_returning(REVOKE_COLLECTOR, args).await?)
}

/// Takes one key away; false when it was taken away before.
pub(crate) async fn revoke(
    db: &mut impl Executor,
    key: AgentKeyId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(db.execute(REVOKE, args![key, now]).await? == 1)
}

/// Makes the key good again that a collector used when it was revoked, if it has no other. Gives which.
pub(crate) async fn restore(
    db: &mut impl Executor,
    collector: CollectorId,
) -> Result<Option<AgentKeyId>, StoreError> {
    let rows = db.execute_returning(RESTORE, args![collector]).await?;
    Ok(ids(&rows)?.first().copied())
}

/// Keys that were taken away with their collector stay taken away, whatever becomes of the collector later.
pub(crate) async fn give_up(
    db: &mut impl Executor,
    collector: CollectorId,
) -> Result<(), StoreError> {
    db.execute(GIVE_UP, args![collector]).await.map(drop)
}

pub(crate) async fn delete_collector(
    db: &mut impl Executor,
    collector: CollectorId,
) -> Result<u64, StoreError> {
    let deleted = db.execute(DELETE_COLLECTOR, args![collector]).await?;
    db.execute(DELETE_HOLDER, args![collector]).await?;
    Ok(deleted)
}

pub(crate) async fn move_to_team(
    db: &mut impl Executor,
    collector: CollectorId,
    team: Option<TeamId>,
) -> Result<(), StoreError> {
    let args = args![collector, team.map(|team| team.0)];
    db.execute(MOVE_TO_TEAM, args).await.map(drop)
}

/// Lets go of what belongs to a team: keys that were made in advance for it, and that no collector has used, are taken away.
pub(crate) async fn release_team(
    db: &mut impl Executor,
    team: TeamId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(REVOKE_UNUSED_OF_TEAM, args![team, now]).await?;
    db.execute(LEAVE_TEAM, args![team]).await
}

/// The teams that keys belong to.
pub(crate) async fn teams(db: &mut impl Executor) -> Result<Vec<TeamId>, StoreError> {
    let rows = db.fetch_all(TEAMS, args![]).await?;
    rows.iter().map(|row| row.get("team_id")).collect()
}

pub(crate) async fn make(
    db: &mut impl Executor,
    hash: &[u8; 32],
    new: &NewCollectorKey,
    now: Timestamp,
) -> Result<AgentKeyId, StoreError> {
    let args = args![
        hash,
        now,
        new.team_id.map(|team| team.0),
        new.name.trim(),
        new.expires_at
    ];
    let rows = db.execute_returning(MAKE, args).await?;
    first(&rows, "make a key")?.get("id")
}

/// How many keys of a team, or without one, were made in advance that a collector may still use first.
pub(crate) async fn count_unused(
    db: &mut impl Executor,
    team: Option<TeamId>,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let args = args![now, team.map_or(0, |team| team.0)];
    let total: i64 = db.fetch_one(COUNT_UNUSED, args).await?.get("total")?;
    Ok(u64::try_from(total).unwrap_or(0))
}

/// Wants the active key of a collector renewed now. Gives how many.
pub(crate) async fn rotate_collector(
    db: &mut impl Executor,
    collector: CollectorId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(ROTATE_COLLECTOR, args![collector, now]).await
}

/// Wants all active keys renewed, so many a minute. Gives how many.
pub(crate) async fn rotate_all(
    db: &mut impl Executor,
    per_minute: u32,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(ROTATE_ALL, args![now, i64::from(per_minute)])
        .await
}

/// How many keys are to be renewed, for how many it is time, and when it is for the last.
pub(crate) async fn rotation(
    db: &mut impl Executor,
    now: Timestamp,
) -> Result<(u64, u64, Option<Timestamp>), StoreError> {
    let row = db.fetch_one(ROTATION, args![now]).await?;
    let count = |column: &str| -> Result<u64, StoreError> {
        Ok(u64::try_from(row.get::<i64>(column)?).unwrap_or(0))
    };
    Ok((count("waiting")?, count("due")?, row.get("last_due_at")?))
}

/// The collectors after one whose keys are to be renewed, by their ids, so many at most.
pub(crate) async fn rotating(
    db: &mut impl Executor,
    after: CollectorId,
    limit: usize,
) -> Result<Vec<CollectorId>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = db.fetch_all(ROTATING, args![after, limit]).await?;
    let ids = rows.iter().map(|row| row.get("collector_id"));
    ids.map(|id| id.map(CollectorId)).collect()
}

/// Leaves alone the keys whose turn has not come. Gives how many.
pub(crate) async fn stop_rotation(
    db: &mut impl Executor,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(STOP_ROTATION, args![now]).await
}

/// Deletes some thousand keys that nobody used in time.
pub(crate) async fn purge_unused(
    db: &mut impl Executor,
    before: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(PURGE_UNUSED, args![before]).await
}

/// Deletes some thousand rows of collectors that have no key left.
pub(crate) async fn purge_holders(db: &mut impl Executor) -> Result<u64, StoreError> {
    db.execute(PURGE_HOLDERS, args![]).await
}

/// The enrollment token that a row names.
pub(crate) fn token(row: &Row) -> Result<Option<EnrollmentTokenId>, StoreError> {
    let token: Option<i64> = row.get("collector_token_id")?;
    Ok(token.map(EnrollmentTokenId))
}
