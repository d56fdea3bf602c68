//! What agents report, and what they are sent.

use muster_wire_opamp::proto::{
    ConnectionSettingsStatus, CustomMessage as WireMessage, RemoteConfigStatus,
};

use super::*;
use crate::record::Progress;

const REMOTE: u64 = 0x1002;

fn desired(hash: &[u8]) -> DesiredConfig {
    let file = ConfigFile {
        body: b"receivers: {}\n".to_vec(),
        content_type: "text/yaml".to_owned(),
    };
    DesiredConfig {
        hash: hash.to_vec(),
        files: [("main.yaml".to_owned(), file)].into(),
    }
}

fn reports(number: u64, hash: &'static [u8], status: i32) -> AgentToServer {
    AgentToServer {
        remote_config_status: Some(RemoteConfigStatus {
            last_remote_config_hash: bytes::Bytes::from_static(hash),
            status,
            error_message: if status == 3 {
                "no such receiver".to_owned()
            } else {
                String::new()
            },
        }),
        ..message(number, REMOTE)
    }
}

#[test]
fn a_message_that_changes_nothing_is_not_to_be_written() {
    let (mut world, token) = (World::new(), by_token());
    let whole = |number| AgentToServer {
        health: Some(health(true)),
        effective_config: Some(effective("receivers: {}\n")),
        ..described(number, HEALTH | 0x4)
    };
    assert!(world.send(&token, socket(1), &whole(0)).outcome.is_changed);
    assert!(
        !world
            .send(&token, socket(1), &message(1, HEALTH | 0x4))
            .outcome
            .is_changed
    );
    assert!(
        !world.send(&token, socket(1), &whole(2)).outcome.is_changed,
        "the same again"
    );
    let sick = AgentToServer {
        health: Some(health(false)),
        ..message(3, HEALTH | 0x4)
    };
    let sent = world.send(&token, socket(1), &sick);
    assert!(sent.outcome.is_changed);
    let parts: Vec<Part> = sent.outcome.parts.iter().map(|(part, _)| *part).collect();
    assert_eq!(parts, [Part::Health], "what is left out stays");
}

#[test]
fn a_supervisor_that_connects_anew_does_not_make_its_collector_unhealthy() {
    // What a supervisor of 0.158 says after its key was renewed, and what else may be said then.
    let begins = |number, health| AgentToServer {
        health: Some(health),
        ..described(number, HEALTH)
    };
    let (mut world, token) = (World::new(), by_token());
    let tells = |sent: Sent| {
        sent.outcome
            .parts
            .iter()
            .any(|(part, _)| *part == Part::Health)
    };
    let first = world.send(&token, socket(1), &begins(0, health(false)));
    assert!(tells(first), "nothing better is known");
    let runs = AgentToServer {
        health: Some(health(true)),
        ..message(1, HEALTH)
    };
    assert!(tells(world.send(&token, socket(1), &runs)));
    for number in [0, 1] {
        let anew = world.send(&token, socket(2 + number), &begins(number, health(false)));
        assert!(!tells(anew), "{number}");
    }
    let broken = ComponentHealth {
        last_error: "exited with 1".to_owned(),
        ..health(false)
    };
    let told = world.send(&token, socket(4), &begins(1, broken));
    assert!(tells(told), "with a reason");
    let stops = AgentToServer {
        health: Some(health(false)),
        ..message(2, HEALTH)
    };
    let told = world.send(&token, socket(4), &stops);
    assert!(tells(told), "by one that has begun");
}

