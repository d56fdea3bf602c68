//! Campaigns: begun, watched, stopped, and ended by time.

mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use muster_bus::Topic;
use muster_clock::Timestamp;
use muster_http::{Listing, Page};
use muster_identity::{Action, HostId, IdentityError, Principal, Scope, TeamFilter, UserId};
use muster_store::StoreError;

use crate::service::Context;
use crate::store::campaigns as store;
use crate::stream::Stream;
use crate::{
    Campaign, CampaignHost, CampaignStatus, HostResult, HostState, Live, Notifier, QueriesError,
    SavedQueries, SavedQuery, Target, TargetHost, Targets,
};

pub(crate) const TOPIC: Topic = Topic::new("queries.campaigns");
/// Says that hosts answered to a campaign; the key is its id, a slash, and who kept the answers.
pub(crate) const ANSWERS_TOPIC: Topic = Topic::new("queries.answers");
/// A campaign without another wish ends after so long.
const DEFAULT_EXPIRY: Duration = Duration::from_secs(10 * 60);
/// The longest that a campaign may run.
pub const MAX_EXPIRY: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Results are kept for so long after a campaign ended.
const KEEP_RESULTS: Duration = Duration::from_secs(24 * 60 * 60);
/// Campaigns themselves are kept for so long after they ended.
const KEEP_CAMPAIGNS: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The longest SQL, in bytes.
pub(crate) const MAX_SQL_BYTES: usize = 256 * 1024;
/// The most campaigns of one user that may run at a time.
const MAX_RUNNING_PER_USER: usize = 100;
/// The most campaigns that may run at a time.
const MAX_RUNNING: usize = 1_000;
/// When to try again, for whom too many run.
const RUNNING_RETRY_SECONDS: u32 = 10;
/// The most bytes of rows of one page of results, but for its first: listeners hold a page in memory.
const MAX_PAGE_BYTES: i64 = 4 * 1024 * 1024;
/// The most hosts of one page of results.
const MAX_RESULTS: i64 = 500;

/// What is to be asked of whom.
#[derive(Debug, Clone, Default)]
pub struct NewCampaign {
    /// The SQL; none for a saved query.
    pub sql: Option<String>,
    /// The saved query; none for SQL.
    pub query_id: Option<i64>,
    /// Whom.
    pub target: Target,
    /// When it ends at the latest; ten minutes when absent, a week at most.
    pub expiry: Option<Duration>,
    /// Whether hosts that are away are waited for.
    pub wait_for_offline: bool,
}

struct Inner {
    context: Arc<Context>,
    live: Live,
    saved: SavedQueries,
    notifier: Notifier,
    targets: Arc<dyn Targets>,
    /// Tells this replica's hints from others'.
    instance: String,
}

/// Campaigns.
#[derive(Clone)]
pub struct Campaigns(Arc<Inner>);

impl Campaigns {
    pub(crate) fn new(
        context: Arc<Context>,
        live: Live,
        saved: SavedQueries,
        notifier: Notifier,
        targets: Arc<dyn Targets>,
        instance: String,
    ) -> Self {
        Self(Arc::new(Inner {
            context,
            live,
            saved,
            notifier,
            targets,
            instance,
        }))
    }

    /// Begins a campaign. Gives it with the hosts that are asked.
    pub async fn create(
        &self,
        principal: &Principal,
        new: NewCampaign,
    ) -> Result<(Campaign, Vec<TargetHost>), muster_http::Problem> {
        let context = &self.0.context;
        if context.switches.live_queries_disabled() {
            return Err(QueriesError::Disabled.into());
        }
        let (sql, visible) = self.authorized(principal, &new).await?;
        let now = context.clock.now();
        let expiry = new.expiry.unwrap_or(DEFAULT_EXPIRY);
        if expiry > MAX_EXPIRY || expiry.is_zero() {
            let reason = format!("must be from 1 to {} seconds", MAX_EXPIRY.as_secs());
            return Err(QueriesError::invalid("expires_in_seconds", reason).into());
        }
        let hosts = self
            .0
            .targets
            .select(&new.target, &visible, now)
            .await
            .map_err(QueriesError::from)?;
        self.check_running(principal, now).await?;
        if hosts.is_empty() {
            return Err(
                muster_http::Problem::bad_request("no hosts targeted").with_code("no_hosts")
            );
        }
        let id = self
            .begin(principal, &new, &sql, now, expiry, &hosts)
            .await
            .map_err(QueriesError::from)?;
        let campaign = self.find_unchecked(id).await?;
        Ok((campaign, hosts))
    }

