//! The device family: what the desktop app and the page of a host ask, with a token in the path.
//!
//! An unknown token has to be refused: orbit takes a success as proof that its token is registered, and would then never
//! register it. Everything below a token that is not valid gets the same 401, also where nothing is served, so that no
//! answer tells whether it ever was. Nothing here writes the token anywhere: neither into logs nor into answers.

use std::collections::HashMap;
use std::fmt::Write as _;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{Extension, RawPathParams, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, any, get, on, post};
use axum::{Json, Router};
use muster_http::{BodyLimit, ClientAddress, Problem, Query, Shape, shape};
use muster_identity::HostId;
use muster_negotiation::Family;
use muster_software::http::HostTitles;
use muster_wire_fleet::config::{License, OrgInfo};
use muster_wire_fleet::device::{
    DeviceAnswer, DeviceConfig, DeviceFeatures, DeviceHost, MacAdminsAnswer, PoliciesAnswer,
    ReportedError,
};
use muster_wire_fleet::host::DeviceMappingAnswer;
use serde::Deserialize;
use serde_json::{Value, json as value};

use super::capabilities::{Said, exchange};
use super::fleet_shape::{Wishes, device_mapping, installed, team_names, whole};
use super::json;
use crate::agents::Agents;
use crate::error::HostsError;
use crate::operators::{HostDetail, Hosts};

/// The largest report of an error, in bytes.
const MAX_ERROR_BYTES: usize = 5 * 1024 * 1024;
/// How much of a text that a desktop app sends goes into the log, in characters.
const MAX_LOGGED_CHARACTERS: usize = 64;
/// The server's own page on what is collected, from where `transparency` is asked: whatever prefix there is stays.
const OWN_TRANSPARENCY_PAGE: &str = "../../../../../transparency";

/// What nothing is behind yet, below a token. Clients that ask are told why by the status that Fleet has for it.
const NOT_BUILT: &[(Method, &str, StatusCode, &str)] = &[
    (
        Method::POST,
        "software/install/{title}",
        StatusCode::BAD_REQUEST,
        "this software cannot be installed from here: this server installs no software",
    ),
    (
        Method::POST,
        "software/uninstall/{title}",
        StatusCode::BAD_REQUEST,
        "this software cannot be removed from here: this server installs no software",
    ),
    (
        Method::POST,
        "mdm/linux/trigger_escrow",
        StatusCode::BAD_REQUEST,
        "disk encryption is not managed by this server",
    ),
    (Method::POST, "migrate_mdm", StatusCode::BAD_REQUEST, NO_MDM),
    (
        Method::POST,
        "rotate_encryption_key",
        StatusCode::BAD_REQUEST,
        NO_MDM,
    ),
    (
        Method::POST,
        "configuration_profiles/{profile}/resend",
        StatusCode::BAD_REQUEST,
        NO_MDM,
    ),
    (
        Method::POST,
        "setup_experience/status",
        StatusCode::BAD_REQUEST,
        NO_MDM,
    ),
    (
        Method::GET,
        "mdm/apple/manual_enrollment_profile",
        StatusCode::NOT_FOUND,
        NO_MDM,
    ),
];
const NO_MDM: &str = "this server does not manage devices (MDM)";

/// Both sides of this crate: the agents' knows tokens, the operators' what is known about hosts.
#[derive(Clone)]
struct Device {
    agents: Agents,
    hosts: Hosts,
}

/// The host whose token stands in the path.
#[derive(Debug, Clone, Copy)]
struct Own(HostId);

