//! Whether what operators install is accepted by the programs that will read it.
//!
//! Programs that are neither here nor in the distribution are built from the Go module proxy, where there is a Go compiler,
//! into the user's cache: they outlive `target`. What cannot be had is skipped and named.
//!
//! Not responsible for alerts and the dashboard: the server's tests read those, since they name its metrics.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::XtaskError;
use crate::process;
use crate::steps::Outcome;
use crate::workspace::{self, Workspace};

/// How exposed systemd may find the service at most, in tenths: 0 is nothing, 100 everything.
const MAX_EXPOSURE: &str = "20";
/// The release of Kubernetes that charts are rendered for.
const KUBERNETES: &str = "1.30.0";

/// A program that is built when it is not there.
struct Tool {
    /// What it is called when somebody installed it.
    name: &'static str,
    module: &'static str,
    version: &'static str,
}

const HELM: Tool = Tool {
    name: "helm",
    module: "helm.sh/helm/v3/cmd/helm",
    version: "v3.19.0",
};
/// Reads compose files by the library that `docker compose` reads them by.
const COMPOSE: Tool = Tool {
    name: "compose-go",
    module: "github.com/compose-spec/compose-go/v2/cmd",
    version: "v2.9.0",
};

impl Tool {
    /// The program, from the path, the cache, or built now; none when it cannot be had.
    fn find(&self) -> Option<PathBuf> {
        if let Some(program) = process::find_program(self.name) {
            return Some(program);
        }
        let folder = cache()?.join(format!("{}-{}", self.name, self.version));
        // Go names a program after the last part of its module.
        let program = folder.join(self.module.rsplit('/').next()?);
        if program.exists() {
            return Some(program);
        }
        process::find_program("go")?;
        println!("    building {} {}", self.name, self.version);
        let mut go = Command::new("go");
        go.args(["install", &format!("{}@{}", self.module, self.version)])
            .env("GOBIN", &folder)
            .env("GOFLAGS", "");
        process::capture(&mut go).ok()?;
        program.exists().then_some(program)
    }
}

/// `$MUSTER_CACHE`, else the user's cache.
fn cache() -> Option<PathBuf> {
    let named = std::env::var_os(workspace::CACHE_VARIABLE).map(PathBuf::from);
    named
        .map(|folder| folder.join("tools"))
        .or_else(workspace::user_cache)
}

pub(crate) fn check(workspace: &Workspace) -> Result<Outcome, XtaskError> {
    let deploy = workspace.root().join("deploy");
    let scratch = workspace.target().join("deploy");
    fs::create_dir_all(&scratch).map_err(XtaskError::file("make", &scratch))?;
    let mut missing = Vec::new();
    if process::find_program("systemd-analyze").is_some() {
        units(&deploy, &scratch)?;
    } else {
        missing.push("systemd-analyze");
    }
    if process::find_program("haproxy").is_some() && process::find_program("openssl").is_some() {
        balancer(&deploy, &scratch)?;
    } else {
        missing.push("haproxy");
    }
    match HELM.find() {
        Some(helm) => chart(&helm, workspace, &deploy)?,
        None => missing.push("helm"),
    }
    match COMPOSE.find() {
        Some(compose) => {
            let mut compose = Command::new(compose);
            compose
                .arg("-no-interpolation")
                .arg(deploy.join("compose/compose.yaml"));
            process::capture(&mut compose)?;
        }
        None => missing.push("compose-go"),
    }
    if let Some(hadolint) = process::find_program("hadolint") {
        let mut hadolint = Command::new(hadolint);
        process::run(hadolint.arg(deploy.join("docker/Dockerfile")))?;
    } else {
        missing.push("hadolint");
    }
    if missing.is_empty() {
        Ok(Outcome::Passed)
    } else {
        Ok(Outcome::Skipped(format!(
            "not to be had: {}; the rest passed",
            missing.join(", ")
        )))
    }
}

/// systemd reads the units. It starts nothing.
fn units(deploy: &Path, scratch: &Path) -> Result<(), XtaskError> {
    let folder = deploy.join("systemd");
    let entries = fs::read_dir(&folder).map_err(XtaskError::file("read", &folder))?;
    let mut units = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let text = fs::read_to_string(&path).map_err(XtaskError::file("read", &path))?;
        // It wants programs to be there.
        let text = text.replace("/usr/bin/muster-server", "/bin/true");
        let unit = scratch.join(entry.file_name());
        fs::write(&unit, text).map_err(XtaskError::file("write", &unit))?;
        units.push(unit);
    }
    // What it does not understand it only mentions.
    let mut verify = Command::new("sh");
    verify.args(["-c", "exec systemd-analyze verify \"$@\" 2>&1", "sh"]);
    let said = process::capture(verify.args(&units))?;
    let marks = scratch.to_string_lossy();
    if let Some(fault) = said.lines().find(|line| line.contains(&*marks)) {
        return Err(XtaskError::Unexpected {
            command: "systemd-analyze verify".to_owned(),
            what: fault.to_owned(),
        });
    }
    let services = units
        .iter()
        .filter(|unit| unit.extension().is_some_and(|ending| ending == "service"));
    for service in services {
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=yes", "--threshold", MAX_EXPOSURE]);
        process::capture(security.arg(service))?;
    }
    Ok(())
}