    async fn begin(
        &self,
        principal: &Principal,
        new: &NewCampaign,
        sql: &str,
        now: Timestamp,
        expiry: Duration,
        hosts: &[TargetHost],
    ) -> Result<i64, StoreError> {
        let context = &self.0.context;
        let mut transaction = context.database.begin().await?;
        let user = (principal.user_id, principal.name.as_str());
        let expires_at = now.plus(expiry);
        let (query_id, wait) = (new.query_id, new.wait_for_offline);
        let id = store::insert(
            &mut transaction,
            query_id,
            sql,
            user,
            wait,
            now,
            expires_at,
            hosts,
        )
        .await?;
        let entry = muster_identity::AuditEntry::new("ran_live_query", "campaign", id)
            .after(serde_json::json!({ "query": shortened(sql), "query_id": query_id, "targets": hosts.len() }));
        context
            .audit
            .record(&mut transaction, &principal.into(), entry, now)
            .await?;
        // Nobody is online and nobody is waited for: it is finished as it begins.
        if !wait && hosts.iter().all(|host| !host.online) {
            store::end(&mut transaction, id, CampaignStatus::Finished, None, now).await?;
        }
        transaction.commit().await?;
        // It is kept: whoever is told otherwise would ask all hosts twice.
        if let Err(error) = self.load(id).await {
            let error = muster_http::error_chain(&error);
            tracing::warn!(error, "a campaign begins with the next reconciliation");
        }
        context.hint(TOPIC, id).await;
        Ok(id)
    }

    /// Each campaign that runs costs memory and statements, and each is answered by hosts: there is an end to it.
    /// One that only waits for hosts that are away makes room for the next.
    async fn check_running(
        &self,
        principal: &Principal,
        now: Timestamp,
    ) -> Result<(), muster_http::Problem> {
        let running = self.0.live.all();
        let own = running
            .iter()
            .filter(|active| active.user_id == principal.user_id);
        let own: Vec<_> = own.collect();
        let waiting = own.iter().filter(|active| active.only_waits());
        let oldest = waiting.map(|active| active.id).min();
        let reason = if own.len() >= MAX_RUNNING_PER_USER {
            if let Some(id) = oldest {
                self.end(id, CampaignStatus::Expired, HostState::Expired, now)
                    .await?;
                return Ok(());
            }
            format!(
                "you have {MAX_RUNNING_PER_USER} live queries that run; stop some, or let them end"
            )
        } else if running.len() >= MAX_RUNNING {
            format!("{MAX_RUNNING} live queries run on this server; let some end")
        } else {
            return Ok(());
        };
        Err(muster_http::Problem::too_many(
            reason,
            RUNNING_RETRY_SECONDS,
        ))
    }

    /// Who may ask this, and of which teams.
    async fn authorized(
        &self,
        principal: &Principal,
        new: &NewCampaign,
    ) -> Result<(String, TeamFilter), muster_http::Problem> {
        let sql = new
            .sql
            .as_deref()
            .map(str::trim)
            .filter(|sql| !sql.is_empty());
        match (sql, new.query_id) {
            (Some(_), Some(_)) => {
                Err(QueriesError::invalid("query", "give SQL or a saved query, not both").into())
            }
            (None, None) => Err(QueriesError::invalid("query", "give SQL or a saved query").into()),
            (Some(sql), None) => {
                principal.authorize(Action::RunAnyQuery, Scope::Anywhere)?;
                check_sql(sql)?;
                Ok((sql.to_owned(), principal.teams_for(Action::RunAnyQuery)))
            }
            (None, Some(id)) => {
                let query = self.0.saved.find(principal, id).await?;
                let action = if query.observer_can_run {
                    Action::RunSavedQuery
                } else {
                    Action::RunAnyQuery
                };
                principal.authorize(action, Scope::Anywhere)?;
                Ok((query.query.clone(), teams_for(principal, &query)))
            }
        }
    }

    /// A campaign that the principal may see: its own, or any with the right to run any query everywhere.
    pub async fn find(&self, principal: &Principal, id: i64) -> Result<Campaign, QueriesError> {
        let campaign = self.find_unchecked(id).await?;
        if may_see(principal, campaign.user_id) {
            Ok(campaign)
        } else {
            Err(QueriesError::not_found("campaign", id))
        }
    }

    pub(crate) async fn find_unchecked(&self, id: i64) -> Result<Campaign, QueriesError> {
        let campaign = store::find(&mut &self.0.context.database, id).await?;
        campaign.ok_or_else(|| QueriesError::not_found("campaign", id))
    }

    /// A page of campaigns that the principal may see.
    pub async fn list(
        &self,
        principal: &Principal,
        listing: &Listing,
    ) -> Result<Page<Campaign>, QueriesError> {
        let user = (!may_see_all(principal)).then_some(principal.user_id);
        let (campaigns, total) = store::list(&mut &self.0.context.database, listing, user).await?;
        Ok(listing.page(campaigns, total))
    }

    /// A page of a campaign's hosts with where each stands.
    pub async fn hosts(
        &self,
        principal: &Principal,
        id: i64,
        listing: &Listing,
        states: &[HostState],
    ) -> Result<Page<CampaignHost>, QueriesError> {
        self.find(principal, id).await?;
        let now = self.0.context.clock.now();
        let (hosts, total) =
            store::hosts(&mut &self.0.context.database, id, listing, states, now).await?;
        Ok(listing.page(hosts, total))
    }

    /// Answers after a position, in order; at most 500, and fewer when they are large.
    pub async fn results(
        &self,
        principal: &Principal,
        id: i64,
        after: i64,
        limit: i64,
    ) -> Result<Vec<HostResult>, QueriesError> {
        self.find(principal, id).await?;
        let limit = limit.clamp(1, MAX_RESULTS);
        let mut db = &self.0.context.database;
        Ok(store::results(&mut db, id, after, limit, MAX_PAGE_BYTES).await?)
    }

