//! What becomes of those who show the token that many share and the uid of somebody else.

use super::keys::adopted;
use super::*;

/// What there would be to tell on a connection.
fn pushed(world: &World, by: &Principal, on: Connection) -> Option<Box<Outcome>> {
    let message = AgentToServer::default();
    push(&Exchange {
        message: &message,
        uid: InstanceUid::from_bytes(UID),
        principal: by,
        record: Some(world.agent(1)),
        other: None,
        tried: &[],
        owner: None,
        connection: on,
        is_key_live: false,
        shared_components: None,
        telemetry: None,
        desired_config: world.desired.as_ref(),
        settings: &world.settings,
        now: world.now,
        randomness: &world.randomness,
    })
}

fn desired() -> DesiredConfig {
    DesiredConfig {
        hash: b"abc".to_vec(),
        files: [(
            String::new(),
            ConfigFile {
                body: b"receivers: {}".to_vec(),
                content_type: String::new(),
            },
        )]
        .into(),
    }
}

const CONFIG: u64 = 0x2;
const RESTART: u64 = 0x400;

#[test]
fn what_is_for_an_agent_with_a_key_is_not_pushed_to_who_shows_the_token() {
    let mut world = World::new();
    let key = adopted(&mut world);
    world.send(
        &by_key(key, 1),
        socket(2),
        &message(1, SETTINGS | CONFIG | RESTART),
    );
    world.send(&by_token(), socket(3), &goodbye(0, SETTINGS));
    world.desired = Some(desired());
    world.wait(3_600);
    let restart_at = Some(world.now);
    assert!(pushed(&world, &by_token(), socket(3)).is_none());
    let record = world.records.get_mut(&CollectorId(1)).unwrap();
    record.durable.restart_at = restart_at;
    assert!(pushed(&world, &by_token(), socket(3)).is_none());
    let told = pushed(&world, &by_key(key, 1), socket(2)).unwrap();
    assert!(told.restarts);
}

#[test]
fn nothing_is_pushed_to_an_agent_that_waits_for_approval() {
    let (mut world, by) = (World::new(), by_policy(KnownAgents::Approve));
    adopted(&mut world);
    world.desired = Some(desired());
    world.wait(3_600);
    world.send(&by, socket(3), &described(0, SETTINGS | CONFIG));
    assert_eq!(world.only().durable.standing, Standing::Waiting);
    assert!(pushed(&world, &by, socket(3)).is_none());
}

#[test]
fn the_token_of_another_team_takes_nobody_back() {
    for policy in [
        KnownAgents::Adopt,
        KnownAgents::NewIdentity,
        KnownAgents::Approve,
    ] {
        let mut world = World::new();
        let key = adopted(&mut world);
        world.wait(3_600);
        let by = Principal::Token(TokenGrant {
            id: EnrollmentTokenId(6),
            team_id: Some(TeamId(3)),
            policy,
            ..token()
        });
        let sent = world.send(&by, socket(3), &described(0, SETTINGS));
        assert!(sent.answer.agent_identification.is_some(), "{policy:?}");
        let first = &world.agent(1).durable;
        assert_eq!(
            (first.key_id, first.readmitted_at, first.standing),
            (Some(key), None, Standing::Enrolled)
        );
        assert_eq!(world.agent(2).durable.team_id, Some(TeamId(3)));
    }
}

#[test]
fn a_copy_never_keeps_an_agent_waiting_whose_key_is_in_use() {
    let (mut world, by) = (World::new(), by_policy(KnownAgents::Approve));
    let key = adopted(&mut world);
    world.live.insert(CollectorId(1));
    let sent = world.send(&by, socket(3), &described(0, SETTINGS));
    assert!(sent.answer.agent_identification.is_some());
    assert_eq!(world.agent(1).durable.standing, Standing::Enrolled);
    // Nor when it is seen only later that it is.
    let mut world = World::new();
    let again = adopted(&mut world);
    assert_eq!(again, key);
    world.wait(3_600);
    world.send(&by, socket(3), &described(0, SETTINGS));
    assert_eq!(world.only().durable.standing, Standing::Waiting);
    world.wait(10);
    world.send(&by_key(key, 1), socket(4), &described(0, SETTINGS));
    assert_eq!(world.only().durable.standing, Standing::Enrolled);
    assert!(world.events.contains(&"waits_no_more"));
    world.wait(10);
    world.send(&by_key(key, 1), socket(4), &message(1, SETTINGS));
    let sent = world.send(&by, socket(3), &described(1, SETTINGS));
    assert!(sent.answer.agent_identification.is_some());
}

