//! Our own API: where collectors send telemetry about themselves.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use muster_clock::Timestamp;
use muster_http::{Json, Page, Path, Problem};
use muster_identity::{Principal, TeamId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Collectors;
use crate::masking::MASK;
use crate::telemetry::{Destination, OwnTelemetry, Signal, TelemetryState, TelemetryWish};

/// The routes, relative to `/api/muster`.
pub fn telemetry_routes(collectors: Collectors) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, change, delete))
        .with_state(collectors)
}

/// A receiver of OTLP by HTTP.
#[derive(Serialize, Deserialize, ToSchema)]
struct TelemetryDestination {
    /// The whole URL, such as `https://otel.example.com/v1/metrics`.
    endpoint: String,
    /// Headers to send with it. Their values are shown as `[MASKED]`; whoever changes settings and writes that leaves a value as
    /// it is.
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl TelemetryDestination {
    fn masked(destination: &Destination) -> Self {
        let names = destination.headers.keys();
        Self {
            endpoint: destination.endpoint.clone(),
            headers: names.map(|name| (name.clone(), MASK.to_owned())).collect(),
        }
    }
}

/// Where collectors send telemetry about themselves.
#[derive(Serialize, ToSchema)]
struct CollectorTelemetry {
    /// Its id.
    id: i64,
    /// Its name.
    name: String,
    /// The team whose collectors it is for; absent: those of all teams.
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<TeamId>,
    /// Which collectors: requirements on their attributes.
    selector: String,
    /// Of several that are for a collector the one with the highest counts, and then the one that was made last.
    priority: i64,
    /// Where metrics go.
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<TelemetryDestination>,
    /// Where traces go.
    #[serde(skip_serializing_if = "Option::is_none")]
    traces: Option<TelemetryDestination>,
    /// Where logs go.
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<TelemetryDestination>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<OwnTelemetry> for CollectorTelemetry {
    fn from(settings: OwnTelemetry) -> Self {
        let of = |signal| {
            let destination = settings.destinations.get(&signal);
            destination.map(TelemetryDestination::masked)
        };
        Self {
            id: settings.claim.id,
            team_id: settings.claim.team_id,
            selector: settings.claim.selector.to_string(),
            priority: settings.claim.priority,
            metrics: of(Signal::Metrics),
            traces: of(Signal::Traces),
            logs: of(Signal::Logs),
            created_at: settings.created_at,
            updated_at: settings.updated_at,
            name: settings.name,
        }
    }
}

/// Where collectors are to send telemetry about themselves.
#[derive(Deserialize, ToSchema)]
struct NewCollectorTelemetry {
    /// Its name.
    name: String,
    /// The team whose collectors it is for; those of all teams when left out. It cannot change.
    team_id: Option<i64>,
    /// Which collectors, such as `service.name=otelcol, env in (prod, staging)`; every one when left out.
    selector: Option<String>,
    /// Of several that are for a collector the one with the highest counts; 0 when left out.
    priority: Option<i64>,
    /// Where metrics go.
    metrics: Option<TelemetryDestination>,
    /// Where traces go.
    traces: Option<TelemetryDestination>,
    /// Where logs go.
    logs: Option<TelemetryDestination>,
}

impl From<NewCollectorTelemetry> for TelemetryWish {
    fn from(new: NewCollectorTelemetry) -> Self {
        let signals = [
            (Signal::Metrics, new.metrics),
            (Signal::Traces, new.traces),
            (Signal::Logs, new.logs),
        ];
        let destination = |wanted: TelemetryDestination| Destination {
            endpoint: wanted.endpoint,
            headers: wanted.headers,
        };
        let destinations = signals
            .into_iter()
            .filter_map(|(signal, wanted)| Some((signal, destination(wanted?))));
        Self {
            name: new.name,
            team_id: new.team_id.map(TeamId),
            selector: new.selector.unwrap_or_else(|| "*".to_owned()),
            priority: new.priority.unwrap_or(0),
            destinations: destinations.collect(),
        }
    }
}

/// List settings of own telemetry
///
/// Those that count most first: of several that are for a collector it follows the first.
#[utoipa::path(get, path = "/collector-telemetry", tag = "collector-configs",
    responses((status = 200, body = Page<CollectorTelemetry>)))]
