//! Configurations, their versions and assignments, as services and rooms know them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_clock::Timestamp;
use muster_identity::{CollectorId, TeamId};

use super::document::{Files, Kind};
use super::precedence::Claim;
use super::rollout::{Rollout, State};

/// A configuration: a name for versions of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Its id.
    pub id: i64,
    /// The team whose collectors it is for; none: those of all teams.
    pub team_id: Option<TeamId>,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What kind of agent it is for.
    pub kind: Kind,
    /// The number of its newest version; versions count up from 1.
    pub newest_version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A version of a configuration, which never changes. Without its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its number.
    pub version: i64,
    /// Its hash as hexadecimal digits.
    pub hash: String,
    /// Why it was made.
    pub note: String,
    /// Who made it.
    pub author_name: String,
    /// That user's address.
    pub author_email: String,
    /// When.
    pub created_at: Timestamp,
}

/// Who makes a version, and why.
#[derive(Debug, Clone)]
pub(crate) struct NewVersion<'a> {
    pub(crate) version: i64,
    pub(crate) hash: &'a str,
    pub(crate) note: &'a str,
    pub(crate) author_id: Option<i64>,
    pub(crate) author_name: &'a str,
    pub(crate) author_email: &'a str,
    pub(crate) files: &'a Files,
}

/// What happens by itself when a version fails.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = CollectorConfigAutoRollback)]
pub enum AutoRollback {
    /// Nothing: people decide.
    Off,
    /// A collector on which it fails goes back to the version that it last ran well.
    Collector,
    /// When it fails on so many collectors, all go back to the version before.
    Assignment,
}

impl AutoRollback {
    /// The text in the database and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Collector => "collector",
            Self::Assignment => "assignment",
        }
    }

    /// From the database; what a newer release wrote does nothing here.
    pub(crate) fn from_text(text: &str) -> Self {
        match text {
            "collector" => Self::Collector,
            "assignment" => Self::Assignment,
            _ => Self::Off,
        }
    }
}

/// Which collectors should run which version of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Its id, team, priority and selector.
    pub claim: Claim,
    /// Which configuration.
    pub configuration_id: i64,
    /// Which of its versions.
    pub version: i64,
    /// The last version before that ran well somewhere, to which one step back leads.
    pub previous_version: Option<i64>,
    /// Whether it moves on to each new version by itself.
    pub follows_newest: bool,
    /// Whether nothing new is sent.
    pub is_paused: bool,
    /// How long a collector has to be healthy until a version counts as run.
    pub soak: Duration,
    /// What happens by itself when a version fails.
    pub auto_rollback: AutoRollback,
    /// On how many collectors a version fails until all go back, when they do.
    pub failures_until_rollback: u32,
    /// When it last went back a step, and why.
    pub rolled_back: Option<(Timestamp, String)>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// What the collectors of an assignment went through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Experience {
    /// The versions of its configuration that ran well on some, with their hashes.
    pub(crate) good: BTreeMap<i64, String>,
    /// The hashes of versions that failed on some.
    pub(crate) failed: BTreeSet<String>,
}

impl Assignment {
    /// Moves on to a version. The one before is remembered when it ran well on some collector: else there is nothing to go
    /// back to it for, and the one before that stays.
    pub(crate) fn move_to(&mut self, version: i64, has_run_well: bool, now: Timestamp) {
        if self.version == version {
            return;
        }
        if has_run_well {
            self.previous_version = Some(self.version);
        } else if self.previous_version == Some(version) {
            self.previous_version = None;
        }
        self.version = version;
        self.rolled_back = None;
        self.updated_at = now;
    }

    /// Goes back to a version, and stays there.
    pub(crate) fn step_back(&mut self, to: i64, reason: String, now: Timestamp) {
        self.version = to;
        self.previous_version = None;
        self.follows_newest = false;
        self.rolled_back = Some((now, reason));
        self.updated_at = now;
    }

    /// The version to which it goes back by itself: the one before, or else the newest that ran well, and in either case one
    /// that failed nowhere. None when it went back already: it stays there.
    pub(crate) fn goes_back_to(
        &self,
        previous_hash: Option<&str>,
        experience: &Experience,
    ) -> Option<i64> {
        if self.rolled_back.is_some() {
            return None;
        }
        let previous = self.previous_version.zip(previous_hash);
        let good = experience.good.iter().rev();
        let good = good.map(|(version, hash)| (*version, hash.as_str()));
        previous
            .into_iter()
            .chain(good)
            .find(|(version, hash)| *version != self.version && !experience.failed.contains(*hash))
            .map(|(version, _)| version)
    }
}

