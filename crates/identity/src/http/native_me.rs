//! Our own API: what people do about themselves.

use axum::extract::State;
use axum::http::StatusCode;
use muster_http::{Json, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::principal::AnyPrincipal;
use crate::{Actor, Credential, Enrolment, Identity, Principal, SecondFactorState, User};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(me))
        .routes(routes!(change_password))
        .routes(routes!(second_factor, begin_second_factor))
        .routes(routes!(confirm_second_factor))
        .routes(routes!(disable_second_factor))
        .routes(routes!(renew_recovery_codes))
}

/// The session that goes on when the others end.
fn session_of(principal: &Principal) -> Option<i64> {
    match principal.credential {
        Credential::Session(id) => Some(id),
        Credential::ApiToken(_) => None,
    }
}

/// Who you are
#[utoipa::path(get, path = "/me", tag = "identity", responses((status = 200, body = User)))]
async fn me(
    State(identity): State<Identity>,
    principal: Principal,
) -> Result<axum::Json<User>, Problem> {
    Ok(axum::Json(identity.users.find(principal.user_id).await?))
}

#[derive(Deserialize, ToSchema)]
struct PasswordChange {
    /// The password until now.
    old_password: String,
    /// The password from now on.
    new_password: String,
}

/// Change your password
///
/// All other sessions of yours end. Also for whoever must set a new password before anything else.
#[utoipa::path(post, path = "/me/password", tag = "identity", request_body = PasswordChange,
    responses((status = 204), (status = 429, description = "too many tries; see Retry-After")))]
async fn change_password(
    State(identity): State<Identity>,
    AnyPrincipal(principal): AnyPrincipal,
    Json(body): Json<PasswordChange>,
) -> Result<StatusCode, Problem> {
    let (actor, keep) = (Actor::from(&principal), session_of(&principal));
    let (id, old, new) = (principal.user_id, &body.old_password, &body.new_password);
    identity
        .users
        .change_password(&actor, id, old, new, keep)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// See whether your logins need a second factor
#[utoipa::path(get, path = "/me/totp", tag = "identity", responses((status = 200, body = SecondFactorState)))]
async fn second_factor(
    State(identity): State<Identity>,
    principal: Principal,
) -> Result<axum::Json<SecondFactorState>, Problem> {
    let state = identity.second_factor.state(principal.user_id).await?;
    Ok(axum::Json(state))
}

#[derive(Deserialize, ToSchema)]
struct PasswordProof {
    /// Your password.
    password: String,
}

/// Begin to set up a second factor
///
/// Put the secret into an authenticator app (TOTP, RFC 6238: SHA-1, six digits, 30 seconds), then confirm with a code that
/// it shows. Until then nothing changes.
#[utoipa::path(post, path = "/me/totp", tag = "identity", request_body = PasswordProof,
    responses((status = 200, body = Enrolment), (status = 409, description = "there is one already")))]
async fn begin_second_factor(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<PasswordProof>,
) -> Result<axum::Json<Enrolment>, Problem> {
    let begun = identity
        .second_factor
        .begin(principal.user_id, &body.password)
        .await?;
    Ok(axum::Json(begun))
}

#[derive(Deserialize, ToSchema)]
struct CodeProof {
    /// A code that the app shows.
    code: String,
}

#[derive(Serialize, ToSchema)]
struct RecoveryCodes {
    /// Each is good for one login without the app; they are not shown again.
    recovery_codes: Vec<String>,
}

/// Confirm a second factor
///
/// From now on your logins need a code. Your other sessions end.
#[utoipa::path(post, path = "/me/totp/confirm", tag = "identity", request_body = CodeProof,
    responses((status = 200, body = RecoveryCodes), (status = 409), (status = 422, description = "not the code")))]
async fn confirm_second_factor(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<CodeProof>,
) -> Result<axum::Json<RecoveryCodes>, Problem> {
    let (actor, keep) = (Actor::from(&principal), session_of(&principal));
    let recovery_codes = identity
        .second_factor
        .confirm(&actor, principal.user_id, &body.code, keep)
        .await?;
    Ok(axum::Json(RecoveryCodes { recovery_codes }))
}

#[derive(Deserialize, ToSchema)]
struct FullProof {
    /// Your password.
    password: String,
    /// A code that the app shows, or a recovery code.
    code: String,
}

/// Disable your second factor
#[utoipa::path(post, path = "/me/totp/disable", tag = "identity", request_body = FullProof,
    responses((status = 204), (status = 409), (status = 422, description = "wrong password or code")))]
async fn disable_second_factor(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<FullProof>,
) -> Result<StatusCode, Problem> {
    let actor = Actor::from(&principal);
    identity
        .second_factor
        .disable(&actor, principal.user_id, &body.password, &body.code)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Get new recovery codes
///
/// The old ones are void.
#[utoipa::path(post, path = "/me/totp/recovery-codes", tag = "identity", request_body = FullProof,
    responses((status = 200, body = RecoveryCodes), (status = 409), (status = 422, description = "wrong password or code")))]
async fn renew_recovery_codes(
    State(identity): State<Identity>,
    principal: Principal,
    Json(body): Json<FullProof>,
) -> Result<axum::Json<RecoveryCodes>, Problem> {
    let actor = Actor::from(&principal);
    let recovery_codes = identity
        .second_factor
        .renew_codes(&actor, principal.user_id, &body.password, &body.code)
        .await?;
    Ok(axum::Json(RecoveryCodes { recovery_codes }))
}
