//! The cluster's folder and server process.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::XtaskError;
use crate::process;
use crate::workspace::CACHE_VARIABLE;
use crate::workspace::Workspace;

/// The cluster's superuser, whom everybody on this machine may be.
const SUPERUSER: &str = "muster";
/// Tests run in parallel, each with a pool of its own.
const MAX_CONNECTIONS: u32 = 300;
/// A socket's path in `sockaddr_un`, with the longest name that PostgreSQL gives it and the final zero.
const MAX_SOCKET_FOLDER_BYTES: usize = 107 - "/.s.PGSQL.65535".len();
/// Between choosing a free port and listening on it another program may take it.
const START_ATTEMPTS: u32 = 4;
/// How much of the server's log an error shows.
const LOG_LINES_SHOWN: usize = 12;
/// How long `pg_ctl` waits for the server to start or stop.
const WAIT_SECONDS: &str = "60";
/// Where Debian and Ubuntu keep the programs of each version.
const VERSIONS_FOLDER: &str = "/usr/lib/postgresql";

/// What a start does with the databases that an earlier run left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    Kept,
    Fresh,
}

/// A server that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    pid: u32,
    port: u16,
}

impl Server {
    pub(super) fn pid(self) -> u32 {
        self.pid
    }

    /// What `MUSTER_TEST_POSTGRES` holds.
    pub(super) fn url(self) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/postgres", self.port)
    }
}

/// The user that root runs the server as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
}

/// The private cluster of this repository.
#[derive(Debug)]
pub(super) struct Cluster {
    folder: PathBuf,
    data: PathBuf,
    log: PathBuf,
    user: Option<User>,
}

impl Cluster {
    /// Decides where it lies; makes nothing yet.
    pub(super) fn locate(workspace: &Workspace) -> Result<Self, XtaskError> {
        let user = if process::is_root() {
            let passwd = Path::new("/etc/passwd");
            let text = fs::read_to_string(passwd).map_err(XtaskError::file("reading", passwd))?;
            Some(find_user(&text, "postgres").ok_or_else(|| {
                XtaskError::Postgres(String::from(
                    "it refuses to run as root, and there is no user `postgres` to run it as; \
                     the package `postgresql` makes one (`cargo xtask prerequisites`)",
                ))
            })?)
        } else {
            None
        };
        let folder = choose_folder(workspace, user)?;
        Ok(Self {
            data: folder.join("data"),
            log: folder.join("server.log"),
            folder,
            user,
        })
    }

    /// The server, if it runs. A lock file that a killed server left is not believed: another process may have its
    /// number.
    pub(super) fn running(&self) -> Option<Server> {
        let text = fs::read_to_string(self.lock_file()).ok()?;
        let server = parse_lock_file(&text)?;
        let folder = fs::read_link(format!("/proc/{}/cwd", server.pid)).ok()?;
        (folder == self.data.canonicalize().ok()?).then_some(server)
    }

    /// Starts it unless it runs; the flag says whether it was started now.
    pub(super) fn start(&self, contents: Contents) -> Result<(Server, bool), XtaskError> {
        self.make_folder()?;
        let _lock = self.lock()?;
        if let Some(server) = self.running() {
            return Ok((server, false));
        }
        let binaries = find_binaries().ok_or_else(|| {
            XtaskError::Postgres(String::from(
                "it is not installed; `cargo xtask prerequisites` installs it or says how",
            ))
        })?;
        remove_file_if_there(&self.lock_file())?;
        let mut trusted = self.fits(&binaries)? && contents == Contents::Kept;
        for attempt in 1..=START_ATTEMPTS {
            if !trusted {
                self.create(&binaries)?;
            }
            self.configure(free_port()?)?;
            remove_file_if_there(&self.log)?;
            let mut start = self.program(&binaries, "pg_ctl");
            start
                .args(["start", "--silent", "--wait", "--timeout", WAIT_SECONDS])
                .arg("--log")
                .arg(&self.log);
            match process::capture(&mut start) {
                Ok(_) => break,
                // What an interrupted run left may be beyond repair, since nothing waits for the disk.
                Err(_) if attempt < START_ATTEMPTS => trusted = false,
                Err(error) => {
                    return Err(XtaskError::Postgres(format!(
                        "the server did not start: {error}\n{}",
                        self.log_end()
                    )));
                }
            }
        }
        let server = self.running().ok_or_else(|| {
            XtaskError::Postgres(format!("the server ended at once\n{}", self.log_end()))
        })?;
        Ok((server, true))
    }

