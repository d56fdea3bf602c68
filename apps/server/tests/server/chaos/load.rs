//! Hosts and operators that go on whatever happens, and remember what they were promised.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};

use crate::site::{Answer, Site};

/// Every so many turns a host does what changes more than a line: enrolls, asks, makes a label.
const TURNS: usize = 8;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// What may be answered when nothing is wrong with the request.
const HONEST: [u16; 6] = [200, 201, 204, 429, 502, 503];

/// What was acknowledged.
#[derive(Default, Clone)]
pub(super) struct Kept {
    /// Names of result lines.
    pub(super) lines: BTreeSet<String>,
    /// By campaign, the hosts whose answer was taken.
    pub(super) answers: BTreeMap<i64, BTreeSet<String>>,
    /// Campaigns.
    pub(super) campaigns: BTreeSet<i64>,
    /// Keys of hosts, by identifier.
    pub(super) keys: BTreeMap<String, String>,
    /// Labels, which are changes with a line in the log of changes.
    pub(super) labels: BTreeSet<i64>,
    /// Requests that were told something that is not so.
    pub(super) lies: Vec<String>,
    /// The last fault that each kind of request was told of.
    pub(super) faults: BTreeMap<String, String>,
}

impl Kept {
    /// How much there is of each kind.
    pub(super) fn counts(&self) -> [usize; 5] {
        let answers = self.answers.values().map(BTreeSet::len).sum();
        [
            self.lines.len(),
            answers,
            self.campaigns.len(),
            self.keys.len(),
            self.labels.len(),
        ]
    }
}

/// What all workers share.
pub(super) struct Shared {
    /// Where the servers are now; a load balancer would know.
    pub(super) bases: RwLock<Vec<String>>,
    pub(super) session: String,
    pub(super) secret: String,
    /// The hosts that work.
    pub(super) hosts: Vec<String>,
    pub(super) kept: Mutex<Kept>,
    pub(super) http: Client,
}

impl Shared {
    pub(super) fn new(
        site: &Site,
        bases: Vec<String>,
        secret: String,
        hosts: Vec<String>,
    ) -> Arc<Self> {
        Arc::new(Self {
            bases: RwLock::new(bases),
            session: site.session().to_owned(),
            secret,
            hosts,
            kept: Mutex::default(),
            http: Client::builder().timeout(PATIENCE).build().unwrap(),
        })
    }

    /// A server, as an operator sees it.
    pub(super) fn site(&self, number: usize) -> Site {
        let bases = self.bases.read().unwrap();
        Site {
            http: self.http.clone(),
            base: bases[number % bases.len()].clone(),
            session: self.session.clone(),
        }
    }
}

/// A host and an operator beside it.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) number: usize,
    /// The host's name and key.
    pub(super) name: String,
    pub(super) key: String,
}

impl Worker {
    /// Works until it is aborted.
    pub(super) async fn run(mut self) {
        for turn in 0.. {
            // A connection that breaks, or a fault: the next server, and the next thing to do.
            let _ = self.turn(turn).await;
            tokio::task::yield_now().await;
        }
    }

    /// What an honest answer is worth; others are lies.
    fn honest(&self, what: &str, answer: Answer) -> Option<Answer> {
        if !HONEST.contains(&answer.status) || answer.body.get("node_invalid").is_some() {
            let lie = format!("{} {what}: {} {}", self.name, answer.status, answer.body);
            self.shared.kept.lock().unwrap().lies.push(lie);
        }
        if answer.status >= 300 {
            let fault = format!("{} {} {}", self.name, answer.status, answer.body);
            self.keep(|kept| kept.faults.insert(what.to_owned(), fault));
            return None;
        }
        Some(answer)
    }

    fn keep<T>(&self, change: impl FnOnce(&mut Kept) -> T) {
        change(&mut self.shared.kept.lock().unwrap());
    }

    async fn turn(&mut self, turn: usize) -> reqwest::Result<()> {
        let site = self.shared.site(self.number + turn);
        let line = format!("{}-{turn}", self.name);
        let log = json!({ "node_key": self.key, "log_type": "result", "data": [{ "name": line }] });
        let logged = site.try_agent("/api/osquery/log", &log).await?;
        if self.honest("log", logged).is_some() {
            self.keep(|kept| kept.lines.insert(line));
        }
        let ask = json!({ "node_key": self.key });
        let asked = site
            .try_agent("/api/osquery/distributed/read", &ask)
            .await?;
        let asked = self
            .honest("read", asked)
            .map_or(Value::Null, |answer| answer.body);
        for name in asked["queries"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|query| query.0)
        {
            let Some(id) = name.strip_prefix("fleet_distributed_query_") else {
                continue;
            };
            let answer =
                json!({ "node_key": self.key, "queries": { name: [{ "by": self.name }] } });
            let written = site
                .try_agent("/api/osquery/distributed/write", &answer)
                .await?;
            if self.honest("write", written).is_some() {
                let (id, name) = (id.parse().unwrap(), self.name.clone());
                self.keep(|kept| kept.answers.entry(id).or_default().insert(name));
            }
        }
        match turn % TURNS {
            0 => self.operate(&site, turn).await,
            4 => self.enroll(&site, turn).await,
            _ => Ok(()),
        }
    }

