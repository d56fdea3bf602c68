//! Labels that a token gives to the hosts that come by it.
//!
//! Identity knows only that tokens have them. Whoever keeps labels attaches it to
//! [`EnrollmentTokens`](crate::EnrollmentTokens), and keeps with them which token gives which: a label that is deleted goes
//! from tokens with it, whichever release deletes it.

use std::collections::HashMap;

use async_trait::async_trait;
use muster_store::{Database, StoreError, Transaction};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{EnrollmentTokenId, IdentityError};

/// A label that a token gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TokenLabel {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
}

/// Who keeps labels.
#[async_trait]
pub trait TokenLabels: Send + Sync + 'static {
    /// Makes a new token give these labels, as a part of the unit of work that makes it. Gives them by name.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Invalid`] names those that do not exist or that are not for operators to give.
    async fn set(
        &self,
        db: &mut Transaction,
        token: EnrollmentTokenId,
        labels: &[i64],
    ) -> Result<Vec<TokenLabel>, IdentityError>;

    /// Makes a new token give what another one gives, as a part of a unit of work. Gives them by name.
    async fn copy(
        &self,
        db: &mut Transaction,
        from: EnrollmentTokenId,
        to: EnrollmentTokenId,
    ) -> Result<Vec<TokenLabel>, StoreError>;

    /// What one token gives, or what all of them do, by name.
    async fn of(
        &self,
        database: &Database,
        one: Option<EnrollmentTokenId>,
    ) -> Result<HashMap<EnrollmentTokenId, Vec<TokenLabel>>, StoreError>;
}

/// Where the labels of a new token come from.
pub(super) enum LabelsFrom<'a> {
    Request(&'a [i64]),
    Token(EnrollmentTokenId),
}
