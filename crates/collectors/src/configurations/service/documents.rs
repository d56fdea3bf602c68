//! Making, changing and reading configurations and their versions.

use std::collections::BTreeSet;

use muster_http::{Listing, Page, Problem};
use muster_identity::{
    Action, Actor, AuditEntry, IdentityError, Principal, Scope, TeamFilter, TeamId,
};
use muster_store::Transaction;
use serde_json::{Value, json};

use super::{Configurations, beside, may_read};
use crate::configurations::check::check;
use crate::configurations::components::Components;
use crate::configurations::diff::{FileDiff, between_files};
use crate::configurations::document::{
    Files, Kind, MAX_CONFIGURATIONS, MAX_NAME_CHARACTERS, MAX_TEXT_BYTES, MAX_VERSIONS_KEPT,
    check_limits, display_name, hash,
};
use crate::configurations::error::ConfigurationError;
use crate::configurations::finding::{Finding, Severity, has_errors};
use crate::configurations::model::{Configuration, NewVersion, VersionInfo};
use crate::configurations::store;
use crate::masking::Masking;

/// What a new configuration is to be.
#[derive(Debug, Clone)]
pub struct NewConfiguration {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The team whose collectors it is for; none: those of all teams.
    pub team_id: Option<TeamId>,
    /// What kind of agent it is for.
    pub kind: Kind,
    /// The files of its first version.
    pub files: Files,
    /// Why that is made.
    pub note: String,
}

/// How a configuration is to change; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct ConfigurationChange {
    /// Its name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
}

/// A version that was made, or that was there already.
#[derive(Debug, Clone)]
pub struct Made {
    /// The configuration.
    pub configuration: Configuration,
    /// The version.
    pub version: VersionInfo,
    /// Whether it is new: files that are the same as those of the newest version make none.
    pub is_new: bool,
    /// How many assignments moved on to it.
    pub assignments_moved: usize,
    /// What may be wrong with it.
    pub warnings: Vec<Finding>,
}

/// The name under which a configuration, with its versions and assignments, is changed by one at a time.
pub(super) fn lock_name(id: i64) -> String {
    format!("collectors.config {id}")
}

fn shown(configuration: &Configuration) -> Value {
    json!({
        "name": configuration.name,
        "description": configuration.description,
        "kind": configuration.kind.name(),
        "team_id": configuration.team_id,
    })
}

fn check_text(field: &'static str, text: &str) -> Result<(), ConfigurationError> {
    if text.len() > MAX_TEXT_BYTES || text.contains('\0') {
        let reason = format!("must be text of at most {MAX_TEXT_BYTES} bytes");
        return Err(ConfigurationError::invalid(field, reason));
    }
    Ok(())
}

fn checked_name(name: &str) -> Result<String, ConfigurationError> {
    let name = name.trim();
    let characters = name.chars().count();
    if characters == 0 || characters > MAX_NAME_CHARACTERS || name.chars().any(char::is_control) {
        return Err(ConfigurationError::name());
    }
    Ok(name.to_owned())
}

/// Warnings about what looks like secrets.
fn open_secrets(files: &Files, masking: &Masking) -> Vec<Finding> {
    let is_open = |body: &str| masking.file(body).is_some_and(|masked| masked != body);
    let open = files.iter().filter(|(_, file)| is_open(&file.body));
    open.map(|(name, _)| Finding {
        severity: Severity::Warning,
        file: Some(name.clone()),
        line: None,
        column: None,
        message: "has what looks like a secret in plain text; whoever may write configurations can read it. \
                  ${env:NAME} takes it from the collector's surroundings instead"
            .to_owned(),
    })
    .collect()
}

/// A version that is to be made.
#[derive(Debug, Clone, Default)]
pub struct NewFiles {
    /// All its files.
    pub files: Files,
    /// Why it is made.
    pub note: String,
    /// Whether all assignments of the configuration move on to it.
    pub moves_all: bool,
    /// The newest version when the files were written, if whoever wrote them knows: when there is a newer one by now, nothing
    /// is done.
    pub base_version: Option<i64>,
}

impl Configurations {
    /// What is found in files, without keeping them: within their limits, and for agents with these components.
    pub async fn check_files(
        &self,
        kind: Kind,
        files: &Files,
        available: Option<Components>,
    ) -> Result<Vec<Finding>, ConfigurationError> {
        check_limits(files).map_err(|reason| ConfigurationError::invalid("files", reason))?;
        let (files, masking) = (files.clone(), self.0.parts.masking.clone());
        let all = beside(move || {
            let mut findings = check(kind, &files, available.as_ref());
            findings.extend(open_secrets(&files, &masking));
            findings
        });
        Ok(all.await?)
    }

