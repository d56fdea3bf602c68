//! Hosts as Fleet's simulator of January 2025 plays them at its defaults, so that figures can be set beside Fleet's own.
//!
//! From recordings of it: every second host has an orbit part. A host enrolls by orbit's API and then by osquery's, reads
//! its configuration and its questions and answers them; then questions every 10 s, configuration every 60 s, orbit's every
//! 30 s. The orbit part registers a device token once and asks for it four times, 5 s apart, and then every five minutes.
//! What the schedule gives is logged every 10 s, after a `GET /version`; without a schedule nothing is. Connections are
//! HTTP/2 and made anew every 10 s, with a whole handshake.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use muster_clock::Randomness as _;
use muster_wire_osquery::{DistributedResult, DistributedWrite, ReadAnswer, Row};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::host::{CallError, Host};

/// How often a host asks for distributed queries, and makes a new connection.
const DISTRIBUTED: Duration = Duration::from_secs(10);
/// How often a host asks for osquery's configuration.
const CONFIG: Duration = Duration::from_secs(60);
/// How often a host with orbit asks for orbit's.
const ORBIT_CONFIG: Duration = Duration::from_secs(30);
/// How often a host sends the logs that there are.
const LOG: Duration = Duration::from_secs(10);
/// How often the queries of the schedule run.
pub(crate) const SCHEDULE: Duration = Duration::from_secs(60);
/// How often the device token is asked for at first, and how often so.
const FIRST_CHECK: Duration = Duration::from_secs(5);
const FIRST_CHECKS: u32 = 4;
/// How often later.
const CHECK: Duration = Duration::from_secs(300);

/// Of each kind of software: what all hosts have, what this one has, what is known to be vulnerable.
const COMMON_SOFTWARE: u32 = 10;
const UNIQUE_SOFTWARE: u32 = 1;
const VULNERABLE_SOFTWARE: u32 = 10;
/// Users that all hosts have, and that this one has.
const COMMON_USERS: u32 = 10;
const UNIQUE_USERS: u32 = 10;

/// How many requests a host makes in so many seconds, half of the hosts with orbit.
pub(crate) fn requests_in(seconds: u64, scheduled: u32) -> f64 {
    let times = |interval: Duration| seconds as f64 / interval.as_secs_f64();
    let logs = if scheduled > 0 {
        2.0 * times(SCHEDULE)
    } else {
        0.0
    };
    times(DISTRIBUTED) + times(CONFIG) + times(ORBIT_CONFIG) / 2.0 + logs
}

struct Orbit {
    key: String,
    token: String,
    checks: u32,
}

struct FleetHost {
    host: Host,
    orbit: Option<Orbit>,
    /// The names of what runs by schedule.
    schedule: Vec<String>,
    /// Entries that are not sent yet.
    entries: Vec<Value>,
}

/// Enrolls after a while, and then lives until it is told to stop.
pub(crate) async fn live(host: Host, delay: Duration, mut stop: watch::Receiver<bool>) {
    tokio::time::sleep(delay).await;
    let mut host = FleetHost {
        host,
        orbit: None,
        schedule: Vec::new(),
        entries: Vec::new(),
    };
    if let Err(error) = host.enroll().await {
        host.host.measures().failed(&format!("enroll: {error}"));
        return;
    }
    host.host.measures().enrolled();
    let start = Instant::now();
    let never = start + Duration::from_secs(365 * 24 * 60 * 60);
    let orbit = |at: Instant| if host.orbit.is_some() { at } else { never };
    let mut due = [
        start,
        start,
        start + LOG,
        start + SCHEDULE,
        orbit(start),
        orbit(start),
    ];
    loop {
        let Some((index, next)) = due.iter().copied().enumerate().min_by_key(|(_, at)| *at) else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let (interval, done) = match index {
            0 => {
                host.host.disconnect();
                (DISTRIBUTED, host.distributed().await)
            }
            1 => (CONFIG, host.config().await),
            2 => (LOG, host.log().await),
            3 => {
                host.run_schedule();
                (SCHEDULE, Ok(()))
            }
            4 => (ORBIT_CONFIG, host.orbit_config().await),
            _ => host.check_token().await,
        };
        due[index] += interval;
        if *stop.borrow() {
            return;
        }
        if let Err(error) = done {
            host.host.measures().failed(&error.to_string());
            host.host.disconnect();
        }
    }
}

impl FleetHost {
    async fn call(&mut self, path: &str, body: &Value) -> Result<Bytes, CallError> {
        let request = Request::post(format!("https://localhost{path}"))
            .header("user-agent", "Go-http-client/2.0")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        self.host.send(request).await
    }

