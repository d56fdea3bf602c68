//! The HTTP rooms of this crate: our own API, Fleet's user API, its result stream, and the notification socket.

mod fleet_live;
mod fleet_queries;
mod fleet_socket;
mod native;
mod native_campaigns;
mod notify;

use std::time::Duration;

use axum::Router;

use crate::Queries;

pub use native::native_routes;
pub use notify::notify_routes;

/// What the Fleet rooms need besides the services.
#[derive(Clone)]
pub(crate) struct FleetState {
    pub(crate) queries: Queries,
    pub(crate) identity: muster_identity::Identity,
    pub(crate) rest_period: Duration,
}

/// Fleet's routes, relative to `/api/{version}/fleet`. `rest_period`: how long a call without a stream waits.
pub fn fleet_routes(
    queries: Queries,
    identity: muster_identity::Identity,
    rest_period: Duration,
) -> Router {
    Router::new()
        .merge(fleet_queries::routes())
        .merge(fleet_live::routes())
        .merge(fleet_socket::routes())
        .with_state(FleetState {
            queries,
            identity,
            rest_period,
        })
}
