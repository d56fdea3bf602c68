//! The agent: enrolls this machine with a server and answers its questions, or answers them on the spot.
//!
//! It speaks what orbit and osqueryd speak, so it works with any server that serves those, and it is updated on its own
//! schedule: what a server can do is read from each of its answers, and a server that says nothing gets the oldest
//! behaviour.
//!
//! - [`config`]: flags, environment and file.
//! - [`client`]: the two APIs over HTTPS.
//! - [`keys`]: the keys that the server gave, kept on disk.
//! - [`runner`]: queries on a thread of their own, with limits and a denylist.
//! - [`session`]: the loop that ties them together.
//! - [`notify`]: the socket by which a server says "ask now".
//! - [`output`] and [`shell`]: answers for people.
//!
//! Not responsible for: what a table contains (`muster-tables`).

pub mod backoff;
pub mod client;
pub mod config;
pub mod denylist;
mod facts;
pub mod keys;
pub mod notify;
pub mod outbox;
pub mod output;
pub mod runner;
pub mod session;
pub mod shell;
mod trouble;
