//! What is on a block device, by its superblock: for machines without udev's database.
//!
//! Knows ext2 to ext4, XFS, Btrfs, swap, LUKS and FAT; anything else is unknown, not wrong.

use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::functions::hex;

/// What a device holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileSystem {
    pub(super) kind: Option<String>,
    pub(super) uuid: Option<String>,
    pub(super) label: Option<String>,
}

/// Enough for the Btrfs superblock, which lies furthest behind.
const PROBE_BYTES: u64 = 68 * 1024;

/// Reads the start of a device or image.
pub(super) fn read(path: &Path) -> io::Result<FileSystem> {
    let mut bytes = Vec::new();
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?
        .take(PROBE_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(probe(&bytes))
}

fn probe(bytes: &[u8]) -> FileSystem {
    let at = |start: usize, length: usize| bytes.get(start..start + length).unwrap_or_default();
    let uuid = |start: usize| format_uuid(at(start, 16));
    if at(0, 6) == b"LUKS\xba\xbe" {
        return FileSystem {
            kind: Some("crypto_LUKS".to_owned()),
            uuid: text(at(168, 40)),
            // Version 1 has a cipher's name where version 2 has its label.
            label: (at(6, 2) == [0, 2]).then(|| text(at(24, 48))).flatten(),
        };
    }
    if at(0, 4) == b"XFSB" {
        return FileSystem {
            kind: Some("xfs".to_owned()),
            uuid: uuid(32),
            label: text(at(108, 12)),
        };
    }
    if at(1080, 2) == [0x53, 0xEF] {
        return FileSystem {
            kind: Some(ext_kind(at(1024 + 92, 12)).to_owned()),
            uuid: uuid(1024 + 104),
            label: text(at(1024 + 120, 16)),
        };
    }
    if at(65_600, 8) == b"_BHRfS_M" {
        return FileSystem {
            kind: Some("btrfs".to_owned()),
            uuid: uuid(65_536 + 32),
            label: text(at(65_536 + 299, 256)),
        };
    }
    if at(4086, 10) == b"SWAPSPACE2" {
        return FileSystem {
            kind: Some("swap".to_owned()),
            uuid: uuid(1024 + 12),
            label: text(at(1024 + 28, 16)),
        };
    }
    fat(bytes).unwrap_or_default()
}

/// The flags of features say which of ext2, ext3 and ext4 it is: `features` holds the compatible, incompatible and
/// read-only compatible ones.
fn ext_kind(features: &[u8]) -> &'static str {
    let word = |index: usize| {
        features
            .get(index * 4..index * 4 + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    };
    const HAS_JOURNAL: u32 = 0x4;
    // Directory types, recovery and meta block groups are all that ext3 knows.
    const EXT3_INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10;
    const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;
    if word(1) & !EXT3_INCOMPATIBLE != 0 || word(2) & !EXT3_READ_ONLY != 0 {
        "ext4"
    } else if word(0) & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    }
}

fn fat(bytes: &[u8]) -> Option<FileSystem> {
    if bytes.get(510..512)? != [0x55, 0xAA] {
        return None;
    }
    let start = if bytes.get(82..87)? == b"FAT32" {
        67
    } else if [&b"FAT12"[..], b"FAT16"].contains(&bytes.get(54..59)?) {
        39
    } else {
        return None;
    };
    let serial = u32::from_le_bytes(bytes.get(start..start + 4)?.try_into().ok()?);
    let label = text(bytes.get(start + 4..start + 15)?)
        .map(|label| label.trim_end().to_owned())
        .filter(|label| !label.is_empty() && label != "NO NAME");
    Some(FileSystem {
        kind: Some("vfat".to_owned()),
        uuid: Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xFFFF)),
        label,
    })
}

fn format_uuid(bytes: &[u8]) -> Option<String> {
    if bytes.len() != 16 || bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    let digits = hex(bytes);
    Some(format!(
        "{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    ))
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    (end > 0).then(|| String::from_utf8_lossy(&bytes[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; PROBE_BYTES as usize];
        for (at, part) in parts {
            bytes[*at..*at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    #[test]
    fn file_systems_are_told_by_their_superblocks() {
        let id: [u8; 16] = std::array::from_fn(|index| index as u8 + 1);
        let uuid = Some("01020304-0506-0708-090a-0b0c0d0e0f10".to_owned());
        for (bytes, kind) in [
            (
                image(&[(1080, &[0x53, 0xEF]), (1128, &id), (1120, &[0x40])]),
                "ext4",
            ),
            (
                image(&[(1080, &[0x53, 0xEF]), (1128, &id), (1116, &[4])]),
                "ext3",
            ),
            (image(&[(0, b"XFSB"), (32, &id)]), "xfs"),
            (image(&[(65_600, b"_BHRfS_M"), (65_568, &id)]), "btrfs"),
            (image(&[(4086, b"SWAPSPACE2"), (1036, &id)]), "swap"),
        ] {
            let found = probe(&bytes);
            assert_eq!(found.kind.as_deref(), Some(kind));
            assert_eq!(found.uuid, uuid, "{kind}");
        }
        let luks = probe(&image(&[
            (0, b"LUKS\xba\xbe\x00\x02"),
            (24, b"vault"),
            (168, b"1-2-3"),
        ]));
        assert_eq!(luks.kind.as_deref(), Some("crypto_LUKS"));
        assert_eq!(
            (luks.uuid.as_deref(), luks.label.as_deref()),
            (Some("1-2-3"), Some("vault"))
        );
        let fat = probe(&image(&[
            (510, &[0x55, 0xAA]),
            (82, b"FAT32"),
            (67, &[0x78, 0x56, 0x34, 0x12]),
            (71, b"EFI        "),
        ]));
        assert_eq!(fat.uuid.as_deref(), Some("1234-5678"));
        assert_eq!(fat.label.as_deref(), Some("EFI"));
        assert_eq!(probe(&image(&[])), FileSystem::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = probe(&bytes);
        }
    }
}
