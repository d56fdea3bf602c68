//! Fleet's user API: hosts in lists and one by one, and what is done to them.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use muster_http::{Json, Path, Problem, Query};
use muster_identity::{Action, HostId, Principal, Scope, TeamId};
use muster_wire_fleet::host::{
    DeleteHostsRequest, DeviceMappingAnswer, HostAnswer, HostFilter, HostSummary, HostsAnswer,
    PlatformCount, SetDeviceMapping, TransferByFilterRequest, TransferRequest,
};
use muster_wire_fleet::label::{HostLabelsRequest, LabelSummary};
use muster_wire_fleet::{CountAnswer, Empty};
use serde_json::{Value, json};

use super::fleet_shape::{
    Wishes, check_team, decoded_again, device_mapping, host_id, installed, label_type, listed,
    team_names, told, whole,
};
use crate::operators::{HostQuery, Hosts, Membership, OperatorError};
use crate::record::HostRecord;

/// How many hosts one unit of work deletes or moves.
const HOSTS_AT_ONCE: usize = 1_000;

/// The routes, relative to `/api/{version}/fleet`.
pub fn fleet_host_routes(hosts: Hosts) -> Router {
    Router::new()
        .route("/hosts", get(list))
        .route("/hosts/count", get(count))
        .route("/hosts/delete", post(delete_many))
        .route("/hosts/transfer", post(transfer))
        .route("/hosts/transfer/filter", post(transfer_by_filter))
        .route("/hosts/identifier/{identifier}", get(by_identifier))
        .route("/hosts/{id}", get(one).delete(delete))
        .route("/hosts/{id}/refetch", post(refetch))
        .route("/hosts/report", get(super::fleet_report::report))
        .route("/hosts/{id}/device_mapping", get(mapping).put(set_mapping))
        .route("/hosts/{id}/labels", post(join_labels).delete(leave_labels))
        .route("/hosts/{id}/macadmins", get(macadmins))
        .route("/hosts/{id}/health", get(health))
        .route("/hosts/{id}/scripts", get(scripts))
        .route("/hosts/{id}/activities", get(activities))
        .route("/hosts/{id}/activities/upcoming", get(upcoming))
        .route("/host_summary", get(summary))
        .merge(super::fleet_labels::routes())
        .merge(super::fleet_picker::routes())
        .with_state(hosts)
}

/// What lists say of the pages beside them when there is one.
static ONLY_PAGE: LazyLock<Value> =
    LazyLock::new(|| json!({ "has_next_results": false, "has_previous_results": false }));

type Parameters = Query<HashMap<String, String>>;

async fn list(
    State(hosts): State<Hosts>,
    principal: Principal,
    Query(query): Parameters,
) -> Result<axum::Json<HostsAnswer>, Problem> {
    list_of(&hosts, &principal, Wishes(query), None).await
}

/// The list, of a label or of all hosts. The number of statements does not depend on the number of hosts.
pub(super) async fn list_of(
    hosts: &Hosts,
    principal: &Principal,
    wishes: Wishes,
    label: Option<i64>,
) -> Result<axum::Json<HostsAnswer>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let listing = wishes.listing()?;
    let filter = HostQuery {
        label_id: label,
        ..wishes.filter(hosts, principal).await?
    };
    let page = hosts.list(principal, &listing, &filter).await?;
    let teams = team_names(hosts).await?;
    let now = hosts.now();
    let shown = page.items.iter().map(|host| listed(host, &teams, now));
    Ok(axum::Json(HostsAnswer {
        hosts: shown.collect(),
    }))
}

async fn count(
    State(hosts): State<Hosts>,
    principal: Principal,
    Query(query): Parameters,
) -> Result<axum::Json<CountAnswer>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let wishes = Wishes(query);
    let mut filter = wishes.filter(&hosts, &principal).await?;
    filter.label_id = wishes.text("label_id").and_then(|id| id.parse().ok());
    let count = hosts
        .count(&principal, wishes.text("query"), &filter)
        .await?;
    Ok(axum::Json(CountAnswer { count }))
}

async fn show(
    hosts: &Hosts,
    record: HostRecord,
    wishes: &Wishes,
) -> Result<axum::Json<HostAnswer>, Problem> {
    let software = if wishes.is_on("exclude_software") {
        Vec::new()
    } else {
        installed(hosts, record.id).await?
    };
    let detail = hosts.detail(record).await?;
    let teams = team_names(hosts).await?;
    Ok(axum::Json(HostAnswer {
        host: whole(detail, Some(software), &teams, hosts.now()),
    }))
}

async fn find(hosts: &Hosts, principal: &Principal, id: &str) -> Result<HostRecord, Problem> {
    let host = hosts.find(principal, host_id(id)?).await;
    host.map_err(|error| told(error, id))
}

