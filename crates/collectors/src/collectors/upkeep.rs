//! What runs beside messages: hints are followed, memory is compared with the database, and what is over is forgotten.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use muster_bus::{Received, Topic};
use muster_clock::Timestamp;
use muster_http::error_chain;
use muster_identity::{
    COLLECTOR_KEYS_TOPIC, CollectorId, EnrollmentTokenId, TeamBelongings, TeamId, TokenCollectors,
};
use muster_replicas::Lease;
use muster_store::{Database, StoreError, Transaction};
use tokio_util::sync::CancellationToken;

use super::{CHANGED_TOPIC, Collectors, PROBE_TOPIC, PUSH_TOPIC};
use crate::store;

/// Hints that enrollment tokens changed.
const TOKENS_TOPIC: Topic = Topic::new("identity.enrollment_tokens");
/// How often memory is compared with the database.
const COMPARE_INTERVAL: Duration = Duration::from_secs(60);
/// How often what is over is forgotten.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How soon credentials are looked at a second time after a hint: whoever keeps them may have been slower to hear it.
const SECOND_LOOK: Duration = Duration::from_millis(300);
/// How long an agent stays in memory that is not heard.
const KEPT_FOR: Duration = Duration::from_secs(10 * 60);
/// How many agents are compared by one statement.
const COMPARED_AT_ONCE: usize = 1_000;
/// How long an ephemeral agent is kept after it said goodbye, and after it fell silent without.
const EPHEMERAL_GONE_FOR: Duration = Duration::from_secs(5 * 60);
const EPHEMERAL_SILENT_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How many ephemeral agents are forgotten in one unit of work.
const FORGOTTEN_AT_ONCE: i64 = 100;
/// How long a list of components is kept that no agent has.
const COMPONENTS_KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the count of an agent's messages under a credential is kept.
const LINES_KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Collectors {
    /// Follows hints, writes presence and forgets what is over, until it is told to stop; then writes what is left. What one
    /// replica does for all hangs on `upkeep`.
    pub async fn run(&self, upkeep: &Lease, stop: CancellationToken) {
        // Hints are followed at once, whatever else there is to do.
        tokio::join!(
            self.0.presence.clone().run(stop.clone()),
            self.follow_hints(&stop),
            self.run_comparison(&stop),
            self.run_upkeep(upkeep, &stop),
            self.run_links(upkeep, stop.clone()),
            self.run_telemetry(stop.clone()),
        );
    }

    async fn run_comparison(&self, stop: &CancellationToken) {
        let mut timer = tokio::time::interval(COMPARE_INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => {}
                () = self.0.compare_soon.notified() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                compared = self.compare() => report(compared),
            }
        }
    }

    async fn run_upkeep(&self, upkeep: &Lease, stop: &CancellationToken) {
        let mut timer = tokio::time::interval(UPKEEP_INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = upkeep.due(&mut timer) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                forgot = self.forget_what_is_over() => report(forgot),
            }
        }
    }

    async fn follow_hints(&self, stop: &CancellationToken) {
        let mut hints = self.0.bus.subscribe();
        let mut second_look: Option<tokio::time::Instant> = None;
        loop {
            let looks =
                second_look.unwrap_or_else(|| tokio::time::Instant::now() + COMPARE_INTERVAL);
            tokio::select! {
                () = stop.cancelled() => break,
                hint = hints.next() => match hint {
                    Some(hint) => if self.follow(&hint) {
                        second_look = Some(tokio::time::Instant::now() + SECOND_LOOK);
                    },
                    None => break,
                },
                () = tokio::time::sleep_until(looks), if second_look.is_some() => {
                    second_look = None;
                    self.0.live.check_all();
                }
            }
        }
    }

    /// Whether all credentials are to be looked at once more in a moment.
    fn follow(&self, received: &Received) -> bool {
        let Received::Hint(hint) = received else {
            // Whatever changed meanwhile is found by comparing, which costs far less than reading everything anew.
            self.0.compare_soon.notify_one();
            self.0.live.check_all();
            self.0.live.push_all();
            return true;
        };
        let id = |text: &str| text.parse().ok().map(CollectorId);
        if hint.topic == CHANGED_TOPIC {
            if let Some((changed, origin)) = hint.key.split_once(' ')
                && let Some(id) = id(changed)
                && origin != self.0.origin.to_string()
            {
                self.forget(id);
                self.0.live.check(id);
            }
        } else if hint.topic == PUSH_TOPIC {
            match id(&hint.key) {
                Some(id) => self.0.live.push(id),
                None => self.0.live.push_all(),
            }
        } else if hint.topic == PROBE_TOPIC {
            if let Some(id) = id(&hint.key) {
                self.0.live.probe(id);
            }
        } else if hint.topic == COLLECTOR_KEYS_TOPIC {
            let Some(id) = id(&hint.key) else {
                self.0.live.check_all();
                return true;
            };
            self.0.identity.collector_keys.forget_collector(id);
            self.0.live.check(id);
        } else if hint.topic == TOKENS_TOPIC {
            self.0.live.check_all();
            return true;
        }
        false
    }

    /// Forgets what is in memory and is not as in the database, in case a hint was lost, and what was not heard for long.
    async fn compare(&self) -> Result<(), StoreError> {
        let now = self.now();
        let is_idle = |seen: Option<Timestamp>| seen.is_none_or(|seen| now.since(seen) > KEPT_FOR);
        self.0
            .records
            .retain(|_, record| !is_idle(record.seen_at()));
        // Of earlier uids only those that are shown are here; the database knows the others.
        self.0.uids.retain(|uid, id| {
            let record = self.0.records.get(id);
            record.is_some_and(|record| record.durable.uid == *uid)
        });
        self.0.paces.retain(|_, pace| !pace.is_even(now));
        self.0.components.forget();
        self.0.newcomers.forget_even(now);
        self.0.knocks.forget_old(now);
        let known: Vec<(CollectorId, i64)> = self
            .0
            .records
            .iter()
            .map(|entry| (*entry.key(), entry.revision))
            .collect();
        for batch in known.chunks(COMPARED_AT_ONCE) {
            let ids: Vec<CollectorId> = batch.iter().map(|(id, _)| *id).collect();
            let there = store::record::revisions(&mut &self.0.database, &ids).await?;
            for (id, revision) in batch {
                // One that was changed here meanwhile is newer in memory.
                if there.get(id).is_none_or(|there| there > revision) {
                    self.forget(*id);
                    self.0.live.check(*id);
                    self.0.live.push(*id);
                }
            }
        }
        Ok(())
    }

    /// Forgets what is over: what runs every few minutes on one replica. For tests.
    pub async fn forget_what_is_over(&self) -> Result<(), StoreError> {
        let now = self.now();
        store::presence::forget_lines(&mut &self.0.database, now.minus(LINES_KEPT_FOR)).await?;
        let before = now.minus(COMPONENTS_KEPT_FOR);
        store::part::forget_components(&mut &self.0.database, before).await?;
        self.forget_ephemeral(now).await
    }

    /// Ephemeral agents that went are forgotten, as many as there are: a few per unit of work, since agents wait meanwhile.
    async fn forget_ephemeral(&self, now: Timestamp) -> Result<(), StoreError> {
        let (gone_before, silent_since) = (
            now.minus(EPHEMERAL_GONE_FOR),
            now.minus(EPHEMERAL_SILENT_FOR),
        );
        loop {
            // What was heard of them lately counts.
            self.0.presence.flush().await?;
            let mut database = &self.0.database;
            let found = store::record::ephemeral(
                &mut database,
                gone_before,
                silent_since,
                FORGOTTEN_AT_ONCE,
            );
            let (found, mut gone) = (found.await?, Vec::new());
            let mut db = self.0.database.begin().await?;
            for id in found {
                let forgets =
                    store::record::delete_ephemeral(&mut db, id, gone_before, silent_since);
                if forgets.await? {
                    let keys = &self.0.identity.collector_keys;
                    keys.delete_collector(&mut db, id).await?;
                    gone.push(id);
                }
            }
            db.commit().await?;
            for id in &gone {
                self.0.identity.collector_keys.changed(*id).await;
                self.gone(*id).await;
            }
            if gone.is_empty() {
                return Ok(());
            }
        }
    }

    /// An agent was deleted. Its uids are found to lead nowhere when they are shown.
    pub(crate) async fn gone(&self, id: CollectorId) {
        self.forget(id);
        self.0.presence.forget(id);
        self.changed(id).await;
    }

    /// An operator changed an agent: every replica reads it anew, and looks whether there is something to tell it.
    pub(crate) async fn changed(&self, id: CollectorId) {
        self.forget(id);
        self.0.live.check(id);
        self.hint(CHANGED_TOPIC, format!("{id} {}", self.0.origin))
            .await;
    }

    /// There may be something to tell an agent, or all of them: whichever replica holds its socket looks.
    pub async fn push_soon(&self, id: Option<CollectorId>) {
        let key = id.map(|id| id.to_string()).unwrap_or_default();
        self.hint(PUSH_TOPIC, key).await;
    }

    /// When an agent was last heard here and when it went, if that is not written yet.
    pub(crate) fn waiting_times(&self, id: CollectorId) -> Option<(Timestamp, Option<Timestamp>)> {
        self.0.presence.waiting_times(id)
    }

    /// Writes what was heard and is not written yet. For tests, and before a planned end.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.0.presence.flush().await
    }
}

#[async_trait]
impl TeamBelongings for Collectors {
    fn kind(&self) -> &'static str {
        "collectors"
    }

    async fn owners(&self, database: &Database) -> Result<Vec<TeamId>, StoreError> {
        store::record::owners(&mut &*database).await
    }

    async fn release(
        &self,
        db: &mut Transaction,
        team: TeamId,
        _now: Timestamp,
    ) -> Result<u64, StoreError> {
        let released = store::record::release(db, team).await?;
        for id in &released {
            self.0
                .identity
                .collector_keys
                .move_to_team(db, *id, None)
                .await?;
        }
        Ok(released.len() as u64)
    }

    async fn released(&self) {
        // Which ones is not told here; the others compare.
        self.forget_all();
    }
}

#[async_trait]
impl TokenCollectors for Collectors {
    async fn without_key(
        &self,
        database: &Database,
        one: Option<EnrollmentTokenId>,
    ) -> Result<HashMap<EnrollmentTokenId, u64>, StoreError> {
        store::operator::without_key(&mut &*database, one).await
    }
}

fn report(result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::warn!(
            error = error_chain(&error),
            "upkeep of collectors failed; it is tried again"
        );
    }
}
