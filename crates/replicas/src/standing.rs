//! What all servers of a database say together.
//!
//! Agents meet one server now and another one later, and orbit restarts itself when what it is told changes. So every server
//! says what *all* servers that are alive can do, and changes that at the moment when the others do:
//!
//! - A server that begins writes what it can do before it answers anybody, and waits until the others say no more than that.
//! - It reads what the others can do, and says no more than that from its first answer on.
//! - One that ends takes its row away after its last answer. One that ends without a word is taken for gone when its row has
//!   not changed for [`GONE_AFTER`] by the watcher's own clock; the first that finds so marks the row for all.
//! - Time in which the database could not be read does not count, and what was said last goes on.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use muster_clock::Timestamp;
use muster_negotiation::{Capability, Family, Offer, Spoken};
use tokio::time::Instant;

use crate::RENEW_INTERVAL;
use crate::store::ReplicaRow;

/// A server whose row did not change for so long is taken for gone: what it cannot do is said again. Longer than a server
/// waits for a slow database.
pub const GONE_AFTER: Duration = Duration::from_secs(20);
/// The most that counts between two looks: in the rest of a longer time the database may have been away for all.
const MAX_STEP: Duration = Duration::from_secs(2 * RENEW_INTERVAL.as_secs());

/// A server that is taken to be alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Made anew at each start.
    pub id: String,
    /// The name of its machine and the port it listens on.
    pub name: String,
    /// The release that it runs.
    pub release: String,
    /// When it started, by its own clock.
    pub started_at: Timestamp,
    /// What it can do.
    pub offer: Offer,
    /// What it says of that; none when it is of a release that does not tell.
    pub(crate) says: Option<Offer>,
    /// Whether it says something that this release does not know.
    pub(crate) says_unknown: bool,
}

struct Inner {
    own: Offer,
    spoken: Spoken,
    servers: RwLock<Arc<[Server]>>,
}

/// What this server can do, and what it says of that because of the others. Cheap to clone.
#[derive(Clone)]
pub struct Standing(Arc<Inner>);

impl Standing {
    /// Of a server without others, for programs that are none and for tests: it says all that it can do.
    pub fn alone(own: Offer) -> Self {
        Self::of(Server {
            id: String::new(),
            name: "this server".to_owned(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Timestamp::EPOCH,
            offer: own,
            says: None,
            says_unknown: false,
        })
    }

    /// Of a server that does not know of any other yet.
    pub(crate) fn of(server: Server) -> Self {
        Self(Arc::new(Inner {
            own: server.offer,
            spoken: Spoken::new(server.offer),
            servers: RwLock::new(Arc::new([server])),
        }))
    }

    /// Whether this server can do it. A route is there when it can, whatever the others can.
    pub fn can(&self, capability: Capability) -> bool {
        self.0.own.has(capability)
    }

    /// Whether all servers can do it, so that agents are told. A rule that binds agents is in force only then.
    pub fn says(&self, capability: Capability) -> bool {
        self.0.spoken.now().has(capability)
    }

    /// What is said on a family's exchanges now.
    pub fn said_on(&self, family: Family) -> Offer {
        self.0.spoken.now().on(family)
    }

    /// What is said now, for who reads it at each request.
    pub fn spoken(&self) -> &Spoken {
        &self.0.spoken
    }

    /// The servers that are alive and cannot do something, which is why no server says it.
    pub fn without(&self, capability: Capability) -> Vec<Server> {
        let servers = self.servers();
        let lack = servers
            .iter()
            .filter(|server| !server.offer.has(capability));
        lack.cloned().collect()
    }

    /// The servers that are alive, this one included, as far as it has looked.
    pub fn servers(&self) -> Arc<[Server]> {
        Arc::clone(
            &self
                .0
                .servers
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(crate) fn own(&self) -> Offer {
        self.0.own
    }

    /// What all of them can do.
    pub(crate) fn common(&self, servers: &[Server]) -> Offer {
        let offers = servers.iter().map(|server| server.offer);
        offers.fold(self.0.own, Offer::intersection)
    }

    /// Says what all of them can do; gives what was said before when that was something else.
    pub(crate) fn agree(&self, servers: Vec<Server>) -> Option<Offer> {
        let agreed = self.common(&servers);
        *self
            .0
            .servers
            .write()
            .unwrap_or_else(PoisonError::into_inner) = servers.into();
        let before = self.0.spoken.change(agreed);
        (before != agreed).then_some(before)
    }
}

/// A sign of life of a server. Its clock may stand, and releases that do not count set nothing but the time.
type Sign = (Timestamp, i64);

/// How long the rows of other servers have not changed, by this server's clock.
#[derive(Default)]
pub(crate) struct Watch {
    looked: Option<Instant>,
    unchanged: HashMap<String, (Sign, Duration)>,
}

impl Watch {
    /// Takes the rows that were just read; gives those that have not changed for too long.
    pub(crate) fn look<'a>(&mut self, rows: &'a [ReplicaRow], now: Instant) -> Vec<&'a ReplicaRow> {
        let step = self.looked.map_or(Duration::ZERO, |looked| now - looked);
        let step = step.min(MAX_STEP);
        self.looked = Some(now);
        let mut before = std::mem::take(&mut self.unchanged);
        let mut silent = Vec::new();
        for row in rows.iter().filter(|row| !row.is_lost) {
            let sign = (row.seen_at, row.beats);
            let span = match before.remove(&row.id) {
                Some((known, span)) if known == sign => span + step,
                _ => Duration::ZERO,
            };
            if span >= GONE_AFTER {
                silent.push(row);
            }
            self.unchanged.insert(row.id.clone(), (sign, span));
        }
        silent
    }
}

impl From<ReplicaRow> for Server {
    fn from(row: ReplicaRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            release: row.release,
            started_at: row.started_at,
            offer: row.offer,
            says: row.says,
            says_unknown: row.says_unknown,
        }
    }
}
