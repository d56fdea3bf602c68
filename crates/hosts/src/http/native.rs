//! Our own API: hosts and labels.

use axum::extract::State;
use axum::http::StatusCode;
use muster_clock::Timestamp;
use muster_http::{Json, ListingQuery, Page, Path, Problem, Query};
use muster_identity::{Action, AgentKeyInfo, HostId, Principal, Scope, TeamFilter, TeamId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::native_skew::{Dark, may_see_servers};
use crate::companions::HostCollector;
use crate::operators::{
    Ban, DarkFeature, HOST_SORTS, HostDetail, HostQuery, Hosts, LabelChange, NewLabel, presence,
};
use crate::record::{HostRecord, LabelId, LabelRecord};

/// The routes, relative to `/api/muster`.
pub fn native_host_routes(hosts: Hosts) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, delete))
        .routes(routes!(by_identifier))
        .routes(routes!(refetch))
        .routes(routes!(transfer))
        .routes(routes!(list_labels, create_label))
        .routes(routes!(get_label, change_label, delete_label))
        .with_state(hosts)
}

/// A host.
#[derive(Debug, Serialize, ToSchema)]
struct Host {
    /// Its id.
    id: HostId,
    /// What people call it.
    display_name: String,
    /// Its network name.
    hostname: String,
    /// `online`, `offline` or `missing` (not heard of for a month).
    status: &'static str,
    /// osquery's platform: `debian`, `darwin`, `windows`, …
    platform: String,
    /// Name and version of the operating system.
    os_version: String,
    /// Its team.
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<TeamId>,
    /// When it was last heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    seen_at: Option<Timestamp>,
    /// When it last enrolled.
    #[schema(value_type = String, format = DateTime)]
    enrolled_at: Timestamp,
    /// When its details last arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    detail_updated_at: Option<Timestamp>,
    /// Hardware UUID.
    uuid: String,
    /// Serial number of the machine.
    hardware_serial: String,
    /// Maker of the machine.
    hardware_vendor: String,
    /// Model of the machine.
    hardware_model: String,
    /// What the processor calls itself.
    cpu_brand: String,
    /// Memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<i64>,
    /// Address on the interface that leads out.
    primary_ip: String,
    /// Hardware address of that interface.
    primary_mac: String,
    /// Version of osquery, or of what answers in its place.
    osquery_version: String,
    /// Version of orbit, or of what answers in its place.
    orbit_version: String,
    /// Whether its details were asked for and have not arrived.
    refetch_requested: bool,
}

impl Host {
    fn new(host: &HostRecord, now: Timestamp) -> Self {
        let facts = &host.facts;
        Self {
            id: host.id,
            display_name: host.display_name(),
            hostname: facts.hostname.clone(),
            status: presence(host, now).name(),
            platform: facts.platform.clone(),
            os_version: facts.os_version.clone(),
            team_id: host.team_id,
            seen_at: host.seen_at,
            enrolled_at: host.enrolled_at,
            detail_updated_at: host.detail_updated_at,
            uuid: facts.uuid.clone(),
            hardware_serial: facts.hardware_serial.clone(),
            hardware_vendor: facts.hardware_vendor.clone(),
            hardware_model: facts.hardware_model.clone(),
            cpu_brand: facts.cpu_brand.clone(),
            memory_bytes: facts.memory_bytes,
            primary_ip: facts.primary_ip.clone(),
            primary_mac: facts.primary_mac.clone(),
            osquery_version: facts.osquery_version.clone(),
            orbit_version: facts.orbit_version.clone(),
            refetch_requested: host.refetch_requested,
        }
    }
}

/// An account on a host.
#[derive(Debug, Serialize, ToSchema)]
struct Account {
    /// Numeric id.
    uid: String,
    /// Login name.
    username: String,
    /// Name of the primary group.
    groupname: String,
    /// Login shell.
    shell: String,
}

