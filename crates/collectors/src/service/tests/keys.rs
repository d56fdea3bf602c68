//! The exchange of a shared token for a key of an agent's own.

use super::*;
use crate::record::Standing;

/// An agent that enrolled on one socket, adopted its key on a second, and said goodbye on the first.
pub(super) fn adopted(world: &mut World) -> AgentKeyId {
    let key = world
        .send(&by_token(), socket(1), &described(0, SETTINGS))
        .key
        .unwrap();
    world.send(&by_key(key, 1), socket(2), &described(0, SETTINGS));
    world.send(&by_token(), socket(1), &goodbye(1, SETTINGS));
    assert_eq!(world.only().durable.key_id, Some(key));
    key
}

#[test]
fn an_offer_is_whole() {
    let mut world = World::new();
    let sent = world.send(&by_token(), socket(1), &described(0, SETTINGS));
    let settings = offered(&sent.answer).unwrap();
    assert_eq!(
        settings.destination_endpoint,
        "wss://muster.example.com:8443/v1/opamp"
    );
    assert_eq!(settings.heartbeat_interval_seconds, 30);
    assert!(
        settings
            .certificate
            .as_ref()
            .unwrap()
            .ca_cert
            .starts_with(b"-----BEGIN")
    );
    let headers = &settings.headers.as_ref().unwrap().headers;
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|header| (header.key.as_str(), header.value.as_str()))
        .collect();
    assert_eq!(
        headers,
        [("Authorization", "Bearer mst_acc_x"), ("X-Tenant", "blue")]
    );
    assert_eq!(
        sent.answer.connection_settings.as_ref().unwrap().hash.len(),
        16
    );
    let sent = World::new().send(&by_token(), POLL, &described(0, SETTINGS));
    let endpoint = &offered(&sent.answer).unwrap().destination_endpoint;
    assert_eq!(
        endpoint, "https://muster.example.com:8443/v1/opamp",
        "as the agent comes"
    );
}

#[test]
fn nothing_is_offered_over_tls_without_what_lets_agents_verify_the_server() {
    let mut world = World::new();
    world.settings.offers.as_mut().unwrap().authority_pem = None;
    let sent = world.send(&by_token(), socket(1), &described(0, SETTINGS));
    assert!(offered(&sent.answer).is_none());
    world.settings.offers.as_mut().unwrap().public_url = "http://127.0.0.1:8443/muster".to_owned();
    let sent = world.send(&by_token(), socket(1), &message(1, SETTINGS));
    let settings = offered(&sent.answer).unwrap();
    assert_eq!(
        settings.destination_endpoint,
        "ws://127.0.0.1:8443/muster/v1/opamp"
    );
    assert!(settings.certificate.is_none());
}

#[test]
fn only_those_who_can_take_an_offer_get_one_and_the_others_stay_on_the_token() {
    let mut world = World::new();
    for number in 0..10 {
        world.wait(60);
        let said = if number == 0 {
            described(0, 0x4805)
        } else {
            message(number, 0x4805)
        };
        assert!(offered(&world.send(&by_token(), socket(1), &said).answer).is_none());
    }
    assert_eq!(world.only().durable.standing, Standing::Enrolled);
}

#[test]
fn no_second_offer_is_made_while_one_is_outstanding() {
    let mut world = World::new();
    assert!(
        world
            .send(&by_token(), socket(1), &described(0, SETTINGS))
            .key
            .is_some()
    );
    for number in 1..9 {
        world.wait(30);
        assert!(
            world
                .send(&by_token(), socket(1), &message(number, SETTINGS))
                .key
                .is_none()
        );
    }
    // Two that come at the same moment: the second finds the first one's offer.
    assert!(
        world
            .send(&by_token(), socket(1), &message(8, SETTINGS))
            .key
            .is_none()
    );
}

#[test]
fn a_lost_offer_is_made_again_on_a_new_connection_but_never_close_to_the_first() {
    let mut world = World::new();
    let first = world
        .send(&by_token(), socket(1), &described(0, SETTINGS))
        .key
        .unwrap();
    world.wait(1);
    assert!(
        world
            .send(&by_token(), socket(2), &described(0, SETTINGS))
            .key
            .is_none()
    );
    world.wait(30);
    let second = world
        .send(&by_token(), socket(2), &message(1, SETTINGS))
        .key
        .unwrap();
    assert!(second > first);
    // The first is worth nothing any more once the second is used, which whoever keeps keys sees to.
    world.send(&by_key(second, 1), socket(3), &described(0, SETTINGS));
    let durable = &world.only().durable;
    assert_eq!(
        (durable.key_id, durable.offer.as_ref()),
        (Some(second), None)
    );
}

