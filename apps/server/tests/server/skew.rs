//! Servers of earlier releases and this one on one database, and earlier releases' programs with this server.
//!
//! An earlier release hears nothing from other servers: what changed at this one it finds when it looks, within the times
//! that `docs/operations.md` promises. Waiting for that makes these tests take most of a minute.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use muster_skew::Release;
use muster_store::Dialect;
use muster_store::testing::TestDatabase;
use serde_json::{Value, json};

use crate::program::{Program, command, folder, plain};
use crate::site::{PASSWORD, Site};

/// How long what one server wrote may take to be found by the other.
const PATIENCE: Duration = Duration::from_secs(90);

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "this never came about: {what}");
        // As often as a host that is asked live: what is waited for takes half a minute.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A server of an earlier release without TLS, on a database.
fn earlier(release: &Release, data_dir: &Path, database: &str) -> Program {
    let mut command = release.command("muster-server");
    command
        .env("MUSTER_DATA_DIR", data_dir)
        .env("MUSTER_LISTEN", "127.0.0.1:0")
        .env("MUSTER_TLS_ENABLED", "false")
        .env("MUSTER_DATABASE_URL", database);
    Program::start(&mut command)
}

fn ended(program: Program) {
    program.terminate();
    assert!(program.wait().success());
}

/// The same installation, asked at another server.
fn at(site: &Site, program: &Program) -> Site {
    Site {
        base: program.base(),
        ..site.clone()
    }
}

/// What a server tells agents that it can do, sorted.
async fn told(site: &Site, program: &Program) -> Vec<String> {
    let ping = at(site, program).get("/api/fleet/orbit/ping").await;
    let told = ping.header("x-fleet-capabilities").unwrap_or_default();
    let mut told: Vec<String> = told.split(',').map(str::to_owned).collect();
    told.sort();
    told
}

/// What operators and agents have of an installation, which every server of it has to know.
struct Fleet {
    site: Site,
    api_token: String,
    secret: String,
    /// Node keys of osquery.
    hosts: Vec<String>,
    orbit: String,
}

impl Fleet {
    /// Makes one of each at a server.
    async fn found(program: &Program) -> Self {
        let http = reqwest::Client::new();
        let site = Site::set_up(http, program.base(), program.setup_link()).await;
        for (path, body) in [
            ("teams", json!({ "name": "Servers" })),
            (
                "users",
                json!({ "name": "Bo", "email": "bo@example.com", "password": PASSWORD, "global_role": "observer" }),
            ),
            ("labels", json!({ "name": "Pilot", "hosts": [] })),
            ("queries", json!({ "name": "up", "query": "SELECT 1" })),
        ] {
            let made = site.post(&format!("/api/muster/{path}"), &body).await;
            assert_eq!(made.status, 201, "{path}: {made:?}");
        }
        let me = site.get("/api/muster/me").await.body["id"].clone();
        let me = if me.is_null() { json!(1) } else { me };
        let path = format!("/api/muster/users/{me}/api-tokens");
        let token = site.post(&path, &json!({ "name": "ci" })).await;
        assert_eq!(token.status, 201, "{token:?}");
        let secret = site.secret("all").await;
        let mut fleet = Self {
            api_token: token.body["secret"].as_str().unwrap().to_owned(),
            hosts: Vec::new(),
            orbit: orbit(&site, &secret, "orbit").await,
            secret,
            site,
        };
        fleet.hosts.push(fleet.enroll(program, "old-0").await);
        fleet.hosts.push(fleet.enroll(program, "old-1").await);
        fleet
    }

    async fn enroll(&self, program: &Program, name: &str) -> String {
        let site = at(&self.site, program);
        let key = site.enroll(&self.secret, name).await;
        site.asked(&key).await;
        key
    }

    /// Waits until a server knows the enrollment token, which takes two seconds: it answers strangers from memory for so long.
    async fn until_known(&self, program: &Program) {
        let site = at(&self.site, program);
        let body = json!({ "enroll_secret": self.secret, "host_identifier": "" });
        until("the token is known", async || {
            let answer = site.agent("/api/osquery/enroll", &body).await;
            answer.body["error"] == "enroll failed: missing host identifier"
        })
        .await;
    }

