//! The command line, and the settings that follow from flags, environment and file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::client::Trust;

/// The longest enrollment token that is read, in bytes.
const MAX_TOKEN_BYTES: usize = 4 * 1024;

/// Answers questions about this machine: to a server, or on the spot.
#[derive(Debug, Parser)]
#[command(
    name = "muster-agent",
    version,
    after_help = "Examples:\n  \
    muster-agent run --server https://muster.example.com:8443 --enrollment-token-file token --ca-file ca.pem\n  \
    muster-agent query 'SELECT pid, name FROM processes LIMIT 5'\n  muster-agent query --json 'SELECT * FROM listening_ports'\n  \
    muster-agent shell"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enroll with a server and answer its questions until it is stopped.
    Run(Box<RunArgs>),
    /// Answer one question and end. Needs no server.
    Query(QueryArgs),
    /// Answer questions at a prompt. Needs no server.
    Shell,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Mode {
    /// For people.
    #[default]
    Table,
    /// A JSON list of objects.
    Json,
    /// Comma separated values with a head.
    Csv,
    /// One column per line.
    Line,
}

/// Arguments of `query`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  muster-agent query 'SELECT * FROM os_version'\n  \
    muster-agent query --csv 'SELECT name, version FROM deb_packages'\n  \
    muster-agent query --timeout 5 \"SELECT path, sha256 FROM hash WHERE path = '/bin/sh'\""
)]
pub struct QueryArgs {
    /// The SQL.
    pub sql: String,
    /// Print a JSON list of objects.
    #[arg(long, conflicts_with_all = ["csv", "line"])]
    pub json: bool,
    /// Print comma separated values.
    #[arg(long, conflicts_with = "line")]
    pub csv: bool,
    /// Print one column per line.
    #[arg(long)]
    pub line: bool,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

impl QueryArgs {
    /// How rows are printed.
    pub fn mode(&self) -> Mode {
        match (self.json, self.csv, self.line) {
            (true, ..) => Mode::Json,
            (_, true, _) => Mode::Csv,
            (_, _, true) => Mode::Line,
            _ => Mode::Table,
        }
    }
}

/// Arguments of `run`. Each can also stand in the environment or in the file, under the same name.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Examples:\n  \
    muster-agent run --server https://muster.example.com:8443 --enrollment-token-file token --ca-file ca.pem\n  \
    MUSTER_AGENT_SERVER=https://muster.example.com muster-agent run --enrollment-token-file token\n  \
    muster-agent run --config /etc/muster/agent.toml")]
pub struct RunArgs {
    /// TOML file with these settings: server = \"…\", enrollment_token_file = \"…\", …
    #[arg(long, env = "MUSTER_AGENT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the server is.
    #[arg(long, env = "MUSTER_AGENT_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// File with the enrollment token.
    #[arg(long, env = "MUSTER_AGENT_ENROLLMENT_TOKEN_FILE", value_name = "FILE")]
    pub enrollment_token_file: Option<PathBuf>,
    /// The enrollment token itself; only from the environment, since arguments can be seen by everybody.
    #[arg(skip)]
    pub enrollment_token: Option<String>,
    /// PEM file with the authority that issued the server's certificate; without it, the system's are trusted.
    #[arg(long, env = "MUSTER_AGENT_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Trust any certificate. For trying things out only.
    #[arg(long, env = "MUSTER_AGENT_INSECURE")]
    pub insecure: bool,
    /// Folder for keys and state. [default: muster-agent-data]
    #[arg(long, env = "MUSTER_AGENT_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// What is logged: error, warn, info, debug or trace. [default: info]
    #[arg(long, env = "MUSTER_AGENT_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// The names that the file may have.
const FILE_KEYS: [&str; 7] = [
    "server",
    "enrollment_token_file",
    "enrollment_token",
    "ca_file",
    "insecure",
    "data_dir",
    "log_level",
];

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not TOML: {message}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A key that does not exist.
    #[error("{}: unknown key {name}{}", path.display(), suggestion(suggested.as_deref()))]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// What was written.
        name: String,
        /// What was probably meant.
        suggested: Option<String>,
    },
    /// A value of the wrong kind.
    #[error("{}: {name} must be {expected}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// The key.
        name: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Nothing says which server.
    #[error("which server? give --server URL, or set MUSTER_AGENT_SERVER")]
    NoServer,
    /// The token file is empty or far too long.
    #[error("{} does not hold an enrollment token", path.display())]
    Token {
        /// Which.
        path: PathBuf,
    },
}

/// The end of a message about a key that does not exist.
fn suggestion(near: Option<&str>) -> String {
    near.map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

/// What `run` needs.
#[derive(Clone)]
pub struct Settings {
    /// The server's URL.
    pub server: String,
    /// Where the enrollment token is. It is read again whenever it is needed: rotating it needs no restart.
    pub token: TokenSource,
    /// How the server's certificate is trusted.
    pub trust: Trust,
    /// Folder for keys and state.
    pub data_dir: PathBuf,
    /// What is logged.
    pub log_level: String,
    /// How often it asks, unless the server's configuration says otherwise.
    pub intervals: Intervals,
}

/// Where the enrollment token is.
#[derive(Clone)]
pub enum TokenSource {
    /// In a file.
    File(PathBuf),
    /// In the environment or the configuration file.
    Text(String),
    /// Nowhere: an agent that has its keys does not need it.
    None,
}

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Text(_) => f.write_str("Text(…)"),
            Self::None => f.write_str("None"),
        }
    }
}

