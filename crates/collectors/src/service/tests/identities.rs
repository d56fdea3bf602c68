//! Uids, keys made in advance, and agents that nobody knows.

use super::keys::adopted;
use super::*;

#[test]
fn an_agent_that_asks_for_a_uid_is_given_one_and_keeps_it_when_the_answer_is_lost() {
    let mut world = World::new();
    let asks = AgentToServer {
        flags: 1,
        ..described(0, 0)
    };
    let given = |sent: &Sent| {
        let said = sent.answer.agent_identification.as_ref().unwrap();
        InstanceUid::from_wire(&said.new_instance_uid).unwrap()
    };
    let uid = given(&world.send(&by_token(), socket(1), &asks));
    assert!(uid.is_v7());
    assert_eq!(
        given(&world.send(&by_token(), socket(2), &asks)),
        uid,
        "not another one"
    );
    let sent = world.send(&by_token(), socket(2), &with_uid(uid, message(1, 0)));
    assert!(sent.answer.agent_identification.is_none());
    assert_eq!(world.records.len(), 1);
}

#[test]
fn a_uid_of_old_clients_is_answered_as_they_write_it() {
    let mut world = World::new();
    let text = b"01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let said = AgentToServer {
        instance_uid: bytes::Bytes::from_static(text),
        flags: 1,
        ..described(0, 0)
    };
    let sent = world.send(&by_token(), socket(1), &said);
    assert_eq!(sent.answer.instance_uid, text.as_slice());
    let new = sent.answer.agent_identification.unwrap().new_instance_uid;
    assert_eq!(new.len(), 26);
}

#[test]
fn a_uid_of_zeros_is_a_mistake_that_is_told() {
    let said = with_uid(InstanceUid::from_bytes([0; 16]), described(0, 0));
    let refused = World::new().take(&by_token(), POLL, &said).err().unwrap();
    assert!(matches!(refused, Refusal::BadRequest { closes: false, .. }));
}

/// A key that was made in advance.
fn premade(collector: Option<i64>) -> Principal {
    Principal::Key(KeyGrant {
        id: AgentKeyId(50),
        collector: collector.map(CollectorId),
        team_id: None,
        is_superseded: false,
        is_due: false,
    })
}

#[test]
fn a_key_made_in_advance_belongs_to_the_first_agent_that_uses_it() {
    let mut world = World::new();
    let sent = world.send(&premade(None), socket(1), &described(0, 0x4805));
    assert!(
        sent.outcome
            .effects
            .contains(&Effect::BindKey(AgentKeyId(50)))
    );
    world.send(&premade(Some(1)), socket(1), &message(1, 0x4805));
    // The collector's extension draws its uid anew at each start.
    let other = InstanceUid::from_bytes([9; 16]);
    let refused = world.take(
        &premade(Some(1)),
        socket(2),
        &with_uid(other, described(0, 0x4805)),
    );
    assert!(
        refused.is_err(),
        "while the first one is there it is another"
    );
    world.wait(3_600);
    world.send(
        &premade(Some(1)),
        socket(3),
        &with_uid(other, described(0, 0x4805)),
    );
    assert_eq!(world.only().durable.uid, other);
}

#[test]
fn an_agent_on_its_token_can_change_to_a_key_made_in_advance() {
    let mut world = World::new();
    world.send(&by_token(), socket(1), &described(0, 0));
    world.send(&premade(None), socket(2), &described(0, 0));
    assert_eq!(world.only().durable.key_id, Some(AgentKeyId(50)));
    let mut keyed = World::new();
    adopted(&mut keyed);
    let refused = keyed
        .take(&premade(None), socket(9), &described(0, SETTINGS))
        .err()
        .unwrap();
    assert_eq!(
        refused.reason(),
        "foreign_uid",
        "one that has a key is not taken over"
    );
}

#[test]
fn whoever_is_not_known_and_says_goodbye_leaves_nothing_behind() {
    let mut world = World::new();
    let sent = world.send(&by_token(), socket(1), &goodbye(4, 0));
    assert_eq!(sent.answer.instance_uid, UID.as_slice());
    assert!(world.records.is_empty());
}
