//! Hints between processes, by whatever carries short messages.
//!
//! A hint reaches the subscribers of its own process at once and waits in a queue for the others. One task sends what
//! waits, many hints per message; another hears what others send. Every replica also sends a beat every few seconds and
//! has to hear its own: that tells a connection that is silent from one that is dead, measures how long a message takes,
//! and counts the replicas. Whatever breaks, the subscribers of all replicas are told that they may have missed hints as
//! soon as messages arrive again.
//!
//! Messages are JSON; what a reader does not know of them it ignores.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use muster_clock::Randomness;
use muster_store::Database;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::local::check;
use crate::postgres::PostgresCarrier;
use crate::redis::RedisCarrier;
use crate::{Bus, BusError, BusStatus, Hint, LocalBus, Received, Subscription};

/// How many hints may wait to be sent; beyond it other replicas are told that they missed some.
const CAPACITY_HINTS: usize = 4_096;
/// The most bytes of a message. PostgreSQL's `NOTIFY` carries less than 8,000; the largest hint takes 3,200 as JSON.
const MAX_MESSAGE_BYTES: usize = 7_000;
/// How often a replica says that it is there.
const BEAT_INTERVAL: Duration = Duration::from_secs(2);
/// A connection on which nothing was heard for so long, not even our own beats, is given up.
const MAX_SILENCE: Duration = Duration::from_secs(8);
/// How long a message may take to be sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before a connection is tried again, at first and at most.
const RECONNECT_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3)];

type CarrierError = Box<dyn std::error::Error + Send + Sync>;

/// Carries short messages to all who listen, the sender included.
#[async_trait]
pub(crate) trait Carrier: Send + Sync + 'static {
    /// Its name, for people and metrics.
    fn name(&self) -> &'static str;

    /// Sends a message of at most [`MAX_MESSAGE_BYTES`].
    async fn send(&self, message: &str) -> Result<(), CarrierError>;

    /// Begins to listen.
    async fn listen(&self) -> Result<Box<dyn Incoming>, CarrierError>;
}

/// Messages as they arrive.
#[async_trait]
pub(crate) trait Incoming: Send {
    /// The next one. An error says that the connection is lost.
    async fn next(&mut self) -> Result<String, CarrierError>;
}

/// What goes over the wire.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    /// Which replica sent it.
    from: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hints: Vec<Hint>,
    /// Hints of this replica were lost before this message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    lost: bool,
    /// The number of a beat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beat: Option<u64>,
    /// The replica goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    bye: bool,
}

#[derive(Default)]
struct Seen {
    /// Replicas and when each was last heard.
    replicas: HashMap<String, Instant>,
    /// The newest beat, and when it was sent.
    beat: Option<(u64, Instant)>,
    round_trip: Option<Duration>,
    last_error: Option<String>,
}

struct Shared {
    id: String,
    carrier: Box<dyn Carrier>,
    local: LocalBus,
    /// Whether other replicas are to be told that hints of this one were lost.
    owes_lost: AtomicBool,
    lost: AtomicU64,
    connected: watch::Sender<bool>,
    seen: Mutex<Seen>,
}

/// A bus that joins replicas. Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    shared: Arc<Shared>,
    outbound: mpsc::Sender<Hint>,
}

/// What sends and hears; run it for as long as the bus is used.
pub struct RelayTask {
    shared: Arc<Shared>,
    outbound: mpsc::Receiver<Hint>,
}

impl Relay {
    fn new(carrier: Box<dyn Carrier>, randomness: &dyn Randomness) -> (Self, RelayTask) {
        let mut id = [0; 8];
        randomness.fill(&mut id);
        let (sender, outbound) = mpsc::channel(CAPACITY_HINTS);
        let shared = Arc::new(Shared {
            id: format!("{:016x}", u64::from_le_bytes(id)),
            carrier,
            local: LocalBus::new(),
            owes_lost: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            connected: watch::channel(false).0,
            seen: Mutex::default(),
        });
        let relay = Self {
            shared: Arc::clone(&shared),
            outbound: sender,
        };
        (relay, RelayTask { shared, outbound })
    }

