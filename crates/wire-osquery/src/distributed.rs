//! Distributed queries: what to run, and what came of it.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::enroll::{read_row, text};
use crate::tolerant;

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

/// One row of an answer: names and texts, in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row(Vec<(String, String)>);

impl Row {
    /// The text of a column.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == column)
            .map(|(_, value)| value.as_str())
    }

    /// The text of a column unless it is empty.
    pub fn filled(&self, column: &str) -> Option<&str> {
        self.get(column)
            .map(str::trim)
            .filter(|value| !value.is_empty())
    }

    /// Names and texts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether it has no column.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much it weighs: the bytes of its names and texts.
    pub fn bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Row {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(cells: I) -> Self {
        Self(
            cells
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(read_row)
    }
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
    let Value::Object(map) = Value::deserialize(deserializer)? else {
        return Ok(Vec::new());
    };
    Ok(map
        .into_iter()
        .filter_map(|(name, sql)| Some((name, sql.as_str()?.to_owned())))
        .collect())
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

impl<'de> Deserialize<'de> for Stats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        read_stats(&value).ok_or_else(|| serde::de::Error::custom("the costs are not an object"))
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
            queries: Value,
            statuses: Value,
            messages: Value,
            stats: Value,
        }
        // A body `null` carries nothing, as `{}` does.
        let outer = Option::<Outer>::deserialize(deserializer)?.unwrap_or_default();
        let member = |value: Value| {
            if let Value::Object(map) = value {
                map
            } else {
                Map::new()
            }
        };
        let statuses = member(outer.statuses);
        let messages = member(outer.messages);
        let stats = member(outer.stats);
        let queries = member(outer.queries);
        // A query that failed may stand among the statuses only.
        let failed: Vec<_> = statuses
            .keys()
            .filter(|name| !queries.contains_key(*name))
            .cloned()
            .collect();
        let rows = queries.into_iter().map(|(name, value)| (name, rows(value)));
        let results = rows
            .chain(failed.into_iter().map(|name| (name, Vec::new())))
            .map(|(name, rows)| {
                // A status that cannot be read is a failure: rows that may be missing must not count as "none".
                let status = statuses
                    .get(&name)
                    .map_or(Some(0), tolerant::integer)
                    .unwrap_or(1);
                let message = messages
                    .get(&name)
                    .and_then(Value::as_str)
                    .filter(|text| !text.is_empty());
                let message = message.map(str::to_owned);
                let stats = stats.get(&name).and_then(read_stats);
                DistributedResult {
                    name,
                    status,
                    message,
                    rows,
                    stats,
                }
            });
        Ok(Self {
            node_key: outer.node_key,
            results: results.collect(),
        })
    }
}

fn rows(value: Value) -> Vec<Row> {
    let Value::Array(rows) = value else {
        return Vec::new();
    };
    let rows = rows.into_iter().filter_map(|row| {
        if let Value::Object(cells) = row {
            Some(cells)
        } else {
            None
        }
    });
    rows.map(read_row).collect()
}

