//! Live queries of a recording: sockets, what is said on them, and hosts that answer meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::left_out::{Member, SAME_COUNTS, UNSEEN_HOST, artefact, may_differ};
use crate::recording::{Exchange, Frame, Recording};
use crate::replay::{CASES, Outcome, Replayer};
use crate::shape::differences;

/// How long a message on a socket is waited for.
const FRAME_TIMEOUT: Duration = Duration::from_secs(20);
/// How long counts are waited for that may not have changed: somewhat longer than the server looks at them.
const REPEATED_TIMEOUT: Duration = Duration::from_secs(6);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A socket that is open.
pub(crate) struct Open {
    socket: Socket,
    /// What has to come before it is closed: cases are recorded by two programs, whose lines are not in order.
    awaited: Vec<Frame>,
    /// Which types of messages came.
    came: BTreeSet<String>,
    /// What came before it was waited for.
    waiting: VecDeque<Value>,
    is_closed: bool,
}

impl Replayer {
    pub(crate) async fn upgrade(&mut self, exchange: &Exchange) -> Option<String> {
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

    pub(crate) async fn frame(
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
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => open.is_closed = true,
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
