//! Which servers share a database, and which of them does what must be done once.
//!
//! Every replica keeps a row and says every few seconds that it is there. Work that only one of them should do hangs on
//! a [`Lease`]: a row with its holder, renewed by the holder and taken over when it stops doing so.
//!
//! No clock of one machine is compared with another's. A replica that wants a lease watches the row: when it has not
//! changed for [`TAKEN_OVER_AFTER`] by the watcher's own clock, the holder is taken for gone. The holder gives up by itself
//! when it could not renew for [`HELD_FOR`], which is shorter, so that no two ever hold one lease, but for a machine that
//! stood still: work under a lease must be harmless when done twice.
//!
//! What servers tell agents of their abilities is the same at all of them: what all that are alive can do ([`Standing`]).
//!
//! Not responsible for what is done under a lease.

mod migrations;
mod service;
mod standing;
mod store;

pub use migrations::MIGRATIONS;
pub use service::{About, HELD_FOR, Lease, RENEW_INTERVAL, Replicas, TAKEN_OVER_AFTER};
pub use standing::{GONE_AFTER, Server, Standing};
pub use store::{ReplicaInfo, ReplicaState};
