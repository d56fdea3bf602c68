//! Campaigns, the hosts that they ask, and what those answered.

use muster_clock::Timestamp;
use muster_http::Listing;
use muster_identity::{HostId, UserId};
use muster_store::{Executor, Row, StoreError, Value, args, placeholders};
use serde_json::value::RawValue;

use crate::{Campaign, CampaignHost, CampaignStatus, Counts, HostResult, HostState, TargetHost};

/// How many hosts one statement adds or marks.
pub(crate) const MAX_BATCH: usize = 1_000;

muster_store::statements! {
    INSERT = "INSERT INTO queries_campaigns (query_id, sql_text, user_id, user_name, status, wait_for_offline,
        created_at, expires_at) VALUES ($1, $2, $3, $4, 'running', $5, $6, $7) RETURNING id";
    FIND = "SELECT id, query_id, sql_text, user_id, user_name, status, wait_for_offline, created_at, expires_at,
        ended_at, result_rows, clipped FROM queries_campaigns WHERE id = $1";
    COUNTS = "SELECT campaign_id, state, COUNT(*) AS total, CAST(SUM(online) AS BIGINT) AS online
        FROM queries_campaign_hosts WHERE campaign_id = $1 GROUP BY campaign_id, state";
    ACTIVE = "SELECT id, user_id, sql_text, wait_for_offline, expires_at, last_position FROM queries_campaigns
        WHERE status = 'running'";
    ACTIVE_ONE = "SELECT id, user_id, sql_text, wait_for_offline, expires_at, last_position FROM queries_campaigns
        WHERE status = 'running' AND id = $1";
    OWING = "SELECT host_id, state FROM queries_campaign_hosts
        WHERE campaign_id = $1 AND state IN ('pending', 'sent', 'offline')";
    RESERVE = "UPDATE queries_campaigns SET last_position = last_position + $2 WHERE id = $1
        RETURNING last_position, result_rows, result_bytes";
    ADD_TOTALS = "UPDATE queries_campaigns SET result_rows = result_rows + $2, result_bytes = result_bytes + $3,
        clipped = CASE WHEN $4 = 1 THEN 1 ELSE clipped END WHERE id = $1";
    OUTSTANDING = "SELECT COUNT(*) AS total FROM queries_campaign_hosts WHERE campaign_id = $1
        AND (state IN ('pending', 'sent') OR (state = 'offline' AND $2 = 1))";
    END_HOSTS = "UPDATE queries_campaign_hosts SET state = $2, ended_at = $3
        WHERE campaign_id = $1 AND state IN ('pending', 'sent', 'offline')";
    END = "UPDATE queries_campaigns SET status = $2, ended_at = $3 WHERE id = $1 AND status = 'running'";
    DUE_TO_EXPIRE = "SELECT id FROM queries_campaigns WHERE status = 'running' AND expires_at <= $1";
    RESULTS = "SELECT h.position, h.host_id, h.hostname, h.display_name, h.state, h.message, h.clipped, h.stats,
        h.ended_at, r.rows_json FROM queries_campaign_hosts h
        LEFT JOIN queries_results r ON r.campaign_id = h.campaign_id AND r.host_id = h.host_id
        WHERE h.campaign_id = $1 AND h.position > $2 ORDER BY h.position LIMIT $3";
    ANSWERED_SINCE = "SELECT host_id, position FROM queries_campaign_hosts
        WHERE campaign_id = $1 AND position > $2 ORDER BY position LIMIT $3";
    SIZES = "SELECT position, result_bytes FROM queries_campaign_hosts
        WHERE campaign_id = $1 AND position > $2 ORDER BY position LIMIT $3";
    FORGET_RESULTS = "DELETE FROM queries_results WHERE (campaign_id, host_id) IN (SELECT r.campaign_id, r.host_id
        FROM queries_campaigns c JOIN queries_results r ON r.campaign_id = c.id WHERE c.ended_at <= $1 LIMIT 200)";
    FORGET_HOSTS = "DELETE FROM queries_campaign_hosts WHERE (campaign_id, host_id) IN (SELECT h.campaign_id, h.host_id
        FROM queries_campaigns c JOIN queries_campaign_hosts h ON h.campaign_id = c.id WHERE c.ended_at <= $1 LIMIT 2000)";
    FORGET = "DELETE FROM queries_campaigns WHERE id IN
        (SELECT id FROM queries_campaigns WHERE ended_at <= $1 LIMIT 200)";
}

