//! How far collectors are, and what decides about it.

use std::collections::{BTreeMap, HashMap};

use muster_clock::Timestamp;
use muster_http::{Listing, error_chain};
use muster_identity::{CollectorId, TeamFilter, TeamId};
use muster_store::{Executor, Row, StoreError, Value, args, folded_column, statements};

use super::{integers, numbered};
use crate::configurations::components::Components;
use crate::configurations::model::{CollectorState, Experience};
use crate::configurations::rollout::{NextLook, Rollout, State};
use crate::configurations::selector::{Condition, Selector};
use crate::record::Durable;

statements! {
    INSERT = "INSERT INTO collectors_config_states (revision, assignment_id, config_id, version, hash, sends_config_id,
        sends_version, state, since, look_at, look_when_heard, body, collector_id)
        VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (collector_id) DO NOTHING";
    UPDATE = "UPDATE collectors_config_states SET revision = revision + 1, assignment_id = $1, config_id = $2, version = $3,
        hash = $4, sends_config_id = $5, sends_version = $6, state = $7, since = $8, look_at = $9,
        look_when_heard = $10, body = $11 WHERE collector_id = $12 AND revision = $13";
    FACTS = "SELECT c.id, c.team_id, c.capabilities, c.components_hash, c.is_healthy, c.state AS record, s.revision, s.body,
        s.state, s.sends_config_id, s.sends_version, p.seen_at, p.back_at, h.changed_at AS health_at FROM collectors_collectors c
        LEFT JOIN collectors_config_states s ON s.collector_id = c.id
        LEFT JOIN collectors_presence p ON p.collector_id = c.id
        LEFT JOIN collectors_parts h ON h.collector_id = c.id AND h.part = 'health' WHERE c.id IN ($1)";
    ATTRIBUTES = "SELECT collector_id, name, value FROM collectors_attributes WHERE collector_id IN ($1)";
    HEALTH = "SELECT collector_id, body FROM collectors_parts WHERE part = 'health' AND collector_id IN ($1)";
    SENDS = "SELECT collector_id, sends_config_id, sends_version FROM collectors_config_states WHERE collector_id IN ($1)";
    DUE = "SELECT collector_id FROM collectors_config_states WHERE look_at <= $1 ORDER BY look_at LIMIT $2";
    HEARD = "SELECT s.collector_id FROM collectors_config_states s JOIN collectors_presence p
        ON p.collector_id = s.collector_id WHERE s.look_when_heard <= $1 AND p.seen_at >= s.look_when_heard
        ORDER BY s.look_when_heard LIMIT $2";
    POSTPONE = "UPDATE collectors_config_states SET
        look_at = CASE WHEN look_at <= $1 THEN CAST($2 AS BIGINT) ELSE look_at END,
        look_when_heard = CASE WHEN look_when_heard <= $1 THEN CAST($2 AS BIGINT) ELSE look_when_heard END
        WHERE (look_at <= $1 OR look_when_heard <= $1) AND collector_id IN ($3)";
    IDS = "SELECT id FROM collectors_collectors WHERE id > $1 ORDER BY id LIMIT $2";
    COUNT_IN = "SELECT COUNT(*) AS total FROM collectors_config_states WHERE assignment_id = $1 AND version = $2
        AND state = $3";
    EXPERIENCE = "SELECT collector_id, body FROM collectors_config_states WHERE assignment_id = $1 AND collector_id > $2
        ORDER BY collector_id LIMIT $3";
    COUNTS = "SELECT COALESCE(s.state, 'unmanaged') AS state, COUNT(*) AS total FROM collectors_collectors c
        LEFT JOIN collectors_config_states s ON s.collector_id = c.id GROUP BY COALESCE(s.state, 'unmanaged')";
    EFFECTIVE = "SELECT body FROM collectors_parts WHERE part = 'effective_config' AND collector_id = $1";
    COMPONENTS = "SELECT body FROM collectors_components WHERE hash = $1";
}