    /// Over `LISTEN` and `NOTIFY` of the database that the replicas share; none when it is an embedded one.
    pub fn postgres(database: &Database, randomness: &dyn Randomness) -> Option<(Self, RelayTask)> {
        let carrier = PostgresCarrier::new(database)?;
        Some(Self::new(Box::new(carrier), randomness))
    }

    /// Over a Redis server, such as `redis://:password@host:6379` or `rediss://host`. Installations that share a server
    /// each take a channel of their own. Nothing is kept there.
    pub fn redis(
        url: &str,
        channel: &str,
        randomness: &dyn Randomness,
    ) -> Result<(Self, RelayTask), BusError> {
        let carrier = RedisCarrier::new(url, channel)?;
        Ok(Self::new(Box::new(carrier), randomness))
    }

    /// Whether an address is one of a Redis server. Asks nobody.
    pub fn check_redis(url: &str) -> Result<(), BusError> {
        RedisCarrier::new(url, "").map(drop)
    }

    /// Waits until hints of other replicas arrive, as long as the caller likes. The task has to run.
    pub async fn connected(&self) {
        let mut connected = self.shared.connected.subscribe();
        // It fails only when the sender is gone, and we hold it.
        let _ = connected.wait_for(|is_connected| *is_connected).await;
    }
}

#[async_trait]
impl Bus for Relay {
    async fn publish(&self, hint: Hint) -> Result<(), BusError> {
        check(&hint)?;
        self.shared.local.deliver(Received::Hint(hint.clone()));
        if self.outbound.try_send(hint).is_err() {
            self.shared.lose();
        }
        Ok(())
    }

    fn subscribe(&self) -> Subscription {
        self.shared.local.subscribe()
    }

    fn status(&self) -> BusStatus {
        let shared = &self.shared;
        let mut seen = shared.seen();
        let now = Instant::now();
        seen.replicas.retain(|_, heard| now - *heard < MAX_SILENCE);
        let is_connected = *shared.connected.borrow();
        BusStatus {
            carrier: shared.carrier.name(),
            is_connected,
            round_trip: seen.round_trip.filter(|_| is_connected),
            replicas: seen.replicas.len().max(1),
            waiting: CAPACITY_HINTS - self.outbound.capacity(),
            lost: shared.lost.load(Ordering::Relaxed),
            last_error: seen.last_error.clone(),
        }
    }
}

impl Shared {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self) {
        self.owes_lost.store(true, Ordering::Release);
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn message(&self) -> Message {
        Message {
            from: self.id.clone(),
            hints: Vec::new(),
            lost: false,
            beat: None,
            bye: false,
        }
    }

