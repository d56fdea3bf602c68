//! The server under load: started, asked for its cost, and ended.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::measure::Cost;
use crate::{Failure, ServerOptions};

const EMAIL: &str = "swarm@example.com";
const PASSWORD: &str = "swarm-password-1";
/// How long the server may take to start.
const START_TIME: Duration = Duration::from_secs(30);

/// A server that was started for the benchmark alone.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) authority_pem: String,
    folder: tempfile::TempDir,
    options: ServerOptions,
    settings: Vec<(String, String)>,
}

fn command(options: &ServerOptions, settings: &[(String, String)], folder: &Path) -> Command {
    let mut command = Command::new(&options.server_binary);
    command
        .env("MUSTER_DATA_DIR", folder.join("data"))
        .env("MUSTER_LISTEN", "127.0.0.1:0");
    command.env("MUSTER_LOG_LEVEL", "warn").kill_on_drop(true);
    command.envs(settings.iter().map(|(name, value)| (name, value)));
    if let Some(database) = &options.database {
        command.env("MUSTER_DATABASE_URL", database);
    }
    if let Some(bus) = &options.bus {
        command.env("MUSTER_BUS_URL", bus);
    }
    command
}

impl Server {
    /// Starts one with an administrator.
    pub(crate) async fn start(options: &ServerOptions) -> Result<Self, Failure> {
        Self::start_with(options, &[]).await
    }

    /// Starts one with an administrator and with settings in its environment.
    pub(crate) async fn start_with(
        options: &ServerOptions,
        settings: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let settings: Vec<(String, String)> = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut create = command(options, &settings, folder.path());
        create
            .args(["admin", "create-user", "--email", EMAIL])
            .env("MUSTER_PASSWORD", PASSWORD);
        let binary = options.server_binary.display();
        let created = create
            .output()
            .await
            .map_err(|error| format!("start {binary}: {error}"))?;
        if !created.status.success() {
            return Err(format!(
                "make an administrator: {}",
                String::from_utf8_lossy(&created.stderr)
            )
            .into());
        }
        Self::serve(options.clone(), settings, folder).await
    }

    async fn serve(
        options: ServerOptions,
        settings: Vec<(String, String)>,
        folder: tempfile::TempDir,
    ) -> Result<Self, Failure> {
        let mut child = command(&options, &settings, folder.path())
            .arg("serve")
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the server has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let greeting = async {
            while let Some(line) = lines.next_line().await? {
                if let Some((_, address)) = line.split_once(" listens on ") {
                    return Ok::<_, Failure>(address.trim().parse::<SocketAddr>()?);
                }
            }
            Err("the server ended before it listened".into())
        };
        let address = tokio::time::timeout(START_TIME, greeting).await??;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let authority_pem = std::fs::read_to_string(folder.path().join("data/tls/ca.pem"))?;
        Ok(Self {
            child,
            address,
            authority_pem,
            folder,
            options,
            settings,
        })
    }

    /// Ends it at once and starts it again.
    pub(crate) async fn restart(mut self) -> Result<Self, Failure> {
        self.child.kill().await?;
        Self::serve(self.options, self.settings, self.folder).await
    }

    /// Logs in.
    pub(crate) async fn operator(&self) -> Result<Operator, Failure> {
        Operator::log_in(self.address, &self.authority_pem).await
    }

    /// What the server used so far, as the kernel counts it.
    pub(crate) fn cost(&self) -> Result<Cost, Failure> {
        let pid = self.child.id().ok_or("the server ended")?;
        cost_of(pid, &self.options.count)
    }

    /// Ends the server as an operator would.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()))
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await??;
        drop(self.folder);
        if ended.success() {
            Ok(())
        } else {
            Err(format!("the server ended with {ended}").into())
        }
    }
}

/// What a process used so far, and what else is counted.
pub(crate) fn cost_of(pid: u32, count: &[String]) -> Result<Cost, Failure> {
    let mut cost = Cost {
        cpu_seconds: cpu_seconds(pid)?,
        ..Cost::default()
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    cost.rss_bytes = bytes_after(&status, "VmRSS:");
    cost.peak_rss_bytes = bytes_after(&status, "VmHWM:");
    for other in counted(count)? {
        // It may have ended since.
        cost.counted_cpu_seconds += cpu_seconds(other).unwrap_or(0.0);
        let maps = std::fs::read_to_string(format!("/proc/{other}/smaps_rollup"));
        cost.counted_pss_bytes += bytes_after(&maps.unwrap_or_default(), "Pss:");
    }
    Ok(cost)
}

/// The processes that are named, and those whose number or whose parent's number is given.
fn counted(wanted: &[String]) -> Result<Vec<u32>, Failure> {
    let mut found = Vec::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    for entry in std::fs::read_dir("/proc")? {
        let number = entry?.file_name();
        let Some(number) = number.to_str().filter(|text| text.parse::<u32>().is_ok()) else {
            continue;
        };
        let status = std::fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
        let after = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| line.strip_prefix(name).map(str::trim))
        };
        let is_counted = wanted.iter().any(|wanted| {
            wanted == number || [after("Name:"), after("PPid:")].contains(&Some(wanted.as_str()))
        });
        if is_counted {
            found.extend(number.parse::<u32>());
        }
    }
    Ok(found)
}

