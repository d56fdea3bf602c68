//! How far collectors are, and what an assignment would come to.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_http::{Listing, Page};
use muster_identity::{CollectorId, Principal};
use serde_json::Value;

use super::assignments::selector;
use super::look::KnownComponents;
use super::{Configurations, Loaded, may_read};
use crate::configurations::components::Components;
use crate::configurations::diff::{Change, effective_to_desired};
use crate::configurations::document::{DEFAULT_CONTENT_TYPE, File, Files};
use crate::configurations::error::ConfigurationError;
use crate::configurations::finding::Finding;
use crate::configurations::model::{Assignment, CollectorState, Configuration};
use crate::configurations::precedence::{Claim, ranked};
use crate::configurations::rollout::{State, Version};
use crate::configurations::store;
use crate::configurations::store::state::{Filter, Known};

/// Which collectors are listed.
#[derive(Debug, Clone, Default)]
pub struct StatusQuery {
    /// Only those that should run this configuration.
    pub configuration_id: Option<i64>,
    /// Only those that follow this assignment.
    pub assignment_id: Option<i64>,
    /// Only those in this state.
    pub state: Option<State>,
}

/// An assignment that somebody thinks about.
#[derive(Debug, Clone)]
pub struct PreviewWish {
    /// Which configuration.
    pub configuration_id: i64,
    /// Which of its versions. By default that of the assignment by the same selector, or else the newest.
    pub version: Option<i64>,
    /// Which collectors.
    pub selector: String,
    /// With what priority. By default that of the assignment by the same selector, or else 0.
    pub priority: Option<i64>,
}

/// What would become of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CollectorConfigEffect)]
pub enum Effects {
    /// It would be sent the version.
    Sent,
    /// It should run the same already.
    Same,
    /// It failed there before and would not be sent again.
    FailedBefore,
    /// It follows another assignment that counts more.
    Overridden,
    /// It cannot be given the version.
    Cannot,
}

/// What an assignment would do to a collector.
#[derive(Debug, Clone)]
pub struct PreviewItem {
    /// The collector.
    pub known: CollectorState,
    /// What would become of it.
    pub effect: Effects,
    /// Why it cannot be given the version, or the assignment that counts more.
    pub reason: String,
    /// What it should run now.
    pub assigned: Option<Version>,
    /// What would be different from what it says it runs; none when it says nothing.
    pub changes: Option<Vec<Change>>,
}

/// What a collector should run, and which assignments are for it.
pub(crate) struct OfCollector {
    pub(crate) state: CollectorState,
    pub(crate) assignments: Vec<Assignment>,
    pub(crate) configuration: Option<Configuration>,
}

impl Configurations {
    /// A page of collectors with how far each is.
    pub async fn status(
        &self,
        principal: &Principal,
        query: &StatusQuery,
        listing: &Listing,
    ) -> Result<Page<CollectorState>, ConfigurationError> {
        let mut filter = Filter::visible(&principal.visible_teams());
        if let Some(id) = query.configuration_id {
            self.find(principal, id).await?;
            filter.configuration(id);
        }
        if let Some(id) = query.assignment_id {
            filter.assignment(id);
        }
        if let Some(state) = query.state {
            filter.state(state);
        }
        if let Some(pattern) = listing.search_pattern() {
            filter.search(&pattern);
        }
        let mut db = self.database();
        let (items, total) = store::state::page(&mut db, &filter, listing).await?;
        Ok(listing.page(items, total))
    }

    /// How many collectors that should run a configuration are how far, by the state's name.
    pub async fn state_counts(
        &self,
        principal: &Principal,
        configuration: i64,
        assignment: Option<i64>,
    ) -> Result<BTreeMap<String, u64>, ConfigurationError> {
        let mut filter = Filter::visible(&Self::counted_teams(principal));
        filter.configuration(configuration);
        if let Some(id) = assignment {
            filter.assignment(id);
        }
        Ok(store::state::count_states(&mut self.database(), &filter).await?)
    }

    async fn known(
        &self,
        principal: &Principal,
        id: CollectorId,
    ) -> Result<Known, ConfigurationError> {
        let mut found = store::state::known(&mut self.database(), &[id]).await?;
        found
            .pop()
            .filter(|known| principal.visible_teams().admits(known.team_id))
            .ok_or_else(|| ConfigurationError::Unknown(format!("collector {id}")))
    }

