//! Configurations of collectors: named documents with versions, checked before they are kept, assigned by attributes, and how
//! far each collector is with what it should run.
//!
//! [`check`](self) and the other rules are pure. [`Configurations`] keeps documents and assignments, and looks at collectors
//! whenever something about them changes: which assignment each follows ([`ranked`]), how far it is ([`judge`]), and so what is
//! to be sent. The server for agents asks it through [`RemoteConfigs`](crate::RemoteConfigs), from memory.
//!
//! Not responsible for: when a message is sent (`service`), and what agents say (`record`).

mod check;
mod components;
mod diff;
mod document;
mod error;
mod finding;
mod http;
mod merge;
pub(crate) mod migrations;
mod model;
pub(crate) mod precedence;
mod rollout;
pub(crate) mod selector;
mod service;
mod store;
mod yaml;

pub use check::check;
pub use components::{Components, Section};
pub use diff::{Change, FileDiff, between_files, effective_to_desired, unified};
pub use document::{
    File, Files, Kind, MAX_FILE_BYTES, MAX_FILES, MAX_VERSION_BYTES, MAX_VERSIONS_KEPT, hash,
};
pub use error::ConfigurationError;
pub use finding::{Finding, Severity, has_errors};
pub use http::configuration_routes;
pub use model::{Assignment, AutoRollback, CollectorState, Configuration, VersionInfo};
pub use precedence::{Claim, ranked};
pub use rollout::{DEFAULT_SOAK, Facts, NextLook, Rollout, Stage, State, Version, judge};
pub use selector::{Condition, Requirement, Selector, SelectorError};
pub use service::{
    AssignmentChange, ConfigurationChange, ConfigurationParts, Configurations, Effects, Made,
    NewAssignment, NewConfiguration, NewFiles, PreviewItem, PreviewWish, RolledBack, StatusQuery,
};
pub use yaml::Place;
