//! Who changed what: every change by a person or a program, kept in the same unit of work as the change itself.

use std::sync::Arc;
use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::{Listing, Page};
use muster_store::{Executor, StoreError};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::collector_keys::AGENTS_ACTIONS;
use crate::denials::ACTIONS;
use crate::service::Context;
use crate::store::audit as store;
use crate::{Principal, UserId};

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Actor {
    /// `user`, `system` (the server itself, or its command line), `setup` (whoever held the setup link), `agent`, or
    /// `unknown` (whoever showed nothing that proves who it is).
    pub kind: &'static str,
    /// The user, when it is one.
    pub user_id: Option<UserId>,
    /// The name to show, kept since users come and go.
    pub name: String,
    /// The user's address.
    pub email: String,
    /// Where it acted from; empty for the system.
    pub address: String,
}

impl Actor {
    /// The server itself, or its command line.
    pub fn system() -> Self {
        Self {
            kind: "system",
            user_id: None,
            name: "system".into(),
            email: String::new(),
            address: String::new(),
        }
    }

    /// Whoever showed nothing that proves who it is.
    pub fn unknown(address: impl ToString) -> Self {
        Self {
            kind: "unknown",
            user_id: None,
            name: String::new(),
            email: String::new(),
            address: address.to_string(),
        }
    }

    /// An agent.
    pub fn agent(address: impl ToString) -> Self {
        Self {
            kind: "agent",
            ..Self::unknown(address)
        }
    }

    /// Whoever held the setup link.
    pub fn setup(address: impl ToString) -> Self {
        Self {
            kind: "setup",
            user_id: None,
            name: "setup".into(),
            email: String::new(),
            address: address.to_string(),
        }
    }
}

impl From<&Principal> for Actor {
    fn from(principal: &Principal) -> Self {
        Self {
            kind: "user",
            user_id: Some(principal.user_id),
            name: principal.name.clone(),
            email: principal.email.clone(),
            address: principal.address.to_string(),
        }
    }
}

/// A change to be kept. Never put a secret into `before` or `after`.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// What was done, `<verb>_<kind>`: `created_team`, `revoked_enrollment_token`.
    pub action: &'static str,
    /// To what kind of thing.
    pub subject_kind: &'static str,
    /// To which one.
    pub subject_id: String,
    /// How it was.
    pub before: Option<Value>,
    /// How it is now, or details of what was done.
    pub after: Option<Value>,
}

impl AuditEntry {
    /// An entry without before and after.
    pub fn new(
        action: &'static str,
        subject_kind: &'static str,
        subject_id: impl ToString,
    ) -> Self {
        Self {
            action,
            subject_kind,
            subject_id: subject_id.to_string(),
            before: None,
            after: None,
        }
    }

    /// With how it was.
    pub fn before(mut self, value: Value) -> Self {
        self.before = Some(value);
        self
    }

    /// With how it is now.
    pub fn after(mut self, value: Value) -> Self {
        self.after = Some(value);
        self
    }
}

/// A change that was kept.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AuditRecord {
    /// Counts up.
    pub id: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `user`, `system`, `setup`, `agent` or `unknown`.
    pub actor_kind: String,
    /// The user, when it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor_id: Option<UserId>,
    /// The actor's name at that time.
    pub actor_name: String,
    /// The actor's address at that time.
    pub actor_email: String,
    /// Where it acted from.
    pub address: String,
    /// What was done.
    pub action: String,
    /// To what kind of thing.
    pub subject_kind: String,
    /// To which one.
    pub subject_id: String,
    /// How it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// How it became.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// Narrows down a list of changes.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only this action.
    pub action: Option<String>,
    /// Only this kind of subject.
    pub subject_kind: Option<String>,
    /// Only this subject.
    pub subject_id: Option<String>,
    /// Only what this user did.
    pub actor_id: Option<UserId>,
}

const FAILED_LOGIN: &str = "failed_login";
/// How long logins that failed, and what else was denied, are kept.
const DENIALS_KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Within what time what an agent repeats is kept only so often.
const SPARSE_WINDOW: Duration = Duration::from_secs(60 * 60);
/// How often.
const MAX_SPARSE: i64 = 3;

/// The log of changes.
#[derive(Clone)]
pub struct Audit(Arc<Context>);

impl Audit {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self(context)
    }

    pub(crate) fn context(&self) -> &Context {
        &self.0
    }

    /// Keeps a change, in the caller's unit of work.
    pub async fn record(
        &self,
        db: &mut impl Executor,
        actor: &Actor,
        entry: AuditEntry,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        store::insert(db, actor, entry, now).await
    }

    /// Keeps what an agent did to a subject: of what repeats itself the first few within an hour, since an agent that comes
    /// again and again would fill the log.
    pub(crate) async fn record_sparsely(
        &self,
        db: &mut impl Executor,
        actor: &Actor,
        mut entry: AuditEntry,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let since = now.minus(SPARSE_WINDOW);
        let before = store::count_since(db, &entry, since).await?;
        if before >= MAX_SPARSE {
            return Ok(());
        }
        if before + 1 == MAX_SPARSE
            && let Some(Value::Object(details)) = &mut entry.after
        {
            details.insert("more_within_the_hour_are_not_kept".to_owned(), true.into());
        }
        self.record(db, actor, entry, now).await
    }

    /// Keeps a login that failed, with the class of the reason, which whoever tried is not told. Who is not known can make
    /// these, so that they are not kept for ever.
    pub(crate) async fn record_failed_login(
        &self,
        actor: &Actor,
        reason: &'static str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let entry =
            AuditEntry::new(FAILED_LOGIN, "user", &actor.email).after(json!({ "reason": reason }));
        self.record(&mut &self.0.database, actor, entry, now).await
    }

    /// Forgets failed logins, other denials and what agents did to their keys when it is older than 90 days, a batch of each
    /// at a time; gives how many. What somebody changed is kept.
    pub async fn forget_denials(&self) -> Result<u64, StoreError> {
        let before = self.0.now().minus(DENIALS_KEPT_FOR);
        let mut forgotten = 0;
        for action in std::iter::once(FAILED_LOGIN)
            .chain(ACTIONS)
            .chain(AGENTS_ACTIONS)
        {
            forgotten += store::forget(&mut &self.0.database, action, before).await?;
        }
        Ok(forgotten)
    }

    /// A page of changes.
    pub async fn list(
        &self,
        listing: &Listing,
        filter: &AuditFilter,
    ) -> Result<Page<AuditRecord>, StoreError> {
        let (records, total) = store::list(&mut &self.0.database, listing, filter).await?;
        Ok(listing.page(records, total))
    }
}
