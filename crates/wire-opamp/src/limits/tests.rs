use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::proto::AgentToServer;

/// A varint.
fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field with a text, with bytes or with a message.
fn delimited(field: u64, content: &[u8]) -> Vec<u8> {
    [
        number(field << 3 | 2),
        number(content.len() as u64),
        content.to_vec(),
    ]
    .concat()
}

/// `inner` wrapped `levels` times in the fields of `path`, the last one innermost.
fn nested(levels: usize, path: &[u64], inner: &[u8]) -> Vec<u8> {
    (0..levels).fold(inner.to_vec(), |inner, _| {
        path.iter()
            .rev()
            .fold(inner, |inner, field| delimited(*field, &inner))
    })
}

fn wrapped(path: &[u64], inner: &[u8]) -> Vec<u8> {
    nested(1, path, inner)
}

/// The health, the components and the values of a message, each as deep as asked.
fn trees(depth: usize) -> Vec<(&'static str, Vec<u8>)> {
    let within = depth - 1;
    vec![
        ("health", wrapped(&[5], &nested(within, &[6, 2], &[]))),
        // The components of a message are in a map already.
        (
            "components",
            wrapped(&[14, 1, 2], &nested(within, &[2, 2], &[])),
        ),
        ("arrays", wrapped(&[3, 1, 2], &nested(within, &[5, 1], &[]))),
        (
            "lists",
            wrapped(&[3, 2, 2], &nested(within, &[6, 1, 2], &[])),
        ),
        (
            "values of components",
            wrapped(
                &[14, 1, 2],
                &nested(
                    within / 2,
                    &[2, 2],
                    &wrapped(&[1, 2], &nested(within.div_ceil(2) - 1, &[6, 1, 2], &[])),
                ),
            ),
        ),
    ]
}

fn decode(bytes: Vec<u8>) -> Result<AgentToServer, DecodeError> {
    crate::decode_body(bytes.into(), MessageLimit::new(MAX_MESSAGE_BYTES).unwrap())
}

#[test]
fn trees_may_be_as_deep_as_the_limit_and_no_deeper() {
    for (what, bytes) in trees(MAX_DEPTH) {
        let message = decode(bytes).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_ne!(message, AgentToServer::default(), "{what}");
    }
    for depth in [MAX_DEPTH + 1, 1_000, 4_000] {
        for (what, bytes) in trees(depth) {
            let error = decode(bytes).expect_err(what);
            assert!(
                matches!(error, DecodeError::TooDeep { limit: 32 }),
                "{what}: {error:?}"
            );
        }
    }
}

#[test]
fn what_is_too_deep_is_said() {
    let (_, bytes) = trees(1_000).swap_remove(0);
    assert_eq!(
        decode(bytes).unwrap_err().to_string(),
        "values or components are nested more than 32 deep"
    );
}

#[test]
fn groups_that_nobody_knows_are_skipped_and_may_not_be_deep() {
    let group = |levels: usize| {
        let open = number(99 << 3 | 3).repeat(levels);
        let close = number(99 << 3 | 4).repeat(levels);
        [open, wrapped(&[1], b"x"), close, delimited(1, b"uid")].concat()
    };
    assert_eq!(decode(group(1)).unwrap().instance_uid, "uid");
    assert_eq!(decode(group(MAX_DEPTH)).unwrap().instance_uid, "uid");
    assert!(matches!(
        decode(group(100_000)),
        Err(DecodeError::TooDeep { .. })
    ));
    for broken in [
        number(99 << 3 | 4),
        number(99 << 3 | 3),
        [number(99 << 3 | 3), number(98 << 3 | 4)].concat(),
    ] {
        assert!(matches!(decode(broken), Err(DecodeError::NotProtobuf)));
    }
}

