//! A PostgreSQL server of a test's own, which may be killed.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Where Debian and Ubuntu keep the programs of each version.
const VERSIONS_FOLDER: &str = "/usr/lib/postgresql";
/// How long it may take to start, recovery included.
const START_TIME: Duration = Duration::from_secs(60);

/// A cluster in a folder of its own. It is killed when the value goes.
pub(super) struct Cluster {
    folder: tempfile::TempDir,
    binaries: PathBuf,
    /// The user that root runs it as: it refuses to run as root.
    user: Option<(u32, u32)>,
    port: u16,
    child: Option<Child>,
}

fn binaries() -> PathBuf {
    let versions = std::fs::read_dir(VERSIONS_FOLDER).into_iter().flatten();
    let found = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").exists())
        .max();
    found.expect("PostgreSQL is installed: `cargo xtask prerequisites` does that")
}

fn user() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line.expect("there is a user postgres").split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

/// A free port that the system does not give to clients: one of those might take it while the server is down, or even
/// connect to itself.
fn free_port() -> u16 {
    let mut ports = (20_000..32_000).skip(std::process::id() as usize % 10_000);
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.find(is_free).expect("a port is free")
}

impl Cluster {
    /// A new one that runs.
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = user();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let port = free_port();
        let mut cluster = Self {
            folder,
            binaries: binaries(),
            user,
            port,
            child: None,
        };
        let mut initdb = cluster.command("initdb");
        let arguments = [
            "--username=muster",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
        ];
        initdb.args(arguments).arg("--pgdata").arg(cluster.data());
        done(&initdb.output().unwrap());
        cluster.start_again();
        cluster
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.current_dir(Path::new("/")).stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// The address of its database.
    pub(super) fn url(&self) -> String {
        format!("postgres://muster@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs a statement, also while the server is read-only.
    pub(super) fn run(&self, sql: &str) {
        done(&self.try_run(sql));
    }

    fn try_run(&self, sql: &str) -> Output {
        self.command("psql")
            .env("PGOPTIONS", "-c default_transaction_read_only=off")
            .env("PGCONNECT_TIMEOUT", "5")
            .args([
                "--no-psqlrc",
                "--quiet",
                "--set=ON_ERROR_STOP=1",
                "--command",
                sql,
            ])
            .arg(self.url())
            .output()
            .unwrap()
    }

    /// Ends it at once, as `kill -9` of its first process does.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it where it was, and waits until it answers. Its processes of before end by themselves, and until they have it
    /// refuses to start.
    pub(super) fn start_again(&mut self) {
        let begun = Instant::now();
        loop {
            let mut server = self.command("postgres");
            // The system lives on: what was written to files stays, whether it reached the disk or not.
            server.args([
                "-c",
                "fsync=off",
                "-c",
                "full_page_writes=off",
                "-c",
                "max_connections=60",
            ]);
            server.args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
            ]);
            server
                .arg("-p")
                .arg(self.port.to_string())
                .arg("-D")
                .arg(self.data());
            let child = server
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            self.child = Some(child);
            while self.child.as_mut().unwrap().try_wait().unwrap().is_none() {
                if self.try_run("SELECT 1").status.success() {
                    return;
                }
                assert!(begun.elapsed() < START_TIME, "PostgreSQL does not start");
            }
            assert!(
                begun.elapsed() < START_TIME,
                "PostgreSQL ends again and again"
            );
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

fn done(output: &Output) {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
