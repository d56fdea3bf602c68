//! Pipelines, and whether what they and `service.extensions` name is declared and used.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{id_of, type_of};
use super::{Declared, is_reference, rings, suggestion, twice};
use crate::configurations::components::Section;
use crate::configurations::finding::Findings;
use crate::configurations::yaml::{Entry, Place, Value, shown};

const SIGNALS: [&str; 4] = ["traces", "metrics", "logs", "profiles"];
const PIPELINE: [&str; 3] = ["receivers", "processors", "exporters"];

/// Which components are referred to, and how.
#[derive(Default)]
pub(super) struct Used {
    pub(super) extensions: BTreeSet<String>,
    as_receiver: BTreeSet<String>,
    as_processor: BTreeSet<String>,
    as_exporter: BTreeSet<String>,
    /// A reference may stand for any name.
    is_open: bool,
}

/// Checks the pipelines of `service`, and notes what they use.
pub(super) fn pipelines(
    service: &Entry,
    declared: &Declared<'_>,
    used: &mut Used,
    findings: &mut Findings<'_>,
) {
    let Some(pipelines) = service.node.get("pipelines") else {
        findings.error(
            service.place,
            "`service` has no `pipelines`; without any, a collector does not start",
        );
        return;
    };
    let entries = match &pipelines.node.value {
        Value::Map(entries) if !entries.is_empty() => entries,
        Value::Map(_) | Value::Null => {
            findings.error(
                pipelines.place,
                "`service.pipelines` is empty; add a pipeline, or a collector does not start",
            );
            return;
        }
        _ if is_reference(&pipelines.node) => {
            used.is_open = true;
            return;
        }
        _ => {
            let message = format!(
                "`service.pipelines` is {}, and must be a mapping",
                pipelines.node.kind()
            );
            findings.error(pipelines.place, message);
            return;
        }
    };
    let mut seen: BTreeMap<String, &Entry> = BTreeMap::new();
    let mut all = Vec::new();
    for entry in entries {
        let id = id_of(&entry.key);
        if let Some(first) = seen.get(&id) {
            findings.error(entry.place, twice(&entry.key, &id, first));
        }
        seen.insert(id, entry);
        all.extend(pipeline(entry, declared, used, findings));
    }
    if let Some(Some(connectors)) = declared.get(&Section::Connectors)
        && let Some(ring) = rings::find(&all, |name| connectors.contains_key(name))
    {
        findings.error(ring.place, ring.message);
    }
}

/// Checks a pipeline; gives what joins it with others, as far as that is known.
fn pipeline<'a>(
    entry: &'a Entry,
    declared: &Declared<'_>,
    used: &mut Used,
    findings: &mut Findings<'_>,
) -> Option<rings::Pipeline<'a>> {
    let title = shown(&entry.key);
    let signal = type_of(&entry.key);
    let Some(signal) = signal.filter(|signal| SIGNALS.contains(signal)) else {
        let is_signal = |known: &str| entry.key.split('/').next().map(str::trim) == Some(known);
        let message = if SIGNALS.into_iter().any(is_signal) {
            format!(
                "`{title}` is no pipeline: what stands behind the / must be a name without spaces or symbols"
            )
        } else {
            format!(
                "`{title}` is no pipeline: its name must begin with one of {}{}",
                SIGNALS.join(", "),
                suggestion(signal.unwrap_or(&entry.key), SIGNALS, findings)
            )
        };
        findings.error(entry.place, message);
        return None;
    };
    if signal == "profiles" {
        let message = format!(
            "the pipeline `{title}` is of a signal that collectors refuse unless they are started with \
             --feature-gates=+service.profilesSupport"
        );
        findings.warning(entry.place, message);
    }
    let mut joins = rings::Pipeline {
        name: &entry.key,
        signal,
        place: entry.place,
        takes_from: Vec::new(),
        sends_to: Vec::new(),
    };
    let Some(parts) = entry.node.entries() else {
        if is_reference(&entry.node) {
            used.is_open = true;
        } else {
            let message = format!(
                "the pipeline `{title}` is {}; it must have receivers and exporters",
                entry.node.kind()
            );
            findings.error(entry.place, message);
        }
        return None;
    };
    for part in parts {
        if !PIPELINE.contains(&part.key.as_str()) {
            let message = format!(
                "the pipeline `{title}` has no `{}`{}",
                shown(&part.key),
                suggestion(&part.key, PIPELINE, findings)
            );
            findings.error(part.place, message);
        }
    }
    for role in PIPELINE {
        let path = format!("the pipeline `{title}`");
        let Some(list) = entry.node.get(role) else {
            if role != "processors" {
                findings.error(
                    entry.place,
                    format!("{path} has no {role}; name at least one"),
                );
            }
            continue;
        };
        if is_reference(&list.node) {
            used.is_open = true;
            continue;
        }
        let names = names_in(list, &format!("{role} of {path}"), findings);
        let is_empty = !matches!(&list.node.value, Value::List(items) if !items.is_empty());
        if role != "processors"
            && is_empty
            && matches!(list.node.value, Value::List(_) | Value::Null)
        {
            findings.error(
                list.place,
                format!("{path} has no {role}; name at least one"),
            );
        }
        let sections: &[Section] = match role {
            "receivers" => &[Section::Receivers, Section::Connectors],
            "processors" => &[Section::Processors],
            _ => &[Section::Exporters, Section::Connectors],
        };
        let mut seen = BTreeSet::new();
        for (name, place) in names {
            if !seen.insert(name.clone()) {
                let message = format!(
                    "{path} names `{}` twice among its {role}; keep one",
                    shown(&name)
                );
                if role == "processors" {
                    findings.error(place, message);
                } else {
                    findings.warning(place, message);
                }
            }
            refer(declared, sections, &name, place, &path, findings);
            match role {
                "receivers" => {
                    joins.takes_from.push(name.clone());
                    used.as_receiver.insert(name);
                }
                "processors" => {
                    used.as_processor.insert(name);
                }
                _ => {
                    joins.sends_to.push(name.clone());
                    used.as_exporter.insert(name);
                }
            }
        }
    }
    Some(joins)
}

