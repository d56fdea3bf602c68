//! What agents say, as JSON that is bounded in size and depth: what is kept and shown.
//!
//! `muster_wire_opamp::attributes` has attributes as JSON, too, all that was said and in that order, so that they can be read
//! back. Here they are cut to what may be kept, and sorted: the same said in another order is nothing new to write.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_wire_opamp::proto::any_value::Value as Kind;
use muster_wire_opamp::proto::{
    AgentDescription, AnyValue, AvailableComponents, ComponentDetails, ComponentHealth,
    EffectiveConfig, KeyValue, PackageStatuses,
};
use serde_json::{Map, Value, json};

use crate::Masking;
use crate::limits::{MAX_ATTRIBUTES, MAX_DEPTH, MAX_ERROR_BYTES, MAX_NODES, MAX_TEXT_BYTES};

/// A text of at most so many bytes, without what databases do not keep.
pub(crate) fn bounded(text: &str, limit_bytes: usize) -> String {
    let mut end = text.len().min(limit_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut kept = text[..end].replace('\0', "\u{fffd}");
    if end < text.len() {
        kept.push('…');
    }
    kept
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// What tells one text from another: half of its SHA-256 as hexadecimal digits.
pub(crate) fn digest(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hex(&digest.as_ref()[..16])
}

fn any(value: Option<&AnyValue>, depth: usize) -> Value {
    let Some(kind) = value.and_then(|value| value.value.as_ref()) else {
        return Value::Null;
    };
    match kind {
        Kind::StringValue(text) => bounded(text, MAX_TEXT_BYTES).into(),
        Kind::BoolValue(flag) => (*flag).into(),
        Kind::IntValue(number) => (*number).into(),
        Kind::DoubleValue(number) => {
            serde_json::Number::from_f64(*number).map_or(Value::Null, Value::Number)
        }
        Kind::BytesValue(bytes) => STANDARD
            .encode(&bytes[..bytes.len().min(MAX_TEXT_BYTES)])
            .into(),
        _ if depth >= MAX_DEPTH => "…".into(),
        Kind::ArrayValue(array) => {
            let values = array.values.iter().take(MAX_ATTRIBUTES);
            values.map(|value| any(Some(value), depth + 1)).collect()
        }
        Kind::KvlistValue(list) => Value::Object(pairs(&list.values, depth + 1)),
    }
}

fn pairs(list: &[KeyValue], depth: usize) -> Map<String, Value> {
    let mut sorted: Vec<&KeyValue> = list.iter().take(MAX_ATTRIBUTES).collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    sorted
        .into_iter()
        .map(|pair| (bounded(&pair.key, 256), any(pair.value.as_ref(), depth)))
        .collect()
}

/// Attributes in the order of their names.
pub(crate) fn attributes(list: &[KeyValue]) -> Map<String, Value> {
    pairs(list, 0)
}

/// The text of an attribute, whatever its kind.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// An agent's attributes, with secrets masked: a list of all is shown to everybody who may see the agent, and searched.
pub(crate) fn description(said: &AgentDescription, masking: &Masking) -> Value {
    let masked = |list: &[KeyValue]| {
        let mut all = attributes(list);
        masking.attributes(&mut all);
        all
    };
    json!({
        "identifying": masked(&said.identifying_attributes),
        "non_identifying": masked(&said.non_identifying_attributes),
    })
}

/// What tells an agent from those on other machines: its identifying attributes but its instance, which some agents draw anew
/// at each start, and its machine.
pub(crate) fn traits(said: &AgentDescription) -> String {
    let mut text = String::new();
    for (name, value) in attributes(&said.identifying_attributes) {
        // A version changes by an update, an instance by a restart.
        if name != "service.instance.id" && name != "service.version" {
            let _ = writeln!(text, "{name}={value}");
        }
    }
    let others = attributes(&said.non_identifying_attributes);
    for name in ["host.id", "host.name"] {
        if let Some(value) = others.get(name) {
            let _ = writeln!(text, "{name}={value}");
            break;
        }
    }
    digest(&text)
}

/// Tells an effective configuration from others in this process: what stands in it is not to be had from it.
pub(crate) fn fingerprint(said: &EffectiveConfig) -> u64 {
    static KEY: std::sync::LazyLock<RandomState> = std::sync::LazyLock::new(RandomState::new);
    let mut hasher = KEY.build_hasher();
    let map = said.config_map.iter().flat_map(|map| &map.config_map);
    let mut files: Vec<_> = map.collect();
    files.sort_by_key(|(name, _)| *name);
    for (name, file) in files {
        (name, &file.content_type, &file.body).hash(&mut hasher);
    }
    hasher.finish()
}

fn nanoseconds(time: u64) -> Value {
    // Zero means that it was not said.
    if time == 0 {
        return Value::Null;
    }
    let micros = i64::try_from(time / 1_000).unwrap_or(i64::MAX);
    muster_clock::Timestamp::from_micros(micros)
        .to_string()
        .into()
}

/// A tree of health. What is too deep or too much is left out, and the tree says so.
pub(crate) fn health(said: &ComponentHealth) -> Value {
    let mut room = MAX_NODES;
    health_node(said, 0, &mut room)
}

fn health_node(said: &ComponentHealth, depth: usize, room: &mut usize) -> Value {
    *room = room.saturating_sub(1);
    let mut node = Map::new();
    node.insert("healthy".to_owned(), said.healthy.into());
    for (name, text) in [("status", &said.status), ("last_error", &said.last_error)] {
        if !text.is_empty() {
            node.insert(name.to_owned(), bounded(text, MAX_ERROR_BYTES).into());
        }
    }
    for (name, time) in [
        ("started_at", said.start_time_unix_nano),
        ("status_at", said.status_time_unix_nano),
    ] {
        let value = nanoseconds(time);
        if !value.is_null() {
            node.insert(name.to_owned(), value);
        }
    }
    let details = attributes(&said.attributes);
    if !details.is_empty() {
        node.insert("attributes".to_owned(), Value::Object(details));
    }
    let mut components = Map::new();
    let mut is_cut = false;
    for (name, component) in &said.component_health_map {
        if depth + 1 >= MAX_DEPTH || *room == 0 {
            is_cut = true;
            break;
        }
        let component = health_node(component, depth + 1, room);
        components.insert(bounded(name, 256), component);
    }
    if !components.is_empty() {
        node.insert("components".to_owned(), Value::Object(components));
    }
    if is_cut {
        node.insert("is_cut".to_owned(), true.into());
    }
    Value::Object(node)
}

/// What an agent calls its components together, as hexadecimal digits.
pub(crate) fn components_name(said: &AvailableComponents) -> String {
    hex(&said.hash[..said.hash.len().min(64)])
}

/// The components that an agent is built of.
pub(crate) fn components(
    said: &std::collections::BTreeMap<String, ComponentDetails>,
) -> Map<String, Value> {
    let mut room = MAX_NODES;
    component_nodes(said, 0, &mut room)
}

fn component_nodes(
    said: &std::collections::BTreeMap<String, ComponentDetails>,
    depth: usize,
    room: &mut usize,
) -> Map<String, Value> {
    let mut nodes = Map::new();
    for (name, details) in said {
        if depth >= MAX_DEPTH || *room == 0 {
            break;
        }
        *room -= 1;
        let mut node = Map::new();
        let metadata = attributes(&details.metadata);
        if !metadata.is_empty() {
            node.insert("metadata".to_owned(), Value::Object(metadata));
        }
        let inner = component_nodes(&details.sub_component_map, depth + 1, room);
        if !inner.is_empty() {
            node.insert("components".to_owned(), Value::Object(inner));
        }
        nodes.insert(bounded(name, 256), Value::Object(node));
    }
    nodes
}

/// An agent's packages.
pub(crate) fn packages(said: &PackageStatuses) -> Value {
    let statuses = [
        "installed",
        "install_pending",
        "installing",
        "install_failed",
        "downloading",
    ];
    let mut packages = Map::new();
    for (name, package) in said.packages.iter().take(MAX_ATTRIBUTES) {
        let status = usize::try_from(package.status).ok();
        let status = status.and_then(|status| statuses.get(status));
        let mut node = Map::new();
        node.insert(
            "status".to_owned(),
            status.copied().unwrap_or("unknown").into(),
        );
        for (name, text) in [
            ("has_version", &package.agent_has_version),
            ("offered_version", &package.server_offered_version),
            ("error", &package.error_message),
        ] {
            if !text.is_empty() {
                node.insert(name.to_owned(), bounded(text, MAX_ERROR_BYTES).into());
            }
        }
        packages.insert(bounded(name, 256), Value::Object(node));
    }
    let mut all = Map::new();
    all.insert("packages".to_owned(), Value::Object(packages));
    if !said.error_message.is_empty() {
        let error = bounded(&said.error_message, MAX_ERROR_BYTES);
        all.insert("error".to_owned(), error.into());
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue {
                value: Some(Kind::StringValue(value.to_owned())),
            }),
        }
    }

    #[test]
    fn an_agent_is_told_from_others_by_its_service_and_machine_and_not_by_its_instance() {
        let agent = |instance: &str, version: &str, host: &str| AgentDescription {
            identifying_attributes: vec![
                pair("service.name", "otelcol"),
                pair("service.version", version),
                pair("service.instance.id", instance),
            ],
            non_identifying_attributes: vec![pair("host.name", host), pair("os.type", "linux")],
        };
        let first = traits(&agent("a", "1", "box-1"));
        assert_eq!(first, traits(&agent("b", "2", "box-1")));
        assert_ne!(first, traits(&agent("a", "1", "box-2")));
    }

    #[test]
    fn a_tree_that_is_too_deep_is_cut_and_says_so() {
        let mut tree = ComponentHealth::default();
        for _ in 0..MAX_DEPTH + 5 {
            let mut outer = ComponentHealth::default();
            outer.component_health_map.insert("inner".to_owned(), tree);
            tree = outer;
        }
        let text = health(&tree).to_string();
        assert!(text.contains("is_cut"), "{text}");
        assert!(text.matches("inner").count() < MAX_DEPTH, "{text}");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(bounded("aé", 2), "a…");
        assert_eq!(bounded("a\0b", 10), "a\u{fffd}b");
    }
}