#[test]
fn over_plain_http_a_lost_offer_is_made_again_after_two_intervals() {
    let mut world = World::new();
    assert!(
        world
            .send(&by_token(), POLL, &described(0, SETTINGS))
            .key
            .is_some()
    );
    world.wait(30);
    assert!(
        world
            .send(&by_token(), POLL, &message(1, SETTINGS))
            .key
            .is_none()
    );
    world.wait(30);
    assert!(
        world
            .send(&by_token(), POLL, &message(2, SETTINGS))
            .key
            .is_some()
    );
}

#[test]
fn offers_to_an_agent_that_does_not_adopt_its_key_become_rare_and_people_are_told() {
    let mut world = World::new();
    let mut offers = Vec::new();
    let began = world.now;
    for number in 0..8_000_u64 {
        let said = if number == 0 {
            described(0, SETTINGS)
        } else {
            message(number, SETTINGS)
        };
        if world.send(&by_token(), POLL, &said).key.is_some() {
            offers.push(world.now.since(began).as_secs() / 60);
        }
        world.wait(30);
    }
    // At once, after a minute, then after 5 minutes, 30 minutes, 2 hours, and daily.
    assert_eq!(offers, [0, 1, 6, 36, 156, 1_596, 3_036]);
    let marks = world
        .events
        .iter()
        .filter(|event| **event == "does_not_adopt_its_key");
    assert_eq!(marks.count(), 1);
    assert!(world.only().durable.offer.as_ref().unwrap().is_marked);
}

#[test]
fn the_first_use_of_a_key_is_its_adoption_and_the_farewell_of_the_old_connection_does_not_hurt() {
    let mut world = World::new();
    adopted(&mut world);
    assert!(world.events.contains(&"key_adopted"));
    assert_eq!(world.only().gone_at(), None, "it stays online");
    assert_eq!(world.only().durable.heartbeat_seconds, Some(30));
}

#[test]
fn a_key_cannot_speak_for_another_agent() {
    let mut world = World::new();
    let key = adopted(&mut world);
    let foreign = with_uid(InstanceUid::from_bytes([9; 16]), described(0, SETTINGS));
    let refused = world
        .take(&by_key(key, 1), socket(3), &foreign)
        .err()
        .unwrap();
    assert!(
        matches!(refused, Refusal::BadRequest { closes: true, .. }),
        "{refused:?}"
    );
    world.send(&by_token(), socket(4), &foreign);
    let refused = world
        .take(&by_key(key, 1), socket(5), &foreign)
        .err()
        .unwrap();
    assert_eq!(refused.reason(), "foreign_uid", "nor for one that is known");
}

#[test]
fn a_supervisor_that_is_started_again_and_again_is_adopted_each_time_and_people_are_told() {
    let mut world = World::new();
    adopted(&mut world);
    for start in 0_u64..10 {
        world.wait(60);
        let before = world.only().durable.key_id;
        let (coming, staying) = (socket(100 + 2 * start), socket(101 + 2 * start));
        // Its socket was cut when it was killed.
        let now = world.now;
        for line in &mut world.records.get_mut(&CollectorId(1)).unwrap().lines {
            line.ended_at = Some(now);
        }
        let key = world
            .send(&by_token(), coming, &described(0, SETTINGS))
            .key
            .unwrap();
        world.send(&by_key(key, 1), staying, &described(0, SETTINGS));
        assert!(world.only().durable.key_id > before);
    }
    let told = world
        .events
        .iter()
        .filter(|event| **event == "comes_back_often");
    assert_eq!(told.count(), 1);
}

