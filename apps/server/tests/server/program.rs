//! The program itself as a process that can be told to end, and killed.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_muster-server");

/// The program on a free port of loopback, without what this process's environment says of Muster.
pub(crate) fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command
        .env("MUSTER_DATA_DIR", data_dir)
        .env("MUSTER_LISTEN", "127.0.0.1:0");
    command
}

/// A data folder with the master key that all servers of the database share.
pub(crate) fn folder(parent: &Path, name: &str) -> PathBuf {
    let folder = parent.join(name);
    std::fs::create_dir(&folder).unwrap();
    let key = folder.join("master.key");
    std::fs::write(&key, "07".repeat(32)).unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    folder
}

/// [`command`] without TLS, on a database.
pub(crate) fn plain(data_dir: &Path, database: &str) -> Command {
    let mut command = command(data_dir);
    command
        .env("MUSTER_TLS_ENABLED", "false")
        .env("MUSTER_DATABASE_URL", database);
    command
}

/// A server as a process of its own. It is killed when the value goes.
pub(crate) struct Program {
    child: Child,
    /// What it printed when it was ready.
    pub(crate) greeting: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Program {
    /// Starts it without waiting for it.
    pub(crate) fn spawn(command: &mut Command) -> Child {
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts")
    }

    /// Starts it and waits until it serves.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::greeted(Self::spawn(command))
    }

    /// Waits until one that was started serves.
    pub(crate) fn greeted(mut child: Child) -> Self {
        let mut greeting = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("its output is read"));
        // What it prints comes in one piece; the data folder stands in it always and before what may be missing.
        while !greeting.contains("data folder") {
            let read = lines
                .read_line(&mut greeting)
                .expect("its output can be read");
            assert!(read > 0, "it ended: {greeting}");
        }
        greeting.push_str(&String::from_utf8_lossy(lines.buffer()));
        let (_, address) = greeting.split_once("listens on ").expect("it says where");
        let address = address.lines().next().unwrap_or_default().parse();
        Self {
            child,
            address: address.expect("it is an address"),
            greeting,
        }
    }

    /// Its address for a client without TLS.
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The link that makes the first administrator.
    pub(crate) fn setup_link(&self) -> &str {
        let (_, link) = self.greeting.split_once("open ").expect("it has one");
        link.trim()
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to end.
    pub(crate) fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("it is there to be told");
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is there to be killed");
        self.child.wait().expect("it ends");
    }

    /// Waits until it has ended.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be asked") {
                return status;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