#[test]
fn of_everything_there_may_be_as_many_as_the_limit_and_no_more() {
    /// A map's entry with a key of its own.
    fn entry(field: u64, index: usize) -> Vec<u8> {
        delimited(field, &delimited(1, index.to_string().as_bytes()))
    }
    type Many = fn(usize) -> Vec<u8>;
    let many: [(&str, Counted, Many); 8] = [
        ("identifying", Counted::Attributes, |count| {
            wrapped(&[3], &wrapped(&[1], &[]).repeat(count))
        }),
        ("of health", Counted::Attributes, |count| {
            wrapped(&[5], &wrapped(&[7], &[]).repeat(count))
        }),
        // One pair is the one that the list is the value of.
        ("within a value", Counted::Attributes, |count| {
            wrapped(&[3, 1, 2, 6], &wrapped(&[1], &[]).repeat(count - 1))
        }),
        // A part that is there several times is merged, so the lists add up.
        ("in many parts", Counted::Attributes, |count| {
            wrapped(&[3, 2], &[]).repeat(count)
        }),
        ("health", Counted::MapEntries, |count| {
            wrapped(
                &[5],
                &(0..count)
                    .flat_map(|index| entry(6, index))
                    .collect::<Vec<_>>(),
            )
        }),
        ("components", Counted::MapEntries, |count| {
            wrapped(
                &[14],
                &(0..count)
                    .flat_map(|index| entry(1, index))
                    .collect::<Vec<_>>(),
            )
        }),
        ("array", Counted::ListItems, |count| {
            wrapped(&[3, 1, 2, 5], &wrapped(&[1], &[]).repeat(count))
        }),
        ("custom capabilities", Counted::ListItems, |count| {
            wrapped(&[12], &wrapped(&[1], b"x").repeat(count))
        }),
    ];
    for (name, what, make) in many {
        let limit = what.limit();
        decode(make(limit)).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let error = decode(make(limit + 1)).expect_err(name);
        assert!(
            matches!(&error, DecodeError::TooMany { what: of, .. } if *of == what),
            "{name}: {error:?}"
        );
        assert_eq!(
            error.to_string(),
            format!("the message has more than {limit} {what}")
        );
    }
}

#[test]
fn texts_keys_and_hashes_may_be_as_long_as_their_limit_and_no_longer() {
    for (path, name, limit) in [
        (&[3, 1, 1][..], "key", MAX_KEY_BYTES),
        (&[5, 6, 1], "key", MAX_KEY_BYTES),
        (&[6, 1, 1, 1], "key", MAX_KEY_BYTES),
        (&[3, 2, 2, 1], "string_value", MAX_TEXT_BYTES),
        (&[3, 2, 2, 7], "bytes_value", MAX_TEXT_BYTES),
        (&[5, 3], "last_error", MAX_TEXT_BYTES),
        (&[7, 3], "error_message", MAX_TEXT_BYTES),
        (&[12, 1], "capabilities", MAX_TEXT_BYTES),
        (&[1], "instance_uid", MAX_HASH_BYTES),
        (&[7, 1], "last_remote_config_hash", MAX_HASH_BYTES),
    ] {
        let text = vec![b'x'; limit + 1];
        decode(wrapped(path, &text[1..])).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(
            decode(wrapped(path, &text)).expect_err(name).to_string(),
            format!(
                "the field {name} has {} bytes; at most {limit} are read",
                limit + 1
            )
        );
    }
    let long = vec![b'x'; DEFAULT_MESSAGE_BYTES];
    let config = decode(wrapped(&[6, 1, 1, 2, 1], &long)).expect("a long configuration");
    assert_eq!(
        config
            .effective_config
            .unwrap()
            .config_map
            .unwrap()
            .config_map[""]
            .body,
        long
    );
}

#[test]
fn limits_of_messages_are_between_nothing_and_the_cap() {
    assert_eq!(MessageLimit::default().bytes(), 1_048_576);
    assert_eq!(MessageLimit::new(1).map(MessageLimit::bytes), Some(1));
    assert_eq!(
        MessageLimit::new(67_108_864).map(MessageLimit::bytes),
        Some(67_108_864)
    );
    assert_eq!(MessageLimit::new(0), None);
    assert_eq!(MessageLimit::new(67_108_865), None);
}