/// What is known about a collector that decides what it should run and how far it is with that.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) id: CollectorId,
    pub(crate) team_id: Option<TeamId>,
    pub(crate) capabilities: u64,
    pub(crate) components_hash: String,
    pub(crate) is_healthy: Option<bool>,
    /// Its own words about its health, when it is not healthy.
    pub(crate) health_error: String,
    /// When what it says of its health last changed.
    pub(crate) health_at: Option<Timestamp>,
    /// When it was last heard, and when it last came back.
    pub(crate) heard_at: Option<Timestamp>,
    pub(crate) back_at: Option<Timestamp>,
    pub(crate) durable: Durable,
    pub(crate) attributes: BTreeMap<String, String>,
    /// How far it is was written by a later release, which this one cannot read and leaves as it is.
    pub(crate) is_foreign: bool,
    /// How far it is, in a word; none when nothing was ever assigned to it.
    pub(crate) state: Option<State>,
    /// How far it was, and how often that was changed.
    pub(crate) rollout: Option<(i64, Rollout)>,
    /// The configuration and version that was to be sent.
    pub(crate) sends: Option<(i64, i64)>,
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::corrupt("read what a collector should run", error.to_string()))
}

/// The same of one collector among many. What cannot be read, such as what a later release wrote, is left as it is, and is
/// no reason to see to nobody.
fn read_or_leave<T: serde::de::DeserializeOwned>(id: CollectorId, text: &str) -> Option<T> {
    let read = read(text);
    if let Err(error) = &read {
        tracing::debug!(
            collector = id.0,
            error = error_chain(error),
            "what a collector should run cannot be read by this release"
        );
    }
    read.ok()
}

/// What is known about these collectors, those left out that are gone, or whose own record cannot be read.
pub(crate) async fn known(
    db: &mut impl Executor,
    ids: &[CollectorId],
) -> Result<Vec<Known>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let with_places = |sql: &str| sql.replace("$1", &numbered(1, ids.len()));
    let args = || -> Vec<Value> { ids.iter().map(|id| (*id).into()).collect() };
    let mut all = Vec::with_capacity(ids.len());
    for row in db.fetch_all(&with_places(FACTS), args()).await? {
        let is_healthy: Option<i64> = row.get("is_healthy")?;
        let body: Option<String> = row.get("body")?;
        let revision: Option<i64> = row.get("revision")?;
        let id = row.get("id")?;
        let has_body = body.is_some();
        let rollout: Option<Rollout> = body.and_then(|body| read_or_leave(id, &body));
        let Some(durable) = read_or_leave(id, &row.get::<String>("record")?) else {
            continue;
        };
        let sends_config: Option<i64> = row.get("sends_config_id")?;
        let sends_version: Option<i64> = row.get("sends_version")?;
        all.push(Known {
            id,
            team_id: row.get::<Option<i64>>("team_id")?.map(TeamId),
            capabilities: row.get::<i64>("capabilities")? as u64,
            components_hash: row.get("components_hash")?,
            is_healthy: is_healthy.map(|flag| flag != 0),
            health_error: String::new(),
            health_at: row.get("health_at")?,
            heard_at: row.get("seen_at")?,
            back_at: row.get("back_at")?,
            durable,
            attributes: BTreeMap::new(),
            is_foreign: has_body && rollout.is_none(),
            state: row.get::<Option<String>>("state")?.as_deref().map(state),
            rollout: revision.zip(rollout),
            sends: sends_config.zip(sends_version),
        });
    }
    // In one order, so that two that write what follows from it never wait for each other.
    all.sort_by_key(|known| known.id);
    let at: HashMap<CollectorId, usize> = all
        .iter()
        .enumerate()
        .map(|(index, known)| (known.id, index))
        .collect();
    for row in db.fetch_all(&with_places(ATTRIBUTES), args()).await? {
        if let Some(index) = at.get(&row.get("collector_id")?) {
            all[*index]
                .attributes
                .insert(row.get("name")?, row.get("value")?);
        }
    }
    let ill: Vec<CollectorId> = all
        .iter()
        .filter(|known| known.is_healthy == Some(false))
        .map(|known| known.id)
        .collect();
    if ill.is_empty() {
        return Ok(all);
    }
    let sql = HEALTH.replace("$1", &numbered(1, ill.len()));
    let args = ill.iter().map(|id| (*id).into()).collect();
    for row in db.fetch_all(&sql, args).await? {
        if let Some(index) = at.get(&row.get("collector_id")?) {
            let body: String = row.get("body")?;
            all[*index].health_error = words_of_illness(&body);
        }
    }
    Ok(all)
}

