//! What agents say at length.

use muster_clock::Timestamp;
use muster_identity::{CollectorId, TeamId};
use muster_store::{Executor, StoreError, Value as Column, args, placeholders, statements};
use muster_wire_opamp::proto::CustomMessage;
use serde_json::Value;

use crate::record::Part;
use crate::values::{bounded, text_of};

statements! {
    PUT = "INSERT INTO collectors_parts (collector_id, part, body, changed_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (collector_id, part) DO UPDATE SET body = excluded.body, changed_at = excluded.changed_at";
    LIST = "SELECT part, body, changed_at FROM collectors_parts WHERE collector_id = $1";
    DESCRIBE = "UPDATE collectors_collectors SET name = $2, version = $3, host_name = $4, host_id = $5 WHERE id = $1";
    FEEL = "UPDATE collectors_collectors SET is_healthy = $2 WHERE id = $1";
    CLEAR_ATTRIBUTES = "DELETE FROM collectors_attributes WHERE collector_id = $1";
    ADD_ATTRIBUTES = "INSERT INTO collectors_attributes (collector_id, name, value) VALUES ($1, $2, $3)";
    ADD_COMPONENTS = "INSERT INTO collectors_components (hash, body, created_at) VALUES ($1, $2, $3)
        ON CONFLICT (hash) DO NOTHING";
    FIND_COMPONENTS = "SELECT body FROM collectors_components WHERE hash = $1";
    NAME_COMPONENTS = "UPDATE collectors_collectors SET components_name = $2 WHERE id = $1";
    /// What a name stands for in a team, as one that told it has it.
    SHARED_COMPONENTS = "SELECT components_hash FROM collectors_collectors WHERE components_name = $1 AND team_id = $2
        AND components_hash <> '' LIMIT 1";
    SHARED_WITHOUT_TEAM = "SELECT components_hash FROM collectors_collectors WHERE components_name = $1 AND team_id IS NULL
        AND components_hash <> '' LIMIT 1";
    /// Lists that no agent has any more.
    FORGET_COMPONENTS = "DELETE FROM collectors_components WHERE created_at < $1
        AND hash NOT IN (SELECT c.components_hash FROM collectors_collectors c)";
    ADD_MESSAGE = "INSERT INTO collectors_messages (collector_id, at, capability, kind, data) VALUES ($1, $2, $3, $4, $5)";
    TRIM_MESSAGES = "DELETE FROM collectors_messages WHERE collector_id = $1 AND id NOT IN (SELECT m.id
        FROM collectors_messages m WHERE m.collector_id = $1 ORDER BY m.id DESC LIMIT $2)";
    LIST_MESSAGES = "SELECT at, capability, kind, data FROM collectors_messages WHERE collector_id = $1
        ORDER BY id DESC LIMIT 100";
}

/// The longest value of an attribute by which agents are found, in bytes.
const MAX_FOUND_BYTES: usize = 512;

/// Keeps a part, and what lists need of it.
pub(crate) async fn put(
    db: &mut impl Executor,
    id: CollectorId,
    part: Part,
    value: &Value,
    now: Timestamp,
) -> Result<(), StoreError> {
    let text = value.to_string();
    db.execute(PUT, args![id, part.name(), text, now]).await?;
    match part {
        Part::Description => describe(db, id, value).await,
        Part::Health => {
            let is_healthy = value.get("healthy").and_then(Value::as_bool);
            db.execute(FEEL, args![id, is_healthy]).await.map(drop)
        }
        Part::EffectiveConfig | Part::Packages | Part::CustomCapabilities => Ok(()),
    }
}

