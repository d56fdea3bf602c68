//! What agents and operators reach by HTTP.

mod native;
mod native_change;
mod native_delete;
mod opamp;
mod socket;

pub use native::native_routes;
pub use opamp::agent_routes;
