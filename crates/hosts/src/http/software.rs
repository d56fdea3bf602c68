//! Fleet's user API: the software of one host.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use muster_http::{Path, Problem, Query};
use muster_identity::{Action, HostId, Principal, Scope};
use muster_software::http::HostTitles;
use serde::Deserialize;
use serde_json::Value;

use crate::agents::Agents;

/// Routes relative to `/api/{version}/fleet`.
pub fn fleet_software_routes(agents: Agents) -> Router {
    Router::new()
        .route("/hosts/{id}/software", get(of_host))
        .with_state(agents)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wishes {
    query: Option<String>,
    page: Option<u64>,
    per_page: Option<u32>,
}

async fn of_host(
    State(agents): State<Agents>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(wishes): Query<Wishes>,
) -> Result<axum::Json<Value>, Problem> {
    let host = agents.find_host(HostId(id)).await?;
    let host = host.filter(|host| principal.visible_teams().admits(host.team_id));
    let host = host.ok_or_else(|| Problem::not_found(format!("host {id}")))?;
    principal.authorize(Action::ReadHosts, Scope::Team(host.team_id))?;
    let versions = agents.software().of_host(host.id).await?;
    let page = wishes.page.unwrap_or(0);
    let titles = HostTitles::new(versions, wishes.query.as_deref(), page, wishes.per_page);
    Ok(axum::Json(titles.into_json()))
}
