//! What a listener of a campaign gets, from any position on.
//!
//! The truth is in the database: a listener reads answers by position, and only waits on memory for the next one. It
//! therefore holds nothing, may be as slow as it likes, and misses nothing when it leaves and comes back.

use std::time::Duration;

use muster_clock::Timestamp;
use muster_identity::Principal;
use tokio::sync::watch;

use crate::{Campaign, CampaignStatus, Campaigns, HostResult, QueriesError};

/// How long a listener waits before it looks whether something changed without its replica knowing.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How often it is looked whether a listener may still listen.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Where the campaign stands; first of all, and whenever it changed.
    Progress(Campaign),
    /// A host answered or failed.
    Result(HostResult),
    /// It ended; nothing follows.
    End(Campaign),
}

/// Reads a campaign's events in order.
pub struct Stream {
    campaigns: Campaigns,
    id: i64,
    after: i64,
    newest: Option<watch::Receiver<i64>>,
    buffered: std::vec::IntoIter<HostResult>,
    shown: Option<Campaign>,
    ended: bool,
    /// Whether progress is due: something was given since it was last shown.
    stale: bool,
    listener: Option<Listener>,
}

/// Who listens, and when it was last known that it may.
struct Listener {
    principal: Principal,
    checked_at: Timestamp,
}

impl Stream {
    pub(crate) fn new(campaigns: Campaigns, id: i64, after: i64) -> Self {
        let newest = campaigns.newest(id);
        Self {
            campaigns,
            id,
            after,
            newest,
            buffered: Vec::new().into_iter(),
            shown: None,
            ended: false,
            stale: true,
            listener: None,
        }
    }

    /// From now on this one listens: what follows breaks off when it may not any more.
    pub(crate) fn checking(mut self, principal: Principal) -> Self {
        self.listener = Some(Listener {
            principal,
            checked_at: self.campaigns.now(),
        });
        self
    }

    async fn check(&mut self) -> Result<(), QueriesError> {
        let now = self.campaigns.now();
        if let Some(listener) = &mut self.listener
            && now.since(listener.checked_at) >= CHECK_INTERVAL
        {
            self.campaigns.readmit(&listener.principal, self.id).await?;
            listener.checked_at = now;
        }
        Ok(())
    }

    /// The position up to which everything was given.
    pub fn position(&self) -> i64 {
        self.after
    }

    /// The next event; waits for it. None after the end.
    pub async fn next(&mut self) -> Result<Option<Event>, QueriesError> {
        loop {
            if let Some(result) = self.buffered.next() {
                self.after = result.position;
                self.stale = true;
                return Ok(Some(Event::Result(result)));
            }
            if self.ended {
                return Ok(None);
            }
            self.check().await?;
            // What is newer than this look wakes the wait below.
            if let Some(newest) = &mut self.newest {
                newest.borrow_and_update();
            }
            let results = self
                .campaigns
                .results_unchecked(self.id, self.after)
                .await?;
            if !results.is_empty() {
                self.buffered = results.into_iter();
                continue;
            }
            if self.stale {
                self.stale = false;
                let campaign = self.campaigns.settle(self.id).await?;
                if let Some(event) = self.progress(campaign).await? {
                    return Ok(Some(event));
                }
                continue;
            }
            self.wait().await;
        }
    }

    /// Progress when it changed; the end when it ended and everything was given.
    async fn progress(&mut self, campaign: Campaign) -> Result<Option<Event>, QueriesError> {
        if campaign.status != CampaignStatus::Running {
            // Answers may have been kept between the two looks.
            let rest = self
                .campaigns
                .results_unchecked(self.id, self.after)
                .await?;
            if rest.is_empty() {
                self.ended = true;
                return Ok(Some(Event::End(campaign)));
            }
            self.buffered = rest.into_iter();
            self.stale = true;
            return Ok(None);
        }
        let changed = self
            .shown
            .as_ref()
            .is_none_or(|shown| shown.hosts != campaign.hosts);
        self.shown = Some(campaign.clone());
        Ok(changed.then_some(Event::Progress(campaign)))
    }

    async fn wait(&mut self) {
        if let Some(newest) = &mut self.newest {
            let changed = tokio::time::timeout(LOOK_AGAIN, newest.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                // The campaign left this replica's memory: it ended.
                self.newest = self.campaigns.newest(self.id);
            }
        } else {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.stale = true;
    }
}
