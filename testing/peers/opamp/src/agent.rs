//! A client at work: what it prints, and its end.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::Failure;

/// How long a client may take to end when it is asked to.
const END_TIME: Duration = Duration::from_secs(15);
/// The status of a request that is refused.
pub(crate) const UNAUTHORIZED: &str = "401";
/// The status by which a socket is closed whose agent is refused.
pub(crate) const POLICY: &str = "1008";
/// How many characters before the status are shown.
const WORDS: usize = 32;

/// What a client printed.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) at: Instant,
    pub(crate) text: String,
    /// When it is one JSON object with a member `event`.
    event: Option<Value>,
}

impl Line {
    fn new(text: String) -> Self {
        let event = serde_json::from_str::<Value>(&text).ok();
        Self {
            at: Instant::now(),
            event: event.filter(|value| value["event"].is_string()),
            text,
        }
    }

    /// What it says, if it is an event of this name.
    pub(crate) fn event(&self, name: &str) -> Option<&Value> {
        self.event.as_ref().filter(|event| event["event"] == name)
    }

    /// The words in which it tells that it was refused, up to a status: each client has words of its own, and all name it.
    pub(crate) fn refusal(&self, status: &str) -> Option<String> {
        let told = match &self.event {
            Some(event) => [&event["error"], &event["text"]]
                .into_iter()
                .find_map(Value::as_str)?,
            None => &self.text,
        };
        let (at, _) = told.match_indices(status).find(|(at, _)| {
            // Not a part of a time or of another number.
            let before = told[..*at].chars().next_back();
            let after = told[at + status.len()..].chars().next();
            before.is_none_or(|sign| " =:(\"".contains(sign))
                && after.is_none_or(|sign| !sign.is_ascii_alphanumeric())
        })?;
        let from = told[..at]
            .char_indices()
            .rev()
            .nth(WORDS)
            .map_or(0, |(index, _)| index);
        Some(told[from..at + status.len()].to_owned())
    }
}

/// A client at work.
pub(crate) struct Agent {
    child: Child,
    lines: Arc<Mutex<Vec<Line>>>,
    /// How many lines there are.
    count: watch::Receiver<usize>,
}

impl Agent {
    /// Starts one; what it prints is also left in a file.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self, Failure> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let program = command.as_std().get_program().to_owned();
        let mut child = command
            .spawn()
            .map_err(|error| format!("start {}: {error}", program.display()))?;
        let log = Arc::new(Mutex::new(File::create(log)?));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (told, count) = watch::channel(0);
        let told = Arc::new(told);
        let reader = |pipe: Box<dyn AsyncRead + Send + Unpin>| {
            let (log, lines, told) = (Arc::clone(&log), Arc::clone(&lines), Arc::clone(&told));
            tokio::spawn(async move {
                let mut pipe = BufReader::new(pipe).lines();
                while let Ok(Some(text)) = pipe.next_line().await {
                    if let Ok(mut log) = log.lock() {
                        let _ = writeln!(log, "{text}");
                    }
                    if let Ok(mut lines) = lines.lock() {
                        lines.push(Line::new(text));
                        let _ = told.send(lines.len());
                    }
                }
            });
        };
        if let Some(pipe) = child.stdout.take() {
            reader(Box::new(pipe));
        }
        if let Some(pipe) = child.stderr.take() {
            reader(Box::new(pipe));
        }
        Ok(Self {
            child,
            lines,
            count,
        })
    }

    /// Everything that it printed so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines
            .lock()
            .map(|lines| lines.clone())
            .unwrap_or_default()
    }

    /// The first line since a moment that something is found in; none when the time is over.
    pub(crate) async fn wait<T>(
        &self,
        since: Instant,
        time: Duration,
        find: impl Fn(&Line) -> Option<T>,
    ) -> Option<T> {
        let mut count = self.count.clone();
        let looking = async {
            loop {
                count.borrow_and_update();
                let lines = self.lines();
                let mut recent = lines.iter().filter(|line| line.at >= since);
                if let Some(found) = recent.find_map(&find) {
                    return Some(found);
                }
                // It has ended: nothing more will come.
                if count.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::time::timeout(time, looking).await.ok().flatten()
    }

    /// Ends it as a system's manager of services would.
    pub(crate) async fn end(mut self) -> Result<(), Failure> {
        let id = self
            .child
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        if let Some(id) = id {
            rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        }
        if tokio::time::timeout(END_TIME, self.child.wait())
            .await
            .is_err()
        {
            self.child.kill().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, UNAUTHORIZED};

    #[test]
    fn a_refusal_is_told_from_times_and_other_numbers() {
        for (text, expected) in [
            (
                "Server responded with status=401 Unauthorized",
                Some("Server responded with status=401"),
            ),
            (
                r#"{"event":"connect_failed","error":"server responded with status: 401"}"#,
                Some("server responded with status: 401"),
            ),
            (
                r#"{"event":"log","text":"invalid response from server: 401"}"#,
                Some("invalid response from server: 401"),
            ),
            (
                r#"{"event":"connected","at":"2026-11-30T08:24:01.401Z"}"#,
                None,
            ),
            ("2026-11-30T08:24:01.401Z started", None),
            ("listens on 127.0.0.1:40123", None),
            ("uid 0198-401-7", None),
        ] {
            let found = Line::new(text.to_owned()).refusal(UNAUTHORIZED);
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
