//! Who sends a request: the bearer token becomes a [`Principal`](crate::Principal).

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use muster_http::{ClientAddress, Problem, bearer_token};

use crate::{Actor, DENIED_REQUEST, Denial, Identity};

/// Middleware for operators' routes. A valid token leaves a principal in the request's extensions; otherwise the reason
/// why there is none, which handlers that need one answer with. It refuses nothing itself: some routes are open.
pub async fn authenticate(
    State(identity): State<Identity>,
    mut request: Request,
    next: Next,
) -> Response {
    let address = request.extensions().get::<ClientAddress>().copied();
    let mut who = None;
    if let (Some(token), Some(address)) = (bearer_token(request.headers()), address) {
        match identity.sessions.authenticate(token, address).await {
            Ok(Some(principal)) => {
                who = Some(Actor::from(&principal));
                request.extensions_mut().insert(principal);
            }
            Ok(None) => {
                request
                    .extensions_mut()
                    .insert(Problem::unauthenticated("Authentication required"));
            }
            Err(error) => {
                request.extensions_mut().insert(Problem::from(error));
            }
        }
    }
    let what = described(&request);
    let response = next.run(request).await;
    if let Some(what) = what
        && let Some(reason) = denied(&what, &response)
    {
        let from = address.map(|address| address.to_string());
        identity.denials.note(Denial {
            action: DENIED_REQUEST,
            actor: who.unwrap_or_else(|| Actor::unknown(from.unwrap_or_default())),
            reason,
            subject_kind: "route",
            subject_id: what,
        });
    }
    response
}

/// What is asked for: the template of the route, since the path itself can hold secrets. None for what is no route.
fn described(request: &Request) -> Option<String> {
    let route = request.extensions().get::<MatchedPath>()?.as_str();
    Some(format!("{} {route}", request.method()))
}

/// The class of the reason for which a request was denied.
fn denied(what: &str, response: &Response) -> Option<&'static str> {
    let problem = response.extensions().get::<Problem>()?;
    match response.status() {
        StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => Some(problem.code()),
        // A login that fails is kept by itself, with the account.
        StatusCode::UNAUTHORIZED if !what.ends_with("/login") => Some(problem.code()),
        _ => None,
    }
}

/// Middleware for Fleet's user API: before there is a user nothing is there, which is how fleetctl learns that the
/// server is to be set up.
pub async fn require_setup(
    State(identity): State<Identity>,
    request: Request,
    next: Next,
) -> Response {
    match identity.users.any().await {
        Ok(true) => next.run(request).await,
        Ok(false) => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
        Err(error) => Problem::from(error).into_response(),
    }
}
