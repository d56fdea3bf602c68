//! How much a message may hold, looked at on the bytes before anything is made of them.
//!
//! Protobuf says much in few bytes: two are an attribute, which takes thirty times as much in memory, and four are a
//! level of nesting. So what an agent sends is walked through by [`part`], which says where things are that can be many,
//! deep or long, and only what stays within the limits is decoded. Numbers are for all parts of a message together, since
//! a part that is there twice is merged.

use std::fmt;

use crate::error::DecodeError;

/// Bytes of a message that are read or sent, unless somebody says otherwise. Clients bear more: opamp-go before 0.24 has no
/// limit, later releases have the specification's. But what real agents send has some tens of kilobytes, and a server may
/// hold one message for each of ten thousand connections.
pub const DEFAULT_MESSAGE_BYTES: usize = 1024 * 1024;
/// Bytes of a message that there can be at most: the specification's own default, beyond which peers do not go.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// Levels of values within values, components within components and their health, counted together along one path.
/// Collectors have four.
pub const MAX_DEPTH: usize = 32;
/// Pairs of key and value in a message: attributes, those of components and health among them, and pairs within values.
pub const MAX_ATTRIBUTES: usize = 10_000;
/// Entries of maps in a message: components, health of components, parts of the configuration, packages.
pub const MAX_MAP_ENTRIES: usize = 10_000;
/// Items of lists in a message: values in arrays, custom capabilities.
pub const MAX_LIST_ITEMS: usize = 10_000;
/// Bytes of a key of an attribute or of a map.
pub const MAX_KEY_BYTES: usize = 4 * 1024;
/// Bytes of any other text. What a collector says of a configuration that it cannot run may have some pages.
pub const MAX_TEXT_BYTES: usize = 256 * 1024;
/// Bytes of a hash or a uid.
pub const MAX_HASH_BYTES: usize = 1024;

/// How many bytes of a message are read or sent: after decompression or before compression, with the header of a
/// WebSocket message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimit(usize);

impl MessageLimit {
    /// A limit of `bytes`; none when that is nothing or more than [`MAX_MESSAGE_BYTES`].
    pub fn new(bytes: usize) -> Option<Self> {
        (1..=MAX_MESSAGE_BYTES)
            .contains(&bytes)
            .then_some(Self(bytes))
    }

    /// The limit.
    pub fn bytes(self) -> usize {
        self.0
    }
}

/// [`DEFAULT_MESSAGE_BYTES`].
impl Default for MessageLimit {
    fn default() -> Self {
        Self(DEFAULT_MESSAGE_BYTES)
    }
}

/// What there may be only so many of in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Up to [`MAX_ATTRIBUTES`].
    Attributes,
    /// Up to [`MAX_MAP_ENTRIES`].
    MapEntries,
    /// Up to [`MAX_LIST_ITEMS`].
    ListItems,
}

impl Counted {
    fn limit(self) -> usize {
        match self {
            Self::Attributes => MAX_ATTRIBUTES,
            Self::MapEntries => MAX_MAP_ENTRIES,
            Self::ListItems => MAX_LIST_ITEMS,
        }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Attributes => "attributes",
            Self::MapEntries => "entries of maps",
            Self::ListItems => "items of lists",
        })
    }
}

/// The messages that an agent's message is made of and in which something can be many, deep or long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    AgentToServer,
    AgentDescription,
    KeyValue,
    AnyValue,
    ArrayValue,
    KeyValueList,
    ComponentHealth,
    ComponentHealthMapEntry,
    EffectiveConfig,
    AgentConfigMap,
    ConfigMapEntry,
    AgentConfigObject,
    RemoteConfigStatus,
    PackageStatuses,
    PackagesEntry,
    PackageStatus,
    CustomCapabilities,
    CustomMessage,
    AvailableComponents,
    ComponentsEntry,
    ComponentDetails,
    SubComponentMapEntry,
    ConnectionSettingsStatus,
}

impl Kind {
    /// Whether it can be within one of its own kind.
    fn nests(self) -> bool {
        matches!(
            self,
            Self::AnyValue | Self::ComponentHealth | Self::ComponentDetails
        )
    }
}

