//! The SQL of this crate.

use std::collections::{BTreeSet, HashMap};

use muster_clock::Timestamp;
use muster_http::Listing;
use muster_identity::{HostId, TeamId};
use muster_store::{Executor, Row, StoreError, Value, args, placeholders, statements};

use crate::{SoftwareEntry, SoftwareTitle, SoftwareVersion, TitleVersion, Visible};

/// Rows of one statement; times the columns it stays far below what the databases take.
const CHUNK_ROWS: usize = 1_000;
/// How many versions one run of the sweep looks at.
const MAX_SWEPT: i64 = 20_000;
/// How many of them one statement deletes.
pub(crate) const SWEPT_AT_ONCE: usize = 500;

statements! {
    /// Says whose inventory it is, what it amounts to, and when it arrived.
    TOUCH = "INSERT INTO software_inventories (host_id, team_id, checksum, updated_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (host_id) DO UPDATE SET team_id = excluded.team_id, checksum = excluded.checksum,
            updated_at = excluded.updated_at";
    /// The hosts of a team leave it.
    LEAVE_TEAM = "UPDATE software_inventories SET team_id = NULL WHERE team_id = $1";
    /// What the inventory of a host amounts to.
    CHECKSUM = "SELECT checksum FROM software_inventories WHERE host_id = $1";
    /// What a host has.
    CURRENT = "SELECT version_id FROM software_hosts WHERE host_id = $1";
    /// Versions that no host has and that were not known to be unused.
    NEWLY_UNUSED = "SELECT v.id FROM software_versions v WHERE v.unused_since IS NULL
        AND NOT EXISTS (SELECT 1 FROM software_hosts h WHERE h.version_id = v.id) ORDER BY v.id LIMIT $1";
    /// Versions that a host has again.
    USED_AGAIN = "UPDATE software_versions SET unused_since = NULL WHERE unused_since IS NOT NULL
        AND EXISTS (SELECT 1 FROM software_hosts h WHERE h.version_id = software_versions.id)";
    /// Versions that no host has for long.
    UNUSED = "SELECT v.id, v.title_id FROM software_versions v WHERE v.unused_since <= $1
        AND NOT EXISTS (SELECT 1 FROM software_hosts h WHERE h.version_id = v.id) ORDER BY v.id LIMIT $2";
    /// The whole inventory of a host.
    OF_HOST = "SELECT v.* FROM software_hosts h JOIN software_versions v ON v.id = h.version_id
        WHERE h.host_id = $1 ORDER BY v.name, v.version, v.id";
}

fn in_list(first: usize, count: usize) -> String {
    let list: Vec<String> = (first..first + count).map(|n| format!("${n}")).collect();
    list.join(", ")
}

/// Which of these are known, by checksum.
pub(crate) async fn find_versions(
    db: &mut impl Executor,
    checksums: &[[u8; 32]],
) -> Result<HashMap<[u8; 32], i64>, StoreError> {
    let mut found = HashMap::with_capacity(checksums.len());
    for chunk in checksums.chunks(CHUNK_ROWS) {
        let list = in_list(1, chunk.len());
        let sql = format!("SELECT id, checksum FROM software_versions WHERE checksum IN ({list})");
        let rows = db
            .fetch_all(&sql, chunk.iter().map(Value::from).collect())
            .await?;
        for row in rows {
            found.insert(row.get("checksum")?, row.get("id")?);
        }
    }
    Ok(found)
}

