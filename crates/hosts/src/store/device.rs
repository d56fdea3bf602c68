//! Device tokens.

use muster_clock::Timestamp;
use muster_identity::HostId;
use muster_store::{Executor, StoreError, args, statements};

statements! {
    /// Whose token it is, and since when; not of a host that is banned, which is nobody here either.
    FIND = "SELECT t.host_id, t.registered_at FROM hosts_device_tokens t WHERE t.token_hash = $1
        AND NOT EXISTS (SELECT 1 FROM hosts_bans b WHERE b.host_id = t.host_id)";
    /// Its details are wanted, unless they are already or are as new as this.
    REFETCH = "UPDATE hosts_hosts SET refetch_requested = 1 WHERE id = $1 AND refetch_requested = 0
        AND (detail_updated_at IS NULL OR detail_updated_at <= $2)";
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

/// Asks for the details of a host, unless they came after a time or are wanted already. Gives whether that changed
/// anything.
pub(crate) async fn refetch(
    db: &mut impl Executor,
    host: HostId,
    older_than: Timestamp,
) -> Result<bool, StoreError> {
    Ok(db.execute(REFETCH, args![host, older_than]).await? > 0)
}
