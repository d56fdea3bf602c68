//! Agent options: what an operator may write, and what agents are given.

use std::collections::HashMap;

use muster_hosts::AgentOptions;
use serde_json::{Map, Value};

use crate::SettingsError;
use crate::osquery_options::{self, CUSTOM, FLAGS, Names, OPTIONS, kind_of};

/// The members of agent options.
const MEMBERS: &[&str] = &[
    "command_line_flags",
    "config",
    "extensions",
    "overrides",
    "script_execution_timeout",
    "update_channels",
];

/// The members of osquery's configuration.
const CONFIG_MEMBERS: &[&str] = &[
    "auto_table_construction",
    "decorators",
    "events",
    "exclude_paths",
    "feature_vectors",
    "file_accesses",
    "file_paths",
    "file_paths_query",
    "options",
    "packs",
    "prometheus_targets",
    "schedule",
    "views",
    "yara",
];

/// Members that are a list of texts.
const LISTS: &[&str] = &["/file_accesses", "/decorators/load", "/decorators/always"];
/// Members that are an object of lists of texts.
const NAMED_LISTS: &[&str] = &[
    "/decorators/interval",
    "/exclude_paths",
    "/file_paths",
    "/file_paths_query",
    "/yara/file_paths",
    "/yara/signatures",
];
/// Members that are another kind of object. What is in `packs` and `schedule` is left to osquery, as Fleet does.
const OBJECTS: &[&str] = &[
    "/auto_table_construction",
    "/decorators",
    "/events",
    "/feature_vectors",
    "/prometheus_targets",
    "/views",
    "/yara",
];

/// Flags that would take a host away from this server.
const REFUSED_FLAGS: &[&str] = &["extensions_autoload", "host_identifier"];

/// Programs whose channel can be chosen.
const CHANNELS: &[&str] = &["desktop", "orbit", "osqueryd"];

/// The longest that a script may run.
const MAX_SCRIPT_SECONDS: u64 = 3_600;

/// How strictly options are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Everything that we know to be wrong is refused.
    Full,
    /// Only what we could not read ourselves is refused: an operator who knows better insists.
    Forced,
}

/// Whether these are agent options.
pub fn check_agent_options(options: &Value, strictness: Strictness) -> Result<(), SettingsError> {
    let options = object(options, "agent_options")?;
    if strictness == Strictness::Forced {
        return Ok(());
    }
    known_members(options, MEMBERS)?;
    if let Some(config) = given(options, "config") {
        check_config(config, "")?;
    }
    if let Some(overrides) = given(options, "overrides") {
        let overrides = object(overrides, "overrides")?;
        known_members(overrides, &["platforms"])?;
        if let Some(platforms) = given(overrides, "platforms") {
            for (platform, config) in object(platforms, "overrides.platforms")? {
                check_config(config, &format!("overrides.platforms.{platform}."))?;
            }
        }
    }
    if let Some(flags) = given(options, "command_line_flags") {
        for (name, value) in object(flags, "command_line_flags")? {
            if REFUSED_FLAGS.contains(&name.as_str()) {
                return Err(SettingsError::Malformed(format!(
                    "The --{name} flag isn't supported. Please remove this flag."
                )));
            }
            check_option(name, value, FLAGS, "command_line_flags")?;
        }
    }
    if let Some(extensions) = given(options, "extensions") {
        for (name, extension) in object(extensions, "extensions")? {
            object(extension, &format!("extensions.{name}"))?;
        }
    }
    if let Some(channels) = given(options, "update_channels") {
        let channels = object(channels, "update_channels")?;
        known_members(channels, CHANNELS)?;
        for (program, channel) in channels {
            if channel.as_str().is_none_or(str::is_empty) {
                let place = format!("update_channels.{program}");
                return Err(SettingsError::wrong_type(&place, "a text"));
            }
        }
    }
    if let Some(timeout) = given(options, "script_execution_timeout")
        && timeout
            .as_u64()
            .is_none_or(|seconds| seconds > MAX_SCRIPT_SECONDS)
    {
        let expected = format!("seconds from 0 to {MAX_SCRIPT_SECONDS}");
        return Err(SettingsError::wrong_type(
            "script_execution_timeout",
            &expected,
        ));
    }
    Ok(())
}

