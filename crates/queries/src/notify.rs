//! Sockets by which agents are told "ask now".
//!
//! The socket carries no data: a message only says that asking is worth while. Losing one, or the whole socket, delays by
//! the agent's interval and loses nothing. Each replica knows its own sockets; a hint wakes the one that holds the host's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use muster_identity::HostId;
use tokio::sync::{mpsc, watch};

/// The most sockets of one host; a further one replaces the oldest.
pub const MAX_SOCKETS_PER_HOST: usize = 2;
/// How many shards share the hosts.
const SHARDS: usize = 64;
/// How many messages wait for a slow agent; more say nothing new.
const MAX_WAITING: usize = 4;

struct Entry {
    id: u64,
    sender: mpsc::Sender<Arc<str>>,
}

struct Inner {
    shards: Vec<Mutex<HashMap<HostId, Vec<Entry>>>>,
    next_id: AtomicU64,
    open: AtomicUsize,
    /// Counts how often all sockets were to prove who they are.
    checks: watch::Sender<u64>,
}

/// The open sockets of this replica.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

impl Default for Notifier {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self(Arc::new(Inner {
            shards,
            next_id: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            checks: watch::channel(0).0,
        }))
    }
}

/// An open socket; gone from the notifier when it is dropped.
pub struct NotifySocket {
    notifier: Notifier,
    host: HostId,
    id: u64,
    receiver: mpsc::Receiver<Arc<str>>,
}

impl NotifySocket {
    /// The next reason to ask; none when the server wants the socket closed.
    pub async fn next(&mut self) -> Option<Arc<str>> {
        self.receiver.recv().await
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        self.notifier.0.open.fetch_sub(1, Ordering::Relaxed);
        let mut shard = self.notifier.shard(self.host);
        if let Some(entries) = shard.get_mut(&self.host) {
            entries.retain(|entry| entry.id != self.id);
            if entries.is_empty() {
                shard.remove(&self.host);
            }
        }
    }
}

impl Notifier {
    fn shard(&self, host: HostId) -> std::sync::MutexGuard<'_, HashMap<HostId, Vec<Entry>>> {
        let index = host.0.unsigned_abs() as usize % SHARDS;
        self.0.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A new socket of a host.
    pub fn open(&self, host: HostId) -> NotifySocket {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        self.0.open.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(host);
        let entries = shard.entry(host).or_default();
        if entries.len() >= MAX_SOCKETS_PER_HOST {
            // Dropping the sender ends the oldest: probably a connection that broke without anybody noticing.
            entries.remove(0);
        }
        entries.push(Entry { id, sender });
        NotifySocket {
            notifier: self.clone(),
            host,
            id,
            receiver,
        }
    }

    /// Tells hosts that have a socket here to ask now.
    pub fn notify(&self, hosts: &[HostId], reason: &str) {
        if self.count() == 0 {
            return;
        }
        let reason: Arc<str> = reason.into();
        for host in hosts {
            if let Some(entries) = self.shard(*host).get(host) {
                for entry in entries {
                    // Full means that it has been told to ask and has not done so yet.
                    let _ = entry.sender.try_send(Arc::clone(&reason));
                }
            }
        }
    }

    /// Closes the sockets of a host, whose key was taken away.
    pub fn close(&self, host: HostId) {
        self.shard(host).remove(&host);
    }

    /// Has every socket look whether its key is still good: which keys changed is not known.
    pub fn check_all(&self) {
        self.0.checks.send_modify(|checks| *checks += 1);
    }

    /// Changes when keys are to be looked at.
    pub(crate) fn checks(&self) -> watch::Receiver<u64> {
        self.0.checks.subscribe()
    }

    /// How many sockets are open here.
    pub fn count(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId(7);

    #[tokio::test]
    async fn a_host_is_told_on_all_its_sockets_and_others_are_not() {
        let notifier = Notifier::default();
        let (mut one, mut two) = (notifier.open(HOST), notifier.open(HOST));
        let other = notifier.open(HostId(8));
        notifier.notify(&[HOST, HostId(99)], "live-1");
        assert_eq!(
            (one.next().await.as_deref(), two.next().await.as_deref()),
            (Some("live-1"), Some("live-1"))
        );
        assert!(other.receiver.is_empty());
        assert_eq!(notifier.count(), 3);
        drop((one, two, other));
        assert_eq!(notifier.count(), 0);
        assert!(notifier.shard(HOST).is_empty());
    }

    #[tokio::test]
    async fn a_further_socket_replaces_the_oldest_and_a_closed_host_has_none() {
        let notifier = Notifier::default();
        let mut sockets: Vec<_> = (0..3).map(|_| notifier.open(HOST)).collect();
        assert_eq!(sockets[0].next().await, None);
        notifier.close(HOST);
        assert_eq!(sockets[1].next().await, None);
        assert_eq!(sockets[2].next().await, None);
    }

    #[tokio::test]
    async fn a_slow_agent_holds_up_nobody() {
        let notifier = Notifier::default();
        let socket = notifier.open(HOST);
        for _ in 0..1_000 {
            notifier.notify(&[HOST], "live-1");
        }
        assert_eq!(socket.receiver.len(), MAX_WAITING);
    }
}
