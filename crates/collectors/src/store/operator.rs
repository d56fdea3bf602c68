//! Agents as operators ask for them.

use std::collections::HashMap;

use muster_clock::Timestamp;
use muster_http::Listing;
use muster_identity::{CollectorId, EnrollmentTokenId, HostId, TeamFilter, TeamId};
use muster_store::{Executor, Row, StoreError, Value, args, folded_column, statements};

use crate::record::Status;

/// What a list shows of an agent.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) id: CollectorId,
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) host_name: String,
    pub(crate) team_id: Option<TeamId>,
    pub(crate) token_id: Option<EnrollmentTokenId>,
    pub(crate) standing: String,
    pub(crate) capabilities: u64,
    pub(crate) is_healthy: Option<bool>,
    pub(crate) key_status: String,
    pub(crate) config_status: String,
    pub(crate) interval_seconds: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) seen_at: Option<Timestamp>,
    pub(crate) gone_at: Option<Timestamp>,
    /// The host that it is linked to.
    pub(crate) linked_host_id: Option<HostId>,
}

/// Of an agent at most one host is linked.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT c.id, c.uid, c.name, c.version, c.host_name, c.team_id, c.enrollment_token_id, c.standing,
        c.capabilities, c.is_healthy, c.key_status, c.config_status, c.interval_seconds, c.created_at, p.seen_at, p.gone_at,
        k.host_id AS linked_host_id FROM collectors_collectors c
        LEFT JOIN collectors_presence p ON p.collector_id = c.id
        LEFT JOIN collectors_host_links k ON k.collector_id = c.id AND k.state = 'linked'",
            $rest
        )
    };
}

const SELECT: &str = select!("");

statements! {
    FIND = select!(" WHERE c.id = $1");
    UIDS = "SELECT uid FROM collectors_uids WHERE collector_id = $1 ORDER BY since DESC, uid LIMIT 100";
    /// The id 0 stands for all tokens.
    WITHOUT_KEY = "SELECT enrollment_token_id, COUNT(*) AS total FROM collectors_collectors
        WHERE enrollment_token_id IS NOT NULL AND (CAST($1 AS BIGINT) = 0 OR enrollment_token_id = $1) AND standing = 'enrolled'
        AND key_status <> 'adopted' GROUP BY enrollment_token_id";
}

pub(super) fn listed(row: &Row) -> Result<Listed, StoreError> {
    let is_healthy: Option<i64> = row.get("is_healthy")?;
    Ok(Listed {
        id: row.get("id")?,
        uid: row.get("uid")?,
        name: row.get("name")?,
        version: row.get("version")?,
        host_name: row.get("host_name")?,
        team_id: row.get::<Option<i64>>("team_id")?.map(TeamId),
        token_id: row
            .get::<Option<i64>>("enrollment_token_id")?
            .map(EnrollmentTokenId),
        standing: row.get("standing")?,
        capabilities: row.get::<i64>("capabilities")? as u64,
        is_healthy: is_healthy.map(|flag| flag != 0),
        key_status: row.get("key_status")?,
        config_status: row.get("config_status")?,
        interval_seconds: row.get("interval_seconds")?,
        created_at: row.get("created_at")?,
        seen_at: row.get("seen_at")?,
        gone_at: row.get("gone_at")?,
        linked_host_id: row.get::<Option<i64>>("linked_host_id")?.map(HostId),
    })
}

/// Which agents: conditions with their parameters.
pub(crate) struct Filter {
    now: Timestamp,
    conditions: Vec<String>,
    args: Vec<Value>,
}

