//! Fleet's user API: parts of documents that Muster does not carry yet.
//!
//! `fleetctl apply` of what `fleetctl get --yaml` printed sends the lists of MDM profiles and scripts too, empty ones
//! (recorded with the fleetctl of 2025). An empty list is what Muster has, so it is taken; anything else is refused, by
//! a message that says so.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use muster_http::{Json, Problem, Query};
use muster_identity::{Action, Identity, Principal, Scope, TeamId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fleet::is_on;

/// The routes, relative to `/api/{version}/fleet`.
pub fn fleet_batch_routes(identity: Identity) -> Router {
    Router::new()
        .route("/mdm/profiles/batch", post(profiles))
        .route("/mdm/apple/profiles/batch", post(profiles))
        .route("/scripts/batch", post(scripts))
        .with_state(identity)
}

/// Whose list it is: nobody's in particular, or a team's.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Whose {
    team_name: String,
    team_id: Option<i64>,
    dry_run: Option<String>,
}

impl Whose {
    /// Nothing is to be kept.
    pub(super) fn is_dry_run(&self) -> bool {
        is_on(self.dry_run.as_deref())
    }

    /// Whether somebody may write such a list. A team that is not there yet is one that a dry run would have made before.
    pub(super) async fn authorize(
        self,
        identity: &Identity,
        principal: &Principal,
    ) -> Result<(), Problem> {
        let is_dry_run = self.is_dry_run();
        let team = match self.team_id {
            Some(id) => Some(TeamId(id)),
            None if self.team_name.is_empty() => None,
            None => {
                let found = identity.teams.find_by_name(&self.team_name).await?;
                // Who writes documents (gitops) sees teams without seeing hosts.
                let sees = |id| principal.may(Action::ReadTeams, Scope::Team(Some(id)));
                let visible = found.filter(|team| sees(team.id));
                match visible {
                    Some(team) => Some(team.id),
                    None if is_dry_run => None,
                    None => return Err(Problem::not_found(format!("Team {}", self.team_name))),
                }
            }
        };
        match team {
            Some(_) => principal.authorize(Action::WriteTeams, Scope::Team(team)),
            None if is_dry_run && !self.team_name.is_empty() => {
                principal.authorize(Action::WriteTeams, Scope::Global)
            }
            None => principal.authorize(Action::WriteSettings, Scope::Global),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Batch {
    profiles: Option<Vec<Value>>,
    scripts: Option<Vec<Value>>,
}

async fn profiles(
    State(identity): State<Identity>,
    principal: Principal,
    Query(whose): Query<Whose>,
    Json(batch): Json<Batch>,
) -> Result<StatusCode, Problem> {
    whose.authorize(&identity, &principal).await?;
    none("profiles", "MDM profiles", batch.profiles)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn scripts(
    State(identity): State<Identity>,
    principal: Principal,
    Query(whose): Query<Whose>,
    Json(batch): Json<Batch>,
) -> Result<axum::Json<Value>, Problem> {
    whose.authorize(&identity, &principal).await?;
    none("scripts", "scripts", batch.scripts)?;
    Ok(axum::Json(json!({ "scripts": null })))
}

pub(super) fn none(
    field: &'static str,
    what: &str,
    given: Option<Vec<Value>>,
) -> Result<(), Problem> {
    match given.map_or(0, |given| given.len()) {
        0 => Ok(()),
        number => Err(Problem::invalid(
            field,
            format!("Muster does not have {what} yet; the document has {number}"),
        )),
    }
}
