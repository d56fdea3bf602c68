//! Fleet's user API: teams, called fleets since 2026. Both spellings give the same objects; those who ask by the newer
//! one find them under both names.
//!
//! A team in Fleet's shape is made of what three crates know: the team, its users and enrollment tokens (`identity`),
//! its agent options (here), and how many hosts it has (`hosts`). Parts that only Fleet has are shown as off, and left
//! out when they are written.

use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, patch, post};
use axum::{Extension, Router};
use muster_hosts::Hosts;
use muster_http::{BodyLimit, Json, Path, Problem, Query};
use muster_identity::{
    Action, Actor, EnrollmentTokens, Identity, IdentityError, NewEnrollmentToken, Principal, Role,
    Scope, ScopedSecret, Team, TeamFilter, TeamId, UserId,
};
use muster_wire_fleet::config::{Features, HostExpirySettings};
use muster_wire_fleet::team::{
    EnrollSecret, Team as FleetTeam, TeamAnswer, TeamIdsByName, TeamRequest, TeamSpec,
    TeamUsersRequest, TeamsAnswer,
};
use muster_wire_fleet::{Empty, Secret, Specs};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::fleet::ChangeQuery;
use crate::options::known_members;
use crate::{SettingsError, SettingsService, Strictness, TeamExpiry, check_agent_options};

/// Members of a team's document that may stand there: those that are read, those that Fleet's clients write where the
/// organisation's are in force, and those that a team is shown with. What is not among them is a mistake of who wrote it.
const PARTS_OF_TEAMS: &[&str] = &[
    "agent_options",
    "created_at",
    "description",
    "features",
    "filename",
    "gitops_filename",
    "host_count",
    "host_expiry_settings",
    "id",
    "integrations",
    "mdm",
    "name",
    "scripts",
    "secrets",
    "software",
    "updated_at",
    "user_count",
    "users",
    "webhook_settings",
];

/// The largest body with agent options: 2 MiB.
const MAX_OPTIONS_BYTES: usize = 2 * 1024 * 1024;
/// The largest body with documents of teams: 5 MiB.
const MAX_SPECS_BYTES: usize = 5 * 1024 * 1024;
/// The name of the enrollment token that a new team gets.
const FIRST_SECRET: &str = "enroll secret";

#[derive(Clone)]
struct Rooms {
    settings: SettingsService,
    identity: Identity,
    hosts: Hosts,
}

/// By which name a client asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Team,
    Fleet,
}

/// The routes, relative to `/api/{version}/fleet`.
pub fn fleet_team_routes(settings: SettingsService, identity: Identity, hosts: Hosts) -> Router {
    let rooms = Rooms {
        settings,
        identity,
        hosts,
    };
    let mut router = Router::new();
    for (name, spelling) in [("teams", Spelling::Team), ("fleets", Spelling::Fleet)] {
        let options = post(set_options).layer(Extension(BodyLimit(MAX_OPTIONS_BYTES)));
        let specs = post(apply).layer(Extension(BodyLimit(MAX_SPECS_BYTES)));
        let routes = Router::new()
            .route(&format!("/{name}"), get(list).post(create))
            .route(
                &format!("/{name}/{{id}}"),
                get(one).patch(change).delete(delete),
            )
            .route(
                &format!("/{name}/{{id}}/users"),
                patch(add_users).delete(remove_users),
            )
            .route(&format!("/{name}/{{id}}/agent_options"), options)
            .route(&format!("/spec/{name}"), specs)
            .layer(Extension(spelling));
        router = router.merge(routes);
    }
    router.with_state(rooms)
}

fn team_id(text: &str) -> Result<TeamId, Problem> {
    text.parse().map(TeamId).map_err(|_| no_such_team(text))
}

fn no_such_team(id: impl std::fmt::Display) -> Problem {
    let text = format!("Team {id} was not found in the datastore");
    Problem::new(StatusCode::NOT_FOUND, "not_found", text)
}

