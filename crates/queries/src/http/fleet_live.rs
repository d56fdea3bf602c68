//! Fleet's user API: live queries, begun for a stream or waited for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use muster_http::{Json, Path, Problem};
use muster_identity::Principal;
use muster_wire_fleet::live::{
    Campaign as FleetCampaign, CampaignAnswer, CampaignMetrics, HostQueryAnswer, HostQueryRequest,
    HostRows, QueryResults, RunByNamesRequest, RunManyAnswer, RunManyRequest, RunRequest,
    RunSavedAnswer, RunSavedRequest, RunSummary,
};
use muster_wire_fleet::{Empty, Row};

use serde_json::value::RawValue;

use super::FleetState;
use crate::{Campaign, Event, HostResult, NewCampaign, Target, TargetHost};

/// A campaign that Fleet's clients begin ends after so long.
const EXPIRY: Duration = Duration::from_secs(60 * 60);
/// The most bytes of rows that one answer without a stream holds, of all its queries together.
const MAX_COLLECTED_BYTES: usize = 16 * 1024 * 1024;
/// The most saved queries of one call.
const MAX_QUERIES: usize = 20;

pub(super) fn routes() -> Router<FleetState> {
    let mut router = Router::new()
        .route("/status/live_query", get(status))
        .route("/status/result_store", get(status))
        .route("/hosts/{id}/query", post(query_host))
        .route(
            "/hosts/identifier/{identifier}/query",
            post(query_host_by_identifier),
        );
    for name in ["queries", "reports"] {
        router = router
            .route(&format!("/{name}/run"), get(run_many).post(run))
            .route(&format!("/{name}/run_by_names"), post(run_by_names))
            .route(&format!("/{name}/run_by_identifiers"), post(run_by_names))
            .route(&format!("/{name}/{{id}}/run"), post(run_saved));
    }
    router
}

/// Whether live queries can be begun and their results kept: both are the database's.
async fn status(
    State(state): State<FleetState>,
    _: Principal,
) -> Result<axum::Json<Empty>, Problem> {
    state.queries.check().await?;
    Ok(axum::Json(Empty {}))
}

/// A campaign as Fleet's clients are shown it.
fn shown(campaign: &Campaign, hosts: &[TargetHost]) -> CampaignAnswer {
    let count = |matches: &dyn Fn(&TargetHost) -> bool| {
        hosts.iter().filter(|host| matches(host)).count() as u64
    };
    CampaignAnswer {
        campaign: FleetCampaign {
            created_at: campaign.created_at,
            updated_at: campaign.created_at,
            metrics: CampaignMetrics {
                total_hosts: hosts.len() as u64,
                online_hosts: count(&|host| host.online),
                offline_hosts: count(&|host| !host.online && !host.missing),
                missing_in_action_hosts: count(&|host| host.missing),
                new_hosts: count(&|host| host.new),
            },
            id: campaign.id,
            query_id: campaign.query_id.unwrap_or(0),
            status: 0,
            user_id: campaign.user_id.0,
        },
    }
}

async fn begin(
    state: &FleetState,
    principal: &Principal,
    query: Option<String>,
    query_id: Option<i64>,
    target: Target,
) -> Result<axum::Json<CampaignAnswer>, Problem> {
    // A saved query goes before SQL, as fleetctl sends both.
    let sql = if query_id.is_some() { None } else { query };
    let new = NewCampaign {
        sql,
        query_id,
        target,
        expiry: Some(EXPIRY),
        wait_for_offline: true,
    };
    let created = state.queries.campaigns.create(principal, new).await;
    let (campaign, hosts) = created.map_err(in_fleets_words)?;
    Ok(axum::Json(shown(&campaign, &hosts)))
}

/// fleetctl looks for these words to tell people which names it takes.
fn in_fleets_words(problem: Problem) -> Problem {
    if problem.code() == "unknown_hosts" {
        let message = format!("no hosts targeted: {}", problem.message());
        return Problem::bad_request(message).with_code("unknown_hosts");
    }
    problem
}

async fn run(
    State(state): State<FleetState>,
    principal: Principal,
    Json(body): Json<RunRequest>,
) -> Result<axum::Json<CampaignAnswer>, Problem> {
    let target = Target {
        host_ids: body.selected.hosts,
        label_ids: body.selected.labels,
        team_ids: body.selected.teams,
        ..Target::default()
    };
    begin(&state, &principal, body.query, body.query_id, target).await
}

async fn run_by_names(
    State(state): State<FleetState>,
    principal: Principal,
    Json(body): Json<RunByNamesRequest>,
) -> Result<axum::Json<CampaignAnswer>, Problem> {
    let target = Target {
        hosts: body.selected.hosts,
        labels: body.selected.labels,
        team_ids: body.selected.teams,
        ..Target::default()
    };
    begin(&state, &principal, body.query, body.query_id, target).await
}

