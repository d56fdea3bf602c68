//! What stands in the place of recorded secrets and ids.
//!
//! Secrets that clients choose (passwords, enroll secrets, device tokens) are made up from their placeholder's name. What
//! the server gives (keys, session tokens, ids) is learnt: where a recorded answer has a placeholder or an id, ours has the
//! value that takes its place from then on.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// What an id that was never learnt is raised by: what did not exist there must not exist here.
const UNKNOWN_ID: i64 = 900_000;

/// Kinds of things that have ids of their own, as they are called in paths, with the member that tells them apart.
const KINDS: &[(&str, &[&str])] = &[
    ("hosts", &["uuid", "hostname"]),
    ("teams", &["name"]),
    ("users", &["email"]),
    ("labels", &["name"]),
    ("queries", &["name"]),
    ("packs", &["name"]),
    ("policies", &["name"]),
    ("campaigns", &[]),
    ("sessions", &[]),
    ("carves", &["name"]),
    ("scripts", &["name"]),
    ("versions", &[]),
    ("titles", &[]),
    ("os_versions", &[]),
];

/// Members whose values a server makes up, and which clients then name.
const MADE_UP: &[&str] = &["request_uuid", "execution_id"];

/// Replacements, learnt and made up.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    values: HashMap<String, String>,
    ids: HashMap<(&'static str, i64), i64>,
    made_up: HashMap<String, String>,
}

/// The kind of what is called so in a path, a list or a reference.
fn kind(word: &str) -> Option<&'static str> {
    let word = match word {
        "fleets" | "available_teams" | "team" | "fleet" => "teams",
        "reports" | "query" | "queries" | "report" => "queries",
        "distributed_query_execution" | "campaign" => "campaigns",
        "policy" | "policies" | "inherited_policies" => "policies",
        "admin" | "user" | "author" | "actor" => "users",
        "builtin_labels" => "labels",
        "software" | "software_version" => "versions",
        "software_titles" | "software_title" => "titles",
        "os_version" => "os_versions",
        other => other,
    };
    let mut known = KINDS.iter().map(|(name, _)| *name);
    known.find(|name| *name == word || name.strip_suffix('s') == Some(word))
}

/// The kind of what a member refers to, such as `team_id` or `host_ids`.
fn reference(member: &str) -> Option<&'static str> {
    let word = member
        .strip_suffix("_id")
        .or_else(|| member.strip_suffix("_ids"))?;
    kind(word)
}

impl Mapping {
    /// Puts a value in the place of a placeholder.
    pub fn set(&mut self, placeholder: &str, value: &str) {
        self.values.insert(placeholder.to_owned(), value.to_owned());
    }

    /// The value that stands for a placeholder such as `<token-3>`.
    pub fn value(&self, placeholder: &str) -> Option<String> {
        if let Some(value) = self.values.get(placeholder) {
            return Some(value.clone());
        }
        let name = placeholder.strip_prefix('<')?.strip_suffix('>')?;
        let made = match name.rsplit_once('-') {
            // One is known for being weak, two for being as long as is allowed, and longer.
            Some(("password", "3")) => "weak".to_owned(),
            Some(("password", "4")) => format!("#4{}", "p".repeat(50)),
            Some(("password", "5")) => format!("#5{}", "p".repeat(46)),
            Some(("password", number)) => format!("recorded#{number}password"),
            Some(("device-token", number)) => format!("deadbeef-0000-4000-8000-{number:0>12}"),
            _ if name.starts_with("secret-") => format!("recorded-{name}-of-an-operator"),
            _ if name == "sql" => "SELECT 1".to_owned(),
            _ => return None,
        };
        Some(made)
    }

