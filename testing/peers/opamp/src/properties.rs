//! What each client has to show, in the order in which it is looked at.

use std::time::{Duration, Instant};

use muster_clock::{Clock as _, SystemClock};
use serde_json::json;

use crate::Failure;
use crate::agent::{Line, POLICY, UNAUTHORIZED};
use crate::cases::{Carrier, Case, Configuration, Kind};
use crate::launch;
use crate::report::Report;
use crate::scene::{LOOK, PATIENCE, Scene, expect, is_after, short};
use crate::server::{Bench, Operator};

/// For how long messages of a client that has nothing to say are counted.
const QUIET: Duration = Duration::from_secs(45);
/// How many messages a client with nothing to say sends at most in that time: one in 30 s, one that was due, and one more for
/// what it may have found out.
const MOST_QUIET_MESSAGES: f64 = 4.0;
/// How often a client is asked for its full state at most between two starts of its server: for a gap in its numbers, for the
/// list of its components, and for what it left out when it connected again. Of that one may come while nothing else happens.
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

impl Scene<'_> {
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
        if sent < least || sent > MOST_QUIET_MESSAGES * agents || asked > agents {
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

    /// Of those that share an enrollment token a server learns by the first message which one comes: too late for a socket to be
    /// refused, so that it is closed.
    fn status_of_revoked(&self) -> &'static str {
        if self.case.adopts || self.case.kind.carrier() == Carrier::Http {
            UNAUTHORIZED
        } else {
            POLICY
        }
    }

    async fn one_is_revoked(&self) -> Found {
        let since = (Instant::now(), SystemClock.now());
        let refusals = self.exchanged().await?.refusals;
        let path = format!("/collectors/{}/revoke", self.agents[0].id);
        let body = json!({ "reason": "to see what it does" });
        self.operator
            .post(&path, &body)
            .await
            .map_err(|error| error.to_string())?;
        let refused = self
            .sees_refused(0, self.status_of_revoked(), since.0, refusals)
            .await?;
        let after = since.0.elapsed().as_secs_f64();
        let neighbour = &self.agents[1];
        if !self.case.is_heard {
            // It says nothing by itself, but does what it is told over its connection.
            let path = format!("/collectors/{}/restart", neighbour.id);
            let told = self.operator.post(&path, &json!({})).await;
            told.map_err(|error| error.to_string())?;
            let command = |line: &Line| line.event("command").cloned();
            let heard = neighbour.agent.wait(since.0, PATIENCE, command).await;
            heard.ok_or("the neighbour does not hear a command")?;
        }
        self.sees(1, "the neighbour is not heard any more", |detail| {
            (detail["status"] == "online" && is_after(&detail["seen_at"], since.1)).then_some(())
        })
        .await?;
        let lines = neighbour.agent.lines();
        let trouble = lines.iter().find(|line| {
            line.at >= since.0
                && (line.refusal(UNAUTHORIZED).is_some() || line.event("connect_failed").is_some())
        });
        if let Some(line) = trouble {
            return Err(format!("the neighbour was hit too: {}", line.text));
        }
        Ok(format!("after {after:.1} s: {refused}"))
    }

    async fn is_refused(&self) -> Found {
        let since = Instant::now();
        let refusals = self.exchanged().await?.refusals;
        self.revoke_token().await?;
        let refused = self.sees_refused(1, UNAUTHORIZED, since, refusals).await?;
        Ok(format!(
            "after {:.1} s: {refused}",
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