/// What a program on a host last said that it can do.
#[derive(Debug, Serialize, ToSchema)]
struct Capabilities {
    /// Which program.
    process: String,
    /// Its version, as far as it says.
    version: String,
    /// What it can do; empty when it says nothing.
    names: Vec<String>,
    /// Since when it says so.
    #[schema(value_type = String, format = DateTime)]
    changed_at: Timestamp,
}

/// Something that happened to a host.
#[derive(Debug, Serialize, ToSchema)]
struct Event {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// What.
    kind: String,
    /// Particulars.
    #[schema(value_type = Object)]
    details: serde_json::Value,
}

/// Everything that is known about a host.
#[derive(Debug, Serialize, ToSchema)]
struct Detail {
    /// The host.
    #[serde(flatten)]
    host: Host,
    /// The names of its labels.
    labels: Vec<String>,
    /// The accounts on it.
    users: Vec<Account>,
    /// What its programs can do.
    capabilities: Vec<Capabilities>,
    /// What is dark on it, because of which process.
    dark_features: Vec<Dark>,
    /// Its keys, without their secrets.
    keys: Vec<AgentKeyInfo>,
    /// Why it may not come back, if it is banned.
    #[serde(skip_serializing_if = "Option::is_none")]
    ban: Option<Ban>,
    /// The host that it was told from: two machines had one identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    clone_of: Option<HostId>,
    /// Hosts that were told from it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    clones: Vec<HostId>,
    /// The collectors on it, and those that may be on it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    collectors: Vec<HostCollector>,
    /// What happened to it, newest first.
    events: Vec<Event>,
}

impl Detail {
    fn new(detail: HostDetail, dark: Vec<DarkFeature>, now: Timestamp) -> Self {
        let account = |user: crate::record::HostUser| Account {
            uid: user.uid,
            username: user.username,
            groupname: user.groupname,
            shell: user.shell,
        };
        let capabilities = |said: crate::record::HostCapabilities| Capabilities {
            process: said.process,
            version: said.version,
            names: said.names,
            changed_at: said.changed_at,
        };
        let event = |event: crate::record::HostEvent| Event {
            at: event.at,
            kind: event.kind,
            details: event.details,
        };
        Self {
            host: Host::new(&detail.host, now),
            labels: detail.labels.into_iter().map(|label| label.name).collect(),
            users: detail.users.into_iter().map(account).collect(),
            capabilities: detail.capabilities.into_iter().map(capabilities).collect(),
            dark_features: Dark::all(dark),
            keys: detail.keys,
            ban: detail.ban,
            clone_of: detail.clone_of,
            clones: detail.clones,
            collectors: detail.collectors,
            events: detail.events.into_iter().map(event).collect(),
        }
    }
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct HostsQuery {
    /// Only hosts that are `online`, `offline`, `missing` or `new` (enrolled within a day).
    status: Option<String>,
    /// Only hosts of this team; 0 for hosts without one.
    team_id: Option<i64>,
    /// Only hosts in this label.
    label_id: Option<i64>,
    /// Only hosts of this platform; `linux` means every distribution.
    platform: Option<String>,
}

/// List hosts
///
/// Those of the teams that you may see. `search` looks at names, UUID, serial number and addresses.
#[utoipa::path(get, path = "/hosts", tag = "hosts", params(ListingQuery, HostsQuery),
    responses((status = 200, body = Page<Host>)))]
