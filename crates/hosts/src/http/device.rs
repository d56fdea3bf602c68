//! The device family: what the desktop app asks, with a token in the path.
//!
//! An unknown token has to be refused: orbit takes a success as proof that its token is registered, and would then never
//! register it.

use axum::Router;
use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;
use muster_http::{Path, Problem, Shape, shape};
use muster_identity::HostId;
use muster_negotiation::Family;
use serde_json::json as value;

use super::capabilities::{Said, exchange};
use super::json;
use crate::agents::Agents;
use crate::error::HostsError;

/// Routes relative to `/api/{version}/fleet`.
pub fn device_routes(agents: Agents) -> Router {
    let said = Said::new(&agents.0.standing, Family::Device);
    Router::new()
        .route("/device/{token}/ping", get(ping))
        .route("/device/{token}/desktop", get(desktop))
        .layer(from_fn_with_state(Shape::Fleet, shape))
        .layer(from_fn_with_state(said, exchange))
        .with_state(agents)
}

/// The route relative to `/api/fleet`, without version and token.
pub fn device_ping_routes(agents: &Agents) -> Router {
    let said = Said::new(&agents.0.standing, Family::Device);
    Router::new()
        .route("/device/ping", get(present))
        .layer(from_fn_with_state(said, exchange))
}

async fn present() {}

async fn authenticate(agents: &Agents, token: &str) -> Result<HostId, Problem> {
    let host = agents.authenticate_device(token).await;
    host.map_err(HostsError::into_orbit)
}

async fn ping(State(agents): State<Agents>, Path(token): Path<String>) -> Result<(), Problem> {
    authenticate(&agents, &token).await.map(drop)
}

/// The summary that the desktop app shows. A host fails no policy as long as there are none.
async fn desktop(
    State(agents): State<Agents>,
    Path(token): Path<String>,
) -> Result<Response, Problem> {
    authenticate(&agents, &token).await?;
    let answer = value!({
        "failing_policies_count": 0,
        "self_service": false,
        "notifications": {},
        "config": {
            "org_info": agents.0.configurations.organisation(),
            "mdm": { "macos_migration": { "mode": "" } },
        },
    });
    Ok(json(answer.to_string().into()))
}
