//! The SQL of this crate, one module per resource.

pub(crate) mod answers;
pub(crate) mod campaigns;
pub(crate) mod saved;

#[cfg(test)]
mod tests {
    use muster_store::Schema;
    use muster_store::testing::{on_both_databases, prepare_all};

    use crate::MIGRATIONS;
    use crate::store::{campaigns, saved};

    on_both_databases! {
        async fn every_statement_is_prepared(db: TestDatabase) {
            db.migrate(&Schema::default().with("queries", MIGRATIONS)).await;
            prepare_all(&db, campaigns::ALL).await;
            prepare_all(&db, saved::ALL).await;
        }
    }
}
