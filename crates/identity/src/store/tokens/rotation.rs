//! Rotation of enrollment tokens, and the hosts that came by one.

use std::collections::HashMap;

use muster_clock::Timestamp;
use muster_http::Listing;
use muster_store::{Executor, StoreError, args};

use crate::enrollment_tokens::{EnrolledHost, TokenRotation};
use crate::{EnrollmentTokenId, HostId};

muster_store::statements! {
    /// Gives a token a successor and an end.
    ROTATE = "UPDATE identity_enrollment_tokens SET rotated_at = $2, successor_id = $3, expires_at = $4
        WHERE id = $1 AND revoked_at IS NULL AND rotated_at IS NULL";
    /// One token that was rotated, or all of them with 0, and who still needs them.
    ROTATIONS = "SELECT t.id, t.rotated_at, t.successor_id,
        COUNT(DISTINCT CASE WHEN k.revoked_at IS NULL AND k.superseded_at IS NULL
            AND COALESCE(k.used_at, k.created_at) >= $1 THEN k.host_id END) AS hosts,
        COUNT(DISTINCT CASE WHEN k.created_at > t.rotated_at THEN k.host_id END) AS late_hosts,
        MAX(CASE WHEN k.created_at > t.rotated_at THEN k.created_at END) AS late_at
        FROM identity_enrollment_tokens t LEFT JOIN identity_agent_keys k ON k.enrollment_token_id = t.id
        WHERE t.rotated_at IS NOT NULL AND (t.id = $2 OR $2 = 0) GROUP BY t.id, t.rotated_at, t.successor_id";
    /// How many hosts came by a token.
    COUNT_HOSTS = "SELECT COUNT(DISTINCT host_id) AS total FROM identity_agent_keys WHERE enrollment_token_id = $1";
}

pub(crate) async fn rotate(
    db: &mut impl Executor,
    id: EnrollmentTokenId,
    successor: EnrollmentTokenId,
    ends_at: Timestamp,
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(db
        .execute(ROTATE, args![id, now, successor, ends_at])
        .await?
        == 1)
}

/// What is told of one token that was rotated, or of all; `heard_since` bounds which hosts count as still there.
pub(crate) async fn rotations(
    db: &mut impl Executor,
    one: Option<EnrollmentTokenId>,
    heard_since: Timestamp,
) -> Result<HashMap<EnrollmentTokenId, TokenRotation>, StoreError> {
    let one = one.map_or(0, |id| id.0);
    let rows = db.fetch_all(ROTATIONS, args![heard_since, one]).await?;
    rows.iter()
        .map(|row| {
            let rotation = TokenRotation {
                rotated_at: row.get("rotated_at")?,
                successor_id: row.get("successor_id")?,
                hosts: row.get("hosts")?,
                late_hosts: row.get("late_hosts")?,
                late_at: row.get("late_at")?,
                warning: None,
            };
            Ok((row.get("id")?, rotation))
        })
        .collect()
}

/// A page of the hosts whose keys were given for a token, and how many there are.
pub(crate) async fn hosts(
    db: &mut impl Executor,
    id: EnrollmentTokenId,
    listing: &Listing,
) -> Result<(Vec<EnrolledHost>, u64), StoreError> {
    let total: i64 = db.fetch_one(COUNT_HOSTS, args![id]).await?.get("total")?;
    let sql = format!(
        "SELECT host_id, MIN(created_at) AS first_at, MAX(created_at) AS last_at, MAX(used_at) AS used_at,
        MAX(CAST(CASE WHEN revoked_at IS NULL AND superseded_at IS NULL THEN 1 ELSE 0 END AS BIGINT)) AS has_key
        FROM identity_agent_keys WHERE enrollment_token_id = $1
        GROUP BY host_id ORDER BY host_id {} LIMIT $2 OFFSET $3",
        listing.direction.sql()
    );
    let args = args![
        id,
        i64::from(listing.limit),
        i64::try_from(listing.offset).unwrap_or(i64::MAX)
    ];
    let rows = db.fetch_all(&sql, args).await?;
    let items = rows.iter().map(|row| {
        Ok(EnrolledHost {
            host_id: HostId(row.get("host_id")?),
            first_enrolled_at: row.get("first_at")?,
            enrolled_at: row.get("last_at")?,
            key_used_at: row.get("used_at")?,
            has_valid_key: row.get::<i64>("has_key")? != 0,
        })
    });
    let items = items.collect::<Result<_, StoreError>>()?;
    Ok((items, u64::try_from(total).unwrap_or(0)))
}
