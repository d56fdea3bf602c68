//! Our own API: enrollment tokens and API tokens.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use muster_http::{Json, ListingQuery, NotANetwork, Page, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::native::time;
use crate::{
    Action, Actor, ApiToken, EnrolledHost, EnrollmentToken, EnrollmentTokenId, Family, Identity,
    KnownAgents, NewApiToken, NewEnrollmentToken, Principal, Scope, Successor, TeamId, UserId,
};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(list_enrollment_tokens, create_enrollment_token))
        .routes(routes!(get_enrollment_token, revoke_enrollment_token))
        .routes(routes!(reveal_enrollment_token))
        .routes(routes!(rotate_enrollment_token))
        .routes(routes!(list_hosts_of_enrollment_token))
        .routes(routes!(list_api_tokens, create_api_token))
        .routes(routes!(revoke_api_token))
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct TokensQuery {
    /// Those that were revoked, too.
    revoked: bool,
}

/// List enrollment tokens
///
/// Of the teams in which you may see them, newest first, without their secrets.
#[utoipa::path(get, path = "/enrollment-tokens", tag = "identity", params(TokensQuery),
    responses((status = 200, body = Page<EnrollmentToken>)))]
async fn list_enrollment_tokens(
    State(identity): State<Identity>,
    principal: Principal,
    Query(query): Query<TokensQuery>,
) -> Result<axum::Json<Page<EnrollmentToken>>, Problem> {
    principal.authorize(Action::ReadEnrollmentTokens, Scope::Anywhere)?;
    let visible = principal.teams_for(Action::ReadEnrollmentTokens);
    let items = identity
        .enrollment_tokens
        .list(&visible, query.revoked)
        .await?;
    Ok(axum::Json(Page {
        total: items.len() as u64,
        items,
        next_cursor: None,
    }))
}

#[derive(Deserialize, ToSchema)]
struct NewEnrollmentTokenRequest {
    /// Its name.
    name: String,
    /// The team that hosts come into; none without a team.
    #[serde(default)]
    team_id: Option<i64>,
    /// The families that may use it: `osquery`, `orbit`, `opamp`, `keylime`. All when left out.
    #[serde(default)]
    families: Vec<String>,
    /// The networks from which agents may enroll with it, such as `10.0.0.0/8` or `2001:db8::/32`, at most 64. From
    /// everywhere when left out.
    #[serde(default)]
    networks: Vec<String>,
    /// The ids of labels that hosts come into when they first enroll with it, at most 64: labels whose members are named.
    #[serde(default)]
    label_ids: Vec<i64>,
    /// From when on it is refused, RFC 3339.
    #[serde(default)]
    expires_at: Option<String>,
    /// How many hosts may enroll with it.
    #[serde(default)]
    max_uses: Option<u32>,
    /// What is done with an agent that speaks OpAMP, has used a key of its own and comes by it again: `adopt` offers it another
    /// key, `new_identity` makes it another agent, `approve` waits for a person, `deny` refuses it. `adopt` when left out;
    /// only for tokens that `opamp` may use.
    #[serde(default)]
    known_agents: Option<String>,
    /// Whether agents that speak OpAMP and come by it are short-lived: they are forgotten some time after they are gone. Only
    /// for tokens that `opamp` may use.
    #[serde(default)]
    ephemeral: Option<bool>,
}

/// A new token with its secret.
#[derive(Serialize, ToSchema)]
struct CreatedEnrollmentToken {
    /// The secret: what agents enroll with.
    secret: String,
    /// The token.
    token: EnrollmentToken,
}

/// Make an enrollment token
#[utoipa::path(post, path = "/enrollment-tokens", tag = "identity", request_body = NewEnrollmentTokenRequest,
    responses((status = 201, body = CreatedEnrollmentToken)))]
