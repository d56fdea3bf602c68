//! Our own API: which features are dark on which hosts.

use axum::extract::State;
use muster_clock::Timestamp;
use muster_http::{ListingQuery, Page, Problem, Query};
use muster_identity::{Action, HostId, Principal, Scope, TeamId};
use muster_negotiation::Capability;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::operators::{
    DarkBecause, DarkFeature, DarkHost, FeatureSummary, Hosts, SKEW_SORTS, SkewQuery,
};

/// The routes, relative to `/api/muster`.
pub fn native_skew_routes(hosts: Hosts) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(summary))
        .with_state(hosts)
}

/// A process because of which a feature is dark.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Because {
    /// `muster-server`; or the program that speaks for the host: `muster-agent`, `orbit` or, when there is neither, `osquery`.
    process: String,
    /// Its version, as far as it is known.
    version: String,
    /// Which server, for those who may see servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    /// Since when: of a server, its start; of a program on a host, when it ceased to say the capability, or when the host
    /// first enrolled if it never did.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// What to do about it.
    update: String,
}

impl From<DarkBecause> for Because {
    fn from(because: DarkBecause) -> Self {
        Self {
            process: because.process,
            version: because.version,
            server: because.server,
            since: because.since,
            update: because.remedy,
        }
    }
}

/// A feature that is dark on a host.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Dark {
    /// What people call it.
    feature: &'static str,
    /// The capability that it depends on.
    capability: &'static str,
    /// What is different while it is dark.
    effect: &'static str,
    /// Since when at the latest.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Because of which processes. It is there when all of them are updated.
    because: Vec<Because>,
}

impl Dark {
    /// All that have a name for users.
    pub(crate) fn all(features: Vec<DarkFeature>) -> Vec<Self> {
        let dark = |dark: DarkFeature| {
            let feature = dark.capability.feature()?;
            Some(Self {
                feature: feature.name,
                capability: dark.capability.name(),
                effect: feature.dark,
                since: dark.since,
                because: dark.because.into_iter().map(Because::from).collect(),
            })
        };
        features.into_iter().filter_map(dark).collect()
    }
}

/// A host on which features are dark.
#[derive(Debug, Serialize, ToSchema)]
struct SkewedHost {
    /// Its id.
    host_id: HostId,
    /// What people call it.
    display_name: String,
    /// Its team.
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<TeamId>,
    /// When it was last heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    seen_at: Option<Timestamp>,
    /// The program that speaks for it: `muster-agent`, `orbit` or, when there is neither, `osquery`.
    process: String,
    /// Its version, as far as it is known.
    version: String,
    /// What is dark.
    dark_features: Vec<Dark>,
}

impl From<DarkHost> for SkewedHost {
    fn from(host: DarkHost) -> Self {
        Self {
            host_id: host.id,
            display_name: host.display_name,
            team_id: host.team_id,
            seen_at: host.seen_at,
            process: host.process,
            version: host.version,
            dark_features: Dark::all(host.dark),
        }
    }
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct SkewParameters {
    /// Only hosts of this team; 0 for hosts without one.
    team_id: Option<i64>,
    /// Only this host.
    host_id: Option<i64>,
    /// Only the feature of this capability, such as `muster_notify`.
    capability: Option<String>,
    /// Only what is dark because of this process: `muster-server`, `muster-agent`, `orbit` or `osquery`.
    process: Option<String>,
}

impl From<SkewParameters> for SkewQuery {
    fn from(query: SkewParameters) -> Self {
        Self {
            team_id: query.team_id,
            host_id: query.host_id,
            capability: query.capability,
            process: query.process,
        }
    }
}

/// Whether the names of servers are told.
pub(crate) fn may_see_servers(principal: &Principal) -> bool {
    principal.may(Action::ReadServer, Scope::Global)
}

/// List hosts on which features are dark
///
/// A feature is dark on a host when a process that takes part does not say its capability: a server of this installation, or
/// the program on the host. Of the teams that you may see. `search` looks at names, UUID, serial number and addresses.
#[utoipa::path(get, path = "/skew", tag = "hosts", params(ListingQuery, SkewParameters),
    responses((status = 200, body = Page<SkewedHost>), (status = 422, description = "no such capability or process")))]
async fn list(
    State(hosts): State<Hosts>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Query(query): Query<SkewParameters>,
) -> Result<axum::Json<Page<SkewedHost>>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let listing = listing.check(SKEW_SORTS)?;
    let names = may_see_servers(&principal);
    let page = hosts
        .skew(&principal, &listing, &query.into(), names)
        .await?;
    Ok(axum::Json(Page {
        items: page.items.into_iter().map(SkewedHost::from).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// How many hosts have a program of a version.
#[derive(Debug, Serialize, ToSchema)]
struct Programs {
    /// Which program.
    process: String,
    /// Its version, as far as it is known; `others` for all that are not counted one by one.
    version: String,
    /// On how many of them the feature is there.
    hosts_with: u64,
    /// On how many it is dark.
    hosts_without: u64,
}

/// A feature, and on how many hosts it is there.
#[derive(Debug, Serialize, ToSchema)]
struct FeatureCount {
    /// What people call it.
    feature: &'static str,
    /// The capability that it depends on.
    capability: &'static str,
    /// What is different while it is dark.
    effect: &'static str,
    /// On how many hosts it is there.
    hosts_with: u64,
    /// On how many it is dark.
    hosts_without: u64,
    /// The servers because of which it is dark on all of them.
    servers: Vec<Because>,
    /// The same by program and version, most hosts first.
    programs: Vec<Programs>,
}

/// All features.
#[derive(Debug, Serialize, ToSchema)]
struct Features {
    /// Each with what it depends on.
    items: Vec<FeatureCount>,
    /// What servers say to agents now: what all servers of this installation can do.
    said: Vec<&'static str>,
}

impl FeatureCount {
    fn new(summary: FeatureSummary) -> Option<Self> {
        let feature = summary.capability.feature()?;
        let programs = summary.programs.into_iter();
        Some(Self {
            feature: feature.name,
            capability: summary.capability.name(),
            effect: feature.dark,
            hosts_with: summary.hosts_with,
            hosts_without: summary.hosts_without,
            servers: summary.servers.into_iter().map(Because::from).collect(),
            programs: programs
                .map(|count| Programs {
                    process: count.process,
                    version: count.version,
                    hosts_with: count.hosts_with,
                    hosts_without: count.hosts_without,
                })
                .collect(),
        })
    }
}

/// Count the hosts on which each feature is dark
///
/// With the programs and versions that make the difference, and the servers because of which a feature is dark everywhere.
/// The same hosts and filters as in `GET /skew`; with `process`, only hosts of that program are counted.
#[utoipa::path(get, path = "/skew/summary", tag = "hosts", params(ListingQuery, SkewParameters),
    responses((status = 200, body = Features), (status = 422, description = "no such capability or process")))]
async fn summary(
    State(hosts): State<Hosts>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Query(query): Query<SkewParameters>,
) -> Result<axum::Json<Features>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let listing = listing.check(SKEW_SORTS)?;
    let names = may_see_servers(&principal);
    let features = hosts
        .skew_summary(&principal, &listing, &query.into(), names)
        .await?;
    let said = hosts.standing().spoken().now();
    Ok(axum::Json(Features {
        items: features.into_iter().filter_map(FeatureCount::new).collect(),
        said: said.capabilities().map(Capability::name).collect(),
    }))
}
