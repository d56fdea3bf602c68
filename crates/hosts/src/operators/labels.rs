//! Labels: who is in them, and what they ask.

use muster_http::Problem;
use muster_identity::{Action, Actor, AuditEntry, HostId, Principal, Scope, TeamFilter};
use muster_store::{Executor, StoreError, Transaction};
use serde_json::{Value, json};

use super::{Hosts, OperatorError, Selection};
use crate::checkin::{HOST_TOPIC, LABELS_TOPIC};
use crate::record::{LabelId, LabelMembership, LabelRecord};
use crate::store;

/// The longest name of a label, in characters.
const MAX_LABEL_CHARACTERS: usize = 255;
/// The longest query of a label, in bytes.
const MAX_QUERY_BYTES: usize = 64 * 1024;

/// What a new label is to be.
#[derive(Debug, Clone, Default)]
pub struct NewLabel {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The query whose rows make a host a member; empty for a label whose members are named.
    pub query: String,
    /// Platforms that the query is sent to, with commas; empty: all.
    pub platform: String,
    /// Its members, when it has no query: host names, UUIDs or serial numbers. None: it has a query.
    pub hosts: Option<Vec<String>>,
    /// Its members by id, beside those that are named.
    pub host_ids: Option<Vec<i64>>,
}

/// How a label is to change; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct LabelChange {
    /// Its name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Its query.
    pub query: Option<String>,
    /// Platforms that the query is sent to.
    pub platform: Option<String>,
    /// All its members from now on: host names, UUIDs or serial numbers.
    pub hosts: Option<Vec<String>>,
    /// All its members from now on, by id, beside those that are named.
    pub host_ids: Option<Vec<i64>>,
}

/// A document that says how a label of that name is to be.
#[derive(Debug, Clone, Default)]
pub struct LabelSpecification {
    /// Its name, which is the key.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its query; empty for a label whose members are named.
    pub query: String,
    /// Platforms that the query is sent to.
    pub platform: String,
    /// Whether operators decide who is in it.
    pub is_manual: bool,
    /// All its members; absent: as they are.
    pub hosts: Option<Vec<String>>,
}

impl Hosts {
    /// All labels with how many hosts are in each, of those that may be seen.
    pub async fn labels(
        &self,
        visible: &TeamFilter,
    ) -> Result<Vec<(LabelRecord, u64)>, OperatorError> {
        let mut db = &self.0.database;
        let counts = store::operator::label_counts(&mut db, visible).await?;
        let labels = store::operator::labels(&mut db).await?;
        let count = |id: LabelId| {
            let count = counts.iter().find(|(label, _)| *label == id);
            count.map_or(0, |(_, count)| *count)
        };
        let counted = |label: LabelRecord| {
            let count = count(label.id);
            (label, count)
        };
        Ok(labels.into_iter().map(counted).collect())
    }

    /// One label with how many hosts are in it, of those that may be seen.
    pub async fn find_label(
        &self,
        visible: &TeamFilter,
        id: LabelId,
    ) -> Result<(LabelRecord, u64), OperatorError> {
        let mut labels = self.labels(visible).await?.into_iter();
        let found = labels.find(|(label, _)| label.id == id);
        found.ok_or_else(|| OperatorError::UnknownLabel(id.to_string()))
    }

    /// The label of exactly that name.
    pub async fn find_label_by_name(
        &self,
        name: &str,
    ) -> Result<Option<LabelRecord>, OperatorError> {
        let labels = store::operator::labels(&mut &self.0.database).await?;
        Ok(labels.into_iter().find(|label| label.name == name))
    }

    /// The members of a label by what each is matched by, as a document has them.
    pub async fn members_of(&self, label: LabelId) -> Result<Vec<String>, OperatorError> {
        Ok(store::operator::members(&mut &self.0.database, label).await?)
    }

    /// The members of a label by their ids.
    pub async fn member_ids_of(&self, label: LabelId) -> Result<Vec<HostId>, OperatorError> {
        Ok(store::operator::member_ids(&mut &self.0.database, label).await?)
    }

