//! The agent against servers of earlier releases.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use muster_skew::{Release, Server};
use serde_json::{Value, json};

use crate::program;

/// How long what is waited for may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is killed when the value goes.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_earlier_releases_are_enrolled_with_and_answered() {
    for release in Release::all() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&release, &folder.path().join("data"));
        let authority = server.authority();
        let trusted = reqwest::Certificate::from_pem(&std::fs::read(&authority).unwrap()).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([trusted]);
        let http = http.build().unwrap();
        let call = async |method: &str, path: &str, session: &str, body: Value| -> Value {
            let url = format!("{}/api/muster{path}", server.url());
            let mut request = http.request(method.parse().unwrap(), url);
            if !session.is_empty() {
                request = request.bearer_auth(session);
            }
            if !body.is_null() {
                request = request.body(body.to_string());
            }
            let text = request.send().await.unwrap().text().await.unwrap();
            serde_json::from_str(&text).unwrap_or(Value::Null)
        };
        let body = json!({ "token": server.setup_token(), "name": "Ann", "email": "ann@example.com",
            "password": "correct horse 9" });
        let setup = call("POST", "/setup", "", body).await;
        let session = setup["token"].as_str().unwrap();
        let token = call(
            "POST",
            "/enrollment-tokens",
            session,
            json!({ "name": "all" }),
        )
        .await;
        let file = folder.path().join("token");
        std::fs::write(&file, token["secret"].as_str().unwrap()).unwrap();
        let mut agent = program();
        let agent = agent
            .args(["run", "--server", &server.url()])
            .arg("--enrollment-token-file")
            .arg(&file)
            .arg("--ca-file")
            .arg(&authority)
            .arg("--data-dir")
            .arg(folder.path().join("agent"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _agent = Process(agent.spawn().unwrap());
        let until = async |path: &str, wanted: &dyn Fn(&Value) -> bool| -> Value {
            let begun = Instant::now();
            loop {
                let seen = call("GET", path, session, Value::Null).await;
                if wanted(&seen) {
                    return seen;
                }
                assert!(begun.elapsed() < PATIENCE, "{path} stayed {seen}");
            }
        };
        let hosts = until("/hosts", &|hosts| {
            hosts["items"][0]["detail_updated_at"].is_string()
        });
        assert_eq!(
            hosts.await["total"],
            1,
            "orbit's API and osquery's are one host"
        );
        let question = json!({ "query": "SELECT name FROM processes WHERE pid = 1", "target": { "all": true } });
        let campaign = call("POST", "/campaigns", session, question).await;
        let path = format!("/campaigns/{}/results", campaign["id"]);
        let rows = until(&path, &|answers| answers["items"][0]["rows"].is_array()).await;
        let name = std::fs::read_to_string("/proc/1/comm").unwrap();
        assert_eq!(rows["items"][0]["rows"], json!([{ "name": name.trim() }]));
    }
}
