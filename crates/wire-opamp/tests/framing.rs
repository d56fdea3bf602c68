//! WebSocket messages with and without their header, and the limit of their size.

use bytes::Bytes;
use muster_wire_opamp::proto::{AgentToServer, ServerToAgent};
use muster_wire_opamp::{
    DecodeError, EncodeError, Framing, InstanceUid, MessageLimit, Outgoing, ServerCapabilities,
    Update, decode_body, decode_frame, encode_body, encode_frame,
};

/// uid `uid`, number 5.
const MESSAGE: &[u8] = b"\x0a\x03uid\x10\x05";

fn read(bytes: &[u8]) -> Result<(AgentToServer, Framing), DecodeError> {
    decode_frame(Bytes::copy_from_slice(bytes), MessageLimit::default())
}

fn with_header(header: &[u8]) -> Vec<u8> {
    [header, MESSAGE].concat()
}

#[test]
fn messages_with_and_without_a_header_are_read_and_told_apart() {
    for (bytes, framing) in [
        (with_header(&[0]), Framing::Header),
        (MESSAGE.to_vec(), Framing::Bare),
        // The same number in more bytes than it needs.
        (with_header(&[0x80, 0x00]), Framing::Header),
        (
            with_header(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]),
            Framing::Header,
        ),
    ] {
        let (message, seen) = read(&bytes).unwrap();
        assert_eq!(
            (&message.instance_uid[..], message.sequence_num),
            (&b"uid"[..], 5)
        );
        assert_eq!(seen, framing);
    }
}

#[test]
fn a_header_alone_and_no_bytes_are_empty_messages() {
    let empty = AgentToServer::default();
    assert_eq!(read(&[0]).unwrap(), (empty.clone(), Framing::Header));
    assert_eq!(read(&[]).unwrap(), (empty.clone(), Framing::Bare));
    let body: AgentToServer = decode_body(Bytes::new(), MessageLimit::default()).unwrap();
    assert_eq!(body, empty);
}

#[test]
fn other_headers_are_refused() {
    for value in 1..=7 {
        for header in [vec![value], vec![0x80 | value, 0x00]] {
            let error = read(&with_header(&header)).unwrap_err();
            assert!(
                matches!(error, DecodeError::UnknownHeader { value: seen } if seen == u64::from(value)),
                "{error:?}"
            );
        }
    }
    // From 8 on they could be keys of fields, and the fields are not what the schema says.
    assert!(read(&with_header(&[8])).is_err());
    // Cut off, or with more than 64 bits.
    assert!(matches!(read(&[0x80]), Err(DecodeError::NotProtobuf)));
    assert!(matches!(read(&[0x80; 11]), Err(DecodeError::NotProtobuf)));
}

#[test]
fn a_body_has_no_header() {
    let read = |bytes: Vec<u8>| decode_body::<AgentToServer>(bytes.into(), MessageLimit::default());
    assert_eq!(read(MESSAGE.to_vec()).unwrap().sequence_num, 5);
    assert!(matches!(
        read(with_header(&[0])),
        Err(DecodeError::NotProtobuf)
    ));
}

#[test]
fn answers_are_framed_as_asked() {
    let outgoing = Outgoing::update(
        &InstanceUid::from_bytes(*b"0123456789abcdef"),
        ServerCapabilities::from_bits(0x27),
        Update::default(),
    );
    let message = b"\x0a\x100123456789abcdef\x38\x27";
    let limit = MessageLimit::default();
    let bare = encode_frame(&outgoing, Framing::Bare, limit).unwrap();
    assert_eq!(bare, &message[..]);
    assert_eq!(encode_body(&outgoing, limit).unwrap(), &message[..]);
    let headed = encode_frame(&outgoing, Framing::Header, limit).unwrap();
    assert_eq!(headed, [&[0], &message[..]].concat());
    let (read, framing) = decode_frame::<ServerToAgent>(headed, limit).unwrap();
    assert_eq!((&read, framing), (outgoing.as_message(), Framing::Header));
}

#[test]
fn the_limit_of_size_counts_the_header_both_ways() {
    let bytes = with_header(&[0]);
    let whole = MessageLimit::new(bytes.len()).unwrap();
    let less = MessageLimit::new(bytes.len() - 1).unwrap();
    let (message, _) = decode_frame::<AgentToServer>(bytes.clone().into(), whole).unwrap();
    let error = decode_frame::<AgentToServer>(bytes.clone().into(), less).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the message has 8 bytes; at most 7 are read"
    );
    assert!(decode_body::<AgentToServer>(MESSAGE.into(), less).is_ok());

    assert_eq!(
        encode_frame(&message, Framing::Header, whole).unwrap(),
        bytes
    );
    assert_eq!(
        encode_frame(&message, Framing::Header, less),
        Err(EncodeError::TooLarge {
            actual_bytes: 8,
            limit_bytes: 7
        })
    );
    assert_eq!(
        encode_frame(&message, Framing::Bare, less).unwrap(),
        MESSAGE
    );
}

#[test]
fn what_is_of_another_kind_than_the_schema_says_is_refused() {
    for (bytes, reason) in [
        // instance_uid as a number.
        (&b"\x08\x01"[..], "instance_uid"),
        // sequence_num as a text.
        (b"\x12\x01x", "sequence_num"),
        // A text that is not UTF-8.
        (b"\x2a\x04\x1a\x02\xff\xfe", "last_error"),
    ] {
        let error =
            decode_body::<AgentToServer>(bytes.into(), MessageLimit::default()).unwrap_err();
        let DecodeError::NotOpamp(source) = &error else {
            panic!("{error:?}");
        };
        assert!(source.to_string().contains(reason), "{source}");
    }
    for cut in 1..MESSAGE.len() {
        let read =
            decode_body::<AgentToServer>(Bytes::from(&MESSAGE[..cut]), MessageLimit::default());
        // A message that ends between two fields is one.
        assert_eq!(read.is_ok(), cut == 5, "{cut}: {read:?}");
    }
}
