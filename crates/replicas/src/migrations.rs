//! The tables of this crate, oldest change first.

use muster_store::Migration;

/// What has to be applied, in order.
pub const MIGRATIONS: &[Migration] = &[Migration::new("replicas", REPLICAS)];

/// `replicas_leases.term` counts the holders, `renewals` what each of them renewed: a row that did not change was not
/// renewed. A lease without a holder is free.
const REPLICAS: &str = "
CREATE TABLE replicas_replicas (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    release TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);

CREATE TABLE replicas_leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    term BIGINT NOT NULL,
    renewals BIGINT NOT NULL,
    taken_at BIGINT NOT NULL
);
";
