//! The second factor of a login: a code of an authenticator app, or one of ten recovery codes.
//!
//! The shared secret is kept sealed with the master key. A code counts once: the step whose code was taken is written in
//! the database, so that nobody who saw it logs in with it anew, at any replica. Recovery codes are random and long, kept as
//! their SHA-256, and go when they are used.

mod code;

use std::sync::Arc;

use muster_clock::{Randomness, Timestamp};
use muster_store::Transaction;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::limits::UserLimit;
use crate::service::Context;
use crate::store::second_factor as store;
use crate::{Actor, Audit, AuditEntry, IdentityError, MasterKey, User, UserId, Users, secret};

/// How many recovery codes a user gets.
const RECOVERY_CODES: usize = 10;
/// The characters of recovery codes, without those that look like others.
const RECOVERY_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// How many of them a recovery code has: 80 bits.
const RECOVERY_CHARACTERS: usize = 16;
/// The longest code that is looked at, in bytes.
const MAX_CODE_BYTES: usize = 64;

/// How far a user is with a second factor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SecondFactorState {
    /// Whether logins need a code.
    pub enabled: bool,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub enabled_at: Option<Timestamp>,
    /// How many recovery codes are left.
    pub recovery_codes: i64,
}

/// What an authenticator app has to be told.
#[derive(Clone, Serialize, ToSchema)]
pub struct Enrolment {
    /// The shared secret in Base32, for typing.
    pub secret: String,
    /// The same with all around it, for a QR code.
    pub uri: String,
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Enrolment(…)")
    }
}

struct Inner {
    context: Arc<Context>,
    users: Users,
    audit: Audit,
    master_key: Arc<MasterKey>,
    issuer: String,
    limit: UserLimit,
}

/// Second factors.
#[derive(Clone)]
pub struct SecondFactor(Arc<Inner>);

impl SecondFactor {
    /// `issuer` is what authenticator apps show beside the account.
    pub(crate) fn new(
        context: Arc<Context>,
        users: Users,
        audit: Audit,
        master_key: Arc<MasterKey>,
        issuer: String,
    ) -> Self {
        Self(Arc::new(Inner {
            context,
            users,
            audit,
            master_key,
            issuer,
            limit: UserLimit::codes(),
        }))
    }

    /// How far a user is.
    pub async fn state(&self, user: UserId) -> Result<SecondFactorState, IdentityError> {
        let mut db = &self.0.context.database;
        let enabled_at = store::find(&mut db, user)
            .await?
            .and_then(|kept| kept.confirmed_at);
        Ok(SecondFactorState {
            enabled: enabled_at.is_some(),
            enabled_at,
            recovery_codes: store::count_recovery_codes(&mut db, user).await?,
        })
    }

    /// Makes a secret for an app; it counts once a code of it was shown to [`confirm`](Self::confirm). Beginning anew
    /// replaces what was begun.
    pub async fn begin(&self, user: UserId, password: &str) -> Result<Enrolment, IdentityError> {
        self.0.users.prove_password(user, password).await?;
        let context = &self.0.context;
        let account = self.0.users.find(user).await?;
        if account.api_only {
            let reason = "an account for programs has no second factor; give it API tokens";
            return Err(IdentityError::invalid("user", reason));
        }
        let text = code::new_secret(&*context.randomness);
        let sealed = self
            .0
            .master_key
            .seal(&text, &sealed_for(user), &*context.randomness);
        if !store::begin(&mut &context.database, user, &sealed, context.now()).await? {
            return Err(already_enabled());
        }
        Ok(Enrolment {
            uri: code::uri(&self.0.issuer, &account.email, &text),
            secret: text,
        })
    }

    /// From now on logins need a code; gives the recovery codes, which are not shown again. The user's other sessions,
    /// which began without one, end.
    pub async fn confirm(
        &self,
        actor: &Actor,
        user: UserId,
        typed: &str,
        keep_session: Option<i64>,
    ) -> Result<Vec<String>, IdentityError> {
        let context = &self.0.context;
        let now = context.now();
        self.0.limit.attempt(user, now)?;
        let kept = store::find(&mut &context.database, user).await?;
        let kept = kept.ok_or_else(|| IdentityError::Conflict {
            what: "no second factor was begun; begin with one first".to_owned(),
        })?;
        if kept.confirmed_at.is_some() {
            return Err(already_enabled());
        }
        let text = self.0.master_key.open(&kept.sealed, &sealed_for(user))?;
        let step = code::matching_step(&text, typed.trim(), now).ok_or_else(|| {
            let reason = "is not the one that the app shows; are both clocks right?";
            IdentityError::invalid("code", reason)
        })?;
        let codes = self.new_codes();
        let mut transaction = context.database.begin().await?;
        if !store::confirm(&mut transaction, user, &kept.sealed, step, now).await? {
            return Err(already_enabled());
        }
        put_codes(&mut transaction, user, &codes).await?;
        crate::store::people::end_other_sessions(&mut transaction, user, keep_session).await?;
        let entry = AuditEntry::new("enabled_second_factor", "user", user);
        self.0
            .audit
            .record(&mut transaction, actor, entry, now)
            .await?;
        transaction.commit().await?;
        Ok(codes)
    }

    /// Logins need no code any more.
    pub async fn disable(
        &self,
        actor: &Actor,
        user: UserId,
        password: &str,
        typed: &str,
    ) -> Result<(), IdentityError> {
        self.0.users.prove_password(user, password).await?;
        self.prove(actor, user, typed).await.map_err(in_field)?;
        self.remove(actor, user).await
    }

