//! `cargo xtask up`: a server, this machine as its first host, and a question to it, from one command.
//!
//! What runs are the programs as operators run them; nothing of Muster is linked in here.

mod children;
mod machine;
mod replicas;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use self::children::Children;
use self::machine::Snapshot;
use self::replicas::Surroundings;
use crate::error::XtaskError;
use crate::process;
use crate::workspace::Workspace;

/// Who administers.
const EMAIL: &str = "admin@example.com";
/// So many rows of each question are shown.
const SHOWN_ROWS: usize = 15;
/// How long the server may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the agent may take to enroll.
const ENROLL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to answer, as the command line reads it.
const ANSWER_TIMEOUT: &str = "60s";
const POLL: Duration = Duration::from_millis(50);
const PASSWORD_BYTES: usize = 12;

const PROCESSES: &str = "SELECT pid, name, state, parent, cmdline FROM processes ORDER BY pid";
const PORTS: &str =
    "SELECT port, protocol, family, address, pid FROM listening_ports ORDER BY protocol, port";

/// Start a server and an agent on this machine, ask it a live question, and stay up until Ctrl-C.
///
/// Each run has a fresh data folder, an administrator with a generated password and a free port of loopback. Everything
/// is gone when it ends. When something fails, the folder with the logs stays and is named.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask up                try Muster: the address and the password are printed
  cargo xtask up --port 8443    on this port
  cargo xtask up --replicas 2   two servers on PostgreSQL and Redis, behind a load balancer
  cargo xtask up --smoke        the same, then compare the answers with /proc and end")]
pub(crate) struct Arguments {
    /// Compare the answers with what /proc says, end, and fail when they differ.
    #[arg(long)]
    smoke: bool,
    /// How many servers; several share a PostgreSQL database and Redis, and HAProxy stands before them.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    replicas: u8,
    /// The port of loopback to serve on [default: a free one].
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        hide_default_value = true
    )]
    port: u16,
}

pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<(), XtaskError> {
    process::run(
        workspace
            .cargo()
            .args(["build", "--workspace", "--bins", "--locked"]),
    )?;
    let demo = Demo::new(workspace)?;
    let done = demo.run(arguments);
    if done.is_ok() {
        let _ = fs::remove_dir_all(&demo.folder);
    }
    done.map_err(|source| XtaskError::Up {
        folder: demo.folder,
        source: Box::new(source),
    })
}

/// Also a step of `test`: with one server, and with two.
pub(crate) fn smoke(workspace: &Workspace) -> Result<(), XtaskError> {
    for replicas in [1, 2] {
        let arguments = Arguments {
            smoke: true,
            replicas,
            port: 0,
        };
        run(&arguments, workspace)?;
    }
    Ok(())
}

struct Demo<'a> {
    workspace: &'a Workspace,
    /// Data, logs and the file of the command line's contexts.
    folder: PathBuf,
    password: String,
}

impl<'a> Demo<'a> {
    fn new(workspace: &'a Workspace) -> Result<Self, XtaskError> {
        let secret = random_hex()?;
        let folder = std::env::temp_dir().join(format!("muster-up-{}", &secret[..8]));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(XtaskError::file("make", &folder))?;
        Ok(Self {
            workspace,
            folder,
            password: format!("Up-{}", &secret[8..]),
        })
    }

