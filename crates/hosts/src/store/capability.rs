//! What programs on hosts said about their abilities.

use muster_identity::HostId;
use muster_store::{Executor, StoreError, args, statements};

use crate::capability::Lost;
use crate::record::HostCapabilities;
use crate::state::Said;

statements! {
    /// What the programs of a host said.
    LIST = "SELECT process, names, version, changed_at, lost FROM hosts_capabilities WHERE host_id = $1 ORDER BY process";
    /// What one program says now.
    SAVE = "INSERT INTO hosts_capabilities (host_id, process, names, version, changed_at, lost)
        SELECT h.id, $2, $3, $4, CAST($5 AS BIGINT), $6 FROM hosts_hosts h WHERE h.id = $1
        ON CONFLICT (host_id, process) DO UPDATE SET names = excluded.names, version = excluded.version,
            changed_at = excluded.changed_at, lost = excluded.lost";
}

pub(crate) async fn list(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Vec<HostCapabilities>, StoreError> {
    let said = said(db, host).await?.into_iter();
    Ok(said
        .map(|said| HostCapabilities {
            names: said
                .names
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            process: said.process,
            version: said.version,
            changed_at: said.changed_at,
        })
        .collect())
}

/// The same as the check-in keeps it.
pub(crate) async fn said(db: &mut impl Executor, host: HostId) -> Result<Vec<Said>, StoreError> {
    let rows = db.fetch_all(LIST, args![host]).await?;
    rows.iter()
        .map(|row| {
            Ok(Said {
                process: row.get("process")?,
                version: row.get("version")?,
                names: row.get("names")?,
                changed_at: row.get("changed_at")?,
                lost: Lost::from_text(&row.get::<String>("lost")?),
            })
        })
        .collect()
}

pub(crate) async fn save(
    db: &mut impl Executor,
    host: HostId,
    said: &Said,
) -> Result<(), StoreError> {
    let args = args![
        host,
        &said.process,
        &said.names,
        &said.version,
        said.changed_at,
        said.lost.to_text(),
    ];
    db.execute(SAVE, args).await.map(drop)
}
