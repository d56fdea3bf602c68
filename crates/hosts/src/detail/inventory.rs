//! Answers that are lists: accounts and software.

use std::collections::{BTreeMap, BTreeSet};

use muster_software::SoftwareEntry;
use muster_wire_osquery::{DistributedResult, Row};

use super::PREFIX;
use crate::record::HostUser;

/// The most accounts that are kept per host.
const MAX_USERS_PER_HOST: usize = 5_000;
/// The longest text of an account in characters; the rest is cut off.
const MAX_USER_CHARACTERS: usize = 255;
/// The queries that carry most of a platform's software. When theirs failed, the old inventory stays.
const MAIN_SOFTWARE: &[&str] = &["software_linux", "software_macos", "software_windows"];
/// Further queries, and what their rows have as source. When one failed, the old rows of that source stay.
const FURTHER_SOFTWARE: &[(&str, &str)] = &[("software_python_packages", "python_packages")];

/// The accounts that a host reported; none when it did not.
pub(crate) fn users(results: &[DistributedResult]) -> Option<BTreeSet<HostUser>> {
    let result = find(results, "users")?;
    // One row per id and name, whatever else differs: the last one counts.
    let users: BTreeMap<_, HostUser> = result
        .rows
        .iter()
        .filter_map(user)
        .map(|user| ((user.uid.clone(), user.username.clone()), user))
        .take(MAX_USERS_PER_HOST)
        .collect();
    let users: BTreeSet<HostUser> = users.into_values().collect();
    // No machine is without accounts: an empty answer says that they could not be read.
    (!users.is_empty()).then_some(users)
}

fn user(row: &Row) -> Option<HostUser> {
    let cell = |column| {
        let text = row.get(column).unwrap_or_default().replace('\0', "");
        text.chars().take(MAX_USER_CHARACTERS).collect::<String>()
    };
    let user = HostUser {
        uid: cell("uid"),
        username: cell("username"),
        kind: cell("type"),
        groupname: cell("groupname"),
        shell: cell("shell"),
    };
    (!user.username.is_empty()).then_some(user)
}

/// The software that a host reported.
pub(crate) struct ReportedSoftware {
    pub(crate) entries: Vec<SoftwareEntry>,
    /// Sources whose old rows stay, since their query did not answer.
    pub(crate) kept_sources: Vec<&'static str>,
}

/// Merges what came under several names; none when the main query did not answer.
pub(crate) fn software(results: &[DistributedResult]) -> Option<ReportedSoftware> {
    let main = MAIN_SOFTWARE.iter().find_map(|name| find(results, name))?;
    let mut entries: Vec<SoftwareEntry> = main.rows.iter().map(entry).collect();
    let mut kept_sources = Vec::new();
    for (name, source) in FURTHER_SOFTWARE {
        match find(results, name) {
            Some(result) => entries.extend(result.rows.iter().map(entry)),
            None => kept_sources.push(*source),
        }
    }
    Some(ReportedSoftware {
        entries,
        kept_sources,
    })
}

fn find<'a>(results: &'a [DistributedResult], name: &str) -> Option<&'a DistributedResult> {
    results
        .iter()
        .filter(|result| result.succeeded())
        .find(|result| result.name.strip_prefix(PREFIX) == Some(name))
}

fn entry(row: &Row) -> SoftwareEntry {
    let cell = |column| row.get(column).unwrap_or_default().to_owned();
    SoftwareEntry {
        name: cell("name"),
        version: cell("version"),
        source: cell("source"),
        browser: cell("browser"),
        extension_id: cell("extension_id"),
        bundle_identifier: cell("bundle_identifier"),
        release: cell("release"),
        vendor: cell("vendor"),
        arch: cell("arch"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, status: i64, rows: &[(&str, &str)]) -> DistributedResult {
        let rows = rows
            .iter()
            .map(|(name, source)| [("name", *name), ("source", *source)]);
        DistributedResult {
            name: format!("{PREFIX}{name}"),
            status,
            rows: rows.map(|row| row.into_iter().collect()).collect(),
            ..DistributedResult::default()
        }
    }

    #[test]
    fn several_answers_are_merged_and_a_failed_one_keeps_its_part() {
        let both = [
            result("software_linux", 0, &[("bash", "deb_packages")]),
            result("software_python_packages", 0, &[("pip", "python_packages")]),
        ];
        let merged = software(&both).unwrap();
        assert_eq!((merged.entries.len(), merged.kept_sources.len()), (2, 0));
        let half = [both[0].clone(), result("software_python_packages", 1, &[])];
        let merged = software(&half).unwrap();
        assert_eq!(
            (merged.entries.len(), merged.kept_sources),
            (1, vec!["python_packages"])
        );
        let failed = [result("software_linux", 1, &[("x", "y")]), both[1].clone()];
        assert!(software(&failed).is_none());
        assert!(software(&[]).is_none());
    }

    #[test]
    fn accounts_without_a_name_are_left_out_and_an_empty_list_is_no_list() {
        assert!(users(&[result("users", 0, &[("no username", "x")])]).is_none());
        assert!(users(&[result("users", 0, &[])]).is_none());
    }
}
