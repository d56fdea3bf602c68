//! Assignments of configurations.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use muster_clock::Timestamp;
use muster_http::{Json, ListingQuery, Page, Path, Problem, Query};
use muster_identity::{Action, Principal, Scope, TeamId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::configurations::model::{Assignment, AutoRollback};
use crate::configurations::service::{AssignmentChange, Configurations, NewAssignment, RolledBack};

/// By `rank` those that count most come first.
const SORTS: &[&str] = &["rank", "id", "updated_at"];

/// Which collectors should run which version of a configuration.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CollectorConfigAssignment {
    /// Its id.
    id: i64,
    /// Which configuration.
    configuration_id: i64,
    /// The team whose collectors it is for; absent: those of all teams.
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<TeamId>,
    /// Which collectors: requirements on their attributes.
    selector: String,
    /// Of several that are for a collector the one with the highest counts, and then the one that was made last.
    priority: i64,
    /// Which version.
    version: i64,
    /// The last version before that ran well on some collector, to which one step back leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_version: Option<i64>,
    /// Whether it moves on to each new version by itself.
    follows_newest: bool,
    /// Whether nothing new is sent.
    paused: bool,
    /// For how many seconds a collector has to be healthy until a version counts as run.
    soak_seconds: u64,
    /// What happens by itself when a version fails.
    auto_rollback: AutoRollback,
    /// On how many collectors a version fails until all go back, when they do.
    failures_until_rollback: u32,
    /// When it last went back a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    rolled_back_at: Option<Timestamp>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    rolled_back_reason: Option<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<Assignment> for CollectorConfigAssignment {
    fn from(assignment: Assignment) -> Self {
        let (rolled_back_at, rolled_back_reason) = assignment.rolled_back.unzip();
        Self {
            id: assignment.claim.id,
            configuration_id: assignment.configuration_id,
            team_id: assignment.claim.team_id,
            selector: assignment.claim.selector.to_string(),
            priority: assignment.claim.priority,
            version: assignment.version,
            previous_version: assignment.previous_version,
            follows_newest: assignment.follows_newest,
            paused: assignment.is_paused,
            soak_seconds: assignment.soak.as_secs(),
            auto_rollback: assignment.auto_rollback,
            failures_until_rollback: assignment.failures_until_rollback,
            rolled_back_at,
            rolled_back_reason,
            created_at: assignment.created_at,
            updated_at: assignment.updated_at,
        }
    }
}

/// An assignment with how far its collectors are.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CollectorConfigAssignmentDetail {
    /// The assignment.
    #[serde(flatten)]
    assignment: CollectorConfigAssignment,
    /// How many collectors that follow it are in each state.
    states: BTreeMap<String, u64>,
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct AssignmentsQuery {
    /// Only those of this configuration.
    configuration_id: Option<i64>,
}

/// List assignments of configurations
///
/// By `rank`, which is the usual order, those that count most come first: of several that are for a collector it follows the
/// first. `search` looks at selectors.
#[utoipa::path(get, path = "/collector-config-assignments", tag = "collector-configs",
    params(ListingQuery, AssignmentsQuery), responses((status = 200, body = Page<CollectorConfigAssignment>)))]
