//! Sequences that real agents went through, and what holds for any.

use proptest::prelude::*;

use super::*;

const SOAK: Duration = Duration::from_secs(30);

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + milliseconds * 1_000)
}

fn version(number: i64) -> Version {
    Version {
        configuration_id: 1,
        version: number,
        hash: format!("hash-{number}"),
    }
}

/// A collector that is played with: what it says, what it should run, and what we make of it.
struct Play {
    rollout: Rollout,
    assigned: Option<Version>,
    is_paused: bool,
    goes_back: bool,
    obstacle: Option<String>,
    reports_config: bool,
    healthy: Option<bool>,
    health_error: &'static str,
    health_at: i64,
    /// When it was last heard, when that is not now.
    heard_at: Option<i64>,
    back_at: Option<i64>,
    report: Option<ConfigReport>,
    sent: Option<(String, i64)>,
    now: i64,
}

impl Play {
    fn new(assigned: Option<i64>) -> Self {
        Self {
            rollout: Rollout::new(at(0)),
            assigned: assigned.map(version),
            is_paused: false,
            goes_back: false,
            obstacle: None,
            reports_config: true,
            healthy: Some(true),
            health_error: "",
            health_at: 0,
            heard_at: None,
            back_at: None,
            report: None,
            sent: None,
            now: 0,
        }
    }

    fn look(&mut self) -> State {
        let facts = Facts {
            now: at(self.now),
            assigned: self.assigned.clone().map(|version| (9, version)),
            is_paused: self.is_paused,
            obstacle: self.obstacle.clone(),
            goes_back: self.goes_back,
            soak: SOAK,
            reports_config: self.reports_config,
            reports_health: true,
            healthy: self.healthy,
            health_error: self.health_error,
            health_at: self.healthy.map(|_| at(self.health_at)),
            heard_at: Some(at(self.heard_at.unwrap_or(self.now))),
            back_at: self.back_at.map(at),
            report: self.report.as_ref(),
            sent: self
                .sent
                .as_ref()
                .map(|(hash, sent_at)| (hash.as_str(), at(*sent_at))),
        };
        self.rollout = judge(&self.rollout, &facts);
        self.rollout.stage.state()
    }

    fn after(&mut self, milliseconds: i64) -> State {
        self.now += milliseconds;
        self.look()
    }

    fn send(&mut self) {
        let version = self
            .rollout
            .to_send(self.is_paused)
            .expect("nothing is to be sent");
        self.sent = Some((version.hash.clone(), self.now));
        self.look();
    }

    fn feels(&mut self, healthy: bool) {
        self.healthy = Some(healthy);
        self.health_at = self.now;
    }

    fn says(&mut self, number: i64, progress: Progress, error: &str) -> State {
        self.report = Some(ConfigReport {
            hash: version(number).hash,
            progress,
            error: error.to_owned(),
            at: at(self.now),
        });
        self.look()
    }

    fn runs_well(&mut self, number: i64) {
        self.assigned = Some(version(number));
        self.look();
        self.send();
        self.says(number, Progress::Applying, "");
        self.now += 1_000;
        self.feels(true);
        self.now += 4_000;
        self.says(number, Progress::Applied, "");
        assert_eq!(self.after(30_000), State::InSync);
    }
}

#[test]
fn a_version_counts_as_run_after_applied_and_a_healthy_soak_time() {
    let mut play = Play::new(Some(1));
    assert_eq!(play.look(), State::Applying);
    assert_eq!(play.rollout.stage, Stage::Waiting);
    play.send();
    assert_eq!(play.rollout.stage, Stage::Sent);
    play.says(1, Progress::Applying, "");
    assert_eq!(play.rollout.stage, Stage::Applying);
    play.feels(true);
    play.now += 5_000;
    assert_eq!(play.says(1, Progress::Applied, ""), State::Applying);
    let next = NextLook {
        at: None,
        when_heard: Some(at(35_000)),
    };
    assert_eq!(play.rollout.next_look(SOAK), next);
    assert_eq!(play.after(29_999), State::Applying);
    assert_eq!(play.after(1), State::InSync);
    assert_eq!(play.rollout.good, Some(version(1)));
    assert_eq!(play.rollout.next_look(SOAK), NextLook::default());
}

