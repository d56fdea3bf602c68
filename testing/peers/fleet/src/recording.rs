//! Recordings: what a client sent and what a real Fleet server answered, line by line.
//!
//! A file holds one JSON object per line, of three kinds: a *mark* (what was started or done), an *exchange* (a request
//! with its answer) and a *frame* of a WebSocket that an exchange before it opened. Secrets stand as placeholders such as
//! `<token-3>`, which have the same name wherever the same value stood.

use std::collections::HashMap;

use serde_json::Value;

/// How the answer of a line begins that is the same as an earlier one.
const SAME_AS: &str = "<same as n=";

/// Everything that one client of one era did.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The client and its era, such as `orbit-2025`.
    pub name: String,
    /// In the order in which it happened.
    pub lines: Vec<Line>,
}

/// One line of a recording.
#[derive(Debug, Clone)]
pub enum Line {
    /// What was started or done.
    Mark(Mark),
    /// A request with its answer.
    Exchange(Box<Exchange>),
    /// A message on a WebSocket.
    Frame(Frame),
}

/// What was started or done from here on.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Its position.
    pub n: u64,
    /// Milliseconds since the client was started.
    pub ms: u64,
    /// In words; for a command its name, with ` [end]` when it ended.
    pub text: String,
    /// The exit code of a command that ended.
    pub exit_code: Option<i64>,
}

/// A request with its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Its position.
    pub n: u64,
    /// What the case is called, where it has a name.
    pub name: String,
    /// Milliseconds since the client was started.
    pub ms: u64,
    /// The request's method.
    pub method: String,
    /// The request's path and query.
    pub path: String,
    /// The request's headers, as far as they were kept.
    pub request_headers: Vec<(String, String)>,
    /// The request's body: JSON as it was sent, or text.
    pub request: Option<Value>,
    /// The answer's status; none when there was no answer.
    pub status: Option<u16>,
    /// The answer's headers, as far as they were kept.
    pub answer_headers: Vec<(String, String)>,
    /// The answer's body: JSON as it came, or text.
    pub answer: Option<Value>,
    /// What was done to it on its way; empty when nothing was.
    pub fault: String,
}

/// A message on a WebSocket.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its position.
    pub n: u64,
    /// The position of the exchange that opened the socket.
    pub socket: u64,
    /// Whether the client sent it.
    pub is_from_client: bool,
    /// `text`, `close`, or `eof` when the connection just ended.
    pub kind: String,
    /// What it said.
    pub data: Option<Value>,
    /// Whether a newline followed in the same message.
    pub has_newline: bool,
}

impl Exchange {
    /// A header of the request.
    pub fn request_header(&self, name: &str) -> Option<&str> {
        header(&self.request_headers, name)
    }

    /// A header of the answer.
    pub fn answer_header(&self, name: &str) -> Option<&str> {
        header(&self.answer_headers, name)
    }

    /// Whether the real server answered it: what was made up, cut or lost on its way says nothing about servers.
    pub fn is_answered_by_server(&self) -> bool {
        self.status.is_some() && (self.fault.is_empty() || self.fault.starts_with("header "))
    }

    /// Whether it opens a WebSocket.
    pub fn is_upgrade(&self) -> bool {
        self.request_header("Upgrade").is_some()
    }

    /// The path without the query.
    pub fn route(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = headers
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

fn text(line: &Value, member: &str) -> String {
    line[member].as_str().unwrap_or_default().to_owned()
}

fn headers(line: &Value, member: &str) -> Vec<(String, String)> {
    let members = line[member].as_object().into_iter().flatten();
    members
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

impl Recording {
    /// Reads a recording. A line that is none is a mistake in the file, which ends the test.
    pub fn read(name: &str, text_of_file: &str) -> Self {
        let mut answers: HashMap<u64, Option<Value>> = HashMap::new();
        let mut lines = Vec::new();
        for raw in text_of_file.lines().filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_str(raw)
                .unwrap_or_else(|error| panic!("{name}: {error} in {raw:.120}"));
            let n = line["n"].as_u64().expect("every line has its position");
            if line.get("mark").is_some() {
                lines.push(Line::Mark(Mark {
                    n,
                    ms: line["ms"].as_u64().unwrap_or_default(),
                    text: text(&line, "mark"),
                    exit_code: line["rc"].as_i64(),
                }));
            } else if line.get("dir").is_some() {
                lines.push(Line::Frame(Frame {
                    n,
                    socket: line["ws"].as_u64().expect("a frame has a socket"),
                    is_from_client: line["dir"] == "c2s",
                    kind: text(&line, "op"),
                    data: line.get("data").filter(|data| !data.is_null()).cloned(),
                    has_newline: line["nl"] == true,
                }));
            } else {
                let mut answer = line.get("resp").cloned();
                if let Some(position) = answer
                    .as_ref()
                    .and_then(Value::as_str)
                    .and_then(|text| text.strip_prefix(SAME_AS))
                    .and_then(|rest| rest.strip_suffix('>'))
                {
                    let position = position.parse().expect("a position is a number");
                    answer.clone_from(&answers[&position]);
                }
                answers.insert(n, answer.clone());
                lines.push(Line::Exchange(Box::new(Exchange {
                    n,
                    name: text(&line, "name"),
                    ms: line["ms"].as_u64().unwrap_or_default(),
                    method: text(&line, "method"),
                    path: text(&line, "path"),
                    request_headers: headers(&line, "req_h"),
                    request: line.get("req").cloned(),
                    status: line["status"].as_u64().map(|status| status as u16),
                    answer_headers: headers(&line, "resp_h"),
                    answer,
                    fault: text(&line, "fault"),
                })));
            }
        }
        Self {
            name: name.to_owned(),
            lines,
        }
    }

    /// Its exchanges.
    pub fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        self.lines.iter().filter_map(|line| match line {
            Line::Exchange(exchange) => Some(&**exchange),
            _ => None,
        })
    }
}