fn read_stats(value: &Value) -> Option<Stats> {
    let number = |name: &str| {
        value
            .get(name)
            .and_then(tolerant::integer)
            .unwrap_or_default()
    };
    value.is_object().then(|| Stats {
        wall_time_ms: number("wall_time_ms"),
        user_time: number("user_time"),
        system_time: number("system_time"),
        memory: number("memory"),
    })
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> WriteRequest {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn values_of_the_wrong_kind_are_left_out_and_the_rest_is_kept() {
        let request = read(
            r#"{"node_key":"k","queries":{
                "a":[{"text":"x","number":5,"float":1.5,"flag":true,"nothing":null,"list":[1]}, 7, null],
                "b":"", "c":null, "d":{}, "e":[]},
              "statuses":{"a":0,"b":"1","c":"no number","z":2},
              "messages":{"b":"no such table: x","c":7},
              "stats":{"a":{"wall_time_ms":"12","user_time":5,"memory":null},"b":3}}"#,
        );
        let by_name = |name: &str| {
            request
                .results
                .iter()
                .find(|result| result.name == name)
                .unwrap()
        };
        let a = by_name("a");
        assert_eq!(a.rows.len(), 1);
        let cells: Vec<_> = a.rows[0].iter().collect();
        let expected = [
            ("text", "x"),
            ("number", "5"),
            ("float", "1.5"),
            ("flag", "1"),
            ("nothing", ""),
            ("list", ""),
        ];
        assert_eq!(cells, expected);
        assert_eq!(
            a.stats,
            Some(Stats {
                wall_time_ms: 12,
                user_time: 5,
                ..Stats::default()
            })
        );
        assert_eq!(
            (by_name("b").status, by_name("b").message.as_deref()),
            (1, Some("no such table: x"))
        );
        assert_eq!(by_name("b").stats, None);
        assert!(
            !by_name("c").succeeded(),
            "a status that cannot be read is a failure"
        );
        assert!(by_name("d").succeeded() && by_name("d").rows.is_empty());
        assert_eq!(by_name("z").status, 2);
    }

    #[test]
    fn maps_may_be_missing_or_null() {
        for text in [
            "null",
            "{}",
            r#"{"queries":null,"statuses":null}"#,
            r#"{"queries":[],"statuses":5,"stats":""}"#,
            r#"{"node_key":null}"#,
        ] {
            let request = read(text);
            assert_eq!(
                (request.node_key.as_str(), request.results.len()),
                ("", 0),
                "{text}"
            );
        }
        assert!(serde_json::from_str::<WriteRequest>(r#"{"node_key":7}"#).is_err());
    }

    #[test]
    fn an_empty_answer_has_both_maps() {
        let text = serde_json::to_string(&ReadAnswerRef::default()).unwrap();
        assert_eq!(text, r#"{"queries":{},"discovery":{}}"#);
        let queries = [(Cow::Borrowed("q"), "SELECT 2", "SELECT 1")];
        let text = serde_json::to_string(&ReadAnswerRef {
            queries: &queries,
            accelerate: Some(10),
        })
        .unwrap();
        assert_eq!(
            text,
            r#"{"queries":{"q":"SELECT 2"},"discovery":{"q":"SELECT 1"},"accelerate":10}"#
        );
        let answer: ReadAnswer = serde_json::from_str(&text).unwrap();
        assert_eq!(answer.queries, [("q".to_owned(), "SELECT 2".to_owned())]);
        assert_eq!(answer.discovery, [("q".to_owned(), "SELECT 1".to_owned())]);
        assert_eq!(answer.accelerate, Some(10));
    }

    #[test]
    fn a_key_is_read_without_copying_and_with_escapes() {
        let request: NodeKeyRequest<'_> = serde_json::from_str(r#"{"node_key":"abc"}"#).unwrap();
        assert!(matches!(request.node_key, Cow::Borrowed("abc")));
        let request: NodeKeyRequest<'_> =
            serde_json::from_str(r#"{"node_key":"a\u002fb","x":1}"#).unwrap();
        assert_eq!(request.node_key, "a/b");
        let request: NodeKeyRequest<'_> = serde_json::from_str(r#"{"node_key":null}"#).unwrap();
        assert_eq!(request.node_key, "");
    }

    prop_compose! {
        fn result()(
            name in "[a-z_]{1,12}",
            status in 0..3_i64,
            message in proptest::option::of(".{1,20}"),
            rows in proptest::collection::vec(proptest::collection::vec((".{0,8}", ".{0,8}"), 0..4), 0..4),
            cost in proptest::option::of(any::<[i32; 4]>()),
        ) -> DistributedResult {
            let rows = rows.into_iter().map(|cells| {
                let mut seen = std::collections::HashSet::new();
                cells.into_iter().filter(|(name, _)| seen.insert(name.clone())).collect()
            });
            let stats = cost.map(|cost| Stats {
                wall_time_ms: cost[0].into(), user_time: cost[1].into(),
                system_time: cost[2].into(), memory: cost[3].into(),
            });
            DistributedResult { name, status, message, rows: rows.collect(), stats }
        }
    }

    proptest! {
        #[test]
        fn what_an_agent_writes_a_server_reads(results in proptest::collection::vec(result(), 0..5)) {
            let mut seen = std::collections::HashSet::new();
            let results: Vec<_> = results.into_iter().filter(|result| seen.insert(result.name.clone())).collect();
            let text = serde_json::to_string(&DistributedWrite { node_key: "k", results: &results }).unwrap();
            prop_assert_eq!(read(&text).results, results);
        }

        #[test]
        fn any_json_is_read_or_refused(text in "[\\[\\]{}\":,a-z0-9 ]{0,64}") {
            let _ = serde_json::from_str::<WriteRequest>(&text);
            let _ = serde_json::from_str::<ReadAnswer>(&text);
        }
    }
}
