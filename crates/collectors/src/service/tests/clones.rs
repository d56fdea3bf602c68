//! Machines made from one image, each with the uid and the token that stood in it.

use super::keys::adopted;
use super::*;

fn of(host: &str, number: u64) -> AgentToServer {
    AgentToServer {
        agent_description: Some(description(host)),
        ..message(number, SETTINGS)
    }
}

/// A machine of the image comes, and takes the key that it is offered; gives its id.
fn comes(world: &mut World, host: &str, on: u64) -> CollectorId {
    let sent = world.send(&by_token(), socket(on), &of(host, 0));
    let id = sent.outcome.record.id;
    let uid = sent.answer.agent_identification.unwrap().new_instance_uid;
    let uid = InstanceUid::from_wire(&uid).unwrap();
    let (key, by) = (sent.key.unwrap(), id.0);
    let said = with_uid(uid, of(host, 0));
    world.send(&by_key(key, by), socket(on + 1), &said);
    world.live.insert(id);
    world.wait(60);
    id
}

fn with_first() -> World {
    let mut world = World::new();
    adopted(&mut world);
    world.live.insert(CollectorId(1));
    world.wait(60);
    world
}

#[test]
fn each_machine_of_an_image_becomes_an_agent_of_its_own() {
    for hosts in [["box-2", "box-3", "box-4"], ["box-1"; 3]] {
        let mut world = with_first();
        for (host, on) in hosts.into_iter().zip([10, 20, 30]) {
            comes(&mut world, host, on);
        }
        assert_eq!(world.records.len(), 4, "{hosts:?}");
        let keys: HashSet<_> = world
            .records
            .values()
            .map(|record| record.durable.key_id)
            .collect();
        assert_eq!(keys.len(), 4, "each has a key: {hosts:?}");
    }
}

#[test]
fn a_machine_of_an_image_that_lost_its_key_is_known_again_by_what_it_says_of_itself() {
    let mut world = with_first();
    let second = comes(&mut world, "box-2", 10);
    let third = comes(&mut world, "box-3", 20);
    for (id, host, on) in [(second, "box-2", 40), (third, "box-3", 50)] {
        world.live.remove(&id);
        world.wait(3_600);
        let sent = world.send(&by_token(), socket(on), &of(host, 0));
        assert_eq!(sent.outcome.record.id, id, "{host}");
        assert!(sent.key.is_some());
    }
    assert_eq!(world.records.len(), 3);
}

#[test]
fn when_a_machine_of_an_image_was_deleted_it_enrolls_anew() {
    let mut world = with_first();
    let second = comes(&mut world, "box-2", 10);
    world.records.remove(&second);
    world.uids.retain(|_, id| *id != second);
    world.live.clear();
    world.live.insert(CollectorId(1));
    // Its number is not given again.
    world
        .records
        .insert(CollectorId(100), world.agent(1).clone());
    let sent = world.send(&by_token(), socket(40), &of("box-2", 0));
    assert!(sent.outcome.is_new && sent.key.is_some());
    let uid = sent.answer.agent_identification.unwrap().new_instance_uid;
    assert_ne!(
        uid,
        UID.as_slice(),
        "the uid that it shows is the first one's"
    );
}

#[test]
fn when_a_machine_of_an_image_was_revoked_the_others_go_on() {
    let mut world = with_first();
    let second = comes(&mut world, "box-2", 10);
    world.records.get_mut(&second).unwrap().durable.standing = Standing::Revoked;
    let refused = world.take(&by_token(), socket(40), &of("box-2", 0));
    assert_eq!(refused.err(), Some(Refusal::REVOKED));
    assert_ne!(comes(&mut world, "box-3", 50), second);
}

#[test]
fn a_message_that_does_not_tell_which_machine_of_an_image_sent_it_is_asked_for_more() {
    let mut world = with_first();
    comes(&mut world, "box-2", 10);
    comes(&mut world, "box-3", 20);
    let sent = world.send(&by_token(), socket(40), &message(7, SETTINGS));
    assert!(sent.asks() && sent.key.is_none() && !sent.outcome.is_new);
    let sent = world.send(&by_token(), socket(40), &of("box-4", 8));
    assert!(sent.outcome.is_new && sent.key.is_some());
}

#[test]
fn what_was_under_way_when_a_machine_of_an_image_took_its_key_makes_no_further_agent() {
    let mut world = with_first();
    let sent = world.send(&by_token(), socket(10), &of("box-2", 0));
    let id = sent.outcome.record.id;
    let uid = sent.answer.agent_identification.unwrap().new_instance_uid;
    let uid = InstanceUid::from_wire(&uid).unwrap();
    let said = with_uid(uid, of("box-2", 0));
    world.send(&by_key(sent.key.unwrap(), id.0), socket(11), &said);
    world.live.insert(id);
    world.wait(1);
    for late in [of("box-2", 1), message(2, SETTINGS), goodbye(3, SETTINGS)] {
        let sent = world.send(&by_token(), socket(10), &late);
        assert!(!sent.outcome.is_new && sent.key.is_none());
    }
    assert_eq!(world.records.len(), 2);
}

#[test]
fn of_machines_that_made_up_the_same_uid_and_ask_for_one_each_is_given_its_own() {
    let mut world = World::new();
    let mut given = HashSet::new();
    for host in ["box-1", "box-2", "box-3"] {
        let asks = AgentToServer {
            flags: bits::REQUEST_INSTANCE_UID,
            ..of(host, 0)
        };
        let sent = world.send(&by_token(), socket(given.len() as u64 + 1), &asks);
        given.insert(sent.answer.agent_identification.unwrap().new_instance_uid);
    }
    assert_eq!((given.len(), world.records.len()), (3, 3));
}

#[test]
fn an_agent_that_does_not_obey_an_interval_is_heard_as_often_as_it_decides() {
    let heartbeat = 0x2000;
    for (capabilities, expected) in [(SETTINGS, 30), (SETTINGS | heartbeat, 5)] {
        let mut world = World::new();
        world.settings.offers.as_mut().unwrap().heartbeat_seconds = 5;
        let key = world
            .send(&by_token(), socket(1), &described(0, capabilities))
            .key
            .unwrap();
        world.send(&by_key(key, 1), socket(2), &described(0, capabilities));
        assert_eq!(world.only().durable.heartbeat_seconds, Some(expected));
    }
}