fn check_config(config: &Value, place: &str) -> Result<(), SettingsError> {
    let config = object(config, &format!("{place}config"))?;
    known_members(config, CONFIG_MEMBERS)?;
    check_kinds(config, place)?;
    let Some(options) = given(config, "options") else {
        return Ok(());
    };
    let place = format!("{place}options");
    for (name, value) in object(options, &place)? {
        check_option(name, value, OPTIONS, &place)?;
    }
    Ok(())
}

/// Whether the members of a configuration are of the kinds that osquery reads; it passes over others without a word.
fn check_kinds(config: &Map<String, Value>, place: &str) -> Result<(), SettingsError> {
    let texts = |value: &Value| {
        let items = value.as_array();
        items.is_some_and(|items| items.iter().all(Value::is_string))
    };
    let named = |value: &Value| {
        let members = value.as_object();
        members.is_some_and(|members| members.values().all(texts))
    };
    let check = |pointers: &[&str], fits: &dyn Fn(&Value) -> bool, expected: &str| {
        for pointer in pointers {
            let mut path = pointer.split('/').skip(1);
            let value = path.next().and_then(|name| config.get(name));
            let value = path.fold(value, |value, name| value?.get(name));
            if value.is_some_and(|value| !value.is_null() && !fits(value)) {
                let name = pointer[1..].replace('/', ".");
                return Err(SettingsError::wrong_type(
                    &format!("{place}{name}"),
                    expected,
                ));
            }
        }
        Ok(())
    };
    check(OBJECTS, &Value::is_object, "an object")?;
    check(LISTS, &texts, "a list of texts")?;
    check(NAMED_LISTS, &named, "an object of lists of texts")
}

/// Whether osquery has such an option, and takes such a value. `null` counts as absent.
fn check_option(
    name: &str,
    value: &Value,
    table: &'static [Names],
    place: &str,
) -> Result<(), SettingsError> {
    if name.starts_with(CUSTOM) {
        return Ok(());
    }
    let kind = kind_of(name, table)
        .ok_or_else(|| SettingsError::unknown_key(name, &osquery_options::names(table)))?;
    if value.is_null() || kind.admits(value) {
        return Ok(());
    }
    let given = match value {
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        _ => "object",
    };
    let expected = format!("{} but got {given}", kind.name());
    Err(SettingsError::wrong_type(
        &format!("{place}.{name}"),
        &expected,
    ))
}

/// `null` counts as absent.
fn given<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, SettingsError> {
    value
        .as_object()
        .ok_or_else(|| SettingsError::wrong_type(place, "an object"))
}

pub(crate) fn known_members(
    object: &Map<String, Value>,
    known: &[&str],
) -> Result<(), SettingsError> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(SettingsError::unknown_key(key, known)),
        None => Ok(()),
    }
}

