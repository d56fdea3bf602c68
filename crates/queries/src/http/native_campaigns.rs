//! Our own API: campaigns and their stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use muster_clock::Timestamp;
use muster_http::{Json, ListingQuery, OrderDirection, Page, Path, Problem, Query};
use muster_identity::{HostId, Principal};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::{
    Campaign, CampaignHost, Event, HostResult, HostState, NewCampaign, Queries, Stream, Target,
};

/// A stream says something at least so often, so that nobody in between takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<Queries> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get))
        .routes(routes!(cancel))
        .routes(routes!(hosts))
        .routes(routes!(results))
        .routes(routes!(stream))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct NewCampaignRequest {
    /// The SQL to run.
    query: Option<String>,
    /// A saved query to run instead.
    query_id: Option<i64>,
    /// Whom to ask.
    target: Target,
    /// When it ends at the latest, in seconds from now; 600 when left out, 604800 (a week) at most.
    expires_in_seconds: Option<u64>,
    /// Whether hosts that are away are waited for until then. They are asked when they come back in time either way.
    wait_for_offline: bool,
}

/// Ask hosts a question
///
/// Answers with the campaign at once; read its stream or its results.
#[utoipa::path(post, path = "/campaigns", tag = "campaigns", request_body = NewCampaignRequest,
    responses((status = 201, body = Campaign), (status = 400, description = "no host, or no such host or label")))]
async fn create(
    State(queries): State<Queries>,
    principal: Principal,
    Json(body): Json<NewCampaignRequest>,
) -> Result<(StatusCode, axum::Json<Campaign>), Problem> {
    let new = NewCampaign {
        sql: body.query,
        query_id: body.query_id,
        target: body.target,
        expiry: body.expires_in_seconds.map(Duration::from_secs),
        wait_for_offline: body.wait_for_offline,
    };
    let (campaign, _) = queries.campaigns.create(&principal, new).await?;
    Ok((StatusCode::CREATED, axum::Json(campaign)))
}

/// List campaigns
///
/// Yours, or everybody's if you may run any query everywhere; newest first.
#[utoipa::path(get, path = "/campaigns", tag = "campaigns", params(ListingQuery),
    responses((status = 200, body = Page<Campaign>)))]
async fn list(
    State(queries): State<Queries>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
) -> Result<axum::Json<Page<Campaign>>, Problem> {
    let newest_first = listing.sort.is_none();
    let mut listing = listing.check(&["id"])?;
    if newest_first {
        listing.direction = OrderDirection::Descending;
    }
    Ok(axum::Json(
        queries.campaigns.list(&principal, &listing).await?,
    ))
}

/// Look at a campaign
#[utoipa::path(get, path = "/campaigns/{id}", tag = "campaigns", params(("id" = i64, Path)),
    responses((status = 200, body = Campaign), (status = 404)))]
async fn get(
    State(queries): State<Queries>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Campaign>, Problem> {
    Ok(axum::Json(queries.campaigns.find(&principal, id).await?))
}

/// Stop a campaign
///
/// No more hosts are asked. What was answered stays.
#[utoipa::path(post, path = "/campaigns/{id}/cancel", tag = "campaigns", params(("id" = i64, Path)),
    responses((status = 200, body = Campaign), (status = 404)))]
async fn cancel(
    State(queries): State<Queries>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Campaign>, Problem> {
    Ok(axum::Json(queries.campaigns.cancel(&principal, id).await?))
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct HostsQuery {
    /// Only hosts in these states, with commas: `pending,sent,offline` are those who have not answered.
    state: String,
}

/// List the hosts of a campaign
///
/// With where each stands, and why those have not answered that have not.
#[utoipa::path(get, path = "/campaigns/{id}/hosts", tag = "campaigns", params(("id" = i64, Path), ListingQuery, HostsQuery),
    responses((status = 200, body = Page<CampaignHost>), (status = 404)))]
