//! Saved queries, and the schedule that follows from them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use muster_bus::{Received, Topic};
use muster_clock::Timestamp;
use muster_hosts::ScheduleSource;
use muster_http::Problem;
use muster_identity::{
    Action, AuditEntry, IdentityError, Principal, Scope, TeamBelongings, TeamId,
};
use muster_store::{Database, StoreError, Transaction};
use serde_json::{Map, Value, json};

use crate::campaigns::check_sql;
use crate::service::Context;
use crate::store::saved as store;
use crate::{Logging, QueriesError, SavedQuery, SavedQueryChange};

const TOPIC: Topic = Topic::new("queries.saved");
/// The longest name, in characters.
const MAX_NAME_CHARACTERS: usize = 255;
/// The longest description, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 16 * 1024;
/// The longest interval, in seconds: what osquery takes.
const MAX_INTERVAL_SECONDS: u64 = 604_800;
/// What stands in a list of platforms.
const PLATFORMS: [&str; 4] = ["darwin", "linux", "windows", "chrome"];

#[derive(Default)]
struct Schedule {
    /// Packs by team; none for hosts without one. Absent: nothing is scheduled.
    packs: HashMap<Option<TeamId>, Arc<Value>>,
}

struct Inner {
    context: Arc<Context>,
    schedule: RwLock<Schedule>,
    /// Held while the schedule is read: what was read before must not replace what was read later.
    reading: tokio::sync::Mutex<()>,
    version: AtomicU64,
}

/// Saved queries.
#[derive(Clone)]
pub struct SavedQueries(Arc<Inner>);

