//! What a message says, merged into what is known: a part that is there replaces all of the former one, a part that is not
//! there leaves it alone.

use muster_wire_opamp::proto::{ComponentHealth, CustomMessage};
use serde_json::{Value, json};

use super::{Effect, Exchange, Outcome, SaidComponents, sequence};
use crate::limits::{COMPONENTS_PATIENCE, MAX_ATTRIBUTES, MAX_CUSTOM_BYTES, MAX_ERROR_BYTES};
use crate::record::{Components, ConfigReport, Part, Progress, SettingsReport};
use crate::values::{self, bounded, digest, hex};

pub(super) fn merge(x: &Exchange<'_>, outcome: &mut Outcome) {
    let (message, masking) = (x.message, &x.settings.masking);
    if ![0, outcome.record.durable.capabilities].contains(&message.capabilities) {
        outcome.record.durable.capabilities = message.capabilities;
    }
    if let Some(said) = &message.agent_description {
        outcome.record.durable.traits = Some(values::traits(said));
        put(
            outcome,
            Part::Description,
            values::description(said, masking),
        );
    }
    if let Some(said) = &message.health
        && !is_unknown_yet(said, x, outcome)
    {
        let mut health = values::health(said);
        masking.tree(&mut health);
        put(outcome, Part::Health, health);
    }
    if let Some(said) = &message.effective_config {
        // To mask is dear, and after an offer everything is said again.
        let unmasked = Some(values::fingerprint(said));
        if outcome.record.said_config != unmasked {
            put(outcome, Part::EffectiveConfig, masking.effective(said));
            outcome.record.said_config = unmasked;
        }
    }
    if let Some(said) = &message.package_statuses {
        let mut packages = values::packages(said);
        masking.tree(&mut packages);
        put(outcome, Part::Packages, packages);
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

/// Whether an agent that begins anew does not know yet how it is. A supervisor says `healthy: false` and nothing else of its
/// collector whenever it connects with another key, and tells the health again only when that changes (0.158.0,
/// `startOpAMPClient`): what it said before counts.
fn is_unknown_yet(said: &ComponentHealth, x: &Exchange<'_>, outcome: &Outcome) -> bool {
    let begins = x.message.sequence_num <= 1 && x.message.agent_description.is_some();
    let is_known = outcome.record.durable.parts.contains_key(&Part::Health);
    begins && is_known && *said == ComponentHealth::default()
}

fn put(outcome: &mut Outcome, part: Part, value: Value) {
    let new = digest(&value.to_string());
    let before = outcome.record.durable.parts.get(&part);
    if before != Some(&new) {
        outcome.record.durable.parts.insert(part, new);
        outcome.parts.push((part, value));
    }
}

/// What an agent says of an error. Some quote what they could not read.
fn error_of(x: &Exchange<'_>, text: &str) -> String {
    x.settings.masking.text(&bounded(text, MAX_ERROR_BYTES))
}

fn remote_config(x: &Exchange<'_>, outcome: &mut Outcome) {
    let Some(said) = &x.message.remote_config_status else {
        return;
    };
    let report = ConfigReport {
        hash: hex(&said.last_remote_config_hash),
        progress: Progress::from_wire(said.status),
        error: error_of(x, &said.error_message),
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
        error: error_of(x, &said.error_message),
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
    if list.is_empty() && said.hash.is_empty() {
        return;
    }
    let list = (!list.is_empty()).then(|| {
        let mut list = Value::Object(list);
        x.settings.masking.tree(&mut list);
        list
    });
    let content = list.as_ref().map(|list| digest(&list.to_string()));
    let hash = match &content {
        // Some give the list alone.
        Some(content) if said.hash.is_empty() => content.clone(),
        _ => values::components_name(said),
    };
    let known = &mut outcome.record.durable.components;
    let is_same = known
        .as_ref()
        .is_some_and(|known| known.hash == hash && (content.is_none() || known.content == content));
    if is_same {
        return;
    }
    *known = Some(Components {
        hash: hash.clone(),
        content: content.clone(),
        asked_at: None,
        asked_for_all: false,
    });
    outcome.components = Some(SaidComponents {
        name: hash,
        content,
        list,
    });
}

/// Whether the list of components is to be asked for: nobody of the agent's team told what this hash stands for. Some agents tell
/// it only with their full state, which is asked for when they do not answer.
pub(super) fn wants_components(x: &Exchange<'_>, outcome: &mut Outcome) -> bool {
    // Looked at first, since what is kept of the agent is copied for whoever may change it.
    let known = outcome.record.durable.components.as_ref();
    if known.is_none_or(|known| known.content.is_some()) {
        return false;
    }
    let Some(known) = outcome.record.durable.components.as_mut() else {
        return false;
    };
    if let Some(content) = x.shared_components {
        known.content = Some(content.to_owned());
        known.asked_at = None;
        known.asked_for_all = false;
        outcome.components = Some(SaidComponents {
            name: known.hash.clone(),
            content: known.content.clone(),
            list: None,
        });
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
