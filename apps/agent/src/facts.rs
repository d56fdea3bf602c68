//! What the agent's own tables show, and what it says about itself when it enrolls.

use muster_clock::{Clock, Randomness};
use muster_tables::{AgentFacts, FlagFact, OrbitFacts};
use muster_wire_fleet::{Secret, orbit};
use muster_wire_osquery::{HostDetails, Row};
use serde_json::Value;

use crate::config::{Intervals, Settings};
use crate::keys::Keys;
use crate::runner::Runner;

/// What is known at the start.
pub(crate) fn at_start(settings: &Settings, keys: &Keys, clock: &dyn Clock) -> AgentFacts {
    AgentFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance_id: keys.instance_id.clone(),
        start_time: clock.now(),
        flags: flags(settings, &Value::Null),
        orbit: OrbitFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            enrolled: keys.orbit_node_key.is_some(),
            ..OrbitFacts::default()
        },
        ..AgentFacts::default()
    }
}

/// The flags in force: those that the configuration does not name keep their own value, as in osquery. Servers read the
/// intervals among them, and tell by those who is online.
pub(crate) fn flags(settings: &Settings, config: &Value) -> Vec<FlagFact> {
    let Intervals {
        distributed,
        config: refresh,
        ..
    } = settings.intervals;
    let flag = |name: &str, default: &str, value: &str| FlagFact {
        name: name.to_owned(),
        default_value: default.to_owned(),
        value: value.to_owned(),
        ..FlagFact::default()
    };
    let mut flags: Vec<FlagFact> = [
        ("distributed_interval", distributed.as_secs().to_string()),
        ("config_refresh", refresh.as_secs().to_string()),
        (
            "tls_hostname",
            settings
                .server
                .split("://")
                .nth(1)
                .unwrap_or_default()
                .to_owned(),
        ),
    ]
    .map(|(name, value)| flag(name, &value, &value))
    .into();
    let options = config.pointer("/options").and_then(Value::as_object);
    for (name, value) in options.into_iter().flatten() {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        match flags.iter_mut().find(|flag| flag.name == *name) {
            Some(flag) => flag.value = value,
            None => flags.push(flag(name, "", &value)),
        }
    }
    flags
}

/// First facts about the host.
pub(crate) async fn details(runner: &Runner) -> HostDetails {
    let first = |sql: &'static str| async move {
        let rows = runner.rows(sql).await;
        rows.into_iter().next().unwrap_or_default()
    };
    HostDetails {
        os_version: first("SELECT * FROM os_version").await,
        osquery_info: first("SELECT * FROM osquery_info").await,
        system_info: first("SELECT * FROM system_info").await,
        platform_info: first("SELECT * FROM platform_info").await,
    }
}

/// The enrollment by orbit's API, from the same facts.
pub(crate) fn orbit_enrollment(
    token: &str,
    identifier: &str,
    details: &HostDetails,
) -> orbit::EnrollRequest {
    let text = |row: &Row, column: &str| row.get(column).unwrap_or_default().to_owned();
    orbit::EnrollRequest {
        enroll_secret: Secret::new(token),
        hardware_uuid: identifier.to_owned(),
        hardware_serial: text(&details.system_info, "hardware_serial"),
        hostname: text(&details.system_info, "hostname"),
        platform: text(&details.os_version, "platform"),
        platform_like: text(&details.os_version, "platform_like"),
        osquery_identifier: identifier.to_owned(),
        computer_name: text(&details.system_info, "computer_name"),
        hardware_model: text(&details.system_info, "hardware_model"),
    }
}

/// A random UUID (version 4).
pub(crate) fn new_instance_id(randomness: &dyn Randomness) -> String {
    let mut bytes = [0; 16];
    randomness.fill(&mut bytes);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use muster_clock::SeededRandomness;

    use super::*;

    #[test]
    fn an_instance_id_is_a_random_uuid() {
        let randomness = SeededRandomness::new(1);
        let id = new_instance_id(&randomness);
        assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
        assert_ne!(id, new_instance_id(&randomness));
    }
}
