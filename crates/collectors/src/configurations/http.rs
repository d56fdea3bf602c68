//! Our own API: configurations of collectors.

mod assignments;
mod documents;
mod status;

use axum::Extension;
use muster_http::BodyLimit;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::service::Configurations;

/// The largest body: JSON may need several bytes for one of a file.
const MAX_BODY_BYTES: usize = 4 * super::document::MAX_VERSION_BYTES;

/// The routes, relative to `/api/muster`.
pub fn configuration_routes(configurations: Configurations) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(documents::list, documents::create))
        .routes(routes!(documents::validate))
        .routes(routes!(status::preview))
        .routes(routes!(
            documents::get,
            documents::change,
            documents::delete
        ))
        .routes(routes!(documents::list_versions, documents::push))
        .routes(routes!(documents::get_version))
        .routes(routes!(documents::diff))
        .routes(routes!(status::of_configuration))
        .routes(routes!(assignments::roll_back_all))
        .routes(routes!(assignments::list, assignments::assign))
        .routes(routes!(
            assignments::get,
            assignments::change,
            assignments::unassign
        ))
        .routes(routes!(assignments::roll_back))
        .routes(routes!(status::list))
        .routes(routes!(status::of_collector))
        .routes(routes!(status::collector_diff))
        .layer(Extension(BodyLimit(MAX_BODY_BYTES)))
        .with_state(configurations)
}
