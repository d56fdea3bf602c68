//! YAML as a tree in which every key and value knows where it stands, with a bound on how much a text may grow to.
//!
//! What a value means is decided as the collectors' own reader does: the core schema, with merge keys (`<<`). References such
//! as `${env:NAME}` are text. Aliases share what they refer to; how large all of it would be without sharing is counted while
//! it is read, so that a few lines which stand for billions of values are refused at once.
//!
//! Not responsible for: what a configuration should have in it.

mod refused;
mod scalar;

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use scalar::scalar;
use serde_json::Number;

/// How deep lists and mappings may stand in one another.
pub(crate) const MAX_YAML_DEPTH: usize = 64;
/// How many characters a key may have, with its quotes: collectors look no further for the colon.
const MAX_KEY_CHARACTERS: usize = 1_024;
/// How many values a file may have, with every alias counted as what it stands for.
pub(crate) const MAX_YAML_VALUES: usize = 50_000;

/// Where something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which of several files, counted from 0.
    pub file: usize,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
}

impl Place {
    fn new(file: usize, span: Span) -> Self {
        Self {
            file,
            line: span.start.line(),
            column: span.start.col() + 1,
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Arc<Node>>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Arc<Node>,
}

impl Node {
    /// What stands under a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }

    /// The entries of a mapping; none when it is something else.
    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// As JSON, without places.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(flag) => (*flag).into(),
            Value::Number(number) => Json::Number(number.clone()),
            Value::Text(text) => text.clone().into(),
            Value::List(items) => items.iter().map(|item| item.to_json()).collect(),
            Value::Map(entries) => {
                let pairs = entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.node.to_json()));
                Json::Object(pairs.collect())
            }
        }
    }
}

/// Why a text is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct YamlError {
    pub(crate) place: Place,
    pub(crate) message: String,
}

/// A node that is complete, with how many values it stands for.
#[derive(Clone)]
struct Sized {
    node: Arc<Node>,
    size: usize,
    /// How many lists and mappings stand in one another there.
    depth: usize,
}

/// A list or mapping that is being read.
struct Open {
    place: Place,
    anchor: usize,
    size: usize,
    depth: usize,
    content: Content,
}

enum Content {
    List(Vec<Arc<Node>>),
    Map {
        entries: Vec<Entry>,
        /// In which line each key stands.
        lines: HashMap<String, usize>,
        merged: Vec<Arc<Node>>,
        key: Option<(String, Place, bool)>,
    },
}

struct Reader {
    open: Vec<Open>,
    anchors: HashMap<usize, Sized>,
    root: Option<Sized>,
    /// Where each document begins.
    documents: Vec<Place>,
}

/// Reads one file. An empty one is a null value.
pub(crate) fn read(file: usize, text: &str) -> Result<Arc<Node>, YamlError> {
    let mut reader = Reader {
        open: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        documents: Vec::new(),
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    refused::look(file, text)?;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let mark = error.marker();
            let place = Place {
                file,
                line: mark.line(),
                column: mark.col() + 1,
            };
            let hint = hint(text, place.line);
            YamlError {
                place,
                message: format!("is not YAML: {}{hint}", error.info()),
            }
        })?;
        let characters = span.end.index().saturating_sub(span.start.index());
        if reader.awaits_key() && characters > MAX_KEY_CHARACTERS {
            let message = format!(
                "is a key of more than {MAX_KEY_CHARACTERS} characters, which collectors do not read"
            );
            return Err(Reader::error(Place::new(file, span), message));
        }
        reader.take(event, Place::new(file, span))?;
    }
    let place = Place {
        file,
        line: 1,
        column: 1,
    };
    let root = reader.root.map(|root| root.node);
    Ok(root.unwrap_or_else(|| {
        Arc::new(Node {
            place,
            value: Value::Null,
        })
    }))
}

fn too_deep() -> String {
    format!("is more than {MAX_YAML_DEPTH} levels deep; make it flatter")
}

/// What is most often wrong with a line.
fn hint(text: &str, line: usize) -> &'static str {
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    if line.trim_start_matches(' ').starts_with('\t') {
        "; indent by spaces, never by tabs"
    } else {
        ""
    }
}

impl Reader {
    fn error(place: Place, message: impl Into<String>) -> YamlError {
        YamlError {
            place,
            message: message.into(),
        }
    }

