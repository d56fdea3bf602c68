//! What agents say at length.

use std::collections::BTreeMap;

use muster_clock::Timestamp;
use muster_identity::{CollectorId, TeamId};
use muster_store::{Executor, StoreError, Value as Column, args, placeholders, statements};
use muster_wire_opamp::proto::CustomMessage;
use serde_json::Value;

use super::record::{Described, Health, ListedParts};
use crate::record::Part;
use crate::values::{bounded, text_of};

statements! {
    PUT = "INSERT INTO collectors_parts (collector_id, part, body, changed_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (collector_id, part) DO UPDATE SET body = excluded.body, changed_at = excluded.changed_at";
    LIST = "SELECT part, body, changed_at FROM collectors_parts WHERE collector_id = $1";
    CLEAR_ATTRIBUTES = "DELETE FROM collectors_attributes WHERE collector_id IN ($1)";
    ADD_ATTRIBUTES = "INSERT INTO collectors_attributes (collector_id, name, value) VALUES ($1, $2, $3)";
    ADD_COMPONENTS = "INSERT INTO collectors_components (hash, body, created_at) VALUES ($1, $2, $3)
        ON CONFLICT (hash) DO NOTHING";
    FIND_COMPONENTS = "SELECT body FROM collectors_components WHERE hash = $1";
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

/// The most rows of one statement.
const MAX_BATCH_ROWS: usize = 1_000;

/// What an agent said at length.
pub(crate) struct Said<'a> {
    pub(crate) id: CollectorId,
    /// Whether nothing was kept of it before.
    pub(crate) is_new: bool,
    pub(crate) parts: &'a [(Part, Value)],
}

/// What lists need of the parts that an agent told.
pub(crate) fn listed(parts: &[(Part, Value)]) -> ListedParts {
    let mut listed = ListedParts::default();
    for (part, value) in parts {
        match part {
            Part::Description => {
                let all = attributes(value);
                let text = |name: &str| all.get(name).cloned().unwrap_or_default();
                listed.description = Some(Described {
                    name: text("service.name"),
                    version: text("service.version"),
                    host_name: text("host.name"),
                    host_id: text("host.id"),
                });
            }
            Part::Health => {
                listed.health = Health::Told(value.get("healthy").and_then(Value::as_bool));
            }
            Part::EffectiveConfig | Part::Packages | Part::CustomCapabilities => {}
        }
    }
    listed
}

/// The attributes of a description. Of a name that is identifying and not, the identifying one counts.
fn attributes(description: &Value) -> BTreeMap<&str, String> {
    let mut all = BTreeMap::new();
    for kind in ["non_identifying", "identifying"] {
        let attributes = description.get(kind).and_then(Value::as_object);
        for (name, value) in attributes.into_iter().flatten() {
            all.insert(name.as_str(), bounded(&text_of(value), MAX_FOUND_BYTES));
        }
    }
    all
}

/// Keeps what several agents said, each named once: some statements for all of them.
pub(crate) async fn put_all(
    db: &mut impl Executor,
    said: &[Said<'_>],
    now: Timestamp,
) -> Result<(), StoreError> {
    let parts: Vec<_> = said
        .iter()
        .flat_map(|one| one.parts.iter().map(|(part, value)| (one.id, *part, value)))
        .collect();
    for rows in parts.chunks(MAX_BATCH_ROWS) {
        let mut values: Vec<Column> = Vec::with_capacity(rows.len() * 4);
        for (id, part, value) in rows {
            values.extend(args![*id, part.name(), value.to_string(), now]);
        }
        let sql = PUT.replace("($1, $2, $3, $4)", &placeholders(rows.len(), 4));
        db.execute(&sql, values).await?;
    }
    let described: Vec<_> = said
        .iter()
        .filter_map(|one| {
            let mut parts = one.parts.iter();
            let (_, value) = parts.find(|(part, _)| *part == Part::Description)?;
            Some((one, attributes(value)))
        })
        .collect();
    let known: Vec<Column> = described
        .iter()
        .filter(|(one, _)| !one.is_new)
        .map(|(one, _)| one.id.into())
        .collect();
    for ids in known.chunks(MAX_BATCH_ROWS) {
        let places: Vec<String> = (1..=ids.len()).map(|place| format!("${place}")).collect();
        let sql = CLEAR_ATTRIBUTES.replace("$1", &places.join(", "));
        db.execute(&sql, ids.to_vec()).await?;
    }
    let rows: Vec<_> = described
        .iter()
        .flat_map(|(one, all)| all.iter().map(|(name, value)| (one.id, *name, value)))
        .collect();
    for rows in rows.chunks(MAX_BATCH_ROWS) {
        let mut values: Vec<Column> = Vec::with_capacity(rows.len() * 3);
        for (id, name, value) in rows {
            values.extend(args![*id, *name, value.as_str()]);
        }
        let sql = ADD_ATTRIBUTES.replace("($1, $2, $3)", &placeholders(rows.len(), 3));
        db.execute(&sql, values).await?;
    }
    Ok(())
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