impl TokenSource {
    /// The token; none when there is nowhere to take it from.
    pub fn read(&self) -> Result<Option<String>, ConfigError> {
        match self {
            Self::None => Ok(None),
            Self::Text(text) => Ok(Some(text.clone())),
            Self::File(path) => {
                let bytes = fs::read(path).map_err(|source| ConfigError::File {
                    path: path.clone(),
                    source,
                })?;
                let text = String::from_utf8(bytes).unwrap_or_default();
                let text = text.trim();
                if text.is_empty() || text.len() > MAX_TOKEN_BYTES {
                    return Err(ConfigError::Token { path: path.clone() });
                }
                Ok(Some(text.to_owned()))
            }
        }
    }
}

impl RunArgs {
    /// The settings: flags and environment before the file.
    pub fn settings(mut self, token_variable: Option<String>) -> Result<Settings, ConfigError> {
        self.enrollment_token = token_variable.filter(|token| !token.trim().is_empty());
        if let Some(path) = self.config.take() {
            self.fill_from(&path)?;
        }
        let token = match (self.enrollment_token_file, self.enrollment_token) {
            (Some(path), _) => TokenSource::File(path),
            (None, Some(text)) => TokenSource::Text(text.trim().to_owned()),
            (None, None) => TokenSource::None,
        };
        if let Some(path) = &self.ca_file {
            fs::read(path).map_err(|source| ConfigError::File {
                path: path.clone(),
                source,
            })?;
        }
        Ok(Settings {
            server: self.server.ok_or(ConfigError::NoServer)?,
            token,
            trust: Trust {
                ca_file: self.ca_file,
                insecure: self.insecure,
            },
            data_dir: self
                .data_dir
                .unwrap_or_else(|| PathBuf::from("muster-agent-data")),
            log_level: self.log_level.unwrap_or_else(|| "info".to_owned()),
            intervals: Intervals::default(),
        })
    }

    fn fill_from(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source,
        })?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            // The whole text of the error would quote the line, which may hold the token.
            let message = error.message().to_owned();
            ConfigError::Syntax {
                path: path.to_owned(),
                message,
            }
        })?;
        for (name, value) in table {
            if !FILE_KEYS.contains(&name.as_str()) {
                let near = FILE_KEYS
                    .iter()
                    .min_by_key(|known| strsim::damerau_levenshtein(known, &name));
                let suggested = near
                    .filter(|known| strsim::damerau_levenshtein(known, &name) <= 1 + name.len() / 4)
                    .map(|known| (*known).to_owned());
                return Err(ConfigError::UnknownKey {
                    path: path.to_owned(),
                    name,
                    suggested,
                });
            }
            let wrong = |expected| ConfigError::Value {
                path: path.to_owned(),
                name: name.clone(),
                expected,
            };
            if name == "insecure" {
                self.insecure |= value.as_bool().ok_or_else(|| wrong("true or false"))?;
                continue;
            }
            let text = value.as_str().ok_or_else(|| wrong("a text"))?.to_owned();
            match name.as_str() {
                "server" => self.server = self.server.take().or(Some(text)),
                "enrollment_token_file" => {
                    self.enrollment_token_file =
                        self.enrollment_token_file.take().or(Some(text.into()));
                }
                "enrollment_token" => {
                    self.enrollment_token = self.enrollment_token.take().or(Some(text));
                }
                "ca_file" => self.ca_file = self.ca_file.take().or(Some(text.into())),
                "data_dir" => self.data_dir = self.data_dir.take().or(Some(text.into())),
                _ => self.log_level = self.log_level.take().or(Some(text)),
            }
        }
        Ok(())
    }
}

/// How often the agent asks, until its configuration says otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// For distributed queries.
    pub distributed: Duration,
    /// For osquery's configuration.
    pub config: Duration,
    /// For orbit's configuration.
    pub orbit: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            distributed: Duration::from_secs(10),
            config: Duration::from_secs(60),
            orbit: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str, args: RunArgs) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        fs::write(&path, text).unwrap();
        let settings = RunArgs {
            config: Some(path),
            ..args
        }
        .settings(None);
        settings.map_err(|error| {
            error
                .to_string()
                .replace(folder.path().to_str().unwrap(), "FOLDER")
        })
    }

    #[test]
    fn flags_win_over_the_file_and_unknown_keys_are_errors() {
        let file = "server = 'https://a'\nenrollment_token = 'hunter2'\ninsecure = true\n";
        let settings = with_file(
            file,
            RunArgs {
                server: Some("https://b".into()),
                ..RunArgs::default()
            },
        )
        .unwrap();
        assert_eq!(
            (settings.server.as_str(), settings.trust.insecure),
            ("https://b", true)
        );
        assert_eq!(settings.token.read().unwrap().as_deref(), Some("hunter2"));
        assert!(!format!("{:?}", settings.token).contains("hunter2"));
        let wrong = |text: &str| with_file(text, RunArgs::default()).err().unwrap();
        assert_eq!(
            wrong("serer = 'x'"),
            "FOLDER/agent.toml: unknown key serer; did you mean server?"
        );
        assert_eq!(
            wrong("server = 7"),
            "FOLDER/agent.toml: server must be a text"
        );
        assert!(!wrong("enrollment_token = \"hunter2").contains("hunter2"));
        assert!(matches!(
            RunArgs::default().settings(None),
            Err(ConfigError::NoServer)
        ));
    }

    #[test]
    fn a_token_file_is_trimmed_and_must_hold_something() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let source = TokenSource::File(path.clone());
        assert!(matches!(source.read(), Err(ConfigError::File { .. })));
        fs::write(&path, " secret \n").unwrap();
        assert_eq!(source.read().unwrap().as_deref(), Some("secret"));
        fs::write(&path, " \n").unwrap();
        assert!(matches!(source.read(), Err(ConfigError::Token { .. })));
    }
}
