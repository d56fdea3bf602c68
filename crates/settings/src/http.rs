//! The HTTP rooms: our own API, and Fleet's.

mod fleet;
mod fleet_absent;
mod fleet_batches;
mod fleet_teams;
mod native;

pub use fleet::{ServerFacts, fleet_routes};
pub use fleet_absent::fleet_absent_routes;
pub use fleet_batches::fleet_batch_routes;
pub use fleet_teams::fleet_team_routes;
pub use native::native_routes;
