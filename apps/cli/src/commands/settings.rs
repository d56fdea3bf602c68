//! Settings that hold for all.

use serde_json::{Map, Value, json};

use crate::arguments::{SettingsArguments, SettingsCommand};
use crate::client::Client;
use crate::error::CliError;
use crate::output;

pub(super) async fn run(client: &Client, arguments: SettingsArguments) -> Result<(), CliError> {
    let settings = match arguments.command {
        None => client.get(&["settings"], &[]).await?,
        Some(SettingsCommand::Set { values }) => {
            let wishes = parse(&values)?;
            client.put(&["settings"], &json!(wishes)).await?
        }
    };
    output::print(&format!("{settings:#}\n"))
}

fn parse(values: &[String]) -> Result<Map<String, Value>, CliError> {
    let pair = |text: &String| {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| CliError::NoPair { text: text.clone() })?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        Ok((name.to_owned(), value))
    };
    values.iter().map(pair).collect()
}
