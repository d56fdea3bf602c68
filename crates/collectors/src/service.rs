//! What becomes of a message: a pure function of the message, who sent it, what is known, the time and randomness.
//!
//! [`step`] gives the answer, the record as it is from now on, and what is to be kept; it does nothing itself. Whoever calls
//! it keeps all of that in one unit of work, under the record's revision, and only then answers. When somebody else changed
//! the record meanwhile, the step is taken again with what it is now.
//!
//! [`push`] is the same without a message: what there is to tell an agent that holds a connection.

mod answer;
mod config;
mod judge;
mod merge;
mod newcomer;
mod offer;
mod sequence;
mod telemetry;

pub use judge::speaks_for;
use newcomer::{fresh, how};

use std::collections::BTreeMap;

use muster_clock::{Randomness, Timestamp};
use muster_identity::{AgentKeyId, CollectorId, EnrollmentTokenId, KnownAgents, TeamId};
use muster_wire_opamp::proto::{AgentToServer, CustomMessage};
use muster_wire_opamp::{InstanceUid, ServerFlags, Update};
use serde_json::{Value, json};

use crate::limits::{
    COMEBACKS_PER_DAY, CONTEST_LASTS, DEFAULT_HEARTBEAT_SECONDS, REASSIGNMENT_PAUSE, UNDER_WAY,
};
use crate::masking::Masking;
use crate::record::{
    Comebacks, ConfigReport, CopyOnWrite, Durable, LineKey, Part, Record, Standing,
};
use crate::telemetry::OwnTelemetry;

pub use answer::SERVER_CAPABILITIES;
pub use offer::{OfferPlan, OfferSettings};

/// Bits of agents' capabilities that decisions hang on, as messages and records have them.
pub(crate) mod bits {
    use muster_wire_opamp::{AgentCapabilities as Can, AgentFlags};

    pub(crate) const ACCEPTS_REMOTE_CONFIG: u64 = Can::ACCEPTS_REMOTE_CONFIG.bits();
    pub(crate) const REPORTS_EFFECTIVE_CONFIG: u64 = Can::REPORTS_EFFECTIVE_CONFIG.bits();
    pub(crate) const ACCEPTS_CONNECTION_SETTINGS: u64 =
        Can::ACCEPTS_OPAMP_CONNECTION_SETTINGS.bits();
    pub(crate) const ACCEPTS_RESTART: u64 = Can::ACCEPTS_RESTART_COMMAND.bits();
    pub(crate) const REPORTS_HEALTH: u64 = Can::REPORTS_HEALTH.bits();
    pub(crate) const REPORTS_REMOTE_CONFIG: u64 = Can::REPORTS_REMOTE_CONFIG.bits();
    pub(crate) const REPORTS_HEARTBEAT: u64 = Can::REPORTS_HEARTBEAT.bits();
    /// The agent asks for a uid.
    pub(crate) const REQUEST_INSTANCE_UID: u64 = AgentFlags::REQUEST_INSTANCE_UID.bits();
}

/// Who sent a message, by what it proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Somebody who knows an enrollment token, which many share.
    Token(TokenGrant),
    /// Whoever has a key of its own.
    Key(KeyGrant),
}

/// What an enrollment token is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGrant {
    /// Which token.
    pub id: EnrollmentTokenId,
    /// Into which team it enrolls.
    pub team_id: Option<TeamId>,
    /// What happens when an agent that has a key of its own comes back with it.
    pub policy: KnownAgents,
    /// Whether agents that came by it are forgotten soon after they go.
    pub is_ephemeral: bool,
    /// Whether it enrolls agents that were not known: its uses may be used up.
    pub admits_new: bool,
}

/// What a key of an agent is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGrant {
    /// Which key.
    pub id: AgentKeyId,
    /// Whose; none for one that was made in advance and not used yet.
    pub collector: Option<CollectorId>,
    /// The team of a key that was made in advance.
    pub team_id: Option<TeamId>,
    /// Whether a newer one is in use.
    pub is_superseded: bool,
    /// Whether it is to be replaced.
    pub is_due: bool,
}

impl Principal {
    /// Under which the numbers of messages are counted.
    pub fn line(&self) -> LineKey {
        match self {
            Self::Token(token) => LineKey::Token(token.id),
            Self::Key(key) => LineKey::Key(key.id),
        }
    }
}

