//! What becomes of a collector's links: a pure function of what there is, what people decided, and which hosts its attributes
//! name.

use std::collections::HashMap;

use muster_identity::{HostId, TeamId};

use super::{Candidate, Link, LinkState};

/// Something that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// There is nothing between the two any more.
    Drop {
        link: Link,
        /// Why, for the timeline.
        reason: &'static str,
    },
    /// A link, or the suggestion of one.
    Put {
        state: LinkState,
        candidate: Candidate,
    },
}

/// Judges the links of a collector of this team. `there` has the teams of the hosts of links, as far as those exist; the
/// candidates are hosts of the team.
pub(crate) fn judge(
    team: Option<TeamId>,
    links: &[Link],
    there: &HashMap<HostId, Option<TeamId>>,
    by_machine: &[Candidate],
    by_name: &[Candidate],
) -> Vec<Change> {
    let mut changes = Vec::new();
    let only = match by_machine {
        [one] => Some(one),
        _ => None,
    };
    let mut linked = None;
    for link in links {
        let reason = match there.get(&link.host_id) {
            None => Some("host_deleted"),
            Some(_) if link.state == LinkState::Rejected => None,
            Some(there) if *there != team => Some("other_team"),
            Some(_) if link.state == LinkState::Suggested || !link.decided_by.is_empty() => None,
            Some(_) if only.is_some_and(|only| only.host_id == link.host_id) => None,
            Some(_) => Some("not_named_any_more"),
        };
        match reason {
            Some(reason) => changes.push(Change::Drop {
                link: link.clone(),
                reason,
            }),
            None if link.state == LinkState::Linked => linked = Some(link.host_id),
            None => {}
        }
    }
    let is_rejected = |host: HostId| {
        let mut rejected = links.iter().filter(|it| it.state == LinkState::Rejected);
        rejected.any(|link| link.host_id == host)
    };
    let mut wanted: Vec<&Candidate> = Vec::new();
    match only.filter(|only| !is_rejected(only.host_id)) {
        _ if linked.is_some() => {}
        Some(only) => {
            linked = Some(only.host_id);
            changes.push(Change::Put {
                state: LinkState::Linked,
                candidate: only.clone(),
            });
        }
        None => {
            for candidate in by_machine.iter().chain(by_name) {
                let is_known = wanted.iter().any(|it| it.host_id == candidate.host_id);
                if !is_known && !is_rejected(candidate.host_id) {
                    wanted.push(candidate);
                }
            }
        }
    }
    let suggested = || links.iter().filter(|it| it.state == LinkState::Suggested);
    for link in suggested() {
        let is_dropped = changes.iter().any(
            |change| matches!(change, Change::Drop { link: dropped, .. } if dropped.host_id == link.host_id),
        );
        let is_wanted = wanted.iter().any(|it| it.host_id == link.host_id);
        // The row of one that is linked from now on is written anew.
        if !is_dropped && !is_wanted && linked != Some(link.host_id) {
            changes.push(Change::Drop {
                link: link.clone(),
                reason: "not_named_any_more",
            });
        }
    }
    for candidate in wanted {
        let mut same = suggested().filter(|link| link.host_id == candidate.host_id);
        if !same
            .any(|link| link.matched_by == candidate.by && link.matched_value == candidate.value)
        {
            changes.push(Change::Put {
                state: LinkState::Suggested,
                candidate: candidate.clone(),
            });
        }
    }
    // What is taken away first: of an agent only one host can be linked.
    changes.sort_by_key(|change| matches!(change, Change::Put { .. }));
    changes
}

#[cfg(test)]
mod tests {
    use muster_clock::Timestamp;

    use super::*;

    const TEAM: Option<TeamId> = Some(TeamId(1));

    fn link(host: i64, state: LinkState, by: &str, decided_by: &str) -> Link {
        Link {
            host_id: HostId(host),
            state,
            matched_by: by.to_owned(),
            matched_value: "v".to_owned(),
            since: Timestamp::EPOCH,
            decided_by: decided_by.to_owned(),
        }
    }

    fn candidate(host: i64, by: &'static str) -> Candidate {
        Candidate {
            host_id: HostId(host),
            by,
            value: "v".to_owned(),
        }
    }

