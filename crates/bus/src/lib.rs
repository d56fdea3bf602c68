//! Hints between replicas: something changed, look again.
//!
//! After a commit, a service publishes a [`Hint`] that names what changed; every replica, the one that published
//! included, reloads what the hint names. A hint carries no truth: whoever gets one reads the database. Losing one
//! delays, never corrupts, since every subscriber also compares what it has in memory with the database on a timer, at
//! the latest after some minutes, and a subscriber that fell behind is told so with [`Received::Missed`] and reloads
//! everything.
//!
//! [`LocalBus`] serves one process. Further implementations pass [`conformance`]'s test.
//!
//! Not responsible for: delivery, order between publishers, or data.

#[cfg(feature = "testing")]
pub mod conformance;
mod local;

pub use local::LocalBus;

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
    /// What carries the hints is away.
    #[error("the bus is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Carries hints to every replica.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Hands a hint to all subscribers of all replicas, this one included.
    async fn publish(&self, hint: Hint) -> Result<(), BusError>;

    /// All hints published from now on.
    fn subscribe(&self) -> Subscription;
}

/// A stream of hints.
pub struct Subscription(tokio::sync::broadcast::Receiver<Hint>);

impl Subscription {
    /// Wraps the receiving end of an implementation's channel.
    pub fn new(receiver: tokio::sync::broadcast::Receiver<Hint>) -> Self {
        Self(receiver)
    }

    /// The next hint; `None` when the bus is gone.
    pub async fn next(&mut self) -> Option<Received> {
        use tokio::sync::broadcast::error::RecvError;
        match self.0.recv().await {
            Ok(hint) => Some(Received::Hint(hint)),
            Err(RecvError::Lagged(_)) => Some(Received::Missed),
            Err(RecvError::Closed) => None,
        }
    }
}
