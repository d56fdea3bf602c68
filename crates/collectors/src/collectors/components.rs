//! Which list of components an agent has, when it tells only what it calls the list.
//!
//! A list is kept under a digest of our own, once for all agents that have it. Its name is the agent's own choice, and is taken
//! for a list that others told only within a team: nobody decides what collectors of other teams are built of.

use dashmap::{DashMap, DashSet};
use muster_identity::TeamId;
use muster_store::{StoreError, Transaction};
use muster_wire_opamp::proto::AgentToServer;

use super::Collectors;
use crate::record::Record;
use crate::service::{Principal, SaidComponents};
use crate::{store, values};

/// How many names and how many lists are remembered.
const MAX_REMEMBERED: usize = 10_000;

/// What is remembered of lists of components, for a minute.
#[derive(Default)]
pub(super) struct KnownComponents {
    /// What names stand for in teams; none for one that nobody told.
    named: DashMap<(Option<TeamId>, String), Option<String>>,
    /// The lists that are in the database.
    kept: DashSet<String>,
}

impl KnownComponents {
    /// Others may have told lists meanwhile, and forgotten such that no agent has.
    pub(super) fn forget(&self) {
        self.named.clear();
        self.kept.clear();
    }

    fn name(&self, team: Option<TeamId>, name: String, content: Option<String>) {
        if self.named.len() >= MAX_REMEMBERED {
            self.named.clear();
        }
        self.named.insert((team, name), content);
    }

    /// What an agent said is kept.
    pub(super) fn remember(&self, team: Option<TeamId>, said: &SaidComponents) {
        let Some(content) = &said.content else {
            return;
        };
        self.name(team, said.name.clone(), Some(content.clone()));
        if said.list.is_some() {
            if self.kept.len() >= MAX_REMEMBERED {
                self.kept.clear();
            }
            self.kept.insert(content.clone());
        }
    }
}

impl Collectors {
    /// The list that an agent names and did not tell, by its digest, if another agent of its team told it.
    pub(super) async fn shared_components(
        &self,
        message: &AgentToServer,
        record: Option<&Record>,
        principal: &Principal,
    ) -> Result<Option<String>, StoreError> {
        let known = record.and_then(|record| record.durable.components.as_ref());
        let name = match (&message.available_components, known) {
            (Some(said), _) if !said.components.is_empty() || said.hash.is_empty() => {
                return Ok(None);
            }
            (Some(said), _) => values::components_name(said),
            (None, Some(known)) => known.hash.clone(),
            (None, None) => return Ok(None),
        };
        if known.is_some_and(|known| known.hash == name && known.content.is_some()) {
            return Ok(None);
        }
        let team = match (record, principal) {
            (Some(record), _) => record.durable.team_id,
            (None, Principal::Token(token)) => token.team_id,
            (None, Principal::Key(key)) => key.team_id,
        };
        let names = &self.0.components;
        if let Some(content) = names.named.get(&(team, name.clone())) {
            return Ok(content.clone());
        }
        let content = store::part::shared_components(&mut &self.0.database, team, &name).await?;
        names.name(team, name, content.clone());
        Ok(content)
    }

    /// Keeps the list of components that an agent told, in the unit of work that keeps its record.
    pub(super) async fn keep_components(
        &self,
        db: &mut Transaction,
        said: &SaidComponents,
    ) -> Result<(), StoreError> {
        if let (Some(content), Some(list)) = (&said.content, &said.list)
            && !self.0.components.kept.contains(content)
        {
            store::part::add_components(db, content, list, self.now()).await?;
        }
        Ok(())
    }
}
