//! Starting other programs: shown as they are typed, and their failures as errors that name them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::XtaskError;

/// Folders that hold programs and that an unprivileged user's `PATH` often lacks.
const FURTHER_PROGRAM_FOLDERS: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Runs to the end with this program's output; says first what is run.
pub(crate) fn run(command: &mut Command) -> Result<(), XtaskError> {
    println!("    $ {}", describe(command));
    let status = command.status().map_err(|source| XtaskError::Spawn {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    if status.success() {
        return Ok(());
    }
    Err(XtaskError::Failed {
        command: describe(command),
        status,
        output: String::new(),
    })
}

/// Runs to the end and gives what it printed; a failure carries what it complained about.
pub(crate) fn capture(command: &mut Command) -> Result<String, XtaskError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| XtaskError::Spawn {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
    if !output.status.success() {
        let mut complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        complaint.push_str(&String::from_utf8_lossy(&output.stdout));
        return Err(XtaskError::Failed {
            command: describe(command),
            status: output.status,
            output: complaint,
        });
    }
    String::from_utf8(output.stdout).map_err(|_| XtaskError::Unexpected {
        command: describe(command),
        what: String::from("not UTF-8"),
    })
}

/// The command as one would type it: the program's bare name and its arguments.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Where a program is found, or `None`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(FURTHER_PROGRAM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path)
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Whether this program runs as the administrator.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_an_error_that_names_it_and_carries_its_complaint() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck >&2; exit 3"]);
        let error = capture(&mut command).expect_err("the program fails");
        let text = error.to_string();
        assert!(text.contains("sh -c"), "{text}");
        assert!(text.contains("no such luck"), "{text}");
    }

    #[test]
    fn programs_are_found_on_the_path_only_if_they_can_be_run() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-program-is-called-this").is_none());
    }
}