    /// The components that a collector said it has, if it said so.
    pub(crate) async fn components_of(
        &self,
        principal: &Principal,
        id: CollectorId,
    ) -> Result<Option<Components>, ConfigurationError> {
        let known = self.known(principal, id).await?;
        Ok(store::state::components(&mut self.database(), &known.components_hash).await?)
    }

    /// What a collector that the principal may see should run, and how far it is.
    pub(crate) async fn of_collector(
        &self,
        principal: &Principal,
        id: CollectorId,
    ) -> Result<OfCollector, ConfigurationError> {
        let known = self.known(principal, id).await?;
        let mut db = self.database();
        let all = self.all_assignments().await?;
        let assignments: Vec<Assignment> = ranked(&*all, known.team_id, &known.attributes)
            .into_iter()
            .cloned()
            .collect();
        let configuration = match assignments.first() {
            Some(first) => store::document::find(&mut db, first.configuration_id).await?,
            None => None,
        };
        let assignments = assignments
            .into_iter()
            .filter(|known| may_read(principal, known.claim.team_id))
            .collect();
        Ok(OfCollector {
            state: summary(&known),
            assignments,
            configuration,
        })
    }

    /// What would be different if a collector ran a version: by default what it should run.
    pub async fn collector_diff(
        &self,
        principal: &Principal,
        id: CollectorId,
        version: Option<(i64, Option<i64>)>,
    ) -> Result<(Version, Vec<Finding>, Option<Vec<Change>>), ConfigurationError> {
        let known = self.known(principal, id).await?;
        let key = if let Some((configuration, number)) = version {
            let configuration = self.find(principal, configuration).await?;
            (
                configuration.id,
                number.unwrap_or(configuration.newest_version),
            )
        } else {
            let all = self.all_assignments().await?;
            let ranked = ranked(&*all, known.team_id, &known.attributes);
            let first = ranked.first().ok_or_else(|| {
                ConfigurationError::Conflict(
                    "nothing is assigned to this collector; name a configuration to compare with"
                        .into(),
                )
            })?;
            (first.configuration_id, first.version)
        };
        let loaded = self.version(key).await?;
        let loaded = loaded.ok_or_else(|| {
            ConfigurationError::Unknown(format!("version {} of configuration {}", key.1, key.0))
        })?;
        let components =
            store::state::components(&mut self.database(), &known.components_hash).await?;
        let findings = self.findings_of(&loaded, components.map(Arc::new)).await?;
        let changes = self.changes(id, &loaded).await?;
        let version = Version {
            configuration_id: key.0,
            version: key.1,
            hash: loaded.hash.clone(),
        };
        Ok((version, findings, changes))
    }

    /// What would be different from what a collector says it runs; none when it says nothing. Secrets of the version are
    /// masked as those of the collector are, and of a file that cannot be masked nothing is told.
    async fn changes(
        &self,
        id: CollectorId,
        loaded: &Loaded,
    ) -> Result<Option<Vec<Change>>, ConfigurationError> {
        let kept = store::state::effective(&mut self.database(), id).await?;
        let Some(effective) = kept.as_ref().and_then(files_of) else {
            return Ok(None);
        };
        let (desired, _) = self.masked(loaded.files.clone());
        Ok(Some(effective_to_desired(&effective, &desired)))
    }