async fn one(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
    Query(query): Parameters,
) -> Result<axum::Json<HostAnswer>, Problem> {
    let record = find(&hosts, &principal, &id).await?;
    show(&hosts, record, &Wishes(query)).await
}

/// By host name, hardware UUID, serial number or osquery's identifier. Node keys identify nobody here: a secret has no
/// place in a path.
async fn by_identifier(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(identifier): Path<String>,
    Query(query): Parameters,
) -> Result<axum::Json<HostAnswer>, Problem> {
    let record = identified(&hosts, &principal, &identifier).await?;
    show(&hosts, record, &Wishes(query)).await
}

/// The host of an identifier, as it stands or decoded once more.
pub(super) async fn identified(
    hosts: &Hosts,
    principal: &Principal,
    identifier: &str,
) -> Result<HostRecord, Problem> {
    match hosts.find_by_identifier(principal, identifier).await {
        Err(OperatorError::UnknownHost(_)) if let Some(name) = decoded_again(identifier) => {
            let found = hosts.find_by_identifier(principal, &name).await;
            found.map_err(|error| told(error, identifier))
        }
        found => found.map_err(|error| told(error, identifier)),
    }
}

async fn delete(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<Empty>, Problem> {
    let record = find(&hosts, &principal, &id).await?;
    hosts.delete(&principal, &[record.id]).await?;
    Ok(axum::Json(Empty {}))
}

async fn delete_many(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(body): Json<DeleteHostsRequest>,
) -> Result<axum::Json<Empty>, Problem> {
    principal.authorize(Action::WriteHosts, Scope::Anywhere)?;
    let ids = match (body.ids.is_empty(), body.filters) {
        (false, Some(_)) => {
            return Err(Problem::bad_request(
                "Cannot specify a list of ids and filters at the same time",
            ));
        }
        (false, None) => body.ids.into_iter().map(HostId).collect(),
        (true, Some(filter)) => matching(&hosts, &principal, filter).await?,
        (true, None) => return Err(Problem::bad_request("list of ids or filters are required")),
    };
    for ids in ids.chunks(HOSTS_AT_ONCE) {
        hosts.delete(&principal, ids).await?;
    }
    Ok(axum::Json(Empty {}))
}

async fn refetch(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<Empty>, Problem> {
    let record = find(&hosts, &principal, &id).await?;
    hosts.refetch(&principal, record.id).await?;
    Ok(axum::Json(Empty {}))
}

async fn transfer(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(body): Json<TransferRequest>,
) -> Result<axum::Json<Empty>, Problem> {
    let ids: Vec<HostId> = body.hosts.into_iter().map(HostId).collect();
    move_all(&hosts, &principal, &ids, body.team_id).await
}

async fn transfer_by_filter(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(body): Json<TransferByFilterRequest>,
) -> Result<axum::Json<Empty>, Problem> {
    principal.authorize(Action::WriteHosts, Scope::Anywhere)?;
    let filter = body
        .filters
        .ok_or_else(|| Problem::bad_request("filters must be specified"))?;
    let ids = matching(&hosts, &principal, filter).await?;
    move_all(&hosts, &principal, &ids, body.team_id).await
}

async fn move_all(
    hosts: &Hosts,
    principal: &Principal,
    ids: &[HostId],
    team: Option<i64>,
) -> Result<axum::Json<Empty>, Problem> {
    let team = team.map(TeamId);
    if ids.is_empty() {
        // An unknown team is refused, however many hosts there are.
        hosts.transfer(principal, &[], team).await?;
    }
    for ids in ids.chunks(HOSTS_AT_ONCE) {
        hosts.transfer(principal, ids, team).await?;
    }
    Ok(axum::Json(Empty {}))
}

/// The hosts of a filter. An empty search text counts as absent, as old clients mean it.
async fn matching(
    hosts: &Hosts,
    principal: &Principal,
    filter: HostFilter,
) -> Result<Vec<HostId>, Problem> {
    if let Some(status) = &filter.status
        && !["new", "online", "offline", "missing", "mia"].contains(&status.as_str())
    {
        return Err(Problem::bad_request(format!("Invalid status: {status}")));
    }
    let team_id = filter.team_id.map(|team| team.unwrap_or(0));
    check_team(hosts, principal, team_id).await?;
    let query = HostQuery {
        status: filter.status,
        team_id,
        label_id: filter.label_id,
        ..HostQuery::default()
    };
    let found = hosts
        .matching(principal, filter.query.as_deref(), &query)
        .await;
    Ok(found?)
}

async fn mapping(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<DeviceMappingAnswer>, Problem> {
    let record = find(&hosts, &principal, &id).await?;
    show_mapping(&hosts, record).await
}

async fn show_mapping(
    hosts: &Hosts,
    record: HostRecord,
) -> Result<axum::Json<DeviceMappingAnswer>, Problem> {
    let detail = hosts.detail(record).await?;
    Ok(axum::Json(DeviceMappingAnswer {
        host_id: detail.host.id.0,
        device_mapping: device_mapping(&detail),
    }))
}

async fn set_mapping(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
    Json(body): Json<SetDeviceMapping>,
) -> Result<axum::Json<DeviceMappingAnswer>, Problem> {
    let record = find(&hosts, &principal, &id).await?;
    let record = hosts
        .set_end_user(&principal, record.id, &body.email)
        .await?;
    show_mapping(&hosts, record).await
}

async fn join_labels(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
    Json(body): Json<HostLabelsRequest>,
) -> Result<axum::Json<Empty>, Problem> {
    change_labels(&hosts, &principal, &id, Membership::Join, &body).await
}

async fn leave_labels(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
    Json(body): Json<HostLabelsRequest>,
) -> Result<axum::Json<Empty>, Problem> {
    change_labels(&hosts, &principal, &id, Membership::Leave, &body).await
}

async fn change_labels(
    hosts: &Hosts,
    principal: &Principal,
    id: &str,
    change: Membership,
    body: &HostLabelsRequest,
) -> Result<axum::Json<Empty>, Problem> {
    let record = find(hosts, principal, id).await?;
    hosts
        .change_labels_of(principal, record.id, change, &body.labels)
        .await?;
    Ok(axum::Json(Empty {}))
}

async fn macadmins(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    find(&hosts, &principal, &id).await?;
    Ok(axum::Json(json!({ "macadmins": null })))
}

/// Scripts that may be run on the host: there are none yet.
async fn scripts(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    find(&hosts, &principal, &id).await?;
    Ok(axum::Json(
        json!({ "scripts": [], "meta": ONLY_PAGE.clone() }),
    ))
}

/// Scripts and installations that were run on the host, which is what Fleet calls its activities. What happened to it
/// here stands in its timeline, in our own API.
async fn activities(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    find(&hosts, &principal, &id).await?;
    Ok(axum::Json(
        json!({ "activities": null, "meta": ONLY_PAGE.clone() }),
    ))
}

async fn upcoming(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    find(&hosts, &principal, &id).await?;
    Ok(axum::Json(
        json!({ "activities": [], "count": 0, "meta": ONLY_PAGE.clone() }),
    ))
}

async fn health(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    let record = find(&hosts, &principal, &id).await?;
    Ok(axum::Json(json!({
        "host_id": record.id,
        "health": {
            "updated_at": record.updated_at,
            "os_version": record.facts.os_version,
            "disk_encryption_enabled": null,
            "failing_policies_count": 0,
            "failing_critical_policies_count": 0,
        },
    })))
}

async fn summary(
    State(hosts): State<Hosts>,
    principal: Principal,
    Query(query): Parameters,
) -> Result<axum::Json<HostSummary>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let wishes = Wishes(query);
    let filter = wishes.filter(&hosts, &principal).await?;
    let wanted = |status: Option<&str>| HostQuery {
        status: status.map(str::to_owned),
        team_id: filter.team_id,
        platform: filter.platform.clone(),
        ..HostQuery::default()
    };
    let mut counts = Vec::new();
    for status in [
        None,
        Some("online"),
        Some("offline"),
        Some("missing"),
        Some("new"),
    ] {
        counts.push(hosts.count(&principal, None, &wanted(status)).await?);
    }
    let low_disk_space_count = match filter.low_disk_gb {
        Some(_) => {
            let query = HostQuery {
                low_disk_gb: filter.low_disk_gb,
                ..wanted(None)
            };
            Some(hosts.count(&principal, None, &query).await?)
        }
        None => None,
    };
    let linux = HostQuery {
        platform: Some("linux".to_owned()),
        ..wanted(None)
    };
    let labels = hosts.labels(&principal.visible_teams()).await?;
    let platforms = hosts.platforms(&principal, filter.team_id).await?;
    Ok(axum::Json(HostSummary {
        team_id: filter.team_id,
        totals_hosts_count: counts[0],
        online_count: counts[1],
        offline_count: counts[2],
        mia_count: counts[3],
        missing_30_days_count: counts[3],
        new_count: counts[4],
        all_linux_count: hosts.count(&principal, None, &linux).await?,
        low_disk_space_count,
        builtin_labels: labels
            .iter()
            .filter(|(label, _)| label.builtin)
            .map(|(label, _)| LabelSummary {
                id: label.id.0,
                name: label.name.clone(),
                description: label.description.clone(),
                label_type: label_type(label),
            })
            .collect(),
        platforms: platforms
            .into_iter()
            .map(|(platform, hosts_count)| PlatformCount {
                platform,
                hosts_count,
            })
            .collect(),
    }))
}
