//! What the wire looks like from outside of the crate: bytes that other programs made, framing, and properties of
//! messages of all kinds.

mod arbitrary;
mod fixtures;
mod framing;
mod properties;
