//! Fleet's user API: the configuration in its shape, the certificate and the version.
//!
//! Parts that only Fleet has (mail, single sign-on, webhooks, ticket systems, device management) are shown as they are
//! here: off. They are read and left out, so that documents that other programs wrote still apply; the answer shows
//! what is in force.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_http::{Json, Problem, Query};
use muster_identity::{Action, Actor, Principal, Scope};
use muster_wire_fleet::VersionAnswer;
use muster_wire_fleet::config::{
    ActivityExpirySettings, AppConfig, CONFIG_MEMBERS, CertificateAnswer, DesktopSettings,
    Features, HostExpirySettings, License, OrgInfo, ServerSettings,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::options::known_members;
use crate::{Documents, Organisation, SettingsError, SettingsService, Strictness};

/// What the routes have to know of the server that they run in.
pub trait ServerFacts: Send + Sync + 'static {
    /// What clients compare with their own version.
    fn version(&self) -> VersionAnswer;
    /// The server's certificates in PEM, as agents need them.
    fn certificate_pem(&self) -> String;
}

#[derive(Clone)]
struct Rooms {
    settings: SettingsService,
    facts: Arc<dyn ServerFacts>,
}

/// The routes, relative to `/api/{version}/fleet`.
pub fn fleet_routes(settings: SettingsService, facts: Arc<dyn ServerFacts>) -> Router {
    Router::new()
        .route("/config", get(config).patch(change))
        .route("/config/certificate", get(certificate))
        .route("/version", get(version))
        .with_state(Rooms { settings, facts })
}

async fn version(
    State(rooms): State<Rooms>,
    _: Principal,
) -> Result<axum::Json<VersionAnswer>, Problem> {
    Ok(axum::Json(rooms.facts.version()))
}

async fn certificate(
    State(rooms): State<Rooms>,
    principal: Principal,
) -> Result<axum::Json<CertificateAnswer>, Problem> {
    principal.authorize(Action::ReadSettings, Scope::Global)?;
    Ok(axum::Json(CertificateAnswer {
        certificate_chain: STANDARD.encode(rooms.facts.certificate_pem()),
    }))
}

