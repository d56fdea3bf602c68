//! What operators say of one host: who uses it, and in which labels it is whose members are named.

use muster_http::Problem;
use muster_identity::{Action, Actor, AuditEntry, HostId, Principal, Scope};
use muster_store::Transaction;
use serde_json::json;

use super::{Hosts, OperatorError};
use crate::checkin::HOST_TOPIC;
use crate::device::{END_USER_SOURCE, is_email_kept};
use crate::record::{HostRecord, LabelId, LabelMembership, LabelRecord};
use crate::store;

/// The most labels that one request names.
const MAX_LABELS_AT_ONCE: usize = 1_000;

/// Into labels, or out of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// The host comes into them.
    Join,
    /// The host leaves them.
    Leave,
}

impl Membership {
    fn verb(self) -> &'static str {
        match self {
            Self::Join => "add",
            Self::Leave => "remove",
        }
    }
}

impl Hosts {
    /// Says who uses a host; the empty text takes it back. An agent that says something else later is believed.
    pub async fn set_end_user(
        &self,
        principal: &Principal,
        id: HostId,
        email: &str,
    ) -> Result<HostRecord, Problem> {
        let host = self.writable(principal, id).await?;
        let email = email.trim();
        if !is_email_kept(email) {
            let reason = "must have at most 255 bytes and no NUL";
            return Err(Problem::invalid("email", reason));
        }
        let done = async {
            let mut transaction = self.0.database.begin().await?;
            let before = store::user::list_end_users(&mut transaction, id).await?;
            let now = self.now();
            store::user::set_end_user(&mut transaction, id, END_USER_SOURCE, email, now).await?;
            let before = before.iter().find(|user| user.source == END_USER_SOURCE);
            let before = before.map_or("", |user| &user.email);
            if before != email {
                let entry = AuditEntry::new("changed_host_user", "host", id)
                    .before(json!({ "email": before }))
                    .after(json!({ "email": email }));
                self.note(&mut transaction, principal, entry).await?;
                transaction.commit().await?;
            }
            Ok(())
        };
        done.await.map_err(|error: OperatorError| error)?;
        Ok(host)
    }

    /// Puts a host into labels of these names, or takes it out of them: all of them, or none. Labels whose query decides
    /// about their members are refused.
    pub async fn change_labels_of(
        &self,
        principal: &Principal,
        id: HostId,
        change: Membership,
        names: &[String],
    ) -> Result<(), Problem> {
        let host = self.writable(principal, id).await?;
        if names.len() > MAX_LABELS_AT_ONCE {
            let reason = format!("must be at most {MAX_LABELS_AT_ONCE} at a time");
            return Err(Problem::invalid("labels", reason));
        }
        let labels = self.manual_labels(names, change).await?;
        let ids: Vec<LabelId> = labels.iter().map(|label| label.id).collect();
        let done = async {
            let mut transaction = self.0.database.begin().await?;
            match change {
                Membership::Join => store::label::join(&mut transaction, host.id, &ids).await?,
                Membership::Leave => store::label::leave(&mut transaction, host.id, &ids).await?,
            }
            let names: Vec<&str> = labels.iter().map(|label| label.name.as_str()).collect();
            let (entry, names) = (
                AuditEntry::new("changed_host_labels", "host", id),
                json!({ "labels": names }),
            );
            let entry = match change {
                Membership::Join => entry.after(names),
                Membership::Leave => entry.before(names),
            };
            self.note(&mut transaction, principal, entry).await?;
            transaction.commit().await?;
            Ok(())
        };
        if !ids.is_empty() {
            done.await.map_err(|error: OperatorError| error)?;
            self.hint(HOST_TOPIC, id).await;
        }
        Ok(())
    }

    /// A host that may be seen and changed.
    async fn writable(&self, principal: &Principal, id: HostId) -> Result<HostRecord, Problem> {
        let host = self.find(principal, id).await?;
        principal.authorize(Action::WriteHosts, Scope::Team(host.team_id))?;
        Ok(host)
    }

    async fn note(
        &self,
        transaction: &mut Transaction,
        principal: &Principal,
        entry: AuditEntry,
    ) -> Result<(), OperatorError> {
        let (audit, actor) = (&self.0.identity.audit, Actor::from(principal));
        Ok(audit.record(transaction, &actor, entry, self.now()).await?)
    }

    async fn manual_labels(
        &self,
        names: &[String],
        change: Membership,
    ) -> Result<Vec<LabelRecord>, Problem> {
        let mut all = store::operator::labels(&mut &self.0.database)
            .await
            .map_err(OperatorError::from)?;
        let verb = change.verb();
        let quoted = |names: Vec<&str>| {
            let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            names.join(", ")
        };
        let unknown = names
            .iter()
            .filter(|name| !all.iter().any(|label| label.name == **name));
        let unknown: Vec<&str> = unknown.map(String::as_str).collect();
        if !unknown.is_empty() {
            return Err(Problem::bad_request(format!(
                "Couldn't {verb} labels. Labels not found: {}. All labels must exist.",
                quoted(unknown)
            )));
        }
        all.retain(|label| names.contains(&label.name));
        let builtin = all.iter().filter(|label| label.builtin);
        let builtin: Vec<&str> = builtin.map(|label| label.name.as_str()).collect();
        if !builtin.is_empty() {
            return Err(Problem::bad_request(format!(
                "Couldn't {verb} labels. Labels are built-in: {}.",
                quoted(builtin)
            )));
        }
        let dynamic = all
            .iter()
            .filter(|label| label.membership != LabelMembership::Manual);
        let dynamic: Vec<&str> = dynamic.map(|label| label.name.as_str()).collect();
        if !dynamic.is_empty() {
            return Err(Problem::bad_request(format!(
                "Couldn't {verb} labels. Labels are dynamic: {}. Dynamic labels can not be assigned to hosts manually.",
                quoted(dynamic)
            )));
        }
        Ok(all)
    }
}