/// Makes what is not there yet. Entries in the same order everywhere, so that two servers never wait for each other.
pub(crate) async fn insert_versions(
    db: &mut impl Executor,
    entries: &[(&SoftwareEntry, [u8; 32])],
) -> Result<(), StoreError> {
    for chunk in entries.chunks(CHUNK_ROWS) {
        let names: BTreeSet<_> = chunk
            .iter()
            .map(|(entry, _)| (&entry.name, &entry.source, &entry.browser))
            .collect();
        let name_args = || -> Vec<Value> {
            names
                .iter()
                .flat_map(|(name, source, browser)| args![*name, *source, *browser])
                .collect()
        };
        let rows = placeholders(names.len(), 3);
        let sql = format!(
            "INSERT INTO software_titles (name, source, browser) VALUES {rows} ON CONFLICT DO NOTHING"
        );
        db.execute(&sql, name_args()).await?;
        let sql = format!(
            "SELECT id, name, source, browser FROM software_titles
            WHERE (name, source, browser) IN (VALUES {rows})"
        );
        let mut titles = HashMap::with_capacity(names.len());
        for row in db.fetch_all(&sql, name_args()).await? {
            let key: (String, String, String) =
                (row.get("name")?, row.get("source")?, row.get("browser")?);
            titles.insert(key, row.get::<i64>("id")?);
        }
        let mut values = Vec::with_capacity(chunk.len() * 11);
        for (entry, checksum) in chunk {
            let key = (
                entry.name.clone(),
                entry.source.clone(),
                entry.browser.clone(),
            );
            let title = titles.get(&key).ok_or_else(|| {
                StoreError::corrupt(
                    "find a software title",
                    "it is not there after its insertion",
                )
            })?;
            values.extend(args![
                checksum,
                *title,
                &entry.name,
                &entry.version,
                &entry.source,
                &entry.browser,
                &entry.extension_id,
                &entry.bundle_identifier,
                &entry.release,
                &entry.vendor,
                &entry.arch
            ]);
        }
        let sql = format!(
            "INSERT INTO software_versions (checksum, title_id, name, version, source, browser, extension_id,
                bundle_identifier, release, vendor, arch) VALUES {} ON CONFLICT (checksum) DO NOTHING",
            placeholders(chunk.len(), 11)
        );
        db.execute(&sql, values).await?;
    }
    Ok(())
}

/// Notes which versions no host has, and which ones a host has again.
pub(crate) async fn mark_unused(db: &mut impl Executor, now: Timestamp) -> Result<(), StoreError> {
    db.execute(USED_AGAIN, args![]).await?;
    let rows = db.fetch_all(NEWLY_UNUSED, args![MAX_SWEPT]).await?;
    for chunk in rows.chunks(CHUNK_ROWS) {
        let list = in_list(2, chunk.len());
        let sql = format!("UPDATE software_versions SET unused_since = $1 WHERE id IN ({list})");
        let mut values = args![now];
        for row in chunk {
            values.push(row.get::<i64>("id")?.into());
        }
        db.execute(&sql, values).await?;
    }
    Ok(())
}

/// Versions, with their titles, that no host has since a time.
pub(crate) async fn unused(
    db: &mut impl Executor,
    since: Timestamp,
) -> Result<Vec<(i64, i64)>, StoreError> {
    let rows = db.fetch_all(UNUSED, args![since, MAX_SWEPT]).await?;
    rows.iter()
        .map(|row| Ok((row.get("id")?, row.get("title_id")?)))
        .collect()
}

/// Deletes versions that no host has, and their titles when they have no other. Gives how many versions.
pub(crate) async fn delete_unused(
    db: &mut impl Executor,
    versions: &[(i64, i64)],
) -> Result<u64, StoreError> {
    let list = in_list(1, versions.len());
    let sql = format!(
        "DELETE FROM software_versions WHERE id IN ({list})
        AND NOT EXISTS (SELECT 1 FROM software_hosts h WHERE h.version_id = software_versions.id)"
    );
    let values = versions.iter().map(|(id, _)| Value::from(*id)).collect();
    let deleted = db.execute(&sql, values).await?;
    let titles: BTreeSet<i64> = versions.iter().map(|(_, title)| *title).collect();
    let list = in_list(1, titles.len());
    let sql = format!(
        "DELETE FROM software_titles WHERE id IN ({list})
        AND NOT EXISTS (SELECT 1 FROM software_versions v WHERE v.title_id = software_titles.id)"
    );
    let values = titles.into_iter().map(Value::from).collect();
    db.execute(&sql, values).await?;
    Ok(deleted)
}

pub(crate) async fn touch(
    db: &mut impl Executor,
    host: HostId,
    team: Option<TeamId>,
    checksum: &[u8; 32],
    now: Timestamp,
) -> Result<(), StoreError> {
    let team = team.map(|team| team.0);
    db.execute(TOUCH, args![host, team, checksum, now])
        .await
        .map(drop)
}

