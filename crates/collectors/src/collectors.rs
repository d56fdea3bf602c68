//! Collectors as they come: credentials, records in memory, and what a step comes to, kept and sent.

mod commit;
mod components;
mod memory;
mod push;
mod renewal;
mod reply;
mod session;
mod settings;
mod upkeep;
mod writer;

use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use dashmap::DashMap;
use muster_bus::{Bus, Hint, Topic};
use muster_clock::{Clock, Randomness, Timestamp};
use muster_http::error_chain;
use muster_identity::{CollectorId, DENIED_AGENT, DENIED_ENROLLMENT, Identity};
use muster_store::{Database, StoreError};
use muster_wire_opamp::proto::AgentToServer;
use muster_wire_opamp::{InstanceUid, Outgoing, Refusal as WireRefusal};

use crate::ExchangeError;
use crate::knocks::Knocks;
use crate::links::Links;
use crate::live::Live;
use crate::newcomers::Newcomers;
use crate::pace::Pace;
use crate::presence::Presence;
use crate::record::{ConfigReport, LineKey, Part, Record};
use crate::service::{
    Carrier, DesiredConfig, Effect, Exchange, Other, Outcome, Principal, Refusal, Settings, Step,
    speaks_for, step,
};
use crate::telemetry::Telemetry;

use commit::Committed;
pub(crate) use reply::Reply;
pub(crate) use session::Session;

/// Hints that a collector was changed: its id, and by which replica.
pub(crate) const CHANGED_TOPIC: Topic = Topic::new("collectors.changed");
/// Hints that there may be something to tell a collector.
pub(crate) const PUSH_TOPIC: Topic = Topic::new("collectors.push");
/// Hints that it is to be seen whether a collector is there.
pub(crate) const PROBE_TOPIC: Topic = Topic::new("collectors.probe");
/// How many locks order the messages of agents.
const LOCKS: usize = 4_096;
/// How often a step is taken again when others change the same agent.
const ATTEMPTS: usize = 6;
/// How many requests over plain HTTP an agent may send at once.
const BURST_REQUESTS: u32 = 60;
/// How often a further one.
const REQUEST_INTERVAL: Duration = Duration::from_millis(500);

/// Where remote configurations come from: which agent should run what. Asked at every message, so from memory.
pub trait RemoteConfigs: Send + Sync + 'static {
    /// What an agent should run; none when nothing is assigned to it.
    fn desired(&self, record: &Record) -> Option<Arc<DesiredConfig>>;

    /// An agent said something new about its remote configuration. The change is kept.
    fn reported(&self, collector: CollectorId, report: &ConfigReport);

    /// A configuration was sent to an agent, by its hash as hexadecimal digits.
    fn sent(&self, collector: CollectorId, hash: &str);

    /// An agent is new, or its attributes, its health or its team changed: what it should run may be something else now.
    fn changed(&self, collector: CollectorId);
}

/// What the service is made of.
pub struct CollectorParts {
    /// Where everything is kept.
    pub database: Database,
    /// Hints between replicas.
    pub bus: Arc<dyn Bus>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// For uids, hashes and ids of connections.
    pub randomness: Arc<dyn Randomness>,
    /// Who is who.
    pub identity: Identity,
    /// What operators decided.
    pub settings: Settings,
}

struct Inner {
    database: Database,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    identity: Identity,
    settings: RwLock<Arc<Settings>>,
    configs: OnceLock<Arc<dyn RemoteConfigs>>,
    links: Links,
    telemetry: Telemetry,
    /// Tells this replica's hints from those of others.
    origin: u64,
    records: DashMap<CollectorId, Arc<Record>>,
    uids: DashMap<InstanceUid, CollectorId>,
    /// Count what was forgotten, so that a look-up knows whether something was meanwhile: what it read may be old.
    stripes: Vec<AtomicU64>,
    /// Something was missed: memory is to be compared with the database now.
    compare_soon: tokio::sync::Notify,
    components: components::KnownComponents,
    /// How fast agents send over plain HTTP, by credential as well: nobody is to suffer for whoever shows their uid.
    paces: DashMap<(LineKey, InstanceUid), Pace>,
    locks: Vec<tokio::sync::Mutex<()>>,
    queue: writer::Queue,
    presence: Presence,
    live: Live,
    knocks: Knocks,
    newcomers: Newcomers,
    /// When a socket was last closed since the database was away, in microseconds.
    away_at: AtomicI64,
}

/// Collectors. Cheap to clone.
#[derive(Clone)]
pub struct Collectors(Arc<Inner>);

