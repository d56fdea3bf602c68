//! Fleet's user API: labels, one by one and as documents.

use std::collections::HashMap;

use axum::Router;
use axum::extract::State;
use axum::routing::{delete, get};
use muster_http::{Json, Path, Problem, Query};
use muster_identity::{Action, Principal, Scope};
use muster_wire_fleet::host::HostsAnswer;
use muster_wire_fleet::label::{
    Label, LabelAnswer, LabelRequest, LabelSpec, LabelSummary, LabelSummaryAnswer, LabelsAnswer,
    MembershipType,
};
use muster_wire_fleet::{Empty, OneSpec, Specs};

use super::fleet_hosts::list_of;
use super::fleet_shape::{Wishes, decoded_again, label, label_type, membership, not_found, told};
use crate::operators::{Hosts, LabelChange, LabelSpecification, NewLabel};
use crate::record::{LabelId, LabelMembership, LabelRecord};

pub(super) fn routes() -> Router<Hosts> {
    Router::new()
        .route("/labels", get(list).post(create))
        .route("/labels/summary", get(summary))
        .route("/labels/id/{id}", delete(delete_by_id))
        .route(
            "/labels/{id}",
            get(one).patch(change).delete(delete_by_name),
        )
        .route("/labels/{id}/hosts", get(hosts_of))
        .route("/spec/labels", get(specs).post(apply))
        .route("/spec/labels/{name}", get(spec))
}

fn label_id(text: &str) -> Result<LabelId, Problem> {
    let id = text.parse().map(LabelId);
    id.map_err(|_| not_found("Label", text))
}

async fn list(
    State(hosts): State<Hosts>,
    principal: Principal,
) -> Result<axum::Json<LabelsAnswer>, Problem> {
    principal.authorize(Action::ReadLabels, Scope::Global)?;
    let labels = hosts.labels(&principal.visible_teams()).await?;
    let shown = labels
        .iter()
        .map(|(record, count)| label(record).counted(*count));
    Ok(axum::Json(LabelsAnswer {
        labels: shown.collect(),
    }))
}

async fn summary(
    State(hosts): State<Hosts>,
    principal: Principal,
) -> Result<axum::Json<LabelSummaryAnswer>, Problem> {
    principal.authorize(Action::ReadLabels, Scope::Global)?;
    let labels = hosts.labels(&principal.visible_teams()).await?;
    let shown = labels.into_iter().map(|(record, _)| LabelSummary {
        id: record.id.0,
        label_type: label_type(&record),
        name: record.name,
        description: record.description,
    });
    Ok(axum::Json(LabelSummaryAnswer {
        labels: shown.collect(),
    }))
}

/// A label on its own; a manual one with those of its hosts that may be seen.
async fn shown(hosts: &Hosts, principal: &Principal, id: LabelId) -> Result<Label, Problem> {
    let visible = principal.visible_teams();
    let (record, count) = hosts
        .find_label(&visible, id)
        .await
        .map_err(|error| told(error, &id.to_string()))?;
    let mut shown = label(&record).counted(count);
    if is_manual(&record) {
        let query = crate::operators::HostQuery {
            label_id: Some(id.0),
            ..Default::default()
        };
        let ids = hosts.matching(principal, None, &query).await?;
        shown.host_ids = Some(ids.into_iter().map(|id| id.0).collect());
    }
    Ok(shown)
}

fn is_manual(record: &LabelRecord) -> bool {
    !record.builtin && record.membership == LabelMembership::Manual
}

