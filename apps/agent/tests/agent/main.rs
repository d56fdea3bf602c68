//! The program itself: against this machine, and against a server that plays a script.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod fleet;
mod query;
mod real;
mod run;
mod skew;

use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_muster-agent");

/// The program without what the environment of the test run would tell it.
fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command
}

fn output(arguments: &[&str]) -> Output {
    program()
        .args(arguments)
        .output()
        .expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