async fn hosts(
    State(queries): State<Queries>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(listing): Query<ListingQuery>,
    Query(query): Query<HostsQuery>,
) -> Result<axum::Json<Page<CampaignHost>>, Problem> {
    let listing = listing.check(&["display_name", "hostname", "state", "host_id", "ended_at"])?;
    let named = query
        .state
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let states = named.map(|name| {
        let known = HostState::ALL.map(HostState::name).join(", ");
        HostState::parse(name)
            .ok_or_else(|| Problem::invalid("state", format!("must be among {known}")))
    });
    let states = states.collect::<Result<Vec<_>, _>>()?;
    Ok(axum::Json(
        queries
            .campaigns
            .hosts(&principal, id, &listing, &states)
            .await?,
    ))
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct After {
    /// Only what came after this position; 0 for everything.
    after: i64,
    /// The most answers; 100 when left out, 500 at most.
    limit: Option<i64>,
}

/// What a host answered.
#[derive(Serialize, ToSchema)]
struct Answer {
    /// Counts up within the campaign; give the last one back as `after`.
    position: i64,
    /// The host.
    host_id: HostId,
    /// Its network name.
    hostname: String,
    /// What people call it.
    display_name: String,
    /// Why the query failed; absent when it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The rows: objects whose members are texts.
    #[schema(value_type = Vec<std::collections::BTreeMap<String, String>>)]
    rows: Box<RawValue>,
    /// Whether some rows were not kept because of bounds.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    clipped: bool,
    /// What it cost on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    stats: Option<Box<RawValue>>,
    /// When it was kept.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

impl From<HostResult> for Answer {
    fn from(result: HostResult) -> Self {
        Self {
            position: result.position,
            host_id: result.host_id,
            hostname: result.hostname,
            display_name: result.display_name,
            error: result.error,
            rows: result.rows,
            clipped: result.clipped,
            stats: result.stats,
            at: result.at,
        }
    }
}

/// Answers of a campaign.
#[derive(Serialize, ToSchema)]
struct Answers {
    /// In the order in which they came.
    items: Vec<Answer>,
    /// Give it back as `after` to go on.
    position: i64,
}

/// Read the answers of a campaign
#[utoipa::path(get, path = "/campaigns/{id}/results", tag = "campaigns", params(("id" = i64, Path), After),
    responses((status = 200, body = Answers), (status = 404)))]
async fn results(
    State(queries): State<Queries>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(query): Query<After>,
) -> Result<axum::Json<Answers>, Problem> {
    let limit = query.limit.unwrap_or(100);
    let results = queries
        .campaigns
        .results(&principal, id, query.after, limit)
        .await?;
    let position = results.last().map_or(query.after, |result| result.position);
    Ok(axum::Json(Answers {
        items: results.into_iter().map(Answer::from).collect(),
        position,
    }))
}

/// A line of the stream.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    /// Where the campaign stands.
    Progress { campaign: Campaign },
    /// A host answered or failed.
    Result { result: Answer },
    /// It ended.
    End { campaign: Campaign },
    /// The stream breaks off; go on from the last position.
    Error { message: &'static str },
}

/// Follow a campaign
///
/// JSON lines: `{"type":"progress","campaign":…}` whenever it changes, `{"type":"result","result":…}` for each answer, and
/// `{"type":"end","campaign":…}`, after which the stream closes. An empty line means only that it is alive. Whoever loses
/// the connection comes back with `after` set to the last position; nothing is lost or doubled. Answers are there for a
/// day after the end.
#[utoipa::path(get, path = "/campaigns/{id}/stream", tag = "campaigns", params(("id" = i64, Path), After),
    responses((status = 200, body = String, content_type = "application/x-ndjson"), (status = 404)))]
async fn stream(
    State(queries): State<Queries>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(query): Query<After>,
) -> Result<Response, Problem> {
    let stream = queries
        .campaigns
        .stream(&principal, id, query.after)
        .await?;
    let lines = futures_util::stream::unfold(Some(stream), next_line);
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

async fn next_line(stream: Option<Stream>) -> Option<(Result<Bytes, Infallible>, Option<Stream>)> {
    let mut stream = stream?;
    let text = |line: &Line| {
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        Ok(Bytes::from(text))
    };
    match tokio::time::timeout(KEEP_ALIVE, stream.next()).await {
        Err(_) => Some((Ok(Bytes::from_static(b"\n")), Some(stream))),
        Ok(Ok(Some(Event::Progress(campaign)))) => {
            Some((text(&Line::Progress { campaign }), Some(stream)))
        }
        Ok(Ok(Some(Event::Result(result)))) => Some((
            text(&Line::Result {
                result: result.into(),
            }),
            Some(stream),
        )),
        Ok(Ok(Some(Event::End(campaign)))) => Some((text(&Line::End { campaign }), None)),
        Ok(Ok(None)) => None,
        Ok(Err(crate::QueriesError::NoLonger)) => {
            let message = "the login ended or may not see this any more; log in again";
            Some((text(&Line::Error { message }), None))
        }
        Ok(Err(error)) => {
            tracing::warn!(
                error = muster_http::error_chain(&error),
                "a stream broke off"
            );
            let message =
                "the service is unavailable for the moment; come back with the last position";
            Some((text(&Line::Error { message }), None))
        }
    }
}
