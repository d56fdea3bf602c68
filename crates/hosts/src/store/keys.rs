//! What hangs on the keys of hosts: bans, aliases of machines that look the same, and rotations.

use muster_clock::Timestamp;
use muster_identity::HostId;
use muster_store::{Executor, Row, StoreError, args, statements};

use crate::operators::{Ban, KeyRotation};
use crate::record::HostRecord;

statements! {
    BAN = "INSERT INTO hosts_bans (host_id, display_name, identifier, hardware_uuid, hardware_serial, reason, banned_at,
        banned_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (host_id) DO NOTHING";
    UNBAN = "DELETE FROM hosts_bans WHERE host_id = $1";
    FIND_BAN = "SELECT host_id, display_name, reason, banned_at, banned_by FROM hosts_bans WHERE host_id = $1";
    /// Of a machine whose host is gone.
    FIND_ORPHANED_BAN = "SELECT b.host_id FROM hosts_bans b WHERE (b.identifier = $1
        OR (b.hardware_uuid <> '' AND b.hardware_uuid = $2) OR (b.hardware_serial <> '' AND b.hardware_serial = $3))
        AND NOT EXISTS (SELECT 1 FROM hosts_hosts h WHERE h.id = b.host_id)";
    BANNED = "SELECT host_id FROM hosts_bans";
    COUNT_BANS = "SELECT COUNT(*) AS total FROM hosts_bans";
    LIST_BANS = "SELECT host_id, display_name, reason, banned_at, banned_by FROM hosts_bans
        ORDER BY banned_at DESC, host_id LIMIT $1 OFFSET $2";
    ADD_ALIAS = "INSERT INTO hosts_aliases (alias, host_id) VALUES ($1, $2)
        ON CONFLICT (alias) DO UPDATE SET host_id = excluded.host_id";
    FIND_ALIAS = "SELECT host_id FROM hosts_aliases WHERE alias = $1";
    DROP_ALIASES = "DELETE FROM hosts_aliases WHERE host_id = $1";
    SET_CLONE_OF = "UPDATE hosts_hosts SET clone_of = $2 WHERE id = $1";
    CLONE_OF = "SELECT clone_of FROM hosts_hosts WHERE id = $1";
    CLONES = "SELECT id FROM hosts_hosts WHERE clone_of = $1 ORDER BY id DESC LIMIT 20";
    START_ROTATION = "INSERT INTO hosts_key_rotations (hosts_per_minute, started_at, started_by) VALUES ($1, $2, $3)
        RETURNING id";
    RUNNING_ROTATION = "SELECT id, hosts_per_minute, started_at, started_by, cursor_id, asked, skipped, ended_at, outcome
        FROM hosts_key_rotations WHERE ended_at IS NULL ORDER BY id LIMIT 1";
    ROTATIONS = "SELECT id, hosts_per_minute, started_at, started_by, cursor_id, asked, skipped, ended_at, outcome
        FROM hosts_key_rotations ORDER BY id DESC LIMIT 50";
    ADVANCE_ROTATION = "UPDATE hosts_key_rotations SET cursor_id = $2, asked = asked + $3, skipped = skipped + $4
        WHERE id = $1 AND ended_at IS NULL";
    END_ROTATION = "UPDATE hosts_key_rotations SET ended_at = $2, outcome = $3 WHERE id = $1 AND ended_at IS NULL";
    NEXT_HOSTS = "SELECT h.id, (SELECT c.names FROM hosts_capabilities c WHERE c.host_id = h.id AND c.process = 'orbit')
        AS orbit_said FROM hosts_hosts h WHERE h.id > $1 AND h.enrolled_at <= $2 ORDER BY h.id LIMIT $3";
    ONE_HOST = "SELECT h.id, (SELECT c.names FROM hosts_capabilities c WHERE c.host_id = h.id AND c.process = 'orbit')
        AS orbit_said FROM hosts_hosts h WHERE h.id = $1";
}

fn ban(row: &Row) -> Result<Ban, StoreError> {
    Ok(Ban {
        host_id: row.get("host_id")?,
        display_name: row.get("display_name")?,
        reason: row.get("reason")?,
        banned_at: row.get("banned_at")?,
        banned_by: row.get("banned_by")?,
    })
}

/// Bans a host; gives false when it was banned before.
pub(crate) async fn add_ban(
    db: &mut impl Executor,
    host: &HostRecord,
    ban: &Ban,
) -> Result<bool, StoreError> {
    let serial = host.facts.hardware_serial.trim();
    let usable = crate::matching::is_serial_usable(serial);
    let args = args![
        host.id,
        &ban.display_name,
        &host.identifier,
        crate::matching::uuid_key(&host.facts.uuid),
        if usable { serial } else { "" },
        &ban.reason,
        ban.banned_at,
        &ban.banned_by
    ];
    Ok(db.execute(BAN, args).await? == 1)
}

/// Gives false when there was no ban.
pub(crate) async fn remove_ban(db: &mut impl Executor, host: HostId) -> Result<bool, StoreError> {
    Ok(db.execute(UNBAN, args![host]).await? == 1)
}

