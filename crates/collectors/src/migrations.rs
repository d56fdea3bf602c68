//! The tables of this crate, oldest change first. Times are microseconds, flags 0 or 1.

use muster_store::Migration;

/// What has to be applied, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new("collectors", COLLECTORS),
    Migration::new(
        "configurations",
        crate::configurations::migrations::CONFIGURATIONS,
    ),
];

/// `state` is `record::Durable` as JSON; the columns beside it are what lists are searched, filtered and sorted by, and
/// follow from it and from the parts. `revision` counts changes: whoever writes names the one that was read. A uid leads to
/// one agent, also the earlier ones. `lines` count the messages of an agent under one credential; they and `presence` are
/// written in batches; `back_at` is when an agent was heard again after it was gone or silent for three of its intervals.
/// Lists of components are shared by all agents that have the same.
const COLLECTORS: &str = "
CREATE TABLE collectors_collectors (
    id {{id}},
    revision BIGINT NOT NULL,
    uid TEXT NOT NULL,
    team_id BIGINT,
    enrollment_token_id BIGINT,
    is_ephemeral BIGINT NOT NULL,
    standing TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    capabilities BIGINT NOT NULL,
    interval_seconds BIGINT NOT NULL,
    key_status TEXT NOT NULL,
    config_status TEXT NOT NULL,
    config_hash TEXT NOT NULL,
    components_hash TEXT NOT NULL,
    state TEXT NOT NULL,
    name TEXT NOT NULL DEFAULT '',
    version TEXT NOT NULL DEFAULT '',
    host_name TEXT NOT NULL DEFAULT '',
    host_id TEXT NOT NULL DEFAULT '',
    is_healthy BIGINT
);
CREATE INDEX collectors_collectors_team ON collectors_collectors (team_id);
CREATE TABLE collectors_uids (
    uid TEXT PRIMARY KEY,
    collector_id BIGINT NOT NULL REFERENCES collectors_collectors (id) ON DELETE CASCADE,
    since BIGINT NOT NULL
);
CREATE INDEX collectors_uids_collector ON collectors_uids (collector_id);
CREATE TABLE collectors_parts (
    collector_id BIGINT NOT NULL REFERENCES collectors_collectors (id) ON DELETE CASCADE,
    part TEXT NOT NULL,
    body TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (collector_id, part)
);
CREATE TABLE collectors_attributes (
    collector_id BIGINT NOT NULL REFERENCES collectors_collectors (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (collector_id, name)
);
CREATE INDEX collectors_attributes_value ON collectors_attributes (name, value);
CREATE TABLE collectors_lines (
    collector_id BIGINT NOT NULL REFERENCES collectors_collectors (id) ON DELETE CASCADE,
    line TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    connection BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    ended_at BIGINT,
    need BIGINT NOT NULL,
    asked_at BIGINT,
    asked_in_a_row BIGINT NOT NULL,
    PRIMARY KEY (collector_id, line)
);
CREATE TABLE collectors_presence (
    collector_id BIGINT PRIMARY KEY REFERENCES collectors_collectors (id) ON DELETE CASCADE,
    seen_at BIGINT NOT NULL,
    gone_at BIGINT,
    back_at BIGINT
);
CREATE TABLE collectors_components (
    hash TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE collectors_events (
    id {{id}},
    collector_id BIGINT NOT NULL REFERENCES collectors_collectors (id) ON DELETE CASCADE,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    details TEXT NOT NULL
);
CREATE INDEX collectors_events_collector ON collectors_events (collector_id, id);
CREATE TABLE collectors_messages (
    id {{id}},
    collector_id BIGINT NOT NULL REFERENCES collectors_collectors (id) ON DELETE CASCADE,
    at BIGINT NOT NULL,
    capability TEXT NOT NULL,
    kind TEXT NOT NULL,
    data {{bytes}} NOT NULL
);
CREATE INDEX collectors_messages_collector ON collectors_messages (collector_id, id);
";
