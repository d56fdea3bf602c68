//! Which enrollment token gives which labels.

use std::collections::HashMap;

use muster_identity::{EnrollmentTokenId, TokenLabel};
use muster_store::{Executor, StoreError, args, statements};

use crate::record::LabelId;

statements! {
    /// A token gives a label.
    ADD = "INSERT INTO hosts_token_labels (token_id, label_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    /// A token gives what another one gives.
    COPY = "INSERT INTO hosts_token_labels (token_id, label_id)
        SELECT CAST($2 AS BIGINT), t.label_id FROM hosts_token_labels t WHERE t.token_id = $1";
    /// What one token gives, or what all of them do with 0.
    LIST = "SELECT t.token_id, l.id, l.name FROM hosts_token_labels t JOIN hosts_labels l ON l.id = t.label_id
        WHERE t.token_id = $1 OR $1 = 0 ORDER BY l.name, l.id";
}

pub(crate) async fn add(
    db: &mut impl Executor,
    token: EnrollmentTokenId,
    label: LabelId,
) -> Result<(), StoreError> {
    db.execute(ADD, args![token, label]).await.map(drop)
}

pub(crate) async fn copy(
    db: &mut impl Executor,
    from: EnrollmentTokenId,
    to: EnrollmentTokenId,
) -> Result<(), StoreError> {
    db.execute(COPY, args![from, to]).await.map(drop)
}

/// What one token gives, or what all of them do, by name.
pub(crate) async fn list(
    db: &mut impl Executor,
    one: Option<EnrollmentTokenId>,
) -> Result<HashMap<EnrollmentTokenId, Vec<TokenLabel>>, StoreError> {
    let one = one.map_or(0, |token| token.0);
    let mut labels: HashMap<_, Vec<TokenLabel>> = HashMap::new();
    for row in db.fetch_all(LIST, args![one]).await? {
        let label = TokenLabel {
            id: row.get("id")?,
            name: row.get("name")?,
        };
        labels.entry(row.get("token_id")?).or_default().push(label);
    }
    Ok(labels)
}
