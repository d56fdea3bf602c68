//! What operators do about settings of own telemetry.

use std::collections::BTreeMap;

use muster_clock::Timestamp;
use muster_http::Problem;
use muster_identity::{Action, Actor, AuditEntry, IdentityError, Principal, Scope, TeamId};
use muster_store::{StoreError, Transaction};
use serde_json::{Value, json};

use super::{Destination, MAX_SETTINGS, OwnTelemetry, Signal, TELEMETRY_TOPIC, sealed_for};
use crate::configurations::precedence::Claim;
use crate::configurations::selector::Selector;
use crate::masking::MASK;
use crate::record::{Progress, Record};
use crate::values::{hex, text_of};
use crate::{Collectors, OperatorError, store};

/// The most characters of a name.
const MAX_NAME_CHARACTERS: usize = 100;
/// The highest priority; the lowest is the same below zero.
const MAX_PRIORITY: i64 = 1_000_000;

/// How settings are to be.
#[derive(Debug, Clone)]
pub(crate) struct TelemetryWish {
    pub(crate) name: String,
    pub(crate) team_id: Option<TeamId>,
    pub(crate) selector: String,
    pub(crate) priority: i64,
    /// Where a header is the mask the value of before is meant.
    pub(crate) destinations: BTreeMap<Signal, Destination>,
}

/// How far a collector is with its own telemetry.
pub(crate) struct TelemetryState {
    /// The settings that are for it, or, when there are none any more, those that it was offered.
    pub(crate) settings: String,
    /// Their id, when they are for it.
    pub(crate) settings_id: Option<i64>,
    pub(crate) signals: Vec<Signal>,
    pub(crate) status: &'static str,
    pub(crate) error: String,
    pub(crate) offered_at: Option<Timestamp>,
}

fn invalid(field: &'static str, reason: impl Into<String>) -> OperatorError {
    OperatorError::Invalid {
        field,
        reason: reason.into(),
    }
}

fn unknown(id: i64) -> Problem {
    Problem::not_found(format_args!("setting of own telemetry {id}"))
}

/// Where reading something of a team, or of all, has to be allowed.
fn read_scope(team: Option<TeamId>) -> Scope {
    team.map_or(Scope::Global, |team| Scope::Team(Some(team)))
}

/// What the log of changes keeps: never the value of a header.
fn shown(settings: &OwnTelemetry) -> Value {
    let destinations = settings.destinations.iter();
    let destinations = destinations.map(|(signal, destination)| {
        let headers: Vec<&String> = destination.headers.keys().collect();
        let shown = json!({ "endpoint": destination.endpoint, "headers": headers });
        (signal.name().to_owned(), shown)
    });
    json!({
        "name": settings.name,
        "team_id": settings.claim.team_id,
        "selector": settings.claim.selector.to_string(),
        "priority": settings.claim.priority,
        "destinations": Value::Object(destinations.collect()),
    })
}

impl TelemetryWish {
    /// Checks what is wished, and fills in what stays as it was.
    fn checked(
        mut self,
        before: Option<&OwnTelemetry>,
    ) -> Result<(String, Selector, BTreeMap<Signal, Destination>), OperatorError> {
        let name = self.name.trim().to_owned();
        let characters = name.chars().count();
        if characters == 0 || characters > MAX_NAME_CHARACTERS || name.chars().any(char::is_control)
        {
            let reason = format!(
                "must have from 1 to {MAX_NAME_CHARACTERS} characters, and no control characters"
            );
            return Err(invalid("name", reason));
        }
        let selector = Selector::parse(&self.selector);
        let selector = selector.map_err(|error| invalid("selector", error.to_string()))?;
        if self.priority.abs() > MAX_PRIORITY {
            let reason = format!("must be from -{MAX_PRIORITY} to {MAX_PRIORITY}");
            return Err(invalid("priority", reason));
        }
        if self.destinations.is_empty() {
            return Err(invalid(
                "metrics",
                "name where metrics, traces or logs are sent",
            ));
        }
        for (signal, destination) in &mut self.destinations {
            let known = before.and_then(|before| before.destinations.get(signal));
            for (header, value) in &mut destination.headers {
                if value != MASK {
                    continue;
                }
                let kept = known.and_then(|known| known.headers.get(header));
                let reason =
                    format!("the header {header} has the mask for a value, and had none before");
                *value = kept
                    .cloned()
                    .ok_or_else(|| invalid(signal.name(), reason))?;
            }
            let checked = destination.check();
            checked.map_err(|reason| invalid(signal.name(), reason))?;
        }
        Ok((name, selector, self.destinations))
    }
}

