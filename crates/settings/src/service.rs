//! The rules: what is in force, and how it is changed.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use muster_bus::{Bus, Hint, Received, Topic};
use muster_clock::{Clock, Timestamp};
use muster_hosts::{AgentOptions, OptionsSource};
use muster_http::error_chain;
use muster_identity::{
    Action, Actor, Audit, AuditEntry, Identity, IdentityError, Principal, Scope, Team,
    TeamBelongings, TeamId, Teams,
};
use muster_store::{Database, Executor, StoreError};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::belongings::TeamDocuments;
use crate::store::{self, Document};
use crate::{
    Organisation, SettingsError, Strictness, TeamExpiry, check_agent_options,
    default_agent_options, parse_agent_options,
};

/// Some document changed.
pub const DOCUMENTS_TOPIC: Topic = Topic::new("settings.documents");

/// How often the documents are read again, in case a hint was lost.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(60);
/// How often a change is made anew when others were first.
const MAX_ATTEMPTS: u32 = 20;

const ORGANISATION: &str = "organisation";
const AGENT_OPTIONS: &str = "agent_options";
const HOST_EXPIRY: &str = "host_expiry";
/// What concerns everybody is kept under this team.
const EVERYBODY: i64 = 0;

/// The documents that concern everybody.
#[derive(Debug, Clone, PartialEq)]
pub struct Documents {
    /// The organisation.
    pub organisation: Organisation,
    /// The options of hosts whose team has none of its own.
    pub agent_options: Value,
}

impl Default for Documents {
    fn default() -> Self {
        Self {
            organisation: Organisation::default(),
            agent_options: default_agent_options(),
        }
    }
}

/// Everything that is in force.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The documents that concern everybody.
    pub documents: Documents,
    /// The options of teams that have their own, as they were written.
    pub team_documents: HashMap<TeamId, Value>,
    /// The options of hosts whose team has none.
    pub agent_options: Arc<AgentOptions>,
    /// The options of teams that have their own.
    pub team_agent_options: HashMap<TeamId, Arc<AgentOptions>>,
    /// When hosts of teams are deleted that stay away, where teams have a rule of their own.
    pub team_expiry: HashMap<TeamId, TeamExpiry>,
    /// Changes with every change.
    pub version: u64,
}

/// What teams have of their own.
#[derive(Default)]
struct OfTeams {
    options: HashMap<TeamId, Value>,
    expiry: HashMap<TeamId, TeamExpiry>,
}

impl Settings {
    fn new(documents: Documents, teams: OfTeams, version: u64) -> Self {
        let team_documents = teams.options;
        let parsed = |options: &Value| Arc::new(parse_agent_options(options));
        Self {
            agent_options: parsed(&documents.agent_options),
            team_agent_options: team_documents
                .iter()
                .map(|(team, options)| (*team, parsed(options)))
                .collect(),
            documents,
            team_documents,
            team_expiry: teams.expiry,
            version,
        }
    }
}

/// The settings. Cheap to clone.
#[derive(Clone)]
pub struct SettingsService(Arc<Inner>);

struct Inner {
    database: Database,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    teams: Teams,
    audit: Audit,
    /// The address that the server was started with.
    server_url: String,
    current: RwLock<Arc<Settings>>,
    /// Held while they are read: what was read before must not replace what was read later.
    reading: tokio::sync::Mutex<()>,
}

impl SettingsService {
    /// The defaults are in force until [`reload`](Self::reload) has read what is kept.
    pub fn new(
        database: Database,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        identity: &Identity,
        server_url: impl Into<String>,
    ) -> Self {
        let settings = Settings::new(Documents::default(), OfTeams::default(), 0);
        Self(Arc::new(Inner {
            database,
            bus,
            clock,
            teams: identity.teams.clone(),
            audit: identity.audit.clone(),
            server_url: server_url.into(),
            current: RwLock::new(Arc::new(settings)),
            reading: tokio::sync::Mutex::default(),
        }))
    }

    /// What teams have here, to be attached to them.
    pub fn belongings(&self) -> Arc<dyn TeamBelongings> {
        Arc::new(TeamDocuments {
            bus: Arc::clone(&self.0.bus),
        })
    }

