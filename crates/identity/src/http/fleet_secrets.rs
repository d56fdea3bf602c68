//! Fleet's user API: enroll secrets, which are enrollment tokens.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use muster_http::{Json, Path, Problem};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Action, Actor, Identity, Principal, Scope, TeamFilter, TeamId};

/// What is shown instead of a secret to those who may not see it.
const MASKED: &str = "********";

pub(super) fn routes() -> Router<Identity> {
    Router::new()
        .route("/spec/enroll_secret", get(global).post(replace_global))
        .route("/teams/{id}/secrets", get(of_team).patch(replace_of_team))
        .route("/fleets/{id}/secrets", get(of_team).patch(replace_of_team))
}

async fn global(
    State(identity): State<Identity>,
    principal: Principal,
) -> Result<axum::Json<Value>, Problem> {
    principal.authorize(Action::RevealEnrollmentTokens, Scope::Global)?;
    let secrets = identity
        .enrollment_tokens
        .secrets(&Actor::from(&principal), None)
        .await?;
    let shown = |secret: &crate::ScopedSecret| json!({ "secret": secret.secret, "created_at": secret.created_at });
    let secrets = (!secrets.is_empty()).then(|| secrets.iter().map(shown).collect::<Vec<_>>());
    Ok(axum::Json(json!({ "spec": { "secrets": secrets } })))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SpecBody {
    spec: SecretsBody,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SecretsBody {
    secrets: Option<Vec<SecretBody>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SecretBody {
    secret: String,
}

impl SecretsBody {
    fn texts(self) -> Vec<String> {
        self.secrets
            .unwrap_or_default()
            .into_iter()
            .map(|secret| secret.secret)
            .collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DryRun {
    dry_run: bool,
}

async fn replace_global(
    State(identity): State<Identity>,
    principal: Principal,
    axum::extract::Query(query): axum::extract::Query<DryRun>,
    Json(body): Json<SpecBody>,
) -> Result<axum::Json<Value>, Problem> {
    principal.authorize(Action::WriteEnrollmentTokens, Scope::Global)?;
    if !query.dry_run {
        identity
            .enrollment_tokens
            .replace_secrets(&Actor::from(&principal), None, &body.spec.texts())
            .await?;
    }
    Ok(axum::Json(json!({})))
}

async fn of_team(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Value>, Problem> {
    let scope = Scope::Team(Some(TeamId(id)));
    principal.authorize(Action::ReadTeams, scope)?;
    if !principal.may(Action::RevealEnrollmentTokens, scope) {
        let tokens = identity
            .enrollment_tokens
            .list(&TeamFilter::Only(vec![TeamId(id)]), false)
            .await?;
        let masked = tokens
            .iter()
            .rev()
            .filter(|token| token.is_for_hosts())
            .map(
                |token| json!({ "secret": MASKED, "created_at": token.created_at, "team_id": id }),
            );
        return Ok(axum::Json(json!({ "secrets": masked.collect::<Vec<_>>() })));
    }
    Ok(axum::Json(
        json!({ "secrets": shown(&identity, &principal, id).await? }),
    ))
}

async fn shown(
    identity: &Identity,
    principal: &Principal,
    team: i64,
) -> Result<Option<Vec<Value>>, Problem> {
    let secrets = identity
        .enrollment_tokens
        .secrets(&Actor::from(principal), Some(TeamId(team)))
        .await?;
    let shown = secrets
        .iter()
        .map(|secret| json!({ "secret": secret.secret, "created_at": secret.created_at, "team_id": team }));
    Ok((!secrets.is_empty()).then(|| shown.collect()))
}

async fn replace_of_team(
    State(identity): State<Identity>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<SecretsBody>,
) -> Result<axum::Json<Value>, Problem> {
    principal.authorize(Action::WriteEnrollmentTokens, Scope::Team(Some(TeamId(id))))?;
    let team = identity.teams.find(TeamId(id)).await?;
    let actor = Actor::from(&principal);
    identity
        .enrollment_tokens
        .replace_secrets(&actor, Some(team.id), &body.texts())
        .await?;
    Ok(axum::Json(
        json!({ "secrets": shown(&identity, &principal, id).await? }),
    ))
}
