//! Putting flags, environment and file on top of each other.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::keys::{KEYS, Key, Kind};

/// The variables of the process: name and value.
pub type Environment = Vec<(String, String)>;

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
    /// The file, at this path.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
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
    #[error("{}: {message}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Line and reason.
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
            for (name, value) in read_file(path)? {
                layered.set(&name, value, Origin::File(path.to_owned()));
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

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
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
        if !variable.starts_with("MUSTER_") || other {
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.variable() == *variable) else {
            let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
            let suggested = nearest(variable, known.iter().map(String::as_str));
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

fn read_file(path: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let io = |source| ConfigError::File {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(io)?.len() > MAX_FILE_BYTES {
        let message = format!("has more than {MAX_FILE_BYTES} bytes");
        return Err(ConfigError::Syntax {
            path: path.to_owned(),
            message,
        });
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        // The library's text quotes the line, and the line may hold a password.
        let line = error.span().map_or(0, |span| {
            text[..span.start.min(text.len())].matches('\n').count() + 1
        });
        let message = format!("line {line}: {}", error.message());
        ConfigError::Syntax {
            path: path.to_owned(),
            message,
        }
    })?;
    let mut values = Vec::new();
    flatten("", &table, path, &mut values)?;
    Ok(values)
}

fn flatten(
    prefix: &str,
    table: &toml::Table,
    path: &Path,
    values: &mut Vec<(String, String)>,
) -> Result<(), ConfigError> {
    for (member, value) in table {
        let name = if prefix.is_empty() {
            member.clone()
        } else {
            format!("{prefix}.{member}")
        };
        let section = format!("{name}.");
        match (find(&name), value) {
            (None, toml::Value::Table(inner))
                if KEYS.iter().any(|key| key.name.starts_with(&section)) =>
            {
                flatten(&name, inner, path, values)?;
            }
            (None, _) => {
                let sections = KEYS
                    .iter()
                    .filter_map(|key| Some(key.name.split_once('.')?.0));
                let suggested = nearest(&name, KEYS.iter().map(|key| key.name).chain(sections));
                let place = path.display().to_string();
                return Err(ConfigError::Unknown {
                    place,
                    name,
                    suggested,
                });
            }
            (Some(key), value) => {
                let Some(text) = scalar(key.kind, value) else {
                    let reason = format!("must be a {}", key.kind.name());
                    return Err(ConfigError::Value {
                        origin: path.display().to_string(),
                        name,
                        reason,
                    });
                };
                values.push((name, text));
            }
        }
    }
    Ok(())
}

fn scalar(kind: Kind, value: &toml::Value) -> Option<String> {
    match (kind, value) {
        (Kind::List, toml::Value::Array(items)) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(","))
        }
        (_, toml::Value::String(text)) => Some(text.clone()),
        (_, toml::Value::Integer(number)) => Some(number.to_string()),
        (_, toml::Value::Boolean(flag)) => Some(flag.to_string()),
        _ => None,
    }
}
