//! Our own API: the organisation and agent options.

use axum::extract::State;
use muster_http::{Json, Path, Problem, Query};
use muster_identity::{Action, Actor, Principal, Scope, TeamId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::{Documents, Organisation, SettingsError, SettingsService, Strictness, TeamExpiry};

/// The routes, relative to `/api/muster`.
pub fn native_routes(settings: SettingsService) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(get_settings, set_settings))
        .routes(routes!(get_options, set_options))
        .routes(routes!(
            get_team_options,
            set_team_options,
            delete_team_options
        ))
        .routes(routes!(
            get_team_expiry,
            set_team_expiry,
            delete_team_expiry
        ))
        .with_state(settings)
}

/// Agent options, and whose they are.
#[derive(Serialize, ToSchema)]
struct OptionsAnswer {
    /// The options: `config`, `overrides`, `command_line_flags`, `extensions`, `update_channels`,
    /// `script_execution_timeout`.
    #[schema(value_type = Object)]
    options: Value,
    /// The team has none of its own: these are everybody's.
    inherited: bool,
}

/// Agent options.
#[derive(Deserialize, ToSchema)]
struct OptionsRequest {
    /// The options, whole.
    #[schema(value_type = Object)]
    options: Value,
}

/// The organisation
#[utoipa::path(get, path = "/settings", tag = "settings", responses((status = 200, body = Organisation)))]
async fn get_settings(
    State(settings): State<SettingsService>,
    principal: Principal,
) -> Result<axum::Json<Organisation>, Problem> {
    principal.authorize(Action::ReadSettings, Scope::Global)?;
    Ok(axum::Json(
        settings.current().documents.organisation.clone(),
    ))
}

/// Change the organisation
///
/// What is left out stays as it is.
#[utoipa::path(put, path = "/settings", tag = "settings", request_body = Organisation, responses(
    (status = 200, body = Organisation), (status = 400, description = "a member that does not exist"),
    (status = 422, description = "a value that is not allowed")))]
async fn set_settings(
    State(settings): State<SettingsService>,
    principal: Principal,
    Json(wishes): Json<serde_json::Map<String, Value>>,
) -> Result<axum::Json<Organisation>, Problem> {
    principal.authorize(Action::WriteSettings, Scope::Global)?;
    let change = |now: &Documents| {
        let organisation = now.organisation.with(&wishes)?;
        Ok(Documents {
            organisation,
            ..now.clone()
        })
    };
    let actor = Actor::from(&principal);
    let kept = settings
        .change(&actor, Strictness::Full, false, change)
        .await
        .map_err(in_our_words)?;
    Ok(axum::Json(kept.organisation))
}

/// With the names that members have here instead of Fleet's.
fn in_our_words(error: SettingsError) -> SettingsError {
    match error {
        SettingsError::Invalid { field, reason } => {
            let field = match field {
                "org_name" => "name",
                "org_logo_url" => "logo_url",
                "org_logo_url_light_background" => "logo_url_light_background",
                "host_expiry_window" => "host_expiry_days",
                "activity_expiry_window" => "audit_expiry_days",
                other => other,
            };
            SettingsError::Invalid { field, reason }
        }
        other => other,
    }
}

/// Agent options of hosts whose team has none of its own
#[utoipa::path(get, path = "/settings/agent-options", tag = "settings", responses((status = 200, body = OptionsAnswer)))]
async fn get_options(
    State(settings): State<SettingsService>,
    principal: Principal,
) -> Result<axum::Json<OptionsAnswer>, Problem> {
    principal.authorize(Action::ReadSettings, Scope::Global)?;
    Ok(axum::Json(OptionsAnswer {
        options: settings.current().documents.agent_options.clone(),
        inherited: false,
    }))
}

/// Set the agent options of hosts whose team has none of its own
#[utoipa::path(put, path = "/settings/agent-options", tag = "settings", request_body = OptionsRequest, params(ForceQuery),
    responses(
    (status = 200, body = OptionsAnswer), (status = 400, description = "options that make no sense")))]