async fn create_enrollment_token(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<NewEnrollmentTokenRequest>,
) -> Result<(StatusCode, axum::Json<CreatedEnrollmentToken>), Problem> {
    let team_id = body.team_id.map(TeamId);
    principal.authorize(Action::WriteEnrollmentTokens, Scope::Team(team_id))?;
    let mut families = Vec::new();
    for name in &body.families {
        let known = || Family::ALL.map(Family::name).join(", ");
        let family = Family::parse(name);
        let family = family
            .ok_or_else(|| Problem::invalid("families", format!("must be among {}", known())))?;
        if !families.contains(&family) {
            families.push(family);
        }
    }
    let known_agents = body.known_agents.as_deref().map(|name| {
        let known = || KnownAgents::ALL.map(KnownAgents::name).join(", ");
        let parsed = KnownAgents::parse(name);
        parsed.ok_or_else(|| Problem::invalid("known_agents", format!("must be among {}", known())))
    });
    let networks = body.networks.iter().map(|network| network.trim().parse());
    let networks: Result<_, NotANetwork> = networks.collect();
    let new = NewEnrollmentToken {
        name: body.name,
        team_id,
        families,
        networks: networks.map_err(|error| Problem::invalid("networks", error.to_string()))?,
        label_ids: body.label_ids,
        expires_at: time("expires_at", body.expires_at.as_deref())?,
        max_uses: body.max_uses,
        known_agents: known_agents.transpose()?,
        ephemeral: body.ephemeral,
    };
    let (token, secret) = identity
        .enrollment_tokens
        .create(&Actor::from(&principal), new)
        .await?;
    Ok((
        StatusCode::CREATED,
        axum::Json(CreatedEnrollmentToken { secret, token }),
    ))
}

async fn authorized(
    identity: &Identity,
    principal: &Principal,
    action: Action,
    id: i64,
) -> Result<EnrollmentToken, Problem> {
    let token = identity
        .enrollment_tokens
        .find(EnrollmentTokenId(id))
        .await?;
    principal.authorize(action, Scope::Team(token.team_id))?;
    Ok(token)
}

/// Look at an enrollment token
#[utoipa::path(get, path = "/enrollment-tokens/{id}", tag = "identity", params(("id" = i64, Path)),
    responses((status = 200, body = EnrollmentToken), (status = 404)))]
async fn get_enrollment_token(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<EnrollmentToken>, Problem> {
    authorized(&identity, &principal, Action::ReadEnrollmentTokens, id)
        .await
        .map(axum::Json)
}

/// Revoke an enrollment token
///
/// No agent enrolls with it any more; those that did keep their keys.
#[utoipa::path(delete, path = "/enrollment-tokens/{id}", tag = "identity", params(("id" = i64, Path)),
    responses((status = 204), (status = 404)))]
async fn revoke_enrollment_token(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    let token = authorized(&identity, &principal, Action::WriteEnrollmentTokens, id).await?;
    identity
        .enrollment_tokens
        .revoke(&Actor::from(&principal), token.id)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The secret of an enrollment token.
#[derive(Serialize, ToSchema)]
struct Revealed {
    /// What agents enroll with.
    secret: String,
}

/// See the secret of an enrollment token again
///
/// That you looked is kept in the log of changes.
#[utoipa::path(post, path = "/enrollment-tokens/{id}/reveal", tag = "identity", params(("id" = i64, Path)),
    responses((status = 200, body = Revealed), (status = 404)))]
async fn reveal_enrollment_token(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Revealed>, Problem> {
    let token = authorized(&identity, &principal, Action::RevealEnrollmentTokens, id).await?;
    let secret = identity
        .enrollment_tokens
        .reveal(&Actor::from(&principal), token.id)
        .await?;
    Ok(axum::Json(Revealed { secret }))
}

/// How long the old token stays good when nothing is said: 7 days.
const DEFAULT_OVERLAP_SECONDS: u64 = 7 * 24 * 60 * 60;

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct RotationRequest {
    /// How long the old token stays good, in seconds; 7 days when left out, 0 to end it now.
    overlap_seconds: Option<u64>,
    /// From when on the new one is refused, RFC 3339; never when left out.
    expires_at: Option<String>,
    /// How many hosts may enroll with the new one.
    max_uses: Option<u32>,
}

/// A new token with its secret, and the one whose place it takes.
#[derive(Serialize, ToSchema)]
struct RotatedEnrollmentToken {
    /// The secret of the new token.
    secret: String,
    /// The new token.
    token: EnrollmentToken,
    /// The old one; `expires_at` says until when it is good, `rotation.warning` whom its end would cut off.
    old: EnrollmentToken,
}

/// Rotate an enrollment token
///
/// Makes a successor with the same name, team, families, networks, labels and rules for agents that speak OpAMP. Both are good
/// until the overlap is over, then the old one ends.
#[utoipa::path(post, path = "/enrollment-tokens/{id}/rotate", tag = "identity", params(("id" = i64, Path)),
    request_body = RotationRequest, responses((status = 201, body = RotatedEnrollmentToken), (status = 404),
    (status = 409, description = "it was revoked, ran out or has a successor")))]
