//! What would change: between two versions line by line, and between what a collector runs and what it would get by meaning.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::document::Files;
use super::merge::merge;

/// How many unchanged lines are shown around a change.
const CONTEXT_LINES: usize = 3;
/// How many lines may differ for the shortest way to be looked for, which takes time and memory with their square; beyond that
/// what lies between the same beginnings and ends is shown as replaced.
const MAX_CHANGED_LINES: usize = 1_000;
/// How many changes by meaning are told.
pub(crate) const MAX_CHANGES: usize = 200;
/// The longest value that is told, in characters.
const MAX_VALUE_CHARACTERS: usize = 200;

/// How a file differs between two versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CollectorConfigFileDiff)]
pub struct FileDiff {
    /// The file's name; one may have the empty name.
    pub name: String,
    /// `added`, `removed` or `changed`.
    pub change: &'static str,
    /// The lines that differ as a unified diff.
    pub diff: String,
}

/// The files that differ between two versions, in the order of their names.
pub fn between_files(before: &Files, after: &Files) -> Vec<FileDiff> {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let mut diffs = Vec::new();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old == new {
            continue;
        }
        let change = match (old, new) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        let body = |file: Option<&super::document::File>| {
            file.map_or("", |file| file.body.as_str()).to_owned()
        };
        let mut diff = String::new();
        let types = [old, new].map(|file| file.map(|file| file.content_type.as_str()));
        if let [Some(old), Some(new)] = types
            && old != new
        {
            let _ = writeln!(diff, "content type: {old} -> {new}");
        }
        diff.push_str(&unified(&body(old), &body(new)));
        diffs.push(FileDiff {
            name: name.clone(),
            change,
            diff,
        });
    }
    diffs
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Same(usize, usize),
    Out(usize),
    In(usize),
}

/// Two texts as a unified diff without file names; empty when they are the same.
pub fn unified(before: &str, after: &str) -> String {
    let old: Vec<&str> = before.split_inclusive('\n').collect();
    let new: Vec<&str> = after.split_inclusive('\n').collect();
    let steps = steps(&old, &new);
    let changes: Vec<usize> = steps
        .iter()
        .enumerate()
        .filter(|(_, step)| !matches!(step, Step::Same(..)))
        .map(|(n, _)| n)
        .collect();
    let mut text = String::new();
    let mut next = 0;
    while next < changes.len() {
        let start = changes[next].saturating_sub(CONTEXT_LINES);
        let mut end = changes[next] + 1;
        next += 1;
        while next < changes.len() && changes[next] <= end + 2 * CONTEXT_LINES {
            end = changes[next] + 1;
            next += 1;
        }
        let end = (end + CONTEXT_LINES).min(steps.len());
        hunk(&mut text, &steps[..start], &steps[start..end], &old, &new);
    }
    text
}

fn hunk(text: &mut String, before: &[Step], steps: &[Step], old: &[&str], new: &[&str]) {
    let count = |steps: &[Step], is_old: bool| {
        let counts = |step: &&Step| match step {
            Step::Same(..) => true,
            Step::Out(_) => is_old,
            Step::In(_) => !is_old,
        };
        steps.iter().filter(counts).count()
    };
    let range = |is_old: bool| {
        let (start, length) = (count(before, is_old), count(steps, is_old));
        // A range without lines names the line before it.
        let start = if length == 0 { start } else { start + 1 };
        if length == 1 {
            start.to_string()
        } else {
            format!("{start},{length}")
        }
    };
    let _ = writeln!(text, "@@ -{} +{} @@", range(true), range(false));
    for step in steps {
        let (sign, line) = match step {
            Step::Same(n, _) => (' ', old[*n]),
            Step::Out(n) => ('-', old[*n]),
            Step::In(n) => ('+', new[*n]),
        };
        text.push(sign);
        text.push_str(line);
        if !line.ends_with('\n') {
            text.push_str("\n\\ No newline at end of file\n");
        }
    }
}

/// The shortest way from one list of lines to the other, found as Myers describes it.
fn steps(old: &[&str], new: &[&str]) -> Vec<Step> {
    let prefix = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[prefix..], &new[prefix..]);
    let suffix = old_rest
        .iter()
        .rev()
        .zip(new_rest.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (a, b) = (
        &old_rest[..old_rest.len() - suffix],
        &new_rest[..new_rest.len() - suffix],
    );
    let mut all: Vec<Step> = (0..prefix).map(|n| Step::Same(n, n)).collect();
    let middle = myers(a, b).unwrap_or_else(|| {
        let out = (0..a.len()).map(Step::Out);
        out.chain((0..b.len()).map(Step::In)).collect()
    });
    all.extend(middle.into_iter().map(|step| match step {
        Step::Same(m, n) => Step::Same(m + prefix, n + prefix),
        Step::Out(m) => Step::Out(m + prefix),
        Step::In(n) => Step::In(n + prefix),
    }));
    let (m, n) = (old.len() - suffix, new.len() - suffix);
    all.extend((0..suffix).map(|k| Step::Same(m + k, n + k)));
    all
}

