//! Our own API: keys of hosts, bans, machines that look the same.

use axum::extract::State;
use axum::http::StatusCode;
use muster_http::{Json, ListingQuery, Page, Path, Problem, Query};
use muster_identity::{AgentKeyId, HostId, Principal, RefusedAgent};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::operators::keys::NEWEST_FIRST;
use crate::operators::{Ban, Hosts, KeyRotation};

/// How many hosts are told per minute when nobody says otherwise.
const HOSTS_PER_MINUTE: i64 = 60;

/// The routes, relative to `/api/muster`.
pub fn native_key_routes(hosts: Hosts) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(revoke_key))
        .routes(routes!(rotate_keys))
        .routes(routes!(ban, unban))
        .routes(routes!(split))
        .routes(routes!(merge))
        .routes(routes!(list_bans))
        .routes(routes!(list_refused))
        .routes(routes!(list_rotations, start_rotation))
        .routes(routes!(stop_rotation))
        .with_state(hosts)
}

/// Take one key of a host away
///
/// Its agent is refused from now on, on every server, and its sockets close. It enrolls again by itself if its enrollment
/// token is good; ban the host to prevent that.
#[utoipa::path(post, path = "/hosts/{id}/keys/{key_id}/revoke", tag = "keys",
    params(("id" = i64, Path), ("key_id" = i64, Path)), responses((status = 204), (status = 404)))]
async fn revoke_key(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path((id, key)): Path<(i64, i64)>,
) -> Result<StatusCode, Problem> {
    hosts
        .revoke_key(&principal, HostId(id), AgentKeyId(key))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How many keys will be renewed.
#[derive(Serialize, ToSchema)]
struct Rotated {
    /// How many.
    keys: u64,
}

/// Have the keys of a host renewed
///
/// Its agents enroll again at their next request; each old key stays good until the new one is used. Keys whose enrollment
/// token would not admit the agent again are left alone.
#[utoipa::path(post, path = "/hosts/{id}/keys/rotate", tag = "keys", params(("id" = i64, Path)),
    responses((status = 200, body = Rotated), (status = 404), (status = 409, description = "no key can be renewed")))]
async fn rotate_keys(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Rotated>, Problem> {
    let keys = hosts.rotate_keys(&principal, HostId(id)).await?;
    Ok(axum::Json(Rotated { keys }))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct NewBan {
    /// Why, for those who wonder later.
    reason: String,
}

/// Ban a host
///
/// Its keys are taken away, and no enrollment token brings it back until it is un-banned, not even when it is deleted.
#[utoipa::path(put, path = "/hosts/{id}/ban", tag = "keys", params(("id" = i64, Path)), request_body = NewBan,
    responses((status = 200, body = Ban), (status = 404)))]
async fn ban(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<NewBan>,
) -> Result<axum::Json<Ban>, Problem> {
    let ban = hosts.ban(&principal, HostId(id), &body.reason).await?;
    Ok(axum::Json(ban))
}

/// Let a banned host come back
#[utoipa::path(delete, path = "/hosts/{id}/ban", tag = "keys", params(("id" = i64, Path)),
    responses((status = 204)))]
async fn unban(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    hosts.unban(&principal, HostId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct Split {
    /// The keys that the other machine uses.
    key_ids: Vec<i64>,
}

/// A host.
#[derive(Serialize, ToSchema)]
struct NewHost {
    /// Its id.
    host_id: HostId,
}

/// Tell two machines apart that are one host
///
/// The server does so by itself when it sees that two machines use keys of one host; this is for when an operator knows
/// better.
#[utoipa::path(post, path = "/hosts/{id}/split", tag = "keys", params(("id" = i64, Path)), request_body = Split,
    responses((status = 201, body = NewHost), (status = 404), (status = 422, description = "not keys of this host")))]