    /// The hosts that a request puts into a label; none when it says nothing of members.
    async fn named_members(
        &self,
        hosts: Option<Vec<String>>,
        host_ids: Option<Vec<i64>>,
    ) -> Result<Option<Vec<HostId>>, OperatorError> {
        if hosts.is_none() && host_ids.is_none() {
            return Ok(None);
        }
        let selection = Selection {
            hosts: hosts.unwrap_or_default(),
            host_ids: host_ids.unwrap_or_default(),
            ..Selection::default()
        };
        let members = self.select(&selection, &TeamFilter::All).await?;
        let missing = |id: &&i64| !members.iter().any(|host| host.id.0 == **id);
        let unknown: Vec<String> = selection
            .host_ids
            .iter()
            .filter(missing)
            .map(ToString::to_string)
            .collect();
        if unknown.is_empty() {
            Ok(Some(members.iter().map(|host| host.id).collect()))
        } else {
            Err(OperatorError::UnknownHosts(unknown))
        }
    }

    /// Makes a label: with a query, hosts that answer it with a row are in; without one, the hosts that are named.
    pub async fn create_label(
        &self,
        principal: &Principal,
        new: NewLabel,
    ) -> Result<LabelRecord, Problem> {
        principal.authorize(Action::WriteLabels, Scope::Team(None))?;
        let now = self.now();
        let members = self.named_members(new.hosts, new.host_ids).await?;
        let label = LabelRecord {
            id: LabelId(0),
            name: new.name.trim().to_owned(),
            description: new.description,
            query: new.query,
            platform: new.platform,
            builtin: false,
            membership: if members.is_some() {
                LabelMembership::Manual
            } else {
                LabelMembership::Dynamic
            },
            created_at: now,
            updated_at: now,
            query_changed_at: now,
        };
        check(&label)?;
        if let Some(other) = self.find_label_by_name(&label.name).await?
            && other.builtin
        {
            let reason = format!(
                "cannot add label '{}' because it conflicts with the name of a built-in label",
                label.name
            );
            return Err(Problem::invalid("name", reason));
        }
        let mut transaction = self.begin().await?;
        let write = Write::Insert {
            label,
            members: members.clone(),
        };
        let label = self.put(&mut transaction, principal, write).await?;
        transaction.commit().await.map_err(OperatorError::from)?;
        let written = [label];
        self.changed(&written, &members.unwrap_or_default()).await;
        let [label] = written;
        Ok(label)
    }

    /// Changes a label; built-in ones stay as they are, and a label keeps the way in which its members are found.
    pub async fn change_label(
        &self,
        principal: &Principal,
        id: LabelId,
        change: LabelChange,
    ) -> Result<LabelRecord, Problem> {
        principal.authorize(Action::WriteLabels, Scope::Team(None))?;
        let members = self.named_members(change.hosts, change.host_ids).await?;
        // What stays is read where it is written, so that two changes at once do not undo each other.
        let mut transaction = self.begin().await?;
        let before = label_for_update(&mut transaction, id).await?;
        if before.builtin {
            let reason = format!("cannot modify built-in label '{}'", before.name);
            return Err(Problem::invalid("name", reason));
        }
        if members.is_some() && before.membership != LabelMembership::Manual {
            return Err(Problem::invalid(
                "hosts",
                "the query of this label decides about its members",
            ));
        }
        let mut after = before.clone();
        after.name = change
            .name
            .map_or(after.name, |name| name.trim().to_owned());
        after.description = change.description.unwrap_or(after.description);
        after.query = change.query.unwrap_or(after.query);
        after.platform = change.platform.unwrap_or(after.platform);
        self.stamp(&before, &mut after);
        check(&after)?;
        let old = match &members {
            Some(_) => store::operator::member_ids(&mut transaction, id).await,
            None => Ok(Vec::new()),
        };
        let old = old.map_err(OperatorError::from)?;
        let touched: Vec<HostId> = old
            .into_iter()
            .chain(members.iter().flatten().copied())
            .collect();
        let write = Write::Update {
            before,
            after,
            members,
        };
        let after = self.put(&mut transaction, principal, write).await?;
        transaction.commit().await.map_err(OperatorError::from)?;
        let written = [after];
        self.changed(&written, &touched).await;
        let [after] = written;
        Ok(after)
    }

