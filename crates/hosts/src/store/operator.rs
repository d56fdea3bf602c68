//! Hosts and labels as operators ask for them.

use std::collections::HashMap;

use muster_clock::Timestamp;
use muster_http::Listing;
use muster_identity::{HostId, TeamFilter, TeamId, UserId};
use muster_store::{
    Dialect, Executor, Row, StoreError, Transaction, Value, args, folded, folded_column, statements,
};

use super::host::{COLUMNS, record};
use super::numbered;
use crate::operators::{GRACE, MISSING_AFTER, NEW_FOR};
use crate::record::{HostRecord, LabelId, LabelMembership, LabelRecord};

/// How often a host asks that never said how often.
pub(crate) const DEFAULT_INTERVAL_SECONDS: i64 = 10;
/// How many hosts one statement puts into a label.
const MEMBERS_AT_ONCE: usize = 5_000;

statements! {
    /// Every label.
    LABELS = "SELECT id, name, description, query, platform, kind, membership, created_at, updated_at, query_changed_at
        FROM hosts_labels ORDER BY kind, name";
    /// One label.
    LABEL = "SELECT id, name, description, query, platform, kind, membership, created_at, updated_at, query_changed_at
        FROM hosts_labels WHERE id = $1";
    /// Every label, in the order in which they are taken.
    LABELS_BY_ID = "SELECT id, name, description, query, platform, kind, membership, created_at, updated_at,
        query_changed_at FROM hosts_labels ORDER BY id";
    /// The labels that a host is in.
    LABELS_OF = "SELECT l.id, l.name, l.description, l.query, l.platform, l.kind, l.membership, l.created_at, l.updated_at,
        l.query_changed_at FROM hosts_labels l JOIN hosts_label_members m ON m.label_id = l.id WHERE m.host_id = $1
        ORDER BY l.name";
    /// A label changes.
    UPDATE_LABEL = "UPDATE hosts_labels SET name = $2, description = $3, query = $4, platform = $5, updated_at = $6,
        query_changed_at = $7 WHERE id = $1 AND kind = 'regular'";
    /// The members of a label, by what each is matched by.
    MEMBERS = "SELECT h.identifier FROM hosts_label_members m JOIN hosts_hosts h ON h.id = m.host_id
        WHERE m.label_id = $1 ORDER BY h.id";
    /// The members of a label, by their ids.
    MEMBER_IDS = "SELECT host_id FROM hosts_label_members WHERE label_id = $1 ORDER BY host_id";
    /// All members leave.
    CLEAR_LABEL = "DELETE FROM hosts_label_members WHERE label_id = $1";
    /// A new label.
    INSERT_LABEL = "INSERT INTO hosts_labels (name, description, query, platform, kind, membership, author_id, created_at,
        updated_at, query_changed_at) VALUES ($1, $2, $3, $4, 'regular', $5, $6, $7, $7, $7) RETURNING id";
    /// A label goes, with its members.
    DELETE_LABEL = "DELETE FROM hosts_labels WHERE id = $1";
    /// The teams that hosts are in.
    TEAMS = "SELECT DISTINCT team_id FROM hosts_hosts WHERE team_id IS NOT NULL";
    /// How many hosts are in each team.
    TEAM_COUNTS = "SELECT team_id, COUNT(*) AS total FROM hosts_hosts WHERE team_id IS NOT NULL GROUP BY team_id";
    /// All hosts of a team leave it.
    LEAVE_TEAM = "UPDATE hosts_hosts SET team_id = NULL, updated_at = $2, label_updated_at = NULL WHERE team_id = $1";
    /// A host changes its team.
    SET_TEAM = "UPDATE hosts_hosts SET team_id = $2, updated_at = $3, label_updated_at = NULL WHERE id = $1";
    /// An operator wants a host's details now.
    SET_REFETCH = "UPDATE hosts_hosts SET refetch_requested = 1 WHERE id = $1";
}

/// What people call a host, as SQL; the same as in `HostFacts::display_name` but for hosts with neither name.
pub(super) const DISPLAY_NAME: &str =
    "COALESCE(NULLIF(h.computer_name, ''), NULLIF(h.hostname, ''), h.identifier)";

