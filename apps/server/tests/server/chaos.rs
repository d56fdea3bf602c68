//! Whatever is killed at whatever moment: what was acknowledged is kept, nobody is refused who should not be, and clients
//! go on by themselves.
//!
//! The moments follow from a seed, which a failure names: `MUSTER_FAULT_SEED` sets it, `MUSTER_FAULT_ROUNDS` sets how many
//! moments there are.

mod certificate;
mod clock;
mod cluster;
mod disk;
mod load;
mod silence;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_bus::testing::RedisServer;
use muster_clock::{Clock as _, Randomness as _, SeededRandomness, SystemClock};
use muster_store::Dialect;
use muster_store::testing::TestDatabase;

use crate::program::{Program, folder, plain};
use crate::site::{Site, until};
use cluster::Cluster;
use load::{Shared, Worker, assert_kept};

/// How many hosts work at a time.
const HOSTS: usize = 6;
/// How many moments without a wish.
const ROUNDS: usize = 12;
/// What is acknowledged of each kind after each moment before the next may come: the clients have recovered.
const ENOUGH: [usize; 5] = [20, 4, 2, 4, 2];
/// How long clients may take to recover.
const RECOVERY: Duration = Duration::from_secs(30);
/// How many acknowledged lines more the next moment waits for at most.
const MOST_LINES: usize = 100;

