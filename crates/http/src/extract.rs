//! What handlers take from a request's address, refused as everything else is: axum's own refusals are plain text.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::Problem;

/// The longest text of a refusal, in characters: it repeats what was asked.
const MAX_REASON_CHARACTERS: usize = 200;

/// Segments of the path.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let taken = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        match taken {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(refused("bad_path", &rejection.body_text())),
        }
    }
}

/// Members of the query.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let taken = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        match taken {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(refused("bad_query", &rejection.body_text())),
        }
    }
}

fn refused(code: &'static str, reason: &str) -> Problem {
    let reason: String = reason.chars().take(MAX_REASON_CHARACTERS).collect();
    Problem::bad_request(reason).with_code(code)
}