async fn set_options(
    State(settings): State<SettingsService>,
    principal: Principal,
    Query(query): Query<ForceQuery>,
    Json(body): Json<OptionsRequest>,
) -> Result<axum::Json<OptionsAnswer>, Problem> {
    principal.authorize(Action::WriteSettings, Scope::Global)?;
    let change = |now: &Documents| {
        Ok(Documents {
            agent_options: body.options.clone(),
            ..now.clone()
        })
    };
    let actor = Actor::from(&principal);
    let kept = settings
        .change(&actor, query.strictness(), false, change)
        .await?;
    Ok(axum::Json(OptionsAnswer {
        options: kept.agent_options,
        inherited: false,
    }))
}

fn of_team(settings: &SettingsService, team: TeamId) -> OptionsAnswer {
    let current = settings.current();
    let own = current.team_documents.get(&team);
    OptionsAnswer {
        inherited: own.is_none(),
        options: own.unwrap_or(&current.documents.agent_options).clone(),
    }
}

/// How strictly agent options are looked at.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct ForceQuery {
    /// Keep options that this server does not know: of a newer osquery, perhaps.
    force: bool,
}

impl ForceQuery {
    fn strictness(&self) -> Strictness {
        if self.force {
            Strictness::Forced
        } else {
            Strictness::Full
        }
    }
}

/// Agent options of a team
///
/// A team's options replace those of everybody wholly.
#[utoipa::path(get, path = "/teams/{id}/agent-options", tag = "settings", params(("id" = i64, Path, description = "The team")),
    responses((status = 200, body = OptionsAnswer), (status = 404, description = "no such team")))]
async fn get_team_options(
    State(settings): State<SettingsService>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<OptionsAnswer>, Problem> {
    let team = settings.visible_team(&principal, TeamId(id)).await?;
    Ok(axum::Json(of_team(&settings, team.id)))
}

/// Set the agent options of a team
#[utoipa::path(put, path = "/teams/{id}/agent-options", tag = "settings", request_body = OptionsRequest,
    params(("id" = i64, Path, description = "The team"), ForceQuery), responses((status = 200, body = OptionsAnswer),
    (status = 400, description = "options that make no sense"), (status = 404, description = "no such team")))]
async fn set_team_options(
    State(settings): State<SettingsService>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(query): Query<ForceQuery>,
    Json(body): Json<OptionsRequest>,
) -> Result<axum::Json<OptionsAnswer>, Problem> {
    let strictness = query.strictness();
    set_team(&settings, &principal, id, Some(body.options), strictness).await
}

/// Take the agent options of a team back
///
/// Those of everybody are in force for it then.
#[utoipa::path(delete, path = "/teams/{id}/agent-options", tag = "settings",
    params(("id" = i64, Path, description = "The team")),
    responses((status = 200, body = OptionsAnswer), (status = 404, description = "no such team")))]
