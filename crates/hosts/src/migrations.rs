//! The tables of this crate, oldest change first.
//!
//! Agents' side and operators' side share them. Times are microseconds, flags 0 or 1. A fact that was never learned is
//! NULL (numbers) or the empty text; nothing is ever erased because an agent left it out.

use muster_store::Migration;

/// What has to be applied, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new("hosts", HOSTS),
    Migration::new("labels", LABELS),
    Migration::new("builtin_labels", BUILTIN_LABELS),
    Migration::new("presence_unindexed", PRESENCE_UNINDEXED),
    Migration::new("key_lives", KEY_LIVES),
    Migration::new("token_labels", TOKEN_LABELS),
    Migration::new("lost_capabilities", LOST_CAPABILITIES),
    Migration::new("names_without_case", NAMES_WITHOUT_CASE),
];

/// Collectors name the host that they run on, in whatever case.
const NAMES_WITHOUT_CASE: &str =
    "CREATE INDEX hosts_hosts_hostname_lower ON hosts_hosts (LOWER(hostname));";

/// Since when a host's program does not say a name that was said on the host before: `name=time` with commas.
const LOST_CAPABILITIES: &str =
    "ALTER TABLE hosts_capabilities ADD COLUMN lost TEXT NOT NULL DEFAULT '';";

/// `clone_of` is the host that this one was told from. An alias is an identifier with what tells the installation of an
/// agent from others that look the same. A ban outlives its host: `host_id` may be gone. A rotation goes through the hosts
/// in the order of their ids; `cursor_id` is the last that was done.
const KEY_LIVES: &str = "
ALTER TABLE hosts_hosts ADD COLUMN clone_of BIGINT;
CREATE TABLE hosts_aliases (
    alias TEXT PRIMARY KEY,
    host_id BIGINT NOT NULL REFERENCES hosts_hosts (id) ON DELETE CASCADE
);
CREATE INDEX hosts_aliases_host ON hosts_aliases (host_id);
CREATE TABLE hosts_bans (
    host_id BIGINT PRIMARY KEY,
    display_name TEXT NOT NULL,
    identifier TEXT NOT NULL,
    hardware_uuid TEXT NOT NULL,
    hardware_serial TEXT NOT NULL,
    reason TEXT NOT NULL,
    banned_at BIGINT NOT NULL,
    banned_by TEXT NOT NULL
);
CREATE TABLE hosts_key_rotations (
    id {{id}},
    hosts_per_minute BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    started_by TEXT NOT NULL,
    cursor_id BIGINT NOT NULL DEFAULT 0,
    asked BIGINT NOT NULL DEFAULT 0,
    skipped BIGINT NOT NULL DEFAULT 0,
    ended_at BIGINT,
    outcome TEXT NOT NULL DEFAULT ''
);
";

/// The column is written at every check-in and read by expressions over it: the index only cost.
const PRESENCE_UNINDEXED: &str = "DROP INDEX hosts_presence_seen;";