    /// Makes labels as documents say, or changes those of the same name: all of them, or none. Built-in labels are
    /// accepted when they are unchanged.
    pub async fn apply_labels(
        &self,
        principal: &Principal,
        specifications: Vec<LabelSpecification>,
    ) -> Result<(), Problem> {
        principal.authorize(Action::WriteLabels, Scope::Team(None))?;
        let now = self.now();
        let mut wished = Vec::with_capacity(specifications.len());
        for mut spec in specifications {
            let hosts = spec.hosts.take();
            let names_any = hosts.as_ref().is_some_and(|hosts| !hosts.is_empty());
            let hosts = hosts.filter(|_| spec.is_manual);
            let members = self.named_members(hosts, None).await?;
            wished.push((spec, names_any, members));
        }
        let mut transaction = self.begin().await?;
        let all = store::operator::labels_for_update(&mut transaction)
            .await
            .map_err(OperatorError::from)?;
        let mut written = Vec::new();
        let mut touched = Vec::new();
        for (spec, names_any, members) in wished {
            let existing = all.iter().find(|label| label.name == spec.name.trim());
            if let Some(label) = existing.filter(|label| label.builtin) {
                let is_same = spec.query == label.query && spec.description == label.description;
                if is_same && !names_any {
                    continue;
                }
                let reason = format!("cannot modify built-in label '{}'", label.name);
                return Err(Problem::invalid("name", reason));
            }
            let membership = if spec.is_manual {
                LabelMembership::Manual
            } else {
                LabelMembership::Dynamic
            };
            if existing.is_some_and(|label| label.membership != membership) {
                let reason = format!(
                    "the way in which the members of '{}' are found cannot be changed",
                    spec.name
                );
                return Err(Problem::invalid("label_membership_type", reason));
            }
            if spec.is_manual && members.is_none() && existing.is_none() {
                let reason = format!(
                    "label {} is declared as manual but contains no `hosts key`",
                    spec.name
                );
                return Err(Problem::invalid("base", reason));
            }
            let mut after = LabelRecord {
                id: existing.map_or(LabelId(0), |label| label.id),
                name: spec.name.trim().to_owned(),
                description: spec.description,
                query: spec.query,
                platform: spec.platform,
                builtin: false,
                membership,
                created_at: existing.map_or(now, |label| label.created_at),
                updated_at: existing.map_or(now, |label| label.updated_at),
                query_changed_at: existing.map_or(now, |label| label.query_changed_at),
            };
            check(&after)?;
            touched.extend(members.iter().flatten().copied());
            let Some(before) = existing else {
                let write = Write::Insert {
                    label: after,
                    members,
                };
                written.push(self.put(&mut transaction, principal, write).await?);
                continue;
            };
            let old = store::operator::member_ids(&mut transaction, before.id)
                .await
                .map_err(OperatorError::from)?;
            let members = members.filter(|members| *members != old);
            if members.is_some() {
                touched.extend(old);
            }
            if after == *before && members.is_none() {
                continue;
            }
            self.stamp(before, &mut after);
            let write = Write::Update {
                before: before.clone(),
                after,
                members,
            };
            written.push(self.put(&mut transaction, principal, write).await?);
        }
        if written.is_empty() {
            return Ok(());
        }
        transaction.commit().await.map_err(OperatorError::from)?;
        self.changed(&written, &touched).await;
        Ok(())
    }

    /// Deletes a label; built-in ones stay.
    pub async fn delete_label(&self, principal: &Principal, id: LabelId) -> Result<(), Problem> {
        principal.authorize(Action::WriteLabels, Scope::Team(None))?;
        let mut transaction = self.begin().await?;
        let label = label_for_update(&mut transaction, id).await?;
        if label.builtin {
            let reason = format!("cannot delete built-in label '{}'", label.name);
            return Err(Problem::invalid("name", reason));
        }
        let done = async {
            let members = store::operator::member_ids(&mut transaction, id).await?;
            store::operator::delete_label(&mut transaction, id).await?;
            let pair = (Some(&label), None);
            self.record(&mut transaction, principal, "deleted_label", id, pair)
                .await?;
            transaction.commit().await?;
            Ok(members)
        };
        let members = done
            .await
            .map_err(|error: StoreError| OperatorError::from(error))?;
        self.changed(&[label], &members).await;
        Ok(())
    }

