//! Configurations and their versions.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use muster_clock::Timestamp;
use muster_http::{Json, ListingQuery, Page, Path, Problem, Query};
use muster_identity::{Action, CollectorId, Principal, Scope, TeamId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::configurations::diff::FileDiff;
use crate::configurations::document::{DEFAULT_CONTENT_TYPE, File, Files, Kind};
use crate::configurations::finding::{Finding, has_errors};
use crate::configurations::model::{Configuration, VersionInfo};
use crate::configurations::service::{
    ConfigurationChange, Configurations, Made, NewConfiguration, NewFiles,
};

const SORTS: &[&str] = &["name", "id", "updated_at"];
const VERSION_SORTS: &[&str] = &["version"];

/// A configuration of collectors.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CollectorConfig {
    /// Its id.
    id: i64,
    /// Its name.
    name: String,
    /// What it is for.
    description: String,
    /// The team whose collectors it is for; absent: those of all teams.
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<TeamId>,
    /// What kind of agent it is for, and so how it is checked.
    kind: Kind,
    /// The number of its newest version.
    newest_version: i64,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<Configuration> for CollectorConfig {
    fn from(configuration: Configuration) -> Self {
        Self {
            id: configuration.id,
            name: configuration.name,
            description: configuration.description,
            team_id: configuration.team_id,
            kind: configuration.kind,
            newest_version: configuration.newest_version,
            created_at: configuration.created_at,
            updated_at: configuration.updated_at,
        }
    }
}

/// A configuration with how far collectors are that should run it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CollectorConfigDetail {
    /// The configuration.
    #[serde(flatten)]
    config: CollectorConfig,
    /// How many collectors are in each state: `in_sync`, `applying`, `failed`, `cannot`.
    states: BTreeMap<String, u64>,
}

/// A version of a configuration.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CollectorConfigVersion {
    /// Its number.
    version: i64,
    /// The SHA-256 over names, content types and bodies, as hexadecimal digits.
    hash: String,
    /// Why it was made.
    note: String,
    /// Who made it.
    author_name: String,
    /// That user's address.
    author_email: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<VersionInfo> for CollectorConfigVersion {
    fn from(info: VersionInfo) -> Self {
        Self {
            version: info.version,
            hash: info.hash,
            note: info.note,
            author_name: info.author_name,
            author_email: info.author_email,
            created_at: info.created_at,
        }
    }
}

/// A file of a version.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CollectorConfigFile)]
pub(super) struct ConfigFile {
    /// Its content.
    body: String,
    /// Its type; `text/yaml` when left out.
    #[serde(default)]
    content_type: String,
}

/// Files by name; one may have the empty name, and is merged last.
pub(super) type ConfigFiles = BTreeMap<String, ConfigFile>;

fn files(given: ConfigFiles) -> Files {
    let file = |file: ConfigFile| File {
        body: file.body,
        content_type: Some(file.content_type)
            .filter(|kind| !kind.is_empty())
            .unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned()),
    };
    given
        .into_iter()
        .map(|(name, given)| (name, file(given)))
        .collect()
}

/// A version with its files.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CollectorConfigContent {
    /// The version.
    #[serde(flatten)]
    version: CollectorConfigVersion,
    /// Its files by name.
    #[schema(value_type = BTreeMap<String, ConfigFile>)]
    files: ConfigFiles,
    /// Whether secrets in the files are masked, since you may not write configurations.
    masked: bool,
}

/// What making a configuration or a version came to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MadeCollectorConfig {
    /// The configuration.
    config: CollectorConfig,
    /// The version.
    version: CollectorConfigVersion,
    /// Whether the version is new: files that are the same as those of the newest version make none.
    created: bool,
    /// How many assignments moved on to it.
    assignments_moved: usize,
    /// What may be wrong with it.
    warnings: Vec<Finding>,
}

impl From<Made> for MadeCollectorConfig {
    fn from(made: Made) -> Self {
        Self {
            config: made.configuration.into(),
            version: made.version.into(),
            created: made.is_new,
            assignments_moved: made.assignments_moved,
            warnings: made.warnings,
        }
    }
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct ConfigsQuery {
    /// Only those of this team; 0 for those of no team.
    team_id: Option<i64>,
}

/// List configurations of collectors
///
/// Those of your teams, and those of no team. `search` looks at names and descriptions.
#[utoipa::path(get, path = "/collector-configs", tag = "collector-configs", params(ListingQuery, ConfigsQuery),
    responses((status = 200, body = Page<CollectorConfig>)))]
