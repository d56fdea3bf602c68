//! Who sends a request: the bearer token becomes a [`Principal`](crate::Principal).

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use muster_http::{ClientAddress, Problem, bearer_token};

use crate::Identity;

/// Middleware for operators' routes. A valid token leaves a principal in the request's extensions; otherwise the reason
/// why there is none, which handlers that need one answer with. It refuses nothing itself: some routes are open.
pub async fn authenticate(
    State(identity): State<Identity>,
    mut request: Request,
    next: Next,
) -> Response {
    let address = request.extensions().get::<ClientAddress>().copied();
    if let (Some(token), Some(address)) = (bearer_token(request.headers()), address) {
        match identity.sessions.authenticate(token, address).await {
            Ok(Some(principal)) => {
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
    next.run(request).await
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