pub(crate) async fn checksum(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Option<[u8; 32]>, StoreError> {
    let row = db.fetch_optional(CHECKSUM, args![host]).await?;
    row.map(|row| row.get("checksum")).transpose()
}

pub(crate) async fn current(
    db: &mut impl Executor,
    host: HostId,
) -> Result<BTreeSet<i64>, StoreError> {
    let rows = db.fetch_all(CURRENT, args![host]).await?;
    rows.iter().map(|row| row.get("version_id")).collect()
}

/// What a host has from some sources.
pub(crate) async fn current_from(
    db: &mut impl Executor,
    host: HostId,
    sources: &[&str],
) -> Result<Vec<i64>, StoreError> {
    let list = in_list(2, sources.len());
    let sql = format!(
        "SELECT h.version_id FROM software_hosts h JOIN software_versions v ON v.id = h.version_id
        WHERE h.host_id = $1 AND v.source IN ({list})"
    );
    let mut values = args![host];
    values.extend(sources.iter().map(|source| Value::from(*source)));
    let rows = db.fetch_all(&sql, values).await?;
    rows.iter().map(|row| row.get("version_id")).collect()
}

pub(crate) async fn add(
    db: &mut impl Executor,
    host: HostId,
    versions: &[i64],
) -> Result<(), StoreError> {
    for chunk in versions.chunks(CHUNK_ROWS) {
        let sql = format!(
            "INSERT INTO software_hosts (host_id, version_id) VALUES {} ON CONFLICT DO NOTHING",
            placeholders(chunk.len(), 2)
        );
        let values = chunk
            .iter()
            .flat_map(|version| args![host, *version])
            .collect();
        db.execute(&sql, values).await?;
    }
    Ok(())
}

pub(crate) async fn remove(
    db: &mut impl Executor,
    host: HostId,
    versions: &[i64],
) -> Result<(), StoreError> {
    for chunk in versions.chunks(CHUNK_ROWS) {
        let list = in_list(2, chunk.len());
        let sql =
            format!("DELETE FROM software_hosts WHERE host_id = $1 AND version_id IN ({list})");
        let mut values = args![host];
        values.extend(chunk.iter().map(|version| Value::from(*version)));
        db.execute(&sql, values).await?;
    }
    Ok(())
}

pub(crate) async fn forget(db: &mut impl Executor, hosts: &[HostId]) -> Result<(), StoreError> {
    for chunk in hosts.chunks(CHUNK_ROWS) {
        let list = in_list(1, chunk.len());
        let sql = format!("DELETE FROM software_inventories WHERE host_id IN ({list})");
        db.execute(&sql, chunk.iter().map(|host| Value::from(*host)).collect())
            .await?;
    }
    Ok(())
}

pub(crate) async fn transfer(
    db: &mut impl Executor,
    hosts: &[HostId],
    team: Option<TeamId>,
) -> Result<(), StoreError> {
    for chunk in hosts.chunks(CHUNK_ROWS) {
        let list = in_list(2, chunk.len());
        let sql = format!("UPDATE software_inventories SET team_id = $1 WHERE host_id IN ({list})");
        let mut values = args![team.map(|team| team.0)];
        values.extend(chunk.iter().map(|host| Value::from(*host)));
        db.execute(&sql, values).await?;
    }
    Ok(())
}

pub(crate) async fn leave_team(db: &mut impl Executor, team: TeamId) -> Result<(), StoreError> {
    db.execute(LEAVE_TEAM, args![team]).await.map(drop)
}

fn version(row: &Row) -> Result<SoftwareVersion, StoreError> {
    Ok(SoftwareVersion {
        id: row.get("id")?,
        title_id: row.get("title_id")?,
        name: row.get("name")?,
        version: row.get("version")?,
        source: row.get("source")?,
        browser: row.get("browser")?,
        extension_id: row.get("extension_id")?,
        bundle_identifier: row.get("bundle_identifier")?,
        release: row.get("release")?,
        vendor: row.get("vendor")?,
        arch: row.get("arch")?,
        hosts_count: 0,
    })
}

pub(crate) async fn of_host(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Vec<SoftwareVersion>, StoreError> {
    db.fetch_all(OF_HOST, args![host])
        .await?
        .iter()
        .map(version)
        .collect()
}

/// Conditions over `software_versions v`, `software_hosts h` and `software_inventories i`, with their parameters.
struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Conditions {
    fn new(visible: &Visible) -> Self {
        let mut conditions = Self {
            sql: "1 = 1".to_owned(),
            values: Vec::new(),
        };
        match visible {
            Visible::All => {}
            Visible::NoTeam => conditions.and("i.team_id IS NULL"),
            Visible::Teams(teams) if teams.is_empty() => conditions.and("1 = 0"),
            Visible::Teams(teams) => {
                let list = in_list(conditions.values.len() + 1, teams.len());
                conditions.and(&format!("i.team_id IN ({list})"));
                conditions
                    .values
                    .extend(teams.iter().map(|team| Value::from(team.0)));
            }
        }
        conditions
    }

    fn and(&mut self, condition: &str) {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
    }

    fn search(&mut self, listing: &Listing, columns: &[&str]) {
        if let Some(pattern) = listing.search_pattern() {
            self.values.push(pattern.as_str().into());
            let number = self.values.len();
            let any: Vec<String> = columns
                .iter()
                .map(|column| {
                    let column = muster_store::folded_column(column, [pattern.as_str()]);
                    format!("{column} LIKE ${number} ESCAPE '\\'")
                })
                .collect();
            self.and(&format!("({})", any.join(" OR ")));
        }
    }

    fn equals(&mut self, column: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        self.and(&format!("{column} = ${}", self.values.len()));
    }
}

const JOINED: &str = "software_hosts h JOIN software_versions v ON v.id = h.version_id
    JOIN software_inventories i ON i.host_id = h.host_id";

/// A page of versions that hosts have, and how many there are.
pub(crate) async fn list_versions(
    db: &mut impl Executor,
    visible: &Visible,
    host: Option<HostId>,
    listing: &Listing,
) -> Result<(Vec<SoftwareVersion>, u64), StoreError> {
    let mut conditions = Conditions::new(visible);
    if let Some(host) = host {
        conditions.equals("h.host_id", host);
    }
    conditions.search(listing, &["v.name", "v.version"]);
    let Conditions { sql: found, values } = conditions;
    let count = format!("SELECT COUNT(DISTINCT v.id) AS total FROM {JOINED} WHERE {found}");
    let total: i64 = db.fetch_one(&count, values.clone()).await?.get("total")?;
    let (column, direction) = (listing.sort, listing.direction.sql());
    let sql = format!(
        "SELECT v.*, c.hosts_count FROM (SELECT v.id, COUNT(*) AS hosts_count FROM {JOINED} WHERE {found}
            GROUP BY v.id) c JOIN software_versions v ON v.id = c.id
        ORDER BY {column} {direction}, v.id LIMIT {} OFFSET {}",
        listing.limit, listing.offset
    );
    let rows = db.fetch_all(&sql, values).await?;
    let versions = rows.iter().map(|row| {
        Ok(SoftwareVersion {
            hosts_count: row.get("hosts_count")?,
            ..version(row)?
        })
    });
    Ok((
        versions.collect::<Result<_, StoreError>>()?,
        total.unsigned_abs(),
    ))
}

/// One version, when a visible host has it.
pub(crate) async fn find_version(
    db: &mut impl Executor,
    visible: &Visible,
    id: i64,
) -> Result<Option<SoftwareVersion>, StoreError> {
    let mut conditions = Conditions::new(visible);
    conditions.equals("v.id", id);
    let Conditions { sql: found, values } = conditions;
    let sql = format!(
        "SELECT v.*, c.hosts_count FROM (SELECT v.id, COUNT(*) AS hosts_count FROM {JOINED} WHERE {found}
            GROUP BY v.id) c JOIN software_versions v ON v.id = c.id"
    );
    let row = db.fetch_optional(&sql, values).await?;
    row.map(|row| {
        Ok(SoftwareVersion {
            hosts_count: row.get("hosts_count")?,
            ..version(&row)?
        })
    })
    .transpose()
}

