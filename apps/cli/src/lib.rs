//! The operator's command line, over the server's own API.
//!
//! - [`arguments`]: what can be typed.
//! - [`contexts`]: which servers it knows, and as whom, in one file.
//! - [`client`]: requests, and failures that say what to do.
//! - [`output`]: tables, JSON lines and CSV; nothing that a host said can move the cursor.
//! - [`commands`]: one file per subject.
//!
//! Not responsible for: rules. The server decides who may do what; the command line shows what it said. Members of
//! answers that this release does not know are passed on in JSON and ignored otherwise.

pub mod arguments;
mod client;
mod commands;
mod contexts;
mod duration;
mod error;
mod input;
mod output;
mod prompt;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::CommandLine;
use crate::error::CliError;

/// Some hosts failed or did not answer.
const EXIT_INCOMPLETE: u8 = 3;
/// Ended by Ctrl-C, as shells count it.
const EXIT_INTERRUPTED: u8 = 130;
/// Whoever read our output went away, as shells count it.
const EXIT_PIPE_CLOSED: u8 = 141;

/// How a command ended, short of failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Incomplete,
    Interrupted,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let line = CommandLine::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(line)),
        Err(error) => Err(CliError::Output(error)),
    };
    match ended {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Incomplete) => ExitCode::from(EXIT_INCOMPLETE),
        Ok(Outcome::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::from(EXIT_PIPE_CLOSED)
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "muster: {}", error.explain());
            ExitCode::FAILURE
        }
    }
}
