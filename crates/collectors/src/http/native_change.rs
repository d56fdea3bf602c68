//! Our own API: what operators do about collectors.

use axum::extract::State;
use axum::http::StatusCode;
use muster_http::{Json, Path, Problem};
use muster_identity::{CollectorId, ComeBack, Principal, TeamId};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::Collectors;
use crate::operators::Wish;

async fn change(
    collectors: &Collectors,
    principal: &Principal,
    id: i64,
    wish: Wish<'_>,
) -> Result<StatusCode, Problem> {
    collectors.change(principal, CollectorId(id), wish).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Delete a collector
///
/// With everything known about it, and its keys. An agent that still runs there is refused until it comes by an enrollment
/// token; then it is a new one. To keep it out, revoke it, and end the token that it knows.
#[utoipa::path(delete, path = "/collectors/{id}", tag = "collectors", params(("id" = i64, Path)),
    responses((status = 204), (status = 404)))]
pub(super) async fn delete(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    change(&collectors, &principal, id, Wish::Delete).await
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct RevokeCollector {
    /// Why, for those who wonder later.
    reason: String,
}

/// Revoke a collector
///
/// Its keys are taken away and its connections end at once, on every server. Whoever shows one of its keys or its uid is refused,
/// by whatever enrollment token, until it is un-revoked. That keeps nobody out who knows an enrollment token and shows another
/// uid: after a theft, rotate or revoke the token (`enrollment_token_id` of the collector), too. Doing it twice is no error.
#[utoipa::path(post, path = "/collectors/{id}/revoke", tag = "collectors", params(("id" = i64, Path)),
    request_body = RevokeCollector, responses((status = 204), (status = 404)))]
pub(super) async fn revoke(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<RevokeCollector>,
) -> Result<StatusCode, Problem> {
    let reason = body.reason.trim();
    change(&collectors, &principal, id, Wish::Revoke { reason }).await
}

// A typing mistake must not decide that a key is never good again.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct UnrevokeCollector {
    /// Whether the key that it had is good again, so that an agent which goes on knocking with it is let in at once. Not when
    /// others may know the key. Without it the agent comes by its enrollment token and is offered a new one, and the key that
    /// it had is never good again.
    with_its_key: bool,
}

/// Let a revoked collector come again
#[utoipa::path(post, path = "/collectors/{id}/unrevoke", tag = "collectors", params(("id" = i64, Path)),
    request_body = UnrevokeCollector, responses((status = 204), (status = 404),
    (status = 409, description = "it has no key that could be good again")))]
pub(super) async fn unrevoke(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<UnrevokeCollector>,
) -> Result<StatusCode, Problem> {
    let how = if body.with_its_key {
        ComeBack::WithItsKey
    } else {
        ComeBack::WithoutKey
    };
    change(&collectors, &principal, id, Wish::Unrevoke(how)).await
}

/// Approve that a collector comes back
///
/// One that had a key of its own came back with an enrollment token that wants an approval for that.
#[utoipa::path(post, path = "/collectors/{id}/approve", tag = "collectors", params(("id" = i64, Path)),
    responses((status = 204), (status = 404), (status = 409, description = "it does not wait for one")))]
pub(super) async fn approve(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    change(&collectors, &principal, id, Wish::Approve).await
}

/// Have a collector restart
///
/// It is told at once when it holds a socket, else at its next request within a quarter of an hour.
#[utoipa::path(post, path = "/collectors/{id}/restart", tag = "collectors", params(("id" = i64, Path)),
    responses((status = 204), (status = 404), (status = 409, description = "it does not accept the command")))]
pub(super) async fn restart(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    change(&collectors, &principal, id, Wish::Restart).await
}

/// Renew the key of a collector
///
/// It is offered a new one; the old key stays good until the new one is used.
#[utoipa::path(post, path = "/collectors/{id}/rotate-key", tag = "collectors", params(("id" = i64, Path)),
    responses((status = 204), (status = 404), (status = 409, description = "it has none, or cannot take another")))]
pub(super) async fn rotate_key(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    change(&collectors, &principal, id, Wish::Rotate).await
}

#[derive(Deserialize, ToSchema)]
pub(super) struct TransferCollector {
    /// To which team; null takes it out of its team.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, required = true)]
    #[expect(clippy::option_option, reason = "absent and null are different wishes")]
    team_id: Option<Option<i64>>,
}

/// Null is something that was said.
#[expect(clippy::option_option, reason = "absent and null are different wishes")]
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// Move a collector to a team
#[utoipa::path(post, path = "/collectors/{id}/transfer", tag = "collectors", params(("id" = i64, Path)),
    request_body = TransferCollector, responses((status = 204), (status = 404),
    (status = 422, description = "no such team, or none is named")))]
pub(super) async fn transfer(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<TransferCollector>,
) -> Result<StatusCode, Problem> {
    let team = body.team_id.ok_or_else(|| {
        let reason =
            "has to be there: the id of a team, or null to take the collector out of its team";
        Problem::invalid("team_id", reason)
    })?;
    let team = team.map(TeamId);
    change(&collectors, &principal, id, Wish::Transfer(team)).await
}