pub(super) async fn list(
    State(configurations): State<Configurations>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Query(query): Query<AssignmentsQuery>,
) -> Result<axum::Json<Page<CollectorConfigAssignment>>, Problem> {
    principal.authorize(Action::ReadCollectorConfigs, Scope::Anywhere)?;
    let listing = listing.check(SORTS)?;
    let page = configurations
        .assignments(&principal, query.configuration_id, &listing)
        .await?;
    Ok(axum::Json(Page {
        items: page.items.into_iter().map(Into::into).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// An assignment to be made.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewCollectorConfigAssignment {
    /// Which configuration.
    configuration_id: i64,
    /// Which collectors, such as `service.name=otelcol, env in (prod, staging), !canary`; `*` for every one.
    selector: String,
    /// Which version; the newest when left out. An assignment that is there keeps what is left out.
    version: Option<i64>,
    /// Of several that are for a collector the one with the highest counts; 0 when left out.
    priority: Option<i64>,
    /// Whether it moves on to each new version by itself; not when left out.
    follows_newest: Option<bool>,
    /// Whether nothing new is sent; not when left out.
    paused: Option<bool>,
    /// For how many seconds a collector has to be healthy until a version counts as run, at least 5; 30 when left out.
    soak_seconds: Option<u64>,
    /// What happens by itself when a version fails; nothing when left out.
    auto_rollback: Option<AutoRollback>,
    /// On how many collectors it fails until all go back, when they do; 1 when left out.
    failures_until_rollback: Option<u32>,
}

/// Assign a configuration to collectors
///
/// A configuration has one assignment per selector: assigning it again changes that one, and what is left out stays there.
#[utoipa::path(post, path = "/collector-config-assignments", tag = "collector-configs",
    request_body = NewCollectorConfigAssignment, responses((status = 201, body = CollectorConfigAssignment),
    (status = 200, body = CollectorConfigAssignment, description = "there was one for the same selector, which was changed"),
    (status = 404, description = "no such configuration"), (status = 422, description = "a value that is not allowed")))]
pub(super) async fn assign(
    State(configurations): State<Configurations>,
    principal: Principal,
    Json(body): Json<NewCollectorConfigAssignment>,
) -> Result<(StatusCode, axum::Json<CollectorConfigAssignment>), Problem> {
    let new = NewAssignment {
        configuration_id: body.configuration_id,
        selector: body.selector,
        change: AssignmentChange {
            version: body.version,
            priority: body.priority,
            follows_newest: body.follows_newest,
            is_paused: body.paused,
            soak: body.soak_seconds.map(Duration::from_secs),
            auto_rollback: body.auto_rollback,
            failures_until_rollback: body.failures_until_rollback,
        },
    };
    let (assignment, is_new) = configurations.assign(&principal, new).await?;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, axum::Json(assignment.into())))
}

/// An assignment of a configuration
///
/// With how many collectors that follow it are how far.
#[utoipa::path(get, path = "/collector-config-assignments/{id}", tag = "collector-configs", params(("id" = i64, Path)),
    responses((status = 200, body = CollectorConfigAssignmentDetail), (status = 404)))]
pub(super) async fn get(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<CollectorConfigAssignmentDetail>, Problem> {
    let (assignment, configuration) = configurations.find_assignment(&principal, id).await?;
    let states = configurations
        .state_counts(&principal, configuration.id, Some(id))
        .await?;
    Ok(axum::Json(CollectorConfigAssignmentDetail {
        assignment: assignment.into(),
        states,
    }))
}

/// How an assignment is to change.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct CollectorConfigAssignmentChange {
    /// Which version; it does not follow the newest any more then.
    version: Option<i64>,
    /// Of several that are for a collector the one with the highest counts.
    priority: Option<i64>,
    /// Whether it moves on to each new version by itself.
    follows_newest: Option<bool>,
    /// Whether nothing new is sent.
    paused: Option<bool>,
    /// For how many seconds a collector has to be healthy until a version counts as run.
    soak_seconds: Option<u64>,
    /// What happens by itself when a version fails.
    auto_rollback: Option<AutoRollback>,
    /// On how many collectors it fails until all go back, when they do.
    failures_until_rollback: Option<u32>,
}

/// Change an assignment
///
/// What is left out stays. Another selector is another assignment.
#[utoipa::path(patch, path = "/collector-config-assignments/{id}", tag = "collector-configs", params(("id" = i64, Path)),
    request_body = CollectorConfigAssignmentChange, responses((status = 200, body = CollectorConfigAssignment),
    (status = 404), (status = 422, description = "a value that is not allowed")))]