fn myers(old: &[&str], new: &[&str]) -> Option<Vec<Step>> {
    let most = (old.len() + new.len()).min(MAX_CHANGED_LINES);
    let at = |diagonal: isize| usize::try_from(diagonal + most as isize + 1).unwrap_or(0);
    let mut reach = vec![0_usize; 2 * most + 3];
    let mut trace: Vec<Vec<usize>> = Vec::new();
    for depth in 0..=most as isize {
        trace.push(reach[at(-depth - 1)..=at(depth + 1)].to_vec());
        let mut diagonal = -depth;
        while diagonal <= depth {
            let goes_down = diagonal == -depth
                || (diagonal != depth && reach[at(diagonal - 1)] < reach[at(diagonal + 1)]);
            let mut x = if goes_down {
                reach[at(diagonal + 1)]
            } else {
                reach[at(diagonal - 1)] + 1
            };
            let mut y = usize::try_from(x as isize - diagonal).unwrap_or(0);
            while x < old.len() && y < new.len() && old[x] == new[y] {
                x += 1;
                y += 1;
            }
            reach[at(diagonal)] = x;
            if x >= old.len() && y >= new.len() {
                return Some(back(&trace, old.len(), new.len()));
            }
            diagonal += 2;
        }
    }
    None
}

/// The way that led to the end, from what could be reached at each depth.
fn back(trace: &[Vec<usize>], mut x: usize, mut y: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    for (depth, reach) in trace.iter().enumerate().rev() {
        let depth = depth as isize;
        let at = |k: isize| reach[usize::try_from(k + depth + 1).unwrap_or(0)];
        let k = x as isize - y as isize;
        let goes_down = k == -depth || (k != depth && at(k - 1) < at(k + 1));
        let from = if goes_down { k + 1 } else { k - 1 };
        let (start_x, start_y) = if depth == 0 {
            (0, 0)
        } else {
            let x = at(from);
            (x, usize::try_from(x as isize - from).unwrap_or(0))
        };
        while x > start_x && y > start_y {
            x -= 1;
            y -= 1;
            steps.push(Step::Same(x, y));
        }
        if depth > 0 {
            if goes_down {
                y -= 1;
                steps.push(Step::In(y));
            } else {
                x -= 1;
                steps.push(Step::Out(x));
            }
        }
    }
    steps.reverse();
    steps
}

