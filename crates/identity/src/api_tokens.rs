//! Tokens for programs that act for a user.

use std::sync::Arc;

use muster_clock::Timestamp;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::service::Context;
use crate::store::people as store;
use crate::{Actor, Audit, AuditEntry, IdentityError, UserId, Users, secret};

/// The longest name, in characters.
const MAX_NAME_CHARACTERS: usize = 100;
/// The most tokens that a user may have.
const MAX_TOKENS_PER_USER: usize = 100;

/// A token, without its secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ApiToken {
    /// Its id.
    pub id: i64,
    /// For whom it acts.
    pub user_id: UserId,
    /// Its name.
    pub name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// From when on it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to some minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub used_at: Option<Timestamp>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
}

/// What a new token is to be.
#[derive(Debug, Clone, Default)]
pub struct NewApiToken {
    /// Its name.
    pub name: String,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
}

struct Inner {
    context: Arc<Context>,
    users: Users,
    audit: Audit,
}

/// Tokens for programs.
#[derive(Clone)]
pub struct ApiTokens(Arc<Inner>);

impl ApiTokens {
    pub(crate) fn new(context: Arc<Context>, users: Users, audit: Audit) -> Self {
        Self(Arc::new(Inner {
            context,
            users,
            audit,
        }))
    }

    /// Makes a token for a user; the secret is known only here.
    pub async fn create(
        &self,
        actor: &Actor,
        user: UserId,
        new: NewApiToken,
    ) -> Result<(ApiToken, String), IdentityError> {
        let name = new.name.trim();
        let characters = name.chars().count();
        if characters == 0 || characters > MAX_NAME_CHARACTERS {
            let reason = format!("must have from 1 to {MAX_NAME_CHARACTERS} characters");
            return Err(IdentityError::invalid("name", reason));
        }
        let context = &self.0.context;
        let now = context.now();
        if new.expires_at.is_some_and(|at| at <= now) {
            return Err(IdentityError::invalid(
                "expires_at",
                "must lie in the future",
            ));
        }
        self.0.users.find(user).await?;
        let text = secret::new("api", &*context.randomness);
        let mut token = ApiToken {
            id: 0,
            user_id: user,
            name: name.to_owned(),
            created_at: now,
            expires_at: new.expires_at,
            used_at: None,
            revoked_at: None,
        };
        let mut transaction = context.database.begin().await?;
        let present = store::list_api_tokens(&mut transaction, user).await?;
        if present
            .iter()
            .filter(|token| token.revoked_at.is_none())
            .count()
            >= MAX_TOKENS_PER_USER
        {
            let reason = format!("the user has {MAX_TOKENS_PER_USER} already; revoke one first");
            return Err(IdentityError::invalid("name", reason));
        }
        token.id = store::insert_api_token(&mut transaction, &token, &secret::hash(&text)).await?;
        let details =
            json!({ "name": token.name, "user_id": user, "expires_at": token.expires_at });
        let entry = AuditEntry::new("created_api_token", "api_token", token.id).after(details);
        self.0
            .audit
            .record(&mut transaction, actor, entry, now)
            .await?;
        transaction.commit().await?;
        Ok((token, text))
    }

    /// The tokens of a user, newest first, revoked ones included.
    pub async fn list(&self, user: UserId) -> Result<Vec<ApiToken>, IdentityError> {
        Ok(store::list_api_tokens(&mut &self.0.context.database, user).await?)
    }

    /// Revokes a token of a user. Doing it twice is no error.
    pub async fn revoke(&self, actor: &Actor, user: UserId, id: i64) -> Result<(), IdentityError> {
        let now = self.0.context.now();
        let mut transaction = self.0.context.database.begin().await?;
        let tokens = store::list_api_tokens(&mut transaction, user).await?;
        let token = tokens.iter().find(|token| token.id == id);
        let token = token.ok_or_else(|| IdentityError::not_found("API token", id))?;
        if token.revoked_at.is_none() {
            store::revoke_api_token(&mut transaction, id, now).await?;
            let entry = AuditEntry::new("revoked_api_token", "api_token", id)
                .before(json!({ "name": token.name }));
            self.0
                .audit
                .record(&mut transaction, actor, entry, now)
                .await?;
            transaction.commit().await?;
        }
        Ok(())
    }
}
