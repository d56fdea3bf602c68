//! Why a request was not answered as asked, and how each family of peers is told.

use std::error::Error;
use std::fmt::Write as _;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use muster_store::{ErrorKind, StoreError};
use serde::Serialize;
use serde_json::json;

/// What `Retry-After` says when a dependency is away. Agents add their own jitter.
pub const RETRY_AFTER_SECONDS: u32 = 5;

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Its name as the client wrote it; `base` when no field is to blame.
    pub name: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl Field {
    /// With a reason that says what it is about: Fleet's clients print reasons without names.
    fn with_its_name(&self) -> Self {
        let Self { name, reason } = self;
        let reason = if reason.starts_with("must ") && name != "base" {
            format!("{name} {reason}")
        } else {
            reason.clone()
        };
        Self {
            name: name.clone(),
            reason,
        }
    }
}

/// Why a request was not answered as asked.
///
/// The code is stable: programs match on it. The message is for people and says what to do. Neither ever holds a
/// secret.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    fields: Vec<Field>,
    retry_after_seconds: Option<u32>,
}

impl Problem {
    /// A problem with a status, a stable code and a sentence.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            fields: Vec::new(),
            retry_after_seconds: None,
        }
    }

    /// 400: the request cannot be read, or names things that make no sense together.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 401: who asks is not known. For agents this means: your key is gone, enroll again.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", message)
    }

    /// 403: who asks is known and may not.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404: no such thing. `what` names it: `host 7`.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("{what} does not exist"),
        )
    }

    /// 409: somebody was first.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// 422: a field holds a value that is not allowed.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        let (name, reason) = (field.into(), reason.into());
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            format!("{name}: {reason}"),
        );
        problem.fields.push(Field { name, reason });
        problem
    }

    /// 413: larger than allowed.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 429: too often; come again after some seconds.
    pub fn too_many(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        problem.retry_after(retry_after_seconds)
    }

    /// 503: something that we depend on is away; the request was right and may be sent again. Logs the cause.
    pub fn unavailable(cause: &(dyn Error + 'static)) -> Self {
        tracing::warn!(
            error = error_chain(cause),
            "answered 503: a dependency is unavailable"
        );
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the service is unavailable for the moment; try again",
        )
        .retry_after(RETRY_AFTER_SECONDS)
    }

    /// 500: a defect of ours. Logs the cause; the client learns nothing of it.
    pub fn internal(cause: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = error_chain(cause), "answered 500: a defect");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the server made a mistake; its log says which",
        )
    }

    /// With another stable code.
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// With one more field that is wrong.
    pub fn with_field(mut self, name: impl Into<String>, reason: impl Into<String>) -> Self {
        self.fields.push(Field {
            name: name.into(),
            reason: reason.into(),
        });
        self
    }

    /// With a `Retry-After` header.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The answer in the shape of a family, for what stands outside its router.
    pub fn into_response_as(self, shape: Shape) -> Response {
        let mut response = self.render(shape);
        response.extensions_mut().insert(self);
        response
    }

    fn render(&self, shape: Shape) -> Response {
        let body = match shape {
            Shape::Native => self.native_body(),
            Shape::Fleet => self.fleet_body(),
            Shape::Osquery if self.status == StatusCode::BAD_REQUEST => self.fleet_body(),
            Shape::Osquery => self.osquery_body(),
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn native_body(&self) -> serde_json::Value {
        json!({ "code": self.code, "message": self.message, "fields": self.fields })
    }

    fn fleet_body(&self) -> serde_json::Value {
        let base = || {
            vec![Field {
                name: "base".to_owned(),
                reason: self.message.clone(),
            }]
        };
        let errors = if self.fields.is_empty() {
            base()
        } else {
            self.fields.iter().map(Field::with_its_name).collect()
        };
        let message = match self.status {
            // Clients print the reason after it.
            StatusCode::BAD_REQUEST => "Bad request",
            StatusCode::UNPROCESSABLE_ENTITY => "Validation Failed",
            StatusCode::NOT_FOUND => "Resource Not Found",
            StatusCode::CONFLICT => "Resource Already Exists",
            StatusCode::FORBIDDEN => "forbidden",
            _ => &self.message,
        };
        json!({ "message": message, "errors": errors, "uuid": "" })
    }

    fn osquery_body(&self) -> serde_json::Value {
        if self.status == StatusCode::UNAUTHORIZED {
            json!({ "error": self.message, "node_invalid": true, "uuid": "" })
        } else {
            json!({ "error": self.message, "uuid": "" })
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_unavailable() {
            Self::unavailable(&error)
        } else if error.kind() == ErrorKind::Unstorable {
            Self::invalid(
                "request",
                "a text has a NUL character, which cannot be kept",
            )
        } else if error.kind() == ErrorKind::Reference {
            // Whatever is named was looked up before: somebody deleted it in between.
            Self::conflict(
                "something that this refers to was deleted meanwhile; look again, then try anew",
            )
        } else {
            Self::internal(&error)
        }
    }
}

impl IntoResponse for Problem {
    /// In the native shape, until the family's router renders it anew.
    fn into_response(self) -> Response {
        self.into_response_as(Shape::Native)
    }
}

/// How a family of peers reads errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Our own API: `{"code", "message", "fields"}`.
    Native,
    /// Fleet's user, device and orbit APIs: `{"message", "errors", "uuid"}`.
    Fleet,
    /// osquery's remote API: `{"error", "node_invalid", "uuid"}`; `node_invalid` only with 401, since it makes an
    /// agent throw its key away. A body that cannot be read is told in Fleet's shape, as Fleet does.
    Osquery,
}

/// Middleware that renders problems as a family reads them:
/// `router.layer(axum::middleware::from_fn_with_state(Shape::Fleet, muster_http::shape))`.
pub async fn shape(
    axum::extract::State(shape): axum::extract::State<Shape>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    match response.extensions().get::<Problem>() {
        Some(problem) if shape != Shape::Native => {
            let mut rendered = problem.render(shape);
            // Headers that inner layers added (capabilities, versions) stay.
            for (name, value) in response.headers() {
                if !rendered.headers().contains_key(name) {
                    rendered.headers_mut().append(name.clone(), value.clone());
                }
            }
            rendered.headers_mut().remove(header::CONTENT_LENGTH);
            rendered.extensions_mut().insert(problem.clone());
            rendered
        }
        _ => response,
    }
}

/// An error with everything that caused it, for a log line: `open the store: read the file: no such file`.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let _ = write!(text, ": {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    async fn rendered(
        problem: Problem,
        as_shape: Shape,
    ) -> (StatusCode, Option<String>, serde_json::Value) {
        let app = Router::new()
            .route("/", get(move || async move { problem }))
            .layer(from_fn_with_state(as_shape, shape));
        let response = app
            .oneshot(Request::get("/").body(Body::empty()).unwrap())
            .await
            .unwrap();
        let retry = response
            .headers()
            .get(header::RETRY_AFTER)
            .map(|value| value.to_str().unwrap().to_owned());
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 10_000)
            .await
            .unwrap();
        (status, retry, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn only_a_refused_key_carries_node_invalid() {
        let (_, _, body) =
            rendered(Problem::unauthenticated("invalid node key"), Shape::Osquery).await;
        assert_eq!(
            body,
            json!({"error": "invalid node key", "node_invalid": true, "uuid": ""})
        );
        let away = std::io::Error::other("disk");
        let (status, retry, body) = rendered(Problem::unavailable(&away), Shape::Osquery).await;
        assert_eq!((status.as_u16(), retry.as_deref()), (503, Some("5")));
        assert!(
            body.get("node_invalid").is_none() && body["error"].is_string(),
            "{body}"
        );
        let (status, _, body) = rendered(Problem::bad_request("not JSON"), Shape::Osquery).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(
            body,
            json!({"message": "Bad request", "errors": [{"name": "base", "reason": "not JSON"}], "uuid": ""})
        );
    }

    #[tokio::test]
    async fn fields_are_named_in_both_operator_shapes() {
        let problem = Problem::invalid("name", "must not be empty");
        let (status, _, body) = rendered(problem.clone(), Shape::Fleet).await;
        assert_eq!(status.as_u16(), 422);
        assert_eq!(body["message"], "Validation Failed");
        assert_eq!(
            body["errors"],
            json!([{"name": "name", "reason": "name must not be empty"}])
        );
        let (_, _, body) = rendered(problem, Shape::Native).await;
        assert_eq!(body["code"], "invalid");
        assert_eq!(body["fields"][0]["name"], "name");
    }

    #[test]
    fn a_chain_of_errors_is_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("start the server")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(
            error_chain(&Outer(std::io::Error::other("port in use"))),
            "start the server: port in use"
        );
    }
}
