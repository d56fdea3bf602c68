//! Several files as one: what an agent makes of them.
//!
//! Agents merge files in the order of their names, the unnamed one last. Mappings are merged key by key; anything else replaces
//! what was there. Only the list `service.extensions` grows: the supervisor adds to it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::document::Files;
use super::yaml::{Entry, Node, Value, YamlError, read};

/// The files of a version, read and merged.
pub(crate) struct Merged {
    /// The names of the files, in the order in which they are merged: what [`Place::file`](super::yaml::Place) counts.
    pub(crate) names: Vec<String>,
    /// All of them as one; null when all are empty.
    pub(crate) root: Arc<Node>,
    /// What each is by itself, or why it cannot be read.
    pub(crate) files: Vec<Result<Arc<Node>, YamlError>>,
}

impl Merged {
    /// Whether there is nothing in any file.
    pub(crate) fn is_empty(&self) -> bool {
        let is_null = |node: &Arc<Node>| matches!(node.value, Value::Null);
        let mut files = self.files.iter();
        files.all(|file| file.as_ref().is_ok_and(is_null))
    }
}

/// Reads and merges files. Those that cannot be read are left out of the result.
pub(crate) fn merge(files: &Files) -> Merged {
    let mut names: Vec<String> = files
        .keys()
        .filter(|name| !name.is_empty())
        .cloned()
        .collect();
    if files.contains_key("") {
        names.push(String::new());
    }
    let read: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(index, name)| read(index, &files[name].body))
        .collect();
    let mut root: Option<Arc<Node>> = None;
    for node in read.iter().flatten() {
        root = Some(match root {
            // A file with nothing in it takes nothing away.
            Some(before) if node.entries().is_none() => before,
            Some(before) if before.entries().is_some() => {
                Arc::new(over(&before, node, &mut Vec::new()))
            }
            _ => Arc::clone(node),
        });
    }
    Merged {
        names,
        root: root.unwrap_or_else(|| {
            Arc::new(Node {
                place: super::yaml::Place {
                    file: 0,
                    line: 1,
                    column: 1,
                },
                value: Value::Null,
            })
        }),
        files: read,
    }
}

/// A mapping with another one put over it.
fn over(below: &Node, above: &Node, path: &mut Vec<String>) -> Node {
    let mut entries: Vec<Entry> = below.entries().unwrap_or_default().to_vec();
    let mut at: HashMap<String, usize> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| (entry.key.clone(), index))
        .collect();
    for new in above.entries().unwrap_or_default() {
        let Some(index) = at.get(&new.key) else {
            at.insert(new.key.clone(), entries.len());
            entries.push(new.clone());
            continue;
        };
        let old = &mut entries[*index];
        path.push(new.key.clone());
        let node = match (&old.node.value, &new.node.value) {
            (Value::Map(_), Value::Map(_)) => Arc::new(over(&old.node, &new.node, path)),
            (Value::List(before), Value::List(after)) if *path == ["service", "extensions"] => {
                Arc::new(Node {
                    place: new.node.place,
                    value: Value::List(together(before, after)),
                })
            }
            _ => Arc::clone(&new.node),
        };
        path.pop();
        *old = Entry {
            key: new.key.clone(),
            place: new.place,
            node,
        };
    }
    Node {
        place: above.place,
        value: Value::Map(entries),
    }
}

/// A list with what another one has beside.
fn together(before: &[Arc<Node>], after: &[Arc<Node>]) -> Vec<Arc<Node>> {
    let mut all = before.to_vec();
    let mut seen: HashSet<String> = before
        .iter()
        .map(|item| item.to_json().to_string())
        .collect();
    let new = after
        .iter()
        .filter(|item| seen.insert(item.to_json().to_string()));
    all.extend(new.cloned());
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::super::document::File;
    use super::*;

    fn merged(list: &[(&str, &str)]) -> Json {
        let file = |body: &str| File {
            body: body.to_owned(),
            content_type: "text/yaml".into(),
        };
        let files: Files = list
            .iter()
            .map(|(name, body)| ((*name).to_owned(), file(body)))
            .collect();
        merge(&files).root.to_json()
    }

    #[test]
    fn files_are_merged_in_the_order_of_their_names_and_the_unnamed_one_last() {
        let value = merged(&[
            ("", "a: unnamed\n"),
            ("b", "a: b\nonly_b: 1\nmap: {x: 1, y: [1, 2]}\n"),
            ("a", "a: a\nmap: {x: 0, z: 3}\n"),
        ]);
        assert_eq!(
            value,
            json!({"a": "unnamed", "map": {"x": 1, "z": 3, "y": [1, 2]}, "only_b": 1})
        );
    }

    #[test]
    fn lists_are_replaced_but_extensions_of_the_service_come_together() {
        let value = merged(&[
            (
                "1",
                "service: {extensions: [a, b]}\nother: {extensions: [a]}\n",
            ),
            (
                "2",
                "service: {extensions: [b, c]}\nother: {extensions: [c]}\n",
            ),
        ]);
        assert_eq!(
            value,
            json!({"service": {"extensions": ["a", "b", "c"]}, "other": {"extensions": ["c"]}})
        );
    }

    #[test]
    fn empty_files_take_nothing_away() {
        assert_eq!(
            merged(&[("1", "a: 1"), ("2", "# nothing\n")]),
            json!({"a": 1})
        );
        assert_eq!(merged(&[("1", ""), ("2", "a: 1")]), json!({"a": 1}));
        assert_eq!(merged(&[("1", "")]), Json::Null);
    }

    fn value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(json!(1)),
            Just(json!("x")),
            Just(json!([1, 2])),
            Just(json!(null))
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            proptest::collection::btree_map("[abc]", inner, 0..3).prop_map(|map| json!(map))
        })
    }

    /// The rule written down a second time: mappings key by key, anything else is replaced.
    fn by_the_rule(below: Json, above: Json) -> Json {
        match (below, above) {
            (Json::Object(mut below), Json::Object(above)) => {
                for (key, new) in above {
                    let old = below.remove(&key);
                    let both = match old {
                        Some(old) => by_the_rule(old, new),
                        None => new,
                    };
                    below.insert(key, both);
                }
                Json::Object(below)
            }
            (_, above) => above,
        }
    }

    proptest! {
        #[test]
        fn merging_follows_the_rule(a in proptest::collection::btree_map("[abc]", value(), 0..3),
            b in proptest::collection::btree_map("[abc]", value(), 0..3)) {
            let (a, b) = (json!(a), json!(b));
            let value = merged(&[("1", &a.to_string()), ("2", &b.to_string())]);
            prop_assert_eq!(value, by_the_rule(a, b));
        }
    }
}
