//! What an agent says: messages such as a supervisor with a collector sends them.

use bytes::Bytes;
use muster_clock::{Randomness as _, SeededRandomness, Timestamp};
use muster_wire_opamp::InstanceUid;
use muster_wire_opamp::proto::{
    AgentConfigMap, AgentConfigObject, AgentDescription, AgentDisconnect, AgentToServer,
    AvailableComponents, ComponentDetails, ComponentHealth, EffectiveConfig, KeyValue,
    RemoteConfigStatus,
};

/// The bits of a supervisor of 2026: it takes configurations, settings of its connection and commands, and reports health,
/// heartbeats, what it runs and its components.
const CAPABILITIES: u64 = 0x7d07;
/// When all machines of the swarm started.
const STARTED: Timestamp = Timestamp::from_seconds(1_795_392_000);
/// What the one distribution that all of them run calls its components.
const COMPONENTS_HASH: &[u8] = b"swarm-distribution-0.158.0-hash.";
/// What is in it.
const COMPONENTS: [(&str, &[&str]); 4] = [
    ("receivers", &["otlp", "hostmetrics", "filelog"]),
    ("processors", &["batch", "memory_limiter", "resource"]),
    ("exporters", &["otlp", "prometheusremotewrite", "debug"]),
    ("extensions", &["health_check", "opamp", "zpages"]),
];

/// How far a configuration came, as numbers on the wire.
const APPLIED: i32 = 1;
const APPLYING: i32 = 2;

fn status(hash: &Bytes, status: i32) -> RemoteConfigStatus {
    RemoteConfigStatus {
        last_remote_config_hash: hash.clone(),
        status,
        ..RemoteConfigStatus::default()
    }
}

/// Who says it: one agent on one machine.
pub(super) struct Speaker {
    uid: InstanceUid,
    number: u32,
    machine: String,
    sequence: u64,
    /// How often its health changed.
    changes: u64,
}

impl Speaker {
    /// The agent of this number; the seed decides its uid.
    pub(super) fn new(number: u32, randomness: &SeededRandomness) -> Self {
        let (mut of_uid, mut of_machine) = ([0; 10], [0; 16]);
        randomness.fill(&mut of_uid);
        randomness.fill(&mut of_machine);
        Self {
            uid: InstanceUid::new_v7(STARTED, of_uid),
            number,
            machine: of_machine
                .iter()
                .fold(String::new(), |text, byte| format!("{text}{byte:02x}")),
            sequence: 0,
            changes: 0,
        }
    }

    /// A client that begins anew counts anew.
    pub(super) fn begin(&mut self) {
        self.sequence = 0;
    }

    fn host(&self) -> String {
        format!("swarm-{:06}", self.number)
    }

    /// A message that only says that it is there.
    pub(super) fn heartbeat(&mut self) -> AgentToServer {
        let message = AgentToServer {
            instance_uid: self.uid.to_wire(),
            sequence_num: self.sequence,
            capabilities: CAPABILITIES,
            ..AgentToServer::default()
        };
        self.sequence += 1;
        message
    }

    /// Everything, as the first message of a connection and whenever it is asked for; the components by their hash alone.
    pub(super) fn everything(&mut self) -> AgentToServer {
        let file = AgentConfigObject {
            body: Bytes::from(self.effective_config()),
            ..AgentConfigObject::default()
        };
        AgentToServer {
            agent_description: Some(self.description()),
            health: Some(self.health()),
            effective_config: Some(EffectiveConfig {
                config_map: Some(AgentConfigMap {
                    config_map: [(String::new(), file)].into(),
                }),
            }),
            available_components: Some(AvailableComponents {
                hash: Bytes::from_static(COMPONENTS_HASH),
                ..AvailableComponents::default()
            }),
            ..self.heartbeat()
        }
    }

    /// The list of its components.
    pub(super) fn components(&mut self) -> AgentToServer {
        let kinds = COMPONENTS.iter().map(|(kind, names)| {
            let names = names
                .iter()
                .map(|name| ((*name).to_owned(), ComponentDetails::default()));
            let kind_of_component = ComponentDetails {
                sub_component_map: names.collect(),
                ..ComponentDetails::default()
            };
            ((*kind).to_owned(), kind_of_component)
        });
        AgentToServer {
            available_components: Some(AvailableComponents {
                components: kinds.collect(),
                hash: Bytes::from_static(COMPONENTS_HASH),
            }),
            ..self.heartbeat()
        }
    }

    /// Its health turned: well becomes ill and ill becomes well.
    pub(super) fn turned(&mut self) -> AgentToServer {
        self.changes += 1;
        AgentToServer {
            health: Some(self.health()),
            ..self.heartbeat()
        }
    }

    /// Its health is another, and well as it was.
    pub(super) fn renewed(&mut self) -> AgentToServer {
        self.changes += 1;
        self.turned()
    }

    /// It is at a configuration that it was sent.
    pub(super) fn applying(&mut self, hash: &Bytes) -> AgentToServer {
        AgentToServer {
            remote_config_status: Some(status(hash, APPLYING)),
            ..self.heartbeat()
        }
    }