/// Routes relative to `/api/{version}/fleet`.
pub fn device_routes(agents: Agents, hosts: Hosts) -> Router {
    let said = Said::new(&agents.0.standing, Family::Device);
    let device = Device { agents, hosts };
    let errors = post(report_error).layer(Extension(BodyLimit(MAX_ERROR_BYTES)));
    let mut routes: Router<Device> = Router::new()
        .route("/device/{token}", get(host))
        .route("/device/{token}/ping", get(ping))
        .route("/device/{token}/desktop", get(desktop))
        .route("/device/{token}/refetch", post(refetch))
        .route("/device/{token}/transparency", get(transparency))
        .route("/device/{token}/policies", get(policies))
        .route("/device/{token}/device_mapping", get(mapping))
        .route("/device/{token}/macadmins", get(macadmins))
        .route("/device/{token}/software", get(software))
        .route("/device/{token}/debug/errors", errors)
        .route("/device/{token}/{*rest}", any(nothing_there));
    for (method, path, status, reason) in NOT_BUILT {
        let answer = move || async move { Err::<(), _>(not_built(*status, reason)) };
        routes = routes.route(&format!("/device/{{token}}/{path}"), by(method, answer));
    }
    routes
        .route_layer(from_fn_with_state(device.clone(), authenticate))
        .route("/device//{*rest}", get(without_token))
        .layer(from_fn_with_state(Shape::Fleet, shape))
        .layer(from_fn_with_state(said, exchange))
        .with_state(device)
}

fn by<H, T>(method: &Method, handler: H) -> MethodRouter<Device>
where
    H: axum::handler::Handler<T, Device>,
    T: 'static,
{
    let filter = if *method == Method::POST {
        axum::routing::MethodFilter::POST
    } else {
        axum::routing::MethodFilter::GET
    };
    on(filter, handler)
}

fn not_built(status: StatusCode, reason: &str) -> Problem {
    if status == StatusCode::NOT_FOUND {
        Problem::new(status, "not_found", reason)
    } else {
        Problem::bad_request(reason).with_code("not_built")
    }
}

/// The route relative to `/api/fleet`, without version and token.
pub fn device_ping_routes(agents: &Agents) -> Router {
    let said = Said::new(&agents.0.standing, Family::Device);
    Router::new()
        .route("/device/ping", get(present))
        .layer(from_fn_with_state(Shape::Fleet, shape))
        .layer(from_fn_with_state(said, exchange))
        .with_state(agents.clone())
}

async fn present(State(agents): State<Agents>, address: ClientAddress) -> Result<(), Problem> {
    agents
        .refuse_guesser(address)
        .map_err(HostsError::into_orbit)
}

/// Finds out whose token it is, before anything else is looked at.
async fn authenticate(
    State(device): State<Device>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    address: ClientAddress,
    mut request: Request,
    next: Next,
) -> Response {
    // What is no text is no token either.
    let params = params.as_ref().ok();
    let token = params.and_then(|params| params.iter().find(|(name, _)| *name == "token"));
    let token = token.map_or("", |(_, token)| token);
    match device.agents.authenticate_device_from(token, address).await {
        Ok(host) => {
            request.extensions_mut().insert(Own(host));
            next.run(request).await
        }
        Err(error) => error.into_orbit().into_response(),
    }
}

/// An empty token. Fleet leaves the empty segment out and asks again.
async fn without_token(axum::extract::Path(rest): axum::extract::Path<String>) -> Response {
    let place = format!("../{}", escaped(&rest));
    redirect(&place)
}

/// To an address that an operator may have written in any script: what is not ASCII is percent-encoded.
fn redirect(place: &str) -> Response {
    let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
    let mut address = String::with_capacity(place.len());
    for byte in place.bytes() {
        if byte.is_ascii_graphic() {
            address.push(char::from(byte));
        } else {
            let _ = write!(address, "%{byte:02X}");
        }
    }
    match HeaderValue::from_str(&address) {
        Ok(place) => {
            response.headers_mut().insert(header::LOCATION, place);
            response
        }
        Err(error) => Problem::internal(&error).into_response(),
    }
}

