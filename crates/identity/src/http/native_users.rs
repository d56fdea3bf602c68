//! Our own API: users and their sessions.

use axum::extract::State;
use axum::http::StatusCode;
use muster_http::{Json, Page, Path, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::sessions::Session;
use crate::{
    Action, Actor, Credential, Identity, NewUser, Principal, Role, Scope, TeamRole, User,
    UserChange, UserId,
};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(list_users, create_user))
        .routes(routes!(get_user, change_user, delete_user))
        .routes(routes!(reset_password))
        .routes(routes!(remove_second_factor))
        .routes(routes!(list_sessions, end_sessions))
        .routes(routes!(end_session))
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
    /// Whether it is an account for programs: it uses API tokens, and logs in by Fleet's API only.
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

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct PasswordReset {
    /// A password to log in with once; left out, one is made up.
    password: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct TemporaryPassword {
    /// What the user logs in with next, once: then it must set a password of its own.
    password: String,
}

/// Reset a user's password
///
/// Gives the user a password that it must replace at its next login. Its sessions end; its API tokens are refused until it has
/// done so.
#[utoipa::path(post, path = "/users/{id}/reset-password", tag = "identity", params(("id" = i64, Path)),
    request_body = PasswordReset, responses((status = 200, body = TemporaryPassword), (status = 404)))]
async fn reset_password(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<PasswordReset>,
) -> Result<axum::Json<TemporaryPassword>, Problem> {
    principal.authorize(Action::WriteUsers, Scope::Global)?;
    if principal.user_id == UserId(id) {
        let reason = "is your own; change it with POST /me/password, or `muster password`";
        return Err(Problem::invalid("id", reason));
    }
    let password = identity
        .users
        .reset_password(&Actor::from(&principal), UserId(id), body.password)
        .await?;
    Ok(axum::Json(TemporaryPassword { password }))
}

/// Take a user's second factor away
///
/// For users who lost their authenticator app and their recovery codes. Having none is no error.
#[utoipa::path(delete, path = "/users/{id}/totp", tag = "identity", params(("id" = i64, Path)),
    responses((status = 204), (status = 404)))]
async fn remove_second_factor(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    principal.authorize(Action::WriteUsers, Scope::Global)?;
    if principal.user_id == UserId(id) {
        let reason = "is your own; disable it with POST /me/totp/disable, or `muster totp disable`";
        return Err(Problem::invalid("id", reason));
    }
    identity
        .second_factor
        .remove(&Actor::from(&principal), UserId(id))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A session, as it is listed.
#[derive(Serialize, ToSchema)]
struct ListedSession {
    #[serde(flatten)]
    session: Session,
    /// Whether it is the one that asks.
    current: bool,
}

/// List the sessions of a user
///
/// Your own, or as an admin anybody's; oldest first.
#[utoipa::path(get, path = "/users/{id}/sessions", tag = "identity", params(("id" = i64, Path)),
    responses((status = 200, body = Page<ListedSession>), (status = 404)))]
async fn list_sessions(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Page<ListedSession>>, Problem> {
    own_or(&principal, id, Action::ReadUsers)?;
    identity.users.find(UserId(id)).await?;
    let sessions = identity.sessions.list(UserId(id)).await?;
    let items: Vec<ListedSession> = sessions
        .into_iter()
        .map(|session| ListedSession {
            current: principal.credential == Credential::Session(session.id),
            session,
        })
        .collect();
    Ok(axum::Json(Page {
        total: items.len() as u64,
        items,
        next_cursor: None,
    }))
}

/// End a session of a user
///
/// Whoever uses it has to log in again. Ending one that ended is no error.
#[utoipa::path(delete, path = "/users/{id}/sessions/{session}", tag = "identity",
    params(("id" = i64, Path), ("session" = i64, Path)), responses((status = 204), (status = 404)))]
async fn end_session(
    State(identity): State<Identity>,
    principal: Principal,
    Path((id, session)): Path<(i64, i64)>,
) -> Result<StatusCode, Problem> {
    own_or(&principal, id, Action::WriteUsers)?;
    identity
        .sessions
        .end_of(&Actor::from(&principal), UserId(id), session)
        .await?;
    Ok(StatusCode::NO_CONTENT)
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