async fn describe(
    db: &mut impl Executor,
    id: CollectorId,
    description: &Value,
) -> Result<(), StoreError> {
    let mut all = std::collections::BTreeMap::new();
    // Of a name that is in both, the identifying one counts.
    for kind in ["non_identifying", "identifying"] {
        let attributes = description.get(kind).and_then(Value::as_object);
        for (name, value) in attributes.into_iter().flatten() {
            all.insert(name.as_str(), bounded(&text_of(value), MAX_FOUND_BYTES));
        }
    }
    let text = |name: &str| all.get(name).cloned().unwrap_or_default();
    let args = args![
        id,
        text("service.name"),
        text("service.version"),
        text("host.name"),
        text("host.id")
    ];
    db.execute(DESCRIBE, args).await?;
    db.execute(CLEAR_ATTRIBUTES, args![id]).await?;
    if all.is_empty() {
        return Ok(());
    }
    let mut values: Vec<Column> = Vec::with_capacity(all.len() * 3);
    for (name, value) in &all {
        values.extend(args![id, *name, value.as_str()]);
    }
    let sql = ADD_ATTRIBUTES.replace("($1, $2, $3)", &placeholders(all.len(), 3));
    db.execute(&sql, values).await.map(drop)
}

/// All parts of an agent, each with when it changed.
pub(crate) async fn list(
    db: &mut impl Executor,
    id: CollectorId,
) -> Result<Vec<(String, Value, Timestamp)>, StoreError> {
    let rows = db.fetch_all(LIST, args![id]).await?;
    rows.iter()
        .map(|row| {
            let body: String = row.get("body")?;
            let value = serde_json::from_str(&body).unwrap_or(Value::Null);
            Ok((row.get("part")?, value, row.get("changed_at")?))
        })
        .collect()
}

pub(crate) async fn add_components(
    db: &mut impl Executor,
    hash: &str,
    list: &Value,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(ADD_COMPONENTS, args![hash, list.to_string(), now])
        .await
        .map(drop)
}

/// Notes what an agent calls its components together.
pub(crate) async fn name_components(
    db: &mut impl Executor,
    id: CollectorId,
    name: &str,
) -> Result<(), StoreError> {
    db.execute(NAME_COMPONENTS, args![id, name]).await.map(drop)
}

/// The digest of the list that agents of a team call so.
pub(crate) async fn shared_components(
    db: &mut impl Executor,
    team: Option<TeamId>,
    name: &str,
) -> Result<Option<String>, StoreError> {
    let row = match team {
        Some(team) => {
            db.fetch_optional(SHARED_COMPONENTS, args![name, team])
                .await?
        }
        None => db.fetch_optional(SHARED_WITHOUT_TEAM, args![name]).await?,
    };
    row.map(|row| row.get("components_hash")).transpose()
}

/// The components that a digest stands for.
pub(crate) async fn components(
    db: &mut impl Executor,
    hash: &str,
) -> Result<Option<Value>, StoreError> {
    let row = db.fetch_optional(FIND_COMPONENTS, args![hash]).await?;
    let body = row.map(|row| row.get::<String>("body")).transpose()?;
    Ok(body.and_then(|body| serde_json::from_str(&body).ok()))
}

/// Forgets lists of components that no agent has and that were there before some time.
pub(crate) async fn forget_components(
    db: &mut impl Executor,
    before: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(FORGET_COMPONENTS, args![before]).await
}

/// Keeps a custom message; of an agent's the newest few.
pub(crate) async fn add_message(
    db: &mut impl Executor,
    id: CollectorId,
    message: &CustomMessage,
    most: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let data: &[u8] = &message.data;
    let args = args![id, now, &message.capability, &message.r#type, data];
    db.execute(ADD_MESSAGE, args).await?;
    db.execute(TRIM_MESSAGES, args![id, most]).await.map(drop)
}

/// A custom message that an agent sent.
pub(crate) struct KeptMessage {
    pub(crate) at: Timestamp,
    pub(crate) capability: String,
    pub(crate) kind: String,
    pub(crate) data: Vec<u8>,
}

pub(crate) async fn messages(
    db: &mut impl Executor,
    id: CollectorId,
) -> Result<Vec<KeptMessage>, StoreError> {
    let rows = db.fetch_all(LIST_MESSAGES, args![id]).await?;
    rows.iter()
        .map(|row| {
            Ok(KeptMessage {
                at: row.get("at")?,
                capability: row.get("capability")?,
                kind: row.get("kind")?,
                data: row.get("data")?,
            })
        })
        .collect()
}
