//! What concerns everybody.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::SettingsError;

/// The longest name or address, in characters.
const MAX_TEXT_CHARACTERS: usize = 1_024;

/// The organisation and what the server does for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Organisation {
    /// Its name.
    pub name: String,
    /// Its picture, for dark backgrounds.
    pub logo_url: String,
    /// Its picture, for light backgrounds.
    pub logo_url_light_background: String,
    /// Where users of hosts find help.
    pub contact_url: String,
    /// Under which address agents and people reach the server; empty means the one that it was started with.
    pub server_url: String,
    /// Where users of hosts learn what is collected.
    pub transparency_url: String,
    /// Nobody may run live queries.
    pub live_queries_disabled: bool,
    /// Results of scheduled queries are not kept in the server.
    pub query_reports_disabled: bool,
    /// How many rows of a scheduled query are kept; 0 means the default.
    pub query_report_cap: u64,
    /// No scripts are run.
    pub scripts_disabled: bool,
    /// Hosts that stay away are removed.
    pub host_expiry_enabled: bool,
    /// After how many days.
    pub host_expiry_days: u32,
    /// Collectors that stay away are removed, those that are revoked excepted.
    pub collector_expiry_enabled: bool,
    /// After how many days.
    pub collector_expiry_days: u32,
    /// Entries of the audit log are deleted when they are old.
    pub audit_expiry_enabled: bool,
    /// After how many days. Denials are kept for 90 days at most in any case.
    pub audit_expiry_days: u32,
    /// Hosts are asked for their users.
    pub collect_users: bool,
    /// Hosts are asked what is installed.
    pub collect_software: bool,
    /// More queries to ask with the details, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub additional_queries: Option<Value>,
}

impl Default for Organisation {
    fn default() -> Self {
        Self {
            name: "Muster".to_owned(),
            logo_url: String::new(),
            logo_url_light_background: String::new(),
            contact_url: String::new(),
            server_url: String::new(),
            transparency_url: String::new(),
            live_queries_disabled: false,
            query_reports_disabled: false,
            query_report_cap: 0,
            scripts_disabled: false,
            host_expiry_enabled: false,
            host_expiry_days: 0,
            collector_expiry_enabled: false,
            collector_expiry_days: 0,
            audit_expiry_enabled: false,
            audit_expiry_days: 0,
            collect_users: true,
            collect_software: true,
            additional_queries: None,
        }
    }
}

impl Organisation {
    /// Whether these settings make sense.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        if self.name.trim().is_empty() {
            return Err(SettingsError::invalid(
                "org_name",
                "organization name must be present",
            ));
        }
        for (field, text) in [
            ("org_name", &self.name),
            ("org_logo_url", &self.logo_url),
            (
                "org_logo_url_light_background",
                &self.logo_url_light_background,
            ),
            ("contact_url", &self.contact_url),
            ("server_url", &self.server_url),
            ("transparency_url", &self.transparency_url),
        ] {
            if text.chars().count() > MAX_TEXT_CHARACTERS {
                let reason = format!("must have at most {MAX_TEXT_CHARACTERS} characters");
                return Err(SettingsError::invalid(field, reason));
            }
            let is_web = ["http://", "https://"]
                .iter()
                .any(|scheme| text.starts_with(scheme));
            if field != "org_name" && !text.is_empty() && !is_web {
                let reason = "must begin with https:// or http://";
                return Err(SettingsError::invalid(field, reason));
            }
        }
        for (field, enabled, days) in [
            (
                "host_expiry_window",
                self.host_expiry_enabled,
                self.host_expiry_days,
            ),
            (
                "collector_expiry_days",
                self.collector_expiry_enabled,
                self.collector_expiry_days,
            ),
            (
                "activity_expiry_window",
                self.audit_expiry_enabled,
                self.audit_expiry_days,
            ),
        ] {
            if enabled && days == 0 {
                return Err(SettingsError::invalid(field, "must be at least 1 day"));
            }
        }
        match &self.additional_queries {
            None | Some(Value::Object(_)) => Ok(()),
            Some(_) => Err(SettingsError::invalid(
                "additional_queries",
                "must be an object of queries by name",
            )),
        }
    }
}
