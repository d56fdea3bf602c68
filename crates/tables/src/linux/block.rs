//! Block devices, and which of them are encrypted.

use std::collections::BTreeMap;
use std::path::Path;

use super::superblock::{self, FileSystem};
use crate::error::TableError;
use crate::spec::Collation::NoCase;
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, read_text};

pub(crate) static BLOCK_DEVICES: TableSpec = TableSpec {
    name: "block_devices",
    description: "Disks, partitions and the like.",
    columns: &[
        column("name", Text).index(),
        column("parent", Text),
        column("vendor", Text),
        column("model", Text),
        column("serial", Text),
        column("size", BigInt),
        column("block_size", Integer),
        column("uuid", Text).collate(NoCase),
        column("type", Text),
        column("label", Text),
    ],
};

pub(crate) static DISK_ENCRYPTION: TableSpec = TableSpec {
    name: "disk_encryption",
    description: "Which block devices are encrypted, and how.",
    columns: &[
        column("name", Text).index(),
        column("uuid", Text).collate(NoCase),
        column("encrypted", Integer),
        column("type", Text),
        column("encryption_status", Text),
        column("uid", Text).foreign(),
        column("user_uuid", Text).collate(NoCase).foreign(),
        column("filevault_status", Text).foreign(),
    ],
};

const SYSFS: &str = "/sys/class/block";

/// A device as sysfs shows it, by its kernel name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    kernel_name: String,
    /// Kernel name of the disk of a partition, or of the first device below a mapped one.
    parent: Option<String>,
    sectors: Option<i64>,
    block_bytes: Option<i64>,
    vendor: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    /// The number `major:minor`.
    number: Option<String>,
    /// The device mapper's identifier, such as `CRYPT-LUKS2-…`.
    mapper_id: Option<String>,
}

impl Device {
    fn path(&self) -> String {
        device_path(&self.kernel_name)
    }
}

/// Kernel names have `!` where device files have `/`.
fn device_path(kernel_name: &str) -> String {
    format!("/dev/{}", kernel_name.replace('!', "/"))
}

fn read_devices(context: &Context<'_>) -> Result<BTreeMap<String, Device>, TableError> {
    let folder = context.path(SYSFS);
    let entries =
        std::fs::read_dir(&folder).map_err(|error| TableError::unreadable(&folder, error))?;
    let mut devices = BTreeMap::new();
    for entry in entries.flatten() {
        context.check()?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let device = read_device(&entry.path(), name.clone());
        devices.insert(name, device);
    }
    Ok(devices)
}

fn read_device(folder: &Path, kernel_name: String) -> Device {
    let attribute = |name: &str| {
        let text = read_text(&folder.join(name)).ok()?;
        let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    };
    let is_partition = folder.join("partition").exists();
    // The entry of a partition lies in the folder of its disk.
    let real = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let disk = real.parent().filter(|_| is_partition);
    let parent = match disk {
        Some(disk) => disk
            .file_name()
            .map(|name| name.to_string_lossy().into_owned()),
        None => first_slave(folder),
    };
    // What a partition does not tell of itself, its disk does.
    let inherited = |name: &str| {
        attribute(name).or_else(|| {
            let text = read_text(&disk?.join(name)).ok()?;
            let text = text.trim();
            (!text.is_empty()).then(|| text.to_owned())
        })
    };
    Device {
        parent,
        sectors: attribute("size").and_then(|text| text.parse().ok()),
        block_bytes: inherited("queue/logical_block_size").and_then(|text| text.parse().ok()),
        vendor: inherited("device/vendor"),
        model: inherited("device/model"),
        serial: inherited("device/serial").or_else(|| inherited("serial")),
        number: attribute("dev"),
        mapper_id: attribute("dm/uuid"),
        kernel_name,
    }
}

fn first_slave(folder: &Path) -> Option<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder.join("slaves"))
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.into_iter().next()
}

/// What udev's database has about the device; empty where udev does not run.
fn udev_text(context: &Context<'_>, device: &Device) -> String {
    device
        .number
        .as_ref()
        .and_then(|number| context.read_text(format!("/run/udev/data/b{number}")).ok())
        .unwrap_or_default()
}

/// A property in udev's database.
fn udev_property(text: &str, name: &str) -> Option<String> {
    text.lines()
        .find_map(|line| {
            line.strip_prefix("E:")?
                .strip_prefix(name)?
                .strip_prefix('=')
        })
        .map(str::to_owned)
}

/// What is on the device: by udev's database, or by looking, which takes root.
fn content(context: &Context<'_>, device: &Device, udev: &str) -> FileSystem {
    let known = udev_content(udev);
    if known != FileSystem::default() {
        known
    } else if device.sectors.unwrap_or(0) == 0 {
        FileSystem::default()
    } else {
        superblock::read(&context.path(device.path())).unwrap_or_default()
    }
}

