//! The header of an rpm package, as rpm's database keeps it: an index of tags, then a store of values.
//!
//! All numbers are big-endian. Every offset and count comes from the file and is checked against its end.

/// Numbers of the tags that are read.
pub(super) mod tag {
    pub(in super::super) const SHA1_HEADER: u32 = 269;
    pub(in super::super) const NAME: u32 = 1000;
    pub(in super::super) const VERSION: u32 = 1001;
    pub(in super::super) const RELEASE: u32 = 1002;
    pub(in super::super) const EPOCH: u32 = 1003;
    pub(in super::super) const INSTALL_TIME: u32 = 1008;
    pub(in super::super) const SIZE: u32 = 1009;
    pub(in super::super) const VENDOR: u32 = 1011;
    pub(in super::super) const GROUP: u32 = 1016;
    pub(in super::super) const ARCH: u32 = 1022;
    pub(in super::super) const SOURCE_RPM: u32 = 1044;
    pub(in super::super) const LONG_SIZE: u32 = 5009;
}

const ENTRY_BYTES: usize = 16;
const PREFIX_BYTES: usize = 8;

const TYPE_INT8: u32 = 2;
const TYPE_INT16: u32 = 3;
const TYPE_INT32: u32 = 4;
const TYPE_INT64: u32 = 5;
const TYPE_STRING: u32 = 6;
const TYPE_STRING_ARRAY: u32 = 8;
const TYPE_TRANSLATED: u32 = 9;

/// A header's index and store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a> {
    index: &'a [u8],
    store: &'a [u8],
}

impl<'a> Header<'a> {
    /// Splits a header; `None` when it is shorter than it says or has no name.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let entries = number32(bytes, 0)? as usize;
        let store_bytes = number32(bytes, 4)? as usize;
        let index_end = PREFIX_BYTES.checked_add(entries.checked_mul(ENTRY_BYTES)?)?;
        let store_end = index_end.checked_add(store_bytes)?;
        let header = Self {
            index: bytes.get(PREFIX_BYTES..index_end)?,
            store: bytes.get(index_end..store_end)?,
        };
        header.text(tag::NAME).map(|_| header)
    }

    /// The type of a tag's value and the store from where it begins.
    fn find(&self, tag: u32) -> Option<(u32, &'a [u8])> {
        self.index.chunks_exact(ENTRY_BYTES).find_map(|entry| {
            if number32(entry, 0)? != tag || number32(entry, 12)? == 0 {
                return None;
            }
            let value = self.store.get(number32(entry, 8)? as usize..)?;
            Some((number32(entry, 4)?, value))
        })
    }

    /// A text; of several (translations) the first.
    pub(super) fn text(&self, tag: u32) -> Option<String> {
        let (kind, value) = self.find(tag)?;
        if !matches!(kind, TYPE_STRING | TYPE_STRING_ARRAY | TYPE_TRANSLATED) {
            return None;
        }
        let end = value.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    /// A number; of several the first.
    pub(super) fn number(&self, tag: u32) -> Option<u64> {
        let (kind, value) = self.find(tag)?;
        let bytes = match kind {
            TYPE_INT8 => 1,
            TYPE_INT16 => 2,
            TYPE_INT32 => 4,
            TYPE_INT64 => 8,
            _ => return None,
        };
        Some(
            value
                .get(..bytes)?
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    }
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(entries: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let (mut index, mut store) = (Vec::<u8>::new(), Vec::<u8>::new());
        for (tag, kind, value) in entries {
            for number in [*tag, *kind, store.len() as u32, 1] {
                index.extend(number.to_be_bytes());
            }
            store.extend(*value);
        }
        let mut bytes = (entries.len() as u32).to_be_bytes().to_vec();
        bytes.extend((store.len() as u32).to_be_bytes());
        bytes.extend(index);
        bytes.extend(store);
        bytes
    }

    #[test]
    fn texts_and_numbers_are_found_by_their_tags() {
        let bytes = header(&[
            (tag::NAME, TYPE_STRING, b"bash\0"),
            (tag::GROUP, TYPE_TRANSLATED, b"Shells\0Muscheln\0"),
            (tag::SIZE, TYPE_INT32, &[0, 0, 1, 2]),
            (tag::LONG_SIZE, TYPE_INT64, &[0, 0, 0, 1, 0, 0, 0, 0]),
            (tag::ARCH, TYPE_STRING, b"never ends"),
        ]);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.text(tag::NAME).as_deref(), Some("bash"));
        assert_eq!(header.text(tag::GROUP).as_deref(), Some("Shells"));
        assert_eq!(header.number(tag::SIZE), Some(258));
        assert_eq!(header.number(tag::LONG_SIZE), Some(1 << 32));
        assert_eq!(header.text(tag::ARCH), None);
        assert_eq!(header.number(tag::NAME), None);
        assert_eq!(header.text(tag::EPOCH), None);
        assert!(Header::parse(&bytes[..bytes.len() - 1]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..300),
            entries in 0_u32..12,
        ) {
            // Mostly headers whose index fits, so that the values behind it are reached.
            bytes[..4].copy_from_slice(&entries.to_be_bytes());
            if let Some(store) = bytes.len().checked_sub(8 + 16 * entries as usize) {
                bytes[4..8].copy_from_slice(&(store as u32).to_be_bytes());
                if entries > 0 {
                    bytes[8..12].copy_from_slice(&tag::NAME.to_be_bytes());
                    bytes[12..16].copy_from_slice(&TYPE_STRING.to_be_bytes());
                }
            }
            if let Some(header) = Header::parse(&bytes) {
                for tag in [tag::NAME, tag::SIZE, tag::LONG_SIZE, tag::EPOCH] {
                    let _ = (header.text(tag), header.number(tag));
                }
            }
        }
    }
}
