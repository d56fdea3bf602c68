//! `cargo xtask test`: all that a release needs.
//!
//! To add a step, add an entry to [`STEPS`].

use clap::Args;

use crate::error::XtaskError;
use crate::steps::{self, Context, Outcome, Step};
use crate::workspace::Workspace;
use crate::{deploy, docs, licences, postgres, prerequisites, process, releases, tidy, up};

const STEPS: &[Step] = &[
    Step {
        name: "prerequisites",
        about: "programs from the distribution are there, or are installed",
        run: |_| prerequisites::ensure().map(|()| Outcome::Passed),
    },
    Step {
        name: "format",
        about: "the code is formatted as rustfmt does",
        run: format,
    },
    Step {
        name: "lint",
        about: "clippy has nothing to say, in tests and examples too",
        run: lint,
    },
    Step {
        name: "tidy",
        about: "the repository keeps its own rules",
        run: |context| tidy::check(&context.workspace).map(|()| Outcome::Passed),
    },
    Step {
        name: "licences",
        about: "every dependency's licence is one we accept",
        run: |context| licences::check(&context.workspace).map(|()| Outcome::Passed),
    },
    Step {
        name: "advisories",
        about: "no dependency has a known security advisory",
        run: |context| licences::advisories(&context.workspace),
    },
    Step {
        name: "docs",
        about: "committed reference pages are what the code says",
        run: |context| docs::check(&context.workspace).map(|()| Outcome::Passed),
    },
    Step {
        name: "deploy",
        about: "systemd, HAProxy, Helm and compose accept what operators install",
        run: |context| deploy::check(&context.workspace),
    },
    Step {
        name: "releases",
        about: "programs of earlier releases are there, or are built from the history",
        run: |context| releases::ensure(&context.workspace).map(|()| Outcome::Passed),
    },
    Step {
        name: "tests",
        about: "unit and integration tests, on SQLite and on PostgreSQL",
        run: tests,
    },
    Step {
        name: "smoke",
        about: "a server and an agent from nothing, and answers that agree with /proc",
        run: |context| up::smoke(&context.workspace).map(|()| Outcome::Passed),
    },
];

/// Everything that a release needs: prerequisites, format, lint, rules, licences, pages, tests.
///
/// Sets up what it needs: missing programs are installed when run as root on Debian or Ubuntu, and a private PostgreSQL
/// server is started unless `MUSTER_TEST_POSTGRES` names one. Stops at the first failure.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask test                               everything, stopping at the first failure
  cargo xtask test --keep-going                  everything, whatever fails
  cargo xtask test --list                        the steps and what each shows
  cargo xtask test --only tidy --only licences   some steps only")]
pub(crate) struct Arguments {
    /// Go on after a failure, and fail at the end.
    #[arg(long)]
    keep_going: bool,
    /// Only this step (may be given several times).
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Print the steps and run none.
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(arguments: &Arguments, workspace: Workspace) -> Result<(), XtaskError> {
    if arguments.list {
        steps::list(STEPS);
        return Ok(());
    }
    let selected = steps::select(STEPS, &arguments.only)?;
    steps::run(&selected, Context::new(workspace, arguments.keep_going))
}

/// Also a step of `check`.
pub(crate) fn format(context: &mut Context) -> Result<Outcome, XtaskError> {
    process::run(context.workspace.cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Outcome::Passed)
}

fn lint(context: &mut Context) -> Result<Outcome, XtaskError> {
    process::run(
        context
            .workspace
            .cargo()
            .args(["clippy", "--workspace", "--all-targets", "--locked"])
            .args(["--", "-D", "warnings"]),
    )?;
    Ok(Outcome::Passed)
}

fn tests(context: &mut Context) -> Result<Outcome, XtaskError> {
    let url = context.postgres()?;
    let mut cargo = context.workspace.cargo();
    cargo
        .args(["test", "--workspace", "--locked"])
        .env(postgres::VARIABLE, url);
    if context.keep_going {
        cargo.arg("--no-fail-fast");
    }
    process::run(&mut cargo)?;
    Ok(Outcome::Passed)
}