    /// A request of the orbit part.
    async fn orbit(&mut self, method: Method, path: &str, body: Value) -> Result<(), CallError> {
        // In random order, as the real ones.
        let capabilities = match self.host.randomness().below(2) {
            0 => "escrow_buddy,setup_experience",
            _ => "setup_experience,escrow_buddy",
        };
        let body = match body {
            Value::Null => Bytes::new(),
            body => Bytes::from(body.to_string()),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}"))
            .header("user-agent", "Go-http-client/2.0")
            .header("x-fleet-capabilities", capabilities)
            .body(Full::new(body))?;
        self.host.send(request).await.map(drop)
    }

    async fn enroll(&mut self) -> Result<(), CallError> {
        let (name, uuid, number) = (
            self.host.name().to_owned(),
            self.host.uuid().to_owned(),
            self.host.number(),
        );
        let secret = self.host.target().secret().to_owned();
        let serial = format!("S{number}");
        if number.is_multiple_of(2) {
            let body = json!({
                "enroll_secret": secret, "hardware_uuid": uuid, "hardware_serial": serial, "hostname": name,
                "platform": "", "osquery_identifier": "", "computer_name": "", "hardware_model": "",
            });
            let answer = self.call("/api/fleet/orbit/enroll", &body).await?;
            let answer: Value = serde_json::from_slice(&answer)?;
            self.orbit = Some(Orbit {
                key: answer["orbit_node_key"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                token: self.host.new_uuid(),
                checks: 0,
            });
        }
        let details = json!({
            "os_version": os_version(), "osquery_info": osquery_info(&uuid), "platform_info": {},
            "system_info": system_info(&name, &uuid, &serial),
        });
        let body = json!({
            "enroll_secret": secret, "host_details": details, "host_identifier": uuid, "platform_type": "16",
        });
        let answer = self.call("/api/osquery/enroll", &body).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let key = answer["node_key"].as_str().unwrap_or_default();
        self.host.set_node_key(key);
        Ok(())
    }

    async fn config(&mut self) -> Result<(), CallError> {
        let body = json!({ "node_key": self.host.node_key() });
        let answer = self.call("/api/osquery/config", &body).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let packs = answer["packs"].as_object().into_iter().flatten();
        self.schedule = packs
            .flat_map(|(pack, content)| {
                let queries = content["queries"].as_object().into_iter().flatten();
                queries.map(move |(name, _)| format!("pack/{pack}/{name}"))
            })
            .collect();
        Ok(())
    }

    fn run_schedule(&mut self) {
        let info = osquery_info(self.host.uuid());
        self.entries.extend(self.schedule.iter().map(|name| {
            json!({
                "snapshot": [info], "action": "snapshot", "name": name, "hostIdentifier": self.host.uuid(),
                "calendarTime": "Mon Nov 30 00:00:00 2026 UTC", "unixTime": 1_795_996_800, "epoch": 0, "counter": 0,
                "numerics": false, "decorations": { "host_uuid": self.host.uuid(), "hostname": self.host.name() },
            })
        }));
    }

    async fn log(&mut self) -> Result<(), CallError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let request = Request::get("https://localhost/version")
            .header("user-agent", "Go-http-client/2.0")
            .body(Full::default())?;
        self.host.send(request).await?;
        let data = std::mem::take(&mut self.entries);
        let body = json!({ "node_key": self.host.node_key(), "log_type": "result", "data": data });
        self.call("/api/osquery/log", &body).await.map(drop)
    }

    async fn orbit_config(&mut self) -> Result<(), CallError> {
        let Some(orbit) = &self.orbit else {
            return Ok(());
        };
        let body = json!({ "orbit_node_key": orbit.key });
        let path = "/api/fleet/orbit/config";
        self.orbit(Method::POST, path, body).await
    }

    /// Registers the device token the first time; then asks whether it is known.
    async fn check_token(&mut self) -> (Duration, Result<(), CallError>) {
        let Some(orbit) = &mut self.orbit else {
            return (CHECK, Ok(()));
        };
        orbit.checks += 1;
        let checks = orbit.checks;
        let path = format!("/api/latest/fleet/device/{}/ping", orbit.token);
        let body = json!({ "orbit_node_key": orbit.key, "device_auth_token": orbit.token });
        let wait = if checks < FIRST_CHECKS {
            FIRST_CHECK
        } else {
            CHECK
        };
        if checks == 1 {
            let path = "/api/fleet/orbit/device_token";
            if let Err(error) = self.orbit(Method::POST, path, body).await {
                return (wait, Err(error));
            }
        }
        (wait, self.orbit(Method::HEAD, &path, Value::Null).await)
    }

    async fn distributed(&mut self) -> Result<(), CallError> {
        let body = json!({ "node_key": self.host.node_key() });
        let answer = self.call("/api/osquery/distributed/read", &body).await?;
        let answer: ReadAnswer = serde_json::from_slice(&answer)?;
        if answer.queries.is_empty() {
            return Ok(());
        }
        let queries = answer.queries.into_iter();
        let results: Vec<DistributedResult> = queries.map(|(name, _)| self.answer(name)).collect();
        let body = serde_json::to_value(DistributedWrite {
            node_key: self.host.node_key(),
            results: &results,
        })?;
        self.call("/api/osquery/distributed/write", &body)
            .await
            .map(drop)
    }

