//! All migrations of the server, in the order in which crates may refer to each other.

use muster_store::Schema;

/// The schema that this release needs.
pub fn schema() -> Schema {
    Schema::default()
        .with("replicas", muster_replicas::MIGRATIONS)
        .with("identity", muster_identity::MIGRATIONS)
        .with("hosts", muster_hosts::MIGRATIONS)
        .with("software", muster_software::MIGRATIONS)
        .with("settings", muster_settings::MIGRATIONS)
        .with("queries", muster_queries::MIGRATIONS)
        .with("collectors", muster_collectors::MIGRATIONS)
}
