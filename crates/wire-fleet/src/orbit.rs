//! The orbit API: enrollment, configuration, the device's token and user.
//!
//! Orbit writes the requests without any `Content-Type`, and early releases leave most of them out.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Secret;
use crate::reading::or_default;

/// `POST /api/fleet/orbit/enroll`. Written by agents, read by servers. Orbit of 2022 sends the first two members only;
/// without them there is nothing to enroll.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EnrollRequest {
    /// The enrollment token.
    pub enroll_secret: Secret,
    /// The hardware's UUID.
    #[serde(deserialize_with = "or_default")]
    pub hardware_uuid: String,
    /// The hardware's serial number.
    #[serde(deserialize_with = "or_default")]
    pub hardware_serial: String,
    /// The host's name.
    #[serde(deserialize_with = "or_default")]
    pub hostname: String,
    /// `ubuntu`, `darwin`, `windows`, …
    #[serde(deserialize_with = "or_default")]
    pub platform: String,
    /// The family of the platform: `debian`.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub platform_like: String,
    /// What osquery on this host will enroll with, when that is not the hardware's UUID.
    #[serde(deserialize_with = "or_default")]
    pub osquery_identifier: String,
    /// The name that the user gave the machine.
    #[serde(deserialize_with = "or_default")]
    pub computer_name: String,
    /// The hardware's model.
    #[serde(deserialize_with = "or_default")]
    pub hardware_model: String,
}

impl EnrollRequest {
    /// What the host is known by: the osquery identifier, else the hardware's UUID.
    pub fn identifier(&self) -> &str {
        if self.osquery_identifier.is_empty() {
            &self.hardware_uuid
        } else {
            &self.osquery_identifier
        }
    }
}

/// The answer to a successful enrollment. Written by servers, read by agents.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EnrollAnswer {
    /// The secret of this host on the orbit API from now on.
    pub orbit_node_key: Secret,
}

/// `POST /api/fleet/orbit/config` and others that carry nothing but the key. Written by agents, read by servers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyRequest {
    /// The host's secret.
    pub orbit_node_key: Secret,
}

/// The answer to `config`. Written by servers, read by agents. Members without a value are left out, not `null`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// How long a script may run, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script_execution_timeout: Option<u64>,
    /// osqueryd's flags. Left out: keep those there are. `{}` clears them, which makes orbit of 2022 restart at every
    /// poll, so it is for hosts that said a capability only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line_startup_flags: Option<Value>,
    /// osquery extensions to load, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Value>,
    /// What there is to do.
    #[serde(deserialize_with = "or_default")]
    pub notifications: Notifications,
    /// From which channels the agent updates its parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_channels: Option<Value>,
}

/// What there is to do for the agent. Written by servers, read by agents; members that are false or empty are left
/// out. Those of Fleet that we never ask for are not listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notifications {
    /// Scripts to run, by execution id.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub pending_script_execution_ids: Vec<String>,
    /// Software to install, by installation id.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub pending_software_installer_ids: Vec<String>,
}

/// `POST /api/fleet/orbit/device_token`: registers the token of the My device page. Written by agents, read by
/// servers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceTokenRequest {
    /// The host's secret.
    pub orbit_node_key: Secret,
    /// The device's token; a server keeps it for an hour.
    pub device_auth_token: Secret,
}

/// `PUT /api/fleet/orbit/device_mapping`: who uses the host. Written by agents whose server said `end_user_email`, read
/// by servers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceMappingRequest {
    /// The host's secret.
    pub orbit_node_key: Secret,
    /// The user's e-mail address, which Fleet does not check.
    #[serde(deserialize_with = "or_default")]
    pub email: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enrollment_of_any_era_is_read() {
        for (text, identifier) in [
            (r#"{"enroll_secret":"s","hardware_uuid":"u"}"#, "u"),
            (
                r#"{"enroll_secret":"s","hardware_uuid":"u","osquery_identifier":"","platform":null}"#,
                "u",
            ),
            (
                r#"{"enroll_secret":"s","hardware_uuid":"u","osquery_identifier":"i","new":{"a":1}}"#,
                "i",
            ),
            (r#"{"enroll_secret":"s"}"#, ""),
        ] {
            let request: EnrollRequest = serde_json::from_str(text).unwrap();
            assert_eq!(request.identifier(), identifier, "{text}");
            assert_eq!(request.enroll_secret.expose(), "s");
        }
        assert!(serde_json::from_str::<EnrollRequest>(r#"{"hardware_uuid":7}"#).is_err());
    }

    #[test]
    fn a_configuration_without_anything_to_say_is_one_empty_member() {
        let text = serde_json::to_string(&Config::default()).unwrap();
        assert_eq!(text, r#"{"notifications":{}}"#);
        let read: Config = serde_json::from_str(
            r#"{"command_line_startup_flags":null,"notifications":null,"nudge_config":null}"#,
        )
        .unwrap();
        assert_eq!(read, Config::default());
    }

    #[test]
    fn keys_are_not_shown() {
        let request: KeyRequest = serde_json::from_str(r#"{"orbit_node_key":"abc"}"#).unwrap();
        assert_eq!(request.orbit_node_key.expose(), "abc");
        assert!(!format!("{request:?}").contains("abc"));
        let none: KeyRequest = serde_json::from_str("{}").unwrap();
        assert!(none.orbit_node_key.is_empty());
    }
}
