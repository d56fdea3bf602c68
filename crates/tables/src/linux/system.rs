//! What the machine as a whole is: hardware, operating system, time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::TableError;
use crate::spec::Collation::{NoCase, Version};
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, below, read_text};

pub(crate) static SYSTEM_INFO: TableSpec = TableSpec {
    name: "system_info",
    description: "This machine: its name, processor, memory and hardware identity.",
    columns: &[
        column("hostname", Text),
        column("uuid", Text).collate(NoCase),
        column("cpu_type", Text),
        column("cpu_subtype", Text),
        column("cpu_brand", Text),
        column("cpu_physical_cores", Integer),
        column("cpu_logical_cores", Integer),
        column("cpu_sockets", Integer),
        column("cpu_microcode", Text),
        column("physical_memory", BigInt),
        column("hardware_vendor", Text),
        column("hardware_model", Text),
        column("hardware_version", Text),
        column("hardware_serial", Text),
        column("board_vendor", Text),
        column("board_model", Text),
        column("board_version", Text),
        column("board_serial", Text),
        column("computer_name", Text),
        column("local_hostname", Text),
        column("emulated_cpu_type", Text).foreign(),
    ],
};

pub(crate) static OS_VERSION: TableSpec = TableSpec {
    name: "os_version",
    description: "The operating system's name and version, from os-release.",
    columns: &[
        column("name", Text),
        column("version", Text).collate(Version),
        column("major", Integer),
        column("minor", Integer),
        column("patch", Integer),
        column("build", Text),
        column("platform", Text),
        column("platform_like", Text),
        column("codename", Text),
        column("arch", Text),
        column("extra", Text).foreign(),
        column("install_date", BigInt).foreign(),
        column("revision", Integer).foreign(),
        column("pid_with_namespace", Integer).additional().hidden(),
        column("mount_namespace_id", Text).hidden(),
    ],
};

pub(crate) static UPTIME: TableSpec = TableSpec {
    name: "uptime",
    description: "How long ago this machine was started.",
    columns: &[
        column("days", Integer),
        column("hours", Integer),
        column("minutes", Integer),
        column("seconds", Integer),
        column("total_seconds", BigInt),
    ],
};

pub(crate) static TIME: TableSpec = TableSpec {
    name: "time",
    description: "The present time in several forms, in UTC.",
    columns: &[
        column("weekday", Text),
        column("year", Integer),
        column("month", Integer),
        column("day", Integer),
        column("hour", Integer),
        column("minutes", Integer),
        column("seconds", Integer),
        column("timezone", Text),
        column("local_timezone", Text),
        column("unix_time", Integer),
        column("timestamp", Text),
        column("datetime", Text).aliases(&["date_time"]),
        column("iso_8601", Text),
        column("win_timestamp", BigInt).foreign(),
    ],
};

pub(crate) fn system_info(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let dmi = |name: &str| dmi_text(&context.path("/"), name);
    let cpuinfo = context.read_text("/proc/cpuinfo").unwrap_or_else(|error| {
        context.warn(error);
        String::new()
    });
    let processors = processors(&cpuinfo);
    let first = processors.first();
    let field = |name: &str| first.and_then(|processor| processor.get(name)).copied();
    let sockets: BTreeSet<_> = processors
        .iter()
        .map(|processor| processor.get("physical id").copied().unwrap_or("0"))
        .collect();
    let cores: BTreeSet<_> = processors
        .iter()
        .enumerate()
        .map(|(number, processor)| {
            // Processors that do not tell their core are cores of their own.
            let core = processor
                .get("core id")
                .map_or_else(|| format!("#{number}"), |id| (*id).to_owned());
            (processor.get("physical id").copied().unwrap_or("0"), core)
        })
        .collect();
    let memory_bytes = memory_field(context, "MemTotal");
    let host = host_name();
    let facts = context.facts();
    let uuid = facts.uuid.or_else(|| hardware_uuid(&context.path("/")));
    rows.row()
        .set("hostname", full_name(context, &host))
        .set("uuid", uuid)
        .set("cpu_type", machine())
        .set("cpu_subtype", field("model").or_else(|| field("CPU part")))
        .set("cpu_brand", field("model name").or_else(|| field("Model")))
        .set("cpu_physical_cores", cores.len())
        .set("cpu_logical_cores", processors.len())
        .set("cpu_sockets", sockets.len())
        .set("cpu_microcode", field("microcode"))
        .set("physical_memory", memory_bytes)
        .set("hardware_vendor", dmi("sys_vendor"))
        .set("hardware_model", dmi("product_name"))
        .set("hardware_version", dmi("product_version"))
        .set("hardware_serial", dmi("product_serial"))
        .set("board_vendor", dmi("board_vendor"))
        .set("board_model", dmi("board_name"))
        .set("board_version", dmi("board_version"))
        .set("board_serial", dmi("board_serial"))
        .set("computer_name", host.as_str())
        .set("local_hostname", host.as_str())
        .push()
}

