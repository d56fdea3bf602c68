//! One simulated host.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use muster_clock::{Randomness as _, SeededRandomness};
use muster_wire_osquery::{DistributedResult, DistributedWrite, ReadAnswer, Row};
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use crate::Failure;
use crate::connection::Connection;
use crate::measure::Measures;

/// How often a host asks for distributed queries.
const DISTRIBUTED: Duration = Duration::from_secs(10);
/// How often a host asks for its configuration.
const CONFIG: Duration = Duration::from_secs(60);
/// How often a host sends logs.
const LOG: Duration = Duration::from_secs(10);
/// A request that takes longer has failed.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// How many packages a host has.
const PACKAGES: u32 = 40;

/// The server that hosts talk to.
pub(crate) struct Target {
    address: SocketAddr,
    tls: TlsConnector,
    secret: String,
    is_reconnecting: bool,
}

impl Target {
    pub(crate) fn new(
        address: SocketAddr,
        authority_pem: &str,
        secret: String,
    ) -> Result<Self, Failure> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls_pki_types::CertificateDer::from_pem_slice(
            authority_pem.as_bytes(),
        )?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Each host is a machine of its own: none has the ticket of another.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            address,
            tls: TlsConnector::from(Arc::new(config)),
            secret,
            is_reconnecting: false,
        })
    }

    /// Whether hosts open a new connection every 10 s.
    pub(crate) fn reconnecting(mut self, is_reconnecting: bool) -> Self {
        self.is_reconnecting = is_reconnecting;
        self
    }

    /// Hosts offer HTTP/2.
    pub(crate) fn with_http2(mut self) -> Self {
        let mut config = rustls::ClientConfig::clone(self.tls.config());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        self.tls = TlsConnector::from(Arc::new(config));
        self
    }

    /// The enrollment token.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// The port of the server.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// A new connection.
    pub(crate) async fn stream(
        &self,
    ) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, std::io::Error> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = rustls_pki_types::ServerName::try_from("localhost")
            .map_err(|error| std::io::Error::other(error.to_string()))?;
        self.tls.connect(name, stream).await
    }
}

pub(crate) struct Host {
    name: String,
    uuid: String,
    number: u32,
    target: Arc<Target>,
    measures: Arc<Measures>,
    randomness: SeededRandomness,
    connection: Option<Connection>,
    node_key: String,
    etag: String,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("{0}: {1}")]
    Status(StatusCode, String),
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("no answer within {REQUEST_TIME:?}")]
    Late,
}