    /// What is in force. Memory only.
    pub fn current(&self) -> Arc<Settings> {
        let current = self.0.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// Under which address agents and people reach the server.
    pub fn server_url(&self) -> String {
        let current = self.current();
        let own = &current.documents.organisation.server_url;
        if own.is_empty() {
            self.0.server_url.clone()
        } else {
            own.clone()
        }
    }

    /// Reads what is kept.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let _reading = self.0.reading.lock().await;
        let list = store::list(&mut &self.0.database).await?;
        let mut documents = Documents::default();
        let mut teams = OfTeams::default();
        for document in list {
            match (document.name.as_str(), document.team_id) {
                (ORGANISATION, EVERYBODY) => {
                    documents.organisation = read_organisation(document.body)?;
                }
                (AGENT_OPTIONS, EVERYBODY) => documents.agent_options = document.body,
                // A team that takes its options back leaves `null`, so that versions never begin anew.
                (AGENT_OPTIONS, team) if !document.body.is_null() => {
                    teams.options.insert(TeamId(team), document.body);
                }
                (HOST_EXPIRY, team) if !document.body.is_null() => {
                    teams
                        .expiry
                        .insert(TeamId(team), read_expiry(document.body)?);
                }
                // From a newer release.
                _ => {}
            }
        }
        let mut current = self
            .0
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if current.documents != documents
            || current.team_documents != teams.options
            || current.team_expiry != teams.expiry
        {
            let version = current.version + 1;
            *current = Arc::new(Settings::new(documents, teams, version));
        }
        Ok(())
    }

    /// Follows hints until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut hints = self.0.bus.subscribe();
        let mut timer = tokio::time::interval(RECONCILE_INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                hint = hints.next() => match hint {
                    Some(Received::Hint(hint)) if hint.topic != DOCUMENTS_TOPIC => continue,
                    Some(_) => {}
                    None => return,
                },
                _ = timer.tick() => {}
            }
            if let Err(error) = self.reload().await {
                tracing::warn!(
                    error = error_chain(&error),
                    "could not read the settings; those that were read stay in force"
                );
            }
        }
    }

    /// Changes what concerns everybody. `change` gets what is kept now and gives what shall be kept; it runs again when
    /// somebody else was first, so that neither change is lost. A dry run only looks whether it could be kept.
    pub async fn change(
        &self,
        actor: &Actor,
        strictness: Strictness,
        dry_run: bool,
        change: impl Fn(&Documents) -> Result<Documents, SettingsError> + Send,
    ) -> Result<Documents, SettingsError> {
        for _ in 0..MAX_ATTEMPTS {
            let mut transaction = self.0.database.begin().await?;
            let organisation = store::find(&mut transaction, ORGANISATION, EVERYBODY).await?;
            let options = store::find(&mut transaction, AGENT_OPTIONS, EVERYBODY).await?;
            let versions = [version(organisation.as_ref()), version(options.as_ref())];
            let mut before = Documents::default();
            if let Some(document) = organisation {
                before.organisation = read_organisation(document.body)?;
            }
            if let Some(document) = options {
                before.agent_options = document.body;
            }
            let after = change(&before)?;
            after.organisation.check()?;
            if after.agent_options != before.agent_options {
                check_agent_options(&after.agent_options, strictness)?;
            }
            if dry_run || after == before {
                return Ok(after);
            }
            let as_value = |organisation: &Organisation| {
                serde_json::to_value(organisation)
                    .map_err(|error| SettingsError::Malformed(error.to_string()))
            };
            let pairs = [
                (
                    ORGANISATION,
                    "edited_settings",
                    as_value(&before.organisation)?,
                    as_value(&after.organisation)?,
                ),
                (
                    AGENT_OPTIONS,
                    "edited_agent_options",
                    before.agent_options,
                    after.agent_options.clone(),
                ),
            ];
            let mut is_first = true;
            for ((name, action, old, new), version) in pairs.into_iter().zip(versions) {
                if old == new {
                    continue;
                }
                is_first &= self
                    .save(
                        &mut transaction,
                        actor,
                        (name, action),
                        EVERYBODY,
                        (old, new),
                        version,
                    )
                    .await?;
            }
            if is_first {
                transaction.commit().await?;
                self.changed().await;
                return Ok(after);
            }
        }
        Err(SettingsError::Contended)
    }

    /// Sets the options of a team; none takes its own back, so that everybody's are in force.
    pub async fn set_team_agent_options(
        &self,
        actor: &Actor,
        team: TeamId,
        options: Option<Value>,
        strictness: Strictness,
        dry_run: bool,
    ) -> Result<(), SettingsError> {
        self.0.teams.find(team).await?;
        let options = options.unwrap_or(Value::Null);
        if !options.is_null() && !self.is_kept_for(team, &options) {
            check_agent_options(&options, strictness)?;
        }
        if dry_run {
            return Ok(());
        }
        let names = (AGENT_OPTIONS, "edited_agent_options");
        self.set_of_team(actor, team, names, options).await
    }

    /// Whether a team has these options already: what was kept may be written again, whatever is known of it now.
    pub(crate) fn is_kept_for(&self, team: TeamId, options: &Value) -> bool {
        self.current().team_documents.get(&team) == Some(options)
    }

    /// Sets after how many days hosts of a team are deleted that stay away; none: the rule for all holds.
    pub async fn set_team_expiry(
        &self,
        actor: &Actor,
        team: TeamId,
        rule: Option<TeamExpiry>,
    ) -> Result<(), SettingsError> {
        self.0.teams.find(team).await?;
        rule.unwrap_or_default().check()?;
        // Documents that say nothing of it say that it is off.
        let rule = rule.filter(|rule| *rule != TeamExpiry::default());
        let body = rule.map_or(Value::Null, |rule| json!(rule));
        let names = (HOST_EXPIRY, "edited_host_expiry");
        self.set_of_team(actor, team, names, body).await
    }

    async fn set_of_team(
        &self,
        actor: &Actor,
        team: TeamId,
        names: (&'static str, &'static str),
        body: Value,
    ) -> Result<(), SettingsError> {
        for _ in 0..MAX_ATTEMPTS {
            let mut transaction = self.0.database.begin().await?;
            let before = store::find(&mut transaction, names.0, team.0).await?;
            let old_version = version(before.as_ref());
            let old = before.map_or(Value::Null, |document| document.body);
            if old == body {
                return Ok(());
            }
            let bodies = (old, body.clone());
            let is_first = self
                .save(&mut transaction, actor, names, team.0, bodies, old_version)
                .await?;
            if is_first {
                transaction.commit().await?;
                self.changed().await;
                return Ok(());
            }
        }
        Err(SettingsError::Contended)
    }

    /// A team that somebody may see; for anybody else it does not exist.
    pub(crate) async fn visible_team(
        &self,
        principal: &Principal,
        id: TeamId,
    ) -> Result<Team, SettingsError> {
        let team = self.0.teams.find(id).await?;
        if principal.may(Action::ReadTeams, Scope::Team(Some(id))) {
            return Ok(team);
        }
        Err(SettingsError::Team(IdentityError::NotFound {
            what: format!("team {id}"),
        }))
    }

    /// The time, as answers tell it.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Keeps one document and who changed it; false: somebody was first.
    async fn save(
        &self,
        db: &mut impl Executor,
        actor: &Actor,
        (name, action): (&'static str, &'static str),
        team: i64,
        (old, new): (Value, Value),
        version: i64,
    ) -> Result<bool, StoreError> {
        let now = self.now();
        if !store::save(db, name, team, &new, version, now).await? {
            return Ok(false);
        }
        let subject = if team == EVERYBODY {
            "settings"
        } else {
            "team"
        };
        let entry = AuditEntry::new(action, subject, team)
            .before(json!({ name: old }))
            .after(json!({ name: new }));
        self.0.audit.record(db, actor, entry, now).await?;
        Ok(true)
    }

    /// Everybody reads anew: this replica at once, so that whoever changed something sees it, the others by the hint.
    async fn changed(&self) {
        if let Err(error) = self.reload().await {
            tracing::warn!(
                error = error_chain(&error),
                "could not read changed settings yet"
            );
        }
        if let Err(error) = self.0.bus.publish(Hint::new(DOCUMENTS_TOPIC, "")).await {
            tracing::warn!(error = error_chain(&error), "could not publish a hint");
        }
    }
}