/// The ids in a list of components. References are left out.
pub(super) fn names_in(
    list: &Entry,
    title: &str,
    findings: &mut Findings<'_>,
) -> Vec<(String, Place)> {
    let items = match &list.node.value {
        Value::List(items) => items,
        Value::Null => return Vec::new(),
        _ if is_reference(&list.node) => return Vec::new(),
        _ => {
            let message = format!(
                "{title} is {}, and must be a list of names",
                list.node.kind()
            );
            findings.error(list.place, message);
            return Vec::new();
        }
    };
    let mut names = Vec::new();
    for item in items {
        match &item.value {
            Value::Text(name) if name.contains("${") => {}
            Value::Text(name) => names.push((id_of(name), item.place)),
            _ => {
                let message = format!("in {title} stands {}, where a name is wanted", item.kind());
                findings.error(item.place, message);
            }
        }
    }
    names
}

/// Checks that a name is declared in one of the sections.
pub(super) fn refer(
    declared: &Declared<'_>,
    sections: &[Section],
    name: &str,
    place: Place,
    title: &str,
    findings: &mut Findings<'_>,
) {
    let mut known = Vec::new();
    for section in sections {
        match declared.get(section) {
            Some(Some(names)) if names.contains_key(name) => return,
            Some(Some(names)) => known.push(names),
            _ => return,
        }
    }
    // A reference as a key may stand for any name. Such keys stand together.
    let is_open = |names: &BTreeMap<String, &Entry>| {
        let next = names.range("${".to_owned()..).next();
        next.is_some_and(|(id, _)| id.starts_with("${"))
    };
    if known.iter().any(|names| is_open(names)) {
        return;
    }
    let sections: Vec<&str> = sections.iter().map(|section| section.name()).collect();
    let ids = known.iter().flat_map(|names| names.keys());
    let message = format!(
        "{title} names `{}`, which is not among the {}{}",
        shown(name),
        sections.join(" or "),
        suggestion(name, ids.map(String::as_str), findings)
    );
    findings.error(place, message);
}

/// Tells which components are declared and not used.
pub(super) fn unused(declared: &Declared<'_>, used: &Used, findings: &mut Findings<'_>) {
    if used.is_open {
        return;
    }
    for (section, names) in declared {
        for (name, entry) in names.iter().flatten() {
            let (is_received, is_exported) = (
                used.as_receiver.contains(name),
                used.as_exporter.contains(name),
            );
            let is_used = match section {
                Section::Receivers => is_received,
                Section::Processors => used.as_processor.contains(name),
                Section::Exporters => is_exported,
                Section::Connectors => is_received || is_exported,
                Section::Extensions => used.extensions.contains(name),
            };
            if *section == Section::Connectors && is_used && is_received != is_exported {
                let (has, wants) = if is_received {
                    ("receiver", "exporter")
                } else {
                    ("exporter", "receiver")
                };
                let message = format!(
                    "the connector `{}` is the {has} of a pipeline and must be the {wants} of another one, too",
                    shown(name)
                );
                findings.error(entry.place, message);
            }
            if !is_used {
                let place = if *section == Section::Extensions {
                    "in service.extensions"
                } else {
                    "by any pipeline"
                };
                let message = format!(
                    "the {} `{}` is not used {place}",
                    section.singular(),
                    shown(name)
                );
                findings.warning(entry.place, message);
            }
        }
    }
}
