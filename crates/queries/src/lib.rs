//! Questions to hosts: saved queries, live campaigns with a full account of who answered, and the socket that says
//! "ask now".
//!
//! A campaign is a durable object: a row for itself and one for each targeted host, which is pending, sent, answered,
//! failed, offline, expired or cancelled, and only ever moves forward. It survives restarts, listeners that leave and
//! come back, and hosts that were away. Results are kept, within bounds, under positions that count up, so that any
//! number of listeners can read a stream and resume it.
//!
//! At a check-in nothing of this touches the database: [`Live`] knows in memory which host still owes an answer to what.
//! Results are written by one task in groups, and acknowledged after the commit.
//!
//! Not responsible for: which hosts there are ([`Targets`] is asked), how they check in (`hosts`), or who may ask
//! (`identity` decides; the rules of who may ask what stand here).

mod campaigns;
mod error;
pub mod http;
mod live;
mod migrations;
mod model;
mod notify;
mod saved;
mod service;
mod store;
mod stream;
mod target;
mod writer;

pub use campaigns::{Campaigns, MAX_EXPIRY, NewCampaign};
pub use error::QueriesError;
pub use live::Live;
pub use migrations::MIGRATIONS;
pub use model::{
    Campaign, CampaignHost, CampaignStatus, Counts, HostResult, HostState, Logging, SavedQuery,
    SavedQueryChange,
};
pub use notify::{MAX_SOCKETS_PER_HOST, Notifier, NotifySocket};
pub use saved::SavedQueries;
pub use service::{AlwaysOn, Queries, Switches};
pub use stream::{Event, Stream};
pub use target::{Target, TargetError, TargetHost, Targets};
pub use writer::MAX_WAITING_BYTES as MAX_WAITING_ANSWERS_BYTES;