    async fn operate(&self, site: &Site, turn: usize) -> reqwest::Result<()> {
        // Those that work, so that it ends: an operator may have only so many that run.
        let hosts = &self.shared.hosts;
        let question = json!({ "query": "SELECT 1", "target": { "hosts": hosts } });
        let campaign = site.try_post("/api/muster/campaigns", &question).await?;
        if let Some(campaign) = self.honest("campaign", campaign) {
            let id = campaign.body["id"].as_i64().unwrap();
            self.keep(|kept| kept.campaigns.insert(id));
        }
        let label = json!({ "name": format!("{}-{turn}", self.name), "hosts": [] });
        let label = site.try_post("/api/muster/labels", &label).await?;
        if let Some(label) = self.honest("label", label) {
            let id = label.body["id"]
                .as_i64()
                .unwrap_or_else(|| panic!("{label:?}"));
            self.keep(|kept| kept.labels.insert(id));
        }
        Ok(())
    }

    /// A new host, and this one again, which goes on with its new key.
    async fn enroll(&mut self, site: &Site, turn: usize) -> reqwest::Result<()> {
        let identifiers = [format!("{}-new-{turn}", self.name), self.name.clone()];
        for identifier in identifiers {
            let enroll =
                json!({ "enroll_secret": self.shared.secret, "host_identifier": identifier });
            let enrolled = site.try_agent("/api/osquery/enroll", &enroll).await?;
            if let Some(enrolled) = self.honest("enroll", enrolled) {
                let key = enrolled.body["node_key"].as_str().unwrap().to_owned();
                if identifier == self.name {
                    self.key.clone_from(&key);
                }
                self.keep(|kept| kept.keys.insert(identifier, key));
            }
        }
        Ok(())
    }
}

/// The names in the files of results. Every line is whole, but for the last of a server that was killed and did not write
/// on.
fn lines(folders: &[PathBuf]) -> BTreeSet<String> {
    let names = |folder: &Path| {
        let text =
            std::fs::read_to_string(folder.join("logs/osquery_result.log")).unwrap_or_default();
        let names = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("torn: {line}"));
            line["name"].as_str().unwrap().to_owned()
        });
        names.collect::<Vec<_>>()
    };
    folders.iter().flat_map(|folder| names(folder)).collect()
}

/// Everything that was acknowledged is there, and nobody was told what is not so.
pub(super) async fn assert_kept(site: &Site, folders: &[PathBuf], kept: &Kept, seed: u64) {
    assert!(kept.lies.is_empty(), "seed {seed}: {:#?}", kept.lies);
    let lost: Vec<_> = kept.lines.difference(&lines(folders)).cloned().collect();
    assert!(lost.is_empty(), "seed {seed}: lost lines {lost:?}");
    for id in &kept.campaigns {
        let campaign = site.get(&format!("/api/muster/campaigns/{id}")).await;
        assert_eq!(
            campaign.status, 200,
            "seed {seed}: campaign {id}: {campaign:?}"
        );
    }
    for (id, answers) in &kept.answers {
        let path = format!("/api/muster/campaigns/{id}/results?limit=1000");
        let results = site.get(&path).await;
        let items = results.body["items"].as_array().unwrap();
        let names: BTreeSet<_> = items
            .iter()
            .map(|item| item["rows"][0]["by"].as_str().unwrap().to_owned())
            .collect();
        let lost: Vec<_> = answers.difference(&names).collect();
        assert!(lost.is_empty(), "seed {seed}: campaign {id} lost {lost:?}");
        assert_eq!(
            names.len(),
            items.len(),
            "seed {seed}: campaign {id}: each host answers once"
        );
    }
    for (identifier, key) in &kept.keys {
        let config = site
            .agent("/api/osquery/config", &json!({ "node_key": key }))
            .await;
        assert_eq!(
            config.status, 200,
            "seed {seed}: the key of {identifier}: {config:?}"
        );
    }
    let mut audited = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/muster/audit?action=created_label&limit=1000{cursor}");
        let page = site.get(&path).await.body;
        let ids = page["items"].as_array().unwrap().iter();
        audited.extend(ids.map(|entry| {
            entry["subject_id"]
                .as_str()
                .unwrap()
                .parse::<i64>()
                .unwrap()
        }));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    for id in &kept.labels {
        let label = site.get(&format!("/api/muster/labels/{id}")).await;
        assert_eq!(label.status, 200, "seed {seed}: label {id}");
        assert!(
            audited.contains(id),
            "seed {seed}: label {id} is not in the log of changes"
        );
    }
}
