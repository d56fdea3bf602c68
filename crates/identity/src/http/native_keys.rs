//! Our own API: access keys, which are the keys of collectors.

use axum::extract::State;
use axum::http::StatusCode;
use muster_http::{Json, ListingQuery, Page, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::native::time;
use crate::{
    Action, Actor, AgentKeyId, CollectorId, CollectorKeyFilter, CollectorKeyInfo,
    CollectorKeyRotation, Family, Identity, KeyState, NewCollectorKey, Principal, Scope, TeamId,
};

/// How many collectors a rotation gives their turn per minute when nobody says otherwise.
const COLLECTORS_PER_MINUTE: u32 = 60;

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(list_access_keys, make_access_key))
        .routes(routes!(get_access_key))
        .routes(routes!(revoke_access_key))
        .routes(routes!(rotate_access_key))
        .routes(routes!(
            get_access_key_rotation,
            start_access_key_rotation,
            stop_access_key_rotation
        ))
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct AccessKeysQuery {
    /// Only those of this collector.
    collector_id: Option<i64>,
    /// Only those in this state: `pending`, `active`, `superseded`, `ended` or `revoked`.
    state: Option<String>,
    /// Only those that were made in advance, or only those that were not.
    made_in_advance: Option<bool>,
}

/// List access keys
///
/// The keys of collectors in the teams whose hosts you see, without their texts, by id; `sort=-id` for the newest first.
/// `search` is for the names of those that were made in advance.
#[utoipa::path(get, path = "/access-keys", tag = "keys", params(ListingQuery, AccessKeysQuery),
    responses((status = 200, body = Page<CollectorKeyInfo>)))]
async fn list_access_keys(
    State(identity): State<Identity>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Query(query): Query<AccessKeysQuery>,
) -> Result<axum::Json<Page<CollectorKeyInfo>>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let listing = listing.check(&["id"])?;
    let state = query.state.as_deref().filter(|state| !state.is_empty());
    let state = state.map(|name| {
        let known = || KeyState::ALL.map(KeyState::name).join(", ");
        let state = KeyState::parse(name);
        state.ok_or_else(|| Problem::invalid("state", format!("must be among {}", known())))
    });
    let filter = CollectorKeyFilter {
        collector_id: query.collector_id.map(CollectorId),
        state: state.transpose()?,
        is_made_in_advance: query.made_in_advance,
    };
    let visible = principal.visible_teams();
    let keys = &identity.collector_keys;
    Ok(axum::Json(keys.list(&visible, &listing, &filter).await?))
}

#[derive(Deserialize, ToSchema)]
struct NewAccessKeyRequest {
    /// Its name.
    name: String,
    /// For which family of agents it is; only `opamp`, which it is when left out.
    #[serde(default)]
    family: Option<String>,
    /// The team that the collector comes into; none without a team.
    #[serde(default)]
    team_id: Option<i64>,
    /// When it ends if no collector has used it until then, RFC 3339; never when left out.
    #[serde(default)]
    expires_at: Option<String>,
}

/// A new key with its text, which is shown only here.
#[derive(Serialize, ToSchema)]
struct MadeAccessKey {
    /// What the agent sends as `Authorization: Bearer …`.
    secret: String,
    /// The key.
    key: CollectorKeyInfo,
}

/// Make an access key in advance
///
/// For an agent that cannot take the key that it is offered: put it into its configuration instead of an enrollment token. It
/// belongs to the first agent that uses it.
#[utoipa::path(post, path = "/access-keys", tag = "keys", request_body = NewAccessKeyRequest,
    responses((status = 201, body = MadeAccessKey), (status = 409, description = "too many wait for their collectors"),
    (status = 422)))]
async fn make_access_key(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<NewAccessKeyRequest>,
) -> Result<(StatusCode, axum::Json<MadeAccessKey>), Problem> {
    let team_id = body.team_id.map(TeamId);
    principal.authorize(Action::WriteEnrollmentTokens, Scope::Team(team_id))?;
    let family = body.family.as_deref().unwrap_or(Family::Opamp.name());
    if family != Family::Opamp.name() {
        let reason = "must be opamp; agents of other families get their keys when they enroll";
        return Err(Problem::invalid("family", reason));
    }
    let new = NewCollectorKey {
        name: body.name,
        team_id,
        expires_at: time("expires_at", body.expires_at.as_deref())?,
    };
    let actor = Actor::from(&principal);
    let (key, secret) = identity.collector_keys.make(&actor, new).await?;
    Ok((
        StatusCode::CREATED,
        axum::Json(MadeAccessKey { secret, key }),
    ))
}

