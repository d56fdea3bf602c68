//! What each client has to show, in the order in which it is looked at.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use muster_clock::{Clock as _, SystemClock, Timestamp};
use serde_json::{Value, json};

use crate::Failure;
use crate::agent::{Agent, Line};
use crate::cases::{Case, Configuration, Kind};
use crate::launch::{self, Target};
use crate::report::Report;
use crate::server::{Bench, Operator, Server};

/// How long a client may take for what it does at once or at its next turn: it asks every 30 s over HTTP, waits up to 40 s after
/// a failure, and many of them share a small machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often an operator looks whether something came about.
const LOOK: Duration = Duration::from_millis(250);
/// For how long messages of a client that has nothing to say are counted.
const QUIET: Duration = Duration::from_secs(45);
/// How many messages a client with nothing to say sends at most in that time: one in 30 s, one that was due, and one more for
/// what it may have found out.
const MOST_QUIET_MESSAGES: f64 = 4.0;
/// How often a client is asked for its full state at most, from its first message to the end.
const MOST_FULL_STATES: f64 = 3.0;
/// For how long a client has to be healthy until its configuration counts as run.
const SOAK_SECONDS: u32 = 5;
/// What is found again in what a client runs.
const MARK: &str = "1717ms";

/// What is found, or why not.
type Found = Result<String, String>;

/// Runs a case to its end and reports each property.
pub(crate) async fn judge(case: &Case, bench: &Bench, report: &Report) {
    let add = |property: &str, found: Found| report.add(case.name, property, &found);
    let mut scene = match Scene::set(case, bench).await {
        Ok(scene) => scene,
        Err(error) => return add("is started", Err(error.to_string())),
    };
    let connected = scene.connects().await;
    let is_there = connected.is_ok();
    add("connects", connected);
    if is_there {
        add("is listed with its attributes", scene.is_listed().await);
        if case.adopts {
            add("gets a key of its own", scene.adopts().await);
        } else {
            add(
                "stays on the enrollment token",
                scene.stays_on_token().await,
            );
        }
        if case.configuration != Configuration::None {
            add(
                "applies a remote configuration and says so",
                scene.is_configured().await,
            );
        }
        add("sends no more than heartbeats", scene.is_quiet().await);
        if case.adopts {
            add(
                "its enrollment token is revoked",
                scene.revoke_token().await,
            );
        }
        add(
            "a restart of the server loses nobody",
            scene.survives_a_restart().await,
        );
        if case.adopts {
            add(
                "goes on by its own key, the token being revoked",
                scene.is_on_own_key().await,
            );
        }
        add(
            "a revoked one is refused, its neighbour goes on",
            scene.one_is_revoked().await,
        );
        if !case.adopts {
            add(
                "is refused once its enrollment token is revoked",
                scene.is_refused().await,
            );
        }
        add(
            "was asked for its full state hardly ever",
            scene.was_hardly_asked().await,
        );
    }
    if let Err(error) = scene.end().await {
        add("ends", Err(error.to_string()));
    }
}

/// A server and two clients of one kind.
struct Scene<'a> {
    case: &'a Case,
    server: Server,
    operator: Operator,
    token_id: i64,
    agents: Vec<Present>,
    /// Everything that server and clients keep.
    _folder: tempfile::TempDir,
}

/// A client with what it is known by.
struct Present {
    letter: char,
    agent: Agent,
    /// Its id at the server, once it is listed.
    id: i64,
}

impl<'a> Scene<'a> {
    async fn set(case: &'a Case, bench: &Bench) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let logs = bench.logs.join(case.slug());
        fs::create_dir_all(&logs)?;
        let server = Server::start(bench, folder.path(), &logs).await?;
        let operator = server.operator().await?;
        let token = json!({ "name": "peers", "families": ["opamp"] });
        let made = operator.post("/enrollment-tokens", &token).await?;
        let secret = made["secret"].as_str().ok_or("the token has no secret")?;
        let authority = server.authority();
        let mut agents = Vec::new();
        for letter in ['a', 'b'] {
            let own: PathBuf = folder.path().join(letter.to_string());
            fs::create_dir_all(&own)?;
            let target = Target {
                port: server.port,
                secret,
                authority: &authority,
            };
            let command = launch::command(case, bench, letter, &target, &own)?;
            let agent = Agent::start(command, &logs.join(format!("{letter}.log")))?;
            agents.push(Present {
                letter,
                agent,
                id: 0,
            });
        }
        Ok(Self {
            case,
            token_id: made["token"]["id"].as_i64().ok_or("the token has no id")?,
            server,
            operator,
            agents,
            _folder: folder,
        })
    }

    async fn end(mut self) -> Result<(), Failure> {
        for present in self.agents {
            present.agent.end().await?;
        }
        self.server.end().await
    }

