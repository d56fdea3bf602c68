//! The domain crates put together into one router.
//!
//! Each API family gets its middleware here and nowhere else: how it reads errors, who may ask, which versions there are.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use muster_http::{ClientAddress, Problem, Shape};
use muster_identity::Identity;
use muster_negotiation::{Capability, FleetVersion, NATIVE_VERSION_HEADER, NativeVersion};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use crate::config::Access;
use crate::observe::{Observer, observe};
use crate::pages::{self, Pages};
use crate::proxies::Forwarded;
use crate::services::Services;

/// Everything that answers requests.
#[derive(Clone)]
pub struct App {
    /// The services.
    pub services: Services,
    /// Pages and what the server says about itself.
    pub pages: Arc<Pages>,
    /// From where Fleet's setup call makes the first administrator.
    pub setup_call_access: Access,
    /// How long a live query without a stream waits.
    pub live_query_rest_period: Duration,
    /// Watches requests.
    pub observer: Observer,
    /// Cancelled when the server stops serving.
    pub stopping: CancellationToken,
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
fn native(services: &Services) -> (Router, OpenApi) {
    let routes = OpenApiRouter::new()
        .merge(muster_identity::http::native_routes(
            services.identity.clone(),
        ))
        .merge(muster_hosts::http::native_host_routes(
            services.hosts.clone(),
        ))
        .merge(muster_hosts::http::native_key_routes(
            services.hosts.clone(),
        ))
        .merge(muster_hosts::http::native_skew_routes(
            services.hosts.clone(),
        ))
        .merge(muster_software::http::native_routes(
            services.software.clone(),
        ))
        .merge(muster_settings::http::native_routes(
            services.settings.clone(),
        ))
        .merge(muster_queries::http::native_routes(
            services.queries.clone(),
        ))
        .merge(muster_collectors::http::native_routes(
            services.collectors.clone(),
        ))
        .merge(muster_collectors::http::telemetry_routes(
            services.collectors.clone(),
        ))
        .merge(muster_collectors::configurations::configuration_routes(
            services.configurations.clone(),
        ))
        .merge(crate::replicas::native_routes(services.replicas.clone()));
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .nest("/api/muster", routes)
        .split_for_parts();
    document.info.version = NativeVersion::NEWEST.to_string();
    identify(&mut document);
    authenticated(&mut document);
    (router, document)
}

/// Names every operation after its method and path, such as `post_campaigns_id_cancel`: the functions behind them, after
/// which they are named otherwise, share names between crates.
fn identify(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let path = path.trim_start_matches("/api/muster");
        let words = path.split(|character: char| !character.is_ascii_alphanumeric());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let operations = [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                operation.operation_id = Some(format!("{method}_{}", words.join("_")));
            }
        }
    }
}

/// Says how requests prove who sends them, and which need not.
fn authenticated(document: &mut OpenApi) {
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", scheme);
    let required = SecurityRequirement::new::<_, _, &str>("bearer", []);
    document.security = Some(vec![required]);
    for path in ["/api/muster/login", "/api/muster/setup"] {
        let item = document.paths.paths.get_mut(path);
        if let Some(operation) = item.and_then(|item| item.post.as_mut()) {
            operation.security = Some(Vec::new());
        }
    }
}

/// The document of our own API, as JSON.
pub fn document(services: &Services) -> String {
    let (_, document) = native(services);
    document
        .to_pretty_json()
        .expect("the document can be written as JSON")
        + "\n"
}

/// All routes.
pub fn router(app: &App) -> Router {
    let services = &app.services;
    let (native, document) = native(services);
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
                services.identity.clone(),
                muster_identity::http::authenticate,
            ))
            .layer(from_fn_with_state(Shape::Native, muster_http::shape));
    let pages = pages::routes(Arc::clone(&app.pages), services.identity.clone());
    let mut router = Router::new()
        .merge(native)
        .merge(agents(services))
        .merge(muster_collectors::http::agent_routes(
            services.collectors.clone(),
            app.stopping.clone(),
        ))
        .merge(fleet_setup(app))
        .merge(pages)
        .merge(pages::device::routes(
            services.agents.clone(),
            services.hosts.clone(),
            services.settings.clone(),
        ));
    for version in FleetVersion::ALL {
        router = router.nest(
            &format!("/api/{}/fleet", version.segment()),
            fleet(app, version),
        );
    }
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(app.observer.clone(), observe))
        .layer(from_fn(secure))
}