/// The shorter of a host's intervals in seconds, as SQL.
fn interval() -> String {
    let known = |column: &str| {
        format!("CASE WHEN COALESCE({column}, 0) > 0 THEN {column} ELSE 1000000 END")
    };
    let (distributed, config) = (
        known("h.distributed_interval_seconds"),
        known("h.config_interval_seconds"),
    );
    format!(
        "CASE WHEN COALESCE(h.distributed_interval_seconds, 0) <= 0 AND COALESCE(h.config_interval_seconds, 0) <= 0 \
         THEN {DEFAULT_INTERVAL_SECONDS} WHEN {distributed} < {config} THEN {distributed} ELSE {config} END"
    )
}

/// Which hosts: conditions with their parameters.
pub(crate) struct Filter {
    now: Timestamp,
    pub(super) conditions: Vec<String>,
    pub(super) args: Vec<Value>,
}

impl Filter {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            now,
            conditions: vec!["1 = 1".to_owned()],
            args: Vec::new(),
        }
    }

    pub(super) fn place(&mut self, value: impl Into<Value>) -> String {
        self.args.push(value.into());
        format!("${}", self.args.len())
    }

    fn places<T: Into<Value>>(&mut self, values: impl IntoIterator<Item = T>) -> String {
        let places: Vec<String> = values.into_iter().map(|value| self.place(value)).collect();
        places.join(", ")
    }

    /// Only hosts of these teams.
    pub(crate) fn visible(&mut self, teams: &TeamFilter) {
        if let TeamFilter::Only(teams) = teams {
            if teams.is_empty() {
                self.conditions.push("1 = 0".to_owned());
                return;
            }
            let places = self.places(teams.iter().copied());
            self.conditions.push(format!("h.team_id IN ({places})"));
        }
    }

    /// Only hosts whose names, numbers or addresses are like this.
    pub(crate) fn search(&mut self, pattern: &str) {
        let place = self.place(pattern);
        let columns = [
            "h.hostname",
            "h.computer_name",
            "h.uuid",
            "h.hardware_serial",
            "h.primary_ip",
            "h.primary_mac",
            "h.public_ip",
            "h.identifier",
        ];
        let like = columns.map(|column| {
            let column = folded_column(column, [pattern]);
            format!("{column} LIKE {place} ESCAPE '\\'")
        });
        self.conditions.push(format!("({})", like.join(" OR ")));
    }

    /// Only hosts that stand so now; false for a word that means nothing.
    pub(crate) fn status(&mut self, status: &str) -> bool {
        let micros = 1_000_000;
        let grace = GRACE.as_secs();
        let online = format!("p.seen_at + ({} + {grace}) * {micros} >= {{}}", interval());
        let condition = match status {
            "online" => online.replace("{}", &self.place(self.now)),
            "offline" => {
                format!(
                    "(p.seen_at IS NULL OR NOT ({}))",
                    online.replace("{}", &self.place(self.now))
                )
            }
            "missing" | "mia" => {
                let place = self.place(self.now.minus(MISSING_AFTER));
                format!("p.seen_at < {place}")
            }
            "new" => {
                let place = self.place(self.now.minus(NEW_FOR));
                format!("h.created_at >= {place}")
            }
            _ => return false,
        };
        self.conditions.push(condition);
        true
    }

    /// Only hosts of a team; 0 for hosts without one.
    pub(crate) fn team(&mut self, team: i64) {
        let place = self.place(team);
        self.conditions
            .push(format!("COALESCE(h.team_id, 0) = {place}"));
    }

    /// Only hosts of these teams, when there are any.
    pub(crate) fn teams(&mut self, teams: &[i64]) {
        if !teams.is_empty() {
            let places = self.places(teams.iter().copied());
            self.conditions
                .push(format!("COALESCE(h.team_id, 0) IN ({places})"));
        }
    }

    /// Only hosts in a label.
    pub(crate) fn label(&mut self, label: i64) {
        self.labels(&[label]);
    }

    /// Only hosts in any of these labels, when there are any.
    pub(crate) fn labels(&mut self, labels: &[i64]) {
        if !labels.is_empty() {
            let places = self.places(labels.iter().copied());
            self.conditions.push(format!(
                "EXISTS (SELECT 1 FROM hosts_label_members m WHERE m.host_id = h.id AND m.label_id IN ({places}))"
            ));
        }
    }

    /// Only hosts of these platforms; `linux` means every distribution.
    pub(crate) fn platforms(&mut self, platforms: &[String]) {
        let mut either = Vec::new();
        if platforms
            .iter()
            .any(|platform| platform.eq_ignore_ascii_case("linux"))
        {
            either.push(
                "h.platform NOT IN ('', 'darwin', 'windows', 'chrome', 'ios', 'ipados', 'android', 'freebsd')"
                    .to_owned(),
            );
        }
        let places = self.places(platforms.iter().map(|platform| platform.to_lowercase()));
        either.push(format!("LOWER(h.platform) IN ({places})"));
        self.conditions.push(format!("({})", either.join(" OR ")));
    }

    /// Only hosts whose operating system is called so.
    pub(crate) fn os_version(&mut self, name: &str) {
        let name = folded(name);
        let column = folded_column("h.os_version", [name.as_str()]);
        let place = self.place(name);
        self.conditions.push(format!("{column} = {place}"));
    }

    /// Only hosts with less free disk space than so many gigabytes.
    pub(crate) fn low_disk(&mut self, gigabytes: i64) {
        let place = self.place(gigabytes);
        self.conditions
            .push(format!("h.disk_available_gb < {place}"));
    }

    /// Only hosts with a higher id.
    pub(crate) fn after_id(&mut self, id: i64) {
        let place = self.place(id);
        self.conditions.push(format!("h.id > {place}"));
    }

    /// Only hosts that a query of the software crate gives, whose parameter is `id`.
    pub(crate) fn software(&mut self, query: fn(&str) -> String, id: i64) {
        let place = self.place(id);
        self.conditions.push(format!("h.id IN ({})", query(&place)));
    }

    /// Only these hosts; no more than a statement has parameters.
    pub(crate) fn ids(&mut self, ids: &[i64]) {
        if ids.is_empty() {
            self.conditions.push("1 = 0".to_owned());
            return;
        }
        let places = self.places(ids.iter().copied());
        self.conditions.push(format!("h.id IN ({places})"));
    }

    /// Only hosts of these names, UUIDs, serial numbers or identifiers.
    pub(crate) fn identifiers(&mut self, names: &[String]) {
        let names: Vec<String> = names.iter().map(|name| folded(name.trim())).collect();
        let places = self.places(names.iter());
        let columns = [
            "h.hostname",
            "h.computer_name",
            "h.uuid",
            "h.hardware_serial",
            "h.identifier",
        ];
        let any = columns.map(|column| {
            let column = folded_column(column, names.iter().map(String::as_str));
            format!("{column} IN ({places})")
        });
        self.conditions.push(format!("({})", any.join(" OR ")));
    }

    fn sql(&self, columns: &str) -> String {
        format!(
            "SELECT {columns} FROM hosts_hosts h LEFT JOIN hosts_presence p ON p.host_id = h.id WHERE {}",
            self.conditions.join(" AND ")
        )
    }
}

