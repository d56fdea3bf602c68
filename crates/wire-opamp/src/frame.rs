//! From bytes to messages and back, with and without the header of WebSocket messages.
//!
//! A WebSocket message is a header (an unsigned varint that is always 0) and then the protobuf message; before
//! specification 0.7 it was the protobuf message alone. A protobuf message never begins with a 0, so both can be told
//! apart. Clients of then do not understand a header in answers, so answers are framed as the question was.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::error::{DecodeError, EncodeError};
use crate::limits::{self, MessageLimit};
use crate::outgoing::Outgoing;
use crate::proto::{AgentToServer, ServerToAgent};

/// The one header that is known.
const HEADER: u8 = 0;
/// Protobuf numbers its fields from 1, so a first key below that is not one.
const SMALLEST_FIELD_KEY: u64 = 1 << 3;

/// Whether WebSocket messages of a peer begin with a header. Answers are framed as the question was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// The header 0, as since specification 0.7.
    Header,
    /// None: the message alone.
    Bare,
}

impl Framing {
    /// The framing of a WebSocket message, and where in it the protobuf message begins.
    ///
    /// A header of several bytes that come to 0 is one too, though nobody writes that.
    fn of(bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        let mut rest = bytes;
        match limits::varint(&mut rest) {
            Some(0) => Ok((Self::Header, bytes.len() - rest.len())),
            Some(value) if value < SMALLEST_FIELD_KEY => Err(DecodeError::UnknownHeader { value }),
            // What is wrong with it otherwise is found where messages are read.
            _ => Ok((Self::Bare, 0)),
        }
    }

    fn header_bytes(self) -> usize {
        match self {
            Self::Header => 1,
            Self::Bare => 0,
        }
    }
}

/// A kind of message that can be read: what agents send, and for simulated agents what servers send.
pub trait Incoming: Message + Default + sealed::Sealed {
    /// Looks at everything but the size before anything is allocated.
    #[doc(hidden)]
    fn check(bytes: &[u8]) -> Result<(), DecodeError>;
}

impl Incoming for AgentToServer {
    fn check(bytes: &[u8]) -> Result<(), DecodeError> {
        limits::check(bytes)
    }
}

/// Only its size is limited: an agent believes the server that it chose, and nothing in an answer nests.
impl Incoming for ServerToAgent {
    fn check(_bytes: &[u8]) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// A kind of message that can be written: what servers send as [`Outgoing`], and for simulated agents what agents send.
pub trait Writable: sealed::Sealed {
    /// The message as such.
    #[doc(hidden)]
    fn message(&self) -> &impl Message;
}

impl Writable for Outgoing {
    fn message(&self) -> &impl Message {
        self.as_message()
    }
}

impl Writable for AgentToServer {
    fn message(&self) -> &impl Message {
        self
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::proto::AgentToServer {}
    impl Sealed for crate::proto::ServerToAgent {}
    impl Sealed for crate::outgoing::Outgoing {}
}

/// Reads a binary WebSocket message.
///
/// A message that is nothing but a header is an empty message, and so is one of no bytes.
pub fn decode_frame<M: Incoming>(
    bytes: Bytes,
    limit: MessageLimit,
) -> Result<(M, Framing), DecodeError> {
    check_size(&bytes, limit)?;
    let (framing, start) = Framing::of(&bytes)?;
    Ok((decode(bytes.slice(start..))?, framing))
}

/// Reads the body of an HTTP request or answer, decompressed. No bytes are an empty message.
pub fn decode_body<M: Incoming>(bytes: Bytes, limit: MessageLimit) -> Result<M, DecodeError> {
    check_size(&bytes, limit)?;
    decode(bytes)
}

fn check_size(bytes: &[u8], limit: MessageLimit) -> Result<(), DecodeError> {
    if bytes.len() > limit.bytes() {
        return Err(DecodeError::TooLarge {
            actual_bytes: bytes.len(),
            limit_bytes: limit.bytes(),
        });
    }
    Ok(())
}

fn decode<M: Incoming>(bytes: Bytes) -> Result<M, DecodeError> {
    M::check(&bytes)?;
    M::decode(bytes).map_err(DecodeError::NotOpamp)
}

/// Writes a binary WebSocket message.
pub fn encode_frame(
    message: &impl Writable,
    framing: Framing,
    limit: MessageLimit,
) -> Result<Bytes, EncodeError> {
    encode(message.message(), framing, limit)
}

/// Writes the body of an HTTP request or answer, not compressed.
pub fn encode_body(message: &impl Writable, limit: MessageLimit) -> Result<Bytes, EncodeError> {
    encode(message.message(), Framing::Bare, limit)
}

fn encode(
    message: &impl Message,
    framing: Framing,
    limit: MessageLimit,
) -> Result<Bytes, EncodeError> {
    let actual_bytes = framing.header_bytes() + message.encoded_len();
    if actual_bytes > limit.bytes() {
        return Err(EncodeError::TooLarge {
            actual_bytes,
            limit_bytes: limit.bytes(),
        });
    }
    let mut bytes = BytesMut::with_capacity(actual_bytes);
    if framing == Framing::Header {
        bytes.put_u8(HEADER);
    }
    message.encode_raw(&mut bytes);
    Ok(bytes.freeze())
}