#[test]
fn varints_are_read_to_the_last_bit_and_no_further() {
    let read = |bytes: &[u8]| {
        let mut rest = bytes;
        varint(&mut rest).map(|value| (value, rest.len()))
    };
    assert_eq!(read(&[0]), Some((0, 0)));
    assert_eq!(read(&[0xac, 0x02, 7]), Some((300, 1)));
    assert_eq!(read(&[0x80, 0x80, 0x00]), Some((0, 0)));
    let largest = [[0xff; 9].as_slice(), &[0x01]].concat();
    assert_eq!(read(&largest), Some((u64::MAX, 0)));
    let too_large = [[0xff; 9].as_slice(), &[0x02]].concat();
    assert_eq!(read(&too_large), None);
    assert_eq!(read(&[0x80; 11]), None);
    assert_eq!(read(&[0x80]), None);
    assert_eq!(read(&[]), None);
}

/// Bytes that are limited by the message's size alone.
const FREE: [&str; 2] = ["body", "data"];
/// Messages in which nothing can be many or deep, and nothing long but a signing request.
const HARMLESS: [&str; 3] = [
    "AgentDisconnect",
    "ConnectionSettingsRequest",
    "PackageDownloadDetails",
];
/// Numbers of kinds of fields in descriptors of protobuf.
const STRING: i32 = 9;
const MESSAGE: i32 = 11;
const BYTES: i32 = 12;
const REPEATED: i32 = 3;

#[test]
fn the_table_of_parts_is_the_schema() {
    let files = protox::compile(["opamp/v1/opamp.proto"], ["proto"]).unwrap();
    let mut messages = BTreeMap::new();
    for file in &files.file {
        for message in &file.message_type {
            let name = format!(".{}.{}", file.package(), message.name());
            for entry in &message.nested_type {
                messages.insert(format!("{name}.{}", entry.name()), entry);
            }
            messages.insert(name, message);
        }
    }
    let mut seen = BTreeSet::new();
    let mut waiting = vec![(
        Kind::AgentToServer,
        String::from(".opamp.proto.v1.AgentToServer"),
    )];
    while let Some((kind, name)) = waiting.pop() {
        let message = messages[&name];
        if !seen.insert(name) {
            continue;
        }
        let kind_name = message.name();
        let is_pair = kind_name.ends_with("Entry") || kind == Kind::KeyValue;
        for field in &message.field {
            let name = field.name();
            let of_many = field.label() as i32 == REPEATED;
            let part = part(kind, field.number() as u64);
            let context = format!("{kind_name}.{name}: {part:?}");
            match (field.r#type() as i32, part) {
                (STRING, Part::Key) => assert!(is_pair && name == "key", "{context}"),
                (STRING, Part::Text(of)) => assert!(of == name && !of_many, "{context}"),
                (STRING, Part::TextItem(of)) => assert!(of == name && of_many, "{context}"),
                (BYTES, Part::Hash(of)) => assert!(
                    of == name && (name.ends_with("hash") || name == "instance_uid"),
                    "{context}"
                ),
                (BYTES, Part::Text("bytes_value")) => assert_eq!(name, "bytes_value"),
                (BYTES, Part::Other) => assert!(FREE.contains(&name), "{context}"),
                (MESSAGE, Part::Other) => {
                    let of = field.type_name().rsplit('.').next().unwrap();
                    assert!(HARMLESS.contains(&of) && !of_many, "{context}");
                }
                (MESSAGE, Part::Message(of) | Part::Item(_, of)) => {
                    let is_item = matches!(part, Part::Item(..));
                    assert_eq!(is_item, of_many, "{context}");
                    assert!(
                        field.type_name().ends_with(&format!(".{of:?}")),
                        "{context}"
                    );
                    waiting.push((of, field.type_name().to_owned()));
                }
                (STRING | MESSAGE | BYTES, _) => panic!("{context}"),
                (_, Part::Other) => assert!(!of_many, "{context}"),
                (_, _) => panic!("{context}"),
            }
        }
    }
    assert_eq!(seen.len(), 23, "{seen:?}");
}
