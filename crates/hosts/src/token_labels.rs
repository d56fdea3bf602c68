//! The labels that enrollment tokens give.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use muster_identity::{EnrollmentTokenId, IdentityError, TokenLabel, TokenLabels};
use muster_store::{Database, StoreError, Transaction};

use crate::record::{LabelId, LabelMembership};
use crate::store;

/// Keeps which token gives which labels.
pub(crate) struct LabelsOfTokens;

#[async_trait]
impl TokenLabels for LabelsOfTokens {
    async fn set(
        &self,
        db: &mut Transaction,
        token: EnrollmentTokenId,
        labels: &[i64],
    ) -> Result<Vec<TokenLabel>, IdentityError> {
        let wrong = |reason| {
            Err(IdentityError::Invalid {
                field: "label_ids",
                reason,
            })
        };
        let labels: BTreeSet<i64> = labels.iter().copied().collect();
        for id in labels {
            // Nobody deletes it before the token is there; in the order in which all take them.
            let found = store::operator::label_for_update(db, LabelId(id)).await?;
            let Some(label) = found else {
                return wrong(format!(
                    "there is no label {id}; `GET /api/muster/labels` lists them"
                ));
            };
            let name = &label.name;
            if label.builtin {
                return wrong(format!("{name:?} is built in: name a label of your own"));
            }
            if label.membership != LabelMembership::Manual {
                return wrong(format!(
                    "{name:?} decides by itself who is in it: name a label without a query"
                ));
            }
            store::token_label::add(db, token, label.id).await?;
        }
        Ok(of(store::token_label::list(db, Some(token)).await?, token))
    }

    async fn copy(
        &self,
        db: &mut Transaction,
        from: EnrollmentTokenId,
        to: EnrollmentTokenId,
    ) -> Result<Vec<TokenLabel>, StoreError> {
        store::token_label::copy(db, from, to).await?;
        Ok(of(store::token_label::list(db, Some(to)).await?, to))
    }

    async fn of(
        &self,
        database: &Database,
        one: Option<EnrollmentTokenId>,
    ) -> Result<HashMap<EnrollmentTokenId, Vec<TokenLabel>>, StoreError> {
        store::token_label::list(&mut &*database, one).await
    }
}

fn of(
    mut labels: HashMap<EnrollmentTokenId, Vec<TokenLabel>>,
    token: EnrollmentTokenId,
) -> Vec<TokenLabel> {
    labels.remove(&token).unwrap_or_default()
}
