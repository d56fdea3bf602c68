//! How each client is told where the server is, what to show it and whom to trust.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::Failure;
use crate::cases::{Carrier, Case, Kind};
use crate::server::Bench;

/// What clients that can be told a version say that they are.
pub(crate) const VERSION: &str = "1.2.3";
/// The version of the collector, as its manifest says.
const COLLECTOR_VERSION: &str = "0.158.0-peer";
/// The release of the client in Rust, which names itself.
const RUST_VERSION: &str = "0.0.14";

/// Where a client finds its server.
pub(crate) struct Target<'a> {
    pub(crate) port: u16,
    pub(crate) secret: &'a str,
    pub(crate) authority: &'a Path,
}

/// What a client has to be listed with.
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) version: &'static str,
    /// An attribute that does not identify, and its value.
    pub(crate) attribute: (&'static str, String),
}

/// What an attribute of clients that can be told one is called.
const MARK: &str = "peer.case";

/// Who the client is.
pub(crate) fn identity(case: &Case, letter: char) -> Identity {
    let attribute = match case.kind {
        Kind::Rust => ("os.type", "linux".to_owned()),
        _ => (MARK, case.slug()),
    };
    let version = match case.kind {
        Kind::Supervisor { .. } | Kind::Extension { .. } => COLLECTOR_VERSION,
        Kind::Rust => RUST_VERSION,
        _ => VERSION,
    };
    Identity {
        name: format!("peer-{letter}"),
        version,
        attribute,
    }
}

/// The command that starts it, with its own files in a folder.
pub(crate) fn command(
    case: &Case,
    bench: &Bench,
    letter: char,
    target: &Target<'_>,
    folder: &Path,
) -> Result<Command, Failure> {
    let programs = bench.peer(case.program())?;
    let who = identity(case, letter);
    let url = format!(
        "{}://localhost:{}/v1/opamp",
        case.kind.carrier().scheme(),
        target.port
    );
    let header = format!("Authorization: Bearer {}", target.secret);
    let with_flags = |mut command: Command, dashes: &str| {
        let pairs = [
            ("url", url.clone()),
            ("header", header.clone()),
            ("identifying", format!("service.name={}", who.name)),
            ("identifying", format!("service.version={}", who.version)),
            ("other", format!("{}={}", who.attribute.0, who.attribute.1)),
        ];
        for (flag, value) in pairs {
            command.arg(format!("{dashes}{flag}")).arg(value);
        }
        command.arg(format!("{dashes}ca")).arg(target.authority);
        command
    };
    let mut command = match case.kind {
        Kind::OpampGo { bits, .. } => {
            let mut command = with_flags(Command::new(programs.join("opamp-agent")), "-");
            command.arg(format!("-capabilities={bits}"));
            command.arg("-state").arg(folder.join("state.json"));
            // Over HTTP the oldest releases trust whom the system trusts, whatever they are told.
            command.env("SSL_CERT_FILE", target.authority);
            command
        }
        Kind::Python => {
            let mut python = Command::new(programs.join("venv/bin/python"));
            python.arg(programs.join("agent.py"));
            with_flags(python, "--")
        }
        Kind::Node => {
            let mut node = Command::new("node");
            node.arg(programs.join("agent.js"));
            with_flags(node, "--")
        }
        Kind::Rust => {
            let mut command = Command::new(programs.join("opamp-agent-rs"));
            command.args(["--url", &url, "--key", target.secret, "--name", &who.name]);
            command.env("SSL_CERT_FILE", target.authority);
            command
        }
        Kind::Supervisor { .. } => {
            let collector = bench.peer("collector")?.join("otelcol-peer");
            let text = supervisor(&url, target, &who, &collector, folder);
            let path = folder.join("supervisor.yaml");
            fs::write(&path, text)?;
            let mut command = Command::new(programs.join("opampsupervisor"));
            command.arg("--config").arg(path);
            command
        }
        Kind::Extension { carrier } => {
            let path = folder.join("collector.yaml");
            fs::write(&path, extension(carrier, &url, target, &who))?;
            let mut command = Command::new(programs.join("otelcol-peer"));
            command.arg("--config").arg(path);
            command
        }
    };
    command.current_dir(folder);
    Ok(command)
}

/// A text as YAML, which takes JSON's.
fn quoted(text: impl Into<PathBuf>) -> String {
    serde_json::Value::from(text.into().to_string_lossy().into_owned()).to_string()
}

fn supervisor(
    url: &str,
    target: &Target<'_>,
    who: &Identity,
    collector: &Path,
    folder: &Path,
) -> String {
    format!(
        "server:
  endpoint: {url}
  headers: {{Authorization: {bearer}}}
  tls: {{ca_file: {authority}}}
capabilities:
  accepts_remote_config: true
  accepts_restart_command: true
  accepts_opamp_connection_settings: true
  reports_remote_config: true
  reports_available_components: true
  reports_own_metrics: false
storage: {{directory: {storage}}}
agent:
  executable: {collector}
  args: ['--set=service::telemetry::metrics::level=none']
  description:
    identifying_attributes: {{service.name: {name}}}
    non_identifying_attributes: {{{mark}: {case}}}
telemetry:
  logs: {{level: debug, output_paths: [stderr]}}
",
        bearer = quoted(format!("Bearer {}", target.secret)),
        authority = quoted(target.authority),
        storage = quoted(folder.join("storage")),
        collector = quoted(collector),
        name = who.name,
        mark = who.attribute.0,
        case = who.attribute.1,
    )
}

fn extension(carrier: Carrier, url: &str, target: &Target<'_>, who: &Identity) -> String {
    let over = match carrier {
        Carrier::WebSocket => "ws",
        Carrier::Http => "http",
    };
    format!(
        "receivers: {{nop: {{}}}}
exporters: {{nop: {{}}}}
extensions:
  opamp:
    server:
      {over}:
        endpoint: {url}
        headers: {{Authorization: {bearer}}}
        tls: {{ca_file: {authority}}}
    agent_description:
      non_identifying_attributes: {{{mark}: {case}}}
service:
  extensions: [opamp]
  telemetry:
    metrics: {{level: none}}
    resource: {{service.name: {name}}}
  pipelines: {{logs: {{receivers: [nop], exporters: [nop]}}}}
",
        bearer = quoted(format!("Bearer {}", target.secret)),
        authority = quoted(target.authority),
        mark = who.attribute.0,
        case = who.attribute.1,
        name = who.name,
    )
}
