//! The questions, as SQL for the agents' tables.

use std::sync::{Arc, LazyLock};

use crate::state::HostProfile;

/// A question.
pub(crate) struct Query {
    /// Its whole name on the wire.
    pub(crate) wire_name: &'static str,
    pub(crate) platforms: Platforms,
    pub(crate) sql: Arc<str>,
    /// Asked only where this gives a row; where absent, everywhere.
    pub(crate) discovery: Option<Arc<str>>,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Platforms {
    /// Everybody, also a host whose platform is not known yet.
    Any,
    /// Everybody but Windows; also a host whose platform is not known yet.
    NotWindows,
    /// Every distribution of Linux, and macOS.
    Unix,
    /// Every distribution of Linux.
    Linux,
    /// macOS.
    Darwin,
    /// Windows.
    Windows,
}

impl Platforms {
    pub(crate) fn fit(self, profile: &HostProfile) -> bool {
        let platform = profile.platform.as_str();
        match self {
            Self::Any => true,
            Self::NotWindows => platform != "windows",
            Self::Unix => profile.is_linux() || platform == "darwin",
            Self::Linux => profile.is_linux(),
            Self::Darwin => platform == "darwin",
            Self::Windows => platform == "windows",
        }
    }
}

const OS_VERSION: &str = "
SELECT name, version, major, minor, patch, build, platform, platform_like, codename, arch
FROM os_version LIMIT 1";

/// The release that people know (22H2) stands in the registry only.
const OS_VERSION_WINDOWS: &str = "
SELECT o.name, o.version, o.build, o.platform, o.platform_like, o.codename, o.arch,
    (SELECT r.data FROM registry r
        WHERE r.key = 'HKEY_LOCAL_MACHINE\\Software\\Microsoft\\Windows NT\\CurrentVersion'
            AND r.name = 'DisplayVersion' LIMIT 1) AS display_version
FROM os_version o LIMIT 1";

const OS_UNIX_LIKE: &str = "
SELECT o.name, o.version, o.major, o.minor, o.patch, o.build, o.platform, o.arch, k.version AS kernel_version
FROM os_version o, kernel_info k LIMIT 1";

const OSQUERY_INFO: &str = "
SELECT version, uuid, instance_id, build_platform, build_distro, config_valid, extensions, start_time
FROM osquery_info LIMIT 1";

const OSQUERY_FLAGS: &str = "
SELECT name, value FROM osquery_flags
WHERE name IN ('distributed_interval', 'config_refresh', 'config_tls_refresh', 'logger_tls_period')";

const SYSTEM_INFO: &str = "
SELECT hostname, computer_name, uuid, hardware_serial, hardware_vendor, hardware_model, hardware_version,
    cpu_type, cpu_subtype, cpu_brand, cpu_physical_cores, cpu_logical_cores, physical_memory
FROM system_info LIMIT 1";

const UPTIME: &str = "SELECT total_seconds FROM uptime LIMIT 1";

/// Addresses best first: on the interface of the cheapest default route, then IPv4 before IPv6. The server chooses the
/// first that makes sense.
const NETWORK_INTERFACE: &str = "
WITH way_out AS (
    SELECT interface, MIN(CAST(metric AS INTEGER)) AS metric FROM routes
    WHERE destination IN ('0.0.0.0', '::', 'default') AND CAST(netmask AS INTEGER) = 0
    GROUP BY interface
)
SELECT a.address, d.mac, a.interface
FROM interface_addresses a
JOIN interface_details d ON d.interface = a.interface
LEFT JOIN way_out w ON w.interface = a.interface
WHERE a.address NOT IN ('', '127.0.0.1', '::1') AND a.address NOT LIKE '127.%' AND a.address NOT LIKE 'fe80:%'
    AND d.mac NOT IN ('', '00:00:00:00:00:00')
ORDER BY w.metric IS NULL, w.metric, a.address LIKE '%:%', a.interface, a.address
LIMIT 8";

/// In gigabytes of 10^9 bytes, as makers of disks count.
const DISK_SPACE_UNIX: &str = "
SELECT ROUND(1.0 * blocks_available * blocks_size / 1000000000, 2) AS gigs_disk_space_available,
    ROUND(100.0 * blocks_available / blocks, 2) AS percent_disk_space_available,
    ROUND(1.0 * blocks * blocks_size / 1000000000, 2) AS gigs_total_disk_space
FROM mounts WHERE path = '/' AND CAST(blocks AS INTEGER) > 0 LIMIT 1";

const DISK_SPACE_WINDOWS: &str = "
SELECT ROUND(1.0 * free_space / 1000000000, 2) AS gigs_disk_space_available,
    ROUND(100.0 * free_space / size, 2) AS percent_disk_space_available,
    ROUND(1.0 * size / 1000000000, 2) AS gigs_total_disk_space
FROM logical_drives WHERE CAST(size AS INTEGER) > 0
ORDER BY CAST(boot_partition AS INTEGER) DESC, device_id LIMIT 1";

/// Accounts that somebody can log in with.
const USERS_UNIX: &str = "
SELECT u.uid, u.username, '' AS type, g.groupname, u.shell
FROM users u LEFT JOIN groups g ON g.gid = u.gid
WHERE u.shell NOT LIKE '%/nologin' AND u.shell NOT LIKE '%/false' AND u.shell NOT LIKE '%/sync'
    AND u.shell NOT LIKE '%/shutdown' AND u.shell NOT LIKE '%/halt'
LIMIT 5000";

const USERS_WINDOWS: &str = "
SELECT u.uid, u.username, u.type, g.groupname, u.shell
FROM users u LEFT JOIN groups g ON g.gid = u.gid
LIMIT 5000";

/// What the agent's manager adds to osquery; agents without it are not asked.
const ORBIT_INFO: &str = "SELECT * FROM orbit_info LIMIT 1";

const SOFTWARE_LINUX: &str = "
SELECT name, version, 'deb_packages' AS source, '' AS release, maintainer AS vendor, arch
FROM deb_packages WHERE status LIKE '% installed' OR status = ''
UNION
SELECT name, version, 'rpm_packages' AS source, release, vendor, arch FROM rpm_packages
UNION
SELECT name, version, 'npm_packages' AS source, '' AS release, author AS vendor, '' AS arch FROM npm_packages";

const SOFTWARE_PYTHON: &str = "
SELECT DISTINCT name, version, 'python_packages' AS source FROM python_packages";

const SOFTWARE_MACOS: &str = "
SELECT name, COALESCE(NULLIF(bundle_short_version, ''), bundle_version) AS version, bundle_identifier,
    'apps' AS source
FROM apps";

const SOFTWARE_WINDOWS: &str = "
SELECT name, version, publisher AS vendor, 'programs' AS source FROM programs";

/// Asks only where a table is there.
macro_rules! has_table {
    ($table:literal) => {
        concat!(
            "SELECT 1 FROM osquery_registry WHERE active = 1 AND registry = 'table' AND name = '",
            $table,
            "'"
        )
    };
}

/// Name, platforms, SQL and discovery of each.
const QUERIES: &[(&str, Platforms, &str, Option<&str>)] = &[
    (
        "fleet_detail_query_os_version",
        Platforms::NotWindows,
        OS_VERSION,
        None,
    ),
    (
        "fleet_detail_query_os_version_windows",
        Platforms::Windows,
        OS_VERSION_WINDOWS,
        None,
    ),
    (
        "fleet_detail_query_os_unix_like",
        Platforms::Unix,
        OS_UNIX_LIKE,
        None,
    ),
    (
        "fleet_detail_query_osquery_info",
        Platforms::Any,
        OSQUERY_INFO,
        None,
    ),
    (
        "fleet_detail_query_osquery_flags",
        Platforms::Any,
        OSQUERY_FLAGS,
        None,
    ),
    (
        "fleet_detail_query_system_info",
        Platforms::Any,
        SYSTEM_INFO,
        None,
    ),
    ("fleet_detail_query_uptime", Platforms::Any, UPTIME, None),
    (
        "fleet_detail_query_network_interface_unix",
        Platforms::Unix,
        NETWORK_INTERFACE,
        None,
    ),
    (
        "fleet_detail_query_network_interface_windows",
        Platforms::Windows,
        NETWORK_INTERFACE,
        None,
    ),
    (
        "fleet_detail_query_disk_space_unix",
        Platforms::Unix,
        DISK_SPACE_UNIX,
        None,
    ),
    (
        "fleet_detail_query_disk_space_windows",
        Platforms::Windows,
        DISK_SPACE_WINDOWS,
        None,
    ),
    (
        "fleet_detail_query_users",
        Platforms::NotWindows,
        USERS_UNIX,
        None,
    ),
    (
        "fleet_detail_query_users",
        Platforms::Windows,
        USERS_WINDOWS,
        None,
    ),
    (
        "fleet_detail_query_orbit_info",
        Platforms::Any,
        ORBIT_INFO,
        Some(has_table!("orbit_info")),
    ),
    (
        "fleet_detail_query_software_linux",
        Platforms::Linux,
        SOFTWARE_LINUX,
        None,
    ),
    (
        "fleet_detail_query_software_macos",
        Platforms::Darwin,
        SOFTWARE_MACOS,
        None,
    ),
    (
        "fleet_detail_query_software_windows",
        Platforms::Windows,
        SOFTWARE_WINDOWS,
        None,
    ),
    (
        "fleet_detail_query_software_python_packages",
        Platforms::Any,
        SOFTWARE_PYTHON,
        Some(has_table!("python_packages")),
    ),
];

static ALL: LazyLock<Vec<Query>> = LazyLock::new(|| {
    QUERIES
        .iter()
        .map(|(wire_name, platforms, sql, discovery)| Query {
            wire_name,
            platforms: *platforms,
            sql: sql.trim().into(),
            discovery: discovery.map(Into::into),
        })
        .collect()
});

/// Every question.
pub(crate) fn all() -> &'static [Query] {
    &ALL
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::source::DueQueries;

    fn asked(platform: &str) -> BTreeSet<String> {
        let profile = HostProfile {
            platform: platform.to_owned(),
            ..HostProfile::default()
        };
        let mut due = DueQueries::default();
        super::super::ask(&profile, &mut due);
        let names: Vec<String> = due
            .iter()
            .map(|query| {
                query
                    .name
                    .trim_start_matches(super::super::PREFIX)
                    .to_owned()
            })
            .collect();
        let set: BTreeSet<String> = names.iter().cloned().collect();
        assert_eq!(
            set.len(),
            names.len(),
            "{platform} is asked twice under one name"
        );
        set
    }

    #[test]
    fn each_platform_is_asked_what_it_can_answer() {
        assert!(
            asked("ubuntu").contains("software_linux") && asked("arch").contains("disk_space_unix")
        );
        assert!(
            !asked("darwin").contains("software_linux")
                && asked("darwin").contains("software_macos")
        );
        let windows = asked("windows");
        assert!(windows.contains("os_version_windows") && !windows.contains("os_version"));
        // A host whose platform is not known is asked for it.
        assert!(asked("").contains("os_version") && asked("").contains("system_info"));
        assert!(!asked("").contains("software_linux"));
    }
}
