//! Fleet's user API: software in its old and newer shapes.
//!
//! Empty lists differ by route as clients know them: `/software` and `/software/versions` leave the list out,
//! `/software/titles` has an empty one.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use muster_http::{Listing, OrderDirection, Path, Problem, Query};
use muster_identity::Principal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::visible;
use crate::{Software, SoftwareTitle, SoftwareVersion, TITLE_SORTS, VERSION_SORTS, Visible};

/// Rows of a list when the client does not say: as good as all.
const ALL_ROWS: u32 = 100_000;

/// The routes, relative to `/api/{version}/fleet`.
pub fn fleet_routes(software: Software) -> Router {
    Router::new()
        .route("/software", get(old_list))
        .route("/software/count", get(count))
        .route("/software/versions", get(versions))
        .route("/software/versions/{id}", get(version))
        .route("/software/titles", get(titles))
        .route("/software/titles/{id}", get(title))
        .route("/software/{id}", get(version))
        .with_state(software)
}

/// Paging, sorting and filters as Fleet writes them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wishes {
    page: Option<u64>,
    per_page: Option<u32>,
    order_key: Option<String>,
    order_direction: Option<String>,
    query: Option<String>,
    team_id: Option<i64>,
}

impl Wishes {
    fn listing(&self, sortable: &'static [&'static str]) -> Result<Listing, Problem> {
        let limit = self.per_page.unwrap_or(ALL_ROWS);
        if limit == 0 {
            return Err(Problem::bad_request("per_page must be above 0"));
        }
        let limit = limit.min(ALL_ROWS);
        let key = self.order_key.as_deref().filter(|key| !key.is_empty());
        // Without a wish the most common software comes first.
        let sort = sortable
            .iter()
            .copied()
            .find(|field| *field == key.unwrap_or("hosts_count"));
        let sort = sort.ok_or_else(|| {
            Problem::invalid(
                "order_key",
                format!("must be one of {}", sortable.join(", ")),
            )
        })?;
        let descending = match self.order_direction.as_deref() {
            None | Some("") => key.is_none(),
            Some(direction) => direction.eq_ignore_ascii_case("desc"),
        };
        let search = self
            .query
            .as_deref()
            .map(str::trim)
            .filter(|text| !text.is_empty());
        Ok(Listing {
            limit,
            offset: self
                .page
                .unwrap_or(0)
                .saturating_mul(u64::from(limit))
                .min(i64::MAX as u64),
            sort,
            direction: if descending {
                OrderDirection::Descending
            } else {
                OrderDirection::Ascending
            },
            search: search.map(str::to_owned),
        })
    }
}

fn meta(listing: &Listing, has_next: bool) -> Value {
    json!({ "has_next_results": has_next, "has_previous_results": listing.offset > 0 })
}

/// A version as Fleet's lists show it.
#[derive(Serialize)]
struct FleetVersion {
    id: i64,
    name: String,
    version: String,
    source: String,
    browser: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    extension_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    bundle_identifier: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    release: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    vendor: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    arch: String,
    generated_cpe: &'static str,
    vulnerabilities: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts_count: Option<i64>,
}

impl From<SoftwareVersion> for FleetVersion {
    fn from(version: SoftwareVersion) -> Self {
        Self {
            id: version.id,
            name: version.name,
            version: version.version,
            source: version.source,
            browser: version.browser,
            extension_id: version.extension_id,
            bundle_identifier: version.bundle_identifier,
            release: version.release,
            vendor: version.vendor,
            arch: version.arch,
            generated_cpe: "",
            vulnerabilities: None,
            hosts_count: Some(version.hosts_count),
        }
    }
}

/// A piece of software in Fleet's host object.
#[derive(Serialize)]
pub struct FleetHostSoftware {
    #[serde(flatten)]
    version: FleetVersion,
    installed_paths: Option<()>,
    signature_information: Option<()>,
}

impl From<SoftwareVersion> for FleetHostSoftware {
    fn from(version: SoftwareVersion) -> Self {
        Self {
            version: FleetVersion {
                hosts_count: None,
                ..version.into()
            },
            installed_paths: None,
            signature_information: None,
        }
    }
}

async fn versions(
    State(software): State<Software>,
    principal: Principal,
    Query(wishes): Query<Wishes>,
) -> Result<axum::Json<Value>, Problem> {
    let (visible, listing) = (
        visible(&principal, wishes.team_id)?,
        wishes.listing(VERSION_SORTS)?,
    );
    let page = software.versions(&visible, &listing).await?;
    let mut answer = json!({
        "count": page.total,
        "counts_updated_at": software.counted_at(&visible).await?,
        "meta": meta(&listing, page.next_cursor.is_some()),
    });
    put_software(&mut answer, page.items);
    Ok(axum::Json(answer))
}

/// The shape before versions and titles were told apart.
async fn old_list(
    State(software): State<Software>,
    principal: Principal,
    Query(wishes): Query<Wishes>,
) -> Result<axum::Json<Value>, Problem> {
    let (visible, listing) = (
        visible(&principal, wishes.team_id)?,
        wishes.listing(VERSION_SORTS)?,
    );
    let page = software.versions(&visible, &listing).await?;
    let mut answer = json!({ "counts_updated_at": software.counted_at(&visible).await? });
    put_software(&mut answer, page.items);
    Ok(axum::Json(answer))
}

