//! Fleet's user API: saved queries, called reports since 2026. Both spellings give the same objects.

use axum::Router;
use axum::extract::State;
use axum::routing::{delete, get, post};
use muster_http::{Json, Path, Problem, Query};
use muster_identity::{Principal, TeamId};
use muster_wire_fleet::query::{QueriesAnswer, QueryAnswer, QueryRequest, QuerySpec, QueryStats};
use muster_wire_fleet::{DeleteByIds, DeletedAnswer, Empty, OneSpec, PageMeta, Specs};
use serde::Deserialize;

use super::FleetState;
use crate::{SavedQuery, SavedQueryChange};

/// The most queries of one page.
const MAX_PAGE_ROWS: usize = 10_000;

pub(super) fn routes() -> Router<FleetState> {
    let mut router = Router::new();
    for name in ["queries", "reports"] {
        router = router
            .route(&format!("/{name}"), get(list).post(create))
            .route(
                &format!("/{name}/{{key}}"),
                get(one).patch(change).delete(delete_by_name),
            )
            .route(&format!("/{name}/id/{{id}}"), delete(delete_by_id))
            .route(&format!("/{name}/delete"), post(delete_many))
            .route(&format!("/spec/{name}"), get(specs).post(apply))
            .route(&format!("/spec/{name}/{{name}}"), get(spec));
    }
    router
}

