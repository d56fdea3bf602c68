//! The tables of this crate, oldest change first.

use muster_store::Migration;

/// What has to be applied, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new("software", SOFTWARE),
    Migration::new("unused", UNUSED),
];

/// A title is what people call one program; its versions differ in version, release, architecture and the like. The
/// checksum is over everything that tells versions apart. `software_inventories` has a row per host whose inventory is
/// known, with the host's team, so that lists can be narrowed to teams, and a checksum of its versions, so that a report
/// without news is recognised without reading them.
const SOFTWARE: &str = "
CREATE TABLE software_titles (
    id {{id}},
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    browser TEXT NOT NULL,
    CONSTRAINT software_titles_name_source_browser_key UNIQUE (name, source, browser)
);

CREATE TABLE software_versions (
    id {{id}},
    checksum {{bytes}} NOT NULL CONSTRAINT software_versions_checksum_key UNIQUE,
    title_id BIGINT NOT NULL REFERENCES software_titles (id),
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    source TEXT NOT NULL,
    browser TEXT NOT NULL,
    extension_id TEXT NOT NULL,
    bundle_identifier TEXT NOT NULL,
    release TEXT NOT NULL,
    vendor TEXT NOT NULL,
    arch TEXT NOT NULL
);
CREATE INDEX software_versions_title ON software_versions (title_id);

CREATE TABLE software_inventories (
    host_id BIGINT PRIMARY KEY,
    team_id BIGINT,
    checksum {{bytes}} NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE software_hosts (
    host_id BIGINT NOT NULL REFERENCES software_inventories (host_id) ON DELETE CASCADE,
    version_id BIGINT NOT NULL REFERENCES software_versions (id),
    PRIMARY KEY (host_id, version_id)
);
CREATE INDEX software_hosts_version ON software_hosts (version_id);
";

/// When it was found that no host has a version: it is swept away when that stays so.
const UNUSED: &str = "
ALTER TABLE software_versions ADD COLUMN unused_since BIGINT;
CREATE INDEX software_versions_unused_since ON software_versions (unused_since) WHERE unused_since IS NOT NULL;
";