    /// Stops it if it runs; the answer says whether it did.
    pub(super) fn stop(&self) -> Result<bool, XtaskError> {
        if self.running().is_none() {
            return Ok(false);
        }
        let binaries = find_binaries().ok_or_else(|| {
            XtaskError::Postgres(String::from(
                "its programs are gone, so it cannot be stopped",
            ))
        })?;
        let mut stop = self.program(&binaries, "pg_ctl");
        stop.args(["stop", "--silent", "--wait", "--timeout", WAIT_SECONDS])
            .args(["--mode", "fast"]);
        process::capture(&mut stop)?;
        Ok(true)
    }

    fn lock_file(&self) -> PathBuf {
        self.data.join("postmaster.pid")
    }

    fn make_folder(&self) -> Result<(), XtaskError> {
        if !self.folder.is_dir() {
            if let Some(parent) = self.folder.parent() {
                fs::create_dir_all(parent).map_err(XtaskError::file("making", parent))?;
            }
            fs::DirBuilder::new()
                .mode(0o755)
                .create(&self.folder)
                .map_err(XtaskError::file("making", &self.folder))?;
        }
        self.give(&self.folder)
    }

    /// Hands a folder of ours to the user that the server runs as; refuses one that somebody else put there.
    fn give(&self, path: &Path) -> Result<(), XtaskError> {
        let owner = fs::symlink_metadata(path)
            .map_err(XtaskError::file("reading", path))?
            .uid();
        let Some(user) = self.user else { return Ok(()) };
        if owner != 0 && owner != user.uid {
            return Err(XtaskError::Postgres(format!(
                "{} belongs to another user; remove it",
                path.display()
            )));
        }
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
            .map_err(XtaskError::file("changing the owner of", path))
    }

    /// Two starts at a time take turns.
    fn lock(&self) -> Result<File, XtaskError> {
        let path = self.folder.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(XtaskError::file("opening", &path))?;
        file.lock().map_err(XtaskError::file("locking", &path))?;
        Ok(file)
    }

    /// Whether there is a cluster, made by the same version as the programs.
    fn fits(&self, binaries: &Path) -> Result<bool, XtaskError> {
        let Ok(version) = fs::read_to_string(self.data.join("PG_VERSION")) else {
            return Ok(false);
        };
        let mut postgres = Command::new(binaries.join(super::SERVER_PROGRAM));
        let installed = process::capture(postgres.arg("--version"))?;
        Ok(major_version(&installed) == Some(version.trim()))
    }

    fn create(&self, binaries: &Path) -> Result<(), XtaskError> {
        if self.data.exists() {
            fs::remove_dir_all(&self.data).map_err(XtaskError::file("removing", &self.data))?;
        }
        let mut initdb = self.program(binaries, "initdb");
        initdb
            .args(["--username", SUPERUSER, "--auth", "trust", "--no-sync"])
            .args(["--encoding", "UTF8", "--locale", "C.UTF-8"]);
        process::capture(&mut initdb)?;
        Ok(())
    }

    /// Replaces the whole configuration, so that it is what this version of the program means.
    fn configure(&self, port: u16) -> Result<(), XtaskError> {
        let socket = self.folder.join("socket");
        if socket.exists() {
            fs::remove_dir_all(&socket).map_err(XtaskError::file("removing", &socket))?;
        }
        fs::create_dir(&socket).map_err(XtaskError::file("making", &socket))?;
        self.give(&socket)?;
        let path = self.data.join("postgresql.conf");
        fs::write(&path, configuration(port, &socket)).map_err(XtaskError::file("writing", &path))
    }

    /// One of PostgreSQL's programs, as the right user, on this cluster.
    fn program(&self, binaries: &Path, name: &str) -> Command {
        let mut command = Command::new(binaries.join(name));
        command
            .current_dir(&self.folder)
            .env("PGDATA", &self.data)
            .env("HOME", &self.folder)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("PGPORT")
            .env_remove("PGHOST");
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

fn remove_file_if_there(path: &Path) -> Result<(), XtaskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(XtaskError::file("removing", path)(error))
        }
        _ => Ok(()),
    }
}

/// The folder of the newest PostgreSQL's programs.
pub(crate) fn find_binaries() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(VERSIONS_FOLDER)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    let newest_first = versions.into_iter().rev().map(|(_, folder)| folder);
    let on_path = process::find_program("pg_ctl").and_then(|program| {
        let folder = program.canonicalize().ok()?;
        folder.parent().map(Path::to_path_buf)
    });
    newest_first.chain(on_path).find(|folder| {
        ["initdb", "pg_ctl", super::SERVER_PROGRAM]
            .iter()
            .all(|name| folder.join(name).is_file())
    })
}

