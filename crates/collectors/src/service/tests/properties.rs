//! What holds for every sequence of messages.

use proptest::prelude::*;

use super::*;

/// Something that an agent may do next.
#[derive(Debug, Clone)]
enum Move {
    /// Sends a message whose number jumps by so much.
    Send {
        jump: i8,
        describes: bool,
        reports: bool,
        goes: bool,
        by_key: bool,
    },
    /// Opens another connection.
    Reconnect,
    /// Time goes by.
    Wait(u16),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let send =
        (-3_i8..4, any::<[bool; 4]>()).prop_map(|(jump, [describes, reports, goes, by_key])| {
            Move::Send {
                jump,
                describes,
                reports,
                // Rarely.
                goes: goes && describes && reports,
                by_key,
            }
        });
    let one =
        prop_oneof![6 => send, 1 => Just(Move::Reconnect), 2 => (0_u16..400).prop_map(Move::Wait)];
    proptest::collection::vec(one, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_answered_with_its_uid_and_nobody_is_asked_or_offered_too_often(
        moves in moves(),
        is_http in any::<bool>(),
        capabilities in prop_oneof![Just(0), Just(SETTINGS), Just(SETTINGS | HEALTH | 0x4)],
    ) {
        let mut world = World::new();
        let (mut connection, mut number) = (1, 0_u64);
        let mut asked: Vec<Timestamp> = Vec::new();
        let mut since_whole = 0;
        let mut offers: Vec<Timestamp> = Vec::new();
        let mut keys: Vec<AgentKeyId> = Vec::new();
        for next in moves {
            match next {
                Move::Wait(seconds) => world.wait(u64::from(seconds)),
                Move::Reconnect => connection += 1,
                Move::Send { jump, describes, reports, goes, by_key: with_key } => {
                    number = number.wrapping_add_signed(i64::from(jump));
                    let said = AgentToServer {
                        agent_description: describes.then(|| description("box-1")),
                        health: reports.then(|| health(number % 2 == 0)),
                        agent_disconnect: goes.then(AgentDisconnect::default),
                        ..message(number, capabilities)
                    };
                    let by = match keys.last() {
                        Some(key) if with_key => {
                            // An agent that adopted its key and came back without it is offered another at once.
                            offers.clear();
                            by_key(*key, 1)
                        }
                        _ => by_token(),
                    };
                    let on = if is_http { POLL } else { socket(connection) };
                    let Ok(sent) = world.take(&by, on, &said) else {
                        prop_assert!(false, "an agent was refused");
                        return Ok(());
                    };
                    // A copy may be found, and no more than one per token; what is told to that counts for another agent.
                    prop_assert!(world.records.len() <= 2);
                    if world.records.len() == 2 {
                        return Ok(());
                    }
                    prop_assert_eq!(&sent.answer.instance_uid[..], &UID[..]);
                    prop_assert_eq!(sent.answer.capabilities, SERVER_CAPABILITIES.bits());
                    if describes {
                        since_whole = 0;
                    }
                    if sent.asks() {
                        if let Some(last) = asked.last() {
                            prop_assert!(world.now.since(*last) >= Duration::from_secs(30));
                        }
                        asked.push(world.now);
                        since_whole += 1;
                        // One for each of the credentials at most three in a row.
                        prop_assert!(since_whole <= 3 * crate::limits::MAX_LINES, "asked {since_whole} times");
                    }
                    if let Some(key) = sent.key {
                        prop_assert!(capabilities & SETTINGS != 0);
                        if let Some(last) = offers.last() {
                            prop_assert!(world.now.since(*last) >= Duration::from_secs(10));
                        }
                        offers.push(world.now);
                        keys.push(key);
                        let offer = world.agent(1).durable.offer.as_ref();
                        prop_assert_eq!(offer.and_then(|offer| offer.key_id), Some(key));
                    }
                }
            }
        }
    }

    #[test]
    fn a_client_that_tells_everything_when_it_is_asked_is_asked_once_per_gap(
        gaps in proptest::collection::vec((1_u64..5, 0_u64..120), 1..60),
    ) {
        let mut world = World::new();
        world.send(&by_token(), socket(1), &described(0, 0));
        let (mut number, mut gaps_seen, mut asked) = (0, 0, 0);
        for (step, pause) in gaps {
            world.wait(pause);
            number += step;
            gaps_seen += u64::from(step > 1);
            if world.send(&by_token(), socket(1), &message(number, 0)).asks() {
                asked += 1;
                number += 1;
                let whole = world.send(&by_token(), socket(1), &described(number, 0));
                prop_assert!(!whole.asks());
            }
        }
        prop_assert!(asked <= gaps_seen, "asked {asked} times for {gaps_seen} gaps");
    }
}
