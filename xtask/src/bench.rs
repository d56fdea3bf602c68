//! `cargo xtask bench NAME`: measurements whose figures `docs/performance.md` holds.
//!
//! To add one, add an entry to [`BENCHES`]. A bench is a binary of this workspace, built in release mode.

use clap::Args;

use crate::error::XtaskError;
use crate::process;
use crate::workspace::Workspace;

/// One measurement.
struct Bench {
    name: &'static str,
    about: &'static str,
    /// The binary that measures; what the developer adds to the command line follows these arguments.
    binary: &'static str,
    arguments: &'static [&'static str],
}

const BENCHES: &[Bench] = &[
    swarm("check-in", "how many hosts one core of the server carries"),
    swarm(
        "enroll-storm",
        "what others notice when a fleet enrolls at once",
    ),
    swarm(
        "live-query",
        "how long until all hosts that hold a socket have answered",
    ),
    swarm(
        "cold-start",
        "how soon a server answers that starts with many hosts",
    ),
    swarm(
        "opamp",
        "how soon collectors have keys of their own, and what it costs to hold them",
    ),
];

/// A load of simulated hosts, named as the program that makes it names it.
const fn swarm(name: &'static str, about: &'static str) -> Bench {
    Bench {
        name,
        about,
        binary: "muster-swarm",
        arguments: &["--server-binary", "target/release/muster-server"],
    }
}

/// A measurement, by a release build; `--list` names them.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask bench --list                     the benches and what each measures
  cargo xtask bench NAME                       one of them, with its own defaults
  cargo xtask bench NAME --seconds 60 --json   what follows the name goes to the bench")]
pub(crate) struct Arguments {
    /// Print the benches and run none.
    #[arg(long)]
    list: bool,
    /// Which one.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Given to the bench as it is.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<(), XtaskError> {
    let Some(name) = arguments.name.as_ref().filter(|_| !arguments.list) else {
        for bench in BENCHES {
            println!("{:<14} {}", bench.name, bench.about);
        }
        return Ok(());
    };
    let bench = find(BENCHES, name)?;
    process::run(
        workspace
            .cargo()
            .args(["build", "--release", "--workspace", "--bins"]),
    )?;
    let program = workspace.target().join("release").join(bench.binary);
    process::run(
        workspace
            .command(program)
            .arg(bench.name)
            .args(bench.arguments)
            .args(&arguments.passed_on),
    )
}

fn find<'a>(benches: &'a [Bench], name: &str) -> Result<&'a Bench, XtaskError> {
    benches
        .iter()
        .find(|bench| bench.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = benches.iter().map(|bench| bench.name).collect();
            XtaskError::Unknown {
                kind: "bench",
                name: name.to_owned(),
                known: if names.is_empty() {
                    String::from("none yet")
                } else {
                    names.join(", ")
                },
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bench_that_does_not_exist_is_an_error_that_lists_those_that_do() {
        let benches = [Bench {
            name: "check-in",
            about: "hosts per core",
            binary: "swarm",
            arguments: &["check-in"],
        }];
        assert!(find(&benches, "check-in").is_ok());
        let error = find(&benches, "checkin").err().expect("there is none");
        assert_eq!(
            error.to_string(),
            "there is no bench `checkin`; known: check-in"
        );
    }
}