pub(crate) async fn find_ban(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Option<Ban>, StoreError> {
    let row = db.fetch_optional(FIND_BAN, args![host]).await?;
    row.as_ref().map(ban).transpose()
}

/// Whether a machine was banned whose host is not there any more.
pub(crate) async fn has_orphaned_ban(
    db: &mut impl Executor,
    identifier: &str,
    uuid_key: &str,
    serial: &str,
) -> Result<bool, StoreError> {
    let found = db.fetch_optional(FIND_ORPHANED_BAN, args![identifier, uuid_key, serial]);
    Ok(found.await?.is_some())
}

/// All hosts that are banned.
pub(crate) async fn banned(db: &mut impl Executor) -> Result<Vec<HostId>, StoreError> {
    let rows = db.fetch_all(BANNED, args![]).await?;
    rows.iter().map(|row| row.get("host_id")).collect()
}

/// A page of bans, newest first, and how many there are.
pub(crate) async fn bans(
    db: &mut impl Executor,
    limit: i64,
    offset: i64,
) -> Result<(Vec<Ban>, u64), StoreError> {
    let total: i64 = db.fetch_one(COUNT_BANS, args![]).await?.get("total")?;
    let rows = db.fetch_all(LIST_BANS, args![limit, offset]).await?;
    let items = rows.iter().map(ban).collect::<Result<_, _>>()?;
    Ok((items, u64::try_from(total).unwrap_or(0)))
}

pub(crate) async fn add_alias(
    db: &mut impl Executor,
    alias: &str,
    host: HostId,
) -> Result<(), StoreError> {
    db.execute(ADD_ALIAS, args![alias, host]).await.map(drop)
}

pub(crate) async fn drop_aliases(db: &mut impl Executor, host: HostId) -> Result<(), StoreError> {
    db.execute(DROP_ALIASES, args![host]).await.map(drop)
}

/// The host of an installation that was told from others.
pub(crate) async fn find_alias(
    db: &mut impl Executor,
    alias: &str,
) -> Result<Option<HostId>, StoreError> {
    let row = db.fetch_optional(FIND_ALIAS, args![alias]).await?;
    row.map(|row| row.get("host_id")).transpose()
}

pub(crate) async fn set_clone_of(
    db: &mut impl Executor,
    host: HostId,
    original: HostId,
) -> Result<(), StoreError> {
    db.execute(SET_CLONE_OF, args![host, original])
        .await
        .map(drop)
}

pub(crate) async fn clone_of(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Option<HostId>, StoreError> {
    let row = db.fetch_optional(CLONE_OF, args![host]).await?;
    let id = row
        .map(|row| row.get::<Option<i64>>("clone_of"))
        .transpose()?;
    Ok(id.flatten().map(HostId))
}

/// Hosts that were told from this one, newest first.
pub(crate) async fn clones(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Vec<HostId>, StoreError> {
    let rows = db.fetch_all(CLONES, args![host]).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

fn rotation(row: &Row) -> Result<KeyRotation, StoreError> {
    let outcome: String = row.get("outcome")?;
    Ok(KeyRotation {
        id: row.get("id")?,
        hosts_per_minute: row.get("hosts_per_minute")?,
        started_at: row.get("started_at")?,
        started_by: row.get("started_by")?,
        cursor_id: row.get("cursor_id")?,
        asked: row.get("asked")?,
        skipped: row.get("skipped")?,
        ended_at: row.get("ended_at")?,
        outcome: Some(outcome).filter(|outcome| !outcome.is_empty()),
    })
}

pub(crate) async fn start_rotation(
    db: &mut impl Executor,
    per_minute: i64,
    by: &str,
    now: Timestamp,
) -> Result<i64, StoreError> {
    let rows = db
        .execute_returning(START_ROTATION, args![per_minute, now, by])
        .await?;
    let row = rows.first();
    row.ok_or_else(|| StoreError::corrupt("begin a rotation", "no id came back"))?
        .get("id")
}

/// The oldest rotation that runs.
pub(crate) async fn running_rotation(
    db: &mut impl Executor,
) -> Result<Option<KeyRotation>, StoreError> {
    let row = db.fetch_optional(RUNNING_ROTATION, args![]).await?;
    row.as_ref().map(rotation).transpose()
}

/// The newest rotations.
pub(crate) async fn rotations(db: &mut impl Executor) -> Result<Vec<KeyRotation>, StoreError> {
    let rows = db.fetch_all(ROTATIONS, args![]).await?;
    rows.iter().map(rotation).collect()
}

/// Gives false when it was stopped meanwhile.
pub(crate) async fn advance_rotation(
    db: &mut impl Executor,
    id: i64,
    cursor: HostId,
    asked: i64,
    skipped: i64,
) -> Result<bool, StoreError> {
    let args = args![id, cursor, asked, skipped];
    Ok(db.execute(ADVANCE_ROTATION, args).await? == 1)
}

/// Gives false when it had ended before.
pub(crate) async fn end_rotation(
    db: &mut impl Executor,
    id: i64,
    outcome: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(db.execute(END_ROTATION, args![id, now, outcome]).await? == 1)
}

/// A host whose keys are to be renewed, and whether its orbit comes back when it is told that its key is not good: old
/// ones do not, and those say nothing of their abilities.
pub(crate) struct RotatedHost {
    pub(crate) id: HostId,
    pub(crate) has_new_orbit: bool,
}

fn rotated(row: &Row) -> Result<RotatedHost, StoreError> {
    let said: Option<String> = row.get("orbit_said")?;
    Ok(RotatedHost {
        id: row.get("id")?,
        has_new_orbit: said.is_some_and(|names| !names.is_empty()),
    })
}

/// The next hosts that enrolled before a rotation began.
pub(crate) async fn next_hosts(
    db: &mut impl Executor,
    after: i64,
    enrolled_before: Timestamp,
    limit: i64,
) -> Result<Vec<RotatedHost>, StoreError> {
    let rows = db
        .fetch_all(NEXT_HOSTS, args![after, enrolled_before, limit])
        .await?;
    rows.iter().map(rotated).collect()
}

pub(crate) async fn one_host(
    db: &mut impl Executor,
    id: HostId,
) -> Result<Option<RotatedHost>, StoreError> {
    let row = db.fetch_optional(ONE_HOST, args![id]).await?;
    row.as_ref().map(rotated).transpose()
}