/// By what messages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// A request and its answer.
    Http,
    /// A socket, on which the server can speak first.
    WebSocket,
}

/// On which connection a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Tells sockets apart, on all servers; 0 for plain HTTP.
    pub id: u64,
    /// By what.
    pub carrier: Carrier,
}

/// A remote configuration that an agent should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredConfig {
    /// Changes with the content.
    pub hash: Vec<u8>,
    /// Its files by name. Without any, nothing is sent: some agents stop when they are given nothing.
    pub files: BTreeMap<String, ConfigFile>,
}

/// A file of a remote configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Its content.
    pub body: Vec<u8>,
    /// Its type, such as `text/yaml`; empty when the agent knows.
    pub content_type: String,
}

/// What operators decided for all agents.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What offers carry beside the key; none when keys cannot be offered.
    pub offers: Option<OfferSettings>,
    /// Which values are masked in effective configurations.
    pub masking: Masking,
    /// How many new agents may come by one token from one address in a day: all of them at once, then evenly.
    pub new_per_day: u32,
}

/// A message with its surroundings.
pub struct Exchange<'a> {
    /// The message.
    pub message: &'a AgentToServer,
    /// The uid in it.
    pub uid: InstanceUid,
    /// Who sent it.
    pub principal: &'a Principal,
    /// The agent that goes or went by the uid, or that [`Step::Other`] named.
    pub record: Option<&'a Record>,
    /// What there is to know of the record when it is the one that [`Step::Other`] named.
    pub other: Option<Other>,
    /// Agents that [`Step::Other`] named and that are gone, or turned out not to be who sent this.
    pub tried: &'a [CollectorId],
    /// The agent whose key was shown, when it is not the record.
    pub owner: Option<&'a Record>,
    /// Where it came.
    pub connection: Connection,
    /// Whether the agent's own key is in use on another socket of this server.
    pub is_key_live: bool,
    /// The list of components that the agent names and did not tell, by its digest, if another one of its team told it.
    pub shared_components: Option<&'a str>,
    /// What it should run.
    pub desired_config: Option<&'a DesiredConfig>,
    /// Where it should send telemetry about itself.
    pub telemetry: Option<&'a OwnTelemetry>,
    /// What operators decided.
    pub settings: &'a Settings,
    /// The time.
    pub now: Timestamp,
    /// For uids and hashes.
    pub randomness: &'a dyn Randomness,
}

/// An agent that was separated from the one whose uid is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    /// Whether no other agent was separated by the same token.
    pub is_only: bool,
}

/// What becomes of a message.
#[derive(Debug)]
pub enum Step {
    /// It is answered.
    Done(Box<Outcome>),
    /// It may come from another agent than the one that goes by its uid: take the step again with that one.
    Other(CollectorId, Other),
    /// It does not come from the agent that was named so: take the first step again, with that one among those that were tried.
    Another,
    /// It is refused, and nothing changes.
    Refused(Refusal),
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Whoever sent it may not come: 401, and the end of a socket.
    Unauthorized {
        /// The class of the reason, for operators; the agent is told nothing.
        reason: &'static str,
    },
    /// It makes no sense: told in band.
    BadRequest {
        /// The class of the reason.
        reason: &'static str,
        /// What is told.
        message: &'static str,
        /// Whether a socket ends with it.
        closes: bool,
    },
}

impl Refusal {
    /// The agent is revoked.
    pub const REVOKED: Self = Self::Unauthorized { reason: "revoked" };

    /// The class of the reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unauthorized { reason } | Self::BadRequest { reason, .. } => reason,
        }
    }
}

/// What a step comes to.
#[derive(Debug)]
pub struct Outcome {
    /// The record from now on.
    pub record: Record,
    /// Whether it is a new one, which has no id yet.
    pub is_new: bool,
    /// Whether anything of it has to be written now. Lines are written in batches.
    pub is_changed: bool,
    /// The uid in the message, as the agent writes it.
    pub uid: InstanceUid,
    /// What is answered, but for an offer, which needs a key first.
    pub update: Update,
    /// The agent is told to restart, and nothing else.
    pub restarts: bool,
    /// A key is to be offered: make it, keep it, and put it into the answer.
    pub offer: Option<OfferPlan>,
    /// Parts that changed.
    pub parts: Vec<(Part, Value)>,
    /// Its components, when something is new about them.
    pub components: Option<SaidComponents>,
    /// A custom message.
    pub custom: Option<CustomMessage>,
    /// What else follows.
    pub effects: Vec<Effect>,
}

