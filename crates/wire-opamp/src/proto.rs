//! The messages, made from `proto/opamp/v1`: the specification's names as Rust writes them (`TLSCertificate` is
//! [`TlsCertificate`], `OpAMPConnectionSettings` is [`OpAmpConnectionSettings`]).
//!
//! Bytes are slices of the message that they were read from: keeping one keeps all of that message in memory. Enums are
//! kept as the numbers that came, so that values of later releases are not lost.

/// What all of them can do: be written and read one by one, for keeping parts of a message.
pub use prost::Message;

include!(concat!(env!("OUT_DIR"), "/opamp.proto.v1.rs"));
