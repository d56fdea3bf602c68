//! Our own API.

use axum::extract::State;
use muster_http::{ListingQuery, Page, Path, Problem, Query};
use muster_identity::{HostId, Principal};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::visible;
use crate::{Software, SoftwareTitle, SoftwareVersion, TITLE_SORTS, VERSION_SORTS};

/// The routes, relative to `/api/muster`.
pub fn native_routes(software: Software) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list_versions))
        .routes(routes!(get_version))
        .routes(routes!(list_titles))
        .routes(routes!(get_title))
        .with_state(software)
}

/// Whose software.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Whose {
    /// Only that of the hosts of this team; 0 for hosts without a team.
    team_id: Option<i64>,
}

/// Which host's software.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OnHost {
    /// Only that of this host.
    host_id: Option<i64>,
}

/// List versions of software
///
/// Every version that a visible host has, with the number of those hosts. Sort by `name`, `version`, `source`,
/// `hosts_count` or `id`; search looks into name and version. With `host_id`, that of one host; `hosts_count` is 1 then.
#[utoipa::path(get, path = "/software", tag = "software", params(ListingQuery, Whose, OnHost), responses(
    (status = 200, body = Page<SoftwareVersion>), (status = 422, description = "a wrong parameter")))]
async fn list_versions(
    State(software): State<Software>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Query(whose): Query<Whose>,
    Query(on): Query<OnHost>,
) -> Result<axum::Json<Page<SoftwareVersion>>, Problem> {
    let visible = visible(&principal, whose.team_id)?;
    let listing = listing.check(VERSION_SORTS)?;
    let page = match on.host_id {
        Some(host) => {
            let host = HostId(host);
            software.versions_of_host(&visible, host, &listing).await?
        }
        None => software.versions(&visible, &listing).await?,
    };
    Ok(axum::Json(page))
}

/// Show a version of software
#[utoipa::path(get, path = "/software/{id}", tag = "software", params(("id" = i64, Path, description = "the version")),
    responses((status = 200, body = SoftwareVersion), (status = 404, description = "no visible host has it")))]
async fn get_version(
    State(software): State<Software>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<SoftwareVersion>, Problem> {
    let visible = visible(&principal, None)?;
    let version = software.version(&visible, id).await?;
    let version = version.ok_or_else(|| Problem::not_found(format!("software version {id}")))?;
    Ok(axum::Json(version))
}

/// List titles of software
///
/// Titles with their versions. Sort by `name`, `source`, `hosts_count` or `id`; search looks into the name.
#[utoipa::path(get, path = "/software-titles", tag = "software", params(ListingQuery, Whose), responses(
    (status = 200, body = Page<SoftwareTitle>), (status = 422, description = "a wrong parameter")))]
async fn list_titles(
    State(software): State<Software>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Query(whose): Query<Whose>,
) -> Result<axum::Json<Page<SoftwareTitle>>, Problem> {
    let visible = visible(&principal, whose.team_id)?;
    let listing = listing.check(TITLE_SORTS)?;
    Ok(axum::Json(software.titles(&visible, &listing).await?))
}

/// Show a title of software
#[utoipa::path(get, path = "/software-titles/{id}", tag = "software",
    params(("id" = i64, Path, description = "the title")),
    responses((status = 200, body = SoftwareTitle), (status = 404, description = "no visible host has it")))]
async fn get_title(
    State(software): State<Software>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<SoftwareTitle>, Problem> {
    let visible = visible(&principal, None)?;
    let title = software.title(&visible, id).await?;
    let title = title.ok_or_else(|| Problem::not_found(format!("software title {id}")))?;
    Ok(axum::Json(title))
}