async fn list(
    State(collectors): State<Collectors>,
    principal: Principal,
) -> Result<axum::Json<Page<CollectorTelemetry>>, Problem> {
    let all = collectors.list_telemetry(&principal).await?;
    let items: Vec<CollectorTelemetry> = all.into_iter().map(Into::into).collect();
    Ok(axum::Json(Page {
        total: items.len() as u64,
        items,
        next_cursor: None,
    }))
}

/// Tell collectors where to send telemetry about themselves
///
/// It is offered to those that say that they report it (`reports_own_metrics`, `reports_own_traces`, `reports_own_logs`).
#[utoipa::path(post, path = "/collector-telemetry", tag = "collector-configs", request_body = NewCollectorTelemetry,
    responses((status = 201, body = CollectorTelemetry), (status = 409, description = "the name is taken"),
    (status = 422, description = "a value that is not allowed")))]
async fn create(
    State(collectors): State<Collectors>,
    principal: Principal,
    Json(body): Json<NewCollectorTelemetry>,
) -> Result<(StatusCode, axum::Json<CollectorTelemetry>), Problem> {
    let made = collectors.create_telemetry(&principal, body.into()).await?;
    Ok((StatusCode::CREATED, axum::Json(made.into())))
}

/// Look at settings of own telemetry
#[utoipa::path(get, path = "/collector-telemetry/{id}", tag = "collector-configs", params(("id" = i64, Path)),
    responses((status = 200, body = CollectorTelemetry), (status = 404)))]
async fn get(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<CollectorTelemetry>, Problem> {
    let found = collectors.find_telemetry(&principal, id).await?;
    Ok(axum::Json(found.into()))
}

/// Change settings of own telemetry
///
/// As a whole: what is left out goes. A header whose value is `[MASKED]` keeps the value that it has.
#[utoipa::path(put, path = "/collector-telemetry/{id}", tag = "collector-configs", params(("id" = i64, Path)),
    request_body = NewCollectorTelemetry, responses((status = 200, body = CollectorTelemetry), (status = 404),
    (status = 409, description = "the name is taken"), (status = 422, description = "a value that is not allowed")))]
async fn change(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<NewCollectorTelemetry>,
) -> Result<axum::Json<CollectorTelemetry>, Problem> {
    let changed = collectors
        .change_telemetry(&principal, id, body.into())
        .await?;
    Ok(axum::Json(changed.into()))
}

/// Delete settings of own telemetry
///
/// Collectors follow the next ones that are for them. Without any they keep what they were offered, since the protocol has no
/// word for an end.
#[utoipa::path(delete, path = "/collector-telemetry/{id}", tag = "collector-configs", params(("id" = i64, Path)),
    responses((status = 204), (status = 404)))]
async fn delete(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    collectors.delete_telemetry(&principal, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How far a collector is with telemetry about itself.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CollectorOwnTelemetry {
    /// The name of the settings that are for it, or of those that it was offered when there are none any more.
    settings: String,
    /// Their id, when they are for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings_id: Option<i64>,
    /// What of it the collector can be told.
    signals: Vec<Signal>,
    /// `waiting` (not offered yet: a key goes first), `offered`, `applying`, `applied` or `failed` as it says itself, `cannot`
    /// (it does not report its own telemetry), or `left_alone` (nothing is for it any more, and it keeps what it was offered).
    status: &'static str,
    /// Its own words, when it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    /// When it was last offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    offered_at: Option<Timestamp>,
}

impl From<TelemetryState> for CollectorOwnTelemetry {
    fn from(state: TelemetryState) -> Self {
        Self {
            settings: state.settings,
            settings_id: state.settings_id,
            signals: state.signals,
            status: state.status,
            error: state.error,
            offered_at: state.offered_at,
        }
    }
}
