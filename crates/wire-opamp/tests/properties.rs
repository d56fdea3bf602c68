//! What holds for all messages and for all bytes.

use bytes::Bytes;
use muster_wire_opamp::proto::{AgentToServer, RemoteConfigStatus, ServerToAgent};
use muster_wire_opamp::{
    AgentCapabilities, DecodeError, Framing, InstanceUid, MessageLimit, attributes, decode_body,
    decode_frame, encode_body, encode_frame,
};
use proptest::prelude::*;

use crate::arbitrary;

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::Header), Just(Framing::Bare)]
}

/// An unknown field, as protobuf writes one: a number, eight bytes, a text, a group, four bytes.
fn unknown_field() -> impl Strategy<Value = Vec<u8>> {
    (1_000_u64..0x1fff_ffff, arbitrary::bytes()).prop_flat_map(|(number, text)| {
        let key = move |kind: u64| varint(number << 3 | kind);
        prop_oneof![
            Just([key(0), vec![0x96, 0x01]].concat()),
            Just([key(1), vec![0; 8]].concat()),
            Just([key(2), varint(text.len() as u64), text.to_vec()].concat()),
            Just([key(3), vec![0x0a, 0x01, b'x'], key(4)].concat()),
            Just([key(5), vec![0; 4]].concat()),
        ]
    })
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn limit() -> MessageLimit {
    MessageLimit::default()
}

/// The bytes of a message, and some of them changed, cut out or put in.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes =
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 0..8);
    (arbitrary::agent_to_server(), changes).prop_map(|(message, changes)| {
        let mut bytes = encode_frame(&message, Framing::Header, limit())
            .expect("a small message")
            .to_vec();
        for (place, byte, change) in changes {
            let place = place.index(bytes.len() + 1);
            match change {
                0 if place < bytes.len() => bytes[place] = byte,
                1 => bytes.truncate(place),
                _ => bytes.insert(place, byte),
            }
        }
        bytes
    })
}

/// Messages of all kinds are large and take long to make.
const CASES: u32 = 100;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn what_is_written_is_what_is_read(
        message in arbitrary::agent_to_server(),
        framing in framing(),
    ) {
        let frame = encode_frame(&message, framing, limit()).unwrap();
        let (read, seen) = decode_frame::<AgentToServer>(frame.clone(), limit()).unwrap();
        prop_assert_eq!(&read, &message);
        // No bytes at all cannot tell, and a message begins with no 0.
        prop_assert_eq!(seen, framing);
        prop_assert_eq!(encode_frame(&read, framing, limit()).unwrap(), frame, "always the same bytes");
        let body = encode_body(&message, limit()).unwrap();
        prop_assert_eq!(decode_body::<AgentToServer>(body, limit()).unwrap(), message);
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = decode_frame::<AgentToServer>(bytes.clone(), limit());
        let _ = decode_frame::<ServerToAgent>(bytes.clone(), limit());
        let _ = decode_body::<AgentToServer>(bytes, limit());
    }

    #[test]
    fn damaged_messages_are_messages_or_errors(bytes in mutated()) {
        if let Ok((message, framing)) = decode_frame::<AgentToServer>(bytes.into(), limit()) {
            let again = encode_frame(&message, framing, limit()).unwrap();
            let (read, _) = decode_frame::<AgentToServer>(again.clone(), limit()).unwrap();
            // Of numbers that are none no two are equal, so bytes are compared.
            prop_assert_eq!(encode_frame(&read, framing, limit()).unwrap(), again);
        }
    }

    #[test]
    fn any_header_but_0_is_refused_or_was_none(
        message in arbitrary::agent_to_server(),
        header in any::<u64>(),
    ) {
        let body = encode_body(&message, limit()).unwrap();
        let frame = [varint(header), body.to_vec()].concat();
        match decode_frame::<AgentToServer>(frame.into(), limit()) {
            Ok((read, Framing::Header)) => {
                prop_assert_eq!(header, 0);
                prop_assert_eq!(read, message);
            }
            Err(DecodeError::UnknownHeader { value }) => prop_assert_eq!(value, header),
            Ok((_, Framing::Bare)) | Err(_) => prop_assert!(header >= 8),
        }
    }

    #[test]
    fn fields_of_later_releases_are_skipped(
        message in arbitrary::agent_to_server(),
        before in unknown_field(),
        after in unknown_field(),
    ) {
        let body = encode_body(&message, limit()).unwrap();
        let bytes = [before, body.to_vec(), after].concat();
        prop_assert_eq!(decode_body::<AgentToServer>(bytes.into(), limit()).unwrap(), message);
    }

    #[test]
    fn enum_values_of_later_releases_are_kept(status in any::<i32>()) {
        let message = AgentToServer {
            remote_config_status: Some(RemoteConfigStatus { status, ..RemoteConfigStatus::default() }),
            ..AgentToServer::default()
        };
        let body = encode_body(&message, limit()).unwrap();
        prop_assert_eq!(decode_body::<AgentToServer>(body, limit()).unwrap(), message);
    }

    #[test]
    fn bits_of_later_releases_are_kept_and_named(bits in any::<u64>()) {
        let set = AgentCapabilities::from_bits(bits);
        prop_assert_eq!(set.bits(), bits);
        let named = set.names().map(|name| AgentCapabilities::named(&name).unwrap());
        prop_assert_eq!(named.fold(AgentCapabilities::NONE, AgentCapabilities::union), set);
        prop_assert_eq!(set.iter().count(), bits.count_ones() as usize);
    }

    #[test]
    fn uids_are_echoed_as_they_came(wire in prop_oneof![
        proptest::collection::vec(any::<u8>(), 16),
        "[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}".prop_map(String::into_bytes),
    ]) {
        let uid = InstanceUid::from_wire(&wire).unwrap();
        prop_assert_eq!(uid.to_wire(), &wire);
        prop_assert_eq!(uid.to_string().parse::<InstanceUid>().unwrap(), uid);
        let as_bytes = InstanceUid::from_bytes(*uid.as_bytes());
        let again = as_bytes.written_like(&uid).to_wire();
        prop_assert!(again.eq_ignore_ascii_case(&wire));
    }

    #[test]
    fn attributes_become_json_that_comes_back_the_same(attributes in arbitrary::attributes()) {
        let json = attributes::to_json(&attributes);
        prop_assert_eq!(attributes::to_json(&attributes::from_json(&json)), json);
    }
}