    /// Stops a campaign: no more hosts are asked. Stopping one that ended is no error.
    pub async fn cancel(&self, principal: &Principal, id: i64) -> Result<Campaign, QueriesError> {
        self.find(principal, id).await?;
        let now = self.0.context.clock.now();
        self.mark_asked(now).await?;
        self.end(id, CampaignStatus::Cancelled, HostState::Cancelled, now)
            .await?;
        self.find_unchecked(id).await
    }

    /// Everything that was and will be answered, after a position. Any number may listen, leave and come back. It breaks
    /// off when the principal's login ended, or when it may not see the campaign any more.
    pub async fn stream(
        &self,
        principal: &Principal,
        id: i64,
        after: i64,
    ) -> Result<Stream, QueriesError> {
        self.find(principal, id).await?;
        Ok(self.stream_unchecked(id, after).checking(principal.clone()))
    }

    /// Whether a listener may go on.
    pub(crate) async fn readmit(&self, principal: &Principal, id: i64) -> Result<(), QueriesError> {
        let now = match self.0.context.sessions.renew(principal).await {
            Ok(Some(now)) if !now.must_reset_password => now,
            Ok(_) => return Err(QueriesError::NoLonger),
            Err(IdentityError::Store(error)) => return Err(error.into()),
            Err(_) => return Err(QueriesError::NoLonger),
        };
        match self.find(&now, id).await {
            Err(QueriesError::NotFound { .. }) => Err(QueriesError::NoLonger),
            found => found.map(drop),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.context.clock.now()
    }

    pub(crate) fn stream_unchecked(&self, id: i64, after: i64) -> Stream {
        Stream::new(self.clone(), id, after)
    }

    /// The newest position, to wait on; none when the campaign does not run.
    pub(crate) fn newest(&self, id: i64) -> Option<tokio::sync::watch::Receiver<i64>> {
        self.0.live.get(id).map(|active| active.newest.subscribe())
    }

    pub(crate) async fn results_unchecked(
        &self,
        id: i64,
        after: i64,
    ) -> Result<Vec<HostResult>, QueriesError> {
        let mut db = &self.0.context.database;
        Ok(store::results(&mut db, id, after, MAX_RESULTS, MAX_PAGE_BYTES).await?)
    }

    /// Ends the campaign now if all awaited hosts answered, instead of at the next tick: for those who wait.
    pub(crate) async fn settle(&self, id: i64) -> Result<Campaign, QueriesError> {
        let campaign = self.find_unchecked(id).await?;
        if campaign.status == CampaignStatus::Running && campaign.hosts.awaited == 0 {
            self.finish_when_done(id, campaign.wait_for_offline, self.0.context.clock.now())
                .await?;
            return self.find_unchecked(id).await;
        }
        Ok(campaign)
    }

    /// Whether a host owes an answer to a campaign that runs: for tests and for the notification socket.
    pub fn owes(&self, host: HostId) -> bool {
        self.0.live.owes(host)
    }
}

/// The teams on whose hosts somebody may run a saved query: where any SQL is allowed, and, when it is marked for
/// observers, those of whom the query is. A query of one team is what that team's maintainers wrote: elsewhere it counts
/// as any SQL.
fn teams_for(principal: &Principal, query: &SavedQuery) -> TeamFilter {
    let own = principal.teams_for(Action::RunAnyQuery);
    if !query.observer_can_run {
        return own;
    }
    let observed = principal.teams_for(Action::RunSavedQuery);
    match (query.team_id, own) {
        (None, _) => observed,
        (Some(_), TeamFilter::All) => TeamFilter::All,
        (Some(team), TeamFilter::Only(mut own)) => {
            if observed.admits(Some(team)) && !own.contains(&team) {
                own.push(team);
            }
            TeamFilter::Only(own)
        }
    }
}

fn may_see_all(principal: &Principal) -> bool {
    principal.may(Action::RunAnyQuery, Scope::Team(None))
}

fn may_see(principal: &Principal, owner: UserId) -> bool {
    // Who may ask nothing any more sees nothing of what was asked before.
    (principal.user_id == owner && principal.may(Action::RunSavedQuery, Scope::Anywhere))
        || may_see_all(principal)
}

/// Checks SQL as far as a server can: only the host knows its tables.
pub(crate) fn check_sql(sql: &str) -> Result<(), QueriesError> {
    if sql.trim().is_empty() {
        return Err(QueriesError::invalid("query", "must not be empty"));
    }
    if sql.len() > MAX_SQL_BYTES {
        return Err(QueriesError::invalid(
            "query",
            format!("must have at most {MAX_SQL_BYTES} bytes"),
        ));
    }
    if sql.contains('\0') {
        return Err(QueriesError::invalid(
            "query",
            "must not contain a NUL character",
        ));
    }
    Ok(())
}

fn shortened(sql: &str) -> &str {
    &sql[..sql.floor_char_boundary(2_000)]
}
