//! The tables of configurations.

/// A configuration has versions, which never change; `files` are `document::Files` as JSON. `team_key` is the team, or 0 for
/// none: names are unique within it, without regard to case. An assignment's selector is in its canonical text, so that one
/// configuration has one assignment per selector. `state` is how far one collector is, with what decides about it in `body`
/// (`rollout::Rollout` as JSON), and the version that is to be sent to it. It is looked at again at `look_at` although nothing
/// is heard, and once it was heard at `look_when_heard` or later. `revision` counts changes.
pub(crate) const CONFIGURATIONS: &str = "
CREATE TABLE collectors_configs (
    id {{id}},
    team_key BIGINT NOT NULL,
    name TEXT NOT NULL,
    name_key TEXT NOT NULL,
    description TEXT NOT NULL,
    kind TEXT NOT NULL,
    newest_version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (team_key, name_key)
);
CREATE TABLE collectors_config_versions (
    config_id BIGINT NOT NULL REFERENCES collectors_configs (id) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    hash TEXT NOT NULL,
    note TEXT NOT NULL,
    author_id BIGINT,
    author_name TEXT NOT NULL,
    author_email TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    files TEXT NOT NULL,
    PRIMARY KEY (config_id, version)
);
CREATE TABLE collectors_config_assignments (
    id {{id}},
    config_id BIGINT NOT NULL REFERENCES collectors_configs (id) ON DELETE CASCADE,
    team_key BIGINT NOT NULL,
    selector TEXT NOT NULL,
    priority BIGINT NOT NULL,
    version BIGINT NOT NULL,
    previous_version BIGINT,
    follows_newest BIGINT NOT NULL,
    is_paused BIGINT NOT NULL,
    soak_seconds BIGINT NOT NULL,
    auto_rollback TEXT NOT NULL,
    failures_until_rollback BIGINT NOT NULL,
    rolled_back_at BIGINT,
    rolled_back_reason TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    UNIQUE (config_id, selector)
);
CREATE TABLE collectors_config_states (
    collector_id BIGINT PRIMARY KEY REFERENCES collectors_collectors (id) ON DELETE CASCADE,
    revision BIGINT NOT NULL,
    assignment_id BIGINT,
    config_id BIGINT,
    version BIGINT,
    hash TEXT NOT NULL,
    sends_config_id BIGINT,
    sends_version BIGINT,
    state TEXT NOT NULL,
    since BIGINT NOT NULL,
    look_at BIGINT,
    look_when_heard BIGINT,
    body TEXT NOT NULL
);
CREATE INDEX collectors_config_states_config ON collectors_config_states (config_id, state);
CREATE INDEX collectors_config_states_assignment ON collectors_config_states (assignment_id, version, state);
CREATE INDEX collectors_config_states_due ON collectors_config_states (look_at);
CREATE INDEX collectors_config_states_heard ON collectors_config_states (look_when_heard);
";