    fn run(&self, arguments: &Arguments) -> Result<(), XtaskError> {
        let begun = Instant::now();
        let mut children = Children::new(&self.folder)?;
        let surroundings = match arguments.replicas {
            1 => None,
            _ => Some(Surroundings::start(
                self.workspace,
                &mut children,
                &self.folder,
                arguments.port,
            )?),
        };
        let told = |mut server: Command| {
            if let Some(surroundings) = &surroundings {
                surroundings.tell(&mut server);
            }
            server
        };
        process::capture(
            told(self.program("muster-server"))
                .args(["admin", "create-user", "--email", EMAIL])
                .arg("--data-dir")
                .arg(self.data())
                .env("MUSTER_PASSWORD", &self.password),
        )?;
        let url = match &surroundings {
            None => {
                let server = self.program("muster-server");
                Self::start_server(
                    &mut children,
                    "server",
                    server,
                    &self.data(),
                    arguments.port,
                )?
                .0
            }
            Some(surroundings) => {
                let mut ports = Vec::new();
                for number in 0..arguments.replicas {
                    let data = if number == 0 {
                        self.data()
                    } else {
                        self.copy_of_data(number)?
                    };
                    let name = format!("server-{number}");
                    let server = told(self.program("muster-server"));
                    ports.push(Self::start_server(&mut children, &name, server, &data, 0)?.1);
                }
                surroundings.balance(&mut children, &self.folder, &ports)?
            }
        };
        process::capture(
            self.muster(&["login", &url, "--email", EMAIL])
                .arg("--ca-file")
                .arg(self.authority())
                .env("MUSTER_CLI_PASSWORD", &self.password),
        )?;
        self.start_agent(&mut children, &url)?;
        self.wait_for_host(&mut children)?;
        println!(
            "==> this machine is enrolled after {:.1} s",
            begun.elapsed().as_secs_f64()
        );

        let before = Snapshot::take()?;
        let (processes, first) = self.ask(PROCESSES)?;
        let first = first.duration_since(begun);
        show("processes", PROCESSES, &processes);
        let (ports, _) = self.ask(PORTS)?;
        show("listening ports", PORTS, &ports);
        let after = Snapshot::take()?;
        println!("==> {:.1} s from start to first rows", first.as_secs_f64());
        if arguments.smoke {
            let found = machine::compare(&before, &after, &processes, &ports)?;
            println!("==> the answers agree with /proc: {found}");
            if arguments.replicas > 1 {
                print!("{}", process::capture(&mut self.muster(&["servers"]))?);
            }
            return Ok(());
        }
        self.greet(&url);
        children.wait()
    }

    /// Starts a server; gives its address for people, and its port.
    fn start_server(
        children: &mut Children,
        name: &str,
        mut server: Command,
        data: &Path,
        port: u16,
    ) -> Result<(String, u16), XtaskError> {
        server
            .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
            .arg("--data-dir")
            .arg(data);
        children.start(name, &mut server)?;
        let begun = Instant::now();
        loop {
            let greeting = children.log(name);
            let after = |word: &str| {
                let rest = greeting.split_once(word)?.1;
                Some(rest.lines().next()?.trim().to_owned())
            };
            // The lines are whole when another one follows.
            if greeting.contains("data folder")
                && let (Some(address), Some(listens)) = (after("address "), after("listens on "))
            {
                let port = listens
                    .rsplit(':')
                    .next()
                    .and_then(|port| port.parse().ok());
                return Ok((address, port.unwrap_or_default()));
            }
            children.check()?;
            within(begun, START_TIMEOUT, "the server does not start")?;
        }
    }

    /// A data folder for a further server: the same master key and certificates.
    fn copy_of_data(&self, number: u8) -> Result<PathBuf, XtaskError> {
        let copy = self.folder.join(format!("data-{number}"));
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(copy.join("tls"))
            .map_err(XtaskError::file("make", &copy))?;
        let mut files = vec![PathBuf::from("master.key")];
        let tls = self.data().join("tls");
        for entry in fs::read_dir(&tls).map_err(XtaskError::file("read", &tls))? {
            let entry = entry.map_err(XtaskError::file("read", &tls))?;
            files.push(Path::new("tls").join(entry.file_name()));
        }
        for file in files {
            let from = self.data().join(&file);
            fs::copy(&from, copy.join(&file)).map_err(XtaskError::file("copy", &from))?;
        }
        Ok(copy)
    }

