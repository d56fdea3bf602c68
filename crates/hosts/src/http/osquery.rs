//! osquery's remote API.
//!
//! No versions, no capabilities, and the body decides, not the status: an error carries `node_invalid` only when the key
//! or the secret is certainly wrong, since the agent then throws its key away.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use bytes::Bytes;
use muster_http::{
    ClientAddress, DEFAULT_BODY_BYTES, LessUrgent, Problem, Shape, read_text, shape,
};
use muster_identity::{Family, HostId};
use muster_wire_osquery::{
    ConfigRequest, EnrollAnswer, EnrollRequest, LogRequest, NodeKeyRequest, WriteRequest,
};

use super::{json, nothing, parse_object};
use crate::agents::Agents;
use crate::enroll::kept_address;
use crate::error::HostsError;

/// The largest inflated body of `distributed/write`: 5 MiB.
pub const MAX_WRITE_BYTES: usize = 5 * 1024 * 1024;
/// The largest inflated body of `log`: 10 MiB.
pub const MAX_LOG_BYTES: usize = 10 * 1024 * 1024;

/// Routes relative to `/api/osquery` and to `/api/v1/osquery`, which mean the same for ever.
pub fn osquery_routes(agents: Agents) -> Router {
    Router::new()
        .route("/enroll", post(enroll))
        .route("/config", post(config))
        .route("/distributed/read", post(read))
        .route("/distributed/write", post(write))
        .route("/log", post(log).layer(Extension(LessUrgent)))
        .layer(from_fn_with_state(Shape::Osquery, shape))
        .with_state(agents)
}

async fn authenticate(
    agents: &Agents,
    node_key: &str,
    address: ClientAddress,
) -> Result<HostId, Problem> {
    if node_key.is_empty() {
        return Err(Problem::unauthenticated(
            "authentication error: missing node key",
        ));
    }
    let host = agents
        .authenticate(node_key, Family::Osquery, address)
        .await;
    host.map_err(HostsError::into_osquery)
}

/// The address of the peer and the body.
async fn take(request: Request, limit_bytes: usize) -> Result<(ClientAddress, Bytes), Problem> {
    let (mut parts, body) = request.into_parts();
    let Ok(address) = ClientAddress::from_request_parts(&mut parts, &()).await;
    let body = read_text(Request::from_parts(parts, body), limit_bytes).await?;
    Ok((address, body))
}

async fn enroll(State(agents): State<Agents>, request: Request) -> Result<Response, Problem> {
    let (address, body) = take(request, DEFAULT_BODY_BYTES).await?;
    let request: EnrollRequest = parse_object(&body)?;
    let enrolled = agents.enroll_osquery(&request, address).await;
    let (_, key) = enrolled.map_err(HostsError::into_osquery)?;
    let answer = EnrollAnswer { node_key: key.text };
    Ok(json(
        serde_json::to_vec(&answer)
            .expect("a text can be written")
            .into(),
    ))
}

async fn config(State(agents): State<Agents>, request: Request) -> Result<Response, Problem> {
    let (address, body) = take(request, DEFAULT_BODY_BYTES).await?;
    let request: ConfigRequest = parse_object(&body)?;
    let host = authenticate(&agents, &request.node_key, address).await?;
    let config = agents.osquery_config(host, request.etag.as_deref()).await;
    let mut response = json(config.map_err(HostsError::into_osquery)?);
    let caching = HeaderValue::from_static("private, no-cache");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, caching);
    Ok(response)
}

async fn read(State(agents): State<Agents>, request: Request) -> Result<Response, Problem> {
    let (address, body) = take(request, DEFAULT_BODY_BYTES).await?;
    let request: NodeKeyRequest<'_> = parse_object(&body)?;
    let host = authenticate(&agents, &request.node_key, address).await?;
    let answer = agents.check_in().read(host).await;
    Ok(json(answer.map_err(HostsError::into_osquery)?))
}

async fn write(State(agents): State<Agents>, request: Request) -> Result<Response, Problem> {
    let (address, body) = take(request, MAX_WRITE_BYTES).await?;
    let request: WriteRequest = parse_object(&body)?;
    drop(body);
    let host = authenticate(&agents, &request.node_key, address).await?;
    let kept = agents
        .check_in()
        .write(host, kept_address(address), request.results)
        .await;
    kept.map_err(HostsError::into_osquery)?;
    Ok(nothing())
}

async fn log(State(agents): State<Agents>, request: Request) -> Result<Response, Problem> {
    let load = agents.check_in().load().clone();
    let overloaded = || HostsError::Overloaded.into_osquery();
    // Before anything is read: that is work, too.
    if !load.admits_logs() {
        return Err(overloaded());
    }
    let (address, body) = take(request, MAX_LOG_BYTES).await?;
    let request: LogRequest = parse_object(&body)?;
    drop(body);
    let host = authenticate(&agents, &request.node_key, address).await?;
    let _turn = load.admit_logs().ok_or_else(overloaded)?;
    agents
        .log(host, request)
        .await
        .map_err(HostsError::into_osquery)?;
    Ok(nothing())
}
