// tidy: osquery SQL
//! What other crates plug into the check-in: sources of distributed queries, and the schedule.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use muster_clock::Timestamp;
use muster_identity::TeamId;
use muster_wire_osquery::DistributedResult;

use crate::state::HostState;

/// The discovery query of a query that needs no guard. Agents leave out every query without one as soon as any query
/// has one, so all have one.
pub const ALWAYS: &str = "SELECT 1";

/// Something that has hosts run queries at their next check-in and takes what they answer: details, labels, live
/// queries.
#[async_trait]
pub trait DistributedSource: Send + Sync + 'static {
    /// How the names of its queries begin on the wire: `fleet_distributed_query_`.
    fn prefix(&self) -> &'static str;

    /// Adds what is due for a host. Runs on every check-in of every host: memory only, and next to nothing when nothing
    /// is due.
    fn due(&self, host: &HostState, now: Timestamp, out: &mut DueQueries);

    /// Takes the results whose names begin with the prefix. Names are the peer's word: what this host was not asked is
    /// left out here. An error of content is the source's own matter and is not an error of this call; one that passes
    /// by itself is, so that the agent is told to send everything again.
    async fn ingest(
        &self,
        host: &HostState,
        results: Vec<DistributedResult>,
        now: Timestamp,
    ) -> Result<(), SourceError>;
}

/// A source could not keep what an agent sent.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Something that it depends on is away: the agent is told to come again.
    #[error("keep the results of distributed queries")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A defect of the program. Logged, and the results are given up: sending them again would not help.
    #[error("ingest the results of distributed queries")]
    Defect(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<muster_store::StoreError> for SourceError {
    fn from(error: muster_store::StoreError) -> Self {
        if error.is_unavailable() || error.kind() == muster_store::ErrorKind::Reference {
            Self::Unavailable(Box::new(error))
        } else {
            Self::Defect(Box::new(error))
        }
    }
}

/// What a host is asked at a check-in.
#[derive(Debug, Default)]
pub struct DueQueries {
    queries: Vec<DueQuery>,
}

/// One query that a host is asked.
#[derive(Debug, Clone)]
pub struct DueQuery {
    /// Its name on the wire.
    pub name: Cow<'static, str>,
    /// The query.
    pub sql: Arc<str>,
    /// Only a host where this gives a row runs the query; [`ALWAYS`] when absent.
    pub discovery: Option<Arc<str>>,
}

impl DueQueries {
    /// Adds a query. One with empty SQL is left out: agents never report it, and would be asked for ever.
    pub fn push(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        sql: Arc<str>,
        discovery: Option<Arc<str>>,
    ) {
        if !sql.trim().is_empty() {
            self.queries.push(DueQuery {
                name: name.into(),
                sql,
                discovery,
            });
        }
    }

    /// Whether nothing is due.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// What is due, in the order in which it was added.
    pub fn iter(&self) -> impl Iterator<Item = &DueQuery> {
        self.queries.iter()
    }
}

/// Where scheduled queries come from.
pub trait ScheduleSource: Send + Sync + 'static {
    /// The `packs` member of the configuration of a team's hosts (`Global`, `team-<id>`); nothing when no query is
    /// scheduled. Memory only.
    fn packs(&self, team: Option<TeamId>) -> Option<Arc<serde_json::Value>>;

    /// Changes whenever [`packs`](Self::packs) may answer differently.
    fn version(&self) -> u64;
}

/// A schedule with nothing in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSchedule;

impl ScheduleSource for NoSchedule {
    fn packs(&self, _: Option<TeamId>) -> Option<Arc<serde_json::Value>> {
        None
    }

    fn version(&self) -> u64 {
        0
    }
}
