//! Our own API: collectors.

use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_clock::Timestamp;
use muster_http::{ListingQuery, Page, Path, Problem, Query};
use muster_identity::{
    Action, CollectorId, CollectorKeyInfo, EnrollmentTokenId, HostId, Principal, Scope, TeamId,
};
use muster_wire_opamp::AgentCapabilities;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::native_links::CollectorHost;
use super::native_telemetry::CollectorOwnTelemetry;
use crate::Collectors;
use crate::operators::{COLLECTOR_SORTS, CollectorQuery, Detail};
use crate::store::operator::Listed;

/// The routes, relative to `/api/muster`.
pub fn native_routes(collectors: Collectors) -> OpenApiRouter {
    use super::{native_change as change, native_links as links};
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(summary))
        .routes(routes!(super::native_delete::delete_by_filter))
        .routes(routes!(get, change::delete))
        .routes(routes!(change::revoke))
        .routes(routes!(change::unrevoke))
        .routes(routes!(change::approve))
        .routes(routes!(change::restart))
        .routes(routes!(change::rotate_key))
        .routes(routes!(change::transfer))
        .routes(routes!(links::link, links::unlink))
        .routes(routes!(links::confirm))
        .routes(routes!(links::reject))
        .with_state(collectors)
}

/// A collector, or another agent that speaks OpAMP.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Collector {
    /// Its id.
    id: CollectorId,
    /// What it calls itself now, as a UUID.
    instance_uid: String,
    /// The name of its service, such as `otelcol-contrib`.
    name: String,
    /// Its version.
    version: String,
    /// The name of its machine.
    host_name: String,
    /// Its team.
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<TeamId>,
    /// The host that it is linked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_id: Option<HostId>,
    /// The enrollment token that it showed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    enrollment_token_id: Option<EnrollmentTokenId>,
    /// `online`, `late` (not heard for one and a half intervals) or `offline` (gone, or not heard for three).
    status: &'static str,
    /// `enrolled`, `waiting` (for an approval) or `revoked`.
    standing: String,
    /// Whether it says that it is healthy; absent when it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    healthy: Option<bool>,
    /// How far it is with a key of its own: `none` (it lives on its enrollment token), `offered`, `adopted` or
    /// `not_adopting`.
    key_status: String,
    /// What it says of its remote configuration: `unset`, `applying`, `applied` or `failed`.
    config_status: String,
    /// What it can do.
    #[schema(value_type = Vec<String>)]
    capabilities: AgentCapabilities,
    /// When it was first seen.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was last heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    seen_at: Option<Timestamp>,
}

impl Collector {
    fn new(listed: &Listed, now: Timestamp) -> Self {
        Self {
            id: listed.id,
            instance_uid: listed.uid.clone(),
            name: listed.name.clone(),
            version: listed.version.clone(),
            host_name: listed.host_name.clone(),
            team_id: listed.team_id,
            host_id: listed.linked_host_id,
            enrollment_token_id: listed.token_id,
            status: listed.status(now).name(),
            standing: listed.standing.clone(),
            healthy: listed.is_healthy,
            key_status: listed.key_status.clone(),
            config_status: listed.config_status.clone(),
            capabilities: AgentCapabilities::from_bits(listed.capabilities),
            created_at: listed.created_at,
            seen_at: listed.seen_at,
        }
    }
}

/// Something that happened to a collector.
#[derive(Debug, Serialize, ToSchema)]
struct CollectorEvent {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// What.
    kind: String,
    /// Particulars.
    #[schema(value_type = Object)]
    details: Value,
}