/// A running campaign as memory needs it.
pub(crate) struct ActiveRow {
    pub(crate) id: i64,
    pub(crate) user_id: UserId,
    pub(crate) sql: String,
    pub(crate) wait_for_offline: bool,
    pub(crate) expires_at: Timestamp,
    pub(crate) last_position: i64,
}

/// An answer to be kept.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) campaign_id: i64,
    pub(crate) host_id: HostId,
    pub(crate) state: HostState,
    pub(crate) message: String,
    pub(crate) rows_json: String,
    pub(crate) rows: i64,
    pub(crate) clipped: bool,
    pub(crate) stats: Option<String>,
}

/// What a campaign has so far.
pub(crate) struct Reserved {
    pub(crate) last_position: i64,
    pub(crate) rows: i64,
    pub(crate) bytes: i64,
}

fn single(rows: &[Row]) -> Result<&Row, StoreError> {
    rows.first()
        .ok_or_else(|| StoreError::corrupt("change a campaign", "no row came back"))
}

#[expect(clippy::too_many_arguments, reason = "the columns of a row")]
pub(crate) async fn insert(
    db: &mut impl Executor,
    query_id: Option<i64>,
    sql: &str,
    user: (UserId, &str),
    wait_for_offline: bool,
    now: Timestamp,
    expires_at: Timestamp,
    hosts: &[TargetHost],
) -> Result<i64, StoreError> {
    let args = args![
        query_id,
        sql,
        user.0,
        user.1,
        wait_for_offline,
        now,
        expires_at
    ];
    let id: i64 = single(&db.execute_returning(INSERT, args).await?)?.get("id")?;
    for batch in hosts.chunks(MAX_BATCH) {
        let sql = format!(
            "INSERT INTO queries_campaign_hosts (campaign_id, host_id, hostname, display_name, team_id, online, seen_at, \
             state) VALUES {}",
            placeholders(batch.len(), 8)
        );
        let args = batch.iter().flat_map(|host| {
            let state = if host.online {
                HostState::Pending
            } else {
                HostState::Offline
            };
            args![
                id,
                host.id,
                &host.hostname,
                &host.display_name,
                host.team_id.map(|team| team.0),
                host.online,
                host.seen_at,
                state.name(),
            ]
        });
        db.execute(&sql, args.collect()).await?;
    }
    Ok(id)
}

fn campaign(row: &Row) -> Result<Campaign, StoreError> {
    Ok(Campaign {
        id: row.get("id")?,
        query_id: row.get("query_id")?,
        query: row.get("sql_text")?,
        user_id: row.get("user_id")?,
        user_name: row.get("user_name")?,
        status: CampaignStatus::from_text(&row.get::<String>("status")?),
        wait_for_offline: row.get("wait_for_offline")?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        ended_at: row.get("ended_at")?,
        result_rows: row.get("result_rows")?,
        clipped: row.get("clipped")?,
        hosts: Counts::default(),
    })
}

pub(crate) async fn find(db: &mut impl Executor, id: i64) -> Result<Option<Campaign>, StoreError> {
    let Some(row) = db.fetch_optional(FIND, args![id]).await? else {
        return Ok(None);
    };
    let mut campaign = campaign(&row)?;
    campaign.hosts = counts(db, &campaign).await?;
    Ok(Some(campaign))
}

async fn counts(db: &mut impl Executor, campaign: &Campaign) -> Result<Counts, StoreError> {
    let mut counts = Counts::default();
    for row in db.fetch_all(COUNTS, args![campaign.id]).await? {
        let total = row.get::<i64>("total")?.try_into().unwrap_or(0);
        counts.targeted += total;
        counts.online += u64::try_from(row.get::<i64>("online")?).unwrap_or(0);
        match HostState::parse(&row.get::<String>("state")?) {
            Some(HostState::Pending) => counts.pending += total,
            Some(HostState::Sent) => counts.sent += total,
            Some(HostState::Answered) => counts.answered += total,
            Some(HostState::Failed) => counts.failed += total,
            Some(HostState::Offline) => counts.offline += total,
            Some(HostState::Expired) | None => counts.expired += total,
            Some(HostState::Cancelled) => counts.cancelled += total,
        }
    }
    if campaign.status == CampaignStatus::Running {
        counts.awaited = counts.pending + counts.sent;
        if campaign.wait_for_offline {
            counts.awaited += counts.offline;
        }
    }
    Ok(counts)
}

