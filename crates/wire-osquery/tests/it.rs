//! The types against what real clients asked and what a real Fleet server answered.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::borrow::Cow;

use muster_wire_osquery::{
    ConfigAnswer, ConfigRequest, EnrollAnswer, EnrollRequest, LogKind, LogRequest, NodeKeyRequest,
    ReadAnswer, ReadAnswerRef, Refusal, Row, WriteRequest,
};
use serde_json::Value;

struct Exchange {
    name: String,
    path: String,
    request: Value,
    status: u64,
    answer: Value,
}

fn recorded(path: &str) -> Vec<Exchange> {
    let lines = include_str!("data/exchanges.jsonl").lines();
    let all = lines.map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        Exchange {
            name: line["name"].as_str().unwrap().to_owned(),
            path: line["path"].as_str().unwrap().to_owned(),
            request: line["request"].take(),
            status: line["status"].as_u64().unwrap(),
            answer: line["answer"].take(),
        }
    });
    let exchanges: Vec<_> = all.filter(|exchange| exchange.path == path).collect();
    assert!(!exchanges.is_empty(), "nothing is recorded for {path}");
    exchanges
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A cell as it should be read.
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

fn assert_row(row: &Row, recorded: &Value, name: &str) {
    let cells = recorded.as_object().unwrap().iter();
    let expected: Vec<_> = cells
        .map(|(column, value)| (column.as_str(), cell(value)))
        .collect();
    let found: Vec<_> = row
        .iter()
        .map(|(column, value)| (column, value.to_owned()))
        .collect();
    assert_eq!(found, expected, "{name}");
}

#[test]
fn recorded_enrollments_are_read_whole() {
    for exchange in recorded("enroll") {
        let (body, name) = (&exchange.request, &exchange.name);
        let request: EnrollRequest = serde_json::from_str(&body.to_string()).unwrap();
        assert_eq!(
            request.enroll_secret,
            text(&body["enroll_secret"]),
            "{name}"
        );
        assert_eq!(
            request.host_identifier,
            text(&body["host_identifier"]),
            "{name}"
        );
        let details = &request.host_details;
        for (table, row) in [
            ("os_version", &details.os_version),
            ("osquery_info", &details.osquery_info),
            ("system_info", &details.system_info),
            ("platform_info", &details.platform_info),
        ] {
            match &body["host_details"][table] {
                Value::Null => assert!(row.is_empty(), "{name} {table}"),
                recorded => assert_row(row, recorded, name),
            }
        }
        let answer = exchange.answer.to_string();
        let key = serde_json::from_str::<EnrollAnswer>(&answer)
            .unwrap()
            .node_key;
        let refusal: Refusal = serde_json::from_str(&answer).unwrap();
        let is_admitted = exchange.status == 200;
        assert_eq!(is_admitted, !key.is_empty(), "{name}");
        assert_eq!(
            is_admitted,
            refusal.error.is_none() && !refusal.node_invalid,
            "{name}"
        );
    }
}

