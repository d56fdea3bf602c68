//! The loop: enroll, ask, run, answer, until it is stopped.

use std::sync::Arc;
use std::time::Duration;

use muster_clock::{Clock, Randomness};
use muster_negotiation::Capability;
use muster_tables::EngineOptions;
use muster_wire_fleet::{Secret, orbit};
use muster_wire_osquery::{ConfigAnswer, ConfigRequest, EnrollRequest};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::backoff::jittered;
use crate::client::{CallError, Client, ClientError};
use crate::config::{Intervals, Settings};
use crate::denylist::Denylist;
use crate::facts;
use crate::keys::{DataFileError, DataFolder, Keys};
use crate::notify;
use crate::outbox::Outbox;
use crate::runner::{Runner, RunnerError, Wanted, chain};
use crate::trouble::Trouble;

/// The shortest interval that a configuration may ask for.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How often it asks while the server wants it to hurry.
const HURRY: Duration = Duration::from_secs(5);
/// How long a server counts as one without orbit's API when it said so, or when it refused the token for that: it may
/// have been updated since, or the token replaced.
const ORBIT_PAUSE: Duration = Duration::from_secs(60 * 60);
/// So often a server may answer results with 500 until they count as refused: Fleet's answers so to what it cannot read,
/// and osqueryd, too, gives up after some tries.
const RESULT_TRIES: u32 = 10;
/// So many faults in a row hold up the first enrollment: then osquery's API alone has to do, and orbit's is tried again
/// beside it.
const ORBIT_TRIES: u32 = 3;

