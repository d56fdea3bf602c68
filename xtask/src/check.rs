//! `cargo xtask check`: the quick inner loop, without PostgreSQL and without installing anything.

use clap::Args;

use crate::error::XtaskError;
use crate::steps::{self, Context, Outcome, Step};
use crate::workspace::Workspace;
use crate::{postgres, process, test, tidy};

const STEPS: &[Step] = &[
    Step {
        name: "format",
        about: "the code is formatted as rustfmt does",
        run: test::format,
    },
    Step {
        name: "build",
        about: "everything compiles, tests and examples too",
        run: build,
    },
    Step {
        name: "tidy",
        about: "the repository keeps its own rules",
        run: |context| tidy::check(&context.workspace).map(|()| Outcome::Passed),
    },
    Step {
        name: "unit-tests",
        about: "unit tests, on SQLite only",
        run: unit_tests,
    },
];

/// The quick inner loop: format, build, rules, unit tests on SQLite.
///
/// Needs neither PostgreSQL nor other programs. `cargo xtask test` is what decides.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask check                 everything quick
  cargo xtask check --only tidy     one step
  cargo xtask check --list          the steps")]
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

fn build(context: &mut Context) -> Result<Outcome, XtaskError> {
    process::run(
        context
            .workspace
            .cargo()
            .args(["check", "--workspace", "--all-targets"]),
    )?;
    Ok(Outcome::Passed)
}

/// Tests that need PostgreSQL are told by their name, which `muster_store::testing::on_both_databases!` gives them.
fn unit_tests(context: &mut Context) -> Result<Outcome, XtaskError> {
    process::run(
        context
            .workspace
            .cargo()
            .args(["test", "--workspace", "--lib", "--bins", "--quiet"])
            .args(["--", "--skip", "::on_postgres"])
            .env_remove(postgres::VARIABLE),
    )?;
    Ok(Outcome::Passed)
}