#[test]
fn a_collector_that_is_gone_after_applied_does_not_run_well() {
    let mut play = Play::new(Some(1));
    play.runs_well(1);
    // The second version takes its network away.
    play.assigned = Some(version(2));
    play.look();
    play.send();
    play.feels(true);
    play.now += 5_000;
    play.says(2, Progress::Applied, "");
    play.heard_at = Some(play.now + 2_000);
    for _ in 0..3 {
        assert_eq!(play.after(600_000), State::Applying);
        assert_eq!(play.rollout.stage, Stage::Soaking);
    }
    assert_eq!(play.rollout.good, Some(version(1)));
    // It comes back, and the time begins anew.
    play.heard_at = None;
    play.back_at = Some(play.now);
    assert_eq!(play.after(29_999), State::Applying);
    assert_eq!(play.after(1), State::InSync);
    assert_eq!(play.rollout.good, Some(version(2)));
}

#[test]
fn the_time_goes_on_to_the_last_sign_of_life() {
    let mut play = Play::new(Some(1));
    play.look();
    play.send();
    play.feels(true);
    play.says(1, Progress::Applied, "");
    play.heard_at = Some(29_999);
    assert_eq!(play.after(60_000), State::Applying);
    assert_eq!(
        play.rollout.next_look(SOAK).when_heard,
        Some(at(30_000)),
        "it is looked at once it was heard again"
    );
    play.heard_at = Some(30_000);
    assert_eq!(play.after(60_000), State::InSync, "and be it gone since");
}

#[test]
fn health_of_before_the_version_was_sent_proves_nothing() {
    let mut play = Play::new(Some(1));
    play.now = 10_000;
    play.look();
    play.send();
    play.says(1, Progress::Applied, "");
    assert_eq!(play.rollout.next_look(SOAK).at, Some(at(100_000)));
    assert_eq!(play.after(40_000), State::Applying);
    // It says how it is at last, and is watched from then on.
    play.feels(true);
    assert_eq!(play.after(29_999), State::Applying);
    assert_eq!(play.after(1), State::InSync);
}

#[test]
fn an_agent_that_tells_its_health_once_is_waited_for_and_then_believed() {
    let mut play = Play::new(Some(1));
    play.now = 10_000;
    play.look();
    play.send();
    play.says(1, Progress::Applied, "");
    assert_eq!(play.after(89_999), State::Applying);
    assert_eq!(play.after(1), State::InSync);
}

#[test]
fn an_applied_that_is_followed_by_failed_with_the_same_hash_was_false() {
    let mut play = Play::new(Some(1));
    play.look();
    play.send();
    play.says(1, Progress::Applying, "");
    play.now += 5_000;
    play.says(1, Progress::Applied, "");
    play.now += 14;
    assert_eq!(
        play.says(1, Progress::Failed, "bad exporter"),
        State::Failed
    );
    assert_eq!(play.rollout.message, "bad exporter");
    assert_eq!(play.rollout.to_send(false), None);
}

#[test]
fn a_version_that_failed_is_not_sent_again_until_it_changes() {
    let mut play = Play::new(Some(1));
    play.runs_well(1);
    play.assigned = Some(version(2));
    play.look();
    play.send();
    play.says(2, Progress::Failed, "no such receiver");
    // Back to the first by hand, then the failed one again.
    play.assigned = Some(version(1));
    play.look();
    play.send();
    play.says(1, Progress::Applied, "");
    assert_eq!(play.look(), State::InSync);
    play.assigned = Some(version(2));
    assert_eq!(play.look(), State::Failed);
    assert_eq!(play.rollout.message, "no such receiver");
    assert_eq!(play.rollout.to_send(false), None);
    // A third is new.
    play.assigned = Some(version(3));
    assert_eq!(play.look(), State::Applying);
    assert_eq!(play.rollout.to_send(false), Some(&version(3)));
}