/// A page of campaigns, of one user or of all, newest first unless asked otherwise.
pub(crate) async fn list(
    db: &mut impl Executor,
    listing: &Listing,
    user: Option<UserId>,
) -> Result<(Vec<Campaign>, u64), StoreError> {
    let mut args: Vec<Value> = Vec::new();
    let mut conditions = vec!["1 = 1".to_owned()];
    if let Some(user) = user {
        args.push(user.into());
        conditions.push(format!("user_id = ${}", args.len()));
    }
    if let Some(pattern) = listing.search_pattern() {
        args.push(pattern.as_str().into());
        let place = args.len();
        let [text, name] = ["sql_text", "user_name"]
            .map(|column| muster_store::folded_column(column, [pattern.as_str()]));
        conditions.push(format!(
            "({text} LIKE ${place} ESCAPE '\\' OR {name} LIKE ${place} ESCAPE '\\')"
        ));
    }
    let conditions = conditions.join(" AND ");
    let count = format!("SELECT COUNT(*) AS total FROM queries_campaigns WHERE {conditions}");
    let total: i64 = db.fetch_one(&count, args.clone()).await?.get("total")?;
    let sql = format!(
        "SELECT id, query_id, sql_text, user_id, user_name, status, wait_for_offline, created_at, expires_at, ended_at, \
         result_rows, clipped FROM queries_campaigns WHERE {conditions} ORDER BY id {} LIMIT ${} OFFSET ${}",
        listing.direction.sql(),
        args.len() + 1,
        args.len() + 2,
    );
    args.extend(args![
        i64::from(listing.limit),
        i64::try_from(listing.offset).unwrap_or(i64::MAX)
    ]);
    let rows = db.fetch_all(&sql, args).await?;
    let mut campaigns = rows.iter().map(campaign).collect::<Result<Vec<_>, _>>()?;
    for campaign in &mut campaigns {
        campaign.hosts = counts(db, campaign).await?;
    }
    Ok((campaigns, u64::try_from(total).unwrap_or(0)))
}

fn active_row(row: &Row) -> Result<ActiveRow, StoreError> {
    Ok(ActiveRow {
        id: row.get("id")?,
        user_id: UserId(row.get("user_id")?),
        sql: row.get("sql_text")?,
        wait_for_offline: row.get("wait_for_offline")?,
        expires_at: row.get("expires_at")?,
        last_position: row.get("last_position")?,
    })
}

pub(crate) async fn active(db: &mut impl Executor) -> Result<Vec<ActiveRow>, StoreError> {
    db.fetch_all(ACTIVE, args![])
        .await?
        .iter()
        .map(active_row)
        .collect()
}

pub(crate) async fn active_one(
    db: &mut impl Executor,
    id: i64,
) -> Result<Option<ActiveRow>, StoreError> {
    db.fetch_optional(ACTIVE_ONE, args![id])
        .await?
        .as_ref()
        .map(active_row)
        .transpose()
}

/// The hosts that owe an answer, and where each stands.
pub(crate) async fn owing(
    db: &mut impl Executor,
    id: i64,
) -> Result<Vec<(HostId, HostState)>, StoreError> {
    let rows = db.fetch_all(OWING, args![id]).await?;
    rows.iter()
        .map(|row| {
            let state = HostState::parse(&row.get::<String>("state")?);
            Ok((row.get("host_id")?, state.unwrap_or(HostState::Pending)))
        })
        .collect()
}

/// Hosts that answered after a position, with theirs, in order; some thousand at a time.
pub(crate) async fn answered_since(
    db: &mut impl Executor,
    id: i64,
    position: i64,
) -> Result<Vec<(HostId, i64)>, StoreError> {
    let limit = i64::try_from(MAX_BATCH).unwrap_or(i64::MAX);
    let rows = db
        .fetch_all(ANSWERED_SINCE, args![id, position, limit])
        .await?;
    rows.iter()
        .map(|row| Ok((row.get("host_id")?, row.get("position")?)))
        .collect()
}

