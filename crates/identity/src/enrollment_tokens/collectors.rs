//! What tokens say of agents that speak OpAMP.
//!
//! Such an agent shows its token on every exchange until it has a key of its own, and for ever when it cannot take one. A
//! token whose uses are used up therefore still admits those that came by it.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use muster_clock::Timestamp;
use muster_http::ClientAddress;
use muster_store::{Database, Executor, StoreError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EnrollError, EnrollmentTokens, Readmission, why_refused};
use crate::store::tokens as store;
use crate::{
    CollectorId, EnrollmentTokenId, Family, IdentityError, NewEnrollmentToken, SecretHash, TeamId,
};

/// What is done with an agent that speaks OpAMP, has used a key of its own, and comes by an enrollment token again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KnownAgents {
    /// It is offered another key when it looks like the one that is known.
    #[default]
    Adopt,
    /// It becomes another agent, with an identity of its own.
    NewIdentity,
    /// It waits until a person approves; then as with `adopt`.
    Approve,
    /// It is refused.
    Deny,
}

impl KnownAgents {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Adopt, Self::NewIdentity, Self::Approve, Self::Deny];

    /// The text in the database and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adopt => "adopt",
            Self::NewIdentity => "new_identity",
            Self::Approve => "approve",
            Self::Deny => "deny",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// From the database: what a newer release wrote is refused rather than guessed at. A release before OpAMP wrote nothing.
    pub(crate) fn from_text(name: &str) -> Self {
        if name.is_empty() {
            return Self::default();
        }
        Self::parse(name).unwrap_or(Self::Deny)
    }
}

/// A token that an agent which speaks OpAMP may come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectorAdmission {
    /// The token.
    pub token_id: EnrollmentTokenId,
    /// The team that new agents come into.
    pub team_id: Option<TeamId>,
    /// What is done with agents that are known.
    pub known_agents: KnownAgents,
    /// Whether agents that come by it are forgotten some time after they are gone.
    pub ephemeral: bool,
    /// Whether its uses are known to be used up: then it admits only agents that came by it. When it is false they may be
    /// all the same, which [`record_collector_use`](EnrollmentTokens::record_collector_use) finds out.
    pub is_used_up: bool,
    /// For [`check_collector`](EnrollmentTokens::check_collector), which later messages on the same connection need.
    pub secret: SecretHash,
}

/// Who keeps collectors.
#[async_trait]
pub trait TokenCollectors: Send + Sync + 'static {
    /// How many collectors show one token, or each of all, on every exchange, since they have no key of their own: when it
    /// ends they are cut off. Tokens without any may be left out.
    async fn without_key(
        &self,
        database: &Database,
        one: Option<EnrollmentTokenId>,
    ) -> Result<HashMap<EnrollmentTokenId, u64>, StoreError>;
}

impl EnrollmentTokens {
    /// Whoever keeps collectors tells how many depend on tokens. Only the first is attached.
    pub fn attach_collectors(&self, collectors: Arc<dyn TokenCollectors>) {
        if self.0.collectors.set(collectors).is_err() {
            tracing::warn!("collectors are attached to enrollment tokens twice");
        }
    }

    /// Decides whether an agent that speaks OpAMP may come by this secret from where it is, from memory. Nothing is counted.
    pub async fn admit_collector(
        &self,
        presented: &str,
        address: ClientAddress,
        now: Timestamp,
    ) -> Result<CollectorAdmission, EnrollError> {
        let secret = SecretHash::of(presented);
        self.read(presented, Family::Opamp, address, now, |token| {
            admission(token, secret)
        })
        .await
    }

    /// The same for a later message on a connection, by [`CollectorAdmission::secret`].
    pub async fn check_collector(
        &self,
        secret: SecretHash,
        address: ClientAddress,
        now: Timestamp,
    ) -> Result<CollectorAdmission, EnrollError> {
        self.read_by_hash(secret.0, Family::Opamp, address, now, |token| {
            admission(token, secret)
        })
        .await
    }

    /// Counts that a new collector comes by a token, in the unit of work that makes it.
    ///
    /// # Errors
    ///
    /// [`EnrollError::Refused`] when the token's uses are used up, it ran out or was revoked meanwhile.
    pub async fn record_collector_use(
        &self,
        db: &mut impl Executor,
        token: EnrollmentTokenId,
        collector: CollectorId,
        now: Timestamp,
    ) -> Result<(), EnrollError> {
        if store::count_collectors_use(db, token, collector, now).await? {
            Ok(())
        } else {
            Err(why_refused(db, token, now).await)
        }
    }

    /// Counts that a collector which came by this token enrolls again, in its unit of work; that does not use the token up.
    ///
    /// # Errors
    ///
    /// [`EnrollError::Refused`] when it ran out or was revoked meanwhile.
    pub async fn record_collector_again(
        &self,
        db: &mut impl Executor,
        token: EnrollmentTokenId,
        collector: CollectorId,
        now: Timestamp,
    ) -> Result<Readmission, EnrollError> {
        match store::count_collector_again(db, token, collector, now).await? {
            Some(readmission) => Ok(readmission),
            None => Err(why_refused(db, token, now).await),
        }
    }
}

fn admission(token: &super::EnrollmentToken, secret: SecretHash) -> CollectorAdmission {
    CollectorAdmission {
        token_id: token.id,
        team_id: token.team_id,
        known_agents: token.known_agents.unwrap_or_default(),
        ephemeral: token.ephemeral.unwrap_or_default(),
        is_used_up: token
            .max_uses
            .is_some_and(|max| token.uses >= i64::from(max)),
        secret,
    }
}

/// Whether what is wanted of a token makes sense for its families.
pub(super) fn check(new: &NewEnrollmentToken) -> Result<(), IdentityError> {
    if new.families.is_empty() || new.families.contains(&Family::Opamp) {
        return Ok(());
    }
    let reason = "is for agents that speak OpAMP: name opamp among the families, or leave it out";
    if new.known_agents.is_some() {
        return Err(IdentityError::invalid("known_agents", reason));
    }
    if new.ephemeral == Some(true) {
        return Err(IdentityError::invalid("ephemeral", reason));
    }
    Ok(())
}
