//! Teams.

use std::sync::Arc;

use muster_clock::Timestamp;
use muster_store::ErrorKind;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::service::Context;
use crate::store::people as store;
use crate::{Actor, Audit, AuditEntry, IdentityError, TeamFilter, TeamId};

/// The longest name of a team, in characters.
const MAX_NAME_CHARACTERS: usize = 255;
/// The longest description, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 4_096;

/// A team: hosts and users that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Team {
    /// Its id.
    pub id: TeamId,
    /// Its name; unique, without regard to case.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// Teams.
#[derive(Clone)]
pub struct Teams {
    context: Arc<Context>,
    audit: Audit,
}

impl Teams {
    pub(crate) fn new(context: Arc<Context>, audit: Audit) -> Self {
        Self { context, audit }
    }

    /// Makes a team.
    pub async fn create(
        &self,
        actor: &Actor,
        name: &str,
        description: &str,
    ) -> Result<Team, IdentityError> {
        let (name, description) = check(name, description)?;
        let now = self.context.now();
        let mut team = Team {
            id: TeamId(0),
            name: name.to_owned(),
            description: description.to_owned(),
            created_at: now,
            updated_at: now,
        };
        let mut transaction = self.context.database.begin().await?;
        let id = store::insert_team(&mut transaction, &team).await;
        team.id = id.map_err(|error| duplicate(error, name))?;
        let entry = AuditEntry::new("created_team", "team", team.id).after(shown(&team));
        self.audit
            .record(&mut transaction, actor, entry, now)
            .await?;
        transaction.commit().await?;
        Ok(team)
    }

    /// Changes name and description.
    pub async fn change(
        &self,
        actor: &Actor,
        id: TeamId,
        name: Option<&str>,
        description: Option<&str>,
    ) -> Result<Team, IdentityError> {
        let mut transaction = self.context.database.begin().await?;
        let before = store::find_team(&mut transaction, id).await?;
        let before = before.ok_or_else(|| IdentityError::not_found("team", id))?;
        let (name, description) = check(
            name.unwrap_or(&before.name),
            description.unwrap_or(&before.description),
        )?;
        let now = self.context.now();
        let team = Team {
            name: name.to_owned(),
            description: description.to_owned(),
            updated_at: now,
            ..before.clone()
        };
        if (&team.name, &team.description) != (&before.name, &before.description) {
            store::update_team(&mut transaction, &team)
                .await
                .map_err(|error| duplicate(error, name))?;
            let entry = AuditEntry::new("changed_team", "team", id)
                .before(shown(&before))
                .after(shown(&team));
            self.audit
                .record(&mut transaction, actor, entry, now)
                .await?;
            transaction.commit().await?;
            return Ok(team);
        }
        Ok(before)
    }

    /// Deletes a team with its enrollment tokens and the roles that users have in it. What else belongs to it is the
    /// caller's to move away first.
    pub async fn delete(&self, actor: &Actor, id: TeamId) -> Result<(), IdentityError> {
        let now = self.context.now();
        let mut transaction = self.context.database.begin().await?;
        let team = store::find_team(&mut transaction, id).await?;
        let team = team.ok_or_else(|| IdentityError::not_found("team", id))?;
        store::delete_team(&mut transaction, id).await?;
        let entry = AuditEntry::new("deleted_team", "team", id).before(shown(&team));
        self.audit
            .record(&mut transaction, actor, entry, now)
            .await?;
        transaction.commit().await?;
        // Its enrollment tokens went with it.
        self.context
            .hint(muster_bus::Topic::new("identity.enrollment_tokens"), "")
            .await;
        Ok(())
    }

    /// One team.
    pub async fn find(&self, id: TeamId) -> Result<Team, IdentityError> {
        let team = store::find_team(&mut &self.context.database, id).await?;
        team.ok_or_else(|| IdentityError::not_found("team", id))
    }

    /// The team of that name, without regard to case.
    pub async fn find_by_name(&self, name: &str) -> Result<Option<Team>, IdentityError> {
        Ok(store::find_team_by_name(&mut &self.context.database, name).await?)
    }

    /// The teams that are visible, by name.
    pub async fn list(&self, visible: &TeamFilter) -> Result<Vec<Team>, IdentityError> {
        let mut teams = store::list_teams(&mut &self.context.database).await?;
        teams.retain(|team| visible.admits(Some(team.id)));
        Ok(teams)
    }
}

fn shown(team: &Team) -> serde_json::Value {
    json!({ "name": team.name, "description": team.description })
}

fn duplicate(error: muster_store::StoreError, name: &str) -> IdentityError {
    match error.kind() {
        ErrorKind::Duplicate => IdentityError::Duplicate {
            what: format!("a team named {name:?}"),
        },
        _ => error.into(),
    }
}

fn check<'a>(name: &'a str, description: &'a str) -> Result<(&'a str, &'a str), IdentityError> {
    let name = name.trim();
    let characters = name.chars().count();
    if characters == 0 || characters > MAX_NAME_CHARACTERS {
        let reason = format!("must have from 1 to {MAX_NAME_CHARACTERS} characters");
        return Err(IdentityError::invalid("name", reason));
    }
    if description.len() > MAX_DESCRIPTION_BYTES {
        let reason = format!("must have at most {MAX_DESCRIPTION_BYTES} bytes");
        return Err(IdentityError::invalid("description", reason));
    }
    Ok((name, description))
}
