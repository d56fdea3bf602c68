//! Asking hosts, and showing what they say as they say it.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::follow::{Campaign, Event, Follower};
use super::{id_of, team_id};
use crate::Outcome;
use crate::arguments::Query;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Rows, Style};

/// How long answers are waited for when nothing else is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// With offline hosts, how much longer than the campaign lives.
const GRACE: Duration = Duration::from_secs(30);
/// So many hosts that did not answer are listed; a command for the rest is named.
const MAX_LISTED: usize = 50;

pub(super) async fn run(client: &Client, arguments: &Query) -> Result<Outcome, CliError> {
    // From here on Ctrl-C is remembered, so that no campaign is left behind by one that comes early.
    let mut stop = Stop::new()?;
    let body = request(client, arguments).await?;
    let created = client.post(&["campaigns"], &body).await?;
    let id = super::id_in(&created).ok_or_else(|| CliError::NotMuster {
        url: client.url().to_owned(),
        source: None,
    })?;
    let timeout = arguments.timeout.unwrap_or(if arguments.wait_for_offline {
        arguments.expires_in + GRACE
    } else {
        DEFAULT_TIMEOUT
    });
    let mut watch = Watch::new(client, id, arguments.format.into());
    let ended = watch.until(Instant::now() + timeout, &mut stop).await;
    match ended {
        Ok(Ended::Campaign(campaign)) => watch.report(&campaign).await,
        Ok(Ended::TimeOut) => {
            watch.list_missing(arguments.wait_for_offline).await?;
            if arguments.wait_for_offline {
                output::say(&format!(
                    "muster: the campaign goes on; read on later: muster campaigns follow {id}"
                ));
            } else {
                cancel(client, id).await?;
            }
            Ok(Outcome::Incomplete)
        }
        Ok(Ended::Stopped) => {
            cancel(client, id).await?;
            output::say("muster: stopped; no more hosts are asked");
            Ok(Outcome::Interrupted)
        }
        Err(error @ CliError::Output(_)) => {
            cancel(client, id).await?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// What the server is asked for.
async fn request(client: &Client, arguments: &Query) -> Result<Value, CliError> {
    let mut body = json!({
        "expires_in_seconds": arguments.expires_in.as_secs(),
        "wait_for_offline": arguments.wait_for_offline,
    });
    if let Some(sql) = &arguments.sql {
        body["query"] = json!(sql);
    }
    if let Some(name) = &arguments.query_name {
        let id = id_of(client, "saved query", &["queries"], &["name"], name).await?;
        body["query_id"] = json!(id);
    }
    let mut team_ids = Vec::new();
    for team in &arguments.team {
        team_ids.push(team_id(client, team).await?);
    }
    let (ids, names): (Vec<&String>, Vec<&String>) = arguments
        .host
        .iter()
        .partition(|host| host.parse::<i64>().is_ok());
    let ids: Vec<i64> = ids.iter().filter_map(|id| id.parse().ok()).collect();
    body["target"] = json!({
        "all": arguments.all,
        "host_ids": ids,
        "hosts": names,
        "labels": arguments.label,
        "team_ids": team_ids,
        "platforms": arguments.platform,
    });
    Ok(body)
}

/// Stops a campaign; gives it as it is then.
pub(super) async fn cancel(client: &Client, id: i64) -> Result<Value, CliError> {
    let path = ["campaigns", &id.to_string(), "cancel"];
    client.post(&path, &json!({})).await
}

/// Ctrl-C, or being asked to end.
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub(super) fn new() -> Result<Self, CliError> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Why watching ended.
pub(super) enum Ended {
    Campaign(Campaign),
    TimeOut,
    Stopped,
}

/// Shows rows and progress of one campaign.
pub(super) struct Watch<'a> {
    client: &'a Client,
    id: i64,
    follower: Follower<'a>,
    rows: Rows,
    progress: Progress,
    clipped: bool,
}

impl<'a> Watch<'a> {
    pub(super) fn new(client: &'a Client, id: i64, style: Style) -> Self {
        Self {
            client,
            id,
            follower: Follower::new(client, id),
            rows: Rows::new(style),
            progress: Progress::new(),
            clipped: false,
        }
    }

    /// Shows what comes until it ends, the time is over, or somebody has seen enough.
    pub(super) async fn until(
        &mut self,
        deadline: Instant,
        stop: &mut Stop,
    ) -> Result<Ended, CliError> {
        let ended = loop {
            let event = tokio::select! {
                biased;
                () = stop.asked() => break Ok(Ended::Stopped),
                event = self.follower.next() => match event {
                    Ok(event) => event,
                    Err(error) => break Err(error),
                },
                () = tokio::time::sleep_until(deadline) => break Ok(Ended::TimeOut),
            };
            match event {
                Event::Progress { campaign } => self.progress.show(&campaign),
                Event::End { campaign } => break Ok(Ended::Campaign(campaign)),
                Event::Result { result } => {
                    self.clipped |= result.clipped;
                    let text = self.rows.add(&result.host_id, result.host(), &result.rows);
                    if text.is_empty() {
                        continue;
                    }
                    self.progress.hide();
                    if let Err(error) = output::print(&text) {
                        break Err(error);
                    }
                    self.progress.again();
                }
                Event::Other => {}
            }
        };
        self.progress.hide();
        ended
    }

    /// Says what is missing, and whether something is.
    pub(super) async fn report(&self, campaign: &Campaign) -> Result<Outcome, CliError> {
        let counts = campaign.hosts;
        if self.clipped || campaign.clipped {
            output::say("muster: some rows were left out because there were too many");
        }
        output::say(&format!(
            "{} rows; {} of {} hosts answered",
            campaign.result_rows, counts.answered, counts.targeted
        ));
        // Whoever reads the exit code in a program wants to know whether these are the rows of all.
        let complete = campaign.status == "finished" && counts.failed == 0 && counts.offline == 0;
        if !complete {
            self.list_missing(true).await?;
        }
        Ok(if complete {
            Outcome::Done
        } else {
            Outcome::Incomplete
        })
    }

    /// Lists who did not answer, each with the reason that is known.
    pub(super) async fn list_missing(&self, with_offline: bool) -> Result<(), CliError> {
        let mut states = "pending,sent,failed,expired,cancelled".to_owned();
        if with_offline {
            states.push_str(",offline");
        }
        let path = ["campaigns", &self.id.to_string(), "hosts"];
        let query = [("state", states)];
        let hosts = self.client.list(&path, &query, MAX_LISTED + 1).await?;
        for host in hosts.iter().take(MAX_LISTED) {
            output::say(&missing(host));
        }
        if hosts.len() > MAX_LISTED {
            output::say(&format!(
                "  and more; see them with: muster campaigns show {}",
                self.id
            ));
        }
        Ok(())
    }
}

/// `  web-1: failed: no such table: x`.
fn missing(host: &Value) -> String {
    let text = |member: &str| host[member].as_str().unwrap_or_default();
    let name = match text("display_name") {
        "" => text("hostname"),
        name => name,
    };
    let state = match text("state") {
        "pending" => "was not asked yet",
        "sent" => "was asked and has not answered",
        "expired" => "did not answer in time",
        "cancelled" => "had not answered when it was stopped",
        "offline" => "is offline",
        state => state,
    };
    match text("reason") {
        "" => format!("  {name}: {state}"),
        reason => format!("  {name}: {state}: {reason}"),
    }
}

/// One line on the terminal that is written over.
struct Progress {
    is_terminal: bool,
    line: String,
}

impl Progress {
    fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            line: String::new(),
        }
    }

    fn show(&mut self, campaign: &Campaign) {
        let counts = campaign.hosts;
        let asked = counts
            .targeted
            .saturating_sub(counts.pending)
            .saturating_sub(counts.offline);
        self.line = format!(
            "{} answered / {asked} asked / {} offline",
            counts.answered, counts.offline
        );
        if counts.failed > 0 {
            self.line = format!("{} / {} failed", self.line, counts.failed);
        }
        self.again();
    }

    fn again(&self) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\u{1b}[2K{}", self.line);
            let _ = io::stderr().flush();
        }
    }

    fn hide(&self) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\u{1b}[2K");
            let _ = io::stderr().flush();
        }
    }
}