#[test]
fn a_version_that_failed_long_ago_is_not_sent_again_either() {
    let mut play = Play::new(Some(1));
    for number in 1..=20 {
        play.assigned = Some(version(number));
        play.look();
        play.send();
        play.says(number, Progress::Failed, "no such receiver");
    }
    play.assigned = Some(version(1));
    assert_eq!(play.look(), State::Failed);
    assert_eq!(play.rollout.to_send(false), None);
    assert_eq!(play.rollout.message, "it failed there before");
    play.assigned = Some(version(15));
    play.look();
    assert_eq!(play.rollout.message, "no such receiver");
    for number in 21..=200 {
        play.assigned = Some(version(number));
        play.look();
        play.send();
        play.says(number, Progress::Failed, &"long words ".repeat(50));
    }
    let body = serde_json::to_string(&play.rollout).unwrap();
    assert!(body.len() < 16_000, "{} bytes", body.len());
}

#[test]
fn a_collector_goes_back_by_itself_when_that_is_asked_for() {
    let mut play = Play::new(Some(1));
    play.runs_well(1);
    play.goes_back = true;
    play.assigned = Some(version(2));
    play.look();
    play.send();
    assert_eq!(play.says(2, Progress::Failed, "broken"), State::Failed);
    assert_eq!(play.rollout.instead, Some(version(1)));
    assert_eq!(play.rollout.to_send(false), Some(&version(1)));
    // It runs the older one: what it should run is still failed there, and people see why.
    play.sent = Some((version(1).hash, play.now));
    play.now += 5_000;
    assert_eq!(play.says(1, Progress::Applied, ""), State::Failed);
    assert_eq!(play.rollout.message, "broken");
    play.assigned = Some(version(3));
    assert_eq!(play.look(), State::Applying);
    assert_eq!(play.rollout.instead, None);
}

#[test]
fn without_a_version_that_ran_well_there_is_nothing_to_go_back_to() {
    let mut play = Play::new(Some(1));
    play.goes_back = true;
    play.look();
    play.send();
    assert_eq!(play.says(1, Progress::Failed, "broken"), State::Failed);
    assert_eq!(play.rollout.to_send(false), None);
}

#[test]
fn a_collector_that_stays_ill_with_a_new_version_failed() {
    let mut play = Play::new(Some(1));
    play.look();
    play.send();
    play.feels(false);
    play.health_error = "exporter: connection refused";
    play.says(1, Progress::Applied, "");
    assert_eq!(play.rollout.next_look(SOAK).at, Some(at(90_000)));
    assert_eq!(play.after(89_999), State::Applying);
    assert_eq!(play.after(1), State::Failed);
    assert_eq!(
        play.rollout.message,
        "applied, but the collector is not healthy: exporter: connection refused"
    );
    // It recovers, and is watched from the beginning.
    play.feels(true);
    assert_eq!(play.after(1_000), State::Applying);
    assert_eq!(play.after(28_999), State::Applying);
    assert_eq!(play.after(1), State::InSync);
}

#[test]
fn a_moment_of_ill_health_begins_the_soak_time_anew() {
    let mut play = Play::new(Some(1));
    play.look();
    play.send();
    play.says(1, Progress::Applied, "");
    play.after(20_000);
    play.feels(false);
    play.after(1_000);
    play.feels(true);
    play.after(1_000);
    assert_eq!(play.after(28_999), State::Applying);
    assert_eq!(play.after(1), State::InSync);
}

#[test]
fn ill_health_long_after_does_not_undo_success() {
    let mut play = Play::new(Some(1));
    play.runs_well(1);
    play.feels(false);
    assert_eq!(play.after(3_600_000), State::InSync);
    assert_eq!(
        play.says(1, Progress::Failed, "crashed at start"),
        State::Failed
    );
}

#[test]
fn what_is_paused_is_not_sent_and_what_was_sent_goes_on() {
    let mut play = Play::new(Some(1));
    play.is_paused = true;
    assert_eq!(play.look(), State::Applying);
    assert_eq!(play.rollout.message, "the assignment is paused");
    assert_eq!(play.rollout.to_send(true), None);
    play.is_paused = false;
    play.send();
    play.is_paused = true;
    play.feels(true);
    play.says(1, Progress::Applied, "");
    assert_eq!(play.after(30_000), State::InSync);
}

