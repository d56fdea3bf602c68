//! Labels as the check-in needs them: definitions, and one host's memberships.

use std::collections::BTreeSet;

use muster_clock::Timestamp;
use muster_identity::{EnrollmentTokenId, HostId};
use muster_store::{Executor, StoreError, Value, args, statements};

use super::numbered;
use crate::record::{LabelId, LabelMembership};

/// What the check-in needs of a label.
pub(crate) struct Definition {
    pub(crate) id: LabelId,
    pub(crate) name: String,
    pub(crate) is_dynamic: bool,
    pub(crate) query: String,
    pub(crate) platform: String,
    pub(crate) query_changed_at: Timestamp,
}

statements! {
    /// Every label.
    LIST = "SELECT id, name, membership, query, platform, query_changed_at FROM hosts_labels ORDER BY id";
    /// The labels that a host is in.
    LIST_OF_HOST = "SELECT label_id FROM hosts_label_members WHERE host_id = $1";
    /// Puts a host into the labels that its enrollment token gives.
    JOIN_THOSE_OF = "INSERT INTO hosts_label_members (label_id, host_id)
        SELECT t.label_id, CAST($1 AS BIGINT) FROM hosts_token_labels t WHERE t.token_id = $2 ON CONFLICT DO NOTHING";
}

pub(crate) async fn list(db: &mut impl Executor) -> Result<Vec<Definition>, StoreError> {
    let rows = db.fetch_all(LIST, args![]).await?;
    rows.iter()
        .map(|row| {
            let membership: String = row.get("membership")?;
            Ok(Definition {
                id: LabelId(row.get("id")?),
                name: row.get("name")?,
                is_dynamic: LabelMembership::from_text(&membership) == LabelMembership::Dynamic,
                query: row.get("query")?,
                platform: row.get("platform")?,
                query_changed_at: row.get("query_changed_at")?,
            })
        })
        .collect()
}

pub(crate) async fn of_host(
    db: &mut impl Executor,
    host: HostId,
) -> Result<BTreeSet<LabelId>, StoreError> {
    let rows = db.fetch_all(LIST_OF_HOST, args![host]).await?;
    rows.iter()
        .map(|row| Ok(LabelId(row.get("label_id")?)))
        .collect()
}

/// Puts a host into labels, as far as they still exist.
pub(crate) async fn join(
    db: &mut impl Executor,
    host: HostId,
    labels: &[LabelId],
) -> Result<(), StoreError> {
    if labels.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "INSERT INTO hosts_label_members (label_id, host_id)
        SELECT l.id, CAST($1 AS BIGINT) FROM hosts_labels l WHERE l.id IN ({}) ON CONFLICT DO NOTHING",
        numbered(2, labels.len())
    );
    db.execute(&sql, host_and(host, labels)).await.map(drop)
}

/// Puts a host into the labels that its enrollment token gives.
pub(crate) async fn join_those_of(
    db: &mut impl Executor,
    host: HostId,
    token: EnrollmentTokenId,
) -> Result<(), StoreError> {
    db.execute(JOIN_THOSE_OF, args![host, token])
        .await
        .map(drop)
}

/// Takes a host out of labels.
pub(crate) async fn leave(
    db: &mut impl Executor,
    host: HostId,
    labels: &[LabelId],
) -> Result<(), StoreError> {
    if labels.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "DELETE FROM hosts_label_members WHERE host_id = $1 AND label_id IN ({})",
        numbered(2, labels.len())
    );
    db.execute(&sql, host_and(host, labels)).await.map(drop)
}

fn host_and(host: HostId, labels: &[LabelId]) -> Vec<Value> {
    let mut values = args![host];
    values.extend(labels.iter().map(|label| Value::from(*label)));
    values
}
