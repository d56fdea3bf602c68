//! Our own API: collectors are deleted by a filter.

use axum::extract::State;
use muster_http::{Json, ListingQuery, Problem};
use muster_identity::{Action, Principal, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::native::CollectorsQuery;
use crate::Collectors;
use crate::operators::{COLLECTOR_SORTS, CollectorQuery};

/// Which collectors are to go.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteCollectors {
    /// The filters of the list by their names, `search` included; at least one. With several those go that all of them name.
    #[schema(value_type = Object)]
    filter: Map<String, Value>,
    /// Only tell how many would go.
    #[serde(default)]
    dry_run: bool,
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
pub(super) struct DeletedCollectors {
    /// How many there were before.
    matched: u64,
    /// How many of these were online.
    online: u64,
    /// How many of these were revoked: deleted, they may come again by an enrollment token.
    revoked: u64,
    /// How many were deleted.
    deleted: u64,
    /// How many are left: ask again.
    remaining: u64,
}

/// The filter, and what is searched for.
fn read(mut wishes: Map<String, Value>) -> Result<(Option<String>, CollectorQuery), Problem> {
    let wrong = |reason: String| Problem::invalid("filter", reason);
    // What is null was not wished.
    wishes.retain(|_, wish| !wish.is_null());
    if wishes.is_empty() {
        return Err(wrong(
            "has to name at least one filter: without one all collectors would be deleted"
                .to_owned(),
        ));
    }
    // Of an empty text nothing would be left of the filter.
    let is_blank = |wish: &Value| {
        let text = wish.as_str();
        text.is_some_and(|text| text.trim_matches([',', ' ']).is_empty())
    };
    if let Some((name, _)) = wishes.iter().find(|(_, wish)| is_blank(wish)) {
        return Err(wrong(format!(
            "`{name}` is empty: say what it has to be, or leave it out"
        )));
    }
    let mut listing = ListingQuery::default();
    if let Some(search) = wishes.remove("search") {
        let text = search.as_str();
        let text = text.ok_or_else(|| wrong("`search` has to be a text".to_owned()))?;
        listing.search = Some(text.to_owned());
    }
    let query = CollectorsQuery::deserialize(Value::Object(wishes.clone()));
    let query = query.map_err(|error| wrong(error.to_string()))?;
    let known = serde_json::to_value(&query).unwrap_or_default();
    // One that is not known would let more go than was meant.
    if let Some(unknown) = wishes.keys().find(|name| known.get(name).is_none()) {
        return Err(wrong(format!("there is no filter `{unknown}`")));
    }
    let search = listing.check(COLLECTOR_SORTS)?.search_pattern();
    Ok((search, query.into()))
}

/// Delete collectors by a filter
///
/// Those that all of the filters name, of the teams whose collectors you may delete, each as if it was deleted by itself. At
/// most a thousand go by one request: ask again while some remain. With `dry_run` it is only told how many there are.
#[utoipa::path(post, path = "/collectors/delete", tag = "collectors", request_body = DeleteCollectors,
    responses((status = 200, body = DeletedCollectors), (status = 422, description = "a wrong filter, or none")))]
pub(super) async fn delete_by_filter(
    State(collectors): State<Collectors>,
    principal: Principal,
    Json(body): Json<DeleteCollectors>,
) -> Result<axum::Json<DeletedCollectors>, Problem> {
    principal.authorize(Action::WriteHosts, Scope::Anywhere)?;
    let (search, query) = read(body.filter)?;
    let matched = collectors
        .deletable(&principal, search.clone(), &query)
        .await?;
    let mut remaining = matched.total;
    let mut deleted = 0;
    if !body.dry_run && matched.total > 0 {
        deleted = collectors
            .delete_some(&principal, search.clone(), &query)
            .await?;
        remaining = collectors
            .deletable(&principal, search, &query)
            .await?
            .total;
    }
    Ok(axum::Json(DeletedCollectors {
        matched: matched.total,
        online: matched.online,
        revoked: matched.revoked,
        deleted,
        remaining,
    }))
}