impl Collectors {
    /// All settings that the principal may see, those that count most first.
    pub(crate) async fn list_telemetry(
        &self,
        principal: &Principal,
    ) -> Result<Vec<OwnTelemetry>, Problem> {
        principal.authorize(Action::ReadCollectorConfigs, Scope::Anywhere)?;
        let rows = store::telemetry::list(&mut self.database()).await?;
        let rows = rows
            .into_iter()
            .filter(|row| principal.may(Action::ReadCollectorConfigs, read_scope(row.team_id)));
        let opened: Result<Vec<_>, StoreError> =
            rows.map(|row| row.open(self.identity())).collect();
        Ok(opened?)
    }

    /// Settings that the principal may see.
    pub(crate) async fn find_telemetry(
        &self,
        principal: &Principal,
        id: i64,
    ) -> Result<OwnTelemetry, Problem> {
        let row = store::telemetry::find(&mut self.database(), id).await?;
        let row =
            row.filter(|row| principal.may(Action::ReadCollectorConfigs, read_scope(row.team_id)));
        Ok(row.ok_or_else(|| unknown(id))?.open(self.identity())?)
    }

    fn new_hash(&self) -> String {
        let mut random = [0; 16];
        self.randomness().fill(&mut random);
        hex(&random)
    }

    fn sealed(&self, settings: &OwnTelemetry) -> Result<Vec<u8>, StoreError> {
        let text = serde_json::to_string(&settings.destinations);
        let text = text.map_err(|error| {
            StoreError::corrupt("write settings of own telemetry", error.to_string())
        })?;
        let context = sealed_for(&settings.hash);
        Ok(self.identity().seal_secret(&text, &context))
    }

    async fn names_are_free(
        db: &mut Transaction,
        settings: &OwnTelemetry,
    ) -> Result<usize, OperatorError> {
        let all = store::telemetry::list(db).await?;
        let is_taken = all.iter().any(|row| {
            row.name == settings.name
                && row.team_id == settings.claim.team_id
                && row.id != settings.claim.id
        });
        if is_taken {
            return Err(OperatorError::Conflict(
                "there are settings of this name already",
            ));
        }
        let of_scope = all
            .iter()
            .filter(|row| row.team_id == settings.claim.team_id);
        Ok(of_scope.count())
    }

    async fn audit_telemetry(
        &self,
        db: &mut Transaction,
        principal: &Principal,
        entry: AuditEntry,
    ) -> Result<(), StoreError> {
        let actor = Actor::from(principal);
        self.identity()
            .audit
            .record(db, &actor, entry, self.now())
            .await
    }

    /// Makes settings.
    pub(crate) async fn create_telemetry(
        &self,
        principal: &Principal,
        wish: TelemetryWish,
    ) -> Result<OwnTelemetry, Problem> {
        principal.authorize(Action::WriteCollectorConfigs, Scope::Team(wish.team_id))?;
        if let Some(team) = wish.team_id {
            let found = self.identity().teams.find(team).await;
            found.map_err(|error| match error {
                IdentityError::NotFound { .. } => {
                    Problem::invalid("team_id", "there is no such team")
                }
                error => error.into(),
            })?;
        }
        let (team_id, priority, now) = (wish.team_id, wish.priority, self.now());
        let (name, selector, destinations) = wish.checked(None)?;
        let mut settings = OwnTelemetry {
            claim: Claim {
                id: 0,
                team_id,
                priority,
                selector,
            },
            name,
            destinations,
            hash: self.new_hash(),
            created_at: now,
            updated_at: now,
        };
        let done = async {
            let mut db = self.database().begin().await?;
            db.lock(&["collectors.telemetry".to_owned()]).await?;
            if Self::names_are_free(&mut db, &settings).await? >= MAX_SETTINGS {
                return Err(OperatorError::Conflict(match team_id {
                    Some(_) => {
                        "the team has 200 settings of own telemetry, and can have no more; delete some"
                    }
                    None => {
                        "there are 200 settings of own telemetry without a team, and there can be no more; delete some"
                    }
                }));
            }
            let sealed = self.sealed(&settings)?;
            let id = store::telemetry::insert(&mut db, &settings, &sealed).await?;
            settings.claim.id = id;
            let entry = AuditEntry::new("created_collector_telemetry", "collector_telemetry", id)
                .after(shown(&settings));
            self.audit_telemetry(&mut db, principal, entry).await?;
            db.commit().await?;
            Ok(())
        };
        let done: Result<(), OperatorError> = done.await;
        self.telemetry_changed().await;
        done?;
        Ok(settings)
    }

