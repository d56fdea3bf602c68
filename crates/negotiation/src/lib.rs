//! Capabilities and API versions: who can do what, since when, and what absence means.
//!
//! Every process is updated on its own schedule, so each says on every exchange what it can do, and each decides at the
//! point of use from what its peer said on *this* request. A peer that says nothing can do nothing beyond the oldest
//! behaviour; that is never an error.
//!
//! [`Capability`] is the registry: each name is declared once, with who sends it, since which release, and what its
//! absence means. [`CapabilitySet`] reads and writes the `X-Fleet-Capabilities` header. [`Offer`] is what a server can do, and
//! [`Spoken`] what it says of that now. [`api`] holds the API families
//! and their versions. [`page`] writes the reference page from the same declarations.
//!
//! This crate is pure: it knows nothing of HTTP libraries, databases or time.

pub mod api;
mod capability;
mod offer;
pub mod page;
mod release;
mod set;

pub use api::{FleetVersion, NativeVersion, UnsupportedVersion};
pub use capability::{Capability, Declaration, Family, Feature, Sender};
pub use offer::{Offer, Spoken};
pub use release::{ParseReleaseError, Release};
pub use set::{CapabilitySet, MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_NAMES};

/// The header that carries capabilities in both directions.
pub const CAPABILITIES_HEADER: &str = "x-fleet-capabilities";

/// The header by which clients of our own API ask for a version, and by which answers say which one they have.
pub const NATIVE_VERSION_HEADER: &str = "muster-api-version";
