//! What the programs of hosts do not say.

use muster_clock::Timestamp;
use muster_http::Listing;
use muster_identity::{HostId, TeamId};
use muster_negotiation::Capability;
use muster_store::{Executor, Row, StoreError, args};

use super::operator::{DISPLAY_NAME, Filter};
use crate::capability::Lost;

/// A host with the program that speaks for it.
pub(crate) struct HostSpeaker {
    pub(crate) id: HostId,
    pub(crate) display_name: String,
    pub(crate) team_id: Option<TeamId>,
    pub(crate) created_at: Timestamp,
    pub(crate) seen_at: Option<Timestamp>,
    pub(crate) process: String,
    pub(crate) version: String,
    /// As the header has them.
    pub(crate) names: String,
    pub(crate) lost: Lost,
}

/// Hosts of one program and version that say the same of what is asked for.
pub(crate) struct SpeakerCount {
    pub(crate) process: String,
    pub(crate) version: String,
    /// For each capability that was asked for, in that order.
    pub(crate) says: Vec<bool>,
    pub(crate) hosts: u64,
}

/// Hosts with the row of the program that said something last; of several the first by its name.
const FROM: &str = "FROM hosts_hosts h LEFT JOIN hosts_presence p ON p.host_id = h.id
    LEFT JOIN hosts_capabilities c ON c.host_id = h.id AND NOT EXISTS (SELECT 1 FROM hosts_capabilities n
        WHERE n.host_id = h.id AND (n.changed_at > c.changed_at
            OR (n.changed_at = c.changed_at AND n.process < c.process)))";

/// The program that speaks for a host. One that never said anything is orbit when it enrolled by orbit's API.
const PROCESS: &str =
    "COALESCE(c.process, CASE WHEN h.orbit_enrolled_at IS NULL THEN 'osquery' ELSE 'orbit' END)";

/// Its version, as far as it is known. Orbit's stands in the details of the host.
const VERSION: &str = "CASE WHEN c.process = 'muster-agent' THEN c.version
    WHEN c.process IS NULL AND h.orbit_enrolled_at IS NULL THEN h.osquery_version
    ELSE COALESCE(NULLIF(h.orbit_version, ''), c.version, '') END";

/// 1 when the program says it, else 0. Names of the registry have no character that means anything in SQL but `_`.
fn says(capability: Capability) -> String {
    let name = capability.name().replace('_', "\\_");
    format!(
        "CAST(CASE WHEN ',' || c.names || ',' LIKE '%,{name},%' ESCAPE '\\' THEN 1 ELSE 0 END AS BIGINT)"
    )
}

/// Only hosts whose program does not say at least one of these.
pub(crate) fn lacking(filter: &mut Filter, capabilities: &[Capability]) {
    let lack = capabilities.iter().copied();
    let mut lack: Vec<String> = lack.map(|name| format!("{} = 0", says(name))).collect();
    lack.push("1 = 0".to_owned());
    filter.conditions.push(format!("({})", lack.join(" OR ")));
}

/// Only hosts for which this program speaks.
pub(crate) fn process(filter: &mut Filter, process: &str) {
    let place = filter.place(process);
    filter.conditions.push(format!("{PROCESS} = {place}"));
}

fn sql(filter: &Filter, columns: &str) -> String {
    let conditions = filter.conditions.join(" AND ");
    format!("SELECT {columns} {FROM} WHERE {conditions}")
}

pub(crate) async fn count(db: &mut impl Executor, filter: &Filter) -> Result<u64, StoreError> {
    let sql = sql(filter, "COUNT(*) AS total");
    let row = db.fetch_one(&sql, filter.args.clone()).await?;
    Ok(u64::try_from(row.get::<i64>("total")?).unwrap_or(0))
}