pub(super) async fn list(
    State(configurations): State<Configurations>,
    principal: Principal,
    Query(listing): Query<ListingQuery>,
    Query(query): Query<ConfigsQuery>,
) -> Result<axum::Json<Page<CollectorConfig>>, Problem> {
    principal.authorize(Action::ReadCollectorConfigs, Scope::Anywhere)?;
    let listing = listing.check(SORTS)?;
    let page = configurations
        .list(&principal, query.team_id, &listing)
        .await?;
    Ok(axum::Json(Page {
        items: page.items.into_iter().map(Into::into).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// A configuration to be made.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewCollectorConfig {
    /// Its name.
    name: String,
    /// What it is for.
    #[serde(default)]
    description: String,
    /// The team whose collectors it is for; left out: those of all teams.
    team_id: Option<TeamId>,
    /// What kind of agent it is for; `collector` when left out.
    kind: Option<Kind>,
    /// The files of its first version by name.
    #[schema(value_type = BTreeMap<String, ConfigFile>)]
    files: ConfigFiles,
    /// Why it is made.
    #[serde(default)]
    note: String,
}

/// Make a configuration of collectors
///
/// With its first version. Files that a collector would not start with are refused, each mistake with its place.
#[utoipa::path(post, path = "/collector-configs", tag = "collector-configs", request_body = NewCollectorConfig, responses(
    (status = 201, body = MadeCollectorConfig), (status = 409, description = "the name is taken"),
    (status = 422, description = "a value that is not allowed, or files that a collector would not start with")))]
pub(super) async fn create(
    State(configurations): State<Configurations>,
    principal: Principal,
    Json(body): Json<NewCollectorConfig>,
) -> Result<(StatusCode, axum::Json<MadeCollectorConfig>), Problem> {
    let new = NewConfiguration {
        name: body.name,
        description: body.description,
        team_id: body.team_id,
        kind: body.kind.unwrap_or(Kind::Collector),
        files: files(body.files),
        note: body.note,
    };
    let made = configurations.create(&principal, new).await?;
    Ok((StatusCode::CREATED, axum::Json(made.into())))
}

/// A configuration of collectors
///
/// With how many collectors that should run it are how far.
#[utoipa::path(get, path = "/collector-configs/{id}", tag = "collector-configs", params(("id" = i64, Path)),
    responses((status = 200, body = CollectorConfigDetail), (status = 404)))]
pub(super) async fn get(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<axum::Json<CollectorConfigDetail>, Problem> {
    let config = configurations.find(&principal, id).await?.into();
    let states = configurations.state_counts(&principal, id, None).await?;
    Ok(axum::Json(CollectorConfigDetail { config, states }))
}

/// How a configuration is to change.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct CollectorConfigChange {
    /// Its name.
    name: Option<String>,
    /// What it is for.
    description: Option<String>,
}

/// Change the name or description of a configuration
///
/// What is left out stays. Files are changed by making a version.
#[utoipa::path(patch, path = "/collector-configs/{id}", tag = "collector-configs", params(("id" = i64, Path)),
    request_body = CollectorConfigChange, responses((status = 200, body = CollectorConfig), (status = 404),
    (status = 409, description = "the name is taken")))]
pub(super) async fn change(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<CollectorConfigChange>,
) -> Result<axum::Json<CollectorConfig>, Problem> {
    let change = ConfigurationChange {
        name: body.name,
        description: body.description,
    };
    Ok(axum::Json(
        configurations.change(&principal, id, change).await?.into(),
    ))
}

/// Delete a configuration
///
/// With all its versions. One that is assigned stays until its assignments are deleted.
#[utoipa::path(delete, path = "/collector-configs/{id}", tag = "collector-configs", params(("id" = i64, Path)),
    responses((status = 204), (status = 404), (status = 409, description = "it is assigned")))]
pub(super) async fn delete(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
) -> Result<StatusCode, Problem> {
    configurations.delete(&principal, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the versions of a configuration
///
/// The newest first unless `sort` says `version`. The newest hundred are kept, and those that are assigned. `search` looks at
/// notes and at names of authors.
#[utoipa::path(get, path = "/collector-configs/{id}/versions", tag = "collector-configs",
    params(("id" = i64, Path), ListingQuery),
    responses((status = 200, body = Page<CollectorConfigVersion>), (status = 404)))]
pub(super) async fn list_versions(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(listing): Query<ListingQuery>,
) -> Result<axum::Json<Page<CollectorConfigVersion>>, Problem> {
    let listing = ListingQuery {
        sort: listing.sort.or_else(|| Some("-version".to_owned())),
        ..listing
    };
    let listing = listing.check(VERSION_SORTS)?;
    let page = configurations.versions(&principal, id, &listing).await?;
    Ok(axum::Json(Page {
        items: page.items.into_iter().map(Into::into).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// A version to be made.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewCollectorConfigVersion {
    /// All its files by name.
    #[schema(value_type = BTreeMap<String, ConfigFile>)]
    files: ConfigFiles,
    /// Why it is made.
    #[serde(default)]
    note: String,
    /// Whether all assignments of the configuration move on to it. Those that follow the newest version do in any case.
    #[serde(default)]
    apply: bool,
    /// The newest version when the files were written: when there is a newer one with other files by now, nothing is done.
    base_version: Option<i64>,
}

/// Make a version of a configuration
///
/// Versions count up and never change. Files that are the same as those of the newest version make none.
#[utoipa::path(post, path = "/collector-configs/{id}/versions", tag = "collector-configs", params(("id" = i64, Path)),
    request_body = NewCollectorConfigVersion, responses(
    (status = 201, body = MadeCollectorConfig), (status = 200, body = MadeCollectorConfig, description =
        "the files are those of the newest version"),
    (status = 404), (status = 409, description = "there is a newer version than the one that was thought to be the newest"),
    (status = 422, description = "files that a collector would not start with")))]
pub(super) async fn push(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
    Json(body): Json<NewCollectorConfigVersion>,
) -> Result<(StatusCode, axum::Json<MadeCollectorConfig>), Problem> {
    let new = NewFiles {
        files: files(body.files),
        note: body.note,
        moves_all: body.apply,
        base_version: body.base_version,
    };
    let made = configurations.push(&principal, id, new).await?;
    let status = if made.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, axum::Json(made.into())))
}

