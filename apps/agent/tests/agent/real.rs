//! The agent against the real server, over TLS.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use muster_server::config::{Layered, Settings};
use muster_server::start::{Ambient, Running, start};
use serde_json::{Value, json};

use crate::program;

/// How long what is waited for may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    running: Running,
    http: reqwest::Client,
    session: String,
}

impl Site {
    async fn start(data_dir: &Path, port: u16) -> Self {
        let flags = [
            ("data_dir".to_owned(), data_dir.to_str().unwrap().to_owned()),
            ("listen".to_owned(), format!("127.0.0.1:{port}")),
        ];
        let layers = Layered::resolve(&flags, &Vec::new(), None).unwrap();
        let settings = Settings::from_layers(&layers).unwrap();
        let running = start(settings, Ambient::default()).await.unwrap();
        let authority = running.authority_pem.as_deref().unwrap();
        let certificate = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
        let http = reqwest::Client::builder()
            .tls_certs_only([certificate])
            .build()
            .unwrap();
        Self {
            running,
            http,
            session: String::new(),
        }
    }

    /// With a first administrator.
    async fn start_new(data_dir: &Path) -> Self {
        let mut site = Self::start(data_dir, 0).await;
        let link = site.running.setup_link.clone().unwrap();
        let token = link.split("token=").nth(1).unwrap();
        let body = json!({ "token": token, "name": "Ann", "email": "ann@example.com", "password": "correct horse 9" });
        let (status, answer) = site.call("POST", "/setup", body).await;
        assert_eq!(status, 200, "{answer}");
        answer["token"]
            .as_str()
            .unwrap()
            .clone_into(&mut site.session);
        site
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.running.address.port())
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}/api/muster{path}", self.url());
        let mut request = self.http.request(method.parse().unwrap(), url);
        if !self.session.is_empty() {
            request = request.bearer_auth(&self.session);
        }
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> Value {
        self.call("GET", path, Value::Null).await.1
    }

    /// Waits until something that is asked for over and over is as wanted.
    async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let done = tokio::time::timeout(PATIENCE, async {
            loop {
                last = self.get(path).await;
                if wanted(&last) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(done.is_ok(), "{path} stayed {last}");
        last
    }

    /// The rows that all hosts answer to a question.
    async fn ask(&self, sql: &str) -> Value {
        let question = json!({ "query": sql, "target": { "all": true } });
        let (status, campaign) = self.call("POST", "/campaigns", question).await;
        assert_eq!(status, 201, "{campaign}");
        let path = format!("/campaigns/{}/results", campaign["id"]);
        let answers = self.until(&path, |answers| answers["items"][0]["rows"].is_array());
        answers.await["items"][0]["rows"].clone()
    }
}

/// An agent that is ended when the value goes.
struct Agent(Child);

impl Agent {
    fn start(server: &str, folder: &Path, authority: &Path) -> Self {
        let child = program()
            .args(["run", "--server", server])
            .arg("--enrollment-token-file")
            .arg(folder.join("token"))
            .arg("--ca-file")
            .arg(authority)
            .arg("--data-dir")
            .arg(folder.join("agent"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server with an agent of this machine.
async fn with_agent(folder: &Path) -> (Site, Agent, PathBuf) {
    let site = Site::start_new(&folder.join("server")).await;
    let (_, token) = site
        .call("POST", "/enrollment-tokens", json!({ "name": "all" }))
        .await;
    std::fs::write(folder.join("token"), token["secret"].as_str().unwrap()).unwrap();
    let authority = folder.join("trusted.pem");
    std::fs::copy(folder.join("server/tls/ca.pem"), &authority).unwrap();
    let agent = Agent::start(&site.url(), folder, &authority);
    site.until("/hosts", |hosts| hosts["items"][0]["seen_at"].is_string())
        .await;
    (site, agent, authority)
}

#[tokio::test(flavor = "multi_thread")]
async fn this_machine_is_one_host_and_answers_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (site, _agent, _) = with_agent(folder.path()).await;
    let rows = site.ask("SELECT name FROM processes WHERE pid = 1").await;
    let name = std::fs::read_to_string("/proc/1/comm").unwrap();
    assert_eq!(rows, json!([{ "name": name.trim() }]));
    let hosts = site
        .until("/hosts", |hosts| {
            hosts["items"][0]["detail_updated_at"].is_string()
        })
        .await;
    assert_eq!(hosts["total"], 1, "orbit's API and osquery's are one host");
    let host = site
        .get(&format!("/hosts/{}", hosts["items"][0]["id"]))
        .await;
    assert_eq!(host["keys"].as_array().unwrap().len(), 2, "{host}");
    assert_eq!(host["capabilities"][0]["process"], "muster-agent");
    assert_eq!(
        host["hostname"],
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap()
            .trim()
    );
    site.running.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_with_another_authority_is_trusted_once_the_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (site, _agent, authority) = with_agent(folder.path()).await;
    let port = site.running.address.port();
    let session = site.session.clone();
    site.running.shut_down().await;
    let data_dir = folder.path().join("server");
    std::fs::remove_dir_all(data_dir.join("tls")).unwrap();
    let mut site = Site::start(&data_dir, port).await;
    site.session = session;
    std::fs::copy(data_dir.join("tls/ca.pem"), &authority).unwrap();
    assert_eq!(
        site.ask("SELECT 7 AS seven").await,
        json!([{ "seven": "7" }])
    );
    let host = site.get("/hosts/1").await;
    assert_eq!(
        host["keys"].as_array().unwrap().len(),
        2,
        "it kept its keys: {host}"
    );
    site.running.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_host_enrolls_again_with_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let (site, _agent, _) = with_agent(folder.path()).await;
    assert_eq!(site.call("DELETE", "/hosts/1", Value::Null).await.0, 204);
    let again = |hosts: &Value| hosts["total"] == 1 && hosts["items"][0]["id"] != 1;
    site.until("/hosts", again).await;
    assert_eq!(
        site.ask("SELECT 7 AS seven").await,
        json!([{ "seven": "7" }])
    );
    site.running.shut_down().await;
}