fn version(document: Option<&Document>) -> i64 {
    document.map_or(0, |document| document.version)
}

fn read_organisation(body: Value) -> Result<Organisation, StoreError> {
    serde_json::from_value(body)
        .map_err(|error| StoreError::corrupt("read the organisation", error.to_string()))
}

fn read_expiry(body: Value) -> Result<TeamExpiry, StoreError> {
    serde_json::from_value(body)
        .map_err(|error| StoreError::corrupt("read when hosts are deleted", error.to_string()))
}

impl OptionsSource for SettingsService {
    fn global(&self) -> Arc<AgentOptions> {
        Arc::clone(&self.current().agent_options)
    }

    fn of_team(&self, team: TeamId) -> Option<Arc<AgentOptions>> {
        self.current().team_agent_options.get(&team).cloned()
    }

    fn version(&self) -> u64 {
        self.current().version
    }

    fn organisation(&self) -> Value {
        let current = self.current();
        let organisation = &current.documents.organisation;
        json!({
            "org_name": organisation.name,
            "org_logo_url": organisation.logo_url,
            "org_logo_url_light_background": organisation.logo_url_light_background,
            "contact_url": organisation.contact_url,
        })
    }

    fn transparency_url(&self) -> Option<String> {
        let current = self.current();
        let url = &current.documents.organisation.transparency_url;
        Some(url.clone()).filter(|url| !url.is_empty())
    }

    fn collects_software(&self) -> bool {
        self.current().documents.organisation.collect_software
    }
}
