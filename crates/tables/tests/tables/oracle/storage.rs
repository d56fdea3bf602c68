//! Mounts and block devices as util-linux shows them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{engine, engine_below, eventually, rows, run, same, write};

fn listed(program: &str, arguments: &[&str], member: &str) -> Vec<Value> {
    let text = run("util-linux", program, arguments);
    let value: Value = serde_json::from_str(&text).expect("JSON");
    value[member].as_array().cloned().unwrap_or_default()
}

fn text(value: &Value, member: &str) -> String {
    match &value[member] {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

#[test]
fn mounts_agree_with_findmnt() {
    let engine = engine();
    let words = |options: &str| {
        options
            .split(',')
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    eventually(|| {
        let arguments = [
            "--json",
            "--list",
            "--nofsroot",
            "-o",
            "SOURCE,TARGET,FSTYPE,OPTIONS",
        ];
        let theirs = listed("findmnt", &arguments, "filesystems")
            .iter()
            .map(|mount| {
                let options = words(&text(mount, "options"));
                (
                    ["source", "target", "fstype"].map(|name| text(mount, name)),
                    options,
                )
            })
            .collect();
        let ours = rows(&engine, "SELECT * FROM mounts")
            .into_iter()
            .map(|row| {
                (
                    ["device", "path", "type"].map(|name| row[name].clone()),
                    words(&row["flags"]),
                )
            })
            .collect();
        same(ours, theirs)
    });
}

#[test]
fn the_space_of_the_root_file_system_agrees_with_stat() {
    let engine = engine();
    let numbers = |text: &str| -> Vec<i64> {
        text.split_whitespace()
            .map(|word| word.parse().expect("a number"))
            .collect()
    };
    eventually(|| {
        let theirs = numbers(&run(
            "coreutils",
            "stat",
            &["-f", "-c", "%S %b %c %f %a %d", "/"],
        ));
        let ours = &rows(&engine, "SELECT * FROM mounts WHERE path = '/'")[0];
        let columns = [
            "blocks_size",
            "blocks",
            "inodes",
            "blocks_free",
            "blocks_available",
            "inodes_free",
        ];
        let ours = numbers(&columns.map(|name| ours[name].clone()).join(" "));
        // Others write to the disk while we look: what is free may differ by a thousandth.
        let is_near =
            |index: usize, whole: i64| (ours[index] - theirs[index]).abs() <= whole / 1_000;
        let same = ours[..3] == theirs[..3]
            && is_near(3, ours[1])
            && is_near(4, ours[1])
            && is_near(5, ours[2]);
        same.then_some(())
            .ok_or_else(|| format!("{ours:?} is not {theirs:?}"))
    });
}

#[test]
fn block_devices_agree_with_lsblk() {
    let engine = engine();
    eventually(|| {
        let arguments = [
            "--json",
            "--bytes",
            "--list",
            "--all",
            "-o",
            "KNAME,PKNAME,SIZE,LOG-SEC,UUID,LABEL",
        ];
        let theirs: BTreeSet<[String; 4]> = listed("lsblk", &arguments, "blockdevices")
            .iter()
            .map(|device| {
                let path = |name: &str| {
                    let name = text(device, name);
                    if name.is_empty() {
                        name
                    } else {
                        format!("/dev/{}", name.trim_start_matches("/dev/"))
                    }
                };
                [
                    path("kname"),
                    path("pkname"),
                    text(device, "size"),
                    text(device, "log-sec"),
                ]
            })
            .collect();
        let ours: BTreeSet<[String; 4]> =
            rows(&engine, "SELECT *, size * 512 AS bytes FROM block_devices")
                .into_iter()
                .map(|row| ["name", "parent", "bytes", "block_size"].map(|name| row[name].clone()))
                .collect();
        if ours.is_empty() {
            return Err("no device at all".to_owned());
        }
        same(ours.into_iter().collect(), theirs.into_iter().collect())
    });
    let arguments = ["--json", "--list", "-o", "KNAME,FSTYPE,UUID"];
    for device in listed("lsblk", &arguments, "blockdevices") {
        let known = [
            "ext2",
            "ext3",
            "ext4",
            "xfs",
            "btrfs",
            "swap",
            "vfat",
            "crypto_LUKS",
        ];
        if !known.contains(&text(&device, "fstype").as_str()) {
            continue;
        }
        let sql = format!(
            "SELECT type, uuid FROM block_devices WHERE name = '/dev/{}'",
            text(&device, "kname")
        );
        let ours = rows(&engine, &sql);
        assert_eq!(ours.len(), 1, "{sql}");
        assert_eq!(ours[0]["type"], text(&device, "fstype"));
        assert_eq!(ours[0]["uuid"], text(&device, "uuid"));
    }
}

#[test]
fn what_is_on_a_device_is_told_as_it_was_made() {
    const UUID: &str = "6f2d1f0a-7c58-4c39-9d3a-0123456789ab";
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "/dev/vdx", vec![0; 16 * 1024 * 1024]);
    write(root.path(), "/sys/class/block/vdx/size", "32768\n");
    write(root.path(), "/sys/class/block/vdx/dev", "250:0\n");
    write(
        root.path(),
        "/sys/class/block/vdx/device/model",
        "Made up  \n",
    );
    let image = root.path().join("dev/vdx").to_string_lossy().into_owned();
    let engine = engine_below(root.path());
    let look = || rows(&engine, "SELECT * FROM block_devices").remove(0);
    assert_eq!(
        (look()["type"].as_str(), look()["model"].as_str()),
        ("", "Made up")
    );
    run("util-linux", "mkswap", &["-U", UUID, "-L", "spare", &image]);
    let device = look();
    assert_eq!(
        ["name", "type", "uuid", "label", "size"].map(|name| device[name].as_str()),
        ["/dev/vdx", "swap", UUID, "spare", "32768"]
    );
    run(
        "e2fsprogs",
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-U", UUID, "-L", "data", &image],
    );
    let device = look();
    assert_eq!(
        ["type", "uuid", "label"].map(|name| device[name].as_str()),
        ["ext4", UUID, "data"]
    );
    // What udev says goes first.
    write(
        root.path(),
        "/run/udev/data/b250:0",
        "E:ID_FS_TYPE=zfs_member\nE:ID_SERIAL_SHORT=S1\n",
    );
    let device = look();
    assert_eq!(
        (device["type"].as_str(), device["serial"].as_str()),
        ("zfs_member", "S1")
    );
}
