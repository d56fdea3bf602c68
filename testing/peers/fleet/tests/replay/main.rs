//! Real clients' requests against this server, and what real servers answered against its answers.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod faults;
mod mutations;
mod replays;