/// What a tree of health says of what is wrong: its own error, or that of the first component that is not healthy.
fn words_of_illness(body: &str) -> String {
    let Ok(tree) = serde_json::from_str::<serde_json::Value>(body) else {
        return String::new();
    };
    let mut node = &tree;
    let mut path = Vec::new();
    loop {
        let text = |name: &str| {
            node.get(name)
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
        };
        let components = node
            .get("components")
            .and_then(serde_json::Value::as_object);
        let ill = components.and_then(|components| {
            components.iter().find(|(_, node)| {
                node.get("healthy").and_then(serde_json::Value::as_bool) == Some(false)
            })
        });
        let said = [text("last_error"), text("status")]
            .into_iter()
            .find(|text| !text.is_empty());
        if let Some(said) = said.filter(|_| !text("last_error").is_empty() || ill.is_none()) {
            path.push(said.to_owned());
            return path.join(": ");
        }
        let Some((name, inner)) = ill else {
            return path.join(": ");
        };
        path.push(name.clone());
        node = inner;
    }
}

/// What is written of a collector.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written<'a> {
    pub(crate) id: CollectorId,
    pub(crate) rollout: &'a Rollout,
    /// The configuration and version that is to be sent.
    pub(crate) sends: Option<(i64, i64)>,
    pub(crate) next_look: NextLook,
    /// How often it was changed before; none when nothing was written before.
    pub(crate) revision: Option<i64>,
}

/// Writes how far a collector is; false when somebody else did since it was read.
pub(crate) async fn write(
    db: &mut impl Executor,
    written: Written<'_>,
) -> Result<bool, StoreError> {
    let rollout = written.rollout;
    let body = serde_json::to_string(rollout).map_err(|error| {
        StoreError::corrupt("write what a collector should run", error.to_string())
    })?;
    let assigned = rollout.assigned.as_ref();
    let (sends_config, sends_version) = written.sends.unzip();
    let mut args = args![
        rollout.assignment_id,
        assigned.map(|version| version.configuration_id),
        assigned.map(|version| version.version),
        assigned
            .map(|version| version.hash.clone())
            .unwrap_or_default(),
        sends_config,
        sends_version,
        rollout.stage.state().name(),
        rollout.since,
        written.next_look.at,
        written.next_look.when_heard,
        body,
        written.id,
    ];
    let Some(revision) = written.revision else {
        return Ok(db.execute(INSERT, args).await? == 1);
    };
    args.push(revision.into());
    Ok(db.execute(UPDATE, args).await? == 1)
}

/// The configuration and version that is to be sent to each of these collectors.
pub(crate) async fn sends(
    db: &mut impl Executor,
    ids: &[CollectorId],
) -> Result<HashMap<CollectorId, (i64, i64)>, StoreError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = SENDS.replace("$1", &numbered(1, ids.len()));
    let rows = db
        .fetch_all(&sql, ids.iter().map(|id| (*id).into()).collect())
        .await?;
    let mut sends = HashMap::new();
    for row in rows {
        let config: Option<i64> = row.get("sends_config_id")?;
        let version: Option<i64> = row.get("sends_version")?;
        if let Some(pair) = config.zip(version) {
            sends.insert(row.get("collector_id")?, pair);
        }
    }
    Ok(sends)
}

/// Collectors that are to be looked at although nothing about them changed: at some time, or since they were heard.
pub(crate) async fn due(
    db: &mut impl Executor,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<CollectorId>, StoreError> {
    let mut ids = Vec::new();
    for statement in [DUE, HEARD] {
        for row in db.fetch_all(statement, args![now, limit]).await? {
            ids.push(row.get("collector_id")?);
        }
    }
    Ok(ids)
}

/// Lets collectors wait that are due and cannot be looked at, so that they are in nobody's way.
pub(crate) async fn postpone(
    db: &mut impl Executor,
    ids: &[CollectorId],
    now: Timestamp,
    until: Timestamp,
) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    let sql = POSTPONE.replace("$3", &numbered(3, ids.len()));
    let mut args = args![now, until];
    args.extend(ids.iter().map(|id| Value::from(*id)));
    db.execute(&sql, args).await.map(drop)
}

