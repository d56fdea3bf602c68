//! Messages over PostgreSQL's `LISTEN` and `NOTIFY`.

use async_trait::async_trait;
use muster_store::{Channel, Database, Notifications};

use crate::relay::{Carrier, Incoming};

/// The channel of all replicas on one database.
const CHANNEL: &str = "muster_hints";

pub(crate) struct PostgresCarrier(Channel);

impl PostgresCarrier {
    pub(crate) fn new(database: &Database) -> Option<Self> {
        database.channel(CHANNEL).map(Self)
    }
}

#[async_trait]
impl Carrier for PostgresCarrier {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn send(&self, message: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0.send(message).await.map_err(Into::into)
    }

    async fn listen(&self) -> Result<Box<dyn Incoming>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Box::new(Listening(self.0.listen().await?)))
    }
}

struct Listening(Notifications);

#[async_trait]
impl Incoming for Listening {
    async fn next(&mut self) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        self.0.next().await.map_err(Into::into)
    }
}
