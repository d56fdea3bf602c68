//! Whose keys can be renewed.

use async_trait::async_trait;
use muster_identity::{CollectorId, KeyCollectors, NotRenewable};
use muster_store::{Database, StoreError};

use crate::record::Status;
use crate::service::bits;
use crate::{Collectors, store};

#[async_trait]
impl KeyCollectors for Collectors {
    async fn not_renewable(
        &self,
        database: &Database,
        collectors: &[CollectorId],
    ) -> Result<Vec<(CollectorId, NotRenewable)>, StoreError> {
        let db = &mut &*database;
        let found = store::operator::capabilities(db, collectors, self.now()).await?;
        let why = |(id, capabilities, status)| match status {
            _ if capabilities & bits::ACCEPTS_CONNECTION_SETTINGS == 0 => {
                Some((id, NotRenewable::CannotTake))
            }
            Status::Offline => Some((id, NotRenewable::Away)),
            Status::Online | Status::Late => None,
        };
        Ok(found.into_iter().filter_map(why).collect())
    }
}
