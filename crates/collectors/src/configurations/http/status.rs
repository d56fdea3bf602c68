//! How far collectors are, and what an assignment would come to.

use axum::extract::State;
use muster_clock::Timestamp;
use muster_http::{Json, ListingQuery, Page, Path, Problem, Query};
use muster_identity::{Action, CollectorId, Principal, Scope, TeamId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::configurations::diff::Change;
use crate::configurations::finding::Finding;
use crate::configurations::model::CollectorState;
use crate::configurations::rollout::{self, Rollout};
use crate::configurations::service::{
    Configurations, Effects, PreviewItem, PreviewWish, StatusQuery,
};

const SORTS: &[&str] = &["id", "name", "host_name", "state", "since"];

/// How far a collector is with the configuration that it should run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CollectorConfigState {
    /// Which collector.
    collector_id: CollectorId,
    /// The name of its service.
    name: String,
    /// The name of its machine.
    host_name: String,
    /// Its team.
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<TeamId>,
    /// `in_sync`, `applying`, `failed`, `unmanaged` (nothing is assigned to it) or `cannot` (it cannot be given it).
    state: rollout::State,
    /// How far it is exactly: beside those, `waiting` (not sent yet), `sent`, `applying`, and `soaking` (applied, and it is
    /// seen how well it runs).
    stage: &'static str,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Why, in the agent's own words where there are any.
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    /// The configuration that it should run.
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration_id: Option<i64>,
    /// The version that it should run.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<i64>,
    /// By which assignment.
    #[serde(skip_serializing_if = "Option::is_none")]
    assignment_id: Option<i64>,
    /// The version that it went back to, since the one that it should run failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    runs_instead: Option<i64>,
    /// The version that last ran well on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_good_version: Option<i64>,
}

impl From<CollectorState> for CollectorConfigState {
    fn from(known: CollectorState) -> Self {
        let rollout: Option<Rollout> = known.rollout;
        let assigned = rollout
            .as_ref()
            .and_then(|rollout| rollout.assigned.clone());
        let version = |version: fn(&Rollout) -> Option<&rollout::Version>| {
            rollout
                .as_ref()
                .and_then(version)
                .map(|version| version.version)
        };
        Self {
            collector_id: known.collector_id,
            name: known.name,
            host_name: known.host_name,
            team_id: known.team_id,
            state: known.state,
            stage: rollout
                .as_ref()
                .map_or("unmanaged", |rollout| rollout.stage.name()),
            since: rollout.as_ref().map(|rollout| rollout.since),
            runs_instead: version(|rollout| rollout.instead.as_ref()),
            last_good_version: version(|rollout| rollout.good.as_ref()),
            assignment_id: rollout.as_ref().and_then(|rollout| rollout.assignment_id),
            message: rollout.map(|rollout| rollout.message).unwrap_or_default(),
            configuration_id: assigned.as_ref().map(|assigned| assigned.configuration_id),
            version: assigned.map(|assigned| assigned.version),
        }
    }
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct StatesQuery {
    /// Only collectors that are `in_sync`, `applying`, `failed`, `unmanaged` or `cannot`.
    state: Option<String>,
    /// Only collectors that follow this assignment.
    assignment_id: Option<i64>,
}

impl StatesQuery {
    fn check(self, configuration_id: Option<i64>) -> Result<StatusQuery, Problem> {
        let state = self.state.as_deref().map(|name| {
            rollout::State::parse(name).ok_or_else(|| {
                let names: Vec<&str> = rollout::State::ALL
                    .iter()
                    .map(|state| state.name())
                    .collect();
                Problem::invalid("state", format!("must be one of {}", names.join(", ")))
            })
        });
        Ok(StatusQuery {
            configuration_id,
            assignment_id: self.assignment_id,
            state: state.transpose()?,
        })
    }
}

async fn page(
    configurations: &Configurations,
    principal: &Principal,
    query: StatusQuery,
    listing: &ListingQuery,
) -> Result<axum::Json<Page<CollectorConfigState>>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let listing = listing.check(SORTS)?;
    let page = configurations.status(principal, &query, &listing).await?;
    Ok(axum::Json(Page {
        items: page.items.into_iter().map(Into::into).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// List collectors with how far each is with the configuration that it should run
///
/// By their ids, or by `name`, `host_name`, `state` or `since`. `search` looks at names and hosts.
#[utoipa::path(get, path = "/collector-config-states", tag = "collector-configs", params(ListingQuery, StatesQuery),
    responses((status = 200, body = Page<CollectorConfigState>)))]
pub(super) async fn list(
    State(configurations): State<Configurations>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Query(query): Query<StatesQuery>,
) -> Result<axum::Json<Page<CollectorConfigState>>, Problem> {
    page(&configurations, &principal, query.check(None)?, &listing).await
}

/// List the collectors that should run a configuration, with how far each is
///
/// By their ids, or by `name`, `host_name`, `state` or `since`. `search` looks at names and hosts.
#[utoipa::path(get, path = "/collector-configs/{id}/status", tag = "collector-configs",
    params(("id" = i64, Path), ListingQuery, StatesQuery),
    responses((status = 200, body = Page<CollectorConfigState>), (status = 404)))]
pub(super) async fn of_configuration(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(listing): Query<ListingQuery>,
    Query(query): Query<StatesQuery>,
) -> Result<axum::Json<Page<CollectorConfigState>>, Problem> {
    page(
        &configurations,
        &principal,
        query.check(Some(id))?,
        &listing,
    )
    .await
}

