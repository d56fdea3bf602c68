//! Numbers of messages and requests for a full state.

use super::*;

#[test]
fn a_gap_is_answered_with_exactly_one_request_for_a_full_state() {
    let (mut world, token) = (World::new(), by_token());
    assert!(!world.send(&token, socket(1), &described(0, 0)).asks());
    assert!(!world.send(&token, socket(1), &message(1, 0)).asks());
    world.wait(60);
    assert!(world.send(&token, socket(1), &message(3, 0)).asks());
    for number in 4..20 {
        world.wait(30);
        assert!(
            !world.send(&token, socket(1), &message(number, 0)).asks(),
            "{number}"
        );
    }
}

#[test]
fn a_whole_message_of_a_client_that_began_anew_asks_nothing() {
    let (mut world, token) = (World::new(), by_token());
    let first = AgentToServer {
        health: Some(health(true)),
        ..described(0, HEALTH)
    };
    world.send(&token, socket(1), &first);
    for number in 1..5 {
        world.send(&token, socket(1), &message(number, HEALTH));
    }
    assert!(!world.send(&token, socket(2), &first).asks());
    // Its health comes a little later.
    assert!(!world.send(&token, socket(3), &described(0, HEALTH)).asks());
}

#[test]
fn an_agent_that_nobody_knows_and_that_does_not_describe_itself_is_asked_once() {
    let (mut world, token) = (World::new(), by_token());
    assert!(world.send(&token, socket(1), &message(17, 0)).asks());
    for number in 18..30 {
        world.wait(60);
        assert!(
            !world.send(&token, socket(1), &message(number, 0)).asks(),
            "{number}"
        );
    }
    assert!(
        world.send(&token, socket(2), &message(30, 0)).asks(),
        "a new connection is a new try"
    );
}

#[test]
fn a_description_after_a_gap_heals_it_only_with_all_that_the_agent_is_known_to_tell() {
    let (mut world, token) = (World::new(), by_token());
    let whole = |number| AgentToServer {
        health: Some(health(true)),
        ..described(number, HEALTH)
    };
    world.send(&token, socket(1), &whole(0));
    assert!(
        !world.send(&token, socket(1), &whole(5)).asks(),
        "it is whole"
    );
    assert!(
        world.send(&token, socket(1), &described(9, HEALTH)).asks(),
        "health may be lost"
    );
}

#[test]
fn what_an_agent_promises_and_never_tells_is_not_waited_for() {
    // The Python client says that it reports its effective configuration, and does not.
    let (mut world, token) = (World::new(), by_token());
    world.send(&token, POLL, &described(0, 0x3007));
    assert!(!world.send(&token, POLL, &described(7, 0x3007)).asks());
}

#[test]
fn a_number_that_comes_twice_is_answered_and_asks_nothing() {
    let (mut world, token) = (World::new(), by_token());
    world.send(&token, POLL, &described(0, 0));
    let sent = world.send(&token, POLL, &message(1, 0));
    let again = world.send(&token, POLL, &message(1, 0));
    assert!(!sent.asks() && !again.asks());
    assert_eq!(again.answer.instance_uid, UID.as_slice());
}

#[test]
fn requests_are_half_a_minute_apart_and_end_after_three_without_an_answer() {
    let (mut world, token) = (World::new(), by_token());
    world.send(&token, socket(1), &described(0, 0));
    let mut asked = Vec::new();
    for second in 0_u64..400 {
        world.wait(1);
        if world
            .send(&token, socket(1), &message(10 * second + 10, 0))
            .asks()
        {
            asked.push(second);
        }
    }
    assert_eq!(asked, [0, 30, 60]);
    assert!(
        !world.send(&token, socket(1), &described(9_000, 0)).asks(),
        "all is told"
    );
    world.wait(60);
    assert!(
        world.send(&token, socket(1), &message(9_900, 0)).asks(),
        "it counts anew"
    );
}

#[test]
fn each_connection_of_an_agent_has_numbers_of_its_own() {
    // A supervisor that was given two offers at once holds two connections with one uid and different keys.
    let (mut world, token) = (World::new(), by_token());
    let key = world
        .send(&token, socket(1), &described(0, SETTINGS))
        .key
        .unwrap();
    let (old, new) = (by_key(key, 1), by_key(AgentKeyId(key.0 + 1), 1));
    world.send(&old, socket(2), &described(0, SETTINGS));
    world.send(&new, socket(3), &described(0, SETTINGS));
    for number in 1..20 {
        world.wait(30);
        assert!(
            !world
                .send(&old, socket(2), &message(number, SETTINGS))
                .asks()
        );
        assert!(
            !world
                .send(&new, socket(3), &message(number, SETTINGS))
                .asks()
        );
    }
}

#[test]
fn what_was_kept_is_enough_after_a_restart_of_the_server() {
    let (mut world, token) = (World::new(), by_token());
    world.send(&token, socket(1), &described(0, 0));
    world.send(&token, socket(1), &message(1, 0));
    world.wait(5);
    // Newer clients begin with an empty message, and their numbers go on.
    assert!(!world.send(&token, socket(9), &message(2, 0)).asks());
}

#[test]
fn an_agent_goes_when_it_says_so_and_an_older_connection_cannot_say_it_for_a_newer_one() {
    let (mut world, token) = (World::new(), by_token());
    world.send(&token, socket(1), &described(0, 0));
    assert_eq!(world.only().gone_at(), None);
    world.wait(1);
    world.send(&token, socket(2), &described(0, 0));
    // The farewell of the first connection arrives late.
    world.send(&token, socket(1), &goodbye(1, 0));
    assert_eq!(world.only().gone_at(), None);
    world.wait(1);
    world.send(&token, socket(2), &goodbye(1, 0));
    assert_eq!(world.only().gone_at(), Some(world.now));
}

#[test]
fn components_are_asked_for_by_their_hash_and_known_for_all_once_one_tells() {
    use muster_wire_opamp::proto::{AvailableComponents, ComponentDetails};
    let (mut world, token) = (World::new(), by_token());
    let by_hash = |number| AgentToServer {
        available_components: Some(AvailableComponents {
            hash: bytes::Bytes::from_static(b"hash"),
            ..AvailableComponents::default()
        }),
        ..described(number, 0x4000)
    };
    let sent = world.send(&token, socket(1), &by_hash(0));
    assert_eq!(sent.answer.flags, 2);
    // The supervisor tells it only with its full state.
    world.wait(10);
    assert_eq!(
        world
            .send(&token, socket(1), &message(1, 0x4000))
            .answer
            .flags,
        0
    );
    world.wait(30);
    assert_eq!(
        world
            .send(&token, socket(1), &message(2, 0x4000))
            .answer
            .flags,
        1
    );
    let mut whole = by_hash(3);
    let list = whole.available_components.as_mut().unwrap();
    list.components
        .insert("receivers".to_owned(), ComponentDetails::default());
    assert!(
        world
            .send(&token, socket(1), &whole)
            .outcome
            .components
            .is_some()
    );
    for number in 4..8 {
        world.wait(60);
        assert_eq!(
            world
                .send(&token, socket(1), &message(number, 0x4000))
                .answer
                .flags,
            0
        );
    }
    let other = InstanceUid::from_bytes([8; 16]);
    let sent = world.send(&token, socket(2), &with_uid(other, by_hash(0)));
    assert_eq!(
        sent.answer.flags, 0,
        "another agent with the same components need not tell them"
    );
}
