//! Fleet's user API: the target picker, and numbers for names.

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use muster_http::{Json, Listing, OrderDirection, Problem};
use muster_identity::{Action, Principal, Scope};
use muster_wire_fleet::host::{Host, HostsAnswer};
use muster_wire_fleet::target::{
    HostSearchRequest, SelectedIds, Targets, TargetsAnswer, TargetsCountAnswer, TargetsRequest,
};
use muster_wire_fleet::team::Team;
use muster_wire_fleet::user::Translate;

use super::fleet_hosts::identified;
use super::fleet_labels::named;
use super::fleet_shape::{label, listed, not_found, team_names};
use crate::operators::{HostQuery, Hosts, Presence, Selection, presence};

/// How many hosts the picker offers.
const OFFERED_HOSTS: u32 = 10;

pub(super) fn routes() -> Router<Hosts> {
    Router::new()
        .route("/targets", post(targets))
        .route("/targets/count", post(count))
        .route("/hosts/search", post(search))
        .route("/translate", post(translate))
}

/// Hosts that are chosen: all, online, offline and missing.
#[derive(Default)]
struct Counts {
    all: u64,
    online: u64,
    offline: u64,
    missing: u64,
}

async fn chosen(
    hosts: &Hosts,
    principal: &Principal,
    selected: SelectedIds,
) -> Result<Counts, Problem> {
    let selection = Selection {
        host_ids: selected.hosts,
        label_ids: selected.labels,
        team_ids: selected.teams,
        ..Selection::default()
    };
    let found = hosts.select(&selection, &principal.visible_teams()).await?;
    let now = hosts.now();
    let mut counts = Counts::default();
    for host in &found {
        counts.all += 1;
        match presence(host, now) {
            Presence::Online => counts.online += 1,
            Presence::Offline => counts.offline += 1,
            Presence::Missing => {
                counts.offline += 1;
                counts.missing += 1;
            }
        }
    }
    Ok(counts)
}

/// Hosts that a text finds, without some.
async fn offered(
    hosts: &Hosts,
    principal: &Principal,
    text: &str,
    without: &[i64],
) -> Result<Vec<Host>, Problem> {
    let text = text.trim();
    let listing = Listing {
        // Those that are left out must not use the places up.
        limit: OFFERED_HOSTS.saturating_add(u32::try_from(without.len()).unwrap_or(u32::MAX)),
        offset: 0,
        sort: "seen_at",
        direction: OrderDirection::Descending,
        search: Some(text.to_owned()).filter(|text| !text.is_empty()),
    };
    let page = hosts
        .list(principal, &listing, &HostQuery::default())
        .await?;
    let teams = team_names(hosts).await?;
    let now = hosts.now();
    let left = page
        .items
        .iter()
        .filter(|host| !without.contains(&host.id.0));
    Ok(left
        .take(OFFERED_HOSTS as usize)
        .map(|host| listed(host, &teams, now))
        .collect())
}

async fn targets(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(body): Json<TargetsRequest>,
) -> Result<axum::Json<TargetsAnswer>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let wanted = body.query.trim().to_lowercase();
    let is_like = |name: &str| name.to_lowercase().contains(&wanted);
    let visible = principal.visible_teams();
    let found = offered(&hosts, &principal, &body.query, &body.selected.hosts).await?;
    let labels = hosts.labels(&visible).await?;
    let teams = hosts.identity().teams.list(&visible).await?;
    let counts = chosen(&hosts, &principal, body.selected.clone()).await?;
    Ok(axum::Json(TargetsAnswer {
        targets: Targets {
            hosts: found,
            labels: labels
                .iter()
                .filter(|(record, _)| is_like(&record.name))
                .filter(|(record, _)| !body.selected.labels.contains(&record.id.0))
                .map(|(record, count)| label(record).counted(*count))
                .collect(),
            teams: teams
                .into_iter()
                .filter(|team| is_like(&team.name) && !body.selected.teams.contains(&team.id.0))
                .map(|team| Team {
                    id: team.id.0,
                    created_at: team.created_at,
                    name: team.name,
                    description: team.description,
                    ..Team::default()
                })
                .collect(),
        },
        targets_count: counts.all,
        targets_online: counts.online,
        targets_offline: counts.offline,
        targets_missing_in_action: counts.missing,
    }))
}

async fn count(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(body): Json<TargetsRequest>,
) -> Result<axum::Json<TargetsCountAnswer>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let counts = chosen(&hosts, &principal, body.selected).await?;
    Ok(axum::Json(TargetsCountAnswer {
        targets_count: counts.all,
        targets_online: counts.online,
        targets_offline: counts.offline,
    }))
}

async fn search(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(body): Json<HostSearchRequest>,
) -> Result<axum::Json<HostsAnswer>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let hosts = offered(&hosts, &principal, &body.query, &body.excluded_host_ids).await?;
    Ok(axum::Json(HostsAnswer { hosts }))
}

async fn translate(
    State(hosts): State<Hosts>,
    principal: Principal,
    Json(mut body): Json<Translate>,
) -> Result<axum::Json<Translate>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let visible = principal.visible_teams();
    for item in &mut body.list {
        let name = item.payload.identifier.clone();
        item.payload.id = match item.kind.as_str() {
            "host" => identified(&hosts, &principal, &name).await?.id.0,
            "label" => named(&hosts, &name).await?.id.0,
            "team" | "fleet" => {
                let team = hosts.identity().teams.find_by_name(&name).await?;
                let team = team.filter(|team| visible.admits(Some(team.id)));
                team.ok_or_else(|| not_found("Team", &name))?.id.0
            }
            "user" => {
                principal.authorize(Action::ReadUsers, Scope::Global)?;
                let user = hosts.identity().users.find_by_email(&name).await?;
                user.ok_or_else(|| not_found("User", &name))?.id.0
            }
            other => {
                return Err(Problem::bad_request(format!("Type {other} is unknown. ")));
            }
        };
    }
    Ok(axum::Json(body))
}