    /// It runs the configuration, and its collector says anew how it is.
    pub(super) fn applied(&mut self, hash: &Bytes) -> AgentToServer {
        // It is well, whatever it was before.
        self.changes += 2 - self.changes % 2;
        AgentToServer {
            remote_config_status: Some(status(hash, APPLIED)),
            health: Some(self.health()),
            ..self.heartbeat()
        }
    }

    /// Its last message on a connection.
    pub(super) fn goodbye(&mut self) -> AgentToServer {
        AgentToServer {
            agent_disconnect: Some(AgentDisconnect::default()),
            ..self.heartbeat()
        }
    }

    fn description(&self) -> AgentDescription {
        let attributes = |attributes: &[(&str, &str)]| {
            attributes
                .iter()
                .map(|(key, value)| KeyValue::text(*key, *value))
                .collect()
        };
        let region = ["eu-west-1", "eu-central-1", "us-east-1"][self.number as usize % 3];
        AgentDescription {
            identifying_attributes: attributes(&[
                ("service.name", "io.opentelemetry.collector"),
                ("service.namespace", "observability"),
                ("service.version", "0.158.0"),
                ("service.instance.id", &self.uid.to_string()),
            ]),
            non_identifying_attributes: attributes(&[
                ("host.name", &self.host()),
                ("host.id", &self.machine),
                ("host.arch", "amd64"),
                ("os.type", "linux"),
                ("os.description", "Debian GNU/Linux 12 (bookworm)"),
                ("os.version", "12"),
                ("deployment.environment.name", "production"),
                ("cloud.region", region),
            ]),
        }
    }

    /// A tree of six components.
    fn health(&self) -> ComponentHealth {
        let is_well = self.changes.is_multiple_of(2);
        let started = STARTED.as_micros().unsigned_abs() * 1_000;
        // A minute between changes, so that each of them is another.
        let since = started + self.changes * 60_000_000_000;
        let component = |is_well: bool, inner: Vec<(&str, ComponentHealth)>| ComponentHealth {
            healthy: is_well,
            start_time_unix_nano: started,
            status: if is_well {
                "StatusOK"
            } else {
                "StatusRecoverableError"
            }
            .to_owned(),
            last_error: if is_well {
                ""
            } else {
                "Exporting failed. Will retry the request after interval."
            }
            .to_owned(),
            status_time_unix_nano: since,
            component_health_map: inner
                .into_iter()
                .map(|(name, health)| (name.to_owned(), health))
                .collect(),
            ..ComponentHealth::default()
        };
        let leaf = |is_well| component(is_well, Vec::new());
        let traces = vec![
            ("receiver:otlp", leaf(true)),
            ("exporter:otlp", leaf(is_well)),
        ];
        let parts = vec![
            ("pipeline:traces", component(is_well, traces)),
            ("pipeline:metrics", leaf(true)),
            ("extensions", leaf(true)),
        ];
        component(is_well, parts)
    }

    /// Some three kilobytes of YAML, with a secret as real ones have them.
    fn effective_config(&self) -> String {
        include_str!("effective-config.yaml")
            .replace("SWARM_HOST", &self.host())
            .replace("SWARM_UID", &self.uid.to_string())
            .replace("SWARM_SECRET", &self.machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire_opamp::{MessageLimit, encode_body};

    #[test]
    fn what_an_agent_says_is_as_much_as_real_ones_say() {
        let mut speaker = Speaker::new(7, &SeededRandomness::new(1));
        let everything = speaker.everything();
        let said = everything
            .agent_description
            .as_ref()
            .expect("a description");
        let attributes = said.identifying_attributes.len() + said.non_identifying_attributes.len();
        assert_eq!(attributes, 12);
        let config = speaker.effective_config();
        assert!((2_700..3_400).contains(&config.len()), "{}", config.len());
        assert!(!config.contains("SWARM_"), "{config}");
        let whole = encode_body(&everything, MessageLimit::default()).expect("it is small");
        let beat = encode_body(&speaker.heartbeat(), MessageLimit::default()).expect("as well");
        assert!((3_500..5_000).contains(&whole.len()), "{}", whole.len());
        assert!((20..30).contains(&beat.len()), "{}", beat.len());
    }

    #[test]
    fn health_that_turned_is_another_and_numbers_have_no_gap() {
        let mut speaker = Speaker::new(7, &SeededRandomness::new(1));
        let said = [
            speaker.everything(),
            speaker.turned(),
            speaker.turned(),
            speaker.components(),
            speaker.goodbye(),
        ];
        let numbers: Vec<u64> = said.iter().map(|message| message.sequence_num).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        let healthy = |index: usize| said[index].health.as_ref().map(|health| health.healthy);
        assert_eq!(
            [healthy(0), healthy(1), healthy(2)],
            [Some(true), Some(false), Some(true)]
        );
        assert_ne!(
            said[0].health, said[2].health,
            "the same health, at another time"
        );
        for _ in 0..3 {
            let applied = speaker.applied(&Bytes::from_static(b"hash"));
            assert_eq!(applied.health.map(|health| health.healthy), Some(true));
            speaker.turned();
        }
        let other = Speaker::new(7, &SeededRandomness::new(2));
        assert_ne!(other.uid, speaker.uid);
    }
}
