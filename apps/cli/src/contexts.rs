//! Which servers are known, and as whom: one file, readable by its owner only.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::arguments::Global;
use crate::error::CliError;

/// Names the file.
const FILE_VARIABLE: &str = "MUSTER_CLI_CONFIG";
const URL_VARIABLE: &str = "MUSTER_CLI_URL";
const TOKEN_VARIABLE: &str = "MUSTER_CLI_TOKEN";

/// A server and who one is there. It holds a secret and has no `Debug`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// The server's address.
    pub(crate) url: String,
    /// Who is logged in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) email: String,
    /// The session; none after logging out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// Whether any certificate is trusted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) insecure: bool,
    /// The certificates to trust, as PEM; the system's without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_pem: Option<String>,
    /// What it is called in the file; empty for the environment's.
    #[serde(skip)]
    pub(crate) name: String,
    /// Whether it is the environment's, not the file's.
    #[serde(skip)]
    pub(crate) by_environment: bool,
}

/// The file.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// Where the file is.
pub(crate) fn path() -> Result<PathBuf, CliError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(file) = variable(FILE_VARIABLE) {
        return Ok(PathBuf::from(file));
    }
    let folder = match (variable("XDG_CONFIG_HOME"), variable("HOME")) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, Some(home)) => Path::new(&home).join(".config"),
        (None, None) => return Err(CliError::NoHome),
    };
    Ok(folder.join("muster/config.toml"))
}

impl Contexts {
    /// Reads the file; there is nothing in one that is not there.
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => {
                return Err(CliError::File {
                    action: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        toml::from_str(&text).map_err(|mut source| {
            // The error would show the line, and with it perhaps a token.
            source.set_input(None);
            CliError::Contexts {
                path: path.to_owned(),
                source: Box::new(source),
            }
        })
    }

    /// Writes the file in one move, so that no reader sees half of it.
    pub(crate) fn write(&self, path: &Path) -> Result<(), CliError> {
        let failed = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| CliError::File {
                action,
                path,
                source,
            }
        };
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(failed("make the folder", folder))?;
        }
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = path.with_file_name(name);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&new, path));
        written.map_err(|source| {
            let _ = fs::remove_file(&new);
            failed("write", path)(source)
        })
    }

    /// The one of that name, or an error that names a similar one.
    pub(crate) fn known(&self, name: &str) -> Result<&Context, CliError> {
        self.contexts
            .get(name)
            .ok_or_else(|| CliError::UnknownContext {
                name: name.to_owned(),
                similar: similar(name, self.contexts.keys().map(String::as_str)),
            })
    }

    /// The name of the one in use: the one asked for, else the current one.
    pub(crate) fn chosen(&self, global: &Global) -> Result<String, CliError> {
        let name = global.context.as_ref().or(self.current.as_ref());
        let name = name.ok_or(CliError::NoContext)?;
        self.known(name)?;
        Ok(name.clone())
    }
}

/// The name that looks most like it, if one does.
pub(crate) fn similar<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    const ALIKE: f64 = 0.75;
    known
        .map(|candidate| {
            let likeness = strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase());
            (likeness, candidate)
        })
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate.to_owned())
}

/// Reads the certificates that a flag names.
pub(crate) fn authority(global: &Global) -> Result<Option<String>, CliError> {
    let Some(path) = &global.ca_file else {
        return Ok(None);
    };
    Ok(Some(crate::input::text(path)?))
}

/// Where commands go: what the environment says, else the context that was chosen. Flags about trust win.
pub(crate) fn resolve(global: &Global) -> Result<Context, CliError> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut context = match (variable(URL_VARIABLE), variable(TOKEN_VARIABLE)) {
        _ if global.context.is_some() => from_file(global)?,
        (Some(url), Some(token)) => Context {
            url,
            token: Some(token.trim().to_owned()),
            by_environment: true,
            ..Context::default()
        },
        (Some(_), None) => {
            return Err(CliError::HalfEnvironment {
                present: URL_VARIABLE,
                missing: TOKEN_VARIABLE,
            });
        }
        (None, Some(_)) => {
            return Err(CliError::HalfEnvironment {
                present: TOKEN_VARIABLE,
                missing: URL_VARIABLE,
            });
        }
        (None, None) => from_file(global)?,
    };
    if let Some(pem) = authority(global)? {
        context.ca_pem = Some(pem);
        context.insecure = false;
    }
    context.insecure |= global.insecure;
    Ok(context)
}

fn from_file(global: &Global) -> Result<Context, CliError> {
    let contexts = Contexts::read(&path()?)?;
    let name = contexts.chosen(global)?;
    let mut context = contexts.known(&name)?.clone();
    if context.token.is_none() {
        return Err(CliError::LoggedOut {
            name,
            url: context.url,
        });
    }
    context.name = name;
    Ok(context)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_file_is_its_owners_alone_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("muster/config.toml");
        assert!(Contexts::read(&path).unwrap().contexts.is_empty());
        let mut contexts = Contexts {
            current: Some("a".to_owned()),
            ..Contexts::default()
        };
        let context = Context {
            url: "https://a".to_owned(),
            token: Some("secret".to_owned()),
            ..Context::default()
        };
        contexts.contexts.insert("a".to_owned(), context);
        contexts.write(&path).unwrap();
        contexts.write(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Contexts::read(&path).unwrap();
        assert_eq!(read.contexts["a"].token.as_deref(), Some("secret"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_shows_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, "[contexts.a]\nurl = 'u'\ntokn = 'mst_very_secret'\n").unwrap();
        let Err(error) = Contexts::read(&path) else {
            panic!("an unknown key was taken");
        };
        let text = error.explain();
        assert!(
            text.contains("tokn") && text.contains("config.toml"),
            "{text}"
        );
        assert!(!text.contains("very_secret"), "{text}");
    }

    #[test]
    fn a_mistyped_name_gets_the_right_one_suggested() {
        let known = ["production", "staging"];
        assert_eq!(
            similar("prodution", known.into_iter()).as_deref(),
            Some("production")
        );
        assert_eq!(similar("zzz", known.into_iter()), None);
    }
}
