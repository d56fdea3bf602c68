//! The hosts crate against both databases.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use muster_hosts::MIGRATIONS;
use muster_store::testing::on_both_databases;
use muster_store::{Executor, Schema, args};

on_both_databases! {
    async fn the_tables_are_made_and_every_installation_has_its_labels(db: TestDatabase) {
        db.migrate(&Schema::default().with("hosts", MIGRATIONS)).await;
        let sql = "SELECT name FROM hosts_labels WHERE kind = 'builtin' ORDER BY id";
        let rows = (&*db).fetch_all(sql, args![]).await.unwrap();
        let names: Vec<String> = rows.iter().map(|row| row.get("name").unwrap()).collect();
        assert_eq!(names.len(), 12);
        assert_eq!(names.first().map(String::as_str), Some("All Hosts"));
    }
}
