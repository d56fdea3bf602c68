//! Says that this replica is there, and holds its leases.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_clock::{Clock, Randomness, Timestamp};
use muster_http::error_chain;
use muster_store::{Database, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ReplicaInfo;
use crate::store::{self, LeaseRow};

/// How often a replica says that it is there, and renews its leases.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// How long a lease is held after it was last renewed, by the holder's own clock.
pub const HELD_FOR: Duration = Duration::from_secs(7);
/// A lease that was not renewed for so long, by the watcher's own clock, is taken over.
pub const TAKEN_OVER_AFTER: Duration = Duration::from_secs(9);
/// How long the row of a replica stays that ended without a word.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What a replica says of itself.
#[derive(Debug, Clone)]
pub struct About {
    /// For people: the name of its machine and the port.
    pub name: String,
    /// The release that it runs.
    pub release: String,
}

#[derive(Default)]
struct Held {
    /// Which of the holders this one is, while it is one.
    term: Option<i64>,
    /// Until when it is held without being renewed.
    until: Option<Instant>,
    /// What was seen in somebody else's hands, and since when it has not changed.
    watched: Option<(LeaseRow, Instant)>,
}

#[derive(Default)]
struct LeaseState {
    held: Mutex<Held>,
    /// Told when it may have been taken.
    renewed: tokio::sync::Notify,
}

impl LeaseState {
    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says whether this replica is the one that does some work. Cheap to clone.
#[derive(Clone)]
pub struct Lease(Option<Arc<LeaseState>>);

impl Lease {
    /// Held for ever: for a program that is alone, and for tests.
    pub fn always() -> Self {
        Self(None)
    }

    /// Whether it is held now. Ask before each piece of work.
    pub fn is_held(&self) -> bool {
        let Some(state) = &self.0 else {
            return true;
        };
        let until = state.lock().until;
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Waits until it is held.
    pub async fn held(&self) {
        let Some(state) = &self.0 else {
            return;
        };
        loop {
            let renewed = state.renewed.notified();
            tokio::pin!(renewed);
            renewed.as_mut().enable();
            if self.is_held() {
                return;
            }
            renewed.await;
        }
    }

    /// Waits until it is time, and this replica's turn.
    pub async fn due(&self, timer: &mut tokio::time::Interval) {
        // In this order: a tick that is not waited for to its end stays due.
        self.held().await;
        timer.tick().await;
    }
}

struct Inner {
    database: Database,
    clock: Arc<dyn Clock>,
    id: String,
    about: About,
    started_at: Timestamp,
    leases: Mutex<HashMap<&'static str, Arc<LeaseState>>>,
}

/// The servers that share a database, as one of them. Cheap to clone.
#[derive(Clone)]
pub struct Replicas(Arc<Inner>);

impl Replicas {
    /// A replica with a new id.
    pub fn new(
        database: Database,
        clock: Arc<dyn Clock>,
        randomness: &dyn Randomness,
        about: About,
    ) -> Self {
        let mut id = [0; 8];
        randomness.fill(&mut id);
        Self(Arc::new(Inner {
            id: format!("{:016x}", u64::from_le_bytes(id)),
            started_at: clock.now(),
            database,
            clock,
            about,
            leases: Mutex::default(),
        }))
    }

    /// This replica's id.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The lease of that name, which this replica tries to hold from now on while it [runs](Self::run).
    pub fn lease(&self, name: &'static str) -> Lease {
        let mut leases = self.0.leases.lock().unwrap_or_else(PoisonError::into_inner);
        Lease(Some(Arc::clone(leases.entry(name).or_default())))
    }

    /// All replicas that said something in the last day, with the leases that each holds.
    pub async fn list(&self) -> Result<Vec<ReplicaInfo>, StoreError> {
        store::list(&mut &self.0.database).await
    }

    /// Says that it is there and holds leases, until `stop`; then gives them up, so that others take over at once.
    pub async fn run(&self, stop: CancellationToken) {
        let mut timer = tokio::time::interval(RENEW_INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_well = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = timer.tick() => {}
            }
            match self.renew().await {
                Ok(()) => is_well = true,
                Err(error) => {
                    if std::mem::take(&mut is_well) {
                        let error = error_chain(&error);
                        tracing::warn!(
                            error,
                            "leases could not be renewed; other replicas take them over if this lasts"
                        );
                    }
                }
            }
        }
        if let Err(error) = self.leave().await {
            let error = error_chain(&error);
            tracing::debug!(error, "left without a word; others notice within seconds");
        }
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let mut db = &self.0.database;
        store::release(&mut db, &self.0.id).await?;
        store::gone(&mut db, &self.0.id).await
    }

    /// Renews what is held and takes what is free, once. [`run`](Self::run) does it every two seconds.
    pub async fn renew(&self) -> Result<(), StoreError> {
        let Inner {
            database,
            clock,
            id,
            about,
            started_at,
            leases,
        } = &*self.0;
        let mut db = database;
        let now = clock.now();
        let said = (about.name.as_str(), about.release.as_str());
        store::seen(&mut db, id, said, *started_at, now).await?;
        store::forget(&mut db, now.minus(FORGET_AFTER)).await?;
        let wanted: Vec<(&'static str, Arc<LeaseState>)> = {
            let leases = leases.lock().unwrap_or_else(PoisonError::into_inner);
            leases
                .iter()
                .map(|(name, state)| (*name, Arc::clone(state)))
                .collect()
        };
        if wanted.is_empty() {
            return Ok(());
        }
        let rows = store::leases(&mut db).await?;
        for (name, state) in wanted {
            let row = rows.iter().find(|row| row.name == name);
            // The time counts from before the statement: its answer may be late.
            let before = Instant::now();
            let term = self.hold(name, row, &state, now).await?;
            let mut held = state.lock();
            if term.is_some() && held.term != term {
                tracing::info!(lease = name, "this server does it for all now");
            } else if term.is_none() && held.term.is_some() {
                tracing::warn!(lease = name, "another server does it for all now");
            }
            held.term = term;
            held.until = term.map(|_| before + HELD_FOR);
            drop(held);
            state.renewed.notify_waiters();
        }
        Ok(())
    }

    /// Renews or takes one; gives its term when it is held.
    async fn hold(
        &self,
        name: &'static str,
        row: Option<&LeaseRow>,
        state: &LeaseState,
        now: Timestamp,
    ) -> Result<Option<i64>, StoreError> {
        let (mut db, id) = (&self.0.database, self.0.id.as_str());
        let Some(row) = row else {
            let is_ours = store::create(&mut db, name, id, now).await?;
            return Ok(is_ours.then_some(1));
        };
        if row.holder == id {
            let is_ours = store::renew(&mut db, name, id, row.term).await?;
            return Ok(is_ours.then_some(row.term));
        }
        let is_over = {
            let mut held = state.lock();
            match &held.watched {
                Some((seen, since)) if seen == row => since.elapsed() >= TAKEN_OVER_AFTER,
                _ => {
                    held.watched = Some((row.clone(), Instant::now()));
                    false
                }
            }
        };
        if is_over || row.holder.is_empty() {
            let is_ours = store::take(&mut db, row, id, now).await?;
            return Ok(is_ours.then_some(row.term + 1));
        }
        Ok(None)
    }
}
