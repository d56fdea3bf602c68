//! Where agents' logs go.
//!
//! A [`Sink`] takes batches of lines and answers only when it has them durably, or with an error: what was acknowledged
//! to an agent is then deleted there. Delivery is at least once: after an error the agent sends the batch again, and
//! what a destination had kept of it stands there twice.
//!
//! [`FileSink`] appends to files. Further destinations implement the same trait.
//!
//! Not responsible for: what the lines mean, or which of them are sent where (`hosts`).

mod batch;
mod file;

pub use batch::{Batch, LogKind};
pub use file::{
    FileSink, FileSinkOptions, MAX_GROUP_BYTES, MAX_QUEUED_BYTES, OpenError, RESULT_FILE,
    STATUS_FILE,
};

use std::sync::Arc;

use async_trait::async_trait;

/// A destination of logs.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// Takes a batch. An answer without error means that all of it is kept, even if the power goes now.
    async fn write(&self, kind: LogKind, lines: Batch) -> Result<(), SinkError>;
}

/// A batch was not kept. Cloned to everyone whose batch was in the same write.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SinkError {
    /// More waits to be written than may wait, or the destination is being closed. It passes by itself.
    #[error("the log destination has too much to do")]
    Busy,
    /// The destination failed: disk full, no permission, device gone.
    #[error("write to the log destination {destination}")]
    Failed {
        /// Which, for the operator.
        destination: String,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
}
