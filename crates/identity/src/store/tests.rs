//! Every statement is understood by both databases.

use muster_store::Schema;
use muster_store::testing::{on_both_databases, prepare_all};

use crate::MIGRATIONS;
use crate::store::{agent_keys, audit, collector_keys, people, second_factor, tokens};

on_both_databases! {
    async fn every_statement_is_prepared(db: TestDatabase) {
        db.migrate(&Schema::default().with("identity", MIGRATIONS)).await;
        for statements in [
            agent_keys::ALL, audit::ALL, collector_keys::ALL, collector_keys::listing::ALL,
            people::ALL, second_factor::ALL, tokens::ALL, tokens::rotation::ALL,
        ] {
            prepare_all(&db, statements).await;
        }
    }
}
