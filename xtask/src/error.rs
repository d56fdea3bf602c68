//! What can go wrong in a verb, with the context that the developer needs to act.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// The failure of a verb or of one of its steps.
#[derive(Debug, thiserror::Error)]
pub(crate) enum XtaskError {
    /// Neither cargo's environment nor the current folder leads to the workspace.
    #[error(
        "no Cargo.toml with a [workspace] here or above: run `cargo xtask` inside the repository"
    )]
    NoWorkspace,

    /// A program could not be started at all.
    #[error("`{program}` could not be started")]
    Spawn {
        program: String,
        #[source]
        source: io::Error,
    },

    /// A program ran and said no.
    #[error("`{command}` failed ({status}){}", detail(.output))]
    Failed {
        command: String,
        status: ExitStatus,
        /// What it printed, where that was not shown already.
        output: String,
    },

    /// A program printed what cannot be understood.
    #[error("`{command}` printed something unexpected: {what}")]
    Unexpected { command: String, what: String },

    /// A file or folder could not be read, written or changed.
    #[error("{action} {} failed", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    /// A check found something; each finding was printed.
    #[error("{what}: {count} found; each is named above")]
    Findings { what: &'static str, count: usize },

    /// Programs are missing that only the administrator may install.
    #[error(
        "these programs are missing: {programs}\n  install them with: {command}\n  and run this again"
    )]
    Missing { programs: String, command: String },

    /// Nothing is called that.
    #[error("there is no {kind} `{name}`; known: {known}")]
    Unknown {
        kind: &'static str,
        name: String,
        known: String,
    },

    /// Committed pages are not what their generators print.
    #[error("these committed pages differ from what generates them: {0}\n  run `cargo xtask docs`")]
    PagesDiffer(String),

    /// The repository does not have the commit of a release, as a shallow clone or an unpacked archive has it not.
    #[error(
        "release {version} cannot be built: its commit {commit} is not in this repository's history\n  \
         fetch all of it with `git fetch --unshallow` (in CI: check out with full history) and run this again"
    )]
    NoHistory {
        version: String,
        commit: String,
        #[source]
        source: Box<XtaskError>,
    },

    /// Third-party clients could not be made; each was named with its reason.
    #[error("these peers cannot be had: {0}; the reasons stand above")]
    NoPeers(String),

    /// There is no folder for what outlives `target`.
    #[error(
        "no folder for programs that outlive `target`: set HOME, XDG_CACHE_HOME or MUSTER_CACHE"
    )]
    NoCache,

    /// The private PostgreSQL cluster cannot be used.
    #[error("PostgreSQL: {0}")]
    Postgres(String),

    /// Something did not happen in time.
    #[error("{what} within {seconds} seconds")]
    TooSlow { what: &'static str, seconds: u64 },

    /// Muster could not be brought up, or did not answer rightly.
    #[error("Muster is not up; its logs are in {}", folder.display())]
    Up {
        folder: PathBuf,
        #[source]
        source: Box<XtaskError>,
    },

    /// Some steps of a verb failed; the summary names them.
    #[error("failed: {0}")]
    Steps(String),
}

impl XtaskError {
    /// For `map_err` on file operations.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

fn detail(output: &str) -> String {
    if output.trim().is_empty() {
        String::new()
    } else {
        format!(":\n{}", output.trim_end())
    }
}

/// The error and what caused it, on one line each.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str("\n  because: ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
