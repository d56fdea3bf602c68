//! A server that is killed while enrollment tokens are exchanged for keys: each agent ends up with exactly one that works.
//!
//! The moments follow from a seed, which a failure names: `MUSTER_FAULT_SEED` sets it, `MUSTER_FAULT_ROUNDS` sets how often the
//! server is killed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use muster_clock::{Clock as _, Randomness as _, SeededRandomness, SystemClock};
use muster_store::testing::on_both_databases;

use super::*;
use crate::program::{Program, plain};

/// How often the server is killed without a wish.
const KILLS: u64 = 6;
/// How many new agents come at once between two kills. Every fourth polls.
const AGENTS: u8 = 24;
/// How long an agent may take until it has a key. One that polls and lost an offer is made another after a minute.
const PATIENCE: Duration = Duration::from_secs(150);
/// How soon an agent that has no key asks again.
const PAUSE: Duration = Duration::from_millis(700);

/// The states of a collector's keys, sorted.
async fn states(site: &Site, id: i64) -> Vec<String> {
    let one = site.get(&format!("/api/muster/collectors/{id}")).await.body;
    let keys = one["keys"].as_array().cloned().unwrap_or_default();
    let mut states: Vec<String> = keys
        .iter()
        .map(|key| key["state"].as_str().unwrap().to_owned())
        .collect();
    states.sort();
    states
}

/// Whether a credential is refused; the server has to be there.
async fn is_refused(address: SocketAddr, secret: &str) -> bool {
    match open_plain(address, secret).await {
        Ok(_) => false,
        Err(Error::Http(response)) => response.status() == 401,
        Err(error) => panic!("{error}"),
    }
}

/// An agent as real ones are: it keeps the key that it is offered, and connects anew with it.
struct Agent {
    uid: u8,
    polls: bool,
    number: u64,
    key: Option<String>,
    /// It was answered under its key.
    is_settled: bool,
    /// Every key that it was ever told.
    told: BTreeSet<String>,
}

/// What became of one try.
enum Tried {
    Answered(Option<String>),
    Refused,
    /// The server is not there, or went while it was at it.
    Gone,
}

impl Agent {
    fn new(uid: u8) -> Self {
        Self {
            uid,
            polls: uid.is_multiple_of(4),
            number: 0,
            key: None,
            is_settled: false,
            told: BTreeSet::new(),
        }
    }

    async fn attempt(&mut self, address: SocketAddr, token: &str) -> Tried {
        let secret = self.key.as_deref().unwrap_or(token);
        let said = described(self.uid, self.number);
        self.number += 1;
        let answer = if self.polls {
            let http = reqwest::Client::new();
            let body = encode_body(&said, MessageLimit::default()).unwrap();
            let sent = http
                .post(format!("http://{address}/v1/opamp"))
                .header("content-type", "application/x-protobuf")
                .bearer_auth(secret)
                .body(body);
            let Ok(answer) = sent.send().await else {
                return Tried::Gone;
            };
            if answer.status() == 401 {
                return Tried::Refused;
            }
            let is_good = answer.status() == 200;
            match answer.bytes().await {
                Ok(bytes) if is_good => decode_body(bytes, MessageLimit::default()).unwrap(),
                _ => return Tried::Gone,
            }
        } else {
            let mut socket = match open_plain(address, secret).await {
                Ok(socket) => socket,
                Err(Error::Http(response)) if response.status() == 401 => return Tried::Refused,
                Err(_) => return Tried::Gone,
            };
            if socket.send(frame(&said)).await.is_err() {
                return Tried::Gone;
            }
            match hear(&mut socket).await {
                Some(answer) => answer,
                None => return Tried::Gone,
            }
        };
        assert!(answer.error_response.is_none(), "{answer:?}");
        let offered = answer.connection_settings.is_some();
        Tried::Answered(offered.then(|| key_of(&answer)))
    }

    /// Lives until it is settled, or the server is gone.
    async fn live(mut self, address: SocketAddr, token: String, moments: Arc<AtomicUsize>) -> Self {
        while !self.is_settled {
            match self.attempt(address, &token).await {
                Tried::Answered(Some(key)) => {
                    self.told.insert(key.clone());
                    self.key = Some(key);
                }
                Tried::Answered(None) if self.key.is_some() => self.is_settled = true,
                Tried::Answered(None) => tokio::time::sleep(PAUSE).await,
                Tried::Refused => panic!("agent {}: the key that it was told is refused", self.uid),
                Tried::Gone => return self,
            }
            moments.fetch_add(1, Ordering::SeqCst);
        }
        self
    }
}