    /// Whether what comes next is a key.
    fn awaits_key(&self) -> bool {
        let content = self.open.last().map(|open| &open.content);
        matches!(content, Some(Content::Map { key: None, .. }))
    }

    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), YamlError> {
        if let [_, .., second] = self.documents[..] {
            // Nothing stands behind a `---` at the end.
            let is_nothing = match &event {
                Event::Scalar(text, style, ..) => text.is_empty() && *style == ScalarStyle::Plain,
                Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_) => false,
                _ => true,
            };
            if !is_nothing {
                let message = "a second document begins here, and agents read only the first; make it a file of its own";
                return Err(Self::error(second, message));
            }
            return Ok(());
        }
        match event {
            Event::DocumentStart(_) => {
                self.documents.push(place);
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref())
                    .map_err(|why| Self::error(place, format!("`{}` {why}", shown(&text))))?;
                let node = Arc::new(Node { place, value });
                let is_plain = style == ScalarStyle::Plain;
                self.add(
                    Sized {
                        node,
                        size: 1,
                        depth: 0,
                    },
                    anchor,
                    Some((&text, is_plain)),
                    place,
                )
            }
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let Some(known) = known else {
                    return Err(Self::error(place, "refers to a value that it is a part of"));
                };
                let text = match &known.node.value {
                    Value::Text(text) => Some(text.clone()),
                    _ => None,
                };
                self.add(known, 0, text.as_deref().map(|text| (text, false)), place)
            }
            Event::SequenceStart(anchor, _) => self.begin(place, anchor, Content::List(Vec::new())),
            Event::MappingStart(anchor, _) => {
                let content = Content::Map {
                    entries: Vec::new(),
                    lines: HashMap::new(),
                    merged: Vec::new(),
                    key: None,
                };
                self.begin(place, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, place: Place, anchor: usize, content: Content) -> Result<(), YamlError> {
        if self.open.len() >= MAX_YAML_DEPTH {
            return Err(Self::error(place, too_deep()));
        }
        self.open.push(Open {
            place,
            anchor,
            size: 1,
            depth: 0,
            content,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), YamlError> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.content {
            Content::List(items) => Value::List(items),
            Content::Map {
                mut entries,
                mut lines,
                merged,
                ..
            } => {
                // What stands here counts more than what is merged in, and of that the first.
                for source in merged {
                    for entry in source.entries().unwrap_or_default() {
                        if !lines.contains_key(&entry.key) {
                            lines.insert(entry.key.clone(), entry.place.line);
                            entries.push(entry.clone());
                        }
                    }
                }
                Value::Map(entries)
            }
        };
        let node = Arc::new(Node {
            place: open.place,
            value,
        });
        let sized = Sized {
            node,
            size: open.size,
            depth: open.depth + 1,
        };
        self.add(sized, open.anchor, None, open.place)
    }

    /// Puts a value where it belongs. `text` is what it is as a key, and whether it stands without quotes.
    fn add(
        &mut self,
        sized: Sized,
        anchor: usize,
        text: Option<(&str, bool)>,
        place: Place,
    ) -> Result<(), YamlError> {
        if anchor > 0 {
            self.anchors.insert(anchor, sized.clone());
        }
        let is_deeper = self.open.len() + sized.depth > MAX_YAML_DEPTH;
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(sized);
            return Ok(());
        };
        parent.size = parent.size.saturating_add(sized.size);
        parent.depth = parent.depth.max(sized.depth);
        // An alias may stand for something deep.
        if is_deeper {
            return Err(Self::error(place, too_deep()));
        }
        if parent.size > MAX_YAML_VALUES {
            let message = format!(
                "comes to more than {MAX_YAML_VALUES} values with all aliases written out; make it smaller"
            );
            return Err(Self::error(place, message));
        }
        match &mut parent.content {
            Content::List(items) => items.push(sized.node),
            Content::Map {
                entries,
                lines,
                merged,
                key,
            } => match key.take() {
                None => {
                    let Some((name, is_plain)) = text else {
                        let message = format!("{} cannot be a key; write text", sized.node.kind());
                        return Err(Self::error(place, message));
                    };
                    if let Some(first) = lines.get(name) {
                        let message = format!(
                            "the key `{}` is there twice, first in line {first}; keep one of them",
                            shown(name)
                        );
                        return Err(Self::error(place, message));
                    }
                    let merges = is_plain && name == "<<";
                    if !merges {
                        lines.insert(name.to_owned(), place.line);
                    }
                    *key = Some((name.to_owned(), place, merges));
                }
                Some((_, place, true)) => {
                    let sources = match &sized.node.value {
                        Value::List(items) => items.clone(),
                        _ => vec![Arc::clone(&sized.node)],
                    };
                    if sources.iter().any(|source| source.entries().is_none()) {
                        let message = "`<<` merges mappings; refer to one, or to a list of them";
                        return Err(Self::error(place, message));
                    }
                    merged.extend(sources);
                }
                Some((key, place, false)) => entries.push(Entry {
                    key,
                    place,
                    node: sized.node,
                }),
            },
        }
        Ok(())
    }
}

