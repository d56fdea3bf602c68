//! What agents and operators reach by HTTP.

mod native;
mod native_change;
mod native_delete;
mod native_links;
mod native_telemetry;
mod opamp;
mod socket;

pub use native::native_routes;
pub use native_telemetry::telemetry_routes;
pub use opamp::agent_routes;
