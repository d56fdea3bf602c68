//! Checks a configuration before it is kept or sent: a bad one survives at the agent, which then breaks at every start.
//!
//! What is checked is what a collector refuses before it starts anything: the form of the sections, names of components,
//! pipelines that refer to what is there. What a component makes of its own settings only the component knows. References
//! (`${env:NAME}`, `${file:…}`) are resolved by the agent and are taken for whatever is wanted in their place.

mod ids;
mod pipelines;
mod references;
mod rings;

use std::collections::BTreeMap;

use ids::{id_of, type_of};
use pipelines::{Used, names_in, pipelines, refer, unused};

use super::components::{Components, Section};
use super::document::{Files, Kind};
use super::finding::{Finding, Findings};
use super::merge::{Merged, merge};
use super::yaml::{Entry, Node, Place, Value, shown};

/// How alike two names must be for one to be suggested for the other, from 0 to 1.
const LIKENESS: f64 = 0.8;

const TOP_LEVEL: [&str; 6] = [
    "receivers",
    "processors",
    "exporters",
    "connectors",
    "extensions",
    "service",
];
const SERVICE: [&str; 3] = ["telemetry", "extensions", "pipelines"];

/// Checks the files of a version. `available` are the components that an agent said it has, if it said so.
pub fn check(kind: Kind, files: &Files, available: Option<&Components>) -> Vec<Finding> {
    let merged = merge(files);
    let mut findings = Findings::new(&merged.names);
    for error in merged.files.iter().filter_map(|file| file.as_ref().err()) {
        findings.error(error.place, &error.message);
    }
    if kind == Kind::Collector && !findings.has_errors() {
        for (index, file) in merged.files.iter().enumerate() {
            whole_file(
                &merged,
                index,
                file.as_ref().ok().map(AsRef::as_ref),
                &mut findings,
            );
        }
        if !findings.has_errors() {
            references::check(&merged.root, &mut findings);
            collector(&merged.root, available, &mut findings);
        }
    }
    // Whatever it is for: it would stop, or run with nothing.
    if kind == Kind::Other && merged.is_empty() {
        findings.error(
            None::<Place>,
            "there is nothing in it; write what the agent is to run with",
        );
    }
    findings.finish()
}

fn whole_file(merged: &Merged, index: usize, node: Option<&Node>, findings: &mut Findings<'_>) {
    match node.map(|node| (&node.value, node)) {
        None | Some((Value::Map(_), _)) => {}
        Some((Value::Null, node)) => {
            // Comments only are no mistake where other files have something in them.
            if merged.names.len() == 1 {
                findings.error(
                    node.place,
                    "is empty; write the sections of a collector, such as receivers and service",
                );
            } else {
                let place = Place {
                    file: index,
                    ..node.place
                };
                findings.warning(place, "is empty");
            }
        }
        Some((_, node)) => {
            let message = format!(
                "is {}, where a mapping with sections such as receivers and service is wanted",
                node.kind()
            );
            findings.error(node.place, message);
        }
    }
}

/// What a section declares, by the components' ids; none when that cannot be known here.
type Declared<'a> = BTreeMap<Section, Option<BTreeMap<String, &'a Entry>>>;

fn collector(root: &Node, available: Option<&Components>, findings: &mut Findings<'_>) {
    for entry in root.entries().unwrap_or_default() {
        if !TOP_LEVEL.contains(&entry.key.as_str()) {
            let message = format!(
                "`{}` is no section of a collector, which refuses what it does not know{}",
                shown(&entry.key),
                suggestion(&entry.key, TOP_LEVEL, findings)
            );
            findings.error(entry.place, message);
        }
    }
    let mut declared = Declared::new();
    for section in Section::ALL {
        declared.insert(section, section_of(root, section, available, findings));
    }
    ambiguous(&declared, findings);
    if available.is_none() {
        findings.warning(
            None::<Place>,
            "which components the collectors have is not known, so whether they have those named here was not checked",
        );
    }
    let Some(service) = root.get("service") else {
        let message = "has no section `service`; add it with pipelines, such as\n  \
                       service: {pipelines: {logs: {receivers: [otlp], exporters: [debug]}}}";
        findings.error(root.place, message);
        return;
    };
    let Some(entries) = service.node.entries() else {
        if !is_reference(&service.node) {
            let message = format!(
                "`service` is {}, and must be a mapping",
                service.node.kind()
            );
            findings.error(service.place, message);
        }
        return;
    };
    for entry in entries {
        if !SERVICE.contains(&entry.key.as_str()) {
            let message = format!(
                "`service` has no `{}`{}",
                shown(&entry.key),
                suggestion(&entry.key, SERVICE, findings)
            );
            findings.error(entry.place, message);
        }
    }
    if let Some(telemetry) = service.node.get("telemetry")
        && !matches!(telemetry.node.value, Value::Map(_) | Value::Null)
        && !is_reference(&telemetry.node)
    {
        let message = format!(
            "`service.telemetry` is {}, and must be a mapping",
            telemetry.node.kind()
        );
        findings.error(telemetry.place, message);
    }
    let mut used = Used::default();
    if let Some(extensions) = service.node.get("extensions") {
        let names = names_in(extensions, "service.extensions", findings);
        for (name, place) in names {
            refer(
                &declared,
                &[Section::Extensions],
                &name,
                place,
                "service.extensions",
                findings,
            );
            used.extensions.insert(name);
        }
    }
    pipelines(service, &declared, &mut used, findings);
    unused(&declared, &used, findings);
}

