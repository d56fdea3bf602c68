//! How lists are paged, sorted and searched in our own API.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Problem;

/// The most rows of one page.
pub const MAX_PAGE_ROWS: u32 = 1_000;
/// Rows of a page when the client does not say.
const DEFAULT_PAGE_ROWS: u32 = 100;
/// The longest search text in bytes.
const MAX_SEARCH_BYTES: usize = 200;

/// The query parameters of every list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct ListingQuery {
    /// Rows per page: 1 to 1000, 100 when absent.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// The field to sort by; a `-` before it turns the order around: `-last_seen_at`.
    pub sort: Option<String>,
    /// Only rows that contain this text.
    pub search: Option<String>,
}

/// Which way a list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OrderDirection {
    /// Smallest first.
    #[default]
    Ascending,
    /// Largest first.
    Descending,
}

impl OrderDirection {
    /// The SQL keyword.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Ascending => "ASC",
            Self::Descending => "DESC",
        }
    }
}

/// A checked wish for a page of a list, from either API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The most rows.
    pub limit: u32,
    /// How many rows come before the page.
    pub offset: u64,
    /// One of the fields that the list can be sorted by.
    pub sort: &'static str,
    /// Which way.
    pub direction: OrderDirection,
    /// Only rows that contain this text; never empty.
    pub search: Option<String>,
}

impl ListingQuery {
    /// Checks the wish against the fields that the list can be sorted by; the first is the default.
    pub fn check(&self, sortable: &'static [&'static str]) -> Result<Listing, Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_PAGE_ROWS);
        if limit == 0 || limit > MAX_PAGE_ROWS {
            return Err(Problem::invalid(
                "limit",
                format!("must be from 1 to {MAX_PAGE_ROWS}"),
            ));
        }
        let offset = match self.cursor.as_deref().filter(|cursor| !cursor.is_empty()) {
            None => 0,
            Some(cursor) => cursor
                .strip_prefix('o')
                .and_then(|text| text.parse().ok())
                .filter(|offset| i64::try_from(*offset).is_ok())
                .ok_or_else(|| Problem::invalid("cursor", "is not one that this server gave"))?,
        };
        let (sort, direction) = match self.sort.as_deref().filter(|sort| !sort.is_empty()) {
            None => (sortable[0], OrderDirection::Ascending),
            Some(wish) => {
                let (name, direction) = match wish.strip_prefix('-') {
                    Some(name) => (name, OrderDirection::Descending),
                    None => (wish, OrderDirection::Ascending),
                };
                let known = sortable.iter().copied().find(|field| *field == name);
                let known = known.ok_or_else(|| {
                    Problem::invalid("sort", format!("must be one of {}", sortable.join(", ")))
                })?;
                (known, direction)
            }
        };
        let search = self
            .search
            .as_deref()
            .map(str::trim)
            .filter(|search| !search.is_empty());
        if search.is_some_and(|search| search.len() > MAX_SEARCH_BYTES) {
            return Err(Problem::invalid(
                "search",
                format!("must have at most {MAX_SEARCH_BYTES} bytes"),
            ));
        }
        Ok(Listing {
            limit,
            offset,
            sort,
            direction,
            search: search.map(str::to_owned),
        })
    }
}

impl Listing {
    /// The search text as a `LIKE` pattern in lower case with `\` as the escape: compare with
    /// [`folded_column`](muster_store::folded_column).
    pub fn search_pattern(&self) -> Option<String> {
        let search = muster_store::folded(self.search.as_deref()?);
        let mut pattern = String::with_capacity(search.len() + 2);
        pattern.push('%');
        for character in search.chars() {
            if matches!(character, '%' | '_' | '\\') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern.push('%');
        Some(pattern)
    }

    /// Makes the answer from up to `limit` rows and the number of all.
    pub fn page<T>(&self, items: Vec<T>, total: u64) -> Page<T> {
        let end = self.offset + items.len() as u64;
        let next_cursor = (end < total && !items.is_empty()).then(|| format!("o{end}"));
        Page {
            items,
            total,
            next_cursor,
        }
    }
}

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// How many rows match on all pages.
    pub total: u64,
    /// Give it back as `cursor` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[&str] = &["name", "id"];

    #[test]
    fn wishes_are_checked_and_defaults_filled_in() {
        let listing = ListingQuery::default().check(FIELDS).unwrap();
        assert_eq!(
            (listing.limit, listing.offset, listing.sort),
            (100, 0, "name")
        );
        let wish = ListingQuery {
            limit: Some(2),
            cursor: Some("o4".into()),
            sort: Some("-id".into()),
            search: Some(" 50%_A ".into()),
        };
        let listing = wish.check(FIELDS).unwrap();
        assert_eq!(
            (listing.sort, listing.direction),
            ("id", OrderDirection::Descending)
        );
        assert_eq!(listing.search_pattern().as_deref(), Some("%50\\%\\_a%"));
        assert_eq!(
            listing.page(vec![1, 2], 7).next_cursor.as_deref(),
            Some("o6")
        );
        assert_eq!(listing.page(vec![1], 5).next_cursor, None);
    }

    #[test]
    fn a_wrong_wish_says_what_would_be_right() {
        let cases = [
            ListingQuery {
                limit: Some(0),
                ..Default::default()
            },
            ListingQuery {
                limit: Some(1_001),
                ..Default::default()
            },
            ListingQuery {
                cursor: Some("7".into()),
                ..Default::default()
            },
            ListingQuery {
                cursor: Some("o99999999999999999999".into()),
                ..Default::default()
            },
            ListingQuery {
                sort: Some("colour".into()),
                ..Default::default()
            },
            ListingQuery {
                search: Some("x".repeat(201)),
                ..Default::default()
            },
        ];
        for wish in cases {
            assert_eq!(
                wish.check(FIELDS).unwrap_err().status().as_u16(),
                422,
                "{wish:?}"
            );
        }
    }
}
