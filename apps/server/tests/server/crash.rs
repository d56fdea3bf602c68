//! What was acknowledged is kept, whenever the server is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use muster_store::testing::on_both_databases;
use serde_json::{Value, json};

use crate::program::{Program, plain};
use crate::site::{Site, until};

/// How many hosts work at a time.
const HOSTS: usize = 6;
/// How often the server is killed.
const KILLS: usize = 3;
/// A host asks a new question, and another one enrolls, every so many turns.
const TURNS: usize = 8;
/// How much of each kind is acknowledged before the next kill.
const ENOUGH: [usize; 4] = [100, 40, 6, 6];

/// What the server acknowledged.
#[derive(Default, Clone)]
struct Acknowledged {
    /// Names of result lines.
    lines: BTreeSet<String>,
    /// By campaign, what hosts answered.
    answers: BTreeMap<i64, BTreeSet<String>>,
    /// Campaigns that began.
    campaigns: BTreeSet<i64>,
    /// Identifiers of hosts that enrolled, and their keys.
    hosts: BTreeMap<String, String>,
}

impl Acknowledged {
    fn counts(&self) -> [usize; 4] {
        let answers = self.answers.values().map(BTreeSet::len).sum();
        [
            self.lines.len(),
            answers,
            self.campaigns.len(),
            self.hosts.len(),
        ]
    }
}

/// One host and its operator, until the connection breaks.
struct Worker {
    site: Site,
    secret: String,
    key: String,
    name: String,
    kept: Arc<Mutex<Acknowledged>>,
}

impl Worker {
    async fn run(self) {
        let mut turn = 0;
        while self.turn(turn).await.is_ok() {
            turn += 1;
        }
    }

    async fn turn(&self, turn: usize) -> reqwest::Result<()> {
        let (site, name) = (&self.site, &self.name);
        let line = format!("{name}-{turn}");
        let log = json!({ "node_key": self.key, "log_type": "result", "data": [{ "name": line }] });
        if site.try_agent("/api/osquery/log", &log).await?.status == 200 {
            self.kept.lock().unwrap().lines.insert(line);
        }
        let ask = json!({ "node_key": self.key });
        let asked = site
            .try_agent("/api/osquery/distributed/read", &ask)
            .await?;
        for query in asked.body["queries"].as_object().into_iter().flatten() {
            let Some(id) = query.0.strip_prefix("fleet_distributed_query_") else {
                continue;
            };
            let answer = json!({ "node_key": self.key, "queries": { query.0: [{ "by": name }] } });
            let written = site.try_agent("/api/osquery/distributed/write", &answer);
            if written.await?.status == 200 {
                let mut kept = self.kept.lock().unwrap();
                let answers = kept.answers.entry(id.parse().unwrap()).or_default();
                answers.insert(name.clone());
            }
        }
        if turn.is_multiple_of(TURNS) {
            let question = json!({ "query": "SELECT 1", "target": { "all": true } });
            let campaign = site.try_post("/api/muster/campaigns", &question).await?;
            if campaign.status == 201 {
                let id = campaign.body["id"].as_i64().unwrap();
                self.kept.lock().unwrap().campaigns.insert(id);
            }
            let identifier = format!("{name}-new-{turn}");
            let enroll = json!({ "enroll_secret": self.secret, "host_identifier": identifier });
            let enrolled = site.try_agent("/api/osquery/enroll", &enroll).await?;
            if enrolled.status == 200 {
                let key = enrolled.body["node_key"].as_str().unwrap().to_owned();
                self.kept.lock().unwrap().hosts.insert(identifier, key);
            }
        }
        Ok(())
    }
}

/// The names in the file of results. Every line is whole.
fn lines(folder: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(folder.join("logs/osquery_result.log")).unwrap();
    let names = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("torn: {line}"));
        line["name"].as_str().unwrap().to_owned()
    });
    names.collect()
}

/// Everything that was acknowledged is there.
async fn assert_kept(site: &Site, folder: &Path, kept: &Acknowledged) {
    let lost: Vec<_> = kept.lines.difference(&lines(folder)).cloned().collect();
    assert!(lost.is_empty(), "lost lines: {lost:?}");
    for id in &kept.campaigns {
        let campaign = site.get(&format!("/api/muster/campaigns/{id}")).await;
        assert_eq!(campaign.status, 200, "{id}: {campaign:?}");
    }
    for (id, answers) in &kept.answers {
        let path = format!("/api/muster/campaigns/{id}/results?limit=500");
        let results = site.get(&path).await;
        let items = results.body["items"].as_array().unwrap();
        let names: BTreeSet<_> = items
            .iter()
            .map(|item| item["rows"][0]["by"].as_str().unwrap().to_owned())
            .collect();
        assert!(answers.is_subset(&names), "{id}: {answers:?} {names:?}");
        assert_eq!(names.len(), items.len(), "{id}: each host answers once");
    }
    for (identifier, key) in &kept.hosts {
        let path = format!("/api/latest/fleet/hosts/identifier/{identifier}");
        assert_eq!(site.get(&path).await.status, 200, "{identifier}");
        let ask = json!({ "node_key": key });
        let config = site.agent("/api/osquery/config", &ask).await;
        assert_eq!(config.status, 200, "{identifier}");
    }
}

on_both_databases! {
    async fn what_was_acknowledged_before_the_server_was_killed_is_there_when_it_is_back(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let mut program = Program::start(&mut plain(folder.path(), db.address()));
        let http = reqwest::Client::new();
        let mut site = Site::set_up(http, program.base(), program.setup_link()).await;
        let secret = site.secret("all").await;
        let mut keys = Vec::new();
        for number in 0..HOSTS {
            keys.push(site.enroll(&secret, &format!("host-{number}")).await);
        }
        let kept = Arc::new(Mutex::new(Acknowledged::default()));
        for kill in 0..KILLS {
            let before = kept.lock().unwrap().counts();
            let workers: Vec<_> = keys.iter().enumerate().map(|(number, key)| {
                let worker = Worker {
                    site: site.clone(),
                    secret: secret.clone(),
                    key: key.clone(),
                    name: format!("{kill}-{number}"),
                    kept: Arc::clone(&kept),
                };
                tokio::spawn(worker.run())
            }).collect();
            until("enough is acknowledged", || async {
                assert!(workers.iter().all(|worker| !worker.is_finished()), "the server ended by itself");
                let counts = kept.lock().unwrap().counts();
                (0..ENOUGH.len()).all(|kind| counts[kind] - before[kind] >= ENOUGH[kind])
            }).await;
            program.kill();
            for worker in workers {
                worker.await.unwrap();
            }
            program = Program::start(&mut plain(folder.path(), db.address()));
            site.base = program.base();
            let so_far = kept.lock().unwrap().clone();
            assert_kept(&site, folder.path(), &so_far).await;
        }
        program.terminate();
        assert!(program.wait().success());
    }
}
