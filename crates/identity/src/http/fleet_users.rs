//! Fleet's user API: users, their sessions and passwords.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use muster_clock::Timestamp;
use muster_http::{Json, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::principal::AnyPrincipal;
use crate::{
    Action, Actor, Credential, Identity, NewApiToken, NewPassword, NewUser, Principal, Role, Scope,
    TeamFilter, TeamId, TeamRole, User, UserChange, UserId,
};

pub(super) fn routes() -> Router<Identity> {
    Router::new()
        .route("/users", get(list))
        .route("/teams/{id}/users", get(list_of_team))
        .route("/fleets/{id}/users", get(list_of_team))
        .route("/users/admin", post(create))
        .route("/users/roles/spec", post(apply_roles))
        .route("/users/{id}", get(one).patch(change).delete(delete))
        .route("/users/{id}/require_password_reset", post(require_reset))
        .route("/users/{id}/sessions", get(sessions).delete(end_sessions))
        .route("/sessions/{id}", get(session).delete(end_session))
        .route("/change_password", post(change_password))
        .route("/perform_required_password_reset", post(reset_password))
}

/// A team as a user is shown it.
#[derive(Clone, Serialize)]
pub(super) struct AvailableTeam {
    id: TeamId,
    name: String,
    description: String,
}

#[derive(Serialize)]
struct TeamOfUser {
    id: TeamId,
    name: String,
    description: String,
    role: Role,
}

/// A user, as Fleet's user API shows it.
#[derive(Serialize)]
pub(super) struct FleetUser {
    created_at: Timestamp,
    updated_at: Timestamp,
    id: UserId,
    name: String,
    email: String,
    force_password_reset: bool,
    gravatar_url: &'static str,
    sso_enabled: bool,
    mfa_enabled: bool,
    global_role: Option<Role>,
    api_only: bool,
    teams: Vec<TeamOfUser>,
    /// What Fleet's console remembers, in lists only; there is nothing to remember here.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<Value>,
}

impl FleetUser {
    pub(super) fn new(user: &User, teams: &[AvailableTeam]) -> Self {
        let named = |role: &TeamRole| {
            let team = teams.iter().find(|team| team.id == role.team_id);
            TeamOfUser {
                id: role.team_id,
                name: team.map(|team| team.name.clone()).unwrap_or_default(),
                description: team
                    .map(|team| team.description.clone())
                    .unwrap_or_default(),
                role: role.role,
            }
        };
        Self {
            created_at: user.created_at,
            updated_at: user.updated_at,
            id: user.id,
            name: user.name.clone(),
            email: user.email.clone(),
            force_password_reset: user.must_reset_password,
            gravatar_url: "",
            sso_enabled: false,
            mfa_enabled: user.second_factor,
            global_role: user.global_role,
            api_only: user.api_only,
            teams: user.teams.iter().map(named).collect(),
            settings: None,
        }
    }

    /// As it stands in lists.
    fn listed(self) -> Self {
        Self {
            settings: Some(json!({ "hidden_host_columns": null })),
            ..self
        }
    }
}

/// The teams that a user sees: all with a global role, else those it has a role in.
pub(super) async fn available_teams(
    identity: &Identity,
    user: &User,
) -> Result<Vec<AvailableTeam>, Problem> {
    let visible = match user.global_role {
        Some(_) => TeamFilter::All,
        None => TeamFilter::Only(user.teams.iter().map(|role| role.team_id).collect()),
    };
    let teams = identity.teams.list(&visible).await?;
    let shown = |team: crate::Team| AvailableTeam {
        id: team.id,
        name: team.name,
        description: team.description,
    };
    Ok(teams.into_iter().map(shown).collect())
}

async fn shown(identity: &Identity, user: &User) -> Result<FleetUser, Problem> {
    Ok(FleetUser::new(
        user,
        &available_teams(identity, user).await?,
    ))
}

fn no_such_user(id: i64) -> Problem {
    let text = format!("User with id={id} was not found in the datastore");
    Problem::new(StatusCode::NOT_FOUND, "not_found", text)
}

async fn find(identity: &Identity, id: i64) -> Result<User, Problem> {
    identity
        .users
        .find(UserId(id))
        .await
        .map_err(|error| match error {
            crate::IdentityError::NotFound { .. } => no_such_user(id),
            other => other.into(),
        })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    #[serde(alias = "fleet_id")]
    team_id: Option<i64>,
    query: Option<String>,
}

async fn list(
    State(identity): State<Identity>,
    principal: Principal,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Value>, Problem> {
    let team = query.team_id.map(TeamId);
    let scope = team.map_or(Scope::Global, |team| Scope::Team(Some(team)));
    principal.authorize(Action::ReadUsers, scope)?;
    let users = identity.users.list(team).await?;
    let search = query.query.unwrap_or_default().to_lowercase();
    let mut answer = Vec::new();
    let teams = identity.teams.list(&TeamFilter::All).await?;
    let all: Vec<AvailableTeam> = teams
        .into_iter()
        .map(|team| AvailableTeam {
            id: team.id,
            name: team.name,
            description: team.description,
        })
        .collect();
    for user in users {
        let found = |text: &str| text.to_lowercase().contains(&search);
        if search.is_empty() || found(&user.name) || found(&user.email) {
            answer.push(FleetUser::new(&user, &all).listed());
        }
    }
    Ok(axum::Json(json!({ "users": answer })))
}

async fn list_of_team(
    state: State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<Value>, Problem> {
    principal.authorize(Action::ReadUsers, Scope::Team(Some(TeamId(id))))?;
    state.teams.find(TeamId(id)).await?;
    let query = ListQuery {
        team_id: Some(id),
        ..query
    };
    list(state, principal, Query(query)).await
}

async fn one(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Value>, Problem> {
    if principal.user_id != UserId(id) {
        principal.authorize(Action::ReadUsers, Scope::Global)?;
    }
    let user = find(&identity, id).await?;
    let teams = available_teams(&identity, &user).await?;
    Ok(axum::Json(
        json!({ "user": FleetUser::new(&user, &teams), "available_teams": teams }),
    ))
}

/// Roles as Fleet writes them; unknown names are told.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Roles {
    global_role: Option<String>,
    #[serde(alias = "fleets")]
    teams: Option<Vec<RoleInTeam>>,
}

#[derive(Deserialize)]
struct RoleInTeam {
    id: Option<i64>,
    #[serde(alias = "team", alias = "fleet")]
    name: Option<String>,
    role: String,
}

async fn read_roles(
    identity: &Identity,
    roles: Roles,
) -> Result<Option<(Option<Role>, Vec<TeamRole>)>, Problem> {
    let parse = |name: &str, field: &str| {
        let invalid = || {
            Problem::invalid(
                field.to_owned(),
                format!("invalid {}: {name}", field.replace('_', " ")),
            )
        };
        Role::parse(name).ok_or_else(invalid)
    };
    let (global_role, teams) = match (roles.global_role, roles.teams) {
        (None, None) => return Ok(None),
        (global_role, teams) => (
            global_role.filter(|role| !role.is_empty()),
            teams.unwrap_or_default(),
        ),
    };
    let global_role = global_role
        .map(|name| parse(&name, "global_role"))
        .transpose()?;
    let mut in_teams = Vec::new();
    for team in teams {
        let team_id = match (team.id, team.name) {
            (Some(id), _) => TeamId(id),
            (None, Some(name)) => {
                let found = identity.teams.find_by_name(&name).await?;
                found
                    .ok_or_else(|| Problem::invalid("teams", format!("there is no team {name:?}")))?
                    .id
            }
            (None, None) => return Err(Problem::invalid("teams", "each needs an id")),
        };
        in_teams.push(TeamRole {
            team_id,
            role: parse(&team.role, "team_role")?,
        });
    }
    Ok(Some((global_role, in_teams)))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NewUserBody {
    name: String,
    email: String,
    password: String,
    global_role: Option<String>,
    #[serde(alias = "fleets")]
    teams: Option<Vec<RoleInTeam>>,
    api_only: bool,
    admin_forced_password_reset: Option<bool>,
}

async fn create(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<NewUserBody>,
) -> Result<axum::Json<Value>, Problem> {
    let roles = read_roles(
        &identity,
        Roles {
            global_role: body.global_role,
            teams: body.teams,
        },
    )
    .await?;
    let (global_role, teams) = roles.unwrap_or_default();
    // A team's admin may make users of that team.
    let own = !teams.is_empty()
        && teams
            .iter()
            .all(|role| principal.may(Action::WriteUsers, Scope::Team(Some(role.team_id))));
    if !own || global_role.is_some() {
        principal.authorize(Action::WriteUsers, Scope::Global)?;
    }
    let actor = Actor::from(&principal);
    let new = NewUser {
        name: body.name,
        email: body.email,
        password: body.password,
        global_role,
        teams,
        api_only: body.api_only,
        must_reset_password: body.admin_forced_password_reset.unwrap_or(true) && !body.api_only,
    };
    let user = identity.users.create(&actor, new).await?;
    let mut answer = json!({ "user": shown(&identity, &user).await? });
    if user.api_only {
        let token = NewApiToken {
            name: "made with the account".to_owned(),
            expires_at: None,
        };
        let (_, secret) = identity.api_tokens.create(&actor, user.id, token).await?;
        answer["token"] = secret.into();
    }
    Ok(axum::Json(answer))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UserChangeBody {
    name: Option<String>,
    email: Option<String>,
    password: Option<String>,
    new_password: Option<String>,
    global_role: Option<String>,
    #[serde(alias = "fleets")]
    teams: Option<Vec<RoleInTeam>>,
}

async fn change(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<UserChangeBody>,
) -> Result<axum::Json<Value>, Problem> {
    let roles = read_roles(
        &identity,
        Roles {
            global_role: body.global_role,
            teams: body.teams,
        },
    )
    .await?;
    let own = principal.user_id == UserId(id);
    if !own || roles.is_some() {
        principal.authorize(Action::WriteUsers, Scope::Global)?;
    }
    find(&identity, id).await?;
    let actor = Actor::from(&principal);
    let old = own.then(|| body.password.unwrap_or_default());
    let keep_session = keep_session(&principal).filter(|_| own);
    // All of it or nothing: a name that is taken leaves the password as it was.
    let change = UserChange {
        name: body.name,
        email: body.email,
        roles,
        password: body.new_password.map(|text| NewPassword {
            text,
            old,
            keep_session,
        }),
        ..UserChange::default()
    };
    let user = identity.users.change(&actor, UserId(id), change).await?;
    Ok(axum::Json(
        json!({ "user": shown(&identity, &user).await? }),
    ))
}

fn keep_session(principal: &Principal) -> Option<i64> {
    match principal.credential {
        Credential::Session(id) => Some(id),
        Credential::ApiToken(_) => None,
    }
}

async fn delete(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Value>, Problem> {
    principal.authorize(Action::WriteUsers, Scope::Global)?;
    find(&identity, id).await?;
    identity
        .users
        .delete(&Actor::from(&principal), UserId(id))
        .await?;
    Ok(axum::Json(json!({})))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RolesSpec {
    spec: RolesByEmail,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RolesByEmail {
    roles: std::collections::BTreeMap<String, Roles>,
}

async fn apply_roles(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<RolesSpec>,
) -> Result<axum::Json<Value>, Problem> {
    principal.authorize(Action::WriteUsers, Scope::Global)?;
    let actor = Actor::from(&principal);
    for (email, roles) in body.spec.roles {
        let user = identity.users.find_by_email(&email).await?;
        let user = user.ok_or_else(|| Problem::not_found(format_args!("user {email}")))?;
        if let Some(roles) = read_roles(&identity, roles).await?
            && roles != (user.global_role, user.teams.clone())
        {
            let change = UserChange {
                roles: Some(roles),
                ..UserChange::default()
            };
            identity.users.change(&actor, user.id, change).await?;
        }
    }
    Ok(axum::Json(json!({})))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RequireReset {
    require: bool,
}

async fn require_reset(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<RequireReset>,
) -> Result<axum::Json<Value>, Problem> {
    principal.authorize(Action::WriteUsers, Scope::Global)?;
    find(&identity, id).await?;
    let change = UserChange {
        must_reset_password: Some(body.require),
        ..UserChange::default()
    };
    let user = identity
        .users
        .change(&Actor::from(&principal), UserId(id), change)
        .await?;
    Ok(axum::Json(
        json!({ "user": shown(&identity, &user).await? }),
    ))
}

fn own_or(principal: &Principal, id: UserId, action: Action) -> Result<(), Problem> {
    if principal.user_id == id {
        Ok(())
    } else {
        principal.authorize(action, Scope::Global)
    }
}

fn shown_session(session: &crate::sessions::Session) -> Value {
    json!({ "session_id": session.id, "user_id": session.user_id, "created_at": session.created_at })
}

async fn sessions(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Value>, Problem> {
    own_or(&principal, UserId(id), Action::ReadUsers)?;
    let sessions = identity.sessions.list(UserId(id)).await?;
    let sessions =
        (!sessions.is_empty()).then(|| sessions.iter().map(shown_session).collect::<Vec<_>>());
    Ok(axum::Json(json!({ "sessions": sessions })))
}

async fn end_sessions(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Value>, Problem> {
    own_or(&principal, UserId(id), Action::WriteUsers)?;
    identity
        .sessions
        .end_all(&Actor::from(&principal), UserId(id))
        .await?;
    Ok(axum::Json(json!({})))
}

async fn session(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Value>, Problem> {
    let session = identity.sessions.find(id).await?;
    own_or(&principal, session.user_id, Action::ReadUsers)?;
    Ok(axum::Json(shown_session(&session)))
}

async fn end_session(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Value>, Problem> {
    let session = identity.sessions.find(id).await?;
    own_or(&principal, session.user_id, Action::WriteUsers)?;
    identity.sessions.end(&Actor::from(&principal), id).await?;
    Ok(axum::Json(json!({})))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PasswordChange {
    old_password: String,
    new_password: String,
}

async fn change_password(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<PasswordChange>,
) -> Result<axum::Json<Value>, Problem> {
    let (actor, keep) = (Actor::from(&principal), keep_session(&principal));
    let (old, new) = (&body.old_password, &body.new_password);
    identity
        .users
        .change_password(&actor, principal.user_id, old, new, keep)
        .await?;
    Ok(axum::Json(json!({})))
}

/// The only call that a user may make who must set a new password; so it takes the principal as it is.
async fn reset_password(
    State(identity): State<Identity>,
    AnyPrincipal(principal): AnyPrincipal,
    Json(body): Json<PasswordChange>,
) -> Result<axum::Json<Value>, Problem> {
    if !principal.must_reset_password {
        return Err(Problem::forbidden(
            "no password reset is required; use change_password",
        ));
    }
    let (actor, keep) = (Actor::from(&principal), keep_session(&principal));
    let user = identity
        .users
        .set_password(&actor, principal.user_id, &body.new_password, keep)
        .await?;
    Ok(axum::Json(
        json!({ "user": shown(&identity, &user).await? }),
    ))
}
