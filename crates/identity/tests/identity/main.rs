//! Identity against both databases: agents' side and people's side.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod agents;
mod collector_operators;
mod collector_tokens;
mod collectors;
mod denials;
mod people;
mod second_factor;
mod teams;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use muster_bus::LocalBus;
use muster_clock::{ManualClock, SeededRandomness, Timestamp};
use muster_http::ClientAddress;
use muster_identity::{Identity, MIGRATIONS, MasterKey, NewUser, Role};
use muster_store::testing::TestDatabase;
use muster_store::{Database, Schema};

/// An identity on a database of its own, with a clock that the test moves.
struct Fixture {
    identity: Identity,
    clock: Arc<ManualClock>,
    bus: Arc<LocalBus>,
    db: TestDatabase,
}

const START: Timestamp = Timestamp::from_seconds(1_795_392_000);
const PASSWORD: &str = "password123#";

/// Where agents are.
const HERE: ClientAddress = ClientAddress(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));

fn address(last: u8) -> ClientAddress {
    ClientAddress(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
}

fn new_user(email: &str, role: Role) -> NewUser {
    NewUser {
        name: email.split('@').next().unwrap().to_owned(),
        email: email.to_owned(),
        password: PASSWORD.to_owned(),
        global_role: Some(role),
        ..NewUser::default()
    }
}

impl Fixture {
    async fn new(db: TestDatabase) -> Self {
        db.migrate(&Schema::default().with("identity", MIGRATIONS))
            .await;
        let clock = Arc::new(ManualClock::new(START));
        let bus = Arc::new(LocalBus::new());
        let identity = on(db.database(), &bus, &clock, 1);
        Self {
            identity,
            clock,
            bus,
            db,
        }
    }

    /// A second replica: other memory, same database, same bus.
    async fn replica(&self) -> Identity {
        on(self.db.reopen().await, &self.bus, &self.clock, 2)
    }
}

fn on(database: Database, bus: &Arc<LocalBus>, clock: &Arc<ManualClock>, seed: u64) -> Identity {
    Identity::new(
        database,
        Arc::<LocalBus>::clone(bus),
        Arc::<ManualClock>::clone(clock),
        Arc::new(SeededRandomness::new(seed)),
        Arc::new(MasterKey::from_bytes(&[7; 32])),
    )
}
