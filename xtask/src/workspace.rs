//! Where the repository and its build folder are, and how cargo and git are called in them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::XtaskError;
use crate::process;

/// Variables that `cargo run` sets for this program and that a cargo started from here must not inherit: build scripts
/// would see another package's and everything would be built anew.
const CARGO_PRIVATE: &[&str] = &[
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_",
    "CARGO_CRATE_",
];

/// The repository on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The one this program was started for, else the one that the current folder lies in.
    pub(crate) fn find() -> Result<Self, XtaskError> {
        let from_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let here = std::env::current_dir().ok();
        let root = [from_cargo, here]
            .into_iter()
            .flatten()
            .find_map(|start| {
                start
                    .ancestors()
                    .find(|folder| is_workspace_root(folder))
                    .map(Path::to_path_buf)
            })
            .ok_or(XtaskError::NoWorkspace)?;
        let target = target_folder(&root);
        Ok(Self { root, target })
    }

    /// The repository's folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's build folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where a debug build leaves a binary.
    pub(crate) fn debug_binary(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// Where a debug build leaves an example.
    pub(crate) fn debug_example(&self, name: &str) -> PathBuf {
        self.target.join("debug/examples").join(name)
    }

    /// A program that runs in the repository's folder.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        for (name, _) in std::env::vars_os() {
            let private = name
                .to_str()
                .is_some_and(|name| CARGO_PRIVATE.iter().any(|prefix| name.starts_with(prefix)));
            if private {
                command.env_remove(&name);
            }
        }
        command
    }

    /// The cargo that started this program.
    pub(crate) fn cargo(&self) -> Command {
        self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// Files of the repository: known to git, or new and not ignored. Paths are relative, with `/`, in order.
    pub(crate) fn files(&self) -> Result<Vec<String>, XtaskError> {
        let mut git = self.command("git");
        // In a container the repository often belongs to another user than the one who tests it; only reading is asked.
        git.args(["-c", "safe.directory=*", "ls-files", "-z"])
            .args(["--cached", "--others", "--exclude-standard"]);
        let mut files: Vec<String> = process::capture(&mut git)?
            .split('\0')
            .filter(|path| !path.is_empty() && self.root.join(path).is_file())
            .map(str::to_owned)
            .collect();
        files.sort();
        files.dedup();
        Ok(files)
    }
}

/// Names the folder of what outlives `target`, instead of the user's cache.
pub(crate) const CACHE_VARIABLE: &str = "MUSTER_CACHE";

/// The project's folder in the user's cache.
pub(crate) fn user_cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let own = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Some(own?.join("muster"))
}

fn is_workspace_root(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("Cargo.toml"))
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "[workspace]"))
}

/// Cargo marks its build folder; this program lies in it. Asking cargo would cost more than all else a quick verb does.
fn target_folder(root: &Path) -> PathBuf {
    let marked = std::env::current_exe().ok().and_then(|program| {
        program
            .ancestors()
            .find(|folder| folder.join("CACHEDIR.TAG").is_file())
            .map(Path::to_path_buf)
    });
    marked.unwrap_or_else(|| root.join("target"))
}
