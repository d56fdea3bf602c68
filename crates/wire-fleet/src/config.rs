//! The server's configuration, as the user API shows it.
//!
//! Parts that we hold are typed; parts that only Fleet has are documents with everything off, so that clients find the
//! members they look for (see [`crate::documents`]).

use muster_clock::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::documents;
use crate::reading::or_default;

/// `GET …/config` and the answer to `PATCH …/config`. Written by servers, read by clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppConfig {
    /// How often hosts are asked; `null` in answers to `PATCH`.
    pub update_interval: Option<UpdateInterval>,
    /// How vulnerabilities are looked for; `null` in answers to `PATCH`.
    pub vulnerabilities: Option<Value>,
    /// What the server may be used for.
    pub license: License,
    /// Where logs go.
    pub logging: Value,
    /// The organisation.
    pub org_info: OrgInfo,
    /// The server.
    pub server_settings: ServerSettings,
    /// Mail.
    pub smtp_settings: Value,
    /// When hosts that stay away are removed.
    pub host_expiry_settings: HostExpirySettings,
    /// When old activities are removed.
    pub activity_expiry_settings: ActivityExpirySettings,
    /// What is collected.
    pub features: Features,
    /// The agents' options of hosts without a team, or whose team has none.
    pub agent_options: Option<Value>,
    /// Logging in elsewhere.
    pub sso_settings: Value,
    /// The desktop app.
    pub fleet_desktop: DesktopSettings,
    /// Where data on vulnerabilities lies.
    pub vulnerability_settings: Value,
    /// Webhooks.
    pub webhook_settings: Value,
    /// Ticket systems.
    pub integrations: Value,
    /// Device management.
    pub mdm: Value,
    /// Scripts.
    pub scripts: Value,
}

/// The members that a `PATCH …/config` may have. Others are refused, except those that only newer clients know.
pub const CONFIG_MEMBERS: &[&str] = &[
    "activity_expiry_settings",
    "agent_options",
    "features",
    "fleet_desktop",
    "host_expiry_settings",
    "integrations",
    "license",
    "logging",
    "mdm",
    "org_info",
    "scripts",
    "server_settings",
    "smtp_settings",
    "sso_settings",
    "update_interval",
    "vulnerabilities",
    "vulnerability_settings",
    "webhook_settings",
    "yara_rules",
];

impl Default for AppConfig {
    /// Everything off.
    fn default() -> Self {
        Self {
            update_interval: Some(UpdateInterval::default()),
            vulnerabilities: Some(documents::vulnerabilities()),
            license: License::default(),
            logging: documents::logging(),
            org_info: OrgInfo::default(),
            server_settings: ServerSettings::default(),
            smtp_settings: documents::smtp(),
            host_expiry_settings: HostExpirySettings::default(),
            activity_expiry_settings: ActivityExpirySettings::default(),
            features: Features::default(),
            agent_options: None,
            sso_settings: documents::sso(),
            fleet_desktop: DesktopSettings::default(),
            vulnerability_settings: documents::vulnerability_settings(),
            webhook_settings: documents::webhooks(),
            integrations: documents::integrations(),
            mdm: documents::mdm(),
            scripts: Value::Array(Vec::new()),
        }
    }
}

/// How often hosts are asked, in nanoseconds. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateInterval {
    /// For their details.
    pub osquery_detail: i64,
    /// For their policies.
    pub osquery_policy: i64,
}

impl Default for UpdateInterval {
    /// An hour each.
    fn default() -> Self {
        const HOUR_NANOSECONDS: i64 = 3_600_000_000_000;
        Self {
            osquery_detail: HOUR_NANOSECONDS,
            osquery_policy: HOUR_NANOSECONDS,
        }
    }
}

/// What the server may be used for; clients look at the tier. Written by servers, read by clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct License {
    /// `free` or `premium`.
    pub tier: String,
    /// To whom.
    pub organization: String,
    /// For how many hosts.
    pub device_count: u64,
    /// Until when.
    pub expiration: Timestamp,
    /// Anything else.
    pub note: String,
}

impl Default for License {
    /// Clients offer all that they can do, for a server that sells nothing.
    fn default() -> Self {
        Self {
            tier: "premium".to_owned(),
            organization: String::new(),
            device_count: 0,
            // 2099-12-31: clients warn before the end comes.
            expiration: Timestamp::from_seconds(4_102_358_400),
            note: String::new(),
        }
    }
}

/// The organisation. Written by clients and servers, read by both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrgInfo {
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub org_name: String,
    /// Its picture, for dark backgrounds.
    #[serde(deserialize_with = "or_default")]
    pub org_logo_url: String,
    /// Its picture, for light backgrounds.
    #[serde(deserialize_with = "or_default")]
    pub org_logo_url_light_background: String,
    /// Where users of hosts find help.
    #[serde(deserialize_with = "or_default")]
    pub contact_url: String,
}

/// The server. Written by clients and servers, read by both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerSettings {
    /// Under which address agents and people reach it.
    pub server_url: String,
    /// Nobody may run live queries.
    pub live_query_disabled: bool,
    /// Figures are sent to the maker; we have no such thing.
    pub enable_analytics: bool,
    /// Hosts are written later.
    pub deferred_save_host: bool,
    /// Results are not stored in the server.
    pub query_reports_disabled: bool,
    /// No scripts are run.
    pub scripts_disabled: bool,
    /// No texts are written by machine.
    pub ai_features_disabled: bool,
    /// How many rows of a query are stored; 0 means the default.
    pub query_report_cap: u64,
}

/// When hosts that stay away are removed. Written by clients and servers, read by both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostExpirySettings {
    /// Whether they are.
    #[serde(deserialize_with = "or_default")]
    pub host_expiry_enabled: bool,
    /// After how many days.
    #[serde(deserialize_with = "or_default")]
    pub host_expiry_window: u32,
}

/// When old activities are removed. Written by clients and servers, read by both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActivityExpirySettings {
    /// Whether they are.
    pub activity_expiry_enabled: bool,
    /// After how many days.
    pub activity_expiry_window: u32,
}

/// What is collected. Written by clients and servers, read by both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Features {
    /// The users of hosts.
    pub enable_host_users: bool,
    /// What is installed.
    pub enable_software_inventory: bool,
    /// More queries to ask with the details, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub additional_queries: Option<Value>,
}

impl Default for Features {
    /// All that is collected by default.
    fn default() -> Self {
        Self {
            enable_host_users: true,
            enable_software_inventory: true,
            additional_queries: None,
        }
    }
}

/// The desktop app. Written by clients and servers, read by both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DesktopSettings {
    /// Where users learn what is collected.
    #[serde(deserialize_with = "or_default")]
    pub transparency_url: String,
}

/// `GET …/config/certificate`. Written by servers, read by the console and by who packages agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateAnswer {
    /// The server's certificates as PEM in base64.
    pub certificate_chain: String,
}