/// What a collector says of settings that it was sent.
#[derive(Debug, Serialize, ToSchema)]
struct CollectorReport {
    /// The hash of what it speaks of, as hexadecimal digits; empty when it names none.
    #[serde(skip_serializing_if = "String::is_empty")]
    hash: String,
    /// `unset`, `applying`, `applied` or `failed`.
    status: &'static str,
    /// Its own words, when it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    /// When it said so.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

/// A custom message that a collector sent.
#[derive(Debug, Serialize, ToSchema)]
struct CollectorMessage {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Of which capability.
    capability: String,
    /// Of which kind.
    kind: String,
    /// Its data, as Base64.
    data: String,
}

/// How far a collector is with the key that it was offered last.
#[derive(Debug, Serialize, ToSchema)]
struct CollectorKeyOffer {
    /// When it was offered.
    #[schema(value_type = String, format = DateTime)]
    offered_at: Timestamp,
    /// How many offers there were since a key was last adopted.
    offers: u32,
    /// Whether it should have used the key by now.
    is_overdue: bool,
}

/// Everything that is known about a collector.
#[derive(Debug, Serialize, ToSchema)]
struct CollectorDetail {
    /// The collector.
    #[serde(flatten)]
    collector: Collector,
    /// Attributes that name it in its own telemetry.
    #[schema(value_type = Object)]
    identifying_attributes: Value,
    /// Its other attributes.
    #[schema(value_type = Object)]
    attributes: Value,
    /// Its health and that of its components, as a tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    health: Option<Value>,
    /// What it runs, file by file, with secrets masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    effective_config: Option<Value>,
    /// When that last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    effective_config_at: Option<Timestamp>,
    /// What it says of its remote configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_config: Option<CollectorReport>,
    /// What it says of its connection settings. It is no proof: a key is adopted when it is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_settings: Option<CollectorReport>,
    /// The components that it is built of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    available_components: Option<Value>,
    /// Its packages.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    packages: Option<Value>,
    /// The custom messages that it understands.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    custom_capabilities: Option<Value>,
    /// The newest custom messages that it sent, newest first.
    custom_messages: Vec<CollectorMessage>,
    /// How often it is to be heard, in seconds.
    interval_seconds: i64,
    /// Whether it is forgotten soon after it goes.
    is_ephemeral: bool,
    /// Where it sends telemetry about itself, as far as that was set here.
    #[serde(skip_serializing_if = "Option::is_none")]
    own_telemetry: Option<CollectorOwnTelemetry>,
    /// The host that it is linked to, those that are suggested, and those that were rejected.
    hosts: Vec<CollectorHost>,
    /// Its keys with their states, newest first, without their secrets.
    keys: Vec<CollectorKeyInfo>,
    /// A key that it was offered and has not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_offer: Option<CollectorKeyOffer>,
    /// All uids that lead to it, newest first.
    instance_uids: Vec<String>,
    /// The collector whose uid it showed at first: two machines had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    separated_from: Option<CollectorId>,
    /// Other machines that showed its uid.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    separated: Vec<CollectorId>,
    /// What happened to it, newest first.
    events: Vec<CollectorEvent>,
}

impl CollectorDetail {
    fn new(mut detail: Detail, now: Timestamp) -> Self {
        let interval = detail.record.interval();
        let mut part = |name: &str| {
            let found = detail.parts.iter_mut().find(|(part, ..)| part == name);
            found.map(|(_, value, at)| (value.take(), *at))
        };
        let mut description = part("description").map_or(Value::Null, |(value, _)| value);
        let (config, config_at) = part("effective_config").unzip();
        let durable = detail.record.durable.into_inner();
        let event = |event: crate::store::event::Event| CollectorEvent {
            at: event.at,
            kind: event.kind,
            details: event.details,
        };
        let message = |message: crate::store::part::KeptMessage| CollectorMessage {
            at: message.at,
            capability: message.capability,
            kind: message.kind,
            data: STANDARD.encode(message.data),
        };
        let mut attributes = |kind: &str| {
            let found = description.get_mut(kind).map(Value::take);
            found.unwrap_or_else(|| Value::Object(serde_json::Map::new()))
        };
        Self {
            identifying_attributes: attributes("identifying"),
            attributes: attributes("non_identifying"),
            health: part("health").map(|(value, _)| value),
            effective_config: config,
            effective_config_at: config_at,
            remote_config: durable.config.map(|said| CollectorReport {
                hash: said.hash,
                status: said.progress.name(),
                error: said.error,
                at: said.at,
            }),
            connection_settings: durable.settings.map(|said| CollectorReport {
                hash: said.hash,
                status: said.progress.name(),
                error: said.error,
                at: said.at,
            }),
            available_components: detail.components,
            packages: part("packages").map(|(value, _)| value),
            custom_capabilities: part("custom_capabilities").map(|(value, _)| value),
            custom_messages: detail.messages.into_iter().map(message).collect(),
            interval_seconds: detail.listed.interval_seconds,
            is_ephemeral: durable.is_ephemeral,
            own_telemetry: detail.telemetry.map(Into::into),
            hosts: detail.hosts.into_iter().map(CollectorHost::new).collect(),
            keys: detail.keys,
            key_offer: durable.offer.map(|offer| CollectorKeyOffer {
                offered_at: offer.at,
                offers: offer.attempts,
                is_overdue: now.since(offer.at) >= 2 * interval,
            }),
            instance_uids: detail.uids,
            separated_from: durable.separated_from,
            separated: durable.separated.iter().map(|other| other.id).collect(),
            events: detail.events.into_iter().map(event).collect(),
            collector: Collector::new(&detail.listed, now),
        }
    }
}

#[derive(Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct CollectorsQuery {
    /// Only collectors that are `online`, `late` or `offline`.
    status: Option<String>,
    /// Only collectors that are `enrolled`, `waiting` or `revoked`.
    standing: Option<String>,
    /// Only collectors whose key is `none`, `offered`, `adopted` or `not_adopting`.
    key_status: Option<String>,
    /// Only collectors whose remote configuration is `unset`, `applying`, `applied` or `failed`.
    config_status: Option<String>,
    /// Only collectors that say that they are healthy (`true`), or that they are not.
    healthy: Option<bool>,
    /// Only collectors with this capability, such as `accepts_remote_config`; several with commas.
    capability: Option<String>,
    /// Only collectors with this attribute: `os.type`, or `os.type=linux`; several with commas. A value with a comma stands in
    /// quotes: `region="eu, west"`.
    attribute: Option<String>,
    /// Only collectors that showed this enrollment token last.
    enrollment_token_id: Option<i64>,
    /// Only collectors that are linked to this host.
    host_id: Option<i64>,
    /// Only collectors that are `linked` to a host, for which one is `suggested`, or of which neither is so (`none`).
    host_link: Option<String>,
    /// Only collectors of this version.
    version: Option<String>,
    /// Only collectors of this team; 0 for those without one.
    team_id: Option<i64>,
}

