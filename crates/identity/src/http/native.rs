//! Our own API: setup, logins, teams and the log of changes.

use axum::extract::State;
use axum::http::StatusCode;
use muster_clock::Timestamp;
use muster_http::{ClientAddress, Json, ListingQuery, Page, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{native_keys, native_me, native_tokens, native_users};
use crate::{
    Action, Actor, AuditFilter, AuditRecord, Credential, Identity, NewUser, Principal, Scope, Team,
    TeamId, User, UserId,
};

/// The routes, relative to `/api/muster`.
pub fn native_routes(identity: Identity) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(set_up))
        .routes(routes!(log_in))
        .routes(routes!(log_out))
        .routes(routes!(list_teams, create_team))
        .routes(routes!(get_team, change_team, delete_team))
        .routes(routes!(list_audit))
        .merge(native_me::routes())
        .merge(native_users::routes())
        .merge(native_tokens::routes())
        .merge(native_keys::routes())
        .with_state(identity)
}

/// A bearer token and whose it is.
#[derive(Serialize, ToSchema)]
struct LoginAnswer {
    /// Send it as `Authorization: Bearer …`.
    token: String,
    /// Whose it is.
    user: User,
}

#[derive(Deserialize, ToSchema)]
struct Setup {
    /// The secret of the setup link.
    token: String,
    /// The first admin's name.
    name: String,
    /// The first admin's address.
    email: String,
    /// The first admin's password.
    password: String,
}

/// Make the first admin
///
/// With the one-time secret that the server printed when it started. Void as soon as there is a user.
#[utoipa::path(post, path = "/setup", tag = "identity", request_body = Setup, responses(
    (status = 200, body = LoginAnswer), (status = 403, description = "not the secret, or there is a user already")))]
async fn set_up(
    State(identity): State<Identity>,
    address: ClientAddress,
    Json(body): Json<Setup>,
) -> Result<axum::Json<LoginAnswer>, Problem> {
    let void = || {
        Problem::forbidden(
            "the setup link is wrong or void; ask the server's log, or an administrator",
        )
    };
    if !identity.setup.is(&body.token) {
        return Err(void());
    }
    let new = NewUser {
        name: body.name,
        email: body.email,
        password: body.password,
        ..NewUser::default()
    };
    let user = identity
        .users
        .create_first(&Actor::setup(address), new)
        .await?
        .ok_or_else(void)?;
    let token = identity.sessions.begin(&user, address).await?;
    Ok(axum::Json(LoginAnswer { token, user }))
}

#[derive(Deserialize, ToSchema)]
struct LoginRequest {
    /// The user's address.
    email: String,
    /// The user's password.
    password: String,
    /// A code of the user's authenticator app, or a recovery code; when the user has a second factor.
    #[serde(default)]
    code: Option<String>,
}

/// Log in
///
/// Limited per account and per address. Whose account has a second factor is answered with the code `totp_required`
/// until it sends one, and with `totp_wrong` when it is wrong.
#[utoipa::path(post, path = "/login", tag = "identity", request_body = LoginRequest, responses(
    (status = 200, body = LoginAnswer), (status = 401, description = "wrong address or password, or a code is needed"),
    (status = 429, description = "too many tries; see Retry-After")))]
async fn log_in(
    State(identity): State<Identity>,
    address: ClientAddress,
    Json(body): Json<LoginRequest>,
) -> Result<axum::Json<LoginAnswer>, Problem> {
    let login = identity
        .sessions
        .log_in(&body.email, &body.password, body.code.as_deref(), address)
        .await?;
    Ok(axum::Json(LoginAnswer {
        token: login.token,
        user: login.user,
    }))
}

