//! The pure step, driven by a small world that keeps what steps come to.

mod clones;
mod identities;
mod keys;
mod properties;
mod reports;
mod sequence;
mod strangers;
mod telemetry;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use muster_clock::SeededRandomness;
use muster_wire_opamp::proto::{
    AgentDescription, AgentDisconnect, ComponentHealth, EffectiveConfig, KeyValue, ServerToAgent,
};

use super::*;

const STATUS: u64 = 0x1;
const SETTINGS: u64 = 0x100;
const HEALTH: u64 = 0x800;

/// Agents as they are kept, and everything around them.
struct World {
    now: Timestamp,
    randomness: SeededRandomness,
    settings: Settings,
    records: HashMap<CollectorId, Record>,
    uids: HashMap<InstanceUid, CollectorId>,
    desired: Option<DesiredConfig>,
    telemetry: Option<OwnTelemetry>,
    /// What names of lists of components stand for.
    known_components: HashMap<String, String>,
    /// Agents whose keys are in use on another socket.
    live: HashSet<CollectorId>,
    last_key: i64,
    events: Vec<&'static str>,
}

/// What was answered.
struct Sent {
    answer: ServerToAgent,
    outcome: Box<Outcome>,
    /// The key that was offered.
    key: Option<AgentKeyId>,
}

impl Sent {
    fn asks(&self) -> bool {
        self.answer.flags & 1 != 0
    }
}