    /// New recovery codes; the old ones are void.
    pub async fn renew_codes(
        &self,
        actor: &Actor,
        user: UserId,
        password: &str,
        typed: &str,
    ) -> Result<Vec<String>, IdentityError> {
        self.0.users.prove_password(user, password).await?;
        self.prove(actor, user, typed).await.map_err(in_field)?;
        let context = &self.0.context;
        let codes = self.new_codes();
        let mut transaction = context.database.begin().await?;
        put_codes(&mut transaction, user, &codes).await?;
        let entry = AuditEntry::new("renewed_recovery_codes", "user", user);
        self.0
            .audit
            .record(&mut transaction, actor, entry, context.now())
            .await?;
        transaction.commit().await?;
        Ok(codes)
    }

    /// Takes a user's second factor away, for whoever lost phone and recovery codes. Having none is no error.
    pub async fn remove(&self, actor: &Actor, user: UserId) -> Result<(), IdentityError> {
        self.0.users.find(user).await?;
        let context = &self.0.context;
        let mut transaction = context.database.begin().await?;
        store::delete_recovery_codes(&mut transaction, user).await?;
        if store::delete(&mut transaction, user).await? {
            let entry = AuditEntry::new("disabled_second_factor", "user", user);
            self.0
                .audit
                .record(&mut transaction, actor, entry, context.now())
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// What a login with the right password still has to show.
    ///
    /// # Errors
    /// `SecondFactorRequired` without a code, `SecondFactorWrong` with a wrong one or one that was used, `TooMany`.
    pub(crate) async fn check_login(
        &self,
        actor: &Actor,
        user: &User,
        typed: Option<&str>,
    ) -> Result<(), IdentityError> {
        if !user.second_factor {
            return Ok(());
        }
        match typed.map(str::trim).filter(|typed| !typed.is_empty()) {
            Some(typed) => self.prove(actor, user.id, typed).await,
            None => Err(IdentityError::SecondFactorRequired),
        }
    }

    /// Takes a code of the app, or a recovery code, and uses it up.
    async fn prove(&self, actor: &Actor, user: UserId, typed: &str) -> Result<(), IdentityError> {
        let context = &self.0.context;
        let now = context.now();
        let typed = typed.trim();
        self.0.limit.attempt(user, now)?;
        let kept = store::find(&mut &context.database, user).await?;
        let Some(kept) = kept.filter(|kept| kept.confirmed_at.is_some()) else {
            return Err(IdentityError::Conflict {
                what: "there is no second factor".to_owned(),
            });
        };
        if typed.len() > MAX_CODE_BYTES {
            return Err(IdentityError::SecondFactorWrong);
        }
        if code::is_code(typed) {
            let text = self.0.master_key.open(&kept.sealed, &sealed_for(user))?;
            return match code::matching_step(&text, typed, now) {
                Some(step) if store::use_step(&mut &context.database, user, step).await? => Ok(()),
                _ => Err(IdentityError::SecondFactorWrong),
            };
        }
        let mut transaction = context.database.begin().await?;
        let hash = secret::hash(&spelled(typed));
        if !store::use_recovery_code(&mut transaction, user, &hash).await? {
            return Err(IdentityError::SecondFactorWrong);
        }
        let left = store::count_recovery_codes(&mut transaction, user).await?;
        let entry =
            AuditEntry::new("used_recovery_code", "user", user).after(json!({ "left": left }));
        self.0
            .audit
            .record(&mut transaction, actor, entry, now)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    fn new_codes(&self) -> Vec<String> {
        let randomness = &*self.0.context.randomness;
        std::iter::repeat_with(|| new_code(randomness))
            .take(RECOVERY_CODES)
            .collect()
    }
}

/// `abcd-efgh-ijkm-npqr`.
fn new_code(randomness: &dyn Randomness) -> String {
    let mut bytes = [0; RECOVERY_CHARACTERS];
    randomness.fill(&mut bytes);
    let mut text = String::new();
    for (place, byte) in bytes.iter().enumerate() {
        if place > 0 && place % 4 == 0 {
            text.push('-');
        }
        text.push(char::from(RECOVERY_ALPHABET[usize::from(byte % 32)]));
    }
    text
}

/// A recovery code without what people add or leave out when they type it.
fn spelled(typed: &str) -> String {
    typed
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|character| character.to_ascii_lowercase())
        .collect()
}

async fn put_codes(
    transaction: &mut Transaction,
    user: UserId,
    codes: &[String],
) -> Result<(), IdentityError> {
    store::delete_recovery_codes(transaction, user).await?;
    let hashes: Vec<[u8; 32]> = codes
        .iter()
        .map(|code| secret::hash(&spelled(code)))
        .collect();
    Ok(store::insert_recovery_codes(transaction, user, &hashes).await?)
}

fn sealed_for(user: UserId) -> String {
    format!("second_factor/{user}")
}

/// A wrong code of somebody who is logged in is a wrong value, and no reason to log in again.
fn in_field(error: IdentityError) -> IdentityError {
    match error {
        IdentityError::SecondFactorWrong => IdentityError::invalid(
            "code",
            "is wrong or was used already; wait for the next one, or use a recovery code",
        ),
        other => other,
    }
}

fn already_enabled() -> IdentityError {
    IdentityError::Conflict {
        what: "there is a second factor already; disable it first".to_owned(),
    }
}
