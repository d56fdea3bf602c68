//! Orbit's API. No versions; what either side can do stands in `X-Fleet-Capabilities`.
//!
//! Real orbits send neither `Content-Type` nor `Accept`, and older ones leave out most members: only what a handler needs
//! is required.

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use muster_http::{ClientAddress, DEFAULT_BODY_BYTES, Problem, Shape, read_text, shape};
use muster_identity::{Family, HostId};
use muster_negotiation::{Capability, Family as CapabilityFamily};
use muster_wire_fleet::Secret;
use muster_wire_fleet::orbit::{
    DeviceMappingRequest, DeviceTokenRequest, EnrollAnswer, EnrollRequest, KeyRequest,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::capabilities::{Said, exchange};
use super::{json, nothing, parse_object};
use crate::agents::{Agents, beside};
use crate::capability::Saying;
use crate::error::HostsError;

/// Routes relative to `/api/fleet/orbit`. They have to be served at the root even when the server has a URL prefix:
/// orbit leaves the prefix out.
///
/// What this server cannot do has no route here, as on servers that never heard of it.
pub fn orbit_routes(agents: Agents) -> Router {
    let standing = &agents.0.standing;
    let said = Said::new(standing, CapabilityFamily::Orbit);
    let mut routes = Router::new();
    if standing.can(Capability::OrbitEndpoints) {
        routes = routes
            .route("/enroll", post(enroll))
            .route("/ping", get(ping))
            .route("/config", post(config))
            .route("/device_token", post(device_token))
            .route("/software_install/details", post(software_install_details));
        if standing.can(Capability::EndUserEmail) {
            routes = routes.route("/device_mapping", post(device_mapping).put(device_mapping));
        }
    }
    routes
        .layer(from_fn_with_state(Shape::Fleet, shape))
        .layer(from_fn_with_state(said, exchange))
        .with_state(agents)
}

/// What every handler takes from a request.
struct Taken<T> {
    members: T,
    saying: Saying,
    address: ClientAddress,
}

async fn take<T: DeserializeOwned + Default>(request: Request) -> Result<Taken<T>, Problem> {
    let (mut parts, body) = request.into_parts();
    let Ok(address) = ClientAddress::from_request_parts(&mut parts, &()).await;
    let saying = parts.extensions.remove().unwrap_or_default();
    let body = read_text(Request::from_parts(parts, body), DEFAULT_BODY_BYTES).await?;
    let members = parse_object(&body)?;
    Ok(Taken {
        members,
        saying,
        address,
    })
}

async fn authenticate(
    agents: &Agents,
    key: &Secret,
    address: ClientAddress,
) -> Result<HostId, Problem> {
    let host = agents
        .authenticate(key.expose(), Family::Orbit, address)
        .await;
    host.map_err(HostsError::into_orbit)
}

fn written<T: Serialize>(answer: &T) -> Response {
    json(
        serde_json::to_vec(answer)
            .expect("answers can be written")
            .into(),
    )
}

/// Takes what the request says about the agent. That it could not be kept is no reason to refuse the request: the next
/// one says it again.
async fn hear(agents: &Agents, host: HostId, saying: &Saying) {
    beside("capabilities", host, agents.heard(host, saying)).await;
}

/// Unauthenticated: tells that this API is there, and the capabilities.
async fn ping() {}

async fn enroll(State(agents): State<Agents>, request: Request) -> Result<Response, Problem> {
    let taken: Taken<EnrollRequest> = take(request).await?;
    let enrolled = agents.enroll_orbit(&taken.members, taken.address).await;
    let (host, key) = enrolled.map_err(HostsError::into_orbit)?;
    hear(&agents, host, &taken.saying).await;
    Ok(written(&EnrollAnswer {
        orbit_node_key: Secret::new(key.text),
    }))
}

async fn config(State(agents): State<Agents>, request: Request) -> Result<Response, Problem> {
    let taken: Taken<KeyRequest> = take(request).await?;
    let host = authenticate(&agents, &taken.members.orbit_node_key, taken.address).await?;
    let said_capabilities = !taken.saying.capabilities.is_empty();
    let config = agents.orbit_config(host, said_capabilities).await;
    let response = written(&config.map_err(HostsError::into_orbit)?);
    hear(&agents, host, &taken.saying).await;
    Ok(response)
}

async fn device_token(State(agents): State<Agents>, request: Request) -> Result<Response, Problem> {
    let taken: Taken<DeviceTokenRequest> = take(request).await?;
    let host = authenticate(&agents, &taken.members.orbit_node_key, taken.address).await?;
    let token = taken.members.device_auth_token.expose();
    let registered = agents.register_device_token(host, token).await;
    registered.map_err(HostsError::into_orbit)?;
    hear(&agents, host, &taken.saying).await;
    Ok(nothing())
}

async fn device_mapping(
    State(agents): State<Agents>,
    request: Request,
) -> Result<Response, Problem> {
    let taken: Taken<DeviceMappingRequest> = take(request).await?;
    let host = authenticate(&agents, &taken.members.orbit_node_key, taken.address).await?;
    let kept = agents.set_end_user(host, &taken.members.email).await;
    kept.map_err(HostsError::into_orbit)?;
    hear(&agents, host, &taken.saying).await;
    Ok(nothing())
}

/// The key of `software_install/details`, which orbit up to 1.38 misspells.
#[derive(Default, Deserialize)]
#[serde(default)]
struct InstallRequest {
    orbit_node_key: Secret,
    orbot_node_key: Secret,
}

/// What to install. Nothing is ever handed out for installation, so an agent that asks holds an id of another server.
async fn software_install_details(
    State(agents): State<Agents>,
    request: Request,
) -> Result<Response, Problem> {
    let taken: Taken<InstallRequest> = take(request).await?;
    let request = &taken.members;
    let key = if request.orbit_node_key.is_empty() {
        &request.orbot_node_key
    } else {
        &request.orbit_node_key
    };
    authenticate(&agents, key, taken.address).await?;
    Err(Problem::not_found("the software installation"))
}