/// The agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The data folder.
    #[error("use the data folder")]
    Data(#[from] DataFileError),
    /// Another agent runs with it.
    #[error(
        "another muster-agent uses the data folder {}; stop it, or give this one another with --data-dir",
        path.display()
    )]
    InUse {
        /// Which folder.
        path: std::path::PathBuf,
    },
    /// The client.
    #[error("prepare to call the server")]
    Client(#[from] ClientError),
    /// The tables.
    #[error("prepare to answer queries")]
    Runner(#[from] RunnerError),
}

/// An agent that runs.
pub struct Session {
    settings: Settings,
    folder: DataFolder,
    /// Held while the agent runs.
    _lock: std::fs::File,
    keys: Keys,
    client: Client,
    runner: Runner,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    intervals: Intervals,
    etag: Option<String>,
    /// Of asking what to run, and of everything without which that cannot be asked.
    trouble: Trouble,
    /// Of orbit's API, which is not needed to stay online.
    orbit_trouble: Trouble,
    /// Of sending results.
    write_trouble: Trouble,
    outbox: Outbox,
    hurry_until: Option<Instant>,
    /// When to look again whether the server has orbit's API; none while it has.
    orbit_missing_until: Option<Instant>,
    /// The orbit key for whoever holds the notification socket; none while the server does not have it.
    notify_key: watch::Sender<Option<String>>,
}

/// When each thing is due.
struct Due {
    distributed: Instant,
    config: Instant,
    orbit: Instant,
    /// Sending again what the server could not take.
    write: Instant,
}

impl Session {
    /// Opens the data folder and starts the thread for queries.
    pub fn new(
        settings: Settings,
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
    ) -> Result<Self, SessionError> {
        let folder = DataFolder::open(&settings.data_dir)?;
        let lock = folder.lock()?.ok_or_else(|| SessionError::InUse {
            path: settings.data_dir.clone(),
        })?;
        let client = Client::new(&settings.server, &settings.trust)?;
        let mut keys = folder.load_keys()?;
        if keys.instance_id.is_empty() {
            keys.instance_id = facts::new_instance_id(&*randomness);
        }
        if keys.server != client.server() {
            // Keys of another server mean nothing here.
            (keys.node_key, keys.orbit_node_key) = (None, None);
            client.server().clone_into(&mut keys.server);
        }
        folder.save_keys(&keys)?;
        let facts = facts::at_start(&settings, &keys, &*clock);
        let options = EngineOptions {
            facts,
            ..EngineOptions::default()
        };
        let denylist = Denylist::load(Some(folder.clone()));
        let runner = Runner::start(options, denylist, Arc::clone(&clock))?;
        Ok(Self {
            intervals: settings.intervals,
            settings,
            folder,
            _lock: lock,
            keys,
            client,
            runner,
            clock,
            randomness,
            etag: Some(String::new()),
            trouble: Trouble::new("the server could not be asked", "the server answers again"),
            orbit_trouble: Trouble::new(
                "orbit's API does not answer, checking in without it",
                "orbit's API answers again",
            ),
            write_trouble: Trouble::new(
                "the server could not take results",
                "the server takes results again",
            ),
            outbox: Outbox::default(),
            hurry_until: None,
            orbit_missing_until: None,
            notify_key: watch::channel(None).0,
        })
    }

    /// Runs until `stop` is true.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), SessionError> {
        let (ask, mut asked) = mpsc::channel(1);
        let socket = tokio::spawn(notify::keep(
            self.settings.clone(),
            self.notify_key.subscribe(),
            ask,
            Arc::clone(&self.randomness),
        ));
        let runner = self.runner.clone();
        let result = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => Ok(()),
            result = self.work(&mut asked) => result,
        };
        runner.cancel();
        socket.abort();
        result
    }

    async fn work(&mut self, asked: &mut mpsc::Receiver<()>) -> Result<(), SessionError> {
        let now = Instant::now();
        let mut due = Due {
            distributed: now,
            config: now,
            orbit: now,
            write: now,
        };
        loop {
            if let Err(error) = self.ensure_enrolled().await? {
                let wait = self.after(&error);
                tokio::time::sleep(wait).await;
                continue;
            }
            let step = self.step(&mut due).await?;
            if let Err(error) = step {
                let wait = self.after(&error);
                tokio::time::sleep(wait).await;
                continue;
            }
            let mut next = due.distributed.min(due.config).min(due.orbit);
            if !self.outbox.batch().is_empty() {
                next = next.min(due.write);
            }
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                Some(()) = asked.recv() => due.distributed = Instant::now(),
            }
        }
    }

    /// How long to wait after a call that failed.
    fn after(&mut self, error: &CallError) -> Duration {
        if let CallError::Network(_) = error
            && self.client.trust_again(&self.settings.trust)
        {
            tracing::info!("the CA file was replaced; trusting what it says now");
            return Duration::ZERO;
        }
        self.show(error);
        self.trouble.failed(error, &*self.randomness)
    }

    /// Lets the agent's own tables tell of an error.
    fn show(&self, error: &CallError) {
        let text = chain(error);
        self.runner
            .facts()
            .update(|facts| facts.orbit.last_recorded_error.clone_from(&text));
    }

    /// Gets the keys that are missing. The inner error is the server's; the outer one ends the agent.
    async fn ensure_enrolled(&mut self) -> Result<Result<(), CallError>, SessionError> {
        let needs_orbit = self.orbit_is_there() && self.keys.orbit_node_key.is_none();
        if !needs_orbit && self.keys.node_key.is_some() {
            return Ok(Ok(()));
        }
        let reason = match self.settings.token.read() {
            Ok(Some(token)) => return self.enroll(token, needs_orbit).await,
            Ok(None) => "there is none; give --enrollment-token-file".to_owned(),
            Err(error) => chain(&error),
        };
        let error = CallError::NoToken(reason);
        if self.keys.node_key.is_none() {
            return Ok(Err(error));
        }
        let wait = self.orbit_failed(&error);
        self.orbit_missing_until = Some(Instant::now() + wait);
        Ok(Ok(()))
    }

    async fn enroll(
        &mut self,
        token: String,
        needs_orbit: bool,
    ) -> Result<Result<(), CallError>, SessionError> {
        let details = facts::details(&self.runner).await;
        let uuid = details.system_info.filled("uuid").map(str::to_lowercase);
        let identifier = uuid.unwrap_or_else(|| self.keys.instance_id.clone());
        if needs_orbit {
            let request = facts::orbit_enrollment(&token, &identifier, &details);
            match self.client.orbit_enroll(&request).await {
                Ok(key) => {
                    self.orbit_missing_until = None;
                    self.orbit_trouble.works();
                    self.keys.orbit_node_key = Some(key);
                    self.folder.save_keys(&self.keys)?;
                }
                // A server without orbit's API: osquery's alone will do.
                Err(CallError::Missing(_)) => {
                    self.orbit_missing_until = Some(Instant::now() + ORBIT_PAUSE);
                }
                // The token may be for osquery alone: whether it is good for anything shows below.
                Err(CallError::Refused(reason)) => {
                    tracing::debug!(reason, "no enrollment by orbit's API");
                    self.orbit_missing_until = Some(Instant::now() + ORBIT_PAUSE);
                }
                // A first enrollment waits for it a while. A host that is enrolled does not: it can check in without.
                Err(error) => {
                    let is_first = self.keys.node_key.is_none();
                    if is_first && self.trouble.failures() < ORBIT_TRIES && !error.is_final() {
                        return Ok(Err(error));
                    }
                    let wait = self.orbit_failed(&error);
                    self.orbit_missing_until = Some(Instant::now() + wait);
                }
            }
        }
        if self.keys.node_key.is_none() {
            let request = EnrollRequest {
                enroll_secret: token,
                host_identifier: identifier,
                platform_type: "9".to_owned(),
                host_details: details,
            };
            match self.client.enroll(&request).await {
                Ok(key) => {
                    self.keys.node_key = Some(key);
                    self.folder.save_keys(&self.keys)?;
                    self.etag = Some(String::new());
                    tracing::info!(
                        server = self.client.server(),
                        by_orbit = self.keys.orbit_node_key.is_some(),
                        "enrolled"
                    );
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        let enrolled = self.keys.orbit_node_key.is_some();
        self.runner
            .facts()
            .update(|facts| facts.orbit.enrolled = enrolled);
        Ok(Ok(()))
    }

    fn orbit_is_there(&self) -> bool {
        self.orbit_missing_until
            .is_none_or(|until| until <= Instant::now())
    }

    /// How long to leave orbit's API alone after a fault.
    fn orbit_failed(&mut self, error: &CallError) -> Duration {
        self.show(error);
        self.orbit_trouble.failed(error, &*self.randomness)
    }

    /// Does what is due. A refused key is forgotten: the next round enrolls.
    async fn step(&mut self, due: &mut Due) -> Result<Result<(), CallError>, SessionError> {
        let now = Instant::now();
        if due.orbit <= now {
            due.orbit = now
                + jittered(self.intervals.orbit, &*self.randomness).max(self.intervals.orbit / 2);
            match self.ask_orbit().await {
                Ok(()) => {}
                Err(CallError::Refused(_)) => {
                    tracing::warn!("the server knows the orbit key no more; enrolling again");
                    self.keys.orbit_node_key = None;
                    self.folder.save_keys(&self.keys)?;
                    self.notify_key.send_replace(None);
                    return Ok(Ok(()));
                }
                Err(error) => {
                    let wait = self.orbit_failed(&error);
                    due.orbit = due.orbit.max(now + wait);
                }
            }
        }
        let result = self.ask_osquery(due, now).await;
        if let Err(CallError::Refused(_)) = &result {
            tracing::warn!("the server knows the node key no more; enrolling again");
            self.keys.node_key = None;
            self.outbox.clear();
            self.folder.save_keys(&self.keys)?;
        }
        Ok(result)
    }

    async fn ask_orbit(&mut self) -> Result<(), CallError> {
        let Some(key) = self.keys.orbit_node_key.clone() else {
            return Ok(());
        };
        let request = orbit::KeyRequest {
            orbit_node_key: Secret::new(key.clone()),
        };
        self.client.orbit_config(&request).await?;
        self.orbit_trouble.works();
        // Decided anew with every answer: a server that was rolled back does not have the socket any more.
        let wanted = self.client.server_has(Capability::Notify).then_some(key);
        self.notify_key.send_if_modified(|current| {
            let changed = *current != wanted;
            *current = wanted;
            changed
        });
        Ok(())
    }

    async fn ask_osquery(&mut self, due: &mut Due, now: Instant) -> Result<(), CallError> {
        let Some(key) = self.keys.node_key.clone() else {
            return Ok(());
        };
        if due.config <= now {
            due.config = now
                + jittered(self.intervals.config, &*self.randomness).max(self.intervals.config / 2);
            let request = ConfigRequest {
                node_key: key.clone(),
                etag: self.etag.clone(),
            };
            if let ConfigAnswer::Changed { config, etag } = self.client.config(&request).await? {
                self.take_config(&Value::Object(config));
                self.etag = etag.or_else(|| Some(String::new()));
            }
        }
        self.send(&key, due).await?;
        if due.distributed <= now {
            let hurry = self.hurry_until.is_some_and(|until| until > now);
            let interval = if hurry {
                HURRY.min(self.intervals.distributed)
            } else {
                self.intervals.distributed
            };
            due.distributed = now + interval;
            let answer = self.client.read(&key).await?;
            // Only this ends a row of failures: a step may have had nothing to ask.
            self.trouble.works();
            if let Some(seconds) = answer.accelerate {
                self.hurry_until = Some(now + Duration::from_secs(seconds.min(600)));
            }
            let discovery = |name: &str| answer.discovery.iter().find(|(found, _)| found == name);
            let wanted = answer.queries.iter().filter_map(|(name, sql)| {
                // When any query has a discovery, those without are not run.
                let found = discovery(name).map(|(_, sql)| sql.clone());
                (found.is_some() || answer.discovery.is_empty()).then(|| Wanted {
                    name: name.clone(),
                    sql: sql.clone(),
                    discovery: found,
                })
            });
            let wanted: Vec<Wanted> = wanted.collect();
            if !wanted.is_empty() {
                let results = self.runner.run(wanted).await;
                self.outbox.add(results);
                self.send(&key, due).await?;
            }
        }
        Ok(())
    }

    /// Sends what waits, batch by batch. It is kept until the server took it; only what it refuses is given up. A fault
    /// does not keep the agent from asking: only a refused key is an error.
    async fn send(&mut self, key: &str, due: &mut Due) -> Result<(), CallError> {
        loop {
            let batch = self.outbox.batch();
            let number = batch.len();
            if number == 0 || due.write > Instant::now() {
                return Ok(());
            }
            match self.client.write(key, batch).await {
                Ok(()) => {
                    self.outbox.taken(number);
                    self.write_trouble.works();
                }
                Err(CallError::Unavailable {
                    status, message, ..
                }) if is_refusal_of_content(status)
                    || status == 500 && self.write_trouble.failures() >= RESULT_TRIES =>
                {
                    tracing::warn!(status, message, "the server does not take a result");
                    self.outbox.refused(number, &format!("{status} {message}"));
                }
                Err(error @ CallError::Refused(_)) => return Err(error),
                Err(error) => {
                    self.show(&error);
                    let wait = self.write_trouble.failed(&error, &*self.randomness);
                    due.write = Instant::now() + wait;
                    return Ok(());
                }
            }
        }
    }

    fn take_config(&mut self, config: &Value) {
        let option = |names: &[&str]| {
            let value = names
                .iter()
                .find_map(|name| config.pointer(&format!("/options/{name}")))?;
            let seconds = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
            Some(Duration::from_secs(seconds).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL))
        };
        let defaults = self.settings.intervals;
        self.intervals = Intervals {
            distributed: option(&["distributed_interval"]).unwrap_or(defaults.distributed),
            config: option(&["config_refresh", "config_tls_refresh"]).unwrap_or(defaults.config),
            orbit: defaults.orbit,
        };
        let flags = facts::flags(&self.settings, config);
        self.runner.facts().update(|facts| {
            facts.config_valid = true;
            facts.flags = flags;
        });
        tracing::debug!(at = %self.clock.now(), "took a configuration");
    }
}

/// Whether a status means that the same body will never be taken. 408 and 429 pass, and so do faults of the server.
fn is_refusal_of_content(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 401 | 403 | 404 | 407 | 408 | 425 | 429)
}
