//! Answers: what was decided, as a message.

use muster_wire_opamp::proto::ConnectionSettingsOffers;
use muster_wire_opamp::{InstanceUid, Outgoing, ServerCapabilities};

use super::{Exchange, Outcome};

/// What this server can do. Said in every answer, so that a lost one loses nothing.
pub const SERVER_CAPABILITIES: ServerCapabilities = ServerCapabilities::ACCEPTS_STATUS
    .union(ServerCapabilities::OFFERS_REMOTE_CONFIG)
    .union(ServerCapabilities::ACCEPTS_EFFECTIVE_CONFIG)
    .union(ServerCapabilities::ACCEPTS_PACKAGES_STATUS)
    .union(ServerCapabilities::OFFERS_CONNECTION_SETTINGS);

/// A new uid of version 7, which is the only one that every client takes.
pub(super) fn new_uid(x: &Exchange<'_>) -> InstanceUid {
    let mut random = [0; 10];
    x.randomness.fill(&mut random);
    InstanceUid::new_v7(x.now, random)
}

/// Whether a uid is one that was never made.
pub(super) fn is_nil(uid: InstanceUid) -> bool {
    uid.as_bytes() == &[0; 16]
}

impl Outcome {
    /// The answer, with the settings that were made for an offer.
    pub fn answer(&self, offer: Option<ConnectionSettingsOffers>) -> Outgoing {
        if self.restarts {
            return Outgoing::restart(&self.uid, SERVER_CAPABILITIES);
        }
        let mut update = self.update.clone();
        if offer.is_some() {
            update.connection_settings = offer;
        }
        Outgoing::update(&self.uid, SERVER_CAPABILITIES, update)
    }
}