async fn list(
    State(hosts): State<Hosts>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Query(query): Query<HostsQuery>,
) -> Result<axum::Json<Page<Host>>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let listing = listing.check(HOST_SORTS)?;
    let query = HostQuery {
        status: query.status,
        team_id: query.team_id,
        label_id: query.label_id,
        platform: query.platform,
        ..HostQuery::default()
    };
    let page = hosts.list(&principal, &listing, &query).await?;
    let now = hosts.now();
    let items = page.items.iter().map(|host| Host::new(host, now)).collect();
    Ok(axum::Json(Page {
        items,
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

async fn detail(
    hosts: &Hosts,
    principal: &Principal,
    host: HostRecord,
) -> Result<axum::Json<Detail>, Problem> {
    let dark = hosts.dark_on(host.id, may_see_servers(principal)).await?;
    let detail = hosts.detail(host).await?;
    Ok(axum::Json(Detail::new(detail, dark, hosts.now())))
}

/// Look at a host
#[utoipa::path(get, path = "/hosts/{id}", tag = "hosts", params(("id" = i64, Path)),
    responses((status = 200, body = Detail), (status = 404)))]
async fn get(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Detail>, Problem> {
    let host = hosts.find(&principal, HostId(id)).await?;
    detail(&hosts, &principal, host).await
}

/// Look at a host by its name
///
/// Host name, computer name, hardware UUID, serial number or osquery's identifier, without regard to case. Of several, the
/// one that was heard of last.
#[utoipa::path(get, path = "/hosts/by-identifier/{identifier}", tag = "hosts", params(("identifier" = String, Path)),
    responses((status = 200, body = Detail), (status = 404)))]
async fn by_identifier(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(identifier): Path<String>,
) -> Result<axum::Json<Detail>, Problem> {
    let host = hosts.find_by_identifier(&principal, &identifier).await?;
    detail(&hosts, &principal, host).await
}

/// Delete a host
///
/// With everything known about it, and its keys. An agent that still runs there has to enroll again.
#[utoipa::path(delete, path = "/hosts/{id}", tag = "hosts", params(("id" = i64, Path)),
    responses((status = 204), (status = 404)))]
async fn delete(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    hosts.find(&principal, HostId(id)).await?;
    hosts.delete(&principal, &[HostId(id)]).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Have a host send its details at its next check-in
#[utoipa::path(post, path = "/hosts/{id}/refetch", tag = "hosts", params(("id" = i64, Path)),
    responses((status = 204), (status = 404)))]
async fn refetch(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    hosts.refetch(&principal, HostId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct Transfer {
    /// Which hosts.
    host_ids: Vec<i64>,
    /// To which team; out of all when left out.
    team_id: Option<i64>,
}

/// How many hosts were moved.
#[derive(Serialize, ToSchema)]
struct Moved {
    /// How many.
    moved: u64,
}

/// Move hosts to a team
///
/// It sticks: a host that enrolls again with the same token stays where it was moved to.
#[utoipa::path(post, path = "/hosts/transfer", tag = "hosts", request_body = Transfer,
    responses((status = 200, body = Moved), (status = 422, description = "no such team")))]
async fn transfer(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(body): Json<Transfer>,
) -> Result<axum::Json<Moved>, Problem> {
    let ids: Vec<HostId> = body.host_ids.into_iter().map(HostId).collect();
    let moved = hosts
        .transfer(&principal, &ids, body.team_id.map(TeamId))
        .await?;
    Ok(axum::Json(Moved { moved }))
}

/// A label.
#[derive(Debug, Serialize, ToSchema)]
struct Label {
    /// Its id.
    id: i64,
    /// Its name.
    name: String,
    /// What it is for.
    description: String,
    /// The query whose rows make a host a member; empty when its members are named.
    query: String,
    /// Platforms that the query is sent to, with commas; empty: all.
    platform: String,
    /// Whether every installation has it.
    builtin: bool,
    /// `dynamic`, `manual` or `all`.
    membership: &'static str,
    /// How many hosts are in it, of those that you may see.
    hosts_count: u64,
}

impl Label {
    fn new(label: LabelRecord, hosts_count: u64) -> Self {
        Self {
            id: label.id.0,
            name: label.name,
            description: label.description,
            query: label.query,
            platform: label.platform,
            builtin: label.builtin,
            membership: label.membership.as_str(),
            hosts_count,
        }
    }
}