async fn delete_team_options(
    State(settings): State<SettingsService>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<OptionsAnswer>, Problem> {
    set_team(&settings, &principal, id, None, Strictness::Full).await
}

async fn set_team(
    settings: &SettingsService,
    principal: &Principal,
    id: i64,
    options: Option<Value>,
    strictness: Strictness,
) -> Result<axum::Json<OptionsAnswer>, Problem> {
    let team = settings.visible_team(principal, TeamId(id)).await?.id;
    principal.authorize(Action::WriteTeams, Scope::Team(Some(team)))?;
    let actor = Actor::from(principal);
    settings
        .set_team_agent_options(&actor, team, options, strictness, false)
        .await?;
    Ok(axum::Json(of_team(settings, team)))
}

/// When hosts are deleted that stay away, and whose rule it is.
#[derive(Serialize, ToSchema)]
struct ExpiryAnswer {
    /// Whether they are.
    enabled: bool,
    /// After how many days without a word.
    days: u32,
    /// The team has no rule of its own: this is everybody's.
    inherited: bool,
}

#[derive(Deserialize, ToSchema)]
struct ExpiryRequest {
    /// After how many days without a word hosts of the team are deleted; at least 1.
    days: u32,
}

fn expiry_of(settings: &SettingsService, team: TeamId) -> ExpiryAnswer {
    let current = settings.current();
    let organisation = &current.documents.organisation;
    match current.team_expiry.get(&team).filter(|own| own.enabled) {
        Some(own) => ExpiryAnswer {
            enabled: true,
            days: own.days,
            inherited: false,
        },
        None => ExpiryAnswer {
            enabled: organisation.host_expiry_enabled,
            days: organisation.host_expiry_days,
            inherited: true,
        },
    }
}

/// When hosts of a team are deleted that stay away
///
/// The rule for all is `host_expiry_enabled` and `host_expiry_days` of the settings.
#[utoipa::path(get, path = "/teams/{id}/host-expiry", tag = "settings", params(("id" = i64, Path, description = "The team")),
    responses((status = 200, body = ExpiryAnswer), (status = 404, description = "no such team")))]
async fn get_team_expiry(
    State(settings): State<SettingsService>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<ExpiryAnswer>, Problem> {
    let team = settings.visible_team(&principal, TeamId(id)).await?;
    Ok(axum::Json(expiry_of(&settings, team.id)))
}

/// Set when hosts of a team are deleted that stay away
#[utoipa::path(put, path = "/teams/{id}/host-expiry", tag = "settings", request_body = ExpiryRequest,
    params(("id" = i64, Path, description = "The team")), responses((status = 200, body = ExpiryAnswer),
    (status = 404, description = "no such team"), (status = 422, description = "no days")))]
async fn set_team_expiry(
    State(settings): State<SettingsService>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<ExpiryRequest>,
) -> Result<axum::Json<ExpiryAnswer>, Problem> {
    if body.days == 0 {
        return Err(Problem::invalid("days", "must be at least 1"));
    }
    let rule = TeamExpiry {
        enabled: true,
        days: body.days,
    };
    put_team_expiry(&settings, &principal, id, Some(rule)).await
}

/// Take a team's rule back
///
/// The rule for all holds for it then.
#[utoipa::path(delete, path = "/teams/{id}/host-expiry", tag = "settings",
    params(("id" = i64, Path, description = "The team")),
    responses((status = 200, body = ExpiryAnswer), (status = 404, description = "no such team")))]
async fn delete_team_expiry(
    State(settings): State<SettingsService>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<ExpiryAnswer>, Problem> {
    put_team_expiry(&settings, &principal, id, None).await
}

async fn put_team_expiry(
    settings: &SettingsService,
    principal: &Principal,
    id: i64,
    rule: Option<TeamExpiry>,
) -> Result<axum::Json<ExpiryAnswer>, Problem> {
    let team = settings.visible_team(principal, TeamId(id)).await?.id;
    principal.authorize(Action::WriteTeams, Scope::Team(Some(team)))?;
    let actor = Actor::from(principal);
    settings.set_team_expiry(&actor, team, rule).await?;
    Ok(axum::Json(expiry_of(settings, team)))
}

impl Organisation {
    /// With the members that are given; `null` brings the default back.
    fn with(&self, wishes: &serde_json::Map<String, Value>) -> Result<Self, SettingsError> {
        let mut members = json!(self);
        let defaults = json!(Self {
            additional_queries: Some(Value::Null),
            ..Self::default()
        });
        let defaults = defaults.as_object().cloned().unwrap_or_default();
        let known: Vec<&str> = defaults.keys().map(String::as_str).collect();
        crate::options::known_members(wishes, &known)?;
        for (name, value) in wishes {
            let value = if value.is_null() {
                &defaults[name]
            } else {
                value
            };
            members[name.as_str()] = value.clone();
        }
        serde_json::from_value(members).map_err(|error| SettingsError::Malformed(error.to_string()))
    }
}
