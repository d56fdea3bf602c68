//! The SQL of this crate, one module per resource.

pub(crate) mod capability;
pub(crate) mod device;
pub(crate) mod event;
pub(crate) mod expiry;
pub(crate) mod host;
pub(crate) mod keys;
pub(crate) mod label;
pub(crate) mod machine;
pub(crate) mod operator;
pub(crate) mod presence;
pub(crate) mod skew;
pub(crate) mod token_label;
pub(crate) mod user;

/// `$1, $2, …`: the placeholders of a list that begins with number `first`.
pub(crate) fn numbered(first: usize, count: usize) -> String {
    let list: Vec<String> = (first..first + count)
        .map(|number| format!("${number}"))
        .collect();
    list.join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use muster_clock::Timestamp;
    use muster_identity::HostId;
    use muster_store::testing::{on_both_databases, prepare_all};

    use crate::record::{HostFacts, HostRecord, IdentifierSource};

    /// A host of which nothing is known.
    pub(crate) fn record() -> HostRecord {
        HostRecord {
            id: HostId(1),
            identifier: "a".to_owned(),
            identifier_from: IdentifierSource::Osquery,
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
            team_id: None,
            enrollment_token_id: None,
            enrolled_at: Timestamp::EPOCH,
            osquery_enrolled_at: None,
            orbit_enrolled_at: None,
            seen_at: None,
            facts: HostFacts::default(),
            detail_updated_at: None,
            label_updated_at: None,
            policy_updated_at: None,
            software_updated_at: None,
            refetch_requested: false,
        }
    }

    on_both_databases! {
        async fn every_statement_is_understood(db: TestDatabase) {
            db.migrate(&muster_store::Schema::default().with("hosts", crate::MIGRATIONS)).await;
            for statements in [
                crate::store::capability::ALL,
                crate::store::device::ALL,
                crate::store::event::ALL,
                crate::store::host::ALL,
                crate::store::keys::ALL,
                crate::store::token_label::ALL,
                crate::store::label::ALL,
                crate::store::operator::ALL,
                crate::store::presence::ALL,
                crate::store::user::ALL,
            ] {
                prepare_all(&db, statements).await;
            }
        }
    }
}