#[test]
fn secrets_in_an_effective_configuration_are_masked_before_it_is_kept() {
    let (mut world, token) = (World::new(), by_token());
    let said = AgentToServer {
        effective_config: Some(effective(
            "exporters: {otlp: {headers: {api-key: hunter2}}}\n",
        )),
        ..described(0, 0x4)
    };
    let sent = world.send(&token, socket(1), &said);
    let kept = sent
        .outcome
        .parts
        .iter()
        .find(|(part, _)| *part == Part::EffectiveConfig);
    let text = kept.unwrap().1.to_string();
    assert!(
        text.contains("[MASKED]") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn capabilities_are_read_from_every_message() {
    let (mut world, token) = (World::new(), by_token());
    let sent = world.send(&token, socket(1), &described(0, 0));
    assert!(offered(&sent.answer).is_none());
    let sent = world.send(&token, socket(1), &message(1, SETTINGS | 1 << 40));
    assert!(
        offered(&sent.answer).is_some(),
        "it can take an offer since this message"
    );
    assert_eq!(
        world.only().durable.capabilities,
        STATUS | SETTINGS | 1 << 40
    );
}

#[test]
fn a_remote_configuration_is_sent_once_to_those_who_take_one_and_do_not_have_it() {
    let (mut world, token) = (World::new(), by_token());
    world.desired = Some(desired(b"one"));
    let sent = world.send(&token, socket(1), &described(0, 0));
    assert!(sent.answer.remote_config.is_none(), "it cannot take one");
    let sent = world.send(&token, socket(1), &message(1, REMOTE));
    let config = sent.answer.remote_config.unwrap();
    assert_eq!(config.config_hash, b"one".as_slice());
    assert_eq!(
        config.config.unwrap().config_map["main.yaml"].body,
        b"receivers: {}\n".as_slice()
    );
    for number in 2..6 {
        world.wait(600);
        let sent = world.send(&token, socket(1), &message(number, REMOTE));
        assert!(sent.answer.remote_config.is_none(), "one is under way");
    }
    let sent = world.send(&token, socket(2), &message(6, REMOTE));
    assert!(
        sent.answer.remote_config.is_some(),
        "it may have been lost with the connection"
    );
    for (number, status) in [(7, 2), (8, 1)] {
        let sent = world.send(&token, socket(2), &reports(number, b"one", status));
        assert!(sent.answer.remote_config.is_none());
        assert!(
            sent.outcome
                .effects
                .iter()
                .any(|effect| matches!(effect, Effect::ConfigReported(_)))
        );
    }
    assert!(
        world
            .send(&token, socket(3), &message(9, REMOTE))
            .answer
            .remote_config
            .is_none()
    );
    world.desired = Some(desired(b"two"));
    assert!(
        world
            .send(&token, socket(3), &message(10, REMOTE))
            .answer
            .remote_config
            .is_some()
    );
}

#[test]
fn a_configuration_that_failed_is_not_sent_again_until_it_changes() {
    let (mut world, token) = (World::new(), by_token());
    world.desired = Some(desired(b"bad"));
    world.send(&token, socket(1), &described(0, REMOTE));
    world.send(&token, socket(1), &reports(1, b"bad", 1));
    // APPLIED may be followed by FAILED with the same hash.
    world.send(&token, socket(1), &reports(2, b"bad", 3));
    let said = world.only().durable.config.clone().unwrap();
    assert_eq!(
        (said.progress, said.error.as_str()),
        (Progress::Failed, "no such receiver")
    );
    for (number, connection) in [(3, 1), (4, 2), (5, 3)] {
        world.wait(3_600);
        let sent = world.send(&token, socket(connection), &message(number, REMOTE));
        assert!(sent.answer.remote_config.is_none());
    }
    world.desired = Some(desired(b"good"));
    assert!(
        world
            .send(&token, socket(3), &message(6, REMOTE))
            .answer
            .remote_config
            .is_some()
    );
}

#[test]
fn a_configuration_without_files_is_never_sent() {
    let (mut world, token) = (World::new(), by_token());
    world.desired = Some(DesiredConfig {
        files: BTreeMap::new(),
        ..desired(b"empty")
    });
    assert!(
        world
            .send(&token, socket(1), &described(0, REMOTE))
            .answer
            .remote_config
            .is_none()
    );
}

#[test]
fn an_agent_that_was_given_another_uid_keeps_what_it_said_of_its_configuration() {
    let (mut world, token) = (World::new(), by_token());
    world.desired = Some(desired(b"one"));
    world.send(&token, socket(1), &described(0, REMOTE));
    world.send(&token, socket(1), &reports(1, b"one", 1));
    let asks = AgentToServer {
        flags: 1,
        ..message(2, REMOTE)
    };
    let sent = world.send(&token, socket(1), &asks);
    let uid = sent.answer.agent_identification.unwrap().new_instance_uid;
    let uid = InstanceUid::from_wire(&uid).unwrap();
    let sent = world.send(&token, socket(1), &with_uid(uid, described(3, REMOTE)));
    assert!(sent.answer.remote_config.is_none() && !sent.asks());
    assert_eq!(world.only().durable.uid, uid);
}

#[test]
fn a_command_is_sent_alone_and_once_and_only_to_those_who_take_it() {
    let (mut world, token) = (World::new(), by_token());
    world.desired = Some(desired(b"one"));
    world.send(&token, socket(1), &described(0, 0));
    let wish = |world: &mut World| {
        let now = world.now;
        let record = world.records.values_mut().next().unwrap();
        record.durable.restart_at = Some(now);
    };
    wish(&mut world);
    let sent = world.send(&token, socket(1), &message(1, 0));
    assert!(sent.answer.command.is_none());
    let sent = world.send(&token, socket(1), &message(2, REMOTE | 0x400 | SETTINGS));
    let alone = ServerToAgent {
        instance_uid: sent.answer.instance_uid.clone(),
        capabilities: SERVER_CAPABILITIES.bits(),
        command: Some(muster_wire_opamp::proto::ServerToAgentCommand { r#type: 0 }),
        ..ServerToAgent::default()
    };
    assert_eq!(sent.answer, alone);
    let sent = world.send(&token, socket(1), &message(3, REMOTE | 0x400 | SETTINGS));
    assert!(sent.answer.command.is_none() && sent.answer.remote_config.is_some());
    wish(&mut world);
    world.wait(3_600);
    let sent = world.send(&token, socket(1), &message(4, REMOTE | 0x400));
    assert!(
        sent.answer.command.is_none(),
        "a wish of an hour ago is not fulfilled"
    );
}

#[test]
fn what_an_agent_says_of_connection_settings_is_shown_and_proves_nothing() {
    let (mut world, token) = (World::new(), by_token());
    let sent = world.send(&token, socket(1), &described(0, SETTINGS | 0x8000));
    assert!(offered(&sent.answer).is_some());
    // Some clients say that they applied an offer before they tried it.
    let applied = AgentToServer {
        connection_settings_status: Some(ConnectionSettingsStatus {
            status: 1,
            ..ConnectionSettingsStatus::default()
        }),
        ..message(1, SETTINGS | 0x8000)
    };
    world.send(&token, socket(1), &applied);
    let durable = &world.only().durable;
    assert_eq!(
        durable.settings.as_ref().unwrap().progress,
        Progress::Applied
    );
    assert!(durable.key_id.is_none() && durable.offer.is_some());
}

#[test]
fn custom_messages_are_kept_within_bounds() {
    let (mut world, token) = (World::new(), by_token());
    let said = AgentToServer {
        custom_message: Some(WireMessage {
            capability: "com.example.pause/v1".to_owned(),
            r#type: "done".to_owned(),
            data: bytes::Bytes::from(vec![1; 100_000]),
        }),
        ..described(0, 0)
    };
    let custom = world.send(&token, socket(1), &said).outcome.custom.unwrap();
    assert_eq!(custom.capability, "com.example.pause/v1");
    assert_eq!(custom.data.len(), 16 * 1024);
}

#[test]
fn unknown_enum_values_and_bits_are_no_reason_to_fail() {
    let (mut world, token) = (World::new(), by_token());
    world.send(&token, socket(1), &described(0, u64::MAX));
    assert_eq!(world.only().durable.capabilities, u64::MAX);
    world.send(&token, socket(1), &reports(1, b"x", 99));
    let durable = &world.only().durable;
    assert_eq!(durable.config.as_ref().unwrap().progress, Progress::Unset);
}