/// A page of titles that hosts have, with their versions, and how many there are; only one title when `only` names it.
pub(crate) async fn list_titles(
    db: &mut impl Executor,
    visible: &Visible,
    listing: &Listing,
    only: Option<i64>,
) -> Result<(Vec<SoftwareTitle>, u64), StoreError> {
    let mut conditions = Conditions::new(visible);
    conditions.search(listing, &["v.name"]);
    if let Some(id) = only {
        conditions.equals("v.title_id", id);
    }
    let Conditions { sql: found, values } = conditions;
    let count = format!("SELECT COUNT(DISTINCT v.title_id) AS total FROM {JOINED} WHERE {found}");
    let total: i64 = db.fetch_one(&count, values.clone()).await?.get("total")?;
    let (column, direction) = (listing.sort, listing.direction.sql());
    let sql = format!(
        "SELECT t.id, t.name, t.source, t.browser, c.hosts_count FROM (SELECT v.title_id,
            COUNT(DISTINCT h.host_id) AS hosts_count FROM {JOINED} WHERE {found} GROUP BY v.title_id) c
        JOIN software_titles t ON t.id = c.title_id
        ORDER BY {column} {direction}, t.id LIMIT {} OFFSET {}",
        listing.limit, listing.offset
    );
    let mut titles = Vec::new();
    for row in db.fetch_all(&sql, values).await? {
        titles.push(SoftwareTitle {
            id: row.get("id")?,
            name: row.get("name")?,
            source: row.get("source")?,
            browser: row.get("browser")?,
            hosts_count: row.get("hosts_count")?,
            versions: Vec::new(),
        });
    }
    if titles.is_empty() {
        return Ok((titles, total.unsigned_abs()));
    }
    let Conditions {
        sql: found,
        mut values,
    } = Conditions::new(visible);
    let list = in_list(values.len() + 1, titles.len());
    values.extend(titles.iter().map(|title| Value::from(title.id)));
    let sql = format!(
        "SELECT v.title_id, v.id, v.version, COUNT(*) AS hosts_count FROM {JOINED}
        WHERE {found} AND v.title_id IN ({list}) GROUP BY v.title_id, v.id, v.version ORDER BY v.id"
    );
    let mut versions: HashMap<i64, Vec<TitleVersion>> = HashMap::new();
    for row in db.fetch_all(&sql, values).await? {
        versions
            .entry(row.get("title_id")?)
            .or_default()
            .push(TitleVersion {
                id: row.get("id")?,
                version: row.get("version")?,
                hosts_count: row.get("hosts_count")?,
            });
    }
    for title in &mut titles {
        title.versions = versions.remove(&title.id).unwrap_or_default();
    }
    Ok((titles, total.unsigned_abs()))
}

