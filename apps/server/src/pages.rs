//! What the server says about itself, and the few pages that people see before there is a console.

use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use muster_bus::Bus;
use muster_clock::Timestamp;
use muster_http::{ClientAddress, Problem, bearer_token, read_body};
use muster_identity::http::SetupObserver;
use muster_identity::{Action, Actor, Identity, NewUser, Role, Scope};
use muster_settings::http::ServerFacts;
use muster_settings::{Documents, SettingsService, Strictness};
use muster_store::Database;
use muster_wire_fleet::VersionAnswer;
use serde::Deserialize;
use serde_json::json;

use self::html::{Html, plain_page};
use crate::config::Access;
use crate::gauges::Gauges;
use crate::observe::Metrics;
use crate::proxies::Forwarded;
use crate::tls::Tls;

pub(crate) mod device;
mod html;
mod transparency;

/// What the pages need.
pub struct Pages {
    /// The database.
    pub database: Database,
    /// Hints between replicas.
    pub bus: Arc<dyn Bus>,
    /// The metrics.
    pub metrics: Metrics,
    /// What is measured when they are read.
    pub gauges: Gauges,
    /// Who may read them.
    pub metrics_access: Access,
    /// The version that Fleet's clients are told.
    pub fleet_version: String,
    /// Where clients reach the server, prefix included.
    pub public_url: String,
    /// What operators edit.
    pub settings: SettingsService,
    /// The certificates; none when a proxy has them.
    pub tls: Option<Arc<Tls>>,
    /// When it began.
    pub started_at: Timestamp,
}

#[async_trait]
impl SetupObserver for Pages {
    fn server_url(&self) -> String {
        self.settings.server_url()
    }

    /// The name of the organisation is kept. Its address is not: what a client calls this server at setup need not be how
    /// agents reach it.
    async fn set_up(&self, organisation: &str) {
        let change = |now: &Documents| {
            let mut then = now.clone();
            organisation.clone_into(&mut then.organisation.name);
            Ok(then)
        };
        let actor = Actor::system();
        let kept = self
            .settings
            .change(&actor, Strictness::Full, false, change)
            .await;
        if let Err(error) = kept {
            tracing::warn!(
                error = muster_http::error_chain(&error),
                "the name of the organisation was not kept; set it in the settings"
            );
        }
    }
}

impl ServerFacts for Pages {
    fn version(&self) -> VersionAnswer {
        VersionAnswer {
            version: self.fleet_version.clone(),
            ..VersionAnswer::default()
        }
    }

    fn certificate_pem(&self) -> String {
        let tls = self.tls.as_ref();
        tls.map(|tls| tls.trusted_pem()).unwrap_or_default()
    }
}

#[derive(Clone)]
struct PageState {
    pages: Arc<Pages>,
    identity: Identity,
}

/// Their routes.
pub fn routes(pages: Arc<Pages>, identity: Identity) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(healthz))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .route("/setup", get(setup_form).post(setup))
        .with_state(PageState { pages, identity })
}

async fn index(State(state): State<PageState>) -> Result<Response, Problem> {
    let mut body = Html::default();
    if state.identity.users.any().await? {
        body.raw(
            "<p>This is a Muster server. Its console is the command line for now:</p><pre>muster login ",
        )
        .text(&state.pages.public_url)
        .raw("\nmuster hosts\nmuster query --all 'SELECT pid, name FROM processes'</pre>");
    } else {
        body.raw(
            "<p>This server has no administrator yet. Open the setup link that it printed when it started, or run \
             <code>muster-server admin create-user</code> on its machine.</p>",
        );
    }
    Ok(plain_page(StatusCode::OK, "Muster", &body))
}

/// What `/healthz?check=` may name, ours and Fleet's words for it.
const CHECKS: &[&str] = &["database", "bus", "mysql", "redis"];

/// 200 when everything that it needs answers, else 503; 400 for a check that does not exist. Details only for who may read
/// the server's state.
async fn healthz(
    State(state): State<PageState>,
    address: ClientAddress,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let asked: Vec<(String, String)> =
        serde_urlencoded::from_str(uri.query().unwrap_or_default()).unwrap_or_default();
    let unknown = asked
        .iter()
        .find(|(name, value)| name == "check" && !CHECKS.contains(&value.as_str()));
    if unknown.is_some() {
        let known = CHECKS.join(", ");
        return (
            StatusCode::BAD_REQUEST,
            format!("no such check; there are {known}\n"),
        )
            .into_response();
    }
    let database = state.pages.database.ping().await;
    metrics::gauge!("muster_database_up").set(if database.is_ok() { 1.0 } else { 0.0 });
    let status = if database.is_ok() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let principal = match bearer_token(&headers) {
        Some(token) => state
            .identity
            .sessions
            .authenticate(token, address)
            .await
            .ok()
            .flatten(),
        None => None,
    };
    if !principal.is_some_and(|principal| principal.may(Action::ReadServer, Scope::Global)) {
        return status.into_response();
    }
    let text = |result: &Result<(), muster_store::StoreError>| match result {
        Ok(()) => "ok".to_owned(),
        Err(error) => muster_http::error_chain(error),
    };
    // A bus that is away delays what other replicas change, and is no reason to send agents elsewhere.
    let bus = state.pages.bus.status();
    let told = bus.last_error.filter(|_| !bus.is_connected);
    let bus = json!({
        "carrier": bus.carrier,
        "connected": bus.is_connected,
        "replicas": bus.replicas,
        "round_trip_ms": bus.round_trip.map(|span| span.as_secs_f64() * 1e3),
        "error": told,
    });
    let details = json!({ "database": text(&database), "bus": bus });
    (status, axum::Json(details)).into_response()
}

