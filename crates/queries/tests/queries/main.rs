//! Queries against both databases, with hosts that the tests play.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod campaigns;
mod saved;
mod socket;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use muster_bus::LocalBus;
use muster_clock::{ManualClock, SeededRandomness, Timestamp};
use muster_hosts::{
    DistributedSource as _, DueQueries, HostProfile, HostState, QueryResult, SourceError,
};
use muster_http::ClientAddress;
use muster_identity::{
    Actor, Credential, HostId, Identity, MasterKey, Principal, Role, TeamFilter, TeamId, UserId,
};
use muster_queries::{
    Campaign, NewCampaign, Queries, Switches, Target, TargetError, TargetHost, Targets,
};
use muster_store::testing::TestDatabase;
use muster_store::{Database, Schema};

const START: Timestamp = Timestamp::from_seconds(1_795_392_000);

/// Hosts 1 to 4 are online, 5 and 6 are not; even ones are in team 1, odd ones in none.
struct Hosts(Arc<Switch>);

#[async_trait]
impl Targets for Hosts {
    async fn select(
        &self,
        target: &Target,
        visible: &TeamFilter,
        _: Timestamp,
    ) -> Result<Vec<TargetHost>, TargetError> {
        if let Some(unknown) = target.labels.iter().find(|name| *name != "All Hosts") {
            return Err(TargetError::UnknownLabels {
                names: vec![unknown.clone()],
            });
        }
        let all = target.all || !target.labels.is_empty();
        let hosts = (1..=6).map(|id| TargetHost {
            id: HostId(id),
            hostname: format!("host-{id}"),
            display_name: format!("Host {id}"),
            team_id: (id % 2 == 0).then_some(TeamId(1)),
            online: id <= 4,
            seen_at: (id != 6).then_some(START),
            new: false,
            missing: false,
        });
        let chosen = |host: &TargetHost| {
            (all || target.host_ids.contains(&host.id.0) || target.hosts.contains(&host.hostname))
                && visible.admits(host.team_id)
        };
        Ok(hosts.filter(chosen).collect())
    }

    async fn existing(&self, hosts: &[HostId]) -> Result<HashSet<HostId>, TargetError> {
        let deleted = self.0.deleted.lock().unwrap();
        Ok(hosts
            .iter()
            .copied()
            .filter(|host| !deleted.contains(host))
            .collect())
    }
}

/// What the tests change of the world around.
#[derive(Default)]
struct Switch {
    disabled: AtomicBool,
    deleted: Mutex<HashSet<HostId>>,
}

impl Switches for Switch {
    fn live_queries_disabled(&self) -> bool {
        self.disabled.load(Ordering::Relaxed)
    }
}

struct Fixture {
    queries: Queries,
    identity: Identity,
    clock: Arc<ManualClock>,
    bus: Arc<LocalBus>,
    switch: Arc<Switch>,
    db: TestDatabase,
}

impl Fixture {
    async fn new(db: TestDatabase) -> Self {
        let schema = Schema::default()
            .with("identity", muster_identity::MIGRATIONS)
            .with("queries", muster_queries::MIGRATIONS);
        db.migrate(&schema).await;
        let clock = Arc::new(ManualClock::new(START));
        let bus = Arc::new(LocalBus::new());
        let switch = Arc::new(Switch::default());
        let (queries, identity) = on(db.database(), &bus, &clock, &switch).await;
        for name in ["one", "two", "three"] {
            let teams = &identity.teams;
            teams.create(&Actor::system(), name, "").await.unwrap();
        }
        Self {
            queries,
            identity,
            clock,
            bus,
            switch,
            db,
        }
    }

    /// The services as they are after a restart: same database, empty memory.
    async fn restarted(&self) -> Queries {
        on(self.db.reopen().await, &self.bus, &self.clock, &self.switch)
            .await
            .0
    }

    async fn ask(&self, new: NewCampaign) -> Campaign {
        self.queries
            .campaigns
            .create(&admin(), new)
            .await
            .unwrap()
            .0
    }

    async fn campaign(&self, id: i64) -> Campaign {
        self.queries.campaigns.find(&admin(), id).await.unwrap()
    }
}

async fn on(
    database: Database,
    bus: &Arc<LocalBus>,
    clock: &Arc<ManualClock>,
    switch: &Arc<Switch>,
) -> (Queries, Identity) {
    let identity = Identity::new(
        database.clone(),
        Arc::<LocalBus>::clone(bus),
        Arc::<ManualClock>::clone(clock),
        Arc::new(SeededRandomness::new(1)),
        Arc::new(MasterKey::from_bytes(&[7; 32])),
    );
    let queries = Queries::new(
        database,
        Arc::<LocalBus>::clone(bus),
        Arc::<ManualClock>::clone(clock),
        &identity,
        Arc::new(Hosts(Arc::<Switch>::clone(switch))),
        Arc::<Switch>::clone(switch),
    );
    queries.start().await.unwrap();
    (queries, identity)
}

fn person(id: i64, role: Option<Role>, teams: &[(i64, Role)]) -> Principal {
    Principal {
        user_id: UserId(id),
        name: format!("Person {id}"),
        email: format!("person{id}@example.com"),
        global_role: role,
        teams: teams
            .iter()
            .map(|(team, role)| (TeamId(*team), *role))
            .collect(),
        must_reset_password: false,
        credential: Credential::Session(id),
        address: ClientAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    }
}

fn admin() -> Principal {
    person(1, Some(Role::Admin), &[])
}

fn sql(sql: &str, target: Target) -> NewCampaign {
    NewCampaign {
        sql: Some(sql.to_owned()),
        target,
        ..NewCampaign::default()
    }
}

fn all() -> Target {
    Target {
        all: true,
        ..Target::default()
    }
}

fn only(ids: &[i64]) -> Target {
    Target {
        host_ids: ids.to_vec(),
        ..Target::default()
    }
}

/// What a host is asked now: names and SQL.
fn asked(queries: &Queries, host: i64, now: Timestamp) -> Vec<(String, String)> {
    let state = HostState::new(HostId(host), HostProfile::default());
    let mut due = DueQueries::default();
    queries.live.due(&state, now, &mut due);
    due.iter()
        .map(|query| (query.name.to_string(), query.sql.to_string()))
        .collect()
}

fn rows(count: usize) -> Vec<muster_hosts::Row> {
    (0..count)
        .map(|number| [("n", number.to_string())].into_iter().collect())
        .collect()
}

fn answered(campaign: i64, count: usize) -> QueryResult {
    QueryResult {
        name: format!("fleet_distributed_query_{campaign}"),
        rows: rows(count),
        ..QueryResult::default()
    }
}

fn failed(campaign: i64, message: &str) -> QueryResult {
    QueryResult {
        status: 1,
        message: Some(message.to_owned()),
        ..answered(campaign, 0)
    }
}

/// A host writes what came of its queries.
async fn write(
    queries: &Queries,
    host: i64,
    results: Vec<QueryResult>,
    now: Timestamp,
) -> Result<(), SourceError> {
    let state = HostState::new(HostId(host), HostProfile::default());
    queries.live.ingest(&state, results, now).await
}
