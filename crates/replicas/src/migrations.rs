//! The tables of this crate, oldest change first.

use muster_store::Migration;

/// What has to be applied, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new("replicas", REPLICAS),
    Migration::new("offers", OFFERS),
];

/// `offer` is what the server can do and `says` what it says of that now; both are NULL for one of a release that did not
/// write them. `beats` counts its signs of life, as far as its release does. The server is taken for gone as long as
/// `lost_seen_at` and `lost_beats` are what it last wrote: any sign of life brings it back.
const OFFERS: &str = "
ALTER TABLE replicas_replicas ADD COLUMN offer TEXT;
ALTER TABLE replicas_replicas ADD COLUMN says TEXT;
ALTER TABLE replicas_replicas ADD COLUMN beats BIGINT NOT NULL DEFAULT 0;
ALTER TABLE replicas_replicas ADD COLUMN lost_seen_at BIGINT;
ALTER TABLE replicas_replicas ADD COLUMN lost_beats BIGINT;
";

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