/// A text for messages, cut when it is long.
pub(crate) fn shown(text: &str) -> String {
    const MAX_SHOWN_CHARACTERS: usize = 80;
    let mut cut: String = text.chars().take(MAX_SHOWN_CHARACTERS).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut.replace(|c: char| c.is_control(), "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn json_of(text: &str) -> serde_json::Value {
        read(0, text).unwrap().to_json()
    }

    fn error_of(text: &str) -> String {
        let error = read(0, text).unwrap_err();
        format!(
            "{}:{}: {}",
            error.place.line, error.place.column, error.message
        )
    }

    #[test]
    fn values_mean_what_they_mean_to_a_collector() {
        let text = "a: 1\nb: 1.5\nc: true\nd: yes\ne: ~\nf: '1'\ng: 0x10\nh: 10s\ni: 0755\nj: ${env:PORT}\nk: !!str 7\n\
                    l: -3\nm: 1e3\nn: 127.0.0.1:4317\no: |\n  two\n  lines\np: [a, {b: c}]\n";
        assert_eq!(
            json_of(text),
            json!({
                "a": 1, "b": 1.5, "c": true, "d": "yes", "e": null, "f": "1", "g": 16, "h": "10s", "i": "0755",
                "j": "${env:PORT}", "k": "7", "l": -3, "m": 1000.0, "n": "127.0.0.1:4317", "o": "two\nlines\n",
                "p": ["a", {"b": "c"}],
            })
        );
        assert_eq!(json_of(""), json!(null));
        for end in ["---\n", "---\n# a comment\n", "...\n", "---\n---\n"] {
            assert_eq!(json_of(&format!("a: 1\n{end}")), json!({"a": 1}), "{end}");
        }
        assert_eq!(json_of("# nothing but a comment\n"), json!(null));
    }

    #[test]
    fn as_many_keys_as_a_file_may_have_are_read_at_once() {
        let begun = std::time::Instant::now();
        let mut text = String::from("a: &a\n");
        for number in 0..MAX_YAML_VALUES / 10 {
            let _ = writeln!(text, "  key{number}:");
        }
        text.push_str("b:\n  <<: *a\n");
        for number in 0..MAX_YAML_VALUES / 10 {
            let _ = writeln!(text, "  own{number}:");
        }
        let value = json_of(&text);
        assert_eq!(
            value["b"].as_object().unwrap().len(),
            2 * (MAX_YAML_VALUES / 10)
        );
        // Looking each key up among all others took minutes where this takes a fraction of a second.
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }

    #[test]
    fn aliases_and_merge_keys_are_followed() {
        let text = "base: &base {x: 1, y: 2}\nmore: &more {z: 3}\nuse:\n  <<: [*base, *more]\n  y: 9\nsame: *base\n";
        let value = json_of(text);
        assert_eq!(value["use"], json!({"y": 9, "x": 1, "z": 3}));
        assert_eq!(value["same"], json!({"x": 1, "y": 2}));
        assert_eq!(
            json_of("'<<': 1")["<<"],
            1,
            "in quotes it is a key like others"
        );
    }

    #[test]
    fn every_value_knows_where_it_stands() {
        let root = read(3, "a:\n  - x\n  -   deep: y\n").unwrap();
        let list = &root.get("a").unwrap().node;
        let Value::List(items) = &list.value else {
            panic!("not a list")
        };
        let place = |line, column| Place {
            file: 3,
            line,
            column,
        };
        assert_eq!(items[0].place, place(2, 5));
        assert_eq!(items[1].get("deep").unwrap().place, place(3, 7));
        assert_eq!(items[1].get("deep").unwrap().node.place, place(3, 13));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let laughs = {
            let mut text =
                String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
            for level in 1..10 {
                let inner = vec![format!("*a{}", level - 1); 10].join(", ");
                let _ = writeln!(text, "a{level}: &a{level} [{inner}]");
            }
            text
        };
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        let cases = [
            ("a: 1\nb: 2\na: 3\n", "twice"),
            ("a: [1, 2\nb: 3\n", "unclosed list"),
            ("a:\n\t- b\n", "tab"),
            ("a: 1\n---\nb: 2\n", "two documents"),
            ("a: 1\n---\n---\n''\n", "three documents"),
            ("a: &x [*x]\n", "itself"),
            ("? [a, b]\n: c\n", "a list as key"),
            ("a:\n  <<: 5\n", "merge of a number"),
            ("a: *nobody\n", "unknown anchor"),
            (laughs.as_str(), "billion laughs"),
            (deep.as_str(), "deep"),
        ];
        let lines: Vec<String> = cases
            .iter()
            .map(|(text, what)| format!("{what}: {}", error_of(text)))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    proptest! {
        #[test]
        fn nothing_that_is_thrown_at_it_breaks_it(text in "[-a-z0-9:{}\\[\\]&*!|>'\"#,\\n\\t ~<?%.]{0,200}") {
            if let Ok(node) = read(0, &text) {
                node.to_json();
            }
        }

        #[test]
        fn json_is_read_as_the_same_value(keys in proptest::collection::btree_map("[a-z]{1,8}", "[ -~]{0,20}", 0..8),
            number in any::<i32>()) {
            let value = json!({"map": keys, "list": [number, null, true, "text"]});
            prop_assert_eq!(json_of(&value.to_string()), value);
        }
    }
}
