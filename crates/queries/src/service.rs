//! The services of this crate, put together.

use std::sync::Arc;
use std::time::Duration;

use muster_bus::{Bus, Hint, Received, Topic};
use muster_clock::{Clock, Randomness as _, SystemRandomness};
use muster_http::error_chain;
use muster_identity::{AGENT_KEYS_TOPIC, Audit, HostId, Identity, Sessions, Teams};
use muster_replicas::Lease;
use muster_store::{Database, StoreError};
use tokio_util::sync::CancellationToken;

use crate::writer::{WriterTask, writer};
use crate::{Campaigns, Live, Notifier, SavedQueries, Targets};

/// How often finished campaigns are ended and asked hosts are marked, while any campaign runs.
const TICK: Duration = Duration::from_secs(1);
/// How often memory and database are compared.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(15);
/// How often old results are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How often other replicas are told of answers, at most.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// Settings of the organisation that decide here. Memory only.
pub trait Switches: Send + Sync + 'static {
    /// Whether live queries are switched off.
    fn live_queries_disabled(&self) -> bool;
}

/// Live queries are on.
pub struct AlwaysOn;

impl Switches for AlwaysOn {
    fn live_queries_disabled(&self) -> bool {
        false
    }
}

/// What every service needs.
pub(crate) struct Context {
    pub(crate) database: Database,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) audit: Audit,
    pub(crate) teams: Teams,
    pub(crate) sessions: Sessions,
    pub(crate) switches: Arc<dyn Switches>,
}

impl Context {
    pub(crate) async fn hint(&self, topic: Topic, key: impl ToString) {
        if let Err(error) = self.bus.publish(Hint::new(topic, key)).await {
            tracing::warn!(error = error_chain(&error), "could not publish a hint");
        }
    }
}

/// A name for these services that no others have.
fn instance() -> String {
    let mut bytes = [0; 8];
    SystemRandomness.fill(&mut bytes);
    format!("{:016x}", u64::from_le_bytes(bytes))
}

/// Everything about queries. Cheap to clone.
#[derive(Clone)]
pub struct Queries {
    /// Queries with a name.
    pub saved: SavedQueries,
    /// Live queries.
    pub campaigns: Campaigns,
    /// What hosts owe, for the check-in.
    pub live: Live,
    /// Sockets that say "ask now".
    pub notifier: Notifier,
    context: Arc<Context>,
    writer_task: Arc<std::sync::Mutex<Option<WriterTask>>>,
}

impl Queries {
    /// Puts the services together; [`start`](Self::start) reads what has to be in memory.
    pub fn new(
        database: Database,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        identity: &Identity,
        targets: Arc<dyn Targets>,
        switches: Arc<dyn Switches>,
    ) -> Self {
        let (writer, task) = writer(database.clone());
        let context = Arc::new(Context {
            database,
            bus,
            clock,
            audit: identity.audit.clone(),
            teams: identity.teams.clone(),
            sessions: identity.sessions.clone(),
            switches,
        });
        let saved = SavedQueries::new(Arc::clone(&context));
        let (live, notifier) = (Live::new(writer), Notifier::default());
        let campaigns = Campaigns::new(
            Arc::clone(&context),
            live.clone(),
            saved.clone(),
            notifier.clone(),
            targets,
            instance(),
        );
        let writer_task = Arc::new(std::sync::Mutex::new(Some(task)));
        Self {
            saved,
            campaigns,
            live,
            notifier,
            context,
            writer_task,
        }
    }

    /// Reads the schedule and the campaigns that run, and begins to keep answers. Call it before the first request.
    pub async fn start(&self) -> Result<(), StoreError> {
        let task = self
            .writer_task
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            tokio::spawn(task.run());
        }
        self.saved.reload().await?;
        self.campaigns.reconcile().await
    }

    /// Whether live queries can be begun and their results kept.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.context.database.ping().await
    }

    /// Ends campaigns, follows hints and forgets what is old, until `stop`. What one replica does for all hangs on
    /// `upkeep`.
    pub async fn run(&self, upkeep: &Lease, stop: CancellationToken) {
        let mut hints = self.context.bus.subscribe();
        let timer = |period| {
            let mut timer = tokio::time::interval(period);
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            timer
        };
        let (mut tick, mut reconcile, mut forget, mut tell) = (
            timer(TICK),
            timer(RECONCILE_INTERVAL),
            timer(FORGET_INTERVAL),
            timer(TELL_INTERVAL),
        );
        loop {
            let done = tokio::select! {
                () = stop.cancelled() => break,
                hint = hints.next() => match hint {
                    Some(received) => {
                        self.follow(&received).await;
                        Ok(())
                    }
                    None => break,
                },
                _ = tick.tick() => self.campaigns.tick().await,
                _ = reconcile.tick() => self.reconcile().await,
                _ = tell.tick() => {
                    self.campaigns.tell_replicas().await;
                    Ok(())
                }
                () = upkeep.due(&mut forget) => self.campaigns.forget_old().await,
            };
            if let Err(error) = done {
                tracing::warn!(
                    error = error_chain(&error),
                    "campaigns could not be looked after; it is tried again"
                );
            }
        }
        if let Err(error) = self.campaigns.tick().await {
            tracing::warn!(
                error = error_chain(&error),
                "who was asked last could not be kept"
            );
        }
    }

    async fn reconcile(&self) -> Result<(), StoreError> {
        self.saved.reload().await?;
        self.campaigns.reconcile().await
    }

    async fn follow(&self, received: &Received) {
        self.saved.follow(received).await;
        self.campaigns.follow(received).await;
        match received {
            // The host's keys changed: its sockets prove who they are anew.
            Received::Hint(hint) if hint.topic == AGENT_KEYS_TOPIC => match hint.key.parse() {
                Ok(id) => self.notifier.close(HostId(id)),
                Err(_) => self.notifier.check_all(),
            },
            Received::Hint(_) => {}
            // Any key may have changed.
            Received::Missed => self.notifier.check_all(),
        }
    }
}
