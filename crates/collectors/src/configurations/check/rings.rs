//! Pipelines that feed one another in a ring, by connectors: a collector refuses them.
//!
//! A connector that is the exporter of one pipeline and the receiver of another leads from the one to the other when it takes
//! the one's signal and gives the other's. Which signals it joins only the connector knows, so that only ways between pipelines
//! of one signal are looked at: those are there unless the collector refuses the connector anyway.

use std::collections::BTreeMap;

use crate::configurations::yaml::{Place, shown};

/// What joins a pipeline with others.
pub(super) struct Pipeline<'a> {
    pub(super) name: &'a str,
    pub(super) signal: &'a str,
    pub(super) place: Place,
    /// The ids of what it has as receivers.
    pub(super) takes_from: Vec<String>,
    /// The ids of what it has as exporters.
    pub(super) sends_to: Vec<String>,
}

/// A ring that was found.
pub(super) struct Ring {
    pub(super) place: Place,
    pub(super) message: String,
}

/// A ring, if there is one. Takes time with the number of names in all pipelines.
pub(super) fn find(all: &[Pipeline<'_>], is_connector: impl Fn(&str) -> bool) -> Option<Ring> {
    // A connector stands once for each signal; after the pipelines, so that both are numbers.
    let mut connectors: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut leads_to: Vec<Vec<usize>> = vec![Vec::new(); all.len()];
    let mut names: Vec<String> = all
        .iter()
        .map(|pipeline| format!("`{}`", shown(pipeline.name)))
        .collect();
    for (index, pipeline) in all.iter().enumerate() {
        for (list, is_sent_to) in [(&pipeline.sends_to, true), (&pipeline.takes_from, false)] {
            for name in list.iter().filter(|name| is_connector(name)) {
                let next = leads_to.len();
                let node = *connectors.entry((name, pipeline.signal)).or_insert(next);
                if node == next {
                    leads_to.push(Vec::new());
                    names.push(format!("`{}`", shown(name)));
                }
                let (from, to) = if is_sent_to {
                    (index, node)
                } else {
                    (node, index)
                };
                leads_to[from].push(to);
            }
        }
    }
    let ring = ring_in(&leads_to)?;
    let begin = ring.iter().position(|node| *node < all.len())?;
    let mut way: Vec<&str> = ring[begin..]
        .iter()
        .chain(&ring[..begin])
        .map(|node| names[*node].as_str())
        .collect();
    let place = all[ring[begin]].place;
    way.push(way[0]);
    let message = format!(
        "pipelines feed one another in a ring, which a collector refuses: {}",
        way.join(" -> ")
    );
    Some(Ring { place, message })
}

/// The nodes of a ring in the order in which they lead to one another.
fn ring_in(leads_to: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut waiting = vec![0_usize; leads_to.len()];
    for to in leads_to.iter().flatten() {
        waiting[*to] += 1;
    }
    let mut free: Vec<usize> = (0..waiting.len())
        .filter(|node| waiting[*node] == 0)
        .collect();
    while let Some(node) = free.pop() {
        for to in &leads_to[node] {
            waiting[*to] -= 1;
            if waiting[*to] == 0 {
                free.push(*to);
            }
        }
    }
    // Whatever is left is led to by something that is left: going back from there ends in a ring.
    let is_left = |node: usize| waiting[node] > 0;
    let mut comes_from = vec![None; leads_to.len()];
    for (from, all) in leads_to
        .iter()
        .enumerate()
        .filter(|(from, _)| is_left(*from))
    {
        for to in all.iter().filter(|to| is_left(**to)) {
            comes_from[*to].get_or_insert(from);
        }
    }
    let mut node = (0..waiting.len()).find(|node| is_left(*node))?;
    let mut seen_at: Vec<Option<usize>> = vec![None; leads_to.len()];
    let mut way = Vec::new();
    loop {
        if let Some(begin) = seen_at[node] {
            let mut ring = way.split_off(begin);
            ring.reverse();
            return Some(ring);
        }
        seen_at[node] = Some(way.len());
        way.push(node);
        node = comes_from[node]?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether a way along the edges leads from a node back to it, by trying all.
    fn leads_back(leads_to: &[Vec<usize>], start: usize) -> bool {
        let mut seen = vec![false; leads_to.len()];
        let mut next = leads_to[start].clone();
        while let Some(node) = next.pop() {
            if node == start {
                return true;
            }
            if !std::mem::replace(&mut seen[node], true) {
                next.extend(&leads_to[node]);
            }
        }
        false
    }

    proptest! {
        #[test]
        fn a_ring_is_found_when_and_only_when_there_is_one(edges in proptest::collection::vec((0_usize..6, 0_usize..6), 0..9)) {
            let mut leads_to = vec![Vec::new(); 6];
            for (from, to) in edges {
                leads_to[from].push(to);
            }
            let is_there = (0..6).any(|node| leads_back(&leads_to, node));
            let ring = ring_in(&leads_to);
            prop_assert_eq!(ring.is_some(), is_there);
            for (index, node) in ring.iter().flatten().enumerate() {
                let ring = ring.as_ref().unwrap();
                let next = ring[(index + 1) % ring.len()];
                prop_assert!(leads_to[*node].contains(&next), "{:?}", ring);
            }
        }
    }
}