impl World {
    fn new() -> Self {
        Self {
            now: Timestamp::from_seconds(1_800_000_000),
            randomness: SeededRandomness::new(7),
            settings: Settings {
                offers: Some(OfferSettings {
                    public_url: "https://muster.example.com:8443".to_owned(),
                    authority_pem: Some("-----BEGIN CERTIFICATE-----\n".to_owned()),
                    headers: vec![("X-Tenant".to_owned(), "blue".to_owned())],
                    heartbeat_seconds: 30,
                }),
                masking: Masking::default(),
                new_per_day: crate::DEFAULT_NEW_PER_DAY,
            },
            records: HashMap::new(),
            uids: HashMap::new(),
            desired: None,
            telemetry: None,
            known_components: HashMap::new(),
            live: HashSet::new(),
            last_key: 100,
            events: Vec::new(),
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    fn take(
        &mut self,
        principal: &Principal,
        connection: Connection,
        message: &AgentToServer,
    ) -> Result<Sent, Refusal> {
        let uid = InstanceUid::from_wire(&message.instance_uid).unwrap();
        let first = self.uids.get(&uid).map(|id| self.records[id].clone());
        let (mut record, mut named) = (first.clone(), None);
        let mut tried = Vec::new();
        let owner = match principal {
            Principal::Key(key) => key.collector.and_then(|id| self.records.get(&id).cloned()),
            Principal::Token(_) => None,
        };
        loop {
            let owner = owner
                .as_ref()
                .filter(|owner| record.as_ref().is_none_or(|record| record.id != owner.id));
            let known = record
                .as_ref()
                .and_then(|record| record.durable.components.as_ref());
            let name = match &message.available_components {
                Some(said) => Some(crate::values::hex(&said.hash)),
                None => known.map(|known| known.hash.clone()),
            };
            let exchange = Exchange {
                message,
                uid,
                principal,
                record: record.as_ref(),
                other: named.map(|(_, other)| other),
                tried: &tried,
                owner,
                connection,
                is_key_live: record
                    .as_ref()
                    .is_some_and(|record| self.live.contains(&record.id)),
                shared_components: name
                    .and_then(|name| self.known_components.get(&name))
                    .map(String::as_str),
                desired_config: self.desired.as_ref(),
                telemetry: self.telemetry.as_ref(),
                settings: &self.settings,
                now: self.now,
                randomness: &self.randomness,
            };
            match step(&exchange) {
                Step::Refused(refusal) => return Err(refusal),
                Step::Other(id, other) => {
                    assert!(
                        named.is_none(),
                        "another agent's message is not sent on again"
                    );
                    match self.records.get(&id) {
                        Some(other_record) => {
                            record = Some(other_record.clone());
                            named = Some((id, other));
                        }
                        None => tried.push(id),
                    }
                }
                Step::Another => {
                    tried.extend(named.take().map(|(id, _)| id));
                    record = first.clone();
                }
                Step::Done(outcome) => return Ok(self.keep(outcome, principal)),
            }
        }
    }

    fn keep(&mut self, mut outcome: Box<Outcome>, principal: &Principal) -> Sent {
        if outcome.is_new {
            outcome.record.id = CollectorId(self.records.len() as i64 + 1);
        }
        let id = outcome.record.id;
        if id != CollectorId(0) {
            outcome.record.revision += i64::from(outcome.is_changed);
            for effect in &outcome.effects {
                match effect {
                    Effect::Uid(uid) => {
                        let before = self.uids.insert(*uid, id);
                        assert!(
                            before.is_none_or(|before| before == id),
                            "a uid has one agent"
                        );
                    }
                    Effect::Event { kind, .. } => self.events.push(kind),
                    _ => {}
                }
            }
            if let (true, Some(from), Principal::Token(token)) = (
                outcome.is_new,
                outcome.record.durable.separated_from,
                principal,
            ) {
                let other = self.records.get_mut(&from).unwrap();
                other.durable.separated.push(crate::record::Separated {
                    id,
                    token_id: token.id,
                    traits: outcome.record.durable.traits.clone(),
                });
                other.durable.contested_at = None;
            }
        }
        let mut offers = None;
        let mut key = None;
        if let Some(plan) = &outcome.offer {
            self.last_key += 1;
            let made = AgentKeyId(self.last_key);
            outcome.record.durable.offer.as_mut().unwrap().key_id = Some(made);
            offers = Some(plan.with_key(self.settings.offers.as_ref().unwrap(), "mst_acc_x"));
            key = Some(made);
        }
        if id != CollectorId(0) {
            self.records.insert(id, outcome.record.clone());
        }
        if let Some(said) = &outcome.components
            && let Some(content) = &said.content
        {
            self.known_components
                .insert(said.name.clone(), content.clone());
        }
        Sent {
            answer: outcome.answer(offers).as_message().clone(),
            outcome,
            key,
        }
    }

    /// Sends what has to be taken.
    fn send(&mut self, by: &Principal, on: Connection, message: &AgentToServer) -> Sent {
        self.take(by, on, message).expect("the message is taken")
    }

    fn only(&self) -> &Record {
        assert_eq!(self.records.len(), 1, "there is one agent");
        self.records.values().next().unwrap()
    }

    fn agent(&self, id: i64) -> &Record {
        &self.records[&CollectorId(id)]
    }
}

const UID: [u8; 16] = [7; 16];
const POLL: Connection = Connection {
    id: 0,
    carrier: Carrier::Http,
};

fn socket(id: u64) -> Connection {
    Connection {
        id,
        carrier: Carrier::WebSocket,
    }
}

fn token() -> TokenGrant {
    TokenGrant {
        id: EnrollmentTokenId(5),
        team_id: None,
        policy: KnownAgents::Adopt,
        is_ephemeral: false,
        admits_new: true,
    }
}

fn by_token() -> Principal {
    Principal::Token(token())
}

fn by_policy(policy: KnownAgents) -> Principal {
    Principal::Token(TokenGrant { policy, ..token() })
}

fn by_key(id: AgentKeyId, collector: i64) -> Principal {
    Principal::Key(KeyGrant {
        id,
        collector: Some(CollectorId(collector)),
        team_id: None,
        is_superseded: false,
        is_due: false,
    })
}

fn message(sequence: u64, capabilities: u64) -> AgentToServer {
    AgentToServer {
        instance_uid: bytes::Bytes::copy_from_slice(&UID),
        sequence_num: sequence,
        capabilities: capabilities | STATUS,
        ..AgentToServer::default()
    }
}

fn description(host: &str) -> AgentDescription {
    AgentDescription {
        identifying_attributes: vec![
            KeyValue::text("service.name", "otelcol"),
            KeyValue::text("service.instance.id", "drawn anew at each start"),
        ],
        non_identifying_attributes: vec![KeyValue::text("host.name", host)],
    }
}

fn described(sequence: u64, capabilities: u64) -> AgentToServer {
    AgentToServer {
        agent_description: Some(description("box-1")),
        ..message(sequence, capabilities)
    }
}

fn goodbye(sequence: u64, capabilities: u64) -> AgentToServer {
    AgentToServer {
        agent_disconnect: Some(AgentDisconnect::default()),
        ..message(sequence, capabilities)
    }
}

fn with_uid(uid: InstanceUid, message: AgentToServer) -> AgentToServer {
    AgentToServer {
        instance_uid: uid.to_wire(),
        ..message
    }
}

fn health(healthy: bool) -> ComponentHealth {
    ComponentHealth {
        healthy,
        ..ComponentHealth::default()
    }
}

fn effective(text: &str) -> EffectiveConfig {
    use muster_wire_opamp::proto::{AgentConfigMap, AgentConfigObject};
    let object = AgentConfigObject {
        body: bytes::Bytes::copy_from_slice(text.as_bytes()),
        ..AgentConfigObject::default()
    };
    EffectiveConfig {
        config_map: Some(AgentConfigMap {
            config_map: [(String::new(), object)].into(),
        }),
    }
}

/// The offer in an answer.
fn offered(answer: &ServerToAgent) -> Option<&muster_wire_opamp::proto::OpAmpConnectionSettings> {
    answer.connection_settings.as_ref()?.opamp.as_ref()
}
