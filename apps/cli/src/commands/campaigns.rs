//! Campaigns: the questions that were asked.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::ALL;
use super::query::{Ended, Stop, Watch, cancel};
use crate::Outcome;
use crate::arguments::{Campaigns, CampaignsCommand};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{self, Column};

/// Campaigns live a week at most.
const LONGEST: Duration = Duration::from_secs(8 * 24 * 60 * 60);

const COLUMNS: &[Column] = &[
    Column("id", &["id"]),
    Column("status", &["status"]),
    Column("began", &["created_at"]),
    Column("by", &["user_name"]),
    Column("hosts", &["hosts.targeted"]),
    Column("answered", &["hosts.answered"]),
    Column("failed", &["hosts.failed"]),
    Column("rows", &["result_rows"]),
    Column("query", &["query"]),
];
const HOST_COLUMNS: &[Column] = &[
    Column("host", &["display_name", "hostname"]),
    Column("state", &["state"]),
    Column("rows", &["result_rows"]),
    Column("ended", &["ended_at"]),
    Column("reason", &["reason"]),
];

pub(super) async fn run(client: &Client, arguments: Campaigns) -> Result<Outcome, CliError> {
    let command = arguments.command.unwrap_or(CampaignsCommand::List {
        limit: arguments.limit,
        format: arguments.format,
    });
    match command {
        CampaignsCommand::List { limit, format } => {
            let campaigns = client.list(&["campaigns"], &[], limit).await?;
            output::list(format.into(), COLUMNS, &campaigns)?;
        }
        CampaignsCommand::Show { id, format } => {
            let id = id.to_string();
            if !format.json && !format.csv {
                let campaign = client.get(&["campaigns", &id], &[]).await?;
                output::print(&format!("{}\n", summary(&campaign)))?;
            }
            let hosts = client.list(&["campaigns", &id, "hosts"], &[], ALL).await?;
            output::list(format.into(), HOST_COLUMNS, &hosts)?;
        }
        CampaignsCommand::Follow { id, format } => {
            let mut stop = Stop::new()?;
            let mut watch = Watch::new(client, id, format.into());
            return match watch.until(Instant::now() + LONGEST, &mut stop).await? {
                Ended::Campaign(campaign) => watch.report(&campaign).await,
                Ended::TimeOut => Ok(Outcome::Incomplete),
                Ended::Stopped => Ok(Outcome::Interrupted),
            };
        }
        CampaignsCommand::Cancel { id } => {
            let campaign = cancel(client, id).await?;
            match campaign["status"].as_str() {
                Some("cancelled") | None => output::say(&format!("the campaign {id} is stopped")),
                Some(status) => output::say(&format!("the campaign {id} was {status} already")),
            }
        }
    }
    Ok(Outcome::Done)
}

/// The campaign without its counts, which the list of hosts shows.
fn summary(campaign: &Value) -> String {
    let mut campaign = campaign.clone();
    if let Some(members) = campaign.as_object_mut() {
        members.shift_remove("hosts");
    }
    output::thing(&campaign)
}
