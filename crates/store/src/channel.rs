//! PostgreSQL's notifications: short texts that every program on one database hears at once, and nobody keeps.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};

use crate::StoreError;
use crate::run::within;

/// How long a connection for listening may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel of PostgreSQL's `LISTEN` and `NOTIFY`.
#[derive(Debug, Clone)]
pub struct Channel {
    pool: PgPool,
    patience: Duration,
    name: &'static str,
}

/// What is sent to a channel from now on.
pub struct Notifications(PgListener);

const NOTIFY: &str = "SELECT pg_notify($1, $2)";

impl Channel {
    pub(crate) fn new(pool: PgPool, patience: Duration, name: &'static str) -> Self {
        Self {
            pool,
            patience,
            name,
        }
    }

    /// Sends a text of less than 8,000 bytes to all who listen. Fails when the database is away.
    pub async fn send(&self, text: &str) -> Result<(), StoreError> {
        let attempt = "send a notification";
        let send = async {
            let query = sqlx::query(NOTIFY).bind(self.name).bind(text);
            let sent = query.execute(&self.pool).await;
            sent.map_err(|source| StoreError::away(attempt, source))
        };
        within(Some(self.patience), attempt, Box::pin(send))
            .await
            .map(drop)
    }

    /// Listens, on a connection of its own. Fails when the database is away.
    pub async fn listen(&self) -> Result<Notifications, StoreError> {
        let attempt = "listen to notifications";
        let connect: PgConnectOptions = (*self.pool.connect_options()).clone();
        let away = |source| StoreError::away(attempt, source);
        let listen = async {
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .max_lifetime(None)
                .idle_timeout(None)
                .connect_lazy_with(connect);
            let mut listener = PgListener::connect_with(&pool).await.map_err(away)?;
            listener.listen(self.name).await.map_err(away)?;
            Ok(Notifications(listener))
        };
        within(Some(CONNECT_TIMEOUT), attempt, Box::pin(listen)).await
    }
}

impl Notifications {
    /// The next text. An error says that the connection was lost, and what was sent meanwhile with it.
    pub async fn next(&mut self) -> Result<String, StoreError> {
        let attempt = "wait for a notification";
        match self.0.try_recv().await {
            Ok(Some(notification)) => Ok(notification.payload().to_owned()),
            Ok(None) => Err(StoreError::away(attempt, sqlx::Error::PoolClosed)),
            Err(source) => Err(StoreError::away(attempt, source)),
        }
    }
}
