//! The domain crates put together into one router.
//!
//! Each API family gets its middleware here and nowhere else: how it reads errors, who may ask, which versions there are.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use muster_http::{Problem, Shape};
use muster_identity::Identity;
use muster_negotiation::{FleetVersion, NATIVE_VERSION_HEADER, NativeVersion};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::observe::{RequestIds, observe};
use crate::pages::{self, Pages};

/// Everything that answers requests.
#[derive(Clone)]
pub struct App {
    /// Who is who.
    pub identity: Identity,
    /// Pages and what the server says about itself.
    pub pages: Arc<Pages>,
    /// Ids of requests.
    pub request_ids: RequestIds,
}

/// What stands at the head of our API's document.
#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "Muster",
    description = "The API of muster-server for operators and their programs. Ask for a version with the header \
                   `Muster-Api-Version`; without it the oldest that is served answers. Authenticate with \
                   `Authorization: Bearer <session or API token>`.",
    license(name = "Apache-2.0 OR MIT")
))]
struct Document;

/// Our own API with its document.
fn native(identity: &Identity) -> OpenApiRouter {
    OpenApiRouter::with_openapi(Document::openapi()).nest(
        "/api/muster",
        muster_identity::http::native_routes(identity.clone()),
    )
}

/// The document of our own API, as JSON.
pub fn document(identity: &Identity) -> String {
    let (_, mut document) = native(identity).split_for_parts();
    document.info.version = NativeVersion::NEWEST.to_string();
    document
        .to_pretty_json()
        .expect("the document can be written as JSON")
        + "\n"
}

/// All routes.
pub fn router(app: &App) -> Router {
    let (native, mut document) = native(&app.identity).split_for_parts();
    document.info.version = NativeVersion::NEWEST.to_string();
    let document: Arc<str> = document
        .to_json()
        .expect("the document can be written as JSON")
        .into();
    let native =
        native
            .route(
                "/api/muster/openapi.json",
                get(move || async move {
                    ([("content-type", "application/json")], document.to_string())
                }),
            )
            .layer(from_fn(negotiate))
            .layer(from_fn_with_state(
                app.identity.clone(),
                muster_identity::http::authenticate,
            ))
            .layer(from_fn_with_state(Shape::Native, muster_http::shape));
    let mut router = Router::new()
        .merge(native)
        .merge(fleet_setup(app))
        .merge(pages::routes(Arc::clone(&app.pages), app.identity.clone()));
    for version in FleetVersion::ALL {
        router = router.nest(
            &format!("/api/{}/fleet", version.segment()),
            fleet(app, version),
        );
    }
    router
        .fallback(not_found)
        .layer(from_fn_with_state(app.request_ids.clone(), observe))
        .layer(from_fn(secure))
}

/// Fleet's user API in one of its versions.
fn fleet(app: &App, version: FleetVersion) -> Router {
    muster_identity::http::fleet_routes(app.identity.clone())
        .layer(from_fn_with_state(
            app.identity.clone(),
            muster_identity::http::require_setup,
        ))
        .layer(from_fn_with_state(
            app.identity.clone(),
            muster_identity::http::authenticate,
        ))
        .layer(from_fn_with_state(version, only_served))
        .layer(Extension(version))
        .layer(from_fn_with_state(Shape::Fleet, muster_http::shape))
}

fn fleet_setup(app: &App) -> Router {
    muster_identity::http::fleet_setup_routes(app.identity.clone(), Arc::clone(&app.pages) as _)
        .layer(from_fn_with_state(Shape::Fleet, muster_http::shape))
}

/// Which version of our API answers.
async fn negotiate(mut request: Request, next: Next) -> Response {
    let asked = request
        .headers()
        .get(NATIVE_VERSION_HEADER)
        .map(|value| value.to_str().unwrap_or("?").to_owned());
    match NativeVersion::negotiate(asked.as_deref()) {
        Ok(version) => {
            request.extensions_mut().insert(version);
            let mut response = next.run(request).await;
            if let Ok(value) = HeaderValue::from_str(&version.to_string()) {
                response.headers_mut().insert(NATIVE_VERSION_HEADER, value);
            }
            response
        }
        Err(error) => Problem::bad_request(error.to_string())
            .with_code("unsupported_version")
            .into_response(),
    }
}

/// A few routes exist only in some versions.
async fn only_served(
    State(version): State<FleetVersion>,
    request: Request,
    next: Next,
) -> Response {
    if version.serves(request.uri().path()) {
        next.run(request).await
    } else {
        not_found().await
    }
}

/// As agents and fleetctl know it.
async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

/// Headers that every answer has.
async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry("cache-control")
        .or_insert(HeaderValue::from_static("no-store"));
    response
}
