//! The server under load: started, asked for its cost, and ended.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::Failure;
use crate::measure::Cost;

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
}

fn command(binary: &Path, folder: &Path, database: Option<&str>) -> Command {
    let mut command = Command::new(binary);
    command
        .env("MUSTER_DATA_DIR", folder.join("data"))
        .env("MUSTER_LISTEN", "127.0.0.1:0");
    command.env("MUSTER_LOG_LEVEL", "warn").kill_on_drop(true);
    if let Some(database) = database {
        command.env("MUSTER_DATABASE_URL", database);
    }
    command
}

impl Server {
    pub(crate) async fn start(binary: &Path, database: Option<&str>) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let mut create = command(binary, folder.path(), database);
        create
            .args(["admin", "create-user", "--email", EMAIL])
            .env("MUSTER_PASSWORD", PASSWORD);
        let created = create
            .output()
            .await
            .map_err(|error| format!("start {}: {error}", binary.display()))?;
        if !created.status.success() {
            return Err(format!(
                "make an administrator: {}",
                String::from_utf8_lossy(&created.stderr)
            )
            .into());
        }
        let mut child = command(binary, folder.path(), database)
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
        })
    }

    /// Logs in and makes an enrollment token.
    pub(crate) async fn enrollment_secret(&self) -> Result<String, Failure> {
        let authority = reqwest::Certificate::from_pem(self.authority_pem.as_bytes())?;
        let http = reqwest::Client::builder()
            .tls_certs_only([authority])
            .build()?;
        let url =
            |path: &str| format!("https://localhost:{}/api/muster{path}", self.address.port());
        let body = json!({ "email": EMAIL, "password": PASSWORD });
        let login: serde_json::Value = http
            .post(url("/login"))
            .json(&body)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        let token = login["token"].as_str().ok_or("the login gave no token")?;
        let body = json!({ "name": "swarm" });
        let made = http
            .post(url("/enrollment-tokens"))
            .bearer_auth(token)
            .json(&body)
            .send()
            .await?;
        let made: serde_json::Value = made.error_for_status()?.json().await?;
        Ok(made["secret"]
            .as_str()
            .ok_or("the token has no secret")?
            .to_owned())
    }

    /// What the server used so far, as the kernel counts it.
    pub(crate) fn cost(&self) -> Result<Cost, Failure> {
        let pid = self.child.id().ok_or("the server ended")?;
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
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap_or("0");
        let kib: u64 = rss
            .split_whitespace()
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok(Cost {
            cpu_seconds: (ticks(11) + ticks(12)) / per_second,
            rss_bytes: kib * 1024,
        })
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
