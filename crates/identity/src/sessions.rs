//! Logins and the sessions that they begin.

use std::sync::Arc;
use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::ClientAddress;
use serde::Serialize;
use utoipa::ToSchema;

use crate::limits::LoginLimits;
use crate::service::Context;
use crate::store::people as store;
use crate::users::MAX_PASSWORD_BYTES;
use crate::{
    Actor, Audit, AuditEntry, Credential, IdentityError, Principal, SecondFactor, User, UserId,
    Users, secret,
};

/// When to come again while too many log in at once.
const BUSY_SECONDS: u32 = 5;
/// How exact the last use of a session or token is kept.
pub(crate) const USE_RESOLUTION: Duration = Duration::from_secs(5 * 60);
/// The longest bearer token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 512;
/// The longest e-mail address that is looked at, in bytes: users have at most 255 characters.
const MAX_EMAIL_BYTES: usize = 1_024;

/// A session that just began.
pub struct Login {
    /// Whose.
    pub user: User,
    /// The bearer token; known only here.
    pub token: String,
}

/// What users see of a session.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Session {
    /// Its id.
    pub id: i64,
    /// Whose.
    pub user_id: UserId,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last used, to some minutes.
    #[schema(value_type = String, format = DateTime)]
    pub used_at: Timestamp,
    /// Where it began.
    pub address: String,
}

struct Inner {
    context: Arc<Context>,
    users: Users,
    second_factor: SecondFactor,
    audit: Audit,
    limits: LoginLimits,
    idle_lifetime: Duration,
}

/// Sessions.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

impl Sessions {
    /// A session that is not used for `idle_lifetime` ends.
    pub(crate) fn new(
        context: Arc<Context>,
        users: Users,
        second_factor: SecondFactor,
        audit: Audit,
        idle_lifetime: Duration,
    ) -> Self {
        Self(Arc::new(Inner {
            context,
            users,
            second_factor,
            audit,
            limits: LoginLimits::default(),
            idle_lifetime,
        }))
    }

    /// Begins a session. Limited per account and per address; a wrong password, an unknown address and a disabled user
    /// look the same and cost the same. Only who has the password learns whether `code`, of a second factor, is needed.
    ///
    /// Accounts of programs do not log in: they have API tokens.
    pub async fn log_in(
        &self,
        email: &str,
        password: &str,
        code: Option<&str>,
        address: ClientAddress,
    ) -> Result<Login, IdentityError> {
        self.check_and_begin(email, password, code, address, false)
            .await
    }

    /// The same for clients of Fleet's API, where accounts of programs log in as well: until the beginning of 2024 fleetctl
    /// shows no token of an account that it makes, so that its password is the only way to one.
    pub async fn log_in_as_in_fleet(
        &self,
        email: &str,
        password: &str,
        address: ClientAddress,
    ) -> Result<Login, IdentityError> {
        self.check_and_begin(email, password, None, address, true)
            .await
    }

    async fn check_and_begin(
        &self,
        email: &str,
        password: &str,
        code: Option<&str>,
        address: ClientAddress,
        may_be_program: bool,
    ) -> Result<Login, IdentityError> {
        let context = &self.0.context;
        let now = context.now();
        if email.len() > MAX_EMAIL_BYTES {
            return Err(IdentityError::AuthenticationFailed);
        }
        let key = email.trim().to_lowercase();
        if self.0.users.passwords().is_busy() {
            return Err(IdentityError::TooMany {
                seconds: BUSY_SECONDS,
            });
        }
        self.0.limits.attempt(&key, address, now)?;
        let found = store::find_user_by_email(&mut &context.database, email).await?;
        let (user, hash) = found.map_or((None, None), |(user, hash)| (Some(user), Some(hash)));
        let right = password.len() <= MAX_PASSWORD_BYTES
            && self.0.users.passwords().verify(password, hash).await;
        let actor = Actor {
            kind: "user",
            user_id: None,
            name: String::new(),
            email: shortened(&key),
            address: address.to_string(),
        };
        let user = match user {
            None => Err("unknown_account"),
            Some(_) if !right => Err("wrong_password"),
            Some(user) if user.disabled => Err("disabled"),
            Some(user) if user.api_only && !may_be_program => Err("account_for_programs"),
            Some(user) => Ok(user),
        };
        let user = match user {
            Ok(user) => user,
            Err(reason) => {
                self.0
                    .audit
                    .record_failed_login(&actor, reason, now)
                    .await?;
                return Err(IdentityError::AuthenticationFailed);
            }
        };
        let second = &self.0.second_factor;
        let shown = Actor {
            user_id: Some(user.id),
            name: user.name.clone(),
            ..actor.clone()
        };
        if let Err(error) = second.check_login(&shown, &user, code).await {
            let reason = match &error {
                IdentityError::SecondFactorWrong => Some("wrong_code"),
                IdentityError::TooMany { .. } => Some("too_many_codes"),
                _ => None,
            };
            if let Some(reason) = reason {
                self.0
                    .audit
                    .record_failed_login(&shown, reason, now)
                    .await?;
            }
            return Err(error);
        }
        let token = self.begin(&user, address).await?;
        Ok(Login { user, token })
    }

    /// Begins a session for a user who was just made.
    pub async fn begin(
        &self,
        user: &User,
        address: ClientAddress,
    ) -> Result<String, IdentityError> {
        let context = &self.0.context;
        let now = context.now();
        let token = secret::new("session", &*context.randomness);
        let mut transaction = context.database.begin().await?;
        let hash = secret::hash(&token);
        let id = store::insert_session(&mut transaction, user.id, &hash, &address.to_string(), now)
            .await?;
        let actor = Actor {
            kind: "user",
            user_id: Some(user.id),
            name: user.name.clone(),
            email: user.email.clone(),
            address: address.to_string(),
        };
        self.0
            .audit
            .record(
                &mut transaction,
                &actor,
                AuditEntry::new("logged_in", "session", id),
                now,
            )
            .await?;
        transaction.commit().await?;
        Ok(token)
    }

