//! Processor, memory, firmware, kernel, and the agent's own resource limits.

use rustix::process::{Resource, getrlimit};

use super::smbios;
use super::system::{dmi_text, meminfo_bytes, processors};
use crate::error::TableError;
use crate::spec::Collation::Version;
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink};

pub(crate) static CPU_INFO: TableSpec = TableSpec {
    name: "cpu_info",
    description: "One row for each processor socket.",
    columns: &[
        column("device_id", Text),
        column("model", Text),
        column("manufacturer", Text),
        column("processor_type", Text),
        column("cpu_status", Integer),
        column("number_of_cores", Text),
        column("logical_processors", Integer),
        column("address_width", Text),
        column("current_clock_speed", Integer),
        column("max_clock_speed", Integer),
        column("socket_designation", Text),
        column("availability", Text).foreign(),
        column("load_percentage", Integer).foreign(),
        column("number_of_efficiency_cores", Integer).foreign(),
        column("number_of_performance_cores", Integer).foreign(),
    ],
};

pub(crate) static MEMORY_INFO: TableSpec = TableSpec {
    name: "memory_info",
    description: "How main memory and swap are used, in bytes.",
    columns: &[
        column("memory_total", BigInt),
        column("memory_free", BigInt),
        column("memory_available", BigInt),
        column("buffers", BigInt),
        column("cached", BigInt),
        column("swap_cached", BigInt),
        column("active", BigInt),
        column("inactive", BigInt),
        column("swap_total", BigInt),
        column("swap_free", BigInt),
    ],
};

pub(crate) static LOAD_AVERAGE: TableSpec = TableSpec {
    name: "load_average",
    description: "How many processes were running or waiting, over 1, 5 and 15 minutes.",
    columns: &[column("period", Text), column("average", Text)],
};

pub(crate) static PLATFORM_INFO: TableSpec = TableSpec {
    name: "platform_info",
    description: "The firmware: vendor, version and where it lies in memory.",
    columns: &[
        column("vendor", Text),
        column("version", Text).collate(Version),
        column("date", Text),
        column("revision", Text),
        column("extra", Text),
        column("firmware_type", Text),
        column("address", Text),
        column("size", Text),
        column("volume_size", Integer),
    ],
};

pub(crate) static KERNEL_INFO: TableSpec = TableSpec {
    name: "kernel_info",
    description: "The running kernel: its version, arguments, image and root device.",
    columns: &[
        column("version", Text).collate(Version),
        column("arguments", Text),
        column("path", Text),
        column("device", Text),
    ],
};

pub(crate) static KERNEL_MODULES: TableSpec = TableSpec {
    name: "kernel_modules",
    description: "The kernel modules that are loaded.",
    columns: &[
        column("name", Text),
        column("size", BigInt),
        column("used_by", Text),
        column("status", Text),
        column("address", Text),
    ],
};

pub(crate) static ULIMIT_INFO: TableSpec = TableSpec {
    name: "ulimit_info",
    description: "The agent's own resource limits.",
    columns: &[
        column("type", Text),
        column("soft_limit", Text),
        column("hard_limit", Text),
    ],
};

/// SMBIOS's number for a central processor.
const PROCESSOR_TYPE_CENTRAL: &str = "3";
/// SMBIOS's number for a processor that is enabled.
const PROCESSOR_ENABLED: i64 = 1;

pub(crate) fn cpu_info(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let text = context.read_text("/proc/cpuinfo")?;
    let processors = processors(&text);
    let mut sockets: Vec<&str> = processors
        .iter()
        .map(|processor| processor.get("physical id").copied().unwrap_or("0"))
        .collect();
    sockets.sort_by_key(|socket| socket.parse::<u32>().unwrap_or(u32::MAX));
    sockets.dedup();
    for (number, socket) in sockets.iter().enumerate() {
        let members: Vec<_> = processors
            .iter()
            .filter(|processor| processor.get("physical id").copied().unwrap_or("0") == *socket)
            .collect();
        let Some(first) = members.first() else {
            continue;
        };
        let mut cores: Vec<_> = members
            .iter()
            .enumerate()
            .map(|(number, processor)| {
                processor
                    .get("core id")
                    .map_or_else(|| format!("#{number}"), |core| (*core).to_owned())
            })
            .collect();
        cores.sort();
        cores.dedup();
        let current_mhz = first
            .get("cpu MHz")
            .and_then(|text| text.parse::<f64>().ok())
            .map(|mhz| mhz.round() as i64);
        let max_mhz = first
            .get("processor")
            .and_then(|processor| {
                context
                    .read_text(format!(
                        "/sys/devices/system/cpu/cpu{processor}/cpufreq/cpuinfo_max_freq"
                    ))
                    .ok()
            })
            .and_then(|text| text.trim().parse::<i64>().ok())
            .map(|khz| khz / 1_000);
        rows.row()
            .set("device_id", format!("CPU{number}"))
            .set("model", first.get("model name").copied())
            .set("manufacturer", first.get("vendor_id").copied())
            .set("processor_type", PROCESSOR_TYPE_CENTRAL)
            .set("cpu_status", PROCESSOR_ENABLED)
            .set("number_of_cores", cores.len().to_string())
            .set("logical_processors", members.len())
            .set("address_width", usize::BITS.to_string())
            .set("current_clock_speed", current_mhz)
            .set("max_clock_speed", max_mhz.or(current_mhz))
            .set("socket_designation", format!("CPU {socket}"))
            .push()?;
    }
    Ok(())
}

