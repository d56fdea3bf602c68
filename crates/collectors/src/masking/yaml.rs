//! Finds the places of secrets in YAML, which JSON is a part of. The tree has no more than the places of values.

use std::fmt::Write as _;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::{MASK, Masking, texts};

/// A text that is a value by itself.
pub(super) fn text(text: &str, masking: &Masking) -> String {
    inside(text, masking).unwrap_or_else(|| text.to_owned())
}

/// How deep a file may be.
const MAX_DEPTH: usize = 128;
/// How many values a file may have.
const MAX_VALUES: usize = 100_000;

enum Node {
    /// A value: its text and its place, counted in characters.
    Scalar(String, Range<usize>, bool),
    /// Refers to a value that stands elsewhere.
    Alias(usize),
    List(Vec<usize>),
    /// Keys with their values.
    Map(Vec<(usize, usize)>),
}

/// What is being read: the node, and for a mapping the key whose value comes next.
struct Open {
    node: usize,
    key: Option<usize>,
}

#[derive(Default)]
struct Tree {
    nodes: Vec<Node>,
    roots: Vec<usize>,
    anchors: std::collections::HashMap<usize, usize>,
}

impl Tree {
    fn read(text: &str) -> Option<Self> {
        let mut tree = Self::default();
        let mut open: Vec<Open> = Vec::new();
        for event in Parser::new_from_str(text) {
            let (event, span) = event.ok()?;
            let (node, anchor, is_container) = match event {
                Event::Scalar(value, style, anchor, _) => {
                    let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                    (
                        Node::Scalar(value.into_owned(), place(span), is_block),
                        anchor,
                        false,
                    )
                }
                Event::Alias(anchor) => (Node::Alias(anchor), 0, false),
                Event::SequenceStart(anchor, _) => (Node::List(Vec::new()), anchor, true),
                Event::MappingStart(anchor, _) => (Node::Map(Vec::new()), anchor, true),
                Event::SequenceEnd | Event::MappingEnd => {
                    open.pop()?;
                    continue;
                }
                _ => continue,
            };
            if tree.nodes.len() >= MAX_VALUES || open.len() >= MAX_DEPTH {
                return None;
            }
            let id = tree.nodes.len();
            tree.nodes.push(node);
            if anchor > 0 {
                tree.anchors.insert(anchor, id);
            }
            match open.last_mut() {
                None => tree.roots.push(id),
                Some(parent) => match (&mut tree.nodes[parent.node], parent.key.take()) {
                    (Node::List(items), _) => items.push(id),
                    (Node::Map(pairs), Some(key)) => pairs.push((key, id)),
                    (Node::Map(_), None) => parent.key = Some(id),
                    _ => return None,
                },
            }
            if is_container {
                open.push(Open {
                    node: id,
                    key: None,
                });
            }
        }
        open.is_empty().then_some(tree)
    }

    fn text(&self, id: usize) -> Option<&str> {
        match &self.nodes[id] {
            Node::Scalar(text, ..) => Some(text),
            Node::Alias(anchor) => match self.nodes.get(*self.anchors.get(anchor)?)? {
                Node::Scalar(text, ..) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }
}

fn place(span: Span) -> Range<usize> {
    span.start.index()..span.end.index()
}

/// What becomes of the text at a place.
struct Edit {
    place: Range<usize>,
    is_block: bool,
    text: String,
}

struct Walk<'a> {
    tree: &'a Tree,
    masking: &'a Masking,
    edits: Vec<Edit>,
    /// Nodes that were masked whole, so that many references to one cost no more than one.
    masked: Vec<bool>,
}

impl Walk<'_> {
    fn look(&mut self, id: usize) {
        match &self.tree.nodes[id] {
            Node::Scalar(text, place, is_block) => {
                if let Some(masked) = inside(text, self.masking) {
                    self.edits.push(Edit {
                        place: place.clone(),
                        is_block: *is_block,
                        text: masked,
                    });
                }
            }
            Node::Alias(_) => {}
            Node::List(items) => {
                // Perhaps the arguments of a program: `[--password, secret]`.
                let mut is_next = false;
                for item in items {
                    let text = self.tree.text(*item).unwrap_or_default();
                    let is_option = text.starts_with('-');
                    if is_next && !is_option && !text.is_empty() {
                        self.mask(*item);
                    } else {
                        self.look(*item);
                    }
                    is_next =
                        is_option && !text.contains(['=', ' ']) && self.masking.is_secret(text);
                }
            }
            Node::Map(pairs) => {
                let is_named = pairs.iter().any(|(key, value)| {
                    matches!(self.tree.text(*key), Some("name" | "key" | "Name" | "Key"))
                        && self
                            .tree
                            .text(*value)
                            .is_some_and(|name| self.masking.is_secret(name))
                });
                for (key, value) in pairs {
                    let name = self.tree.text(*key);
                    let is_secret = name.is_some_and(|name| {
                        self.masking.is_secret(name)
                            || is_named && !matches!(name, "name" | "key" | "Name" | "Key")
                    });
                    if is_secret {
                        self.mask(*value);
                    } else {
                        self.look(*key);
                        self.look(*value);
                    }
                }
            }
        }
    }

