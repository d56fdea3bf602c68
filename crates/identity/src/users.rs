//! Users: people, and accounts for programs.

mod rules;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use muster_clock::Timestamp;
use muster_store::{ErrorKind, Transaction};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::limits::UserLimit;
use crate::password::{self, Passwords};

use crate::service::Context;
use crate::store::people as store;
use crate::{Actor, Audit, AuditEntry, IdentityError, Role, TeamId, UserId};
use rules::{check_email, check_reset, check_roles, check_text, duplicate, shown};

/// The longest password that is looked at, in bytes.
pub(crate) const MAX_PASSWORD_BYTES: usize = 1_024;

/// A role in a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TeamRole {
    /// The team.
    pub team_id: TeamId,
    /// What the user may do in it.
    pub role: Role,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Its name.
    pub name: String,
    /// Its address, which is the name at login; unique, without regard to case.
    pub email: String,
    /// What it may do everywhere; none when it has roles in teams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_role: Option<Role>,
    /// What it may do in teams.
    pub teams: Vec<TeamRole>,
    /// Whether it is an account for programs: it uses API tokens, and logs in by Fleet's API only.
    pub api_only: bool,
    /// Whether it must set a new password before anything else.
    pub must_reset_password: bool,
    /// Whether it is shut out.
    pub disabled: bool,
    /// Whether its logins need a code of an authenticator app.
    pub second_factor: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// What a new user is to be. Exactly one of a global role and roles in teams.
#[derive(Clone, Default)]
pub struct NewUser {
    /// Its name.
    pub name: String,
    /// Its address.
    pub email: String,
    /// Its password.
    pub password: String,
    /// What it may do everywhere.
    pub global_role: Option<Role>,
    /// What it may do in teams.
    pub teams: Vec<TeamRole>,
    /// Whether it is an account for programs.
    pub api_only: bool,
    /// Whether it must set a new password at its first login.
    pub must_reset_password: bool,
}

/// What is to change of a user; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct UserChange {
    /// Its name.
    pub name: Option<String>,
    /// Its address.
    pub email: Option<String>,
    /// Its roles: global, or in teams.
    pub roles: Option<(Option<Role>, Vec<TeamRole>)>,
    /// Whether it is shut out.
    pub disabled: Option<bool>,
    /// Whether it must set a new password.
    pub must_reset_password: Option<bool>,
    /// Its new password; whether it may set one is for the caller to know.
    pub password: Option<NewPassword>,
}

/// A new password. `Debug` does not show it.
#[derive(Clone)]
pub struct NewPassword {
    /// The password.
    pub text: String,
    /// The one before, which must be right; users change their own only when they know it.
    pub old: Option<String>,
    /// The session that goes on; all others end.
    pub keep_session: Option<i64>,
}

impl std::fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewPassword(…)")
    }
}

struct Inner {
    context: Arc<Context>,
    audit: Audit,
    passwords: Passwords,
    limit: UserLimit,
    /// Once there is a user there always is one: the last admin cannot be deleted.
    any: AtomicBool,
}

/// Users.
#[derive(Clone)]
pub struct Users(Arc<Inner>);

impl Users {
    pub(crate) fn new(context: Arc<Context>, audit: Audit) -> Self {
        let any = AtomicBool::new(false);
        Self(Arc::new(Inner {
            context,
            audit,
            passwords: Passwords::new(),
            limit: UserLimit::passwords(),
            any,
        }))
    }

    pub(crate) fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    /// Whether the server is set up: whether there is a user.
    pub async fn any(&self) -> Result<bool, IdentityError> {
        if self.0.any.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let any = store::count_users(&mut &self.0.context.database).await? > 0;
        self.0.any.store(any, Ordering::Relaxed);
        Ok(any)
    }

    /// Makes the first user, an admin; none when there is one already, also when two try at once.
    pub async fn create_first(
        &self,
        actor: &Actor,
        new: NewUser,
    ) -> Result<Option<User>, IdentityError> {
        let new = NewUser {
            global_role: Some(Role::Admin),
            teams: Vec::new(),
            ..new
        };
        self.insert(actor, new, true).await
    }

    /// Makes a user.
    pub async fn create(&self, actor: &Actor, new: NewUser) -> Result<User, IdentityError> {
        let user = self.insert(actor, new, false).await?;
        Ok(user.expect("only the first user can find that it is not"))
    }