impl Rooms {
    /// A team that somebody may see; for anybody else it does not exist.
    async fn find(&self, principal: &Principal, id: &str) -> Result<Team, Problem> {
        let found = self.settings.visible_team(principal, team_id(id)?).await;
        found.map_err(|error| match error {
            SettingsError::Team(IdentityError::NotFound { .. }) => no_such_team(id),
            other => other.into(),
        })
    }

    async fn writable(&self, principal: &Principal, id: &str) -> Result<Team, Problem> {
        let team = self.find(principal, id).await?;
        principal.authorize(Action::WriteTeams, Scope::Team(Some(team.id)))?;
        Ok(team)
    }

    /// Teams in Fleet's shape. The number of statements does not depend on the number of teams.
    async fn show(
        &self,
        principal: &Principal,
        teams: Vec<Team>,
    ) -> Result<Vec<FleetTeam>, Problem> {
        let revealed = principal.teams_for(Action::RevealEnrollmentTokens);
        let ids = teams.iter().map(|team| team.id);
        let ids: Vec<TeamId> = ids.filter(|id| revealed.admits(Some(*id))).collect();
        let mut secrets = HashMap::new();
        if !ids.is_empty() {
            let (tokens, actor) = (&self.identity.enrollment_tokens, Actor::from(principal));
            let visible = TeamFilter::Only(ids);
            secrets = tokens.secrets_of_teams(&actor, &visible).await?;
        }
        let users = self.identity.users.team_counts().await?;
        let hosts = self.hosts.team_counts().await?;
        let current = self.settings.current();
        let organisation = &current.documents.organisation;
        let count = |counts: &HashMap<TeamId, u64>, id| counts.get(&id).copied().unwrap_or(0);
        let shown = teams.into_iter().map(|team| FleetTeam {
            id: team.id.0,
            created_at: team.created_at,
            agent_options: current.team_documents.get(&team.id).cloned(),
            // What is collected is decided for all hosts.
            features: Features {
                enable_host_users: organisation.collect_users,
                enable_software_inventory: organisation.collect_software,
                additional_queries: None,
            },
            host_expiry_settings: shown_expiry(current.team_expiry.get(&team.id)),
            user_count: count(&users, team.id),
            host_count: count(&hosts, team.id),
            secrets: revealed
                .admits(Some(team.id))
                .then(|| shown_secrets(team.id, secrets.remove(&team.id))),
            name: team.name,
            description: team.description,
            ..FleetTeam::default()
        });
        Ok(shown.collect())
    }

    async fn answer(
        &self,
        principal: &Principal,
        spelling: Spelling,
        id: TeamId,
    ) -> Result<axum::Json<TeamAnswer>, Problem> {
        let team = self.identity.teams.find(id).await?;
        let team = self.show(principal, vec![team]).await?.pop();
        let team = team.ok_or_else(|| no_such_team(id))?;
        Ok(axum::Json(TeamAnswer {
            fleet: (spelling == Spelling::Fleet).then(|| team.clone()),
            team,
        }))
    }

    async fn change_users(
        &self,
        principal: &Principal,
        spelling: Spelling,
        id: &str,
        changes: &[(UserId, Option<Role>)],
    ) -> Result<axum::Json<TeamAnswer>, Problem> {
        let team = self.find(principal, id).await?;
        principal.authorize(Action::WriteUsers, Scope::Team(Some(team.id)))?;
        let actor = Actor::from(principal);
        let users = &self.identity.users;
        users.change_team(&actor, team.id, changes).await?;
        self.answer(principal, spelling, team.id).await
    }

    async fn create(
        &self,
        actor: &Actor,
        name: &str,
        description: &str,
        secrets: Option<Vec<String>>,
    ) -> Result<Team, Problem> {
        let team = self.identity.teams.create(actor, name, description).await?;
        let tokens = &self.identity.enrollment_tokens;
        if let Some(secrets) = secrets {
            let made = tokens.replace_secrets(actor, Some(team.id), &secrets).await;
            if let Err(error) = made {
                // Such as a secret that another team has: as if nothing had been asked.
                self.identity.teams.delete(actor, team.id).await?;
                return Err(error.into());
            }
        } else {
            let first = NewEnrollmentToken {
                name: FIRST_SECRET.to_owned(),
                team_id: Some(team.id),
                ..NewEnrollmentToken::default()
            };
            tokens.create(actor, first).await?;
        }
        Ok(team)
    }
}

