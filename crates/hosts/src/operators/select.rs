//! Which hosts a question is for.

use std::collections::{BTreeMap, HashSet};

use muster_identity::{HostId, TeamFilter};
use muster_store::{StoreError, folded};

use super::{Hosts, OperatorError};
use crate::record::{HostRecord, LabelMembership, LabelRecord};
use crate::store;
use crate::store::operator::Filter;

/// How many hosts, labels, teams and platforms one request names, each.
const MAX_NAMED: usize = 10_000;

/// Which hosts are meant. See [`Hosts::select`].
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// All.
    pub all: bool,
    /// By id.
    pub host_ids: Vec<i64>,
    /// By host name, hardware UUID or serial number.
    pub hosts: Vec<String>,
    /// Labels by id.
    pub label_ids: Vec<i64>,
    /// Labels by name.
    pub labels: Vec<String>,
    /// Teams by id.
    pub team_ids: Vec<i64>,
    /// Platforms; `linux` means every distribution.
    pub platforms: Vec<String>,
}

impl Hosts {
    /// Those of these hosts that there still are and that may come.
    pub async fn existing(&self, hosts: &[HostId]) -> Result<HashSet<HostId>, StoreError> {
        store::host::existing(&mut &self.0.database, hosts).await
    }

    /// The hosts that a question is for, of the teams that may be asked: single hosts always; else those that are in any
    /// of the platform labels and in any of the other labels (with "All Hosts" every host), of any of the platforms, and
    /// of the teams when there are any.
    pub async fn select(
        &self,
        selection: &Selection,
        visible: &TeamFilter,
    ) -> Result<Vec<HostRecord>, OperatorError> {
        check(selection)?;
        let mut db = &self.0.database;
        let now = self.now();
        let mut chosen: BTreeMap<i64, HostRecord> = BTreeMap::new();
        let mut add =
            |hosts: Vec<HostRecord>| chosen.extend(hosts.into_iter().map(|host| (host.id.0, host)));
        if !selection.host_ids.is_empty() {
            let mut filter = Filter::new(now);
            filter.visible(visible);
            filter.ids(&selection.host_ids);
            add(store::operator::all(&mut db, &filter).await?);
        }
        if !selection.hosts.is_empty() {
            let mut filter = Filter::new(now);
            filter.visible(visible);
            filter.identifiers(&selection.hosts);
            let hosts = store::operator::all(&mut db, &filter).await?;
            let unknown = unknown_names(&selection.hosts, &hosts);
            if !unknown.is_empty() {
                return Err(OperatorError::UnknownHosts(unknown));
            }
            add(hosts);
        }
        let labels = self.labels_of(selection).await?;
        let grouped = selection.all
            || !labels.is_empty()
            || !selection.platforms.is_empty()
            || !selection.team_ids.is_empty();
        if grouped {
            let mut filter = Filter::new(now);
            filter.visible(visible);
            let everybody = labels
                .iter()
                .any(|label| label.membership == LabelMembership::All);
            if !selection.all && !everybody {
                let ids = |builtin: bool| -> Vec<i64> {
                    labels
                        .iter()
                        .filter(|label| label.builtin == builtin)
                        .map(|label| label.id.0)
                        .collect()
                };
                for ids in [ids(true), ids(false)] {
                    filter.labels(&ids);
                }
            }
            if !selection.platforms.is_empty() {
                filter.platforms(&selection.platforms);
            }
            filter.teams(&selection.team_ids);
            add(store::operator::all(&mut db, &filter).await?);
        }
        // Who may not come back is not waited for.
        for host in store::keys::banned(&mut db).await? {
            chosen.remove(&host.0);
        }
        Ok(chosen.into_values().collect())
    }

    async fn labels_of(&self, selection: &Selection) -> Result<Vec<LabelRecord>, OperatorError> {
        if selection.label_ids.is_empty() && selection.labels.is_empty() {
            return Ok(Vec::new());
        }
        let all = store::operator::labels(&mut &self.0.database).await?;
        let mut found = Vec::new();
        let mut unknown = Vec::new();
        for id in &selection.label_ids {
            match all.iter().find(|label| label.id.0 == *id) {
                Some(label) => found.push(label.clone()),
                None => unknown.push(id.to_string()),
            }
        }
        for name in &selection.labels {
            match all.iter().find(|label| folded(&label.name) == folded(name)) {
                Some(label) => found.push(label.clone()),
                None => unknown.push(name.clone()),
            }
        }
        if unknown.is_empty() {
            Ok(found)
        } else {
            Err(OperatorError::UnknownLabels(unknown))
        }
    }
}

fn check(selection: &Selection) -> Result<(), OperatorError> {
    let lists = [
        ("host_ids", selection.host_ids.len()),
        ("hosts", selection.hosts.len()),
        ("label_ids", selection.label_ids.len()),
        ("labels", selection.labels.len()),
        ("team_ids", selection.team_ids.len()),
        ("platforms", selection.platforms.len()),
    ];
    match lists.iter().find(|(_, count)| *count > MAX_NAMED) {
        Some((field, _)) => Err(OperatorError::Invalid {
            field,
            reason: format!("must be at most {MAX_NAMED} at a time"),
        }),
        None => Ok(()),
    }
}

fn unknown_names(names: &[String], hosts: &[HostRecord]) -> Vec<String> {
    let known: HashSet<String> = hosts
        .iter()
        .flat_map(|host| {
            let facts = &host.facts;
            [
                &facts.hostname,
                &facts.uuid,
                &facts.hardware_serial,
                &host.identifier,
                &facts.computer_name,
            ]
            .map(|text| folded(text))
        })
        .collect();
    names
        .iter()
        .filter(|name| !known.contains(&folded(name.trim())))
        .cloned()
        .collect()
}
