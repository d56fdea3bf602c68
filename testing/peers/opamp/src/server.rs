//! The server under test: a process of its own, asked as an operator asks it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::Failure;

/// Where servers listen: from this port on, and how many ports there are.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;
const EMAIL: &str = "peers@example.com";
const PASSWORD: &str = "peers-password-1";
/// How long a server may take to start when all of them start at once.
const START_TIME: Duration = Duration::from_secs(120);
/// How long it may take to end.
const END_TIME: Duration = Duration::from_secs(30);

/// What all cases share.
pub(crate) struct Bench {
    pub(crate) server: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) peers: BTreeMap<String, PathBuf>,
}

impl Bench {
    /// The folder of an installed client.
    pub(crate) fn peer(&self, name: &str) -> Result<&Path, Failure> {
        let folder = self.peers.get(name);
        Ok(folder.ok_or_else(|| format!("{name} is not there"))?)
    }

    /// Logs of an earlier run would be taken for this one's.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        if self.logs.exists() {
            fs::remove_dir_all(&self.logs)?;
        }
        Ok(fs::create_dir_all(&self.logs)?)
    }
}

/// A server with an administrator, on a port that stays the same over restarts.
pub(crate) struct Server {
    child: Child,
    program: PathBuf,
    folder: PathBuf,
    logs: PathBuf,
    pub(crate) port: u16,
}

impl Server {
    /// Starts a new one with its data in a folder, and its log in another.
    pub(crate) async fn start(bench: &Bench, folder: &Path, logs: &Path) -> Result<Self, Failure> {
        let port = free_port()?;
        let mut create = command(&bench.server, folder, port);
        create
            .args(["admin", "create-user", "--email", EMAIL])
            .env("MUSTER_PASSWORD", PASSWORD);
        let created = create.output().await;
        let created =
            created.map_err(|error| format!("start {}: {error}", bench.server.display()))?;
        if !created.status.success() {
            let said = String::from_utf8_lossy(&created.stderr);
            return Err(format!("make an administrator: {said}").into());
        }
        let child = serve(&bench.server, folder, logs, port).await?;
        Ok(Self {
            child,
            program: bench.server.clone(),
            folder: folder.to_owned(),
            logs: logs.to_owned(),
            port,
        })
    }

    /// The certificate of the authority that clients have to trust.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.join("data/tls/ca.pem")
    }

    /// Ends it and starts it again on the same data.
    pub(crate) async fn restart(&mut self) -> Result<(), Failure> {
        self.end().await?;
        self.child = serve(&self.program, &self.folder, &self.logs, self.port).await?;
        Ok(())
    }

    /// Ends it as a system's manager of services would.
    pub(crate) async fn end(&mut self) -> Result<(), Failure> {
        let id = self
            .child
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        if let Some(id) = id {
            rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        }
        let ended = tokio::time::timeout(END_TIME, self.child.wait()).await;
        match ended.map_err(|_| "the server does not end")?? {
            status if status.success() => Ok(()),
            status => Err(format!("the server ended with {status}").into()),
        }
    }

    /// Logs in.
    pub(crate) async fn operator(&self) -> Result<Operator, Failure> {
        let authority = reqwest::Certificate::from_pem(&fs::read(self.authority())?)?;
        let http = reqwest::Client::builder()
            .tls_certs_only([authority])
            .build()?;
        let mut operator = Operator {
            http,
            base: format!("https://localhost:{}", self.port),
            session: String::new(),
        };
        let body = json!({ "email": EMAIL, "password": PASSWORD });
        let login = operator
            .send(reqwest::Method::POST, "/login", Some(&body))
            .await?;
        let session = login["token"].as_str().ok_or("the login gave no session")?;
        session.clone_into(&mut operator.session);
        Ok(operator)
    }
}

/// A port that stays the server's over restarts, since offers name it and clients come back to it: below those that systems
/// give to connections of clients, and of each server another one.
fn free_port() -> Result<u16, Failure> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two runs at a time begin at different places.
    let begin = u16::try_from(std::process::id() % 100)? * 100;
    for _ in 0..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + begin.wrapping_add(step) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no port is free for a server".into())
}

fn command(program: &Path, folder: &Path, port: u16) -> Command {
    let mut command = Command::new(program);
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in set.filter(|name| name.starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command
        .env("MUSTER_DATA_DIR", folder.join("data"))
        .env("MUSTER_LISTEN", format!("127.0.0.1:{port}"))
        .env("MUSTER_PUBLIC_URL", format!("https://localhost:{port}"))
        .kill_on_drop(true);
    command
}

async fn serve(program: &Path, folder: &Path, logs: &Path, port: u16) -> Result<Child, Failure> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(logs.join("server.log"))?;
    let mut child = command(program, folder, port)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let stdout = child.stdout.take().ok_or("the server has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let greeting = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(" listens on ") {
                return Ok::<_, Failure>(());
            }
        }
        Err(format!(
            "the server ended before it listened; see {}",
            logs.display()
        )
        .into())
    };
    let waited = tokio::time::timeout(START_TIME, greeting).await;
    waited.map_err(|_| "the server did not listen in time")??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(child)
}

/// An administrator who is logged in.
pub(crate) struct Operator {
    http: reqwest::Client,
    base: String,
    session: String,
}

impl Operator {
    async fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let url = format!("{}/api/muster{path}", self.base);
        let mut request = self.http.request(method.clone(), url);
        if !self.session.is_empty() {
            request = request.bearer_auth(&self.session);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            return Err(format!("{method} {path}: {status}: {text}").into());
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_str(&text)?)
    }

    /// Asks for something.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(reqwest::Method::GET, path, None).await
    }

    /// Sends something.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(reqwest::Method::POST, path, Some(body)).await
    }

    /// Takes something away.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.send(reqwest::Method::DELETE, path, None).await
    }

    /// The sum of a counter over all its labels that say this.
    pub(crate) async fn counter(&self, name: &str, label: &str) -> Result<f64, Failure> {
        let response = self
            .http
            .get(format!("{}/metrics", self.base))
            .send()
            .await?;
        let text = response.error_for_status()?.text().await?;
        Ok(sum(&text, name, label))
    }
}

fn sum(metrics: &str, name: &str, label: &str) -> f64 {
    let lines = metrics.lines().filter_map(|line| line.rsplit_once(' '));
    let wanted = lines.filter(|(series, _)| {
        let bare = series.split('{').next().unwrap_or_default();
        bare == name && series.contains(label)
    });
    wanted
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        // Not `sum`, by which nothing is -0.
        .fold(0.0, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn a_counter_is_summed_over_the_labels_that_are_asked_for() {
        let text = "# TYPE messages counter\nmessages{carrier=\"http\"} 3\nmessages{carrier=\"websocket\"} 4\nmessages_other 5\n";
        assert!((sum(text, "messages", "") - 7.0).abs() < f64::EPSILON);
        assert!((sum(text, "messages", "http") - 3.0).abs() < f64::EPSILON);
        assert!(sum(text, "absent", "").abs() < f64::EPSILON);
    }
}
