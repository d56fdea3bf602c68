//! Our own API: setup, logins, users, teams and the log of changes.

use axum::extract::State;
use axum::http::StatusCode;
use muster_clock::Timestamp;
use muster_http::{ClientAddress, Json, ListingQuery, Page, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::native_tokens;
use crate::sessions::Session;
use crate::{
    Action, Actor, AuditFilter, AuditRecord, Credential, Identity, NewUser, Principal, Role, Scope,
    Team, TeamId, TeamRole, User, UserChange, UserId,
};

/// The routes, relative to `/api/muster`.
pub fn native_routes(identity: Identity) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(set_up))
        .routes(routes!(log_in))
        .routes(routes!(log_out))
        .routes(routes!(me))
        .routes(routes!(change_password))
        .routes(routes!(list_users, create_user))
        .routes(routes!(get_user, change_user, delete_user))
        .routes(routes!(list_sessions, end_sessions))
        .routes(routes!(list_teams, create_team))
        .routes(routes!(get_team, change_team, delete_team))
        .routes(routes!(list_audit))
        .merge(native_tokens::routes())
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
}

/// Log in
///
/// Limited per account and per address.
#[utoipa::path(post, path = "/login", tag = "identity", request_body = LoginRequest, responses(
    (status = 200, body = LoginAnswer), (status = 401, description = "wrong address or password"),
    (status = 429, description = "too many tries; see Retry-After")))]
async fn log_in(
    State(identity): State<Identity>,
    address: ClientAddress,
    Json(body): Json<LoginRequest>,
) -> Result<axum::Json<LoginAnswer>, Problem> {
    let login = identity
        .sessions
        .log_in(&body.email, &body.password, address)
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

/// Who you are
#[utoipa::path(get, path = "/me", tag = "identity", responses((status = 200, body = User)))]
async fn me(
    State(identity): State<Identity>,
    principal: Principal,
) -> Result<axum::Json<User>, Problem> {
    Ok(axum::Json(identity.users.find(principal.user_id).await?))
}

#[derive(Deserialize, ToSchema)]
struct PasswordChange {
    /// The password until now.
    old_password: String,
    /// The password from now on.
    new_password: String,
}

/// Change your password
///
/// All other sessions of yours end.
#[utoipa::path(post, path = "/me/password", tag = "identity", request_body = PasswordChange, responses((status = 204)))]
async fn change_password(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<PasswordChange>,
) -> Result<StatusCode, Problem> {
    let keep = match principal.credential {
        Credential::Session(id) => Some(id),
        Credential::ApiToken(_) => None,
    };
    let actor = Actor::from(&principal);
    let (id, old, new) = (principal.user_id, &body.old_password, &body.new_password);
    identity
        .users
        .change_password(&actor, id, old, new, keep)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List users
#[utoipa::path(get, path = "/users", tag = "identity", responses((status = 200, body = Page<User>)))]
async fn list_users(
    State(identity): State<Identity>,
    principal: Principal,
) -> Result<axum::Json<Page<User>>, Problem> {
    principal.authorize(Action::ReadUsers, Scope::Global)?;
    let items = identity.users.list(None).await?;
    Ok(axum::Json(Page {
        total: items.len() as u64,
        items,
        next_cursor: None,
    }))
}

#[derive(Deserialize, ToSchema)]
struct NewUserRequest {
    /// Its name.
    name: String,
    /// Its address, which is the name at login.
    email: String,
    /// Its password.
    password: String,
    /// What it may do everywhere.
    #[serde(default)]
    global_role: Option<Role>,
    /// What it may do in teams, instead of a global role.
    #[serde(default)]
    teams: Vec<TeamRole>,
    /// Whether it is an account for programs, which does not log in.
    #[serde(default)]
    api_only: bool,
    /// Whether it must set a new password at its first login.
    #[serde(default)]
    must_reset_password: bool,
}

/// Make a user
#[utoipa::path(post, path = "/users", tag = "identity", request_body = NewUserRequest,
    responses((status = 201, body = User), (status = 409, description = "the address is taken")))]