impl AsRef<Claim> for Assignment {
    fn as_ref(&self) -> &Claim {
        &self.claim
    }
}

/// How far a collector is, in a list.
#[derive(Debug, Clone)]
pub struct CollectorState {
    /// Which collector.
    pub collector_id: CollectorId,
    /// The name of its service.
    pub name: String,
    /// The name of its machine.
    pub host_name: String,
    /// Its team.
    pub team_id: Option<TeamId>,
    /// Its state.
    pub state: State,
    /// What is remembered of it; none when nothing was ever assigned to it.
    pub rollout: Option<Rollout>,
}

#[cfg(test)]
mod tests {
    use super::super::rollout::DEFAULT_SOAK;
    use super::super::selector::Selector;
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_795_392_000);

    fn assignment(version: i64, previous_version: Option<i64>) -> Assignment {
        Assignment {
            claim: Claim {
                id: 1,
                team_id: None,
                priority: 0,
                selector: Selector::parse("*").unwrap(),
            },
            configuration_id: 1,
            version,
            previous_version,
            follows_newest: true,
            is_paused: false,
            soak: DEFAULT_SOAK,
            auto_rollback: AutoRollback::Assignment,
            failures_until_rollback: 1,
            rolled_back: None,
            created_at: NOW,
            updated_at: NOW,
        }
    }

    fn hash(version: i64) -> String {
        format!("hash-{version}")
    }

    fn experience(good: &[i64], failed: &[i64]) -> Experience {
        Experience {
            good: good
                .iter()
                .map(|version| (*version, hash(*version)))
                .collect(),
            failed: failed.iter().map(|version| hash(*version)).collect(),
        }
    }

    #[test]
    fn only_a_version_that_ran_well_is_remembered_as_the_one_before() {
        // From version and the one before, to a version; whether the first ran well; the one before from then on.
        for (from, previous, to, has_run_well, expected) in [
            (1, None, 2, true, Some(1)),
            (1, None, 2, false, None),
            (4, Some(3), 5, false, Some(3)),
            (4, Some(3), 5, true, Some(4)),
            (4, Some(3), 3, false, None),
            (4, Some(3), 3, true, Some(4)),
            (4, Some(3), 4, true, Some(3)),
        ] {
            let mut moved = assignment(from, previous);
            moved.move_to(to, has_run_well, NOW);
            assert_eq!(
                (moved.version, moved.previous_version),
                (to, expected),
                "{from} to {to}"
            );
        }
    }

    #[test]
    fn by_itself_it_goes_back_to_what_ran_well_and_failed_nowhere() {
        type Case = (
            &'static str,
            i64,
            Option<i64>,
            &'static [i64],
            &'static [i64],
            Option<i64>,
        );
        let cases: [Case; 7] = [
            ("the one before", 4, Some(3), &[3], &[4], Some(3)),
            (
                "the one before failed on some",
                5,
                Some(4),
                &[3, 4],
                &[4, 5],
                Some(3),
            ),
            (
                "all that ran well failed on others",
                5,
                Some(4),
                &[4],
                &[4, 5],
                None,
            ),
            ("nothing ever ran well", 2, None, &[], &[2], None),
            (
                "the one before is not known, another ran well",
                5,
                None,
                &[2, 3],
                &[5],
                Some(3),
            ),
            (
                "by hand it went to an older one",
                3,
                Some(5),
                &[3, 5],
                &[3],
                Some(5),
            ),
            (
                "what fails ran well on some",
                5,
                Some(3),
                &[3, 5],
                &[5],
                Some(3),
            ),
        ];
        for (title, version, previous, good, failed, expected) in cases {
            let assignment = assignment(version, previous);
            let previous_hash = previous.map(hash);
            let target =
                assignment.goes_back_to(previous_hash.as_deref(), &experience(good, failed));
            assert_eq!(target, expected, "{title}");
        }
    }

    #[test]
    fn what_went_back_stays_until_somebody_moves_it_on() {
        let mut moved = assignment(4, Some(3));
        moved.step_back(3, "version 4 failed".into(), NOW);
        assert!(!moved.follows_newest);
        let known = experience(&[2, 3], &[3, 4]);
        assert_eq!(moved.goes_back_to(None, &known), None);
        moved.move_to(5, false, NOW);
        assert_eq!(moved.goes_back_to(None, &known), Some(2));
    }
}
