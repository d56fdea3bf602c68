//! Collectors, and whatever else speaks OpAMP: their connections, what is known about them, and the exchange of a shared
//! enrollment token for a key of their own.
//!
//! [`service::step`] is what happens to a message, as a pure function; [`Collectors`] keeps what it comes to in one unit of
//! work and answers only then. [`http::agent_routes`] is the one path that agents use, by WebSocket or by plain HTTP;
//! [`http::native_routes`] is what operators see and do.
//!
//! An agent's id is not its uid: uids change. Messages are counted per agent *and* credential, since each connection of a
//! client has numbers of its own. A key is adopted when it is used, whatever the agent says. What agents say at length is kept
//! in the database only, and a message that changes nothing writes nothing but a mark in a batch.
//!
//! Not responsible for: tokens and keys (`muster-identity`), the bytes on the wire (`muster-wire-opamp`), and which remote
//! configuration an agent should run: whoever knows is attached as [`RemoteConfigs`].

mod attribute_list;
mod collectors;
pub mod configurations;
mod error;
mod forgetting;
pub mod http;
mod knocks;
mod limits;
mod links;
mod live;
mod masking;
mod migrations;
mod newcomers;
mod operators;
mod pace;
mod presence;
pub mod record;
pub mod service;
mod store;
pub mod telemetry;
#[cfg(test)]
mod testing;
mod values;

pub use collectors::{CollectorParts, Collectors, RemoteConfigs};
pub use error::{ExchangeError, OperatorError};
pub use forgetting::CollectorExpirySource;
pub use limits::{DEFAULT_HEARTBEAT, DEFAULT_NEW_PER_DAY, MAX_AUTHORITY_BYTES, MAX_HEADERS_BYTES};
pub use masking::{DEFAULT_KEYS_LIST, MASK, Masking};
pub use migrations::MIGRATIONS;
pub use operators::{AgentCounts, CollectorQuery};