on_both_databases! {
    async fn a_server_that_is_killed_between_keeping_a_key_and_answering_leaves_one_key_that_works(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let mut program = Program::start(&mut plain(folder.path(), db.address()));
        let mut site = Site::set_up(reqwest::Client::new(), program.base(), program.setup_link()).await;
        let (_, token) = token(&site).await;
        // The agent gets no answer: nothing is read of what comes.
        let mut unread = open_plain(program.address, &token).await.unwrap();
        unread.send(frame(&described(7, 0))).await.unwrap();
        until("the key is kept", || async { states(&site, 1).await == ["pending"] }).await;
        program.kill();
        // What was on its way tells which key was lost.
        let lost = hear(&mut unread).await.map(|answer| key_of(&answer));
        program = Program::start(&mut plain(folder.path(), db.address()));
        site.base = program.base();
        assert_eq!(states(&site, 1).await, ["pending"], "what was kept is there");
        let agent = Agent::new(7);
        let living = agent.live(program.address, token.clone(), Arc::default());
        let agent = tokio::time::timeout(PATIENCE, living).await.expect("it gets a key");
        assert!(agent.is_settled);
        assert_eq!(states(&site, 1).await, ["active", "ended"]);
        assert!(!is_refused(program.address, &agent.key.unwrap()).await);
        if let Some(lost) = lost {
            assert!(is_refused(program.address, &lost).await, "the lost one is worth nothing");
        }
        assert_eq!(site.get("/api/muster/collectors").await.body["total"], 1);
        program.terminate();
        assert!(program.wait().success());
    }

    async fn whenever_the_server_is_killed_each_agent_ends_up_with_one_key_that_works(db: TestDatabase) {
        let wish = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        let seed = wish("MUSTER_FAULT_SEED").unwrap_or_else(|| SystemClock.now().as_micros().unsigned_abs());
        let kills = wish("MUSTER_FAULT_ROUNDS").unwrap_or(KILLS).min(9);
        println!("MUSTER_FAULT_SEED={seed}");
        let randomness = SeededRandomness::new(seed);
        let folder = tempfile::tempdir().unwrap();
        let mut program = Program::start(&mut plain(folder.path(), db.address()));
        let mut site = Site::set_up(reqwest::Client::new(), program.base(), program.setup_link()).await;
        let (_, token) = token(&site).await;
        let mut agents = Vec::new();
        for kill in 0..kills as u8 {
            agents.extend((1..=AGENTS).map(|number| Agent::new(kill * AGENTS + number)));
            let moments = Arc::new(AtomicUsize::new(0));
            let address = program.address;
            let living: Vec<_> = agents
                .drain(..)
                .map(|agent| tokio::spawn(agent.live(address, token.clone(), Arc::clone(&moments))))
                .collect();
            // Each of the new ones has two moments at least: it is offered a key, and uses it.
            let moment = randomness.below(2 * u64::from(AGENTS) - 4) as usize;
            until("the moment comes", || async { moments.load(Ordering::SeqCst) >= moment }).await;
            let little = Duration::from_micros(randomness.below(4_000));
            tokio::time::sleep(little).await;
            program.kill();
            for agent in join_all(living).await {
                agents.push(agent.unwrap());
            }
            program = Program::start(&mut plain(folder.path(), db.address()));
            site.base = program.base();
        }
        let living = agents.into_iter().map(|agent| agent.live(program.address, token.clone(), Arc::default()));
        let agents = tokio::time::timeout(PATIENCE, join_all(living)).await.expect("all get a key");
        let listed = site.get("/api/muster/collectors?limit=1000").await.body;
        let listed = listed["items"].as_array().unwrap();
        assert_eq!(listed.len(), agents.len(), "one record each");
        for one in listed {
            let id = one["id"].as_i64().unwrap();
            let states = states(&site, id).await;
            let active = states.iter().filter(|state| *state == "active").count();
            let over = states.iter().filter(|state| *state == "ended").count();
            assert_eq!((active, active + over), (1, states.len()), "{one}: {states:?}");
        }
        for agent in agents {
            let key = agent.key.unwrap();
            assert!(agent.is_settled && !is_refused(program.address, &key).await);
            for other in agent.told.iter().filter(|told| **told != key) {
                assert!(is_refused(program.address, other).await, "agent {}", agent.uid);
            }
        }
        program.terminate();
        assert!(program.wait().success());
    }
}