    /// Everything that an operator can see of a client.
    async fn detail(&self, index: usize) -> Result<Value, String> {
        let id = self.agents[index].id;
        let detail = self.operator.get(&format!("/collectors/{id}")).await;
        detail.map_err(|error| error.to_string())
    }

    /// Waits until an operator sees something; gives what was seen last when it does not come about.
    async fn sees<T>(
        &self,
        index: usize,
        wanted: &str,
        find: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = self.detail(index).await;
            if let Ok(detail) = &seen
                && let Some(found) = find(detail)
            {
                return Ok(found);
            }
            if Instant::now() >= until {
                let letter = self.agents[index].letter;
                let seen = match seen {
                    Ok(detail) => short(&detail),
                    Err(error) => error,
                };
                return Err(format!(
                    "{letter}: {wanted} in {} s; last seen: {seen}",
                    PATIENCE.as_secs()
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn connects(&mut self) -> Found {
        let begun = Instant::now();
        for index in 0..self.agents.len() {
            let name = launch::identity(self.case, self.agents[index].letter).name;
            let path = format!("/collectors?search={name}");
            let until = begun + PATIENCE;
            self.agents[index].id = loop {
                let listed = self
                    .operator
                    .get(&path)
                    .await
                    .map_err(|error| error.to_string())?;
                let items = listed["items"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                let found = items.iter().find(|item| item["name"] == name.as_str());
                if let Some(id) = found
                    .filter(|item| item["status"] == "online")
                    .and_then(|item| item["id"].as_i64())
                {
                    break id;
                }
                if Instant::now() >= until {
                    let said = self.agents[index].agent.lines();
                    let last = said
                        .last()
                        .map(|line| line.text.clone())
                        .unwrap_or_default();
                    return Err(format!("{name} is not online; it said last: {last}"));
                }
                tokio::time::sleep(LOOK).await;
            };
        }
        Ok(format!(
            "two of it are online after {:.1} s",
            begun.elapsed().as_secs_f64()
        ))
    }

    async fn is_listed(&self) -> Found {
        let mut seen = String::new();
        for (index, present) in self.agents.iter().enumerate() {
            let who = launch::identity(self.case, present.letter);
            // What a supervisor knows of its collector comes some time after it has connected.
            let detail = self
                .sees(index, "its attributes do not come", |detail| {
                    (detail["version"] == who.version).then(|| detail.clone())
                })
                .await?;
            let (attribute, value) = (who.attribute.0, who.attribute.1.as_str());
            expect(
                "service.name",
                &detail["identifying_attributes"]["service.name"],
                &who.name,
            )?;
            expect(
                "service.version",
                &detail["identifying_attributes"]["service.version"],
                who.version,
            )?;
            expect(attribute, &detail["attributes"][attribute], value)?;
            let names = detail["capabilities"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let says = |name: &str| names.iter().any(|known| known == name);
            if says("accepts_opamp_connection_settings") != self.case.adopts
                || !says("reports_status")
            {
                return Err(format!("its capabilities are listed as {names:?}"));
            }
            if let Some(uid) = present.told_uid() {
                expect("the uid", &detail["instance_uid"], &uid)?;
            }
            seen = format!("{} {}, {} capabilities", who.name, who.version, names.len());
        }
        Ok(seen)
    }

    async fn adopts(&self) -> Found {
        for (index, present) in self.agents.iter().enumerate() {
            self.sees(index, "the server sees no key adopted", |detail| {
                (detail["key_status"] == "adopted").then_some(())
            })
            .await?;
            let detail = self.detail(index).await?;
            let keys = detail["keys"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let active = keys.iter().filter(|key| key["state"] == "active").count();
            if active != 1 {
                return Err(format!(
                    "{}: it has {active} active keys: {keys:?}",
                    present.letter
                ));
            }
            if matches!(self.case.kind, Kind::OpampGo { .. }) {
                let adopted = present.told("adopted").await?;
                let first = present.told("connecting").await?;
                if adopted["credential"] == first["credential"] {
                    return Err(format!(
                        "{}: it still shows its enrollment token",
                        present.letter
                    ));
                }
                if present.told("offer").await?["has_authority"] != true {
                    return Err(format!(
                        "{}: the offer had no authority to trust",
                        present.letter
                    ));
                }
            }
        }
        Ok("one active key each, in use".to_owned())
    }

    async fn stays_on_token(&self) -> Found {
        for index in 0..self.agents.len() {
            let detail = self.detail(index).await?;
            let has_keys = detail["keys"]
                .as_array()
                .is_some_and(|keys| !keys.is_empty());
            if detail["key_status"] != "none" || has_keys {
                return Err(format!("it was offered a key: {}", short(&detail)));
            }
        }
        Ok("no key was made for it".to_owned())
    }

    async fn is_configured(&self) -> Found {
        let name = "peers";
        let document = format!(
            "receivers: {{nop: {{}}}}\nprocessors: {{batch: {{timeout: {MARK}}}}}\nexporters: {{nop: {{}}}}\n\
             service: {{pipelines: {{logs: {{receivers: [nop], processors: [batch], exporters: [nop]}}}}}}\n"
        );
        let assigned = assign(&self.operator, name, &document).await;
        assigned.map_err(|error| error.to_string())?;
        for index in 0..self.agents.len() {
            self.sees(index, "the configuration is not applied", |detail| {
                (detail["remote_config"]["status"] == "applied").then_some(())
            })
            .await?;
            if self.case.configuration == Configuration::Shown {
                self.sees(index, "the configuration is not what it runs", |detail| {
                    // A collector writes spans of time in its own way.
                    let shown = detail["effective_config"].to_string();
                    (shown.contains(MARK) || shown.contains("1.717s")).then_some(())
                })
                .await?;
            }
        }
        for present in &self.agents {
            present.is_in_sync(&self.operator).await?;
        }
        Ok("applied, run, and in sync".to_owned())
    }

    async fn is_quiet(&self) -> Found {
        let agents = self.agents.len() as f64;
        let before = self.exchanged().await?;
        tokio::time::sleep(QUIET).await;
        let after = self.exchanged().await?;
        let sent = after.messages - before.messages;
        let asked = after.full_states - before.full_states;
        let seen = format!(
            "{sent} messages of two in {} s, {asked} requests for a full state",
            QUIET.as_secs()
        );
        let least = if self.case.is_heard { agents } else { 0.0 };
        if sent < least || sent > MOST_QUIET_MESSAGES * agents || asked > 0.0 {
            return Err(seen);
        }
        if after.full_states > MOST_FULL_STATES * agents {
            return Err(format!(
                "{} requests for a full state before",
                after.full_states
            ));
        }
        Ok(seen)
    }

    /// What the server counted since it was started.
    async fn exchanged(&self) -> Result<Exchanged, String> {
        let count = async |name: &str, label: &str| {
            let counted = self.operator.counter(name, label).await;
            counted.map_err(|error| error.to_string())
        };
        Ok(Exchanged {
            messages: count("muster_collectors_messages_total", "").await?,
            full_states: count("muster_collectors_requests_total", "report_full_state").await?,
        })
    }

    async fn revoke_token(&self) -> Found {
        let path = format!("/enrollment-tokens/{}", self.token_id);
        self.operator
            .delete(&path)
            .await
            .map_err(|error| error.to_string())?;
        Ok("done".to_owned())
    }

    async fn survives_a_restart(&mut self) -> Found {
        self.server
            .restart()
            .await
            .map_err(|error| error.to_string())?;
        // By the server's clock, which is this machine's.
        let since = SystemClock.now();
        let begun = Instant::now();
        for index in 0..self.agents.len() {
            self.sees(index, "it does not come back", |detail| {
                (detail["status"] == "online" && is_after(&detail["seen_at"], since)).then_some(())
            })
            .await?;
        }
        Ok(format!(
            "both are back after {:.1} s",
            begun.elapsed().as_secs_f64()
        ))
    }

    async fn is_on_own_key(&self) -> Found {
        for (index, present) in self.agents.iter().enumerate() {
            let detail = self.detail(index).await?;
            expect("the state of its key", &detail["key_status"], "adopted")?;
            if matches!(self.case.kind, Kind::OpampGo { .. }) {
                let adopted = present.told("adopted").await?;
                let lines = present.agent.lines();
                let last = lines
                    .iter()
                    .rev()
                    .find_map(|line| line.event("connected").cloned());
                let shown = last
                    .map(|event| event["credential"].clone())
                    .unwrap_or_default();
                if shown != adopted["credential"] {
                    return Err(format!(
                        "{}: it connected by another credential",
                        present.letter
                    ));
                }
            }
        }
        Ok("connected again by what it adopted".to_owned())
    }

    async fn one_is_revoked(&self) -> Found {
        let since = (Instant::now(), SystemClock.now());
        let path = format!("/collectors/{}/revoke", self.agents[0].id);
        let body = json!({ "reason": "to see what it does" });
        self.operator
            .post(&path, &body)
            .await
            .map_err(|error| error.to_string())?;
        let refused = self.agents[0].is_refused(since.0).await?;
        let after = since.0.elapsed().as_secs_f64();
        let neighbour = &self.agents[1];
        if self.case.is_heard {
            self.sees(1, "the neighbour is not heard any more", |detail| {
                (detail["status"] == "online" && is_after(&detail["seen_at"], since.1))
                    .then_some(())
            })
            .await?;
        } else {
            let detail = self.detail(1).await?;
            expect("the neighbour", &detail["status"], "online")?;
        }
        let lines = neighbour.agent.lines();
        let trouble = lines.iter().find(|line| {
            line.at >= since.0
                && (line.refusal().is_some() || line.event("connect_failed").is_some())
        });
        if let Some(line) = trouble {
            return Err(format!("the neighbour was hit too: {}", line.text));
        }
        Ok(format!("401 after {after:.1} s ({refused})"))
    }

    async fn is_refused(&self) -> Found {
        let since = Instant::now();
        self.revoke_token().await?;
        let refused = self.agents[1].is_refused(since).await?;
        Ok(format!(
            "401 after {:.1} s ({refused})",
            since.elapsed().as_secs_f64()
        ))
    }

    async fn was_hardly_asked(&self) -> Found {
        // Counted since the last restart, which is when a server knows least of those who come.
        let asked = self.exchanged().await?.full_states;
        let seen = format!("{asked} times since the restart");
        if asked > MOST_FULL_STATES * self.agents.len() as f64 {
            return Err(seen);
        }
        Ok(seen)
    }
}

/// How much was exchanged.
struct Exchanged {
    messages: f64,
    full_states: f64,
}

impl Present {
    /// An event that it told or will tell, the first of its name.
    async fn told(&self, event: &str) -> Result<Value, String> {
        let long_ago = Instant::now()
            .checked_sub(Duration::from_secs(3600))
            .unwrap_or_else(Instant::now);
        let found = self
            .agent
            .wait(long_ago, PATIENCE, |line| line.event(event).cloned())
            .await;
        found.ok_or_else(|| format!("{}: it never said `{event}`", self.letter))
    }

    /// The uid by which it said to go, as a UUID.
    fn told_uid(&self) -> Option<String> {
        let lines = self.agent.lines();
        let told = lines
            .iter()
            .find_map(|line| line.event("started")?["uid"].as_str().map(str::to_owned))?;
        if told.len() == 36 {
            Some(told)
        } else {
            uuid_of_ulid(&told)
        }
    }

    /// Waits until the server holds that it runs what it should.
    async fn is_in_sync(&self, operator: &Operator) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = operator
                .get(&format!("/collectors/{}/config", self.id))
                .await;
            let found = found.map_err(|error| error.to_string())?;
            if found["state"] == "in_sync" {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(format!("{}: it is not in sync: {found}", self.letter));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until it says that it was refused; gives the end of its own words.
    async fn is_refused(&self, since: Instant) -> Result<String, String> {
        let found = self.agent.wait(since, PATIENCE, Line::refusal);
        found
            .await
            .ok_or_else(|| format!("{}: it saw no 401", self.letter))
    }
}

/// Gives all clients a configuration.
async fn assign(operator: &Operator, name: &str, document: &str) -> Result<(), Failure> {
    let files = json!({ "collector.yaml": { "body": document } });
    let made = operator
        .post(
            "/collector-configs",
            &json!({ "name": name, "files": files }),
        )
        .await?;
    let assignment = json!({
        "configuration_id": made["config"]["id"], "selector": "*", "soak_seconds": SOAK_SECONDS,
    });
    operator
        .post("/collector-config-assignments", &assignment)
        .await?;
    Ok(())
}

fn expect(what: &str, found: &Value, expected: &str) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what} is {found}, not {expected}"))
}

fn is_after(time: &Value, moment: Timestamp) -> bool {
    let time = time
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    time.is_some_and(|time| time >= moment)
}

/// What matters of a client, on one line.
fn short(detail: &Value) -> String {
    let members = [
        "name",
        "version",
        "status",
        "standing",
        "key_status",
        "config_status",
        "seen_at",
        "remote_config",
    ];
    let shown = members.map(|member| format!("{member} {}", detail[member]));
    shown.join(", ")
}

/// A ULID is 128 bits as 26 digits of Crockford's alphabet.
fn uuid_of_ulid(text: &str) -> Option<String> {
    const DIGITS: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    if text.len() != 26 {
        return None;
    }
    let mut bits: u128 = 0;
    for sign in text.chars() {
        let digit = DIGITS.find(sign.to_ascii_uppercase())?;
        bits = (bits << 5) | digit as u128;
    }
    let hex = format!("{bits:032x}");
    Some(format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uid_of_an_old_client_is_the_same_128_bits_as_a_uuid() {
        // Both spellings are the example of a library for ULIDs.
        let uuid = uuid_of_ulid("01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_eq!(
            uuid.as_deref(),
            Some("01563e3a-b5d3-d676-4c61-efb99302bd5b")
        );
        assert_eq!(uuid_of_ulid("01ARZ3NDEKTSV4RRFFQ69G5FA"), None);
        assert_eq!(uuid_of_ulid("01ARZ3NDEKTSV4RRFFQ69G5FAU"), None);
    }
}
