//! Who an agent is: 16 bytes, or the same as the 26 characters of clients before specification 0.10.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use bytes::Bytes;
use muster_clock::Timestamp;
use serde::{Serialize, Serializer};

/// Bytes of a uid.
const BYTES: usize = 16;
/// Characters of a uid as clients before 0.10 wrote it.
const CHARACTERS: usize = 26;
/// Digits of Crockford's base 32, by their values.
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Where the hyphens are in a UUID's text.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
/// Characters of a UUID's text.
const UUID_CHARACTERS: usize = 36;

/// Who an agent is.
///
/// Two are equal when their 16 bytes are, however each was written. Shown, parsed and serialized as a UUID.
#[derive(Debug, Clone, Copy)]
pub struct InstanceUid {
    bytes: [u8; BYTES],
    form: Form,
}

/// How the agent writes its uid, and so how it has to be written to the agent.
#[derive(Debug, Clone, Copy)]
enum Form {
    Bytes,
    /// Base 32, letter by letter as the agent wrote it.
    Text([u8; CHARACTERS]),
}

impl InstanceUid {
    /// The uid with these bytes.
    pub const fn from_bytes(bytes: [u8; BYTES]) -> Self {
        let form = Form::Bytes;
        Self { bytes, form }
    }

    /// The uid that an agent wrote into a message.
    ///
    /// Errors: neither 16 bytes nor 26 characters of base 32.
    pub fn from_wire(wire: &[u8]) -> Result<Self, UidError> {
        if let Ok(bytes) = <[u8; BYTES]>::try_from(wire) {
            return Ok(Self::from_bytes(bytes));
        }
        let text = <[u8; CHARACTERS]>::try_from(wire).map_err(|_| UidError::Length {
            actual_bytes: wire.len(),
        })?;
        let bytes = from_base32(&text).ok_or(UidError::Text)?;
        let form = Form::Text(text);
        Ok(Self { bytes, form })
    }

    /// A new uid: a UUID of version 7 as RFC 9562 says, of this moment and of random bytes, of which 74 bits are used.
    ///
    /// A time before 1970 counts as 1970. Not every client can do with another version.
    pub fn new_v7(now: Timestamp, random: [u8; 10]) -> Self {
        let milliseconds = u64::try_from(now.as_micros() / 1000).unwrap_or(0);
        let mut bytes = [0; BYTES];
        bytes[..6].copy_from_slice(&milliseconds.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        bytes[6] = 0x70 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        Self::from_bytes(bytes)
    }

    /// Its 16 bytes, however the agent writes it.
    pub const fn as_bytes(&self) -> &[u8; BYTES] {
        &self.bytes
    }

    /// As the agent writes it: the same bytes that [`Self::from_wire`] read.
    pub fn to_wire(&self) -> Bytes {
        match &self.form {
            Form::Bytes => Bytes::copy_from_slice(&self.bytes),
            Form::Text(text) => Bytes::copy_from_slice(text),
        }
    }

    /// The same uid, written as `other` is.
    pub fn written_like(self, other: &Self) -> Self {
        let form = match other.form {
            Form::Bytes => Form::Bytes,
            Form::Text(_) => Form::Text(to_base32(self.bytes)),
        };
        Self { form, ..self }
    }

    /// Whether the agent writes it as 26 characters: it is of before specification 0.10.
    pub const fn is_text(&self) -> bool {
        matches!(self.form, Form::Text(_))
    }

    /// Whether it is a UUID of version 7, as the specification recommends.
    pub const fn is_v7(&self) -> bool {
        self.bytes[6] >> 4 == 7 && self.bytes[8] >> 6 == 0b10
    }
}

/// 26 digits of 5 bits are 130 bits; the first two have to be 0. Small letters count as capitals.
fn from_base32(text: &[u8; CHARACTERS]) -> Option<[u8; BYTES]> {
    let mut value = 0_u128;
    for (index, character) in text.iter().enumerate() {
        let capital = character.to_ascii_uppercase();
        let digit = CROCKFORD.iter().position(|known| *known == capital)?;
        if index == 0 && digit > 0b111 {
            return None;
        }
        value = value << 5 | digit as u128;
    }
    Some(value.to_be_bytes())
}

fn to_base32(bytes: [u8; BYTES]) -> [u8; CHARACTERS] {
    let mut value = u128::from_be_bytes(bytes);
    let mut text = [0; CHARACTERS];
    for character in text.iter_mut().rev() {
        *character = CROCKFORD[(value & 0b1_1111) as usize];
        value >>= 5;
    }
    text
}

impl From<InstanceUid> for Bytes {
    /// As the agent writes it.
    fn from(uid: InstanceUid) -> Self {
        uid.to_wire()
    }
}

impl PartialEq for InstanceUid {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for InstanceUid {}

impl Hash for InstanceUid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl PartialOrd for InstanceUid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InstanceUid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl fmt::Display for InstanceUid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.bytes.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                out.write_str("-")?;
            }
            write!(out, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl Serialize for InstanceUid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for InstanceUid {
    type Err = ParseUidError;

    /// Reads a UUID with hyphens, in small letters or capitals.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseUidError {
            text: text.chars().take(UUID_CHARACTERS).collect(),
        };
        if text.len() != UUID_CHARACTERS {
            return Err(wrong());
        }
        let mut value = 0_u128;
        for (index, character) in text.char_indices() {
            if HYPHENS.contains(&index) {
                if character != '-' {
                    return Err(wrong());
                }
                continue;
            }
            let digit = character.to_digit(16).ok_or_else(wrong)?;
            value = value << 4 | u128::from(digit);
        }
        Ok(Self::from_bytes(value.to_be_bytes()))
    }
}