/// `$MUSTER_CACHE/postgres`, else `postgres` in the build folder, else, where the server's user cannot get into the
/// build folder (a clone in root's home), a folder of its own among the machine's temporary ones.
fn choose_folder(workspace: &Workspace, user: Option<User>) -> Result<PathBuf, XtaskError> {
    let reachable = |folder: &Path| user.is_none_or(|user| barrier(folder, user).is_none());
    if let Some(cache) = std::env::var_os(CACHE_VARIABLE).filter(|value| !value.is_empty()) {
        let folder = std::path::absolute(workspace.root().join(cache))
            .map_err(XtaskError::file("resolving", CACHE_VARIABLE))?
            .join("postgres");
        if let Some(barrier) = user.and_then(|user| barrier(&folder, user)) {
            return Err(XtaskError::Postgres(format!(
                "the user `postgres` cannot enter {}, which {CACHE_VARIABLE} leads through",
                barrier.display()
            )));
        }
        return Ok(folder);
    }
    let folder = workspace.target().join("postgres");
    if reachable(&folder) {
        return Ok(folder);
    }
    let mut name = String::from("muster-postgres");
    for part in workspace.target().components().skip(1) {
        name.push('-');
        name.push_str(&part.as_os_str().to_string_lossy());
    }
    Ok(Path::new("/var/tmp").join(name))
}

/// The first folder on the way that the user may not enter. Those that do not exist yet are made enterable.
fn barrier(folder: &Path, user: User) -> Option<PathBuf> {
    let mut way: Vec<&Path> = folder.ancestors().skip(1).collect();
    way.reverse();
    way.into_iter()
        .find(|folder| {
            fs::metadata(folder).is_ok_and(|data| {
                let bit = if data.uid() == user.uid {
                    0o100
                } else if data.gid() == user.gid {
                    0o010
                } else {
                    0o001
                };
                data.mode() & bit == 0
            })
        })
        .map(Path::to_path_buf)
}

fn find_user(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(User { uid, gid })
    })
}

/// PostgreSQL's lock file: process, data folder, start time, port, and more.
fn parse_lock_file(text: &str) -> Option<Server> {
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    let port = lines.nth(2)?.trim().parse().ok()?;
    Some(Server { pid, port })
}

/// `postgres (PostgreSQL) 15.14 (Debian …)` → `15`.
fn major_version(printed: &str) -> Option<&str> {
    printed
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?
        .split(|c: char| !c.is_ascii_digit())
        .next()
}

fn free_port() -> Result<u16, XtaskError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(XtaskError::file("finding a free port on", "127.0.0.1"))
}

fn configuration(port: u16, socket: &Path) -> String {
    let socket = socket.to_string_lossy();
    let socket = if socket.len() > MAX_SOCKET_FOLDER_BYTES {
        String::new()
    } else {
        socket.replace('\'', "''")
    };
    format!(
        "listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = '{socket}'\n\
         max_connections = {MAX_CONNECTIONS}\n\
         # The contents are worth nothing: never wait for the disk.\n\
         fsync = off\n\
         synchronous_commit = off\n\
         full_page_writes = off\n\
         wal_level = minimal\n\
         max_wal_senders = 0\n\
         # Errors that tests provoke are not worth a line.\n\
         log_min_messages = fatal\n\
         log_min_error_statement = panic\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_gives_the_process_and_the_port() {
        let text = "4711\n/data\n1700000000\n40123\n/socket\n127.0.0.1\n  12345  6\nready   \n";
        let server = parse_lock_file(text).expect("it is complete");
        assert_eq!(server.pid(), 4711);
        assert_eq!(server.url(), "postgres://muster@127.0.0.1:40123/postgres");
        assert_eq!(parse_lock_file("4711\n/data\n"), None);
    }

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres2:x:5:6:::\n\
                      postgres:x:104:112:,,,:/var/lib/postgresql:/bin/bash\n";
        let expected = User { uid: 104, gid: 112 };
        assert_eq!(find_user(passwd, "postgres"), Some(expected));
        assert_eq!(find_user(passwd, "nobody"), None);
    }

    #[test]
    fn the_major_version_is_the_first_number() {
        let debian = "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n";
        assert_eq!(major_version(debian), Some("15"));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1"), Some("18"));
        assert_eq!(major_version("nothing"), None);
    }

    #[test]
    fn a_socket_folder_whose_path_is_too_long_is_done_without() {
        let long = format!("/{}", "x".repeat(120));
        assert!(configuration(5, Path::new(&long)).contains("unix_socket_directories = ''\n"));
        assert!(
            configuration(5, Path::new("/it's")).contains("unix_socket_directories = '/it''s'\n")
        );
    }

    #[test]
    fn a_folder_that_the_user_cannot_enter_is_named() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let stranger = User {
            uid: u32::MAX - 1,
            gid: u32::MAX - 1,
        };
        let inner = folder.path().join("inner/postgres");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("it is ours");
        assert_eq!(barrier(&inner, stranger).as_deref(), Some(folder.path()));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("it is ours");
        assert_eq!(barrier(&inner, stranger), None);
    }
}
