//! Distributed queries: what to run, and what came of it.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Row;
use crate::lenient::{Collect, Ignored, Members, Scalar, text, too_many};
use crate::row::OptionalRow;

/// The most queries that one `distributed/read` gives and one `distributed/write` answers.
pub const MAX_QUERIES: usize = 10_000;

/// The most rows that one `distributed/write` carries over all its queries. A result that exceeds it counts as
/// failed, with a message that says so: rows that may be missing must not pass for all.
pub const MAX_ROWS: usize = 250_000;

/// `POST …/distributed/read` and others that carry nothing but the key. Written by agents, read by servers.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeKeyRequest<'a> {
    /// The host's secret.
    #[serde(deserialize_with = "key", borrow)]
    pub node_key: Cow<'a, str>,
}

fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'de, str>, D::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
    Ok(Option::<Borrowed<'_>>::deserialize(deserializer)?
        .map(|key| key.0)
        .unwrap_or_default())
}

/// The answer to `distributed/read`, as an agent reads it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ReadAnswer {
    /// SQL by name.
    #[serde(deserialize_with = "texts")]
    pub queries: Vec<(String, String)>,
    /// SQL by name; when there is any, only those queries are run whose discovery gives a row.
    #[serde(deserialize_with = "texts")]
    pub discovery: Vec<(String, String)>,
    /// For so many seconds the agent asks more often.
    #[serde(deserialize_with = "seconds")]
    pub accelerate: Option<u64>,
}

/// The answer to `distributed/read`, as a server writes it.
#[derive(Debug, Default)]
pub struct ReadAnswerRef<'a> {
    /// Name, SQL and discovery SQL of each.
    pub queries: &'a [(Cow<'a, str>, &'a str, &'a str)],
    /// For so many seconds the agent asks more often.
    pub accelerate: Option<u64>,
}

impl Serialize for ReadAnswerRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        struct Pairs<'a>(&'a [(Cow<'a, str>, &'a str, &'a str)], bool);
        impl Serialize for Pairs<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let discovery = self.1;
                serializer.collect_map(
                    self.0
                        .iter()
                        .map(|(name, sql, found)| (name, if discovery { found } else { sql })),
                )
            }
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("queries", &Pairs(self.queries, false))?;
        map.serialize_entry("discovery", &Pairs(self.queries, true))?;
        if let Some(seconds) = self.accelerate {
            map.serialize_entry("accelerate", &seconds)?;
        }
        map.end()
    }
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    #[derive(Default)]
    struct Texts(Vec<(String, String)>);
    impl<'de> Collect<'de> for Texts {
        fn member<A: MapAccess<'de>>(
            &mut self,
            name: String,
            members: &mut A,
        ) -> Result<(), A::Error> {
            if self.0.len() == MAX_QUERIES {
                return Err(too_many(MAX_QUERIES, "queries at once"));
            }
            if let Scalar::Text(sql) = members.next_value()? {
                self.0.push((name, sql));
            }
            Ok(())
        }
    }
    Texts::default().collect(deserializer).map(|texts| texts.0)
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let seconds = Scalar::deserialize(deserializer)?.integer();
    Ok(seconds.and_then(|seconds| u64::try_from(seconds).ok()))
}

/// `POST …/distributed/write`, as a server reads it.
#[derive(Default)]
pub struct WriteRequest {
    /// The host's secret.
    pub node_key: String,
    /// What came of each query, in the order in which they came.
    pub results: Vec<DistributedResult>,
}

/// What came of one query.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DistributedResult {
    /// The name under which the server asked.
    pub name: String,
    /// 0: it ran. Else it failed (SQLite's code, or what the agent chose).
    pub status: i64,
    /// Why it failed.
    pub message: Option<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// What it cost.
    pub stats: Option<Stats>,
}

impl DistributedResult {
    /// Whether the query ran.
    pub fn succeeded(&self) -> bool {
        self.status == 0
    }
}

/// What a query cost on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// From start to end, in milliseconds.
    pub wall_time_ms: i64,
    /// Processor time of the agent, in milliseconds.
    pub user_time: i64,
    /// Processor time of the system for it, in milliseconds.
    pub system_time: i64,
    /// Memory, in bytes.
    pub memory: i64,
}

/// Costs, or something that is none; a number that cannot be read is 0.
#[derive(Default)]
struct OptionalStats(Option<Stats>);

impl<'de> Collect<'de> for OptionalStats {
    fn object(&mut self) {
        self.0 = Some(Stats::default());
    }

    fn member<A: MapAccess<'de>>(&mut self, name: String, members: &mut A) -> Result<(), A::Error> {
        let number = members.next_value::<Scalar>()?.integer().unwrap_or(0);
        if let Some(stats) = &mut self.0 {
            match name.as_str() {
                "wall_time_ms" => stats.wall_time_ms = number,
                "user_time" => stats.user_time = number,
                "system_time" => stats.system_time = number,
                "memory" => stats.memory = number,
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for OptionalStats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::default().collect(deserializer)
    }
}

impl<'de> Deserialize<'de> for Stats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stats = OptionalStats::deserialize(deserializer)?.0;
        stats.ok_or_else(|| serde::de::Error::custom("the costs are not an object"))
    }
}