    /// What may be wrong with files that are good.
    async fn good_files(
        &self,
        kind: Kind,
        files: &Files,
    ) -> Result<Vec<Finding>, ConfigurationError> {
        let findings = self.check_files(kind, files, None).await?;
        if has_errors(&findings) {
            return Err(ConfigurationError::Bad(findings));
        }
        Ok(findings)
    }

    /// Makes a configuration with a first version.
    pub async fn create(
        &self,
        principal: &Principal,
        new: NewConfiguration,
    ) -> Result<Made, Problem> {
        let scope = Scope::Team(new.team_id);
        principal.authorize(Action::WriteCollectorConfigs, scope)?;
        if let Some(team) = new.team_id {
            match self.0.parts.identity.teams.find(team).await {
                Err(IdentityError::NotFound { what }) => {
                    return Err(Problem::invalid(
                        "team_id",
                        format!("{what} does not exist"),
                    ));
                }
                found => found.map(drop)?,
            }
        }
        let warnings = self.good_files(new.kind, &new.files).await?;
        check_text("description", &new.description)?;
        check_text("note", &new.note)?;
        let now = self.now();
        let configuration = Configuration {
            id: 0,
            team_id: new.team_id,
            name: checked_name(&new.name)?,
            description: new.description,
            kind: new.kind,
            newest_version: 0,
            created_at: now,
            updated_at: now,
        };
        Ok(self
            .insert(principal, configuration, &new.files, &new.note, warnings)
            .await?)
    }

    async fn insert(
        &self,
        principal: &Principal,
        mut configuration: Configuration,
        files: &Files,
        note: &str,
        warnings: Vec<Finding>,
    ) -> Result<Made, ConfigurationError> {
        let mut db = self.database().begin().await?;
        db.lock(&["collectors.configs".to_owned()]).await?;
        if store::document::count(&mut db, configuration.team_id).await?
            >= MAX_CONFIGURATIONS as i64
        {
            return Err(ConfigurationError::TooMany);
        }
        let name = &configuration.name;
        if store::document::find_by_name(&mut db, configuration.team_id, name)
            .await?
            .is_some()
        {
            return Err(ConfigurationError::NameTaken(name.clone()));
        }
        configuration.id = store::document::insert(&mut db, &configuration).await?;
        let version = self
            .add_version(&mut db, principal, &mut configuration, files, note)
            .await?;
        let entry = AuditEntry::new(
            "created_collector_config",
            "collector_config",
            configuration.id,
        )
        .after(shown(&configuration));
        self.0
            .parts
            .identity
            .audit
            .record(&mut db, &principal.into(), entry, configuration.created_at)
            .await?;
        db.commit().await?;
        Ok(Made {
            configuration,
            version,
            is_new: true,
            assignments_moved: 0,
            warnings,
        })
    }

    async fn add_version(
        &self,
        db: &mut Transaction,
        principal: &Principal,
        configuration: &mut Configuration,
        files: &Files,
        note: &str,
    ) -> Result<VersionInfo, ConfigurationError> {
        let now = self.now();
        let hash = hash(files);
        let number = configuration.newest_version + 1;
        let new = NewVersion {
            version: number,
            hash: &hash,
            note,
            author_id: Some(principal.user_id.0),
            author_name: &principal.name,
            author_email: &principal.email,
            files,
        };
        store::document::add_version(db, configuration.id, &new, now).await?;
        store::document::prune(db, configuration.id, MAX_VERSIONS_KEPT as i64).await?;
        configuration.newest_version = number;
        configuration.updated_at = now;
        let entry = AuditEntry::new("created_collector_config_version", "collector_config", configuration.id)
            .after(json!({ "version": number, "hash": hash, "note": note, "files": files.keys().collect::<Vec<_>>() }));
        self.0
            .parts
            .identity
            .audit
            .record(db, &principal.into(), entry, now)
            .await?;
        Ok(VersionInfo {
            version: number,
            hash,
            note: note.to_owned(),
            author_name: principal.name.clone(),
            author_email: principal.email.clone(),
            created_at: now,
        })
    }

    /// Makes the next version, unless the newest has the same files. Assignments that follow the newest move on to it, and
    /// with `moves_all` all assignments of the configuration.
    pub async fn push(
        &self,
        principal: &Principal,
        id: i64,
        new: NewFiles,
    ) -> Result<Made, Problem> {
        check_text("note", &new.note)?;
        let seen = self.find(principal, id).await?;
        principal.authorize(Action::WriteCollectorConfigs, Scope::Team(seen.team_id))?;
        let warnings = self.good_files(seen.kind, &new.files).await?;
        Ok(self.push_good(principal, id, &new, warnings).await?)
    }