fn shown_secrets(team: TeamId, secrets: Option<Vec<ScopedSecret>>) -> Vec<EnrollSecret> {
    let secrets = secrets.unwrap_or_default().into_iter();
    let shown = secrets.map(|secret| EnrollSecret {
        secret: Secret::new(secret.secret),
        created_at: Some(secret.created_at),
        team_id: Some(team.0),
    });
    shown.collect()
}

fn shown_expiry(rule: Option<&TeamExpiry>) -> HostExpirySettings {
    let rule = rule.copied().unwrap_or_default();
    HostExpirySettings {
        host_expiry_enabled: rule.enabled,
        host_expiry_window: rule.days,
    }
}

fn expiry(settings: HostExpirySettings) -> Result<TeamExpiry, Problem> {
    let rule = TeamExpiry {
        enabled: settings.host_expiry_enabled,
        days: settings.host_expiry_window,
    };
    rule.check()?;
    Ok(rule)
}

fn texts(secrets: Vec<EnrollSecret>) -> Vec<String> {
    let secrets = secrets.into_iter();
    secrets.map(|secret| secret.secret.into_exposed()).collect()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    query: Option<String>,
    page: Option<String>,
    per_page: Option<String>,
    order_key: Option<String>,
    order_direction: Option<String>,
}

impl ListQuery {
    fn number(name: &str, text: Option<&str>) -> Result<Option<usize>, Problem> {
        let text = text.map(str::trim).filter(|text| !text.is_empty());
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| Problem::bad_request(format!("non-int {name} value")))
        };
        text.map(parse).transpose()
    }

    /// The teams that are asked for, in their order.
    fn pick(&self, mut teams: Vec<FleetTeam>) -> Result<Vec<FleetTeam>, Problem> {
        let search = self.query.as_deref().unwrap_or_default().to_lowercase();
        teams.retain(|team| team.name.to_lowercase().contains(search.trim()));
        match self.order_key.as_deref().filter(|key| !key.is_empty()) {
            None | Some("id") => teams.sort_by_key(|team| team.id),
            Some("name") => teams.sort_by_key(|team| team.name.to_lowercase()),
            Some("created_at") => teams.sort_by_key(|team| team.created_at),
            Some("user_count") => teams.sort_by_key(|team| team.user_count),
            Some("host_count") => teams.sort_by_key(|team| team.host_count),
            Some(_) => {
                let known = "must be one of id, name, created_at, user_count, host_count";
                return Err(Problem::invalid("order_key", known));
            }
        }
        let direction = self.order_direction.as_deref().unwrap_or_default();
        if direction.eq_ignore_ascii_case("desc") {
            teams.reverse();
        }
        let page = Self::number("page", self.page.as_deref())?.unwrap_or(0);
        match Self::number("per_page", self.per_page.as_deref())? {
            Some(0) => Err(Problem::bad_request("invalid per_page value")),
            Some(rows) => {
                let teams = teams.into_iter().skip(page.saturating_mul(rows));
                Ok(teams.take(rows).collect())
            }
            None => Ok(teams),
        }
    }
}

