//! Hints between replicas: something changed, look again.
//!
//! After a commit, a service publishes a [`Hint`] that names what changed; every replica, the one that published
//! included, reloads what the hint names. A hint carries no truth: whoever gets one reads the database. Losing one
//! delays, never corrupts, since every subscriber also compares what it has in memory with the database on a timer, at
//! the latest after some minutes, and a subscriber that fell behind is told so with [`Received::Missed`] and reloads
//! everything.
//!
//! [`LocalBus`] serves one process. [`Relay`] joins replicas, over PostgreSQL or Redis. Each passes `conformance`'s test.
//!
//! Not responsible for: delivery, order between publishers, or data.

#[cfg(feature = "testing")]
pub mod conformance;
mod local;
mod postgres;
mod redis;
mod relay;
#[cfg(feature = "testing")]
pub mod testing;

pub use local::LocalBus;
pub use relay::{Relay, RelayTask};

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// The most bytes of a hint's key; longer ones are refused. PostgreSQL's `NOTIFY` carries 8,000.
pub const MAX_KEY_BYTES: usize = 512;

/// What kind of thing changed. Written by one replica and read by others that may be older or newer: a name that a
/// reader does not know is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Topic(std::borrow::Cow<'static, str>);

impl Topic {
    /// A topic, named `<crate>.<things>`.
    pub const fn new(name: &'static str) -> Self {
        Self(std::borrow::Cow::Borrowed(name))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// "This changed, look again."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// What kind of thing.
    pub topic: Topic,
    /// Which one: an id as text, or empty for all of them. Never a secret.
    pub key: String,
}

impl Hint {
    /// A hint about one thing.
    pub fn new(topic: Topic, key: impl ToString) -> Self {
        Self {
            topic,
            key: key.to_string(),
        }
    }
}

/// What a subscriber gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A hint.
    Hint(Hint),
    /// Some hints were lost: reload everything.
    Missed,
}

/// A hint could not be handed over. The change it tells of is kept all the same; reconcilers will find it.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The key is longer than [`MAX_KEY_BYTES`].
    #[error("a hint's key has {bytes} bytes, at most {MAX_KEY_BYTES} are allowed")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The address of the bus cannot be used.
    #[error("{reason}")]
    Address {
        /// What is wrong with it, without what it holds of secrets.
        reason: String,
    },
}

/// How a bus is doing, as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusStatus {
    /// By what hints travel: `local`, `postgres` or `redis`.
    pub carrier: &'static str,
    /// Whether hints of other replicas arrive now.
    pub is_connected: bool,
    /// How long the newest message took from here to here.
    pub round_trip: Option<Duration>,
    /// How many replicas were heard in the last seconds, this one included.
    pub replicas: usize,
    /// How many hints wait to be sent.
    pub waiting: usize,
    /// How often hints may have been lost since the start: a connection that broke, or a queue that was full.
    pub lost: u64,
    /// What went wrong last, while it is wrong.
    pub last_error: Option<String>,
}

impl BusStatus {
    /// Of a process that has no other to talk to.
    pub(crate) fn of_one_process() -> Self {
        Self {
            carrier: "local",
            is_connected: true,
            round_trip: None,
            replicas: 1,
            waiting: 0,
            lost: 0,
            last_error: None,
        }
    }
}

/// Carries hints to every replica.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Hands a hint to all subscribers of all replicas, this one included. Never waits for a network: what carries hints
    /// to other replicas may be away, and they will look for themselves when it is back.
    async fn publish(&self, hint: Hint) -> Result<(), BusError>;

    /// All hints published from now on.
    fn subscribe(&self) -> Subscription;

    /// How it is doing.
    fn status(&self) -> BusStatus;
}

/// A stream of hints.
pub struct Subscription(tokio::sync::broadcast::Receiver<Received>);

impl Subscription {
    /// Wraps the receiving end of an implementation's channel.
    pub fn new(receiver: tokio::sync::broadcast::Receiver<Received>) -> Self {
        Self(receiver)
    }

    /// The next hint; `None` when the bus is gone.
    pub async fn next(&mut self) -> Option<Received> {
        use tokio::sync::broadcast::error::RecvError;
        match self.0.recv().await {
            Ok(received) => Some(received),
            Err(RecvError::Lagged(_)) => Some(Received::Missed),
            Err(RecvError::Closed) => None,
        }
    }
}
