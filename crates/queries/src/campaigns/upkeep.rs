//! What keeps memory, database and the hosts there are together while campaigns run.

use muster_bus::{Hint, Received};
use muster_clock::Timestamp;
use muster_hosts::HOST_TOPIC;
use muster_http::error_chain;
use muster_identity::HostId;
use muster_store::StoreError;

use super::{ANSWERS_TOPIC, Campaigns, KEEP_CAMPAIGNS, KEEP_RESULTS, TOPIC};
use crate::live::Active;
use crate::store::campaigns as store;
use crate::{CampaignStatus, HostState, TargetError};

impl Campaigns {
    /// Puts a running campaign into memory, or takes it out when it ended.
    pub(crate) async fn load(&self, id: i64) -> Result<(), StoreError> {
        let context = &self.0.context;
        let mut db = &context.database;
        let Some(row) = store::active_one(&mut db, id).await? else {
            self.0.live.remove(id);
            return Ok(());
        };
        let owing = store::owing(&mut db, id).await?;
        if let Some(active) = self.0.live.get(id) {
            active.reconcile(&owing, row.last_position, context.clock.now());
        } else {
            let active = self
                .0
                .live
                .insert(Active::new(row, owing, context.clock.now()));
            self.0
                .notifier
                .notify(&active.hosts(), &format!("live-{id}"));
        }
        Ok(())
    }

    /// Brings memory and database together: campaigns that are new, ended or ran out; hosts that were asked.
    pub(crate) async fn reconcile(&self) -> Result<(), StoreError> {
        let context = &self.0.context;
        let now = context.clock.now();
        self.mark_asked(now).await?;
        let mut db = &context.database;
        for id in store::due_to_expire(&mut db, now).await? {
            self.end(id, CampaignStatus::Expired, HostState::Expired, now)
                .await?;
        }
        let running = store::active(&mut db).await?;
        let ids: Vec<i64> = running.iter().map(|row| row.id).collect();
        for active in self.0.live.all() {
            if !ids.contains(&active.id) {
                self.0.live.remove(active.id);
            }
        }
        for row in running {
            self.load(row.id).await?;
            self.let_go_of_deleted(row.id, None, now).await?;
            self.finish_when_done(row.id, row.wait_for_offline, now)
                .await?;
        }
        Ok(())
    }

