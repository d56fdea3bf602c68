//! Putting flags, environment and file on top of each other.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key, Kind};

/// The variables of the process: name and value.
pub type Environment = Vec<(String, String)>;

/// How our variables begin.
const PREFIX: &str = "MUSTER_";
/// Variables that begin like ours and are no keys.
const OTHER_VARIABLES: &[&str] = &["MUSTER_CONFIG", "MUSTER_PASSWORD"];
/// How the variables of our other programs begin.
const OTHER_PREFIXES: &[&str] = &[
    "MUSTER_TEST_",
    "MUSTER_AGENT_",
    "MUSTER_CLI_",
    "MUSTER_CACHE",
];
/// The largest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file at this path, in this line.
    File(PathBuf, usize),
    /// A variable of the environment.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "${name}"),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// A key with the value that is in force.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The key.
    pub key: &'static Key,
    /// The value as text; empty for none.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Resolved {
    /// The value for people: a secret is only said to be set.
    pub fn shown(&self) -> &str {
        if self.key.secret && !self.value.is_empty() {
            "(set)"
        } else {
            &self.value
        }
    }
}

/// The configuration cannot be used. Every message says where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// In which line.
        line: usize,
        /// The reason.
        message: String,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key {name}{}", suggestion(suggested.as_deref()))]
    Unknown {
        /// Where it stands.
        place: String,
        /// What was written.
        name: String,
        /// What was probably meant.
        suggested: Option<String>,
    },
    /// A value that cannot be.
    #[error("{origin}: {name}: {reason}")]
    Value {
        /// Where it stands.
        origin: String,
        /// The key.
        name: String,
        /// What would be right.
        reason: String,
    },
}

fn suggestion(name: Option<&str>) -> String {
    name.map_or_else(
        || "; see `muster-server config reference`".to_owned(),
        |name| format!("; did you mean {name}?"),
    )
}

/// The configuration as texts, with where each came from.
#[derive(Debug, Clone)]
pub struct Layered(BTreeMap<&'static str, Resolved>);

impl Layered {
    /// Puts the layers together. `flags` are key names with values; `file` is a file that must be there, or none for
    /// `muster.toml` in the data folder, which need not.
    pub fn resolve(
        flags: &[(String, String)],
        environment: &Environment,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let mut layered = Self(
            KEYS.iter()
                .map(|key| {
                    let value = key.default.to_owned();
                    (
                        key.name,
                        Resolved {
                            key,
                            value,
                            origin: Origin::Default,
                        },
                    )
                })
                .collect(),
        );
        let from_environment = read_environment(environment)?;
        let data_dir = flags
            .iter()
            .chain(&from_environment)
            .find(|(name, _)| name == "data_dir");
        let data_dir = data_dir.map_or(layered.text("data_dir"), |(_, value)| value);
        let implied = Path::new(data_dir).join("muster.toml");
        let path = file.map_or(implied.as_path(), |path| path);
        if file.is_some() || path.exists() {
            for (name, value, line) in read_file(path)? {
                layered.set(&name, value, Origin::File(path.to_owned(), line));
            }
        }
        for (name, value) in from_environment {
            let origin = Origin::Variable(find(&name).map(Key::variable).unwrap_or_default());
            layered.set(&name, value, origin);
        }
        for (name, value) in flags {
            let origin = Origin::Flag(find(name).map(Key::flag).unwrap_or_default());
            layered.set(name, value.clone(), origin);
        }
        Ok(layered)
    }

    fn set(&mut self, name: &str, value: String, origin: Origin) {
        if let Some(resolved) = self.0.get_mut(name) {
            resolved.value = value;
            resolved.origin = origin;
        }
    }

    /// All keys in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = &Resolved> {
        KEYS.iter().filter_map(|key| self.0.get(key.name))
    }

    /// The value of a key.
    pub(crate) fn resolved(&self, name: &str) -> &Resolved {
        self.0
            .get(name)
            .expect("only keys of the table are asked for")
    }

    /// The value of a key as text.
    pub(crate) fn text(&self, name: &str) -> &str {
        &self.resolved(name).value
    }

    /// An error about the value of a key.
    pub(crate) fn wrong(&self, name: &str, reason: impl Into<String>) -> ConfigError {
        let resolved = self.resolved(name);
        let (origin, name) = (resolved.origin.to_string(), name.to_owned());
        ConfigError::Value {
            origin,
            name,
            reason: reason.into(),
        }
    }
}

fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let scored = known.map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate));
    let (distance, best) = scored.min()?;
    (distance <= 1 + name.len() / 4).then(|| best.to_owned())
}

fn read_environment(environment: &Environment) -> Result<Vec<(String, String)>, ConfigError> {
    let mut values = Vec::new();
    for (variable, value) in environment {
        let other = OTHER_VARIABLES.contains(&variable.as_str())
            || OTHER_PREFIXES
                .iter()
                .any(|prefix| variable.starts_with(prefix));
        if !variable.starts_with(PREFIX) || other {
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.variable() == *variable) else {
            let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
            let known = known.iter().filter_map(|name| name.strip_prefix(PREFIX));
            let suggested = nearest(variable.trim_start_matches(PREFIX), known);
            let suggested = suggested.map(|name| format!("{PREFIX}{name}"));
            let name = variable.clone();
            return Err(ConfigError::Unknown {
                place: "environment".to_owned(),
                name,
                suggested,
            });
        };
        values.push((key.name.to_owned(), value.clone()));
    }
    Ok(values)
}

/// A key of the file, its value as text, and its line.
type Entry = (String, String, usize);

fn read_file(path: &Path) -> Result<Vec<Entry>, ConfigError> {
    let io = |source| ConfigError::File {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(io)?.len() > MAX_FILE_BYTES {
        return Err(ConfigError::Syntax {
            path: path.to_owned(),
            line: 1,
            message: format!("has more than {MAX_FILE_BYTES} bytes"),
        });
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let file = File { path, text: &text };
    let table = DeTable::parse(&text).map_err(|error| {
        // The library's text quotes the line, and the line may hold a password.
        ConfigError::Syntax {
            path: path.to_owned(),
            line: file.line(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        }
    })?;
    let mut values = Vec::new();
    file.flatten("", table.get_ref(), &mut values)?;
    Ok(values)
}

/// The configuration file.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    /// The line of a place in the text.
    fn line(&self, offset: usize) -> usize {
        let before = self.text.bytes().take(offset);
        1 + before.filter(|byte| *byte == b'\n').count()
    }

    fn flatten(
        &self,
        prefix: &str,
        table: &DeTable<'_>,
        values: &mut Vec<Entry>,
    ) -> Result<(), ConfigError> {
        for (member, value) in table {
            let name = if prefix.is_empty() {
                member.get_ref().to_string()
            } else {
                format!("{prefix}.{}", member.get_ref())
            };
            let section = format!("{name}.");
            let line = self.line(member.span().start);
            let place = || Origin::File(self.path.to_owned(), line).to_string();
            match (find(&name), value.get_ref()) {
                (None, DeValue::Table(inner))
                    if KEYS.iter().any(|key| key.name.starts_with(&section)) =>
                {
                    self.flatten(&name, inner, values)?;
                }
                (None, _) => {
                    let sections = KEYS
                        .iter()
                        .filter_map(|key| Some(key.name.split_once('.')?.0));
                    let suggested = nearest(&name, KEYS.iter().map(|key| key.name).chain(sections));
                    return Err(ConfigError::Unknown {
                        place: place(),
                        name,
                        suggested,
                    });
                }
                (Some(key), value) => match scalar(key.kind, value) {
                    Some(text) => values.push((name, text, line)),
                    None => {
                        return Err(ConfigError::Value {
                            origin: place(),
                            name,
                            reason: format!("expected {}", key.kind.name()),
                        });
                    }
                },
            }
        }
        Ok(())
    }
}

fn scalar(kind: Kind, value: &DeValue<'_>) -> Option<String> {
    match (kind, value) {
        (Kind::List, DeValue::Array(items)) => {
            let items = items.iter().map(|item| item.get_ref().as_str());
            let items: Option<Vec<&str>> = items.collect();
            Some(items?.join(","))
        }
        (_, DeValue::String(text)) => Some(text.to_string()),
        (_, DeValue::Integer(number)) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(number.to_string())
        }
        (_, DeValue::Boolean(flag)) => Some(flag.to_string()),
        _ => None,
    }
}