/// `identifier` is the matching key in lower case: what osquery calls itself, or, for a host that only orbit enrolled,
/// the identifier that orbit announced or its hardware UUID (`identifier_from`: `osquery`, `orbit`, `hardware_uuid`).
/// `hardware_uuid` is `uuid` in lower case, empty when it is missing or one that many machines share.
const HOSTS: &str = "
CREATE TABLE hosts_hosts (
    id {{id}},
    identifier TEXT NOT NULL CONSTRAINT hosts_hosts_identifier_key UNIQUE,
    identifier_from TEXT NOT NULL,
    hardware_uuid TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    team_id BIGINT,
    enrollment_token_id BIGINT,
    enrolled_at BIGINT NOT NULL,
    osquery_enrolled_at BIGINT,
    orbit_enrolled_at BIGINT,
    hostname TEXT NOT NULL DEFAULT '',
    computer_name TEXT NOT NULL DEFAULT '',
    uuid TEXT NOT NULL DEFAULT '',
    hardware_serial TEXT NOT NULL DEFAULT '',
    hardware_vendor TEXT NOT NULL DEFAULT '',
    hardware_model TEXT NOT NULL DEFAULT '',
    hardware_version TEXT NOT NULL DEFAULT '',
    platform TEXT NOT NULL DEFAULT '',
    platform_like TEXT NOT NULL DEFAULT '',
    os_name TEXT NOT NULL DEFAULT '',
    os_version TEXT NOT NULL DEFAULT '',
    build TEXT NOT NULL DEFAULT '',
    code_name TEXT NOT NULL DEFAULT '',
    arch TEXT NOT NULL DEFAULT '',
    kernel_version TEXT NOT NULL DEFAULT '',
    osquery_version TEXT NOT NULL DEFAULT '',
    orbit_version TEXT NOT NULL DEFAULT '',
    desktop_version TEXT NOT NULL DEFAULT '',
    scripts_enabled BIGINT,
    cpu_type TEXT NOT NULL DEFAULT '',
    cpu_subtype TEXT NOT NULL DEFAULT '',
    cpu_brand TEXT NOT NULL DEFAULT '',
    cpu_physical_cores BIGINT,
    cpu_logical_cores BIGINT,
    memory_bytes BIGINT,
    primary_ip TEXT NOT NULL DEFAULT '',
    primary_mac TEXT NOT NULL DEFAULT '',
    public_ip TEXT NOT NULL DEFAULT '',
    disk_available_gb DOUBLE PRECISION,
    disk_available_percent DOUBLE PRECISION,
    disk_total_gb DOUBLE PRECISION,
    distributed_interval_seconds BIGINT,
    config_interval_seconds BIGINT,
    logger_interval_seconds BIGINT,
    last_restarted_at BIGINT,
    detail_updated_at BIGINT,
    label_updated_at BIGINT,
    policy_updated_at BIGINT,
    software_updated_at BIGINT,
    refetch_requested BIGINT NOT NULL DEFAULT 1
);
CREATE INDEX hosts_hosts_hardware_uuid ON hosts_hosts (hardware_uuid);
CREATE INDEX hosts_hosts_hardware_serial ON hosts_hosts (hardware_serial);
CREATE INDEX hosts_hosts_hostname ON hosts_hosts (hostname);
CREATE INDEX hosts_hosts_team ON hosts_hosts (team_id);

CREATE TABLE hosts_presence (
    host_id BIGINT PRIMARY KEY REFERENCES hosts_hosts (id) ON DELETE CASCADE,
    seen_at BIGINT NOT NULL
);
CREATE INDEX hosts_presence_seen ON hosts_presence (seen_at);

CREATE TABLE hosts_users (
    host_id BIGINT NOT NULL REFERENCES hosts_hosts (id) ON DELETE CASCADE,
    uid TEXT NOT NULL,
    username TEXT NOT NULL,
    type TEXT NOT NULL,
    groupname TEXT NOT NULL,
    shell TEXT NOT NULL,
    PRIMARY KEY (host_id, uid, username)
);

CREATE TABLE hosts_end_users (
    host_id BIGINT NOT NULL REFERENCES hosts_hosts (id) ON DELETE CASCADE,
    source TEXT NOT NULL,
    email TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, source, email)
);

CREATE TABLE hosts_device_tokens (
    host_id BIGINT PRIMARY KEY REFERENCES hosts_hosts (id) ON DELETE CASCADE,
    token_hash {{bytes}} NOT NULL CONSTRAINT hosts_device_tokens_token_hash_key UNIQUE,
    registered_at BIGINT NOT NULL
);

CREATE TABLE hosts_capabilities (
    host_id BIGINT NOT NULL REFERENCES hosts_hosts (id) ON DELETE CASCADE,
    process TEXT NOT NULL,
    names TEXT NOT NULL,
    version TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, process)
);

CREATE TABLE hosts_events (
    id {{id}},
    host_id BIGINT NOT NULL REFERENCES hosts_hosts (id) ON DELETE CASCADE,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    details TEXT NOT NULL
);
CREATE INDEX hosts_events_host ON hosts_events (host_id, id);
";