pub(crate) async fn count(db: &mut impl Executor, filter: &Filter) -> Result<u64, StoreError> {
    let total: i64 = db
        .fetch_one(&filter.sql("COUNT(*) AS total"), filter.args.clone())
        .await?
        .get("total")?;
    Ok(u64::try_from(total).unwrap_or(0))
}

pub(crate) async fn list(
    db: &mut impl Executor,
    filter: &Filter,
    listing: &Listing,
) -> Result<Vec<HostRecord>, StoreError> {
    let sort = match listing.sort {
        "display_name" => format!("LOWER({DISPLAY_NAME})"),
        "seen_at" => "COALESCE(p.seen_at, 0)".to_owned(),
        "team_id" => "COALESCE(h.team_id, 0)".to_owned(),
        "memory_bytes" => "COALESCE(h.memory_bytes, 0)".to_owned(),
        other => format!("h.{other}"),
    };
    let mut args = filter.args.clone();
    let sql = format!(
        "{} ORDER BY {sort} {direction}, h.id {direction} LIMIT ${} OFFSET ${}",
        filter.sql(COLUMNS),
        args.len() + 1,
        args.len() + 2,
        direction = listing.direction.sql(),
    );
    args.extend(args![
        i64::from(listing.limit),
        i64::try_from(listing.offset).unwrap_or(i64::MAX)
    ]);
    db.fetch_all(&sql, args).await?.iter().map(record).collect()
}

pub(crate) async fn all(
    db: &mut impl Executor,
    filter: &Filter,
) -> Result<Vec<HostRecord>, StoreError> {
    let sql = filter.sql(COLUMNS) + " ORDER BY h.id";
    db.fetch_all(&sql, filter.args.clone())
        .await?
        .iter()
        .map(record)
        .collect()
}