    /// A label that changed was changed now; one that asks something else is evaluated anew.
    fn stamp(&self, before: &LabelRecord, after: &mut LabelRecord) {
        after.updated_at = self.now();
        if (&before.query, &before.platform) != (&after.query, &after.platform) {
            after.query_changed_at = after.updated_at;
        }
    }

    async fn begin(&self) -> Result<Transaction, OperatorError> {
        Ok(self.0.database.begin().await?)
    }

    /// Writes one change. Gives the label as it is now.
    async fn put(
        &self,
        transaction: &mut Transaction,
        principal: &Principal,
        write: Write,
    ) -> Result<LabelRecord, OperatorError> {
        let (action, before, after, members) = match write {
            Write::Insert { mut label, members } => {
                let author = principal.user_id;
                let inserted = store::operator::insert_label(transaction, &label, author).await;
                label.id = inserted.map_err(|error| named(error, &label.name))?;
                ("created_label", None, label, members)
            }
            Write::Update {
                before,
                after,
                members,
            } => {
                let updated = store::operator::update_label(transaction, &after).await;
                if !updated.map_err(|error| named(error, &after.name))? {
                    return Err(OperatorError::UnknownLabel(after.id.to_string()));
                }
                ("edited_label", Some(before), after, members)
            }
        };
        if let Some(members) = members {
            store::operator::set_members(transaction, after.id, &members).await?;
        }
        let pair = (before.as_ref(), Some(&after));
        self.record(transaction, principal, action, after.id, pair)
            .await?;
        Ok(after)
    }

    async fn record(
        &self,
        db: &mut impl Executor,
        principal: &Principal,
        action: &'static str,
        id: LabelId,
        (before, after): (Option<&LabelRecord>, Option<&LabelRecord>),
    ) -> Result<(), StoreError> {
        let mut entry = AuditEntry::new(action, "label", id);
        entry.before = before.map(shown);
        entry.after = after.map(shown);
        let actor = Actor::from(principal);
        self.0
            .identity
            .audit
            .record(db, &actor, entry, self.now())
            .await
    }

    async fn changed(&self, labels: &[LabelRecord], members: &[HostId]) {
        for label in labels {
            self.hint(LABELS_TOPIC, label.id).await;
        }
        for host in members {
            self.hint(HOST_TOPIC, host).await;
        }
    }
}

async fn label_for_update(
    transaction: &mut Transaction,
    id: LabelId,
) -> Result<LabelRecord, OperatorError> {
    let labels = store::operator::label_for_update(transaction, id).await?;
    labels.ok_or_else(|| OperatorError::UnknownLabel(id.to_string()))
}

/// A change to be written.
enum Write {
    Insert {
        label: LabelRecord,
        members: Option<Vec<HostId>>,
    },
    Update {
        before: LabelRecord,
        after: LabelRecord,
        members: Option<Vec<HostId>>,
    },
}

fn shown(label: &LabelRecord) -> Value {
    json!({
        "name": label.name, "description": label.description, "query": label.query, "platform": label.platform,
    })
}

fn named(error: StoreError, name: &str) -> OperatorError {
    if error.is_duplicate() {
        OperatorError::DuplicateLabel(name.to_owned())
    } else {
        error.into()
    }
}

fn check(label: &LabelRecord) -> Result<(), Problem> {
    let characters = label.name.chars().count();
    if characters == 0 || characters > MAX_LABEL_CHARACTERS {
        let reason = format!("must have from 1 to {MAX_LABEL_CHARACTERS} characters");
        return Err(Problem::invalid("name", reason));
    }
    let is_empty = label.query.trim().is_empty();
    match label.membership {
        LabelMembership::Dynamic if is_empty => Err(Problem::invalid("query", "must not be empty")),
        LabelMembership::Manual if !is_empty => Err(Problem::invalid(
            "hosts",
            "a label has either a query or hosts, not both",
        )),
        _ if label.query.len() > MAX_QUERY_BYTES => {
            let reason = format!("must have at most {MAX_QUERY_BYTES} bytes");
            Err(Problem::invalid("query", reason))
        }
        _ => Ok(()),
    }
}