/// As agents' side reads them. What makes no sense is left out: agents must get something in any case.
pub fn parse_agent_options(options: &Value) -> AgentOptions {
    let get = |name: &str| options.get(name).filter(|value| !value.is_null()).cloned();
    let platforms = options.pointer("/overrides/platforms");
    let overrides: HashMap<String, Value> = platforms
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, config)| config.is_object())
        .map(|(platform, config)| (platform.clone(), config.clone()))
        .collect();
    AgentOptions {
        config: get("config").unwrap_or_else(|| Value::Object(Map::new())),
        overrides,
        command_line_flags: get("command_line_flags"),
        extensions: get("extensions"),
        update_channels: get("update_channels"),
        script_execution_timeout: get("script_execution_timeout").and_then(|value| value.as_u64()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_operator_may_write_and_what_is_refused_with_its_reason() {
        let cases = [
            (json!({}), None),
            (crate::default_agent_options(), None),
            (
                json!({"config": null, "overrides": {"platforms": {"ubuntu": {"options": {}}}}}),
                None,
            ),
            (
                json!({"nope": 1}),
                Some("unsupported key provided: \"nope\""),
            ),
            (json!({"confg": {}}), Some("did you mean \"config\"?")),
            (json!({"config": []}), Some("'config': expected an object")),
            (
                json!({"config": {"decorators": "load", "schedule": {}}}),
                Some("'decorators': expected an object"),
            ),
            (
                json!({"config": {"decorators": {"load": "SELECT 1"}}}),
                Some("'decorators.load': expected a list of texts"),
            ),
            (
                json!({"overrides": {"platforms": {"darwin": {"file_paths": {"homes": "/home/%"}}}}}),
                Some(
                    "'overrides.platforms.darwin.file_paths': expected an object of lists of texts",
                ),
            ),
            (
                json!({"config": {"file_accesses": ["homes"], "file_paths": {"homes": ["/home/%%"]}, "packs": null,
                    "yara": {"signatures": {"a": ["/etc/a.yar"]}}, "decorators": {"interval": {"60": ["SELECT 1"]}}}}),
                None,
            ),
            (
                json!({"config": {"option": {}}}),
                Some("did you mean \"options\"?"),
            ),
            (
                json!({"config": {"options": {"distributed_interval": "ten"}}}),
                Some("invalid value type at 'options.distributed_interval': expected uint64"),
            ),
            (
                json!({"config": {"options": {"distributed_intervall": 10}}}),
                Some(
                    "unsupported key provided: \"distributed_intervall\"; did you mean \"distributed_interval\"?",
                ),
            ),
            (
                json!({"config": {"options": {"verbose": 1, "distributed_interval": null}}}),
                Some("invalid value type at 'options.verbose': expected bool but got number"),
            ),
            (
                json!({"config": {"options": {"x".repeat(100_000): 1}}}),
                Some("xxx...\""),
            ),
            (
                json!({"command_line_flags": {"no_such_flag": true}}),
                Some("unsupported key provided: \"no_such_flag\""),
            ),
            (
                json!({"overrides": {"linux": {}}}),
                Some("unsupported key provided: \"linux\""),
            ),
            (
                json!({"command_line_flags": {"host_identifier": "uuid"}}),
                Some("The --host_identifier flag isn't supported. Please remove this flag."),
            ),
            (
                json!({"command_line_flags": {"extensions_autoload": "x"}}),
                Some("--extensions_autoload"),
            ),
            (
                json!({"command_line_flags": {"verbose": {}}}),
                Some("command_line_flags.verbose"),
            ),
            (
                json!({"update_channels": {"orbit": 1}}),
                Some("update_channels.orbit"),
            ),
            (
                json!({"script_execution_timeout": 3601}),
                Some("seconds from 0 to 3600"),
            ),
        ];
        for (options, wanted) in cases {
            let found = check_agent_options(&options, Strictness::Full);
            match wanted {
                None => assert!(found.is_ok(), "{options}: {found:?}"),
                Some(reason) => {
                    let error = found.expect_err(&options.to_string()).to_string();
                    assert!(error.contains(reason), "{options}: {error}");
                }
            }
        }
        assert!(check_agent_options(&json!({"nope": 1}), Strictness::Forced).is_ok());
        assert!(check_agent_options(&json!([]), Strictness::Forced).is_err());
    }

    #[test]
    fn agents_get_something_from_options_that_make_no_sense() {
        let options = parse_agent_options(&json!({
            "config": {"options": {}}, "overrides": {"platforms": {"ubuntu": {"a": 1}, "darwin": 7}},
            "command_line_flags": null, "script_execution_timeout": "x",
        }));
        assert_eq!(options.overrides.len(), 1);
        assert_eq!(options.command_line_flags, None);
        assert_eq!(options.script_execution_timeout, None);
        assert_eq!(parse_agent_options(&json!(7)).config, json!({}));
    }
}
