//! The agents' side of this crate, put together.

use std::sync::Arc;
use std::time::Duration;

use muster_bus::{Bus, Received};
use muster_clock::{Clock, Timestamp};
use muster_http::{ClientAddress, error_chain};
use muster_identity::{AgentKeys, Denials, EnrollmentTokens, Family, HostId};
use muster_replicas::{Lease, Standing};
use muster_sinks::Sink;
use muster_software::Software;
use muster_store::{Database, StoreError};
use tokio_util::sync::CancellationToken;

use crate::checkin::{CheckIn, HOST_TOPIC, LABELS_TOPIC};
use crate::configuration::{Configurations, OptionsSource};
use crate::error::HostsError;
use crate::guesses::Guesses;
use crate::source::{DistributedSource, ScheduleSource};

/// How often labels are read again and hosts compared with the database, in case a hint was lost.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(60);

/// How often software is looked for that no host has any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// How often a rotation of keys goes on.
const ROTATION_TICK: Duration = Duration::from_secs(5);

/// How long an answer waits for what is kept beside it.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the agents' side is made of.
pub struct AgentParts {
    /// Where hosts are kept.
    pub database: Database,
    /// Hints between replicas.
    pub bus: Arc<dyn Bus>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who may enroll.
    pub enrollment_tokens: EnrollmentTokens,
    /// Where it is kept who was denied what.
    pub denials: Denials,
    /// Whose key is whose.
    pub agent_keys: AgentKeys,
    /// Agent options and the organisation.
    pub options: Arc<dyn OptionsSource>,
    /// Inventories.
    pub software: Software,
    /// Where logs go.
    pub sink: Arc<dyn Sink>,
    /// What hosts are asked besides details and labels.
    pub sources: Vec<Arc<dyn DistributedSource>>,
    /// What hosts run by themselves.
    pub schedule: Arc<dyn ScheduleSource>,
    /// What this server can do and says.
    pub standing: Standing,
}

/// Everything that agents ask. Cheap to clone.
#[derive(Clone)]
pub struct Agents(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) enrollment_tokens: EnrollmentTokens,
    pub(crate) denials: Denials,
    pub(crate) agent_keys: AgentKeys,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) check_in: CheckIn,
    pub(crate) configurations: Configurations,
    pub(crate) guesses: Guesses,
    pub(crate) standing: Standing,
}

impl Agents {
    /// Puts the parts together; [`start`](Self::start) reads what has to be in memory.
    pub fn new(parts: AgentParts) -> Self {
        let check_in = CheckIn::new(
            parts.database.clone(),
            Arc::clone(&parts.bus),
            Arc::clone(&parts.clock),
            parts.agent_keys.clone(),
            parts.software,
            parts.sources,
        );
        Self(Arc::new(Inner {
            database: parts.database,
            bus: parts.bus,
            clock: parts.clock,
            enrollment_tokens: parts.enrollment_tokens,
            denials: parts.denials,
            agent_keys: parts.agent_keys,
            configurations: Configurations::new(parts.options, parts.schedule),
            guesses: Guesses::default(),
            sink: parts.sink,
            check_in,
            standing: parts.standing,
        }))
    }

    /// Reads what every check-in needs. Call it before the first request and again never: hints keep it fresh.
    pub async fn start(&self) -> Result<(), StoreError> {
        self.0.check_in.reload_labels().await
    }

    /// Renews keys, follows hints and writes presence until `stop`, then writes what is left. What one replica does for
    /// all hangs on `upkeep`.
    pub async fn run(&self, upkeep: &Lease, stop: CancellationToken) {
        let presence = self.0.check_in.presence().clone();
        let writing = presence.run(Arc::clone(&self.0.clock), stop.clone());
        let watching = self.0.check_in.load().run(stop.clone());
        tokio::join!(writing, watching, self.follow(upkeep, stop));
    }

