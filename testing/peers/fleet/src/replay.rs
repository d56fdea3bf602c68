//! Sends a recording to a server of ours and compares.
//!
//! Requests go out in the recorded order with secrets and ids mapped. Time is the recorded one: the server's clock is
//! moved by what passed between two lines. What happened *around* the recorded client (a set-up, a host that was there, a
//! changed option) is done by the [`Scene`] when its moment comes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::Write as _;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::left_out::{
    CUT, EMPTY_FLAGS, GAP, LeftOut, Member, SAME_COUNTS, UNSEEN_HOST, artefact, left_out,
    may_differ,
};
use crate::mapping::Mapping;
use crate::recording::{Exchange, Frame, Line, Recording};
use crate::scene::Scene;
use crate::shape::differences;

/// How long a message on a socket is waited for.
const FRAME_TIMEOUT: Duration = Duration::from_secs(20);
/// How long counts are waited for that may not have changed: somewhat longer than the server looks at them.
const REPEATED_TIMEOUT: Duration = Duration::from_secs(6);
/// Recordings that were made case by case, each case as the person that it names.
const CASES: &[&str] = &["golden", "errors", "experiments"];
/// The capabilities of a server that clients look at and that have a meaning without MDM.
const READ_BY_CLIENTS: &[&str] = &["orbit_endpoints", "token_rotation", "end_user_email"];

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

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

/// An answer of this server.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// Its body: JSON, else text; null when it is empty.
    pub body: Value,
}

