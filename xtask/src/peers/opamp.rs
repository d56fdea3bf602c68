//! Which OpAMP clients there are and how each is made from what stands in `testing/peers/opamp`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cache;
use crate::error::XtaskError;
use crate::process;
use crate::workspace::Workspace;

/// Where our own programs, manifests and lock files are.
const SOURCES: &str = "testing/peers/opamp";
/// The release of the supervisor, of the collector and of the builder of collectors.
const COLLECTOR_RELEASE: &str = "0.158.0";
const SUPERVISOR_PACKAGE: &str =
    "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/opampsupervisor";
const BUILDER_PACKAGE: &str = "go.opentelemetry.io/collector/cmd/builder";

/// A client that is made once on a machine.
pub(super) struct Peer {
    pub(super) name: &'static str,
    recipe: Recipe,
}

enum Recipe {
    /// Our client on a release of opamp-go, whose interface a build tag names.
    OpampGo {
        release: &'static str,
        tag: &'static str,
    },
    Supervisor,
    Collector,
    Python,
    Node,
    Rust,
    #[cfg(test)]
    Failing,
}

/// All of them, those that others need first.
pub(super) const PEERS: &[Peer] = &[
    opamp_go("opamp-go-0.4.0", "0.4.0", "opamp_0_4"),
    opamp_go("opamp-go-0.6.0", "0.6.0", "opamp_0_6"),
    opamp_go("opamp-go-0.14.0", "0.14.0", "opamp_0_14"),
    opamp_go("opamp-go-0.23.0", "0.23.0", "opamp_0_23"),
    opamp_go("opamp-go-0.24.0", "0.24.0", "opamp_0_24"),
    Peer {
        name: "collector",
        recipe: Recipe::Collector,
    },
    Peer {
        name: "supervisor",
        recipe: Recipe::Supervisor,
    },
    Peer {
        name: "python",
        recipe: Recipe::Python,
    },
    Peer {
        name: "node",
        recipe: Recipe::Node,
    },
    Peer {
        name: "rust",
        recipe: Recipe::Rust,
    },
];

const fn opamp_go(name: &'static str, release: &'static str, tag: &'static str) -> Peer {
    Peer {
        name,
        recipe: Recipe::OpampGo { release, tag },
    }
}

impl Peer {
    #[cfg(test)]
    pub(super) const fn failing() -> Self {
        Self {
            name: "failing",
            recipe: Recipe::Failing,
        }
    }

    /// The folder of our sources that it is made from.
    fn source(&self) -> &'static str {
        match &self.recipe {
            Recipe::OpampGo { .. } => "go/client",
            Recipe::Supervisor => "go/supervisor",
            Recipe::Collector => "go/collector",
            Recipe::Python => "python",
            Recipe::Node => "node",
            Recipe::Rust => "rust",
            #[cfg(test)]
            Recipe::Failing => "nowhere",
        }
    }

    /// What it has when it is whole.
    pub(super) fn files(&self) -> &'static [&'static str] {
        match &self.recipe {
            Recipe::OpampGo { .. } => &["opamp-agent"],
            Recipe::Supervisor => &["opampsupervisor"],
            Recipe::Collector => &["otelcol-peer"],
            Recipe::Python => &["venv/bin/python", "agent.py"],
            Recipe::Node => &["node_modules/.package-lock.json", "agent.js"],
            Recipe::Rust => &["opamp-agent-rs"],
            #[cfg(test)]
            Recipe::Failing => &["nothing"],
        }
    }

    pub(super) fn is_in(&self, folder: &Path) -> bool {
        self.files().iter().all(|name| folder.join(name).is_file())
    }

    /// Where it is, or will be: by what it is made of, so that a change of ours makes it anew.
    pub(super) fn folder(&self, workspace: &Workspace) -> Result<PathBuf, XtaskError> {
        let source = format!("{SOURCES}/{}/", self.source());
        let mut digest = Digest::new();
        for path in workspace.files()? {
            let Some(inside) = path.strip_prefix(&source) else {
                continue;
            };
            let full = workspace.root().join(&path);
            let text = fs::read(&full).map_err(XtaskError::file("reading", &full))?;
            digest.add(inside.as_bytes());
            digest.add(&text);
        }
        let name = format!("{}-{:016x}", self.name, digest.value());
        Ok(cache()?.join("opamp").join(name))
    }

    /// Makes it: `work` is for what is not kept, `done` for the peer.
    pub(super) fn make(
        &self,
        workspace: &Workspace,
        work: &Path,
        done: &Path,
    ) -> Result<(), XtaskError> {
        let source = workspace.root().join(SOURCES).join(self.source());
        match &self.recipe {
            Recipe::OpampGo { release, tag } => {
                let mut go = go(&["build"])?;
                go.current_dir(&source)
                    .arg(format!("-modfile=mods/v{release}.mod"))
                    .arg("-mod=readonly")
                    .arg(format!("-tags={tag}"))
                    .args(["-trimpath", "-ldflags=-s -w", "-o"])
                    .arg(done.join("opamp-agent"))
                    .arg(".");
                process::capture(&mut go).map(drop)
            }
            Recipe::Supervisor => {
                let mut go = go(&[
                    "build",
                    "-mod=readonly",
                    "-trimpath",
                    "-ldflags=-s -w",
                    "-o",
                ])?;
                go.current_dir(&source)
                    .arg(done.join("opampsupervisor"))
                    .arg(SUPERVISOR_PACKAGE);
                process::capture(&mut go).map(drop)
            }
            Recipe::Collector => collector(&source, work, done),
            Recipe::Python => {
                let venv = done.join("venv");
                let mut python = Command::new("python3");
                process::capture(python.args(["-m", "venv"]).arg(&venv))?;
                let mut pip = Command::new(venv.join("bin/python"));
                pip.args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--no-input",
                    "--requirement",
                ])
                .arg(source.join("requirements.txt"));
                process::capture(&mut pip)?;
                copy(&source, done, &["agent.py"])
            }
            Recipe::Node => {
                copy(
                    &source,
                    done,
                    &["package.json", "package-lock.json", "agent.js"],
                )?;
                let mut npm = Command::new("npm");
                npm.current_dir(done)
                    .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
                process::capture(&mut npm).map(drop)
            }
            Recipe::Rust => {
                let mut cargo = workspace.cargo();
                cargo
                    .args(["build", "--quiet", "--locked", "--manifest-path"])
                    .arg(source.join("Cargo.toml"))
                    .env("CARGO_TARGET_DIR", work)
                    .env("CARGO_INCREMENTAL", "0");
                process::capture(&mut cargo)?;
                copy(&work.join("debug"), done, &["opamp-agent-rs"])
            }
            #[cfg(test)]
            Recipe::Failing => {
                let mut failing = Command::new("sh");
                let failing = failing.args(["-c", "echo no such luck >&2; exit 1"]);
                process::capture(failing).map(drop)
            }
        }
    }
}