/// What Fleet's clients compare with their own version. Open to everybody: a simulator asks without a token.
async fn version(State(state): State<PageState>) -> Response {
    axum::Json(state.pages.version()).into_response()
}

async fn metrics(
    State(state): State<PageState>,
    address: ClientAddress,
    forwarded: Option<Extension<Forwarded>>,
) -> Response {
    let access = state.pages.metrics_access;
    if !access.admits(address, forwarded.is_some()) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let database = state.pages.database.ping().await;
    metrics::gauge!("muster_database_up").set(if database.is_ok() { 1.0 } else { 0.0 });
    metrics::counter!("muster_database_statements_total")
        .absolute(state.pages.database.statements());
    bus_metrics(&*state.pages.bus);
    state.pages.gauges.take();
    metrics::gauge!("muster_build_info", "release" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::gauge!("muster_process_start_time_seconds")
        .set(state.pages.started_at.as_micros() as f64 / 1e6);
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("muster_process_resident_memory_bytes").set(bytes as f64);
    }
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        state.pages.metrics.render(),
    )
        .into_response()
}

fn bus_metrics(bus: &dyn Bus) {
    let status = bus.status();
    let carrier = status.carrier;
    let up = if status.is_connected { 1.0 } else { 0.0 };
    metrics::gauge!("muster_bus_up", "carrier" => carrier).set(up);
    metrics::gauge!("muster_bus_replicas").set(status.replicas as f64);
    metrics::gauge!("muster_bus_waiting_hints").set(status.waiting as f64);
    metrics::counter!("muster_bus_losses_total").absolute(status.lost);
    if let Some(span) = status.round_trip {
        metrics::gauge!("muster_bus_round_trip_seconds").set(span.as_secs_f64());
    }
}

fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// The largest form, in bytes.
const MAX_FORM_BYTES: usize = 16 * 1024;

#[derive(Deserialize)]
struct SetupQuery {
    #[serde(default)]
    token: String,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct SetupForm {
    token: String,
    name: String,
    email: String,
    password: String,
}

async fn setup_form(
    State(state): State<PageState>,
    Query(query): Query<SetupQuery>,
) -> Result<Response, Problem> {
    if state.identity.users.any().await? {
        return Ok(already_set_up());
    }
    if !state.identity.setup.is(&query.token) {
        return Ok(wrong_link());
    }
    Ok(form(&query.token, &SetupForm::default(), None))
}

fn form(token: &str, values: &SetupForm, wrong: Option<&str>) -> Response {
    let mut body = Html::default();
    if let Some(text) = wrong {
        body.raw("<p class=\"wrong\" role=\"alert\">")
            .text(text)
            .raw("</p>");
    }
    body.raw(
        "<p>Make the first administrator. The link works once.</p><form method=\"post\" action=\"setup\">\
         <input type=\"hidden\" name=\"token\" value=\"",
    )
    .text(token)
    .raw("\"><label for=\"name\">Name</label><input id=\"name\" name=\"name\" value=\"")
    .text(&values.name)
    .raw(
        "\" required autocomplete=\"name\"><label for=\"email\">E-mail</label>\
         <input id=\"email\" name=\"email\" type=\"email\" value=\"",
    )
    .text(&values.email)
    .raw(
        "\" required autocomplete=\"username\">\
         <label for=\"password\">Password (at least 12 characters, with a number and a symbol)</label>\
         <input id=\"password\" name=\"password\" type=\"password\" required autocomplete=\"new-password\">\
         <button>Create administrator</button></form>",
    );
    let status = match wrong {
        None => StatusCode::OK,
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    plain_page(status, "Set up Muster", &body)
}

fn already_set_up() -> Response {
    let mut body = Html::default();
    body.raw("<p>This server has an administrator; the setup link is void.</p>");
    plain_page(StatusCode::GONE, "Already set up", &body)
}

fn wrong_link() -> Response {
    let mut body = Html::default();
    body.raw(
        "<p>This is not the setup link of this server. It prints the link when it starts; \
         <code>muster-server admin setup-link</code> on its machine prints it again.</p>",
    );
    plain_page(StatusCode::FORBIDDEN, "Wrong link", &body)
}

async fn setup(
    State(state): State<PageState>,
    address: ClientAddress,
    request: Request,
) -> Result<Response, Problem> {
    if state.identity.users.any().await? {
        return Ok(already_set_up());
    }
    let body = read_body(request, MAX_FORM_BYTES).await?;
    let values: SetupForm = serde_urlencoded::from_bytes(&body)
        .map_err(|_| Problem::bad_request("the form cannot be read"))?;
    if !state.identity.setup.is(&values.token) {
        return Ok(wrong_link());
    }
    let new = NewUser {
        name: values.name.clone(),
        email: values.email.clone(),
        password: values.password.clone(),
        global_role: Some(Role::Admin),
        ..NewUser::default()
    };
    match state
        .identity
        .users
        .create_first(&Actor::setup(address), new)
        .await
    {
        Ok(Some(user)) => {
            let mut body = Html::default();
            body.raw("<p>")
                .text(&user.name)
                .raw(" is the administrator. Log in with the command line:</p><pre>muster login ")
                .text(&state.pages.public_url)
                .raw(" --email ")
                .text(&user.email)
                .raw("</pre>");
            Ok(plain_page(StatusCode::OK, "Done", &body))
        }
        Ok(None) => Ok(already_set_up()),
        Err(error @ muster_identity::IdentityError::Invalid { .. }) => {
            Ok(form(&values.token, &values, Some(&error.to_string())))
        }
        Err(error) => Err(error.into()),
    }
}