impl Collectors {
    /// The service on a migrated database; nothing is read yet.
    pub fn new(parts: CollectorParts) -> Self {
        let mut origin = [0; 8];
        parts.randomness.fill(&mut origin);
        let locks = (0..LOCKS).map(|_| tokio::sync::Mutex::default()).collect();
        let newcomers = Newcomers::new(parts.settings.new_per_day);
        Self(Arc::new(Inner {
            presence: Presence::new(parts.database.clone()),
            database: parts.database,
            bus: parts.bus,
            clock: parts.clock,
            randomness: parts.randomness,
            identity: parts.identity,
            settings: RwLock::new(Arc::new(parts.settings)),
            configs: OnceLock::new(),
            links: Links::default(),
            telemetry: Telemetry::default(),
            origin: u64::from_le_bytes(origin),
            records: DashMap::new(),
            uids: DashMap::new(),
            stripes: (0..memory::STRIPES).map(|_| AtomicU64::new(0)).collect(),
            compare_soon: tokio::sync::Notify::new(),
            components: components::KnownComponents::default(),
            paces: DashMap::new(),
            locks,
            queue: writer::Queue::default(),
            live: Live::default(),
            knocks: Knocks::default(),
            newcomers,
            away_at: AtomicI64::new(i64::MIN),
        }))
    }

    /// Whoever assigns remote configurations is asked for them from now on. Only the first is attached.
    pub fn attach_configs(&self, configs: Arc<dyn RemoteConfigs>) {
        if self.0.configs.set(configs).is_err() {
            tracing::warn!("remote configurations are attached to collectors twice");
        }
    }