#[test]
fn while_the_key_of_an_agent_may_be_in_use_whoever_shows_the_token_and_its_uid_is_held_up() {
    let mut world = World::new();
    let key = adopted(&mut world);
    world.wait(10);
    let sent = world.send(&by_token(), socket(3), &described(0, SETTINGS));
    assert!(sent.key.is_none() && sent.outcome.effects.contains(&Effect::Probe));
    assert!(sent.outcome.parts.is_empty(), "nothing of it is taken");
    // The agent is there: there are two machines.
    world.wait(10);
    world.send(&by_key(key, 1), socket(2), &message(1, SETTINGS));
    world.wait(10);
    let sent = world.send(&by_token(), socket(3), &message(1, SETTINGS));
    let uid = sent.answer.agent_identification.unwrap().new_instance_uid;
    let uid = InstanceUid::from_wire(&uid).unwrap();
    assert!(uid.is_v7());
    assert!(
        sent.key.is_some(),
        "with a key for the new agent in the same answer"
    );
    assert_eq!(world.agent(2).durable.separated_from, Some(CollectorId(1)));
    assert_eq!(
        world.agent(1).durable.key_id,
        Some(key),
        "the first one is as it was"
    );
    // The new connection has the new uid and the new key; the old one says goodbye by the new uid under the old credential.
    let new_key = sent.key.unwrap();
    world.send(
        &by_key(new_key, 2),
        socket(4),
        &with_uid(uid, described(0, SETTINGS)),
    );
    world.send(&by_token(), socket(3), &with_uid(uid, goodbye(2, SETTINGS)));
    assert_eq!(world.records.len(), 2, "no further agent is made");
    assert_eq!(world.agent(2).gone_at(), None);
}

#[test]
fn a_copy_that_comes_while_the_key_is_live_becomes_another_agent_whatever_the_policy() {
    for policy in [KnownAgents::Adopt, KnownAgents::NewIdentity] {
        let mut world = World::new();
        adopted(&mut world);
        world.live.insert(CollectorId(1));
        let sent = world.send(&by_policy(policy), socket(3), &described(0, SETTINGS));
        assert!(sent.answer.agent_identification.is_some(), "{policy:?}");
        assert_eq!(world.records.len(), 2);
    }
}

#[test]
fn a_client_that_ignores_its_new_uid_does_not_become_a_new_agent_at_each_message() {
    let mut world = World::new();
    adopted(&mut world);
    world.live.insert(CollectorId(1));
    for number in 0..10 {
        world.wait(30);
        let said = if number == 0 {
            described(0, 0)
        } else {
            message(number, 0)
        };
        let sent = world.send(&by_token(), POLL, &said);
        assert!(sent.answer.agent_identification.is_some());
    }
    assert_eq!(world.records.len(), 2);
}

#[test]
fn an_agent_that_was_silent_for_two_intervals_is_taken_back_when_it_looks_the_same() {
    let mut world = World::new();
    let key = adopted(&mut world);
    world.wait(61);
    let sent = world.send(&by_token(), POLL, &described(0, SETTINGS));
    assert!(sent.key.is_some() && world.events.contains(&"re_enrolled"));
    assert_eq!(
        world.only().durable.key_id,
        Some(key),
        "the old key stays good until the new one is used"
    );
    assert!(
        !world
            .send(&by_token(), POLL, &message(1, SETTINGS))
            .outcome
            .is_new
    );
}

#[test]
fn another_machine_that_shows_the_uid_of_a_silent_agent_becomes_another_agent() {
    let mut world = World::new();
    adopted(&mut world);
    world.wait(3_600);
    let other = AgentToServer {
        agent_description: Some(description("box-2")),
        ..message(0, SETTINGS)
    };
    let sent = world.send(&by_token(), socket(3), &other);
    assert!(sent.answer.agent_identification.is_some());
    assert_eq!(world.records.len(), 2);
}

#[test]
fn the_instance_id_that_some_agents_draw_anew_is_never_compared() {
    let mut world = World::new();
    adopted(&mut world);
    world.wait(3_600);
    let mut said = described(0, SETTINGS);
    let attributes = &mut said
        .agent_description
        .as_mut()
        .unwrap()
        .identifying_attributes;
    attributes[1] = KeyValue::text("service.instance.id", "another");
    assert!(world.send(&by_token(), socket(3), &said).key.is_some());
    assert_eq!(world.records.len(), 1);
}

