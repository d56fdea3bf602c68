//! The HTTP rooms: our own API, and Fleet's.

mod fleet;
mod native;

pub use fleet::{ServerFacts, fleet_routes};
pub use native::native_routes;