impl From<CollectorsQuery> for CollectorQuery {
    fn from(query: CollectorsQuery) -> Self {
        Self {
            status: query.status,
            standing: query.standing,
            key_status: query.key_status,
            config_status: query.config_status,
            healthy: query.healthy,
            capability: query.capability,
            attribute: query.attribute,
            enrollment_token_id: query.enrollment_token_id,
            host_id: query.host_id,
            host_link: query.host_link,
            version: query.version,
            team_id: query.team_id,
        }
    }
}

/// List collectors
///
/// Those of the teams that you may see. `search` looks at names, versions, uids (earlier ones, too) and attributes.
#[utoipa::path(get, path = "/collectors", tag = "collectors", params(ListingQuery, CollectorsQuery),
    responses((status = 200, body = Page<Collector>), (status = 422, description = "a wrong parameter")))]
async fn list(
    State(collectors): State<Collectors>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Query(query): Query<CollectorsQuery>,
) -> Result<axum::Json<Page<Collector>>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let listing = listing.check(COLLECTOR_SORTS)?;
    let query = query.into();
    let page = collectors.list(&principal, &listing, &query).await?;
    let now = collectors.now();
    Ok(axum::Json(Page {
        items: page
            .items
            .iter()
            .map(|listed| Collector::new(listed, now))
            .collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Look at a collector
#[utoipa::path(get, path = "/collectors/{id}", tag = "collectors", params(("id" = i64, Path)),
    responses((status = 200, body = CollectorDetail), (status = 404)))]
async fn get(
    State(collectors): State<Collectors>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<CollectorDetail>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let detail = collectors.detail(&principal, CollectorId(id)).await?;
    Ok(axum::Json(CollectorDetail::new(detail, collectors.now())))
}

/// How many collectors there are that are alike.
#[derive(Debug, Serialize, ToSchema)]
struct CollectorCount {
    /// `enrolled`, `waiting` or `revoked`.
    standing: String,
    /// `none`, `offered`, `adopted` or `not_adopting`.
    key_status: String,
    /// How many.
    total: u64,
    /// How many of them are there.
    online: u64,
}

/// Count collectors
///
/// Those of the teams that you may see, by their standing and by how far they are with keys of their own.
#[utoipa::path(get, path = "/collectors/summary", tag = "collectors",
    responses((status = 200, body = Vec<CollectorCount>)))]
async fn summary(
    State(collectors): State<Collectors>,
    principal: Principal,
) -> Result<axum::Json<Vec<CollectorCount>>, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let counts = collectors.counts_of(&principal.visible_teams()).await?;
    let counts = counts.into_iter();
    let counts = counts.map(|count| CollectorCount {
        standing: count.standing,
        key_status: count.key_status,
        total: count.total,
        online: count.online,
    });
    Ok(axum::Json(counts.collect()))
}