pub(crate) async fn list(
    db: &mut impl Executor,
    filter: &Filter,
    listing: &Listing,
) -> Result<Vec<HostSpeaker>, StoreError> {
    let sort = match listing.sort {
        "display_name" => format!("LOWER({DISPLAY_NAME})"),
        "seen_at" => "COALESCE(p.seen_at, 0)".to_owned(),
        "team_id" => "COALESCE(h.team_id, 0)".to_owned(),
        "process" => PROCESS.to_owned(),
        _ => "h.id".to_owned(),
    };
    let columns = format!(
        "h.id, {DISPLAY_NAME} AS display_name, h.team_id, h.created_at, p.seen_at, {PROCESS} AS process,
        {VERSION} AS version, COALESCE(c.names, '') AS names, COALESCE(c.lost, '') AS lost"
    );
    let mut args = filter.args.clone();
    let sql = format!(
        "{} ORDER BY {sort} {direction}, h.id {direction} LIMIT ${} OFFSET ${}",
        sql(filter, &columns),
        args.len() + 1,
        args.len() + 2,
        direction = listing.direction.sql(),
    );
    args.extend(args![
        i64::from(listing.limit),
        i64::try_from(listing.offset).unwrap_or(i64::MAX)
    ]);
    let rows = db.fetch_all(&sql, args).await?;
    rows.iter().map(speaker).collect()
}

fn speaker(row: &Row) -> Result<HostSpeaker, StoreError> {
    Ok(HostSpeaker {
        id: row.get("id")?,
        display_name: row.get("display_name")?,
        team_id: row.get::<Option<i64>>("team_id")?.map(TeamId),
        created_at: row.get("created_at")?,
        seen_at: row.get("seen_at")?,
        process: row.get("process")?,
        version: row.get("version")?,
        names: row.get("names")?,
        lost: Lost::from_text(&row.get::<String>("lost")?),
    })
}

/// How many hosts there are of each program and version, most first.
pub(crate) async fn summary(
    db: &mut impl Executor,
    filter: &Filter,
    capabilities: &[Capability],
) -> Result<Vec<SpeakerCount>, StoreError> {
    let columns: Vec<String> = (0..capabilities.len())
        .map(|index| format!(", says_{index}"))
        .collect();
    let values: Vec<String> = capabilities
        .iter()
        .enumerate()
        .map(|(index, capability)| format!(", {} AS says_{index}", says(*capability)))
        .collect();
    let (columns, values) = (columns.concat(), values.concat());
    let each = sql(
        filter,
        &format!("{PROCESS} AS process, {VERSION} AS version{values}"),
    );
    let sql = format!(
        "SELECT process, version{columns}, COUNT(*) AS total FROM ({each}) AS each_host
        GROUP BY process, version{columns} ORDER BY total DESC, process, version{columns}"
    );
    let rows = db.fetch_all(&sql, filter.args.clone()).await?;
    rows.iter()
        .map(|row| {
            let says = (0..capabilities.len())
                .map(|index| Ok(row.get::<i64>(&format!("says_{index}"))? == 1))
                .collect::<Result<_, StoreError>>()?;
            Ok(SpeakerCount {
                process: row.get("process")?,
                version: row.get("version")?,
                says,
                hosts: u64::try_from(row.get::<i64>("total")?).unwrap_or(0),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use muster_http::{ListingQuery, OrderDirection};
    use muster_identity::TeamFilter;
    use muster_store::testing::on_both_databases;

    use super::*;
    use crate::operators::SKEW_SORTS;

    on_both_databases! {
        async fn every_statement_is_understood(db: TestDatabase) {
            db.migrate(&muster_store::Schema::default().with("hosts", crate::MIGRATIONS)).await;
            let database = db.database();
            let mut database = &database;
            let mut filter = Filter::new(Timestamp::EPOCH);
            filter.visible(&TeamFilter::Only(vec![TeamId(1), TeamId(2)]));
            filter.search("%x%");
            filter.team(1);
            filter.ids(&[7]);
            process(&mut filter, "orbit");
            lacking(&mut filter, &[Capability::Notify, Capability::EndUserEmail]);
            assert_eq!(count(&mut database, &filter).await.unwrap(), 0);
            for sort in SKEW_SORTS {
                let mut listing = ListingQuery::default().check(SKEW_SORTS).unwrap();
                (listing.sort, listing.direction) = (sort, OrderDirection::Descending);
                assert!(list(&mut database, &filter, &listing).await.unwrap().is_empty());
            }
            for asked in [&[][..], &[Capability::Notify, Capability::EndUserEmail]] {
                assert!(summary(&mut database, &filter, asked).await.unwrap().is_empty());
            }
        }
    }
}