/// The key, if the principal sees its team.
async fn visible(
    identity: &Identity,
    principal: &Principal,
    id: i64,
) -> Result<CollectorKeyInfo, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let key = identity.collector_keys.find(AgentKeyId(id)).await?;
    if !principal.visible_teams().admits(key.team_id) {
        return Err(Problem::not_found(format_args!("access key {id}")));
    }
    Ok(key)
}

async fn changeable(
    identity: &Identity,
    principal: &Principal,
    id: i64,
) -> Result<CollectorKeyInfo, Problem> {
    let key = visible(identity, principal, id).await?;
    principal.authorize(Action::WriteHosts, Scope::Team(key.team_id))?;
    Ok(key)
}

/// Look at an access key
#[utoipa::path(get, path = "/access-keys/{id}", tag = "keys", params(("id" = i64, Path)),
    responses((status = 200, body = CollectorKeyInfo), (status = 404)))]
async fn get_access_key(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<CollectorKeyInfo>, Problem> {
    visible(&identity, &principal, id).await.map(axum::Json)
}

/// Take an access key away
///
/// Its agent is refused from now on, on every server, and its sockets close. It goes on knocking with the key until it is given
/// another one, or starts anew with an enrollment token.
#[utoipa::path(post, path = "/access-keys/{id}/revoke", tag = "keys", params(("id" = i64, Path)),
    responses((status = 204), (status = 404)))]
async fn revoke_access_key(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    let key = changeable(&identity, &principal, id).await?;
    let actor = Actor::from(&principal);
    identity.collector_keys.revoke(&actor, key.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Have an access key renewed
///
/// Its collector is offered a new one at its next message; the old one stays good until the new one is used.
#[utoipa::path(post, path = "/access-keys/{id}/rotate", tag = "keys", params(("id" = i64, Path)),
    responses((status = 204), (status = 404),
    (status = 409, description = "the key is not active, or its agent cannot take another")))]
async fn rotate_access_key(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    let key = changeable(&identity, &principal, id).await?;
    let actor = Actor::from(&principal);
    identity.collector_keys.rotate(&actor, key.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How far the renewal of all access keys is
#[utoipa::path(get, path = "/access-key-rotation", tag = "keys", responses((status = 200, body = CollectorKeyRotation)))]
async fn get_access_key_rotation(
    State(identity): State<Identity>,
    principal: Principal,
) -> Result<axum::Json<CollectorKeyRotation>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Global)?;
    Ok(axum::Json(identity.collector_keys.rotation().await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(default)]
struct NewAccessKeyRotation {
    /// How many collectors are offered a new key per minute; 60 when left out.
    collectors_per_minute: u32,
}

impl Default for NewAccessKeyRotation {
    fn default() -> Self {
        Self {
            collectors_per_minute: COLLECTORS_PER_MINUTE,
        }
    }
}

/// Have all access keys renewed
///
/// Those that are in use now, so many a minute; each renewal is a reconnect of its agent. Keys of agents that cannot take another
/// stay as they are, and are counted apart.
#[utoipa::path(post, path = "/access-key-rotation", tag = "keys", request_body = NewAccessKeyRotation,
    responses((status = 201, body = CollectorKeyRotation), (status = 409, description = "one runs already"),
    (status = 422)))]
async fn start_access_key_rotation(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<NewAccessKeyRotation>,
) -> Result<(StatusCode, axum::Json<CollectorKeyRotation>), Problem> {
    principal.authorize(Action::WriteHosts, Scope::Global)?;
    let actor = Actor::from(&principal);
    let per_minute = body.collectors_per_minute;
    let keys = &identity.collector_keys;
    let rotation = keys.start_rotation(&actor, per_minute).await?;
    Ok((StatusCode::CREATED, axum::Json(rotation)))
}

/// Stop the renewal of all access keys
///
/// Those whose turn has come are renewed all the same. Stopping when nothing runs is no error.
#[utoipa::path(delete, path = "/access-key-rotation", tag = "keys",
    responses((status = 200, body = CollectorKeyRotation)))]
async fn stop_access_key_rotation(
    State(identity): State<Identity>,
    principal: Principal,
) -> Result<axum::Json<CollectorKeyRotation>, Problem> {
    principal.authorize(Action::WriteHosts, Scope::Global)?;
    let actor = Actor::from(&principal);
    let keys = &identity.collector_keys;
    Ok(axum::Json(keys.stop_rotation(&actor).await?))
}