/// Marks hosts as asked; those that answered meanwhile stay as they are.
pub(crate) async fn mark_sent(
    db: &mut impl Executor,
    id: i64,
    hosts: &[HostId],
    now: Timestamp,
) -> Result<(), StoreError> {
    for batch in hosts.chunks(MAX_BATCH) {
        let places: Vec<String> = (0..batch.len())
            .map(|index| format!("${}", index + 3))
            .collect();
        let sql = format!(
            "UPDATE queries_campaign_hosts SET state = 'sent', sent_at = $2 WHERE campaign_id = $1 \
             AND state IN ('pending', 'offline') AND host_id IN ({})",
            places.join(", ")
        );
        let mut args = args![id, now];
        args.extend(batch.iter().copied().map(Value::from));
        db.execute(&sql, args).await?;
    }
    Ok(())
}

/// Takes positions for so many answers; the campaign's row stays locked until the unit of work ends, so that positions
/// become visible in their order.
pub(crate) async fn reserve(
    db: &mut impl Executor,
    id: i64,
    count: i64,
) -> Result<Option<Reserved>, StoreError> {
    let rows = db.execute_returning(RESERVE, args![id, count]).await?;
    let read = |row: &Row| {
        Ok(Reserved {
            last_position: row.get("last_position")?,
            rows: row.get("result_rows")?,
            bytes: row.get("result_bytes")?,
        })
    };
    rows.first().map(read).transpose()
}

pub(crate) async fn add_totals(
    db: &mut impl Executor,
    id: i64,
    rows: i64,
    bytes: i64,
    clipped: bool,
) -> Result<(), StoreError> {
    db.execute(ADD_TOTALS, args![id, rows, bytes, clipped])
        .await
        .map(drop)
}

/// How many hosts a campaign is not finished without.
pub(crate) async fn outstanding(
    db: &mut impl Executor,
    id: i64,
    wait_for_offline: bool,
) -> Result<i64, StoreError> {
    db.fetch_one(OUTSTANDING, args![id, wait_for_offline])
        .await?
        .get("total")
}

/// Ends a campaign; gives false when it had ended already.
pub(crate) async fn end(
    db: &mut impl Executor,
    id: i64,
    status: CampaignStatus,
    rest: Option<HostState>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    if db.execute(END, args![id, status.name(), now]).await? != 1 {
        return Ok(false);
    }
    if let Some(state) = rest {
        db.execute(END_HOSTS, args![id, state.name(), now]).await?;
    }
    Ok(true)
}

pub(crate) async fn due_to_expire(
    db: &mut impl Executor,
    now: Timestamp,
) -> Result<Vec<i64>, StoreError> {
    db.fetch_all(DUE_TO_EXPIRE, args![now])
        .await?
        .iter()
        .map(|row| row.get("id"))
        .collect()
}

fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| empty_list())
}

fn empty_list() -> Box<RawValue> {
    RawValue::from_string("[]".to_owned()).expect("an empty list is JSON")
}

fn result(row: &Row) -> Result<HostResult, StoreError> {
    let failed = row.get::<String>("state")? == HostState::Failed.name();
    Ok(HostResult {
        position: row.get("position")?,
        host_id: row.get("host_id")?,
        hostname: row.get("hostname")?,
        display_name: row.get("display_name")?,
        error: if failed {
            Some(row.get("message")?)
        } else {
            None
        },
        rows: row
            .get::<Option<String>>("rows_json")?
            .map_or_else(empty_list, raw),
        clipped: row.get("clipped")?,
        stats: row
            .get::<Option<String>>("stats")?
            .and_then(|text| RawValue::from_string(text).ok()),
        at: row.get("ended_at")?,
    })
}

/// Answers after a position, in order.
pub(crate) async fn results(
    db: &mut impl Executor,
    id: i64,
    after: i64,
    limit: i64,
    max_bytes: i64,
) -> Result<Vec<HostResult>, StoreError> {
    let (mut fits, mut bytes) = (0, 0);
    for row in db.fetch_all(SIZES, args![id, after, limit]).await? {
        bytes += row.get::<i64>("result_bytes")?;
        if fits > 0 && bytes > max_bytes {
            break;
        }
        fits += 1;
    }
    if fits == 0 {
        return Ok(Vec::new());
    }
    db.fetch_all(RESULTS, args![id, after, fits])
        .await?
        .iter()
        .map(result)
        .collect()
}

