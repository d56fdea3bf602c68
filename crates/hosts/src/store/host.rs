//! Host rows, as agents' requests find and change them.

use std::collections::{HashMap, HashSet};

use muster_clock::Timestamp;
use muster_identity::{EnrollmentTokenId, HostId, TeamId};
use muster_store::{Dialect, Executor, Row, StoreError, Value, args, statements};

use super::numbered;
use crate::capability::Lost;
use crate::matching;
use crate::record::{HostFacts, HostRecord, IdentifierSource, LabelId};
use crate::state::{HostProfile, Said};

/// How many hosts with one serial number or hardware UUID are looked at when an agent enrolls.
const MAX_CANDIDATES: usize = 50;
/// How many hosts one statement names.
const IDS_AT_ONCE: usize = 500;

/// How many hosts one statement compares with what is in memory.
pub(crate) const MAX_COMPARED: usize = 5_000;

/// The columns of a [`HostRecord`], from `hosts_hosts h LEFT JOIN hosts_presence p`.
macro_rules! columns {
    () => {
        "h.id, h.identifier, h.identifier_from, h.created_at, h.updated_at, h.team_id, h.enrollment_token_id,
        h.enrolled_at, h.osquery_enrolled_at, h.orbit_enrolled_at, p.seen_at, h.hostname, h.computer_name, h.uuid,
        h.hardware_serial, h.hardware_vendor, h.hardware_model, h.hardware_version, h.platform, h.platform_like,
        h.os_name, h.os_version, h.build, h.code_name, h.arch, h.kernel_version, h.osquery_version, h.orbit_version,
        h.desktop_version, h.scripts_enabled, h.cpu_type, h.cpu_subtype, h.cpu_brand, h.cpu_physical_cores,
        h.cpu_logical_cores, h.memory_bytes, h.primary_ip, h.primary_mac, h.public_ip, h.disk_available_gb,
        h.disk_available_percent, h.disk_total_gb, h.distributed_interval_seconds, h.config_interval_seconds,
        h.logger_interval_seconds, h.last_restarted_at, h.detail_updated_at, h.label_updated_at,
        h.policy_updated_at, h.software_updated_at, h.refetch_requested"
    };
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM hosts_hosts h LEFT JOIN hosts_presence p ON p.host_id = h.id ",
            $rest
        )
    };
}

/// The columns of a [`HostRecord`].
pub(crate) const COLUMNS: &str = columns!();

