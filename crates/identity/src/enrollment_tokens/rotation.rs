//! A successor for a token, while the old one is good for a while.
//!
//! Installers and configurations carry a token's secret, so that it cannot be changed everywhere at one moment. Whether it
//! was changed everywhere is seen from who still enrolls by the old one, and from which hosts use keys that they got for
//! it: those may have to be told the new secret before they can enroll again.

use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::{Listing, Page};
use muster_store::{Executor, StoreError};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::labels::LabelsFrom;
use super::{EnrollmentToken, EnrollmentTokens, MAX_TOKENS_PER_SCOPE, check, shown, too_many};
use crate::store::tokens as store;
use crate::{
    Actor, AuditEntry, EnrollmentTokenId, HostId, IdentityError, NewEnrollmentToken, secret,
};

/// The longest overlap.
const MAX_OVERLAP: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// A host whose key was used within this time counts as one that would be cut off.
const HEARD_WITHIN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// That a token was rotated, and who still needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TokenRotation {
    /// When it was rotated. Until when it is good stands in `expires_at`.
    #[schema(value_type = String, format = DateTime)]
    pub rotated_at: Timestamp,
    /// The token that takes its place.
    pub successor_id: EnrollmentTokenId,
    /// Hosts with a valid key that they got for this token and that was used in the last 7 days.
    pub hosts: i64,
    /// Hosts that enrolled by it since it was rotated: what they were installed with still carries it.
    pub late_hosts: i64,
    /// When the last of them did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub late_at: Option<Timestamp>,
    /// What its end cuts off, in words; absent when nobody seems to need it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// What the successor has of its own; all else is as with the old token.
#[derive(Debug, Clone, Default)]
pub struct Successor {
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// How many enrollments it allows.
    pub max_uses: Option<u32>,
}

/// A rotation that was done.
pub struct Rotated {
    /// What agents enroll with from now on.
    pub secret: String,
    /// The new token.
    pub token: EnrollmentToken,
    /// The one whose place it takes.
    pub old: EnrollmentToken,
}

/// A host that came by a token. Keys that ended are forgotten after 30 days, and with them what they tell here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct EnrolledHost {
    /// The host.
    pub host_id: HostId,
    /// When it first got a key for this token, of those that are remembered.
    #[schema(value_type = String, format = DateTime)]
    pub first_enrolled_at: Timestamp,
    /// When it last did.
    #[schema(value_type = String, format = DateTime)]
    pub enrolled_at: Timestamp,
    /// When such a key was last used, to some minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub key_used_at: Option<Timestamp>,
    /// Whether one of these keys is still good.
    pub has_valid_key: bool,
}

impl EnrollmentTokens {
    /// Makes a successor with the same name, team, families, networks and labels. The old token stays good
    /// for the overlap, but not longer than it would have been.
    ///
    /// # Errors
    ///
    /// A token that was revoked, ran out or has a successor already cannot be rotated.
    pub async fn rotate(
        &self,
        actor: &Actor,
        id: EnrollmentTokenId,
        overlap: Duration,
        successor: Successor,
    ) -> Result<Rotated, IdentityError> {
        if overlap > MAX_OVERLAP {
            return Err(IdentityError::invalid(
                "overlap_seconds",
                "must be at most 366 days",
            ));
        }
        let now = self.0.context.now();
        let text = secret::new("enroll", &*self.0.context.randomness);
        let mut transaction = self.0.context.database.begin().await?;
        transaction
            .lock(&["identity.enroll_secrets".to_owned()])
            .await?;
        let old = store::find(&mut transaction, id).await?;
        let old = old.ok_or_else(|| IdentityError::not_found("enrollment token", id))?;
        let is_over = old.expires_at.is_some_and(|at| at <= now);
        if old.revoked_at.is_some() || is_over {
            let how = if is_over { "ran out" } else { "was revoked" };
            let message = format!("enrollment token {id} {how}; create another one");
            return Err(conflict(message));
        }
        let count = store::count_in_scope(&mut transaction, old.team_id).await?;
        if count >= MAX_TOKENS_PER_SCOPE {
            return Err(too_many());
        }
        let new = NewEnrollmentToken {
            name: old.name.clone(),
            team_id: old.team_id,
            families: old.families.clone(),
            networks: old.networks.clone(),
            label_ids: Vec::new(),
            expires_at: successor.expires_at,
            max_uses: successor.max_uses,
            known_agents: old.known_agents,
            ephemeral: old.ephemeral,
        };
        check(&new, now)?;
        let token = self
            .insert(
                &mut transaction,
                actor,
                new,
                LabelsFrom::Token(id),
                &text,
                now,
            )
            .await?;
        let end = now.plus(overlap);
        let end = old.expires_at.map_or(end, |before| before.min(end));
        if !store::rotate(&mut transaction, id, token.id, end, now).await? {
            drop(transaction);
            let rotation = self.find(id).await?.rotation;
            let successor = rotation.map_or_else(String::new, |rotation| {
                format!(", token {}, which can be rotated", rotation.successor_id)
            });
            return Err(conflict(format!(
                "enrollment token {id} has a successor already{successor}; to end this one before its time, revoke it"
            )));
        }
        let entry = AuditEntry::new("rotated_enrollment_token", "enrollment_token", id)
            .before(shown(&old))
            .after(json!({ "successor_id": token.id, "expires_at": end }));
        self.0
            .audit
            .record(&mut transaction, actor, entry, now)
            .await?;
        transaction.commit().await?;
        self.changed().await;
        let old = self.find(id).await?;
        Ok(Rotated {
            secret: text,
            token,
            old,
        })
    }

    /// A page of the hosts that came by a token, by id.
    pub async fn hosts(
        &self,
        id: EnrollmentTokenId,
        listing: &Listing,
    ) -> Result<Page<EnrolledHost>, IdentityError> {
        let database = &mut &self.0.context.database;
        let (hosts, total) = store::hosts(database, id, listing).await?;
        Ok(listing.page(hosts, total))
    }
}

/// Tells each token that was rotated who still needs it.
pub(super) async fn tell(
    db: &mut impl Executor,
    one: Option<EnrollmentTokenId>,
    tokens: impl IntoIterator<Item = &mut EnrollmentToken>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut rotations = store::rotations(db, one, now.minus(HEARD_WITHIN)).await?;
    for token in tokens {
        token.rotation = rotations.remove(&token.id).map(|rotation| TokenRotation {
            warning: warning(token, &rotation, now),
            ..rotation
        });
    }
    Ok(())
}

/// In words, what the end of a token cuts off.
fn warning(token: &EnrollmentToken, rotation: &TokenRotation, now: Timestamp) -> Option<String> {
    let end = token.revoked_at.or(token.expires_at)?;
    let mut parts = Vec::new();
    if rotation.late_hosts > 0 {
        let late = rotation.late_hosts;
        parts.push(format!(
            "{late} host(s) enrolled by it since it was rotated"
        ));
    }
    if rotation.hosts > 0 {
        let hosts = rotation.hosts;
        parts.push(format!(
            "{hosts} host(s) heard in the last 7 days use keys of it and may know no other token"
        ));
    }
    if let Some(collectors) = token.collectors_without_key {
        parts.push(format!(
            "{collectors} collector(s) have no key of their own and live on it"
        ));
    }
    if parts.is_empty() {
        return None;
    }
    let when = if end <= now { "it ended" } else { "it ends" };
    Some(format!("{when} at {end}: {}", parts.join("; ")))
}

fn conflict(what: String) -> IdentityError {
    IdentityError::Conflict { what }
}
