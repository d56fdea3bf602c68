//! Which host still owes an answer to which campaign, in memory: what every check-in asks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use dashmap::DashMap;
use muster_clock::Timestamp;
use muster_hosts::{
    DistributedSource, DueQueries, HostState as CheckInHost, QueryResult, SourceError,
};
use muster_identity::{HostId, UserId};
use tokio::sync::watch;

use crate::model::HostState;
use crate::store::campaigns::{ActiveRow, Answer};
use crate::writer::Writer;

/// How the names of live queries begin on the wire, as Fleet's do: some agents' watchdogs know it.
pub(crate) const PREFIX: &str = "fleet_distributed_query_";
/// A host that was asked and neither answered nor failed is asked again after so long: its answer, or our question, may
/// have been lost.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(120);
/// How often a host is asked again earlier than that because its agent came back.
const MAX_CAME_BACK: u8 = 3;
/// The most rows that are kept of one host's answer.
pub(crate) const MAX_ROWS_PER_HOST: usize = 10_000;
/// The most bytes that are kept of one host's answer, as JSON.
pub(crate) const MAX_BYTES_PER_HOST: usize = 4 * 1024 * 1024;
/// The longest message of a failure that is kept, in bytes.
const MAX_MESSAGE_BYTES: usize = 1_000;

/// A host that owes an answer.
#[derive(Clone, Copy)]
struct Owing {
    /// When it was last asked; none when it is to be asked.
    asked_at: Option<Timestamp>,
    /// How often it was asked again because it came back before its time.
    came_back: u8,
    /// Whether it was away when the campaign began.
    is_away: bool,
}

/// A running campaign in memory.
pub(crate) struct Active {
    pub(crate) id: i64,
    name: Arc<str>,
    sql: Arc<str>,
    pub(crate) expires_at: Timestamp,
    pub(crate) user_id: UserId,
    pub(crate) wait_for_offline: bool,
    /// Whether a host answered since it was last looked whether all have.
    changed: AtomicBool,
    /// Hosts that owe an answer.
    owing: DashMap<HostId, Owing>,
    /// The newest position, for those who listen.
    pub(crate) newest: watch::Sender<i64>,
    /// Up to which position answers that other replicas kept were looked at.
    followed: AtomicI64,
    /// Whether answers were kept here that other replicas were not told of.
    untold: AtomicBool,
}

impl Active {
    pub(crate) fn new(row: ActiveRow, owing: Vec<(HostId, HostState)>, now: Timestamp) -> Self {
        let begun = |state| Owing {
            asked_at: (state == HostState::Sent).then_some(now),
            came_back: 0,
            is_away: state == HostState::Offline,
        };
        Self {
            id: row.id,
            name: format!("{PREFIX}{}", row.id).into(),
            sql: row.sql.into(),
            expires_at: row.expires_at,
            user_id: row.user_id,
            wait_for_offline: row.wait_for_offline,
            changed: AtomicBool::new(true),
            owing: owing
                .into_iter()
                .map(|(host, state)| (host, begun(state)))
                .collect(),
            newest: watch::channel(row.last_position).0,
            followed: AtomicI64::new(row.last_position),
            untold: AtomicBool::new(false),
        }
    }

    /// Takes over what another replica wrote: hosts that answered there owe nothing here, and those that were asked
    /// there need not be asked here.
    pub(crate) fn reconcile(
        &self,
        owing: &[(HostId, HostState)],
        last_position: i64,
        now: Timestamp,
    ) {
        let still: HashMap<HostId, HostState> = owing.iter().copied().collect();
        self.owing.retain(|host, owing| {
            let state = still.get(host);
            if state == Some(&HostState::Sent) && owing.came_back == 0 {
                owing.asked_at.get_or_insert(now);
                owing.is_away = false;
            }
            state.is_some()
        });
        self.followed.fetch_max(last_position, Ordering::AcqRel);
        self.set_changed();
        self.advance(last_position);
    }

    pub(crate) fn set_changed(&self) {
        self.changed.store(true, Ordering::Release);
    }

    /// Whether a host answered since the last call.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn advance(&self, position: i64) {
        self.newest.send_if_modified(|newest| {
            let further = position > *newest;
            *newest = position.max(*newest);
            further
        });
    }

    /// Up to which position answers that other replicas kept were looked at.
    pub(crate) fn followed(&self) -> i64 {
        self.followed.load(Ordering::Acquire)
    }

    /// Takes over answers that were kept up to a position.
    pub(crate) fn follow(&self, answered: &[HostId], position: i64) {
        for host in answered {
            self.owing.remove(host);
        }
        self.followed.fetch_max(position, Ordering::AcqRel);
        self.set_changed();
        self.advance(position);
    }

    /// Whether answers were kept since the last call that other replicas do not know of.
    pub(crate) fn take_untold(&self) -> bool {
        self.untold.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn owes(&self, host: HostId) -> bool {
        self.owing.contains_key(&host)
    }

    /// Whether all that is left are hosts that were away when it began and did not come yet.
    pub(crate) fn only_waits(&self) -> bool {
        self.wait_for_offline && self.owing.iter().all(|owing| owing.is_away)
    }

    /// The hosts that owe an answer.
    pub(crate) fn hosts(&self) -> Vec<HostId> {
        self.owing.iter().map(|entry| *entry.key()).collect()
    }
}