    /// Which collectors an assignment would be for, and what would change for each.
    pub async fn preview(
        &self,
        principal: &Principal,
        wish: &PreviewWish,
        listing: &Listing,
    ) -> Result<Page<PreviewItem>, ConfigurationError> {
        let configuration = self.find(principal, wish.configuration_id).await?;
        let selector = selector(&wish.selector)?;
        let all = self.all_assignments().await?;
        // One that is there for the same collectors would change, and keep its place among those made before and after.
        let same = all.iter().find(|known| {
            known.configuration_id == configuration.id && known.claim.selector == selector
        });
        let version = wish.version.or(same.map(|known| known.version));
        let key = (
            configuration.id,
            version.unwrap_or(configuration.newest_version),
        );
        let loaded = self.version(key).await?.ok_or_else(|| {
            ConfigurationError::invalid(
                "version",
                format!(
                    "there is no version {}; the newest is {}",
                    key.1, configuration.newest_version
                ),
            )
        })?;
        let mut filter = Filter::visible(&principal.visible_teams());
        if let Some(team) = configuration.team_id {
            filter.team(team);
        }
        filter.selector(&selector);
        if let Some(pattern) = listing.search_pattern() {
            filter.search(&pattern);
        }
        let mut db = self.database();
        let (items, total) = store::state::page(&mut db, &filter, listing).await?;
        let ids: Vec<CollectorId> = items.iter().map(|item| item.collector_id).collect();
        let mut known: BTreeMap<CollectorId, Known> = store::state::known(&mut db, &ids)
            .await?
            .into_iter()
            .map(|known| (known.id, known))
            .collect();
        let mine = same.map_or(i64::MAX, |known| known.claim.id);
        let wished = Claim {
            id: mine,
            team_id: configuration.team_id,
            priority: wish
                .priority
                .or(same.map(|known| known.claim.priority))
                .unwrap_or(0),
            selector,
        };
        let others = all.iter().filter(|known| known.claim.id != mine);
        let mut claims: Vec<Claim> = others.map(|known| known.claim.clone()).collect();
        claims.push(wished);
        let mut components = KnownComponents::new();
        let mut previewed = Vec::with_capacity(items.len());
        for item in items {
            if let Some(known) = known.remove(&item.collector_id) {
                previewed.push(
                    self.preview_of(item, &known, &claims, mine, &loaded, &mut components)
                        .await?,
                );
            }
        }
        Ok(listing.page(previewed, total))
    }

    async fn preview_of(
        &self,
        item: CollectorState,
        known: &Known,
        claims: &[Claim],
        mine: i64,
        loaded: &Arc<Loaded>,
        components: &mut KnownComponents,
    ) -> Result<PreviewItem, ConfigurationError> {
        let rollout = known.rollout.as_ref().map(|(_, rollout)| rollout);
        let assigned = rollout.and_then(|rollout| rollout.assigned.clone());
        let first = ranked(claims, known.team_id, &known.attributes)
            .first()
            .map(|claim| claim.id);
        let changes = self.changes(known.id, loaded).await?;
        let failed = rollout.and_then(|rollout| {
            rollout
                .failures
                .iter()
                .find(|failure| failure.hash == loaded.hash)
        });
        let (effect, reason) = if known.is_foreign {
            let reason = "a server of a later release sees to it";
            (Effects::Cannot, reason.to_owned())
        } else if first != Some(mine) {
            let other = first.map(|id| format!("assignment {id} counts more"));
            (Effects::Overridden, other.unwrap_or_default())
        } else if let Some(obstacle) = self.obstacle(known, loaded, components).await? {
            (Effects::Cannot, obstacle)
        } else if let Some(failed) = failed {
            (Effects::FailedBefore, failed.words().to_owned())
        } else if assigned.as_ref().is_some_and(|assigned| {
            assigned.hash == loaded.hash && assigned.configuration_id == loaded.configuration_id
        }) {
            (Effects::Same, String::new())
        } else {
            (Effects::Sent, String::new())
        };
        Ok(PreviewItem {
            known: item,
            effect,
            reason,
            assigned,
            changes,
        })
    }
}

fn summary(known: &Known) -> CollectorState {
    let text = |name: &str| known.attributes.get(name).cloned().unwrap_or_default();
    let rollout = known.rollout.as_ref().map(|(_, rollout)| rollout.clone());
    CollectorState {
        collector_id: known.id,
        name: text("service.name"),
        host_name: text("host.name"),
        team_id: known.team_id,
        state: match &rollout {
            Some(rollout) => rollout.stage.state(),
            None => known.state.unwrap_or(State::Unmanaged),
        },
        rollout,
    }
}

/// The files of an effective configuration as it is kept. What could not be masked is not there.
fn files_of(kept: &Value) -> Option<Files> {
    let files: Files = kept
        .as_object()?
        .iter()
        .filter_map(|(name, file)| {
            let body = file.get("body")?.as_str()?.to_owned();
            let content_type = file.get("content_type").and_then(Value::as_str);
            let content_type = content_type.unwrap_or(DEFAULT_CONTENT_TYPE).to_owned();
            Some((name.clone(), File { body, content_type }))
        })
        .collect();
    (!files.is_empty()).then_some(files)
}
