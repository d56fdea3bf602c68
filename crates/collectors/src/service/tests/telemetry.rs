//! When agents are told where to send telemetry about themselves.

use std::collections::BTreeMap;

use super::*;
use crate::configurations::precedence::Claim;
use crate::configurations::selector::Selector;
use crate::telemetry::{Destination, Signal};

const METRICS: u64 = 0x40;
const TRACES: u64 = 0x20;
const LOGS: u64 = 0x80;

fn telemetry(hash: &str, signals: &[Signal]) -> OwnTelemetry {
    let destination = |signal: &Signal| Destination {
        endpoint: format!("https://otel.example.com/v1/{}", signal.name()),
        headers: BTreeMap::from([("Authorization".to_owned(), "Bearer hunter2".to_owned())]),
    };
    OwnTelemetry {
        claim: Claim {
            id: 1,
            team_id: None,
            priority: 0,
            selector: Selector::parse("*").unwrap(),
        },
        name: "backend".to_owned(),
        destinations: signals
            .iter()
            .map(|signal| (*signal, destination(signal)))
            .collect(),
        hash: hash.to_owned(),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
    }
}

/// What of it was offered, if anything.
fn offered(sent: &Sent) -> Vec<&'static str> {
    let Some(settings) = &sent.answer.connection_settings else {
        return Vec::new();
    };
    let parts = [
        ("opamp", settings.opamp.is_some()),
        ("metrics", settings.own_metrics.is_some()),
        ("traces", settings.own_traces.is_some()),
        ("logs", settings.own_logs.is_some()),
    ];
    let there = parts.into_iter().filter(|(_, is_there)| *is_there);
    there.map(|(name, _)| name).collect()
}

#[test]
fn an_agent_is_offered_what_it_reports_once_and_again_when_it_changes() {
    let mut world = World::new();
    world.telemetry = Some(telemetry("aa", &[Signal::Metrics, Signal::Logs]));
    let token = by_token();
    let capabilities = STATUS | METRICS | TRACES;
    let first = world.send(&token, POLL, &described(0, capabilities));
    assert_eq!(
        offered(&first),
        ["metrics"],
        "no logs, which it does not report"
    );
    let settings = first.answer.connection_settings.as_ref().unwrap();
    let metrics = settings.own_metrics.as_ref().unwrap();
    assert_eq!(
        metrics.destination_endpoint,
        "https://otel.example.com/v1/metrics"
    );
    assert_eq!(
        metrics.headers.as_ref().unwrap().headers[0].value,
        "Bearer hunter2"
    );
    assert_eq!(settings.hash.len(), 16);
    assert!(
        !format!("{:?}", first.outcome).contains("hunter2"),
        "no secret is printed"
    );
    for sequence in 1..5 {
        world.wait(30);
        let next = world.send(&token, POLL, &message(sequence, capabilities));
        assert_eq!(offered(&next), Vec::<&str>::new());
        assert!(!next.outcome.is_changed, "nothing is written");
    }
    // It reports logs as well from now on.
    world.wait(30);
    let more = world.send(&token, POLL, &message(5, capabilities | LOGS));
    assert_eq!(offered(&more), ["metrics", "logs"], "an offer is whole");
    world.wait(30);
    world.telemetry = Some(telemetry("bb", &[Signal::Traces]));
    let other = world.send(&token, POLL, &message(6, capabilities | LOGS));
    assert_eq!(offered(&other), ["traces"]);
    // Nothing is set any more: the protocol has no word for that.
    world.wait(30);
    world.telemetry = None;
    let none = world.send(&token, POLL, &message(7, capabilities | LOGS));
    assert_eq!(offered(&none), Vec::<&str>::new());
    assert_eq!(
        world
            .events
            .iter()
            .filter(|kind| **kind == "telemetry_offered")
            .count(),
        3
    );
}

#[test]
fn an_agent_that_reports_nothing_of_its_own_is_offered_nothing() {
    let mut world = World::new();
    world.telemetry = Some(telemetry("aa", &[Signal::Metrics]));
    let sent = world.send(&by_token(), POLL, &described(0, STATUS | LOGS));
    assert_eq!(offered(&sent), Vec::<&str>::new());
}

#[test]
fn a_key_goes_first_and_the_two_are_never_close_together() {
    let mut world = World::new();
    world.telemetry = Some(telemetry("aa", &[Signal::Metrics]));
    let capabilities = STATUS | METRICS | SETTINGS;
    let token = by_token();
    let first = world.send(&token, POLL, &described(0, capabilities));
    assert_eq!(offered(&first), ["opamp"]);
    let id = first.key.unwrap();
    // The offer is outstanding.
    world.wait(15);
    let waits = world.send(&token, POLL, &message(1, capabilities));
    assert_eq!(offered(&waits), Vec::<&str>::new());
    let mine = by_key(id, 1);
    let adopts = world.send(&mine, POLL, &described(0, capabilities));
    assert_eq!(
        offered(&adopts),
        Vec::<&str>::new(),
        "it is about to settle"
    );
    world.wait(30);
    let then = world.send(&mine, POLL, &message(1, capabilities));
    assert_eq!(offered(&then), ["metrics"]);
    // A key that is due waits as well, and what is offered with it makes the agent drop the rest.
    let Principal::Key(grant) = mine.clone() else {
        panic!("it has a key")
    };
    let due = Principal::Key(KeyGrant {
        is_due: true,
        ..grant
    });
    world.wait(5);
    let soon = world.send(&due, POLL, &message(2, capabilities));
    assert_eq!(offered(&soon), Vec::<&str>::new());
    world.wait(30);
    let rotates = world.send(&due, POLL, &message(3, capabilities));
    assert_eq!(offered(&rotates), ["opamp"]);
    let newer = by_key(rotates.key.unwrap(), 1);
    world.send(&newer, POLL, &described(0, capabilities));
    world.wait(30);
    let again = world.send(&newer, POLL, &message(1, capabilities));
    assert_eq!(
        offered(&again),
        ["metrics"],
        "it is offered again with the newer key"
    );
}

#[test]
fn an_agent_that_starts_anew_is_told_again_and_not_more_often_than_every_few_minutes() {
    let mut world = World::new();
    world.telemetry = Some(telemetry("aa", &[Signal::Metrics]));
    let token = by_token();
    let capabilities = STATUS | METRICS;
    world.send(&token, POLL, &described(0, capabilities));
    for (wait, expected) in [(30, &[][..]), (300, &["metrics"]), (30, &[]), (30, &[])] {
        world.wait(wait);
        let sent = world.send(&token, POLL, &described(0, capabilities));
        assert_eq!(offered(&sent), expected, "after {wait} s");
    }
}

#[test]
fn what_an_agent_says_of_it_is_kept_with_its_hash() {
    use muster_wire_opamp::proto::ConnectionSettingsStatus;
    let mut world = World::new();
    world.telemetry = Some(telemetry("aa", &[Signal::Metrics]));
    let token = by_token();
    let capabilities = STATUS | METRICS | 0x8000;
    let first = world.send(&token, POLL, &described(0, capabilities));
    let hash = first.answer.connection_settings.unwrap().hash;
    let mut said = message(1, capabilities);
    said.connection_settings_status = Some(ConnectionSettingsStatus {
        last_connection_settings_hash: hash.clone(),
        status: 3,
        error_message: "no such host".to_owned(),
    });
    let sent = world.send(&token, POLL, &said);
    let report = sent.outcome.record.durable.settings.clone().unwrap();
    assert_eq!(
        (report.hash, report.error.as_str()),
        (crate::values::hex(&hash), "no such host")
    );
}
