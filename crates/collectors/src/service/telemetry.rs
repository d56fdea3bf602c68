//! Offers of where to send own telemetry: when, and what they carry.
//!
//! An agent takes an offer for a whole: a supervisor drops what a later one leaves out, and gets confused by two that are close
//! together. So a key goes first; while one is offered nothing else is, and what belongs to the former connection is offered
//! again on the one with the new key.

use std::time::Duration;

use bytes::Bytes;
use muster_wire_opamp::proto::{
    ConnectionSettingsOffers, Header, Headers, TelemetryConnectionSettings,
};
use serde_json::json;

use super::{Carrier, Exchange, Outcome, Principal};
use crate::limits::{LEAST_OFFER_PAUSE, TELEMETRY_PAUSE};
use crate::record::{Record, SentTelemetry, Standing};
use crate::telemetry::{Destination, OwnTelemetry, Signal};

/// Offers the agent what it should have and was not offered yet.
pub(super) fn send(x: &Exchange<'_>, outcome: &mut Outcome) {
    let Some(desired) = x.telemetry else {
        return;
    };
    let record = &outcome.record;
    let signals = desired.signals(record.durable.capabilities);
    if signals.is_empty()
        || record.durable.standing != Standing::Enrolled
        || x.message.agent_disconnect.is_some()
        || outcome.offer.is_some()
        || !is_on_its_connection(x, record)
        || is_key_awaited(x, record)
    {
        return;
    }
    let hash = desired.offer_hash(&signals);
    if let Some(sent) = &record.durable.telemetry
        && !is_due(x, record, sent, &hash)
    {
        return;
    }
    outcome.update.connection_settings = Some(offer(desired, &signals, &hash));
    let names: Vec<&str> = signals.iter().map(|signal| signal.name()).collect();
    outcome.record.durable.telemetry = Some(SentTelemetry {
        hash,
        at: x.now,
        connection: x.connection.id,
        key_id: record.durable.key_id,
        settings: desired.name.clone(),
    });
    let details = json!({ "settings": desired.name, "signals": names });
    outcome.event("telemetry_offered", details);
}

/// Whether the agent came as it will go on: not by a key that was replaced, nor by the token of before.
fn is_on_its_connection(x: &Exchange<'_>, record: &Record) -> bool {
    match x.principal {
        Principal::Key(key) => !key.is_superseded,
        Principal::Token(_) => {
            record.durable.key_id.is_none() || record.durable.readmitted_at.is_some()
        }
    }
}

/// Whether a key was offered that the agent may be about to take, or took just now.
fn is_key_awaited(x: &Exchange<'_>, record: &Record) -> bool {
    let Some(offer) = &record.durable.offer else {
        let adopted_at = record.durable.adopted_at;
        return adopted_at.is_some_and(|at| x.now.since(at) < LEAST_OFFER_PAUSE);
    };
    !offer.is_marked || x.now.since(offer.at) < LEAST_OFFER_PAUSE
}

fn is_due(x: &Exchange<'_>, record: &Record, sent: &SentTelemetry, hash: &str) -> bool {
    let ago: Duration = x.now.since(sent.at);
    if ago < LEAST_OFFER_PAUSE {
        return false;
    }
    if sent.hash != hash || sent.key_id != record.durable.key_id {
        return true;
    }
    // Whoever starts anew tells everything from its first number on, and may have kept nothing.
    let is_other_connection = match x.connection.carrier {
        Carrier::WebSocket => sent.connection != x.connection.id,
        Carrier::Http => true,
    };
    let starts = x.message.agent_description.is_some() && x.message.sequence_num <= 1;
    starts && is_other_connection && ago >= TELEMETRY_PAUSE
}

/// The offer of some signals.
fn offer(desired: &OwnTelemetry, signals: &[Signal], hash: &str) -> ConnectionSettingsOffers {
    let part = |signal: Signal| {
        let is_wanted = signals.contains(&signal);
        let destination = desired.destinations.get(&signal).filter(|_| is_wanted);
        destination.map(settings)
    };
    let bytes = data_encoding::HEXLOWER.decode(hash.as_bytes());
    ConnectionSettingsOffers {
        hash: Bytes::from(bytes.unwrap_or_default()),
        own_metrics: part(Signal::Metrics),
        own_traces: part(Signal::Traces),
        own_logs: part(Signal::Logs),
        ..ConnectionSettingsOffers::default()
    }
}

fn settings(destination: &Destination) -> TelemetryConnectionSettings {
    let headers = destination.headers.iter();
    let headers = headers.map(|(key, value)| Header {
        key: key.clone(),
        value: value.clone(),
    });
    TelemetryConnectionSettings {
        destination_endpoint: destination.endpoint.clone(),
        headers: Some(Headers {
            headers: headers.collect(),
        }),
        ..TelemetryConnectionSettings::default()
    }
}
