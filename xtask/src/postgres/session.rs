//! A server that lives as long as this program.
//!
//! A watcher, a shell in a process group of its own, waits for the end of a pipe that only this program holds, and then
//! stops the server. So the server ends however this program ends: by success, failure, Ctrl-C or `kill -9`.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, Contents};
use crate::error::XtaskError;
use crate::workspace::Workspace;

/// The signal asks PostgreSQL for its fast shutdown: sessions are ended, files closed.
const WATCHER: &str = "cat >/dev/null; kill -INT \"$0\"";
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_POLL: Duration = Duration::from_millis(50);

/// The private server, in use.
pub(crate) struct Session {
    cluster: Cluster,
    url: String,
    /// Absent when the server ran before: then it is somebody else's to stop.
    watcher: Option<Child>,
}

impl Session {
    /// Starts the server with nothing in it, or uses the one that runs.
    pub(crate) fn open(workspace: &Workspace) -> Result<Self, XtaskError> {
        let begun = Instant::now();
        let cluster = Cluster::locate(workspace)?;
        let (server, started) = cluster.start(Contents::Fresh)?;
        println!(
            "    PostgreSQL {} at {} ({:.1} s)",
            if started { "started" } else { "runs already" },
            server.url(),
            begun.elapsed().as_secs_f64()
        );
        let watcher = if started {
            Some(watch(server.pid())?)
        } else {
            None
        };
        Ok(Self {
            cluster,
            url: server.url(),
            watcher,
        })
    }

    /// What `MUSTER_TEST_POSTGRES` is to hold.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut watcher) = self.watcher.take() else {
            return;
        };
        drop(watcher.stdin.take());
        let begun = Instant::now();
        let waited = watcher.wait();
        while self.cluster.running().is_some() && begun.elapsed() < STOP_TIMEOUT {
            thread::sleep(STOP_POLL);
        }
        if waited.is_err() || self.cluster.running().is_some() {
            eprintln!("warning: PostgreSQL still runs; stop it with `cargo xtask postgres stop`");
        } else {
            println!(
                "==> PostgreSQL stopped ({:.1} s)",
                begun.elapsed().as_secs_f64()
            );
        }
    }
}

fn watch(pid: u32) -> Result<Child, XtaskError> {
    Command::new("sh")
        .args(["-c", WATCHER])
        .arg(pid.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|source| XtaskError::Spawn {
            program: String::from("sh"),
            source,
        })
}
