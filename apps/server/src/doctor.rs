//! Looks at everything that a server needs, and says what to do about what is wrong.
//!
//! Changes nothing, beside a server that runs or instead of one. What is found is for people; programs read its name and
//! its state.

mod certificate;
mod database;
mod machine;
mod owner;

use std::error::Error;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use serde::Serialize;

use crate::config::Settings;
use crate::start::Ambient;

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing to do.
    Ok,
    /// Works, and will not for ever, or not as well as it could.
    Warning,
    /// A server does not work with it.
    Problem,
}

impl State {
    /// The word that people read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        }
    }
}

/// What was found of one thing.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at; stays the same from release to release.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The release of this program.
    pub release: &'static str,
    /// The data folder.
    pub data_dir: String,
    /// In the order in which it was looked at.
    pub checks: Vec<Check>,
}

impl Report {
    /// How many stand so.
    pub fn count(&self, state: State) -> usize {
        self.checks
            .iter()
            .filter(|check| check.state == state)
            .count()
    }

    fn put(&mut self, name: &'static str, state: State, found: impl Into<String>) {
        self.checks.push(Check {
            name,
            state,
            found: found.into(),
            advice: None,
        });
    }

    fn ok(&mut self, name: &'static str, found: impl Into<String>) {
        self.put(name, State::Ok, found);
    }

    fn warn(&mut self, name: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.put(name, State::Warning, found);
        self.advise(advice);
    }

    fn problem(&mut self, name: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.put(name, State::Problem, found);
        self.advise(advice);
    }

    fn advise(&mut self, advice: impl Into<String>) {
        if let Some(last) = self.checks.last_mut() {
            last.advice = Some(advice.into());
        }
    }
}

/// Whether rights are what is missing, however deep.
fn is_denied(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        next = error.source();
    }
    false
}

/// How the data folder is given back to the user that the server runs as: that of the folder, or whoever asks when that is
/// root and root did not ask, as where a volume belongs to root and to the server's group.
fn give_back(settings: &Settings) -> String {
    let folder = &settings.data_dir;
    let found = std::fs::metadata(folder).map(|found| (found.uid(), found.gid()));
    let own = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let (user, group) = found.ok().filter(|(user, _)| *user != 0).unwrap_or(own);
    format!(
        "give the folder to the server's user, as root: chown -R {user}:{group} {}",
        folder.display()
    )
}

/// Looks at everything.
pub async fn examine(settings: &Settings, ambient: &Ambient) -> Report {
    let mut report = Report {
        release: env!("CARGO_PKG_VERSION"),
        data_dir: settings.data_dir.display().to_string(),
        checks: Vec::new(),
    };
    machine::folder(&mut report, settings);
    machine::server(&mut report, settings);
    owner::examine(&mut report, settings);
    machine::files(&mut report, settings);
    machine::disk(&mut report, settings);
    certificate::examine(&mut report, settings, ambient.clock.now());
    certificate::collectors(&mut report, settings, ambient.clock.now());
    let hosts = database::examine(&mut report, settings, ambient).await;
    machine::open_files(&mut report, settings, hosts);
    report
}