/// What agents ask outside Fleet's versions. Served before there is a user, too: agents that wait for their server to be
/// set up again must not lose their keys.
fn agents(services: &Services) -> Router {
    use muster_hosts::http::{device, orbit, osquery};
    let agents = &services.agents;
    let mut router = Router::new();
    let standing = services.replicas.standing();
    if [Capability::OrbitEndpoints, Capability::Notify]
        .iter()
        .all(|needed| standing.can(*needed))
    {
        let queries = services.queries.clone();
        let keys = services.identity.agent_keys.clone();
        let notify = muster_queries::http::notify_routes(queries, keys)
            .layer(from_fn_with_state(Shape::Fleet, muster_http::shape));
        router = router.nest("/api/fleet/orbit", notify);
    }
    router
        .nest("/api/osquery", osquery::osquery_routes(agents.clone()))
        .nest("/api/v1/osquery", osquery::osquery_routes(agents.clone()))
        .nest("/api/fleet/orbit", orbit::orbit_routes(agents.clone()))
        .nest("/api/fleet", device::device_ping_routes(agents))
}

/// Fleet's user and device APIs in one of their versions.
fn fleet(app: &App, version: FleetVersion) -> Router {
    let services = &app.services;
    let identity = &services.identity;
    let user = Router::new()
        .merge(muster_identity::http::fleet_routes(identity.clone()))
        .merge(muster_software::http::fleet_routes(
            services.software.clone(),
        ))
        .merge(muster_hosts::http::fleet_host_routes(
            services.hosts.clone(),
        ))
        .merge(muster_hosts::http::software::fleet_software_routes(
            services.agents.clone(),
        ))
        .merge(muster_settings::http::fleet_routes(
            services.settings.clone(),
            Arc::clone(&app.pages) as _,
        ))
        .merge(muster_settings::http::fleet_batch_routes(identity.clone()))
        .merge(muster_settings::http::fleet_absent_routes(
            identity.clone(),
            services.settings.clone(),
        ))
        .merge(muster_settings::http::fleet_team_routes(
            services.settings.clone(),
            identity.clone(),
            services.hosts.clone(),
        ))
        .merge(muster_queries::http::fleet_routes(
            services.queries.clone(),
            identity.clone(),
            app.live_query_rest_period,
        ))
        .layer(from_fn_with_state(
            identity.clone(),
            muster_identity::http::require_setup,
        ))
        .layer(from_fn_with_state(
            identity.clone(),
            muster_identity::http::authenticate,
        ));
    user.merge(muster_hosts::http::device::device_routes(
        services.agents.clone(),
        services.hosts.clone(),
    ))
    .layer(from_fn_with_state(version, only_served))
    .layer(Extension(version))
    .layer(from_fn_with_state(Shape::Fleet, muster_http::shape))
}

fn fleet_setup(app: &App) -> Router {
    let identity = app.services.identity.clone();
    muster_identity::http::fleet_setup_routes(identity.clone(), Arc::clone(&app.pages) as _)
        .layer(from_fn_with_state(
            (identity, app.setup_call_access),
            guard_setup,
        ))
        .layer(from_fn_with_state(Shape::Fleet, muster_http::shape))
}

/// Fleet's setup call asks for no secret. From where it is not allowed, only the setup link makes the first administrator.
async fn guard_setup(
    State((identity, access)): State<(Identity, Access)>,
    address: ClientAddress,
    forwarded: Option<Extension<Forwarded>>,
    request: Request,
    next: Next,
) -> Response {
    if !access.admits(address, forwarded.is_some())
        && matches!(identity.users.any().await, Ok(false))
    {
        let message = "fleet.setup does not allow this call from here: open the setup link that the server printed, or \
                       set fleet.setup = \"anyone\"";
        return Problem::bad_request(message).into_response();
    }
    next.run(request).await
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
        Problem::not_found("this path").into_response_as(Shape::Fleet)
    }
}

/// How the family that a path belongs to reads errors; none outside the APIs.
fn shape_of(path: &str) -> Option<Shape> {
    let under = |root: &str| {
        path.strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if under("/api/muster") {
        Some(Shape::Native)
    } else if under("/api/osquery") || under("/api/v1/osquery") {
        Some(Shape::Osquery)
    } else {
        under("/api").then_some(Shape::Fleet)
    }
}

/// Nothing is served there.
async fn no_route(uri: Uri) -> Response {
    match shape_of(uri.path()) {
        Some(shape) => Problem::not_found("this path").into_response_as(shape),
        None => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}

/// Something is served there, by other methods.
async fn no_method(method: Method, uri: Uri) -> Response {
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{method} is not possible here"),
    );
    match shape_of(uri.path()) {
        Some(shape) => problem.into_response_as(shape),
        None => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
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