async fn list(
    State(rooms): State<Rooms>,
    Extension(spelling): Extension<Spelling>,
    principal: Principal,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<TeamsAnswer>, Problem> {
    principal.authorize(Action::ReadTeams, Scope::Anywhere)?;
    let visible = principal.teams_for(Action::ReadTeams);
    let teams = rooms.identity.teams.list(&visible).await?;
    let teams = query.pick(rooms.show(&principal, teams).await?)?;
    Ok(axum::Json(TeamsAnswer {
        fleets: (spelling == Spelling::Fleet).then(|| teams.clone()),
        teams,
    }))
}

async fn one(
    State(rooms): State<Rooms>,
    Extension(spelling): Extension<Spelling>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<TeamAnswer>, Problem> {
    let team = rooms.find(&principal, &id).await?;
    rooms.answer(&principal, spelling, team.id).await
}

/// A new team has no agent options of its own, so that those of the organisation are in force, and one enrollment token
/// unless secrets are given.
async fn create(
    State(rooms): State<Rooms>,
    Extension(spelling): Extension<Spelling>,
    principal: Principal,
    Json(body): Json<TeamRequest>,
) -> Result<axum::Json<TeamAnswer>, Problem> {
    principal.authorize(Action::WriteTeams, Scope::Global)?;
    let secrets = body.secrets.map(texts);
    EnrollmentTokens::check_secrets(secrets.as_deref().unwrap_or_default())?;
    let (name, description) = (body.name.unwrap_or_default(), body.description);
    let rule = body.host_expiry_settings.map(expiry).transpose()?;
    let actor = Actor::from(&principal);
    let description = description.unwrap_or_default();
    let team = rooms.create(&actor, &name, &description, secrets).await?;
    if let Some(rule) = rule.filter(|rule| *rule != TeamExpiry::default()) {
        let settings = &rooms.settings;
        settings
            .set_team_expiry(&actor, team.id, Some(rule))
            .await?;
    }
    rooms.answer(&principal, spelling, team.id).await
}

async fn change(
    State(rooms): State<Rooms>,
    Extension(spelling): Extension<Spelling>,
    principal: Principal,
    Path(id): Path<String>,
    Json(body): Json<TeamRequest>,
) -> Result<axum::Json<TeamAnswer>, Problem> {
    let team = rooms.writable(&principal, &id).await?;
    let actor = Actor::from(&principal);
    let secrets = body.secrets.map(texts);
    EnrollmentTokens::check_secrets(secrets.as_deref().unwrap_or_default())?;
    let rule = body.host_expiry_settings.map(expiry).transpose()?;
    let (name, description) = (body.name.as_deref(), body.description.as_deref());
    let teams = &rooms.identity.teams;
    teams.change(&actor, team.id, name, description).await?;
    if rule.is_some() {
        let settings = &rooms.settings;
        settings.set_team_expiry(&actor, team.id, rule).await?;
    }
    if let Some(secrets) = secrets {
        let tokens = &rooms.identity.enrollment_tokens;
        tokens
            .replace_secrets(&actor, Some(team.id), &secrets)
            .await?;
    }
    rooms.answer(&principal, spelling, team.id).await
}

async fn delete(
    State(rooms): State<Rooms>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<Empty>, Problem> {
    let team = rooms.find(&principal, &id).await?;
    principal.authorize(Action::WriteTeams, Scope::Global)?;
    let actor = Actor::from(&principal);
    rooms.identity.teams.delete(&actor, team.id).await?;
    Ok(axum::Json(Empty {}))
}

async fn add_users(
    State(rooms): State<Rooms>,
    Extension(spelling): Extension<Spelling>,
    principal: Principal,
    Path(id): Path<String>,
    Json(body): Json<TeamUsersRequest>,
) -> Result<axum::Json<TeamAnswer>, Problem> {
    let mut changes = Vec::new();
    for user in body.users {
        let role = Role::parse(&user.role)
            .ok_or_else(|| Problem::invalid("role", format!("invalid team role: {}", user.role)))?;
        changes.push((UserId(user.id), Some(role)));
    }
    rooms
        .change_users(&principal, spelling, &id, &changes)
        .await
}

async fn remove_users(
    State(rooms): State<Rooms>,
    Extension(spelling): Extension<Spelling>,
    principal: Principal,
    Path(id): Path<String>,
    Json(body): Json<TeamUsersRequest>,
) -> Result<axum::Json<TeamAnswer>, Problem> {
    let users = body.users.iter();
    let changes: Vec<_> = users.map(|user| (UserId(user.id), None)).collect();
    rooms
        .change_users(&principal, spelling, &id, &changes)
        .await
}

async fn set_options(
    State(rooms): State<Rooms>,
    Extension(spelling): Extension<Spelling>,
    principal: Principal,
    Path(id): Path<String>,
    Query(query): Query<ChangeQuery>,
    Json(options): Json<Map<String, Value>>,
) -> Result<axum::Json<TeamAnswer>, Problem> {
    let team = rooms.writable(&principal, &id).await?;
    let (actor, options) = (Actor::from(&principal), Some(Value::Object(options)));
    let (strictness, dry_run) = (query.strictness(), query.is_dry_run());
    rooms
        .settings
        .set_team_agent_options(&actor, team.id, options, strictness, dry_run)
        .await?;
    rooms.answer(&principal, spelling, team.id).await
}

/// A document that was checked.
struct Checked {
    name: String,
    existing: Option<TeamId>,
    /// Absent: as they are; `null`: none of its own.
    agent_options: Option<Value>,
    expiry: Option<TeamExpiry>,
    secrets: Option<Vec<String>>,
}

/// Makes teams as documents say, or changes those of the same name. All are checked before the first is written.
async fn apply(
    State(rooms): State<Rooms>,
    Extension(spelling): Extension<Spelling>,
    principal: Principal,
    Query(query): Query<ChangeQuery>,
    Json(body): Json<Specs<TeamSpec>>,
) -> Result<axum::Json<TeamIdsByName>, Problem> {
    principal.authorize(Action::WriteTeams, Scope::Anywhere)?;
    let mut checked = Vec::new();
    for spec in body.specs {
        checked.push(rooms.check(&principal, &query, spec).await?);
    }
    let mut ids = BTreeMap::new();
    for document in checked {
        let (name, id) = if query.is_dry_run() {
            (document.name, document.existing)
        } else {
            let name = document.name.clone();
            (name, Some(rooms.apply(&principal, &query, document).await?))
        };
        ids.insert(name, id.map_or(0, |id| id.0));
    }
    Ok(axum::Json(TeamIdsByName {
        fleet_ids_by_name: (spelling == Spelling::Fleet).then(|| ids.clone()),
        team_ids_by_name: ids,
    }))
}

impl Rooms {
    async fn check(
        &self,
        principal: &Principal,
        query: &ChangeQuery,
        spec: TeamSpec,
    ) -> Result<Checked, Problem> {
        let name = spec.name.trim().to_owned();
        if name.is_empty() {
            return Err(Problem::invalid("name", "name may not be empty"));
        }
        let existing = self.identity.teams.find_by_name(&name).await?;
        let existing = existing.map(|team| team.id);
        let scope = existing.map_or(Scope::Global, |team| Scope::Team(Some(team)));
        principal.authorize(Action::WriteTeams, scope)?;
        if query.strictness() == Strictness::Full {
            known_members(&spec.others, PARTS_OF_TEAMS)?;
        }
        let is_kept =
            |options: &Value| existing.is_some_and(|team| self.settings.is_kept_for(team, options));
        if let Some(Some(options)) = &spec.agent_options
            && !is_kept(options)
        {
            check_agent_options(options, query.strictness())?;
        }
        let secrets = spec.secrets.map(texts);
        EnrollmentTokens::check_secrets(secrets.as_deref().unwrap_or_default())?;
        Ok(Checked {
            name,
            existing,
            agent_options: spec.agent_options.map(Option::unwrap_or_default),
            expiry: spec.host_expiry_settings.map(expiry).transpose()?,
            secrets,
        })
    }

    async fn apply(
        &self,
        principal: &Principal,
        query: &ChangeQuery,
        document: Checked,
    ) -> Result<TeamId, Problem> {
        let actor = Actor::from(principal);
        let id = match (document.existing, document.secrets) {
            (None, secrets) => {
                let team = self.create(&actor, &document.name, "", secrets).await?;
                team.id
            }
            (Some(id), Some(secrets)) => {
                let tokens = &self.identity.enrollment_tokens;
                tokens.replace_secrets(&actor, Some(id), &secrets).await?;
                id
            }
            (Some(id), None) => id,
        };
        if document.expiry.is_some() {
            let settings = &self.settings;
            settings
                .set_team_expiry(&actor, id, document.expiry)
                .await?;
        }
        if let Some(options) = document.agent_options {
            let strictness = query.strictness();
            self.settings
                .set_team_agent_options(&actor, id, Some(options), strictness, false)
                .await?;
        }
        Ok(id)
    }
}
