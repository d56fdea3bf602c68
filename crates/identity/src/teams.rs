//! Teams.

use std::sync::Arc;

use muster_clock::Timestamp;
use muster_store::ErrorKind;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::belongings::{Attached, TeamBelongings};
use crate::service::Context;
use crate::store::{people as store, tokens};
use crate::{Actor, Audit, AuditEntry, IdentityError, TeamFilter, TeamId};

/// The longest name of a team, in characters.
const MAX_NAME_CHARACTERS: usize = 255;
/// Names that Fleet's clients have for what is no team; no new team takes one. Without regard to case.
const RESERVED_NAMES: [&str; 2] = ["All teams", "No team"];
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
    attached: Attached,
}

impl Teams {
    pub(crate) fn new(context: Arc<Context>, audit: Audit) -> Self {
        Self {
            context,
            audit,
            attached: Attached::default(),
        }
    }

    /// Makes a team.
    pub async fn create(
        &self,
        actor: &Actor,
        name: &str,
        description: &str,
    ) -> Result<Team, IdentityError> {
        let (name, description) = check(name, description)?;
        check_reserved(name)?;
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
        // The whole team is written: two changes at once would undo each other.
        transaction.lock(&[format!("identity.team {id}")]).await?;
        let before = store::find_team(&mut transaction, id).await?;
        let before = before.ok_or_else(|| IdentityError::not_found("team", id))?;
        let (name, description) = check(
            name.unwrap_or(&before.name),
            description.unwrap_or(&before.description),
        )?;
        if name != before.name {
            check_reserved(name)?;
        }
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

    /// What belongs to teams elsewhere is let go when its team is deleted.
    pub fn attach(&self, belongings: Arc<dyn TeamBelongings>) {
        self.attached.add(belongings);
    }

    /// Deletes a team with its enrollment tokens, the roles that users have in it, and what was attached: all of it, or
    /// nothing.
    pub async fn delete(&self, actor: &Actor, id: TeamId) -> Result<(), IdentityError> {
        let now = self.context.now();
        let belongings = self.attached.all();
        let mut counts = vec![0; belongings.len()];
        let mut transaction = self.context.database.begin().await?;
        let team = store::find_team(&mut transaction, id).await?;
        let team = team.ok_or_else(|| IdentityError::not_found("team", id))?;
        let tokens = tokens::count_in_scope(&mut transaction, Some(id)).await?;
        // Hosts before tokens, as enrollments have it, so that neither waits for the other for ever; and hosts again
        // after the tokens, for those that enrolled until then.
        for (belongings, count) in belongings.iter().zip(&mut counts) {
            *count += belongings.release(&mut transaction, id, now).await?;
        }
        if !store::delete_team(&mut transaction, id).await? {
            return Err(IdentityError::not_found("team", id));
        }
        for (belongings, count) in belongings.iter().zip(&mut counts) {
            *count += belongings.release(&mut transaction, id, now).await?;
        }
        let mut released = json!({ "enrollment_tokens": tokens });
        for (belongings, count) in belongings.iter().zip(&counts) {
            released[belongings.kind()] = (*count).into();
        }
        let entry = AuditEntry::new("deleted_team", "team", id)
            .before(shown(&team))
            .after(json!({ "released": released }));
        self.audit
            .record(&mut transaction, actor, entry, now)
            .await?;
        transaction.commit().await?;
        // Its enrollment tokens went with it.
        self.context.hint(crate::enrollment_tokens::TOPIC, "").await;
        for (belongings, count) in belongings.iter().zip(counts) {
            if count > 0 {
                belongings.released().await;
            }
        }
        Ok(())
    }

    /// Lets go of what belongs to teams that do not exist: what came to a team at the moment in which it was deleted.
    /// Ids are never given twice, so a team that is gone stays gone.
    pub async fn reconcile(&self) -> Result<(), IdentityError> {
        let database = &self.context.database;
        for belongings in self.attached.all() {
            let mut owners = belongings.owners(database).await?;
            if owners.is_empty() {
                continue;
            }
            let existing = store::team_ids(&mut &*database).await?;
            owners.retain(|team| !existing.contains(team));
            for team in owners {
                let now = self.context.now();
                let mut transaction = database.begin().await?;
                let count = belongings.release(&mut transaction, team, now).await?;
                if count == 0 {
                    continue;
                }
                let entry = AuditEntry::new("released_leftovers", "team", team)
                    .after(json!({ "released": { belongings.kind(): count } }));
                self.audit
                    .record(&mut transaction, &Actor::system(), entry, now)
                    .await?;
                transaction.commit().await?;
                belongings.released().await;
            }
        }
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

fn check_reserved(name: &str) -> Result<(), IdentityError> {
    let name = name.to_lowercase();
    match RESERVED_NAMES
        .iter()
        .find(|reserved| reserved.to_lowercase() == name)
    {
        Some(reserved) => {
            let reason = format!(
                "must not be {reserved:?}, which clients of Fleet's API take for no team at all"
            );
            Err(IdentityError::invalid("name", reason))
        }
        None => Ok(()),
    }
}