pub(crate) fn memory_info(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let text = context.read_text("/proc/meminfo")?;
    let mut row = rows.row();
    for (column, field) in [
        ("memory_total", "MemTotal"),
        ("memory_free", "MemFree"),
        ("memory_available", "MemAvailable"),
        ("buffers", "Buffers"),
        ("cached", "Cached"),
        ("swap_cached", "SwapCached"),
        ("active", "Active"),
        ("inactive", "Inactive"),
        ("swap_total", "SwapTotal"),
        ("swap_free", "SwapFree"),
    ] {
        row = row.set(column, meminfo_bytes(&text, field));
    }
    row.push()
}

pub(crate) fn load_average(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let text = context.read_text("/proc/loadavg")?;
    for (period, average) in ["1m", "5m", "15m"].into_iter().zip(text.split_whitespace()) {
        rows.row()
            .set("period", period)
            .set("average", average)
            .push()?;
    }
    Ok(())
}

pub(crate) fn platform_info(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let root = context.path("/");
    let is_uefi = context.path("/sys/firmware/efi").is_dir();
    if !is_uefi && !context.path("/sys/class/dmi/id").is_dir() {
        return Err(TableError::unsupported(
            "this machine tells nothing about its firmware",
        ));
    }
    let firmware = smbios::firmware(context);
    rows.row()
        .set("vendor", dmi_text(&root, "bios_vendor"))
        .set("version", dmi_text(&root, "bios_version"))
        .set("date", dmi_text(&root, "bios_date"))
        .set("revision", dmi_text(&root, "bios_release"))
        .set("extra", "")
        .set("firmware_type", if is_uefi { "uefi" } else { "bios" })
        .set(
            "address",
            firmware.map(|firmware| format!("0x{:04x}", firmware.start_segment)),
        )
        .set(
            "size",
            firmware.map(|firmware| firmware.size_bytes.to_string()),
        )
        .set("volume_size", firmware.map(|firmware| firmware.size_bytes))
        .push()
}

pub(crate) fn kernel_info(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let text = context.read_text("/proc/cmdline")?;
    let (mut image, mut device, mut arguments) = (None, None, Vec::new());
    for word in text.split_whitespace() {
        if let Some(value) = word.strip_prefix("BOOT_IMAGE=") {
            image = Some(value);
        } else if let Some(value) = word.strip_prefix("root=") {
            device = Some(value);
        } else {
            arguments.push(word);
        }
    }
    rows.row()
        .set(
            "version",
            rustix::system::uname().release().to_string_lossy(),
        )
        .set("arguments", arguments.join(" "))
        .set("path", image)
        .set("device", device)
        .push()
}

pub(crate) fn kernel_modules(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let path = context.path("/proc/modules");
    if !path.exists() && context.path("/proc/version").exists() {
        return Err(TableError::unsupported(
            "this kernel is built without modules",
        ));
    }
    for line in context.read_text("/proc/modules")?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, size, _, used_by, status, address, ..] = words[..] else {
            continue;
        };
        rows.row()
            .set("name", name)
            .set("size", size.parse::<i64>().ok())
            .set("used_by", used_by.trim_end_matches(','))
            .set("status", status)
            .set("address", address)
            .push()?;
    }
    Ok(())
}

/// The names of limits as the shell's `ulimit` and pam_limits use them.
const RESOURCES: [(&str, Resource); 16] = [
    ("cpu", Resource::Cpu),
    ("fsize", Resource::Fsize),
    ("data", Resource::Data),
    ("stack", Resource::Stack),
    ("core", Resource::Core),
    ("nofile", Resource::Nofile),
    ("as", Resource::As),
    ("rss", Resource::Rss),
    ("memlock", Resource::Memlock),
    ("nproc", Resource::Nproc),
    ("locks", Resource::Locks),
    ("sigpending", Resource::Sigpending),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
];

pub(crate) fn ulimit_info(
    _: &Constraints,
    _: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let text = |limit: Option<u64>| {
        limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
    };
    for (name, resource) in RESOURCES {
        let limit = getrlimit(resource);
        rows.row()
            .set("type", name)
            .set("soft_limit", text(limit.current))
            .set("hard_limit", text(limit.maximum))
            .push()?;
    }
    Ok(())
}
