//! Which servers share the database, for operators.

use axum::extract::State;
use muster_http::Problem;
use muster_identity::{Action, Principal, Scope};
use muster_replicas::{ReplicaInfo, Replicas};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes, relative to `/api/muster`.
pub(crate) fn native_routes(replicas: Replicas) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list_replicas))
        .with_state(replicas)
}

/// The servers of one database.
#[derive(Serialize, ToSchema)]
struct ReplicaList {
    /// The one that answers.
    answered_by: String,
    /// All that said something in the last day, oldest first.
    items: Vec<ReplicaInfo>,
}

/// List servers
///
/// The servers that share the database, each with its release and with the work that it alone does for all. One that ends
/// without a word stays in the list for a day, `gone` about 20 seconds later; its leases go to another within 15 seconds.
#[utoipa::path(get, path = "/replicas", tag = "server", responses(
    (status = 200, body = ReplicaList), (status = 403, description = "only for who may read the server's state")))]
async fn list_replicas(
    State(replicas): State<Replicas>,
    principal: Principal,
) -> Result<axum::Json<ReplicaList>, Problem> {
    principal.authorize(Action::ReadServer, Scope::Global)?;
    Ok(axum::Json(ReplicaList {
        answered_by: replicas.id().to_owned(),
        items: replicas.list().await?,
    }))
}
