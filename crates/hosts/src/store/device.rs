//! Device tokens.

use muster_clock::Timestamp;
use muster_identity::HostId;
use muster_store::{Executor, StoreError, args, statements};

statements! {
    /// Whose token it is, and since when.
    FIND = "SELECT host_id, registered_at FROM hosts_device_tokens WHERE token_hash = $1";
    /// A host's token in place of the former one. The same token keeps its time.
    REGISTER = "INSERT INTO hosts_device_tokens (host_id, token_hash, registered_at) VALUES ($1, $2, $3)
        ON CONFLICT (host_id) DO UPDATE SET token_hash = excluded.token_hash, registered_at = excluded.registered_at
            WHERE hosts_device_tokens.token_hash <> excluded.token_hash";
}

pub(crate) async fn find(
    db: &mut impl Executor,
    hash: &[u8; 32],
) -> Result<Option<(HostId, Timestamp)>, StoreError> {
    let row = db.fetch_optional(FIND, args![hash]).await?;
    row.map(|row| Ok((row.get("host_id")?, row.get("registered_at")?)))
        .transpose()
}

pub(crate) async fn register(
    db: &mut impl Executor,
    host: HostId,
    hash: &[u8; 32],
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(REGISTER, args![host, hash, now]).await.map(drop)
}
