//! Our own API: saved queries.

use axum::extract::State;
use axum::http::StatusCode;
use muster_http::{Json, Page, Path, Problem};
use muster_identity::{Principal, TeamId};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::native_campaigns;
use crate::{Queries, SavedQuery, SavedQueryChange};

/// The routes, relative to `/api/muster`.
pub fn native_routes(queries: Queries) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, change, delete))
        .merge(native_campaigns::routes())
        .with_state(queries)
}

/// List saved queries
///
/// Everybody's and those of your teams, by name.
#[utoipa::path(get, path = "/queries", tag = "queries", responses((status = 200, body = Page<SavedQuery>)))]
async fn list(
    State(queries): State<Queries>,
    principal: Principal,
) -> Result<axum::Json<Page<SavedQuery>>, Problem> {
    let items = queries.saved.list(&principal).await?;
    Ok(axum::Json(Page {
        total: items.len() as u64,
        items,
        next_cursor: None,
    }))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct NewQuery {
    /// The team that it belongs to; everybody's when left out.
    team_id: Option<i64>,
    /// Its name.
    name: Option<String>,
    /// What it is for.
    description: Option<String>,
    /// The SQL.
    query: Option<String>,
    /// How often hosts run it by themselves, in seconds; 0: not at all.
    interval: Option<u64>,
    /// The platforms that run it by schedule, with commas; empty: all.
    platform: Option<String>,
    /// The oldest osquery that runs it by schedule.
    min_osquery_version: Option<String>,
    /// Whether results of the schedule go to the log destination.
    automations_enabled: Option<bool>,
    /// How results of the schedule are written: `snapshot`, `differential` or `differential_ignore_removals`.
    logging: Option<String>,
    /// Whether observers may run it.
    observer_can_run: Option<bool>,
    /// Whether results of the schedule are not kept in the server.
    discard_data: Option<bool>,
}

/// Save a query
#[utoipa::path(post, path = "/queries", tag = "queries", request_body = NewQuery,
    responses((status = 201, body = SavedQuery), (status = 409, description = "the name is taken")))]
async fn create(
    State(queries): State<Queries>,
    principal: Principal,
    Json(body): Json<NewQuery>,
) -> Result<(StatusCode, axum::Json<SavedQuery>), Problem> {
    let change = SavedQueryChange {
        name: body.name,
        description: body.description,
        query: body.query,
        interval: body.interval,
        platform: body.platform,
        min_osquery_version: body.min_osquery_version,
        automations_enabled: body.automations_enabled,
        logging: body.logging,
        observer_can_run: body.observer_can_run,
        discard_data: body.discard_data,
    };
    let query = queries
        .saved
        .create(&principal, body.team_id.map(TeamId), change)
        .await?;
    Ok((StatusCode::CREATED, axum::Json(query)))
}

/// Look at a saved query
#[utoipa::path(get, path = "/queries/{id}", tag = "queries", params(("id" = i64, Path)),
    responses((status = 200, body = SavedQuery), (status = 404)))]
async fn get(
    State(queries): State<Queries>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<SavedQuery>, Problem> {
    Ok(axum::Json(queries.saved.find(&principal, id).await?))
}

/// Change a saved query
///
/// What is left out stays.
#[utoipa::path(patch, path = "/queries/{id}", tag = "queries", params(("id" = i64, Path)),
    request_body = SavedQueryChange, responses((status = 200, body = SavedQuery), (status = 404)))]
async fn change(
    State(queries): State<Queries>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<SavedQueryChange>,
) -> Result<axum::Json<SavedQuery>, Problem> {
    Ok(axum::Json(
        queries.saved.change(&principal, id, body).await?,
    ))
}

/// Delete a saved query
#[utoipa::path(delete, path = "/queries/{id}", tag = "queries", params(("id" = i64, Path)),
    responses((status = 204), (status = 404)))]
async fn delete(
    State(queries): State<Queries>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    queries.saved.delete(&principal, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