    /// Every session, token and key is good at a server.
    async fn check(&self, program: &Program) {
        let site = at(&self.site, program);
        for session in [&self.site.session, &self.api_token] {
            let me = site.with_session(session).get("/api/muster/me").await;
            assert_eq!(me.status, 200, "{me:?}");
        }
        let login = json!({ "email": "bo@example.com", "password": PASSWORD });
        let login = site.agent("/api/muster/login", &login).await;
        assert_eq!(login.status, 200, "{login:?}");
        for key in &self.hosts {
            site.asked(key).await;
            let config = json!({ "node_key": key });
            let config = site.agent("/api/osquery/config", &config).await;
            assert_eq!(config.status, 200, "{config:?}");
            assert_eq!(site.log(key, "event").await.status, 200);
        }
        let config = json!({ "orbit_node_key": self.orbit });
        let config = site.agent("/api/fleet/orbit/config", &config).await;
        assert_eq!(config.status, 200, "{config:?}");
        let hosts = site.get("/api/muster/hosts").await;
        let (seen, there) = (&hosts.body["total"], self.hosts.len() + 1);
        assert_eq!(*seen, there, "no host was lost or doubled: {hosts:?}");
    }
}

/// The key of an orbit.
async fn orbit(site: &Site, secret: &str, uuid: &str) -> String {
    let body = json!({ "enroll_secret": secret, "hardware_uuid": uuid, "hostname": uuid, "platform": "ubuntu" });
    let answer = site.agent("/api/fleet/orbit/enroll", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["orbit_node_key"].as_str().unwrap().to_owned()
}

/// Questions that are asked at each of two servers and answered by hosts that call only one; the rows can be read at both.
async fn live(sites: [&Site; 2], hosts: &[(&Site, &str)], wanted: &[&str]) {
    let question =
        json!({ "query": "SELECT 1", "target": { "hosts": wanted }, "expires_in_seconds": 300 });
    let mut paths = Vec::new();
    for site in sites {
        let campaign = site.post("/api/muster/campaigns", &question).await;
        assert_eq!(campaign.status, 201, "{campaign:?}");
        let targeted = &campaign.body["hosts"]["targeted"];
        assert_eq!(*targeted, wanted.len(), "{campaign:?}");
        paths.push(format!("/api/muster/campaigns/{}", campaign.body["id"]));
    }
    until("all hosts answer both", async || {
        for (site, key) in hosts {
            for (name, _) in site.asked(key).await {
                if name.starts_with("fleet_distributed_query_") {
                    let answer = json!({ name: [{ "by": key }] });
                    assert_eq!(site.answer(key, answer).await.status, 200);
                }
            }
        }
        let mut finished = true;
        for path in &paths {
            for site in sites {
                let seen = site.get(path).await;
                assert_eq!(seen.status, 200, "{seen:?}");
                finished &= seen.body["status"] == "finished";
            }
        }
        finished
    })
    .await;
    let mut all: Vec<&str> = hosts.iter().map(|(_, key)| *key).collect();
    all.sort_unstable();
    for path in &paths {
        for site in sites {
            let results = site.get(&format!("{path}/results")).await;
            let items = results.body["items"].as_array().unwrap().iter();
            let mut by: Vec<&str> = items
                .map(|item| item["rows"][0]["by"].as_str().unwrap())
                .collect();
            by.sort_unstable();
            assert_eq!(by, all, "each host once: {results:?}");
        }
    }
}

/// Waits until a key is refused at all of these servers.
async fn refused(key: &str, sites: &[&Site]) {
    until("the key ends everywhere", async || {
        let mut count = 0;
        for site in sites {
            let body = json!({ "node_key": key });
            let read = site.agent("/api/osquery/distributed/read", &body).await;
            count += usize::from(read.status == 401);
        }
        count == sites.len()
    })
    .await;
}

/// Asks a server without a pause as a host and as an operator, and counts; whatever is refused ends the test.
struct Caller {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Caller {
    fn start(site: Site, key: String) -> Self {
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let task = tokio::spawn({
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    site.asked(&key).await;
                    assert_eq!(site.log(&key, "event").await.status, 200);
                    let hosts = site.get("/api/muster/hosts").await;
                    assert_eq!(hosts.status, 200, "{hosts:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self {
            stop,
            answered,
            task,
        }
    }

    async fn more(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        until("it goes on", async || {
            self.answered.load(Ordering::Relaxed) > before + 3
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn servers_of_earlier_releases_and_this_one_serve_one_database_side_by_side() {
    for release in Release::all() {
        let db = TestDatabase::new(Dialect::Postgres).await;
        let parent = tempfile::tempdir().unwrap();
        let folders = [folder(parent.path(), "old"), folder(parent.path(), "new")];
        let old = earlier(&release, &folders[0], db.address());
        let mut fleet = Fleet::found(&old).await;
        fleet.check(&old).await;

        // The old one goes on answering while the new one changes the schema beneath it, and afterwards.
        let caller = Caller::start(fleet.site.clone(), fleet.hosts[0].clone());
        caller.more().await;
        let new = Program::start(&mut plain(&folders[1], db.address()));
        caller.more().await;
        caller.end().await;
        fleet.check(&new).await;
        fleet.check(&old).await;
        assert_eq!(
            told(&fleet.site, &old).await,
            told(&fleet.site, &new).await,
            "agents are told the same by both"
        );

        // What is made at either is known at the other: keys, sessions, tokens.
        fleet.hosts.push(fleet.enroll(&new, "new-2").await);
        fleet.hosts.push(fleet.enroll(&old, "old-3").await);
        let (site_old, site_new) = (fleet.site.clone(), at(&fleet.site, &new));
        fleet.secret = site_new.secret("made at the new one").await;
        fleet.until_known(&old).await;
        fleet.hosts.push(fleet.enroll(&old, "old-4").await);
        fleet.secret = site_old.secret("made at the old one").await;
        fleet.until_known(&new).await;
        fleet.hosts.push(fleet.enroll(&new, "new-5").await);
        let login = json!({ "email": "ann@example.com", "password": PASSWORD });
        let login = site_new.agent("/api/muster/login", &login).await;
        fleet.site.session = login.body["token"].as_str().unwrap().to_owned();
        fleet.check(&old).await;
        fleet.check(&new).await;

        // A host enrolls again at the other server: it stays one host, and its new key is good at both at once.
        let before = std::mem::take(&mut fleet.hosts[0]);
        fleet.hosts[0] = fleet.enroll(&new, "old-0").await;
        fleet.check(&old).await;
        let again = std::mem::take(&mut fleet.hosts[2]);
        fleet.hosts[2] = fleet.enroll(&old, "new-2").await;
        fleet.check(&new).await;

        // What the old one finds only when it looks: keys that ended, hosts that were deleted, questions and answers. Nobody
        // else is refused meanwhile.
        let gone = fleet.hosts.remove(4);
        let listed = site_new.get("/api/muster/hosts?search=old-4").await;
        let path = format!("/api/muster/hosts/{}", listed.body["items"][0]["id"]);
        assert_eq!(site_new.delete(&path).await.status, 204);
        let both = [&site_old, &site_new];
        let hosts = [(&site_old, &*fleet.hosts[1]), (&site_new, &*fleet.hosts[4])];
        let wanted = ["old-1", "new-5"];
        tokio::join!(
            live(both, &hosts, &wanted),
            refused(&before, &both),
            refused(&again, &both),
            refused(&gone, &both),
        );
        fleet.check(&old).await;
        fleet.check(&new).await;

        // The old one goes; and it would come back on the schema that it does not know.
        ended(old);
        fleet.check(&new).await;
        fleet.hosts.push(fleet.enroll(&new, "new-6").await);
        let old = earlier(&release, &folders[0], db.address());
        fleet.check(&old).await;
        ended(new);
        fleet.check(&old).await;
        fleet.hosts.push(fleet.enroll(&old, "old-7").await);
        ended(old);
    }
}

#[tokio::test]
async fn a_server_is_upgraded_in_place_and_can_go_back() {
    for release in Release::all() {
        let parent = tempfile::tempdir().unwrap();
        let (data, database) = (parent.path().join("data"), parent.path().join("muster.db"));
        let database = database.to_str().unwrap();
        let old = earlier(&release, &data, database);
        let mut fleet = Fleet::found(&old).await;
        ended(old);
        for turn in 0..2 {
            let new = Program::start(&mut plain(&data, database));
            fleet.check(&new).await;
            let name = format!("new-{turn}");
            fleet.hosts.push(fleet.enroll(&new, &name).await);
            fleet.hosts[0] = fleet.enroll(&new, "old-0").await;
            ended(new);
            let old = earlier(&release, &data, database);
            fleet.check(&old).await;
            fleet.hosts[1] = fleet.enroll(&old, "old-1").await;
            ended(old);
        }
        let new = Program::start(&mut plain(&data, database));
        fleet.check(&new).await;
        ended(new);
    }
}

/// A process that is killed when the value goes.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{error}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_command_lines_of_earlier_releases_work_with_this_server() {
    for release in Release::all() {
        let parent = tempfile::tempdir().unwrap();
        let data = parent.path().join("data");
        let server = Program::start(&mut command(&data));
        let authority = data.join("tls/ca.pem");
        let trusted = reqwest::Certificate::from_pem(&std::fs::read(&authority).unwrap()).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([trusted]);
        let base = format!("https://localhost:{}", server.address.port());
        let site = Site::set_up(http.build().unwrap(), base.clone(), server.setup_link()).await;
        let me = json!({ "name": "cli" });
        let token = site.post("/api/muster/users/1/api-tokens", &me).await;
        let token = token.body["secret"].as_str().unwrap().to_owned();
        let muster = |arguments: &[&str]| {
            let mut muster = release.command("muster");
            muster
                .env("MUSTER_CLI_CONFIG", parent.path().join("contexts.toml"))
                .env("MUSTER_CLI_CA_FILE", &authority)
                .args(arguments)
                .stdin(Stdio::null());
            muster
        };
        let by_token = |arguments: &[&str]| {
            let mut muster = muster(arguments);
            muster
                .env("MUSTER_CLI_URL", &base)
                .env("MUSTER_CLI_TOKEN", &token);
            said(&mut muster)
        };
        let login = parent.path().join("password");
        std::fs::write(&login, format!("{PASSWORD}\n")).unwrap();
        let mut log_in = muster(&["login", &base, "--email", "ann@example.com"]);
        said(log_in.stdin(std::fs::File::open(&login).unwrap()));
        assert!(said(&mut muster(&["users"])).contains("ann@example.com"));

        let secret = by_token(&["tokens", "create", "--name", "all"]);
        let file = parent.path().join("token");
        std::fs::write(&file, &secret).unwrap();
        let mut agent = release.command("muster-agent");
        let agent = agent
            .args(["run", "--server", &base])
            .arg("--enrollment-token-file")
            .arg(&file)
            .arg("--ca-file")
            .arg(&authority)
            .arg("--data-dir")
            .arg(parent.path().join("agent"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _agent = Process(agent.spawn().unwrap());
        until("the agent checks in", async || {
            let hosts = site.get("/api/muster/hosts").await;
            hosts.body["items"][0]["detail_updated_at"].is_string()
        })
        .await;
        let answered = by_token(&["query", "--all", "--csv", "SELECT 6 * 7 AS answer"]);
        assert!(answered.contains("42"), "{answered}");
        for arguments in [
            &["hosts", "--json"][..],
            &["host", "1"],
            &["tokens"],
            &["teams"],
            &["labels"],
            &["campaigns"],
            &["audit"],
            &["api-tokens"],
        ] {
            by_token(arguments);
        }
        let hosts: Value = site.get("/api/muster/hosts").await.body;
        assert_eq!(hosts["total"], 1, "orbit's API and osquery's are one host");
        ended(server);
    }
}
