//! `cargo xtask peers`: third-party clients as judges of a server of ours, installed by version and run against it.
//!
//! Each peer lies in the user's cache by its name and by what it is made of, so that it is made once on a machine. Only our own
//! small programs, manifests and lock files are in the repository (`testing/peers/opamp`); everything else comes from package
//! registries by the ordinary tools.
//!
//! Not responsible for what peers have to show: that is the program `muster-peers-opamp`.

mod opamp;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};

use crate::error::{self, XtaskError};
use crate::workspace::{self, Workspace};
use crate::{prerequisites, process};
use opamp::{PEERS, Peer};

/// The program that runs peers against a server.
const JUDGE: &str = "muster-peers-opamp";

/// Third-party clients against a server of ours: installs them by version, and runs them.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask peers install opamp                       makes what is missing, some minutes at first
  cargo xtask peers install opamp --list                the peers and where they are
  cargo xtask peers test opamp                          runs all of them against a server of ours
  cargo xtask peers test opamp --only opamp-go-0.24.0   some of them: those whose name begins so")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make the peers that are not there yet.
    Install {
        /// Which protocol they speak.
        protocol: Protocol,
        /// Print them and where they are; make nothing.
        #[arg(long)]
        list: bool,
        /// Only peers whose name begins so (may be given several times).
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
    },
    /// Make what is missing, then run the peers against a server and print what each showed.
    Test {
        /// Which protocol they speak.
        protocol: Protocol,
        /// Let a peer that cannot be had be no failure.
        #[arg(long)]
        allow_missing: bool,
        /// Only peers whose name begins so (may be given several times).
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// Where logs of the peers and of the server are left [default: below the build folder].
        #[arg(long, value_name = "FOLDER")]
        logs: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Protocol {
    Opamp,
}

pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<(), XtaskError> {
    match &arguments.verb {
        Verb::Install {
            protocol: Protocol::Opamp,
            list,
            only,
        } => {
            let wanted = select(only)?;
            if *list {
                for peer in wanted {
                    let folder = peer.folder(workspace)?;
                    let state = if peer.is_in(&folder) {
                        "there  "
                    } else {
                        "missing"
                    };
                    println!("{:<16} {state} {}", peer.name, folder.display());
                }
                return Ok(());
            }
            let missing = install(workspace, &wanted)?;
            refuse(&missing)
        }
        Verb::Test {
            protocol: Protocol::Opamp,
            allow_missing,
            only,
            logs,
        } => {
            let wanted = select(only)?;
            test(workspace, &wanted, *allow_missing, logs.clone())
        }
    }
}

fn select(only: &[String]) -> Result<Vec<&'static Peer>, XtaskError> {
    let begins = |peer: &Peer, name: &str| peer.name.starts_with(name);
    let unknown = only
        .iter()
        .find(|name| !PEERS.iter().any(|peer| begins(peer, name)));
    if let Some(unknown) = unknown {
        let names: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
        return Err(XtaskError::Unknown {
            kind: "peer",
            name: unknown.clone(),
            known: names.join(", "),
        });
    }
    let is_wanted = |peer: &&Peer| only.is_empty() || only.iter().any(|name| begins(peer, name));
    Ok(PEERS.iter().filter(is_wanted).collect())
}

/// A peer that could not be made, and why.
struct Missing {
    name: &'static str,
    reason: String,
}

fn refuse(missing: &[Missing]) -> Result<(), XtaskError> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|missing| missing.name).collect();
    Err(XtaskError::NoPeers(names.join(", ")))
}

