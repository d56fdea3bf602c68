//! The SQL of this crate.

use muster_clock::Timestamp;
use muster_store::{Executor, Row, StoreError, args, statements};
use serde_json::Value;

/// A document as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    pub(crate) name: String,
    pub(crate) team_id: i64,
    pub(crate) body: Value,
    pub(crate) version: i64,
}

statements! {
    /// All documents; there are a few per team.
    LIST = "SELECT name, team_id, body, version FROM settings_documents ORDER BY name, team_id";
    /// One document.
    FIND = "SELECT name, team_id, body, version FROM settings_documents WHERE name = $1 AND team_id = $2";
    /// The first version of a document, unless somebody was first.
    INSERT = "INSERT INTO settings_documents (name, team_id, body, version, updated_at)
        VALUES ($1, $2, $3, 1, $4) ON CONFLICT DO NOTHING";
    /// The next version of a document, unless somebody was first.
    UPDATE = "UPDATE settings_documents SET body = $3, version = version + 1, updated_at = $4
        WHERE name = $1 AND team_id = $2 AND version = $5";
    /// The teams that have documents of their own.
    TEAMS = "SELECT DISTINCT team_id FROM settings_documents WHERE team_id <> 0";
    /// Everything of a team.
    DELETE_TEAM = "DELETE FROM settings_documents WHERE team_id = $1";
}

fn document(row: &Row) -> Result<Document, StoreError> {
    let body: String = row.get("body")?;
    Ok(Document {
        name: row.get("name")?,
        team_id: row.get("team_id")?,
        body: serde_json::from_str(&body).map_err(|error| {
            StoreError::corrupt("read a document of settings", error.to_string())
        })?,
        version: row.get("version")?,
    })
}

pub(crate) async fn list(db: &mut impl Executor) -> Result<Vec<Document>, StoreError> {
    let rows = db.fetch_all(LIST, args![]).await?;
    rows.iter().map(document).collect()
}

pub(crate) async fn find(
    db: &mut impl Executor,
    name: &str,
    team_id: i64,
) -> Result<Option<Document>, StoreError> {
    let row = db.fetch_optional(FIND, args![name, team_id]).await?;
    row.as_ref().map(document).transpose()
}

/// Writes a document that was made from `version` (0: there was none). False: somebody was first.
pub(crate) async fn save(
    db: &mut impl Executor,
    name: &str,
    team_id: i64,
    body: &Value,
    version: i64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let text = body.to_string();
    let rows = if version == 0 {
        db.execute(INSERT, args![name, team_id, text, now]).await?
    } else {
        db.execute(UPDATE, args![name, team_id, text, now, version])
            .await?
    };
    Ok(rows == 1)
}

/// Gives how many there were.
pub(crate) async fn delete_team(db: &mut impl Executor, team_id: i64) -> Result<u64, StoreError> {
    db.execute(DELETE_TEAM, args![team_id]).await
}

pub(crate) async fn teams(db: &mut impl Executor) -> Result<Vec<i64>, StoreError> {
    let rows = db.fetch_all(TEAMS, args![]).await?;
    rows.iter().map(|row| row.get("team_id")).collect()
}

#[cfg(test)]
mod tests {
    use muster_store::testing::{on_both_databases, prepare_all};

    on_both_databases! {
        async fn every_statement_is_understood(db: TestDatabase) {
            db.migrate(&muster_store::Schema::default().with("settings", crate::MIGRATIONS)).await;
            prepare_all(&db, crate::store::ALL).await;
        }
    }
}