#[test]
fn a_contest_is_forgotten_when_nothing_comes_of_it() {
    let mut world = World::new();
    let key = adopted(&mut world);
    world.wait(10);
    world.send(&by_token(), socket(3), &described(0, SETTINGS));
    assert!(world.only().durable.contested_at.is_some());
    for number in 1..40 {
        world.wait(30);
        world.send(&by_key(key, 1), socket(2), &message(number, SETTINGS));
    }
    assert_eq!(world.only().durable.contested_at, None);
    // It is started anew without having said goodbye: held up, and not taken for another.
    world.wait(10);
    let sent = world.send(&by_token(), socket(4), &described(0, SETTINGS));
    assert!(sent.answer.agent_identification.is_none());
    assert_eq!(world.records.len(), 1);
}

#[test]
fn an_agent_that_asks_for_another_uid_all_the_time_is_given_one_now_and_then() {
    let mut world = World::new();
    world.send(&by_token(), socket(1), &described(0, 0));
    let mut given = Vec::new();
    let mut uid = InstanceUid::from_bytes(UID);
    for number in 1..=20 {
        world.wait(30);
        let asks = AgentToServer {
            flags: 1,
            ..with_uid(uid, message(number, 0))
        };
        let sent = world.send(&by_token(), socket(1), &asks);
        if let Some(identification) = sent.answer.agent_identification {
            uid = InstanceUid::from_wire(&identification.new_instance_uid).unwrap();
            given.push(uid);
        }
    }
    assert_eq!(given.len(), 2, "in ten minutes");
}

#[test]
fn what_is_missed_while_an_agent_is_told_to_restart_is_asked_for_afterwards() {
    let mut world = World::new();
    world.send(&by_token(), socket(1), &described(0, RESTART));
    world.wait(60);
    let restart_at = Some(world.now);
    let record = world.records.get_mut(&CollectorId(1)).unwrap();
    record.durable.restart_at = restart_at;
    let sent = world.send(&by_token(), socket(1), &message(7, RESTART));
    assert!(sent.answer.command.is_some() && !sent.asks());
    world.wait(1);
    assert!(
        world
            .send(&by_token(), socket(1), &message(8, RESTART))
            .asks()
    );
}

#[test]
fn over_plain_http_an_agent_that_began_anew_is_sent_its_configuration_again() {
    let mut world = World::new();
    world.desired = Some(desired());
    let sent = |sent: Sent| sent.answer.remote_config.is_some();
    assert!(sent(world.send(&by_token(), POLL, &described(0, CONFIG))));
    for number in 1..10 {
        world.wait(30);
        assert!(!sent(world.send(
            &by_token(),
            POLL,
            &message(number, CONFIG)
        )));
    }
    world.wait(30);
    assert!(sent(world.send(&by_token(), POLL, &described(0, CONFIG))));
}

#[test]
fn what_a_later_release_wrote_about_an_agent_is_kept() {
    let mut world = World::new();
    world.send(&by_token(), socket(1), &described(0, 0));
    let mut written = serde_json::to_value(&*world.only().durable).unwrap();
    written["of_a_later_release"] = json!({ "a": [1] });
    let read: Durable = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), written);
    written["standing"] = json!("on_probation");
    written["parts"]["of_a_later_release"] = json!("abc");
    written["config"] = json!({ "hash": "", "progress": "half_way", "at": written["created_at"] });
    let read: Durable = serde_json::from_value(written).unwrap();
    assert_eq!(read.standing, Standing::Waiting, "nothing is told to it");
    assert_eq!(read.config.unwrap().progress.name(), "unset");
}
