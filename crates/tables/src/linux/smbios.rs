//! The firmware's own description of itself (SMBIOS structure type 0), where the kernel shows it.

use std::path::Path;

use crate::table::{Context, read_bytes};

/// What SMBIOS says of the firmware's place in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Firmware {
    /// The segment at which it starts.
    pub(super) start_segment: u16,
    /// How large it is.
    pub(super) size_bytes: u64,
}

/// The firmware's description; `None` where there is none or only root may read it.
pub(super) fn firmware(context: &Context<'_>) -> Option<Firmware> {
    let path = context.path(Path::new("/sys/firmware/dmi/tables/DMI"));
    parse(&read_bytes(&path).ok()?)
}

/// Walks the structures: a header with type and length, the rest of the structure, then texts up to two NULs.
fn parse(mut table: &[u8]) -> Option<Firmware> {
    loop {
        let [kind, length, ..] = *table else {
            return None;
        };
        let structure = table.get(..usize::from(length).max(4))?;
        if kind == 0 {
            let start_segment = u16::from_le_bytes([*structure.get(6)?, *structure.get(7)?]);
            // In units of 64 KiB, less one.
            let size = u64::from(*structure.get(9)?);
            return Some(Firmware {
                start_segment,
                size_bytes: (size + 1) * 64 * 1024,
            });
        }
        let texts = &table[structure.len()..];
        let end = texts.windows(2).position(|pair| pair == [0, 0])?;
        table = &texts[end + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_firmware_is_found_behind_other_structures() {
        let mut table = vec![1, 6, 0, 0, 7, 7];
        table.extend(b"Vendor\0Model\0\0");
        table.extend([0, 18, 1, 0, 1, 2, 0x00, 0xF0, 3, 15, 0, 0, 0, 0, 0, 0, 0, 0]);
        table.extend(b"SeaBIOS\0\0");
        assert_eq!(
            parse(&table),
            Some(Firmware {
                start_segment: 0xF000,
                size_bytes: 1024 * 1024,
            })
        );
        assert_eq!(parse(&table[..20]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(table in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&table);
        }
    }
}