#[test]
fn what_cannot_be_given_is_not_sent() {
    let mut play = Play::new(Some(1));
    play.obstacle = Some("it does not accept remote configuration".into());
    assert_eq!(play.look(), State::Cannot);
    assert_eq!(play.rollout.to_send(false), None);
    play.obstacle = None;
    assert_eq!(play.look(), State::Applying);
    play.assigned = None;
    assert_eq!(play.look(), State::Unmanaged);
}

#[test]
fn an_agent_that_reports_nothing_is_never_said_to_be_in_sync() {
    let mut play = Play::new(Some(1));
    play.reports_config = false;
    play.look();
    play.send();
    assert_eq!(play.after(3_600_000), State::Applying);
    assert!(
        play.rollout.message.contains("does not say"),
        "{}",
        play.rollout.message
    );
}

#[test]
fn what_it_ran_before_anybody_assigned_it_is_recognised() {
    // An agent that was given another uid does not repeat what it said, and neither is it asked.
    let mut play = Play::new(None);
    play.says(1, Progress::Applied, "");
    assert_eq!(play.look(), State::Unmanaged);
    play.assigned = Some(version(1));
    play.look();
    assert_eq!(play.after(30_000), State::InSync);
}

#[derive(Debug, Clone)]
enum Move {
    Assign(Option<i64>),
    Send,
    Say(i64, Progress),
    Feel(Option<bool>),
    /// It is not heard any more.
    Fall,
    ComeBack,
    Wait(i64),
    GoBack(bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let progress = prop_oneof![
        Just(Progress::Applied),
        Just(Progress::Applying),
        Just(Progress::Failed),
        Just(Progress::Unset)
    ];
    let one = prop_oneof![
        proptest::option::of(1_i64..4).prop_map(Move::Assign),
        Just(Move::Send),
        (1_i64..4, progress).prop_map(|(number, progress)| Move::Say(number, progress)),
        proptest::option::of(any::<bool>()).prop_map(Move::Feel),
        Just(Move::Fall),
        Just(Move::ComeBack),
        (1_i64..60_000).prop_map(Move::Wait),
        any::<bool>().prop_map(Move::GoBack),
    ];
    proptest::collection::vec(one, 1..40)
}

proptest! {
    #[test]
    fn whatever_happens(moves in moves()) {
        let mut play = Play::new(None);
        let mut failed: Vec<i64> = Vec::new();
        for step in moves {
            play.now += 1;
            match step {
                Move::Assign(number) => play.assigned = number.map(version),
                Move::Send => {
                    if let Some(version) = play.rollout.to_send(false) {
                        // Never one that the agent said failed while it was assigned, unless it later said that it runs.
                        prop_assert!(!failed.contains(&version.version), "{:?}", play.rollout);
                        play.sent = Some((version.hash.clone(), play.now));
                    }
                }
                Move::Say(number, progress) => {
                    play.says(number, progress, "");
                    let is_assigned =
                        play.assigned.as_ref().is_some_and(|version| version.version == number);
                    match progress {
                        Progress::Failed if is_assigned => failed.push(number),
                        Progress::Applied => failed.retain(|known| *known != number),
                        _ => {}
                    }
                }
                Move::Feel(healthy) => {
                    play.healthy = healthy;
                    play.health_at = play.now;
                }
                Move::Fall => play.heard_at = play.heard_at.or(Some(play.now)),
                Move::ComeBack => {
                    if play.heard_at.take().is_some() {
                        play.back_at = Some(play.now);
                    }
                }
                Move::Wait(milliseconds) => play.now += milliseconds,
                Move::GoBack(goes_back) => play.goes_back = goes_back,
            }
            let state = play.look();
            // Looking twice at the same changes nothing.
            let before = play.rollout.clone();
            play.look();
            prop_assert_eq!(&before, &play.rollout);
            if state == State::InSync {
                let report = play.report.as_ref().unwrap();
                prop_assert_eq!(Some(&report.hash), play.assigned.as_ref().map(|version| &version.hash));
                prop_assert_eq!(report.progress, Progress::Applied);
            }
            prop_assert_eq!(state == State::Unmanaged, play.assigned.is_none());
            // It survives being written down.
            let text = serde_json::to_string(&play.rollout).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Rollout>(&text).unwrap(), &play.rollout);
        }
    }
}