    /// Keeps memory in step with what other replicas and the operators' side write.
    async fn follow(&self, upkeep: &Lease, stop: CancellationToken) {
        let mut hints = self.0.bus.subscribe();
        let mut timer = tokio::time::interval(RECONCILE_INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut rotate = tokio::time::interval(ROTATION_TICK);
        rotate.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                hint = hints.next() => match hint {
                    Some(received) => self.follow_one(&received).await,
                    None => return,
                },
                _ = timer.tick() => self.reconcile().await,
                () = upkeep.due(&mut rotate) => self.go_on_rotating().await,
                () = upkeep.due(&mut sweep) => self.sweep().await,
            }
        }
    }

    async fn follow_one(&self, received: &Received) {
        match received {
            Received::Hint(hint) if hint.topic == HOST_TOPIC => match hint.key.parse() {
                Ok(id) => self.0.check_in.forget(HostId(id)),
                Err(_) => self.0.check_in.forget_all(),
            },
            Received::Hint(hint) if hint.topic == LABELS_TOPIC => self.reload_labels().await,
            Received::Hint(_) => {}
            Received::Missed => {
                self.0.check_in.forget_all();
                self.reload_labels().await;
            }
        }
    }

    /// Brings memory in step with the database without hints, which may be lost. [`run`](Self::run) does it every minute.
    pub async fn reconcile(&self) {
        self.reload_labels().await;
        if let Err(error) = self.0.check_in.reconcile().await {
            tracing::warn!(
                error = error_chain(&error),
                "hosts in memory could not be compared with the database"
            );
        }
    }

    /// Has the next hosts of a rotation renew their keys. [`run`](Self::run) does it every five seconds.
    pub async fn go_on_rotating(&self) {
        if let Err(error) = crate::rotation::step(&self.0, ROTATION_TICK).await {
            tracing::warn!(
                error = error_chain(&error),
                "the rotation of keys could not go on; it is tried again"
            );
        }
    }

    async fn sweep(&self) {
        if let Err(error) = self.0.check_in.software().sweep(self.now()).await {
            tracing::warn!(
                error = error_chain(&error),
                "software that no host has could not be swept away; it is tried again"
            );
        }
    }

    async fn reload_labels(&self) {
        if let Err(error) = self.0.check_in.reload_labels().await {
            tracing::warn!(
                error = error_chain(&error),
                "labels could not be read; the former ones stay"
            );
        }
    }

    /// The check-in, for those who serve it by other protocols.
    pub fn check_in(&self) -> &CheckIn {
        &self.0.check_in
    }

    /// Whose key it is. `address` is where the request came from.
    pub async fn authenticate(
        &self,
        key: &str,
        family: Family,
        address: ClientAddress,
    ) -> Result<HostId, HostsError> {
        if key.contains(char::REPLACEMENT_CHARACTER) {
            // Bytes that are no text were damaged on their way: that is no reason to throw a key away.
            return Err(HostsError::Invalid("the key has bytes that are no text"));
        }
        let keys = &self.0.agent_keys;
        let whose = keys.authenticate_from(key, family, Some(address)).await?;
        if whose.has_rival {
            self.tell_apart(whose.host_id).await;
        }
        Ok(whose.host_id)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Notes that a host was heard.
    pub(crate) fn seen(&self, host: HostId) {
        self.0.check_in.presence().seen(host, self.now());
    }
}

/// Does something beside an answer, which must not fail for it nor wait long: the next request says the same again.
pub(crate) async fn beside<T, E: std::error::Error + 'static>(
    what: &'static str,
    host: HostId,
    work: impl Future<Output = Result<T, E>>,
) -> Option<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(done)) => Some(done),
        Ok(Err(error)) => {
            tracing::debug!(
                host.id = host.0,
                what,
                error = error_chain(&error),
                "not kept this time"
            );
            None
        }
        Err(_) => {
            tracing::debug!(host.id = host.0, what, "not kept in time");
            None
        }
    }
}