struct Open {
    socket: Socket,
    /// What has to come before it is closed: cases are recorded by two programs, whose lines are not in order.
    awaited: Vec<Frame>,
    /// Which types of messages came.
    came: BTreeSet<String>,
    /// What came before it was waited for.
    waiting: VecDeque<Value>,
    is_closed: bool,
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
    recording: String,
    /// How many results of hosts of a name came on a socket.
    results: HashMap<(u64, String), usize>,
    sockets: HashMap<u64, Open>,
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
                if let (Some(there), Some(here)) = (recorded[member].as_str(), answer.body[member].as_str()) {
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

    async fn upgrade(&mut self, exchange: &Exchange) -> Option<String> {
        let url = format!("{}{}", self.scene.base(), exchange.path).replacen("http", "ws", 1);
        let mut request = url.into_client_request().expect("an address");
        if let Some(origin) = exchange.request_header("Origin") {
            let origin = origin.parse().expect("a header's value");
            request.headers_mut().insert("Origin", origin);
        }
        let status = match tokio_tungstenite::connect_async(request).await {
            Ok((socket, response)) => {
                let open = Open {
                    socket,
                    awaited: Vec::new(),
                    came: BTreeSet::new(),
                    waiting: VecDeque::new(),
                    is_closed: false,
                };
                self.sockets.insert(exchange.n, open);
                response.status().as_u16()
            }
            Err(SocketError::Http(response)) => response.status().as_u16(),
            Err(error) => return Some(format!("no socket: {error}")),
        };
        (Some(status) != exchange.status).then(|| {
            format!(
                "recorded {:?}, here {status}",
                exchange.status.unwrap_or_default()
            )
        })
    }

    async fn frame(
        &mut self,
        recording: &Recording,
        frame: &Frame,
        is_late: bool,
        outcome: &mut Outcome,
    ) {
        let wrong = |what: String| format!("{} n={} frame: {what}", recording.name, frame.n);
        if let Some(reason) = artefact(&recording.name, frame.n) {
            *outcome.left_out.entry(reason).or_default() += 1;
            return;
        }
        // The campaign of this socket may have been left out.
        let Some(mut open) = self.sockets.remove(&frame.socket) else {
            return;
        };
        let is_case = CASES.contains(&recording.name.as_str());
        if is_case && !frame.is_from_client && frame.kind == "text" && !is_late {
            open.awaited.push(frame.clone());
            self.sockets.insert(frame.socket, open);
            return;
        }
        if is_case && frame.is_from_client && frame.kind == "eof" {
            for frame in std::mem::take(&mut open.awaited) {
                self.sockets.insert(frame.socket, open);
                Box::pin(self.frame(recording, &frame, true, outcome)).await;
                let Some(same) = self.sockets.remove(&frame.socket) else {
                    return;
                };
                open = same;
            }
            return;
        }
        match (frame.is_from_client, frame.kind.as_str(), &frame.data) {
            (true, "text", Some(data)) => {
                let data = self.mapping.body(data, "");
                let mut text = match &data {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                if frame.has_newline {
                    text.push('\n');
                }
                // A server that closed already is seen by what it sent.
                let _ = open.socket.send(Message::text(text)).await;
            }
            // Gone without a word, as these clients do.
            (true, "eof", _) => return,
            (false, "text", Some(recorded)) => {
                outcome.frames += 1;
                let kind = recorded["type"].as_str().unwrap_or_default().to_owned();
                match self
                    .next_frame(&mut open, frame.socket, &kind, recorded)
                    .await
                {
                    Some(ours) => {
                        open.came.insert(kind.clone());
                        if kind == "result" {
                            *self
                                .results
                                .entry(result_of(frame.socket, recorded))
                                .or_default() += 1;
                        }
                        self.mapping.learn(recorded, &ours, "campaigns");
                        for difference in differences(recorded, &ours) {
                            let member = Member {
                                route: "/results/websocket",
                                difference: &difference,
                            };
                            match may_differ(&member) {
                                Some(reason) => *outcome.left_out.entry(reason).or_default() += 1,
                                None => outcome.differences.push(wrong(difference.to_string())),
                            }
                        }
                        if kind == "error" && recorded["data"] != ours["data"] {
                            let recorded = self.mapping.body(&recorded["data"], "");
                            if recorded != ours["data"]
                                && !recorded
                                    .as_str()
                                    .is_some_and(|text| text.contains("campaign for ID"))
                            {
                                outcome.differences.push(wrong(format!(
                                    "recorded {recorded}, here {}",
                                    ours["data"]
                                )));
                            }
                        }
                    }
                    None if kind == "result"
                        && self.scene.hosts_named(recorded)
                            <= self.seen(frame.socket, recorded) =>
                    {
                        *outcome.left_out.entry(UNSEEN_HOST).or_default() += 1;
                    }
                    None if kind == "totals" && open.came.contains("totals") => {
                        *outcome.left_out.entry(SAME_COUNTS).or_default() += 1;
                    }
                    None => outcome.differences.push(wrong(format!("no `{kind}` came"))),
                }
            }
            (false, "close", _) => {
                outcome.frames += 1;
                if !open.closes().await {
                    outcome
                        .differences
                        .push(wrong("the socket stays open".to_owned()));
                }
            }
            _ => {}
        }
        self.sockets.insert(frame.socket, open);
    }

    /// How many results of hosts of this name came on a socket.
    fn seen(&self, socket: u64, recorded: &Value) -> usize {
        self.results
            .get(&result_of(socket, recorded))
            .copied()
            .unwrap_or_default()
    }

    /// The next message of a type; hosts answer what they are asked meanwhile.
    async fn next_frame(
        &mut self,
        open: &mut Open,
        socket: u64,
        kind: &str,
        recorded: &Value,
    ) -> Option<Value> {
        let is_repeated = kind == "totals" && open.came.contains(kind);
        let patience = if is_repeated {
            REPEATED_TIMEOUT
        } else {
            FRAME_TIMEOUT
        };
        let end = tokio::time::Instant::now() + patience;
        let seen = self.seen(socket, recorded);
        loop {
            if let Some(at) = open.waiting.iter().position(|value| value["type"] == kind) {
                return open.waiting.remove(at);
            }
            if kind == "result" {
                self.scene.answer_live_queries(recorded).await;
                let is_shown = self.scene.hosts_named(recorded) > 0
                    || CASES.contains(&self.recording.as_str());
                if !is_shown
                    || (self.scene.hosts_named(recorded) > 0
                        && self.scene.hosts_named(recorded) <= seen)
                {
                    return None;
                }
            }
            if open.is_closed || tokio::time::Instant::now() > end {
                return None;
            }
            let step = Duration::from_millis(200);
            match tokio::time::timeout(step, open.socket.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => {
                    let value = serde_json::from_str(&text).expect("messages are JSON");
                    open.waiting.push_back(value);
                }
                Ok(Some(Ok(Message::Close(_))) | None | Some(Err(_))) => open.is_closed = true,
                Ok(Some(Ok(_))) => {}
                // What is told at intervals is told by the server's timers.
                Err(_) => self.scene.pass(step),
            }
        }
    }
}

fn result_of(socket: u64, recorded: &Value) -> (u64, String) {
    let hostname = recorded["data"]["host"]["hostname"]
        .as_str()
        .unwrap_or_default();
    (socket, hostname.to_owned())
}

impl Open {
    async fn closes(&mut self) -> bool {
        let closed = tokio::time::timeout(FRAME_TIMEOUT, async {
            while !self.is_closed {
                match self.socket.next().await {
                    Some(Ok(Message::Close(frame))) => {
                        self.is_closed = true;
                        // The recorded server sends a code that the protocol forbids; a strict client would complain.
                        assert!(frame.is_none_or(|frame| u16::from(frame.code) >= 1000));
                    }
                    None | Some(Err(_)) => self.is_closed = true,
                    Some(Ok(Message::Text(text))) => {
                        let value = serde_json::from_str(&text).expect("messages are JSON");
                        self.waiting.push_back(value);
                    }
                    Some(Ok(_)) => {}
                }
            }
        });
        closed.await.is_ok()
    }
}

impl Answer {
    /// Reads an answer to its end.
    pub async fn read(response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        let headers = response.headers().iter().filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        });
        let headers = headers.collect();
        let text = response.text().await.expect("the answer has an end");
        let body = match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        Self {
            status,
            headers,
            body,
        }
    }
}

