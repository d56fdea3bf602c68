//! Remote configurations and commands: when they are sent.

use std::time::Duration;

use bytes::Bytes;
use muster_wire_opamp::proto::{AgentConfigMap, AgentConfigObject, AgentRemoteConfig};
use serde_json::json;

use super::{Carrier, DesiredConfig, Effect, Exchange, Outcome, bits};
use crate::limits::{CONFIG_ANSWER_TIME, RESTART_WAITS};
use crate::record::{Record, SentConfig};
use crate::values::hex;

/// Whether a command is due, so that nothing else is told with this answer.
pub(super) fn is_commanding(record: &Record, x: &Exchange<'_>) -> bool {
    let is_due = |wanted_at| x.now.since(wanted_at) <= RESTART_WAITS;
    record.durable.restart_at.is_some_and(is_due) && record.can(bits::ACCEPTS_RESTART)
}

/// Tells the agent to restart when somebody wants that: alone, since agents ignore everything beside a command. At most once:
/// one that is lost is not repeated.
pub(super) fn command(x: &Exchange<'_>, outcome: &mut Outcome) -> bool {
    let Some(wanted_at) = outcome.record.durable.restart_at else {
        return false;
    };
    if x.now.since(wanted_at) > RESTART_WAITS {
        outcome.record.durable.restart_at = None;
        outcome.event("restart_given_up", json!({}));
        return false;
    }
    if !outcome.record.can(bits::ACCEPTS_RESTART) {
        return false;
    }
    outcome.record.durable.restart_at = None;
    outcome.restarts = true;
    outcome.event("restart_sent", json!({}));
    true
}

/// Sends the configuration that the agent should have and does not report.
pub(super) fn send(x: &Exchange<'_>, outcome: &mut Outcome) {
    let Some(desired) = x.desired_config else {
        return;
    };
    let hash = hex(&desired.hash);
    if !is_to_be_sent(x, &outcome.record, desired, &hash) {
        return;
    }
    let object = |file: &super::ConfigFile| AgentConfigObject {
        body: Bytes::copy_from_slice(&file.body),
        content_type: file.content_type.clone(),
        ..AgentConfigObject::default()
    };
    let files = desired.files.iter();
    outcome.update.remote_config = Some(AgentRemoteConfig {
        config: Some(AgentConfigMap {
            config_map: files
                .map(|(name, file)| (name.clone(), object(file)))
                .collect(),
        }),
        config_hash: Bytes::copy_from_slice(&desired.hash),
    });
    outcome.record.durable.sent_config = Some(SentConfig {
        hash: hash.clone(),
        at: x.now,
        connection: x.connection.id,
    });
    outcome.effects.push(Effect::ConfigSent { hash });
}

fn is_to_be_sent(x: &Exchange<'_>, record: &Record, desired: &DesiredConfig, hash: &str) -> bool {
    // Without files some agents stop their collector.
    if !record.can(bits::ACCEPTS_REMOTE_CONFIG) || desired.files.is_empty() {
        return false;
    }
    // Whatever it says of this one, be it that it failed, it has it. An agent that was given another uid does not repeat it.
    if record
        .durable
        .config
        .as_ref()
        .is_some_and(|said| said.hash == hash)
    {
        return false;
    }
    let Some(sent) = record
        .durable
        .sent_config
        .as_ref()
        .filter(|sent| sent.hash == hash)
    else {
        return true;
    };
    let reports = record.can(bits::REPORTS_REMOTE_CONFIG);
    let ago: Duration = x.now.since(sent.at);
    match x.connection.carrier {
        Carrier::WebSocket => sent.connection != x.connection.id,
        Carrier::Http => reports && ago >= CONFIG_ANSWER_TIME,
    }
}