async fn config(
    State(rooms): State<Rooms>,
    principal: Principal,
) -> Result<axum::Json<AppConfig>, Problem> {
    principal.authorize(Action::ReadSettings, Scope::Global)?;
    Ok(axum::Json(shown(&rooms.settings)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ChangeQuery {
    dry_run: Option<String>,
    force: Option<String>,
}

impl ChangeQuery {
    /// Nothing is to be kept.
    pub(super) fn is_dry_run(&self) -> bool {
        is_on(self.dry_run.as_deref())
    }

    /// How strictly agent options are looked at.
    pub(super) fn strictness(&self) -> Strictness {
        if is_on(self.force.as_deref()) {
            Strictness::Forced
        } else {
            Strictness::Full
        }
    }
}

pub(super) fn is_on(flag: Option<&str>) -> bool {
    flag.is_some_and(|flag| matches!(flag, "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

async fn change(
    State(rooms): State<Rooms>,
    principal: Principal,
    Query(query): Query<ChangeQuery>,
    Json(wishes): Json<Map<String, Value>>,
) -> Result<axum::Json<AppConfig>, Problem> {
    principal.authorize(Action::WriteSettings, Scope::Global)?;
    let settings = &rooms.settings;
    let server_url = settings.server_url();
    let merge = |now: &Documents| merged(now, &wishes, &server_url);
    settings
        .change(
            &Actor::from(&principal),
            query.strictness(),
            query.is_dry_run(),
            merge,
        )
        .await?;
    // As clients know the answer to a change.
    Ok(axum::Json(AppConfig {
        update_interval: None,
        vulnerabilities: None,
        ..shown(settings)
    }))
}

/// What is in force, in Fleet's shape.
fn shown(settings: &SettingsService) -> AppConfig {
    let current = settings.current();
    let organisation = &current.documents.organisation;
    let parts = Parts::new(organisation, &settings.server_url());
    AppConfig {
        license: License {
            organization: organisation.name.clone(),
            ..License::default()
        },
        org_info: parts.org_info,
        server_settings: parts.server_settings,
        host_expiry_settings: parts.host_expiry_settings,
        activity_expiry_settings: parts.activity_expiry_settings,
        features: parts.features,
        fleet_desktop: parts.fleet_desktop,
        agent_options: Some(current.documents.agent_options.clone()),
        ..AppConfig::default()
    }
}

/// The parts of the configuration that mean something here.
#[derive(Serialize, Deserialize)]
struct Parts {
    org_info: OrgInfo,
    server_settings: ServerSettings,
    host_expiry_settings: HostExpirySettings,
    activity_expiry_settings: ActivityExpirySettings,
    features: Features,
    fleet_desktop: DesktopSettings,
}

/// Members that some releases of Fleet have and that mean nothing here, by part.
const FOREIGN_MEMBERS: &[(&str, &[&str])] = &[
    ("org_info", &[]),
    ("server_settings", &["debug_host_ids", "report_cap"]),
    ("host_expiry_settings", &[]),
    ("activity_expiry_settings", &[]),
    (
        "features",
        &["additional_queries", "detail_query_overrides"],
    ),
    ("fleet_desktop", &["alternative_browser_host"]),
];

impl Parts {
    fn new(organisation: &Organisation, server_url: &str) -> Self {
        Self {
            org_info: OrgInfo {
                org_name: organisation.name.clone(),
                org_logo_url: organisation.logo_url.clone(),
                org_logo_url_light_background: organisation.logo_url_light_background.clone(),
                contact_url: organisation.contact_url.clone(),
            },
            server_settings: ServerSettings {
                server_url: server_url.to_owned(),
                live_query_disabled: organisation.live_queries_disabled,
                query_reports_disabled: organisation.query_reports_disabled,
                scripts_disabled: organisation.scripts_disabled,
                query_report_cap: organisation.query_report_cap,
                ..ServerSettings::default()
            },
            host_expiry_settings: HostExpirySettings {
                host_expiry_enabled: organisation.host_expiry_enabled,
                host_expiry_window: organisation.host_expiry_days,
            },
            activity_expiry_settings: ActivityExpirySettings {
                activity_expiry_enabled: organisation.audit_expiry_enabled,
                activity_expiry_window: organisation.audit_expiry_days,
            },
            features: Features {
                enable_host_users: organisation.collect_users,
                enable_software_inventory: organisation.collect_software,
                additional_queries: organisation.additional_queries.clone(),
            },
            fleet_desktop: DesktopSettings {
                transparency_url: organisation.transparency_url.clone(),
            },
        }
    }

    /// The organisation with what these say; the rest, which Fleet does not know, stays.
    fn into_organisation(self, now: &Organisation) -> Organisation {
        Organisation {
            collector_expiry_enabled: now.collector_expiry_enabled,
            collector_expiry_days: now.collector_expiry_days,
            name: self.org_info.org_name,
            logo_url: self.org_info.org_logo_url,
            logo_url_light_background: self.org_info.org_logo_url_light_background,
            contact_url: self.org_info.contact_url,
            server_url: self.server_settings.server_url,
            transparency_url: self.fleet_desktop.transparency_url,
            live_queries_disabled: self.server_settings.live_query_disabled,
            query_reports_disabled: self.server_settings.query_reports_disabled,
            query_report_cap: self.server_settings.query_report_cap,
            scripts_disabled: self.server_settings.scripts_disabled,
            host_expiry_enabled: self.host_expiry_settings.host_expiry_enabled,
            host_expiry_days: self.host_expiry_settings.host_expiry_window,
            audit_expiry_enabled: self.activity_expiry_settings.activity_expiry_enabled,
            audit_expiry_days: self.activity_expiry_settings.activity_expiry_window,
            collect_users: self.features.enable_host_users,
            collect_software: self.features.enable_software_inventory,
            additional_queries: self.features.additional_queries,
        }
    }
}

/// The documents with what a client wishes: given members replace kept ones, lists wholly.
fn merged(
    now: &Documents,
    wishes: &Map<String, Value>,
    server_url: &str,
) -> Result<Documents, SettingsError> {
    known_members(wishes, CONFIG_MEMBERS)?;
    // The address that the server was started with is shown where none is set, and comes back in applied documents.
    let is_default = now.organisation.server_url.is_empty();
    let parts = Parts::new(&now.organisation, server_url);
    let mut value = serde_json::to_value(parts).map_err(malformed)?;
    for (part, foreign) in FOREIGN_MEMBERS {
        let Some(wish) = wishes.get(*part).filter(|wish| !wish.is_null()) else {
            continue;
        };
        let wish = wish
            .as_object()
            .ok_or_else(|| SettingsError::wrong_type(part, "an object"))?;
        let kept = value[*part].as_object().cloned().unwrap_or_default();
        let mut known: Vec<&str> = kept.keys().map(String::as_str).collect();
        known.extend(*foreign);
        known_members(wish, &known)?;
        for (member, wish) in wish {
            if wish.is_null() && member != "additional_queries" {
                continue;
            }
            value[*part][member] = wish.clone();
        }
    }
    let mut organisation = serde_json::from_value::<Parts>(value)
        .map_err(malformed)?
        .into_organisation(&now.organisation);
    if organisation.server_url.is_empty() {
        return Err(SettingsError::invalid(
            "server_url",
            "the server's URL must be present",
        ));
    }
    if is_default && organisation.server_url == server_url {
        organisation.server_url.clear();
    }
    let agent_options = match wishes.get("agent_options") {
        Some(options) if !options.is_null() => options.clone(),
        _ => now.agent_options.clone(),
    };
    Ok(Documents {
        organisation,
        agent_options,
    })
}

fn malformed(error: serde_json::Error) -> SettingsError {
    SettingsError::Malformed(format!("invalid value type: {error}"))
}
