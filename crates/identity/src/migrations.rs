//! The tables of this crate. Times are microseconds, flags 0 or 1; secrets are kept as their SHA-256.

use muster_store::Migration;

/// What has to be applied, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new("people", PEOPLE),
    Migration::new("agents", AGENTS),
    Migration::new("audit", AUDIT),
    Migration::new("master_key", MASTER_KEY),
    Migration::new("reenrollments", REENROLLMENTS),
    Migration::new("audit_actions", AUDIT_ACTIONS),
    Migration::new("agent_key_lives", AGENT_KEY_LIVES),
    Migration::new("token_rotation", TOKEN_ROTATION),
    Migration::new("token_networks", TOKEN_NETWORKS),
    Migration::new("second_factors", SECOND_FACTORS),
    Migration::new("collector_keys", COLLECTOR_KEYS),
    Migration::new("collector_tokens", COLLECTOR_TOKENS),
];

/// `password_hash` is in PHC form. `role` in `identity_users` is the global role; a user has either that or rows in
/// `identity_user_teams`.
const PEOPLE: &str = "
CREATE TABLE identity_teams (
    id {{id}},
    name TEXT NOT NULL,
    name_key TEXT NOT NULL CONSTRAINT identity_teams_name_key UNIQUE,
    description TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE identity_users (
    id {{id}},
    name TEXT NOT NULL,
    email TEXT NOT NULL,
    email_key TEXT NOT NULL CONSTRAINT identity_users_email_key UNIQUE,
    password_hash TEXT NOT NULL,
    role TEXT,
    api_only BIGINT NOT NULL DEFAULT 0,
    must_reset_password BIGINT NOT NULL DEFAULT 0,
    disabled BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE identity_user_teams (
    user_id BIGINT NOT NULL REFERENCES identity_users (id) ON DELETE CASCADE,
    team_id BIGINT NOT NULL REFERENCES identity_teams (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    PRIMARY KEY (user_id, team_id)
);
CREATE TABLE identity_sessions (
    id {{id}},
    user_id BIGINT NOT NULL REFERENCES identity_users (id) ON DELETE CASCADE,
    token_hash {{bytes}} NOT NULL CONSTRAINT identity_sessions_token_hash_key UNIQUE,
    created_at BIGINT NOT NULL,
    used_at BIGINT NOT NULL,
    address TEXT NOT NULL
);
CREATE INDEX identity_sessions_user ON identity_sessions (user_id);
CREATE TABLE identity_api_tokens (
    id {{id}},
    user_id BIGINT NOT NULL REFERENCES identity_users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    token_hash {{bytes}} NOT NULL CONSTRAINT identity_api_tokens_token_hash_key UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    used_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX identity_api_tokens_user ON identity_api_tokens (user_id);
";

/// `families` is a comma separated list. `sealed` holds the secret, sealed with the master key.
const AGENTS: &str = "
CREATE TABLE identity_enrollment_tokens (
    id {{id}},
    name TEXT NOT NULL,
    team_id BIGINT REFERENCES identity_teams (id) ON DELETE CASCADE,
    families TEXT NOT NULL,
    token_hash {{bytes}} NOT NULL,
    sealed {{bytes}} NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    max_uses BIGINT,
    uses BIGINT NOT NULL DEFAULT 0,
    used_at BIGINT,
    used_by BIGINT,
    revoked_at BIGINT
);
CREATE UNIQUE INDEX identity_enrollment_tokens_token_hash_key
    ON identity_enrollment_tokens (token_hash) WHERE revoked_at IS NULL;
CREATE TABLE identity_agent_keys (
    id {{id}},
    key_hash {{bytes}} NOT NULL CONSTRAINT identity_agent_keys_key_hash_key UNIQUE,
    family TEXT NOT NULL,
    host_id BIGINT NOT NULL,
    enrollment_token_id BIGINT,
    created_at BIGINT NOT NULL,
    first_used_at BIGINT,
    used_at BIGINT,
    superseded_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX identity_agent_keys_host ON identity_agent_keys (host_id, family);
";

const AUDIT: &str = "
CREATE TABLE identity_audit (
    id {{id}},
    at BIGINT NOT NULL,
    actor_kind TEXT NOT NULL,
    actor_id BIGINT,
    actor_name TEXT NOT NULL,
    actor_email TEXT NOT NULL,
    address TEXT NOT NULL,
    action TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    before_json TEXT,
    after_json TEXT
);
CREATE INDEX identity_audit_subject ON identity_audit (subject_kind, subject_id);
";

/// One row: which master key sealed what this database holds. Nothing can be told about the key from its fingerprint.
const MASTER_KEY: &str = "
CREATE TABLE identity_master_key (
    id BIGINT PRIMARY KEY,
    fingerprint {{bytes}} NOT NULL
);
";

/// How often hosts enrolled again with the token that they came by.
const REENROLLMENTS: &str =
    "ALTER TABLE identity_enrollment_tokens ADD COLUMN reenrollments BIGINT NOT NULL DEFAULT 0;";

/// `instance` tells installations of an agent apart. A key is a rival since another installation used a newer one of the
/// same host: when it is used again after that, there are two machines. `rotate_at`: an operator wants it renewed;
/// `told_at`: its agent was told. `identity_refused_agents` counts calls with keys that are no longer good.
const AGENT_KEY_LIVES: &str = "
ALTER TABLE identity_agent_keys ADD COLUMN instance TEXT NOT NULL DEFAULT '';
ALTER TABLE identity_agent_keys ADD COLUMN rival_since BIGINT;
ALTER TABLE identity_agent_keys ADD COLUMN rotate_at BIGINT;
ALTER TABLE identity_agent_keys ADD COLUMN told_at BIGINT;
ALTER TABLE identity_agent_keys ADD COLUMN revoked_because TEXT NOT NULL DEFAULT '';
CREATE TABLE identity_refused_agents (
    key_id BIGINT PRIMARY KEY,
    host_id BIGINT NOT NULL,
    family TEXT NOT NULL,
    reason TEXT NOT NULL,
    calls BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL
);
";

/// For lists by action, and for finding the old ones of those that are forgotten.
const AUDIT_ACTIONS: &str = "CREATE INDEX identity_audit_action ON identity_audit (action, at);";

/// A token that was rotated has a successor; its `expires_at` is when the overlap ends. The index is for the hosts that came
/// by a token.
const TOKEN_ROTATION: &str = "
ALTER TABLE identity_enrollment_tokens ADD COLUMN rotated_at BIGINT;
ALTER TABLE identity_enrollment_tokens ADD COLUMN successor_id BIGINT;
CREATE INDEX identity_agent_keys_token ON identity_agent_keys (enrollment_token_id, host_id);
";

/// `networks` is a comma separated list; empty: from everywhere.
const TOKEN_NETWORKS: &str =
    "ALTER TABLE identity_enrollment_tokens ADD COLUMN networks TEXT NOT NULL DEFAULT '';";

/// `sealed` holds the shared secret. Without `confirmed_at` it is being set up, and logins do not ask for it. Only codes of
/// steps after `last_step` count.
const SECOND_FACTORS: &str = "
CREATE TABLE identity_second_factors (
    user_id BIGINT PRIMARY KEY REFERENCES identity_users (id) ON DELETE CASCADE,
    sealed {{bytes}} NOT NULL,
    created_at BIGINT NOT NULL,
    confirmed_at BIGINT,
    last_step BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE identity_recovery_codes (
    user_id BIGINT NOT NULL REFERENCES identity_users (id) ON DELETE CASCADE,
    code_hash {{bytes}} NOT NULL,
    PRIMARY KEY (user_id, code_hash)
);
";

/// A collector's key has host 0, and nothing in the columns by which earlier releases count and renew hosts' keys. Without
/// `collector_id` it was made in advance, and belongs to whoever uses it first. `expires_at` counts until the first use,
/// `ends_at` when it was superseded, `due_at` is from when on somebody wants it renewed. The rows of `identity_key_holders`
/// keep changes of one collector's keys apart, and count its keys.
const COLLECTOR_KEYS: &str = "
ALTER TABLE identity_agent_keys ADD COLUMN collector_id BIGINT;
ALTER TABLE identity_agent_keys ADD COLUMN collector_token_id BIGINT;
ALTER TABLE identity_agent_keys ADD COLUMN team_id BIGINT;
ALTER TABLE identity_agent_keys ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE identity_agent_keys ADD COLUMN is_made_in_advance BIGINT NOT NULL DEFAULT 0;
ALTER TABLE identity_agent_keys ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE identity_agent_keys ADD COLUMN offered_at BIGINT;
ALTER TABLE identity_agent_keys ADD COLUMN expires_at BIGINT;
ALTER TABLE identity_agent_keys ADD COLUMN ends_at BIGINT;
ALTER TABLE identity_agent_keys ADD COLUMN due_at BIGINT;
CREATE INDEX identity_agent_keys_collector ON identity_agent_keys (collector_id) WHERE collector_id IS NOT NULL;
CREATE INDEX identity_agent_keys_team ON identity_agent_keys (team_id) WHERE team_id IS NOT NULL;
CREATE INDEX identity_agent_keys_made ON identity_agent_keys (id) WHERE is_made_in_advance = 1;
CREATE TABLE identity_key_holders (
    collector_id BIGINT PRIMARY KEY,
    generation BIGINT NOT NULL
);
ALTER TABLE identity_refused_agents ADD COLUMN collector_id BIGINT;
";

/// What a token says of agents that speak OpAMP: `known_agents` is what is done with those that are known and come by it,
/// `ephemeral` that those which came by it are forgotten when they are gone. A token of which `known_agents` is empty was made by
/// a release before OpAMP.
const COLLECTOR_TOKENS: &str = "
ALTER TABLE identity_enrollment_tokens ADD COLUMN known_agents TEXT NOT NULL DEFAULT '';
ALTER TABLE identity_enrollment_tokens ADD COLUMN ephemeral BIGINT NOT NULL DEFAULT 0;
ALTER TABLE identity_enrollment_tokens ADD COLUMN used_by_collector BIGINT;
";
