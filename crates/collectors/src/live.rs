//! The sockets of this replica: which agents they hold, and how to reach them.
//!
//! A socket has an outbox of what it is to look at, not of messages: that an agent is to be told something, that its
//! credential is to be checked, that the peer is to be tried. A newer wish of a kind replaces the older, so that a slow peer
//! holds up nobody and memory stays small.

mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use muster_clock::Timestamp;
use muster_identity::CollectorId;
use muster_wire_opamp::InstanceUid;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use watch::Overdue;
use watch::Signs;

/// How many agents one socket may hold.
pub(crate) const MAX_AGENTS_PER_SOCKET: usize = 10_000;

/// What a socket is to look at.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Agents that may have to be told something.
    pub(crate) push: BTreeSet<CollectorId>,
    /// Whether the credential is to be checked.
    pub(crate) check: bool,
    /// Whether the peer is to be tried.
    pub(crate) probe: bool,
    /// The socket may have to end.
    pub(crate) overdue: bool,
}

impl Wishes {
    fn is_empty(&self) -> bool {
        !self.check && !self.probe && !self.overdue && self.push.is_empty()
    }
}

struct Socket {
    wishes: Mutex<Wishes>,
    wake: Notify,
    heard_at: AtomicI64,
    signs: Signs,
}

struct Inner {
    sockets: DashMap<u64, Arc<Socket>>,
    /// On which sockets agents were last seen.
    agents: DashMap<CollectorId, Vec<u64>>,
    began: Instant,
    watch_begun: Once,
}

impl Inner {
    /// How long this registry is there, in milliseconds.
    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The sockets of this replica. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Live(Arc<Inner>);

impl Default for Live {
    fn default() -> Self {
        Self(Arc::new(Inner {
            sockets: DashMap::new(),
            agents: DashMap::new(),
            began: Instant::now(),
            watch_begun: Once::new(),
        }))
    }
}

/// An open socket; gone from the registry when it is dropped.
pub(crate) struct Handle {
    live: Live,
    id: u64,
    socket: Arc<Socket>,
    held: BTreeMap<CollectorId, InstanceUid>,
    /// Agents that were turned away here, and are waited for.
    watched: BTreeSet<CollectorId>,
}

impl Live {
    /// A new socket.
    pub(crate) fn open(&self, id: u64, now: Timestamp) -> Handle {
        let socket = Arc::new(Socket {
            wishes: Mutex::default(),
            wake: Notify::new(),
            heard_at: AtomicI64::new(now.as_micros()),
            signs: Signs::new(self.0.millis()),
        });
        self.0.sockets.insert(id, Arc::clone(&socket));
        Handle {
            live: self.clone(),
            id,
            socket,
            held: BTreeMap::new(),
            watched: BTreeSet::new(),
        }
    }

    fn wish(&self, id: u64, wish: impl FnOnce(&mut Wishes)) {
        if let Some(socket) = self.0.sockets.get(&id) {
            wish(&mut socket.wishes.lock().unwrap_or_else(PoisonError::into_inner));
            socket.wake.notify_one();
        }
    }

    fn of(&self, collector: CollectorId) -> Vec<u64> {
        let sockets = self.0.agents.get(&collector);
        sockets.map(|sockets| sockets.clone()).unwrap_or_default()
    }

    /// An agent is not on a socket any more.
    fn leave(&self, collector: CollectorId, id: u64) {
        if let Some(mut sockets) = self.0.agents.get_mut(&collector) {
            sockets.retain(|other| *other != id);
        }
        self.0
            .agents
            .remove_if(&collector, |_, sockets| sockets.is_empty());
    }

    /// An agent may have to be told something.
    pub(crate) fn push(&self, collector: CollectorId) {
        // The newest only: of two connections of one agent one is left over.
        if let Some(id) = self.of(collector).last() {
            self.wish(*id, |wishes| {
                wishes.push.insert(collector);
            });
        }
    }

    /// The credentials of an agent's sockets are to be checked.
    pub(crate) fn check(&self, collector: CollectorId) {
        for id in self.of(collector) {
            self.wish(id, |wishes| wishes.check = true);
        }
    }

    /// It is to be seen whether an agent is there.
    pub(crate) fn probe(&self, collector: CollectorId) {
        for id in self.of(collector) {
            self.wish(id, |wishes| wishes.probe = true);
        }
    }

    /// Every socket's credential is to be checked.
    pub(crate) fn check_all(&self) {
        let ids: Vec<u64> = self.0.sockets.iter().map(|socket| *socket.key()).collect();
        for id in ids {
            self.wish(id, |wishes| wishes.check = true);
        }
    }

    /// All agents that have a socket here are to be told what there is.
    pub(crate) fn push_all(&self) {
        let held: Vec<CollectorId> = self.0.agents.iter().map(|entry| *entry.key()).collect();
        for collector in held {
            self.push(collector);
        }
    }

    /// Whether a socket is open here and its peer was heard within this time.
    pub(crate) fn is_alive(&self, id: u64, within: Duration, now: Timestamp) -> bool {
        self.0.sockets.get(&id).is_some_and(|socket| {
            let heard = Timestamp::from_micros(socket.heard_at.load(Ordering::Relaxed));
            now.since(heard) < within
        })
    }

    /// How many sockets are open here.
    pub(crate) fn count(&self) -> usize {
        self.0.sockets.len()
    }
}

impl Handle {
    /// What to look at next.
    pub(crate) async fn wishes(&self) -> Wishes {
        loop {
            {
                let mut wishes = self
                    .socket
                    .wishes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if !wishes.is_empty() {
                    return std::mem::take(&mut *wishes);
                }
            }
            self.socket.wake.notified().await;
        }
    }