/// A path as it stands in an address.
fn escaped(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

async fn ping() {}

async fn nothing_there() -> Problem {
    Problem::not_found("this path")
}

async fn known(device: &Device, own: Own) -> Result<HostDetail, Problem> {
    let record = device.agents.find_host(own.0).await?;
    // It was deleted a moment ago, and its token with it.
    let record = record.ok_or_else(|| HostsError::UnknownHost.into_orbit())?;
    Ok(device.hosts.detail(record).await?)
}

fn organisation(device: &Device) -> OrgInfo {
    let organisation = device.agents.0.configurations.organisation();
    serde_json::from_value(organisation).unwrap_or_default()
}

async fn host(
    State(device): State<Device>,
    Extension(own): Extension<Own>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<DeviceAnswer>, Problem> {
    let software = if Wishes(query).is_on("exclude_software") {
        None
    } else {
        Some(installed(&device.hosts, own.0).await?)
    };
    let detail = known(&device, own).await?;
    let teams = team_names(&device.hosts).await?;
    let organisation = organisation(&device);
    Ok(Json(DeviceAnswer {
        host: DeviceHost {
            host: whole(detail, software, &teams, device.hosts.now()),
            dep_assigned_to_fleet: false,
        },
        self_service: false,
        license: License {
            organization: organisation.org_name,
            ..License::default()
        },
        org_logo_url: organisation.org_logo_url,
        org_logo_url_light_background: organisation.org_logo_url_light_background,
        org_contact_url: organisation.contact_url,
        global_config: DeviceConfig {
            features: DeviceFeatures {
                enable_software_inventory: device.agents.0.configurations.collects_software(),
            },
            ..DeviceConfig::default()
        },
    }))
}

/// The summary that the desktop app shows. A host fails no policy as long as there are none.
async fn desktop(State(device): State<Device>) -> Response {
    let answer = value!({
        "failing_policies_count": 0,
        "self_service": false,
        "notifications": {},
        "config": {
            "org_info": device.agents.0.configurations.organisation(),
            "mdm": { "macos_migration": { "mode": "" } },
        },
    });
    json(answer.to_string().into())
}

/// Also when the details are too new to be sent again: the user has what was asked for.
async fn refetch(
    State(device): State<Device>,
    Extension(own): Extension<Own>,
) -> Result<Response, Problem> {
    let done = device.agents.refetch_device(own.0).await;
    done.map_err(HostsError::into_orbit)?;
    Ok(super::nothing())
}

/// To the organisation's page on what is collected, or to the server's own.
async fn transparency(State(device): State<Device>) -> Response {
    let own = device.agents.transparency_url();
    redirect(own.as_deref().unwrap_or(OWN_TRANSPARENCY_PAGE))
}

async fn policies() -> Json<PoliciesAnswer> {
    Json(PoliciesAnswer::default())
}

async fn mapping(
    State(device): State<Device>,
    Extension(own): Extension<Own>,
) -> Result<Json<DeviceMappingAnswer>, Problem> {
    let detail = known(&device, own).await?;
    Ok(Json(DeviceMappingAnswer {
        host_id: own.0.0,
        device_mapping: device_mapping(&detail),
    }))
}

async fn macadmins() -> Json<MacAdminsAnswer> {
    Json(MacAdminsAnswer::default())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SoftwareWishes {
    query: Option<String>,
    page: Option<u64>,
    per_page: Option<u32>,
    self_service: Option<String>,
}

/// What is installed. Nothing can be installed from here, so that the list of self-service is empty.
async fn software(
    State(device): State<Device>,
    Extension(own): Extension<Own>,
    Query(wishes): Query<SoftwareWishes>,
) -> Result<Json<Value>, Problem> {
    let only_self_service = wishes
        .self_service
        .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "true"));
    let versions = if only_self_service {
        Vec::new()
    } else {
        device.agents.software().of_host(own.0).await?
    };
    let page = wishes.page.unwrap_or(0);
    let titles = HostTitles::new(versions, wishes.query.as_deref(), page, wishes.per_page);
    Ok(Json(titles.into_json()))
}

/// The desktop app tells what went wrong for it. Counted, and named in a log that is told much; its words are not kept,
/// since they repeat addresses, and those hold tokens.
async fn report_error(
    Extension(own): Extension<Own>,
    muster_http::Json(error): muster_http::Json<ReportedError>,
) -> Response {
    metrics::counter!("muster_device_errors_total").increment(1);
    let short = |text: &str| text.chars().take(MAX_LOGGED_CHARACTERS).collect::<String>();
    tracing::debug!(
        host.id = own.0.0,
        error.source = ?short(&error.error_source),
        error.version = ?short(&error.error_source_version),
        error.vital = error.vital,
        "a program on a host reports that something went wrong"
    );
    super::nothing()
}
