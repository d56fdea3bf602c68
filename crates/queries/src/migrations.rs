//! The tables of this crate. Times are microseconds, flags 0 or 1.

use muster_store::Migration;

/// What has to be applied, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new("queries", QUERIES),
    Migration::new("campaigns", CAMPAIGNS),
];

/// `team_key` is the team, or 0 for all teams: names are unique within it, without regard to case.
const QUERIES: &str = "
CREATE TABLE queries_queries (
    id {{id}},
    team_key BIGINT NOT NULL,
    name TEXT NOT NULL,
    name_key TEXT NOT NULL,
    description TEXT NOT NULL,
    sql_text TEXT NOT NULL,
    interval_seconds BIGINT NOT NULL,
    platform TEXT NOT NULL,
    min_osquery_version TEXT NOT NULL,
    automations_enabled BIGINT NOT NULL,
    logging TEXT NOT NULL,
    observer_can_run BIGINT NOT NULL,
    discard_data BIGINT NOT NULL,
    author_id BIGINT,
    author_name TEXT NOT NULL,
    author_email TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    CONSTRAINT queries_queries_name_key UNIQUE (team_key, name_key)
);
";

/// `state` of a host: pending, sent, answered, failed, offline, expired, cancelled. `awaited` is 1 while the campaign is
/// not finished without it. `position` counts up within a campaign, in the order in which answers were kept.
const CAMPAIGNS: &str = "
CREATE TABLE queries_campaigns (
    id {{id}},
    query_id BIGINT,
    sql_text TEXT NOT NULL,
    user_id BIGINT NOT NULL,
    user_name TEXT NOT NULL,
    status TEXT NOT NULL,
    wait_for_offline BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT,
    last_position BIGINT NOT NULL DEFAULT 0,
    result_rows BIGINT NOT NULL DEFAULT 0,
    result_bytes BIGINT NOT NULL DEFAULT 0,
    clipped BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX queries_campaigns_status ON queries_campaigns (status);
CREATE TABLE queries_campaign_hosts (
    campaign_id BIGINT NOT NULL REFERENCES queries_campaigns (id) ON DELETE CASCADE,
    host_id BIGINT NOT NULL,
    hostname TEXT NOT NULL,
    display_name TEXT NOT NULL,
    team_id BIGINT,
    online BIGINT NOT NULL,
    seen_at BIGINT,
    state TEXT NOT NULL,
    sent_at BIGINT,
    ended_at BIGINT,
    message TEXT NOT NULL DEFAULT '',
    result_rows BIGINT NOT NULL DEFAULT 0,
    result_bytes BIGINT NOT NULL DEFAULT 0,
    clipped BIGINT NOT NULL DEFAULT 0,
    stats TEXT,
    position BIGINT,
    PRIMARY KEY (campaign_id, host_id)
);
CREATE INDEX queries_campaign_hosts_position ON queries_campaign_hosts (campaign_id, position);
CREATE TABLE queries_results (
    campaign_id BIGINT NOT NULL REFERENCES queries_campaigns (id) ON DELETE CASCADE,
    host_id BIGINT NOT NULL,
    rows_json TEXT NOT NULL,
    PRIMARY KEY (campaign_id, host_id)
);
";