    /// Rows as the simulator makes them up.
    fn answer(&self, name: String) -> DistributedResult {
        let number = self.host.number();
        let (host, uuid) = (self.host.name(), self.host.uuid());
        let detail = name.strip_prefix("fleet_detail_query_").unwrap_or_default();
        let rows = match detail {
            "os_version" | "os_unix_like" => rows([os_version()]),
            "osquery_info" => rows([osquery_info(uuid)]),
            "system_info" => rows([system_info(host, uuid, &format!("S{number}"))]),
            "osquery_flags" => rows([
                json!({ "name": "config_refresh", "value": "60" }),
                json!({ "name": "distributed_interval", "value": "10" }),
                json!({ "name": "logger_tls_period", "value": "99999" }),
            ]),
            "uptime" => rows([json!({ "days": "0", "hours": "4", "total_seconds": "16691" })]),
            "orbit_info" => rows([json!({
                "version": "1.22.0", "desktop_version": "1.22.0", "scripts_enabled": "1", "enrolled": "true",
            })]),
            detail if detail.starts_with("network_interface") => rows([json!({
                "address": format!("10.{}.{}.7", number / 256 % 256, number % 256), "mac": "02:00:00:00:00:01",
            })]),
            "software_linux" => rows(software(number)),
            "users" => rows(users(number)),
            "" => rows([json!({ "1": "1" })]),
            _ => Vec::new(),
        };
        DistributedResult {
            name,
            rows,
            ..DistributedResult::default()
        }
    }
}

fn rows(rows: impl IntoIterator<Item = Value>) -> Vec<Row> {
    rows.into_iter()
        .map(|row| {
            let cells = row.as_object().into_iter().flatten();
            cells
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect()
        })
        .collect()
}

fn os_version() -> Value {
    json!({
        "arch": "x86_64", "build": "", "codename": "jammy", "major": "22", "minor": "4", "name": "Ubuntu", "patch": "0",
        "platform": "ubuntu", "platform_like": "debian", "version": "22.04.1 LTS (Jammy Jellyfish)",
    })
}

fn osquery_info(uuid: &str) -> Value {
    json!({
        "build_distro": "centos7", "build_platform": "linux", "config_hash": "", "config_valid": "0",
        "extensions": "inactive", "instance_id": uuid, "pid": "12947", "platform_mask": "21", "start_time": "1580931224",
        "uuid": uuid, "version": "5.5.1", "watcher": "-1",
    })
}

fn system_info(name: &str, uuid: &str, serial: &str) -> Value {
    json!({
        "computer_name": name, "cpu_brand": "Simulated", "cpu_logical_cores": "8", "cpu_physical_cores": "4",
        "cpu_subtype": "Simulated", "cpu_type": "x86_64h", "hardware_model": "", "hardware_serial": serial,
        "hardware_vendor": "", "hardware_version": "", "hostname": name, "local_hostname": name,
        "physical_memory": "17179869184", "uuid": uuid,
    })
}

fn software(number: u32) -> Vec<Value> {
    let entry = |name: String, version: &str| json!({ "name": name, "version": version, "source": "deb_packages" });
    let common = (0..COMMON_SOFTWARE).map(|index| entry(format!("common-{index}"), "0.0.1"));
    let unique =
        (0..UNIQUE_SOFTWARE).map(|index| entry(format!("unique-{number}-{index}"), "1.1.1"));
    let vulnerable =
        (0..VULNERABLE_SOFTWARE).map(|index| entry(format!("vulnerable-{index}"), "2.0.3"));
    common.chain(unique).chain(vulnerable).collect()
}

fn users(number: u32) -> Vec<Value> {
    let entry = |uid: u32, name: String| {
        json!({
            "uid": uid.to_string(), "username": name, "type": "", "groupname": "staff", "shell": "/bin/zsh",
        })
    };
    let common = (0..COMMON_USERS).map(|index| entry(index, format!("common-{index}")));
    let unique = (0..UNIQUE_USERS)
        .map(|index| entry(COMMON_USERS + index, format!("unique-{number}-{index}")));
    common.chain(unique).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_makes_as_many_requests_as_the_recorded_one() {
        // Twelve reads, two configurations, and for every second host four of orbit's.
        assert!((requests_in(120, 0) - 16.0).abs() < 1e-9);
        assert!((requests_in(120, 2) - 20.0).abs() < 1e-9);
    }

    #[test]
    fn hosts_have_as_much_as_the_simulators_by_default() {
        assert_eq!((software(7).len(), users(7).len()), (21, 20));
        let shared = software(1)
            .into_iter()
            .filter(|entry| software(2).contains(entry));
        assert_eq!(shared.count(), 20);
    }
}