    async fn insert(
        &self,
        actor: &Actor,
        new: NewUser,
        only_first: bool,
    ) -> Result<Option<User>, IdentityError> {
        let name = check_text("name", &new.name)?;
        let email = check_email(&new.email)?;
        password::check(&new.password)?;
        check_roles(new.global_role, &new.teams)?;
        check_reset(new.must_reset_password, new.api_only)?;
        let context = &self.0.context;
        let hash = self
            .0
            .passwords
            .hash(&new.password, &*context.randomness)
            .await;
        let now = context.now();
        let mut user = User {
            id: UserId(0),
            name: name.to_owned(),
            email: email.to_owned(),
            global_role: new.global_role,
            teams: new.teams,
            api_only: new.api_only,
            must_reset_password: new.must_reset_password,
            disabled: false,
            second_factor: false,
            created_at: now,
            updated_at: now,
        };
        let mut transaction = context.database.begin().await?;
        if only_first {
            store::lock_users(&mut transaction).await?;
            if store::count_users(&mut transaction).await? > 0 {
                return Ok(None);
            }
        }
        let id = store::insert_user(&mut transaction, &user, &hash).await;
        user.id = id.map_err(|error| duplicate(error, email))?;
        set_roles(&mut transaction, &user).await?;
        let entry = AuditEntry::new("created_user", "user", user.id).after(shown(&user));
        self.0
            .audit
            .record(&mut transaction, actor, entry, now)
            .await?;
        transaction.commit().await?;
        self.0.any.store(true, Ordering::Relaxed);
        Ok(Some(user))
    }

    /// Changes a user. The last admin keeps its role and stays admitted.
    pub async fn change(
        &self,
        actor: &Actor,
        id: UserId,
        change: UserChange,
    ) -> Result<User, IdentityError> {
        let password = match &change.password {
            Some(new) => {
                let old = match &new.old {
                    Some(old) => self.proven_hash(id, old).await?.ok_or_else(wrong_old)?,
                    None => self.old_hash(id).await?,
                };
                let hash = self.new_hash(&old, &new.text).await?;
                Some((old, hash, new.keep_session))
            }
            None => None,
        };
        let now = self.0.context.now();
        let mut transaction = self.0.context.database.begin().await?;
        // The whole user is written: two changes at once would undo each other.
        store::lock_users(&mut transaction).await?;
        let before = find(&mut transaction, id).await?;
        let mut user = User {
            updated_at: now,
            ..before.clone()
        };
        if let Some(name) = &change.name {
            check_text("name", name)?.clone_into(&mut user.name);
        }
        if let Some(email) = &change.email {
            check_email(email)?.clone_into(&mut user.email);
        }
        if let Some((global_role, teams)) = change.roles {
            check_roles(global_role, &teams)?;
            (user.global_role, user.teams) = (global_role, teams);
        }
        user.disabled = change.disabled.unwrap_or(user.disabled);
        user.must_reset_password = change
            .must_reset_password
            .unwrap_or(user.must_reset_password);
        check_reset(change.must_reset_password == Some(true), user.api_only)?;
        let is_admin = |user: &User| user.global_role == Some(Role::Admin) && !user.disabled;
        if is_admin(&before) && !is_admin(&user) {
            keep_an_admin(&mut transaction, id).await?;
        }
        store::update_user(&mut transaction, &user)
            .await
            .map_err(|error| duplicate(error, &user.email))?;
        set_roles(&mut transaction, &user).await?;
        if user.disabled || (user.must_reset_password && !before.must_reset_password) {
            store::end_sessions_of(&mut transaction, id).await?;
        }
        let entry = AuditEntry::new("changed_user", "user", id)
            .before(shown(&before))
            .after(shown(&user));
        self.0
            .audit
            .record(&mut transaction, actor, entry, now)
            .await?;
        if let Some((old, hash, keep)) = password {
            let replaced = self.replace_password(&mut transaction, actor, id, (&old, &hash), keep);
            if !replaced.await? {
                return Err(changed_meanwhile());
            }
            user = find(&mut transaction, id).await?;
        }
        transaction.commit().await?;
        Ok(user)
    }

