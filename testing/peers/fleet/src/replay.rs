//! Sends a recording to a server of ours and compares.
//!
//! Requests go out in the recorded order with secrets and ids mapped. Time is the recorded one: the server's clock is
//! moved by what passed between two lines. What happened *around* the recorded client (a set-up, a host that was there, a
//! changed option) is done by the [`Scene`] when its moment comes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::answer::{Answer, compare};
use crate::left_out::{CUT, GAP, LeftOut, artefact, left_out};
use crate::mapping::Mapping;
use crate::recording::{Exchange, Line, Recording};
use crate::scene::Scene;
use crate::stream::Open;

/// Recordings that were made case by case, each case as the person that it names.
pub(crate) const CASES: &[&str] = &["golden", "errors", "experiments"];

/// What a replay came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Exchanges that were sent and whose answers were compared.
    pub exchanges: usize,
    /// Messages of WebSockets that were compared.
    pub frames: usize,
    /// What was not sent, or not compared whole, by its reason.
    pub left_out: BTreeMap<&'static str, usize>,
    /// What the proxy between made up or cut; no server answered it.
    pub of_the_proxy: usize,
    /// What does not agree.
    pub differences: Vec<String>,
}

/// Sends recordings to one server.
pub struct Replayer {
    /// The server and what is done around the recorded client.
    pub scene: Scene,
    /// What stands in the place of secrets and ids.
    pub mapping: Mapping,
    /// The session of the client that is replayed.
    session: Option<String>,
    /// The recording that is replayed.
    pub(crate) recording: String,
    /// How many results of hosts of a name came on a socket.
    pub(crate) results: HashMap<(u64, String), usize>,
    pub(crate) sockets: HashMap<u64, Open>,
    http: Client,
}

impl Replayer {
    /// A replayer whose client has no session yet.
    pub fn new(scene: Scene) -> Self {
        let http = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client can be made");
        Self {
            scene,
            mapping: Mapping::default(),
            session: None,
            recording: String::new(),
            results: HashMap::new(),
            sockets: HashMap::new(),
            http,
        }
    }

    /// Sends a whole recording.
    pub async fn replay(&mut self, recording: &Recording) -> Outcome {
        let mut outcome = Outcome::default();
        let mut last_ms = 0;
        self.recording.clone_from(&recording.name);
        if let (Some(admin), true) = (self.scene.admin(), CASES.contains(&recording.name.as_str()))
        {
            // Logged in by the program that made these recordings, which they do not show.
            self.mapping.set("<token-25>", &admin);
        }
        // Limits of tries are over before another client begins.
        self.scene.pass(Duration::from_secs(60 * 60));
        for line in &recording.lines {
            match line {
                Line::Mark(mark) => {
                    last_ms = mark.ms;
                    self.scene.mark(&mark.text, &mut self.mapping).await;
                }
                Line::Frame(frame) => self.frame(recording, frame, false, &mut outcome).await,
                Line::Exchange(exchange) => {
                    self.scene
                        .pass(Duration::from_millis(exchange.ms.saturating_sub(last_ms)));
                    last_ms = exchange.ms;
                    if exchange.is_answered_by_server() {
                        self.exchange(recording, exchange, &mut outcome).await;
                    } else {
                        outcome.of_the_proxy += 1;
                    }
                }
            }
        }
        self.sockets.clear();
        outcome
    }

    async fn exchange(
        &mut self,
        recording: &Recording,
        exchange: &Exchange,
        outcome: &mut Outcome,
    ) {
        if let Some(LeftOut { reason, .. }) = left_out(exchange) {
            *outcome.left_out.entry(reason).or_default() += 1;
            return;
        }
        if let Some(reason) = artefact(&recording.name, exchange.n) {
            *outcome.left_out.entry(reason).or_default() += 1;
            return;
        }
        self.scene.prepare(exchange, &mut self.mapping).await;
        let body = exchange
            .request
            .as_ref()
            .map(Value::to_string)
            .unwrap_or_default();
        if body.contains(" bytes, cut>") {
            *outcome.left_out.entry(CUT).or_default() += 1;
            return;
        }
        if self.mapping.has_gap(&body) || self.mapping.has_gap(&exchange.path) {
            *outcome.left_out.entry(GAP).or_default() += 1;
            return;
        }
        let wrong = |what: String| {
            let name = if exchange.name.is_empty() { "" } else { " " };
            format!(
                "{} n={} {} {}{name}{}: {what}",
                recording.name, exchange.n, exchange.method, exchange.path, exchange.name
            )
        };
        outcome.exchanges += 1;
        if exchange.is_upgrade() {
            let found = self.upgrade(exchange).await;
            outcome.differences.extend(found.map(wrong));
            return;
        }
        let answer = self.send_while_hosts_answer(exchange).await;
        self.took(exchange, &answer);
        let mut tolerated = BTreeSet::new();
        let mut found = Vec::new();
        compare(exchange, &answer, &mut found, &mut tolerated);
        for reason in tolerated {
            *outcome.left_out.entry(reason).or_default() += 1;
        }
        outcome.differences.extend(found.into_iter().map(wrong));
    }

    /// The request of an exchange, ready to be sent.
    pub fn request(&self, exchange: &Exchange) -> reqwest::RequestBuilder {
        let body = self.body(exchange);
        self.request_to(&self.http, self.scene.base(), exchange, body)
    }