    /// How many sockets are open on this replica.
    pub fn sockets(&self) -> usize {
        self.0.live.count()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// By what hints of this replica are told from those of others.
    pub(crate) fn origin(&self) -> u64 {
        self.0.origin
    }

    pub(crate) fn database(&self) -> &Database {
        &self.0.database
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    pub(crate) fn links(&self) -> &Links {
        &self.0.links
    }

    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.0.telemetry
    }

    pub(crate) fn randomness(&self) -> &dyn Randomness {
        &*self.0.randomness
    }

    pub(crate) fn subscribe(&self) -> muster_bus::Subscription {
        self.0.bus.subscribe()
    }

    pub(crate) fn live(&self) -> &Live {
        &self.0.live
    }

    pub(crate) fn knocks(&self) -> &Knocks {
        &self.0.knocks
    }

    /// A number that no other connection has, on any replica.
    pub(crate) fn new_connection(&self) -> u64 {
        let mut bytes = [0; 8];
        self.0.randomness.fill(&mut bytes);
        u64::from_le_bytes(bytes).max(1)
    }

    /// Tells every replica something. That they hear of it late is no reason to fail.
    pub(crate) async fn hint(&self, topic: Topic, key: impl ToString) {
        if let Err(error) = self.0.bus.publish(Hint::new(topic, key)).await {
            tracing::warn!(error = error_chain(&error), "could not publish a hint");
        }
    }

    fn lock(&self, uid: InstanceUid) -> &tokio::sync::Mutex<()> {
        let mut hasher = std::hash::DefaultHasher::new();
        uid.hash(&mut hasher);
        &self.0.locks[hasher.finish() as usize % LOCKS]
    }

    /// Answers a message.
    pub(crate) async fn exchange(
        &self,
        session: &Session,
        message: &AgentToServer,
    ) -> Result<Reply, ExchangeError> {
        metrics::counter!("muster_collectors_messages_total", "carrier" => session.connection.carrier.name())
            .increment(1);
        let principal = self.principal(session).await?;
        let uid = match InstanceUid::from_wire(&message.instance_uid) {
            Ok(uid) => uid,
            Err(error) => {
                refused("bad_uid");
                let outgoing = Outgoing::refusal(
                    message.instance_uid.clone(),
                    WireRefusal::BadRequest,
                    error.to_string(),
                );
                return Ok(Reply::refused(outgoing));
            }
        };
        if session.connection.carrier == Carrier::Http && self.is_too_fast(principal.line(), uid) {
            refused("too_many");
            return Err(ExchangeError::TooMany);
        }
        // The messages of an agent one after the other, whatever connections they come by.
        let _ordered = self.lock(uid).lock().await;
        let mut conflict = None;
        for attempt in 0..ATTEMPTS {
            match self
                .attempt(session, &principal, uid, message, attempt > 0)
                .await
            {
                Ok(Some(reply)) => return Ok(reply),
                // Somebody else changed it meanwhile.
                Ok(None) => {}
                Err(ExchangeError::Unavailable(error)) if error.is_duplicate() => {
                    conflict = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(ExchangeError::Unavailable(conflict.unwrap_or_else(|| {
            StoreError::corrupt("answer an agent", "others changed it all the time")
        })))
    }

    /// Whether an agent sends more over plain HTTP than anybody needs. Sockets are read more slowly instead.
    fn is_too_fast(&self, line: LineKey, uid: InstanceUid) -> bool {
        let now = self.now();
        let mut pace = self
            .0
            .paces
            .entry((line, uid))
            .or_insert_with(|| Pace::new(now));
        !pace.admits(now, REQUEST_INTERVAL, BURST_REQUESTS)
    }

    async fn attempt(
        &self,
        session: &Session,
        principal: &Principal,
        uid: InstanceUid,
        message: &AgentToServer,
        is_again: bool,
    ) -> Result<Option<Reply>, ExchangeError> {
        let mut known = self.by_uid(uid, is_again).await?;
        if !is_again
            && let Some(found) = &known
            && self.may_be_old(&found.record, principal, message)
        {
            known = self.by_uid(uid, true).await?;
        }
        let mark = known.as_ref().map(|known| known.mark);
        let record = known.map(|known| known.record);
        let owner = self.owner(principal, record.as_deref()).await?;
        let mut tried = Vec::new();
        let (taken, mark, judged) = loop {
            let step = self.take(
                session,
                principal,
                uid,
                message,
                Whose {
                    record: record.as_deref(),
                    owner: owner.as_ref().map(|owner| &*owner.record),
                    other: None,
                    tried: &tried,
                },
            );
            let (id, other) = match step.await? {
                Step::Other(id, other) => (id, other),
                taken => break (taken, mark, record.clone()),
            };
            let Some(named) = self.known(id, is_again).await? else {
                // It was deleted.
                tried.push(id);
                continue;
            };
            let step = self.take(
                session,
                principal,
                uid,
                message,
                Whose {
                    record: Some(&named.record),
                    owner: None,
                    other: Some(other),
                    tried: &[],
                },
            );
            match step.await? {
                Step::Another => tried.push(id),
                taken => break (taken, Some(named.mark), Some(named.record)),
            }
        };
        match taken {
            Step::Done(outcome) => {
                let owners = owner.filter(|owner| owner.record.id == outcome.record.id);
                let mark = owners.map_or(mark, |owner| Some(owner.mark));
                let mark = mark.filter(|_| !outcome.is_new);
                let counted = self.count_newcomer(session, principal, &outcome)?;
                let finished = self.finish(session, principal, outcome, mark).await;
                let is_let_in = matches!(&finished, Ok(Some(reply)) if !reply.is_unauthorized);
                if let (Some(token), false) = (counted, is_let_in) {
                    self.0.newcomers.put_back(token, session.address);
                }
                finished
            }
            Step::Refused(refusal) => {
                let id = judged.map(|record| record.id);
                Ok(Some(self.refuse(session, uid, id, refusal)))
            }
            // Nobody was named who could be another: it is looked at anew.
            Step::Other(..) | Step::Another => Ok(None),
        }
    }

    fn refuse(
        &self,
        session: &Session,
        uid: InstanceUid,
        id: Option<CollectorId>,
        refusal: Refusal,
    ) -> Reply {
        refused(refusal.reason());
        let subject = id.map(|id| id.to_string()).unwrap_or_default();
        self.deny(
            session,
            DENIED_AGENT,
            refusal.reason(),
            "collector",
            subject,
        );
        match refusal {
            Refusal::Unauthorized { .. } => Reply {
                collector: id.filter(|_| refusal == Refusal::REVOKED),
                ..Reply::unauthorized(uid)
            },
            Refusal::BadRequest {
                message, closes, ..
            } => Reply {
                closes,
                ..Reply::refused(Outgoing::refusal(uid, WireRefusal::BadRequest, message))
            },
        }
    }

    async fn take(
        &self,
        session: &Session,
        principal: &Principal,
        uid: InstanceUid,
        message: &AgentToServer,
        whose: Whose<'_>,
    ) -> Result<Step, StoreError> {
        let record = whose.record;
        let now = self.now();
        let shared_components = self.shared_components(message, record, principal).await?;
        let desired = record.and_then(|record| self.0.configs.get()?.desired(record));
        let telemetry = record.and_then(|record| self.0.telemetry.desired(record));
        Ok(step(&Exchange {
            message,
            uid,
            principal,
            record,
            other: whose.other,
            tried: whose.tried,
            owner: whose.owner,
            connection: session.connection,
            is_key_live: record.is_some_and(|record| self.is_key_live(record, session, now)),
            shared_components: shared_components.as_deref(),
            desired_config: desired.as_deref(),
            telemetry: telemetry.as_deref(),
            settings: &self.settings(),
            now,
            randomness: &*self.0.randomness,
        }))
    }

    /// Whether an agent's own key is in use on another socket of this replica.
    fn is_key_live(&self, record: &Record, session: &Session, now: Timestamp) -> bool {
        let line = record
            .durable
            .key_id
            .and_then(|key| record.line(LineKey::Key(key)));
        line.is_some_and(|line| {
            line.ended_at.is_none()
                && line.connection != session.connection.id
                && self
                    .0
                    .live
                    .is_alive(line.connection, record.interval(), now)
        })
    }

    /// Whether another replica may know better: it answered the messages in between, or saw the agent's key.
    fn may_be_old(&self, record: &Record, principal: &Principal, message: &AgentToServer) -> bool {
        let line = record.line(principal.line());
        let is_next = line.is_some_and(|line| {
            [line.sequence, line.sequence.wrapping_add(1)].contains(&message.sequence_num)
        });
        (!is_next || record.durable.contested_at.is_some()) && self.0.bus.status().replicas > 1
    }

    /// Keeps what a step comes to and makes the answer; none when somebody else changed the agent meanwhile.
    async fn finish(
        &self,
        session: &Session,
        principal: &Principal,
        outcome: Box<Outcome>,
        mark: Option<u64>,
    ) -> Result<Option<Reply>, ExchangeError> {
        let outcome: Arc<Outcome> = Arc::from(outcome);
        let (mut record, offer) = if outcome.is_changed {
            match self.commit(session, principal, &outcome).await? {
                Committed::Done { record, offer } => (*record, offer.map(|offer| *offer)),
                Committed::Conflict => return Ok(None),
                Committed::Refused(reason) => {
                    refused(reason);
                    self.deny(
                        session,
                        DENIED_ENROLLMENT,
                        reason,
                        "collector",
                        String::new(),
                    );
                    return Ok(Some(Reply::unauthorized(outcome.uid)));
                }
            }
        } else {
            (outcome.record.clone(), None)
        };
        let is_known = record.id != CollectorId(0);
        let id = record.id;
        let is_told = speaks_for(principal, &record);
        if is_known {
            let before = self.0.records.get(&id).map(|record| Arc::clone(&record));
            if let Some(before) = &before {
                record.take_ends(before);
            }
            self.0.presence.heard(&record, before.as_deref());
            // The uid in the message need not be the agent's: that is told by what is kept.
            let uids = outcome.effects.iter().filter_map(|effect| match effect {
                Effect::Uid(uid) => Some(*uid),
                _ => None,
            });
            // Nobody forgot one that was not there.
            let mark = mark.unwrap_or_else(|| self.mark(id));
            self.remember(uids, record, mark);
        }
        self.follow_up(id, &outcome).await;
        Ok(Some(Reply {
            outgoing: outcome.answer(offer),
            collector: is_known.then_some(id),
            is_told,
            closes: false,
            is_unauthorized: false,
        }))
    }

    /// What is told to others once everything is kept.
    async fn follow_up(&self, id: CollectorId, outcome: &Outcome) {
        for flag in outcome.update.flags.names() {
            metrics::counter!("muster_collectors_requests_total", "what" => flag).increment(1);
        }
        let configs = self.0.configs.get();
        for effect in &outcome.effects {
            match effect {
                Effect::Probe => {
                    self.0.live.probe(id);
                    self.hint(PROBE_TOPIC, id).await;
                }
                Effect::Adopted => {
                    metrics::counter!("muster_collectors_adoptions_total").increment(1);
                }
                Effect::ConfigReported(report) => {
                    if let Some(configs) = configs {
                        configs.reported(id, report);
                    }
                }
                Effect::ConfigSent { hash } => {
                    if let Some(configs) = configs {
                        configs.sent(id, hash);
                    }
                }
                Effect::Event { .. }
                | Effect::Uid(_)
                | Effect::BindKey(_)
                | Effect::CameBack(_) => {}
            }
        }
        let mut parts = outcome.parts.iter();
        if id != CollectorId(0) && parts.any(|(part, _)| *part == Part::Description) {
            self.0.links.wish([id]);
            self.0.telemetry.forget(id);
        }
        // Its components and capabilities count as well.
        if let Some(configs) = configs
            && outcome.is_changed
            && id != CollectorId(0)
        {
            configs.changed(id);
        }
        if outcome.is_changed && id != CollectorId(0) {
            self.hint(CHANGED_TOPIC, format!("{id} {}", self.0.origin))
                .await;
        }
    }
}

/// Whose message it may be.
struct Whose<'a> {
    record: Option<&'a Record>,
    owner: Option<&'a Record>,
    other: Option<Other>,
    tried: &'a [CollectorId],
}

#[cfg(test)]
mod tests;

fn refused(reason: &'static str) {
    metrics::counter!("muster_collectors_refusals_total", "reason" => reason).increment(1);
}