fn shown(query: &SavedQuery) -> muster_wire_fleet::query::Query {
    muster_wire_fleet::query::Query {
        created_at: query.created_at,
        updated_at: query.updated_at,
        id: query.id,
        team_id: query.team_id.map(|team| team.0),
        interval: query.interval,
        platform: query.platform.clone(),
        min_osquery_version: query.min_osquery_version.clone(),
        automations_enabled: query.automations_enabled,
        logging: query.logging.name().to_owned(),
        name: query.name.clone(),
        description: query.description.clone(),
        query: query.query.clone(),
        saved: true,
        observer_can_run: query.observer_can_run,
        author_id: query.author_id.map(|id| id.0),
        author_name: query.author_name.clone(),
        author_email: query.author_email.clone(),
        packs: Vec::new(),
        stats: QueryStats::default(),
        discard_data: query.discard_data,
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    #[serde(alias = "fleet_id")]
    team_id: Option<i64>,
    merge_inherited: bool,
    query: Option<String>,
    page: Option<usize>,
    per_page: Option<usize>,
    order_key: Option<String>,
    order_direction: Option<String>,
}

async fn list(
    State(state): State<FleetState>,
    principal: Principal,
    Query(wish): Query<ListQuery>,
) -> Result<axum::Json<QueriesAnswer>, Problem> {
    let team = wish.team_id.map(TeamId);
    let search = wish.query.unwrap_or_default().to_lowercase();
    let mut queries = state.queries.saved.list(&principal).await?;
    queries.retain(|query| {
        (query.team_id == team || (wish.merge_inherited && query.team_id.is_none()))
            && (search.is_empty() || query.name.to_lowercase().contains(&search))
    });
    match wish.order_key.as_deref().unwrap_or("name") {
        "name" | "" => {}
        "id" => queries.sort_by_key(|query| query.id),
        "created_at" => queries.sort_by_key(|query| query.created_at),
        "updated_at" => queries.sort_by_key(|query| query.updated_at),
        other => {
            return Err(Problem::invalid(
                "order_key",
                format!("{other:?} is not a field to order by"),
            ));
        }
    }
    if wish.order_direction.as_deref() == Some("desc") {
        queries.reverse();
    }
    let count = queries.len();
    let per_page = wish
        .per_page
        .unwrap_or(MAX_PAGE_ROWS)
        .clamp(1, MAX_PAGE_ROWS);
    let start = wish.page.unwrap_or(0).saturating_mul(per_page);
    let page: Vec<_> = queries
        .iter()
        .skip(start)
        .take(per_page)
        .map(shown)
        .collect();
    let meta = PageMeta {
        has_next_results: start.saturating_add(page.len()) < count,
        has_previous_results: start > 0,
    };
    Ok(axum::Json(QueriesAnswer {
        queries: page,
        count: count as u64,
        meta,
    }))
}

fn change_of(request: QueryRequest) -> SavedQueryChange {
    SavedQueryChange {
        name: request.name,
        description: request.description,
        query: request.query,
        interval: request.interval,
        platform: request.platform,
        min_osquery_version: request.min_osquery_version,
        automations_enabled: request.automations_enabled,
        logging: request.logging,
        observer_can_run: request.observer_can_run,
        discard_data: request.discard_data,
    }
}

async fn create(
    State(state): State<FleetState>,
    principal: Principal,
    Json(body): Json<QueryRequest>,
) -> Result<axum::Json<QueryAnswer>, Problem> {
    let team = body.team_id.map(TeamId);
    let query = state
        .queries
        .saved
        .create(&principal, team, change_of(body))
        .await?;
    Ok(axum::Json(QueryAnswer {
        query: shown(&query),
    }))
}

fn id(key: &str) -> Result<i64, Problem> {
    key.parse()
        .map_err(|_| Problem::bad_request(format!("{key:?} is not the id of a query")))
}

async fn one(
    State(state): State<FleetState>,
    principal: Principal,
    Path(key): Path<String>,
) -> Result<axum::Json<QueryAnswer>, Problem> {
    let query = state.queries.saved.find(&principal, id(&key)?).await?;
    Ok(axum::Json(QueryAnswer {
        query: shown(&query),
    }))
}

async fn change(
    State(state): State<FleetState>,
    principal: Principal,
    Path(key): Path<String>,
    Json(body): Json<QueryRequest>,
) -> Result<axum::Json<QueryAnswer>, Problem> {
    let query = state
        .queries
        .saved
        .change(&principal, id(&key)?, change_of(body))
        .await?;
    Ok(axum::Json(QueryAnswer {
        query: shown(&query),
    }))
}

/// A query by its name in a path: as it stands, or decoded once more, since fleetctl encodes names twice.
async fn named(
    state: &FleetState,
    principal: &Principal,
    name: &str,
) -> Result<SavedQuery, Problem> {
    if let Some(query) = state
        .queries
        .saved
        .find_by_name(principal, None, name)
        .await?
    {
        return Ok(query);
    }
    let decoded = decoded(name);
    let found = state
        .queries
        .saved
        .find_by_name(principal, None, &decoded)
        .await?;
    found.ok_or_else(|| Problem::not_found(format_args!("query {decoded:?}")))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(byte) = byte.filter(|_| *first == b'%') {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

async fn delete_by_name(
    State(state): State<FleetState>,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<axum::Json<Empty>, Problem> {
    let query = named(&state, &principal, &name).await?;
    state.queries.saved.delete(&principal, query.id).await?;
    Ok(axum::Json(Empty {}))
}

async fn delete_by_id(
    State(state): State<FleetState>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Empty>, Problem> {
    state.queries.saved.delete(&principal, id).await?;
    Ok(axum::Json(Empty {}))
}

async fn delete_many(
    State(state): State<FleetState>,
    principal: Principal,
    Json(body): Json<DeleteByIds>,
) -> Result<axum::Json<DeletedAnswer>, Problem> {
    let mut deleted = 0;
    for id in body.ids {
        match state.queries.saved.delete(&principal, id).await {
            Ok(()) => deleted += 1,
            Err(problem) if problem.status() == 404 => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(axum::Json(DeletedAnswer { deleted }))
}

async fn team_name(state: &FleetState, team: Option<TeamId>) -> Result<String, Problem> {
    match team {
        None => Ok(String::new()),
        Some(team) => Ok(state.identity.teams.find(team).await?.name),
    }
}

async fn specs(
    State(state): State<FleetState>,
    principal: Principal,
    Query(wish): Query<ListQuery>,
) -> Result<axum::Json<Specs<QuerySpec>>, Problem> {
    let team = wish.team_id.map(TeamId);
    let name = team_name(&state, team).await?;
    let queries = state.queries.saved.list(&principal).await?;
    let own = queries.iter().filter(|query| query.team_id == team);
    Ok(axum::Json(Specs {
        specs: own
            .map(|query| (&shown(query), name.as_str()).into())
            .collect(),
    }))
}

async fn spec(
    State(state): State<FleetState>,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<axum::Json<OneSpec<QuerySpec>>, Problem> {
    let query = named(&state, &principal, &name).await?;
    let team = team_name(&state, query.team_id).await?;
    Ok(axum::Json(OneSpec {
        specs: (&shown(&query), team.as_str()).into(),
    }))
}

async fn apply(
    State(state): State<FleetState>,
    principal: Principal,
    Json(body): Json<Specs<QuerySpec>>,
) -> Result<axum::Json<Empty>, Problem> {
    for spec in body.specs {
        let team = match spec.team.as_str() {
            "" => None,
            name => {
                let found = state.identity.teams.find_by_name(name).await?;
                Some(
                    found
                        .ok_or_else(|| Problem::not_found(format_args!("team {name:?}")))?
                        .id,
                )
            }
        };
        let change = SavedQueryChange {
            name: Some(spec.name.clone()),
            description: spec.description,
            query: Some(spec.query),
            interval: spec.interval,
            platform: spec.platform,
            min_osquery_version: spec.min_osquery_version,
            automations_enabled: spec.automations_enabled,
            logging: spec.logging,
            observer_can_run: spec.observer_can_run,
            discard_data: spec.discard_data,
        };
        state
            .queries
            .saved
            .apply(&principal, team, &spec.name, change)
            .await?;
    }
    Ok(axum::Json(Empty {}))
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn a_name_is_decoded_once_more() {
        for (text, expected) in [
            ("seed%20query", "seed query"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%C3%A4", "ä"),
            ("%ff", "%ff"),
        ] {
            assert_eq!(decoded(text), expected);
        }
    }
}