/// What an agent says of its components.
#[derive(Debug, Clone, PartialEq)]
pub struct SaidComponents {
    /// What it calls them together.
    pub name: String,
    /// The digest of the list, if it is known.
    pub content: Option<String>,
    /// The list, if it told it.
    pub list: Option<Value>,
}

/// What follows from a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Something for the agent's timeline.
    Event {
        /// What happened.
        kind: &'static str,
        /// Particulars.
        details: Value,
    },
    /// The agent goes by this uid, too.
    Uid(InstanceUid),
    /// The key that was made in advance belongs to the agent from now on.
    BindKey(AgentKeyId),
    /// The agent said something new about its remote configuration.
    ConfigReported(ConfigReport),
    /// A remote configuration was sent.
    ConfigSent {
        /// Its hash as hexadecimal digits.
        hash: String,
    },
    /// Somebody shows the uid and the token of an agent whose key may be in use: look whether it is.
    Probe,
    /// The agent came back with this token and was taken in.
    CameBack(EnrollmentTokenId),
    /// A key was used for the first time.
    Adopted,
}

impl Outcome {
    fn new(record: Record, is_new: bool, x: &Exchange<'_>) -> Self {
        Self {
            record,
            is_new,
            is_changed: is_new,
            uid: x.uid,
            update: Update::default(),
            restarts: false,
            offer: None,
            parts: Vec::new(),
            components: None,
            custom: None,
            effects: Vec::new(),
        }
    }

    fn event(&mut self, kind: &'static str, details: Value) {
        self.effects.push(Effect::Event { kind, details });
    }

    fn ask(&mut self, flag: ServerFlags) {
        self.update.flags = self.update.flags.union(flag);
    }

    /// Notes whether anything is to be written now.
    fn settle(mut self: Box<Self>, before: Option<&CopyOnWrite<Durable>>) -> Step {
        self.is_changed = self.is_new
            || before != Some(&self.record.durable)
            || !self.parts.is_empty()
            || self.components.is_some()
            || self.custom.is_some()
            || self
                .effects
                .iter()
                .any(|effect| !matches!(effect, Effect::Probe));
        Step::Done(self)
    }
}

/// Takes a message.
pub fn step(x: &Exchange<'_>) -> Step {
    use judge::Judgement;
    let refused = |refusal| Step::Refused(refusal);
    let before = x.record.map(|record| &record.durable);
    match judge::judge(x) {
        Judgement::Refuse(refusal) => refused(refusal),
        Judgement::Other { id, is_only } => Step::Other(id, Other { is_only }),
        Judgement::Another => Step::Another,
        Judgement::Echo => match x.record {
            // Whoever is not known and says goodbye leaves nothing behind.
            None => {
                let record = fresh(x, x.uid, None);
                let mut outcome = Outcome::new(record, false, x);
                outcome.is_changed = false;
                Step::Done(Box::new(outcome))
            }
            Some(record) => {
                let mut outcome = Box::new(Outcome::new(record.clone(), false, x));
                outcome.is_changed = false;
                Step::Done(outcome)
            }
        },
        Judgement::Enrol { uid, from } => {
            let mut record = fresh(x, uid, from);
            record.durable.standing = Standing::Enrolled;
            let mut outcome = Outcome::new(record, true, x);
            outcome.effects.push(Effect::Uid(uid));
            if let Principal::Key(key) = x.principal {
                outcome.record.durable.premade_key_id = Some(key.id);
                outcome.effects.push(Effect::BindKey(key.id));
            }
            if let Some(from) = from {
                outcome.event("separated", json!({ "from": from }));
            } else {
                // Of several that show the same, the first one goes by it, too.
                if uid != x.uid && !answer::is_nil(x.uid) && x.record.is_none() {
                    outcome.effects.push(Effect::Uid(x.uid));
                }
                outcome.event("enrolled", how(x));
            }
            advance(x, Box::new(outcome), None)
        }
        Judgement::Continue(record) => {
            advance(x, Box::new(Outcome::new(record.clone(), false, x)), before)
        }
        Judgement::Bind(record, key) => {
            let mut outcome = Outcome::new(record.clone(), false, x);
            outcome.record.durable.premade_key_id = Some(key);
            outcome.record.durable.key_id = None;
            outcome.effects.push(Effect::BindKey(key));
            advance(x, Box::new(outcome), before)
        }
        Judgement::Rename(record) => {
            let mut outcome = Outcome::new(record.clone(), false, x);
            outcome.record.durable.uid = x.uid;
            outcome.effects.push(Effect::Uid(x.uid));
            let details = json!({ "from": record.durable.uid, "to": x.uid });
            outcome.event("uid_changed", details);
            advance(x, Box::new(outcome), Some(&record.durable))
        }
        Judgement::Readmit(record) => {
            let mut outcome = Outcome::new(record.clone(), false, x);
            readmit(x, &mut outcome);
            advance(x, Box::new(outcome), before)
        }
        Judgement::Hold { record, wait, ask } => {
            let mut outcome = Box::new(Outcome::new(record.clone(), false, x));
            let durable = &mut outcome.record.durable;
            if wait {
                if durable.standing != Standing::Waiting {
                    durable.standing = Standing::Waiting;
                    outcome.event("waits_for_approval", how(x));
                }
            } else if record.contested_at(x.now).is_none() {
                durable.contested_at = Some(x.now);
                outcome.effects.push(Effect::Probe);
            }
            if ask && sequence::ask_again(&mut outcome.record, x) {
                outcome.ask(ServerFlags::REPORT_FULL_STATE);
            }
            outcome.settle(before)
        }
    }
}