/// What a field is to the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A message.
    Message(Kind),
    /// One of many messages.
    Item(Counted, Kind),
    /// One of many texts.
    TextItem(&'static str),
    /// A key of an attribute or of a map.
    Key,
    /// A text, or bytes that are no longer than one, by the name of the field.
    Text(&'static str),
    /// A hash or a uid, by the name of its field.
    Hash(&'static str),
    /// A field that needs no limit of its own, or that is not known.
    Other,
}

/// What the field `number` of `kind` is. A test compares it with the schema.
fn part(kind: Kind, number: u64) -> Part {
    use Counted::{Attributes, ListItems, MapEntries};
    match (kind, number) {
        (Kind::AgentToServer, 1) => Part::Hash("instance_uid"),
        (Kind::AgentToServer, 3) => Part::Message(Kind::AgentDescription),
        (Kind::AgentToServer, 5) => Part::Message(Kind::ComponentHealth),
        (Kind::AgentToServer, 6) => Part::Message(Kind::EffectiveConfig),
        (Kind::AgentToServer, 7) => Part::Message(Kind::RemoteConfigStatus),
        (Kind::AgentToServer, 8) => Part::Message(Kind::PackageStatuses),
        (Kind::AgentToServer, 12) => Part::Message(Kind::CustomCapabilities),
        (Kind::AgentToServer, 13) => Part::Message(Kind::CustomMessage),
        (Kind::AgentToServer, 14) => Part::Message(Kind::AvailableComponents),
        (Kind::AgentToServer, 15) => Part::Message(Kind::ConnectionSettingsStatus),

        (Kind::AgentDescription, 1 | 2) => Part::Item(Attributes, Kind::KeyValue),
        (Kind::KeyValue, 1) => Part::Key,
        (Kind::KeyValue, 2) => Part::Message(Kind::AnyValue),
        (Kind::AnyValue, 1) => Part::Text("string_value"),
        (Kind::AnyValue, 5) => Part::Message(Kind::ArrayValue),
        (Kind::AnyValue, 6) => Part::Message(Kind::KeyValueList),
        (Kind::AnyValue, 7) => Part::Text("bytes_value"),
        (Kind::ArrayValue, 1) => Part::Item(ListItems, Kind::AnyValue),
        (Kind::KeyValueList, 1) => Part::Item(Attributes, Kind::KeyValue),

        (Kind::ComponentHealth, 3) => Part::Text("last_error"),
        (Kind::ComponentHealth, 4) => Part::Text("status"),
        (Kind::ComponentHealth, 6) => Part::Item(MapEntries, Kind::ComponentHealthMapEntry),
        (Kind::ComponentHealth, 7) => Part::Item(Attributes, Kind::KeyValue),
        (Kind::ComponentHealthMapEntry, 1) => Part::Key,
        (Kind::ComponentHealthMapEntry, 2) => Part::Message(Kind::ComponentHealth),

        (Kind::EffectiveConfig, 1) => Part::Message(Kind::AgentConfigMap),
        (Kind::AgentConfigMap, 1) => Part::Item(MapEntries, Kind::ConfigMapEntry),
        (Kind::ConfigMapEntry, 1) => Part::Key,
        (Kind::ConfigMapEntry, 2) => Part::Message(Kind::AgentConfigObject),
        (Kind::AgentConfigObject, 2) => Part::Text("content_type"),
        (Kind::AgentConfigObject, 3) => Part::Text("role"),
        (Kind::RemoteConfigStatus, 1) => Part::Hash("last_remote_config_hash"),
        (Kind::RemoteConfigStatus, 3) => Part::Text("error_message"),

        (Kind::PackageStatuses, 1) => Part::Item(MapEntries, Kind::PackagesEntry),
        (Kind::PackageStatuses, 2) => Part::Hash("server_provided_all_packages_hash"),
        (Kind::PackageStatuses, 3) => Part::Text("error_message"),
        (Kind::PackagesEntry, 1) => Part::Key,
        (Kind::PackagesEntry, 2) => Part::Message(Kind::PackageStatus),
        (Kind::PackageStatus, 1) => Part::Text("name"),
        (Kind::PackageStatus, 2) => Part::Text("agent_has_version"),
        (Kind::PackageStatus, 3) => Part::Hash("agent_has_hash"),
        (Kind::PackageStatus, 4) => Part::Text("server_offered_version"),
        (Kind::PackageStatus, 5) => Part::Hash("server_offered_hash"),
        (Kind::PackageStatus, 7) => Part::Text("error_message"),

        (Kind::CustomCapabilities, 1) => Part::TextItem("capabilities"),
        (Kind::CustomMessage, 1) => Part::Text("capability"),
        (Kind::CustomMessage, 2) => Part::Text("type"),

        (Kind::AvailableComponents, 1) => Part::Item(MapEntries, Kind::ComponentsEntry),
        (Kind::AvailableComponents, 2) => Part::Hash("hash"),
        (Kind::ComponentsEntry, 1) => Part::Key,
        (Kind::ComponentsEntry, 2) => Part::Message(Kind::ComponentDetails),
        (Kind::ComponentDetails, 1) => Part::Item(Attributes, Kind::KeyValue),
        (Kind::ComponentDetails, 2) => Part::Item(MapEntries, Kind::SubComponentMapEntry),
        (Kind::SubComponentMapEntry, 1) => Part::Key,
        (Kind::SubComponentMapEntry, 2) => Part::Message(Kind::ComponentDetails),

        (Kind::ConnectionSettingsStatus, 1) => Part::Hash("last_connection_settings_hash"),
        (Kind::ConnectionSettingsStatus, 3) => Part::Text("error_message"),
        _ => Part::Other,
    }
}

/// Whether an agent's message is within all limits but that of its size.
pub(crate) fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    Counts::default().message(Kind::AgentToServer, bytes, 0)
}

/// How many there were so far.
#[derive(Debug, Default)]
struct Counts {
    attributes: usize,
    map_entries: usize,
    list_items: usize,
}

impl Counts {
    fn message(&mut self, kind: Kind, mut bytes: &[u8], depth: usize) -> Result<(), DecodeError> {
        let depth = depth + usize::from(kind.nests());
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep { limit: MAX_DEPTH });
        }
        while !bytes.is_empty() {
            match field(&mut bytes, 0)? {
                Field::Delimited { number, content } => {
                    self.part(part(kind, number), content, depth)?;
                }
                Field::Skipped => {}
                Field::EndOfGroup(_) => return Err(DecodeError::NotProtobuf),
            }
        }
        Ok(())
    }

    fn part(&mut self, part: Part, content: &[u8], depth: usize) -> Result<(), DecodeError> {
        match part {
            Part::Message(kind) => self.message(kind, content, depth),
            Part::Item(what, kind) => {
                self.count(what)?;
                self.message(kind, content, depth)
            }
            Part::TextItem(field) => {
                self.count(Counted::ListItems)?;
                check_length(field, content, MAX_TEXT_BYTES)
            }
            Part::Key => check_length("key", content, MAX_KEY_BYTES),
            Part::Text(field) => check_length(field, content, MAX_TEXT_BYTES),
            Part::Hash(field) => check_length(field, content, MAX_HASH_BYTES),
            Part::Other => Ok(()),
        }
    }

    fn count(&mut self, what: Counted) -> Result<(), DecodeError> {
        let count = match what {
            Counted::Attributes => &mut self.attributes,
            Counted::MapEntries => &mut self.map_entries,
            Counted::ListItems => &mut self.list_items,
        };
        *count += 1;
        if *count > what.limit() {
            return Err(DecodeError::TooMany {
                what,
                limit: what.limit(),
            });
        }
        Ok(())
    }
}

