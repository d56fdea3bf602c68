//! The HTTP rooms of this crate: our own API, Fleet's user API, and who sends a request.

mod authenticate;
mod fleet;
mod fleet_secrets;
mod fleet_users;
mod native;
mod native_keys;
mod native_me;
mod native_tokens;
mod native_users;

pub use authenticate::{authenticate, require_setup};
pub use fleet::{SetupObserver, fleet_routes, fleet_setup_routes};
pub use native::native_routes;