/// The next collectors after one, in the order of their ids.
pub(crate) async fn ids_after(
    db: &mut impl Executor,
    id: CollectorId,
    limit: i64,
) -> Result<Vec<CollectorId>, StoreError> {
    let rows = db.fetch_all(IDS, args![id, limit]).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

/// How many collectors are in a state with an assignment's version.
pub(crate) async fn count_in(
    db: &mut impl Executor,
    assignment: i64,
    version: i64,
    state: State,
) -> Result<i64, StoreError> {
    db.fetch_one(COUNT_IN, args![assignment, version, state.name()])
        .await?
        .get("total")
}

/// What all collectors that follow an assignment went through with versions of its configuration.
pub(crate) async fn experience(
    db: &mut impl Executor,
    assignment: i64,
    configuration: i64,
) -> Result<Experience, StoreError> {
    const AT_ONCE: i64 = 500;
    let mut experience = Experience::default();
    let mut last = CollectorId(0);
    loop {
        let rows = db
            .fetch_all(EXPERIENCE, args![assignment, last, AT_ONCE])
            .await?;
        for row in &rows {
            last = row.get("collector_id")?;
            let Some(rollout) = read_or_leave::<Rollout>(last, &row.get::<String>("body")?) else {
                continue;
            };
            if let Some(good) = rollout
                .good
                .filter(|good| good.configuration_id == configuration)
            {
                experience.good.insert(good.version, good.hash);
            }
            let failed = rollout.failures.into_iter().map(|failure| failure.hash);
            experience.failed.extend(failed);
        }
        if (rows.len() as i64) < AT_ONCE {
            return Ok(experience);
        }
    }
}

/// How many collectors there are in each state.
pub(crate) async fn counts(db: &mut impl Executor) -> Result<BTreeMap<String, u64>, StoreError> {
    let rows = db.fetch_all(COUNTS, args![]).await?;
    rows.iter()
        .map(|row| {
            let total: i64 = row.get("total")?;
            Ok((row.get("state")?, u64::try_from(total).unwrap_or(0)))
        })
        .collect()
}

/// The effective configuration of a collector as it is kept: masked, files by name.
pub(crate) async fn effective(
    db: &mut impl Executor,
    id: CollectorId,
) -> Result<Option<serde_json::Value>, StoreError> {
    let row = db.fetch_optional(EFFECTIVE, args![id]).await?;
    row.map(|row| read(&row.get::<String>("body")?)).transpose()
}

/// The components that a hash stands for, if they are known and tell anything.
pub(crate) async fn components(
    db: &mut impl Executor,
    hash: &str,
) -> Result<Option<Components>, StoreError> {
    let row = db.fetch_optional(COMPONENTS, args![hash]).await?;
    let body = row.map(|row| row.get::<String>("body")).transpose()?;
    let value = body
        .map(|body| read::<serde_json::Value>(&body))
        .transpose()?;
    Ok(value.as_ref().and_then(Components::from_kept))
}

/// Which collectors: conditions with their parameters.
pub(crate) struct Filter {
    conditions: Vec<String>,
    args: Vec<Value>,
}

impl Filter {
    /// Those of these teams.
    pub(crate) fn visible(teams: &TeamFilter) -> Self {
        let mut filter = Self {
            conditions: vec!["1 = 1".to_owned()],
            args: Vec::new(),
        };
        if let TeamFilter::Only(teams) = teams {
            if teams.is_empty() {
                filter.conditions.push("1 = 0".to_owned());
            } else {
                let first = filter.args.len() + 1;
                filter
                    .args
                    .extend(integers(teams.iter().map(|team| team.0)));
                filter
                    .conditions
                    .push(format!("c.team_id IN ({})", numbered(first, teams.len())));
            }
        }
        filter
    }

    fn place(&mut self, value: impl Into<Value>) -> String {
        self.args.push(value.into());
        format!("${}", self.args.len())
    }

    /// Only those of a team.
    pub(crate) fn team(&mut self, team: TeamId) {
        let place = self.place(team);
        self.conditions.push(format!("c.team_id = {place}"));
    }

    /// Only those that should run a version of this configuration.
    pub(crate) fn configuration(&mut self, id: i64) {
        let place = self.place(id);
        self.conditions.push(format!("s.config_id = {place}"));
    }

    /// Only those that follow this assignment.
    pub(crate) fn assignment(&mut self, id: i64) {
        let place = self.place(id);
        self.conditions.push(format!("s.assignment_id = {place}"));
    }

    /// Only those in this state.
    pub(crate) fn state(&mut self, state: State) {
        let place = self.place(state.name());
        self.conditions
            .push(format!("COALESCE(s.state, 'unmanaged') = {place}"));
    }

    /// Only those whose name or host is like this.
    pub(crate) fn search(&mut self, pattern: &str) {
        let place = self.place(pattern);
        let like = ["c.name", "c.host_name"].map(|column| {
            let column = folded_column(column, [pattern]);
            format!("{column} LIKE {place} ESCAPE '\\'")
        });
        self.conditions.push(format!("({})", like.join(" OR ")));
    }

    /// Only those that a selector is for.
    pub(crate) fn selector(&mut self, selector: &Selector) {
        for requirement in selector.requirements() {
            let name = self.place(requirement.name.as_str());
            let (values, is_in) = match &requirement.condition {
                Condition::Exists => (None, true),
                Condition::Missing => (None, false),
                Condition::In(values) => (Some(values), true),
                Condition::NotIn(values) => (Some(values), false),
            };
            let values = values.map(|values| {
                let places: Vec<String> = values
                    .iter()
                    .map(|value| self.place(value.as_str()))
                    .collect();
                format!(" AND a.value IN ({})", places.join(", "))
            });
            let not = if is_in { "" } else { "NOT " };
            self.conditions.push(format!(
                "{not}EXISTS (SELECT 1 FROM collectors_attributes a WHERE a.collector_id = c.id AND a.name = {name}{})",
                values.unwrap_or_default()
            ));
        }
    }

    fn tables_and_conditions(&self) -> String {
        format!(
            "FROM collectors_collectors c LEFT JOIN collectors_config_states s ON s.collector_id = c.id
                LEFT JOIN collectors_config_assignments m ON m.id = s.assignment_id WHERE {}",
            self.conditions.join(" AND ")
        )
    }
}

/// A state as it is kept. What only a later release has a word for is on some way.
fn state(name: &str) -> State {
    State::parse(name).unwrap_or(State::Applying)
}

fn collector_state(row: &Row) -> Result<CollectorState, StoreError> {
    let body: Option<String> = row.get("body")?;
    let state: String = row.get("state")?;
    let id = row.get("id")?;
    Ok(CollectorState {
        collector_id: id,
        name: row.get("name")?,
        host_name: row.get("host_name")?,
        team_id: row.get::<Option<i64>>("team_id")?.map(TeamId),
        state: self::state(&state),
        rollout: body.and_then(|body| read_or_leave(id, &body)),
    })
}

/// A page of collectors, with how many there are.
pub(crate) async fn page(
    db: &mut impl Executor,
    filter: &Filter,
    listing: &Listing,
) -> Result<(Vec<CollectorState>, u64), StoreError> {
    let from = filter.tables_and_conditions();
    let sql = format!("SELECT COUNT(*) AS total {from}");
    let total: i64 = db
        .fetch_one(&sql, filter.args.clone())
        .await?
        .get("total")?;
    let mut args = filter.args.clone();
    args.push(i64::from(listing.limit).into());
    args.push(i64::try_from(listing.offset).unwrap_or(i64::MAX).into());
    let direction = listing.direction.sql();
    let column = match listing.sort {
        "name" => "LOWER(c.name)",
        "host_name" => "LOWER(c.host_name)",
        "state" => "COALESCE(s.state, 'unmanaged')",
        "since" => "COALESCE(s.since, 0)",
        _ => "c.id",
    };
    let sql = format!(
        "SELECT c.id, c.name, c.host_name, c.team_id, COALESCE(s.state, 'unmanaged') AS state, s.body {from}
            ORDER BY {column} {direction}, c.id {direction} LIMIT ${} OFFSET ${}",
        args.len() - 1,
        args.len()
    );
    let rows = db.fetch_all(&sql, args).await?;
    let items: Result<_, _> = rows.iter().map(collector_state).collect();
    Ok((items?, u64::try_from(total).unwrap_or(0)))
}

/// How many of these collectors there are in each state. Those that were not looked at since their assignment moved to another
/// version are on the way.
pub(crate) async fn count_states(
    db: &mut impl Executor,
    filter: &Filter,
) -> Result<BTreeMap<String, u64>, StoreError> {
    let sql = format!(
        "SELECT n.state, COUNT(*) AS total FROM (SELECT CASE WHEN m.version <> s.version THEN 'applying'
            ELSE COALESCE(s.state, 'unmanaged') END AS state {}) n GROUP BY n.state",
        filter.tables_and_conditions()
    );
    let rows = db.fetch_all(&sql, filter.args.clone()).await?;
    rows.iter()
        .map(|row| {
            let total: i64 = row.get("total")?;
            Ok((row.get("state")?, u64::try_from(total).unwrap_or(0)))
        })
        .collect()
}