    /// The body of an exchange's request, as the client would send it here; none when it sent none.
    pub fn body(&self, exchange: &Exchange) -> Option<Vec<u8>> {
        let body = match &exchange.request {
            // What was sent as `null` is not told from nothing.
            None if exchange.name.ends_with(", null") => return Some(b"null".to_vec()),
            None => return None,
            Some(Value::String(text)) => match text.strip_prefix("base64://") {
                // What was no text is written so.
                Some(_) => vec![0xff, 0xfe],
                None => self.mapping.text(text).into_bytes(),
            },
            Some(body) => self
                .mapping
                .body(body, exchange.route())
                .to_string()
                .into_bytes(),
        };
        let is_packed = exchange.request_header("Content-Encoding") == Some("gzip");
        if is_packed && exchange.request.as_ref().is_some_and(Value::is_object) {
            return Some(packed(&body));
        }
        Some(body)
    }

    /// The same request with another body, by a client and to an address.
    pub fn request_to(
        &self,
        http: &Client,
        base: &str,
        exchange: &Exchange,
        body: Option<Vec<u8>>,
    ) -> reqwest::RequestBuilder {
        let url = format!("{base}{}", self.mapping.path(&exchange.path));
        let method = Method::from_bytes(exchange.method.as_bytes()).expect("a method");
        let mut request = http.request(method, url);
        for (name, value) in &exchange.request_headers {
            let value = match name.as_str() {
                "Authorization" => self.authorization(exchange, value),
                _ => value.clone(),
            };
            request = request.header(name, value);
        }
        match body {
            Some(body) => request.body(body),
            None => request,
        }
    }

    /// Sends an exchange as it was recorded, learns from the answer, and compares nothing: for tests that send it in other
    /// ways besides. None when the recording says nothing of servers there.
    pub async fn play(&mut self, recording: &str, exchange: &Exchange) -> Option<Answer> {
        self.recording.clear();
        self.recording.push_str(recording);
        let text = format!(
            "{} {}",
            exchange.path,
            exchange.request.as_ref().unwrap_or(&Value::Null)
        );
        let is_played = exchange.is_answered_by_server()
            && !exchange.is_upgrade()
            && left_out(exchange).is_none()
            && artefact(recording, exchange.n).is_none();
        if !is_played {
            return None;
        }
        self.scene.prepare(exchange, &mut self.mapping).await;
        if self.mapping.has_gap(&text) {
            return None;
        }
        let answer = self.send(exchange).await;
        self.took(exchange, &answer);
        Some(answer)
    }

    /// Learns from an answer what stands in the place of what was recorded.
    pub fn took(&mut self, exchange: &Exchange, answer: &Answer) {
        if let Some(recorded) = &exchange.answer {
            self.mapping.learn(recorded, &answer.body, exchange.route());
            // A client uses the key that it was given last.
            for member in ["node_key", "orbit_node_key"] {
                if let (Some(there), Some(here)) =
                    (recorded[member].as_str(), answer.body[member].as_str())
                {
                    self.mapping.set(there, here);
                }
            }
        }
        let begins = exchange.route().ends_with("/login") || exchange.route().ends_with("/setup");
        if !begins || answer.status != 200 {
            return;
        }
        self.session = answer.body["token"].as_str().map(str::to_owned);
        let whose = match exchange.name.as_str() {
            "login observer" => "observer",
            "login forced-reset user" => "forced-reset",
            "login" => "log",
            _ => return,
        };
        if let Some(session) = &self.session {
            self.scene.remember_session(whose, session);
        }
    }

    /// The header by which the client said who it is; the recording left out the token.
    fn authorization(&self, exchange: &Exchange, recorded: &str) -> String {
        let session = match exchange.name.as_str() {
            _ if !CASES.contains(&self.recording.as_str()) => self.session.clone(),
            "token after logout" => self.scene.session_for("logout"),
            case => self.scene.session_for(case).or_else(|| self.scene.admin()),
        };
        let token = session.unwrap_or_else(|| "none".to_owned());
        match recorded.split_once(' ') {
            _ if exchange.name == "bad token" => "Bearer nobodys-token".to_owned(),
            Some(("Bearer" | "bearer" | "Basic", _)) => recorded.replace("<...>", &token),
            _ => token,
        }
    }

    /// Sends a request; when it waits for hosts, they answer meanwhile.
    async fn send_while_hosts_answer(&self, exchange: &Exchange) -> Answer {
        let waits = exchange.route().ends_with("/query") || exchange.route().ends_with("/run");
        let has_rows = exchange
            .answer
            .as_ref()
            .is_some_and(|answer| answer.to_string().contains("\"rows\":["));
        if !(waits && has_rows) {
            return self.send(exchange).await;
        }
        self.scene.bring_online().await;
        let send = self.send(exchange);
        tokio::pin!(send);
        loop {
            let step = tokio::time::timeout(Duration::from_millis(100), &mut send);
            match step.await {
                Ok(answer) => return answer,
                Err(_) => self.scene.answer_all(&json!([{ "one": "1" }])).await,
            }
        }
    }

    async fn send(&self, exchange: &Exchange) -> Answer {
        let response = self.request(exchange).send().await;
        let response = response
            .unwrap_or_else(|error| panic!("{} {}: {error:?}", exchange.method, exchange.path));
        Answer::read(response).await
    }
}

/// A body as gzip has it.
pub fn packed(body: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(body).expect("memory can be written");
    packed.finish().expect("memory can be written")
}

impl Outcome {
    /// For people: what was compared and what was not, and why.
    pub fn account(&self, name: &str) -> String {
        let mut lines = vec![format!(
            "{name}: {} exchanges and {} messages compared, {} of the proxy",
            self.exchanges, self.frames, self.of_the_proxy
        )];
        for (reason, count) in &self.left_out {
            lines.push(format!("  {count:>4} left out: {reason}"));
        }
        lines.join("\n")
    }

    /// As a value, to be compared and written down.
    pub fn summary(&self) -> Value {
        json!({ "exchanges": self.exchanges, "messages": self.frames, "left out": self.left_out })
    }
}