/// End the session that is used
#[utoipa::path(post, path = "/logout", tag = "identity", responses((status = 204)))]
async fn log_out(
    State(identity): State<Identity>,
    principal: Principal,
) -> Result<StatusCode, Problem> {
    if let Credential::Session(id) = principal.credential {
        identity.sessions.end(&Actor::from(&principal), id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// List teams
///
/// Those that you have a role in; all with a global role.
#[utoipa::path(get, path = "/teams", tag = "identity", responses((status = 200, body = Page<Team>)))]
async fn list_teams(
    State(identity): State<Identity>,
    principal: Principal,
) -> Result<axum::Json<Page<Team>>, Problem> {
    let items = identity
        .teams
        .list(&principal.teams_for(Action::ReadTeams))
        .await?;
    Ok(axum::Json(Page {
        total: items.len() as u64,
        items,
        next_cursor: None,
    }))
}

#[derive(Deserialize, ToSchema)]
struct NewTeam {
    /// Its name.
    name: String,
    /// What it is for.
    #[serde(default)]
    description: String,
}

/// Make a team
#[utoipa::path(post, path = "/teams", tag = "identity", request_body = NewTeam,
    responses((status = 201, body = Team), (status = 409, description = "the name is taken")))]
async fn create_team(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<NewTeam>,
) -> Result<(StatusCode, axum::Json<Team>), Problem> {
    principal.authorize(Action::WriteTeams, Scope::Global)?;
    let team = identity
        .teams
        .create(&Actor::from(&principal), &body.name, &body.description)
        .await?;
    Ok((StatusCode::CREATED, axum::Json(team)))
}

/// Look at a team
#[utoipa::path(get, path = "/teams/{id}", tag = "identity", params(("id" = i64, Path)),
    responses((status = 200, body = Team), (status = 404)))]
async fn get_team(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Team>, Problem> {
    principal.authorize(Action::ReadTeams, Scope::Team(Some(TeamId(id))))?;
    Ok(axum::Json(identity.teams.find(TeamId(id)).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(default)]
#[derive(Default)]
struct TeamChange {
    /// Its name.
    name: Option<String>,
    /// What it is for.
    description: Option<String>,
}

/// Change a team
#[utoipa::path(patch, path = "/teams/{id}", tag = "identity", params(("id" = i64, Path)), request_body = TeamChange,
    responses((status = 200, body = Team), (status = 404)))]
async fn change_team(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<TeamChange>,
) -> Result<axum::Json<Team>, Problem> {
    principal.authorize(Action::WriteTeams, Scope::Team(Some(TeamId(id))))?;
    let (name, description) = (body.name.as_deref(), body.description.as_deref());
    Ok(axum::Json(
        identity
            .teams
            .change(&Actor::from(&principal), TeamId(id), name, description)
            .await?,
    ))
}

/// Delete a team
///
/// Its hosts stay, without a team; its enrollment tokens, agent options and saved queries and the roles in it go. Live
/// queries that run go on.
#[utoipa::path(delete, path = "/teams/{id}", tag = "identity", params(("id" = i64, Path)),
    responses((status = 204), (status = 404)))]
async fn delete_team(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    principal.authorize(Action::WriteTeams, Scope::Global)?;
    identity
        .teams
        .delete(&Actor::from(&principal), TeamId(id))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct AuditQuery {
    /// Only this action, such as `created_team`.
    action: Option<String>,
    /// Only this kind of subject, such as `team`.
    subject_kind: Option<String>,
    /// Only this subject.
    subject_id: Option<String>,
    /// Only what this user did.
    actor_id: Option<i64>,
}

/// List who changed what
///
/// Oldest first; `sort=-id` for the newest first.
#[utoipa::path(get, path = "/audit", tag = "identity", params(ListingQuery, AuditQuery),
    responses((status = 200, body = Page<AuditRecord>)))]
async fn list_audit(
    State(identity): State<Identity>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Query(query): Query<AuditQuery>,
) -> Result<axum::Json<Page<AuditRecord>>, Problem> {
    principal.authorize(Action::ReadAudit, Scope::Global)?;
    let listing = listing.check(&["id"])?;
    let filter = AuditFilter {
        action: query.action,
        subject_kind: query.subject_kind,
        subject_id: query.subject_id,
        actor_id: query.actor_id.map(UserId),
    };
    Ok(axum::Json(identity.audit.list(&listing, &filter).await?))
}

/// Times in requests.
pub(super) fn time(field: &'static str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    text.map(|text| {
        text.parse()
            .map_err(|error| Problem::invalid(field, format!("{error}")))
    })
    .transpose()
}