/// Something that would be different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CollectorConfigDifference)]
pub struct Change {
    /// Where, with `::` between the steps: `exporters::otlp::endpoint`.
    pub path: String,
    /// `added`, `removed` or `changed`.
    pub change: &'static str,
    /// What it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Sections whose members appear and disappear as wholes.
const SECTIONS: [&str; 5] = [
    "receivers",
    "processors",
    "exporters",
    "connectors",
    "extensions",
];
/// What stands in the place of a value that nobody is to see: ours, and the collector's.
const MASKS: [&str; 2] = [crate::masking::MASK, "[REDACTED]"];

/// What would change at a collector that runs `effective` and would get `desired`. Its own words are full of defaults that
/// nobody wrote down, and of what its supervisor adds and changes at every start; both are left out, as is what is masked and
/// what a reference stands for.
pub fn effective_to_desired(effective: &Files, desired: &Files) -> Vec<Change> {
    let effective = merge(effective).root.to_json();
    let desired = merge(desired).root.to_json();
    let mut changes = Vec::new();
    for section in SECTIONS {
        let of = |value: &Value| {
            value
                .get(section)
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default()
        };
        let (now, wanted) = (of(&effective), of(&desired));
        for (name, value) in &wanted {
            let path = format!("{section}::{name}");
            match now.get(name) {
                None => changes.push(added(path, value)),
                Some(before) => compare(&path, before, value, &mut changes),
            }
        }
        for name in now.keys().filter(|name| !wanted.contains_key(*name)) {
            if !is_of_the_supervisor(section, name) {
                changes.push(removed(format!("{section}::{name}")));
            }
        }
    }
    let empty = Map::new();
    let service = |value: &Value| {
        value
            .get("service")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    let (now, wanted) = (service(&effective), service(&desired));
    for (name, value) in &wanted {
        match (name.as_str(), now.get(name)) {
            ("pipelines", now) => pipelines(
                now.and_then(Value::as_object).unwrap_or(&empty),
                value,
                &mut changes,
            ),
            ("extensions", now) => extensions(now.unwrap_or(&Value::Null), value, &mut changes),
            (_, None) => changes.push(added(format!("service::{name}"), value)),
            (_, Some(before)) => compare(&format!("service::{name}"), before, value, &mut changes),
        }
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    changes.truncate(MAX_CHANGES);
    changes
}

/// What the supervisor puts into every configuration.
fn is_of_the_supervisor(section: &str, name: &str) -> bool {
    section == "extensions"
        && (name == "opamp" || name.starts_with("opamp/") || name == "health_check")
}

fn pipelines(now: &Map<String, Value>, wanted: &Value, changes: &mut Vec<Change>) {
    let empty = Map::new();
    let wanted = wanted.as_object().unwrap_or(&empty);
    for (name, value) in wanted {
        let path = format!("service::pipelines::{name}");
        match now.get(name) {
            None => changes.push(added(path, value)),
            Some(before) => compare(&path, before, value, changes),
        }
    }
    for name in now.keys().filter(|name| !wanted.contains_key(*name)) {
        changes.push(removed(format!("service::pipelines::{name}")));
    }
}

fn extensions(now: &Value, wanted: &Value, changes: &mut Vec<Change>) {
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let (now, wanted) = (texts(now), texts(wanted));
    for name in wanted.iter().filter(|name| !now.contains(name)) {
        changes.push(added(format!("service::extensions::{name}"), &Value::Null));
    }
    for name in now.iter().filter(|name| !wanted.contains(name)) {
        if !is_of_the_supervisor("extensions", name) {
            changes.push(removed(format!("service::extensions::{name}")));
        }
    }
}

/// Finds what is wanted and is not so. What is there beside is a default.
fn compare(path: &str, now: &Value, wanted: &Value, changes: &mut Vec<Change>) {
    if changes.len() >= MAX_CHANGES || is_same(now, wanted) {
        return;
    }
    match (now, wanted) {
        (Value::Object(now), Value::Object(wanted)) => {
            for (name, value) in wanted {
                let path = format!("{path}::{name}");
                match now.get(name) {
                    None if value.is_null() => {}
                    None => changes.push(added(path, value)),
                    Some(before) => compare(&path, before, value, changes),
                }
            }
        }
        _ => changes.push(Change {
            path: path.to_owned(),
            change: "changed",
            before: Some(shown(now)),
            after: Some(shown(wanted)),
        }),
    }
}

/// Whether two values come to the same for a collector, as far as that can be seen.
fn is_same(now: &Value, wanted: &Value) -> bool {
    let is_hidden = |value: &Value| {
        value
            .as_str()
            .is_some_and(|text| text.contains("${") || MASKS.iter().any(|mask| text.contains(mask)))
    };
    if is_hidden(now) || is_hidden(wanted) {
        return true;
    }
    match (now, wanted) {
        // Nothing means the defaults.
        (_, Value::Null) => true,
        (Value::Null, Value::Object(map)) => map.is_empty(),
        (Value::Array(now), Value::Array(wanted)) => {
            now.len() == wanted.len()
                && now
                    .iter()
                    .zip(wanted)
                    .all(|(now, wanted)| is_same(now, wanted))
        }
        (Value::Object(now), Value::Object(wanted)) => wanted.iter().all(|(name, value)| {
            now.get(name)
                .map_or(value.is_null(), |now| is_same(now, value))
        }),
        (now, wanted) => {
            now == wanted || scalar(now).is_some_and(|text| Some(text) == scalar(wanted))
        }
    }
}

/// The text of a value that is no list or mapping: `"13133"` and 13133 are the same to a collector, and so are `60s` and `1m0s`.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => {
            Some(nanoseconds(text).map_or_else(|| text.clone(), |time| format!("{time} ns")))
        }
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// A span of time as Go writes it: `1m30s`, `200ms`, `1.5h`.
fn nanoseconds(text: &str) -> Option<u128> {
    let mut rest = text;
    let mut total = 0_f64;
    if !rest.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units = [
            ("ns", 1.0),
            ("us", 1e3),
            ("µs", 1e3),
            ("ms", 1e6),
            ("s", 1e9),
            ("m", 60e9),
            ("h", 3600e9),
        ];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total += number * factor;
        rest = &rest[unit.len()..];
    }
    Some(total as u128)
}

fn added(path: String, value: &Value) -> Change {
    Change {
        path,
        change: "added",
        before: None,
        after: (!value.is_null()).then(|| shown(value)),
    }
}

fn removed(path: String) -> Change {
    Change {
        path,
        change: "removed",
        before: None,
        after: None,
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= MAX_VALUE_CHARACTERS {
        return text;
    }
    let mut cut: String = text.chars().take(MAX_VALUE_CHARACTERS).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests;
