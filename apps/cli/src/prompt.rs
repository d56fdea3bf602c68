//! Asking the person at the terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::error::CliError;

/// What the environment says instead of the prompt.
const PASSWORD_VARIABLE: &str = "MUSTER_CLI_PASSWORD";
/// The same for a new password.
const NEW_PASSWORD_VARIABLE: &str = "MUSTER_CLI_NEW_PASSWORD";

/// Asks for a line.
pub(crate) fn line(question: &str) -> Result<String, CliError> {
    let _ = write!(io::stderr(), "{question}: ");
    let _ = io::stderr().flush();
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// A new password: from the environment, twice from a terminal without showing it, else the next line of standard input.
pub(crate) fn new_password(question: &str) -> Result<String, CliError> {
    if let Ok(password) = std::env::var(NEW_PASSWORD_VARIABLE)
        && !password.is_empty()
    {
        return Ok(password);
    }
    let first = asked(question)?;
    if io::stdin().is_terminal() && asked("Once more")? != first {
        return Err(CliError::PasswordsDiffer);
    }
    Ok(first)
}

/// The password: from the environment, from a terminal without showing it, else the first line of standard input.
pub(crate) fn password(question: &str) -> Result<String, CliError> {
    if let Ok(password) = std::env::var(PASSWORD_VARIABLE)
        && !password.is_empty()
    {
        return Ok(password);
    }
    asked(question)
}

fn asked(question: &str) -> Result<String, CliError> {
    let mut line = String::new();
    if io::stdin().is_terminal() {
        let _ = write!(io::stderr(), "{question}: ");
        let _ = io::stderr().flush();
        line = rpassword::read_password()?;
    } else {
        io::stdin().lock().read_line(&mut line)?;
    }
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(CliError::NoPassword);
    }
    Ok(password.to_owned())
}