statements! {
    /// One host.
    FIND = select!("WHERE h.id = $1");
    /// The host of a matching key.
    FIND_BY_IDENTIFIER = select!("WHERE h.identifier = $1");
    /// Hosts of a hardware UUID.
    FIND_BY_HARDWARE_UUID = select!("WHERE h.hardware_uuid = $1 ORDER BY h.id LIMIT $2");
    /// Hosts of a serial number.
    FIND_BY_SERIAL = select!("WHERE h.hardware_serial = $1 ORDER BY h.id LIMIT $2");
    /// What the check-in keeps in memory.
    STATE = "SELECT h.team_id, h.hostname, h.computer_name, h.hardware_model, h.hardware_serial, h.identifier,
            h.platform, h.platform_like, h.osquery_version, h.orbit_version, h.distributed_interval_seconds,
            h.config_interval_seconds, h.logger_interval_seconds, h.detail_updated_at, h.label_updated_at,
            h.refetch_requested,
            (SELECT string_agg(CAST(m.label_id AS TEXT), ',') FROM hosts_label_members m WHERE m.host_id = h.id)
                AS label_ids,
            (SELECT string_agg(c.process || ' ' || c.version || ' ' || c.names || ' ' || CAST(c.changed_at AS TEXT)
                || ' ' || c.lost, '
') FROM hosts_capabilities c WHERE c.host_id = h.id) AS capabilities
        FROM hosts_hosts h WHERE h.id = $1";
    /// A new host; what else is known follows.
    INSERT = "INSERT INTO hosts_hosts (identifier, identifier_from, created_at, updated_at, enrolled_at)
        VALUES ($1, $2, $3, $3, $3) RETURNING id";
    /// Every enrolled host is in the labels that say so.
    JOIN_LABELS = "INSERT INTO hosts_label_members (label_id, host_id)
        SELECT l.id, $1 FROM hosts_labels l WHERE l.membership = 'all' ON CONFLICT DO NOTHING";
    /// What an enrollment decides.
    SAVE_ENROLLMENT = "UPDATE hosts_hosts SET identifier = $2, identifier_from = $3, team_id = $4,
            enrollment_token_id = $5, enrolled_at = $6, osquery_enrolled_at = $7, orbit_enrolled_at = $8,
            refetch_requested = $9, updated_at = $6
        WHERE id = $1";
    /// What a host says about itself.
    SAVE_FACTS = "UPDATE hosts_hosts SET hostname = $2, computer_name = $3, uuid = $4, hardware_uuid = $5,
            hardware_serial = $6, hardware_vendor = $7, hardware_model = $8, hardware_version = $9, platform = $10,
            platform_like = $11, os_name = $12, os_version = $13, build = $14, code_name = $15, arch = $16,
            kernel_version = $17, osquery_version = $18, orbit_version = $19, desktop_version = $20,
            scripts_enabled = $21, cpu_type = $22, cpu_subtype = $23, cpu_brand = $24, cpu_physical_cores = $25,
            cpu_logical_cores = $26, memory_bytes = $27, primary_ip = $28, primary_mac = $29, public_ip = $30,
            disk_available_gb = $31, disk_available_percent = $32, disk_total_gb = $33,
            distributed_interval_seconds = $34, config_interval_seconds = $35, logger_interval_seconds = $36,
            last_restarted_at = $37, updated_at = $38
        WHERE id = $1";
    /// Details arrived.
    STAMP_DETAILS = "UPDATE hosts_hosts SET detail_updated_at = $2, refetch_requested = 0 WHERE id = $1";
    /// Software arrived.
    STAMP_SOFTWARE = "UPDATE hosts_hosts SET software_updated_at = $2 WHERE id = $1";
    /// Labels were evaluated.
    STAMP_LABELS = "UPDATE hosts_hosts SET label_updated_at = $2 WHERE id = $1";
    /// Its labels are to be evaluated anew.
    UNSTAMP_LABELS = "UPDATE hosts_hosts SET label_updated_at = NULL WHERE id = $1";
    /// The intervals that its configuration sets.
    SAVE_INTERVALS = "UPDATE hosts_hosts SET distributed_interval_seconds = $2, config_interval_seconds = $3,
            logger_interval_seconds = $4, updated_at = $5
        WHERE id = $1";
}

/// Reads the columns of [`columns!`].
pub(crate) fn record(row: &Row) -> Result<HostRecord, StoreError> {
    let source: String = row.get("identifier_from")?;
    Ok(HostRecord {
        id: row.get("id")?,
        identifier: row.get("identifier")?,
        identifier_from: IdentifierSource::from_text(&source),
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
        team_id: row.get::<Option<i64>>("team_id")?.map(TeamId),
        enrollment_token_id: row
            .get::<Option<i64>>("enrollment_token_id")?
            .map(EnrollmentTokenId),
        enrolled_at: row.get("enrolled_at")?,
        osquery_enrolled_at: row.get("osquery_enrolled_at")?,
        orbit_enrolled_at: row.get("orbit_enrolled_at")?,
        seen_at: row.get("seen_at")?,
        facts: facts(row)?,
        detail_updated_at: row.get("detail_updated_at")?,
        label_updated_at: row.get("label_updated_at")?,
        policy_updated_at: row.get("policy_updated_at")?,
        software_updated_at: row.get("software_updated_at")?,
        refetch_requested: row.get("refetch_requested")?,
    })
}

fn facts(row: &Row) -> Result<HostFacts, StoreError> {
    Ok(HostFacts {
        hostname: row.get("hostname")?,
        computer_name: row.get("computer_name")?,
        uuid: row.get("uuid")?,
        hardware_serial: row.get("hardware_serial")?,
        hardware_vendor: row.get("hardware_vendor")?,
        hardware_model: row.get("hardware_model")?,
        hardware_version: row.get("hardware_version")?,
        platform: row.get("platform")?,
        platform_like: row.get("platform_like")?,
        os_name: row.get("os_name")?,
        os_version: row.get("os_version")?,
        build: row.get("build")?,
        code_name: row.get("code_name")?,
        arch: row.get("arch")?,
        kernel_version: row.get("kernel_version")?,
        osquery_version: row.get("osquery_version")?,
        orbit_version: row.get("orbit_version")?,
        desktop_version: row.get("desktop_version")?,
        scripts_enabled: row
            .get::<Option<i64>>("scripts_enabled")?
            .map(|flag| flag != 0),
        cpu_type: row.get("cpu_type")?,
        cpu_subtype: row.get("cpu_subtype")?,
        cpu_brand: row.get("cpu_brand")?,
        cpu_physical_cores: row.get("cpu_physical_cores")?,
        cpu_logical_cores: row.get("cpu_logical_cores")?,
        memory_bytes: row.get("memory_bytes")?,
        primary_ip: row.get("primary_ip")?,
        primary_mac: row.get("primary_mac")?,
        public_ip: row.get("public_ip")?,
        disk_available_gb: row.get("disk_available_gb")?,
        disk_available_percent: row.get("disk_available_percent")?,
        disk_total_gb: row.get("disk_total_gb")?,
        distributed_interval_seconds: row.get("distributed_interval_seconds")?,
        config_interval_seconds: row.get("config_interval_seconds")?,
        logger_interval_seconds: row.get("logger_interval_seconds")?,
        last_restarted_at: row.get("last_restarted_at")?,
    })
}

/// One host.
pub(crate) async fn find(
    db: &mut impl Executor,
    id: HostId,
) -> Result<Option<HostRecord>, StoreError> {
    let row = db.fetch_optional(FIND, args![id]).await?;
    row.as_ref().map(record).transpose()
}

/// One host, whose row nobody else changes until the unit of work ends. SQLite has one writer anyway.
pub(crate) async fn find_for_update(
    db: &mut impl Executor,
    id: HostId,
) -> Result<Option<HostRecord>, StoreError> {
    let sql = match db.dialect() {
        Dialect::Sqlite => FIND.to_owned(),
        Dialect::Postgres => format!("{FIND} FOR UPDATE OF h"),
    };
    let row = db.fetch_optional(&sql, args![id]).await?;
    row.as_ref().map(record).transpose()
}

/// Those of the hosts that are still there, which nobody else changes or deletes until the unit of work ends: no enrollment
/// gives them a key meanwhile.
pub(crate) async fn lock(
    db: &mut impl Executor,
    ids: &[HostId],
) -> Result<HashSet<HostId>, StoreError> {
    let mut there = HashSet::new();
    let mut ids = ids.to_vec();
    // Everybody in the same order, so that nobody waits for each other.
    ids.sort_unstable();
    for batch in ids.chunks(1_000) {
        let lock = match db.dialect() {
            Dialect::Sqlite => "",
            Dialect::Postgres => " FOR UPDATE",
        };
        let places = numbered(1, batch.len());
        let sql = format!("SELECT id FROM hosts_hosts WHERE id IN ({places}) ORDER BY id{lock}");
        let args = batch.iter().copied().map(Value::from).collect();
        for row in db.fetch_all(&sql, args).await? {
            there.insert(HostId(row.get("id")?));
        }
    }
    Ok(there)
}

pub(crate) async fn find_by_identifier(
    db: &mut impl Executor,
    identifier: &str,
) -> Result<Option<HostRecord>, StoreError> {
    let row = db
        .fetch_optional(FIND_BY_IDENTIFIER, args![identifier])
        .await?;
    row.as_ref().map(record).transpose()
}

pub(crate) async fn find_by_hardware_uuid(
    db: &mut impl Executor,
    hardware_uuid: &str,
) -> Result<Vec<HostRecord>, StoreError> {
    let values = args![hardware_uuid, MAX_CANDIDATES as i64];
    let rows = db.fetch_all(FIND_BY_HARDWARE_UUID, values).await?;
    rows.iter().map(record).collect()
}

pub(crate) async fn find_by_serial(
    db: &mut impl Executor,
    serial: &str,
) -> Result<Vec<HostRecord>, StoreError> {
    let rows = db
        .fetch_all(FIND_BY_SERIAL, args![serial, MAX_CANDIDATES as i64])
        .await?;
    rows.iter().map(record).collect()
}

/// Makes a host and puts it into the labels that every host is in.
pub(crate) async fn insert(
    db: &mut impl Executor,
    identifier: &str,
    source: IdentifierSource,
    now: Timestamp,
) -> Result<HostId, StoreError> {
    let rows = db
        .execute_returning(INSERT, args![identifier, source.as_str(), now])
        .await?;
    let row = rows
        .first()
        .ok_or_else(|| StoreError::corrupt("make a host", "no id came back"))?;
    let id = row.get("id")?;
    db.execute(JOIN_LABELS, args![id]).await?;
    Ok(id)
}

/// Keeps what an enrollment decided.
pub(crate) async fn save_enrollment(
    db: &mut impl Executor,
    host: &HostRecord,
) -> Result<(), StoreError> {
    let values = args![
        host.id,
        &host.identifier,
        host.identifier_from.as_str(),
        host.team_id.map(|team| team.0),
        host.enrollment_token_id.map(|token| token.0),
        host.enrolled_at,
        host.osquery_enrolled_at,
        host.orbit_enrolled_at,
        host.refetch_requested
    ];
    db.execute(SAVE_ENROLLMENT, values).await.map(drop)
}

/// Keeps what a host says about itself.
pub(crate) async fn save_facts(
    db: &mut impl Executor,
    id: HostId,
    facts: &HostFacts,
    now: Timestamp,
) -> Result<(), StoreError> {
    let values = args![
        id,
        &facts.hostname,
        &facts.computer_name,
        &facts.uuid,
        matching::uuid_key(&facts.uuid),
        &facts.hardware_serial,
        &facts.hardware_vendor,
        &facts.hardware_model,
        &facts.hardware_version,
        &facts.platform,
        &facts.platform_like,
        &facts.os_name,
        &facts.os_version,
        &facts.build,
        &facts.code_name,
        &facts.arch,
        &facts.kernel_version,
        &facts.osquery_version,
        &facts.orbit_version,
        &facts.desktop_version,
        facts.scripts_enabled,
        &facts.cpu_type,
        &facts.cpu_subtype,
        &facts.cpu_brand,
        facts.cpu_physical_cores,
        facts.cpu_logical_cores,
        facts.memory_bytes,
        &facts.primary_ip,
        &facts.primary_mac,
        &facts.public_ip,
        facts.disk_available_gb,
        facts.disk_available_percent,
        facts.disk_total_gb,
        facts.distributed_interval_seconds,
        facts.config_interval_seconds,
        facts.logger_interval_seconds,
        facts.last_restarted_at,
        now
    ];
    db.execute(SAVE_FACTS, values).await.map(drop)
}

pub(crate) async fn stamp_details(
    db: &mut impl Executor,
    id: HostId,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(STAMP_DETAILS, args![id, now]).await.map(drop)
}

pub(crate) async fn stamp_software(
    db: &mut impl Executor,
    id: HostId,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(STAMP_SOFTWARE, args![id, now]).await.map(drop)
}

pub(crate) async fn stamp_labels(
    db: &mut impl Executor,
    id: HostId,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(STAMP_LABELS, args![id, now]).await.map(drop)
}

pub(crate) async fn unstamp_labels(db: &mut impl Executor, id: HostId) -> Result<(), StoreError> {
    db.execute(UNSTAMP_LABELS, args![id]).await.map(drop)
}

pub(crate) async fn save_intervals(
    db: &mut impl Executor,
    id: HostId,
    profile: &HostProfile,
    now: Timestamp,
) -> Result<(), StoreError> {
    let values = args![
        id,
        profile.distributed_interval_seconds,
        profile.config_interval_seconds,
        profile.logger_interval_seconds,
        now
    ];
    db.execute(SAVE_INTERVALS, values).await.map(drop)
}

/// What the check-in keeps in memory about a host, as it stands in the database.
pub(crate) struct Loaded {
    pub(crate) profile: HostProfile,
    pub(crate) detail_updated_at: Option<Timestamp>,
    pub(crate) label_updated_at: Option<Timestamp>,
    pub(crate) refetch_requested: bool,
    /// What each program last said that ever said anything.
    pub(crate) capabilities: Vec<Said>,
}

pub(crate) async fn load_state(
    db: &mut impl Executor,
    id: HostId,
) -> Result<Option<Loaded>, StoreError> {
    let Some(row) = db.fetch_optional(STATE, args![id]).await? else {
        return Ok(None);
    };
    let list: Option<String> = row.get("label_ids")?;
    let mut label_ids: Vec<LabelId> = list
        .unwrap_or_default()
        .split(',')
        .filter_map(|id| id.parse().ok().map(LabelId))
        .collect();
    label_ids.sort_unstable();
    let said: Option<String> = row.get("capabilities")?;
    let capabilities = said
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(5, ' ');
            Some(Said {
                process: parts.next()?.to_owned(),
                version: parts.next()?.to_owned(),
                names: parts.next()?.to_owned(),
                changed_at: Timestamp::from_micros(parts.next()?.parse().ok()?),
                lost: Lost::from_text(parts.next()?),
            })
        })
        .collect();
    let facts = HostFacts {
        hostname: row.get("hostname")?,
        computer_name: row.get("computer_name")?,
        hardware_model: row.get("hardware_model")?,
        hardware_serial: row.get("hardware_serial")?,
        ..HostFacts::default()
    };
    let identifier: String = row.get("identifier")?;
    Ok(Some(Loaded {
        profile: HostProfile {
            team_id: row.get::<Option<i64>>("team_id")?.map(TeamId),
            display_name: facts.display_name(&identifier),
            hostname: facts.hostname,
            platform: row.get("platform")?,
            platform_like: row.get("platform_like")?,
            osquery_version: row.get("osquery_version")?,
            orbit_version: row.get("orbit_version")?,
            label_ids,
            distributed_interval_seconds: row.get("distributed_interval_seconds")?,
            config_interval_seconds: row.get("config_interval_seconds")?,
            logger_interval_seconds: row.get("logger_interval_seconds")?,
        },
        detail_updated_at: row.get("detail_updated_at")?,
        label_updated_at: row.get("label_updated_at")?,
        refetch_requested: row.get("refetch_requested")?,
        capabilities,
    }))
}