/// `kind`: `builtin` or `regular`. `membership`: `dynamic` (the query decides), `manual` (operators decide), `all`
/// (every enrolled host). `platform` is empty, or a comma separated list of platforms that the query is sent to.
/// `query_changed_at` makes hosts evaluate the label at their next check-in.
const LABELS: &str = "
CREATE TABLE hosts_labels (
    id {{id}},
    name TEXT NOT NULL CONSTRAINT hosts_labels_name_key UNIQUE,
    description TEXT NOT NULL DEFAULT '',
    query TEXT NOT NULL DEFAULT '',
    platform TEXT NOT NULL DEFAULT '',
    kind TEXT NOT NULL,
    membership TEXT NOT NULL,
    author_id BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    query_changed_at BIGINT NOT NULL
);
CREATE TABLE hosts_label_members (
    label_id BIGINT NOT NULL REFERENCES hosts_labels (id) ON DELETE CASCADE,
    host_id BIGINT NOT NULL REFERENCES hosts_hosts (id) ON DELETE CASCADE,
    PRIMARY KEY (label_id, host_id)
);
CREATE INDEX hosts_label_members_host ON hosts_label_members (host_id);
";

/// The labels that every installation has, under the names that existing clients look for. The queries ask the host
/// itself; the platform narrows down who is asked, where it can.
const BUILTIN_LABELS: &str = "
INSERT INTO hosts_labels
    (name, description, query, platform, kind, membership, created_at, updated_at, query_changed_at) VALUES
('All Hosts', 'Every host that has enrolled', '', '', 'builtin', 'all', 0, 0, 0),
('macOS', 'Hosts that run macOS',
    'SELECT 1 FROM os_version WHERE platform = ''darwin'' LIMIT 1', 'darwin', 'builtin', 'dynamic', 0, 0, 0),
('Ubuntu Linux', 'Hosts that run Ubuntu',
    'SELECT 1 FROM os_version WHERE platform = ''ubuntu'' LIMIT 1', 'ubuntu', 'builtin', 'dynamic', 0, 0, 0),
('CentOS Linux', 'Hosts that run CentOS',
    'SELECT 1 FROM os_version WHERE platform = ''centos'' OR name LIKE ''%centos%'' LIMIT 1',
    'centos,rhel', 'builtin', 'dynamic', 0, 0, 0),
('MS Windows', 'Hosts that run Microsoft Windows',
    'SELECT 1 FROM os_version WHERE platform = ''windows'' LIMIT 1', 'windows', 'builtin', 'dynamic', 0, 0, 0),
('Red Hat Linux', 'Hosts that run Red Hat Enterprise Linux',
    'SELECT 1 FROM os_version WHERE name LIKE ''%red hat%'' LIMIT 1', 'rhel', 'builtin', 'dynamic', 0, 0, 0),
('All Linux', 'Hosts that run any distribution of Linux',
    'SELECT 1 FROM osquery_info WHERE build_platform = ''linux'' LIMIT 1', 'linux', 'builtin', 'dynamic', 0, 0, 0),
('chrome', 'Hosts that run ChromeOS',
    'SELECT 1 FROM os_version WHERE platform = ''chrome'' LIMIT 1', 'chrome', 'builtin', 'dynamic', 0, 0, 0),
('macOS 14+ (Sonoma+)', 'Hosts that run macOS 14 or later',
    'SELECT 1 FROM os_version WHERE platform = ''darwin'' AND CAST(major AS INTEGER) >= 14 LIMIT 1',
    'darwin', 'builtin', 'dynamic', 0, 0, 0),
('iOS', 'iPhones; members are set by hand', '', 'ios', 'builtin', 'manual', 0, 0, 0),
('iPadOS', 'iPads; members are set by hand', '', 'ipados', 'builtin', 'manual', 0, 0, 0),
('Fedora Linux', 'Hosts that run Fedora',
    'SELECT 1 FROM os_version WHERE name LIKE ''%fedora%'' LIMIT 1', 'rhel,fedora', 'builtin', 'dynamic', 0, 0, 0);
";

/// Which enrollment token gives which labels. Tokens go only with their team, and no id is given twice: what a token leaves
/// here gives nothing to anybody.
const TOKEN_LABELS: &str = "
CREATE TABLE hosts_token_labels (
    token_id BIGINT NOT NULL,
    label_id BIGINT NOT NULL REFERENCES hosts_labels (id) ON DELETE CASCADE,
    PRIMARY KEY (token_id, label_id)
);
CREATE INDEX hosts_token_labels_label ON hosts_token_labels (label_id);
";