    /// Gives users roles in a team, or takes theirs away: all of them, or none. Users with a global role have none in
    /// teams.
    pub async fn change_team(
        &self,
        actor: &Actor,
        team: TeamId,
        changes: &[(UserId, Option<Role>)],
    ) -> Result<(), IdentityError> {
        let now = self.0.context.now();
        let mut transaction = self.0.context.database.begin().await?;
        store::lock_users(&mut transaction).await?;
        for (id, role) in changes {
            let before = find(&mut transaction, *id).await?;
            if role.is_some() && before.global_role.is_some() {
                let reason = format!("{} has a global role", before.email);
                return Err(IdentityError::invalid("users", reason));
            }
            let mut user = User {
                updated_at: now,
                ..before.clone()
            };
            user.teams.retain(|known| known.team_id != team);
            user.teams.extend(role.map(|role| TeamRole {
                team_id: team,
                role,
            }));
            if user.teams == before.teams {
                continue;
            }
            store::update_user(&mut transaction, &user).await?;
            set_roles(&mut transaction, &user).await?;
            let entry = AuditEntry::new("changed_user", "user", id)
                .before(shown(&before))
                .after(shown(&user));
            self.0
                .audit
                .record(&mut transaction, actor, entry, now)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// How many users have a role in each team; a team without any is left out.
    pub async fn team_counts(&self) -> Result<HashMap<TeamId, u64>, IdentityError> {
        let mut counts = HashMap::new();
        for user in self.list(None).await? {
            for role in user.teams {
                *counts.entry(role.team_id).or_insert(0) += 1;
            }
        }
        Ok(counts)
    }

    /// Deletes a user with its sessions and tokens; never the last admin.
    pub async fn delete(&self, actor: &Actor, id: UserId) -> Result<(), IdentityError> {
        let now = self.0.context.now();
        let mut transaction = self.0.context.database.begin().await?;
        store::lock_users(&mut transaction).await?;
        let user = find(&mut transaction, id).await?;
        if user.global_role == Some(Role::Admin) {
            keep_an_admin(&mut transaction, id).await?;
        }
        store::delete_user(&mut transaction, id).await?;
        let entry = AuditEntry::new("deleted_user", "user", id).before(shown(&user));
        self.0
            .audit
            .record(&mut transaction, actor, entry, now)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Sets a password; all sessions of the user end but one that may be kept.
    pub async fn set_password(
        &self,
        actor: &Actor,
        id: UserId,
        new: &str,
        keep_session: Option<i64>,
    ) -> Result<User, IdentityError> {
        let old = self.old_hash(id).await?;
        let set = self.hash_and_replace(actor, id, new, &old, keep_session);
        set.await?.ok_or_else(changed_meanwhile)
    }

    /// Sets a password in the place of the one whose hash is `old`; none when that is not the user's any more: somebody may
    /// have reset it while this one was hashed, which takes long.
    async fn hash_and_replace(
        &self,
        actor: &Actor,
        id: UserId,
        new: &str,
        old: &str,
        keep_session: Option<i64>,
    ) -> Result<Option<User>, IdentityError> {
        let hash = self.new_hash(old, new).await?;
        let mut transaction = self.0.context.database.begin().await?;
        let hashes = (old, &*hash);
        let replaced = self.replace_password(&mut transaction, actor, id, hashes, keep_session);
        if !replaced.await? {
            return Ok(None);
        }
        let user = find(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(Some(user))
    }

    /// The same in the caller's unit of work, which is to end without a trace when this gives false.
    async fn replace_password(
        &self,
        transaction: &mut Transaction,
        actor: &Actor,
        id: UserId,
        (old, new): (&str, &str),
        keep_session: Option<i64>,
    ) -> Result<bool, IdentityError> {
        let now = self.0.context.now();
        if !store::replace_password(transaction, id, new, old, now).await? {
            return Ok(false);
        }
        store::end_other_sessions(transaction, id, keep_session).await?;
        let entry = AuditEntry::new("changed_password", "user", id);
        self.0.audit.record(transaction, actor, entry, now).await?;
        Ok(true)
    }

    async fn old_hash(&self, id: UserId) -> Result<String, IdentityError> {
        let old = store::password_hash(&mut &self.0.context.database, id).await?;
        old.ok_or_else(|| IdentityError::not_found("user", id))
    }

    /// The hash of a new password that keeps the rules.
    async fn new_hash(&self, old: &str, new: &str) -> Result<String, IdentityError> {
        password::check(new).map_err(|error| match error {
            IdentityError::Invalid { reason, .. } => IdentityError::invalid("new_password", reason),
            other => other,
        })?;
        if self.0.passwords.verify(new, Some(old.to_owned())).await {
            return Err(IdentityError::invalid(
                "new_password",
                "Cannot reuse old password",
            ));
        }
        let randomness = &*self.0.context.randomness;
        Ok(self.0.passwords.hash(new, randomness).await)
    }

    /// Whether it is the user's password; asked of somebody who has a session, which may be a stolen one: tries are
    /// limited.
    pub async fn knows_password(&self, id: UserId, password: &str) -> Result<bool, IdentityError> {
        Ok(self.proven_hash(id, password).await?.is_some())
    }

    /// The hash of the user's password, if this is it.
    async fn proven_hash(
        &self,
        id: UserId,
        password: &str,
    ) -> Result<Option<String>, IdentityError> {
        let context = &self.0.context;
        self.0.limit.attempt(id, context.now())?;
        if password.len() > MAX_PASSWORD_BYTES {
            return Ok(None);
        }
        let hash = store::password_hash(&mut &context.database, id).await?;
        let is_it = self.0.passwords.verify(password, hash.clone()).await;
        Ok(hash.filter(|_| is_it))
    }

    /// Refuses what is not the user's password.
    pub(crate) async fn prove_password(
        &self,
        id: UserId,
        password: &str,
    ) -> Result<(), IdentityError> {
        if self.knows_password(id, password).await? {
            return Ok(());
        }
        Err(IdentityError::invalid("password", "is not your password"))
    }

    /// Gives a user a password that it must replace at its next login, and ends its sessions; for those who forgot theirs.
    /// Makes one up when none is given. API tokens are refused until then. The account of a program keeps what it is given:
    /// it cannot set a new one.
    pub async fn reset_password(
        &self,
        actor: &Actor,
        id: UserId,
        given: Option<String>,
    ) -> Result<String, IdentityError> {
        let context = &self.0.context;
        let text = given.unwrap_or_else(|| password::made_up(&*context.randomness));
        let hash = self.new_hash(&self.old_hash(id).await?, &text).await?;
        let now = context.now();
        let mut transaction = context.database.begin().await?;
        store::set_password(&mut transaction, id, &hash, now).await?;
        store::end_sessions_of(&mut transaction, id).await?;
        let entry = AuditEntry::new("reset_password", "user", id);
        self.0
            .audit
            .record(&mut transaction, actor, entry, now)
            .await?;
        transaction.commit().await?;
        Ok(text)
    }

    /// Changes a user's own password, which must be known.
    pub async fn change_password(
        &self,
        actor: &Actor,
        id: UserId,
        old: &str,
        new: &str,
        keep_session: Option<i64>,
    ) -> Result<User, IdentityError> {
        let old = self.proven_hash(id, old).await?.ok_or_else(wrong_old)?;
        let changed = self.hash_and_replace(actor, id, new, &old, keep_session);
        changed.await?.ok_or_else(wrong_old)
    }

    /// One user.
    pub async fn find(&self, id: UserId) -> Result<User, IdentityError> {
        find(&mut &self.0.context.database, id).await
    }

    /// The user of that address, without regard to case.
    pub async fn find_by_email(&self, email: &str) -> Result<Option<User>, IdentityError> {
        Ok(
            store::find_user_by_email(&mut &self.0.context.database, email)
                .await?
                .map(|(user, _)| user),
        )
    }

    /// All users, by name; those of a team only, when one is given.
    pub async fn list(&self, team: Option<TeamId>) -> Result<Vec<User>, IdentityError> {
        let mut users = store::list_users(&mut &self.0.context.database).await?;
        if let Some(team) = team {
            users.retain(|user| user.teams.iter().any(|role| role.team_id == team));
        }
        Ok(users)
    }
}

async fn find(db: &mut impl muster_store::Executor, id: UserId) -> Result<User, IdentityError> {
    store::find_user(db, id)
        .await?
        .ok_or_else(|| IdentityError::not_found("user", id))
}

async fn set_roles(db: &mut impl muster_store::Executor, user: &User) -> Result<(), IdentityError> {
    store::set_team_roles(db, user.id, &user.teams)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::Reference => {
                IdentityError::invalid("teams", "names a team that does not exist")
            }
            _ => error.into(),
        })
}

async fn keep_an_admin(
    db: &mut impl muster_store::Executor,
    leaving: UserId,
) -> Result<(), IdentityError> {
    store::lock_users(db).await?;
    if store::count_other_admins(db, leaving).await? == 0 {
        let reason = "the last admin cannot be deleted, shut out or given another role";
        return Err(IdentityError::invalid("user", reason));
    }
    Ok(())
}

fn wrong_old() -> IdentityError {
    IdentityError::invalid("old_password", "old password does not match")
}

fn changed_meanwhile() -> IdentityError {
    IdentityError::Conflict {
        what: "the password was changed meanwhile; log in with that one".to_owned(),
    }
}
