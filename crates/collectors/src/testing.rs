//! The service on a database of its own, for tests within the crate.

use std::sync::Arc;

use muster_bus::LocalBus;
use muster_clock::{Clock as _, ManualClock, SeededRandomness, Timestamp};
use muster_identity::{CollectorId, Identity, MasterKey};
use muster_store::Schema;
use muster_store::testing::TestDatabase;
use serde_json::json;

use crate::record::{Durable, Record};
use crate::service::Settings;
use crate::store::record::ListedParts;
use crate::{CollectorParts, Collectors, Masking, store};

/// A service that offers no keys, and its clock.
pub(crate) async fn service(db: &TestDatabase) -> (Collectors, Arc<ManualClock>) {
    let schema = Schema::default()
        .with("identity", muster_identity::MIGRATIONS)
        .with("collectors", crate::MIGRATIONS);
    db.migrate(&schema).await;
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_795_392_000)));
    let bus = Arc::new(LocalBus::new());
    let randomness = Arc::new(SeededRandomness::new(1));
    let key = Arc::new(MasterKey::from_bytes(&[7; 32]));
    let identity = Identity::new(
        db.database(),
        bus.clone(),
        clock.clone(),
        randomness.clone(),
        key,
    );
    let collectors = Collectors::new(CollectorParts {
        database: db.database(),
        bus,
        clock: clock.clone(),
        randomness,
        identity,
        settings: Settings {
            offers: None,
            masking: Masking::default(),
            new_per_day: crate::DEFAULT_NEW_PER_DAY,
        },
    });
    (collectors, clock)
}

/// A collector of a team that was never heard, as it is kept.
pub(crate) async fn kept(db: &TestDatabase, clock: &ManualClock, team: i64) -> Record {
    let durable = json!({ "uid": "07070707-0707-0707-0707-070707070707", "team_id": team, "standing": "enrolled",
        "created_at": clock.now(), "capabilities": 0x401 });
    let mut record = Record {
        id: CollectorId(0),
        revision: 0,
        durable: serde_json::from_value::<Durable>(durable).unwrap().into(),
        lines: Vec::new(),
        said_config: None,
    };
    let database = db.database();
    let listed = ListedParts::default();
    record.id = store::record::insert(&mut &database, &record, &listed, clock.now())
        .await
        .unwrap();
    record.revision = 1;
    record
}