/// A body as gzip has it.
pub fn packed(body: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(body).expect("memory can be written");
    packed.finish().expect("memory can be written")
}

/// Compares an answer with the recorded one: status, content type, capabilities, redirects, shape.
fn compare(
    exchange: &Exchange,
    answer: &Answer,
    found: &mut Vec<String>,
    tolerated: &mut BTreeSet<&'static str>,
) {
    let recorded_status = exchange.status.unwrap_or_default();
    if recorded_status != answer.status {
        match crate::left_out::other_status(exchange, answer.status) {
            Some(reason) => {
                tolerated.insert(reason);
            }
            None => found.push(format!(
                "recorded {recorded_status}, here {} {:.300}",
                answer.status,
                answer.body.to_string()
            )),
        }
        return;
    }
    let media_type = |value: &str| {
        value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let recorded_type = exchange.answer_header("Content-Type").map(media_type);
    let our_type = answer
        .headers
        .get("content-type")
        .map(|value| media_type(value));
    if !exchange.route().starts_with("/api/") && recorded_status >= 400 {
        return;
    }
    let is_text = exchange.answer.as_ref().is_some_and(Value::is_string);
    if is_text && exchange.answer.as_ref() == Some(&answer.body) {
        return;
    }
    let is_redirect = (300..400).contains(&recorded_status);
    let has_body = exchange.answer.is_some() && exchange.method != "HEAD" && !is_redirect;
    let is_json = exchange
        .answer
        .as_ref()
        .is_some_and(|body| body.is_object() || body.is_array());
    // Errors before a handler are JSON that the recorded server calls text; no client looks.
    let is_error = recorded_status >= 400;
    let wanted = if is_json || is_error {
        Some("application/json".to_owned())
    } else {
        recorded_type
    };
    if has_body && wanted != our_type {
        found.push(format!(
            "content type recorded {wanted:?}, here {our_type:?}"
        ));
    }
    // Clients look at the capabilities of successes only.
    if !is_error && !exchange.fault.contains("Capabilities") {
        match (
            exchange.answer_header("X-Fleet-Capabilities"),
            answer.headers.get("x-fleet-capabilities"),
        ) {
            (Some(_), None) => found.push("capabilities are not said".to_owned()),
            (Some(_), Some(ours)) => {
                let ours: Vec<&str> = ours.split(',').collect();
                for name in READ_BY_CLIENTS {
                    if !ours.contains(name) {
                        found.push(format!("capability {name} is not said in {ours:?}"));
                    }
                }
            }
            (None, Some(_)) => {
                found.push("capabilities are said, which were not recorded".to_owned())
            }
            (None, None) => {}
        }
    }
    for name in ["Retry-After", "Location"] {
        let (recorded, ours) = (
            exchange.answer_header(name),
            answer.headers.get(&name.to_ascii_lowercase()),
        );
        if recorded.is_some() && ours.is_none() {
            found.push(format!("{name} is not there"));
        }
    }
    if is_error && exchange.answer.as_ref().is_some_and(Value::is_string) {
        // Said in text before any handler; here it has the body of an error.
        if answer.body.get("message").is_none() && answer.body.get("error").is_none() {
            found.push(format!("no message: {:.200}", answer.body.to_string()));
        }
    } else if let Some(recorded) = exchange.answer.as_ref().filter(|body| !body.is_string()) {
        for difference in differences(recorded, &answer.body) {
            let member = Member {
                route: exchange.route(),
                difference: &difference,
            };
            // An empty object makes orbit of 2022 restart at each poll, for as long as it lasts.
            let is_silent = exchange.request_header("X-Fleet-Capabilities").is_none();
            if is_silent
                && difference.at == "command_line_startup_flags"
                && recorded[&difference.at] == json!({})
            {
                tolerated.insert(EMPTY_FLAGS);
                continue;
            }
            match may_differ(&member) {
                Some(reason) => {
                    tolerated.insert(reason);
                }
                None => found.push(difference.to_string()),
            }
        }
    }
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
