//! What operators do to hosts: delete them, move them, have them send their details.

use std::collections::HashSet;

use muster_clock::Timestamp;
use muster_http::Problem;
use muster_identity::{
    Action, Actor, AuditEntry, HostId, IdentityError, Principal, RefusedKey, Scope, TeamId,
};
use muster_store::StoreError;
use serde_json::json;
use tracing::Instrument as _;

use super::{Hosts, OperatorError};
use crate::checkin::HOST_TOPIC;
use crate::record::HostRecord;
use crate::store;
use crate::store::operator::Filter;

/// How many hosts are deleted or moved at a time.
const MAX_AT_ONCE: usize = 10_000;

/// Does work that has to come to its end once it began. A request whose client goes away is dropped wherever it waits; if
/// that was at the commit, nobody would be told of what was kept.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(done) => done,
        Err(error) => Err(Problem::internal(&error)),
    }
}

impl Hosts {
    /// Deletes hosts with everything known about them, and their keys: an agent that still calls is told that its key is
    /// invalid, and enrolls anew if its token is still good. Gives how many there were.
    pub async fn delete(&self, principal: &Principal, ids: &[HostId]) -> Result<u64, Problem> {
        let hosts = self.authorized(principal, Action::WriteHosts, ids).await?;
        let (all, actor) = (self.clone(), Actor::from(principal));
        to_its_end(async move { all.delete_all(&actor, &hosts).await }).await
    }

    async fn delete_all(&self, actor: &Actor, hosts: &[HostRecord]) -> Result<u64, Problem> {
        let deleted = self.delete_unless_heard(actor, hosts, None).await;
        Ok(deleted.map_err(OperatorError::from)?)
    }

    /// Deletes those of the hosts that were not heard since `before`; gives how many.
    pub(crate) async fn delete_expired(
        &self,
        actor: &Actor,
        hosts: &[HostRecord],
        before: Timestamp,
    ) -> Result<u64, StoreError> {
        self.delete_unless_heard(actor, hosts, Some(before)).await
    }

    async fn delete_unless_heard(
        &self,
        actor: &Actor,
        hosts: &[HostRecord],
        before: Option<Timestamp>,
    ) -> Result<u64, StoreError> {
        let now = self.now();
        let done = async {
            let mut transaction = self.0.database.begin().await?;
            let ids: Vec<HostId> = hosts.iter().map(|host| host.id).collect();
            let there = store::host::lock(&mut transaction, &ids).await?;
            let heard = match before {
                Some(before) => store::expiry::heard(&mut transaction, &ids, before).await?,
                None => HashSet::new(),
            };
            let silent = || {
                let there = hosts.iter().filter(|host| there.contains(&host.id));
                there.filter(|host| !heard.contains(&host.id))
            };
            for host in silent() {
                self.0
                    .identity
                    .agent_keys
                    .revoke_host(&mut transaction, host.id, RefusedKey::Deleted, now)
                    .await?;
                let mut details =
                    json!({ "hostname": host.facts.hostname, "identifier": host.identifier });
                if before.is_some() {
                    details["expired"] = true.into();
                    details["seen_at"] = json!(host.seen_at);
                }
                let entry = AuditEntry::new("deleted_host", "host", host.id).before(details);
                self.0
                    .identity
                    .audit
                    .record(&mut transaction, actor, entry, now)
                    .await?;
            }
            let ids: Vec<HostId> = silent().map(|host| host.id).collect();
            self.0.software.forget(&mut transaction, &ids).await?;
            if let Some(companions) = self.companions() {
                companions
                    .hosts_deleted(&mut transaction, &ids, now)
                    .await?;
            }
            store::operator::delete(&mut transaction, &ids).await?;
            transaction.commit().await?;
            Ok(ids.len() as u64)
        };
        let done: Result<u64, StoreError> = done.await;
        // Also after an error: when the answer to the commit is lost it may have been kept, and looking again harms not.
        for host in hosts {
            self.0.identity.agent_keys.revoked(host.id).await;
            self.hint(HOST_TOPIC, host.id).await;
        }
        done
    }

    async fn authorized(
        &self,
        principal: &Principal,
        action: Action,
        ids: &[HostId],
    ) -> Result<Vec<HostRecord>, Problem> {
        if ids.len() > MAX_AT_ONCE {
            return Err(Problem::invalid(
                "ids",
                format!("must be at most {MAX_AT_ONCE} at a time"),
            ));
        }
        let mut filter = Filter::new(self.now());
        filter.visible(&principal.visible_teams());
        filter.ids(&ids.iter().map(|id| id.0).collect::<Vec<_>>());
        let hosts = store::operator::all(&mut &self.0.database, &filter)
            .await
            .map_err(OperatorError::from)?;
        for host in &hosts {
            principal.authorize(action, Scope::Team(host.team_id))?;
        }
        if hosts.is_empty() {
            principal.authorize(action, Scope::Anywhere)?;
        }
        Ok(hosts)
    }

    /// Moves hosts to a team, or out of all. It sticks: enrolling again with the same token keeps the team.
    pub async fn transfer(
        &self,
        principal: &Principal,
        ids: &[HostId],
        team: Option<TeamId>,
    ) -> Result<u64, Problem> {
        if let Some(team) = team {
            self.0
                .identity
                .teams
                .find(team)
                .await
                .map_err(|error| match error {
                    IdentityError::NotFound { what } => {
                        Problem::invalid("team_id", format!("{what} does not exist"))
                    }
                    other => other.into(),
                })?;
        }
        principal.authorize(Action::WriteHosts, Scope::Team(team))?;
        let hosts = self.authorized(principal, Action::WriteHosts, ids).await?;
        let (all, actor) = (self.clone(), Actor::from(principal));
        to_its_end(async move { all.transfer_all(&actor, &hosts, team).await }).await
    }

    async fn transfer_all(
        &self,
        actor: &Actor,
        hosts: &[HostRecord],
        team: Option<TeamId>,
    ) -> Result<u64, Problem> {
        let now = self.now();
        let done = async {
            let mut transaction = self.0.database.begin().await?;
            for host in hosts.iter().filter(|host| host.team_id != team) {
                store::operator::set_team(&mut transaction, host.id, team, now).await?;
                let entry = AuditEntry::new("transferred_host", "host", host.id)
                    .before(json!({ "team_id": host.team_id }))
                    .after(json!({ "team_id": team }));
                self.0
                    .identity
                    .audit
                    .record(&mut transaction, actor, entry, now)
                    .await?;
                self.0
                    .software
                    .transfer(&mut transaction, &[host.id], team)
                    .await?;
                if let Some(companions) = self.companions() {
                    companions
                        .host_transferred(&mut transaction, host.id, team, now)
                        .await?;
                }
            }
            transaction.commit().await
        };
        let done: Result<(), StoreError> = done.await;
        for host in hosts {
            self.hint(HOST_TOPIC, host.id).await;
        }
        done.map_err(OperatorError::from)?;
        Ok(hosts.len() as u64)
    }

    /// Has a host send its details at its next check-in.
    pub async fn refetch(&self, principal: &Principal, id: HostId) -> Result<(), Problem> {
        let host = self.find(principal, id).await?;
        principal.authorize(Action::ReadHosts, Scope::Team(host.team_id))?;
        store::operator::set_refetch(&mut &self.0.database, id)
            .await
            .map_err(OperatorError::from)?;
        self.hint(HOST_TOPIC, id).await;
        Ok(())
    }
}