/// Makes what is not there yet; what could not be made was said and is given back.
fn install(workspace: &Workspace, wanted: &[&'static Peer]) -> Result<Vec<Missing>, XtaskError> {
    let mut missing = Vec::new();
    let mut has_looked = false;
    for peer in wanted {
        let folder = peer.folder(workspace)?;
        if peer.is_in(&folder) {
            println!("    {} is in {}", peer.name, folder.display());
            continue;
        }
        if !has_looked {
            has_looked = true;
            prerequisites::ensure()?;
        }
        println!("    making {}; this is done once", peer.name);
        let begun = Instant::now();
        match make(workspace, peer, &folder) {
            Ok(()) => println!(
                "    {} is in {}, after {} s",
                peer.name,
                folder.display(),
                begun.elapsed().as_secs()
            ),
            Err(failure) => {
                let reason = error::chain(&failure);
                println!("    {} cannot be had: {reason}", peer.name);
                let name = peer.name;
                missing.push(Missing { name, reason });
            }
        }
    }
    Ok(missing)
}

/// Made beside its place and renamed when it is whole: what was interrupted is no peer.
fn make(workspace: &Workspace, peer: &Peer, folder: &std::path::Path) -> Result<(), XtaskError> {
    let parent = folder.parent().unwrap_or(folder);
    // Of two that make it at once each has a folder of its own.
    let scratch = parent.join(format!(".making-{}-{}", peer.name, std::process::id()));
    let (work, done) = (scratch.join("work"), scratch.join("done"));
    for path in [&work, &done] {
        fs::create_dir_all(path).map_err(XtaskError::file("making", path))?;
    }
    let made = peer.make(workspace, &work, &done).and_then(|()| {
        if !peer.is_in(&done) {
            return Err(XtaskError::Unexpected {
                command: format!("the recipe of {}", peer.name),
                what: format!("it left no {}", peer.files().join(" and no ")),
            });
        }
        let moved = fs::rename(&done, folder);
        if peer.is_in(folder) {
            Ok(())
        } else {
            moved.map_err(XtaskError::file("making", folder))
        }
    });
    let removed = fs::remove_dir_all(&scratch);
    made?;
    removed.map_err(XtaskError::file("removing", &scratch))
}

fn test(
    workspace: &Workspace,
    wanted: &[&'static Peer],
    allow_missing: bool,
    logs: Option<PathBuf>,
) -> Result<(), XtaskError> {
    let missing = install(workspace, wanted)?;
    if !allow_missing {
        refuse(&missing)?;
    }
    process::run(workspace.cargo().args([
        "build",
        "--quiet",
        "--workspace",
        "--bins",
        "--locked",
    ]))?;
    let logs = logs.unwrap_or_else(|| workspace.target().join("peers/opamp"));
    let mut judge = workspace.command(workspace.debug_binary(JUDGE));
    judge
        .arg("--server")
        .arg(workspace.debug_binary("muster-server"))
        .arg("--logs")
        .arg(&logs);
    for peer in wanted {
        if missing.iter().any(|missing| missing.name == peer.name) {
            continue;
        }
        let folder = peer.folder(workspace)?;
        judge.arg("--peer");
        judge.arg(format!("{}={}", peer.name, folder.display()));
    }
    println!("    peers at work; logs are left in {}", logs.display());
    // What it is told is long and says nothing that it does not say itself.
    let status = judge.status().map_err(|source| XtaskError::Spawn {
        program: JUDGE.to_owned(),
        source,
    })?;
    for Missing { name, reason } in &missing {
        println!("{name}: not there: {reason}");
    }
    if status.success() {
        return Ok(());
    }
    Err(XtaskError::Failed {
        command: JUDGE.to_owned(),
        status,
        output: String::new(),
    })
}

/// `$MUSTER_CACHE/peers`, else in the user's cache.
fn cache() -> Result<PathBuf, XtaskError> {
    let named = std::env::var_os(workspace::CACHE_VARIABLE).filter(|value| !value.is_empty());
    let cache = match named {
        Some(cache) => PathBuf::from(cache),
        None => workspace::user_cache().ok_or(XtaskError::NoCache)?,
    };
    Ok(cache.join("peers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_chosen_by_the_beginning_of_its_name() {
        let only = [String::from("opamp-go-0.2")];
        let chosen = select(&only).expect("there are such");
        let names: Vec<&str> = chosen.iter().map(|peer| peer.name).collect();
        assert_eq!(names, ["opamp-go-0.23.0", "opamp-go-0.24.0"]);
    }

    #[test]
    fn a_peer_that_does_not_exist_is_an_error_that_lists_those_that_do() {
        let error = select(&[String::from("opamp-c")])
            .err()
            .expect("there is none");
        let text = error.to_string();
        assert!(
            text.starts_with("there is no peer `opamp-c`; known: opamp-go-0.4.0"),
            "{text}"
        );
    }

    #[test]
    fn what_was_not_made_whole_is_no_peer() {
        let workspace = Workspace::find().expect("tests run in the workspace");
        let cache = std::env::temp_dir().join(format!("muster-peers-{}", std::process::id()));
        let folder = cache.join("peer");
        let peer = Peer::failing();
        let error = make(&workspace, &peer, &folder).expect_err("its recipe fails");
        assert!(error.to_string().contains("no such luck"), "{error}");
        assert!(!folder.exists());
        let left = fs::read_dir(&cache).expect("it was made").count();
        assert_eq!(left, 0, "what was begun is removed");
        fs::remove_dir(&cache).expect("it is empty");
    }
}
