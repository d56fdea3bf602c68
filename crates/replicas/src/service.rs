//! Says that this replica is there, and holds its leases.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_bus::{Bus, Hint, Received, Topic};
use muster_clock::{Clock, Randomness, Timestamp};
use muster_http::error_chain;
use muster_negotiation::{Capability, Offer};
use muster_store::{Database, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ReplicaInfo;
use crate::standing::{Server, Standing, Watch};
use crate::store::{self, LeaseRow, ReplicaRow};

/// How often a replica says that it is there, and renews its leases.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// How long a lease is held after it was last renewed, by the holder's own clock.
pub const HELD_FOR: Duration = Duration::from_secs(7);
/// A lease that was not renewed for so long, by the watcher's own clock, is taken over.
pub const TAKEN_OVER_AFTER: Duration = Duration::from_secs(9);
/// How long the row of a replica stays that ended without a word.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a server that begins waits for the others to say no more than it can do. One that is alive looks at least every
/// [`RENEW_INTERVAL`].
const JOIN_PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks meanwhile.
const JOIN_INTERVAL: Duration = Duration::from_millis(100);

/// Something changed about the servers: one began, ended, or says something else. The key is the id of who tells.
const TOPIC: Topic = Topic::new("replicas.servers");

/// What a replica says of itself.
#[derive(Debug, Clone)]
pub struct About {
    /// For people: the name of its machine and the port.
    pub name: String,
    /// The release that it runs.
    pub release: String,
    /// What it can do.
    pub offer: Offer,
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
    /// It is held in this term, or by somebody else, as was found by what was asked at a time.
    fn hold(&self, name: &'static str, term: Option<i64>, asked: Instant) {
        let mut held = self.lock();
        if term.is_some() && held.term != term {
            tracing::info!(lease = name, "this server does it for all now");
        } else if term.is_none() && held.term.is_some() {
            tracing::warn!(lease = name, "another server does it for all now");
        }
        held.term = term;
        held.until = term.map(|_| asked + HELD_FOR);
        drop(held);
        self.renewed.notify_waiters();
    }

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
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    this: Server,
    leases: Mutex<HashMap<&'static str, Arc<LeaseState>>>,
    standing: Standing,
    watch: tokio::sync::Mutex<Watch>,
}

/// The servers that share a database, as one of them. Cheap to clone.
#[derive(Clone)]
pub struct Replicas(Arc<Inner>);

impl Replicas {
    /// A replica with a new id.
    pub fn new(
        database: Database,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        randomness: &dyn Randomness,
        about: About,
    ) -> Self {
        let mut id = [0; 8];
        randomness.fill(&mut id);
        let this = Server {
            id: format!("{:016x}", u64::from_le_bytes(id)),
            name: about.name,
            release: about.release,
            started_at: clock.now(),
            offer: about.offer,
            says: None,
            says_unknown: false,
        };
        Self(Arc::new(Inner {
            standing: Standing::of(this.clone()),
            this,
            database,
            bus,
            clock,
            leases: Mutex::default(),
            watch: tokio::sync::Mutex::default(),
        }))
    }

    /// This replica's id.
    pub fn id(&self) -> &str {
        &self.0.this.id
    }

    /// The lease of that name, which this replica tries to hold from now on while it [runs](Self::run).
    pub fn lease(&self, name: &'static str) -> Lease {
        let mut leases = self.0.leases.lock().unwrap_or_else(PoisonError::into_inner);
        Lease(Some(Arc::clone(leases.entry(name).or_default())))
    }

    /// What this server can do, and what it says of that because of the others.
    pub fn standing(&self) -> &Standing {
        &self.0.standing
    }

    /// All replicas that said something in the last day, with the leases that each holds.
    pub async fn list(&self) -> Result<Vec<ReplicaInfo>, StoreError> {
        store::list(&mut &self.0.database).await
    }

    /// Makes itself known to the others and says what all can do. Call it before the first agent is answered, and
    /// [`run`](Self::run) directly after.
    ///
    /// When the others say more than this server can do, it waits until they have found it; at most some seconds, in case
    /// one of them is gone and nobody noticed yet.
    pub async fn join(&self) -> Result<(), StoreError> {
        self.beat().await?;
        self.tell().await;
        let own = self.0.standing.own();
        let says_more = |server: &Server| {
            server.says_unknown || server.says.is_some_and(|says| !says.is_within(own))
        };
        let begun = Instant::now();
        while self.0.standing.servers().iter().any(says_more) {
            if begun.elapsed() > JOIN_PATIENCE {
                tracing::warn!(
                    "another server says more than this one can do and did not take notice; agents may be told one thing \
                     by it and another by this one until it does"
                );
                break;
            }
            tokio::time::sleep(JOIN_INTERVAL).await;
            self.beat().await?;
        }
        Ok(())
    }

    /// Says that it is there and holds leases, until `stop`; then gives them up, so that others take over at once.
    pub async fn run(&self, stop: CancellationToken) {
        let mut hints = self.0.bus.subscribe();
        let mut are_hints_over = false;
        let mut timer = tokio::time::interval(RENEW_INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_well = true;
        loop {
            let done = tokio::select! {
                () = stop.cancelled() => break,
                _ = timer.tick() => self.renew().await,
                received = hints.next(), if !are_hints_over => match received {
                    Some(received) if self.is_for_us(&received) => self.beat().await,
                    Some(_) => continue,
                    None => {
                        are_hints_over = true;
                        continue;
                    }
                },
            };
            match done {
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

    /// Gives up its leases and says that it is gone. Call it after the last answer.
    async fn leave(&self) -> Result<(), StoreError> {
        let mut db = &self.0.database;
        store::release(&mut db, self.id()).await?;
        store::gone(&mut db, self.id()).await?;
        self.tell().await;
        Ok(())
    }

    fn is_for_us(&self, received: &Received) -> bool {
        match received {
            Received::Hint(hint) => hint.topic == TOPIC && hint.key != self.id(),
            Received::Missed => true,
        }
    }

    /// Has the others look now rather than within seconds.
    async fn tell(&self) {
        if let Err(error) = self.0.bus.publish(Hint::new(TOPIC, self.id())).await {
            tracing::debug!(
                error = error_chain(&error),
                "no hint; others look by themselves"
            );
        }
    }

    /// Says that it is there, looks who else is, and says what all of them can do.
    async fn beat(&self) -> Result<(), StoreError> {
        // One at a time: what is said last has to be what was read last.
        let mut watch = self.0.watch.lock().await;
        let mut db = &self.0.database;
        let said = self.0.standing.spoken().now();
        self.write(said).await?;
        let now = Instant::now();
        let mut rows = store::rows(&mut db).await?;
        rows.retain(|row| row.id != self.id());
        let mut lost = Vec::new();
        for row in watch.look(&rows, now) {
            if store::lost(&mut db, row).await? {
                tracing::warn!(server = row.name, "a server ended without a word");
                lost.push(row.id.clone());
            }
        }
        let mut servers = self.alive(rows, &lost);
        let more = self.0.standing.common(&servers);
        if !more.is_within(said) {
            // More is written before it is said, and those who came meanwhile are looked for once more: one that begins reads
            // what is written, and answers nobody while that is more than it can do.
            self.write(more).await?;
            let rows = store::rows(&mut db).await?;
            servers = self.alive(rows, &lost);
        }
        let before = self.0.standing.agree(servers);
        if let Some(before) = before {
            self.report(before);
            // Others may wait to hear this.
            self.write(self.0.standing.spoken().now()).await?;
        }
        drop(watch);
        if before.is_some() || !lost.is_empty() {
            self.tell().await;
        }
        Ok(())
    }

    /// This server and those whose rows tell that they are there.
    fn alive(&self, mut rows: Vec<ReplicaRow>, lost: &[String]) -> Vec<Server> {
        rows.retain(|row| row.id != self.id() && !row.is_lost && !lost.contains(&row.id));
        let others = rows.into_iter().map(Server::from);
        std::iter::once(self.0.this.clone()).chain(others).collect()
    }

    fn report(&self, before: Offer) {
        let standing = &self.0.standing;
        let names = |offer: Offer, other: Offer| {
            let more = offer.capabilities().filter(|name| !other.has(*name));
            more.map(Capability::name).collect::<Vec<_>>().join(",")
        };
        let now = standing.spoken().now();
        tracing::info!(
            begins = names(now, before),
            ceases = names(before, now),
            "what agents are told changed, to what all servers of this database can do"
        );
    }

    async fn write(&self, says: Offer) -> Result<(), StoreError> {
        let this = self.0.this.clone();
        let row = ReplicaRow {
            id: this.id,
            name: this.name,
            release: this.release,
            started_at: this.started_at,
            seen_at: self.0.clock.now(),
            // The database counts.
            beats: 0,
            offer: this.offer,
            says: Some(says),
            says_unknown: false,
            is_lost: false,
        };
        store::seen(&mut &self.0.database, &row).await
    }

    /// Renews what is held and takes what is free, once. [`run`](Self::run) does it every two seconds.
    pub async fn renew(&self) -> Result<(), StoreError> {
        self.beat().await?;
        let Inner {
            database,
            clock,
            leases,
            ..
        } = &*self.0;
        let mut db = database;
        let now = clock.now();
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
        // The time counts from before the statement: its answer may be late.
        let before = Instant::now();
        store::renew(&mut db, self.id()).await?;
        let rows = store::leases(&mut db).await?;
        let find = |name: &str| rows.iter().find(|row| row.name == name);
        let mut others = Vec::new();
        for (name, state) in wanted {
            match find(name).filter(|row| row.holder == self.id()) {
                Some(row) => state.hold(name, Some(row.term), before),
                None => others.push((name, state)),
            }
        }
        // Each by itself: none is to wait for what happens to another.
        for (name, state) in others {
            let before = Instant::now();
            let term = self.take(name, find(name), &state, now).await?;
            state.hold(name, term, before);
        }
        Ok(())
    }

    /// Takes one that is free or was not renewed for too long; gives its term when that was done.
    async fn take(
        &self,
        name: &'static str,
        row: Option<&LeaseRow>,
        state: &LeaseState,
        now: Timestamp,
    ) -> Result<Option<i64>, StoreError> {
        let (mut db, id) = (&self.0.database, self.id());
        let Some(row) = row else {
            let is_ours = store::create(&mut db, name, id, now).await?;
            return Ok(is_ours.then_some(1));
        };
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
