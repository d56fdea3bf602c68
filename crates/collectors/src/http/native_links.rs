//! Our own API: which host a collector runs on.

use axum::extract::State;
use axum::http::StatusCode;
use muster_clock::Timestamp;
use muster_http::{Json, Path, Problem};
use muster_identity::{CollectorId, HostId, Principal};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Collectors;
use crate::links::{LinkWish, Shown};

/// What there is between a collector and a host.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CollectorHost {
    /// The host.
    host_id: HostId,
    /// What people call it.
    host: String,
    /// `linked`, `suggested` (as long as nobody confirmed or rejected it) or `rejected`.
    state: &'static str,
    /// The attribute that named the host, such as `host.id` or `host.name`; `hand` when somebody linked the two.
    matched_by: String,
    /// The attribute's value.
    #[serde(skip_serializing_if = "String::is_empty")]
    matched_value: String,
    /// Who linked, confirmed or rejected it; absent when it came by itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    decided_by: String,
    /// Since when it is so.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

impl CollectorHost {
    pub(super) fn new(shown: Shown) -> Self {
        Self {
            host_id: shown.link.host_id,
            host: shown.host,
            state: shown.link.state.name(),
            matched_by: shown.link.matched_by,
            matched_value: shown.link.matched_value,
            decided_by: shown.link.decided_by,
            since: shown.link.since,
        }
    }
}

/// Which host.
#[derive(Deserialize, ToSchema)]
pub(super) struct WhichHost {
    /// Its id. It is in the same team as the collector.
    host_id: i64,
}

async fn decide(
    collectors: &Collectors,
    principal: &Principal,
    id: i64,
    wish: LinkWish,
) -> Result<StatusCode, Problem> {
    let id = CollectorId(id);
    collectors.decide_link(principal, id, wish).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Link a collector to a host
///
/// By hand, whatever the collector says of its machine; in the place of the host that it was linked to. It holds until it is
/// undone, or until one of the two is deleted or moved to another team.
#[utoipa::path(put, path = "/collectors/{id}/host", tag = "collectors", params(("id" = i64, Path)),
    request_body = WhichHost, responses((status = 204), (status = 404),
    (status = 422, description = "the host is in another team")))]
pub(super) async fn link(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<WhichHost>,
) -> Result<StatusCode, Problem> {
    let wish = LinkWish::Set(HostId(body.host_id));
    decide(&collectors, &principal, id, wish).await
}

/// Undo the link of a collector to its host
///
/// However it came. It does not come back by itself. A collector that is linked to no host stays as it is.
#[utoipa::path(delete, path = "/collectors/{id}/host", tag = "collectors", params(("id" = i64, Path)),
    responses((status = 204), (status = 404)))]
pub(super) async fn unlink(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    decide(&collectors, &principal, id, LinkWish::Undo).await
}

/// Confirm the host that is suggested for a collector
///
/// It is linked from now on, whatever the collector says of its machine later.
#[utoipa::path(post, path = "/collectors/{id}/host/confirm", tag = "collectors", params(("id" = i64, Path)),
    request_body = WhichHost, responses((status = 204), (status = 404),
    (status = 409, description = "the host is not suggested")))]
pub(super) async fn confirm(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<WhichHost>,
) -> Result<StatusCode, Problem> {
    let wish = LinkWish::Confirm(HostId(body.host_id));
    decide(&collectors, &principal, id, wish).await
}

/// Reject a host that is suggested for a collector
///
/// Or that it is linked to. It is neither suggested nor linked by itself any more.
#[utoipa::path(post, path = "/collectors/{id}/host/reject", tag = "collectors", params(("id" = i64, Path)),
    request_body = WhichHost, responses((status = 204), (status = 404),
    (status = 409, description = "the host is neither suggested nor linked")))]
pub(super) async fn reject(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<WhichHost>,
) -> Result<StatusCode, Problem> {
    let wish = LinkWish::Reject(HostId(body.host_id));
    decide(&collectors, &principal, id, wish).await
}
