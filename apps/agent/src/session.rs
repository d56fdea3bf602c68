//! The loop: enroll, ask, run, answer, until it is stopped.

use std::sync::Arc;
use std::time::Duration;

use muster_clock::{Clock, Randomness};
use muster_negotiation::Capability;
use muster_tables::{AgentFacts, EngineOptions, FlagFact, OrbitFacts};
use muster_wire_fleet::{Secret, orbit};
use muster_wire_osquery::{ConfigAnswer, ConfigRequest, EnrollRequest, HostDetails, Row};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::backoff::{Backoff, jittered};
use crate::client::{CallError, Client, ClientError};
use crate::config::{Intervals, Settings};
use crate::denylist::Denylist;
use crate::keys::{DataFileError, DataFolder, Keys};
use crate::notify;
use crate::outbox::Outbox;
use crate::runner::{Runner, RunnerError, Wanted, chain};

/// The shortest interval that a configuration may ask for.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How often it asks while the server wants it to hurry.
const HURRY: Duration = Duration::from_secs(5);
/// How long a server counts as one without orbit's API when it said so, or when it refused the token for that: it may
/// have been updated since, or the token replaced.
const ORBIT_PAUSE: Duration = Duration::from_secs(60 * 60);
/// A notification socket that lasted so long was good: the next one is tried soon.
const NOTIFY_LASTED: Duration = Duration::from_secs(60);
/// The least wait before it is tried again; it grows while it cannot be had.
const NOTIFY_FIRST: Duration = Duration::from_secs(2);

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
    backoff: Backoff,
    /// Why the server could not be asked, as it was last told.
    trouble: Option<String>,
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
            keys.instance_id = new_instance_id(&*randomness);
        }
        if keys.server != client.server() {
            // Keys of another server mean nothing here.
            (keys.node_key, keys.orbit_node_key) = (None, None);
            client.server().clone_into(&mut keys.server);
        }
        folder.save_keys(&keys)?;
        let facts = facts(&settings, &keys, &*clock);
        let options = EngineOptions {
            facts,
            ..EngineOptions::default()
        };
        let denylist = Denylist::load(Some(folder.clone()));
        let runner = Runner::start(options, denylist, Arc::clone(&clock))?;
        Ok(Self {
            settings,
            folder,
            _lock: lock,
            keys,
            client,
            runner,
            clock,
            randomness,
            intervals: Intervals::default(),
            etag: Some(String::new()),
            backoff: Backoff::default(),
            trouble: None,
            outbox: Outbox::default(),
            hurry_until: None,
            orbit_missing_until: None,
            notify_key: watch::channel(None).0,
        })
    }

    /// Runs until `stop` is true.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), SessionError> {
        let (ask, mut asked) = mpsc::channel(1);
        let socket = tokio::spawn(hold_socket(
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
        let mut due = Due {
            distributed: Instant::now(),
            config: Instant::now(),
            orbit: Instant::now(),
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
            let next = due.distributed.min(due.config).min(due.orbit);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                Some(()) = asked.recv() => due.distributed = Instant::now(),
            }
        }
    }

    /// How long to wait after a call that failed; says why, once per kind of trouble.
    fn after(&mut self, error: &CallError) -> Duration {
        if let CallError::Network(_) = error
            && self.client.trust_again(&self.settings.trust)
        {
            tracing::info!("the CA file was replaced; trusting what it says now");
            return Duration::ZERO;
        }
        let wait = match error {
            CallError::Refused(_) | CallError::NoToken(_) => {
                self.backoff.refused(&*self.randomness)
            }
            other => self.backoff.failed(other.retry_after(), &*self.randomness),
        };
        let text = chain(error);
        self.runner
            .facts()
            .update(|facts| facts.orbit.last_recorded_error.clone_from(&text));
        let wait_ms = wait.as_millis() as u64;
        if self.trouble.as_ref() == Some(&text) {
            tracing::debug!(error = text, wait_ms, "still trying");
        } else {
            let what = match error {
                CallError::Refused(_) => "refused",
                CallError::NoToken(_) => "cannot enroll",
                _ => "the server could not be asked",
            };
            tracing::warn!(error = text, wait_ms, "{what}; trying again");
            self.trouble = Some(text);
        }
        wait
    }

    /// The server said what to run. Only this ends a row of failures: a step may have had nothing to ask.
    fn works(&mut self) {
        let failures = self.backoff.failures();
        self.backoff.reset();
        if self.trouble.take().is_some() {
            tracing::info!(failures, "the server answers again");
        }
    }

    /// Gets the keys that are missing. The inner error is the server's; the outer one ends the agent.
    async fn ensure_enrolled(&mut self) -> Result<Result<(), CallError>, SessionError> {
        let needs_orbit = self.orbit_is_there() && self.keys.orbit_node_key.is_none();
        if !needs_orbit && self.keys.node_key.is_some() {
            return Ok(Ok(()));
        }
        let token = match self.settings.token.read() {
            Ok(Some(token)) => token,
            Ok(None) => {
                let reason = "there is none; give --enrollment-token-file".to_owned();
                return Ok(Err(CallError::NoToken(reason)));
            }
            Err(error) => return Ok(Err(CallError::NoToken(chain(&error)))),
        };
        let details = self.details().await;
        let uuid = details.system_info.filled("uuid").map(str::to_lowercase);
        let identifier = uuid.unwrap_or_else(|| self.keys.instance_id.clone());
        if needs_orbit {
            let request = orbit_enrollment(&token, &identifier, &details);
            match self.client.orbit_enroll(&request).await {
                Ok(key) => {
                    self.orbit_missing_until = None;
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
                Err(error) => return Ok(Err(error)),
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

    async fn details(&self) -> HostDetails {
        let runner = &self.runner;
        let first = |sql: &'static str| async move {
            runner
                .rows(sql)
                .await
                .into_iter()
                .next()
                .unwrap_or_default()
        };
        HostDetails {
            os_version: first("SELECT * FROM os_version").await,
            osquery_info: first("SELECT * FROM osquery_info").await,
            system_info: first("SELECT * FROM system_info").await,
            platform_info: first("SELECT * FROM platform_info").await,
        }
    }

    /// Does what is due. A refused key is forgotten: the next round enrolls.
    async fn step(&mut self, due: &mut Due) -> Result<Result<(), CallError>, SessionError> {
        let now = Instant::now();
        if self.orbit_is_there() && due.orbit <= now {
            due.orbit = now
                + jittered(self.intervals.orbit, &*self.randomness).max(self.intervals.orbit / 2);
            if let Err(error) = self.ask_orbit().await {
                if !matches!(error, CallError::Refused(_)) {
                    return Ok(Err(error));
                }
                tracing::warn!("the server knows the orbit key no more; enrolling again");
                self.keys.orbit_node_key = None;
                self.folder.save_keys(&self.keys)?;
                self.notify_key.send_replace(None);
                return Ok(Ok(()));
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
        self.send(&key).await?;
        if due.distributed <= now {
            let hurry = self.hurry_until.is_some_and(|until| until > now);
            let interval = if hurry {
                HURRY.min(self.intervals.distributed)
            } else {
                self.intervals.distributed
            };
            due.distributed = now + interval;
            let answer = self.client.read(&key).await?;
            self.works();
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
                self.send(&key).await?;
            }
        }
        Ok(())
    }

    /// Sends what waits, batch by batch. It is kept until the server took it; only what it refuses is given up.
    async fn send(&mut self, key: &str) -> Result<(), CallError> {
        loop {
            let batch = self.outbox.batch();
            let number = batch.len();
            if number == 0 {
                return Ok(());
            }
            match self.client.write(key, batch).await {
                Ok(()) => self.outbox.taken(number),
                Err(CallError::Unavailable {
                    status, message, ..
                }) if is_refusal_of_content(status) => {
                    tracing::warn!(status, message, "the server does not take a result");
                    self.outbox.refused(number, &format!("{status} {message}"));
                }
                Err(error) => return Err(error),
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
        let defaults = Intervals::default();
        self.intervals = Intervals {
            distributed: option(&["distributed_interval"]).unwrap_or(defaults.distributed),
            config: option(&["config_refresh", "config_tls_refresh"]).unwrap_or(defaults.config),
            orbit: defaults.orbit,
        };
        let flags = config
            .pointer("/options")
            .and_then(Value::as_object)
            .map(|options| {
                let flag = |(name, value): (&String, &Value)| FlagFact {
                    name: name.clone(),
                    value: value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned),
                    ..FlagFact::default()
                };
                options.iter().map(flag).collect::<Vec<_>>()
            });
        self.runner.facts().update(|facts| {
            facts.config_valid = true;
            if let Some(flags) = flags {
                facts.flags = flags;
            }
        });
        tracing::debug!(at = %self.clock.now(), "took a configuration");
    }
}

/// Whether a status means that the same body will never be taken. 408 and 429 pass, and so do faults of the server.
fn is_refusal_of_content(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 401 | 403 | 404 | 407 | 408 | 425 | 429)
}

/// Holds the notification socket while there is a key for it.
async fn hold_socket(
    settings: Settings,
    mut key: watch::Receiver<Option<String>>,
    ask: mpsc::Sender<()>,
    randomness: Arc<dyn Randomness>,
) {
    let mut backoff = Backoff::default();
    loop {
        let Some(current) = key.borrow_and_update().clone() else {
            if key.changed().await.is_err() {
                return;
            }
            continue;
        };
        let server = settings.server.trim_end_matches('/');
        let began = Instant::now();
        tokio::select! {
            held = notify::hold(server, &current, &settings.trust, &ask) => {
                let reason = held.err().map_or_else(|| "closed".to_owned(), |error| chain(&error));
                if began.elapsed() >= NOTIFY_LASTED {
                    backoff.reset();
                }
                let wait = backoff.failed(Some(NOTIFY_FIRST), &*randomness);
                let wait_ms = wait.as_millis() as u64;
                tracing::debug!(reason, wait_ms, "the notification socket ended; asking at the interval");
                tokio::time::sleep(wait).await;
            }
            changed = key.changed() => if changed.is_err() { return },
        }
    }
}

fn orbit_enrollment(token: &str, identifier: &str, details: &HostDetails) -> orbit::EnrollRequest {
    let text = |row: &Row, column: &str| row.get(column).unwrap_or_default().to_owned();
    orbit::EnrollRequest {
        enroll_secret: Secret::new(token),
        hardware_uuid: identifier.to_owned(),
        hardware_serial: text(&details.system_info, "hardware_serial"),
        hostname: text(&details.system_info, "hostname"),
        platform: text(&details.os_version, "platform"),
        platform_like: text(&details.os_version, "platform_like"),
        osquery_identifier: identifier.to_owned(),
        computer_name: text(&details.system_info, "computer_name"),
        hardware_model: text(&details.system_info, "hardware_model"),
    }
}

fn facts(settings: &Settings, keys: &Keys, clock: &dyn Clock) -> AgentFacts {
    let flag = |name: &str, value: &str| FlagFact {
        name: name.to_owned(),
        value: value.to_owned(),
        ..FlagFact::default()
    };
    let intervals = Intervals::default();
    AgentFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance_id: keys.instance_id.clone(),
        start_time: clock.now(),
        flags: vec![
            flag(
                "distributed_interval",
                &intervals.distributed.as_secs().to_string(),
            ),
            flag("config_refresh", &intervals.config.as_secs().to_string()),
            flag(
                "tls_hostname",
                settings.server.split("://").nth(1).unwrap_or_default(),
            ),
        ],
        orbit: OrbitFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            enrolled: keys.orbit_node_key.is_some(),
            ..OrbitFacts::default()
        },
        ..AgentFacts::default()
    }
}

/// A random UUID (version 4).
fn new_instance_id(randomness: &dyn Randomness) -> String {
    let mut bytes = [0; 16];
    randomness.fill(&mut bytes);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use muster_clock::SeededRandomness;

    use super::*;

    #[test]
    fn an_instance_id_is_a_random_uuid() {
        let randomness = SeededRandomness::new(1);
        let id = new_instance_id(&randomness);
        assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
        assert_ne!(id, new_instance_id(&randomness));
    }
}
