//! Answers about the machine and its operating system.

use std::net::IpAddr;
use std::time::Duration;

use muster_clock::Timestamp;
use muster_wire_osquery::{DistributedResult, Row};

use super::PREFIX;
use crate::record::HostFacts;

/// The longest text of a fact in characters; the rest is cut off.
const MAX_FACT_CHARACTERS: usize = 255;
/// A start that moved by less is the same start: agents round, and answers travel.
const SAME_START: Duration = Duration::from_secs(60);
/// Numbers beyond this are no interval.
const MAX_INTERVAL_SECONDS: i64 = 7 * 24 * 60 * 60;

/// Takes what one answer says into what is known.
pub(crate) fn apply(result: &DistributedResult, facts: &mut HostFacts, now: Timestamp) {
    if !result.succeeded() {
        return;
    }
    let Some(name) = result.name.strip_prefix(PREFIX) else {
        return;
    };
    let Some(first) = result.rows.first() else {
        return;
    };
    match name {
        "os_version" | "os_version_windows" => os_version(first, facts),
        "os_unix_like" => os_unix_like(first, facts),
        "osquery_info" => osquery_info(first, facts),
        "osquery_flags" => osquery_flags(&result.rows, facts),
        "system_info" => system_info(first, facts),
        "uptime" => uptime(first, facts, now),
        "network_interface_unix" | "network_interface_windows" => {
            network_interface(&result.rows, facts);
        }
        "disk_space_unix" | "disk_space_windows" => disk_space(first, facts),
        "orbit_info" => orbit_info(first, facts),
        _ => {}
    }
}

/// Takes a filled cell; an empty or missing one leaves what is known.
fn text(row: &Row, column: &str, fact: &mut String) {
    if let Some(value) = row.filled(column) {
        take(value, fact);
    }
}

/// Takes a text, cut to its limit and without what databases refuse; an empty one leaves what is known.
pub(crate) fn take(value: &str, fact: &mut String) {
    let mut value = value.trim().replace('\0', "");
    if let Some((end, _)) = value.char_indices().nth(MAX_FACT_CHARACTERS) {
        value.truncate(end);
    }
    if !value.is_empty() && *fact != value {
        *fact = value;
    }
}

/// Takes a cell that is a number above zero.
fn number(row: &Row, column: &str, fact: &mut Option<i64>) {
    if let Some(value) = row.filled(column).and_then(|value| value.parse().ok())
        && value > 0
    {
        *fact = Some(value);
    }
}

/// Takes a cell that is a finite number from zero up.
fn real(row: &Row, column: &str, fact: &mut Option<f64>) {
    if let Some(value) = row
        .filled(column)
        .and_then(|value| value.parse::<f64>().ok())
        && value.is_finite()
        && value >= 0.0
    {
        *fact = Some(value);
    }
}

pub(crate) fn os_version(row: &Row, facts: &mut HostFacts) {
    text(row, "name", &mut facts.os_name);
    text(row, "platform", &mut facts.platform);
    text(row, "platform_like", &mut facts.platform_like);
    text(row, "codename", &mut facts.code_name);
    text(row, "build", &mut facts.build);
    text(row, "arch", &mut facts.arch);
    let Some(name) = row.filled("name") else {
        return;
    };
    // Distributions often have the code name in the version, in parentheses: it has its own field.
    let version = row
        .filled("version")
        .map(|version| match version.split_once('(') {
            Some((number, _)) if !number.trim().is_empty() => number.trim().to_owned(),
            _ => version.to_owned(),
        });
    let numbers = || {
        let parts = ["major", "minor", "patch"].map(|part| row.filled(part).unwrap_or("0"));
        row.filled("major").map(|_| parts.join("."))
    };
    let release = row.filled("display_version").map(str::to_owned);
    if let Some(version) = release.or(version).or_else(numbers) {
        let whole: Row = [("os_version", format!("{name} {version}"))]
            .into_iter()
            .collect();
        text(&whole, "os_version", &mut facts.os_version);
    }
}

fn os_unix_like(row: &Row, facts: &mut HostFacts) {
    text(row, "arch", &mut facts.arch);
    text(row, "kernel_version", &mut facts.kernel_version);
}

pub(crate) fn osquery_info(row: &Row, facts: &mut HostFacts) {
    text(row, "version", &mut facts.osquery_version);
}