fn balancer(deploy: &Path, scratch: &Path) -> Result<(), XtaskError> {
    let (certificate, key) = (scratch.join("certificate.pem"), scratch.join("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    openssl.args(["-subj", "/CN=localhost", "-keyout"]);
    process::capture(openssl.arg(&key).arg("-out").arg(&certificate))?;
    let mut both = String::new();
    for path in [&certificate, &key] {
        both += &fs::read_to_string(path).map_err(XtaskError::file("read", path))?;
    }
    let pem = scratch.join("server.pem");
    fs::write(&pem, both).map_err(XtaskError::file("write", &pem))?;
    let mut haproxy = Command::new("haproxy");
    haproxy.env("MUSTER_TLS_PEM", &pem).args(["-c", "-q", "-f"]);
    process::capture(haproxy.arg(deploy.join("compose/haproxy.cfg"))).map(drop)
}

/// Sets of values that the chart must be rendered with, and what has to be in the result; none when it must be refused.
const RENDERINGS: &[(&[&str], Option<&[&str]>)] = &[
    (
        &[
            "publicUrl=https://m.example.com",
            "database.existingSecret=db",
        ],
        Some(&[
            "kind: StatefulSet",
            "kind: Secret",
            "kind: PodDisruptionBudget",
            "name: MUSTER_TLS_ENABLED",
        ]),
    ),
    (
        &[
            "publicUrl=https://m.example.com",
            "database.existingSecret=db",
            "bus.existingSecret=bus",
            "masterKey.existingSecret=key",
            "tls.existingSecret=certificate",
            "ingress.enabled=true",
            "ingress.tlsSecret=certificate",
            "serviceMonitor.enabled=true",
            "collectors.authoritiesSecret=signers",
            "environment.MUSTER_LOG_LEVEL=debug",
        ],
        Some(&[
            "name: MUSTER_TLS_CERTIFICATE",
            "name: MUSTER_BUS_URL",
            "secretName: key",
            "scheme: HTTPS",
            "kind: Ingress",
            "path: /api\n",
            "path: /v1/opamp\n",
            "path: /device\n",
            "path: /transparency\n",
            "value: /authorities/ca.crt",
            "secretName: signers",
            "kind: ServiceMonitor",
            "name: MUSTER_LOG_LEVEL",
        ]),
    ),
    (
        &["publicUrl=https://m.example.com", "replicas=1"],
        Some(&["replicas: 1"]),
    ),
    (&["database.existingSecret=db"], None),
    (&["publicUrl=https://m.example.com"], None),
];

fn chart(helm: &Path, workspace: &Workspace, deploy: &Path) -> Result<(), XtaskError> {
    let chart = deploy.join("helm/muster");
    let unexpected = |what: String| XtaskError::Unexpected {
        command: "helm template".to_owned(),
        what,
    };
    let manifest = workspace.root().join("Cargo.toml");
    let manifest = fs::read_to_string(&manifest).map_err(XtaskError::file("read", &manifest))?;
    let release = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = "))
        .unwrap_or_default();
    let about = chart.join("Chart.yaml");
    let about = fs::read_to_string(&about).map_err(XtaskError::file("read", &about))?;
    if !about.contains(&format!("appVersion: {release}\n")) {
        return Err(unexpected(format!(
            "Chart.yaml: appVersion is not {release}"
        )));
    }
    for (values, expected) in RENDERINGS {
        let with = |verb: &[&str]| {
            let mut command = Command::new(helm);
            command.args(verb).arg(&chart);
            for value in *values {
                command.args(["--set", value]);
            }
            command
        };
        let rendered = process::capture(&mut with(&[
            "template",
            "muster",
            "--kube-version",
            KUBERNETES,
        ]));
        match (rendered, expected) {
            (Err(_), None) => {}
            (Ok(_), None) => {
                return Err(unexpected(format!("{values:?} has to be refused")));
            }
            (Err(error), Some(_)) => return Err(error),
            (Ok(text), Some(expected)) => {
                if let Some(absent) = expected.iter().find(|line| !text.contains(**line)) {
                    return Err(unexpected(format!("{values:?} renders no {absent:?}")));
                }
                process::capture(&mut with(&["lint", "--strict", "--quiet"]))?;
            }
        }
    }
    Ok(())
}