async fn create_user(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<NewUserRequest>,
) -> Result<(StatusCode, axum::Json<User>), Problem> {
    principal.authorize(Action::WriteUsers, Scope::Global)?;
    let new = NewUser {
        name: body.name,
        email: body.email,
        password: body.password,
        global_role: body.global_role,
        teams: body.teams,
        api_only: body.api_only,
        must_reset_password: body.must_reset_password,
    };
    let user = identity.users.create(&Actor::from(&principal), new).await?;
    Ok((StatusCode::CREATED, axum::Json(user)))
}

/// Look at a user
#[utoipa::path(get, path = "/users/{id}", tag = "identity", params(("id" = i64, Path)),
    responses((status = 200, body = User), (status = 404)))]
async fn get_user(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<User>, Problem> {
    if principal.user_id != UserId(id) {
        principal.authorize(Action::ReadUsers, Scope::Global)?;
    }
    Ok(axum::Json(identity.users.find(UserId(id)).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(default)]
#[derive(Default)]
struct UserChangeRequest {
    /// Its name.
    name: Option<String>,
    /// Its address.
    email: Option<String>,
    /// What it may do everywhere; takes its roles in teams away.
    global_role: Option<Role>,
    /// What it may do in teams; takes its global role away.
    teams: Option<Vec<TeamRole>>,
    /// Whether it is shut out.
    disabled: Option<bool>,
    /// Whether it must set a new password.
    must_reset_password: Option<bool>,
}

/// Change a user
///
/// What is left out stays.
#[utoipa::path(patch, path = "/users/{id}", tag = "identity", params(("id" = i64, Path)), request_body = UserChangeRequest,
    responses((status = 200, body = User), (status = 404)))]
async fn change_user(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<UserChangeRequest>,
) -> Result<axum::Json<User>, Problem> {
    principal.authorize(Action::WriteUsers, Scope::Global)?;
    let roles = match (body.global_role, body.teams) {
        (None, None) => None,
        (global_role, teams) => Some((global_role, teams.unwrap_or_default())),
    };
    let change = UserChange {
        name: body.name,
        email: body.email,
        roles,
        disabled: body.disabled,
        must_reset_password: body.must_reset_password,
        password: None,
    };
    Ok(axum::Json(
        identity
            .users
            .change(&Actor::from(&principal), UserId(id), change)
            .await?,
    ))
}

/// Delete a user
#[utoipa::path(delete, path = "/users/{id}", tag = "identity", params(("id" = i64, Path)),
    responses((status = 204), (status = 404), (status = 422, description = "the last admin stays")))]
async fn delete_user(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    principal.authorize(Action::WriteUsers, Scope::Global)?;
    identity
        .users
        .delete(&Actor::from(&principal), UserId(id))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn own_or(principal: &Principal, id: i64, action: Action) -> Result<(), Problem> {
    if principal.user_id == UserId(id) {
        Ok(())
    } else {
        principal.authorize(action, Scope::Global)
    }
}

/// List the sessions of a user
#[utoipa::path(get, path = "/users/{id}/sessions", tag = "identity", params(("id" = i64, Path)),
    responses((status = 200, body = Page<Session>)))]
async fn list_sessions(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Page<Session>>, Problem> {
    own_or(&principal, id, Action::ReadUsers)?;
    let items = identity.sessions.list(UserId(id)).await?;
    Ok(axum::Json(Page {
        total: items.len() as u64,
        items,
        next_cursor: None,
    }))
}

/// End all sessions of a user
#[utoipa::path(delete, path = "/users/{id}/sessions", tag = "identity", params(("id" = i64, Path)), responses((status = 204)))]
async fn end_sessions(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    own_or(&principal, id, Action::WriteUsers)?;
    identity
        .sessions
        .end_all(&Actor::from(&principal), UserId(id))
        .await?;
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
