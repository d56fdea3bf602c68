//! Queries that ran into a limit and are not run again for a while.
//!
//! Kept in the data folder, so that a restart does not begin again with what brought the agent down.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_clock::Timestamp;

use crate::keys::{DataFileError, DataFolder};

/// The file's name in the data folder.
const FILE: &str = "denylist.json";
/// How long a query is not run again; as long as osquery does it.
pub const DENIED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// The most queries that are remembered.
const MAX_QUERIES: usize = 1_000;
/// How the server is told of such a query; the sentence that servers know.
pub const MESSAGE: &str = "distributed query is denylisted";

/// Queries that are not run, by the hash of their SQL.
pub struct Denylist {
    folder: Option<DataFolder>,
    until: BTreeMap<String, Timestamp>,
}

impl Denylist {
    /// Reads the list. One that cannot be read is empty.
    pub fn load(folder: Option<DataFolder>) -> Self {
        let bytes = folder
            .as_ref()
            .and_then(|folder| folder.read(FILE).ok().flatten());
        let until = bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self { folder, until }
    }

    /// Until when a query is not to be run; none when it may be run.
    pub fn denied_until(&self, sql: &str, now: Timestamp) -> Option<Timestamp> {
        let until = *self.until.get(&hash(sql))?;
        (until > now).then_some(until)
    }

    /// Puts a query on the list.
    pub fn deny(&mut self, sql: &str, now: Timestamp) -> Result<(), DataFileError> {
        self.until.retain(|_, until| *until > now);
        if self.until.len() < MAX_QUERIES {
            self.until.insert(hash(sql), now.plus(DENIED_FOR));
        }
        match &self.folder {
            Some(folder) => {
                folder.replace(FILE, serde_json::json!(self.until).to_string().as_bytes())
            }
            None => Ok(()),
        }
    }
}

fn hash(sql: &str) -> String {
    use std::fmt::Write as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, sql.as_bytes());
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_denied_for_a_day_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        let now = Timestamp::from_seconds(1_000);
        Denylist::load(Some(data.clone()))
            .deny("SELECT 1", now)
            .unwrap();
        let list = Denylist::load(Some(data));
        let end = now.plus(DENIED_FOR);
        assert_eq!(list.denied_until("SELECT 1", now), Some(end));
        assert_eq!(list.denied_until("SELECT 2", now), None);
        assert_eq!(list.denied_until("SELECT 1", end), None);
    }
}