/// When an inventory of a visible host last arrived: the age of every count.
pub(crate) async fn newest(
    db: &mut impl Executor,
    visible: &Visible,
) -> Result<Option<Timestamp>, StoreError> {
    let Conditions { sql: found, values } = Conditions::new(visible);
    let sql =
        format!("SELECT MAX(i.updated_at) AS newest FROM software_inventories i WHERE {found}");
    db.fetch_one(&sql, values).await?.get("newest")
}

/// The ids of the hosts that have the version whose id is the parameter of that name (`$3`): a query for an `IN`, since a
/// large fleet has more hosts than a statement has parameters.
pub fn hosts_with_version(parameter: &str) -> String {
    format!("SELECT sh.host_id FROM software_hosts sh WHERE sh.version_id = {parameter}")
}

/// The same for those that have any version of a title.
pub fn hosts_with_title(parameter: &str) -> String {
    format!(
        "SELECT sh.host_id FROM software_hosts sh JOIN software_versions sv ON sv.id = sh.version_id
        WHERE sv.title_id = {parameter}"
    )
}

#[cfg(test)]
mod tests {
    use muster_store::testing::{on_both_databases, prepare_all};

    use super::*;

    on_both_databases! {
        async fn every_statement_is_understood(db: TestDatabase) {
            db.migrate(&muster_store::Schema::default().with("software", crate::MIGRATIONS)).await;
            prepare_all(&db, ALL).await;
        }
    }
}
