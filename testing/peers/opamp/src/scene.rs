//! A server and two clients of one kind, and how it is seen what became of them.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use muster_clock::Timestamp;
use serde_json::{Value, json};

use crate::Failure;
use crate::agent::{Agent, Line};
use crate::cases::Case;
use crate::launch::{self, Target};
use crate::server::{Bench, Operator, Server};

/// How long a client may take for what it does at once or at its next turn: it asks every 30 s over HTTP, waits up to 40 s after
/// a failure, and many of them share a small machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How often an operator looks whether something came about.
pub(crate) const LOOK: Duration = Duration::from_millis(250);

/// A server and two clients of one kind.
pub(crate) struct Scene<'a> {
    pub(crate) case: &'a Case,
    pub(crate) server: Server,
    pub(crate) operator: Operator,
    pub(crate) token_id: i64,
    pub(crate) agents: Vec<Present>,
    /// Everything that server and clients keep.
    _folder: tempfile::TempDir,
}

/// A client with what it is known by.
pub(crate) struct Present {
    pub(crate) letter: char,
    pub(crate) agent: Agent,
    /// Its id at the server, once it is listed.
    pub(crate) id: i64,
}

impl<'a> Scene<'a> {
    pub(crate) async fn set(case: &'a Case, bench: &Bench) -> Result<Self, Failure> {
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

    pub(crate) async fn end(mut self) -> Result<(), Failure> {
        for present in self.agents {
            present.agent.end().await?;
        }
        self.server.end().await
    }

    /// Everything that an operator can see of a client.
    pub(crate) async fn detail(&self, index: usize) -> Result<Value, String> {
        let id = self.agents[index].id;
        let detail = self.operator.get(&format!("/collectors/{id}")).await;
        detail.map_err(|error| error.to_string())
    }

    /// Waits until an operator sees something; gives what was seen last when it does not come about.
    pub(crate) async fn sees<T>(
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

    /// What the server counted since it was started.
    pub(crate) async fn exchanged(&self) -> Result<Exchanged, String> {
        let count = async |name: &str, label: &str| {
            let counted = self.operator.counter(name, label).await;
            counted.map_err(|error| error.to_string())
        };
        Ok(Exchanged {
            messages: count("muster_collectors_messages_total", "").await?,
            full_states: count("muster_collectors_requests_total", "report_full_state").await?,
            refusals: count("muster_collectors_refusals_total", "").await?,
        })
    }

    /// Waits until a client was refused since a moment; gives its own words. Of one that says nothing it is seen by the server,
    /// which had counted so many refusals before, and by there being no answer that it tells of.
    pub(crate) async fn sees_refused(
        &self,
        index: usize,
        status: &str,
        since: Instant,
        before: f64,
    ) -> Result<String, String> {
        let present = &self.agents[index];
        if self.case.tells_refusals {
            return present.is_refused(status, since).await;
        }
        while self.exchanged().await?.refusals <= before {
            if since.elapsed() >= PATIENCE {
                return Err(format!("{}: it was not refused", present.letter));
            }
            tokio::time::sleep(LOOK).await;
        }
        let lines = present.agent.lines();
        let mut recent = lines.iter().filter(|line| line.at >= since);
        if recent.any(|line| line.event("answer").is_some()) {
            return Err(format!("{}: it was answered", present.letter));
        }
        Ok("counted by the server; it says nothing".to_owned())
    }
}

/// How much was exchanged.
pub(crate) struct Exchanged {
    pub(crate) messages: f64,
    pub(crate) full_states: f64,
    pub(crate) refusals: f64,
}

impl Present {
    /// An event that it told or will tell, the first of its name.
    pub(crate) async fn told(&self, event: &str) -> Result<Value, String> {
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
    pub(crate) fn told_uid(&self) -> Option<String> {
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
    pub(crate) async fn is_in_sync(&self, operator: &Operator) -> Result<(), String> {
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
    async fn is_refused(&self, status: &str, since: Instant) -> Result<String, String> {
        let words = |line: &Line| line.refusal(status);
        let found = self.agent.wait(since, PATIENCE, words);
        found
            .await
            .ok_or_else(|| format!("{}: it saw no {status}", self.letter))
    }
}

pub(crate) fn expect(what: &str, found: &Value, expected: &str) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what} is {found}, not {expected}"))
}

pub(crate) fn is_after(time: &Value, moment: Timestamp) -> bool {
    let time = time
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    time.is_some_and(|time| time >= moment)
}

/// What matters of a client, on one line.
pub(crate) fn short(detail: &Value) -> String {
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
