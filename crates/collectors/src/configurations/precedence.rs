//! Which assignment a collector follows when several are for it.
//!
//! The one with the highest priority; of several with the same, the one that was made last. An assignment of a team is for
//! that team's collectors; one of no team is for all.

use std::collections::BTreeMap;

use muster_identity::TeamId;

use super::selector::Selector;

/// What decides between assignments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The assignment: the higher, the later it was made.
    pub id: i64,
    /// The team whose collectors it is for; none for those of all teams.
    pub team_id: Option<TeamId>,
    /// The higher one counts.
    pub priority: i64,
    /// Which collectors.
    pub selector: Selector,
}

impl Claim {
    /// Whether it is for a collector of this team with these attributes.
    pub fn is_for(&self, team: Option<TeamId>, attributes: &BTreeMap<String, String>) -> bool {
        (self.team_id.is_none() || self.team_id == team) && self.selector.matches(attributes)
    }

    fn rank(&self) -> (i64, i64) {
        (self.priority, self.id)
    }
}

/// The claims that are for a collector, the one that it follows first.
pub fn ranked<'a, T>(
    all: impl IntoIterator<Item = &'a T>,
    team: Option<TeamId>,
    attributes: &BTreeMap<String, String>,
) -> Vec<&'a T>
where
    T: AsRef<Claim> + 'a,
{
    let is_for = |item: &&T| item.as_ref().is_for(team, attributes);
    let mut found: Vec<&T> = all.into_iter().filter(is_for).collect();
    found.sort_by_key(|item| std::cmp::Reverse(item.as_ref().rank()));
    found
}

impl AsRef<Claim> for Claim {
    fn as_ref(&self) -> &Claim {
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(id: i64, team: Option<i64>, priority: i64, selector: &str) -> Claim {
        Claim {
            id,
            team_id: team.map(TeamId),
            priority,
            selector: Selector::parse(selector).unwrap(),
        }
    }

    #[test]
    fn the_highest_priority_counts_and_then_the_one_made_last() {
        let claims = [
            claim(1, None, 10, "*"),
            claim(2, None, 0, "*"),
            claim(3, None, 10, "env=prod"),
            claim(4, None, 99, "env=test"),
        ];
        let prod = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let ids: Vec<i64> = ranked(&claims, None, &prod)
            .iter()
            .map(|claim| claim.id)
            .collect();
        assert_eq!(ids, [3, 1, 2]);
    }

    #[test]
    fn assignments_of_a_team_are_for_its_collectors_alone() {
        let claims = [claim(1, Some(7), 0, "*"), claim(2, None, 0, "*")];
        let ids = |team: Option<i64>| -> Vec<i64> {
            let found = ranked(&claims, team.map(TeamId), &BTreeMap::new());
            found.iter().map(|claim| claim.id).collect()
        };
        assert_eq!(ids(Some(7)), [2, 1]);
        assert_eq!(ids(Some(8)), [2]);
        assert_eq!(ids(None), [2]);
    }

    proptest! {
        #[test]
        fn the_order_in_which_they_are_kept_does_not_matter(priorities in proptest::collection::vec(0_i64..3, 1..8),
            turn in 0_usize..8) {
            let mut claims: Vec<Claim> = (1..).zip(&priorities).map(|(id, priority)| claim(id, None, *priority, "*")).collect();
            let winner = ranked(&claims, None, &BTreeMap::new())[0].id;
            let by = turn % claims.len();
            claims.rotate_left(by);
            prop_assert_eq!(ranked(&claims, None, &BTreeMap::new())[0].id, winner);
        }
    }
}