/// The rows of one query; what is not a list of objects counts as none.
struct Rows<'a> {
    kept: Vec<Row>,
    /// How many more the whole request may carry.
    left: &'a mut usize,
    is_clipped: bool,
}

impl<'de> Collect<'de> for Rows<'_> {
    fn element<A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<bool, A::Error> {
        if *self.left == 0 {
            let more = list.next_element::<Ignored>()?.is_some();
            self.is_clipped |= more;
            return Ok(more);
        }
        let Some(row) = list.next_element::<OptionalRow>()? else {
            return Ok(false);
        };
        if let Some(row) = row.0 {
            self.kept.push(row);
            *self.left -= 1;
        }
        Ok(true)
    }
}

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = (Vec<Row>, bool);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let rows = self.collect(deserializer)?;
        Ok((rows.kept, rows.is_clipped))
    }
}

/// The rows of all queries, in the order in which they came.
struct Answers {
    results: Vec<DistributedResult>,
    left: usize,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            results: Vec::new(),
            left: MAX_ROWS,
        }
    }
}

impl<'de> Collect<'de> for Answers {
    fn member<A: MapAccess<'de>>(&mut self, name: String, members: &mut A) -> Result<(), A::Error> {
        if self.results.len() == MAX_QUERIES {
            return Err(too_many(MAX_QUERIES, "queries at once"));
        }
        let (rows, is_clipped) = members.next_value_seed(Rows {
            kept: Vec::new(),
            left: &mut self.left,
            is_clipped: false,
        })?;
        let mut result = DistributedResult {
            name,
            rows,
            ..DistributedResult::default()
        };
        if is_clipped {
            result.status = 1;
            result.message = Some(format!("more than {MAX_ROWS} rows in one answer"));
        }
        self.results.push(result);
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Answers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::default().collect(deserializer)
    }
}

impl<'de> Deserialize<'de> for WriteRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The outer shape; everything inside is read leniently.
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Outer {
            #[serde(deserialize_with = "text")]
            node_key: String,
            queries: Answers,
            statuses: Members<Scalar, MAX_QUERIES>,
            messages: Members<Scalar, MAX_QUERIES>,
            stats: Members<OptionalStats, MAX_QUERIES>,
        }
        // A body `null` carries nothing, as `{}` does.
        let outer = Option::<Outer>::deserialize(deserializer)?.unwrap_or_default();
        let Members(statuses) = outer.statuses;
        let Members(mut messages) = outer.messages;
        let Members(mut stats) = outer.stats;
        let mut results = outer.queries.results;
        // A name that comes twice would be two answers to one question: the first counts.
        let mut seen: HashSet<String> = HashSet::with_capacity(results.len());
        results.retain(|result| seen.insert(result.name.clone()));
        // A query that failed may stand among the statuses only.
        let mut failed: Vec<String> = statuses
            .keys()
            .filter(|name| !seen.contains(*name))
            .cloned()
            .collect();
        failed.sort_unstable();
        results.extend(failed.into_iter().map(|name| DistributedResult {
            name,
            ..DistributedResult::default()
        }));
        for result in &mut results {
            if result.status != 0 {
                // It exceeded the limit, whatever the agent says.
                continue;
            }
            // A status that cannot be read is a failure: rows that may be missing must not count as "none".
            result.status = match statuses.get(&result.name) {
                None | Some(Scalar::Null) => 0,
                Some(status) => status.integer().unwrap_or(1),
            };
            result.message = messages.remove(&result.name).and_then(Scalar::filled);
            result.stats = stats.remove(&result.name).and_then(|stats| stats.0);
        }
        Ok(Self {
            node_key: outer.node_key,
            results,
        })
    }
}

/// `POST …/distributed/write`, as an agent writes it.
pub struct DistributedWrite<'a> {
    /// The host's secret.
    pub node_key: &'a str,
    /// What came of each query.
    pub results: &'a [DistributedResult],
}

impl Serialize for DistributedWrite<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        /// The results that have a value, by name.
        struct Each<'a, V>(Vec<(&'a str, V)>);
        impl<V: Serialize> Serialize for Each<'_, V> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
            }
        }
        fn each<'a, V>(
            results: &'a [DistributedResult],
            value: impl Fn(&'a DistributedResult) -> Option<V>,
        ) -> Each<'a, V> {
            Each(
                results
                    .iter()
                    .filter_map(|result| Some((result.name.as_str(), value(result)?)))
                    .collect(),
            )
        }
        let mut map = serializer.serialize_map(Some(5))?;
        map.serialize_entry("node_key", self.node_key)?;
        map.serialize_entry("queries", &each(self.results, |result| Some(&result.rows)))?;
        map.serialize_entry(
            "statuses",
            &each(self.results, |result| Some(result.status)),
        )?;
        map.serialize_entry(
            "messages",
            &each(self.results, |result| result.message.as_deref()),
        )?;
        map.serialize_entry("stats", &each(self.results, |result| result.stats))?;
        map.end()
    }
}

#[cfg(test)]
mod tests;
