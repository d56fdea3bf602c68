//! The programs that run as long as this one does.
//!
//! A watcher, a shell in a process group of its own, waits for the end of a pipe that only this program holds, then ends
//! the others by their ids and removes the folder. So nothing is left behind, however this program ends.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::XtaskError;
use crate::process;

/// `$0` is the folder; ids come over the pipe, one per line.
const WATCHER: &str = "\
    ids=''; while read -r id; do ids=\"$ids $id\"; done; kill -TERM $ids 2>/dev/null; \
    tries=0; while [ $tries -lt 100 ] && kill -0 $ids 2>/dev/null; do sleep 0.1; tries=$((tries + 1)); done; \
    rm -rf -- \"$0\"";
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const STOP_POLL: Duration = Duration::from_millis(20);
/// So much of a log's end is shown.
const SHOWN_LOG_LINES: usize = 12;

/// Programs that are ended when this is dropped.
pub(super) struct Children {
    folder: PathBuf,
    running: Vec<(String, Child)>,
    watcher: Child,
}

impl Children {
    pub(super) fn new(folder: &Path) -> Result<Self, XtaskError> {
        let mut command = Command::new("sh");
        command
            .args(["-c", WATCHER])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        Ok(Self {
            folder: folder.to_owned(),
            running: Vec::new(),
            watcher: spawn(&mut command)?,
        })
    }

    /// Starts one, with its output in a file of the folder. Ctrl-C does not reach it: the watcher ends it.
    pub(super) fn start(&mut self, name: &str, command: &mut Command) -> Result<(), XtaskError> {
        use std::io::Write as _;

        let path = self.log_path(name);
        let log = File::create(&path).map_err(XtaskError::file("write", &path))?;
        let errors = log.try_clone().map_err(XtaskError::file("write", &path))?;
        println!("    $ {}", process::describe(command));
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let child = spawn(command)?;
        let id = child.id();
        self.running.push((name.to_owned(), child));
        let told = self
            .watcher
            .stdin
            .as_mut()
            .map(|pipe| writeln!(pipe, "{id}"));
        match told {
            Some(Err(source)) => Err(XtaskError::Spawn {
                program: "sh".to_owned(),
                source,
            }),
            _ => Ok(()),
        }
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// What it printed so far.
    pub(super) fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.log_path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// An error when one of them has ended.
    pub(super) fn check(&mut self) -> Result<(), XtaskError> {
        let mut ended = None;
        for (name, child) in &mut self.running {
            if let Ok(Some(status)) = child.try_wait() {
                ended = Some((name.clone(), status));
            }
        }
        let Some((name, status)) = ended else {
            return Ok(());
        };
        let log = self.log(&name);
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..];
        Err(XtaskError::Failed {
            command: name,
            status,
            output: last.join("\n"),
        })
    }

    /// Stays until one of them ends, which none should.
    pub(super) fn wait(&mut self) -> Result<(), XtaskError> {
        loop {
            self.check()?;
            thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        // The folder is the caller's to keep or to remove, so the watcher ends first.
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
        // The newest first: the agent before its server.
        for (_, child) in self.running.iter_mut().rev() {
            stop(child);
        }
    }
}

/// Asks it to end, and ends it when it does not.
fn stop(child: &mut Child) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let begun = Instant::now();
    while begun.elapsed() < STOP_TIMEOUT {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        thread::sleep(STOP_POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn spawn(command: &mut Command) -> Result<Child, XtaskError> {
    command.spawn().map_err(|source| XtaskError::Spawn {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_end_with_it_and_one_that_ends_early_is_named_with_its_last_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut children = Children::new(folder.path()).expect("the watcher starts");
        children
            .start("sleeper", Command::new("sleep").arg("1000"))
            .expect("it starts");
        assert!(children.check().is_ok());
        let id = children.running[0].1.id();
        children
            .start(
                "early",
                Command::new("sh").args(["-c", "echo oh no; exit 4"]),
            )
            .expect("it starts");
        let error = children.wait().expect_err("one has ended");
        assert!(error.to_string().contains("early") && error.to_string().contains("oh no"));
        drop(children);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}
