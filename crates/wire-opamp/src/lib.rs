//! What OpAMP puts on the wire, specification 0.20.
//!
//! Agents write [`proto::AgentToServer`], servers write [`proto::ServerToAgent`]. Reading is tolerant of what is not
//! known: fields, enum values and bits of later releases, uids and framing of earlier ones.
//!
//! Not responsible for: I/O, compression, what a message means for an agent's record, and what may be offered to whom.

pub mod proto;
mod redacted;
