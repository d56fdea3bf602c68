//! The components that an agent said it has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The sections of a collector's configuration that declare components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What takes data in.
    Receivers,
    /// What changes data.
    Processors,
    /// What sends data on.
    Exporters,
    /// What joins pipelines.
    Connectors,
    /// What stands beside the pipelines.
    Extensions,
}

impl Section {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Receivers,
        Self::Processors,
        Self::Exporters,
        Self::Connectors,
        Self::Extensions,
    ];

    /// Its name in a configuration, and in what agents say.
    pub fn name(self) -> &'static str {
        match self {
            Self::Receivers => "receivers",
            Self::Processors => "processors",
            Self::Exporters => "exporters",
            Self::Connectors => "connectors",
            Self::Extensions => "extensions",
        }
    }

    /// What one of its components is called.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Receivers => "receiver",
            Self::Processors => "processor",
            Self::Exporters => "exporter",
            Self::Connectors => "connector",
            Self::Extensions => "extension",
        }
    }
}

/// The types of components of an agent, by section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Components(BTreeMap<Section, BTreeSet<String>>);

impl Components {
    /// Components by hand.
    pub fn new<'a>(list: impl IntoIterator<Item = (Section, &'a str)>) -> Self {
        let mut all = Self::default();
        for (section, type_name) in list {
            all.0
                .entry(section)
                .or_default()
                .insert(type_name.to_owned());
        }
        all
    }

    /// From what is kept of an agent's words: sections with `components` by type. None when none of the sections of a collector
    /// is in it, so that nothing can be concluded from it.
    pub fn from_kept(kept: &Value) -> Option<Self> {
        let mut all = Self::default();
        for section in Section::ALL {
            let Some(found) = kept.get(section.name()) else {
                continue;
            };
            let types = found.get("components").and_then(Value::as_object);
            let types = types
                .into_iter()
                .flat_map(|types| types.keys().cloned())
                .collect();
            all.0.insert(section, types);
        }
        (!all.0.is_empty()).then_some(all)
    }

    /// Whether a type is there.
    pub fn has(&self, section: Section, type_name: &str) -> bool {
        self.0
            .get(&section)
            .is_some_and(|types| types.contains(type_name))
    }

    /// The types of a section, in the order of their names.
    pub fn types(&self, section: Section) -> Vec<String> {
        self.0
            .get(&section)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_agent_said_is_read_by_section() {
        let kept = json!({
            "receivers": {"components": {
                "otlp": {"metadata": {"code.namespace": "go.opentelemetry.io/collector/receiver/otlpreceiver"}},
                "nop": {},
            }},
            "exporters": {"components": {"debug": {}}},
            "providers": {"components": {"env": {}}},
        });
        let components = Components::from_kept(&kept).unwrap();
        assert!(components.has(Section::Receivers, "otlp"));
        assert!(!components.has(Section::Exporters, "otlp"));
        assert!(!components.has(Section::Connectors, "forward"));
        assert_eq!(components.types(Section::Receivers), ["nop", "otlp"]);
    }

    #[test]
    fn from_words_about_something_else_nothing_is_concluded() {
        assert_eq!(Components::from_kept(&json!({"plugins": {}})), None);
        assert_eq!(Components::from_kept(&json!({})), None);
    }
}