impl Filter {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            now,
            conditions: vec!["1 = 1".to_owned()],
            args: Vec::new(),
        }
    }

    fn place(&mut self, value: impl Into<Value>) -> String {
        self.args.push(value.into());
        format!("${}", self.args.len())
    }

    /// Only agents of these teams.
    pub(crate) fn visible(&mut self, teams: &TeamFilter) {
        if let TeamFilter::Only(teams) = teams {
            if teams.is_empty() {
                self.conditions.push("1 = 0".to_owned());
                return;
            }
            let places: Vec<String> = teams.iter().map(|team| self.place(*team)).collect();
            let places = places.join(", ");
            self.conditions.push(format!("c.team_id IN ({places})"));
        }
    }

    /// Only agents of this team; 0 for those without one.
    pub(crate) fn team(&mut self, team: i64) {
        if team == 0 {
            self.conditions.push("c.team_id IS NULL".to_owned());
        } else {
            let place = self.place(team);
            self.conditions.push(format!("c.team_id = {place}"));
        }
    }

    /// Only agents whose names, uids (earlier ones, too) or attributes are like this.
    pub(crate) fn search(&mut self, pattern: &str) {
        let place = self.place(pattern);
        let columns = ["c.name", "c.host_name", "c.host_id", "c.version", "c.uid"];
        let like = columns.map(|column| {
            let column = folded_column(column, [pattern]);
            format!("{column} LIKE {place} ESCAPE '\\'")
        });
        let attribute = folded_column("a.value", [pattern]);
        self.conditions.push(format!(
            "({} OR EXISTS (SELECT 1 FROM collectors_attributes a WHERE a.collector_id = c.id
                AND {attribute} LIKE {place} ESCAPE '\\')
                OR EXISTS (SELECT 1 FROM collectors_uids u WHERE u.collector_id = c.id
                AND LOWER(u.uid) LIKE {place} ESCAPE '\\'))",
            like.join(" OR ")
        ));
    }

    /// Only agents that are `online`, `late` or `offline` now; false for a word that means nothing.
    pub(crate) fn status(&mut self, status: &str) -> bool {
        let now = self.place(self.now);
        let now = format!("CAST({now} AS BIGINT)");
        let is_here = "(p.seen_at IS NOT NULL AND (p.gone_at IS NULL OR p.gone_at < p.seen_at))";
        let silent = format!("({now} - p.seen_at)");
        let late = "1500000 * c.interval_seconds";
        let offline = "3000000 * c.interval_seconds";
        let condition = match status {
            "online" => format!("{is_here} AND {silent} <= {late}"),
            "late" => format!("{is_here} AND {silent} > {late} AND {silent} <= {offline}"),
            "offline" => format!("(NOT {is_here} OR {silent} > {offline})"),
            _ => return false,
        };
        self.conditions.push(condition);
        true
    }

    /// Only agents with this value in a column.
    pub(crate) fn column(&mut self, column: &'static str, value: &str) {
        let place = self.place(value);
        self.conditions.push(format!("{column} = {place}"));
    }

    /// Only agents whose health is so.
    pub(crate) fn healthy(&mut self, is_healthy: bool) {
        let place = self.place(is_healthy);
        self.conditions.push(format!("c.is_healthy = {place}"));
    }

    /// Only agents that have all of these capabilities.
    pub(crate) fn capabilities(&mut self, bits: u64) {
        let place = self.place(bits as i64);
        self.conditions.push(format!(
            "(c.capabilities & CAST({place} AS BIGINT)) = CAST({place} AS BIGINT)"
        ));
    }

    /// Only agents with this attribute, and with this value of it when one is named.
    pub(crate) fn attribute(&mut self, name: &str, value: Option<&str>) {
        let name = self.place(name);
        let value = value.map(|value| {
            let place = self.place(value);
            format!(" AND a.value = {place}")
        });
        self.conditions.push(format!(
            "EXISTS (SELECT 1 FROM collectors_attributes a WHERE a.collector_id = c.id AND a.name = {name}{})",
            value.unwrap_or_default()
        ));
    }

    /// Only agents that showed this enrollment token last.
    pub(crate) fn token(&mut self, token: i64) {
        let place = self.place(token);
        self.conditions
            .push(format!("c.enrollment_token_id = {place}"));
    }

    /// Only agents that are linked to this host.
    pub(crate) fn host(&mut self, host: i64) {
        let place = self.place(host);
        self.conditions.push(format!(
            "EXISTS (SELECT 1 FROM collectors_host_links l WHERE l.collector_id = c.id AND l.host_id = {place}
                AND l.state = 'linked')"
        ));
    }

    /// Only agents that are `linked` to a host, for which one is `suggested`, or of which neither is so (`none`); false for a
    /// word that means nothing.
    pub(crate) fn host_link(&mut self, state: &str) -> bool {
        let exists = |states: &str| {
            format!(
                "EXISTS (SELECT 1 FROM collectors_host_links l WHERE l.collector_id = c.id AND l.state IN ({states}))"
            )
        };
        let condition = match state {
            "linked" => exists("'linked'"),
            "suggested" => exists("'suggested'"),
            "none" => format!("NOT {}", exists("'linked', 'suggested'")),
            _ => return false,
        };
        self.conditions.push(condition);
        true
    }

    /// Only agents that were not heard since then, or never and known since before, and are not revoked.
    pub(crate) fn stayed_away(&mut self, since: Timestamp) {
        let since = self.place(since);
        self.conditions.push(format!(
            "COALESCE(p.seen_at, c.created_at) < CAST({since} AS BIGINT) AND c.standing <> 'revoked'"
        ));
    }

    fn sql(&self) -> String {
        self.conditions.join(" AND ")
    }
}