fn section_of<'a>(
    root: &'a Node,
    section: Section,
    available: Option<&Components>,
    findings: &mut Findings<'_>,
) -> Option<BTreeMap<String, &'a Entry>> {
    let Some(found) = root.get(section.name()) else {
        return Some(BTreeMap::new());
    };
    let entries = match &found.node.value {
        Value::Null => return Some(BTreeMap::new()),
        Value::Map(entries) => entries,
        _ if is_reference(&found.node) => return None,
        _ => {
            let message = format!(
                "`{}` is {}, and must be a mapping from names to settings",
                section.name(),
                found.node.kind()
            );
            findings.error(found.place, message);
            return None;
        }
    };
    let mut declared: BTreeMap<String, &Entry> = BTreeMap::new();
    for entry in entries {
        let id = id_of(&entry.key);
        if let Some(first) = declared.get(&id) {
            findings.error(entry.place, twice(&entry.key, &id, first));
        }
        declared.insert(id, entry);
        component(section, entry, available, findings);
    }
    Some(declared)
}

/// Two keys that a collector takes for the same.
fn twice(key: &str, id: &str, first: &Entry) -> String {
    format!(
        "`{}` is `{}`, which is there already as `{}` in line {}; keep one of them",
        shown(key),
        shown(id),
        shown(&first.key),
        first.place.line
    )
}

/// A connector that is called as a receiver or exporter is: in a pipeline nobody knows which of them is meant.
fn ambiguous(declared: &Declared<'_>, findings: &mut Findings<'_>) {
    let Some(Some(connectors)) = declared.get(&Section::Connectors) else {
        return;
    };
    for section in [Section::Receivers, Section::Exporters] {
        let Some(Some(others)) = declared.get(&section) else {
            continue;
        };
        for (id, entry) in connectors.iter().filter(|(id, _)| others.contains_key(*id)) {
            let kind = section.singular();
            let message = format!(
                "the connector `{0}` has the name of the {kind} `{0}`, which a collector refuses; call one of them otherwise, \
                 such as `{1}/2`",
                shown(id),
                shown(type_of(id).unwrap_or(id)),
            );
            findings.error(entry.place, message);
        }
    }
}

fn component(
    section: Section,
    entry: &Entry,
    available: Option<&Components>,
    findings: &mut Findings<'_>,
) {
    if entry.key.starts_with("${") {
        return;
    }
    let kind = section.singular();
    let Some(type_name) = type_of(&entry.key) else {
        let message = format!(
            "`{}` is no name of {kind}: it must be a type, such as otlp, or a type and a name, such as otlp/internal, without \
             spaces or symbols",
            shown(&entry.key)
        );
        findings.error(entry.place, message);
        return;
    };
    if !matches!(entry.node.value, Value::Map(_) | Value::Null) && !is_reference(&entry.node) {
        let message = format!(
            "the settings of {kind} `{}` are {}, and must be a mapping, or nothing",
            shown(&entry.key),
            entry.node.kind()
        );
        findings.error(entry.place, message);
    }
    if let Some(available) = available
        && !available.has(section, type_name)
        && !findings.are_many()
    {
        let known = available.types(section);
        let message = if known.is_empty() {
            format!(
                "there is no {kind} of type `{type_name}`: the collector has no {}",
                section.name()
            )
        } else {
            format!(
                "there is no {kind} of type `{type_name}` among the {} that the collector has{}",
                known.len(),
                suggestion(type_name, known.iter().map(String::as_str), findings)
            )
        };
        findings.error(entry.place, message);
    }
}

/// Whether a value is something that the agent puts another one in the place of.
fn is_reference(node: &Node) -> bool {
    matches!(&node.value, Value::Text(text) if text.starts_with("${") && text.ends_with('}'))
}

/// `; did you mean …?` when one of the known names is much like this one.
fn suggestion<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
    findings: &Findings<'_>,
) -> String {
    // Comparing takes time with the length and with the number, and no name that is meant is so long.
    const MAX_COMPARED_BYTES: usize = 128;
    const MAX_COMPARED: usize = 1_000;
    if name.len() > MAX_COMPARED_BYTES || findings.are_many() {
        return String::new();
    }
    let scored = known
        .into_iter()
        .filter(|known| known.len() <= MAX_COMPARED_BYTES)
        .take(MAX_COMPARED)
        .map(|known| (strsim::jaro_winkler(name, known), known));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    match best.filter(|(likeness, _)| *likeness >= LIKENESS) {
        Some((_, known)) => format!("; did you mean `{}`?", shown(known)),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