/// What the kernel says after a name, in KiB.
fn bytes_after(text: &str, name: &str) -> u64 {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name));
    let kib = value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Processor time of a process, as the kernel counts it.
fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold spaces; what follows the last parenthesis does not.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    Ok((ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64)
}

/// An administrator who is logged in.
pub(crate) struct Operator {
    http: reqwest::Client,
    /// Scheme, name and port of the server.
    origin: String,
    token: String,
}

impl Operator {
    fn nobody(address: SocketAddr, authority_pem: &str) -> Result<Self, Failure> {
        let authority = reqwest::Certificate::from_pem(authority_pem.as_bytes())?;
        let http = reqwest::Client::builder()
            .tls_certs_only([authority])
            .build()?;
        Ok(Self {
            http,
            origin: format!("https://localhost:{}", address.port()),
            token: String::new(),
        })
    }

    async fn with_token_of(mut self, path: &str, body: &Value) -> Result<Self, Failure> {
        let answer = self.post(path, body).await?;
        answer["token"]
            .as_str()
            .ok_or("the answer has no token")?
            .clone_into(&mut self.token);
        Ok(self)
    }

    /// Logs in as the administrator that was made beside the server.
    async fn log_in(address: SocketAddr, authority_pem: &str) -> Result<Self, Failure> {
        let body = json!({ "email": EMAIL, "password": PASSWORD });
        let nobody = Self::nobody(address, authority_pem)?;
        nobody.with_token_of("/login", &body).await
    }

    /// Makes the first administrator by the setup link.
    #[cfg(test)]
    pub(crate) async fn set_up(
        address: SocketAddr,
        authority_pem: &str,
        link: &str,
    ) -> Result<Self, Failure> {
        let (_, token) = link
            .trim()
            .split_once("token=")
            .ok_or("the link has no token")?;
        let body = json!({ "token": token, "name": "Swarm", "email": EMAIL, "password": PASSWORD });
        let nobody = Self::nobody(address, authority_pem)?;
        nobody.with_token_of("/setup", &body).await
    }

    /// Sends something; gives the answer.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let url = format!("{}/api/muster{path}", self.origin);
        let request = self.http.post(url).json(body);
        let response = request.bearer_auth(&self.token).send().await?;
        Ok(response.error_for_status()?.json().await?)
    }

    /// Asks for something.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        Ok(self.open(path).await?.json().await?)
    }

    /// The answer, not read yet.
    pub(crate) async fn open(&self, path: &str) -> Result<reqwest::Response, Failure> {
        self.fetch(&format!("/api/muster{path}")).await
    }

    async fn fetch(&self, path: &str) -> Result<reqwest::Response, Failure> {
        let request = self.http.get(format!("{}{path}", self.origin));
        let response = request.bearer_auth(&self.token).send().await?;
        Ok(response.error_for_status()?)
    }

    /// The server's own figures, as a scraper reads them.
    pub(crate) async fn metrics(&self) -> Result<String, Failure> {
        Ok(self.fetch("/metrics").await?.text().await?)
    }

    /// Has every host run a query once a minute and log what it gives.
    pub(crate) async fn schedule(&self, number: u32) -> Result<(), Failure> {
        let query = json!({
            "name": format!("swarm {number}"), "query": "SELECT version FROM osquery_info",
            "interval": crate::fleet::SCHEDULE.as_secs(), "automations_enabled": true, "logging": "snapshot",
        });
        self.post("/queries", &query).await.map(drop)
    }

    /// Makes an enrollment token.
    pub(crate) async fn enrollment_secret(&self) -> Result<String, Failure> {
        self.token(&json!({ "name": "swarm" })).await
    }

    /// Makes an enrollment token for agents that speak OpAMP.
    pub(crate) async fn collector_token(&self) -> Result<String, Failure> {
        self.token(&json!({ "name": "swarm", "families": ["opamp"] }))
            .await
    }

    async fn token(&self, new: &Value) -> Result<String, Failure> {
        let made = self.post("/enrollment-tokens", new).await?;
        Ok(made["secret"]
            .as_str()
            .ok_or("the token has no secret")?
            .to_owned())
    }
}
