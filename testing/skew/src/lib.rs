//! Programs of earlier releases, for tests that run them beside those that were just built.
//!
//! `cargo xtask releases` builds them; which there are stands in `releases.toml`. Everything here is for tests: what goes wrong
//! is a panic that says what to do.
//!
//! Not responsible for what mixed versions promise: that stands in the tests, and in `docs/operations.md`.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

/// How many characters of a commit stand in a folder's name.
const COMMIT_CHARACTERS: usize = 12;

/// A release that a peer may still run.
#[derive(Debug, Clone, Deserialize)]
pub struct Release {
    /// Its version.
    pub version: String,
    /// The commit that it was made of.
    pub commit: String,
}

#[derive(Deserialize)]
struct Releases {
    release: Vec<Release>,
}

impl Release {
    /// All of them, newest first.
    pub fn all() -> Vec<Self> {
        let releases: Releases = toml::from_str(include_str!("../../../releases.toml"))
            .expect("releases.toml is as this program knows it");
        releases.release
    }

    /// Whether it was made before another one, such as 0.2.0.
    pub fn is_before(&self, other: &str) -> bool {
        let numbers = |version: &str| -> Vec<u64> {
            let numbers = version.split('.').map(str::parse);
            numbers
                .collect::<Result<_, _>>()
                .expect("a release has three numbers")
        };
        numbers(&self.version) < numbers(other)
    }

    /// One of its programs: `muster-server`, `muster-agent` or `muster`, without what the environment says of Muster.
    pub fn command(&self, program: &str) -> Command {
        let path = self.folder().join(program);
        assert!(
            path.is_file(),
            "{program} of release {} is not in {}: run `cargo xtask releases`",
            self.version,
            self.folder().display()
        );
        let mut command = Command::new(path);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MUSTER_")) {
            command.env_remove(name);
        }
        command
    }

    fn folder(&self) -> PathBuf {
        let folder = |name: &str| {
            let named = std::env::var_os(name).filter(|value| !value.is_empty());
            named.map(PathBuf::from)
        };
        let own = || folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        let cache = folder("MUSTER_CACHE").or_else(|| Some(own()?.join("muster")));
        let commit = self.commit.get(..COMMIT_CHARACTERS).unwrap_or(&self.commit);
        cache
            .expect("there is a folder of the user")
            .join("releases")
            .join(format!("{}-{commit}", self.version))
    }
}

/// A server of a release as a process of its own, over TLS, on a free port of loopback and an embedded database. It is killed
/// when the value goes.
pub struct Server {
    child: Child,
    data_dir: PathBuf,
    greeting: String,
    port: u16,
}

impl Server {
    /// Starts one and waits until it serves.
    pub fn start(release: &Release, data_dir: &Path) -> Self {
        let child = release
            .command("muster-server")
            .env("MUSTER_DATA_DIR", data_dir)
            .env("MUSTER_LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.expect("the program starts");
        let mut greeting = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("its output is read"));
        // Of a new server the last line says where the first administrator is made.
        while !greeting.contains("/setup?token=") {
            let read = lines
                .read_line(&mut greeting)
                .expect("its output can be read");
            assert!(read > 0, "it ended: {greeting}");
        }
        let (_, address) = greeting.split_once("listens on ").expect("it says where");
        let (_, port) = address
            .lines()
            .next()
            .and_then(|address| address.rsplit_once(':'))
            .expect("it has a port");
        Self {
            child,
            data_dir: data_dir.to_owned(),
            port: port.trim().parse().expect("it is a number"),
            greeting,
        }
    }

    /// Where peers find it.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The file with the authority that peers have to trust.
    pub fn authority(&self) -> PathBuf {
        self.data_dir.join("tls/ca.pem")
    }

    /// The secret that makes the first administrator.
    pub fn setup_token(&self) -> &str {
        let (_, token) = self.greeting.split_once("token=").expect("it is new");
        token.trim()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
