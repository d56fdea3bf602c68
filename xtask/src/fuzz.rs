//! `cargo xtask fuzz`: throws damaged input at what peers reach before they are known.
//!
//! The targets are the binaries of `fuzz/`, a workspace of its own because it needs a nightly compiler.

use std::fs;

use clap::Args;

use crate::error::XtaskError;
use crate::process;
use crate::workspace::Workspace;

/// Fuzz one target, or each in turn; `--list` names them.
///
/// Needs a nightly compiler and cargo-fuzz: `rustup toolchain install nightly` and `cargo install cargo-fuzz`. Input that
/// fails is kept in `fuzz/artifacts`. A target whose input has a form begins with the real messages in `fuzz/seeds`.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask fuzz --list                      the targets
  cargo xtask fuzz                             each target for a minute
  cargo xtask fuzz agent_bodies --seconds 600  one of them, for ten minutes")]
pub(crate) struct Arguments {
    /// Print the targets and run none.
    #[arg(long)]
    list: bool,
    /// Which one [default: all].
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<(), XtaskError> {
    let targets = targets(workspace)?;
    if arguments.list {
        for target in targets {
            println!("{target}");
        }
        return Ok(());
    }
    let wanted = match &arguments.target {
        None => targets,
        Some(name) if targets.contains(name) => vec![name.clone()],
        Some(name) => {
            return Err(XtaskError::Unknown {
                kind: "target",
                name: name.clone(),
                known: targets.join(", "),
            });
        }
    };
    for target in wanted {
        let limit = format!("-max_total_time={}", arguments.seconds);
        let mut command = workspace.command("cargo");
        command.args(["+nightly", "fuzz", "run", &target]);
        // What is found goes to the first folder; the second is only read.
        let seeds = workspace.root().join("fuzz/seeds").join(&target);
        if seeds.is_dir() {
            let found = workspace.root().join("fuzz/corpus").join(&target);
            fs::create_dir_all(&found).map_err(XtaskError::file("making", &found))?;
            command.arg(found).arg(seeds);
        }
        process::run(command.args(["--", &limit]))?;
    }
    Ok(())
}

/// Files of `fuzz/fuzz_targets`, by name.
fn targets(workspace: &Workspace) -> Result<Vec<String>, XtaskError> {
    let folder = workspace.root().join("fuzz/fuzz_targets");
    let files = fs::read_dir(&folder).map_err(|source| XtaskError::File {
        action: "list",
        path: folder.clone(),
        source,
    })?;
    let mut targets: Vec<String> = files
        .filter_map(Result::ok)
        .filter_map(|file| {
            let path = file.path();
            let name = path.file_stem()?.to_str()?.to_owned();
            path.extension()
                .is_some_and(|end| end == "rs")
                .then_some(name)
        })
        .collect();
    targets.sort();
    Ok(targets)
}