/// An assignment that is for a collector.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CollectorConfigClaim)]
struct Claims {
    /// Its id.
    id: i64,
    /// Which configuration.
    configuration_id: i64,
    /// Which version.
    version: i64,
    /// Its priority.
    priority: i64,
    /// Which collectors it is for.
    selector: String,
}

/// What a collector should run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CollectorConfigOfCollector {
    /// How far it is.
    #[serde(flatten)]
    state: CollectorConfigState,
    /// The name of the configuration that it should run.
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration_name: Option<String>,
    /// The assignments that are for it; it follows the first.
    assignments: Vec<Claims>,
}

/// What a collector should run
///
/// With how far it is, and all assignments that are for it.
#[utoipa::path(get, path = "/collectors/{id}/config", tag = "collector-configs", params(("id" = i64, Path)),
    responses((status = 200, body = CollectorConfigOfCollector), (status = 404)))]
pub(super) async fn of_collector(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<CollectorConfigOfCollector>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let found = configurations
        .of_collector(&principal, CollectorId(id))
        .await?;
    let claims = found.assignments.into_iter().map(|assignment| Claims {
        id: assignment.claim.id,
        configuration_id: assignment.configuration_id,
        version: assignment.version,
        priority: assignment.claim.priority,
        selector: assignment.claim.selector.to_string(),
    });
    Ok(axum::Json(CollectorConfigOfCollector {
        state: found.state.into(),
        configuration_name: found.configuration.map(|configuration| configuration.name),
        assignments: claims.collect(),
    }))
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct CollectorDiffQuery {
    /// The configuration to compare with; the one that the collector should run when left out.
    configuration_id: Option<i64>,
    /// Which of its versions; the newest when left out.
    version: Option<i64>,
}

/// What would be different at a collector.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CollectorConfigDiff)]
pub(super) struct CollectorDiff {
    /// The configuration that it is compared with.
    configuration_id: i64,
    /// The version that it is compared with.
    version: i64,
    /// What would be different; absent when the collector does not say what it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<Change>>,
    /// What is wrong with the version for this collector, such as components that it does not have.
    findings: Vec<Finding>,
}

/// Compare what a collector runs with what it would get
///
/// By meaning: defaults that the collector writes out, what its supervisor adds, and values that are masked or stand for
/// variables are no differences.
#[utoipa::path(get, path = "/collectors/{id}/config/diff", tag = "collector-configs",
    params(("id" = i64, Path), CollectorDiffQuery), responses((status = 200, body = CollectorDiff), (status = 404),
    (status = 409, description = "nothing is assigned to it")))]
pub(super) async fn collector_diff(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(query): Query<CollectorDiffQuery>,
) -> Result<axum::Json<CollectorDiff>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let wanted = query.configuration_id.map(|id| (id, query.version));
    if wanted.is_none() && query.version.is_some() {
        return Err(Problem::invalid(
            "version",
            "names a version of a configuration; name that, too",
        ));
    }
    let (version, findings, changes) = configurations
        .collector_diff(&principal, CollectorId(id), wanted)
        .await?;
    Ok(axum::Json(CollectorDiff {
        configuration_id: version.configuration_id,
        version: version.version,
        changes,
        findings,
    }))
}

/// An assignment to be thought about.
#[derive(Deserialize, ToSchema)]
#[schema(as = PreviewCollectorConfig)]
pub(super) struct PreviewRequest {
    /// Which configuration.
    configuration_id: i64,
    /// Which of its versions; when left out that of the assignment by the same selector, or else the newest.
    version: Option<i64>,
    /// Which collectors, such as `service.name=otelcol, env in (prod, staging), !canary`; `*` for every one.
    selector: String,
    /// With what priority; when left out that of the assignment by the same selector, or else 0.
    priority: Option<i64>,
}

/// What an assignment would do to a collector.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CollectorConfigPreview)]
pub(super) struct Preview {
    /// Which collector.
    collector_id: CollectorId,
    /// The name of its service.
    name: String,
    /// The name of its machine.
    host_name: String,
    /// What would become of it.
    effect: Effects,
    /// Why it would not be sent the version, where it would not.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    /// The configuration that it should run now.
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration_id: Option<i64>,
    /// The version that it should run now.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<i64>,
    /// What would be different; absent when the collector does not say what it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<Change>>,
}

impl From<PreviewItem> for Preview {
    fn from(item: PreviewItem) -> Self {
        Self {
            collector_id: item.known.collector_id,
            name: item.known.name,
            host_name: item.known.host_name,
            effect: item.effect,
            reason: item.reason,
            configuration_id: item
                .assigned
                .as_ref()
                .map(|version| version.configuration_id),
            version: item.assigned.map(|version| version.version),
            changes: item.changes,
        }
    }
}

/// See which collectors an assignment would be for, and what would change for each
///
/// Nothing is kept or sent. By their ids, or by `name`, `host_name`, `state` or `since`; `search` looks at names and hosts.
#[utoipa::path(post, path = "/collector-configs/preview", tag = "collector-configs", request_body = PreviewRequest,
    params(ListingQuery), responses((status = 200, body = Page<Preview>), (status = 404, description = "no such configuration"),
    (status = 422, description = "a selector that is not understood, or no such version")))]
pub(super) async fn preview(
    State(configurations): State<Configurations>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Json(body): Json<PreviewRequest>,
) -> Result<axum::Json<Page<Preview>>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let listing = listing.check(SORTS)?;
    let wish = PreviewWish {
        configuration_id: body.configuration_id,
        version: body.version,
        selector: body.selector,
        priority: body.priority,
    };
    let page = configurations.preview(&principal, &wish, &listing).await?;
    Ok(axum::Json(Page {
        items: page.items.into_iter().map(Into::into).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}
