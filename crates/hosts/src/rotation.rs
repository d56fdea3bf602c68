//! Renewing the keys of all hosts, some at a time.
//!
//! A rotation goes through the hosts in the order of their ids, so many per minute: each that is told enrolls again, and a
//! fleet that does so at once is a storm. It is a row, so that it goes on after a restart and on another server.

use std::time::Duration;

use muster_identity::{AgentKeys, Family, HostId};
use muster_store::{Executor, StoreError};

use crate::agents::Inner;
use crate::store;
use crate::store::keys::RotatedHost;

/// Has the keys of one host renewed, as far as that locks nobody out. Gives how many.
pub(crate) async fn rotate(
    keys: &AgentKeys,
    db: &mut impl Executor,
    host: &RotatedHost,
    now: muster_clock::Timestamp,
) -> Result<u64, StoreError> {
    let mut asked = keys.rotate(db, host.id, Family::Osquery, now).await?;
    // Orbits that say nothing of themselves ignore a refusal, and would never come back.
    if host.has_new_orbit {
        asked += keys.rotate(db, host.id, Family::Orbit, now).await?;
    }
    Ok(asked)
}

/// Goes on with the rotation that runs, as far as `elapsed` allows.
pub(crate) async fn step(inner: &Inner, elapsed: Duration) -> Result<(), StoreError> {
    let mut db = &inner.database;
    let Some(rotation) = store::keys::running_rotation(&mut db).await? else {
        return Ok(());
    };
    let now = inner.clock.now();
    let seconds = i64::try_from(elapsed.as_secs()).unwrap_or(1).max(1);
    let count = (rotation.hosts_per_minute * seconds + 59) / 60;
    let hosts =
        store::keys::next_hosts(&mut db, rotation.cursor_id, rotation.started_at, count).await?;
    let Some(last) = hosts.last().map(|host| host.id) else {
        store::keys::end_rotation(&mut db, rotation.id, "finished", now).await?;
        return Ok(());
    };
    let (mut asked, mut skipped, mut changed): (i64, i64, Vec<HostId>) = (0, 0, Vec::new());
    let mut transaction = inner.database.begin().await?;
    for host in &hosts {
        if rotate(&inner.agent_keys, &mut transaction, host, now).await? > 0 {
            asked += 1;
            changed.push(host.id);
        } else {
            skipped += 1;
        }
    }
    if !store::keys::advance_rotation(&mut transaction, rotation.id, last, asked, skipped).await? {
        // It was stopped: nothing of this step counts.
        return Ok(());
    }
    transaction.commit().await?;
    for host in changed {
        inner.agent_keys.revoked(host).await;
    }
    Ok(())
}