impl Host {
    pub(crate) fn new(
        number: u32,
        seed: u64,
        target: Arc<Target>,
        measures: Arc<Measures>,
    ) -> Self {
        let randomness =
            SeededRandomness::new(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number)));
        let uuid = uuid(&randomness);
        Self {
            name: format!("swarm-{number:06}"),
            uuid,
            number,
            target,
            measures,
            randomness,
            connection: None,
            node_key: String::new(),
            etag: String::new(),
        }
    }

    /// Enrolls after a while, and then lives until it is told to stop.
    pub(crate) async fn live(mut self, delay: Duration, mut stop: watch::Receiver<bool>) {
        tokio::time::sleep(delay).await;
        if let Err(error) = self.enroll().await {
            self.measures.failed(&format!("enroll: {error}"));
            return;
        }
        self.measures.enrolled();
        let phase =
            |span: Duration| Duration::from_millis(self.randomness.below(span.as_millis() as u64));
        let start = tokio::time::Instant::now();
        let mut distributed = start + phase(DISTRIBUTED);
        let mut config = start;
        let mut log = start + phase(LOG);
        loop {
            let next = distributed.min(config).min(log);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let done = if next == config {
                config += CONFIG;
                self.config().await
            } else if next == log {
                log += LOG;
                self.log().await
            } else {
                distributed += DISTRIBUTED;
                if self.target.is_reconnecting {
                    self.connection = None;
                }
                self.distributed().await
            };
            if *stop.borrow() {
                return;
            }
            if let Err(error) = done {
                self.measures.failed(&error.to_string());
                self.connection = None;
            }
        }
    }

    /// What every host asks for in so many seconds, each with one request.
    pub(crate) fn requests_in(seconds: u64) -> f64 {
        [DISTRIBUTED, CONFIG, LOG]
            .map(|interval| seconds as f64 / interval.as_secs_f64())
            .iter()
            .sum()
    }

    async fn call(&mut self, path: &str, body: Vec<u8>) -> Result<Bytes, CallError> {
        let request = Request::post(format!("https://localhost{path}"))
            .header("content-type", "application/json")
            .header("user-agent", "osquery/5.11.0")
            .body(Full::new(Bytes::from(body)))?;
        self.send(request).await
    }

    /// Sends a request over the connection that there is, or a new one; gives the body of a success.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Bytes, CallError> {
        let answered = tokio::time::timeout(REQUEST_TIME, self.send_for_ever(request)).await;
        answered.unwrap_or_else(|_| {
            self.connection = None;
            Err(CallError::Late)
        })
    }

    async fn send_for_ever(&mut self, request: Request<Full<Bytes>>) -> Result<Bytes, CallError> {
        let start = Instant::now();
        let path = request.uri().path().to_owned();
        let usable = self.connection.take().filter(|open| !open.is_closed());
        let mut connection = match usable {
            Some(connection) => connection,
            None => Connection::over(self.target.stream().await?).await?,
        };
        let (status, bytes) = connection.send(request).await?;
        self.connection = Some(connection);
        if status != StatusCode::OK {
            return Err(CallError::Status(
                status,
                format!("{path}: {}", String::from_utf8_lossy(&bytes)),
            ));
        }
        self.measures.answered(start.elapsed());
        Ok(bytes)
    }

    /// Lets go of its connection: the next request makes a new one.
    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Enrolls and lets go of its connection.
    pub(crate) async fn enroll_only(mut self) -> Result<Self, String> {
        let enrolled = self.enroll().await;
        self.connection = None;
        enrolled.map_err(|error| error.to_string())?;
        self.measures.enrolled();
        Ok(self)
    }

    /// The same host at another address.
    pub(crate) fn moved_to(mut self, target: Arc<Target>) -> Self {
        self.target = target;
        self.connection = None;
        self
    }

    /// One check-in.
    pub(crate) async fn check_in(&mut self) -> Result<(), String> {
        self.distributed().await.map_err(|error| error.to_string())
    }

    /// Enrolls as orbit does, too; gives the key.
    pub(crate) async fn enroll_orbit(&mut self) -> Result<String, String> {
        let body = json!({
            "enroll_secret": self.target.secret, "hardware_uuid": self.uuid, "hardware_serial": format!("S{}", self.number),
            "hostname": self.name, "platform": "debian",
        });
        let answer = self
            .call("/api/fleet/orbit/enroll", body.to_string().into_bytes())
            .await;
        let answer = answer.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        Ok(answer["orbit_node_key"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// The server that it talks to.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn measures(&self) -> &Measures {
        &self.measures
    }

    pub(crate) fn randomness(&self) -> &SeededRandomness {
        &self.randomness
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn uuid(&self) -> &str {
        &self.uuid
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn node_key(&self) -> &str {
        &self.node_key
    }

    pub(crate) fn set_node_key(&mut self, key: &str) {
        key.clone_into(&mut self.node_key);
    }

    /// A random UUID (version 4).
    pub(crate) fn new_uuid(&self) -> String {
        uuid(&self.randomness)
    }

    async fn enroll(&mut self) -> Result<(), CallError> {
        let details = json!({
            "os_version": { "name": "Debian GNU/Linux", "version": "12 (bookworm)", "platform": "debian", "major": "12" },
            "osquery_info": { "version": "5.11.0", "uuid": self.uuid, "instance_id": self.uuid },
            "system_info": { "hostname": self.name, "uuid": self.uuid, "hardware_serial": format!("S{}", self.number) },
        });
        let body = json!({
            "enroll_secret": self.target.secret, "host_identifier": self.uuid, "host_details": details,
        });
        let answer = self
            .call("/api/osquery/enroll", body.to_string().into_bytes())
            .await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        answer["node_key"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut self.node_key);
        Ok(())
    }

    async fn config(&mut self) -> Result<(), CallError> {
        let body = json!({ "node_key": self.node_key, "etag": self.etag });
        let answer = self
            .call("/api/osquery/config", body.to_string().into_bytes())
            .await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        if let Some(etag) = answer["etag"].as_str().filter(|etag| *etag != "ok") {
            etag.clone_into(&mut self.etag);
        }
        Ok(())
    }

    async fn log(&mut self) -> Result<(), CallError> {
        let entry = json!({
            "name": "pack/Global/swarm", "hostIdentifier": self.uuid, "action": "snapshot", "numerics": false,
            "snapshot": [{ "name": self.name, "value": self.number.to_string() }], "unixTime": 1_795_392_000,
        });
        let body = json!({ "node_key": self.node_key, "log_type": "result", "data": [entry] });
        self.call("/api/osquery/log", body.to_string().into_bytes())
            .await
            .map(drop)
    }

    async fn distributed(&mut self) -> Result<(), CallError> {
        let body = json!({ "node_key": self.node_key })
            .to_string()
            .into_bytes();
        let answer = self.call("/api/osquery/distributed/read", body).await?;
        let answer: ReadAnswer = serde_json::from_slice(&answer)?;
        if answer.queries.is_empty() {
            return Ok(());
        }
        let results: Vec<DistributedResult> = answer
            .queries
            .into_iter()
            .map(|(name, _)| self.answer(name))
            .collect();
        let body = serde_json::to_vec(&DistributedWrite {
            node_key: &self.node_key,
            results: &results,
        })?;
        self.call("/api/osquery/distributed/write", body)
            .await
            .map(drop)
    }

    /// Plausible rows for details and labels; one row for anything else.
    fn answer(&self, name: String) -> DistributedResult {
        let row = |cells: &[(&str, &str)]| cells.iter().copied().collect::<Row>();
        let detail = name.strip_prefix("fleet_detail_query_").unwrap_or_default();
        let rows = match detail {
            "os_version" => vec![row(&[
                ("name", "Debian GNU/Linux"),
                ("version", "12 (bookworm)"),
                ("platform", "debian"),
                ("platform_like", "debian"),
                ("major", "12"),
            ])],
            "osquery_info" => vec![row(&[("version", "5.11.0")])],
            "system_info" => vec![row(&[
                ("hostname", &self.name),
                ("computer_name", &self.name),
                ("uuid", &self.uuid),
                ("hardware_serial", &format!("S{}", self.number)),
                ("cpu_brand", "Simulated"),
                ("physical_memory", "8589934592"),
            ])],
            "uptime" => vec![row(&[("total_seconds", "100000"), ("days", "1")])],
            detail if detail.starts_with("network_interface") => vec![row(&[
                (
                    "address",
                    &format!("10.{}.{}.7", self.number / 256 % 256, self.number % 256),
                ),
                ("mac", "02:00:00:00:00:01"),
            ])],
            detail if detail.starts_with("software") => (0..PACKAGES)
                .map(|number| {
                    let version = format!("1.{}", (number + self.number) % 3);
                    row(&[
                        ("name", &format!("package-{number}")),
                        ("version", &version),
                        ("source", "deb_packages"),
                    ])
                })
                .collect(),
            "users" => vec![row(&[
                ("uid", "1000"),
                ("username", "user"),
                ("groupname", "user"),
                ("shell", "/bin/sh"),
            ])],
            "" => vec![row(&[("1", "1")])],
            _ => Vec::new(),
        };
        DistributedResult {
            name,
            rows,
            ..DistributedResult::default()
        }
    }
}

/// A random UUID (version 4).
fn uuid(randomness: &SeededRandomness) -> String {
    let mut bytes = [0; 16];
    randomness.fill(&mut bytes);
    let hex = bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!(
        "{}-{}-4{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}
