//! The table of this crate.

use muster_store::Migration;

/// What has to be applied, in order.
pub const MIGRATIONS: &[Migration] = &[Migration::new("documents", DOCUMENTS)];

/// `team_id` is 0 for what concerns everybody. `version` counts the changes: a change names the one it was made from.
const DOCUMENTS: &str = "
CREATE TABLE settings_documents (
    name TEXT NOT NULL,
    team_id BIGINT NOT NULL,
    body TEXT NOT NULL,
    version BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (name, team_id)
);
";
