//! What tests of other crates need: a Redis server of their own, and a bus that is worse than any real one.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::{Bus, BusError, BusStatus, Hint, LocalBus, Received, Subscription};

/// How long a server may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A Redis server that nothing else uses, on a socket in a folder of its own. It ends with the value.
pub struct RedisServer {
    folder: tempfile::TempDir,
    child: Mutex<Option<Child>>,
}

impl RedisServer {
    /// Starts one. Needs `redis-server`, which `cargo xtask prerequisites` installs.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let server = Self {
            folder,
            child: Mutex::new(None),
        };
        server.start_again().await;
        server
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Ends it at once, as `kill -9` does. What it held is gone.
    pub fn kill(&self) {
        let child = self.child.lock().expect("no test failed here").take();
        if let Some(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it at the same address, empty.
    pub async fn start_again(&self) {
        let _ = std::fs::remove_file(self.socket());
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server starts: `cargo xtask prerequisites` installs it");
        *self.child.lock().expect("no test failed here") = Some(child);
        let client = redis::Client::open(self.url()).expect("the address is right");
        let answers = async {
            while client.get_multiplexed_async_connection().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(START_TIMEOUT, answers)
            .await
            .expect("Redis answers soon after it started");
    }

    /// Has it forget everything and drop all connections, as an operator's mistake would.
    pub async fn flush(&self) {
        let client = redis::Client::open(self.url()).expect("the address is right");
        let mut connection = client
            .get_multiplexed_async_connection()
            .await
            .expect("Redis answers");
        for command in [
            &["FLUSHALL"][..],
            &["CLIENT", "KILL", "TYPE", "pubsub"],
            &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
        ] {
            let mut sent = redis::cmd(command[0]);
            sent.arg(&command[1..]);
            let _: redis::Value = sent
                .query_async(&mut connection)
                .await
                .expect("Redis does it");
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What becomes of a hint on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Arrives,
    /// It arrives twice.
    Twice,
    /// It arrives after the next one.
    Late,
    /// It never arrives, and nobody is told.
    Lost,
}

/// Decides what becomes of a hint; given how many there were before it.
type Decide = dyn Fn(usize, &Hint) -> Fate + Send + Sync;

/// A bus of one process that loses, doubles and holds back hints as it is told.
pub struct UnreliableBus {
    local: LocalBus,
    late: Mutex<Vec<Hint>>,
    published: AtomicUsize,
    decide: Box<Decide>,
}

impl UnreliableBus {
    /// `decide` is asked for each hint, with how many there were before it.
    pub fn new(decide: impl Fn(usize, &Hint) -> Fate + Send + Sync + 'static) -> Self {
        Self {
            local: LocalBus::new(),
            late: Mutex::default(),
            published: AtomicUsize::new(0),
            decide: Box::new(decide),
        }
    }
}

#[async_trait]
impl Bus for UnreliableBus {
    async fn publish(&self, hint: Hint) -> Result<(), BusError> {
        let number = self.published.fetch_add(1, Ordering::Relaxed);
        let late = std::mem::take(&mut *self.late.lock().expect("no test failed here"));
        let times = match (self.decide)(number, &hint) {
            Fate::Arrives => 1,
            Fate::Twice => 2,
            Fate::Lost => 0,
            Fate::Late => {
                let mut late = self.late.lock().expect("no test failed here");
                late.push(hint.clone());
                0
            }
        };
        for _ in 0..times {
            self.local.deliver(Received::Hint(hint.clone()));
        }
        for hint in late {
            self.local.deliver(Received::Hint(hint));
        }
        Ok(())
    }

    fn subscribe(&self) -> Subscription {
        self.local.subscribe()
    }

    fn status(&self) -> BusStatus {
        self.local.status()
    }
}
