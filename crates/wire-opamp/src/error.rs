//! Why bytes are no message, and why a message is not sent.

use crate::limits::Counted;

/// Why bytes that arrived are not taken as a message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than this side reads: 413 over HTTP, close code 1009 over WebSocket.
    #[error("the message has {actual_bytes} bytes; at most {limit_bytes} are read")]
    TooLarge {
        /// How many arrived, the header of a WebSocket message among them.
        actual_bytes: usize,
        /// How many are read.
        limit_bytes: usize,
    },
    /// The header of a WebSocket message is for something that this release does not know.
    #[error("the message begins with the header {value}; only 0 is known")]
    UnknownHeader {
        /// What the header says.
        value: u64,
    },
    /// Values, components or their health are nested too deeply.
    #[error("values or components are nested more than {limit} deep")]
    TooDeep {
        /// How deep they may be.
        limit: usize,
    },
    /// Too many of something, in all parts of the message together.
    #[error("the message has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: Counted,
        /// How many there may be.
        limit: usize,
    },
    /// A single text or hash is too long.
    #[error("the field {field} has {actual_bytes} bytes; at most {limit_bytes} are read")]
    TooLong {
        /// In which field, by its name in the schema.
        field: &'static str,
        /// How long it is.
        actual_bytes: usize,
        /// How long it may be.
        limit_bytes: usize,
    },
    /// The bytes are no protobuf at all, or were cut off.
    #[error("the message is cut off or no protobuf")]
    NotProtobuf,
    /// The bytes are protobuf, and a field is not of the kind that the schema says.
    #[error("the message is not of OpAMP")]
    NotOpamp(#[source] prost::DecodeError),
}

/// Why a message is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// More bytes than this side sends.
    #[error("the message to send has {actual_bytes} bytes; at most {limit_bytes} are sent")]
    TooLarge {
        /// How many it would be, the header of a WebSocket message among them.
        actual_bytes: usize,
        /// How many are sent.
        limit_bytes: usize,
    },
}
