//! Asking another program, within the query's time.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::error::TableError;
use crate::table::Context;

/// How much a program may answer, in bytes.
const MAX_OUTPUT_BYTES: u64 = 32 * 1024 * 1024;
/// How often the query's watch is looked at while a program works.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// Runs `program` (an absolute path) without input and with a plain environment; gives what it prints. It is ended
/// when the query is stopped.
pub(super) fn output(
    context: &Context<'_>,
    program: &str,
    arguments: &[&str],
) -> Result<String, TableError> {
    let failed = |source| TableError::Unreadable {
        what: format!("what {program} says"),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let Some(pipe) = child.stdout.take() else {
        return Err(failed(std::io::Error::other("it has no output")));
    };
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::Builder::new()
        .name("command-output".to_owned())
        .spawn(move || {
            let mut bytes = Vec::new();
            let result = pipe.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
            // Nobody listens any more when the query was stopped.
            let _ = sender.send(result.map(|_| bytes));
        });
    if let Err(error) = reader {
        end(&mut child);
        return Err(failed(error));
    }
    loop {
        match receiver.recv_timeout(CHECK_EVERY) {
            Ok(Ok(bytes)) => {
                // What is left of the program is of no interest once its output is complete.
                end(&mut child);
                return Ok(crate::table::lossy(bytes));
            }
            Ok(Err(error)) => {
                end(&mut child);
                return Err(failed(error));
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Err(stopped) = context.check() {
                    end(&mut child);
                    return Err(stopped);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                end(&mut child);
                return Err(failed(std::io::Error::other(
                    "its output could not be read",
                )));
            }
        }
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself; what matters is that it leaves no zombie.
    let _ = child.kill();
    let _ = child.wait();
}