pub(super) async fn change(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<CollectorConfigAssignmentChange>,
) -> Result<axum::Json<CollectorConfigAssignment>, Problem> {
    let change = AssignmentChange {
        version: body.version,
        priority: body.priority,
        follows_newest: body.follows_newest,
        is_paused: body.paused,
        soak: body.soak_seconds.map(Duration::from_secs),
        auto_rollback: body.auto_rollback,
        failures_until_rollback: body.failures_until_rollback,
    };
    Ok(axum::Json(
        configurations
            .change_assignment(&principal, id, change)
            .await?
            .into(),
    ))
}

/// Delete an assignment
///
/// Its collectors follow the next one that is for them; without any they keep what they run.
#[utoipa::path(delete, path = "/collector-config-assignments/{id}", tag = "collector-configs", params(("id" = i64, Path)),
    responses((status = 204), (status = 404)))]
pub(super) async fn unassign(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    configurations.unassign(&principal, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// From where an assignment is to go back.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct CollectorConfigRollback {
    /// The version that it is thought to be on: when it is on another by now, nothing is done. So of two that want the same step
    /// one takes it, and a call that is repeated takes no second one.
    from_version: Option<i64>,
}

/// From where the assignments of a configuration are to go back.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct CollectorConfigRollbacks {
    /// The versions that assignments are thought to be on, by the assignments' ids: only those that are named go back, and
    /// nothing is done when one of them is on another version by now.
    from_versions: Option<BTreeMap<i64, i64>>,
}

/// An assignment that went back.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RolledBackCollectorConfigAssignment {
    /// What it is now.
    #[serde(flatten)]
    assignment: CollectorConfigAssignment,
    /// The version that it came from.
    from_version: i64,
}

impl From<RolledBack> for RolledBackCollectorConfigAssignment {
    fn from(rolled_back: RolledBack) -> Self {
        Self {
            assignment: rolled_back.assignment.into(),
            from_version: rolled_back.from_version,
        }
    }
}

/// The assignments that went back.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RolledBackCollectorConfigAssignments {
    /// They are.
    items: Vec<RolledBackCollectorConfigAssignment>,
    /// How many.
    total: u64,
}

/// Take an assignment one step back
///
/// To the version that it had before, or else to the one before in number. It does not follow the newest version any more.
#[utoipa::path(post, path = "/collector-config-assignments/{id}/rollback", tag = "collector-configs",
    params(("id" = i64, Path)), request_body = CollectorConfigRollback,
    responses((status = 200, body = RolledBackCollectorConfigAssignment), (status = 404),
    (status = 409, description = "there is no version before, or it is on another version than was thought")))]
pub(super) async fn roll_back(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<CollectorConfigRollback>,
) -> Result<axum::Json<RolledBackCollectorConfigAssignment>, Problem> {
    let rolled_back = configurations
        .roll_back(&principal, id, body.from_version)
        .await?;
    Ok(axum::Json(rolled_back.into()))
}

/// Take all assignments of a configuration one step back
#[utoipa::path(post, path = "/collector-configs/{id}/rollback", tag = "collector-configs", params(("id" = i64, Path)),
    request_body = CollectorConfigRollbacks,
    responses((status = 200, body = RolledBackCollectorConfigAssignments), (status = 404), (status = 409,
    description = "it is not assigned, there is no version before, or one is on another version than was thought")))]
pub(super) async fn roll_back_all(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<CollectorConfigRollbacks>,
) -> Result<axum::Json<RolledBackCollectorConfigAssignments>, Problem> {
    if body.from_versions.as_ref().is_some_and(BTreeMap::is_empty) {
        return Err(Problem::invalid(
            "from_versions",
            "names no assignment; leave it out for all of them",
        ));
    }
    let all = configurations
        .roll_back_all(&principal, id, body.from_versions)
        .await?;
    let items: Vec<_> = all.into_iter().map(Into::into).collect();
    Ok(axum::Json(RolledBackCollectorConfigAssignments {
        total: items.len() as u64,
        items,
    }))
}