    fn start_agent(&self, children: &mut Children, url: &str) -> Result<(), XtaskError> {
        let token =
            process::capture(&mut self.muster(&["tokens", "create", "--name", "this-machine"]))?;
        let path = self.folder.join("enrollment-token");
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, token.as_bytes()))
            .map_err(XtaskError::file("write", &path))?;
        let mut agent = self.program("muster-agent");
        agent
            .args(["run", "--server", url, "--enrollment-token-file"])
            .arg(&path)
            .arg("--ca-file")
            .arg(self.authority())
            .arg("--data-dir")
            .arg(self.folder.join("agent"));
        children.start("agent", &mut agent)
    }

    /// Until the enrollment token says that a host used it.
    fn wait_for_host(&self, children: &mut Children) -> Result<(), XtaskError> {
        let begun = Instant::now();
        loop {
            let listed = process::capture(&mut self.muster(&["tokens", "--json"]))?;
            let used = listed
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .any(|token| !token["used_by"].is_null());
            if used {
                return Ok(());
            }
            children.check()?;
            within(begun, ENROLL_TIMEOUT, "the agent does not enroll")?;
        }
    }

    /// The rows of this machine, and when the first one arrived.
    fn ask(&self, sql: &str) -> Result<(Vec<Value>, Instant), XtaskError> {
        // A host that has just enrolled may not count as online yet.
        let wait = ["--wait-for-offline", "--expires-in", ANSWER_TIMEOUT];
        let mut command = self.muster(&["query", "--all", "--json"]);
        command.args(wait).arg(sql);
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.map_err(|source| XtaskError::Spawn {
            program: "muster".to_owned(),
            source,
        })?;
        let unexpected = |what: String| XtaskError::Unexpected {
            command: format!("muster query '{sql}'"),
            what,
        };
        let mut rows = Vec::new();
        let mut first = Instant::now();
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).lines() {
                let line = line.map_err(|error| unexpected(error.to_string()))?;
                if rows.is_empty() {
                    first = Instant::now();
                }
                let row: Value =
                    serde_json::from_str(&line).map_err(|error| unexpected(error.to_string()))?;
                rows.push(row["row"].clone());
            }
        }
        let mut complaint = String::new();
        if let Some(mut errors) = child.stderr.take() {
            let _ = errors.read_to_string(&mut complaint);
        }
        let status = child.wait().map_err(|source| XtaskError::Spawn {
            program: "muster".to_owned(),
            source,
        })?;
        if !status.success() {
            return Err(XtaskError::Failed {
                command: process::describe(&command),
                status,
                output: complaint,
            });
        }
        Ok((rows, first))
    }

    fn greet(&self, url: &str) {
        let program = self.workspace.debug_binary("muster");
        println!("\nMuster is up until Ctrl-C; then everything of it is gone.\n");
        println!("  address      {url}");
        println!("  email        {EMAIL}");
        println!("  password     {}", self.password);
        println!("  certificate  {}", self.authority().display());
        println!("  logs         {}", self.folder.display());
        println!("\nAsk something yourself:\n");
        println!("  export MUSTER_CLI_CONFIG={}", self.contexts().display());
        println!(
            "  {} query --all 'SELECT name, version FROM deb_packages LIMIT 5'\n",
            program.display()
        );
    }

    /// A program of ours, without what the environment says to it.
    fn program(&self, name: &str) -> Command {
        let mut command = self.workspace.command(self.workspace.debug_binary(name));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MUSTER_") {
                command.env_remove(name);
            }
        }
        command
    }

    fn muster(&self, arguments: &[&str]) -> Command {
        let mut command = self.program("muster");
        command
            .args(arguments)
            .env("MUSTER_CLI_CONFIG", self.contexts());
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn authority(&self) -> PathBuf {
        self.data().join("tls/ca.pem")
    }

    fn contexts(&self) -> PathBuf {
        self.folder.join("cli.toml")
    }
}

/// Waits a moment, or says that it took too long.
fn within(begun: Instant, limit: Duration, what: &'static str) -> Result<(), XtaskError> {
    if begun.elapsed() > limit {
        return Err(XtaskError::TooSlow {
            what,
            seconds: limit.as_secs(),
        });
    }
    std::thread::sleep(POLL);
    Ok(())
}

fn random_hex() -> Result<String, XtaskError> {
    use std::fmt::Write as _;
    let source = Path::new("/dev/urandom");
    let mut bytes = [0_u8; PASSWORD_BYTES];
    fs::File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(XtaskError::file("read", source))?;
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// The first rows, in columns.
fn show(what: &str, sql: &str, rows: &[Value]) {
    const WIDEST: usize = 48;
    println!("==> {what}: {sql}");
    let shown: Vec<Vec<(&String, String)>> = rows
        .iter()
        .take(SHOWN_ROWS)
        .filter_map(Value::as_object)
        .map(|row| {
            let cells = row.iter().map(|(name, value)| {
                let text = value.as_str().unwrap_or_default().chars();
                let text = text.map(|c| if c.is_control() { '.' } else { c });
                (name, text.take(WIDEST).collect())
            });
            cells.collect()
        })
        .collect();
    let Some(first) = shown.first() else {
        println!("    no rows");
        return;
    };
    let widths: Vec<usize> = (0..first.len())
        .map(|index| {
            let cells = shown.iter().filter_map(|row| row.get(index));
            let widest = cells.map(|(name, text)| name.len().max(text.chars().count()));
            widest.max().unwrap_or(0)
        })
        .collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(text, width)| format!("{text:<width$}"))
            .collect();
        println!("    {}", cells.join("  ").trim_end());
    };
    line(first.iter().map(|(name, _)| name.as_str()).collect());
    for row in &shown {
        line(row.iter().map(|(_, text)| text.as_str()).collect());
    }
    if rows.len() > shown.len() {
        println!("    … {} rows in all", rows.len());
    }
}
