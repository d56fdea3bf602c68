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

    #[test]
    fn rows_beyond_the_limit_make_their_query_fail_and_say_why() {
        let text = format!(
            r#"{{"queries":{{"a":[{{"x":1}}],"b":[{}{{}}],"c":[{{}}],"d":[]}},"statuses":{{"b":0,"c":0}}}}"#,
            "{},".repeat(MAX_ROWS)
        );
        let results = read(&text).results;
        let rows = |at: usize| (results[at].rows.len(), results[at].succeeded());
        assert_eq!(rows(0), (1, true));
        assert_eq!(rows(1), (MAX_ROWS - 1, false));
        assert_eq!(rows(2), (0, false));
        assert_eq!(rows(3), (0, true), "an empty answer lost nothing");
        let message = results[1].message.as_deref();
        assert_eq!(message, Some("more than 250000 rows in one answer"));
    }

    #[test]
    fn more_queries_than_a_server_asks_are_refused() {
        for member in ["queries", "statuses", "messages", "stats"] {
            let names = (0..=MAX_QUERIES).map(|number| format!("\"q{number}\":0"));
            let text = format!(
                r#"{{"{member}":{{{}}}}}"#,
                names.collect::<Vec<_>>().join(",")
            );
            let error = serde_json::from_str::<WriteRequest>(&text).err().unwrap();
            assert!(
                error.to_string().contains("more than 10000"),
                "{member}: {error}"
            );
        }
    }

    #[test]
    fn nesting_without_end_is_refused_wherever_it_stands() {
        let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
        for member in ["queries", "statuses", "messages", "stats"] {
            for (before, after) in [("", ""), ("{\"q\":", "}"), ("{\"q\":[{\"c\":", "}]}")] {
                let text = format!(r#"{{"{member}":{before}{open}{close}{after}}}"#);
                assert!(
                    serde_json::from_str::<WriteRequest>(&text).is_err(),
                    "{member} {before}"
                );
            }
        }
        let text = format!(r#"{{"host_details":{{"other":{open}{close}}}}}"#);
        assert!(serde_json::from_str::<crate::EnrollRequest>(&text).is_err());
    }

    #[test]
    fn a_query_that_is_answered_twice_counts_once() {
        let results = read(r#"{"queries":{"a":[{"x":"1"}],"a":[]}}"#).results;
        assert_eq!(results.len(), 1);
        assert_eq!(results[0].rows.len(), 1);
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::{Value, json};
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(|number| json!(number)),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-c_]{1,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
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
                let mut seen = HashSet::new();
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
            let mut seen = HashSet::new();
            let results: Vec<_> = results.into_iter().filter(|result| seen.insert(result.name.clone())).collect();
            let text = serde_json::to_string(&DistributedWrite { node_key: "k", results: &results }).unwrap();
            prop_assert_eq!(read(&text).results, results);
        }

        #[test]
        fn whatever_stands_in_the_members_the_request_is_read(
            queries in any_json(), statuses in any_json(), messages in any_json(), stats in any_json(),
            details in any_json(), data in any_json(),
        ) {
            let body = serde_json::json!({
                "node_key": "k", "queries": queries, "statuses": statuses, "messages": messages, "stats": stats,
            });
            let request = read(&body.to_string());
            prop_assert_eq!(request.node_key, "k");
            let asked = queries.as_object().map_or(0, serde_json::Map::len);
            prop_assert!(request.results.len() >= asked);
            let enroll = serde_json::json!({"enroll_secret": "s", "host_details": details});
            prop_assert!(serde_json::from_str::<crate::EnrollRequest>(&enroll.to_string()).is_ok());
            let log = serde_json::json!({"log_type": "result", "data": data});
            let log: crate::LogRequest = serde_json::from_str(&log.to_string()).unwrap();
            prop_assert_eq!(log.data.len(), data.as_array().map_or(0, Vec::len));
        }

        #[test]
        fn any_json_is_read_or_refused(text in "[\\[\\]{}\":,a-z0-9 ]{0,64}") {
            let _ = serde_json::from_str::<WriteRequest>(&text);
            let _ = serde_json::from_str::<ReadAnswer>(&text);
        }
    }
}