    /// What changes, in words, when hosts 1 to 4 are in the team and host 9 is in another.
    fn judged(links: &[Link], by_machine: &[i64], by_name: &[i64]) -> Vec<String> {
        let mut there: HashMap<HostId, Option<TeamId>> =
            (1..=4).map(|id| (HostId(id), TEAM)).collect();
        there.insert(HostId(9), Some(TeamId(2)));
        let of = |ids: &[i64], by| ids.iter().map(|id| candidate(*id, by)).collect::<Vec<_>>();
        let (by_machine, by_name) = (of(by_machine, "host.id"), of(by_name, "host.name"));
        let changes = judge(TEAM, links, &there, &by_machine, &by_name);
        let word = |change: &Change| match change {
            Change::Drop { link, reason } => format!("drop {} {reason}", link.host_id),
            Change::Put { state, candidate } => {
                format!("{} {} {}", state.name(), candidate.host_id, candidate.by)
            }
        };
        changes.iter().map(word).collect()
    }

    #[test]
    fn one_host_with_the_machines_identifier_is_linked_and_a_name_is_only_suggested() {
        use LinkState::{Linked, Rejected, Suggested};
        let none = Vec::<String>::new();
        for (links, by_machine, by_name, expected) in [
            (vec![], vec![1], vec![2], vec!["linked 1 host.id"]),
            (vec![], vec![], vec![2], vec!["suggested 2 host.name"]),
            (
                vec![],
                vec![1, 2],
                vec![2, 3],
                vec![
                    "suggested 1 host.id",
                    "suggested 2 host.id",
                    "suggested 3 host.name",
                ],
            ),
            (
                vec![link(1, Linked, "host.id", "")],
                vec![1],
                vec![2],
                vec![],
            ),
            (
                vec![link(2, Suggested, "host.name", "")],
                vec![],
                vec![2],
                vec![],
            ),
            (
                vec![link(2, Suggested, "host.name", "")],
                vec![1],
                vec![2],
                vec!["drop 2 not_named_any_more", "linked 1 host.id"],
            ),
            (
                vec![link(2, Suggested, "host.name", "")],
                vec![2],
                vec![],
                vec!["linked 2 host.id"],
            ),
            (
                vec![link(1, Linked, "host.id", "")],
                vec![2],
                vec![],
                vec!["drop 1 not_named_any_more", "linked 2 host.id"],
            ),
            (
                vec![link(1, Linked, "host.id", "")],
                vec![1, 2],
                vec![],
                vec![
                    "drop 1 not_named_any_more",
                    "suggested 1 host.id",
                    "suggested 2 host.id",
                ],
            ),
            (
                vec![link(1, Rejected, "host.id", "Ann")],
                vec![1],
                vec![1],
                vec![],
            ),
            (
                vec![link(1, Rejected, "host.id", "Ann")],
                vec![1],
                vec![2],
                vec!["suggested 2 host.name"],
            ),
            (
                vec![link(1, Rejected, "host.id", "Ann")],
                vec![1, 2],
                vec![],
                vec!["suggested 2 host.id"],
            ),
            (
                vec![link(3, Linked, "hand", "Ann")],
                vec![1],
                vec![2],
                vec![],
            ),
            (
                vec![link(3, Linked, "host.name", "Ann")],
                vec![],
                vec![],
                vec![],
            ),
            (
                vec![link(9, Linked, "hand", "Ann")],
                vec![],
                vec![],
                vec!["drop 9 other_team"],
            ),
            (
                vec![link(9, Rejected, "hand", "Ann")],
                vec![],
                vec![],
                vec![],
            ),
            (
                vec![
                    link(7, Linked, "hand", "Ann"),
                    link(8, Rejected, "host.id", "Ann"),
                ],
                vec![1],
                vec![],
                vec![
                    "drop 7 host_deleted",
                    "drop 8 host_deleted",
                    "linked 1 host.id",
                ],
            ),
        ] {
            let found = judged(&links, &by_machine, &by_name);
            assert_eq!(found, expected, "{links:?} {by_machine:?} {by_name:?}");
        }
        assert_eq!(judged(&[], &[], &[]), none);
    }
}