/// A version of a configuration with its files
///
/// Whoever may not write configurations sees secrets in them masked.
#[utoipa::path(get, path = "/collector-configs/{id}/versions/{version}", tag = "collector-configs",
    params(("id" = i64, Path), ("version" = String, Path, description = "A number, or `newest`")),
    responses((status = 200, body = CollectorConfigContent), (status = 404)))]
pub(super) async fn get_version(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path((id, version)): Path<(i64, String)>,
) -> Result<axum::Json<CollectorConfigContent>, Problem> {
    let number = match version.as_str() {
        "newest" => None,
        number => {
            let number = number.parse();
            Some(number.map_err(|_| {
                Problem::not_found(format_args!("version {version} of configuration {id}"))
            })?)
        }
    };
    let (info, files, masked) = configurations.version_files(&principal, id, number).await?;
    let file = |file: File| ConfigFile {
        body: file.body,
        content_type: file.content_type,
    };
    Ok(axum::Json(CollectorConfigContent {
        version: info.into(),
        files: files
            .into_iter()
            .map(|(name, body)| (name, file(body)))
            .collect(),
        masked,
    }))
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct DiffQuery {
    /// The version to begin from; the one before when left out, 0 for nothing.
    from: Option<i64>,
    /// The version to get to; the newest when left out.
    to: Option<i64>,
}

/// What is different between two versions.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CollectorConfigVersionsDiff)]
pub(super) struct VersionsDiff {
    /// The version from which it begins; 0 when there was none before.
    from: i64,
    /// The version to which it gets.
    to: i64,
    /// The files that differ.
    files: Vec<FileDiff>,
}

/// Compare two versions of a configuration
#[utoipa::path(get, path = "/collector-configs/{id}/diff", tag = "collector-configs", params(("id" = i64, Path), DiffQuery),
    responses((status = 200, body = VersionsDiff), (status = 404)))]
pub(super) async fn diff(
    State(configurations): State<Configurations>,
    principal: Principal,
    Path(id): Path<i64>,
    Query(query): Query<DiffQuery>,
) -> Result<axum::Json<VersionsDiff>, Problem> {
    let (from, to, files) = configurations
        .diff(&principal, id, query.from, query.to)
        .await?;
    Ok(axum::Json(VersionsDiff { from, to, files }))
}

/// Files to be looked at.
#[derive(Deserialize, ToSchema)]
pub(super) struct ValidateCollectorConfig {
    /// What kind of agent they are for; `collector` when left out.
    kind: Option<Kind>,
    /// The files by name.
    #[schema(value_type = BTreeMap<String, ConfigFile>)]
    files: ConfigFiles,
    /// A collector whose components are to be looked for.
    collector_id: Option<CollectorId>,
}

/// What was found in files.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ValidatedCollectorConfig)]
pub(super) struct Validated {
    /// Whether they could be kept.
    valid: bool,
    /// What was found, errors first.
    findings: Vec<Finding>,
}

/// Look whether a collector would start with some files
///
/// Nothing is kept. With a collector, also whether it has the components that the files name.
#[utoipa::path(post, path = "/collector-configs/validate", tag = "collector-configs", request_body = ValidateCollectorConfig,
    responses((status = 200, body = Validated), (status = 404, description = "no such collector"),
    (status = 422, description = "files beyond the limits")))]
pub(super) async fn validate(
    State(configurations): State<Configurations>,
    principal: Principal,
    Json(body): Json<ValidateCollectorConfig>,
) -> Result<axum::Json<Validated>, Problem> {
    principal.authorize(Action::ReadCollectorConfigs, Scope::Anywhere)?;
    let components = match body.collector_id {
        Some(id) => configurations.components_of(&principal, id).await?,
        None => None,
    };
    let kind = body.kind.unwrap_or(Kind::Collector);
    let findings = configurations
        .check_files(kind, &files(body.files), components)
        .await?;
    Ok(axum::Json(Validated {
        valid: !has_errors(&findings),
        findings,
    }))
}