/// How many agents there are.
pub(crate) async fn count(db: &mut impl Executor, filter: &Filter) -> Result<u64, StoreError> {
    let sql = format!(
        "SELECT COUNT(*) AS total FROM collectors_collectors c
            LEFT JOIN collectors_presence p ON p.collector_id = c.id WHERE {}",
        filter.sql()
    );
    let total: i64 = db
        .fetch_one(&sql, filter.args.clone())
        .await?
        .get("total")?;
    Ok(u64::try_from(total).unwrap_or(0))
}

/// The first agents after one, in the order of their ids.
pub(crate) async fn ids(
    db: &mut impl Executor,
    filter: &Filter,
    after: CollectorId,
    limit: i64,
) -> Result<Vec<CollectorId>, StoreError> {
    let mut args = filter.args.clone();
    args.extend(args![after, limit]);
    let sql = format!(
        "SELECT c.id FROM collectors_collectors c LEFT JOIN collectors_presence p ON p.collector_id = c.id
            WHERE {} AND c.id > ${} ORDER BY c.id LIMIT ${}",
        filter.sql(),
        args.len() - 1,
        args.len()
    );
    let rows = db.fetch_all(&sql, args).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

/// What was known of an agent that is deleted.
pub(crate) struct Deleted {
    pub(crate) name: String,
    pub(crate) host_name: String,
}

/// Deletes an agent with everything that is known about it, if it is still one of these.
pub(crate) async fn delete_if(
    db: &mut impl Executor,
    filter: &Filter,
    id: CollectorId,
) -> Result<Option<Deleted>, StoreError> {
    let mut args = filter.args.clone();
    args.push(id.into());
    let sql = format!(
        "DELETE FROM collectors_collectors WHERE id = ${0} AND id IN (SELECT c.id FROM collectors_collectors c
            LEFT JOIN collectors_presence p ON p.collector_id = c.id WHERE c.id = ${0} AND {1}) RETURNING name, host_name",
        args.len(),
        filter.sql()
    );
    let rows = db.execute_returning(&sql, args).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    Ok(Some(Deleted {
        name: row.get("name")?,
        host_name: row.get("host_name")?,
    }))
}