    /// Changes settings to what is wished, as a whole.
    pub(crate) async fn change_telemetry(
        &self,
        principal: &Principal,
        id: i64,
        wish: TelemetryWish,
    ) -> Result<OwnTelemetry, Problem> {
        let seen = self.find_telemetry(principal, id).await?;
        let team = seen.claim.team_id;
        principal.authorize(Action::WriteCollectorConfigs, Scope::Team(team))?;
        if wish.team_id.is_some() && wish.team_id != team {
            let reason = "cannot change; make settings of the other team, and delete these";
            return Err(Problem::invalid("team_id", reason));
        }
        let done = async {
            let mut db = self.database().begin().await?;
            db.lock(&["collectors.telemetry".to_owned()]).await?;
            let row = store::telemetry::find(&mut db, id).await?;
            let Some(row) = row else {
                return Ok(None);
            };
            let before = row.open(self.identity())?;
            let priority = wish.priority;
            let (name, selector, destinations) = wish.checked(Some(&before))?;
            let mut after = before.clone();
            after.name = name;
            after.claim.selector = selector;
            after.claim.priority = priority;
            if after.destinations != destinations {
                after.destinations = destinations;
                // Another hash is another offer.
                after.hash = self.new_hash();
            }
            if after == before {
                return Ok(Some(before));
            }
            after.updated_at = self.now();
            Self::names_are_free(&mut db, &after).await?;
            let sealed = self.sealed(&after)?;
            store::telemetry::update(&mut db, &after, &sealed).await?;
            let entry = AuditEntry::new("changed_collector_telemetry", "collector_telemetry", id)
                .before(shown(&before))
                .after(shown(&after));
            self.audit_telemetry(&mut db, principal, entry).await?;
            db.commit().await?;
            Ok(Some(after))
        };
        let done: Result<Option<OwnTelemetry>, OperatorError> = done.await;
        self.telemetry_changed().await;
        done?.ok_or_else(|| unknown(id))
    }

    /// Deletes settings. Agents keep what they were offered: the protocol has no word for an end.
    pub(crate) async fn delete_telemetry(
        &self,
        principal: &Principal,
        id: i64,
    ) -> Result<(), Problem> {
        let seen = self.find_telemetry(principal, id).await?;
        let team = seen.claim.team_id;
        principal.authorize(Action::WriteCollectorConfigs, Scope::Team(team))?;
        let done = async {
            let mut db = self.database().begin().await?;
            if store::telemetry::delete(&mut db, id).await? {
                let entry =
                    AuditEntry::new("deleted_collector_telemetry", "collector_telemetry", id)
                        .before(shown(&seen));
                self.audit_telemetry(&mut db, principal, entry).await?;
            }
            db.commit().await
        };
        let done: Result<(), StoreError> = done.await;
        self.telemetry_changed().await;
        Ok(done?)
    }

    /// Reads settings again on every replica, this one at once.
    async fn telemetry_changed(&self) {
        if let Err(error) = self.reload_telemetry().await {
            tracing::warn!(
                error = muster_http::error_chain(&error),
                "settings of own telemetry could not be read again; it is tried again"
            );
        }
        self.hint(TELEMETRY_TOPIC, "").await;
    }

    /// How far a collector is with its own telemetry; none when nothing was ever set for it.
    pub(crate) fn telemetry_state(
        &self,
        record: &Record,
        description: Option<&Value>,
    ) -> Option<TelemetryState> {
        let attributes = attributes(description);
        let desired = self
            .telemetry()
            .settings_for(record.durable.team_id, &attributes);
        let sent = record.durable.telemetry.as_ref();
        let offered_at = sent.map(|sent| sent.at);
        let Some(desired) = desired else {
            return sent.map(|sent| TelemetryState {
                settings: sent.settings.clone(),
                settings_id: None,
                signals: Vec::new(),
                status: "left_alone",
                error: String::new(),
                offered_at,
            });
        };
        let signals = desired.signals(record.durable.capabilities);
        let hash = desired.offer_hash(&signals);
        let mut error = String::new();
        let status = match sent.filter(|sent| sent.hash == hash) {
            _ if signals.is_empty() => "cannot",
            None => "waiting",
            Some(_) => {
                let said = record.durable.settings.as_ref();
                match said.filter(|said| said.hash == hash) {
                    Some(said) if said.progress != Progress::Unset => {
                        error.clone_from(&said.error);
                        said.progress.name()
                    }
                    _ => "offered",
                }
            }
        };
        Some(TelemetryState {
            settings: desired.name.clone(),
            settings_id: Some(desired.claim.id),
            signals,
            status,
            error,
            offered_at,
        })
    }
}

/// All attributes of a description; of a name that is in both, the identifying one counts.
fn attributes(description: Option<&Value>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for kind in ["non_identifying", "identifying"] {
        let attributes = description.and_then(|all| all.get(kind)?.as_object());
        for (name, value) in attributes.into_iter().flatten() {
            all.insert(name.clone(), text_of(value));
        }
    }
    all
}
