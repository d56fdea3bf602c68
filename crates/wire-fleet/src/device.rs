//! The device family: what the desktop app and the My device page of a host ask, with the host's token in the path.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::License;
use crate::host::{Host, HostPolicy};
use crate::reading::or_default;

/// A host as it sees itself. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceHost {
    /// What operators see of it.
    #[serde(flatten)]
    pub host: Host,
    /// Apple's enrollment programme assigns it to this server.
    pub dep_assigned_to_fleet: bool,
}

/// `GET …/device/{token}`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceAnswer {
    /// The host.
    pub host: DeviceHost,
    /// Its user may install software.
    pub self_service: bool,
    /// The organisation's picture, for dark backgrounds.
    pub org_logo_url: String,
    /// The organisation's picture, for light backgrounds.
    pub org_logo_url_light_background: String,
    /// Where the user finds help.
    pub org_contact_url: String,
    /// What the server may be used for.
    pub license: License,
    /// What of the configuration concerns the user.
    pub global_config: DeviceConfig,
}

/// What of the configuration concerns the user of a host. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceConfig {
    /// Device management.
    pub mdm: DeviceMdm,
    /// What is collected.
    pub features: DeviceFeatures,
}

/// Device management, as the user of a host is told. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceMdm {
    /// The server manages devices.
    pub enabled_and_configured: bool,
}

/// What is collected, as the user of a host is told. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceFeatures {
    /// What is installed.
    pub enable_software_inventory: bool,
}

/// `GET …/device/{token}/policies`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoliciesAnswer {
    /// What each policy says of the host.
    pub policies: Vec<HostPolicy>,
}

/// `GET …/device/{token}/macadmins`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MacAdminsAnswer {
    /// What Munki and the like say; `null` where there is none.
    pub macadmins: Option<Value>,
}

/// `POST …/device/{token}/debug/errors`. Written by the desktop app, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReportedError {
    /// It keeps the program from working.
    #[serde(deserialize_with = "or_default")]
    pub vital: bool,
    /// Which program: `fleet-desktop`.
    #[serde(deserialize_with = "or_default")]
    pub error_source: String,
    /// Its version.
    #[serde(deserialize_with = "or_default")]
    pub error_source_version: String,
}
