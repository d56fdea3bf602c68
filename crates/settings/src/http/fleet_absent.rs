//! Fleet's user API: what Fleet has and Muster does not have (yet).
//!
//! Clients list these things as a matter of course (`fleetctl get packs`, `gitops --dry-run`), so lists are answered: they are
//! empty, in the form that each has there (recorded: some are `[]`, some `null`). One thing by its name or number is not
//! there (404). Who wants to make one is refused by a sentence, which clients print; an empty list of wishes is granted.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use muster_http::{Json, Path, Problem, Query};
use muster_identity::{Action, Identity, Principal, Scope, TeamId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fleet_batches::{Whose, none};
use crate::SettingsService;

/// What is not there, as sentences have it.
const POLICIES: &str = "policies";
const PACKS: &str = "packs";
const CARVES: &str = "file carving";
const SCRIPTS: &str = "scripts";
const INVITES: &str = "invitations by mail";
const SOFTWARE: &str = "software to install";

#[derive(Clone)]
struct Rooms {
    identity: Identity,
    settings: SettingsService,
}

/// The routes, relative to `/api/{version}/fleet`.
pub fn fleet_absent_routes(identity: Identity, settings: SettingsService) -> Router {
    let rooms = Rooms { identity, settings };
    let mut router = Router::new()
        .route("/packs", get(packs).post(make::<Pack>))
        .route("/packs/{id}", get(no_pack).patch(no_pack).delete(no_pack))
        .route("/packs/id/{id}", delete(no_pack))
        .route("/packs/{id}/scheduled", get(no_pack))
        .route("/spec/packs", get(pack_specs).post(apply::<Pack>))
        .route("/spec/packs/{name}", get(no_pack))
        .route("/policies/count", get(policy_count))
        .route("/policies/{id}", get(no_policy).patch(no_policy))
        .route("/policies/delete", post(delete_policies))
        .route("/global/policies/{id}", get(no_policy).patch(no_policy))
        .route("/global/policies/delete", post(delete_policies))
        .route("/spec/policies", post(apply::<Policy>))
        .route("/carves", get(carves))
        .route("/carves/{id}", get(no_carve))
        .route("/carves/{id}/block/{block}", get(no_carve_block))
        .route("/scripts", get(scripts).post(make::<Script>))
        .route("/scripts/run", post(make::<Script>))
        .route("/scripts/run/sync", post(make::<Script>))
        .route("/scripts/results/{id}", get(no_script))
        .route("/vulnerabilities", get(vulnerabilities))
        .route("/vulnerabilities/{cve}", get(no_vulnerability))
        .route("/invites", get(invites).post(make::<Invite>))
        .route("/macadmins", get(macadmins))
        .route("/trigger", post(no_trigger))
        .route("/software/batch", post(software_batch))
        .route("/software/batch/{id}", get(software_batch_state))
        .route("/software/app_store_apps/batch", post(app_store_batch))
        .route("/setup_experience/script", delete(no_setup_script))
        .route("/sso", get(single_sign_on).post(no_single_sign_on));
    for name in ["/policies", "/global/policies"] {
        router = router.route(name, get(policies).post(make::<Policy>));
    }
    for name in ["/schedule", "/global/schedule"] {
        router = router.route(name, get(schedule));
    }
    for team in ["/teams/{id}", "/team/{id}", "/fleets/{id}", "/fleet/{id}"] {
        router = router
            .route(
                &format!("{team}/policies"),
                get(team_policies).post(make::<Policy>),
            )
            .route(&format!("{team}/policies/delete"), post(delete_policies))
            .route(&format!("{team}/schedule"), get(team_schedule));
    }
    router.with_state(rooms)
}

/// A kind of thing that cannot be made.
trait Absent {
    /// As sentences have it.
    const WHAT: &'static str;
    /// What who makes one has to be allowed.
    const ACTION: Action;
}

struct Pack;
struct Policy;
struct Script;
struct Invite;

impl Absent for Pack {
    const WHAT: &'static str = PACKS;
    const ACTION: Action = Action::WriteQueries;
}

impl Absent for Policy {
    const WHAT: &'static str = POLICIES;
    const ACTION: Action = Action::WriteQueries;
}

impl Absent for Script {
    const WHAT: &'static str = SCRIPTS;
    const ACTION: Action = Action::WriteQueries;
}

impl Absent for Invite {
    const WHAT: &'static str = INVITES;
    const ACTION: Action = Action::WriteUsers;
}

fn sentence(what: &str) -> String {
    format!("Muster does not have {what} yet")
}

/// Whether somebody may look at what would be there.
fn may_look(principal: &Principal) -> Result<(), Problem> {
    // Nothing is there to be seen, but who may not see anything of the kind learns that first.
    principal.authorize(Action::ReadQueries, Scope::Anywhere)
}

async fn make<T: Absent>(principal: Principal) -> Result<StatusCode, Problem> {
    principal.authorize(T::ACTION, Scope::Anywhere)?;
    Err(Problem::invalid("base", sentence(T::WHAT)))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Specs {
    specs: Option<Vec<Value>>,
}

async fn apply<T: Absent>(
    principal: Principal,
    Json(wishes): Json<Specs>,
) -> Result<axum::Json<Value>, Problem> {
    principal.authorize(T::ACTION, Scope::Anywhere)?;
    none("specs", T::WHAT, wishes.specs)?;
    Ok(axum::Json(json!({})))
}

fn empty(principal: &Principal, answer: Value) -> Result<axum::Json<Value>, Problem> {
    may_look(principal)?;
    Ok(axum::Json(answer))
}

/// What lists say of the pages beside them.
fn only_page() -> Value {
    json!({ "has_next_results": false, "has_previous_results": false })
}

async fn packs(principal: Principal) -> Result<axum::Json<Value>, Problem> {
    empty(&principal, json!({ "packs": [] }))
}

async fn pack_specs(principal: Principal) -> Result<axum::Json<Value>, Problem> {
    empty(&principal, json!({ "specs": [] }))
}

async fn no_pack(principal: Principal) -> Result<StatusCode, Problem> {
    may_look(&principal)?;
    Err(Problem::not_found("the pack"))
}

async fn policies(principal: Principal) -> Result<axum::Json<Value>, Problem> {
    empty(&principal, json!({ "policies": [] }))
}

async fn policy_count(principal: Principal) -> Result<axum::Json<Value>, Problem> {
    empty(&principal, json!({ "count": 0 }))
}

async fn no_policy(principal: Principal) -> Result<StatusCode, Problem> {
    may_look(&principal)?;
    Err(Problem::not_found("the policy"))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ids {
    ids: Option<Vec<i64>>,
}

async fn delete_policies(
    principal: Principal,
    Json(wishes): Json<Ids>,
) -> Result<axum::Json<Value>, Problem> {
    principal.authorize(Policy::ACTION, Scope::Anywhere)?;
    match wishes.ids.unwrap_or_default().first() {
        None => Ok(axum::Json(json!({ "deleted": [] }))),
        Some(id) => Err(Problem::not_found(format!("Policy {id}"))),
    }
}

/// Nothing for who may not see the team.
async fn visible(rooms: &Rooms, principal: &Principal, id: i64) -> Result<(), Problem> {
    may_look(principal)?;
    let team = TeamId(id);
    // Who writes documents (gitops) sees teams without seeing hosts.
    if !principal.may(Action::ReadTeams, Scope::Team(Some(team))) {
        return Err(Problem::not_found(format!("Team {id}")));
    }
    rooms.identity.teams.find(team).await?;
    Ok(())
}

async fn team_policies(
    State(rooms): State<Rooms>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Value>, Problem> {
    visible(&rooms, &principal, id).await?;
    // Without policies of its own Fleet leaves `policies` out; with a filter it has the one list only.
    Ok(axum::Json(
        json!({ "policies": [], "inherited_policies": [] }),
    ))
}

async fn schedule(principal: Principal) -> Result<axum::Json<Value>, Problem> {
    empty(&principal, json!({ "global_schedule": [] }))
}

async fn team_schedule(
    State(rooms): State<Rooms>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Value>, Problem> {
    visible(&rooms, &principal, id).await?;
    Ok(axum::Json(json!({ "scheduled": [] })))
}

async fn carves(principal: Principal) -> Result<axum::Json<Value>, Problem> {
    // As in Fleet: what hosts hand over may be anything, so observers do not see it.
    principal.authorize(Action::WriteQueries, Scope::Anywhere)?;
    Ok(axum::Json(json!({ "carves": null })))
}

async fn no_carve(principal: Principal, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    principal.authorize(Action::WriteQueries, Scope::Anywhere)?;
    let what = CARVES;
    Err(Problem::not_found(format!(
        "Carve {id} (Muster does not have {what} yet)"
    )))
}

async fn no_carve_block(
    principal: Principal,
    Path((id, _)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    no_carve(principal, Path(id)).await
}

async fn scripts(principal: Principal) -> Result<axum::Json<Value>, Problem> {
    empty(&principal, json!({ "meta": only_page(), "scripts": null }))
}

async fn no_script(principal: Principal) -> Result<StatusCode, Problem> {
    may_look(&principal)?;
    Err(Problem::not_found("the script's result"))
}

async fn vulnerabilities(
    State(rooms): State<Rooms>,
    principal: Principal,
) -> Result<axum::Json<Value>, Problem> {
    let now = rooms.settings.now();
    let answer = json!({ "vulnerabilities": null, "count": 0, "counts_updated_at": now, "meta": only_page() });
    empty(&principal, answer)
}

async fn no_vulnerability(principal: Principal) -> Result<StatusCode, Problem> {
    may_look(&principal)?;
    Err(Problem::not_found("the vulnerability"))
}

async fn invites(principal: Principal) -> Result<axum::Json<Value>, Problem> {
    principal.authorize(Action::WriteUsers, Scope::Anywhere)?;
    Ok(axum::Json(json!({ "invites": [] })))
}

/// What Macs say of Munki and device management, of all of them: nothing is asked about either.
async fn macadmins(
    State(rooms): State<Rooms>,
    principal: Principal,
) -> Result<axum::Json<Value>, Problem> {
    let now = rooms.settings.now();
    let answer = json!({ "macadmins": {
        "counts_updated_at": now,
        "munki_versions": [],
        "munki_issues": [],
        "mobile_device_management_enrollment_status": {
            "enrolled_manual_hosts_count": 0,
            "enrolled_automated_hosts_count": 0,
            "pending_hosts_count": 0,
            "unenrolled_hosts_count": 0,
            "hosts_count": 0,
        },
        "mobile_device_management_solution": [],
    } });
    empty(&principal, answer)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Trigger {
    name: String,
}

async fn no_trigger(
    principal: Principal,
    Query(trigger): Query<Trigger>,
) -> Result<StatusCode, Problem> {
    principal.authorize(Action::WriteSettings, Scope::Global)?;
    let name: String = trigger.name.chars().take(64).collect();
    Err(Problem::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("nothing is triggered by {name:?}: Muster's background work runs by itself"),
    ))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Batch {
    software: Option<Vec<Value>>,
    app_store_apps: Option<Vec<Value>>,
}

/// The id of a batch with nothing in it: there is nothing to be waited for, so all such batches are one.
const EMPTY_BATCH: &str = "00000000-0000-4000-8000-000000000000";

async fn software_batch(
    State(rooms): State<Rooms>,
    principal: Principal,
    Query(whose): Query<Whose>,
    Json(batch): Json<Batch>,
) -> Result<(StatusCode, axum::Json<Value>), Problem> {
    let is_dry_run = whose.is_dry_run();
    whose.authorize(&rooms.identity, &principal).await?;
    none("software", SOFTWARE, batch.software)?;
    let id = if is_dry_run { "" } else { EMPTY_BATCH };
    Ok((
        StatusCode::ACCEPTED,
        axum::Json(json!({ "request_uuid": id })),
    ))
}

async fn software_batch_state(
    State(rooms): State<Rooms>,
    principal: Principal,
    Query(whose): Query<Whose>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    whose.authorize(&rooms.identity, &principal).await?;
    if id != EMPTY_BATCH {
        return Err(Problem::not_found("the batch of software"));
    }
    Ok(axum::Json(
        json!({ "status": "completed", "message": "", "packages": null }),
    ))
}

async fn app_store_batch(
    State(rooms): State<Rooms>,
    principal: Principal,
    Query(whose): Query<Whose>,
    Json(batch): Json<Batch>,
) -> Result<axum::Json<Value>, Problem> {
    let is_dry_run = whose.is_dry_run();
    whose.authorize(&rooms.identity, &principal).await?;
    none("app_store_apps", "apps of a store", batch.app_store_apps)?;
    let list = if is_dry_run { Value::Null } else { json!([]) };
    Ok(axum::Json(json!({ "app_store_apps": list })))
}

/// Open to everybody: login pages ask for it.
async fn single_sign_on() -> axum::Json<Value> {
    axum::Json(json!({ "settings": { "idp_name": "", "idp_image_url": "", "sso_enabled": false } }))
}

async fn no_single_sign_on() -> Problem {
    Problem::bad_request("organization not configured to use sso")
}

/// That there is none is what is wished for.
async fn no_setup_script(
    State(rooms): State<Rooms>,
    principal: Principal,
    Query(whose): Query<Whose>,
) -> Result<axum::Json<Value>, Problem> {
    whose.authorize(&rooms.identity, &principal).await?;
    Ok(axum::Json(json!({})))
}