async fn split(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<Split>,
) -> Result<(StatusCode, axum::Json<NewHost>), Problem> {
    let keys: Vec<AgentKeyId> = body.key_ids.into_iter().map(AgentKeyId).collect();
    let host_id = hosts.split(&principal, HostId(id), &keys).await?;
    Ok((StatusCode::CREATED, axum::Json(NewHost { host_id })))
}

#[derive(Deserialize, ToSchema)]
struct Merge {
    /// The host that stays.
    into: i64,
}

/// Put two hosts together that are one machine
///
/// This one goes with everything known about it; its agents go on as the other.
#[utoipa::path(post, path = "/hosts/{id}/merge", tag = "keys", params(("id" = i64, Path)), request_body = Merge,
    responses((status = 204), (status = 404), (status = 422)))]
async fn merge(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<Merge>,
) -> Result<StatusCode, Problem> {
    hosts
        .merge(&principal, HostId(id), HostId(body.into))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List bans, newest first
#[utoipa::path(get, path = "/bans", tag = "keys", params(ListingQuery), responses((status = 200, body = Page<Ban>)))]
async fn list_bans(
    State(hosts): State<Hosts>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
) -> Result<axum::Json<Page<Ban>>, Problem> {
    let listing = listing.check(NEWEST_FIRST)?;
    Ok(axum::Json(hosts.bans(&principal, &listing).await?))
}

/// List agents that are refused
///
/// Those that go on calling with a key that was good once: of a deleted or banned host, taken away, or replaced.
#[utoipa::path(get, path = "/refused-agents", tag = "keys", params(ListingQuery),
    responses((status = 200, body = Page<RefusedAgent>)))]
async fn list_refused(
    State(hosts): State<Hosts>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
) -> Result<axum::Json<Page<RefusedAgent>>, Problem> {
    let listing = listing.check(NEWEST_FIRST)?;
    Ok(axum::Json(
        hosts.refused_agents(&principal, &listing).await?,
    ))
}

/// Rotations of keys.
#[derive(Serialize, ToSchema)]
struct Rotations {
    /// The newest first.
    items: Vec<KeyRotation>,
    /// How many keys are to be renewed and are not yet.
    waiting: u64,
}

/// List rotations of keys
#[utoipa::path(get, path = "/key-rotations", tag = "keys", responses((status = 200, body = Rotations)))]
async fn list_rotations(
    State(hosts): State<Hosts>,
    principal: Principal,
) -> Result<axum::Json<Rotations>, Problem> {
    let (items, waiting) = hosts.rotations(&principal).await?;
    Ok(axum::Json(Rotations { items, waiting }))
}

#[derive(Deserialize, ToSchema)]
#[serde(default)]
struct NewRotation {
    /// How many hosts are told to enroll again per minute; 60 when left out.
    hosts_per_minute: i64,
}

impl Default for NewRotation {
    fn default() -> Self {
        Self {
            hosts_per_minute: HOSTS_PER_MINUTE,
        }
    }
}

/// Renew the keys of all hosts
///
/// Some at a time; hosts whose enrollment token would not admit them again are left alone and counted.
#[utoipa::path(post, path = "/key-rotations", tag = "keys", request_body = NewRotation,
    responses((status = 201, body = KeyRotation), (status = 409, description = "one runs already"), (status = 422)))]
async fn start_rotation(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(body): Json<NewRotation>,
) -> Result<(StatusCode, axum::Json<KeyRotation>), Problem> {
    let rotation = hosts
        .start_rotation(&principal, body.hosts_per_minute)
        .await?;
    Ok((StatusCode::CREATED, axum::Json(rotation)))
}

/// Stop a rotation of keys
#[utoipa::path(post, path = "/key-rotations/{id}/stop", tag = "keys", params(("id" = i64, Path)),
    responses((status = 200, body = KeyRotation), (status = 404)))]
async fn stop_rotation(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<KeyRotation>, Problem> {
    Ok(axum::Json(hosts.stop_rotation(&principal, id).await?))
}