/// Begins a campaign for whoever is online and waits for the answers, as long as a call may last.
async fn ask_and_wait(
    state: &FleetState,
    principal: &Principal,
    sql: Option<String>,
    query_id: Option<i64>,
    target: Target,
    collected_bytes: &AtomicUsize,
) -> Result<(Vec<TargetHost>, Vec<HostResult>), Problem> {
    let expiry = Some(state.rest_period + Duration::from_secs(5));
    let new = NewCampaign {
        sql,
        query_id,
        target,
        expiry,
        wait_for_offline: false,
    };
    let (campaign, hosts) = state.queries.campaigns.create(principal, new).await?;
    let mut stream = state.queries.campaigns.stream_unchecked(campaign.id, 0);
    let mut results = Vec::new();
    let all = async {
        while let Some(event) = stream.next().await? {
            if let Event::Result(mut result) = event {
                let bytes = result.rows.get().len();
                let before = collected_bytes.fetch_add(bytes, Ordering::Relaxed);
                if before + bytes > MAX_COLLECTED_BYTES {
                    result.rows = Box::<RawValue>::default();
                    result.clipped = true;
                    result.error = Some(format!(
                        "left out: the rows of all hosts and queries have more than {MAX_COLLECTED_BYTES} bytes"
                    ));
                }
                results.push(result);
            }
        }
        Ok::<_, crate::QueriesError>(())
    };
    match tokio::time::timeout(state.rest_period, all).await {
        Ok(done) => done?,
        Err(_) => {
            // Nobody waits any more; hosts need not be asked for nothing.
            state
                .queries
                .campaigns
                .cancel(principal, campaign.id)
                .await?;
        }
    }
    Ok((hosts, results))
}

fn rows(result: &HostResult) -> Vec<Row> {
    serde_json::from_str(result.rows.get()).unwrap_or_default()
}

fn host_rows(result: &HostResult) -> HostRows {
    HostRows {
        host_id: result.host_id.0,
        rows: rows(result),
        error: result.error.clone(),
    }
}

async fn run_saved(
    State(state): State<FleetState>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<RunSavedRequest>,
) -> Result<axum::Json<RunSavedAnswer>, Problem> {
    if body.host_ids.is_empty() {
        return Err(Problem::bad_request("host_ids must not be empty"));
    }
    let target = Target {
        host_ids: body.host_ids,
        ..Target::default()
    };
    let (hosts, results) = ask_and_wait(
        &state,
        &principal,
        None,
        Some(id),
        target,
        &AtomicUsize::new(0),
    )
    .await?;
    Ok(axum::Json(RunSavedAnswer {
        query_id: id,
        targeted_host_count: hosts.len() as u64,
        responded_host_count: results.len() as u64,
        results: results.iter().map(host_rows).collect(),
    }))
}

async fn run_many(
    State(state): State<FleetState>,
    principal: Principal,
    Json(body): Json<RunManyRequest>,
) -> Result<axum::Json<RunManyAnswer>, Problem> {
    if body.host_ids.is_empty() || body.query_ids.is_empty() {
        return Err(Problem::bad_request(
            "host_ids and query_ids must not be empty",
        ));
    }
    if body.query_ids.len() > MAX_QUERIES {
        return Err(Problem::bad_request(format!(
            "at most {MAX_QUERIES} queries at a time"
        )));
    }
    let collected_bytes = AtomicUsize::new(0);
    let asked = body.query_ids.iter().map(|id| {
        let target = Target {
            host_ids: body.host_ids.clone(),
            ..Target::default()
        };
        ask_and_wait(
            &state,
            &principal,
            None,
            Some(*id),
            target,
            &collected_bytes,
        )
    });
    let answers = futures_util::future::join_all(asked).await;
    let mut targeted = 0;
    let mut responded = std::collections::HashSet::new();
    let mut live_query_results = Vec::new();
    for (query_id, answer) in body.query_ids.iter().zip(answers) {
        let mut entry = QueryResults {
            query_id: *query_id,
            ..QueryResults::default()
        };
        match answer {
            Ok((hosts, results)) => {
                targeted = targeted.max(hosts.len() as u64);
                responded.extend(results.iter().map(|result| result.host_id));
                entry.results = results.iter().map(host_rows).collect();
            }
            Err(problem) if problem.status().is_server_error() => return Err(problem),
            Err(problem) => entry.error = Some(problem.message().to_owned()),
        }
        live_query_results.push(entry);
    }
    let summary = RunSummary {
        targeted_host_count: targeted,
        responded_host_count: responded.len() as u64,
    };
    Ok(axum::Json(RunManyAnswer {
        summary,
        live_query_results,
    }))
}

async fn query_host(
    State(state): State<FleetState>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<HostQueryRequest>,
) -> Result<axum::Json<HostQueryAnswer>, Problem> {
    let target = Target {
        host_ids: vec![id],
        ..Target::default()
    };
    one_host(&state, &principal, target, body.query).await
}

async fn query_host_by_identifier(
    State(state): State<FleetState>,
    principal: Principal,
    Path(identifier): Path<String>,
    Json(body): Json<HostQueryRequest>,
) -> Result<axum::Json<HostQueryAnswer>, Problem> {
    let target = Target {
        hosts: vec![identifier],
        ..Target::default()
    };
    one_host(&state, &principal, target, body.query).await
}

async fn one_host(
    state: &FleetState,
    principal: &Principal,
    target: Target,
    query: String,
) -> Result<axum::Json<HostQueryAnswer>, Problem> {
    let (hosts, results) = ask_and_wait(
        state,
        principal,
        Some(query.clone()),
        None,
        target,
        &AtomicUsize::new(0),
    )
    .await?;
    let host = hosts
        .first()
        .ok_or_else(|| Problem::bad_request("no hosts targeted"))?;
    let mut answer = HostQueryAnswer {
        host_id: host.id.0,
        rows: None,
        query,
        status: if host.online { "online" } else { "offline" }.to_owned(),
        error: None,
    };
    match results.first() {
        Some(result) if result.error.is_some() => answer.error.clone_from(&result.error),
        Some(result) => answer.rows = Some(rows(result)),
        None if host.online => answer.error = Some("timeout waiting for results".to_owned()),
        None => {}
    }
    Ok(axum::Json(answer))
}
