//! Following a campaign's stream, over lost connections.

use std::time::Duration;

use reqwest::Response;
use serde::Deserialize;
use serde_json::Value;

use crate::client::Client;
use crate::error::CliError;

/// A line longer than this is no answer of ours.
const MAX_LINE_BYTES: usize = 256 * 1024 * 1024;
/// The server says something every 15 seconds; after this silence the connection counts as lost.
const MAX_SILENCE: Duration = Duration::from_secs(45);
/// How often in a row it is tried to come back.
const MAX_TRIES: u32 = 10;
/// The pause before coming back: it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// What a stream says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Event {
    /// Where the campaign stands.
    Progress { campaign: Campaign },
    /// A host answered or failed.
    Result { result: Answer },
    /// It ended.
    End { campaign: Campaign },
    /// What a newer server says besides; also that the stream breaks off, which it then does.
    #[serde(other)]
    Other,
}

/// What is needed of a campaign.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Campaign {
    pub(super) id: i64,
    pub(super) status: String,
    pub(super) result_rows: u64,
    pub(super) clipped: bool,
    pub(super) hosts: Counts,
}

/// How many hosts stand where.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    pub(super) targeted: u64,
    pub(super) pending: u64,
    pub(super) answered: u64,
    pub(super) failed: u64,
    pub(super) offline: u64,
}

/// What a host answered.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    pub(super) position: i64,
    pub(super) host_id: Value,
    pub(super) hostname: String,
    pub(super) display_name: String,
    pub(super) rows: Vec<Value>,
    pub(super) clipped: bool,
}

impl Answer {
    /// What people call the host.
    pub(super) fn host(&self) -> &str {
        if self.display_name.is_empty() {
            &self.hostname
        } else {
            &self.display_name
        }
    }
}

/// Reads a stream to its end and comes back when it breaks off. Waiting for [`Follower::next`] may be given up at any time.
pub(super) struct Follower<'a> {
    client: &'a Client,
    campaign: i64,
    position: i64,
    response: Option<Response>,
    lines: Lines,
    tries: u32,
}

impl<'a> Follower<'a> {
    pub(super) fn new(client: &'a Client, campaign: i64) -> Self {
        Self {
            client,
            campaign,
            position: 0,
            response: None,
            lines: Lines::default(),
            tries: 0,
        }
    }

    /// What comes next. Nothing comes after the end.
    pub(super) async fn next(&mut self) -> Result<Event, CliError> {
        loop {
            while let Some(line) = self.lines.next() {
                let event =
                    serde_json::from_slice(&line).map_err(|source| CliError::NotMuster {
                        url: self.client.url().to_owned(),
                        source: Some(source),
                    })?;
                self.tries = 0;
                match event {
                    Event::Other => {}
                    // Said again after coming back: it was shown.
                    Event::Result { result } if result.position <= self.position => {}
                    event => {
                        if let Event::Result { result } = &event {
                            self.position = result.position;
                        }
                        return Ok(event);
                    }
                }
            }
            self.read().await?;
        }
    }

    /// Takes in more of the stream.
    async fn read(&mut self) -> Result<(), CliError> {
        let Some(response) = &mut self.response else {
            return self.connect().await;
        };
        let lost = match tokio::time::timeout(MAX_SILENCE, response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                self.lines.add(&chunk);
                if self.lines.rest.len() > MAX_LINE_BYTES {
                    return Err(CliError::NotMuster {
                        url: self.client.url().to_owned(),
                        source: None,
                    });
                }
                return Ok(());
            }
            Ok(Ok(None)) | Err(_) => None,
            Ok(Err(error)) => Some(Box::new(self.client.failed(error))),
        };
        self.response = None;
        self.lines = Lines::default();
        self.lost(lost)
    }

    async fn connect(&mut self) -> Result<(), CliError> {
        if self.tries > 0 {
            let pause = FIRST_PAUSE.saturating_mul(1 << (self.tries - 1).min(16));
            tokio::time::sleep(pause.min(LAST_PAUSE)).await;
        }
        let path = ["campaigns", &self.campaign.to_string(), "stream"];
        let query = [("after", self.position.to_string())];
        match self.client.stream(&path, &query).await {
            Ok(response) => {
                self.response = Some(response);
                Ok(())
            }
            Err(error) if error.is_transient() => self.lost(Some(Box::new(error))),
            Err(error) => Err(error),
        }
    }

    fn lost(&mut self, source: Option<Box<CliError>>) -> Result<(), CliError> {
        self.tries += 1;
        if self.tries < MAX_TRIES {
            return Ok(());
        }
        Err(CliError::StreamLost {
            url: self.client.url().to_owned(),
            campaign: self.campaign,
            source,
        })
    }
}

/// Puts lines together from what arrives.
#[derive(Default)]
struct Lines {
    whole: std::collections::VecDeque<Vec<u8>>,
    rest: Vec<u8>,
}

impl Lines {
    fn add(&mut self, mut chunk: &[u8]) {
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(&chunk[..end]);
            let line = std::mem::take(&mut self.rest);
            // Empty ones mean only that the stream is alive.
            if !line.trim_ascii().is_empty() {
                self.whole.push_back(line);
            }
            chunk = &chunk[end + 1..];
        }
        self.rest.extend_from_slice(chunk);
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        self.whole.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_wherever_they_were_cut() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\r\n{\"rest";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for chunk in text.chunks(size) {
                lines.add(chunk);
                while let Some(line) = lines.next() {
                    found.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(found, ["{\"a\":1}", "{\"b\":2}\r"], "{size}");
            assert_eq!(lines.rest, b"{\"rest");
        }
    }

    #[test]
    fn what_a_newer_server_says_besides_is_passed_over() {
        let event: Event = serde_json::from_str(r#"{"type":"weather","sun":true}"#).unwrap();
        assert!(matches!(event, Event::Other));
        let event: Event = serde_json::from_str(
            r#"{"type":"end","campaign":{"id":1,"status":"resting","hosts":{"dreaming":1}}}"#,
        )
        .unwrap();
        assert!(matches!(event, Event::End { campaign } if campaign.status == "resting"));
    }
}
