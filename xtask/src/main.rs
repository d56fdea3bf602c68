//! What building Muster takes beyond `cargo build`, `test` and `run`.
//!
//! One file per verb; `cargo xtask help` lists them and `docs/contributing.md` describes them. A verb that has several
//! parts is a table of steps (`steps`), so that adding one is adding a line.
//!
//! Only small, quickly compiled dependencies belong here, and none of Muster's own crates: `cargo xtask` has to work,
//! and to say what is missing, on a machine where nothing has been built yet.
//!
//! Not responsible for tests themselves, which are ordinary `cargo test` tests beside what they test.

mod bench;
mod check;
mod deploy;
mod docs;
mod error;
mod fuzz;
mod licences;
mod peers;
mod postgres;
mod prerequisites;
mod process;
mod releases;
mod steps;
mod test;
mod tidy;
mod up;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::XtaskError;
use crate::workspace::Workspace;

/// What building Muster takes beyond `cargo build`, `test` and `run`.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = false
)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Up(up::Arguments),
    Test(test::Arguments),
    Check(check::Arguments),
    Tidy(tidy::Arguments),
    Licences(licences::Arguments),
    Docs(docs::Arguments),
    Postgres(postgres::Arguments),
    Prerequisites(prerequisites::Arguments),
    Releases(releases::Arguments),
    Peers(peers::Arguments),
    Bench(bench::Arguments),
    Fuzz(fuzz::Arguments),
}

fn main() -> ExitCode {
    let verb = CommandLine::parse().verb;
    match Workspace::find().and_then(|workspace| dispatch(verb, workspace)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb, workspace: Workspace) -> Result<(), XtaskError> {
    match verb {
        Verb::Up(arguments) => up::run(&arguments, &workspace),
        Verb::Test(arguments) => test::run(&arguments, workspace),
        Verb::Check(arguments) => check::run(&arguments, workspace),
        Verb::Tidy(arguments) => tidy::run(&arguments, &workspace),
        Verb::Licences(arguments) => licences::run(&arguments, &workspace),
        Verb::Docs(arguments) => docs::run(&arguments, &workspace),
        Verb::Postgres(arguments) => postgres::run(&arguments, &workspace),
        Verb::Prerequisites(arguments) => prerequisites::run(&arguments),
        Verb::Releases(arguments) => releases::run(&arguments, &workspace),
        Verb::Peers(arguments) => peers::run(&arguments, &workspace),
        Verb::Bench(arguments) => bench::run(&arguments, &workspace),
        Verb::Fuzz(arguments) => fuzz::run(&arguments, &workspace),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_examples_in_its_help() {
        for verb in CommandLine::command().get_subcommands() {
            let help = verb.clone().render_long_help().to_string();
            assert!(
                help.contains("Examples:") && help.contains("cargo xtask"),
                "{} has no examples",
                verb.get_name()
            );
        }
    }
}