    async fn push_good(
        &self,
        principal: &Principal,
        id: i64,
        new: &NewFiles,
        warnings: Vec<Finding>,
    ) -> Result<Made, ConfigurationError> {
        let now = self.now();
        let (mut db, mut configuration) = self.held(id).await?;
        let number = configuration.newest_version;
        let newest = store::document::find_version(&mut db, id, number).await?;
        let same = newest.filter(|newest| newest.hash == hash(&new.files));
        let is_new = same.is_none();
        let version = match (same, new.base_version) {
            (Some(same), _) => same,
            (None, Some(base)) if base != number => {
                return Err(ConfigurationError::Conflict(format!(
                    "the newest version is {number} now, and not {base}; look at what is different between them, and push \
                     again from there"
                )));
            }
            (None, _) => {
                self.add_version(
                    &mut db,
                    principal,
                    &mut configuration,
                    &new.files,
                    &new.note,
                )
                .await?
            }
        };
        let mut assignments_moved = 0;
        for before in store::assignment::of_configuration(&mut db, id).await? {
            let is_meant = new.moves_all || (before.follows_newest && is_new);
            if !is_meant || before.version == version.version {
                continue;
            }
            let mut after = before.clone();
            self.move_to(&mut db, &mut after, version.version, now)
                .await?;
            self.write_assignment(&mut db, &principal.into(), Some(&before), &after)
                .await?;
            assignments_moved += 1;
        }
        db.commit().await?;
        if assignments_moved > 0 {
            self.plan_all();
        }
        Ok(Made {
            configuration,
            version,
            is_new,
            assignments_moved,
            warnings,
        })
    }

    /// A unit of work in which nobody else changes this configuration.
    pub(super) async fn held(
        &self,
        id: i64,
    ) -> Result<(Transaction, Configuration), ConfigurationError> {
        let mut db = self.database().begin().await?;
        db.lock(&[lock_name(id)]).await?;
        let found = store::document::find(&mut db, id).await?;
        let configuration = found.ok_or_else(|| unknown(id))?;
        Ok((db, configuration))
    }

    /// Changes what a configuration is called.
    pub async fn change(
        &self,
        principal: &Principal,
        id: i64,
        change: ConfigurationChange,
    ) -> Result<Configuration, Problem> {
        let seen = self.find(principal, id).await?;
        principal.authorize(Action::WriteCollectorConfigs, Scope::Team(seen.team_id))?;
        if let Some(description) = &change.description {
            check_text("description", description)?;
        }
        let name = change.name.as_deref().map(checked_name).transpose()?;
        Ok(self
            .change_checked(principal, id, name, change.description)
            .await?)
    }

    async fn change_checked(
        &self,
        principal: &Principal,
        id: i64,
        name: Option<String>,
        description: Option<String>,
    ) -> Result<Configuration, ConfigurationError> {
        let (mut db, before) = self.held(id).await?;
        let mut after = before.clone();
        after.name = name.unwrap_or(after.name);
        after.description = description.unwrap_or(after.description);
        if after == before {
            return Ok(after);
        }
        let same_name = store::document::find_by_name(&mut db, after.team_id, &after.name).await?;
        if same_name.is_some_and(|other| other.id != id) {
            return Err(ConfigurationError::NameTaken(after.name));
        }
        after.updated_at = self.now();
        let updated = store::document::update(&mut db, &after).await;
        // Of two that take one name at once, one is late.
        updated.map_err(|error| {
            if error.is_duplicate() {
                ConfigurationError::NameTaken(after.name.clone())
            } else {
                error.into()
            }
        })?;
        let entry = AuditEntry::new("changed_collector_config", "collector_config", id)
            .before(shown(&before))
            .after(shown(&after));
        let actor = Actor::from(principal);
        self.0
            .parts
            .identity
            .audit
            .record(&mut db, &actor, entry, after.updated_at)
            .await?;
        db.commit().await?;
        Ok(after)
    }

    /// Deletes a configuration that is not assigned.
    pub async fn delete(&self, principal: &Principal, id: i64) -> Result<(), Problem> {
        let seen = self.find(principal, id).await?;
        principal.authorize(Action::WriteCollectorConfigs, Scope::Team(seen.team_id))?;
        Ok(self.delete_unassigned(principal, id).await?)
    }

    async fn delete_unassigned(
        &self,
        principal: &Principal,
        id: i64,
    ) -> Result<(), ConfigurationError> {
        let (mut db, configuration) = self.held(id).await?;
        let assignments = store::assignment::of_configuration(&mut db, id).await?;
        if !assignments.is_empty() {
            let ids: Vec<String> = assignments
                .iter()
                .map(|assignment| assignment.claim.id.to_string())
                .collect();
            return Err(ConfigurationError::Conflict(format!(
                "the configuration is assigned (assignments {}); delete those first",
                ids.join(", ")
            )));
        }
        store::document::delete(&mut db, id).await?;
        let entry = AuditEntry::new("deleted_collector_config", "collector_config", id)
            .before(shown(&configuration));
        self.0
            .parts
            .identity
            .audit
            .record(&mut db, &principal.into(), entry, self.now())
            .await?;
        db.commit().await?;
        Ok(())
    }

