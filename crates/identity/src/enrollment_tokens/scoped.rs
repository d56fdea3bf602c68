//! The secrets of a team or of the organisation, as Fleet's API has them: read and replaced together.
//!
//! Fleet knows hosts that run osquery or orbit. So what it sets admits those and no others, and tokens that admit none of them
//! are not among its secrets: it neither shows nor revokes them.

use std::collections::HashMap;

use muster_clock::Timestamp;
use serde_json::json;

use super::labels::LabelsFrom;
use super::{
    EnrollmentToken, EnrollmentTokens, MAX_SECRET_BYTES, MAX_TOKENS_PER_SCOPE, context, shown,
    too_many,
};
use crate::store::tokens as store;
use crate::{
    Actor, AuditEntry, Family, IdentityError, NewEnrollmentToken, TeamFilter, TeamId, secret,
};

/// A secret together with when it came to be, as Fleet's API shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ScopedSecret {
    /// The secret.
    pub secret: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Those of Fleet's hosts that did not run out, with those that will at the end.
fn usable<T>(
    mut rows: Vec<(EnrollmentToken, T)>,
    now: Timestamp,
) -> impl Iterator<Item = (EnrollmentToken, T)> {
    rows.sort_by_key(|(token, _)| token.expires_at.is_some());
    rows.into_iter().filter(move |(token, _)| {
        token.is_for_hosts() && token.expires_at.is_none_or(|at| at > now)
    })
}

impl EnrollmentTokens {
    /// The secrets of a team or, without one, of the organisation, that are still good: those without an end before those
    /// that end, since clients take the first, and else the oldest first. That somebody looked is kept.
    pub async fn secrets(
        &self,
        actor: &Actor,
        team: Option<TeamId>,
    ) -> Result<Vec<ScopedSecret>, IdentityError> {
        let mut transaction = self.0.context.database.begin().await?;
        let rows = store::sealed_in_scope(&mut transaction, team).await?;
        let mut secrets = Vec::with_capacity(rows.len());
        for (token, sealed) in usable(rows, self.0.context.now()) {
            let secret = self.0.master_key.open(&sealed, &context(token.id))?;
            secrets.push(ScopedSecret {
                secret,
                created_at: token.created_at,
            });
        }
        if !secrets.is_empty() {
            let scope = team.map_or_else(|| "global".to_owned(), |team| team.to_string());
            let entry =
                AuditEntry::new("revealed_enrollment_tokens", "enrollment_tokens_of", scope);
            self.0
                .audit
                .record(&mut transaction, actor, entry, self.0.context.now())
                .await?;
            transaction.commit().await?;
        }
        Ok(secrets)
    }

    /// The secrets of the teams that are visible, each team's oldest first, for lists of teams. That somebody looked is
    /// kept.
    pub async fn secrets_of_teams(
        &self,
        actor: &Actor,
        visible: &TeamFilter,
    ) -> Result<HashMap<TeamId, Vec<ScopedSecret>>, IdentityError> {
        let mut transaction = self.0.context.database.begin().await?;
        let mut secrets: HashMap<TeamId, Vec<ScopedSecret>> = HashMap::new();
        let rows = store::sealed_of_teams(&mut transaction).await?;
        for (token, sealed) in usable(rows, self.0.context.now()) {
            let Some(team) = token.team_id.filter(|team| visible.admits(Some(*team))) else {
                continue;
            };
            secrets.entry(team).or_default().push(ScopedSecret {
                secret: self.0.master_key.open(&sealed, &context(token.id))?,
                created_at: token.created_at,
            });
        }
        if !secrets.is_empty() {
            let mut teams: Vec<TeamId> = secrets.keys().copied().collect();
            teams.sort_unstable();
            let entry = AuditEntry::new(
                "revealed_enrollment_tokens",
                "enrollment_tokens_of",
                "teams",
            )
            .after(json!({ "team_ids": teams }));
            self.0
                .audit
                .record(&mut transaction, actor, entry, self.0.context.now())
                .await?;
            transaction.commit().await?;
        }
        Ok(secrets)
    }

    /// Whether these may be the secrets of a team or of the organisation, as far as that can be told without looking at
    /// those of others.
    pub fn check_secrets(wanted: &[String]) -> Result<(), IdentityError> {
        hashes_of(wanted).map(drop)
    }

    /// Makes these the secrets of a team or of the organisation: new ones become tokens, those left out are revoked,
    /// those that stay keep their use. Checked as Fleet does: at most 50, unique over all scopes.
    pub async fn replace_secrets(
        &self,
        actor: &Actor,
        team: Option<TeamId>,
        wanted: &[String],
    ) -> Result<(), IdentityError> {
        let mut hashes = hashes_of(wanted)?;
        let now = self.0.context.now();
        let mut transaction = self.0.context.database.begin().await?;
        // Of two at once one is the last, and only its secrets are in force.
        transaction
            .lock(&["identity.enroll_secrets".to_owned()])
            .await?;
        let present = store::load_valid(&mut transaction).await?;
        let is_one = |token: &EnrollmentToken| token.team_id == team && token.is_for_hosts();
        for (hash, token) in present.iter().filter(|(_, token)| is_one(token)) {
            if hashes.remove(hash).is_none() {
                store::revoke(&mut transaction, token.id, now).await?;
                let entry =
                    AuditEntry::new("revoked_enrollment_token", "enrollment_token", token.id);
                self.0
                    .audit
                    .record(&mut transaction, actor, entry.before(shown(token)), now)
                    .await?;
            }
        }
        for text in wanted {
            if hashes.contains_key(&secret::hash(text)) {
                let new = NewEnrollmentToken {
                    name: "enroll secret".to_owned(),
                    team_id: team,
                    families: Family::FLEETS.to_vec(),
                    ..NewEnrollmentToken::default()
                };
                let labels = LabelsFrom::Request(&[]);
                self.insert(&mut transaction, actor, new, labels, text, now)
                    .await?;
            }
        }
        transaction.commit().await?;
        self.changed().await;
        Ok(())
    }
}

/// The hashes of secrets that an operator chose.
fn hashes_of(wanted: &[String]) -> Result<HashMap<[u8; 32], &String>, IdentityError> {
    if wanted.len() > MAX_TOKENS_PER_SCOPE {
        return Err(too_many());
    }
    let mut hashes = HashMap::new();
    for text in wanted {
        if text.trim().is_empty() || text.len() > MAX_SECRET_BYTES {
            let reason = format!("each must have from 1 to {MAX_SECRET_BYTES} bytes");
            return Err(IdentityError::invalid("secrets", reason));
        }
        if hashes.insert(secret::hash(text), text).is_some() {
            return Err(IdentityError::Duplicate {
                what: "secret \"********\"".to_owned(),
            });
        }
    }
    Ok(hashes)
}