pub(crate) fn system_info(row: &Row, facts: &mut HostFacts) {
    text(row, "hostname", &mut facts.hostname);
    text(row, "computer_name", &mut facts.computer_name);
    text(row, "uuid", &mut facts.uuid);
    text(row, "hardware_serial", &mut facts.hardware_serial);
    text(row, "hardware_vendor", &mut facts.hardware_vendor);
    text(row, "hardware_model", &mut facts.hardware_model);
    text(row, "hardware_version", &mut facts.hardware_version);
    text(row, "cpu_type", &mut facts.cpu_type);
    text(row, "cpu_subtype", &mut facts.cpu_subtype);
    text(row, "cpu_brand", &mut facts.cpu_brand);
    number(row, "cpu_physical_cores", &mut facts.cpu_physical_cores);
    number(row, "cpu_logical_cores", &mut facts.cpu_logical_cores);
    number(row, "physical_memory", &mut facts.memory_bytes);
}

fn osquery_flags(rows: &[Row], facts: &mut HostFacts) {
    for row in rows {
        let fact = match row.get("name") {
            Some("distributed_interval") => &mut facts.distributed_interval_seconds,
            Some("config_refresh" | "config_tls_refresh") => &mut facts.config_interval_seconds,
            Some("logger_tls_period") => &mut facts.logger_interval_seconds,
            _ => continue,
        };
        let value = row
            .filled("value")
            .and_then(|value| value.parse::<i64>().ok());
        // 0 means never, and both spellings of the refresh flag are reported: the one that is set counts.
        if let Some(value) = value.filter(|value| (1..=MAX_INTERVAL_SECONDS).contains(value)) {
            *fact = Some(value);
        }
    }
}

fn uptime(row: &Row, facts: &mut HostFacts, now: Timestamp) {
    let Some(seconds) = row
        .filled("total_seconds")
        .and_then(|value| value.parse().ok())
    else {
        return;
    };
    let started = now.minus(Duration::from_secs(seconds));
    if started <= Timestamp::EPOCH {
        return;
    }
    let known = facts.last_restarted_at;
    let is_same =
        known.is_some_and(|known| started.since(known).max(known.since(started)) < SAME_START);
    if !is_same {
        facts.last_restarted_at = Some(started);
    }
}

/// The first row that makes sense, private IPv4 addresses before others of the same interface.
fn network_interface(rows: &[Row], facts: &mut HostFacts) {
    let usable = |row: &&Row| address(row).is_some();
    let Some(first) = rows.iter().find(usable) else {
        return;
    };
    let is_private =
        |row: &Row| matches!(address(row), Some(IpAddr::V4(address)) if address.is_private());
    let same_interface =
        |row: &&Row| row.get("interface") == first.get("interface") && is_private(row);
    let best = rows
        .iter()
        .filter(usable)
        .find(same_interface)
        .unwrap_or(first);
    text(best, "address", &mut facts.primary_ip);
    text(best, "mac", &mut facts.primary_mac);
}

/// The address of a row; an IPv6 address may name its zone after `%`.
fn address(row: &Row) -> Option<IpAddr> {
    let address = row.filled("address")?;
    address.split('%').next()?.parse().ok()
}

fn disk_space(row: &Row, facts: &mut HostFacts) {
    real(
        row,
        "gigs_disk_space_available",
        &mut facts.disk_available_gb,
    );
    real(
        row,
        "percent_disk_space_available",
        &mut facts.disk_available_percent,
    );
    real(row, "gigs_total_disk_space", &mut facts.disk_total_gb);
}