/// The identifier of this machine's hardware, in lower case: what the firmware says, or, where it says nothing (as on
/// many virtual machines and for unprivileged users), the machine id that the operating system made, written in the
/// same form. `root` is where the machine's files are, `/` unless in tests.
pub fn hardware_uuid(root: &Path) -> Option<String> {
    dmi_text(root, "product_uuid")
        .filter(|uuid| is_meaningful_uuid(uuid))
        .map(|uuid| uuid.to_ascii_lowercase())
        .or_else(|| {
            let id = read_text(&below(root, Path::new("/etc/machine-id"))).ok()?;
            uuid_from_digits(id.trim())
        })
}

/// Firmware that was never given an identifier carries one digit all over.
fn is_meaningful_uuid(uuid: &str) -> bool {
    let mut digits = uuid.bytes().filter(u8::is_ascii_hexdigit);
    let first = digits.next();
    uuid.len() == 36 && digits.any(|digit| Some(digit) != first)
}

fn uuid_from_digits(digits: &str) -> Option<String> {
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let digits = digits.to_ascii_lowercase();
    Some(format!(
        "{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    ))
}

/// What the firmware says of the machine. Absent where there is no firmware of that kind or only root may read it.
pub(super) fn dmi_text(root: &Path, name: &str) -> Option<String> {
    let path = below(root, Path::new("/sys/class/dmi/id")).join(name);
    let text = read_text(&path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The processors in `/proc/cpuinfo`, each a map from field to value.
pub(super) fn processors(cpuinfo: &str) -> Vec<BTreeMap<&str, &str>> {
    let mut processors = Vec::new();
    for block in cpuinfo.split("\n\n") {
        let fields: BTreeMap<&str, &str> = block
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        // Some architectures end with a block about the board.
        if fields.contains_key("processor") {
            processors.push(fields);
        }
    }
    processors
}

/// A field of `/proc/meminfo`, in bytes.
pub(super) fn memory_field(context: &Context<'_>, name: &str) -> Option<u64> {
    let text = context.read_text("/proc/meminfo").ok()?;
    meminfo_bytes(&text, name)
}

pub(super) fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn machine() -> String {
    rustix::system::uname()
        .machine()
        .to_string_lossy()
        .into_owned()
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The name with its domain when `/etc/hosts` gives one.
fn full_name(context: &Context<'_>, host: &str) -> String {
    let hosts = context.read_text("/etc/hosts").unwrap_or_default();
    hosts
        .lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(|line| line.split_whitespace().skip(1))
        .find(|name| {
            name.strip_prefix(host)
                .is_some_and(|rest| rest.starts_with('.') && rest.len() > 1)
        })
        .unwrap_or(host)
        .to_owned()
}

pub(crate) fn os_version(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let text = context
        .read_text("/etc/os-release")
        .or_else(|_| context.read_text("/usr/lib/os-release"))?;
    let release = os_release(&text);
    let field = |name: &str| release.get(name).cloned();
    let mut numbers = version_numbers(release.get("VERSION_ID").map_or("", String::as_str));
    if release.get("ID").is_some_and(|id| id == "debian") {
        // Debian's point releases are only in a file of their own.
        if let Ok(full) = context.read_text("/etc/debian_version") {
            let full = version_numbers(full.trim());
            if full[0].is_some() {
                numbers = full;
            }
        }
    }
    let mut name = field("NAME");
    let mut version = field("VERSION").or_else(|| field("VERSION_ID"));
    let mut platform = field("ID");
    let mut platform_like = field("ID_LIKE").or_else(|| field("ID"));
    // Everything that descends from Red Hat is one platform to queries written for osquery.
    if let Ok(text) = context.read_text("/etc/redhat-release") {
        let text = text.trim();
        if let Some((words, _)) = text.split_once(" release ") {
            name = Some(words.to_owned());
        }
        let number = text
            .split_whitespace()
            .find(|word| word.starts_with(|letter: char| letter.is_ascii_digit()));
        numbers = number.map_or(numbers, version_numbers);
        version = Some(text.to_owned());
        platform = Some("rhel".to_owned());
        platform_like = Some("rhel".to_owned());
    }
    let [major, minor, patch] = numbers.map(|number| number.unwrap_or(0));
    rows.row()
        .set("name", name)
        .set("version", version)
        .set("major", major)
        .set("minor", minor)
        .set("patch", patch)
        .set("build", field("BUILD_ID"))
        .set("platform", platform)
        .set("platform_like", platform_like)
        .set("codename", field("VERSION_CODENAME"))
        .set("arch", machine())
        .push()
}

/// The assignments in an os-release file, with the shell's quotes taken away.
pub(super) fn os_release(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), unquote(value.trim())))
        .collect()
}

fn unquote(value: &str) -> String {
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    if let Some(literal) = inner('\'') {
        return literal.to_owned();
    }
    let mut text = String::new();
    let mut letters = inner('"').unwrap_or(value).chars();
    while let Some(letter) = letters.next() {
        if letter == '\\' {
            text.extend(letters.next());
        } else {
            text.push(letter);
        }
    }
    text
}

fn version_numbers(version: &str) -> [Option<i64>; 3] {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    [
        parts.next().flatten(),
        parts.next().flatten(),
        parts.next().flatten(),
    ]
}

pub(crate) fn uptime(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let text = context.read_text("/proc/uptime")?;
    let seconds: u64 = text
        .split(['.', ' '])
        .next()
        .and_then(|whole| whole.parse().ok())
        .ok_or_else(|| TableError::unsupported("/proc/uptime does not begin with a number"))?;
    rows.row()
        .set("days", seconds / 86_400)
        .set("hours", seconds / 3_600 % 24)
        .set("minutes", seconds / 60 % 60)
        .set("seconds", seconds % 60)
        .set("total_seconds", seconds)
        .push()
}

const WEEKDAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

pub(crate) fn time(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let unix = context.now().as_micros().div_euclid(1_000_000);
    let days = unix.div_euclid(86_400);
    let (year, month, day) = civil(days);
    let weekday = WEEKDAYS[days.rem_euclid(7) as usize];
    let (hour, minute, second) = (
        unix.div_euclid(3_600).rem_euclid(24),
        unix.div_euclid(60).rem_euclid(60),
        unix.rem_euclid(60),
    );
    let iso = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
    let long = format!(
        "{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year} UTC",
        &weekday[..3],
        MONTHS[(month - 1) as usize],
    );
    rows.row()
        .set("weekday", weekday)
        .set("year", year)
        .set("month", month)
        .set("day", day)
        .set("hour", hour)
        .set("minutes", minute)
        .set("seconds", second)
        .set("timezone", "UTC")
        .set("local_timezone", local_timezone(context))
        .set("unix_time", unix)
        .set("timestamp", long)
        .set("datetime", iso.as_str())
        .set("iso_8601", iso.as_str())
        .push()
}

/// The name of the zone that `/etc/localtime` points to, such as `Europe/Berlin`.
fn local_timezone(context: &Context<'_>) -> String {
    std::fs::read_link(context.path("/etc/localtime"))
        .ok()
        .and_then(|target| {
            let target = target.to_string_lossy().into_owned();
            let (_, zone) = target.split_once("zoneinfo/")?;
            Some(zone.trim_start_matches("Etc/").to_owned())
        })
        .unwrap_or_else(|| "UTC".to_owned())
}

/// Year, month and day of a count of days since 1970 (proleptic Gregorian calendar).
fn civil(days: i64) -> (i64, i64, i64) {
    // Years that begin in March put the leap day last, so that months have a regular length.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(-1), (1969, 12, 31));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_780), (2026, 11, 23));
    }

    #[test]
    fn os_release_values_lose_their_quotes() {
        let release = os_release(
            "NAME=\"Rocky \\\"Green\\\" Linux\"\n# a comment\nID='rocky'\nVERSION_ID=9.4\nEMPTY=\n",
        );
        assert_eq!(release["NAME"], "Rocky \"Green\" Linux");
        assert_eq!(release["ID"], "rocky");
        assert_eq!(release["EMPTY"], "");
        assert_eq!(
            version_numbers(&release["VERSION_ID"]),
            [Some(9), Some(4), None]
        );
    }

    #[test]
    fn a_machine_id_stands_in_where_the_firmware_has_no_identifier() {
        let root = tempfile::tempdir().unwrap();
        let dmi = root.path().join("sys/class/dmi/id");
        std::fs::create_dir_all(&dmi).unwrap();
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        assert_eq!(hardware_uuid(root.path()), None);
        std::fs::write(
            root.path().join("etc/machine-id"),
            "3d1219c7c4c5404aaa1f6d2a48adfda4\n",
        )
        .unwrap();
        let expected = Some("3d1219c7-c4c5-404a-aa1f-6d2a48adfda4".to_owned());
        assert_eq!(hardware_uuid(root.path()), expected);
        std::fs::write(
            dmi.join("product_uuid"),
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF\n",
        )
        .unwrap();
        assert_eq!(hardware_uuid(root.path()), expected);
        std::fs::write(
            dmi.join("product_uuid"),
            "4C4C4544-0042-3610-8051-B4C04F4D3132\n",
        )
        .unwrap();
        assert_eq!(
            hardware_uuid(root.path()).as_deref(),
            Some("4c4c4544-0042-3610-8051-b4c04f4d3132")
        );
    }

    #[test]
    fn memory_is_told_in_bytes() {
        let text = "MemTotal:       24674692 kB\nMemFree:        1 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal"), Some(24_674_692 * 1024));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
    }
}