async fn rotate_enrollment_token(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<RotationRequest>,
) -> Result<(StatusCode, axum::Json<RotatedEnrollmentToken>), Problem> {
    let token = authorized(&identity, &principal, Action::WriteEnrollmentTokens, id).await?;
    let overlap = Duration::from_secs(body.overlap_seconds.unwrap_or(DEFAULT_OVERLAP_SECONDS));
    let successor = Successor {
        expires_at: time("expires_at", body.expires_at.as_deref())?,
        max_uses: body.max_uses,
    };
    let done = identity
        .enrollment_tokens
        .rotate(&Actor::from(&principal), token.id, overlap, successor)
        .await?;
    let answer = RotatedEnrollmentToken {
        secret: done.secret,
        token: done.token,
        old: done.old,
    };
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

/// List the hosts that came by an enrollment token
///
/// By id. A host that enrolled by another token since is listed for 30 more days, with `has_valid_key` false.
#[utoipa::path(get, path = "/enrollment-tokens/{id}/hosts", tag = "identity", params(("id" = i64, Path), ListingQuery),
    responses((status = 200, body = Page<EnrolledHost>), (status = 404)))]
async fn list_hosts_of_enrollment_token(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(listing): Query<ListingQuery>,
) -> Result<axum::Json<Page<EnrolledHost>>, Problem> {
    let token = authorized(&identity, &principal, Action::ReadEnrollmentTokens, id).await?;
    let listing = listing.check(&["host_id"])?;
    let page = identity.enrollment_tokens.hosts(token.id, &listing).await?;
    Ok(axum::Json(page))
}

fn whose(principal: &Principal, id: i64) -> Result<UserId, Problem> {
    if principal.user_id != UserId(id) {
        principal.authorize(Action::WriteUsers, Scope::Global)?;
    }
    Ok(UserId(id))
}

/// List the API tokens of a user
#[utoipa::path(get, path = "/users/{id}/api-tokens", tag = "identity", params(("id" = i64, Path)),
    responses((status = 200, body = Page<ApiToken>)))]
async fn list_api_tokens(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Page<ApiToken>>, Problem> {
    let items = identity.api_tokens.list(whose(&principal, id)?).await?;
    Ok(axum::Json(Page {
        total: items.len() as u64,
        items,
        next_cursor: None,
    }))
}

#[derive(Deserialize, ToSchema)]
struct NewApiTokenRequest {
    /// Its name.
    name: String,
    /// From when on it is refused, RFC 3339; never when left out.
    #[serde(default)]
    expires_at: Option<String>,
}

/// A new token with its secret, which is shown only here.
#[derive(Serialize, ToSchema)]
struct CreatedApiToken {
    /// Send it as `Authorization: Bearer …`.
    secret: String,
    /// The token.
    token: ApiToken,
}

/// Make an API token
#[utoipa::path(post, path = "/users/{id}/api-tokens", tag = "identity", params(("id" = i64, Path)),
    request_body = NewApiTokenRequest, responses((status = 201, body = CreatedApiToken)))]
async fn create_api_token(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<NewApiTokenRequest>,
) -> Result<(StatusCode, axum::Json<CreatedApiToken>), Problem> {
    let new = NewApiToken {
        name: body.name,
        expires_at: time("expires_at", body.expires_at.as_deref())?,
    };
    let user = whose(&principal, id)?;
    let (token, secret) = identity
        .api_tokens
        .create(&Actor::from(&principal), user, new)
        .await?;
    Ok((
        StatusCode::CREATED,
        axum::Json(CreatedApiToken { secret, token }),
    ))
}

/// Revoke an API token
#[utoipa::path(delete, path = "/users/{id}/api-tokens/{token_id}", tag = "identity",
    params(("id" = i64, Path), ("token_id" = i64, Path)), responses((status = 204), (status = 404)))]
async fn revoke_api_token(
    State(identity): State<Identity>,
    principal: Principal,
    Path((id, token_id)): Path<(i64, i64)>,
) -> Result<StatusCode, Problem> {
    let user = whose(&principal, id)?;
    identity
        .api_tokens
        .revoke(&Actor::from(&principal), user, token_id)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
