//! Accounts on hosts, and who uses a host.

use std::collections::BTreeSet;

use muster_clock::Timestamp;
use muster_identity::HostId;
use muster_store::{Executor, StoreError, args, placeholders, statements};

use crate::record::{HostEndUser, HostUser};

/// Rows of one statement.
const CHUNK_ROWS: usize = 1_000;

statements! {
    /// The accounts of a host.
    LIST = "SELECT uid, username, type, groupname, shell FROM hosts_users WHERE host_id = $1 ORDER BY uid, username";
    /// One account is gone.
    DELETE = "DELETE FROM hosts_users WHERE host_id = $1 AND uid = $2 AND username = $3";
    /// The people who use a host.
    LIST_END_USERS = "SELECT source, email FROM hosts_end_users WHERE host_id = $1 ORDER BY source, email";
    /// What a source said before is gone.
    CLEAR_END_USERS = "DELETE FROM hosts_end_users WHERE host_id = $1 AND source = $2 AND email <> $3";
    /// Somebody uses a host.
    ADD_END_USER = "INSERT INTO hosts_end_users (host_id, source, email, updated_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT DO NOTHING";
}

/// The accounts of a host.
pub(crate) async fn list(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Vec<HostUser>, StoreError> {
    let rows = db.fetch_all(LIST, args![host]).await?;
    rows.iter()
        .map(|row| {
            Ok(HostUser {
                uid: row.get("uid")?,
                username: row.get("username")?,
                kind: row.get("type")?,
                groupname: row.get("groupname")?,
                shell: row.get("shell")?,
            })
        })
        .collect()
}

/// Makes the accounts of a host what it reported; writes only what differs.
pub(crate) async fn replace(
    db: &mut impl Executor,
    host: HostId,
    reported: &BTreeSet<HostUser>,
) -> Result<(), StoreError> {
    let current: BTreeSet<HostUser> = list(db, host).await?.into_iter().collect();
    let key = |user: &HostUser| (user.uid.clone(), user.username.clone());
    let kept: BTreeSet<_> = reported.iter().map(key).collect();
    for user in current.difference(reported) {
        // One that only changed is overwritten below.
        if !kept.contains(&key(user)) {
            db.execute(DELETE, args![host, &user.uid, &user.username])
                .await?;
        }
    }
    let new: Vec<_> = reported.difference(&current).collect();
    for chunk in new.chunks(CHUNK_ROWS) {
        let sql = format!(
            "INSERT INTO hosts_users (host_id, uid, username, type, groupname, shell) VALUES {}
            ON CONFLICT (host_id, uid, username) DO UPDATE SET type = excluded.type,
                groupname = excluded.groupname, shell = excluded.shell",
            placeholders(chunk.len(), 6)
        );
        let values = chunk.iter().flat_map(|user| {
            args![
                host,
                &user.uid,
                &user.username,
                &user.kind,
                &user.groupname,
                &user.shell
            ]
        });
        db.execute(&sql, values.collect()).await?;
    }
    Ok(())
}

/// The people who use a host.
pub(crate) async fn list_end_users(
    db: &mut impl Executor,
    host: HostId,
) -> Result<Vec<HostEndUser>, StoreError> {
    let rows = db.fetch_all(LIST_END_USERS, args![host]).await?;
    rows.iter()
        .map(|row| {
            Ok(HostEndUser {
                source: row.get("source")?,
                email: row.get("email")?,
            })
        })
        .collect()
}

/// Makes `email` the one person that a source names.
pub(crate) async fn set_end_user(
    db: &mut impl Executor,
    host: HostId,
    source: &str,
    email: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(CLEAR_END_USERS, args![host, source, email])
        .await?;
    if !email.is_empty() {
        db.execute(ADD_END_USER, args![host, source, email, now])
            .await?;
    }
    Ok(())
}
