//! Messages over Redis's publish and subscribe.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{AsyncConnectionConfig, Client};
use tokio::sync::Mutex;

use crate::BusError;
use crate::relay::{Carrier, Incoming};

/// How long a connection and an answer may take.
const TIMEOUT: Duration = Duration::from_secs(4);

pub(crate) struct RedisCarrier {
    client: Client,
    channel: String,
    /// The connection to send on; none until the first message, and after one that failed.
    sending: Mutex<Option<MultiplexedConnection>>,
}

impl RedisCarrier {
    pub(crate) fn new(url: &str, channel: &str) -> Result<Self, BusError> {
        // The error may repeat the address, and with it a password: ours says what is right instead.
        let client = Client::open(url).map_err(|_| BusError::Address {
            reason: "must be an address of Redis, such as redis://:password@host:6379 or \
                     rediss://host"
                .to_owned(),
        })?;
        Ok(Self {
            client,
            channel: channel.to_owned(),
            sending: Mutex::default(),
        })
    }
}

#[async_trait]
impl Carrier for RedisCarrier {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn send(&self, message: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut sending = self.sending.lock().await;
        let mut connection = if let Some(connection) = sending.take() {
            connection
        } else {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(TIMEOUT))
                .set_response_timeout(Some(TIMEOUT));
            let connect = self
                .client
                .get_multiplexed_async_connection_with_config(&config);
            connect.await?
        };
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&self.channel).arg(message);
        let _: i64 = publish.query_async(&mut connection).await?;
        // Kept only when it worked.
        *sending = Some(connection);
        Ok(())
    }

    async fn listen(&self) -> Result<Box<dyn Incoming>, Box<dyn std::error::Error + Send + Sync>> {
        let mut connection = self.client.get_async_pubsub().await?;
        connection.subscribe(&self.channel).await?;
        Ok(Box::new(Listening(connection.into_on_message())))
    }
}

/// The server closed the connection.
#[derive(Debug, thiserror::Error)]
#[error("Redis closed the connection")]
struct Closed;

struct Listening(PubSubStream);

#[async_trait]
impl Incoming for Listening {
    async fn next(&mut self) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let message = self.0.next().await.ok_or(Closed)?;
        Ok(message.get_payload()?)
    }
}