    /// Whether a text names a key that no recorded answer gave: the recording has a gap there.
    pub fn has_gap(&self, text: &str) -> bool {
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            rest = &rest[start..];
            let Some(end) = rest.find('>') else {
                return false;
            };
            let placeholder = &rest[..=end];
            let is_given = ["<orbit-key-", "<node-key-", "<session-"]
                .iter()
                .any(|kind| placeholder.starts_with(kind));
            if is_given && self.value(placeholder).is_none() {
                return true;
            }
            rest = &rest[1..];
        }
        false
    }

    /// Learns that an id there is another here.
    pub fn learn_id(&mut self, word: &str, there: i64, here: i64) {
        if let Some(kind) = kind(word) {
            self.ids.insert((kind, there), here);
        }
    }

    fn id(&self, kind: &'static str, there: i64) -> i64 {
        let known = self.ids.get(&(kind, there)).copied();
        known.unwrap_or(if there > 0 { there + UNKNOWN_ID } else { there })
    }

    /// A text with all placeholders and the ids of campaigns, labels and teams replaced.
    pub fn text(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            filled.push_str(&rest[..start]);
            rest = &rest[start..];
            let end = rest.find('>').map(|end| end + 1);
            let known = end.and_then(|end| Some((end, self.value(&rest[..end])?)));
            if let Some((end, value)) = known {
                filled.push_str(&value);
                rest = &rest[end..];
            } else {
                filled.push('<');
                rest = &rest[1..];
            }
        }
        filled.push_str(rest);
        for (there, here) in &self.made_up {
            if filled.contains(there.as_str()) {
                filled = filled.replace(there.as_str(), here);
            }
        }
        for (prefix, kind) in [
            ("fleet_distributed_query_", "campaigns"),
            ("fleet_label_query_", "labels"),
            ("fleet_policy_query_", "policies"),
        ] {
            if let Some(id) = filled.strip_prefix(prefix).and_then(|id| id.parse().ok()) {
                return format!("{prefix}{}", self.id(kind, id));
            }
        }
        filled
    }

    /// A path and query with everything replaced.
    pub fn path(&self, path: &str) -> String {
        let filled = self.text(path);
        let (route, query) = match filled.split_once('?') {
            Some((route, query)) => (route, Some(query)),
            None => (filled.as_str(), None),
        };
        let mut before = "";
        let mut segments = Vec::new();
        for segment in route.split('/') {
            let id = segment.parse::<i64>().ok();
            let kind = if before == "id" {
                segments
                    .len()
                    .checked_sub(2)
                    .map(|at| route.split('/').nth(at).unwrap_or_default())
            } else {
                Some(before)
            };
            segments.push(match (id, kind.and_then(kind_of_segment)) {
                (Some(id), Some(kind)) => self.id(kind, id).to_string(),
                _ => segment.to_owned(),
            });
            before = segment;
        }
        let route = segments.join("/");
        let Some(query) = query else { return route };
        let query = query.split('&').map(|pair| {
            let Some((name, value)) = pair.split_once('=') else {
                return pair.to_owned();
            };
            match (reference(name), value.parse::<i64>()) {
                (Some(kind), Ok(id)) => format!("{name}={}", self.id(kind, id)),
                _ => pair.to_owned(),
            }
        });
        format!("{route}?{}", query.collect::<Vec<_>>().join("&"))
    }

    /// A body with everything replaced; `route` tells what a bare `ids` means.
    pub fn body(&self, body: &Value, route: &str) -> Value {
        let of_route = route.split('/').filter_map(kind_of_segment).next_back();
        self.fill(body, None, of_route)
    }

    fn fill(
        &self,
        value: &Value,
        refers_to: Option<&'static str>,
        of_route: Option<&'static str>,
    ) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items
                .iter()
                .map(|item| self.fill(item, refers_to, of_route))
                .collect(),
            Value::Number(number) => match (refers_to, number.as_i64()) {
                (Some(kind), Some(id)) => self.id(kind, id).into(),
                _ => value.clone(),
            },
            Value::Object(members) => {
                let members = members.iter().map(|(name, value)| {
                    let refers_to = match name.as_str() {
                        "ids" => of_route,
                        // Lists of targets hold ids or names; names are left alone by being texts.
                        "hosts" | "labels" | "teams" | "include" => kind(name),
                        other => reference(other),
                    };
                    (self.text(name), self.fill(value, refers_to, of_route))
                });
                Value::Object(members.collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }

    /// Learns from an answer what stands in the place of what was recorded.
    pub fn learn(&mut self, recorded: &Value, ours: &Value, route: &str) {
        let of_route = route.split('/').filter_map(kind_of_segment).next_back();
        self.learn_from(recorded, ours, of_route);
    }

    fn learn_from(&mut self, recorded: &Value, ours: &Value, of: Option<&'static str>) {
        match (recorded, ours) {
            (Value::String(there), Value::String(here)) => {
                let is_placeholder = there.starts_with('<') && there.ends_with('>');
                if is_placeholder && self.value(there).is_none() {
                    self.set(there, here);
                }
            }
            (Value::Object(there), Value::Object(here)) => {
                for (name, recorded) in there {
                    let Some(ours) = here.get(name) else { continue };
                    if let (Some(from), Some(to)) = (recorded.as_i64(), ours.as_i64()) {
                        let about = if name == "id" { of } else { reference(name) };
                        if let Some(about) = about {
                            self.ids.entry((about, from)).or_insert(to);
                        }
                    } else if let (true, Some(from), Some(to)) = (
                        MADE_UP.contains(&name.as_str()),
                        recorded.as_str(),
                        ours.as_str(),
                    ) {
                        self.made_up.insert(from.to_owned(), to.to_owned());
                    } else if name == "team_ids_by_name" {
                        self.learn_names(recorded, ours);
                    } else {
                        self.learn_from(recorded, ours, kind(name).or(of));
                    }
                }
            }
            (Value::Array(there), Value::Array(here)) => {
                let keys = KINDS.iter().find(|(name, _)| Some(*name) == of);
                let keys = keys.map_or(&[] as &[&str], |(_, keys)| keys);
                for (at, recorded) in there.iter().enumerate() {
                    let key = keys.iter().find(|key| recorded[**key].is_string());
                    let same = match key {
                        Some(key) => here.iter().find(|ours| ours[*key] == recorded[*key]),
                        None => here.get(at),
                    };
                    if let Some(ours) = same {
                        self.learn_from(recorded, ours, of);
                    }
                }
            }
            _ => {}
        }
    }

    fn learn_names(&mut self, recorded: &Value, ours: &Value) {
        for (name, id) in recorded.as_object().into_iter().flatten() {
            if let (Some(from), Some(to)) = (id.as_i64(), ours[name].as_i64()) {
                self.ids.entry(("teams", from)).or_insert(to);
            }
        }
    }
}

fn kind_of_segment(segment: &str) -> Option<&'static str> {
    KINDS.iter().map(|(name, _)| *name).find(|name| {
        *name == segment
            || (segment == "fleets" && *name == "teams")
            || (segment == "reports" && *name == "queries")
            || (segment == "team" && *name == "teams")
    })
}