#[test]
fn recorded_questions_are_read_and_the_answers_written_again_as_they_were() {
    for exchange in recorded("distributed/read") {
        let (body, name) = (exchange.request.to_string(), &exchange.name);
        let request: NodeKeyRequest<'_> = serde_json::from_str(&body).unwrap();
        assert_eq!(
            request.node_key,
            text(&exchange.request["node_key"]),
            "{name}"
        );
        let answer = exchange.answer.to_string();
        if exchange.status != 200 {
            let refusal: Refusal = serde_json::from_str(&answer).unwrap();
            assert!(refusal.node_invalid, "{name}");
            continue;
        }
        let read: ReadAnswer = serde_json::from_str(&answer).unwrap();
        let queries: Vec<(Cow<'_, str>, &str, &str)> = read
            .queries
            .iter()
            .map(|(query, sql)| {
                let discovery = read
                    .discovery
                    .iter()
                    .find(|(name, _)| name == query)
                    .unwrap();
                (
                    Cow::Borrowed(query.as_str()),
                    sql.as_str(),
                    discovery.1.as_str(),
                )
            })
            .collect();
        let written = ReadAnswerRef {
            queries: &queries,
            accelerate: read.accelerate,
        };
        assert_eq!(serde_json::to_string(&written).unwrap(), answer, "{name}");
    }
}

#[test]
fn recorded_results_are_read_whole_also_those_that_fleet_refuses() {
    for exchange in recorded("distributed/write") {
        let (body, name) = (&exchange.request, &exchange.name);
        let request: WriteRequest = serde_json::from_str(&body.to_string()).unwrap();
        assert_eq!(request.node_key, text(&body["node_key"]), "{name}");
        let none = serde_json::Map::new();
        let queries = body["queries"].as_object().unwrap_or(&none);
        let names: Vec<_> = request.results.iter().map(|result| &result.name).collect();
        assert!(
            names.iter().copied().take(queries.len()).eq(queries.keys()),
            "{name}"
        );
        for name in &names[queries.len()..] {
            assert!(
                body["statuses"].get(name).is_some(),
                "{name} is told by its status only"
            );
        }
        for result in &request.results {
            let empty = Vec::new();
            let recorded = queries
                .get(&result.name)
                .and_then(Value::as_array)
                .unwrap_or(&empty);
            let recorded: Vec<_> = recorded.iter().filter(|row| row.is_object()).collect();
            assert_eq!(result.rows.len(), recorded.len(), "{name} {}", result.name);
            for (row, recorded) in result.rows.iter().zip(recorded) {
                assert_row(row, recorded, name);
            }
            let status = match &body["statuses"][&result.name] {
                Value::Null => 0,
                Value::Number(number) => number.as_i64().unwrap(),
                status => text(status).parse().unwrap_or(1),
            };
            assert_eq!(result.status, status, "{name} {}", result.name);
            let message = body["messages"][&result.name].as_str();
            assert_eq!(result.message.as_deref(), message, "{name}");
            let wall = &body["stats"][&result.name]["wall_time_ms"];
            let wall = wall.as_i64().or_else(|| text(wall).parse().ok());
            assert_eq!(result.stats.map(|stats| stats.wall_time_ms), wall, "{name}");
        }
    }
}

#[test]
fn recorded_logs_are_read_entry_by_entry() {
    for exchange in recorded("log") {
        let (body, name) = (&exchange.request, &exchange.name);
        let request: LogRequest = serde_json::from_str(&body.to_string()).unwrap();
        assert_eq!(request.log_type, text(&body["log_type"]), "{name}");
        let is_known = exchange.status != 500;
        assert_eq!(
            LogKind::parse(&request.log_type).is_some(),
            is_known,
            "{name}"
        );
        let entries: Vec<_> = request
            .data
            .iter()
            .map(|entry| entry.get().to_owned())
            .collect();
        let empty = Vec::new();
        let recorded = body["data"].as_array().unwrap_or(&empty);
        let recorded: Vec<_> = recorded.iter().map(Value::to_string).collect();
        assert_eq!(entries, recorded, "{name}");
    }
}

#[test]
fn recorded_configurations_are_read_by_an_agent() {
    for exchange in recorded("config") {
        let (body, name) = (&exchange.request, &exchange.name);
        let request: ConfigRequest = serde_json::from_str(&body.to_string()).unwrap();
        assert_eq!(request.node_key, text(&body["node_key"]), "{name}");
        assert_eq!(request.etag.as_deref(), body["etag"].as_str(), "{name}");
        let answer = exchange.answer.to_string();
        let refusal: Refusal = serde_json::from_str(&answer).unwrap();
        assert_eq!(refusal.node_invalid, exchange.status == 401, "{name}");
        let ConfigAnswer::Changed { config, etag } = serde_json::from_str(&answer).unwrap() else {
            panic!("{name}: nobody had it already")
        };
        assert_eq!(
            (Value::Object(config), etag),
            (exchange.answer, None),
            "{name}"
        );
    }
}