/// The ids alone.
pub(crate) async fn ids(
    db: &mut impl Executor,
    filter: &Filter,
) -> Result<Vec<HostId>, StoreError> {
    let sql = filter.sql("h.id") + " ORDER BY h.id";
    let rows = db.fetch_all(&sql, filter.args.clone()).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

pub(crate) async fn first(
    db: &mut impl Executor,
    filter: &Filter,
) -> Result<Option<HostRecord>, StoreError> {
    let sql = filter.sql(COLUMNS) + " ORDER BY COALESCE(p.seen_at, 0) DESC, h.id LIMIT 1";
    db.fetch_optional(&sql, filter.args.clone())
        .await?
        .as_ref()
        .map(record)
        .transpose()
}

pub(crate) async fn platforms(
    db: &mut impl Executor,
    filter: &Filter,
) -> Result<Vec<(String, u64)>, StoreError> {
    let sql =
        filter.sql("h.platform, COUNT(*) AS total") + " GROUP BY h.platform ORDER BY h.platform";
    let rows = db.fetch_all(&sql, filter.args.clone()).await?;
    rows.iter()
        .map(|row| {
            Ok((
                row.get("platform")?,
                u64::try_from(row.get::<i64>("total")?).unwrap_or(0),
            ))
        })
        .collect()
}

pub(crate) async fn delete(db: &mut impl Executor, ids: &[HostId]) -> Result<(), StoreError> {
    for batch in ids.chunks(1_000) {
        let sql = format!(
            "DELETE FROM hosts_hosts WHERE id IN ({})",
            super::numbered(1, batch.len())
        );
        db.execute(&sql, batch.iter().copied().map(Value::from).collect())
            .await?;
    }
    Ok(())
}

pub(crate) async fn set_team(
    db: &mut impl Executor,
    id: HostId,
    team: Option<TeamId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(SET_TEAM, args![id, team.map(|team| team.0), now])
        .await
        .map(drop)
}

pub(crate) async fn teams(db: &mut impl Executor) -> Result<Vec<TeamId>, StoreError> {
    let rows = db.fetch_all(TEAMS, args![]).await?;
    rows.iter().map(|row| row.get("team_id")).collect()
}

pub(crate) async fn team_counts(
    db: &mut impl Executor,
) -> Result<HashMap<TeamId, u64>, StoreError> {
    let rows = db.fetch_all(TEAM_COUNTS, args![]).await?;
    rows.iter()
        .map(|row| {
            let total = u64::try_from(row.get::<i64>("total")?).unwrap_or(0);
            Ok((row.get("team_id")?, total))
        })
        .collect()
}

/// Gives how many there were.
pub(crate) async fn leave_team(
    db: &mut impl Executor,
    team: TeamId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(LEAVE_TEAM, args![team, now]).await
}

pub(crate) async fn set_refetch(db: &mut impl Executor, id: HostId) -> Result<(), StoreError> {
    db.execute(SET_REFETCH, args![id]).await.map(drop)
}

fn label(row: &Row) -> Result<LabelRecord, StoreError> {
    Ok(LabelRecord {
        id: LabelId(row.get("id")?),
        name: row.get("name")?,
        description: row.get("description")?,
        query: row.get("query")?,
        platform: row.get("platform")?,
        builtin: row.get::<String>("kind")? == "builtin",
        membership: LabelMembership::from_text(&row.get::<String>("membership")?),
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
        query_changed_at: row.get("query_changed_at")?,
    })
}

pub(crate) async fn labels(db: &mut impl Executor) -> Result<Vec<LabelRecord>, StoreError> {
    db.fetch_all(LABELS, args![])
        .await?
        .iter()
        .map(label)
        .collect()
}

/// One label, which nobody else changes until the unit of work ends.
pub(crate) async fn label_for_update(
    db: &mut Transaction,
    id: LabelId,
) -> Result<Option<LabelRecord>, StoreError> {
    let sql = for_update(db, LABEL);
    let row = db.fetch_optional(&sql, args![id]).await?;
    row.as_ref().map(label).transpose()
}

/// The same for every label.
pub(crate) async fn labels_for_update(
    db: &mut Transaction,
) -> Result<Vec<LabelRecord>, StoreError> {
    let sql = for_update(db, LABELS_BY_ID);
    db.fetch_all(&sql, args![])
        .await?
        .iter()
        .map(label)
        .collect()
}

/// On SQLite, where units of work never overlap, nothing has to be said.
fn for_update(db: &Transaction, sql: &str) -> String {
    match db.dialect() {
        Dialect::Sqlite => sql.to_owned(),
        Dialect::Postgres => format!("{sql} FOR UPDATE"),
    }
}

pub(crate) async fn labels_of(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Vec<LabelRecord>, StoreError> {
    db.fetch_all(LABELS_OF, args![host])
        .await?
        .iter()
        .map(label)
        .collect()
}

/// How many hosts are in each label, of those that may be seen.
pub(crate) async fn label_counts(
    db: &mut impl Executor,
    visible: &TeamFilter,
) -> Result<Vec<(LabelId, u64)>, StoreError> {
    let mut filter = Filter::new(Timestamp::EPOCH);
    filter.visible(visible);
    let sql = format!(
        "SELECT m.label_id, COUNT(*) AS total FROM hosts_label_members m JOIN hosts_hosts h ON h.id = m.host_id
        WHERE {} GROUP BY m.label_id",
        filter.conditions.join(" AND ")
    );
    let rows = db.fetch_all(&sql, filter.args).await?;
    rows.iter()
        .map(|row| {
            Ok((
                LabelId(row.get("label_id")?),
                u64::try_from(row.get::<i64>("total")?).unwrap_or(0),
            ))
        })
        .collect()
}

pub(crate) async fn insert_label(
    db: &mut impl Executor,
    label: &LabelRecord,
    author: UserId,
) -> Result<LabelId, StoreError> {
    let args = args![
        &label.name,
        &label.description,
        &label.query,
        &label.platform,
        label.membership.as_str(),
        author,
        label.created_at,
    ];
    let rows = db.execute_returning(INSERT_LABEL, args).await?;
    let row = rows
        .first()
        .ok_or_else(|| StoreError::corrupt("insert a label", "no id came back"))?;
    Ok(LabelId(row.get("id")?))
}

pub(crate) async fn update_label(
    db: &mut impl Executor,
    label: &LabelRecord,
) -> Result<bool, StoreError> {
    let args = args![
        label.id,
        &label.name,
        &label.description,
        &label.query,
        &label.platform,
        label.updated_at,
        label.query_changed_at,
    ];
    Ok(db.execute(UPDATE_LABEL, args).await? == 1)
}

/// The members of a label, by what each is matched by at enrollment.
pub(crate) async fn members(
    db: &mut impl Executor,
    label: LabelId,
) -> Result<Vec<String>, StoreError> {
    let rows = db.fetch_all(MEMBERS, args![label]).await?;
    rows.iter().map(|row| row.get("identifier")).collect()
}

pub(crate) async fn member_ids(
    db: &mut impl Executor,
    label: LabelId,
) -> Result<Vec<HostId>, StoreError> {
    let rows = db.fetch_all(MEMBER_IDS, args![label]).await?;
    rows.iter().map(|row| row.get("host_id")).collect()
}

/// Puts exactly these hosts into a label.
pub(crate) async fn set_members(
    db: &mut impl Executor,
    label: LabelId,
    hosts: &[HostId],
) -> Result<(), StoreError> {
    db.execute(CLEAR_LABEL, args![label]).await?;
    for batch in hosts.chunks(MEMBERS_AT_ONCE) {
        // A host that was deleted meanwhile is left out; one that is there stays until this is done.
        let lock = match db.dialect() {
            Dialect::Sqlite => "",
            Dialect::Postgres => "FOR KEY SHARE",
        };
        let sql = format!(
            "WITH present AS (SELECT id FROM hosts_hosts WHERE id IN ({}) ORDER BY id {lock})
             INSERT INTO hosts_label_members (label_id, host_id) SELECT CAST($1 AS BIGINT), id FROM present WHERE 1 = 1
             ON CONFLICT DO NOTHING",
            numbered(2, batch.len())
        );
        let mut values = args![label];
        values.extend(batch.iter().map(|host| Value::from(*host)));
        db.execute(&sql, values).await?;
    }
    Ok(())
}

pub(crate) async fn delete_label(db: &mut impl Executor, id: LabelId) -> Result<(), StoreError> {
    db.execute(DELETE_LABEL, args![id.0]).await.map(drop)
}
