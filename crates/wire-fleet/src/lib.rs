//! What Fleet's orbit API and user API put on the wire.
//!
//! The server reads requests and writes answers; orbit and our own agent write the requests of [`orbit`]; fleetctl,
//! scripts and dashboards write those of the user API and read its answers. Reading is tolerant: unknown keys are
//! ignored, `null` counts as absent unless a type says otherwise, and the spellings of 2026 (`fleet_id`, `report_id`)
//! are read beside the old ones. Answers have every member that clients expect, in Fleet's order, even when empty,
//! since some clients break on a missing one.
//!
//! Not responsible for: rules, defaults of what is stored, who may do what, paging, and versions (capabilities and
//! versions of paths are negotiation's).

pub mod config;
pub mod device;
pub mod documents;
mod error;
pub mod host;
pub mod label;
pub mod live;
pub mod orbit;
pub mod query;
mod reading;
mod secret;
pub mod target;
pub mod team;
pub mod time;
pub mod user;

pub use error::{ErrorBody, ErrorField};
pub use muster_wire_osquery::{Row, Stats};
pub use secret::Secret;

use serde::{Deserialize, Serialize};

/// The answer to what has nothing to tell: `{}`. Written by servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// `GET …/count`. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CountAnswer {
    /// How many there are.
    pub count: u64,
}

/// `POST …/delete` of things by their ids. Written by clients, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DeleteByIds {
    /// What to delete.
    #[serde(deserialize_with = "reading::or_default")]
    pub ids: Vec<i64>,
}

/// How many were deleted. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeletedAnswer {
    /// How many.
    pub deleted: u64,
}

/// Whether a list goes on before and after the page. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PageMeta {
    /// There are more after it.
    pub has_next_results: bool,
    /// There are some before it.
    pub has_previous_results: bool,
}

/// Documents to apply, by name: `{"specs": […]}`. Written by fleetctl and by servers, read by both.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Specs<T> {
    /// The documents.
    #[serde(
        default,
        deserialize_with = "reading::or_default",
        bound(deserialize = "T: Deserialize<'de>")
    )]
    pub specs: Vec<T>,
}

/// One document by its name; the member is called `specs` nevertheless. Written by servers, read by fleetctl.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OneSpec<T> {
    /// The document.
    pub specs: T,
}

/// The answer to `GET /version`, with and without a token. Written by servers, read by fleetctl before each command
/// and by load generators.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionAnswer {
    /// The release; fleetctl warns when it is not its own.
    pub version: String,
    /// The branch that it was built from.
    pub branch: String,
    /// The commit that it was built from.
    pub revision: String,
    /// The compiler's version.
    pub go_version: String,
    /// When it was built.
    pub build_date: String,
    /// By whom.
    pub build_user: String,
}