/// Why bytes in a message are no uid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UidError {
    /// It is of another length than any client's.
    #[error(
        "instance_uid has {actual_bytes} bytes; it has to have {BYTES}, or {CHARACTERS} characters"
    )]
    Length {
        /// How long it is.
        actual_bytes: usize,
    },
    /// It has 26 bytes that are not base 32 of 128 bits.
    #[error("instance_uid has {CHARACTERS} characters that are no ULID")]
    Text,
}

/// A text that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no uid; write it as 01234567-89ab-7cde-8f01-23456789abcd")]
pub struct ParseUidError {
    /// The text, or its beginning.
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 9562, appendix A.6: 2022-02-22 14:22:22 -05:00.
    const RFC_EXAMPLE: &str = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";

    #[test]
    fn a_new_uid_is_the_example_of_rfc_9562() {
        let now = Timestamp::from_micros(1_645_557_742_000_000);
        // The example's rand_a is 0xcc3, its rand_b 0x18c4dc0c0c07398f; the bits above them are made.
        let random = [0x0c, 0xc3, 0x18, 0xc4, 0xdc, 0x0c, 0x0c, 0x07, 0x39, 0x8f];
        let uid = InstanceUid::new_v7(now, random);
        assert_eq!(uid.to_string(), RFC_EXAMPLE);
        assert!(uid.is_v7());
    }

    #[test]
    fn a_new_uid_is_of_version_7_whatever_the_random_bytes_and_the_time() {
        for micros in [i64::MIN, -1, 0, 1, i64::MAX] {
            for byte in [0x00, 0xff] {
                let uid = InstanceUid::new_v7(Timestamp::from_micros(micros), [byte; 10]);
                assert!(uid.is_v7(), "{uid}");
            }
        }
        let of_1970 = InstanceUid::new_v7(Timestamp::from_micros(-5_000_000), [0; 10]);
        assert_eq!(of_1970.to_string(), "00000000-0000-7000-8000-000000000000");
    }

    #[test]
    fn sixteen_bytes_are_echoed_as_sixteen_bytes() {
        let wire: Vec<u8> = (1..=16).collect();
        let uid = InstanceUid::from_wire(&wire).unwrap();
        assert_eq!(uid.to_wire(), wire);
        assert!(!uid.is_text() && !uid.is_v7());
        assert_eq!(uid.to_string(), "01020304-0506-0708-090a-0b0c0d0e0f10");
    }

    /// Pairs made by Python's package python-ulid 4.1.0.
    #[test]
    fn the_text_of_old_clients_is_read_and_echoed_as_it_was_written() {
        for (text, uuid) in [
            (
                "01ARZ3NDEKTSV4RRFFQ69G5FAV",
                "01563e3a-b5d3-d676-4c61-efb99302bd5b",
            ),
            (
                "01arz3ndektsv4rrffq69g5fav",
                "01563e3a-b5d3-d676-4c61-efb99302bd5b",
            ),
            (
                "7ZZZZZZZZZZZZZZZZZZZZZZZZZ",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
            ),
            (
                "00000000000000000000000000",
                "00000000-0000-0000-0000-000000000000",
            ),
        ] {
            let uid = InstanceUid::from_wire(text.as_bytes()).unwrap();
            assert_eq!(uid.to_wire(), text);
            assert!(uid.is_text());
            assert_eq!(uid.to_string(), uuid);
            let as_bytes: InstanceUid = uuid.parse().unwrap();
            assert_eq!(uid, as_bytes, "one agent, two forms");
            let again = as_bytes.written_like(&uid);
            assert_eq!(again.to_wire(), text.to_uppercase());
            assert_eq!(
                again.written_like(&as_bytes).to_wire(),
                &as_bytes.as_bytes()[..]
            );
        }
    }

    #[test]
    fn other_lengths_and_letters_are_errors() {
        for length in (0..=64).filter(|length| ![BYTES, CHARACTERS].contains(length)) {
            assert_eq!(
                InstanceUid::from_wire(&vec![b'0'; length]),
                Err(UidError::Length {
                    actual_bytes: length
                })
            );
        }
        for text in [
            "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "01ARZ3NDEKTSV4RRFFQ69G5FAU",
            "01ARZ3NDEKTSV4RRFFQ69G5FAI",
            "01ARZ3NDEKTSV4RRFFQ69G5FA-",
            "01ARZ3NDEKTSV4RRFFQ69G5FA\0",
        ] {
            assert_eq!(InstanceUid::from_wire(text.as_bytes()), Err(UidError::Text));
        }
    }

    #[test]
    fn a_uuid_is_read_in_any_case_and_nothing_else_is() {
        let uid: InstanceUid = RFC_EXAMPLE.parse().unwrap();
        assert_eq!(uid.as_bytes()[..4], [0x01, 0x7f, 0x22, 0xe2]);
        assert_eq!(RFC_EXAMPLE.to_uppercase().parse(), Ok(uid));
        for text in [
            "",
            "017f22e279b07cc398c4dc0c0c07398f",
            "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
            "017f22e2079b0-7cc3-98c4-dc0c0c07398f",
            "017f22e2-79b0-7cc3-98c4-dc0c0c0739é",
        ] {
            let error = text.parse::<InstanceUid>().unwrap_err();
            assert!(error.to_string().contains("is no uid"), "{text}");
        }
    }

    #[test]
    fn a_uid_is_serialized_as_its_text() {
        let uid: InstanceUid = RFC_EXAMPLE.parse().unwrap();
        assert_eq!(
            serde_json::to_value(uid).unwrap(),
            serde_json::json!(RFC_EXAMPLE)
        );
    }
}
