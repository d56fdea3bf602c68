//! Settings that operators edit: the organisation, and the options of agents, for all hosts and per team.
//!
//! They are a few JSON documents in one table. Everybody reads them from memory ([`SettingsService::current`]); a change
//! is written with the version that it was made from, so that two changes at once never lose one another, and then
//! hinted to all replicas, which read the table again. A timer does the same, in case a hint was lost.
//!
//! Not responsible for: how the server itself is started (that is its configuration), and what agents make of their
//! options (`hosts` prepares them).

mod belongings;
mod default_options;
mod error;
mod expiry;
pub mod http;
mod migrations;
mod options;
mod organisation;
mod osquery_options;
mod service;
mod store;

pub use default_options::default_agent_options;
pub use error::SettingsError;
pub use expiry::TeamExpiry;
pub use migrations::MIGRATIONS;
pub use options::{Strictness, check_agent_options, parse_agent_options};
pub use organisation::Organisation;
pub use service::{DOCUMENTS_TOPIC, Documents, Settings, SettingsService};