/// What there is to tell an agent that holds a connection and said nothing; none when there is nothing.
pub fn push(x: &Exchange<'_>) -> Option<Box<Outcome>> {
    let record = x.record?;
    if !speaks_for(x.principal, record) {
        return None;
    }
    let mut outcome = Box::new(Outcome::new(record.clone(), false, x));
    tell(x, &mut outcome);
    let is_silent =
        outcome.offer.is_none() && !outcome.restarts && outcome.update == Update::default();
    match outcome.settle(Some(&record.durable)) {
        Step::Done(outcome) if !is_silent || outcome.is_changed => Some(outcome),
        _ => None,
    }
}

/// An agent that lost its key is taken back by its token. The key stays good until it uses a new one.
fn readmit(x: &Exchange<'_>, outcome: &mut Outcome) {
    let durable = &mut outcome.record.durable;
    durable.standing = Standing::Enrolled;
    durable.contested_at = None;
    durable.approved_until = None;
    durable.readmitted_at = Some(x.now);
    let day = x.now.as_seconds().div_euclid(24 * 60 * 60);
    let before = durable.comebacks.filter(|comebacks| comebacks.day == day);
    let count = before
        .map_or(0, |comebacks| comebacks.count)
        .saturating_add(1);
    durable.comebacks = Some(Comebacks { day, count });
    if let Principal::Token(token) = x.principal {
        outcome.effects.push(Effect::CameBack(token.id));
    }
    outcome.event("re_enrolled", how(x));
    if count == COMEBACKS_PER_DAY + 1 {
        outcome.event("comes_back_often", json!({ "times_today": count }));
    }
}

/// The usual course of a message from an agent that is known by now.
fn advance(
    x: &Exchange<'_>,
    mut outcome: Box<Outcome>,
    before: Option<&CopyOnWrite<Durable>>,
) -> Step {
    let is_new = outcome.is_new;
    let goes = x.message.agent_disconnect.is_some();
    adopt(x, &mut outcome);
    // Neither with a command nor after a goodbye is anything asked for: it would count as asked and never be answered.
    let is_deaf = goes || config::is_commanding(&outcome.record, x);
    if goes && sequence::is_elsewhere(&outcome.record, x) {
        // The end of an older connection says nothing of the newer one, nor do its numbers.
        merge::merge(x, &mut outcome);
        return outcome.settle(before);
    }
    // Before what the message says is merged: what it lacks is seen by what was there.
    let mut asks = sequence::follow(&mut outcome.record, x, is_new, !is_deaf);
    merge::merge(x, &mut outcome);
    if !is_deaf {
        if merge::wants_components(x, &mut outcome) {
            outcome.ask(ServerFlags::REPORT_AVAILABLE_COMPONENTS);
        }
        asks |= sequence::ask_if_owed(&mut outcome.record, x);
    }
    if goes {
        sequence::end(&mut outcome.record, x);
        return outcome.settle(before);
    }
    if asks {
        outcome.ask(ServerFlags::REPORT_FULL_STATE);
    }
    reassign(x, &mut outcome);
    tell(x, &mut outcome);
    outcome.settle(before)
}