    /// Sends a message; whatever hints it has are lost when that fails.
    async fn send(&self, message: &Message) -> Result<(), ()> {
        let text = serde_json::to_string(message).expect("a message can be written as JSON");
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.carrier.send(&text)).await;
        let error = match sent {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => chain(&*error),
            Err(_) => format!("no answer within {} s", SEND_TIMEOUT.as_secs()),
        };
        self.failed("send to", &error);
        Err(())
    }

    /// Notes an error, and says it once until something went well again.
    fn failed(&self, attempt: &str, error: &str) {
        let mut seen = self.seen();
        if seen.last_error.is_none() {
            let bus = self.carrier.name();
            tracing::warn!(
                error,
                bus,
                "could not {attempt} other replicas; what changes is found late until it works again"
            );
        }
        seen.last_error = Some(error.to_owned());
    }

    fn hear(&self, text: &str) {
        let Ok(message) = serde_json::from_str::<Message>(text) else {
            // Somebody newer says something that cannot be read: look at everything.
            self.local.deliver(Received::Missed);
            return;
        };
        let now = Instant::now();
        {
            let mut seen = self.seen();
            if message.bye && message.from != self.id {
                seen.replicas.remove(&message.from);
            } else {
                seen.replicas.insert(message.from.clone(), now);
            }
            if message.from == self.id {
                if let (Some(heard), Some((sent, at))) = (message.beat, seen.beat)
                    && heard == sent
                {
                    seen.round_trip = Some(now - at);
                    seen.last_error = None;
                }
                return;
            }
        }
        if message.lost {
            self.local.deliver(Received::Missed);
        }
        for hint in message.hints {
            self.local.deliver(Received::Hint(hint));
        }
    }

    /// Listens, and listens again when the connection is lost.
    async fn listen(&self) {
        let [mut wait, longest] = RECONNECT_AFTER;
        let mut is_first = true;
        loop {
            let connect = tokio::time::timeout(SEND_TIMEOUT, self.carrier.listen());
            let error = match connect.await {
                Ok(Ok(mut incoming)) => {
                    wait = RECONNECT_AFTER[0];
                    if !is_first {
                        self.local.deliver(Received::Missed);
                        tracing::info!(
                            bus = self.carrier.name(),
                            "hints of other replicas arrive again"
                        );
                    }
                    is_first = false;
                    self.connected.send_replace(true);
                    let error = loop {
                        match tokio::time::timeout(MAX_SILENCE, incoming.next()).await {
                            Ok(Ok(text)) => self.hear(&text),
                            Ok(Err(error)) => break chain(&*error),
                            Err(_) => {
                                break format!(
                                    "nothing was heard for {} s, not even our own messages",
                                    MAX_SILENCE.as_secs()
                                );
                            }
                        }
                    };
                    self.connected.send_replace(false);
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    error
                }
                Ok(Err(error)) => {
                    // Whoever begins late has missed what was said before.
                    is_first = false;
                    chain(&*error)
                }
                Err(_) => {
                    is_first = false;
                    format!("no answer within {} s", SEND_TIMEOUT.as_secs())
                }
            };
            self.failed("hear of", &error);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }
}

impl RelayTask {
    /// Sends and hears until `stop`; what waits then is still sent.
    pub async fn run(mut self, stop: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            () = shared.listen() => {}
            () = self.send_all(&stop) => {}
        }
    }

    async fn send_all(&mut self, stop: &CancellationToken) {
        let mut beat = tokio::time::interval(BEAT_INTERVAL);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut number = 0;
        let mut hints = Vec::new();
        loop {
            let mut message = self.shared.message();
            tokio::select! {
                biased;
                count = self.outbound.recv_many(&mut hints, 64) => {
                    if count == 0 {
                        break;
                    }
                }
                () = stop.cancelled() => break,
                _ = beat.tick() => {
                    number += 1;
                    message.beat = Some(number);
                    self.shared.seen().beat = Some((number, Instant::now()));
                }
            }
            self.send_hints(message, &mut hints).await;
        }
        let mut message = self.shared.message();
        message.bye = true;
        self.send_hints(message, &mut hints).await;
    }

    /// Sends hints in as few messages as they fit in.
    async fn send_hints(&self, first: Message, hints: &mut Vec<Hint>) {
        let mut message = first;
        let mut bytes = 0;
        let mut messages = Vec::new();
        for hint in hints.drain(..) {
            let size = serde_json::to_string(&hint).map_or(0, |text| text.len() + 1);
            if bytes + size > MAX_MESSAGE_BYTES - 200 {
                messages.push(std::mem::replace(&mut message, self.shared.message()));
                bytes = 0;
            }
            bytes += size;
            message.hints.push(hint);
        }
        messages.push(message);
        let owes = self.shared.owes_lost.swap(false, Ordering::AcqRel);
        if let Some(message) = messages.first_mut() {
            message.lost = owes;
        }
        for (index, message) in messages.iter().enumerate() {
            if self.shared.send(message).await.is_err() {
                let is_worth_telling = owes
                    || messages[index..]
                        .iter()
                        .any(|message| !message.hints.is_empty());
                if is_worth_telling {
                    self.shared.lose();
                }
                break;
            }
        }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