/// The builder writes the program; which modules it is built of stands in the repository.
fn collector(source: &Path, work: &Path, done: &Path) -> Result<(), XtaskError> {
    let package = format!("{BUILDER_PACKAGE}@v{COLLECTOR_RELEASE}");
    let mut install = go(&["install", "-trimpath", &package])?;
    process::capture(install.env("GOBIN", work))?;
    let mut builder = Command::new(work.join("builder"));
    builder
        .current_dir(work)
        .arg("--config")
        .arg(source.join("manifest.yaml"))
        .args(["--skip-get-modules", "--skip-compilation"]);
    process::capture(&mut builder)?;
    let program = work.join("_build");
    copy(source, &program, &["go.mod", "go.sum"])?;
    let mut build = go(&[
        "build",
        "-mod=readonly",
        "-trimpath",
        "-ldflags=-s -w",
        "-o",
    ])?;
    build
        .current_dir(&program)
        .arg(done.join("otelcol-peer"))
        .arg(".");
    process::capture(&mut build).map(drop)
}

/// Go, without C and without looking for a version control around the sources.
fn go(arguments: &[&str]) -> Result<Command, XtaskError> {
    let program = process::find_program("go").ok_or_else(|| XtaskError::Missing {
        programs: String::from("go (1.25 or later)"),
        command: String::from("sudo apt-get install --yes golang-go, or from go.dev"),
    })?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-buildvcs=false");
    Ok(command)
}

fn copy(from: &Path, to: &Path, names: &[&str]) -> Result<(), XtaskError> {
    for name in names {
        let path = from.join(name);
        fs::copy(&path, to.join(name)).map_err(XtaskError::file("copying", &path))?;
    }
    Ok(())
}

/// FNV-1a: tells versions of our own files apart, and need not withstand anybody.
struct Digest(u64);

impl Digest {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// One part after another; parts are told apart by their length.
    fn add(&mut self, part: &[u8]) {
        for byte in part.len().to_le_bytes().iter().chain(part) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    const fn value(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_of_opamp_go_has_its_modules_and_their_sums() {
        let workspace = Workspace::find().expect("tests run in the workspace");
        for peer in PEERS {
            if let Recipe::OpampGo { release, .. } = &peer.recipe {
                let modules = workspace.root().join(SOURCES).join("go/client/mods");
                let text = fs::read_to_string(modules.join(format!("v{release}.mod")))
                    .expect("the release has a list of modules");
                let named = format!("github.com/open-telemetry/opamp-go v{release}");
                assert!(text.contains(&named), "{text}");
                assert!(modules.join(format!("v{release}.sum")).is_file());
            }
        }
    }

    #[test]
    fn a_change_of_what_a_peer_is_made_of_changes_its_place() {
        let digest = |parts: &[&str]| {
            let mut digest = Digest::new();
            for part in parts {
                digest.add(part.as_bytes());
            }
            digest.value()
        };
        assert_eq!(digest(&["a", "b"]), digest(&["a", "b"]));
        assert_ne!(digest(&["a", "b"]), digest(&["ab", ""]));
        assert_ne!(digest(&["a", "b"]), digest(&["a", "c"]));
    }
}
