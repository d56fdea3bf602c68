//! The SQL of this crate, one module per resource.

pub(crate) mod event;
pub(crate) mod link;
pub(crate) mod operator;
pub(crate) mod part;
pub(crate) mod presence;
pub(crate) mod record;
pub(crate) mod telemetry;

#[cfg(test)]
mod tests {
    use muster_store::testing::{on_both_databases, prepare_all};

    on_both_databases! {
        async fn every_statement_is_understood(db: TestDatabase) {
            db.migrate(&muster_store::Schema::default().with("collectors", crate::MIGRATIONS)).await;
            for statements in [
                crate::store::event::ALL,
                crate::store::link::ALL,
                crate::store::operator::ALL,
                crate::store::part::ALL,
                crate::store::presence::ALL,
                crate::store::record::ALL,
                crate::store::telemetry::ALL,
            ] {
                prepare_all(&db, statements).await;
            }
        }
    }
}