/// A page of agents.
pub(crate) async fn list(
    db: &mut impl Executor,
    filter: &Filter,
    listing: &Listing,
) -> Result<Vec<Listed>, StoreError> {
    let column = match listing.sort {
        "name" => "c.name",
        "host_name" => "c.host_name",
        "version" => "c.version",
        "seen_at" => "COALESCE(p.seen_at, 0)",
        "created_at" => "c.created_at",
        _ => "c.id",
    };
    let direction = listing.direction.sql();
    let mut args = filter.args.clone();
    args.push(i64::from(listing.limit).into());
    args.push(i64::try_from(listing.offset).unwrap_or(i64::MAX).into());
    let sql = format!(
        "{SELECT} WHERE {} ORDER BY {column} {direction}, c.id {direction} LIMIT ${} OFFSET ${}",
        filter.sql(),
        args.len() - 1,
        args.len()
    );
    let rows = db.fetch_all(&sql, args).await?;
    rows.iter().map(listed).collect()
}

/// One agent.
pub(crate) async fn find(
    db: &mut impl Executor,
    id: CollectorId,
) -> Result<Option<Listed>, StoreError> {
    let row = db.fetch_optional(FIND, args![id]).await?;
    row.as_ref().map(listed).transpose()
}

/// All uids that lead to an agent.
pub(crate) async fn uids(
    db: &mut impl Executor,
    id: CollectorId,
) -> Result<Vec<String>, StoreError> {
    let rows = db.fetch_all(UIDS, args![id]).await?;
    rows.iter().map(|row| row.get("uid")).collect()
}

/// How many of these agents there are: by standing and by how far they are with their keys; all, and those that are there.
pub(crate) async fn counts(
    db: &mut impl Executor,
    filter: &Filter,
    now: Timestamp,
) -> Result<HashMap<(String, String), (u64, u64)>, StoreError> {
    let mut args = filter.args.clone();
    args.push(now.into());
    let sql = format!(
        "SELECT c.standing, c.key_status, COUNT(*) AS total,
            COUNT(CASE WHEN p.seen_at >= CAST(${} AS BIGINT) - 3 * 1000000 * c.interval_seconds
                AND (p.gone_at IS NULL OR p.gone_at < p.seen_at) THEN 1 END) AS online
            FROM collectors_collectors c LEFT JOIN collectors_presence p ON p.collector_id = c.id
            WHERE {} GROUP BY c.standing, c.key_status",
        args.len(),
        filter.sql()
    );
    let rows = db.fetch_all(&sql, args).await?;
    rows.iter()
        .map(|row| {
            let number = |name: &str| row.get::<i64>(name).map(|n| u64::try_from(n).unwrap_or(0));
            let key = (row.get("standing")?, row.get("key_status")?);
            Ok((key, (number("total")?, number("online")?)))
        })
        .collect()
}

/// What some agents can do, and whether they are there now.
pub(crate) async fn capabilities(
    db: &mut impl Executor,
    ids: &[CollectorId],
    now: Timestamp,
) -> Result<Vec<(CollectorId, u64, Status)>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let places: Vec<String> = (1..=ids.len()).map(|place| format!("${place}")).collect();
    let sql = format!("{SELECT} WHERE c.id IN ({})", places.join(", "));
    let ids = ids.iter().copied().map(Value::from).collect();
    let rows = db.fetch_all(&sql, ids).await?;
    let found = rows.iter().map(|row| {
        let one = listed(row)?;
        Ok((one.id, one.capabilities, one.status(now)))
    });
    found.collect()
}

/// How many agents would be cut off if a token ended, for one token or for each: they have no key of their own.
pub(crate) async fn without_key(
    db: &mut impl Executor,
    one: Option<EnrollmentTokenId>,
) -> Result<HashMap<EnrollmentTokenId, u64>, StoreError> {
    let one = one.map_or(0, |token| token.0);
    let rows = db.fetch_all(WITHOUT_KEY, args![one]).await?;
    rows.iter()
        .map(|row| {
            let total: i64 = row.get("total")?;
            Ok((
                row.get("enrollment_token_id")?,
                u64::try_from(total).unwrap_or(0),
            ))
        })
        .collect()
}