#[derive(Default)]
struct Inner {
    campaigns: RwLock<HashMap<i64, Arc<Active>>>,
    /// How many there are: the question of nearly every check-in, answered without a lock.
    count: AtomicUsize,
    /// Hosts that were asked and not marked so yet.
    asked: Mutex<HashMap<i64, Vec<HostId>>>,
}

/// Running campaigns in memory; the source of live queries at a check-in.
#[derive(Clone)]
pub struct Live {
    inner: Arc<Inner>,
    writer: Writer,
}

impl Live {
    /// How many bytes of answers wait to be kept, of [`MAX_WAITING_ANSWERS_BYTES`](crate::MAX_WAITING_ANSWERS_BYTES).
    pub fn waiting_bytes(&self) -> usize {
        self.writer.waiting_bytes()
    }

    pub(crate) fn new(writer: Writer) -> Self {
        Self {
            inner: Arc::default(),
            writer,
        }
    }

    pub(crate) fn get(&self, id: i64) -> Option<Arc<Active>> {
        self.inner
            .campaigns
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Active>> {
        self.inner
            .campaigns
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    pub(crate) fn insert(&self, active: Active) -> Arc<Active> {
        let active = Arc::new(active);
        let mut campaigns = self
            .inner
            .campaigns
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        campaigns.insert(active.id, Arc::clone(&active));
        self.inner.count.store(campaigns.len(), Ordering::Release);
        active
    }

    pub(crate) fn remove(&self, id: i64) {
        let mut campaigns = self
            .inner
            .campaigns
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Listeners wake up when the sender goes, and then read how it ended.
        campaigns.remove(&id);
        self.inner.count.store(campaigns.len(), Ordering::Release);
    }

    /// Whether a host owes an answer to a campaign that runs.
    pub(crate) fn owes(&self, host: HostId) -> bool {
        self.all().iter().any(|active| active.owes(host))
    }

    /// An agent came back, and may have forgotten what it was asked: it is asked again at once. Only so often, since the
    /// question itself may be what ends it.
    pub(crate) fn came_back(&self, host: HostId) {
        for active in self.all() {
            if let Some(mut owing) = active.owing.get_mut(&host)
                && owing.asked_at.is_some()
                && owing.came_back < MAX_CAME_BACK
            {
                owing.asked_at = None;
                owing.came_back += 1;
            }
        }
    }

    /// Hosts that were asked since the last call, by campaign.
    pub(crate) fn take_asked(&self) -> HashMap<i64, Vec<HostId>> {
        std::mem::take(
            &mut self
                .inner
                .asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// They could not be marked; they will be next time.
    pub(crate) fn put_asked_back(&self, hosts: impl Iterator<Item = (i64, Vec<HostId>)>) {
        let mut asked = self
            .inner
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (id, mut hosts) in hosts {
            asked.entry(id).or_default().append(&mut hosts);
        }
    }

    fn answer(&self, host: HostId, id: i64, result: QueryResult) -> Option<Answer> {
        // What nobody asked this host is not worth a statement; what the statement finds decides.
        let active = self.get(id)?;
        active.owing.contains_key(&host).then_some(())?;
        let succeeded = result.succeeded();
        let (rows_json, rows, clipped) = if succeeded {
            to_json(&result)
        } else {
            ("[]".to_owned(), 0, false)
        };
        let stats = result
            .stats
            .and_then(|stats| serde_json::to_string(&stats).ok());
        let mut message = result.message.unwrap_or_default();
        if !succeeded && message.is_empty() {
            message = format!("failed with code {}", result.status);
        }
        // PostgreSQL keeps no text with NUL, and SQLite's functions end at it.
        message.retain(|character| character != '\0');
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        Some(Answer {
            campaign_id: id,
            host_id: host,
            state: if succeeded {
                HostState::Answered
            } else {
                HostState::Failed
            },
            message,
            rows_json,
            rows,
            clipped,
            stats: stats.filter(|_| succeeded),
        })
    }
}

/// The rows as a JSON list, as far as the bounds allow; how many, and whether some were left out.
fn to_json(result: &QueryResult) -> (String, i64, bool) {
    let mut text = String::from("[");
    let mut count = 0;
    for row in &result.rows {
        let member = serde_json::to_string(row).unwrap_or_else(|_| "{}".to_owned());
        if count == MAX_ROWS_PER_HOST || text.len() + member.len() + 2 > MAX_BYTES_PER_HOST {
            text.push(']');
            return (text, count as i64, true);
        }
        if count > 0 {
            text.push(',');
        }
        text.push_str(&member);
        count += 1;
    }
    text.push(']');
    (text, count as i64, false)
}

#[async_trait]
impl DistributedSource for Live {
    fn prefix(&self) -> &'static str {
        PREFIX
    }

    fn due(&self, host: &CheckInHost, now: Timestamp, out: &mut DueQueries) {
        if self.inner.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let campaigns = self
            .inner
            .campaigns
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        for active in campaigns.values().filter(|active| active.expires_at > now) {
            let Some(mut owing) = active.owing.get_mut(&host.id()) else {
                continue;
            };
            let waits = |asked_at| now.since(asked_at) < ASK_AGAIN_AFTER;
            if !owing.asked_at.is_some_and(waits) {
                owing.asked_at = Some(now);
                owing.is_away = false;
                drop(owing);
                out.push(active.name.to_string(), Arc::clone(&active.sql), None);
                let mut asked = self
                    .inner
                    .asked
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                asked.entry(active.id).or_default().push(host.id());
            }
        }
    }

    async fn ingest(
        &self,
        host: &CheckInHost,
        results: Vec<QueryResult>,
        now: Timestamp,
    ) -> Result<(), SourceError> {
        let answers: Vec<Answer> = results
            .into_iter()
            .filter_map(|result| {
                let id = result.name.strip_prefix(PREFIX)?.parse().ok()?;
                self.answer(host.id(), id, result)
            })
            .collect();
        if answers.is_empty() {
            return Ok(());
        }
        self.keep(answers, now).await
    }
}

impl Live {
    /// Keeps answers, and tells those who listen.
    async fn keep(&self, answers: Vec<Answer>, now: Timestamp) -> Result<(), SourceError> {
        let owed: Vec<(i64, HostId)> = answers
            .iter()
            .map(|answer| (answer.campaign_id, answer.host_id))
            .collect();
        let kept = self.writer.keep(answers, now).await?;
        for ((id, host), position) in owed.into_iter().zip(kept) {
            if let Some(active) = self.get(id) {
                active.owing.remove(&host);
                active.set_changed();
                if let Some(position) = position {
                    active.untold.store(true, Ordering::Release);
                    active.advance(position);
                }
            }
        }
        Ok(())
    }

    /// Hosts that were deleted will not answer any more.
    pub(crate) async fn fail_deleted(
        &self,
        campaign: i64,
        hosts: Vec<HostId>,
        now: Timestamp,
    ) -> Result<(), SourceError> {
        let failed = |host_id| Answer {
            campaign_id: campaign,
            host_id,
            state: HostState::Failed,
            message: "the host was deleted or banned".to_owned(),
            rows_json: "[]".to_owned(),
            rows: 0,
            clipped: false,
            stats: None,
        };
        self.keep(hosts.into_iter().map(failed).collect(), now)
            .await
    }
}

#[cfg(test)]
mod tests {
    use muster_hosts::Row;

    use super::*;

    #[test]
    fn rows_beyond_the_bounds_are_left_out_and_that_is_said() {
        let row = |size: usize| [("column", "x".repeat(size))].into_iter().collect::<Row>();
        let many = QueryResult {
            rows: vec![row(1); MAX_ROWS_PER_HOST + 5],
            ..QueryResult::default()
        };
        let (text, count, clipped) = to_json(&many);
        assert_eq!((count, clipped), (MAX_ROWS_PER_HOST as i64, true));
        assert_eq!(
            serde_json::from_str::<Vec<serde_json::Value>>(&text)
                .unwrap()
                .len(),
            MAX_ROWS_PER_HOST
        );
        let large = QueryResult {
            rows: vec![row(MAX_BYTES_PER_HOST / 2); 3],
            ..QueryResult::default()
        };
        let (text, count, clipped) = to_json(&large);
        assert_eq!((count, clipped), (1, true));
        assert!(text.len() <= MAX_BYTES_PER_HOST);
        let few = QueryResult {
            rows: vec![row(3), row(4)],
            ..QueryResult::default()
        };
        assert_eq!(
            to_json(&few),
            (
                "[{\"column\":\"xxx\"},{\"column\":\"xxxx\"}]".to_owned(),
                2,
                false
            )
        );
    }
}