    /// A host that was deleted is not waited for; all of the campaign's are looked at, or one.
    async fn let_go_of_deleted(
        &self,
        id: i64,
        one: Option<HostId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(active) = self.0.live.get(id) else {
            return Ok(());
        };
        let owing = match one {
            Some(host) => vec![host],
            None => active.hosts(),
        };
        if owing.is_empty() {
            return Ok(());
        }
        let existing = match self.0.targets.existing(&owing).await {
            Ok(existing) => existing,
            Err(TargetError::Store(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let gone: Vec<HostId> = owing
            .into_iter()
            .filter(|host| !existing.contains(host))
            .collect();
        if !gone.is_empty()
            && let Err(error) = self.0.live.fail_deleted(id, gone, now).await
        {
            let error = error_chain(&error);
            tracing::warn!(
                error,
                "deleted hosts are still waited for; it is tried again"
            );
        }
        Ok(())
    }

    /// Ends campaigns all of whose awaited hosts answered, and marks who was asked. Called often; costs nothing while
    /// no campaign runs.
    pub(crate) async fn tick(&self) -> Result<(), StoreError> {
        let active = self.0.live.all();
        if active.is_empty() {
            return Ok(());
        }
        let now = self.0.context.clock.now();
        self.mark_asked(now).await?;
        for active in active {
            if active.expires_at <= now {
                self.end(active.id, CampaignStatus::Expired, HostState::Expired, now)
                    .await?;
                continue;
            }
            // Who ended it elsewhere sends a hint, and what no hint tells is found by the reconciliation.
            if active.take_changed()
                && let Err(error) = self
                    .finish_when_done(active.id, active.wait_for_offline, now)
                    .await
            {
                active.set_changed();
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) async fn mark_asked(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut asked = self.0.live.take_asked().into_iter();
        while let Some((id, hosts)) = asked.next() {
            let marked = store::mark_sent(&mut &self.0.context.database, id, &hosts, now).await;
            if let Err(error) = marked {
                self.0
                    .live
                    .put_asked_back(std::iter::once((id, hosts)).chain(asked));
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) async fn finish_when_done(
        &self,
        id: i64,
        wait: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut db = &self.0.context.database;
        if store::outstanding(&mut db, id, wait).await? == 0 {
            // Hosts that are away keep their state: it tells why they did not answer.
            store::end(&mut db, id, CampaignStatus::Finished, None, now).await?;
            self.ended(id).await;
        }
        Ok(())
    }

    pub(super) async fn end(
        &self,
        id: i64,
        status: CampaignStatus,
        rest: HostState,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.0.context.database.begin().await?;
        let ended = store::end(&mut transaction, id, status, Some(rest), now).await?;
        transaction.commit().await?;
        self.ended(id).await;
        Ok(ended)
    }

    pub(super) async fn ended(&self, id: i64) {
        self.0.live.remove(id);
        self.0.context.hint(TOPIC, id).await;
    }

    pub(crate) async fn forget_old(&self) -> Result<(), StoreError> {
        let now = self.0.context.clock.now();
        let mut db = &self.0.context.database;
        store::forget(&mut db, now.minus(KEEP_RESULTS), now.minus(KEEP_CAMPAIGNS)).await
    }

    /// Something about a host changed; perhaps it was deleted.
    async fn host_changed(&self, host: HostId) -> Result<(), StoreError> {
        let now = self.0.context.clock.now();
        for active in self.0.live.all() {
            if active.owes(host) {
                self.let_go_of_deleted(active.id, Some(host), now).await?;
            }
        }
        Ok(())
    }

    /// Tells other replicas of campaigns to which hosts answered here. Called often; costs nothing while none did.
    pub(crate) async fn tell_replicas(&self) {
        for active in self.0.live.all() {
            if active.take_untold() {
                let key = format!("{}/{}", active.id, self.0.instance);
                self.0.context.hint(ANSWERS_TOPIC, key).await;
            }
        }
    }

    /// Hosts answered to another replica: they owe nothing here, and who listens here is told.
    async fn answered_elsewhere(&self, key: &str) -> Result<(), StoreError> {
        let Some((id, instance)) = key.split_once('/') else {
            return Ok(());
        };
        let active = id.parse().ok().and_then(|id| self.0.live.get(id));
        let Some(active) = active.filter(|_| instance != self.0.instance) else {
            return Ok(());
        };
        let mut db = &self.0.context.database;
        loop {
            let answered = store::answered_since(&mut db, active.id, active.followed()).await?;
            let Some((_, last)) = answered.last().copied() else {
                return Ok(());
            };
            let hosts: Vec<HostId> = answered.into_iter().map(|(host, _)| host).collect();
            active.follow(&hosts, last);
        }
    }

    pub(crate) async fn follow(&self, received: &Received) {
        let result = match received {
            Received::Hint(Hint { topic, key }) if *topic == TOPIC => match key.parse() {
                Ok(id) => self.load(id).await,
                Err(_) => self.reconcile().await,
            },
            Received::Hint(Hint { topic, key }) if *topic == ANSWERS_TOPIC => {
                self.answered_elsewhere(key).await
            }
            Received::Hint(Hint { topic, key }) if *topic == HOST_TOPIC => match key.parse() {
                Ok(host) => self.host_changed(HostId(host)).await,
                Err(_) => Ok(()),
            },
            Received::Hint(_) => Ok(()),
            Received::Missed => self.reconcile().await,
        };
        if let Err(error) = result {
            tracing::warn!(
                error = error_chain(&error),
                "could not follow a hint; the next reconciliation will"
            );
        }
    }
}