fn wish(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// A seed, and numbers that follow from it.
struct Dice {
    seed: u64,
    randomness: SeededRandomness,
}

impl Dice {
    fn new() -> Self {
        let now = SystemClock.now().as_micros().unsigned_abs();
        let seed = wish("MUSTER_FAULT_SEED").unwrap_or(now);
        Self {
            seed,
            randomness: SeededRandomness::new(seed),
        }
    }

    /// From 0 to below `end`.
    fn roll(&self, end: usize) -> usize {
        let mut bytes = [0; 4];
        self.randomness.fill(&mut bytes);
        u32::from_le_bytes(bytes) as usize % end
    }
}

/// Servers on one database.
struct Fleet {
    folders: Vec<PathBuf>,
    database: String,
    bus: Option<String>,
    programs: Vec<Option<Program>>,
}

impl Fleet {
    fn start(parent: &Path, servers: usize, database: &str, bus: Option<String>) -> Self {
        let folders = (0..servers).map(|number| folder(parent, &format!("server-{number}")));
        let mut fleet = Self {
            folders: folders.collect(),
            database: database.to_owned(),
            bus,
            programs: Vec::new(),
        };
        for number in 0..servers {
            let program = fleet.program(number);
            fleet.programs.push(Some(program));
        }
        fleet
    }

    fn program(&self, number: usize) -> Program {
        let mut command = plain(&self.folders[number], &self.database);
        command
            .env("MUSTER_DATABASE_TIMEOUT", "2s")
            .env("MUSTER_DATABASE_STATEMENT_TIMEOUT", "5s");
        if let Some(bus) = &self.bus {
            command.env("MUSTER_BUS_URL", bus);
        }
        Program::start(&mut command)
    }

    fn bases(&self) -> Vec<String> {
        self.programs.iter().flatten().map(Program::base).collect()
    }

    fn kill(&mut self, number: usize) {
        self.programs[number].take().expect("it runs").kill();
    }

    fn start_again(&mut self, number: usize) {
        self.programs[number] = Some(self.program(number));
    }
}

/// Waits until clients got so much more of each kind acknowledged: they have recovered from `what`.
async fn recovered(shared: &Shared, lines: usize, what: &str) {
    let before = shared.kept.lock().unwrap().counts();
    let enough = || {
        let (counts, lies) = {
            let kept = shared.kept.lock().unwrap();
            (kept.counts(), kept.lies.clone())
        };
        assert!(lies.is_empty(), "{what}: {lies:#?}");
        (0..ENOUGH.len()).all(|kind| counts[kind] - before[kind] >= ENOUGH[kind])
            && counts[0] - before[0] >= lines
    };
    let waiting = tokio::time::timeout(RECOVERY, async {
        while !enough() {
            tokio::task::yield_now().await;
        }
    });
    if waiting.await.is_err() {
        let (now, faults) = {
            let kept = shared.kept.lock().unwrap();
            (kept.counts(), kept.faults.clone())
        };
        panic!("{what}: clients do not recover: {before:?}, {now:?}; they were told {faults:#?}");
    }
}

/// Something that is done to the servers or to what they stand on, at one moment.
#[derive(Debug)]
enum Fault {
    /// `kill -9` of this server.
    Server(usize),
    /// `kill -9` of PostgreSQL.
    Postgres,
    /// PostgreSQL takes no writes for a while.
    ReadOnly,
    /// `kill -9` of Redis.
    Redis,
    /// Redis forgets everything and drops its clients.
    Flush,
}

/// What a test can hurt.
struct Stage {
    fleet: Fleet,
    cluster: Option<Cluster>,
    redis: Option<RedisServer>,
}

impl Stage {
    fn choose(&self, dice: &Dice) -> Fault {
        let servers = self.fleet.folders.len();
        if self.cluster.is_none() {
            return Fault::Server(dice.roll(servers));
        }
        match dice.roll(8) {
            0..=2 => Fault::Server(dice.roll(servers)),
            3 | 4 => Fault::Postgres,
            5 => Fault::ReadOnly,
            6 => Fault::Redis,
            _ => Fault::Flush,
        }
    }

    /// Hurts it, and makes it well again. Workers meanwhile find the others, or nobody.
    async fn hurt(&mut self, fault: &Fault, shared: &Shared) {
        match fault {
            Fault::Server(number) => {
                self.fleet.kill(*number);
                self.fleet.start_again(*number);
                *shared.bases.write().unwrap() = self.fleet.bases();
            }
            Fault::Postgres => {
                let cluster = self.cluster.as_mut().expect("there is one");
                cluster.kill();
                cluster.start_again();
            }
            Fault::ReadOnly => {
                let cluster = self.cluster.as_ref().expect("there is one");
                cluster.run("ALTER SYSTEM SET default_transaction_read_only = on");
                cluster.run("SELECT pg_reload_conf()");
                let site = shared.site(0);
                let label = serde_json::json!({ "name": "while it is read-only", "hosts": [] });
                until("writes are told to come again", async || {
                    let refused = site.try_post("/api/muster/labels", &label).await;
                    refused.is_ok_and(|answer| answer.status == 503)
                })
                .await;
                cluster.run("ALTER SYSTEM RESET default_transaction_read_only");
                cluster.run("SELECT pg_reload_conf()");
            }
            Fault::Redis => {
                let redis = self.redis.as_ref().expect("there is one");
                redis.kill();
                redis.start_again().await;
            }
            Fault::Flush => self.redis.as_ref().expect("there is one").flush().await,
        }
    }

    /// Mixed load, and one fault after the other at moments that follow from the seed.
    async fn endure(mut self) {
        let dice = Dice::new();
        let rounds = wish("MUSTER_FAULT_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
        let link = self.fleet.programs[0]
            .as_ref()
            .unwrap()
            .setup_link()
            .to_owned();
        let bases = self.fleet.bases();
        let site = Site::set_up(reqwest::Client::new(), bases[0].clone(), &link).await;
        let secret = site.secret("all").await;
        let names: Vec<String> = (0..HOSTS).map(|number| format!("host-{number}")).collect();
        let shared = Shared::new(&site, bases, secret.clone(), names.clone());
        let mut keys = Vec::new();
        for name in &names {
            keys.push(site.enroll(&secret, name).await);
        }
        let worker = |(number, (name, key))| {
            let shared = Arc::clone(&shared);
            tokio::spawn(
                Worker {
                    shared,
                    number,
                    name,
                    key,
                }
                .run(),
            )
        };
        let workers = names.into_iter().zip(keys).enumerate().map(worker);
        let workers: Vec<_> = workers.collect();
        let mut what = format!("seed {}, before the first fault", dice.seed);
        for round in 0..rounds {
            recovered(&shared, dice.roll(MOST_LINES), &what).await;
            assert!(
                workers.iter().all(|worker| !worker.is_finished()),
                "a worker failed"
            );
            let fault = self.choose(&dice);
            what = format!("seed {}, round {round}, {fault:?}", dice.seed);
            self.hurt(&fault, &shared).await;
        }
        recovered(&shared, 0, &what).await;
        for worker in workers {
            worker.abort();
            let _ = worker.await;
        }
        let kept = shared.kept.lock().unwrap().clone();
        assert_kept(&shared.site(0), &self.fleet.folders, &kept, dice.seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_kept_whichever_of_two_servers_postgresql_and_redis_is_killed() {
    let parent = tempfile::tempdir().unwrap();
    let cluster = Cluster::start();
    let redis = RedisServer::start().await;
    let fleet = Fleet::start(parent.path(), 2, &cluster.url(), Some(redis.url()));
    let stage = Stage {
        fleet,
        cluster: Some(cluster),
        redis: Some(redis),
    };
    stage.endure().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_kept_whenever_a_server_with_its_own_database_is_killed() {
    let parent = tempfile::tempdir().unwrap();
    let db = TestDatabase::new(Dialect::Sqlite).await;
    let fleet = Fleet::start(parent.path(), 1, db.address(), None);
    let stage = Stage {
        fleet,
        cluster: None,
        redis: None,
    };
    stage.endure().await;
}