fn visible(principal: &Principal) -> Result<TeamFilter, Problem> {
    principal.authorize(Action::ReadLabels, Scope::Global)?;
    Ok(principal.visible_teams())
}

/// List labels
#[utoipa::path(get, path = "/labels", tag = "hosts", responses((status = 200, body = Page<Label>)))]
async fn list_labels(
    State(hosts): State<Hosts>,
    principal: Principal,
) -> Result<axum::Json<Page<Label>>, Problem> {
    let labels = hosts.labels(&visible(&principal)?).await?;
    let items: Vec<Label> = labels
        .into_iter()
        .map(|(label, count)| Label::new(label, count))
        .collect();
    Ok(axum::Json(Page {
        total: items.len() as u64,
        items,
        next_cursor: None,
    }))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct NewLabelRequest {
    /// Its name.
    name: String,
    /// What it is for.
    description: String,
    /// The query whose rows make a host a member; left out when its members are named.
    query: String,
    /// Platforms that the query is sent to, with commas; empty: all.
    platform: String,
    /// Its members by host name, UUID or serial number, when it has no query.
    hosts: Option<Vec<String>>,
}

/// Make a label
///
/// With a query, hosts where it gives a row are in, from their next check-in on; without one, the hosts that are named.
#[utoipa::path(post, path = "/labels", tag = "hosts", request_body = NewLabelRequest,
    responses((status = 201, body = Label), (status = 409, description = "the name is taken")))]
async fn create_label(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(body): Json<NewLabelRequest>,
) -> Result<(StatusCode, axum::Json<Label>), Problem> {
    let new = NewLabel {
        name: body.name,
        description: body.description,
        query: body.query,
        platform: body.platform,
        hosts: body.hosts,
        ..NewLabel::default()
    };
    let label = hosts.create_label(&principal, new).await?;
    let (label, count) = hosts.find_label(&visible(&principal)?, label.id).await?;
    Ok((StatusCode::CREATED, axum::Json(Label::new(label, count))))
}

/// Look at a label
#[utoipa::path(get, path = "/labels/{id}", tag = "hosts", params(("id" = i64, Path)),
    responses((status = 200, body = Label), (status = 404)))]
async fn get_label(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Label>, Problem> {
    let (label, count) = hosts.find_label(&visible(&principal)?, LabelId(id)).await?;
    Ok(axum::Json(Label::new(label, count)))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct LabelChangeRequest {
    /// Its new name.
    name: Option<String>,
    /// What it is for.
    description: Option<String>,
    /// Its query. Labels whose members are named take none.
    query: Option<String>,
    /// Platforms that the query is sent to, with commas; empty: all.
    platform: Option<String>,
    /// All its members from now on, by host name, UUID or serial number. Labels with a query take none.
    hosts: Option<Vec<String>>,
}

/// Change a label
///
/// What is left out stays.
#[utoipa::path(patch, path = "/labels/{id}", tag = "hosts", params(("id" = i64, Path)), request_body = LabelChangeRequest,
    responses((status = 200, body = Label), (status = 404), (status = 409, description = "the name is taken"),
        (status = 422, description = "built-in labels stay")))]
async fn change_label(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<LabelChangeRequest>,
) -> Result<axum::Json<Label>, Problem> {
    let change = LabelChange {
        name: body.name,
        description: body.description,
        query: body.query,
        platform: body.platform,
        hosts: body.hosts,
        host_ids: None,
    };
    hosts.change_label(&principal, LabelId(id), change).await?;
    let (label, count) = hosts.find_label(&visible(&principal)?, LabelId(id)).await?;
    Ok(axum::Json(Label::new(label, count)))
}

/// Delete a label
#[utoipa::path(delete, path = "/labels/{id}", tag = "hosts", params(("id" = i64, Path)),
    responses((status = 204), (status = 404), (status = 422, description = "built-in labels stay")))]
async fn delete_label(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    hosts.delete_label(&principal, LabelId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
