//! What the wire looks like from outside of the crate.
