//! What a message says, merged into what is known: a part that is there replaces all of the former one, a part that is not
//! there leaves it alone.

use muster_wire_opamp::proto::CustomMessage;
use serde_json::{Value, json};

use super::{Effect, Exchange, Outcome, sequence};
use crate::limits::{COMPONENTS_PATIENCE, MAX_ATTRIBUTES, MAX_CUSTOM_BYTES, MAX_ERROR_BYTES};
use crate::record::{Components, ConfigReport, Part, Progress, SettingsReport};
use crate::values::{self, bounded, digest, hex};

pub(super) fn merge(x: &Exchange<'_>, outcome: &mut Outcome) {
    let message = x.message;
    if message.capabilities != 0 {
        outcome.record.durable.capabilities = message.capabilities;
    }
    if let Some(said) = &message.agent_description {
        outcome.record.durable.traits = Some(values::traits(said));
        put(outcome, Part::Description, values::description(said));
    }
    if let Some(said) = &message.health {
        put(outcome, Part::Health, values::health(said));
    }
    if let Some(said) = &message.effective_config {
        put(
            outcome,
            Part::EffectiveConfig,
            x.settings.masking.effective(said),
        );
    }
    if let Some(said) = &message.package_statuses {
        put(outcome, Part::Packages, values::packages(said));
    }
    if let Some(said) = &message.custom_capabilities {
        let names = said.capabilities.iter().take(MAX_ATTRIBUTES);
        let names: Vec<String> = names.map(|name| bounded(name, 256)).collect();
        put(outcome, Part::CustomCapabilities, names.into());
    }
    remote_config(x, outcome);
    connection_settings(x, outcome);
    components(x, outcome);
    if let Some(said) = &message.custom_message {
        outcome.custom = Some(CustomMessage {
            capability: bounded(&said.capability, 256),
            r#type: bounded(&said.r#type, 256),
            data: said.data.slice(..said.data.len().min(MAX_CUSTOM_BYTES)),
        });
    }
}

fn put(outcome: &mut Outcome, part: Part, value: Value) {
    let new = digest(&value.to_string());
    let before = outcome.record.durable.parts.get(&part);
    if before != Some(&new) {
        outcome.record.durable.parts.insert(part, new);
        outcome.parts.push((part, value));
    }
}

fn remote_config(x: &Exchange<'_>, outcome: &mut Outcome) {
    let Some(said) = &x.message.remote_config_status else {
        return;
    };
    let report = ConfigReport {
        hash: hex(&said.last_remote_config_hash),
        progress: Progress::from_wire(said.status),
        error: bounded(&said.error_message, MAX_ERROR_BYTES),
        at: x.now,
    };
    let before = outcome.record.durable.config.as_ref();
    let is_same = before.map_or(
        report.hash.is_empty() && report.progress == Progress::Unset,
        |before| {
            (&before.hash, before.progress, &before.error)
                == (&report.hash, report.progress, &report.error)
        },
    );
    if is_same {
        return;
    }
    if report.progress != Progress::Unset {
        let details =
            json!({ "hash": report.hash, "status": report.progress, "error": report.error });
        outcome.event("config_reported", details);
    }
    outcome.effects.push(Effect::ConfigReported(report.clone()));
    outcome.record.durable.config = Some(report);
}

/// Shown, and never taken for proof: some clients say that they applied an offer before they tried it.
fn connection_settings(x: &Exchange<'_>, outcome: &mut Outcome) {
    let Some(said) = &x.message.connection_settings_status else {
        return;
    };
    let named = &said.last_connection_settings_hash;
    let report = SettingsReport {
        hash: hex(&named[..named.len().min(64)]),
        progress: Progress::from_wire(said.status),
        error: bounded(&said.error_message, MAX_ERROR_BYTES),
        at: x.now,
    };
    let before = outcome.record.durable.settings.as_ref();
    let is_same = before.map_or(report.progress == Progress::Unset, |before| {
        (&before.hash, before.progress, &before.error)
            == (&report.hash, report.progress, &report.error)
    });
    if !is_same {
        let details = json!({ "status": report.progress, "error": report.error });
        outcome.event("connection_settings_reported", details);
        outcome.record.durable.settings = Some(report);
    }
}

fn components(x: &Exchange<'_>, outcome: &mut Outcome) {
    let Some(said) = &x.message.available_components else {
        return;
    };
    let list = values::components(&said.components);
    let hash = match (said.hash.is_empty(), list.is_empty()) {
        (true, true) => return,
        // Some give the list alone.
        (true, false) => digest(&Value::Object(list.clone()).to_string()),
        (false, _) => hex(&said.hash[..said.hash.len().min(64)]),
    };
    let known = &mut outcome.record.durable.components;
    if !list.is_empty() {
        *known = Some(Components {
            hash: hash.clone(),
            asked_at: None,
            asked_for_all: false,
        });
        if !x.are_components_known {
            outcome.components = Some((hash, Value::Object(list)));
        }
    } else if known.as_ref().is_none_or(|known| known.hash != hash) {
        *known = Some(Components {
            hash,
            asked_at: None,
            asked_for_all: false,
        });
    }
}

/// Whether the list of components is to be asked for: nobody told what this hash stands for. Some agents tell it only with
/// their full state, which is asked for when they do not answer.
pub(super) fn wants_components(x: &Exchange<'_>, outcome: &mut Outcome) -> bool {
    if x.are_components_known || outcome.components.is_some() {
        return false;
    }
    let Some(known) = outcome.record.durable.components.as_mut() else {
        return false;
    };
    let is_told = x.message.available_components.as_ref();
    if is_told.is_some_and(|said| !said.components.is_empty()) {
        return false;
    }
    match known.asked_at {
        None => {
            known.asked_at = Some(x.now);
            true
        }
        Some(at) if !known.asked_for_all && x.now.since(at) >= COMPONENTS_PATIENCE => {
            known.asked_for_all = true;
            sequence::owe(&mut outcome.record, x);
            false
        }
        Some(_) => false,
    }
}