fn udev_content(text: &str) -> FileSystem {
    FileSystem {
        kind: udev_property(text, "ID_FS_TYPE"),
        uuid: udev_property(text, "ID_FS_UUID"),
        label: udev_property(text, "ID_FS_LABEL"),
    }
}

pub(crate) fn block_devices(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let wanted = constraints.text("name");
    let wants_content = ["uuid", "type", "label"]
        .iter()
        .any(|column| context.wants(column));
    for device in read_devices(context)?.into_values() {
        context.check()?;
        if wanted.is_some_and(|wanted| wanted != device.path()) {
            continue;
        }
        let udev = udev_text(context, &device);
        let content = if wants_content {
            content(context, &device, &udev)
        } else {
            FileSystem::default()
        };
        rows.row()
            .set("name", device.path())
            .set("parent", device.parent.as_deref().map(device_path))
            .set("vendor", device.vendor)
            .set("model", device.model)
            .set(
                "serial",
                device
                    .serial
                    .or_else(|| udev_property(&udev, "ID_SERIAL_SHORT")),
            )
            .set("size", device.sectors)
            .set("block_size", device.block_bytes)
            .set("uuid", content.uuid)
            .set("type", content.kind)
            .set("label", content.label)
            .push()?;
    }
    Ok(())
}

/// How many devices may lie on top of each other; sysfs has no cycles, but fixtures and bugs may.
const MAX_STACK: usize = 32;

pub(crate) fn disk_encryption(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let wanted = constraints.text("name");
    let devices = read_devices(context)?;
    for device in devices.values() {
        context.check()?;
        if wanted.is_some_and(|wanted| wanted != device.path()) {
            continue;
        }
        let kind = encryption(&devices, device);
        let uuid = if context.wants("uuid") {
            content(context, device, &udev_text(context, device)).uuid
        } else {
            None
        };
        rows.row()
            .set("name", device.path())
            .set("uuid", uuid)
            .set("encrypted", kind.is_some())
            .set("type", kind.clone().unwrap_or_default())
            .set(
                "encryption_status",
                if kind.is_some() {
                    "encrypted"
                } else {
                    "not encrypted"
                },
            )
            .push()?;
    }
    Ok(())
}

/// How the device or one below it is encrypted.
fn encryption(devices: &BTreeMap<String, Device>, device: &Device) -> Option<String> {
    let mut device = device;
    for _ in 0..MAX_STACK {
        let kind = device
            .mapper_id
            .as_deref()
            .and_then(|id| id.strip_prefix("CRYPT-"))
            .and_then(|rest| rest.split('-').next());
        if let Some(kind) = kind {
            return Some(kind.to_owned());
        }
        device = devices.get(device.parent.as_ref()?)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, parent: Option<&str>, mapper_id: Option<&str>) -> (String, Device) {
        let device = Device {
            kernel_name: name.to_owned(),
            parent: parent.map(str::to_owned),
            sectors: None,
            block_bytes: None,
            vendor: None,
            model: None,
            serial: None,
            number: None,
            mapper_id: mapper_id.map(str::to_owned),
        };
        (name.to_owned(), device)
    }

    #[test]
    fn what_lies_on_an_encrypted_device_is_encrypted_and_what_lies_below_is_not() {
        let devices = BTreeMap::from([
            device("sda", None, None),
            device("sda3", Some("sda"), None),
            device("dm-0", Some("sda3"), Some("CRYPT-LUKS2-00ff-root_crypt")),
            device("dm-1", Some("dm-0"), Some("LVM-abc")),
            device("loop0", Some("loop0"), None),
        ]);
        let kind = |name: &str| encryption(&devices, &devices[name]);
        assert_eq!(kind("dm-1").as_deref(), Some("LUKS2"));
        assert_eq!(kind("dm-0").as_deref(), Some("LUKS2"));
        assert_eq!(kind("sda3"), None);
        assert_eq!(kind("loop0"), None);
        assert_eq!(device_path("cciss!c0d0p1"), "/dev/cciss/c0d0p1");
    }

    #[test]
    fn udev_tells_what_is_on_a_device() {
        let content = udev_content(
            "S:disk/by-id/x\nE:ID_FS_TYPE=ext4\nE:ID_FS_UUID=12-34\nE:ID_FS_UUID_ENC=12\n",
        );
        assert_eq!(content.kind.as_deref(), Some("ext4"));
        assert_eq!(content.uuid.as_deref(), Some("12-34"));
        assert_eq!(content.label, None);
    }
}
