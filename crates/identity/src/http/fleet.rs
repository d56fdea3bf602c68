//! Fleet's user API: setup, logins and activities. Users and enroll secrets stand beside.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use muster_clock::Timestamp;
use muster_http::{ClientAddress, Json, ListingQuery, OrderDirection, Problem, Query};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fleet_users::{FleetUser, available_teams};
use super::{fleet_secrets, fleet_users};
use crate::{Action, Actor, AuditFilter, Credential, Identity, NewUser, Principal};

/// What setup has to know of the server that it runs in.
#[async_trait]
pub trait SetupObserver: Send + Sync + 'static {
    /// Where clients reach the server.
    fn server_url(&self) -> String;
    /// The first administrator is made; whoever did it named the organisation so.
    async fn set_up(&self, organisation: &str);
}

/// The routes, relative to `/api/{version}/fleet`.
pub fn fleet_routes(identity: Identity) -> Router {
    Router::new()
        .route("/login", post(log_in))
        .route("/logout", post(log_out))
        .route("/me", get(me))
        .route("/activities", get(activities))
        .merge(fleet_users::routes())
        .merge(fleet_secrets::routes())
        .with_state(identity)
}

/// The setup call, which stands outside the versions. Absolute paths.
pub fn fleet_setup_routes(identity: Identity, observer: Arc<dyn SetupObserver>) -> Router {
    Router::new()
        .route("/api/v1/setup", post(set_up))
        .route("/api/setup", post(set_up))
        .with_state((identity, observer))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Setup {
    admin: Option<SetupAdmin>,
    org_info: Option<Value>,
    server_url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SetupAdmin {
    name: String,
    email: String,
    password: String,
    password_confirmation: Option<String>,
}

async fn set_up(
    State((identity, observer)): State<(Identity, Arc<dyn SetupObserver>)>,
    address: ClientAddress,
    Json(body): Json<Setup>,
) -> Result<axum::Json<Value>, Problem> {
    let gone = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "the server is set up already",
        )
    };
    if identity.users.any().await? {
        return Err(gone());
    }
    let admin = body
        .admin
        .ok_or_else(|| Problem::invalid("admin", "is missing"))?;
    if admin
        .password_confirmation
        .is_some_and(|confirmation| confirmation != admin.password)
    {
        return Err(Problem::invalid(
            "password_confirmation",
            "does not match the password",
        ));
    }
    let new = NewUser {
        name: admin.name,
        email: admin.email,
        password: admin.password,
        ..NewUser::default()
    };
    let user = identity
        .users
        .create_first(&Actor::setup(address), new)
        .await?
        .ok_or_else(gone)?;
    let named = body
        .org_info
        .as_ref()
        .and_then(|info| info["org_name"].as_str());
    if let Some(name) = named.map(str::trim).filter(|name| !name.is_empty()) {
        observer.set_up(name).await;
    }
    let token = identity.sessions.begin(&user, address).await?;
    Ok(axum::Json(json!({
        "admin": FleetUser::new(&user, &[]),
        "org_info": body.org_info.unwrap_or_else(|| json!({})),
        "server_url": body.server_url.unwrap_or_else(|| observer.server_url()),
        "osquery_enroll_secret": null,
        "token": token,
    })))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoginBody {
    email: String,
    password: String,
}

async fn log_in(
    State(identity): State<Identity>,
    address: ClientAddress,
    Json(body): Json<LoginBody>,
) -> Result<axum::Json<Value>, Problem> {
    let login = identity
        .sessions
        .log_in_as_in_fleet(&body.email, &body.password, address)
        .await?;
    let teams = available_teams(&identity, &login.user).await?;
    let user = FleetUser::new(&login.user, &teams);
    Ok(axum::Json(
        json!({ "user": user, "available_teams": teams, "token": login.token }),
    ))
}

async fn log_out(
    State(identity): State<Identity>,
    principal: Principal,
) -> Result<axum::Json<Value>, Problem> {
    if let Credential::Session(id) = principal.credential {
        identity.sessions.end(&Actor::from(&principal), id).await?;
    }
    Ok(axum::Json(json!({})))
}

async fn me(
    State(identity): State<Identity>,
    principal: Principal,
) -> Result<axum::Json<Value>, Problem> {
    let user = identity.users.find(principal.user_id).await?;
    let teams = available_teams(&identity, &user).await?;
    Ok(axum::Json(
        json!({ "user": FleetUser::new(&user, &teams), "available_teams": teams }),
    ))
}

/// Paging as Fleet writes it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct FleetPaging {
    page: Option<u64>,
    per_page: Option<u32>,
    order_direction: Option<String>,
}

/// One activity, as Fleet's user API shows it.
#[derive(Serialize)]
struct Activity {
    created_at: Timestamp,
    id: i64,
    actor_full_name: String,
    actor_id: Option<i64>,
    actor_gravatar: &'static str,
    actor_email: String,
    #[serde(rename = "type")]
    kind: String,
    details: Value,
}

async fn activities(
    State(identity): State<Identity>,
    principal: Principal,
    Query(paging): Query<FleetPaging>,
) -> Result<axum::Json<Value>, Problem> {
    // They tell of all teams: only for those with a role in all.
    principal.authorize(Action::ReadHosts, crate::Scope::Global)?;
    let mut listing = ListingQuery::default().check(&["id"])?;
    listing.limit = paging
        .per_page
        .unwrap_or(100)
        .clamp(1, muster_http::MAX_PAGE_ROWS);
    listing.offset = paging
        .page
        .unwrap_or(0)
        .saturating_mul(u64::from(listing.limit));
    if paging.order_direction.as_deref() == Some("desc") {
        listing.direction = OrderDirection::Descending;
    }
    let page = identity
        .audit
        .list(&listing, &AuditFilter::default())
        .await?;
    let has_next = page.next_cursor.is_some();
    // Details can tell of things that only admins may see.
    let details = principal.may(Action::ReadAudit, crate::Scope::Global);
    let activities: Vec<Activity> = page
        .items
        .into_iter()
        .map(|record| Activity {
            created_at: record.at,
            id: record.id,
            actor_full_name: record.actor_name,
            actor_id: record.actor_id.map(|id| id.0),
            actor_gravatar: "",
            actor_email: record.actor_email,
            kind: record.action,
            details: record
                .after
                .or(record.before)
                .filter(|_| details)
                .unwrap_or_else(|| json!({})),
        })
        .collect();
    let meta = json!({ "has_next_results": has_next, "has_previous_results": listing.offset > 0 });
    Ok(axum::Json(
        json!({ "meta": meta, "activities": activities }),
    ))
}