async fn one(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<LabelAnswer>, Problem> {
    principal.authorize(Action::ReadLabels, Scope::Global)?;
    let label = shown(&hosts, &principal, label_id(&id)?).await?;
    Ok(axum::Json(LabelAnswer { label }))
}

async fn create(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(body): Json<LabelRequest>,
) -> Result<axum::Json<LabelAnswer>, Problem> {
    let new = NewLabel {
        name: body.name.unwrap_or_default(),
        description: body.description.unwrap_or_default(),
        query: body.query.unwrap_or_default(),
        platform: body.platform.unwrap_or_default(),
        hosts: body.hosts,
        host_ids: body.host_ids,
    };
    let record = hosts.create_label(&principal, new).await?;
    let label = shown(&hosts, &principal, record.id).await?;
    Ok(axum::Json(LabelAnswer { label }))
}

async fn change(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
    Json(body): Json<LabelRequest>,
) -> Result<axum::Json<LabelAnswer>, Problem> {
    // Query and platform are not changed on this way; clients that send them send what they read.
    let change = LabelChange {
        name: body.name,
        description: body.description,
        hosts: body.hosts,
        host_ids: body.host_ids,
        ..LabelChange::default()
    };
    let id = label_id(&id)?;
    let record = hosts.change_label(&principal, id, change).await?;
    let label = shown(&hosts, &principal, record.id).await?;
    Ok(axum::Json(LabelAnswer { label }))
}

async fn delete_by_id(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<Empty>, Problem> {
    hosts.delete_label(&principal, label_id(&id)?).await?;
    Ok(axum::Json(Empty {}))
}

async fn delete_by_name(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<axum::Json<Empty>, Problem> {
    principal.authorize(Action::ReadLabels, Scope::Global)?;
    let record = named(&hosts, &name).await?;
    hosts.delete_label(&principal, record.id).await?;
    Ok(axum::Json(Empty {}))
}

/// The label of exactly that name, else of that name decoded once more.
pub(super) async fn named(hosts: &Hosts, name: &str) -> Result<LabelRecord, Problem> {
    if let Some(record) = hosts.find_label_by_name(name).await? {
        return Ok(record);
    }
    let Some(decoded) = decoded_again(name) else {
        return Err(not_found("Label", name));
    };
    if let Some(record) = hosts.find_label_by_name(&decoded).await? {
        return Ok(record);
    }
    Err(not_found("Label", &decoded))
}

async fn hosts_of(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<axum::Json<HostsAnswer>, Problem> {
    let id = label_id(&id)?;
    list_of(&hosts, &principal, Wishes(query), Some(id.0)).await
}

/// A label as a document. The members of a manual label are told by what each host is matched by, which is unique, so
/// that applying what was read changes nothing; only those who see all hosts get them.
async fn document(
    hosts: &Hosts,
    principal: &Principal,
    record: LabelRecord,
) -> Result<LabelSpec, Problem> {
    let sees_all = principal.visible_teams() == muster_identity::TeamFilter::All;
    let members = if is_manual(&record) && sees_all {
        Some(hosts.members_of(record.id).await?)
    } else {
        None
    };
    Ok(LabelSpec {
        id: record.id.0,
        label_type: label_type(&record),
        label_membership_type: membership(&record),
        name: record.name,
        description: record.description,
        query: record.query,
        platform: record.platform,
        hosts: members,
    })
}

async fn specs(
    State(hosts): State<Hosts>,
    principal: Principal,
) -> Result<axum::Json<Specs<LabelSpec>>, Problem> {
    principal.authorize(Action::ReadLabels, Scope::Global)?;
    let mut specs = Vec::new();
    for (record, _) in hosts.labels(&principal.visible_teams()).await? {
        specs.push(document(&hosts, &principal, record).await?);
    }
    Ok(axum::Json(Specs { specs }))
}

async fn spec(
    State(hosts): State<Hosts>,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<axum::Json<OneSpec<LabelSpec>>, Problem> {
    principal.authorize(Action::ReadLabels, Scope::Global)?;
    let record = named(&hosts, &name).await?;
    let specs = document(&hosts, &principal, record).await?;
    Ok(axum::Json(OneSpec { specs }))
}

async fn apply(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(body): Json<Specs<LabelSpec>>,
) -> Result<axum::Json<Empty>, Problem> {
    let specifications = body.specs.into_iter().map(|spec| LabelSpecification {
        name: spec.name,
        description: spec.description,
        query: spec.query,
        platform: spec.platform,
        is_manual: spec.label_membership_type == MembershipType::Manual,
        hosts: spec.hosts,
    });
    let specifications = specifications.collect();
    hosts.apply_labels(&principal, specifications).await?;
    Ok(axum::Json(Empty {}))
}
