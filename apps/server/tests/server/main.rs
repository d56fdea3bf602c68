//! The server as a whole, over real connections.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod access_keys;
mod agents;
mod backup;
mod browser;
mod capabilities;
mod chaos;
mod collectors;
mod crash;
mod device;
mod doctor;
mod draining;
mod enrollment;
mod faults;
mod fleet;
mod ingress;
mod metrics;
mod monitoring;
mod people;
mod prefix;
mod process;
mod program;
mod replicas;
mod serving;
mod site;
mod skew;
mod slow;
mod stopped;
mod teams;

use std::path::Path;

use muster_server::config::{Layered, Settings};
use muster_server::start::{Ambient, Running, start};
use serde_json::Value;

/// What one server of a database does for all.
const LEASES: [&str; 7] = [
    "collectors.configurations",
    "collectors.expiry",
    "collectors.upkeep",
    "hosts.expiry",
    "hosts.upkeep",
    "identity.upkeep",
    "queries.upkeep",
];

/// The names of the leases that servers hold, in order.
fn leases(listed: &Value) -> Vec<&str> {
    let servers = listed["items"].as_array().unwrap();
    let held = servers
        .iter()
        .flat_map(|server| server["leases"].as_array().unwrap());
    let mut names: Vec<&str> = held.map(|lease| lease.as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

/// Settings of a server on a free port of loopback, with more keys set.
fn settings(data_dir: &Path, more: &[(&str, &str)]) -> Settings {
    let mut flags = vec![
        ("data_dir".to_owned(), data_dir.to_str().unwrap().to_owned()),
        ("listen".to_owned(), "127.0.0.1:0".to_owned()),
    ];
    flags.extend(
        more.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    let layers = Layered::resolve(&flags, &Vec::new(), None).unwrap();
    Settings::from_layers(&layers).unwrap()
}

/// A running server.
async fn running(data_dir: &Path, more: &[(&str, &str)]) -> Running {
    start(settings(data_dir, more), Ambient::default())
        .await
        .unwrap()
}

/// A client that trusts the server's own authority.
fn client(server: &Running) -> reqwest::Client {
    let authority = server.authority_pem.as_deref().unwrap();
    let certificate = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
    reqwest::Client::builder()
        .tls_certs_only([certificate])
        .build()
        .unwrap()
}

fn url(server: &Running, path: &str) -> String {
    format!("https://localhost:{}{path}", server.address.port())
}

async fn json(response: reqwest::Response) -> serde_json::Value {
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}
