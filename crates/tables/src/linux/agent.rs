//! What the agent tells about itself; the agent hands it in as facts.

use crate::error::TableError;
use crate::spec::Collation::{NoCase, Version};
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink};

/// A table of Fleet's orbit rather than of osquery.
pub(crate) static ORBIT_INFO: TableSpec = TableSpec {
    name: "orbit_info",
    description: "The agent as Fleet knows it: its version, channels and enrollment.",
    columns: &[
        column("version", Text),
        column("device_auth_token", Text),
        column("enrolled", Text),
        column("last_recorded_error", Text),
        column("orbit_channel", Text),
        column("osqueryd_channel", Text),
        column("desktop_channel", Text),
        column("desktop_version", Text),
        column("uptime", BigInt),
        column("scripts_enabled", Integer),
        column("update_url", Text),
    ],
};

pub(crate) static OSQUERY_FLAGS: TableSpec = TableSpec {
    name: "osquery_flags",
    description: "The agent's options with their values in force.",
    columns: &[
        column("name", Text),
        column("type", Text),
        column("description", Text),
        column("default_value", Text),
        column("value", Text),
        column("shell_only", Integer),
    ],
};

pub(crate) static OSQUERY_INFO: TableSpec = TableSpec {
    name: "osquery_info",
    description: "The running agent: its version, identity and process.",
    columns: &[
        column("pid", Integer),
        column("uuid", Text).collate(NoCase),
        column("instance_id", Text),
        column("version", Text).collate(Version),
        column("config_hash", Text).collate(NoCase),
        column("config_valid", Integer),
        column("extensions", Text),
        column("build_platform", Text),
        column("build_distro", Text),
        column("start_time", Integer),
        column("watcher", Integer),
        column("platform_mask", Integer),
    ],
};

pub(crate) static OSQUERY_REGISTRY: TableSpec = TableSpec {
    name: "osquery_registry",
    description: "The parts that the agent has, such as the tables it serves.",
    columns: &[
        column("registry", Text),
        column("name", Text),
        column("owner_uuid", Integer),
        column("internal", Integer),
        column("active", Integer),
    ],
};

pub(crate) static OSQUERY_SCHEDULE: TableSpec = TableSpec {
    name: "osquery_schedule",
    description: "The scheduled queries and what they have cost.",
    columns: &[
        column("name", Text),
        column("query", Text),
        column("interval", Integer),
        column("executions", BigInt),
        column("last_executed", BigInt),
        column("denylisted", Integer).aliases(&["blacklisted"]),
        column("output_size", BigInt),
        column("wall_time", BigInt),
        column("wall_time_ms", BigInt),
        column("last_wall_time_ms", BigInt),
        column("user_time", BigInt),
        column("last_user_time", BigInt),
        column("system_time", BigInt),
        column("last_system_time", BigInt),
        column("average_memory", BigInt),
        column("last_memory", BigInt),
    ],
};

/// The bit of osquery's platform mask that means POSIX, together with the one that means Linux.
const PLATFORM_MASK_LINUX: i64 = 0x01 | 0x08;

/// The kinds of plugins that osquery has which this agent has too, beside its tables.
const TABLE_REGISTRY: &str = "table";

pub(crate) fn orbit_info(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let facts = context.facts();
    let uptime = context.now().since(facts.start_time).as_secs();
    rows.row()
        .set("version", facts.orbit.version)
        .set("device_auth_token", facts.orbit.device_auth_token)
        .set("enrolled", facts.orbit.enrolled.to_string())
        .set("last_recorded_error", facts.orbit.last_recorded_error)
        .set("orbit_channel", facts.orbit.orbit_channel)
        .set("osqueryd_channel", facts.orbit.osqueryd_channel)
        .set("desktop_channel", facts.orbit.desktop_channel)
        .set("desktop_version", facts.orbit.desktop_version)
        .set("uptime", uptime)
        .set("scripts_enabled", facts.orbit.scripts_enabled)
        .set("update_url", facts.orbit.update_url)
        .push()
}

pub(crate) fn osquery_info(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let facts = context.facts();
    let uuid = facts
        .uuid
        .clone()
        .or_else(|| super::hardware_uuid(&context.path("/")));
    rows.row()
        .set("pid", std::process::id())
        .set("uuid", uuid)
        .set("instance_id", facts.instance_id)
        .set("version", facts.version)
        .set("config_hash", facts.config_hash)
        .set("config_valid", facts.config_valid)
        // osquery's extensions need osquery's sockets.
        .set("extensions", "inactive")
        .set("build_platform", std::env::consts::OS)
        .set("build_distro", std::env::consts::ARCH)
        .set("start_time", facts.start_time.as_micros() / 1_000_000)
        // No process watches over this one.
        .set("watcher", -1)
        .set("platform_mask", PLATFORM_MASK_LINUX)
        .push()
}

pub(crate) fn osquery_flags(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    for flag in context.facts().flags {
        rows.row()
            .set("name", flag.name)
            .set("type", flag.kind)
            .set("description", flag.description)
            .set("default_value", flag.default_value)
            .set("value", flag.value)
            .set("shell_only", flag.shell_only)
            .push()?;
    }
    Ok(())
}

pub(crate) fn osquery_registry(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    for table in context.tables() {
        rows.row()
            .set("registry", TABLE_REGISTRY)
            .set("name", table.name)
            .set("owner_uuid", 0)
            .set("internal", 0)
            .set("active", 1)
            .push()?;
    }
    Ok(())
}

pub(crate) fn osquery_schedule(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    for query in context.facts().schedule {
        rows.row()
            .set("name", query.name)
            .set("query", query.query)
            .set("interval", query.interval_s)
            .set("executions", query.executions)
            .set("last_executed", query.last_executed_s)
            .set("denylisted", query.denylisted)
            .set("output_size", query.output_bytes)
            .set("wall_time", query.wall_time_ms / 1_000)
            .set("wall_time_ms", query.wall_time_ms)
            .set("last_wall_time_ms", query.last_wall_time_ms)
            .set("user_time", query.user_time_ms)
            .set("last_user_time", query.last_user_time_ms)
            .set("system_time", query.system_time_ms)
            .set("last_system_time", query.last_system_time_ms)
            .set("average_memory", query.average_memory_bytes)
            .set("last_memory", query.last_memory_bytes)
            .push()?;
    }
    Ok(())
}