/// The first use of a key is the proof that the agent has it.
fn adopt(x: &Exchange<'_>, outcome: &mut Outcome) {
    let durable = &mut outcome.record.durable;
    match x.principal {
        Principal::Token(token) => durable.token_id = Some(token.id),
        Principal::Key(key) if key.is_superseded => {}
        Principal::Key(key) if durable.key_id.is_none_or(|known| known < key.id) => {
            durable.key_id = Some(key.id);
            durable.adopted_at = Some(x.now);
            durable.offer = None;
            durable.readmitted_at = None;
            durable.contested_at = None;
            if let Some(offers) = &x.settings.offers
                && durable.premade_key_id != Some(key.id)
            {
                // Who does not say that it obeys is heard as often as it decides, which is mostly the default.
                let obeys = durable.capabilities | x.message.capabilities;
                durable.heartbeat_seconds = Some(if obeys & bits::REPORTS_HEARTBEAT != 0 {
                    offers.heartbeat_seconds
                } else {
                    offers.heartbeat_seconds.max(DEFAULT_HEARTBEAT_SECONDS)
                });
            }
            // A client that polls says no goodbye when it changes to another key.
            for line in &mut outcome.record.lines {
                if line.connection == 0 && line.key != x.principal.line() {
                    line.ended_at.get_or_insert(line.seen_at);
                }
            }
            outcome.effects.push(Effect::Adopted);
            let details = json!({ "key_id": key.id });
            outcome.event("key_adopted", details);
        }
        Principal::Key(key) => {
            let is_over = durable
                .contested_at
                .is_some_and(|at| x.now.since(at) >= CONTEST_LASTS);
            // Whoever was taken back by the token is not the only one: the older key is in use.
            let is_late = |at: Timestamp| x.now.since(at) >= UNDER_WAY;
            if durable.key_id == Some(key.id) && durable.readmitted_at.is_some_and(is_late) {
                durable.contested_at = durable.readmitted_at.take();
            }
            if durable.key_id == Some(key.id) && durable.standing == Standing::Waiting {
                // Somebody else waits by its uid: it never lost its key.
                durable.standing = Standing::Enrolled;
                durable.contested_at = Some(x.now);
                outcome.event("waits_no_more", json!({ "key_id": key.id }));
            }
            if is_over {
                outcome.record.durable.contested_at = None;
            }
        }
    }
}

/// Gives the agent another uid when it asks for one, and says again which one it has when it uses an earlier one.
fn reassign(x: &Exchange<'_>, outcome: &mut Outcome) {
    let current = outcome.record.durable.uid;
    let asks = x.message.flags & bits::REQUEST_INSTANCE_UID != 0;
    let was_lately = outcome
        .record
        .durable
        .reassigned_at
        .is_some_and(|at| x.now.since(at) < REASSIGNMENT_PAUSE);
    let uid = if asks && current == x.uid && !outcome.is_new && !was_lately {
        let uid = answer::new_uid(x);
        outcome.record.durable.uid = uid;
        outcome.record.durable.reassigned_at = Some(x.now);
        outcome.effects.push(Effect::Uid(uid));
        outcome.event("uid_changed", json!({ "from": current, "to": uid }));
        uid
    } else {
        current
    };
    if uid != x.uid {
        outcome.update.new_instance_uid = Some(uid);
    }
}

/// Whatever the agent is to be told: a command alone, or a configuration and a key.
fn tell(x: &Exchange<'_>, outcome: &mut Outcome) {
    if !speaks_for(x.principal, &outcome.record) {
        return;
    }
    if config::command(x, outcome) {
        return;
    }
    config::send(x, outcome);
    offer::plan(x, outcome);
    telemetry::send(x, outcome);
}

#[cfg(test)]
mod tests;