fn check_length(
    field: &'static str,
    content: &[u8],
    limit_bytes: usize,
) -> Result<(), DecodeError> {
    if content.len() > limit_bytes {
        return Err(DecodeError::TooLong {
            field,
            actual_bytes: content.len(),
            limit_bytes,
        });
    }
    Ok(())
}

/// A field as protobuf writes it, without a schema.
enum Field<'a> {
    /// A text, bytes or a message.
    Delimited { number: u64, content: &'a [u8] },
    /// A number, or a group with all that is in it.
    Skipped,
    /// Where the group of this number ends.
    EndOfGroup(u64),
}

/// Takes the first field from `bytes`. `groups` says in how many groups it is.
///
/// Groups are of the protobuf before this one; nothing in OpAMP is one, and what is not known is skipped all the same.
fn field<'a>(bytes: &mut &'a [u8], groups: usize) -> Result<Field<'a>, DecodeError> {
    let key = varint(bytes)
        .filter(|key| u32::try_from(*key).is_ok())
        .ok_or(DecodeError::NotProtobuf)?;
    let number = key >> 3;
    if number == 0 {
        return Err(DecodeError::NotProtobuf);
    }
    match key & 0b111 {
        0 => {
            varint(bytes).ok_or(DecodeError::NotProtobuf)?;
            Ok(Field::Skipped)
        }
        1 => take(bytes, 8).map(|_| Field::Skipped),
        2 => {
            let length = varint(bytes).ok_or(DecodeError::NotProtobuf)?;
            let content = take(bytes, length)?;
            Ok(Field::Delimited { number, content })
        }
        3 => {
            if groups >= MAX_DEPTH {
                return Err(DecodeError::TooDeep { limit: MAX_DEPTH });
            }
            loop {
                match field(bytes, groups + 1)? {
                    Field::EndOfGroup(of) if of == number => return Ok(Field::Skipped),
                    Field::EndOfGroup(_) => return Err(DecodeError::NotProtobuf),
                    Field::Delimited { .. } | Field::Skipped => {}
                }
            }
        }
        4 => Ok(Field::EndOfGroup(number)),
        5 => take(bytes, 4).map(|_| Field::Skipped),
        _ => Err(DecodeError::NotProtobuf),
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], DecodeError> {
    let (taken, rest) = usize::try_from(length)
        .ok()
        .and_then(|length| bytes.split_at_checked(length))
        .ok_or(DecodeError::NotProtobuf)?;
    *bytes = rest;
    Ok(taken)
}

/// Takes a varint from `bytes`: up to ten bytes with seven bits each, the lowest first. None when it is cut off or has more
/// than 64 bits; then nothing is taken.
pub(crate) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;