    /// Masks a value and everything below it.
    fn mask(&mut self, id: usize) {
        if std::mem::replace(&mut self.masked[id], true) {
            return;
        }
        match &self.tree.nodes[id] {
            // Nothing is told by what stands for nothing, or for a variable of the agent's surroundings.
            Node::Scalar(text, place, is_block) => {
                let is_reference =
                    text.starts_with("${") && text.ends_with('}') && !text[2..].contains("${");
                if !matches!(text.as_str(), "" | "~" | "null" | "true" | "false") && !is_reference {
                    self.edits.push(Edit {
                        place: place.clone(),
                        is_block: *is_block,
                        text: MASK.to_owned(),
                    });
                }
            }
            Node::Alias(anchor) => {
                if let Some(target) = self.tree.anchors.get(anchor) {
                    self.mask(*target);
                }
            }
            Node::List(items) => {
                for item in items {
                    self.mask(*item);
                }
            }
            Node::Map(pairs) => {
                for (_, value) in pairs {
                    self.mask(*value);
                }
            }
        }
    }
}

/// A text with the secrets inside it masked, if there are any.
fn inside(text: &str, masking: &Masking) -> Option<String> {
    let masked = texts::mask(text, |name| masking.is_secret(name));
    (masked != text).then_some(masked)
}

/// The text with its secrets masked; none when it is no YAML.
pub(super) fn mask(text: &str, masking: &Masking) -> Option<String> {
    let tree = Tree::read(text)?;
    let mut walk = Walk {
        tree: &tree,
        masking,
        edits: Vec::new(),
        masked: vec![false; tree.nodes.len()],
    };
    for root in &tree.roots {
        walk.look(*root);
    }
    let mut edits = walk.edits;
    if edits.is_empty() {
        return Some(comments(text.to_owned(), masking));
    }
    edits.sort_by_key(|edit| edit.place.start);
    edits.dedup_by_key(|edit| edit.place.start);
    let mut result = String::with_capacity(text.len());
    let mut characters = text.char_indices().map(|(at, _)| at).collect::<Vec<_>>();
    characters.push(text.len());
    let mut done = 0;
    for edit in edits {
        let start = *characters.get(edit.place.start)?;
        let end = *characters.get(edit.place.end)?;
        if start < done || end < start {
            return None;
        }
        result.push_str(&text[done..start]);
        let _ = write!(result, "{}", serde_json::Value::from(edit.text));
        // A block of lines ends where the next line begins.
        if edit.is_block && !result.ends_with('\n') {
            result.push('\n');
        }
        done = end;
    }
    result.push_str(&text[done..]);
    Some(comments(result, masking))
}

/// What stands in comments that have lines of their own: a value that was switched off is still a secret.
fn comments(text: String, masking: &Masking) -> String {
    if !text.contains('#') {
        return text;
    }
    let lines = text.split_inclusive('\n').map(|line| {
        let said = line.trim_start();
        let comment = said.trim_start_matches(['#', ' ', '\t']);
        if !said.starts_with('#') || comment.is_empty() {
            return line.to_owned();
        }
        let begin = &line[..line.len() - comment.len()];
        format!(
            "{begin}{}",
            texts::mask(comment, |name| masking.is_secret(name))
        )
    });
    lines.collect()
}