impl SavedQueries {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self(Arc::new(Inner {
            context,
            schedule: RwLock::default(),
            reading: tokio::sync::Mutex::default(),
            version: AtomicU64::new(0),
        }))
    }

    /// Makes a query.
    pub async fn create(
        &self,
        principal: &Principal,
        team: Option<TeamId>,
        change: SavedQueryChange,
    ) -> Result<SavedQuery, Problem> {
        principal.authorize(Action::WriteQueries, scope(team))?;
        if let Some(id) = team {
            match self.0.context.teams.find(id).await {
                Err(IdentityError::NotFound { what }) => {
                    return Err(Problem::invalid(
                        "team_id",
                        format!("{what} does not exist"),
                    ));
                }
                known => known.map(drop)?,
            }
        }
        let now = self.0.context.clock.now();
        let mut query = SavedQuery {
            id: 0,
            team_id: team,
            name: String::new(),
            description: String::new(),
            query: String::new(),
            interval: 0,
            platform: String::new(),
            min_osquery_version: String::new(),
            automations_enabled: false,
            logging: Logging::Snapshot,
            observer_can_run: false,
            discard_data: false,
            author_id: Some(principal.user_id),
            author_name: principal.name.clone(),
            author_email: principal.email.clone(),
            created_at: now,
            updated_at: now,
        };
        apply(&mut query, change)?;
        Ok(self.insert(principal, query).await?)
    }

    async fn insert(
        &self,
        principal: &Principal,
        mut query: SavedQuery,
    ) -> Result<SavedQuery, QueriesError> {
        let context = &self.0.context;
        let mut transaction = context.database.begin().await?;
        let id = store::insert(&mut transaction, &query).await;
        query.id = id.map_err(|error| QueriesError::naming(&query.name, error))?;
        let entry = AuditEntry::new("created_query", "query", query.id).after(shown(&query));
        self.finish(transaction, principal, entry, query.created_at)
            .await?;
        Ok(query)
    }

    /// Changes a query; what is absent stays.
    pub async fn change(
        &self,
        principal: &Principal,
        id: i64,
        change: SavedQueryChange,
    ) -> Result<SavedQuery, Problem> {
        let context = &self.0.context;
        let mut transaction = self.held(id).await?;
        let before = visible(store::find(&mut transaction, id).await, principal, id)?;
        principal.authorize(Action::WriteQueries, scope(before.team_id))?;
        let mut query = before.clone();
        apply(&mut query, change)?;
        if query == before {
            return Ok(query);
        }
        query.updated_at = context.clock.now();
        let updated = store::update(&mut transaction, &query).await;
        updated.map_err(|error| QueriesError::naming(&query.name, error))?;
        let entry = AuditEntry::new("changed_query", "query", id)
            .before(shown(&before))
            .after(shown(&query));
        self.finish(transaction, principal, entry, query.updated_at)
            .await?;
        Ok(query)
    }

    /// Deletes a query. What was run of it stays.
    pub async fn delete(&self, principal: &Principal, id: i64) -> Result<(), Problem> {
        let mut transaction = self.held(id).await?;
        let query = visible(store::find(&mut transaction, id).await, principal, id)?;
        principal.authorize(Action::WriteQueries, scope(query.team_id))?;
        let deleted = store::delete(&mut transaction, id).await;
        deleted.map_err(QueriesError::from)?;
        let entry = AuditEntry::new("deleted_query", "query", id).before(shown(&query));
        let now = self.0.context.clock.now();
        Ok(self.finish(transaction, principal, entry, now).await?)
    }

    /// A unit of work in which nobody else changes or deletes this query: the whole of it is written, so that two changes
    /// at once would undo each other.
    async fn held(&self, id: i64) -> Result<Transaction, QueriesError> {
        let mut transaction = self.0.context.database.begin().await?;
        transaction.lock(&[format!("queries.saved {id}")]).await?;
        Ok(transaction)
    }

    /// Ends a unit of work with its line in the audit log, and has everybody read the schedule again.
    async fn finish(
        &self,
        mut transaction: Transaction,
        principal: &Principal,
        entry: AuditEntry,
        now: Timestamp,
    ) -> Result<(), QueriesError> {
        let audit = &self.0.context.audit;
        audit
            .record(&mut transaction, &principal.into(), entry, now)
            .await?;
        transaction.commit().await?;
        self.changed().await;
        Ok(())
    }

    /// Makes a query or changes the one of that name: what is absent keeps its value.
    pub async fn apply(
        &self,
        principal: &Principal,
        team: Option<TeamId>,
        name: &str,
        change: SavedQueryChange,
    ) -> Result<SavedQuery, Problem> {
        match self.find_by_name(principal, team, name).await? {
            Some(query) => self.change(principal, query.id, change).await,
            None => self.create(principal, team, change).await,
        }
    }

    /// A query that the principal may see: everybody's, or one of its teams.
    pub async fn find(&self, principal: &Principal, id: i64) -> Result<SavedQuery, QueriesError> {
        let found = store::find(&mut &self.0.context.database, id).await;
        visible(found, principal, id)
    }

    /// The query of that name in a team, or among everybody's.
    pub async fn find_by_name(
        &self,
        principal: &Principal,
        team: Option<TeamId>,
        name: &str,
    ) -> Result<Option<SavedQuery>, QueriesError> {
        let query = store::find_by_name(&mut &self.0.context.database, team, name).await?;
        Ok(query.filter(|query| may_see(principal, query)))
    }

    /// All queries that the principal may see, by name.
    pub async fn list(&self, principal: &Principal) -> Result<Vec<SavedQuery>, QueriesError> {
        let mut queries = store::list(&mut &self.0.context.database).await?;
        queries.retain(|query| may_see(principal, query));
        Ok(queries)
    }

    /// The change is kept: what fails from here on is no reason to say otherwise, and the next look makes up for it.
    async fn changed(&self) {
        self.look_again().await;
        self.0.context.hint(TOPIC, "").await;
    }

    async fn look_again(&self) {
        if let Err(error) = self.reload().await {
            let error = muster_http::error_chain(&error);
            tracing::warn!(
                error,
                "the schedule could not be read; the former one stays until the next look"
            );
        }
    }

    pub(crate) async fn follow(&self, received: &Received) {
        if !matches!(received, Received::Hint(hint) if hint.topic != TOPIC) {
            self.look_again().await;
        }
    }

    /// Reads the schedule into memory.
    pub(crate) async fn reload(&self) -> Result<(), StoreError> {
        let _reading = self.0.reading.lock().await;
        let queries = store::list(&mut &self.0.context.database).await?;
        let schedule = Schedule {
            packs: packs(&queries),
        };
        let mut current = self
            .0
            .schedule
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if current.packs != schedule.packs {
            *current = schedule;
            self.0.version.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }
}

fn visible(
    found: Result<Option<SavedQuery>, StoreError>,
    principal: &Principal,
    id: i64,
) -> Result<SavedQuery, QueriesError> {
    found?
        .filter(|query| may_see(principal, query))
        .ok_or_else(|| QueriesError::not_found("query", id))
}

/// Saved queries of a team that is deleted go with it; what was run of them stays.
#[async_trait]
impl TeamBelongings for SavedQueries {
    fn kind(&self) -> &'static str {
        "saved_queries"
    }

    async fn owners(&self, database: &Database) -> Result<Vec<TeamId>, StoreError> {
        store::teams(&mut &*database).await
    }

    async fn release(
        &self,
        db: &mut Transaction,
        team: TeamId,
        _: Timestamp,
    ) -> Result<u64, StoreError> {
        store::delete_of_team(db, team).await
    }

    async fn released(&self) {
        self.0.context.hint(TOPIC, "").await;
    }
}

impl ScheduleSource for SavedQueries {
    fn packs(&self, team: Option<TeamId>) -> Option<Arc<Value>> {
        let schedule = self
            .0
            .schedule
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        schedule
            .packs
            .get(&team)
            .or_else(|| schedule.packs.get(&None))
            .cloned()
    }

    fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }
}

/// The packs of hosts without a team, and of each team that has queries of its own.
fn packs(queries: &[SavedQuery]) -> HashMap<Option<TeamId>, Arc<Value>> {
    let mut by_team: HashMap<Option<TeamId>, Map<String, Value>> = HashMap::new();
    for query in queries.iter().filter(|query| is_scheduled(query)) {
        let entry = by_team.entry(query.team_id).or_default();
        entry.insert(query.name.clone(), scheduled(query));
    }
    let global = by_team.remove(&None);
    let mut packs = HashMap::new();
    if let Some(queries) = &global {
        packs.insert(None, Arc::new(json!({ "Global": { "queries": queries } })));
    }
    for (team, queries) in by_team {
        let mut members = Map::new();
        if let Some(global) = &global {
            members.insert("Global".to_owned(), json!({ "queries": global }));
        }
        let id = team.map(|team| team.0).unwrap_or_default();
        members.insert(format!("team-{id}"), json!({ "queries": queries }));
        packs.insert(team, Arc::new(Value::Object(members)));
    }
    packs
}

/// A query runs by itself when it has an interval and somebody wants its results: the log destination, or the server.
fn is_scheduled(query: &SavedQuery) -> bool {
    let kept = query.logging == Logging::Snapshot && !query.discard_data;
    query.interval > 0 && (query.automations_enabled || kept)
}

/// As osquery's configuration has it: `snapshot` or `removed`, never both.
fn scheduled(query: &SavedQuery) -> Value {
    let mut members = json!({
        "query": query.query,
        "interval": query.interval,
        "platform": query.platform,
        "version": query.min_osquery_version,
    });
    match query.logging {
        Logging::Snapshot => members["snapshot"] = true.into(),
        Logging::Differential => members["removed"] = true.into(),
        Logging::DifferentialIgnoreRemovals => members["removed"] = false.into(),
    }
    members
}

fn scope(team: Option<TeamId>) -> Scope {
    team.map_or(Scope::Team(None), |team| Scope::Team(Some(team)))
}

fn may_see(principal: &Principal, query: &SavedQuery) -> bool {
    match query.team_id {
        None => principal.may(Action::ReadQueries, Scope::Global),
        team => principal.may(Action::ReadQueries, Scope::Team(team)),
    }
}

fn shown(query: &SavedQuery) -> Value {
    json!({
        "name": query.name, "query": query.query, "team_id": query.team_id, "interval": query.interval,
        "observer_can_run": query.observer_can_run, "automations_enabled": query.automations_enabled,
    })
}

fn apply(query: &mut SavedQuery, change: SavedQueryChange) -> Result<(), QueriesError> {
    if let Some(name) = change.name {
        name.trim().clone_into(&mut query.name);
    }
    let characters = query.name.chars().count();
    if characters == 0 || characters > MAX_NAME_CHARACTERS {
        let reason = format!("must have from 1 to {MAX_NAME_CHARACTERS} characters");
        return Err(QueriesError::invalid("name", reason));
    }
    if let Some(sql) = change.query {
        query.query = sql;
    }
    check_sql(&query.query)?;
    query.description = change
        .description
        .unwrap_or_else(|| query.description.clone());
    if query.description.len() > MAX_DESCRIPTION_BYTES {
        let reason = format!("must have at most {MAX_DESCRIPTION_BYTES} bytes");
        return Err(QueriesError::invalid("description", reason));
    }
    query.interval = change.interval.unwrap_or(query.interval);
    if query.interval > MAX_INTERVAL_SECONDS {
        let reason = format!("must be at most {MAX_INTERVAL_SECONDS} seconds, a week");
        return Err(QueriesError::invalid("interval", reason));
    }
    if let Some(platform) = change.platform {
        let named = platform
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        if let Some(unknown) = named.clone().find(|name| !PLATFORMS.contains(name)) {
            let reason = format!("{unknown:?} is not among {}", PLATFORMS.join(", "));
            return Err(QueriesError::invalid("platform", reason));
        }
        query.platform = named.collect::<Vec<_>>().join(",");
    }
    if let Some(logging) = change.logging {
        let known = "must be snapshot, differential or differential_ignore_removals";
        query.logging =
            Logging::parse(&logging).ok_or_else(|| QueriesError::invalid("logging", known))?;
    }
    query.min_osquery_version = change
        .min_osquery_version
        .unwrap_or_else(|| query.min_osquery_version.clone());
    query.automations_enabled = change
        .automations_enabled
        .unwrap_or(query.automations_enabled);
    query.observer_can_run = change.observer_can_run.unwrap_or(query.observer_can_run);
    query.discard_data = change.discard_data.unwrap_or(query.discard_data);
    Ok(())
}
