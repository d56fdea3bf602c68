//! What OpAMP puts on the wire, specification 0.20.
//!
//! Agents write [`AgentToServer`](proto::AgentToServer), which a server reads with [`decode_frame`] or [`decode_body`]; a
//! server writes an [`Outgoing`], which can hold only what may go together. Reading is tolerant of what is not known
//! (fields, enum values and bits of later releases, uids and framing of earlier ones) and bounded in everything else:
//! size, depth, number of things and length of texts are looked at before anything is allocated for them ([`limits`]).
//!
//! Not responsible for: I/O, compression, what a message means for an agent's record, and what may be offered to whom.

pub mod attributes;
mod bits;
mod error;
mod frame;
pub mod limits;
mod outgoing;
pub mod proto;
mod redacted;
mod uid;

pub use bits::{AgentCapabilities, AgentFlags, ServerCapabilities, ServerFlags};
pub use error::{DecodeError, EncodeError};
pub use frame::{
    Framing, Incoming, Writable, decode_body, decode_frame, encode_body, encode_frame,
};
pub use limits::MessageLimit;
pub use outgoing::{Outgoing, Refusal, Update};
pub use uid::{InstanceUid, ParseUidError, UidError};
