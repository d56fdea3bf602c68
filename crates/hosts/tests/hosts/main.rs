//! The hosts crate against both databases, over its HTTP rooms.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod capabilities;
mod check_in;
mod configuration;
mod device;
mod enroll;
mod expiry;
mod faults;
mod fleet;
mod harness;
mod ingest;
mod keys;
mod labels;
mod logs;
mod machine;
mod matching;
mod native;
mod operators;
mod orbit;
mod reconcile;
mod recordings;
mod skew;
mod software;
mod teams;
mod tokens;
mod without;