    /// A configuration that the principal may see.
    pub async fn find(
        &self,
        principal: &Principal,
        id: i64,
    ) -> Result<Configuration, ConfigurationError> {
        let found = store::document::find(&mut self.database(), id).await?;
        found
            .filter(|configuration| may_read(principal, configuration.team_id))
            .ok_or_else(|| unknown(id))
    }

    /// A page of the configurations that the principal may see.
    pub async fn list(
        &self,
        principal: &Principal,
        team: Option<i64>,
        listing: &Listing,
    ) -> Result<Page<Configuration>, ConfigurationError> {
        let visible = principal.teams_for(Action::ReadCollectorConfigs);
        let mut db = self.database();
        let (items, total) = store::document::list(&mut db, &visible, team, listing).await?;
        Ok(listing.page(items, total))
    }

    /// A page of a configuration's versions.
    pub async fn versions(
        &self,
        principal: &Principal,
        id: i64,
        listing: &Listing,
    ) -> Result<Page<VersionInfo>, ConfigurationError> {
        self.find(principal, id).await?;
        let mut db = self.database();
        let (items, total) = store::document::versions(&mut db, id, listing).await?;
        Ok(listing.page(items, total))
    }

    /// A version with its files. Whoever may not write configurations sees no secrets in them: says whether some are masked.
    pub async fn version_files(
        &self,
        principal: &Principal,
        id: i64,
        number: Option<i64>,
    ) -> Result<(VersionInfo, Files, bool), ConfigurationError> {
        let configuration = self.find(principal, id).await?;
        let number = number.unwrap_or(configuration.newest_version);
        let mut db = self.database();
        let unknown =
            || ConfigurationError::Unknown(format!("version {number} of configuration {id}"));
        let info = store::document::find_version(&mut db, id, number)
            .await?
            .ok_or_else(unknown)?;
        let files = store::document::files(&mut db, id, number)
            .await?
            .ok_or_else(unknown)?;
        if Self::may_see_secrets(principal, &configuration) {
            return Ok((info, files, false));
        }
        let (files, is_masked) = self.masked(files);
        Ok((info, files, is_masked))
    }

    fn may_see_secrets(principal: &Principal, configuration: &Configuration) -> bool {
        principal.may(
            Action::WriteCollectorConfigs,
            Scope::Team(configuration.team_id),
        )
    }

    /// Files with what looks like a secret masked, and whether there was something.
    pub(super) fn masked(&self, mut files: Files) -> (Files, bool) {
        let mut is_masked = false;
        for (name, file) in &mut files {
            let body = self.0.parts.masking.file(&file.body).unwrap_or_else(|| {
                format!(
                    "# the file {} cannot be read, so that secrets in it could not be masked\n",
                    display_name(name)
                )
            });
            is_masked |= body != file.body;
            file.body = body;
        }
        (files, is_masked)
    }

    /// What is different between two versions; without a first one, between the newest and the one before.
    pub async fn diff(
        &self,
        principal: &Principal,
        id: i64,
        from: Option<i64>,
        to: Option<i64>,
    ) -> Result<(i64, i64, Vec<FileDiff>), ConfigurationError> {
        let configuration = self.find(principal, id).await?;
        let to = to.unwrap_or(configuration.newest_version);
        let mut db = self.database();
        let before = store::document::version_before(&mut db, id, to).await?;
        let from = match from {
            Some(from) => from,
            None => before.unwrap_or(0),
        };
        let (_, after, _) = self.version_files(principal, id, Some(to)).await?;
        // Before the first there was nothing.
        let before = match from {
            0 => Files::new(),
            from => self.version_files(principal, id, Some(from)).await?.1,
        };
        Ok((from, to, between_files(&before, &after)))
    }

    /// The teams whose collectors the principal may be told of, in numbers.
    pub(super) fn counted_teams(principal: &Principal) -> TeamFilter {
        let teams = [Action::ReadHosts, Action::ReadCollectorConfigs]
            .map(|action| principal.teams_for(action));
        match teams {
            [TeamFilter::All, _] | [_, TeamFilter::All] => TeamFilter::All,
            [TeamFilter::Only(a), TeamFilter::Only(b)] => {
                let all: BTreeSet<TeamId> = a.into_iter().chain(b).collect();
                TeamFilter::Only(all.into_iter().collect())
            }
        }
    }
}

pub(super) fn unknown(id: i64) -> ConfigurationError {
    ConfigurationError::Unknown(format!("configuration {id}"))
}