fn put_software(answer: &mut Value, versions: Vec<SoftwareVersion>) {
    if !versions.is_empty() {
        let versions: Vec<FleetVersion> = versions.into_iter().map(Into::into).collect();
        answer["software"] = json!(versions);
    }
}

async fn count(
    State(software): State<Software>,
    principal: Principal,
    Query(wishes): Query<Wishes>,
) -> Result<axum::Json<Value>, Problem> {
    let visible = visible(&principal, wishes.team_id)?;
    let listing = Listing {
        limit: 1,
        offset: 0,
        ..wishes.listing(VERSION_SORTS)?
    };
    let page = software.versions(&visible, &listing).await?;
    Ok(axum::Json(json!({ "count": page.total })))
}

async fn version(
    State(software): State<Software>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<Value>, Problem> {
    let found = software.version(&visible(&principal, None)?, id).await?;
    let found = found.ok_or_else(|| Problem::not_found(format!("software version {id}")))?;
    let version = FleetVersion {
        hosts_count: None,
        ..found.into()
    };
    Ok(axum::Json(json!({ "software": version })))
}

fn title_json(title: &SoftwareTitle, with_counts: bool) -> Value {
    let versions = title.versions.iter().map(|version| {
        let mut json =
            json!({ "id": version.id, "version": version.version, "vulnerabilities": null });
        if with_counts {
            json["hosts_count"] = json!(version.hosts_count);
        }
        json
    });
    let mut json = json!({ "id": title.id, "name": title.name, "source": title.source });
    if !title.browser.is_empty() {
        json["browser"] = json!(title.browser);
    }
    json["hosts_count"] = json!(title.hosts_count);
    json["versions_count"] = json!(title.versions.len());
    json["versions"] = versions.collect();
    json["software_package"] = Value::Null;
    json["app_store_app"] = Value::Null;
    json
}

async fn titles(
    State(software): State<Software>,
    principal: Principal,
    Query(wishes): Query<Wishes>,
) -> Result<axum::Json<Value>, Problem> {
    let (visible, listing) = (
        visible(&principal, wishes.team_id)?,
        wishes.listing(TITLE_SORTS)?,
    );
    let page = software.titles(&visible, &listing).await?;
    let titles: Vec<Value> = page
        .items
        .iter()
        .map(|title| title_json(title, false))
        .collect();
    Ok(axum::Json(json!({
        "meta": meta(&listing, page.next_cursor.is_some()),
        "count": page.total,
        "counts_updated_at": software.counted_at(&visible).await?,
        "software_titles": titles,
    })))
}

async fn title(
    State(software): State<Software>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(wishes): Query<Wishes>,
) -> Result<axum::Json<Value>, Problem> {
    let visible: Visible = visible(&principal, wishes.team_id)?;
    let found = software.title(&visible, id).await?;
    let found = found.ok_or_else(|| Problem::not_found(format!("software title {id}")))?;
    let mut title = title_json(&found, true);
    title["counts_updated_at"] = json!(software.counted_at(&visible).await?);
    Ok(axum::Json(json!({ "software_title": title })))
}

/// The software of one host by title, as `/hosts/{id}/software` shows it: a page of it.
pub struct HostTitles(Value);

impl HostTitles {
    /// Gathers versions under their titles, narrows them down to a text, and cuts out a page.
    pub fn new(
        versions: Vec<SoftwareVersion>,
        query: Option<&str>,
        page: u64,
        per_page: Option<u32>,
    ) -> Self {
        let text = query.unwrap_or_default().trim().to_lowercase();
        let mut titles: Vec<(i64, Value)> = Vec::new();
        for version in versions {
            if !version.name.to_lowercase().contains(&text) {
                continue;
            }
            let installed = json!({
                "version": version.version,
                "last_opened_at": null,
                "vulnerabilities": [],
                "installed_paths": [],
            });
            if let Some((_, title)) = titles.iter_mut().find(|(id, _)| *id == version.title_id) {
                if let Some(list) = title["installed_versions"].as_array_mut() {
                    list.push(installed);
                }
                continue;
            }
            let title = json!({
                "id": version.title_id,
                "name": version.name,
                "source": version.source,
                "software_package": null,
                "app_store_app": null,
                "status": null,
                "installed_versions": [installed],
            });
            titles.push((version.title_id, title));
        }
        let count = titles.len();
        let limit = per_page.filter(|limit| *limit > 0).unwrap_or(ALL_ROWS) as usize;
        let offset = usize::try_from(page)
            .unwrap_or(usize::MAX)
            .saturating_mul(limit);
        let rows: Vec<Value> = titles
            .into_iter()
            .map(|(_, title)| title)
            .skip(offset)
            .take(limit)
            .collect();
        let has_next = offset.saturating_add(rows.len()) < count;
        Self(json!({
            "software": rows,
            "count": count,
            "meta": { "has_next_results": has_next, "has_previous_results": offset > 0 },
        }))
    }

    /// The answer.
    pub fn into_json(self) -> Value {
        self.0
    }
}