    /// The peer gave a sign of life.
    pub(crate) fn heard(&self, now: Timestamp) {
        self.socket
            .heard_at
            .store(now.as_micros(), Ordering::Relaxed);
        self.socket.signs.heard(self.live.0.millis());
    }

    /// Whether the socket has to end, as things stand now: what it was told so for may have come meanwhile.
    pub(crate) fn overdue(&self) -> Option<Overdue> {
        self.socket.signs.overdue(self.live.0.millis())
    }

    /// A message came that could be read; whoever sent it is looked at.
    pub(crate) fn spoke(&self) {
        self.socket.signs.spoke(self.live.0.millis());
    }

    /// An agent spoke on this socket, by this uid: it is where it is reached now, unless nobody knows yet whether it was that
    /// agent (`is_told`). False when the socket holds too many.
    pub(crate) fn hold(&mut self, collector: CollectorId, uid: InstanceUid, is_told: bool) -> bool {
        if !self.held.contains_key(&collector) && self.held.len() >= MAX_AGENTS_PER_SOCKET {
            return false;
        }
        self.held.insert(collector, uid);
        let mut sockets = self.live.0.agents.entry(collector).or_default();
        let place = if is_told {
            sockets.last()
        } else {
            sockets.first()
        };
        if place != Some(&self.id) {
            sockets.retain(|id| *id != self.id);
            let place = if is_told { sockets.len() } else { 0 };
            sockets.insert(place, self.id);
        }
        true
    }

    /// An agent was turned away here: this socket looks when something about it changes. It is not reached here.
    pub(crate) fn watch(&mut self, collector: CollectorId) {
        if self.held.contains_key(&collector) || !self.watched.insert(collector) {
            return;
        }
        let mut sockets = self.live.0.agents.entry(collector).or_default();
        // Where it may be reached stays last.
        sockets.insert(0, self.id);
    }

    /// Nobody who was turned away is waited for any more.
    pub(crate) fn watch_nobody(&mut self) {
        for collector in std::mem::take(&mut self.watched) {
            if !self.held.contains_key(&collector) {
                self.live.leave(collector, self.id);
            }
        }
    }

    /// Agents may not come any more, while others on this socket may.
    pub(crate) fn let_go(&mut self, gone: &[CollectorId]) {
        for collector in gone {
            self.held.remove(collector);
            self.live.leave(*collector, self.id);
        }
    }

    /// The agents that spoke on this socket, each with the uid as it writes it.
    pub(crate) fn held(&self) -> &BTreeMap<CollectorId, InstanceUid> {
        &self.held
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.live.0.sockets.remove(&self.id);
        for collector in self.held.keys().chain(&self.watched) {
            self.live.leave(*collector, self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: InstanceUid = InstanceUid::from_bytes([7; 16]);
    const NOW: Timestamp = Timestamp::from_seconds(1_000);

    #[tokio::test]
    async fn wishes_of_a_kind_are_one_however_often_they_are_made() {
        let live = Live::default();
        let mut handle = live.open(1, NOW);
        assert!(handle.hold(CollectorId(7), UID, true));
        for _ in 0..1_000 {
            live.push(CollectorId(7));
            live.check(CollectorId(7));
        }
        live.push(CollectorId(8));
        let wishes = handle.wishes().await;
        assert_eq!(wishes.push, BTreeSet::from([CollectorId(7)]));
        assert!(wishes.check && !wishes.probe);
    }

    #[tokio::test]
    async fn an_agent_is_reached_where_it_spoke_last_and_nowhere_when_its_sockets_are_gone() {
        let live = Live::default();
        let (mut first, mut second) = (live.open(1, NOW), live.open(2, NOW));
        first.hold(CollectorId(7), UID, true);
        second.hold(CollectorId(7), UID, true);
        assert_eq!(live.of(CollectorId(7)), [1, 2]);
        first.hold(CollectorId(7), UID, true);
        assert_eq!(live.of(CollectorId(7)), [2, 1]);
        // Whoever only shows its uid is never asked instead of it.
        let mut third = live.open(3, NOW);
        third.hold(CollectorId(7), UID, false);
        assert_eq!(live.of(CollectorId(7)), [3, 2, 1]);
        drop(third);
        drop(first);
        assert_eq!(live.of(CollectorId(7)), [2]);
        drop(second);
        assert!(live.0.agents.is_empty() && live.count() == 0);
    }

    #[tokio::test]
    async fn a_socket_on_which_an_agent_was_turned_away_hears_of_changes_and_does_not_stand_in_its_way()
     {
        let live = Live::default();
        let (mut first, mut held_off) = (live.open(1, NOW), live.open(2, NOW));
        first.hold(CollectorId(7), UID, true);
        held_off.watch(CollectorId(7));
        held_off.watch(CollectorId(7));
        assert_eq!(live.of(CollectorId(7)), [2, 1]);
        live.check(CollectorId(7));
        assert!(held_off.wishes().await.check);
        held_off.watch_nobody();
        assert_eq!(live.of(CollectorId(7)), [1]);
        held_off.watch(CollectorId(7));
        drop(held_off);
        assert_eq!(live.of(CollectorId(7)), [1]);
    }

    #[test]
    fn a_socket_is_alive_while_its_peer_is_heard() {
        let live = Live::default();
        let handle = live.open(1, NOW);
        let within = Duration::from_secs(30);
        assert!(live.is_alive(1, within, NOW.plus(Duration::from_secs(29))));
        assert!(!live.is_alive(1, within, NOW.plus(Duration::from_secs(30))));
        handle.heard(NOW.plus(Duration::from_secs(20)));
        assert!(live.is_alive(1, within, NOW.plus(Duration::from_secs(30))));
        assert!(!live.is_alive(2, within, NOW));
    }
}
