//! Hosts by what identifies their machine, for crates that know other agents on the same machines.
//!
//! Not everything that looks like an identifier is one: what firmware and hypervisors give to many machines identifies nobody
//! here either, and a host name is no proof of anything.

use std::collections::{BTreeSet, HashMap};

use muster_identity::{HostId, TeamId};
use muster_store::{StoreError, folded};

use crate::matching::uuid_key;
use crate::operators::Hosts;
use crate::store;

/// How many hosts of one team may have an identifier or a name in common and still be told by it. When there are more it says
/// nothing about any of them.
pub const MAX_ALIKE: i64 = 5;

/// How many hexadecimal digits an identifier of a machine has.
const MACHINE_ID_DIGITS: usize = 32;
/// Where the hyphens of a UUID stand among its digits.
const HYPHENS: [(usize, usize); 5] = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];

/// Names that many machines have.
const SHARED_NAMES: &[&str] = &[
    "localhost",
    "localhost.localdomain",
    "localhost.local",
    "localhost6",
    "localhost6.localdomain6",
    "(none)",
    "none",
    "unknown",
];

/// What identifies a machine: a hardware UUID, or the machine id that its operating system made. 32 hexadecimal digits, without
/// regard to case, hyphens and braces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(String);

impl MachineId {
    /// Reads an identifier; none for what identifies no machine, or many.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches('{').trim_end_matches('}');
        let digits: String = text.chars().filter(|character| *character != '-').collect();
        let is_hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if digits.len() != MACHINE_ID_DIGITS || !is_hexadecimal {
            return None;
        }
        let id = Self(digits.to_ascii_lowercase());
        let mut digits = id.0.bytes();
        let first = digits.next();
        let is_one_digit = digits.all(|digit| Some(digit) == first);
        (!is_one_digit && !uuid_key(&id.with_hyphens()).is_empty()).then_some(id)
    }

    /// As UUIDs are written.
    fn with_hyphens(&self) -> String {
        HYPHENS.map(|(from, to)| &self.0[from..to]).join("-")
    }

    /// In the ways in which hosts are kept.
    fn spellings(&self) -> [String; 2] {
        [self.with_hyphens(), self.0.clone()]
    }
}

/// A host that has something in common with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match<T> {
    /// What it has in common.
    pub by: T,
    /// The host.
    pub host_id: HostId,
    /// Its team.
    pub team_id: Option<TeamId>,
}

/// A host, as far as others name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSummary {
    /// What people call it.
    pub display_name: String,
    /// Its team.
    pub team_id: Option<TeamId>,
}

/// A name in the form in which names of machines are compared; none for one that many machines have.
pub fn machine_name(text: &str) -> Option<String> {
    let name = folded(text.trim().trim_end_matches('.'));
    let is_usable = !name.is_empty() && !SHARED_NAMES.contains(&name.as_str());
    is_usable.then_some(name)
}

impl Hosts {
    /// The hosts whose hardware UUID, or whose identifier with osquery, is one of these. Identifiers that more than
    /// [`MAX_ALIKE`] hosts of a team have are left out.
    pub async fn of_machines(
        &self,
        ids: &[MachineId],
    ) -> Result<Vec<Match<MachineId>>, StoreError> {
        let spellings: Vec<String> = ids.iter().flat_map(MachineId::spellings).collect();
        let found = store::machine::of_machines(&mut self.database(), &spellings).await?;
        let mut seen = BTreeSet::new();
        let matches = found.into_iter().filter_map(|(text, host_id, team_id)| {
            let by = MachineId::parse(&text)?;
            // Most hosts have one identifier in both places.
            seen.insert((by.clone(), host_id)).then_some(Match {
                by,
                host_id,
                team_id,
            })
        });
        Ok(matches.collect())
    }

    /// The hosts of these names, as [`machine_name`] gives them. Names that more than [`MAX_ALIKE`] hosts of a team have are
    /// left out.
    pub async fn of_names(&self, names: &[String]) -> Result<Vec<Match<String>>, StoreError> {
        let found = store::machine::of_names(&mut self.database(), names).await?;
        let matches = found.into_iter().map(|(name, host_id, team_id)| Match {
            by: folded(&name),
            host_id,
            team_id,
        });
        Ok(matches.collect())
    }

    /// What these hosts are called and where they belong; those that do not exist are left out.
    pub async fn summaries(
        &self,
        ids: &[HostId],
    ) -> Result<HashMap<HostId, HostSummary>, StoreError> {
        store::machine::summaries(&mut self.database(), ids).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_machines_are_read_however_they_are_written() {
        let expected = MachineId::parse("4c4c4544-0042-3510-8052-b4c04f564231").unwrap();
        for text in [
            "4C4C4544-0042-3510-8052-B4C04F564231",
            "4c4c4544004235108052b4c04f564231",
            " {4C4C4544-0042-3510-8052-B4C04F564231} ",
        ] {
            assert_eq!(MachineId::parse(text).as_ref(), Some(&expected), "{text}");
        }
    }

    #[test]
    fn what_many_machines_have_identifies_nobody() {
        for text in [
            "",
            "edge-1",
            "i-0abc1234def567890",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF",
            "11111111111111111111111111111111",
            "03000200-0400-0500-0006-000700080009",
            "03000200040005000006000700080009",
            "Not Settable",
            "4c4c4544004235108052b4c04f56423",
        ] {
            assert_eq!(MachineId::parse(text), None, "{text}");
        }
        for text in ["", " ", "LOCALHOST", "localhost.localdomain.", "(none)"] {
            assert_eq!(machine_name(text), None, "{text:?}");
        }
        assert_eq!(machine_name(" Edge-1. ").as_deref(), Some("edge-1"));
    }
}