fn host(row: &Row, now: Timestamp) -> Result<CampaignHost, StoreError> {
    let state = HostState::parse(&row.get::<String>("state")?).unwrap_or(HostState::Expired);
    let seen_at: Option<Timestamp> = row.get("seen_at")?;
    let sent_at: Option<Timestamp> = row.get("sent_at")?;
    let online: bool = row.get("online")?;
    let ago = |at: Timestamp| format!("{} s ago", now.since(at).as_secs());
    let reason = match state {
        HostState::Failed => row.get("message")?,
        HostState::Offline => match seen_at {
            Some(at) => format!("not heard of since {at}"),
            None => "never heard of".to_owned(),
        },
        HostState::Sent => sent_at
            .map(|at| format!("asked {}, no answer yet", ago(at)))
            .unwrap_or_default(),
        HostState::Pending => "has not checked in yet".to_owned(),
        HostState::Expired if sent_at.is_some() => {
            "was asked and did not answer in time".to_owned()
        }
        HostState::Expired if online => "did not check in in time".to_owned(),
        HostState::Expired => "was away the whole time".to_owned(),
        HostState::Answered | HostState::Cancelled => String::new(),
    };
    Ok(CampaignHost {
        host_id: row.get("host_id")?,
        hostname: row.get("hostname")?,
        display_name: row.get("display_name")?,
        state,
        reason,
        seen_at,
        sent_at,
        ended_at: row.get("ended_at")?,
        result_rows: row.get("result_rows")?,
        clipped: row.get("clipped")?,
    })
}

/// A page of a campaign's hosts with where each stands; those in some states only, when any are named.
pub(crate) async fn hosts(
    db: &mut impl Executor,
    id: i64,
    listing: &Listing,
    states: &[HostState],
    now: Timestamp,
) -> Result<(Vec<CampaignHost>, u64), StoreError> {
    let mut args = args![id];
    let mut conditions = vec!["campaign_id = $1".to_owned()];
    if !states.is_empty() {
        let places: Vec<String> = (0..states.len())
            .map(|index| format!("${}", args.len() + index + 1))
            .collect();
        conditions.push(format!("state IN ({})", places.join(", ")));
        args.extend(states.iter().map(|state| Value::from(state.name())));
    }
    if let Some(pattern) = listing.search_pattern() {
        args.push(pattern.as_str().into());
        let place = args.len();
        let [name, host] = ["display_name", "hostname"]
            .map(|column| muster_store::folded_column(column, [pattern.as_str()]));
        conditions.push(format!(
            "({name} LIKE ${place} ESCAPE '\\' OR {host} LIKE ${place} ESCAPE '\\')"
        ));
    }
    let conditions = conditions.join(" AND ");
    let count = format!("SELECT COUNT(*) AS total FROM queries_campaign_hosts WHERE {conditions}");
    let total: i64 = db.fetch_one(&count, args.clone()).await?.get("total")?;
    let sql = format!(
        "SELECT host_id, hostname, display_name, state, message, online, seen_at, sent_at, ended_at, result_rows, clipped \
         FROM queries_campaign_hosts WHERE {conditions} ORDER BY {} {}, host_id LIMIT ${} OFFSET ${}",
        listing.sort,
        listing.direction.sql(),
        args.len() + 1,
        args.len() + 2,
    );
    args.extend(args![
        i64::from(listing.limit),
        i64::try_from(listing.offset).unwrap_or(i64::MAX)
    ]);
    let rows = db.fetch_all(&sql, args).await?;
    let hosts = rows
        .iter()
        .map(|row| host(row, now))
        .collect::<Result<_, _>>()?;
    Ok((hosts, u64::try_from(total).unwrap_or(0)))
}

/// Forgets results of campaigns that ended before one time, and campaigns that ended before another, a batch per statement:
/// there may be half a gigabyte of a campaign, and others write meanwhile.
pub(crate) async fn forget(
    db: &mut impl Executor,
    results_before: Timestamp,
    campaigns_before: Timestamp,
) -> Result<(), StoreError> {
    while db.execute(FORGET_RESULTS, args![results_before]).await? > 0 {}
    while db.execute(FORGET_HOSTS, args![campaigns_before]).await? > 0 {}
    while db.execute(FORGET, args![campaigns_before]).await? > 0 {}
    Ok(())
}
