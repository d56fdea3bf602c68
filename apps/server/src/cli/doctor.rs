//! The command `doctor`.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Failure, print};
use crate::config::Settings;
use crate::doctor::{self, Report, State};
use crate::start::Ambient;

/// Its place in the command line.
pub(super) fn command() -> Command {
    Command::new("doctor")
        .about("Look at all that a server needs, and say what to do about what is wrong")
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print JSON"),
        )
        .after_help(
            "Run it as the server's user, with the server's configuration, while the server runs or not. It changes \
             nothing, and ends with 1 when there is a problem; warnings are none.\n\nExamples:\n  \
             muster-server doctor --data-dir /var/lib/muster\n  muster-server doctor --json",
        )
}

fn text(report: &Report) -> String {
    let mut text = format!("muster-server {} on {}\n", report.release, report.data_dir);
    for check in &report.checks {
        let _ = writeln!(
            text,
            "  {:<8} {:<26} {}",
            check.state.name(),
            check.name,
            check.found
        );
        if let Some(advice) = &check.advice {
            let _ = writeln!(text, "  {:<35} -> {advice}", "");
        }
    }
    let _ = writeln!(
        text,
        "{}, {}",
        counted(report.count(State::Problem), "problem"),
        counted(report.count(State::Warning), "warning")
    );
    text
}

pub(super) async fn doctor(settings: Settings, matches: &ArgMatches) -> Result<(), Failure> {
    let report = doctor::examine(&settings, &Ambient::default()).await;
    let problems = report.count(State::Problem);
    if matches.get_flag("json") {
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        print(&text(&report))?;
    }
    if problems == 0 {
        return Ok(());
    }
    Err(match problems {
        1 => "1 problem; it is named above".into(),
        _ => format!("{problems} problems; each is named above").into(),
    })
}

fn counted(number: usize, word: &str) -> String {
    match number {
        1 => format!("1 {word}"),
        _ => format!("{number} {word}s"),
    }
}