fn orbit_info(row: &Row, facts: &mut HostFacts) {
    text(row, "version", &mut facts.orbit_version);
    text(row, "desktop_version", &mut facts.desktop_version);
    match row.filled("scripts_enabled") {
        Some("1" | "true") => facts.scripts_enabled = Some(true),
        Some("0" | "false") => facts.scripts_enabled = Some(false),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rows<'a> = &'a [&'a [(&'a str, &'a str)]];

    fn result(name: &str, rows: Rows<'_>) -> DistributedResult {
        DistributedResult {
            name: format!("{PREFIX}{name}"),
            rows: rows
                .iter()
                .map(|row| row.iter().copied().collect())
                .collect(),
            ..DistributedResult::default()
        }
    }

    fn applied(name: &str, rows: Rows<'_>, facts: &HostFacts) -> HostFacts {
        let mut facts = facts.clone();
        apply(
            &result(name, rows),
            &mut facts,
            Timestamp::from_seconds(1_000_000),
        );
        facts
    }

    fn known() -> HostFacts {
        HostFacts {
            hostname: "h".to_owned(),
            platform: "ubuntu".to_owned(),
            os_version: "Ubuntu 22.04".to_owned(),
            memory_bytes: Some(8),
            disk_total_gb: Some(1.0),
            distributed_interval_seconds: Some(10),
            primary_ip: "10.0.0.5".to_owned(),
            last_restarted_at: Some(Timestamp::from_seconds(996_400)),
            ..HostFacts::default()
        }
    }

    #[test]
    fn a_missing_row_a_failed_query_and_an_unusable_cell_leave_what_is_known() {
        let half: &[(&str, Rows<'_>)] = &[
            ("os_version", &[]),
            ("os_version", &[&[]]),
            (
                "os_version",
                &[&[("name", ""), ("version", ""), ("platform", " ")]],
            ),
            (
                "system_info",
                &[&[("hostname", ""), ("physical_memory", "much")]],
            ),
            (
                "system_info",
                &[&[("foo", "bar"), ("physical_memory", "-5")]],
            ),
            ("disk_space_unix", &[&[("gigs_total_disk_space", "NaN")]]),
            ("disk_space_unix", &[&[("gigs_total_disk_space", "-1")]]),
            (
                "osquery_flags",
                &[&[("name", "distributed_interval"), ("value", "0")]],
            ),
            ("osquery_flags", &[&[("value", "5")]]),
            ("network_interface_unix", &[&[("foo", "bar")]]),
            (
                "network_interface_unix",
                &[&[("address", "nonsense"), ("mac", "x")]],
            ),
            ("uptime", &[&[("total_seconds", "99999999999999")]]),
            ("uptime", &[&[("total_seconds", "3601")]]),
            ("orbit_info", &[&[("scripts_enabled", "maybe")]]),
            ("unheard_of", &[&[("hostname", "x")]]),
        ];
        for (name, rows) in half {
            assert_eq!(applied(name, rows, &known()), known(), "{name} {rows:?}");
        }
        let mut failed = result("system_info", &[&[("hostname", "other")]]);
        failed.status = 1;
        let mut facts = known();
        apply(&failed, &mut facts, Timestamp::EPOCH);
        assert_eq!(facts, known());
    }

    #[test]
    fn an_operating_system_is_named_with_its_version() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (
                &[("name", "Ubuntu"), ("version", "22.04.3 LTS")],
                "Ubuntu 22.04.3 LTS",
            ),
            (
                &[
                    ("name", "Ubuntu"),
                    ("version", "22.04.1 LTS (Jammy Jellyfish)"),
                ],
                "Ubuntu 22.04.1 LTS",
            ),
            (
                &[("name", "Arch Linux"), ("major", "6")],
                "Arch Linux 6.0.0",
            ),
            (
                &[
                    ("name", "Microsoft Windows 11"),
                    ("version", "10.0.22621"),
                    ("display_version", "22H2"),
                ],
                "Microsoft Windows 11 22H2",
            ),
            (
                &[("name", "Weird"), ("version", "(rolling)")],
                "Weird (rolling)",
            ),
        ];
        for (row, expected) in cases {
            assert_eq!(
                applied("os_version", &[row], &HostFacts::default()).os_version,
                *expected
            );
        }
    }

    #[test]
    fn the_private_address_of_the_way_out_is_chosen() {
        let rows: Rows<'_> = &[
            &[
                ("address", "2001:db8::5"),
                ("mac", "02:00:00:00:00:01"),
                ("interface", "eth0"),
            ],
            &[
                ("address", "10.1.2.3"),
                ("mac", "02:00:00:00:00:01"),
                ("interface", "eth0"),
            ],
            &[
                ("address", "192.168.0.7"),
                ("mac", "02:00:00:00:00:02"),
                ("interface", "docker0"),
            ],
        ];
        let facts = applied("network_interface_unix", rows, &HostFacts::default());
        assert_eq!(
            (facts.primary_ip.as_str(), facts.primary_mac.as_str()),
            ("10.1.2.3", "02:00:00:00:00:01")
        );
        let simulated: Rows<'_> = &[&[
            ("address", "fe80::8cb:112d:ff51:1e5d%en0"),
            ("mac", "f8:2d:88:93:56:5c"),
        ]];
        let facts = applied("network_interface_unix", simulated, &HostFacts::default());
        assert_eq!(facts.primary_ip, "fe80::8cb:112d:ff51:1e5d%en0");
    }

    #[test]
    fn a_start_moves_only_when_the_host_was_started_again() {
        let facts = applied("uptime", &[&[("total_seconds", "60")]], &known());
        assert_eq!(
            facts.last_restarted_at,
            Some(Timestamp::from_seconds(999_940))
        );
    }

    #[test]
    fn texts_are_cut_and_freed_of_what_databases_refuse() {
        let long = "é".repeat(400);
        let facts = applied(
            "system_info",
            &[&[("hostname", long.as_str()), ("uuid", "a\0b")]],
            &known(),
        );
        assert_eq!(facts.hostname.chars().count(), MAX_FACT_CHARACTERS);
        assert_eq!(facts.uuid, "ab");
    }
}
