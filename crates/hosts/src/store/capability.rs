//! What programs on hosts said about their abilities.

use muster_clock::Timestamp;
use muster_identity::HostId;
use muster_store::{Executor, StoreError, args, statements};

use crate::record::HostCapabilities;

statements! {
    /// What the programs of a host said.
    LIST = "SELECT process, names, version, changed_at FROM hosts_capabilities WHERE host_id = $1 ORDER BY process";
    /// What one program says now.
    SAVE = "INSERT INTO hosts_capabilities (host_id, process, names, version, changed_at)
        SELECT h.id, $2, $3, $4, CAST($5 AS BIGINT) FROM hosts_hosts h WHERE h.id = $1
        ON CONFLICT (host_id, process) DO UPDATE SET names = excluded.names, version = excluded.version,
            changed_at = excluded.changed_at";
}

pub(crate) async fn list(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Vec<HostCapabilities>, StoreError> {
    let rows = db.fetch_all(LIST, args![host]).await?;
    rows.iter()
        .map(|row| {
            let names: String = row.get("names")?;
            Ok(HostCapabilities {
                process: row.get("process")?,
                names: names
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect(),
                version: row.get("version")?,
                changed_at: row.get("changed_at")?,
            })
        })
        .collect()
}

pub(crate) async fn save(
    db: &mut impl Executor,
    host: HostId,
    process: &str,
    names: &str,
    version: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(SAVE, args![host, process, names, version, now])
        .await
        .map(drop)
}