    /// Whose bearer token it is: of a session or an API token. None when it is nobody's, or no longer.
    pub async fn authenticate(
        &self,
        token: &str,
        address: ClientAddress,
    ) -> Result<Option<Principal>, IdentityError> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Ok(None);
        }
        let context = &self.0.context;
        let now = context.now();
        let hash = secret::hash(token);
        let mut db = &context.database;
        let found = if token.starts_with("mst_api_") {
            let found = store::find_api_token(&mut db, &hash, now).await?;
            found.map(|(id, user, used_at)| {
                (
                    Credential::ApiToken(id),
                    user,
                    used_at.unwrap_or(Timestamp::EPOCH),
                )
            })
        } else {
            let found =
                store::find_session(&mut db, &hash, now.minus(self.0.idle_lifetime)).await?;
            found.map(|(id, user, used_at)| (Credential::Session(id), user, used_at))
        };
        match found {
            Some((credential, user, used_at)) => {
                self.principal(credential, user, used_at, address).await
            }
            None => Ok(None),
        }
    }

    /// The principal as it is now, for what lasts longer than a request: its roles may have changed. None when its
    /// session or token ended, or its user is gone or disabled. It counts as a use.
    pub async fn renew(&self, principal: &Principal) -> Result<Option<Principal>, IdentityError> {
        let context = &self.0.context;
        let (now, mut db) = (context.now(), &context.database);
        let used_at = match principal.credential {
            Credential::Session(id) => {
                let session = store::find_session_by_id(&mut db, id).await?;
                let used_after = now.minus(self.0.idle_lifetime);
                session
                    .map(|session| session.used_at)
                    .filter(|used_at| *used_at > used_after)
            }
            Credential::ApiToken(id) => store::find_valid_api_token(&mut db, id, now).await?,
        };
        match used_at {
            Some(used_at) => {
                let (credential, user) = (principal.credential, principal.user_id);
                self.principal(credential, user, used_at, principal.address)
                    .await
            }
            None => Ok(None),
        }
    }

    /// Whoever holds a valid credential, unless the user is gone or disabled.
    async fn principal(
        &self,
        credential: Credential,
        user_id: UserId,
        used_at: Timestamp,
        address: ClientAddress,
    ) -> Result<Option<Principal>, IdentityError> {
        let context = &self.0.context;
        let (now, mut db) = (context.now(), &context.database);
        let Some(user) = store::find_user(&mut db, user_id)
            .await?
            .filter(|user| !user.disabled)
        else {
            return Ok(None);
        };
        if now.since(used_at) >= USE_RESOLUTION {
            store::note_use(&mut db, credential, now).await?;
        }
        Ok(Some(Principal {
            user_id,
            name: user.name,
            email: user.email,
            global_role: user.global_role,
            teams: user
                .teams
                .iter()
                .map(|role| (role.team_id, role.role))
                .collect(),
            must_reset_password: user.must_reset_password,
            credential,
            address,
        }))
    }

    /// Ends a session of a user. Ending one that ended is no error; one of somebody else's is not found.
    pub async fn end_of(&self, actor: &Actor, user: UserId, id: i64) -> Result<(), IdentityError> {
        let session = store::find_session_by_id(&mut &self.0.context.database, id).await?;
        match session {
            Some(session) if session.user_id == user => self.end(actor, id).await,
            Some(_) => Err(IdentityError::not_found("session", id)),
            None => Ok(()),
        }
    }

    /// Ends a session. Ending one that ended is no error.
    pub async fn end(&self, actor: &Actor, id: i64) -> Result<(), IdentityError> {
        let context = &self.0.context;
        let mut transaction = context.database.begin().await?;
        if store::end_session(&mut transaction, id).await? {
            let entry = AuditEntry::new("ended_session", "session", id);
            self.0
                .audit
                .record(&mut transaction, actor, entry, context.now())
                .await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Ends all sessions of a user.
    pub async fn end_all(&self, actor: &Actor, user: UserId) -> Result<(), IdentityError> {
        let context = &self.0.context;
        let mut transaction = context.database.begin().await?;
        store::end_sessions_of(&mut transaction, user).await?;
        let entry = AuditEntry::new("ended_sessions", "user", user);
        self.0
            .audit
            .record(&mut transaction, actor, entry, context.now())
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The sessions of a user that have not ended, oldest first.
    pub async fn list(&self, user: UserId) -> Result<Vec<Session>, IdentityError> {
        let oldest = self.0.context.now().minus(self.0.idle_lifetime);
        Ok(store::list_sessions(&mut &self.0.context.database, user, oldest).await?)
    }

    /// One session.
    pub async fn find(&self, id: i64) -> Result<Session, IdentityError> {
        let session = store::find_session_by_id(&mut &self.0.context.database, id).await?;
        session.ok_or_else(|| IdentityError::not_found("session", id))
    }

    pub(crate) async fn end_idle(&self) -> Result<(), IdentityError> {
        let oldest = self.0.context.now().minus(self.0.idle_lifetime);
        Ok(store::end_idle_sessions(&mut &self.0.context.database, oldest).await?)
    }
}

/// What somebody typed as an address, shortened, since it goes into the log of changes.
fn shortened(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(255)
        .collect()
}
