//! Offers of a key: when, and what they carry.

use std::time::Duration;

use bytes::Bytes;
use muster_wire_opamp::proto::{
    ConnectionSettingsOffers, Header, Headers, OpAmpConnectionSettings, TlsCertificate,
};
use serde_json::json;

use super::{Carrier, Exchange, Outcome, Principal, bits, speaks_for};
use crate::limits::{LEAST_OFFER_PAUSE, OFFER_PAUSES, OFFERS_UNTIL_MARKED};
use crate::record::{Offer, Record, Standing};

/// What offers carry beside the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferSettings {
    /// Where agents reach this server: scheme (`http` or `https`), host, port and prefix, without the path.
    pub public_url: String,
    /// The authorities that sign this server's certificate, as PEM. Without them some agents stop verifying it, so that nothing
    /// is offered over TLS without.
    pub authority_pem: Option<String>,
    /// Further headers that agents have to send, for gateways between.
    pub headers: Vec<(String, String)>,
    /// How often agents are to be heard, in seconds; more than 0.
    pub heartbeat_seconds: u32,
}

/// A key is to be offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferPlan {
    /// What tells this offer from others.
    pub hash: [u8; 16],
    /// By which carrier the agent comes: its next connection is by the same.
    pub carrier: Carrier,
}

impl OfferSettings {
    /// Whether offers can be made: never without what lets agents verify the server.
    pub fn is_usable(&self) -> bool {
        self.heartbeat_seconds > 0
            && match self.public_url.split_once("://") {
                Some(("https", host)) => !host.is_empty() && self.authority_pem.is_some(),
                Some(("http", host)) => !host.is_empty(),
                _ => false,
            }
    }

    /// The whole address by which an agent connects.
    pub fn endpoint(&self, carrier: Carrier) -> String {
        let url = self.public_url.trim_end_matches('/');
        let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
        let scheme = match (carrier, scheme) {
            (Carrier::WebSocket, "http") => "ws",
            (Carrier::WebSocket, _) => "wss",
            (Carrier::Http, scheme) => scheme,
        };
        format!("{scheme}://{rest}/v1/opamp")
    }
}

impl OfferPlan {
    /// The offer with the key, whole: agents replace what they have by it, and what is left out is switched off.
    pub fn with_key(&self, settings: &OfferSettings, key: &str) -> ConnectionSettingsOffers {
        let header = |(key, value): (&str, &str)| Header {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let bearer = format!("Bearer {key}");
        let others = settings.headers.iter();
        let others = others.map(|(key, value)| (key.as_str(), value.as_str()));
        let headers = std::iter::once(("Authorization", bearer.as_str()))
            .chain(others)
            .map(header)
            .collect();
        let certificate = settings.authority_pem.as_ref().map(|pem| TlsCertificate {
            ca_cert: Bytes::copy_from_slice(pem.as_bytes()),
            ..TlsCertificate::default()
        });
        let is_tls = settings.public_url.starts_with("https");
        ConnectionSettingsOffers {
            hash: Bytes::copy_from_slice(&self.hash),
            opamp: Some(OpAmpConnectionSettings {
                destination_endpoint: settings.endpoint(self.carrier),
                headers: Some(Headers { headers }),
                certificate: certificate.filter(|_| is_tls),
                heartbeat_interval_seconds: u64::from(settings.heartbeat_seconds),
                ..OpAmpConnectionSettings::default()
            }),
            ..ConnectionSettingsOffers::default()
        }
    }
}

/// Plans an offer when the agent can take one, needs one, and no other is under way.
pub(super) fn plan(x: &Exchange<'_>, outcome: &mut Outcome) {
    let is_usable = x
        .settings
        .offers
        .as_ref()
        .is_some_and(OfferSettings::is_usable);
    let durable = &outcome.record.durable;
    if !is_usable
        || durable.standing != Standing::Enrolled
        || !outcome.record.can(bits::ACCEPTS_CONNECTION_SETTINGS)
        || x.message.agent_disconnect.is_some()
    {
        return;
    }
    let needs = match x.principal {
        Principal::Token(_) => true,
        Principal::Key(key) => key.is_due && !key.is_superseded,
    };
    if !needs || !speaks_for(x.principal, &outcome.record) {
        return;
    }
    mark(x, outcome);
    let record = &mut outcome.record;
    // Two offers that are close together leave a supervisor with two live connections.
    let other = record.durable.telemetry.as_ref();
    if other.is_some_and(|sent| x.now.since(sent.at) < LEAST_OFFER_PAUSE) {
        return;
    }
    let before = record.durable.offer.as_ref();
    if before.is_some_and(|offer| !is_due(x, record, offer)) {
        return;
    }
    let attempts = before.map_or(0, |offer| offer.attempts).saturating_add(1);
    let offer = Offer {
        key_id: before.and_then(|offer| offer.key_id),
        at: x.now,
        connection: x.connection.id,
        attempts,
        is_marked: before.is_some_and(|offer| offer.is_marked),
    };
    record.durable.offer = Some(offer);
    let mut hash = [0; 16];
    x.randomness.fill(&mut hash);
    outcome.offer = Some(OfferPlan {
        hash,
        carrier: x.connection.carrier,
    });
}

/// Whether it is time to offer again: the former key was not used.
fn is_due(x: &Exchange<'_>, record: &Record, offer: &Offer) -> bool {
    let ago: Duration = x.now.since(offer.at);
    if ago < LEAST_OFFER_PAUSE {
        return false;
    }
    let last = OFFER_PAUSES.len() - 1;
    let pause = match offer.attempts {
        0 | 1 => {
            // It may have been lost on its way.
            let came_anew = match (x.principal, x.connection.carrier) {
                (Principal::Key(_), _) => false,
                (_, Carrier::WebSocket) => offer.connection != x.connection.id,
                (_, Carrier::Http) => ago >= 2 * record.interval(),
            };
            if came_anew {
                return true;
            }
            OFFER_PAUSES[0]
        }
        attempts => OFFER_PAUSES[(attempts as usize - 2).min(last)],
    };
    ago >= pause
}

/// Tells people of an agent that does not adopt its key.
fn mark(x: &Exchange<'_>, outcome: &mut Outcome) {
    let interval = outcome.record.interval();
    let error = outcome.record.durable.settings.as_ref();
    let error = error.map(|said| said.error.clone()).unwrap_or_default();
    let Some(offer) = outcome.record.durable.offer.as_mut() else {
        return;
    };
    let is_over = x.now.since(offer.at) >= 2 * interval;
    if !offer.is_marked && offer.attempts >= OFFERS_UNTIL_MARKED && is_over {
        offer.is_marked = true;
        let details = json!({ "offers": offer.attempts, "error": error });
        outcome.event("does_not_adopt_its_key", details);
    }
}
