//! Which host an agent runs on.

use std::collections::HashMap;

use muster_clock::Timestamp;
use muster_identity::{CollectorId, HostId, TeamId};
use muster_store::{Executor, Row, StoreError, Value, args, statements};

use crate::links::{Described, LINKING_ATTRIBUTES, Link, LinkState};

statements! {
    FIND = "SELECT host_id, state, matched_by, matched_value, since, decided_by FROM collectors_host_links
        WHERE collector_id = $1 ORDER BY host_id";
    PUT = "INSERT INTO collectors_host_links (collector_id, host_id, state, matched_by, matched_value, since, decided_by)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (collector_id, host_id) DO UPDATE SET state = excluded.state,
        matched_by = excluded.matched_by, matched_value = excluded.matched_value, since = excluded.since,
        decided_by = excluded.decided_by";
    DROP = "DELETE FROM collectors_host_links WHERE collector_id = $1 AND host_id = $2";
    OF_HOST = "SELECT collector_id, host_id, state, matched_by, matched_value, since, decided_by FROM collectors_host_links
        WHERE host_id = $1 ORDER BY collector_id";
    /// Those of a host that are to be seen, with their agents as far as lists show them.
    ON_HOST = "SELECT c.id, c.uid, c.name, c.version, c.host_name, c.team_id, c.enrollment_token_id, c.standing,
        c.capabilities, c.is_healthy, c.key_status, c.config_status, c.interval_seconds, c.created_at, p.seen_at, p.gone_at,
        k.host_id AS linked_host_id, k.state AS link_state, k.matched_by, k.since
        FROM collectors_host_links k JOIN collectors_collectors c ON c.id = k.collector_id
        LEFT JOIN collectors_presence p ON p.collector_id = c.id
        WHERE k.host_id = $1 AND k.state IN ('linked', 'suggested') ORDER BY k.state, c.id LIMIT 200";
    TEAM = "SELECT team_id FROM collectors_collectors WHERE id = $1";
    AFTER = "SELECT id FROM collectors_collectors WHERE id > $1 ORDER BY id LIMIT $2";
}

fn link(row: &Row) -> Result<Link, StoreError> {
    Ok(Link {
        host_id: row.get("host_id")?,
        state: LinkState::from_text(&row.get::<String>("state")?),
        matched_by: row.get("matched_by")?,
        matched_value: row.get("matched_value")?,
        since: row.get("since")?,
        decided_by: row.get("decided_by")?,
    })
}

fn places(first: usize, count: usize) -> String {
    let places: Vec<String> = (first..first + count)
        .map(|number| format!("${number}"))
        .collect();
    places.join(", ")
}

/// What is known of the machines of agents; those that do not exist are left out.
pub(crate) async fn described(
    db: &mut impl Executor,
    ids: &[CollectorId],
) -> Result<Vec<Described>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let names = LINKING_ATTRIBUTES.len();
    let sql = format!(
        "SELECT c.id, c.team_id, a.name, a.value FROM collectors_collectors c LEFT JOIN collectors_attributes a
            ON a.collector_id = c.id AND a.name IN ({}) WHERE c.id IN ({}) ORDER BY c.id, a.name",
        places(1, names),
        places(1 + names, ids.len())
    );
    let mut values: Vec<Value> = LINKING_ATTRIBUTES.map(Value::from).into();
    values.extend(ids.iter().map(|id| Value::from(*id)));
    let mut all: Vec<Described> = Vec::with_capacity(ids.len());
    for row in db.fetch_all(&sql, values).await? {
        let id = row.get("id")?;
        if all.last().is_none_or(|last| last.id != id) {
            let team_id = row.get::<Option<i64>>("team_id")?.map(TeamId);
            all.push(Described {
                id,
                team_id,
                attributes: HashMap::new(),
            });
        }
        let name: Option<String> = row.get("name")?;
        let value: Option<String> = row.get("value")?;
        if let (Some(last), Some(name), Some(value)) = (all.last_mut(), name, value) {
            last.attributes.insert(name, value);
        }
    }
    Ok(all)
}

/// What there is between agents and hosts.
pub(crate) async fn links(
    db: &mut impl Executor,
    ids: &[CollectorId],
) -> Result<HashMap<CollectorId, Vec<Link>>, StoreError> {
    let mut links: HashMap<CollectorId, Vec<Link>> = HashMap::new();
    if ids.is_empty() {
        return Ok(links);
    }
    let sql = format!(
        "SELECT collector_id, host_id, state, matched_by, matched_value, since, decided_by FROM collectors_host_links
            WHERE collector_id IN ({}) ORDER BY host_id",
        places(1, ids.len())
    );
    let values = ids.iter().map(|id| Value::from(*id)).collect();
    for row in db.fetch_all(&sql, values).await? {
        let id = row.get("collector_id")?;
        links.entry(id).or_default().push(link(&row)?);
    }
    Ok(links)
}

/// What there is between an agent and hosts.
pub(crate) async fn find(db: &mut impl Executor, id: CollectorId) -> Result<Vec<Link>, StoreError> {
    let rows = db.fetch_all(FIND, args![id]).await?;
    rows.iter().map(link).collect()
}

/// What there is between a host and agents.
pub(crate) async fn of_host(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Vec<(CollectorId, Link)>, StoreError> {
    let rows = db.fetch_all(OF_HOST, args![host]).await?;
    rows.iter()
        .map(|row| Ok((row.get("collector_id")?, link(row)?)))
        .collect()
}

/// An agent that is or may be on a host.
pub(crate) struct OnHost {
    pub(crate) listed: super::operator::Listed,
    pub(crate) state: String,
    pub(crate) matched_by: String,
    pub(crate) since: Timestamp,
}

/// The agents that are or may be on a host, the linked ones first.
pub(crate) async fn on_host(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Vec<OnHost>, StoreError> {
    let rows = db.fetch_all(ON_HOST, args![host]).await?;
    rows.iter()
        .map(|row| {
            Ok(OnHost {
                listed: super::operator::listed(row)?,
                state: row.get("link_state")?,
                matched_by: row.get("matched_by")?,
                since: row.get("since")?,
            })
        })
        .collect()
}

/// Keeps what there is between an agent and a host.
pub(crate) async fn put(
    db: &mut impl Executor,
    id: CollectorId,
    link: &Link,
) -> Result<(), StoreError> {
    let values = args![
        id,
        link.host_id,
        link.state.name(),
        &link.matched_by,
        &link.matched_value,
        link.since,
        &link.decided_by
    ];
    db.execute(PUT, values).await.map(drop)
}

/// There is nothing between an agent and a host any more.
pub(crate) async fn drop_link(
    db: &mut impl Executor,
    id: CollectorId,
    host: HostId,
) -> Result<(), StoreError> {
    db.execute(DROP, args![id, host]).await.map(drop)
}

/// The team of an agent; none when there is no such agent.
pub(crate) async fn team(
    db: &mut impl Executor,
    id: CollectorId,
) -> Result<Option<Option<TeamId>>, StoreError> {
    let row = db.fetch_optional(TEAM, args![id]).await?;
    row.map(|row| Ok(row.get::<Option<i64>>("team_id")?.map(TeamId)))
        .transpose()
}

/// Agents with higher ids, in their order.
pub(crate) async fn after(
    db: &mut impl Executor,
    last: CollectorId,
    limit: i64,
) -> Result<Vec<CollectorId>, StoreError> {
    let rows = db.fetch_all(AFTER, args![last, limit]).await?;
    rows.iter().map(|row| row.get("id")).collect()
}
