//! What every HTTP room shares: problems, bodies with limits, client addresses, listings.
//!
//! A handler that cannot answer gives a [`Problem`]; the router it stands in says with [`shape`] how its family of
//! peers reads errors. Bodies are read by [`Json`] (or [`read_body`] on the hot path), which inflates gzip, bounds the
//! inflated size and the time, and never looks at `Content-Type`: real agents send none.
//!
//! Not responsible for: who may do what (`identity`), versions (`negotiation`), or any route.

mod body;
mod client;
mod extract;
mod listing;
mod network;
mod problem;

pub use body::{
    BodyBudget, BodyLimit, DEFAULT_BODY_BYTES, Json, LessUrgent, parse_json, read_body, read_text,
};
pub use client::{ClientAddress, bearer_token};
pub use extract::{Path, Query};
pub use listing::{Listing, ListingQuery, MAX_PAGE_ROWS, OrderDirection, Page};
pub use network::{Network, NotANetwork};
pub use problem::{Field, Problem, RETRY_AFTER_SECONDS, Shape, error_chain, shape};