/// What of a host in memory is compared with the database.
pub(crate) struct Compared {
    pub(crate) team_id: Option<TeamId>,
    pub(crate) refetch_requested: bool,
    /// Sorted; none when they were not asked for.
    pub(crate) labels: Option<Vec<LabelId>>,
}

/// What the database has of these hosts; those that do not exist are left out.
pub(crate) async fn compared(
    db: &mut impl Executor,
    ids: &[HostId],
    with_labels: bool,
) -> Result<HashMap<HostId, Compared>, StoreError> {
    let places = super::numbered(1, ids.len());
    let args = || ids.iter().copied().map(Value::from).collect();
    let sql =
        format!("SELECT id, team_id, refetch_requested FROM hosts_hosts WHERE id IN ({places})");
    let mut hosts = HashMap::with_capacity(ids.len());
    for row in db.fetch_all(&sql, args()).await? {
        let compared = Compared {
            team_id: row.get::<Option<i64>>("team_id")?.map(TeamId),
            refetch_requested: row.get("refetch_requested")?,
            labels: with_labels.then(Vec::new),
        };
        hosts.insert(row.get("id")?, compared);
    }
    if with_labels {
        let sql = format!(
            "SELECT host_id, label_id FROM hosts_label_members WHERE host_id IN ({places}) ORDER BY label_id"
        );
        for row in db.fetch_all(&sql, args()).await? {
            let host: Option<&mut Compared> = hosts.get_mut(&row.get("host_id")?);
            if let Some(labels) = host.and_then(|host| host.labels.as_mut()) {
                labels.push(LabelId(row.get("label_id")?));
            }
        }
    }
    Ok(hosts)
}

/// Those of these hosts that there still are and that may come.
pub(crate) async fn existing(
    db: &mut impl Executor,
    hosts: &[HostId],
) -> Result<HashSet<HostId>, StoreError> {
    let mut found = HashSet::new();
    for batch in hosts.chunks(IDS_AT_ONCE) {
        let places = numbered(1, batch.len());
        let sql = format!(
            "SELECT id FROM hosts_hosts WHERE id IN ({places}) AND id NOT IN (SELECT host_id FROM hosts_bans)"
        );
        let values = batch.iter().map(|host| Value::from(*host)).collect();
        for row in db.fetch_all(&sql, values).await? {
            found.insert(HostId(row.get("id")?));
        }
    }
    Ok(found)
}
