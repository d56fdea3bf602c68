//! What is answered.

use muster_identity::CollectorId;
use muster_wire_opamp::{InstanceUid, Outgoing, Refusal as WireRefusal};

/// What whoever may not come is told, whatever the reason.
const NO_ADMISSION: &str = "authentication required";

/// What is answered.
pub(crate) struct Reply {
    pub(crate) outgoing: Outgoing,
    /// Which agent it was, if it is known; of those who may not come only when it is revoked.
    pub(crate) collector: Option<CollectorId>,
    /// Whether whoever sent the message may be told what is for the agent alone.
    pub(crate) is_told: bool,
    /// Whether a socket ends after it.
    pub(crate) closes: bool,
    /// Whether the agent may not come: 401 over plain HTTP. On a socket that others share it is told in band.
    pub(crate) is_unauthorized: bool,
}

impl Reply {
    /// What is told in band where it concerns one agent, or the message alone.
    pub(super) fn refused(outgoing: Outgoing) -> Self {
        Self {
            outgoing,
            collector: None,
            is_told: false,
            closes: false,
            is_unauthorized: false,
        }
    }

    pub(super) fn unauthorized(uid: InstanceUid) -> Self {
        Self {
            closes: true,
            is_unauthorized: true,
            ..Self::refused(Outgoing::refusal(
                uid,
                WireRefusal::BadRequest,
                NO_ADMISSION,
            ))
        }
    }
}
