//! Asking the person at the terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::error::CliError;

/// What the environment says instead of the prompt.
const PASSWORD_VARIABLE: &str = "MUSTER_CLI_PASSWORD";

/// Asks for a line.
pub(crate) fn line(question: &str) -> Result<String, CliError> {
    let _ = write!(io::stderr(), "{question}: ");
    let _ = io::stderr().flush();
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// The password: from the environment, from a terminal without showing it, else the first line of standard input.
pub(crate) fn password(question: &str) -> Result<String, CliError> {
    if let Ok(password) = std::env::var(PASSWORD_VARIABLE)
        && !password.is_empty()
    {
        return Ok(password);
    }
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
