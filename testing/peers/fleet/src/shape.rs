//! What has to agree in two answers: members, kinds of values, and whether they may be null.
//!
//! More members than were recorded are allowed. Where names of members are data (columns of rows, names of queries), only
//! what they hold is compared.

use std::fmt;

use serde_json::Value;

/// Members whose own members have names that are data.
const FREE_NAMES: &[&str] = &[
    "queries",
    "discovery",
    "columns",
    "command_line_startup_flags",
    "team_ids_by_name",
    "agent_options",
    "details",
    "options",
    "decorators",
    "packs",
    "config",
    "rows",
    "stats",
    "additional",
    "additional_queries",
];

/// One thing that does not agree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Where in the answer, such as `hosts[].team_id`.
    pub at: String,
    /// What was recorded.
    pub recorded: String,
    /// What this server has.
    pub ours: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: recorded {}, here {}",
            self.at, self.recorded, self.ours
        )
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// What does not agree in two answers.
pub fn differences(recorded: &Value, ours: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(&[recorded], ours, "", &mut found);
    found.sort();
    found.dedup();
    found
}

/// Compares one value with all that were recorded in its place: elements of one list show together which members there
/// may be, and which of them may be null.
fn compare(recorded: &[&Value], ours: &Value, at: &str, found: &mut Vec<Difference>) {
    let kinds: Vec<&str> = recorded.iter().map(|value| kind(value)).collect();
    if !kinds.contains(&kind(ours)) {
        let mut kinds = kinds;
        kinds.sort_unstable();
        kinds.dedup();
        found.push(Difference {
            at: if at.is_empty() {
                "the body".to_owned()
            } else {
                at.to_owned()
            },
            recorded: kinds.join(" or "),
            ours: kind(ours).to_owned(),
        });
        return;
    }
    match ours {
        Value::Object(members) => {
            let objects: Vec<_> = recorded
                .iter()
                .filter_map(|value| value.as_object())
                .collect();
            let name_of_this = at
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .trim_end_matches("[]");
            if FREE_NAMES.contains(&name_of_this) {
                return;
            }
            let mut names: Vec<&String> = objects.iter().flat_map(|object| object.keys()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let values: Vec<&Value> = objects
                    .iter()
                    .filter_map(|object| object.get(name))
                    .collect();
                let at = if at.is_empty() {
                    name.clone()
                } else {
                    format!("{at}.{name}")
                };
                match members.get(name) {
                    Some(value) => compare(&values, value, &at, found),
                    // Some recorded elements lack it too.
                    None if values.len() < objects.len() => {}
                    None => found.push(Difference {
                        at,
                        recorded: kind(values[0]).to_owned(),
                        ours: "not there".to_owned(),
                    }),
                }
            }
        }
        Value::Array(items) => {
            let elements: Vec<&Value> = recorded
                .iter()
                .filter_map(|value| value.as_array())
                .flatten()
                .filter(|value| !is_cut(value))
                .collect();
            if !elements.is_empty() {
                for item in items {
                    compare(&elements, item, &format!("{at}[]"), found);
                }
            }
        }
        _ => {}
    }
}

/// Long lists were shortened, which their last element says.
fn is_cut(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.ends_with(" more cut>"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(recorded: &Value, ours: &Value) -> Vec<String> {
        differences(recorded, ours)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn more_members_are_allowed_and_fewer_are_not() {
        let recorded = json!({ "a": 1, "b": { "c": "x" } });
        assert!(
            found(
                &recorded,
                &json!({ "a": 2, "b": { "c": "", "d": 1 }, "e": [] })
            )
            .is_empty()
        );
        assert_eq!(
            found(&recorded, &json!({ "a": 2, "b": {} })),
            ["b.c: recorded text, here not there"]
        );
    }

    #[test]
    fn null_is_a_kind_of_its_own() {
        assert_eq!(
            found(&json!({ "a": null }), &json!({ "a": [] })),
            ["a: recorded null, here list"]
        );
        assert_eq!(
            found(&json!({ "a": [] }), &json!({ "a": null })),
            ["a: recorded list, here null"]
        );
    }

    #[test]
    fn elements_show_together_what_a_list_may_hold() {
        let recorded = json!([{ "a": null, "b": 1 }, { "a": 1 }, "<3 more cut>"]);
        assert!(found(&recorded, &json!([{ "a": 7 }, { "a": null }])).is_empty());
        assert_eq!(
            found(&recorded, &json!([{ "b": 7 }])),
            ["[].a: recorded null, here not there"]
        );
        assert_eq!(
            found(&recorded, &json!([{ "a": "x" }])),
            ["[].a: recorded null or number, here text"]
        );
        assert!(found(&recorded, &json!([])).is_empty());
    }

    #[test]
    fn names_that_are_data_are_not_compared() {
        let recorded = json!({ "queries": { "fleet_detail_query_uptime": "<sql>" } });
        assert!(found(&recorded, &json!({ "queries": {} })).is_empty());
        assert_eq!(
            found(&recorded, &json!({ "queries": [] })),
            ["queries: recorded object, here list"]
        );
    }
}
