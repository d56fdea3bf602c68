//! What agents write and read, in all the ways in which they do.

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