#[test]
fn whoever_comes_back_without_a_description_is_asked_for_it_first() {
    let mut world = World::new();
    adopted(&mut world);
    world.wait(3_600);
    let sent = world.send(&by_token(), socket(3), &message(40, SETTINGS));
    assert!(sent.asks() && sent.key.is_none());
    world.wait(1);
    assert!(
        world
            .send(&by_token(), socket(3), &described(41, SETTINGS))
            .key
            .is_some()
    );
}

#[test]
fn a_token_that_denies_comebacks_refuses_them() {
    let mut world = World::new();
    adopted(&mut world);
    world.wait(3_600);
    let refused = world.take(
        &by_policy(KnownAgents::Deny),
        socket(3),
        &described(0, SETTINGS),
    );
    assert_eq!(
        refused.err(),
        Some(Refusal::Unauthorized { reason: "denied" })
    );
}

#[test]
fn a_token_that_wants_an_approval_holds_comebacks_up_until_there_is_one() {
    let (mut world, by) = (World::new(), by_policy(KnownAgents::Approve));
    adopted(&mut world);
    world.wait(3_600);
    for number in 0..3 {
        let sent = world.send(&by, socket(3), &described(number, SETTINGS));
        assert!(sent.key.is_none() && sent.outcome.parts.is_empty());
        assert_eq!(sent.answer.instance_uid, UID.as_slice());
        world.wait(30);
    }
    assert_eq!(world.only().durable.standing, Standing::Waiting);
    assert_eq!(
        world
            .events
            .iter()
            .filter(|event| **event == "waits_for_approval")
            .count(),
        1
    );
    let now = world.now;
    let record = world.records.get_mut(&CollectorId(1)).unwrap();
    record.durable.standing = Standing::Enrolled;
    record.durable.approved_until = Some(now.plus(Duration::from_secs(60)));
    assert!(
        world
            .send(&by, socket(3), &described(3, SETTINGS))
            .key
            .is_some()
    );
    assert_eq!(world.only().durable.standing, Standing::Enrolled);
}

#[test]
fn a_revoked_agent_is_refused_also_by_its_token() {
    let mut world = World::new();
    let key = adopted(&mut world);
    world
        .records
        .get_mut(&CollectorId(1))
        .unwrap()
        .durable
        .standing = Standing::Revoked;
    for by in [
        by_token(),
        by_key(key, 1),
        by_policy(KnownAgents::NewIdentity),
    ] {
        let refused = world.take(&by, socket(3), &described(0, SETTINGS)).err();
        assert_eq!(refused, Some(Refusal::Unauthorized { reason: "revoked" }));
    }
}

#[test]
fn a_token_whose_uses_are_used_up_serves_those_who_came_by_it_and_nobody_else() {
    let mut world = World::new();
    world.send(&by_token(), POLL, &described(0, 0));
    let by = Principal::Token(TokenGrant {
        admits_new: false,
        ..token()
    });
    world.send(&by, POLL, &message(1, 0));
    let other = with_uid(InstanceUid::from_bytes([9; 16]), described(0, 0));
    let refused = world.take(&by, POLL, &other).err();
    assert_eq!(refused, Some(Refusal::Unauthorized { reason: "used_up" }));
}

#[test]
fn a_key_that_is_due_is_renewed_and_the_request_under_way_with_the_old_one_is_taken() {
    let mut world = World::new();
    let key = adopted(&mut world);
    let due = Principal::Key(KeyGrant {
        is_due: true,
        id: key,
        collector: Some(CollectorId(1)),
        team_id: None,
        is_superseded: false,
    });
    world.wait(60);
    let new = world
        .send(&due, socket(2), &message(1, SETTINGS))
        .key
        .unwrap();
    world.wait(30);
    assert!(
        world
            .send(&due, socket(2), &message(2, SETTINGS))
            .key
            .is_none(),
        "one is outstanding"
    );
    world.send(&by_key(new, 1), socket(3), &described(0, SETTINGS));
    let superseded = Principal::Key(KeyGrant {
        is_superseded: true,
        id: key,
        collector: Some(CollectorId(1)),
        team_id: None,
        is_due: true,
    });
    let sent = world.send(&superseded, socket(2), &message(3, SETTINGS));
    assert!(sent.key.is_none());
    world.send(&superseded, socket(2), &goodbye(4, SETTINGS));
    let record = world.only();
    assert_eq!((record.durable.key_id, record.gone_at()), (Some(new), None));
}
